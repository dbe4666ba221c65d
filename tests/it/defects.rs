//! The defects of the original program, one test for each row of FORMAT.md 13 that no other module
//! covers. Elsewhere: unknown tar_id, wrong block length and GET in `http`; `check` in `check`;
//! names, excludes and a second index in `index`; no or only empty files in `roundtrip`; the
//! inclusive `-l` in `ranges` and `check`.

use crate::support::index::{self, ORIGINAL_SCHEMA, rows_of};
use crate::support::original::OriginalReceiver;
use crate::support::{Lab, Output, Proxy, Tree, assert_same_tree, tree_diff};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Row "empty file on a block boundary": it belonged to no block and was never created.
#[test]
fn empty_file_on_a_block_boundary() {
    for size in ["10", "20", "5", "7", "1"] {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 100);
        tree.file("0-empty", "")
            .file("a", "0123456789")
            .file("b-empty", "")
            .file("c", "0123456789")
            .file("d-empty", "");
        let db = lab.index(&src);
        let proxy = lab.proxy(&dst);
        lab.upload(&src, &db, &proxy.url, args!["-s", size]).code(0);
        assert_same_tree(&src, &dst);
    }
}

/// What happens to a source file between index and upload, the previous content at the destination,
/// and the neighbours.
fn changed_source(size: &str, change: impl FnOnce(&mut Tree)) -> (Lab, PathBuf, Output, Proxy) {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 101);
    tree.noise("a", 4000)
        .noise("dir/changes", 5000)
        .noise("z", 6000)
        .file("zz-empty", "")
        .symlink("link", "z");
    let db = lab.index(&src);
    Tree::new(&dst, 102).file("dir/changes", "what was there before");
    change(&mut tree);
    let proxy = lab.proxy(&dst);
    let start = Instant::now();
    let output = lab.upload(&src, &db, &proxy.url, args!["-s", size, "--json"]).code(3);
    assert!(start.elapsed() < Duration::from_secs(30), "took {:?}", start.elapsed());
    let summary = output.summary();
    assert_eq!((&summary["failed_total"], &summary["complete"]), (&1.into(), &false.into()), "{summary}");
    assert_eq!(summary["failed"][0]["path"], "dir/changes", "{summary}");
    assert!(output.stderr.contains("dir/changes"), "{}", output.stderr);
    for name in ["a", "z", "zz-empty"] {
        assert_eq!(std::fs::read(dst.join(name)).unwrap(), std::fs::read(src.join(name)).unwrap(), "{name}");
    }
    assert_eq!(
        std::fs::read(dst.join("dir/changes")).unwrap(),
        b"what was there before",
        "torn or replaced by wrong content"
    );
    assert_eq!(dst.join("link").read_link().unwrap(), Path::new("z"));
    assert_eq!(proxy.status(0)["complete"], false);
    (lab, dst, output, proxy)
}

/// Row "a source file shrank": every later file of the block was shifted, with exit 0.
#[test]
fn a_source_file_that_shrank() {
    for size in ["30000000", "1000", "4500"] {
        changed_source(size, |tree| {
            std::fs::File::options().write(true).open(tree.path("dir/changes")).unwrap().set_len(17).unwrap()
        });
    }
}

#[test]
fn a_source_file_that_grew() {
    for size in ["30000000", "1000"] {
        changed_source(size, |tree| {
            let content = tree.rng.noise(9000);
            tree.file("dir/changes", content);
        });
    }
}

/// The size is the same, the time is another one.
#[test]
fn a_source_file_that_was_rewritten() {
    for size in ["30000000", "1000"] {
        changed_source(size, |tree| {
            tree.noise("dir/changes", 5000);
        });
    }
}

/// The size and the time are the same: only the content tells.
#[test]
fn a_source_file_that_was_rewritten_in_secret() {
    for size in ["30000000", "1000"] {
        changed_source(size, |tree| {
            let time = tree.path("dir/changes").metadata().unwrap().modified().unwrap();
            tree.noise("dir/changes", 5000);
            let file = std::fs::File::options().write(true).open(tree.path("dir/changes")).unwrap();
            file.set_modified(time).unwrap();
        });
    }
}

/// Row "vanished file in a worker": the upload hung for ever.
#[test]
fn a_source_file_that_vanished() {
    for size in ["30000000", "1000"] {
        changed_source(size, |tree| {
            tree.remove("dir/changes");
        });
    }
    changed_source("1000", |tree| {
        tree.remove("dir");
    });
}

#[test]
fn a_source_file_that_became_something_else() {
    changed_source("1000", |tree| {
        tree.remove("dir/changes").symlink("dir/changes", "../a");
    });
    changed_source("1000", |tree| {
        tree.remove("dir/changes").dir("dir/changes");
    });
    changed_source("1000", |tree| {
        let fifo = tree.remove("dir/changes").path("dir/changes");
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    });
    // Its folder became a link to a folder with the right file in it: it is not followed out of the
    // base.
    changed_source("1000", |tree| {
        let outside = tree.path("../outside");
        std::fs::rename(tree.path("dir"), &outside).unwrap();
        tree.symlink("dir", outside);
    });
}

/// A new time alone does not change content: the file arrives as it was indexed.
#[test]
fn a_source_file_that_was_only_touched() {
    for size in ["30000000", "1000"] {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 109);
        tree.noise("large", 5000).noise("small", 100).file("empty", "").times();
        let db = lab.index(&src);
        tree.mtime("large", 5).mtime("small", 6).mtime("empty", 7);
        let proxy = lab.proxy(&dst);
        lab.upload(&src, &db, &proxy.url, args!["-s", size]).code(0);
        lab.check(&dst, &db, args!["--extra"]).code(0);
    }
}

/// After the source is restored, the same command completes.
#[test]
fn a_failed_file_is_sent_when_it_is_there_again() {
    let (lab, dst, _, proxy) = changed_source("1000", |tree| {
        std::fs::rename(tree.path("dir/changes"), tree.path("../kept")).unwrap();
    });
    let (src, db) = (lab.path("src"), lab.path("src.sqlite"));
    std::fs::rename(lab.path("kept"), src.join("dir/changes")).unwrap();
    let before = proxy.blocks_accepted();
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    assert_eq!(proxy.blocks_accepted() - before, 5, "bytes 4000 to 9000");
    assert_eq!(
        std::fs::read(dst.join("dir/changes")).unwrap(),
        std::fs::read(src.join("dir/changes")).unwrap()
    );
}

/// Row "proxy down": it was ignored, exit 0.
#[test]
fn a_receiver_that_is_down() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 103).noise("a", 1000);
    let db = lab.index(&src);
    let port = crate::support::stress::free_port();
    let url = format!("http://127.0.0.1:{port}/tar");
    let start = Instant::now();
    let output = lab.upload(&src, &db, &url, args!["--stall-timeout", "2"]).code(1);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(output.stderr.len() > 20, "{output:?}");
    lab.sync(&src, &url, args!["--stall-timeout", "1"]).code(1);
}

/// The sender waits for a receiver that starts late.
#[test]
fn a_receiver_that_comes_back() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 104).noise("a", 5000);
    let db = lab.index(&src);
    let mut proxy = lab.proxy(&dst);
    proxy.kill9();
    let upload = lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "1000"]).spawn();
    std::thread::sleep(Duration::from_millis(700));
    proxy.restart();
    upload.wait().code(0);
    assert_same_tree(&src, &dst);
}

/// Row "non-2xx, index PUT failed": ignored, exit 0.
#[test]
fn answers_that_are_no_success() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 105).noise("a", 3000);
    let db = lab.index(&src);
    let upload = |receiver: &OriginalReceiver| {
        lab.upload(&src, &db, &receiver.url(), args!["-s", "1000", "--stall-timeout", "2"])
    };
    for status in [400, 401, 403, 404, 409, 413, 500, 503, 507] {
        let index_fails = move |method: &str, path: &str, _: usize| {
            (method == "PUT" && path.ends_with("/db")).then_some(status)
        };
        let receiver = OriginalReceiver::start(501, Box::new(index_fails));
        let output = upload(&receiver);
        assert!(matches!(output.code, 1 | 4), "index answered {status}: {output:?}");
        assert!(receiver.take_puts().is_empty(), "no block without an index");
        let block_fails = move |_: &str, path: &str, _: usize| path.ends_with("/1").then_some(status);
        let output = upload(&OriginalReceiver::start(501, Box::new(block_fails)));
        assert!(matches!(output.code, 1 | 3 | 4), "block answered {status}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

/// A redirect could lead the data and the token anywhere: the sender does not follow it.
#[test]
fn redirects_are_not_followed() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 106).noise("a", 3000);
    let db = lab.index(&src);
    for status in [301, 302, 307, 308] {
        let moved = move |_: &str, path: &str, _: usize| (path != "/elsewhere").then_some(status);
        let receiver = OriginalReceiver::start(501, Box::new(moved));
        assert_eq!(lab.upload(&src, &db, &receiver.url(), args!["--stall-timeout", "1"]).code, 1);
        assert!(
            receiver.take().iter().all(|request| request.path.starts_with("/tar/")),
            "{status} was followed"
        );
    }
}

/// Row "older, longer file at the destination": it kept its tail.
#[test]
fn the_destination_file_is_replaced_as_a_whole() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 107);
    tree.noise("longer", 1500)
        .noise("shorter", 1500)
        .file("empty", "")
        .noise("read-only", 700)
        .noise("linked", 900);
    tree.file("was-link", "w")
        .noise("was-empty-dir", 100)
        .symlink("link", "longer")
        .dir("was-file/now/dirs")
        .mode("read-only", 0o400);
    let db = lab.index(&src);
    let mut old = Tree::new(&dst, 108);
    old.noise("longer", 9000)
        .noise("shorter", 3)
        .noise("empty", 800)
        .noise("read-only", 800)
        .mode("read-only", 0o400);
    old.file("outside-name", "must not change")
        .hardlink("linked", "outside-name")
        .symlink("was-link", "outside-name");
    old.dir("was-empty-dir").file("link", "x").file("was-file", "x");
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    let differences = tree_diff(&src, &dst);
    assert_eq!(differences, ["extra: outside-name (file)"]);
    assert_eq!(
        std::fs::read(dst.join("outside-name")).unwrap(),
        b"must not change",
        "written through a link"
    );
}

/// Row "`../` or absolute path in an uploaded index": written outside of the base folder.
#[test]
fn an_index_that_leads_outside_is_refused() {
    let lab = Lab::new();
    let dst = lab.dir("a/b/dst");
    let proxy = lab.proxy_with(&dst, args!["--legacy"]);
    let absolute = lab.path("absolute");
    let absolute = absolute.to_str().unwrap().as_bytes();
    for path in [
        &b"../outside"[..],
        b"../../outside",
        absolute,
        b"x/../../outside",
        b"x/..",
        b"..",
        b".",
        b"/",
        b"",
        b"./x",
        b"x//y",
        b"x/",
        b".tar-like/journal.sqlite",
        b".tar-like",
        b"nul\0byte",
    ] {
        let db = lab.path("hostile.sqlite");
        let _ = std::fs::remove_file(&db);
        index::write_original(&db, &rows_of(&[(b"good", b"good"), (path, b"hostile")]));
        let answer = proxy.request("PUT", "/tar/0/db", &[], &index::frame_of(&db));
        assert_eq!(answer.status, 422, "{:?}: {}", path.escape_ascii().to_string(), answer.text());
        let block = proxy.request("PUT", "/tar/0/100/0", &[], &index::frame(b"goodhostile"));
        assert_eq!(block.status, 404, "there is no index");
    }
    assert!(
        !lab.path("absolute").exists()
            && !lab.path("a/b/outside").exists()
            && !lab.path("a/outside").exists()
    );
    assert!(!dst.join("good").exists());
}

/// Row "uploaded SQLite used live": views, triggers and junk were trusted.
#[test]
fn an_index_with_more_than_plain_tables_is_refused() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    let proxy = lab.proxy_with(&dst, args!["--legacy"]);
    let row = "INSERT INTO real VALUES (0, 'a', 1, 0, 0, '0cc175b9c0f1b6a831c399e269772661');";
    let table = "(id INT64, path TEXT, size INT64, offset INT64, offset_end INT64, hash TEXT);";
    for (what, sql) in [
        ("a view", format!("CREATE TABLE real {table} {row} CREATE VIEW tar AS SELECT * FROM real;")),
        (
            "a trigger",
            format!("{ORIGINAL_SCHEMA} CREATE TRIGGER t AFTER INSERT ON tar BEGIN DELETE FROM tar; END;"),
        ),
        ("another table", format!("{ORIGINAL_SCHEMA} CREATE TABLE real {table} {row}")),
        ("no table", "CREATE TABLE x (y);".to_string()),
        ("no columns", "CREATE TABLE tar (x);".to_string()),
    ] {
        let db = lab.path("hostile.sqlite");
        let _ = std::fs::remove_file(&db);
        rusqlite::Connection::open(&db).unwrap().execute_batch(&sql).unwrap();
        let answer = proxy.request("PUT", "/tar/0/db", &[], &index::frame_of(&db));
        assert_eq!(answer.status, 422, "{what}: {}", answer.text());
    }
    assert_eq!(proxy.request("GET", "/tar/0/status", &[], b"").status, 404);
    // The receiver keeps nothing of what it refused.
    let kept: Vec<PathBuf> = walkdir::WalkDir::new(dst.join(".tar-like/incoming"))
        .min_depth(1)
        .into_iter()
        .map(|e| e.unwrap().into_path())
        .collect();
    assert!(kept.is_empty(), "{kept:?}");
}
