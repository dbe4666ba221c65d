//! Sender and receiver without root's rights: owners cannot be kept, and permissions stand in the
//! way.

use crate::support::{Lab, Proxy, Tree, tree_diff};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A receiver without rights on a new folder.
fn receiver(lab: &Lab) -> (PathBuf, Proxy) {
    let dst = lab.dir("dst");
    Tree::new(&dst, 0).mode("", 0o777);
    let proxy = lab.unprivileged(lab.cmd(args!["proxy", "0", "-b", dst])).serve();
    (dst, proxy)
}

/// Fails unless the trees are equal except for metadata that only root can set.
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

/// Folders that their owner may not write to: their contents are brought up to date all the same.
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

/// A folder that may not be entered delays only its own files.
#[test]
fn a_closed_folder_of_the_copy_delays_only_its_files() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    let mut tree = Tree::new(&src, 138);
    tree.noise("closed/file", 3000).noise("closed/goes", 100).noise("open", 2000).noise("goes", 100);
    let (dst, proxy) = receiver(&lab);
    let run = |more: Vec<std::ffi::OsString>| {
        lab.run(args!["index", "-b", src, "-db", db]).code(0);
        lab.upload(&src, &db, &proxy.url, [args!["--json"], more].concat())
    };
    run(vec![]).code(0);
    std::fs::set_permissions(dst.join("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
    // The new file has the content of a file that cannot be read there.
    std::fs::copy(src.join("closed/file"), src.join("copy")).unwrap();
    tree.remove("goes").remove("closed/goes").noise("new", 500);
    let output = run(args!["--delete"]);
    assert!(matches!(output.code, 0 | 3), "{output:?}");
    for name in ["copy", "new", "open"] {
        assert_eq!(std::fs::read(src.join(name)).unwrap(), std::fs::read(dst.join(name)).unwrap(), "{name}");
    }
    // The next run can go on, after the owner has opened the folder.
    std::fs::set_permissions(dst.join("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    run(args!["--delete"]).code(0);
    assert!(!dst.join("goes").exists() && !dst.join("closed/goes").exists());
}

/// Folders that their owner may not list, or not enter: they are brought up to date all the same,
/// and stay as at the source.
#[test]
fn folders_that_close_out_their_owner_are_brought_up_to_date() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    let modes = [0o311, 0o111, 0o300, 0o200, 0o100, 0o000, 0o644, 0o055];
    let mut tree = Tree::new(&src, 139);
    let name = |mode: u32, rest: &str| format!("{mode:03o}/{rest}");
    for mode in modes {
        tree.noise(name(mode, "file"), 3000).noise(name(mode, "small"), 100).file(name(mode, "empty"), "");
        tree.noise(name(mode, "sub/deep/file"), 50)
            .symlink(name(mode, "link"), "file")
            .noise(name(mode, "goes"), 9);
        tree.hardlink(name(mode, "sub/hard"), name(mode, "file"));
    }
    let close = |tree: &mut Tree| {
        tree.times();
        for mode in modes {
            if tree.path(name(mode, "goes")).exists() {
                tree.mtime(name(mode, "goes"), 1_500_000_000_000_000_000);
            }
            tree.mode(name(mode, "sub/deep"), mode).mode(name(mode, "sub"), mode).mode(name(mode, ""), mode);
        }
    };
    close(&mut tree);
    let (dst, proxy) = receiver(&lab);
    let run = |what: &str| {
        lab.run(args!["index", "-b", src, "-db", db]).code(0);
        let output = lab.upload(&src, &db, &proxy.url, args!["-s", "1000", "--delete"]);
        assert_eq!(output.code, 0, "{what}: {output:?}");
        assert_same_but_for_owners(&src, &dst);
    };
    run("first");
    run("again");
    for mode in modes {
        tree.noise(name(mode, "file"), 3500).noise(name(mode, "new"), 70).remove(name(mode, "goes"));
        tree.remove(name(mode, "link")).symlink(name(mode, "link"), "small");
        tree.mode(name(mode, "small"), 0o600).noise(name(mode, "sub/deep/new"), 7);
    }
    close(&mut tree);
    run("changed");
    run("nothing changed");
    for mode in modes {
        tree.mode(name(mode, ""), 0o755).mode(name(mode, "sub"), 0o700);
    }
    run("opened");
    tree.remove("311").remove("000");
    run("removed");
}

/// A folder that the sender may not list does not decide the permissions of its copy.
#[test]
fn a_sender_that_cannot_list_a_folder_does_not_close_its_copy() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("tmp/i.sqlite"));
    let mut tree = Tree::new(&src, 140);
    tree.noise("e/file", 1000).noise("open", 100).mode("e", 0o755);
    let proxy = lab.proxy(&dst);
    let run = || {
        let index = lab.unprivileged(lab.cmd(args!["index", "-b", src, "-db", db])).run();
        let upload =
            lab.unprivileged(lab.upload_cmd(&src, &db, &proxy.url, args!["-dbp", lab.path("tmp/p")])).run();
        (index.code, upload.code)
    };
    assert_eq!(run(), (0, 0));
    for mode in [0o700, 0o711, 0o744] {
        tree.mode("e", mode).noise("open", 200);
        let (index, _) = run();
        assert_eq!(index, 3, "{mode:o}");
        assert_eq!(dst.join("e").metadata().unwrap().permissions().mode() & 0o7777, 0o755, "{mode:o}");
    }
    tree.mode("e", 0o775);
    assert_eq!(run(), (0, 0));
    assert_eq!(dst.join("e").metadata().unwrap().permissions().mode() & 0o7777, 0o775);
}
