//! Two receivers with one base folder: one receives, the other one waits and takes over.

use crate::support::index::{self, blake3_hex, frame};
use crate::support::stress::Mount;
use crate::support::{Cmd, Lab, Proxy, Tree, assert_same_tree, need_tool, wait_until};
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const TAKES_OVER: Duration = Duration::from_secs(20);

fn command(lab: &Lab, base: &Path) -> Cmd {
    lab.cmd(args!["proxy", "0", "-b", base, "--standby"])
}

fn ready(proxy: &Proxy) -> bool {
    proxy.request("GET", "/readyz", &[], b"").status == 200
}

/// A receiver, and another one that waits for it.
fn pair(lab: &Lab, base: &Path) -> (Proxy, Proxy) {
    let active = command(lab, base).serve();
    wait_until("the first one is ready", TAKES_OVER, || ready(&active));
    let standby = command(lab, base).serve();
    wait_until("the second one has found the first", TAKES_OVER, || standby.stderr().contains("standing by"));
    (active, standby)
}

#[test]
fn a_standby_says_so_and_takes_nothing() {
    let lab = Lab::new();
    let (dst, src) = (lab.dir("dst"), lab.path("src"));
    Tree::new(&src, 1).noise("a", 3000);
    let db = lab.index(&src);
    let (active, standby) = pair(&lab, &dst);
    assert_eq!(standby.request("GET", "/healthz", &[], b"").status, 200);
    let state = standby.request("GET", "/readyz", &[], b"");
    assert_eq!((state.status, state.text().trim()), (503, "standby"));
    let digest = index::digest(&db);
    for (method, path) in [
        ("PUT", "/tar/0/db"),
        ("PUT", "/tar/0/1000/0"),
        ("GET", "/tar/0/status"),
        ("POST", "/tar/0/finish"),
        ("GET", "/metrics"),
        ("GET", "/"),
    ] {
        let body = if method == "PUT" { index::frame_of(&db) } else { vec![] };
        let answer = standby.request(method, path, &[("x-tar-like-index", &digest)], &body);
        assert_eq!(answer.status, 503, "{method} {path}: {}", answer.text());
        assert_eq!(
            (answer.header("retry-after"), answer.header("x-tar-like"), answer.header("connection")),
            (Some("1"), Some("1"), Some("close")),
        );
        assert!(answer.json()["error"].as_str().unwrap().contains("standby"));
    }
    assert_eq!(active.request("GET", "/tar/0/status", &[], b"").status, 404, "no block was accepted");
    // The first stops at once, and no sender notices.
    standby.term_and_wait().code(0);
    lab.upload(&src, &db, &active.url, vec![]).code(0);
    assert_same_tree(&src, &dst);
    active.term_and_wait().code(0);
}

#[test]
fn without_the_flag_the_refusal_names_it() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    let _active = lab.proxy(&dst);
    let src = lab.path("src");
    Tree::new(&src, 2).noise("a", 3000);
    let sync = lab.cmd(args!["sync", src, dst, "-db", lab.path("index.sqlite")]).spawn();
    let refused = lab.run(args!["proxy", "0", "-b", dst]).code(1);
    let waiting = "waiting up to 5 seconds";
    for word in ["dst/.tar-like", "another tar-like receiver", "--standby", waiting] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
    }
    // sync has no such flag: it can send to the other one.
    let refused = sync.wait().code(1);
    assert!(refused.stderr.contains("in place of the folder"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("--standby"), "{}", refused.stderr);
    // The same where sync starts a receiver on a folder: it says at once that it waits, and goes on
    // when the other one ends.
    let (busy, other) = (lab.dir("busy"), lab.path("other.sqlite"));
    let active = lab.proxy(&busy);
    let sync = lab.cmd(args!["sync", src, busy, "-db", other]).spawn();
    wait_until("it says that it waits", Duration::from_secs(4), || sync.stderr_so_far().contains(waiting));
    active.term_and_wait().code(0);
    sync.wait().code(0);
    assert_same_tree(&src, &busy);
    // Something other than a receiver is an error with the flag, too.
    let occupied = lab.dir("occupied");
    std::fs::write(occupied.join(".tar-like"), "not ours").unwrap();
    lab.run(args!["proxy", "0", "-b", occupied, "--standby"]).code(1);
}

/// Each time the next receiver goes on with the blocks that the previous one acknowledged.
#[test]
fn it_takes_over_after_a_stop_and_after_a_kill() {
    let lab = Lab::new();
    let (dst, src) = (lab.dir("dst"), lab.path("src"));
    Tree::new(&src, 2).noise("a", 1500).noise("b", 200).noise("c", 1800).file("empty", "");
    let db = lab.index(&src);
    let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
    let put = |proxy: &Proxy, number: usize| {
        let content = index::block(&archive, 1000, number);
        let headers = [("x-tar-like-index", &*digest), ("x-tar-like-digest", &*blake3_hex(content))];
        let answer = proxy.request("PUT", &format!("/tar/0/1000/{number}"), &headers, &frame(content));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let (mut first, second) = pair(&lab, &dst);
    let indexed = first.request("PUT", "/tar/0/db", &[("x-tar-like-index", &digest)], &index::frame_of(&db));
    assert_eq!(indexed.status, 200);
    put(&first, 0);
    first.kill9();
    wait_until("the second one has taken over", TAKES_OVER, || ready(&second));
    assert_eq!(second.status(0)["done_bytes"], 1000);
    put(&second, 1);
    let third = command(&lab, &dst).serve();
    wait_until("the third one waits", TAKES_OVER, || third.stderr().contains("standing by"));
    second.term_and_wait().code(0);
    wait_until("the third one has taken over", TAKES_OVER, || ready(&third));
    assert_eq!(third.status(0)["done_bytes"], 2000);
    lab.upload(&src, &db, &third.url, args!["-s", "1000"]).code(0);
    assert_same_tree(&src, &dst);
    lab.check(&dst, &db, args!["--extra"]).code(0);
}

/// Several waiting receivers do not keep the folder from each other.
#[test]
fn of_many_one_takes_over() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    let mut active = command(&lab, &dst).serve();
    wait_until("the first one is ready", TAKES_OVER, || ready(&active));
    let waiting: Vec<Proxy> = (0..4).map(|_| command(&lab, &dst).serve()).collect();
    active.kill9();
    wait_until("one has taken over", TAKES_OVER, || waiting.iter().any(ready));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(waiting.iter().filter(|proxy| ready(proxy)).count(), 1);
}

/// The standby takes over the receiver's own index.
#[test]
fn with_an_index_of_its_own() {
    let lab = Lab::new();
    let (dst, src) = (lab.dir("dst"), lab.path("src"));
    Tree::new(&src, 3).noise("a", 1500);
    let db = lab.index(&src);
    let mut active = command(&lab, &dst).serve();
    wait_until("the first one is ready", TAKES_OVER, || ready(&active));
    let standby = command(&lab, &dst).args(args!["-db", db]).serve();
    active.kill9();
    wait_until("it has taken over", TAKES_OVER, || ready(&standby));
    assert_eq!(standby.status(0)["digest"], index::digest(&db));
}

/// A receiver whose storage failed serves no requests: it ends, and the standby takes over.
#[test]
fn one_whose_storage_failed_makes_room() {
    let lab = Lab::new();
    let (dst, src) = (lab.dir("dst"), lab.path("src"));
    Tree::new(&src, 4).noise("a", 300_000).noise("b", 300_000);
    let db = lab.index(&src);
    // The third sync of any thread: the index is in, blocks are on their way.
    let broken = command(&lab, &dst).inject(&["syncfs:error=EIO:when=1+"], &[]).serve();
    wait_until("the first one is ready", TAKES_OVER, || ready(&broken));
    let standby = command(&lab, &dst).serve();
    wait_until("the second one waits", TAKES_OVER, || standby.stderr().contains("standing by"));
    let put = broken.request(
        "PUT",
        "/tar/0/db",
        &[("x-tar-like-index", &index::digest(&db))],
        &index::frame_of(&db),
    );
    assert_eq!(put.status, 503, "{}", put.text());
    let ended = broken.wait().code(4);
    assert!(ended.stderr.contains("storage failed"), "{}", ended.stderr);
    wait_until("the second one has taken over", TAKES_OVER, || ready(&standby));
    lab.upload(&src, &db, &standby.url, args!["-s", "100000"]).code(0);
    assert_same_tree(&src, &dst);
    // The remaining receiver goes on while nothing is wrong.
    standby.signal(Signal::TERM);
    standby.wait().code(0);
}

/// Storage is gone without a failed sync: its receiver ends, and the sender hears of it.
#[test]
fn missing_storage_is_noticed() {
    need_tool("mount", "apt-get install mount");
    for (way, standby) in [("rm", true), ("rm", false), ("lazy", true), ("lazy", false)] {
        let lab = Lab::new();
        let src = lab.path("src");
        Tree::new(&src, 5).noise("a", 300_000).noise("b", 300_000);
        let db = lab.index(&src);
        let Some(disk) = Mount::tmpfs(&lab.path("disk"), "size=32m") else { return };
        let dst = disk.path.join("dst");
        std::fs::create_dir(&dst).unwrap();
        let flags = if standby { args!["--standby"] } else { args![] };
        let mut proxy = lab.cmd([args!["proxy", "0", "-b", dst], flags].concat()).serve();
        wait_until("it is ready", TAKES_OVER, || ready(&proxy));
        lab.upload(&src, &db, &proxy.url, args!["-s", "100000", "-l", "1"]).code(0);
        match way {
            "rm" => std::fs::remove_dir_all(dst.join(".tar-like")).unwrap(),
            _ => assert!(Command::new("umount").arg("-l").arg(&disk.path).status().unwrap().success()),
        }
        if standby {
            wait_until("it has ended", TAKES_OVER, || proxy.has_ended());
            let ended = proxy.wait().code(4);
            assert!(ended.stderr.contains("storage failed"), "{way}: {}", ended.stderr);
        } else {
            let output = lab.upload(&src, &db, &proxy.url, args!["-s", "100000", "--stall-timeout", "4"]);
            assert_eq!(output.code, 4, "{way}: {output:?}\n{}", proxy.stderr());
            assert!(!ready(&proxy) && output.stderr.contains("storage"), "{way}: {}", output.stderr);
            drop(proxy);
        }
    }
}
