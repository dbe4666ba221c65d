//! `sync --adopt`: takes over a copy that another program made.

use crate::support::{Lab, Output, Proxy, Tree, assert_same_tree, http, index, need_tool, wait_until};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The most bytes that one edit of a large file may cost.
const EDIT: u64 = 768 << 10;

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-aT").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// A source, and a copy of it as rsync might have made it.
fn lab_with_copy(seed: u64) -> (Lab, Tree) {
    let lab = Lab::new();
    let mut tree = Tree::new(&lab.path("src"), seed);
    tree.rich(200_000).noise("big", 9_000_000).noise("log", 3_000_000).noise("d/small", 3000);
    copy_tree(&lab.path("src"), &lab.path("dst"));
    (lab, tree)
}

/// The entries that a run names as deleted.
fn removed(output: &Output) -> Vec<String> {
    let lines = output.json().into_iter().filter(|line| line["what"] == "removed");
    lines.map(|line| line["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn only_what_differs_is_sent() {
    for remote in [true, false] {
        let (lab, mut tree) = lab_with_copy(1);
        let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("index.sqlite"));
        let inode = dst.join("d/small").metadata().unwrap().ino();
        // A change at the front, a move, a new file, and a change of metadata.
        let mut content = std::fs::read(tree.path("big")).unwrap();
        content.splice(1000..1000, *b"inserted");
        tree.file("big", content);
        std::fs::rename(tree.path("log"), tree.path("moved")).unwrap();
        tree.noise("new", 70_000).mode("d/small", 0o600);
        std::fs::write(dst.join("stranger"), "nobody's").unwrap();
        let proxy = remote.then(|| lab.proxy(&dst));
        let to = proxy.as_ref().map_or(dst.clone(), |proxy| (&proxy.url).into());
        let flags = args!["-db", db, "-dbp", lab.path("dbp"), "--json", "--adopt"];
        let more = args!["--dry-run", "--delete", "-i"];
        let dry = lab.sync(&src, &to, [flags.clone(), more].concat()).code(0);
        let mut going = removed(&dry);
        let dry = dry.summary();
        let similar = &dry["similarity"];
        assert_eq!((&similar["known_files"], &similar["similar_files"]), (&1.into(), &1.into()), "{dry}");
        assert!(similar["percent"].as_f64().unwrap() > 90.0, "{dry}");
        assert!(!db.exists());
        let summary = lab.sync(&src, &to, flags).code(0).summary();
        assert!((70_000..70_000 + EDIT).contains(&summary["sent_bytes"].as_u64().unwrap()), "{summary}");
        assert_eq!(dst.join("d/small").metadata().unwrap().ino(), inode, "the file is the same one");
        lab.check(&dst, &db, vec![]).code(0);
        // The adopted files are the previous generation: only `--delete` deletes them.
        assert!(dst.join("log").exists() && dst.join("stranger").exists());
        let output = lab.sync(&src, &to, args!["-db", db, "--json", "--adopt", "--delete", "-i"]).code(0);
        let summary = output.summary();
        assert_eq!((&summary["sent_bytes"], &summary["deleted"]), (&0.into(), &dry["deleted"]));
        going.sort();
        assert_eq!(going, ["log", "stranger"]);
        assert_eq!(removed(&output), going);
        assert_same_tree(&src, &dst);
    }
}

/// The receiver has the index and none of its content: the sender still sends nothing that lies
/// there.
#[test]
fn an_index_that_is_there_already_does_not_hinder() {
    let (lab, mut tree) = lab_with_copy(7);
    let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("src.sqlite"));
    tree.noise("new", 70_000);
    lab.index(&src);
    let proxy = lab.proxy(&dst);
    let named = [("x-tar-like-index", &*index::digest(&db))];
    assert_eq!(proxy.request("PUT", "/tar/0/db", &named, &index::frame_of(&db)).status, 200);
    let summary = lab.sync(&src, &proxy.url, args!["-db", db, "--json", "--adopt"]).code(0).summary();
    assert!((70_000..70_000 + EDIT).contains(&summary["sent_bytes"].as_u64().unwrap()), "{summary}");
    assert_same_tree(&src, &dst);
    // Once more, there is nothing to do.
    let summary = lab.sync(&src, &proxy.url, args!["-db", db, "--json", "--adopt"]).code(0).summary();
    assert_eq!(summary["sent_bytes"], 0, "{summary}");
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

/// Repeats the request until the receiver has read its files.
fn adopt(proxy: &Proxy, request: &str) {
    wait_until("the receiver has read what is there", Duration::from_secs(60), || {
        let answer = proxy.request("POST", "/tar/0/adopt", &[], request.as_bytes());
        assert!([200, 202].contains(&answer.status), "{}", answer.text());
        answer.status == 200
    });
}

/// Files change after the receiver read them, with and without a new time: verification decides.
#[test]
fn a_file_changed_after_it_was_read_is_sent() {
    let (lab, mut tree) = lab_with_copy(5);
    tree.file("touched", "0123456789").file("same", "abcdefgh");
    copy_tree(&lab.path("src"), &lab.path("dst"));
    let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("index.sqlite"));
    std::fs::rename(tree.path("log"), tree.path("log-moved")).unwrap();
    std::fs::rename(tree.path("big"), tree.path("big-moved")).unwrap();
    tree.mtime("touched", 1_700_000_000_000_000_000);
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let proxy = lab.proxy(&dst);
    adopt(&proxy, r#"{"name":7}"#);
    std::fs::write(dst.join("touched"), "9876543210").unwrap();
    std::fs::write(dst.join("same"), "hgfedcba").unwrap();
    std::fs::File::options().append(true).open(dst.join("big")).unwrap().write_all(b"more").unwrap();
    let log = dst.join("log");
    let time = log.metadata().unwrap().modified().unwrap();
    let mut content = std::fs::read(&log).unwrap();
    content[1_000_000] ^= 1;
    std::fs::write(&log, content).unwrap();
    std::fs::File::options().write(true).open(&log).unwrap().set_modified(time).unwrap();
    let (digest, body) = (index::digest(&db), index::frame_of(&db));
    let put = |name| {
        proxy.request(
            "PUT",
            "/tar/0/db",
            &[("x-tar-like-index", &*digest), ("x-tar-like-adopt", name)],
            &body,
        )
    };
    let answer = put("8");
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert_eq!(put("7").status, 200);
    lab.sync(&src, &proxy.url, args!["-db", db, "--delete"]).code(0);
    // The file has grown since, so it may be another user's.
    std::fs::remove_file(dst.join("big")).unwrap();
    assert_same_tree(&src, &dst);
}

#[test]
fn malformed_requests_for_an_adoption_are_refused() {
    let lab = Lab::new();
    let mut tree = Tree::new(&lab.path("src"), 6);
    tree.file("a", "content");
    let db = lab.index(&lab.path("src"));
    let proxy = lab.proxy(&lab.dir("dst"));
    for (body, status) in [
        ("", 400),
        ("{}", 400),
        (r#"{"name":-1}"#, 400),
        (r#"{"name":1,"only":"../up"}"#, 400),
        (r#"{"name":1,"only":"a/b"}"#, 400),
        (r#"{"name":1,"exclude":["("]}"#, 400),
        (r#"{"name":1,"rules":["*.tmp"]}"#, 400),
        (&format!(r#"{{"name":1,"only":"{}"}}"#, "x".repeat(700_000)), 413),
    ] {
        let answer = proxy.request("POST", "/tar/0/adopt", &[], body.as_bytes());
        assert_eq!(answer.status, status, "{body:.100}: {}", answer.text());
    }
    let (digest, body) = (index::digest(&db), index::frame_of(&db));
    for (headers, status) in [
        (vec![("x-tar-like-compare", "1")], 400),
        (vec![("x-tar-like-index", &*digest), ("x-tar-like-compare", "1")], 404),
        (vec![("x-tar-like-index", &*digest), ("x-tar-like-adopt", "1")], 404),
        (vec![("x-tar-like-index", &*digest), ("x-tar-like-adopt", "one")], 400),
        (vec![("x-tar-like-index", &*digest), ("x-tar-like-adopt", "1"), ("x-tar-like-adopt", "1")], 400),
    ] {
        let answer = proxy.request("PUT", "/tar/0/db", &headers, &body);
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.text());
    }
    lab.sync(&lab.path("src"), &proxy.url, args!["-db", db, "--adopt"]).code(0);
    let name = std::ffi::OsStr::from_bytes(b"no-utf-8-\xff");
    tree.file(name, "content");
    let single = tree.path(name);
    lab.sync(&single, &proxy.url, args!["-db", lab.path("single"), "--adopt"])
        .code(2)
        .says("its name is not UTF-8");
}

/// Files that are excluded here do not belong to the copy at the receiver.
#[test]
fn excluded_files_are_not_adopted() {
    let (lab, mut tree) = lab_with_copy(7);
    let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("index.sqlite"));
    std::fs::write(dst.join("keep.tmp"), "of the receiver").unwrap();
    tree.file("not.tmp", "of the sender").remove("log");
    let flags = args!["-db", db, "-x", r"\.tmp$", "--json", "--adopt", "--delete"];
    let summary = lab.sync(&src, &dst, flags).code(0).summary();
    assert_eq!(summary["deleted"], 1, "{summary}");
    assert!(dst.join("keep.tmp").exists() && !dst.join("not.tmp").exists() && !dst.join("log").exists());
}

/// The sender has lost its index: the receiver's records and the files that it finds are the same
/// files.
#[test]
fn a_lost_index_counts_nothing_twice() {
    let (lab, mut tree) = lab_with_copy(8);
    let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("index.sqlite"));
    tree.file("one", "1").file("two", "2");
    let flags = args!["-db", db, "--json", "--adopt", "--delete"];
    lab.sync(&src, &dst, flags.clone()).code(0);
    std::fs::remove_file(&db).unwrap();
    tree.remove("one").remove("two");
    let summary = lab.sync(&src, &dst, [flags, args!["--max-delete", "2"]].concat()).code(0).summary();
    assert_eq!((&summary["deleted"], &summary["sent_bytes"]), (&2.into(), &0.into()), "{summary}");
    assert_same_tree(&src, &dst);
}

/// Killed anywhere, the same command completes it, and costs no more than before.
#[test]
fn an_adoption_that_was_cut_goes_on() {
    need_tool("strace", "apt-get install strace");
    let mut killed = 0;
    for (call, nth) in [
        ("mkdirat", 3),
        ("copy_file_range", 1),
        ("syncfs", 1),
        ("syncfs", 2),
        ("renameat", 1),
        ("rename", 1),
        ("rename", 2),
        ("unlinkat", 4),
    ] {
        let (lab, mut tree) = lab_with_copy(9);
        let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("index.sqlite"));
        let mut content = std::fs::read(tree.path("big")).unwrap();
        content.splice(1000..1000, *b"inserted");
        tree.file("big", content).mode("d/small", 0o600).noise("new", 5000);
        std::fs::rename(tree.path("log"), tree.path("moved")).unwrap();
        let flags = args!["-db", db, "-dbp", lab.path("dbp"), "--json", "--adopt"];
        let cmd = lab.cmd([args!["sync", src, dst], flags.clone()].concat());
        let inject = format!("--inject={call}:signal=KILL:when={nth}");
        let trace = format!("--trace={call}");
        let cut = cmd.wrap(args!["strace", "-f", "-qq", "-o", lab.path("strace"), trace, inject]).run();
        killed += u32::from(cut.code == 137);
        let summary = lab.sync(&src, &dst, flags).code(0).summary();
        assert!(summary["sent_bytes"].as_u64().unwrap() < 5000 + EDIT, "{call} {nth}: {summary}");
        lab.check(&dst, &db, vec![]).code(0);
        lab.sync(&src, &dst, args!["-db", db, "--delete"]).code(0);
        assert_same_tree(&src, &dst);
    }
    assert!(killed >= 6, "only {killed} were killed");
}

/// Two senders send different sources to one folder.
#[test]
fn one_adoption_at_a_time() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    // Reading the file takes a while.
    std::fs::File::create(dst.join("huge")).unwrap().set_len(64 << 30).unwrap();
    let proxy = lab.proxy(&dst);
    std::thread::scope(|scope| {
        // The answer takes 10 s; the receiver ends before that.
        let body = r#"{"name":1}"#;
        let request =
            format!("POST /tar/0/adopt HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let addr = proxy.addr;
        // The other sender may have come first, and may have ended already.
        scope.spawn(move || {
            while http::try_raw(addr, request.as_bytes()).is_some_and(|answer| answer.status == 503) {}
        });
        wait_until("the other one is refused", Duration::from_secs(20), || {
            let answer = proxy.request("POST", "/tar/0/adopt", &[], br#"{"name":2,"only":"none"}"#);
            answer.status == 503 && answer.text().contains("another sender adopts")
        });
        proxy.signal(rustix::process::Signal::KILL);
    });
}

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
fn files_of_another_archive_are_not_adopted() {
    let (lab, _tree) = lab_with_copy(4);
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let proxy = lab.proxy(&dst);
    lab.sync(&src, &proxy.url, args!["-db", lab.path("one"), "--tar-id", "1"]).code(0);
    let refused = lab.sync(&src, &proxy.url, args!["-db", lab.path("two"), "--tar-id", "2", "--adopt"]);
    assert!(refused.code(1).stderr.contains("archive 1 is received into this folder, too"));
}
