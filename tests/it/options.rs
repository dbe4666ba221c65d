//! Flags of a transfer that change how it runs, not its result.

use crate::support::relay::{Fate, Message, Relay};
use crate::support::{Lab, Tree, assert_same_tree};
use serde_json::Value;
use std::time::Instant;

/// The summary of an upload of noise and text, 200,000 bytes each, in blocks of 50,000.
fn upload(flags: &[&str]) -> Value {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 120).noise("a-noise", 200_000).text("b-text", 200_000);
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    let summary = lab
        .upload(
            &src,
            &db,
            &proxy.url,
            [args!["-s", "50000", "--json"], flags.iter().map(Into::into).collect()].concat(),
        )
        .code(0)
        .summary();
    assert_eq!((&summary["sent_blocks"], &summary["sent_bytes"]), (&8.into(), &400_000.into()), "{summary}");
    assert_eq!(summary["wire_bytes"].as_f64(), Some(proxy.metric("tarlike_wire_bytes_total")));
    assert_same_tree(&src, &dst);
    summary
}

#[test]
fn incompressible_content_is_stored() {
    let wire = |summary: &Value| summary["wire_bytes"].as_u64().unwrap();
    let stored = |summary: &Value| summary["stored_blocks"].as_u64().unwrap();
    // With a limit, the receiver on this host counts as behind a link.
    let auto = upload(&["--compress", "auto", "--bwlimit", "100M"]);
    let (lz4, none) = (upload(&["--compress", "lz4"]), upload(&["--compress", "none"]));
    assert_eq!((stored(&auto), stored(&lz4), stored(&none)), (4, 0, 8));
    // Without a limit, compression gains nothing.
    assert_eq!(stored(&upload(&["--compress", "auto"])), 8);
    assert!((400_000..401_000).contains(&wire(&none)), "{none}");
    assert!((200_000..330_000).contains(&wire(&auto)), "{auto}");
    assert!(wire(&lz4) < 330_000, "{lz4}");
}

/// A slow link gets compressed blocks.
#[test]
fn zstandard_makes_less_of_text_than_lz4() {
    let figures = |summary: &Value| {
        ["zstd_blocks", "stored_blocks", "wire_bytes"].map(|name| summary[name].as_u64().unwrap())
    };
    let [zstd, stored, wire] = figures(&upload(&["--compress", "zstd"]));
    let [none, _, lz4_wire] = figures(&upload(&["--compress", "lz4"]));
    assert_eq!((zstd, stored, none), (4, 4, 0), "incompressible content is stored");
    assert!(wire < lz4_wire, "{wire} {lz4_wire}");
    // Behind a slow link the sender does so anyway.
    assert_eq!(figures(&upload(&["--compress", "auto", "--bwlimit", "10M"]))[..2], [4, 4]);
}

/// A gateway does not let Zstandard through, or the receiver does not announce it.
#[test]
fn a_receiver_without_zstandard_gets_lz4() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 126).text("a", 200_000).text("b", 200_000).noise("c", 50_000);
    let db = lab.index(&src);
    let in_head = |request: &Message, from: &str, to: &str| {
        let head = String::from_utf8(request.head.clone()).unwrap();
        assert!(head.contains(from), "{head}");
        Fate::Changed(Message { head: head.replace(from, to).into_bytes(), body: request.body.clone() })
    };
    let is_zstd =
        |request: &Message| String::from_utf8_lossy(&request.head).contains("content-encoding: zstd");
    let decide = move |what: &str, request: &Message| match what {
        "refused" if is_zstd(request) => in_head(request, "encoding: zstd", "encoding: nope"),
        "the header is lost" if is_zstd(request) => in_head(request, "content-encoding: zstd\r\n", ""),
        "never announced" => Fate::ReplaceInAnswer("accept-encoding: zstd", "accept-encoding: br"),
        _ => Fate::Pass,
    };
    for what in ["refused", "the header is lost", "never announced"] {
        for streamed in [false, true] {
            let dst = lab.dir(&format!("{what} {streamed}"));
            let proxy = lab.proxy(&dst);
            let relay = Relay::start(proxy.addr, move |_, request| decide(what, request));
            let flags = args!["--compress", "zstd", "-s", "50000", "-p", "2", "--json"];
            let output = match streamed {
                false => lab.upload(&src, &db, &relay.url, flags),
                // The index is made meanwhile.
                true => lab.sync(&src, &relay.url, [flags, args!["--clean"]].concat()),
            };
            let summary = output.code(0).summary();
            assert_eq!(
                (&summary["zstd_blocks"], &summary["complete"]),
                (&0.into(), &true.into()),
                "{what} {streamed}: {summary}"
            );
            assert_same_tree(&src, &dst);
        }
    }
}

#[test]
fn zstandard_while_the_index_is_made() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 127).rich(300_000).text("zz-long", 500_000);
    let proxy = lab.proxy(&dst);
    let synced =
        lab.sync(&src, &proxy.url, args!["--compress", "zstd", "-s", "50000", "--json"]).code(0).summary();
    assert!(synced["zstd_blocks"].as_u64().unwrap() >= 10, "{synced}");
    assert_same_tree(&src, &dst);
}

#[test]
fn bandwidth_is_limited() {
    let start = Instant::now();
    let summary = upload(&["--bwlimit", "200K", "--compress", "none"]);
    let least = (summary["wire_bytes"].as_f64().unwrap() - 16_384.0) / 204_800.0;
    let took = start.elapsed().as_secs_f64();
    assert!(took >= least * 0.9, "took {took} s, at least {least} s at this rate");
    assert!(took < least + 20.0, "took {took} s for {least} s");
}

#[test]
fn ignore_done_sends_everything_again() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 121).rich(30_000);
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    let progress = lab.path("progress.sqlite");
    let upload = |more: Vec<std::ffi::OsString>| {
        lab.upload(&src, &db, &proxy.url, [args!["-s", "5000", "-dbp", progress], more].concat()).code(0);
        proxy.blocks_accepted()
    };
    let blocks = upload(vec![]);
    assert_eq!(upload(vec![]), blocks);
    assert_eq!(upload(args!["--ignore-done"]), 2 * blocks);
    assert_same_tree(&src, &dst);
    // The progress database is a cache: nothing depends on it.
    std::fs::remove_file(&progress).unwrap();
    assert_eq!(upload(vec![]), 2 * blocks);
    std::fs::write(&progress, "junk").unwrap();
    let junk = lab.upload(&src, &db, &proxy.url, args!["-dbp", progress]);
    assert!(junk.code == 0 || (junk.code == 1 && junk.stderr.contains("progress.sqlite")), "{junk:?}");
}

/// The sender does not believe progress of another receiver, or of one that lost its state.
#[test]
fn progress_of_another_receiver_is_not_believed() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 122).rich(30_000);
    let db = lab.index(&src);
    let progress = lab.path("progress.sqlite");
    for name in ["one", "two"] {
        let dst = lab.dir(name);
        let proxy = lab.proxy(&dst);
        lab.upload(&src, &db, &proxy.url, args!["-s", "5000", "-dbp", progress]).code(0);
        assert_same_tree(&src, &dst);
    }
    let mut proxy = lab.proxy(&lab.path("two"));
    proxy.kill9();
    std::fs::remove_dir_all(lab.path("two")).unwrap();
    proxy.restart();
    lab.upload(&src, &db, &proxy.url, args!["-s", "5000", "-dbp", progress]).code(0);
    assert_same_tree(&src, &lab.path("two"));
}

#[test]
fn the_index_must_be_there_and_be_one() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 123).file("a", "1");
    let proxy = lab.proxy(&lab.dir("dst"));
    let missing = lab.upload(&src, &lab.path("nowhere.sqlite"), &proxy.url, vec![]).code(1);
    assert!(
        missing.stderr.contains("nowhere.sqlite") && missing.stderr.contains("index"),
        "{}",
        missing.stderr
    );
    let junk = lab.file("junk.sqlite", "junk");
    lab.upload(&src, &junk, &proxy.url, vec![]).code(1);
    let other = lab.path("other.sqlite");
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
    lab.upload(&src, &other, &proxy.url, vec![]).code(1).says("tar");
    assert_eq!(proxy.request("GET", "/tar/0/status", &[], b"").status, 404, "nothing was put");
}

/// Rows that another program has written are believed; the records about the previous rows are not.
#[test]
fn an_edited_index_is_that_of_another_program() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 124).file("a", "1").file("b", "2");
    let db = lab.index(&src);
    rusqlite::Connection::open(&db)
        .unwrap()
        .execute_batch("UPDATE tar SET path = 'c' WHERE path = 'a'")
        .unwrap();
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    let output = lab.upload(&src, &db, &proxy.url, vec![]).code(3);
    assert!(output.stderr.contains("was replaced by the original program"), "{}", output.stderr);
    assert!(output.stderr.contains("failed: c:"), "{}", output.stderr);
    assert_eq!(std::fs::read(dst.join("b")).unwrap(), b"2");
    assert!(!dst.join("a").exists() && !dst.join("c").exists());
}

/// A receiver that takes one block at a time makes the others wait, and loses none.
#[test]
fn more_senders_than_the_receiver_takes_at_once() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 125).rich(50_000);
    let db = lab.index(&src);
    let proxy = lab.proxy_with(&dst, args!["--max-inflight", "1"]);
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000", "-p", "16"]).code(0);
    assert_same_tree(&src, &dst);
}
