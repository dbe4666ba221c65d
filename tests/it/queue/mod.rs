//! Several hosts that share the blocks of an archive by a queue in an engine: each host comes and
//! goes, the engine, too, and the copy is whole.

mod rounds;
mod simulated;
mod suite;
mod workers;

use crate::support::redis::Redis;
use crate::support::tls::Authority;
use crate::support::{Lab, Output, Proxy, Running, Tree, assert_same_tree, wait_until};
use rustix::process::Signal;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const BLOCK: u64 = 4000;

/// A source with its index, a receiver, and an engine.
struct Setting {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    proxy: Proxy,
    redis: Redis,
}

impl Setting {
    fn new(seed: u64, bytes: u64) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        Tree::new(&src, seed).rich(bytes as usize);
        let db = lab.index(&src);
        let (proxy, redis) = (lab.proxy(&dst), Redis::start(&lab));
        Self { lab, src, dst, db, proxy, redis }
    }

    fn bytes(&self) -> u64 {
        crate::support::index::archive(&self.src, &self.db).len() as u64
    }

    fn host_at(&self, base: &Path, lease: u64, more: Vec<OsString>) -> Running {
        let (size, lease) = (BLOCK.to_string(), lease.to_string());
        let flags = args!["-s", size, "-p", "2", "--queue", self.redis.url(), "--queue-lease", lease];
        self.lab.upload_cmd(base, &self.db, &self.proxy.url, [flags, more].concat()).spawn()
    }

    fn host(&self, more: Vec<OsString>) -> Running {
        self.host_with_lease(2, more)
    }

    fn host_with_lease(&self, lease: u64, more: Vec<OsString>) -> Running {
        self.host_at(&self.src, lease, more)
    }

    /// A host that needs some seconds for its part.
    fn slow_host(&self) -> Running {
        self.host(args!["--bwlimit", "60K", "--compress", "none", "--json"])
    }

    fn wait_for_blocks(&self, count: u64) {
        wait_until("some blocks are there", Duration::from_secs(20), || {
            self.proxy.blocks_accepted() >= count
        });
    }

    fn assert_whole(&self) {
        assert_eq!(self.proxy.status(0)["complete"], true);
        assert_same_tree(&self.src, &self.dst);
    }
}

fn sent_bytes(output: &Output) -> u64 {
    output.summary()["sent_bytes"].as_u64().unwrap()
}

#[test]
fn three_hosts_send_each_block_once() {
    let setting = Setting::new(1, 400_000);
    let hosts: Vec<_> = (0..3).map(|_| setting.slow_host()).collect();
    let sent: Vec<u64> = hosts.into_iter().map(|host| sent_bytes(&host.wait().code(0))).collect();
    setting.assert_whole();
    let (all, total) = (sent.iter().sum::<u64>(), setting.bytes());
    // At the end two hosts may be at the same range.
    assert!(all <= total + total / 8, "{sent:?} of {total} bytes were sent");
    assert!(sent.iter().all(|bytes| *bytes > total / 6), "{sent:?} of {total} bytes");
}

/// A job that is much shorter than a lease: hosts help each other, and say often how far they are.
#[test]
fn two_hosts_share_a_job_that_is_shorter_than_a_lease() {
    let setting = Setting::new(16, 300_000);
    let host = || setting.host_with_lease(60, args!["--bwlimit", "60K", "--compress", "none", "--json"]);
    let hosts = [host(), host()];
    let sent: Vec<u64> = hosts.into_iter().map(|host| sent_bytes(&host.wait().code(0))).collect();
    setting.assert_whole();
    let (all, total) = (sent.iter().sum::<u64>(), setting.bytes());
    assert!(all <= total + total / 6, "{sent:?} of {total} bytes were sent");
    assert!(sent.iter().all(|bytes| *bytes > total / 4), "{sent:?} of {total} bytes");
}

/// A worker of a host that finds nothing free waits no longer than until the other workers of the
/// host are done.
#[test]
fn a_host_alone_waits_for_no_other() {
    let lab = Lab::new();
    let (src, redis) = (lab.path("src"), Redis::start(&lab));
    Tree::new(&src, 18).noise("file", 20_000);
    let db = lab.index(&src);
    let upload = |number: u32| {
        let dst = lab.dir(&format!("dst-{number}"));
        let proxy = lab.proxy(&dst);
        let flags = args!["-s", BLOCK.to_string(), "--queue", redis.url()];
        let start = Instant::now();
        lab.upload(&src, &db, &proxy.url, flags).code(0);
        start.elapsed()
    };
    let fastest = (0..4).map(upload).min().unwrap();
    assert!(fastest < Duration::from_millis(450), "{fastest:?}");
}

#[test]
fn a_host_joins_and_a_killed_one_is_taken_over() {
    let setting = Setting::new(2, 300_000);
    let mut first = setting.slow_host();
    setting.wait_for_blocks(5);
    let second = setting.slow_host();
    setting.wait_for_blocks(15);
    first.kill9();
    let start = Instant::now();
    second.wait().code(0);
    println!("taken over after {:?}", start.elapsed());
    setting.assert_whole();
}

#[test]
fn a_host_that_stops_gives_back_what_it_has() {
    let setting = Setting::new(3, 200_000);
    let first = setting.host_with_lease(600, args!["--bwlimit", "20K", "--compress", "none"]);
    setting.wait_for_blocks(1);
    first.signal(Signal::INT);
    first.wait().code(130);
    // It would wait for ten minutes for what the first one had.
    setting.host_with_lease(600, vec![]).wait().code(0);
    setting.assert_whole();
}

#[test]
fn a_host_that_stands_still_is_taken_over_and_goes_on() {
    let setting = Setting::new(4, 200_000);
    let first = setting.slow_host();
    setting.wait_for_blocks(3);
    first.signal(Signal::STOP);
    setting.host(vec![]).wait().code(0);
    setting.assert_whole();
    first.signal(Signal::CONT);
    first.wait().code(0);
    setting.assert_whole();
}

#[test]
fn an_engine_that_forgets_everything() {
    let setting = Setting::new(5, 300_000);
    let hosts = [setting.slow_host(), setting.slow_host()];
    for count in [5, 15, 25] {
        setting.wait_for_blocks(count);
        setting.redis.ask(&["FLUSHALL"]).unwrap();
    }
    for host in hosts {
        host.wait().code(0);
    }
    setting.assert_whole();
}

#[test]
fn an_engine_that_is_restarted_empty() {
    let mut setting = Setting::new(6, 300_000);
    let hosts = [setting.slow_host(), setting.slow_host()];
    setting.wait_for_blocks(10);
    setting.redis.kill();
    std::thread::sleep(Duration::from_millis(500));
    setting.redis.restart();
    for host in hosts {
        host.wait().code(0);
    }
    setting.assert_whole();
}

#[test]
fn an_engine_that_is_gone_for_good() {
    let mut setting = Setting::new(7, 300_000);
    let hosts = [setting.slow_host(), setting.slow_host()];
    setting.wait_for_blocks(10);
    setting.redis.kill();
    let mut sent = 0;
    for host in hosts {
        let output = host.wait().code(0);
        assert!(output.stderr.contains("without the queue"), "{output:?}");
        sent += sent_bytes(&output);
    }
    setting.assert_whole();
    assert!(sent < setting.bytes() * 3 / 2, "{sent} of {} bytes were sent", setting.bytes());
}

#[test]
fn no_engine_from_the_start() {
    let mut setting = Setting::new(8, 100_000);
    setting.redis.kill();
    let hosts = [setting.host(vec![]), setting.host(vec![])];
    for host in hosts {
        host.wait().code(0);
    }
    setting.assert_whole();
}

/// Only the part of a host fails that has other files, and it is told so.
#[test]
fn a_host_with_other_files() {
    let setting = Setting::new(9, 300_000);
    let other = setting.lab.path("other");
    Tree::new(&other, 99).rich(300_000);
    let right = setting.slow_host();
    setting.wait_for_blocks(3);
    let wrong = setting.host_at(&other, 2, vec![]);
    let output = wrong.wait();
    right.wait().code(0);
    setting.assert_whole();
    assert!([0, 3].contains(&output.code), "{output:?}");
    assert!(output.stderr.contains("this host takes no more"), "{output:?}");
}

/// Another host sends other bytes in every round that hosts share, and knows of no round itself. What
/// is right here arrives all the same.
#[test]
fn other_bytes_in_every_round() {
    let lab = Lab::new();
    let (src, other, dst) = (lab.path("src"), lab.path("other"), lab.dir("dst"));
    for base in [&src, &other] {
        Tree::new(base, if base == &src { 31 } else { 32 }).noise("file", 40_000).mtime("file", 1);
    }
    let (db, proxy, redis) = (lab.index(&src), lab.proxy(&dst), Redis::start(&lab));
    let size = args!["-s", BLOCK.to_string()];
    // Each time another block: the receiver has kept the right one of two that differ.
    let disturb = |block: &str| {
        lab.upload(&other, &db, &proxy.url, [size.clone(), args!["-f", block, "-l", block]].concat());
    };
    disturb("9");
    let slow = args!["--queue", redis.url(), "-p", "1", "--bwlimit", "20K", "--compress", "none"];
    let host = lab.upload_cmd(&src, &db, &proxy.url, [size.clone(), slow].concat()).spawn();
    for (round, block) in [("2", "8"), ("3", "7")] {
        wait_until(&format!("round {round} has begun"), Duration::from_secs(20), || {
            let name = redis.words(&["KEYS", "tl:*:job"]);
            name.first().is_some_and(|name| redis.words(&["HGET", name, "round"]) == [round])
        });
        disturb(block);
    }
    host.wait().code(0);
    assert_same_tree(&src, &dst);
}

/// What no host can send ends as it does with one host: named, with exit code 3.
#[test]
fn a_file_that_no_host_can_read() {
    let setting = Setting::new(10, 50_000);
    let big = setting.src.join("changed-later");
    std::fs::write(&big, vec![7u8; 30_000]).unwrap();
    setting.lab.run(args!["index", "-c", "-b", &setting.src, "-db", &setting.db]).code(0);
    std::fs::write(&big, vec![8u8; 30_000]).unwrap();
    let hosts = [setting.host(vec![]), setting.host(vec![])];
    for host in hosts {
        let output = host.wait().code(3);
        assert!(output.stderr.contains("changed-later"), "{output:?}");
    }
}

#[test]
fn a_later_run_and_two_receivers_do_not_meet() {
    let setting = Setting::new(11, 60_000);
    setting.host(vec![]).wait().code(0);
    setting.assert_whole();
    // Another receiver of the same index at the same engine.
    let dst = setting.lab.dir("second");
    let proxy = setting.lab.proxy(&dst);
    let flags = args!["-s", BLOCK.to_string(), "--queue", setting.redis.url()];
    setting.lab.upload(&setting.src, &setting.db, &proxy.url, flags.clone()).code(0);
    assert_same_tree(&setting.src, &dst);
    // The first one loses everything.
    std::fs::remove_dir_all(&setting.dst).unwrap();
    let dst = setting.lab.dir("dst");
    let proxy = setting.lab.proxy(&dst);
    setting.lab.upload(&setting.src, &setting.db, &proxy.url, flags).code(0);
    assert_same_tree(&setting.src, &dst);
}

#[test]
fn passwords_and_users() {
    let lab = Lab::new();
    let redis = Redis::with(&lab, args!["--requirepass", "secret"], Some("secret"));
    let rules = [
        "ACL",
        "SETUSER",
        "mover",
        "on",
        ">word",
        "~tl:*",
        "+@hash",
        "+@sortedset",
        "+@scripting",
        "+@keyspace",
        "+time",
        "+ping",
    ];
    assert_eq!(redis.ask(&rules).as_deref(), Some("+OK"));
    let src = lab.path("src");
    Tree::new(&src, 12).rich(20_000);
    let (db, dst) = (lab.index(&src), lab.dir("dst"));
    let proxy = lab.proxy(&dst);
    let upload = |url: String, password: &str| {
        lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "1000", "--queue", url])
            .env("TARLIKE_QUEUE_PASSWORD", password)
            .run()
    };
    let port = redis.port;
    for (url, password) in [
        (format!("redis://127.0.0.1:{port}"), ""),
        (format!("redis://127.0.0.1:{port}"), "wrong"),
        (format!("redis://mover@127.0.0.1:{port}"), "secret"),
    ] {
        let output = upload(url, password).code(1);
        assert!(output.stderr.contains("TARLIKE_QUEUE_PASSWORD"), "{output:?}");
        assert!(!output.stderr.contains("secret"), "{output:?}");
    }
    upload(format!("redis://mover@127.0.0.1:{port}"), "word").code(0);
    assert_same_tree(&src, &dst);
    let output = upload(format!("redis://x:secret@127.0.0.1:{port}"), "").code(2);
    assert!(!output.stderr.contains("secret"), "{output:?}");
}

#[test]
fn a_limit_for_all_hosts_together() {
    let setting = Setting::new(13, 200_000);
    let start = Instant::now();
    let flags = || args!["--bwlimit-total", "100K", "--compress", "none", "--json"];
    let hosts = [setting.host(flags()), setting.host(flags())];
    let sent: Vec<u64> = hosts.into_iter().map(|host| sent_bytes(&host.wait().code(0))).collect();
    setting.assert_whole();
    let (seconds, all) = (start.elapsed().as_secs_f64(), sent.iter().sum::<u64>() as f64);
    // The first quarter of a second is granted at once.
    assert!(all / seconds < 115_000.0, "{sent:?} bytes in {seconds} s");
    assert!(all / seconds > 50_000.0, "{sent:?} bytes in {seconds} s");
    assert!(sent.iter().all(|bytes| *bytes as f64 > all / 5.0), "{sent:?}");
}

/// The primary fails, the sentinel chooses the replica, and the hosts go on there.
#[test]
fn a_failover_of_sentinels() {
    let mut setting = Setting::new(14, 300_000);
    let primary = setting.redis.port.to_string();
    let replica = Redis::with(&setting.lab, args!["--replicaof", "127.0.0.1", primary], None);
    let sentinel = Redis::sentinel(&setting.lab, &setting.redis);
    wait_until("the sentinel knows the replica", Duration::from_secs(30), || {
        sentinel.ask(&["SENTINEL", "REPLICAS", "main"]).is_some_and(|answer| answer == "*1")
    });
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    let host = || {
        let flags = args!["-s", BLOCK.to_string(), "-p", "2", "--queue", url, "--queue-lease", "20"];
        let slow = args!["--bwlimit", "40K", "--compress", "none"];
        setting.lab.upload_cmd(&setting.src, &setting.db, &setting.proxy.url, [flags, slow].concat()).spawn()
    };
    let hosts = [host(), host()];
    setting.wait_for_blocks(10);
    setting.redis.kill();
    wait_until("the replica is the primary", Duration::from_secs(30), || {
        replica.ask(&["SET", "x", "1"]).is_some_and(|answer| answer == "+OK")
    });
    for host in hosts {
        let output = host.wait().code(0);
        assert!(output.stderr.contains("answers again"), "{output:?}");
    }
    setting.assert_whole();
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    let lab = Lab::new();
    let authority = Authority::new(&lab, "ours");
    let (_redis, port) = Redis::with_tls(&lab, &authority.issue("queue"));
    let src = lab.path("src");
    Tree::new(&src, 15).rich(20_000);
    let (db, dst) = (lab.index(&src), lab.dir("dst"));
    let proxy = lab.proxy(&dst);
    let url = format!("rediss://localhost:{port}");
    let upload = |more: Vec<OsString>| {
        lab.upload(
            &src,
            &db,
            &proxy.url,
            [args!["-s", "1000", "--queue", url, "--queue-lease", "1"], more].concat(),
        )
    };
    upload(args!["--queue-ca-file", authority.pem()]).code(0);
    assert_same_tree(&src, &dst);
    // Without it, nothing is sent by way of that server.
    let output = upload(vec![]).code(1);
    assert!(output.stderr.contains("--queue-ca-file"), "{output:?}");
}

/// What another program has written into the keys of a job hinders no host for long.
#[test]
fn nonsense_in_the_engine() {
    let setting = Setting::new(17, 200_000);
    let hosts = [setting.slow_host(), setting.slow_host()];
    setting.wait_for_blocks(5);
    let name = setting.redis.words(&["KEYS", "tl:*:job"]).first().unwrap().replace(":job", "");
    let key = |what: &str| format!("{name}:{what}");
    setting.redis.ask(&["ZADD", &key("free"), "999", "999:9007199254740000:0:"]).unwrap();
    setting.redis.ask(&["ZADD", &key("free"), "0", "nonsense"]).unwrap();
    setting.redis.ask(&["HINCRBY", &key("job"), "left", "9007199254739001"]).unwrap();
    for host in hosts {
        host.wait().code(0);
    }
    setting.assert_whole();
}

/// The same where no script can go on.
#[test]
fn an_engine_that_gives_out_nothing() {
    for (seed, broken) in [
        (19, &[&["HSET", "job", "next_id", "q"], &["HSET", "job", "again", "zz"]][..]),
        (20, &[&["DEL", "free", "", ""], &["HSET", "free", "x", "x"]]),
    ] {
        let setting = Setting::new(seed, 150_000);
        let host = setting.slow_host();
        setting.wait_for_blocks(3);
        let name = setting.redis.words(&["KEYS", "tl:*:job"]).first().unwrap().replace(":job", "");
        for [command, what, more @ ..] in broken {
            let key = format!("{name}:{what}");
            let more = more.iter().filter(|word| !word.is_empty());
            let words: Vec<&str> = [*command, &*key].into_iter().chain(more.copied()).collect();
            setting.redis.ask(&words).unwrap();
        }
        let start = Instant::now();
        host.wait().code(0);
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
        setting.assert_whole();
    }
}

/// A receiver that does not answer is not taken for an engine that is away.
#[test]
fn a_receiver_that_goes_is_named() {
    let setting = Setting::new(18, 100_000);
    let host = setting.host(args!["--bwlimit", "20K", "--compress", "none", "--stall-timeout", "3"]);
    setting.wait_for_blocks(2);
    drop(setting.proxy);
    let output = host.wait().code(1);
    assert!(output.stderr.contains("the receiver"), "{output:?}");
    assert!(!output.stderr.contains("without the queue"), "{output:?}");
}
