//! `sync --adopt`: the copy is there already, made by somebody else.

use crate::support::{Lab, Tree, assert_same_tree};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What one edit of a large file may cost.
const EDIT: u64 = 768 << 10;

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-aT").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// A source and what rsync, say, once made of it.
fn lab_with_copy(seed: u64) -> (Lab, Tree) {
    let lab = Lab::new();
    let mut tree = Tree::new(&lab.path("src"), seed);
    tree.rich(200_000).noise("big", 9_000_000).noise("log", 3_000_000).noise("d/small", 3000);
    copy_tree(&lab.path("src"), &lab.path("dst"));
    (lab, tree)
}

#[test]
fn only_what_differs_is_sent() {
    for remote in [true, false] {
        let (lab, mut tree) = lab_with_copy(1);
        let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("index.sqlite"));
        let inode = dst.join("d/small").metadata().unwrap().ino();
        // A change at the front, a move, a new file, and one of metadata.
        let mut content = std::fs::read(tree.path("big")).unwrap();
        content.splice(1000..1000, *b"inserted");
        tree.file("big", content);
        std::fs::rename(tree.path("log"), tree.path("moved")).unwrap();
        tree.noise("new", 70_000).mode("d/small", 0o600);
        std::fs::write(dst.join("stranger"), "nobody's").unwrap();
        let proxy = remote.then(|| lab.proxy(&dst));
        let to = proxy.as_ref().map_or(dst.clone(), |proxy| (&proxy.url).into());
        let flags = args!["-db", db, "-dbp", lab.path("dbp"), "--json", "--adopt"];
        let dry = lab.sync(&src, &to, [flags.clone(), args!["--dry-run"]].concat()).code(0).summary();
        let similar = &dry["similarity"];
        assert_eq!((&similar["known_files"], &similar["similar_files"]), (&1.into(), &1.into()), "{dry}");
        assert!(similar["percent"].as_f64().unwrap() > 90.0, "{dry}");
        assert!(!db.exists());
        let summary = lab.sync(&src, &to, flags).code(0).summary();
        assert!((70_000..70_000 + EDIT).contains(&summary["sent_bytes"].as_u64().unwrap()), "{summary}");
        assert_eq!(dst.join("d/small").metadata().unwrap().ino(), inode, "it was not made anew");
        lab.check(&dst, &db, vec![]).code(0);
        // What was there before is the former generation: it goes when that is asked for, and only then.
        assert!(dst.join("log").exists() && dst.join("stranger").exists());
        let summary =
            lab.sync(&src, &to, args!["-db", db, "--json", "--adopt", "--delete"]).code(0).summary();
        assert_eq!(summary["sent_bytes"], 0);
        assert_same_tree(&src, &dst);
    }
}

#[test]
fn one_file_with_an_older_copy_of_itself() {
    let (lab, mut tree) = lab_with_copy(2);
    let (src, dst, db) = (lab.path("src/big"), lab.path("dst"), lab.path("index.sqlite"));
    let content = std::fs::read(&src).unwrap();
    tree.file("big", [b"x", &content[..]].concat());
    let summary = lab.sync(&src, &dst, args!["-db", db, "--json", "--adopt", "--delete"]).code(0).summary();
    assert!((1..EDIT).contains(&summary["sent_bytes"].as_u64().unwrap()), "{summary}");
    assert!(std::fs::read(dst.join("big")).unwrap() == std::fs::read(&src).unwrap());
    assert!(dst.join("log").exists(), "only that file was adopted");
}

/// What is there is changed after it was read, or was no copy at all: the proof decides.
#[test]
fn an_empty_folder_and_one_of_something_else() {
    let lab = Lab::new();
    let mut tree = Tree::new(&lab.path("src"), 3);
    tree.rich(50_000).noise("big", 2_500_000);
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("index.sqlite"));
    let flags = args!["-db", db, "--json", "--adopt"];
    let dry = lab.sync(&src, &dst, [flags.clone(), args!["--dry-run"]].concat()).code(0).summary();
    assert_eq!(dry["similarity"]["same_bytes"], 0, "{dry}");
    assert!(!dst.join(".tar-like").exists());
    std::fs::create_dir(dst.join("big")).unwrap();
    lab.sync(&src, &dst, flags).code(0);
    assert_same_tree(&src, &dst);
}

#[test]
fn what_belongs_to_another_archive_is_not_adopted() {
    let (lab, _tree) = lab_with_copy(4);
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let proxy = lab.proxy(&dst);
    lab.sync(&src, &proxy.url, args!["-db", lab.path("one"), "--tar-id", "1"]).code(0);
    let refused = lab.sync(&src, &proxy.url, args!["-db", lab.path("two"), "--tar-id", "2", "--adopt"]);
    assert!(refused.code(1).stderr.contains("archive 1 is received into this folder, too"));
}
