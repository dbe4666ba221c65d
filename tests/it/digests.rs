//! `--digest blake3`: an index without md5, on every way that a content takes, and beside one that
//! has md5.

use crate::support::index::{blake3_hex, md5_hex};
use crate::support::original::OriginalReceiver;
use crate::support::{Lab, Rng, Tree, assert_same_tree, index};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLAKE3: [&str; 2] = ["--digest", "blake3"];
const BOTH: [&str; 2] = ["--digest", "md5,blake3"];
/// More than is read as a whole.
const LARGE: usize = 5_000_000;

fn tree(lab: &Lab, seed: u64) -> Tree {
    let mut tree = Tree::new(&lab.path("src"), seed);
    tree.rich(20_000).noise("large", LARGE).noise("d/medium", 700_000).file("d/empty", "");
    tree
}

/// The column `hash` of a file.
fn hash(db: &Path, path: &str) -> String {
    let query = "SELECT hash FROM tar WHERE path = ?";
    index::open(db).query_row(query, [path], |row| row.get(0)).unwrap()
}

#[track_caller]
fn assert_has(db: &Path, path: &Path, name: &str, md5: bool) {
    let content = std::fs::read(path.join(name)).unwrap();
    let expected = if md5 { md5_hex(&content) } else { blake3_hex(&content) };
    assert_eq!(hash(db, name), expected, "{name}");
}

/// A run of `sync`, after which both sides are equal; gives how many bytes it sent.
#[track_caller]
fn sync(lab: &Lab, to: &str, more: &[&str]) -> u64 {
    let flags: Vec<OsString> = more.iter().map(Into::into).collect();
    let (src, db) = (lab.path("src"), lab.path("index.sqlite"));
    let args =
        [args!["-db", db, "-dbp", lab.path("dbp"), "--json", "--delete", "--keep", "9"], flags].concat();
    let sent = lab.sync(&src, to, args).code(0).summary()["sent_bytes"].as_u64().unwrap();
    assert_same_tree(&src, &lab.path("dst"));
    lab.check(&lab.path("dst"), &db, args!["--extra"]).code(0);
    sent
}

fn append(path: &Path, seed: u64, bytes: usize) {
    let noise = Rng::new(seed).noise(bytes);
    std::fs::File::options().append(true).open(path).unwrap().write_all(&noise).unwrap();
}

fn damage(path: &Path) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1000).unwrap();
    file.write_all_at(&[!byte[0]], 1000).unwrap();
}

#[test]
fn a_copy_without_md5_is_verified_and_repaired() {
    let lab = Lab::new();
    tree(&lab, 1);
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("index.sqlite"));
    let proxy = lab.proxy(&dst);
    sync(&lab, &proxy.url, &BLAKE3);
    for name in ["large", "d/medium", "d/empty"] {
        assert_has(&db, &src, name, false);
    }
    // An index as `index` makes it has the same name, and the receiver has it.
    let other = lab.path("other.sqlite");
    let of_index =
        lab.run([args!["index", "-b", src, "-db", other], BLAKE3.map(Into::into).to_vec()].concat());
    of_index.code(0);
    assert_eq!(index::digest(&db), index::digest(&other));
    drop(proxy);
    damage(&dst.join("large"));
    damage(&dst.join("d/medium"));
    let found = lab.check(&dst, &db, args!["--no-metadata"]).code(1);
    assert_eq!(found.stdout.matches("its BLAKE3 is ").count(), 2, "{}", found.stdout);
    lab.check(&dst, &db, args!["--repair", src]).code(0);
    assert_same_tree(&src, &dst);
}

/// The sender sends a part, the receiver starts anew, and reads what it has.
#[test]
fn an_upload_without_md5_goes_on() {
    let lab = Lab::new();
    tree(&lab, 2);
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("index.sqlite"));
    lab.run([args!["index", "-b", src, "-db", db], BLAKE3.map(Into::into).to_vec()].concat()).code(0);
    let mut proxy = lab.proxy(&dst);
    let part = args!["-s", "300000", "-l", "8"];
    lab.upload(&src, &db, &proxy.url, part).code(0);
    proxy.kill9();
    proxy.restart();
    let all = lab.upload(&src, &db, &proxy.url, args!["-s", "300000", "--json"]).code(0).summary();
    assert!(all["sent_bytes"].as_u64().unwrap() < LARGE as u64, "{all}");
    assert_same_tree(&src, &dst);
}

/// A run computes what it is asked for of what is new, and leaves alone what is there.
#[test]
fn a_row_keeps_the_digests_that_it_has() {
    for (first, then) in [(BOTH, BLAKE3), (BLAKE3, BOTH)] {
        let lab = Lab::new();
        let mut tree = tree(&lab, 3);
        let (src, db) = (lab.path("src"), lab.path("index.sqlite"));
        let proxy = lab.proxy(&lab.dir("dst"));
        let (before, after) = (first == BOTH, then == BOTH);
        sync(&lab, &proxy.url, &first);
        // What is read again and is the same stays, and what was renamed is known.
        tree.mtime("d/medium", 1_000_000_000);
        std::fs::rename(tree.path("large"), tree.path("moved")).unwrap();
        tree.noise("new", 5000).noise("large-2", LARGE);
        assert_eq!(sync(&lab, &proxy.url, &then), 5000 + LARGE as u64, "{first:?}");
        assert_has(&db, &src, "d/medium", before);
        for name in ["moved", "new", "large-2"] {
            assert_has(&db, &src, name, after);
        }
        let digest = index::digest(&db);
        // An edit in the middle: its parts are found by the chunk map of the other run.
        damage(&tree.path("large-2"));
        assert!(sync(&lab, &proxy.url, &first) < LARGE as u64 / 5, "{first:?}");
        assert_has(&db, &src, "large-2", before);
        assert_eq!(sync(&lab, &proxy.url, &[&then[..], &["--checksum"]].concat()), 0);
        lab.run(args!["rewind", proxy.url, "-db", db]).code(0);
        assert_eq!(index::digest(&db), digest);
        lab.check(&lab.path("dst"), &db, vec![]).code(0);
    }
}

#[test]
fn a_log_grows_without_md5_and_with_it() {
    let lab = Lab::new();
    let tree = tree(&lab, 4);
    let proxy = lab.proxy(&lab.dir("dst"));
    sync(&lab, &proxy.url, &BLAKE3);
    let log = tree.path("large");
    for (seed, flags) in [BLAKE3, BOTH, BOTH, BLAKE3].into_iter().enumerate() {
        for mode in ["trust", "spot", "full"] {
            append(&log, seed as u64, 70_000);
            let sent = sync(&lab, &proxy.url, &[&flags[..], &["--append", mode]].concat());
            assert!((70_000..80_000).contains(&sent), "{flags:?} {mode}: {sent}");
        }
    }
}

/// The receiver reads what is there by BLAKE3 alone, whatever the index has.
#[test]
fn a_copy_is_adopted_by_either_index() {
    for flags in [BOTH, BLAKE3] {
        let lab = Lab::new();
        let tree = tree(&lab, 5);
        let (src, dst) = (lab.path("src"), lab.path("dst"));
        let copied = std::process::Command::new("cp").arg("-aT").args([&src, &dst]).status().unwrap();
        assert!(copied.success());
        std::fs::rename(tree.path("large"), tree.path("moved")).unwrap();
        std::fs::remove_file(dst.join("d/empty")).unwrap();
        let proxy = lab.proxy(&dst);
        let (more, db) = ([&flags[..], &["--adopt"]].concat(), lab.path("index.sqlite"));
        assert_eq!(sync(&lab, &proxy.url, &more), 0, "{flags:?}");
        assert_has(&db, &src, "moved", flags == BOTH);
    }
}

#[test]
fn check_compares_what_it_is_told() {
    let lab = Lab::new();
    tree(&lab, 6);
    let src = lab.path("src");
    let db = lab.index(&src);
    lab.check(&src, &db, BLAKE3.map(Into::into).to_vec()).code(0);
    damage(&src.join("large"));
    let check = |flags: [&str; 2]| lab.check(&src, &db, flags.map(Into::into).to_vec()).code(1).stdout;
    assert!(check(BLAKE3).contains("its BLAKE3 is "));
    assert!(check(BOTH).contains("its md5 is "));
    let by_variable = lab.cmd(args!["check", "-b", src, "-db", db]).env("TARLIKE_DIGEST", "blake3").run();
    assert!(by_variable.code(1).stdout.contains("its BLAKE3 is "));
    lab.run(args!["index", src, "-db", lab.path("x"), "--digest", "md5"]).code(2).says("md5,blake3");
}

/// The original program compares by md5 alone.
#[test]
fn the_original_program_gets_no_index_without_md5() {
    let lab = Lab::new();
    tree(&lab, 7);
    let (src, db) = (lab.path("src"), lab.path("index.sqlite"));
    let index = |flags: [&str; 2]| {
        let flags = flags.map(Into::into).to_vec();
        lab.run([args!["index", "-c", "-b", src, "-db", db], flags].concat()).code(0);
    };
    let receiver = OriginalReceiver::start(501, Box::new(|_, _, _| None));
    index(BLAKE3);
    let refused = lab.upload(&src, &db, &receiver.url(), vec![]).code(1);
    refused.says("has no md5 of ").says("--digest md5,blake3");
    assert!(receiver.take_puts().iter().all(|put| put.path.ends_with("/db")), "no block");
    lab.run(args!["compact", "-db", db]).code(0).says("has no md5 of ");
    index(BOTH);
    lab.run(args!["compact", "-db", db]).code(0);
    let sent = lab.upload(&src, &db, &receiver.url(), vec![]);
    assert!(!sent.stderr.contains("has no md5 of"), "{}", sent.stderr);
}
