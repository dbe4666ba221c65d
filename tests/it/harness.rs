//! The tests' own tools: a comparison that sees nothing would make every test succeed.

use crate::support::index::{frame, unframe};
use crate::support::{Lab, Rng, Tree, assert_same_tree, tree_diff};
use std::process::Command;

#[test]
fn the_comparison_sees_every_kind_of_difference() {
    let lab = Lab::new();
    let (a, b) = (lab.dir("a"), lab.path("b"));
    Tree::new(&a, 1).rich(20_000);
    assert!(Command::new("cp").arg("-a").arg(&a).arg(&b).status().unwrap().success());
    assert_same_tree(&a, &b);
    let mut tree = Tree::new(&b, 2);
    let mut sees = |what: &str, change: fn(&mut Tree) -> &mut Tree| {
        let before = tree_diff(&a, &b);
        assert!(!before.iter().any(|line| line.contains(what)), "{what} is seen too early: {before:?}");
        change(&mut tree);
        let after = tree_diff(&a, &b);
        assert!(after.iter().any(|line| line.contains(what)), "{what} is not seen: {after:?}");
    };
    sees("one-byte: mode", |t| t.mode("one-byte", 0o600));
    sees("link-to-dir: mtime", |t| t.mtime("link-to-dir", 1));
    sees("empty-dir: mtime", |t| t.mtime("empty-dir", -1));
    sees("zeros: content", |t| t.file("zeros", vec![1; 20_000 / 3]));
    sees("zeros: size", |t| t.file("zeros", ""));
    sees("extra: more", |t| t.file("more", ""));
    sees("missing: dangling", |t| t.remove("dangling"));
    sees("dangling: target", |t| t.symlink("dangling", "elsewhere"));
    sees("missing: nest/of/empty/dirs", |t| t.remove("nest/of/empty/dirs"));
    sees("zz/hard: hard links is nothing", |t| {
        let content = std::fs::read(t.path("zz/hard")).unwrap();
        t.remove("zz/hard").file("zz/hard", content)
    });
    sees("many/0/f0: hard links", |t| t.hardlink("hard-too-many", "many/0/f0"));
}

#[test]
fn frames_round_trip() {
    let content = Rng::new(1).text(300_000);
    assert_eq!(unframe(&frame(&content)), content);
    assert!(frame(&content).len() < content.len() / 2);
}
