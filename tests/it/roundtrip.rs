//! The main job: a folder goes through index, proxy, upload and check, and the copy equals it.

use crate::support::index;
use crate::support::{Lab, Proxy, Tree, assert_same_tree};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Uploads, compares in two ways, and shows that a second run sends nothing. Returns the receiver's
/// folder and the receiver.
fn transfer(lab: &Lab, src: &Path, more: Vec<OsString>) -> (PathBuf, Proxy) {
    let dst = lab.dir("dst");
    let db = lab.index(src);
    let proxy = lab.proxy(&dst);
    lab.upload(src, &db, &proxy.url, more.clone()).code(0);
    assert_same_tree(src, &dst);
    lab.check(&dst, &db, args!["--extra"]).code(0);
    assert_eq!(proxy.status(0)["complete"], true);
    let accepted = proxy.blocks_accepted();
    lab.upload(src, &db, &proxy.url, more).code(0);
    assert_eq!(proxy.blocks_accepted(), accepted, "the second run sent blocks again");
    assert_same_tree(src, &dst);
    (dst, proxy)
}

fn blocks(total: usize, size: usize) -> u64 {
    total.div_ceil(size) as u64
}

#[test]
fn rich_tree_in_one_block_of_the_default_size() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 1).rich(60_000);
    let (_, proxy) = transfer(&lab, &src, vec![]);
    assert_eq!(proxy.blocks_accepted(), 1);
}

#[test]
fn rich_tree_in_blocks_of_4096_by_one_worker() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 2).rich(60_000);
    let (_, proxy) = transfer(&lab, &src, args!["-s", "4096", "-p", "1"]);
    let total = index::archive(&src, &lab.path("src.sqlite")).len();
    assert_eq!(proxy.blocks_accepted(), blocks(total, 4096));
}

#[test]
fn rich_tree_in_blocks_of_4096_by_eight_workers() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 3).rich(300_000);
    transfer(&lab, &src, args!["-s", "4096", "-p", "8"]);
}

/// Files of 0 to 9 bytes and one of 60, in and out of folders.
fn tiny(src: &Path, seed: u64) {
    let mut tree = Tree::new(src, seed);
    tree.noise("longer", 60);
    for number in 0..25 {
        tree.noise(format!("d{}/f{number}", number % 4), number % 10);
    }
    tree.times();
}

#[test]
fn blocks_of_one_byte() {
    let lab = Lab::new();
    let src = lab.path("src");
    tiny(&src, 4);
    let (_, proxy) = transfer(&lab, &src, args!["-s", "1", "-p", "8"]);
    assert_eq!(proxy.blocks_accepted(), index::archive(&src, &lab.path("src.sqlite")).len() as u64);
}

#[test]
fn blocks_of_seven_bytes() {
    let lab = Lab::new();
    let src = lab.path("src");
    tiny(&src, 5);
    transfer(&lab, &src, args!["-s", "7", "-p", "8"]);
}

#[test]
fn totals_of_whole_blocks_and_one_byte_more() {
    for (total, expected) in [(500, 5), (501, 6), (499, 5), (100, 1), (1, 1)] {
        let lab = Lab::new();
        let src = lab.path("src");
        let mut tree = Tree::new(&src, total as u64);
        // An empty file at the end lies on the border of the last block.
        tree.noise("a", total / 3).noise("b", total - total / 3).file("z-empty", "");
        let (_, proxy) = transfer(&lab, &src, args!["-s", "100"]);
        assert_eq!(proxy.blocks_accepted(), expected, "{total} bytes");
        assert_eq!(proxy.status(0)["total_bytes"], total);
    }
}

#[test]
fn empty_folder() {
    let lab = Lab::new();
    let src = lab.dir("src");
    let (dst, proxy) = transfer(&lab, &src, vec![]);
    assert_eq!(proxy.blocks_accepted(), 0);
    assert_eq!(proxy.status(0)["files_total"], 0);
    assert!(std::fs::read_dir(dst).unwrap().all(|entry| entry.unwrap().file_name() == ".tar-like"));
}

#[test]
fn only_empty_files_and_folders() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 6);
    tree.file("a", "").file("b/c", "").file("b/d/e", "").dir("b/f/g").times();
    let (_, proxy) = transfer(&lab, &src, vec![]);
    assert_eq!(proxy.blocks_accepted(), 0);
    assert_eq!(proxy.status(0)["files_published"], 3);
}

#[test]
fn a_hundred_thousand_empty_files() {
    let lab = Lab::new();
    let src = lab.dir("src");
    for folder in 0..100 {
        let folder = src.join(format!("d{folder:02}"));
        std::fs::create_dir(&folder).unwrap();
        for file in 0..1000 {
            std::fs::File::create(folder.join(format!("f{file}"))).unwrap();
        }
    }
    let dst = lab.dir("dst");
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, vec![]).code(0);
    assert_eq!(proxy.status(0)["files_published"], 100_000);
    assert_same_tree(&src, &dst);
}

#[test]
fn folders_255_deep() {
    let lab = Lab::new();
    let src = lab.path("src");
    let deep = "d/".repeat(255);
    let mut tree = Tree::new(&src, 7);
    tree.text(format!("{deep}file"), 5000).file(format!("{deep}empty"), "");
    tree.hardlink(format!("{deep}hard"), format!("{deep}file"))
        .symlink(format!("{deep}soft"), "../file")
        .times();
    transfer(&lab, &src, args!["-s", "1000"]);
}

#[test]
fn several_archives_on_one_receiver_at_once() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    let sources: Vec<(PathBuf, PathBuf)> = (0..4)
        .map(|number| {
            let src = lab.path(&format!("src{number}"));
            let mut tree = Tree::new(&src, 10 + number);
            for file in 0..30 {
                tree.noise(format!("of-{number}/f{file}"), 700 * file);
            }
            tree.file(format!("of-{number}/empty"), "").text(format!("top-{number}"), 9000);
            let db = lab.index(&src);
            (src, db)
        })
        .collect();
    // Ids need not be dense; the largest is the last that the receiver's journal can store.
    let ids = ["0", "1", "77", "9223372036854775807"];
    let running: Vec<_> = sources
        .iter()
        .zip(ids)
        .map(|((src, db), id)| {
            lab.upload_cmd(src, db, &proxy.url, args!["--tar-id", id, "-s", "2000", "-p", "2"]).spawn()
        })
        .collect();
    for upload in running {
        upload.wait().code(0);
    }
    for ((src, db), id) in sources.iter().zip(ids) {
        lab.check(&dst, db, vec![]).code(0);
        let status = proxy.status(id.parse().unwrap());
        assert_eq!(
            (&status["complete"], &status["digest"]),
            (&true.into(), &index::digest(db).into()),
            "{id}"
        );
        assert_eq!(status["files_total"], index::rows(db).len());
        assert!(src.exists());
    }
}

#[test]
fn a_killed_receiver_resumes_in_another_block_size() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 8).rich(50_000);
    let db = lab.index(&src);
    let mut proxy = lab.proxy(&dst);
    let half = lab.upload(&src, &db, &proxy.url, args!["-s", "1000", "-l", "20"]);
    assert_ne!(half.code, 2, "{half:?}");
    let done = proxy.status(0)["done_bytes"].clone();
    assert_eq!(done, 21_000);
    proxy.kill9();
    proxy.restart();
    assert_eq!(proxy.status(0)["done_bytes"], done, "the restart lost received bytes");
    // Another block size, no progress database: received content is not sent again, except where
    // blocks overlap missing ranges.
    lab.upload(&src, &db, &proxy.url, args!["-s", "999"]).code(0);
    let total = index::archive(&src, &db).len();
    assert!(proxy.blocks_accepted() <= blocks(total - 21_000, 999) + 1);
    assert_same_tree(&src, &dst);
    let output = proxy.term_and_wait().code(0);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

#[test]
fn files_removed_or_changed_at_the_destination_are_sent_again() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 9);
    for number in 0..10 {
        tree.noise(format!("f{number}"), 1000);
    }
    let db = lab.index(&src);
    let mut proxy = lab.proxy(&dst);
    let progress = lab.path("progress.sqlite");
    let upload = |url: &str| lab.upload(&src, &db, url, args!["-s", "1000", "-dbp", progress]);
    upload(&proxy.url).code(0);
    proxy.kill9();
    std::fs::remove_file(dst.join("f3")).unwrap();
    std::fs::write(dst.join("f7"), "changed").unwrap();
    proxy.restart();
    upload(&proxy.url).code(0);
    assert_same_tree(&src, &dst);
    assert_eq!(proxy.blocks_accepted(), 2, "only the two files are sent again");
}

/// P5: also by the receiver that put everything in place itself and was never restarted.
#[test]
fn files_removed_behind_a_running_receiver_are_sent_again() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 10);
    for number in 0..10 {
        tree.noise(format!("f{number}"), 1000);
    }
    tree.noise("empty", 0);
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    for name in ["f3", "f8", "empty"] {
        std::fs::remove_file(dst.join(name)).unwrap();
    }
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    assert_same_tree(&src, &dst);
    assert_eq!(proxy.blocks_accepted(), 12, "ten blocks, and the two whose files are gone");
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    assert_eq!(proxy.blocks_accepted(), 12, "nothing is missing any more");
}
