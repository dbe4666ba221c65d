//! The whole job in one command, to a remote receiver and to a folder.

use crate::support::{Lab, Tree, assert_same_tree, index};
use std::os::unix::fs::MetadataExt;

#[test]
fn to_a_receiver_and_again() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 30).rich(100_000);
    let proxy = lab.proxy(&dst);
    lab.sync(&src, &proxy.url, args!["-s", "5000"]).code(0);
    assert_same_tree(&src, &dst);
    let accepted = proxy.blocks_accepted();
    assert!(accepted > 10);
    lab.sync(&src, &proxy.url, args!["-s", "5000"]).code(0);
    assert_eq!(proxy.blocks_accepted(), accepted, "nothing changed, but blocks were sent");
    assert_same_tree(&src, &dst);
}

/// Nothing changed: the receiver prechecks its files while the sender walks the folder.
#[test]
fn changes_at_the_receiver_are_reverted() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 36).rich(50_000).noise("d/e/file", 3000).noise("other", 2000).symlink("d/link", "other");
    let proxy = lab.proxy(&dst);
    let sync = || lab.sync(&src, &proxy.url, args!["-s", "5000", "--json"]).code(0).summary();
    sync();
    let damages: [&dyn Fn(); 6] = [
        &|| std::fs::remove_file(dst.join("d/e/file")).unwrap(),
        &|| std::fs::write(dst.join("other"), "less").unwrap(),
        &|| std::fs::remove_file(dst.join("d/link")).unwrap(),
        &|| {
            std::fs::set_permissions(dst.join("d/e"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .unwrap()
        },
        &|| std::fs::File::open(dst.join("d")).unwrap().set_modified(std::time::SystemTime::now()).unwrap(),
        &|| std::fs::remove_dir_all(dst.join("d")).unwrap(),
    ];
    for damage in damages {
        damage();
        assert_eq!(sync()["index"]["unchanged"], true);
        assert_same_tree(&src, &dst);
    }
    assert_eq!(sync()["sent_blocks"], 0);
}

#[test]
fn to_a_folder_and_again() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("new/dst"));
    Tree::new(&src, 31).rich(100_000);
    let first = lab.sync(&src, &dst, args!["--json", "-s", "5000"]).code(0).summary();
    assert!(first["sent_blocks"].as_u64().unwrap() > 10, "{first}");
    assert_same_tree(&src, &dst);
    let again = lab.sync(&src, &dst, args!["--json", "-s", "5000"]).code(0).summary();
    assert_eq!(again["sent_blocks"], 0, "{again}");
    assert_same_tree(&src, &dst);
}

#[test]
fn a_changed_folder_is_brought_up_to_date() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 32);
    tree.noise("grows", 3000)
        .noise("shrinks", 9000)
        .noise("changes", 4000)
        .noise("stays", 2000)
        .file("becomes-dir", "x");
    tree.dir("d").file("mode", "m").text("touched", 500).symlink("link", "stays");
    let proxy = lab.proxy(&dst);
    let sync = || lab.sync(&src, &proxy.url, args!["-s", "1000"]).code(0);
    sync();
    assert_same_tree(&src, &dst);
    let stays = dst.join("stays").metadata().unwrap().ino();
    tree.noise("grows", 7000).noise("shrinks", 10).noise("changes", 4000).remove("becomes-dir");
    tree.file("becomes-dir/new", "y").noise("new/file", 1234).mode("mode", 0o640).mtime("touched", 5);
    tree.remove("link").symlink("link", "grows").mode("d", 0o711).file("new/empty", "");
    sync();
    assert_same_tree(&src, &dst);
    // Not a promise, but the cost of an unchanged file: nothing, or at most a rename.
    assert!(dst.join("stays").metadata().unwrap().ino() > 0 && stays > 0);
}

#[test]
fn a_database_in_the_source_is_neither_sent_nor_a_change() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let mut tree = Tree::new(&src, 33);
    tree.noise("file", 5000).dir("sub");
    let (db, progress) = (src.join("sub/index.sqlite"), src.join("progress.sqlite"));
    let sync = || lab.sync(&src, &dst, args!["-db", db, "-dbp", progress, "--json"]).code(0).summary();
    sync();
    assert_eq!(index::paths(&db), ["file"]);
    assert_eq!(sync()["sent_blocks"], 0, "the databases changed, the folder did not");
    assert_eq!(index::paths(&db), ["file"]);
}

#[test]
fn excluded_files_are_not_indexed() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let mut tree = Tree::new(&src, 34);
    tree.file("keep.txt", "k").file("drop.log", "d").file("cache/x", "x").file("sub/cache/y", "y");
    lab.sync(&src, &dst, args!["-x", r"\.log$", "-x", "^cache(/|$)"]).code(0);
    assert!(dst.join("keep.txt").exists() && dst.join("sub/cache/y").exists());
    assert!(!dst.join("drop.log").exists() && !dst.join("cache").exists());
}

#[test]
fn a_source_that_is_not_there_is_an_error() {
    let lab = Lab::new();
    let dst = lab.path("dst");
    let missing = lab.sync(&lab.path("nowhere"), &dst, vec![]);
    assert!(matches!(missing.code, 1 | 2), "{missing:?}");
    assert!(missing.stderr.contains("nowhere"), "{missing:?}");
    assert!(!dst.exists());
}

/// Before, a dry run to such a place found no fault with it.
#[test]
fn a_destination_that_cannot_be_made_is_an_error() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 34).file("a", "a");
    for flags in [vec![], args!["-n"]] {
        let refused = lab.sync(&src, "/proc/x/y", flags).code(1);
        refused.says("cannot make the destination folder /proc/x/y");
    }
}

#[test]
fn a_destination_inside_the_source_does_not_feed_on_itself() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 35).noise("file", 3000);
    let dst = src.join("copy");
    for _ in 0..2 {
        let output = lab.sync(&src, &dst, vec![]);
        if output.code != 0 {
            assert!(matches!(output.code, 1 | 2) && !output.stderr.is_empty(), "{output:?}");
            assert!(!dst.exists(), "refused, but something was made in the source");
            return;
        }
    }
    assert!(!dst.join("copy").exists(), "the copy holds itself");
}
