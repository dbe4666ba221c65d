//! Sender and receiver without root's rights: owners cannot be kept, permissions stand in the way.

use crate::support::{Lab, Proxy, Tree, tree_diff};
use std::path::{Path, PathBuf};

/// A receiver without rights on a new folder.
fn receiver(lab: &Lab) -> (PathBuf, Proxy) {
    let dst = lab.dir("dst");
    Tree::new(&dst, 0).mode("", 0o777);
    let proxy = lab.unprivileged(lab.cmd(args!["proxy", "0", "-b", dst])).serve();
    (dst, proxy)
}

/// Fails unless the trees are equal but for what only root can set.
#[track_caller]
fn assert_same_but_for_owners(src: &Path, dst: &Path) {
    let mut differences = tree_diff(src, dst);
    let set_id = ["many/2/f2: mode is 755, must be 4755", "nest/of: mode is 755, must be 2755"];
    differences.retain(|line| !line.contains(": owner is ") && !set_id.contains(&line.as_str()));
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn a_receiver_without_rights_keeps_all_but_owners() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 130)
        .rich(50_000)
        .file("closed", vec![7; 9000])
        .mode("closed", 0)
        .file("closed-too", "x")
        .mode("closed-too", 0o200);
    let db = lab.index(&src);
    let (dst, proxy) = receiver(&lab);
    lab.upload(&src, &db, &proxy.url, args!["-s", "4000"]).code(0);
    assert_same_but_for_owners(&src, &dst);
    lab.upload(&src, &db, &proxy.url, args!["-s", "4000"]).code(0);
    assert_same_but_for_owners(&src, &dst);
}

#[test]
fn files_without_any_right_survive_a_kill_of_the_receiver() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 131);
    for name in ["a", "b", "c"] {
        tree.noise(name, 2500)
            .mode(name, 0)
            .noise(format!("{name}-small"), 100)
            .mode(format!("{name}-small"), 0);
    }
    let db = lab.index(&src);
    let (dst, mut proxy) = receiver(&lab);
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000", "-l", "5"]).code(0);
    proxy.kill9();
    proxy.restart();
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    assert_same_but_for_owners(&src, &dst);
}

/// Folders that their owner may not write to: what is in them is brought up to date all the same.
#[test]
fn read_only_folders_are_brought_up_to_date() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 132);
    tree.noise("ro/file", 3000)
        .mode("ro/file", 0o444)
        .noise("ro/sub/deep", 100)
        .symlink("ro/link", "file")
        .file("ro/empty", "");
    tree.mode("ro/sub", 0o555).mode("ro", 0o555).times();
    let (dst, proxy) = receiver(&lab);
    lab.upload(&src, &lab.index(&src), &proxy.url, args!["-s", "1000"]).code(0);
    assert_same_but_for_owners(&src, &dst);
    tree.noise("ro/file", 3500)
        .noise("ro/sub/new", 50)
        .remove("ro/link")
        .symlink("ro/link", "empty")
        .file("ro/new-empty", "");
    tree.hardlink("ro/sub/hard", "ro/file").times();
    lab.upload(&src, &lab.index(&src), &proxy.url, args!["-s", "1000"]).code(0);
    assert_same_but_for_owners(&src, &dst);
}

#[test]
fn a_sender_without_rights_names_what_it_cannot_read() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 133);
    tree.noise("a", 1000).noise("closed", 1000).noise("z", 1000);
    let db = lab.index(&src);
    tree.mode("closed", 0);
    let proxy = lab.proxy(&dst);
    let output = lab.unprivileged(lab.upload_cmd(&src, &db, &proxy.url, vec![])).run().code(3);
    assert!(output.stderr.contains("closed"), "{}", output.stderr);
    for name in ["a", "z"] {
        assert_eq!(std::fs::read(dst.join(name)).unwrap(), std::fs::read(src.join(name)).unwrap());
    }
    assert!(!dst.join("closed").exists());
}

/// A folder that may not even be looked into holds up nothing but what is in it.
#[test]
fn a_closed_folder_of_the_copy_holds_up_nobody_else() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    let mut tree = Tree::new(&src, 138);
    tree.noise("closed/file", 3000).noise("closed/goes", 100).noise("open", 2000).noise("goes", 100);
    let (dst, proxy) = receiver(&lab);
    let pass = |more: Vec<std::ffi::OsString>| {
        lab.run(args!["index", "-b", src, "-db", db]).code(0);
        lab.upload(&src, &db, &proxy.url, [args!["--json"], more].concat())
    };
    pass(vec![]).code(0);
    std::fs::set_permissions(dst.join("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
    // The content of a new file is that of one which cannot be looked at.
    std::fs::copy(src.join("closed/file"), src.join("copy")).unwrap();
    tree.remove("goes").remove("closed/goes").noise("new", 500);
    let output = pass(args!["--delete"]);
    assert!(matches!(output.code, 0 | 3), "{output:?}");
    for name in ["copy", "new", "open"] {
        assert_eq!(std::fs::read(src.join(name)).unwrap(), std::fs::read(dst.join(name)).unwrap(), "{name}");
    }
    // The next pass finds the way free, made by whom it may be.
    std::fs::set_permissions(dst.join("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    pass(args!["--delete"]).code(0);
    assert!(!dst.join("goes").exists() && !dst.join("closed/goes").exists());
}
