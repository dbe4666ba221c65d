//! Two receivers with one base folder behind haproxy: killed and reloaded; the copy is complete in
//! the end.

use super::{Haproxy, certificates};
use crate::support::{Lab, Proxy, Rng, Tree, assert_same_files, assert_same_tree, need_tool, wait_until};
use rustix::process::Signal;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn standby(lab: &Lab, base: &Path) -> Proxy {
    lab.cmd(args!["proxy", "0", "-b", base, "--standby"]).serve()
}

fn is_ready(proxy: &Proxy) -> bool {
    proxy.request("GET", "/readyz", &[], b"").status == 200
}

fn pair(lab: &Lab, base: &Path) -> (Proxy, Proxy) {
    let first = standby(lab, base);
    wait_until("the first one is ready", PATIENCE, || is_ready(&first));
    (first, standby(lab, base))
}

/// How many small files the large test sends: `TARLIKE_TEST_FILES`; the full size, 90,000, takes a
/// minute or two.
fn files() -> usize {
    std::env::var("TARLIKE_TEST_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(12_000)
}

/// Small files as in a home folder: many of a few hundred bytes, some of many thousand.
fn many_small_files(root: &Path, count: usize) {
    let mut rng = Rng::new(90);
    let noise = rng.noise(1 << 20);
    for number in 0..count {
        if number % 300 == 0 {
            std::fs::create_dir_all(root.join(format!("{:02}/{:03}", number / 9000, number / 300))).unwrap();
        }
        let length = if rng.below(20) == 0 { rng.below(40_000) } else { rng.below(1500) } as usize;
        let from = rng.below((noise.len() - length) as u64) as usize;
        let path = root.join(format!("{:02}/{:03}/file-{number:05}", number / 9000, number / 300));
        std::fs::write(path, &noise[from..from + length]).unwrap();
    }
}

#[test]
fn many_files_with_a_receiver_killed_and_haproxy_reloaded() {
    need_tool("diff", "apt-get install diffutils");
    let begun = Instant::now();
    // A page for each small file, three times over.
    let lab = Lab::in_memory((files() as u64) << 14);
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    many_small_files(&src, files());
    let db = lab.index(&src);
    let (mut first, second) = pair(&lab, &dst);
    let haproxy = Haproxy::start(&lab, &[first.addr, second.addr]).ready();
    let more = args!["--ca-file", certificates(&lab).join("ca.pem"), "-s", "500000", "--bwlimit", "8M"];
    let upload = lab.upload_cmd(&src, &db, &haproxy.url(), more).spawn();
    wait_until("some blocks are there", PATIENCE, || first.blocks_accepted() > 3);
    let before = first.status(0)["done_bytes"].as_u64().unwrap();
    haproxy.reload();
    wait_until("the upload goes on through the new worker", PATIENCE, || {
        first.status(0)["done_bytes"].as_u64().unwrap() > before
    });
    first.kill9();
    wait_until("the second one has taken over", PATIENCE, || is_ready(&second));
    assert!(second.status(0)["done_bytes"].as_u64().unwrap() > before, "every acknowledged block is there");
    wait_until("blocks reach the second one", PATIENCE, || second.blocks_accepted() > 0);
    haproxy.reload();
    upload.wait().code(0);
    println!("{} files were there after {:?}", files(), begun.elapsed());
    // Byte for byte by another program, and by our own.
    let mut diff = std::process::Command::new("diff")
        .args(["-rq", "--no-dereference", "--exclude=.tar-like"])
        .args([&src, &dst])
        .spawn()
        .unwrap();
    lab.check(&dst, &db, args!["--extra"]).code(0);
    assert!(diff.wait().unwrap().success());
    assert!(haproxy.log().iter().any(|line| line["server"] == "proxy2" && line["status"] == 200));
}

/// Blocks of one file arrive at different receivers, one after the other: the file is published
/// once, and complete.
#[test]
fn ranges_of_two_senders_through_two_receivers() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    // Block 4, the last of the first sender and the first of the second, is in the middle of
    // "large".
    Tree::new(&src, 60).noise("a", 30_000).noise("large", 900_000).noise("z", 70_000).file("empty", "");
    let db = lab.index(&src);
    let ca = certificates(&lab).join("ca.pem");
    let (first, second) = pair(&lab, &dst);
    // The waiting receiver comes first: haproxy has to notice that it waits.
    let haproxy = Haproxy::start(&lab, &[second.addr, first.addr]).ready();
    let part = |from: &str, to: &str| {
        lab.upload(&src, &db, &haproxy.url(), args!["--ca-file", ca, "-s", "100000", "-f", from, "-l", to])
    };
    part("0", "4").code(0);
    assert!(dst.join("a").exists() && !dst.join("large").exists());
    assert_eq!(first.blocks_accepted(), 5);
    let published = first.metric("tarlike_files_published_total");
    first.term_and_wait().code(0);
    wait_until("the second one has taken over", PATIENCE, || is_ready(&second));
    part("4", "9").code(0);
    assert_eq!(second.blocks_accepted(), 5, "block 4 was there already");
    assert_same_tree(&src, &dst);
    lab.check(&dst, &db, args!["--extra"]).code(0);
    // Three of its files arrived in blocks; the empty one needs none.
    let both = published + second.metric("tarlike_files_published_total");
    assert!((3.0..=4.0).contains(&both), "{published} and then {both}");
    second.term_and_wait().code(0);
}

/// During a reload the previous worker finishes its requests: no block fails.
#[test]
fn a_reload_in_the_middle_costs_no_block() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 61).noise("a", 6_000_000).noise("b", 6_000_000);
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    let more =
        args!["--ca-file", certificates(&lab).join("ca.pem"), "-s", "200000", "-p", "3", "--bwlimit", "3M"];
    let upload = lab.upload_cmd(&src, &db, &haproxy.url(), more).args(args!["--json"]).spawn();
    for blocks in [2, 8, 14] {
        wait_until("blocks are under way", PATIENCE, || proxy.blocks_accepted() >= blocks);
        haproxy.reload();
    }
    let output = upload.wait().code(0);
    assert_eq!(output.summary()["failed"].as_u64().unwrap_or(0), 0, "{:?}", output.summary());
    assert_same_files(&src, &dst);
    wait_until("the previous workers are gone", PATIENCE, || haproxy.workers().len() == 1);
    // Every block that haproxy let through was answered 200, none was cut.
    let blocks: Vec<_> = haproxy.log().into_iter().filter(|line| line["method"] == "PUT").collect();
    assert_eq!(blocks.len(), 61, "an index and 60 blocks");
    assert!(blocks.iter().all(|line| line["status"] == 200), "{blocks:?}");
    haproxy.signal(Signal::TERM);
}
