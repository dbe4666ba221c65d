//! Both directions with programs that know only what the original fixed (FORMAT.md 2, 4 and 5.1):
//! the original's sender, and the original's receiver.

use crate::support::index::{self, Row, frame, rows_of};
use crate::support::original::{OriginalReceiver, blocks};
use crate::support::{Lab, Proxy, Rng, Tree, assert_same_files};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SIZE: usize = 70_000;

/// Files with everything that the original supports: empty ones on borders, large, small, in
/// folders, and a name that is not UTF-8.
fn contents() -> Vec<(&'static [u8], Vec<u8>)> {
    let mut rng = Rng::new(90);
    vec![
        (b"first-empty", Vec::new()),
        (b"a/large", rng.text(400_000)),
        (b"a/one-block", rng.noise(SIZE)),
        (b"b/border-empty", Vec::new()),
        (b"b/small", rng.text(10)),
        (b"b/\xff\xfe odd", rng.noise(1000)),
        (b"b/deep/er/file", rng.noise(69_000)),
        (b"zeros", vec![0; 200_000]),
        (b"z-last-empty", Vec::new()),
    ]
}

/// The files in a folder, the original's index of them, and the archive.
fn original(lab: &Lab) -> (PathBuf, PathBuf, Vec<u8>, Vec<Row>) {
    let (src, db, files) = (lab.path("src"), lab.path("original.sqlite"), contents());
    let mut tree = Tree::new(&src, 0);
    for (name, content) in &files {
        tree.file(OsStr::from_bytes(name), content);
    }
    let borrowed: Vec<(&[u8], &[u8])> = files.iter().map(|(name, content)| (*name, &content[..])).collect();
    let rows = rows_of(&borrowed);
    index::write_original(&db, &rows);
    (src, db, files.iter().flat_map(|(_, content)| content.clone()).collect(), rows)
}

/// PUT as the original: no header of ours.
fn put(proxy: &Proxy, path: &str, body: &[u8]) -> serde_json::Value {
    let answer = proxy.request("PUT", path, &[], body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

#[test]
fn a_sender_of_the_original_is_served() {
    let lab = Lab::new();
    let (src, db, archive, _) = original(&lab);
    let dst = lab.dir("dst");
    let proxy = lab.proxy_with(&dst, args!["--legacy"]);
    assert!(put(&proxy, "/tar/0/db", &index::frame_of(&db))["rc"].is_string());
    wait_until("the empty files are there: there is no finish", || {
        ["first-empty", "b/border-empty", "z-last-empty"].iter().all(|name| dst.join(name).is_file())
    });
    let count = archive.len().div_ceil(SIZE);
    // The original's workers end in any order; the last block first is the worst.
    for number in (0..count).rev() {
        let content = index::block(&archive, SIZE, number);
        let body = frame(content);
        assert_eq!(body[4] & 0x28, 0, "blocks linked, no content size");
        let answer = put(&proxy, &format!("/tar/0/{SIZE}/{number}"), &body);
        assert_eq!((&answer["blk_no"], &answer["in_len"]), (&number.into(), &body.len().into()));
    }
    wait_until("all files have their names", || {
        contents().iter().all(|(name, _)| dst.join(OsStr::from_bytes(name)).exists())
    });
    assert_same_files(&src, &dst);
    lab.check(&dst, &db, args!["--extra"]).code(0);
    // Sending everything again changes nothing.
    put(&proxy, "/tar/0/db", &index::frame_of(&db));
    put(&proxy, &format!("/tar/0/{SIZE}/0"), &frame(index::block(&archive, SIZE, 0)));
    assert_same_files(&src, &dst);
}

/// Large files are verified, and empty ones made, after the request was answered.
fn wait_until(what: &str, done: impl FnMut() -> bool) {
    crate::support::wait_until(what, Duration::from_secs(20), done);
}

/// With an index of ours, which has BLAKE3 and metadata, and after a restart in the middle.
#[test]
fn a_sender_of_the_original_with_our_index_and_a_restart() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 91).rich(60_000);
    let (db, dst) = (lab.index(&src), lab.dir("dst"));
    let archive = index::archive(&src, &db);
    let mut proxy = lab.proxy_with(&dst, args!["--legacy"]);
    put(&proxy, "/tar/7/db", &index::frame_of(&db));
    let count = archive.len().div_ceil(5000);
    for number in 0..count {
        if number == count / 2 {
            proxy.kill9();
            proxy.restart();
        }
        put(&proxy, &format!("/tar/7/5000/{number}"), &frame(index::block(&archive, 5000, number)));
    }
    wait_until("all files have their names", || proxy.status(7)["files_published"] == index::rows(&db).len());
    for row in index::rows(&db) {
        let name = OsStr::from_bytes(&row.path);
        assert_eq!(
            std::fs::read(dst.join(name)).unwrap(),
            std::fs::read(src.join(name)).unwrap(),
            "{name:?}"
        );
    }
}

/// Exact length and md5 guard a sender without digests.
#[test]
fn wrong_bytes_of_a_sender_of_the_original_are_not_published() {
    let lab = Lab::new();
    let (_, db, mut archive, rows) = original(&lab);
    let dst = lab.dir("dst");
    let proxy = lab.proxy_with(&dst, args!["--legacy"]);
    put(&proxy, "/tar/0/db", &index::frame_of(&db));
    let wrong = ["a/large", "b/small"];
    for row in rows.iter().filter(|row| wrong.iter().any(|name| row.path == name.as_bytes())) {
        archive[row.offset as usize + 3] ^= 1;
    }
    for number in 0..archive.len().div_ceil(SIZE) {
        put(&proxy, &format!("/tar/0/{SIZE}/{number}"), &frame(index::block(&archive, SIZE, number)));
    }
    wait_until("the large files are judged", || {
        let status = proxy.status(0);
        let published = status["files_published"].as_u64().unwrap() as usize;
        status["failed"].as_array().unwrap().len() == 2 && published == contents().len() - 2
    });
    for (name, content) in contents() {
        let path = dst.join(OsStr::from_bytes(name));
        if wrong.iter().any(|wrong| wrong.as_bytes() == name) {
            assert!(!path.exists(), "{path:?} was published with wrong bytes");
        } else {
            assert_eq!(std::fs::read(&path).unwrap(), content, "{path:?}");
        }
    }
    assert_eq!(proxy.status(0)["complete"], false);
}

#[test]
fn without_the_switch_a_sender_of_the_original_is_refused() {
    let lab = Lab::new();
    let (src, db, archive, _) = original(&lab);
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    let refused = |path: &str, body: &[u8]| {
        let answer = proxy.request("PUT", path, &[], body);
        assert_eq!(answer.status, 412, "{}", answer.text());
        assert!(answer.text().contains("--legacy"), "{}", answer.text());
    };
    refused("/tar/0/db", &index::frame_of(&db));
    // Nor a block, when another sender has put an index.
    let ours = lab.index(&src);
    let headers = [("x-tar-like-index", &*index::digest(&ours))];
    assert_eq!(proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(&ours)).status, 200);
    refused(&format!("/tar/0/{SIZE}/0"), &frame(index::block(&archive, SIZE, 0)));
    assert!(!dst.join("a").exists());
    assert!(proxy.stderr().contains("--legacy"), "{}", proxy.stderr());
}

/// An empty file belongs to no block where two blocks meet, and to one elsewhere.
#[test]
fn empty_files_that_a_receiver_of_the_original_does_not_make() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 97)
        .file("a-first", "")
        .noise("b", 1500)
        .file("c-within", "")
        .noise("d", 500)
        .file("e-border", "");
    let db = lab.index(&src);
    let receiver = OriginalReceiver::start(501, Box::new(|_, _, _| None));
    let sent = lab.upload(&src, &db, &receiver.url(), args!["-s", "1000"]).code(3);
    for (name, lost) in [("a-first", true), ("c-within", false), ("e-border", true), ("b", false)] {
        assert_eq!(sent.stderr.contains(&format!("failed: {name}: ")), lost, "{}", sent.stderr);
    }
    lab.upload(&src, &db, &receiver.url(), args!["-s", "900"]).code(3).says("failed: a-first: ");
    std::fs::remove_file(src.join("a-first")).unwrap();
    lab.upload(&src, &lab.index(&src), &receiver.url(), args!["-s", "900"]).code(0);
}

/// An acknowledged index must not be forgotten: the original puts it once.
#[test]
fn empty_files_of_a_sender_of_the_original_survive_a_kill() {
    let lab = Lab::new();
    let (db, dst) = (lab.path("original.sqlite"), lab.dir("dst"));
    let names: Vec<String> = (0..20_000).map(|number| format!("d{}/f{number}", number % 10)).collect();
    let empty = names.iter().map(|name| (name.as_bytes(), &b""[..]));
    let files: Vec<(&[u8], &[u8])> = empty.chain([(&b"z"[..], &b"x"[..])]).collect();
    index::write_original(&db, &rows_of(&files));
    let mut proxy = lab.proxy_with(&dst, args!["--legacy"]);
    put(&proxy, "/tar/0/db", &index::frame_of(&db));
    proxy.kill9();
    proxy.restart();
    put(&proxy, "/tar/0/1000/0", &frame(b"x"));
    wait_until("all files are there", || proxy.status(0)["files_published"] == 20_001);
    assert!(names.iter().all(|name| dst.join(name).is_file()));
}

/// Our sender and receiver with an index that the original made: no metadata, no BLAKE3, no
/// folders.
#[test]
fn an_index_of_the_original_is_uploaded_and_checked() {
    let lab = Lab::new();
    let (src, db, archive, _) = original(&lab);
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, args!["-s", SIZE.to_string()]).code(0);
    assert_same_files(&src, &dst);
    assert_eq!(proxy.status(0)["complete"], true);
    assert_eq!(proxy.blocks_accepted(), archive.len().div_ceil(SIZE) as u64);
    lab.check(&dst, &db, args!["--extra"]).code(0);
    lab.upload(&src, &db, &proxy.url, args!["-s", SIZE.to_string()]).code(0);
    assert_eq!(proxy.blocks_accepted(), archive.len().div_ceil(SIZE) as u64, "sent again");
    std::fs::write(dst.join("b/small"), "0123456789").unwrap();
    lab.check(&dst, &db, args![]).code(1);
}

/// A receiver of the original, with any answer to requests that it does not know.
#[test]
fn a_receiver_of_the_original_gets_everything_once() {
    for unknown in [404, 405, 501] {
        let lab = Lab::new();
        let src = lab.path("src");
        Tree::new(&src, 92).rich(50_000);
        let (db, progress) = (lab.index(&src), lab.path("progress.sqlite"));
        let archive = index::archive(&src, &db);
        let receiver = OriginalReceiver::start(unknown, Box::new(|_, _, _| None));
        let upload = |more| {
            let more = [args!["-s", "1000", "-dbp", progress], more].concat();
            lab.upload(&src, &db, &receiver.url(), more)
        };
        // The original's protocol has no links, folders or empty files between blocks: our sender
        // names them.
        let sent =
            upload(args!["--json", "--delete"]).code(3).says("original").says("nothing is deleted there");
        let summary = sent.summary();
        assert_eq!((&summary["complete"], &summary["legacy"]), (&false.into(), &true.into()), "{summary}");
        for lost in ["link-to-file", "zz/hard", "empty-dir", "nest/of/empty/dirs"] {
            sent.stderr.lines().find(|line| line.starts_with(&format!("failed: {lost}: "))).unwrap();
        }
        assert!(!sent.stderr.contains("failed: many:"), "{}", sent.stderr);
        let puts = receiver.take_puts();
        assert_eq!(puts[0].path, "/tar/0/db", "the index comes before any block");
        assert_eq!(puts.iter().filter(|put| put.path.ends_with("/db")).count(), 1);
        let sent = lab.file("sent.sqlite", index::unframe(&puts[0].body));
        assert_eq!(
            index::rows(&sent),
            index::rows(&db),
            "the original reads table tar of the received index"
        );
        let (count, got) = (archive.len().div_ceil(1000) as u64, blocks(&puts));
        assert_eq!(puts.len() as u64, count + 1, "each block once");
        assert!(puts.iter().skip(1).all(|put| put.path.starts_with("/tar/0/1000/")));
        assert!(puts.iter().all(|put| put.headers.iter().any(|(name, _)| name == "content-length")));
        assert_eq!(got.into_values().flatten().collect::<Vec<u8>>(), archive);
        let rows: Vec<(i64, i64, i64)> = index::open(&progress)
            .prepare("SELECT tar_id, blk_size, blk_id FROM res ORDER BY blk_id")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(rows, (0..count as i64).map(|number| (0, 1000, number)).collect::<Vec<_>>());
        upload(vec![]).code(3);
        assert!(blocks(&receiver.take_puts()).is_empty(), "nothing is missing");
        upload(args!["--ignore-done", "-f", "3", "-l", "5"]).code(0);
        assert_eq!(blocks(&receiver.take_puts()).into_keys().collect::<Vec<_>>(), [3, 4, 5]);
    }
}

#[test]
fn blocks_refused_by_the_original_receiver_are_sent_by_the_next_run() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 93).noise("a", 10_000);
    let (db, progress) = (lab.index(&src), lab.path("progress.sqlite"));
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let still = broken.clone();
    let refuse = move |_: &str, path: &str, _: usize| {
        (path.ends_with("/7") && still.load(std::sync::atomic::Ordering::SeqCst)).then_some(400)
    };
    let receiver = OriginalReceiver::start(501, Box::new(refuse));
    let upload = || lab.upload(&src, &db, &receiver.url(), args!["-s", "1000", "-dbp", progress, "-p", "1"]);
    let failed = upload();
    assert!(matches!(failed.code, 1 | 3), "a refused block must not end in {failed:?}");
    let first = blocks(&receiver.take_puts());
    assert!(!first.contains_key(&7));
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    upload().code(0);
    let second = blocks(&receiver.take_puts());
    assert!(second.contains_key(&7));
    assert!(second.keys().all(|number| !first.contains_key(number)), "{:?} were sent twice", second.keys());
    assert_eq!(first.len() + second.len(), 10);
}

/// 500 and similar statuses leave the outcome open: the block is sent again.
#[test]
fn errors_of_a_receiver_of_the_original_are_retried() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 94).noise("a", 10_000);
    let db = lab.index(&src);
    // Every third request fails.
    let refuse = |method: &str, _: &str, before: usize| (method == "PUT" && before % 3 == 2).then_some(500);
    let receiver = OriginalReceiver::start(404, Box::new(refuse));
    lab.upload(&src, &db, &receiver.url(), args!["-s", "1000"]).code(0);
    let got = blocks(&receiver.take_puts());
    assert_eq!(got.into_values().flatten().collect::<Vec<u8>>(), index::archive(&src, &db));
}

/// FORMAT.md 4: the original's progress did not name the index, and skipped new blocks after a new
/// index.
#[test]
fn progress_is_bound_to_the_index() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 95).noise("a", 3000);
    let progress = lab.path("progress.sqlite");
    let receiver = OriginalReceiver::start(501, Box::new(|_, _, _| None));
    let upload = |db: &Path, more| {
        let more = [args!["-s", "1000", "-dbp", progress], more].concat();
        lab.upload(&src, db, &receiver.url(), more).code(0);
        blocks(&receiver.take_puts()).len()
    };
    assert_eq!(upload(&lab.index(&src), vec![]), 3);
    Tree::new(&src, 96).noise("a", 3000);
    assert_eq!(upload(&lab.index(&src), vec![]), 3, "other content, same blocks");
    assert_eq!(upload(&lab.path("src.sqlite"), vec![]), 0);
    assert_eq!(upload(&lab.path("src.sqlite"), args!["--tar-id", "1"]), 3, "another archive");
}
