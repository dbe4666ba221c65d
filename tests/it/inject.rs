//! System calls of the receiver that kill it or fail, one after the other, by strace (P1, P2, P6,
//! P9).

use crate::support::index::{self, blake3_hex, frame};
use crate::support::stress::free_port;
use crate::support::{Lab, Proxy, Running, Tree, assert_same_tree, wait_until};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// One of everything, with few system calls: five blocks of 1000 bytes.
fn small_job(lab: &Lab) -> (PathBuf, PathBuf) {
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 210);
    tree.noise("large", 2500).noise("d/a", 400).noise("d/b", 600).noise("d/c", 900);
    tree.file("empty", "")
        .dir("e/f")
        .file("1/2/3/4/5/6/7/8/deep", "deep")
        .symlink("link", "large")
        .hardlink("hard", "d/a")
        .times();
    let db = lab.index(&src);
    (src, db)
}

/// Waits until the address accepts connections, or the process ends; returns whether it accepts.
fn listens(running: &mut Running, port: u16) -> bool {
    let start = Instant::now();
    loop {
        if running.stderr_so_far().contains("listening on") {
            return TcpStream::connect(("127.0.0.1", port)).is_ok();
        }
        if running.has_ended() {
            return false;
        }
        assert!(start.elapsed() < PATIENCE, "neither listens nor ends: {}", running.stderr_so_far());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills the receiver at the `number`th `call` of any of its threads, while a sender sends; returns
/// false if no thread made so many calls.
fn killed_at(lab: &Lab, src: &Path, db: &Path, call: &str, number: u32) -> bool {
    let dst = lab.dir(&format!("dst-{call}-{number}"));
    // Previous content, which has to be deleted.
    Tree::new(&dst, 1).noise("large", 4000).noise("d/a", 10).symlink("empty", "large");
    let port = free_port();
    let rule = format!("{call}:signal=KILL:when={number}");
    let mut receiver = lab.proxy_cmd(port, &dst).inject(&[&rule], &[]).spawn();
    let url = format!("http://127.0.0.1:{port}/tar");
    let progress = lab.path(&format!("progress-{call}-{number}"));
    let upload = || lab.upload_cmd(src, db, &url, args!["-s", "1000", "-p", "1", "-dbp", progress]);
    let mut sender = listens(&mut receiver, port).then(|| upload().spawn());
    let start = Instant::now();
    while !receiver.has_ended() {
        if sender.as_mut().is_some_and(Running::has_ended) {
            // Not even at the end.
            sender.unwrap().wait().code(0);
            assert_same_tree(src, &dst);
            return false;
        }
        assert!(start.elapsed() < PATIENCE, "{call} {number}: {}", receiver.stderr_so_far());
        std::thread::sleep(Duration::from_millis(2));
    }
    // Every second sender goes on by itself, the others are run again.
    if number.is_multiple_of(2) {
        drop(sender.take());
    }
    let proxy = lab.proxy_cmd(port, &dst).serve();
    sender.unwrap_or_else(|| upload().spawn()).wait().code(0);
    assert_same_tree(src, &dst);
    lab.check(&dst, db, args!["--extra"]).code(0);
    assert_eq!(proxy.status(0)["complete"], true);
    let staging = walkdir::WalkDir::new(dst.join(".tar-like/staging")).min_depth(2).into_iter().count();
    assert_eq!(staging, 0, "{call} {number}: staged files are left");
    true
}

/// Kills at every `step`th call, until there are no more.
fn killed_at_every(calls: &[&str], step: u32) {
    let lab = Lab::new();
    let (src, db) = small_job(&lab);
    for call in calls {
        let mut number = 1;
        let start = Instant::now();
        while killed_at(&lab, &src, &db, call, number) {
            number += step;
            assert!(number < 500, "{call}: the job never gets through");
        }
        println!("{call}: killed at every {step} up to {number} in {:?}", start.elapsed());
        assert!(number > step, "{call} never occurs: nothing was tested");
    }
}

#[test]
fn killed_at_every_rename() {
    killed_at_every(&["renameat", "rename", "linkat", "symlinkat"], 1);
}

#[test]
fn killed_at_every_sync() {
    killed_at_every(&["syncfs", "fsync"], 1);
}

#[test]
fn killed_at_every_change_of_a_folder_or_of_metadata() {
    killed_at_every(&["mkdirat", "unlinkat", "utimensat", "fchmod"], 1);
}

/// The journal's writes and those of staged pieces; the first are many.
#[test]
fn killed_at_writes() {
    killed_at_every(&["write"], 1);
    killed_at_every(&["pwrite64"], 3);
}

/// A receiver that has the index of the small job, started again with these system calls.
fn with_index(lab: &Lab, src: &Path, db: &Path, rules: &[&str], only: &[PathBuf]) -> (PathBuf, Proxy) {
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    let headers = [("x-tar-like-index", &*index::digest(db))];
    assert_eq!(proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(db)).status, 200);
    proxy.term_and_wait().code(0);
    assert!(src.exists());
    (dst.clone(), lab.cmd(args!["proxy", "0", "-b", dst]).inject(rules, only).serve())
}

fn put_block(proxy: &Proxy, src: &Path, db: &Path, number: usize) -> crate::support::http::Response {
    let archive = index::archive(src, db);
    let content = index::block(&archive, 1000, number);
    let headers = [("x-tar-like-index", &*index::digest(db)), ("x-tar-like-digest", &*blake3_hex(content))];
    proxy.request("PUT", &format!("/tar/0/1000/{number}"), &headers, &frame(content))
}

/// The files of the small job that were published.
fn published(dst: &Path) -> usize {
    let entries =
        walkdir::WalkDir::new(dst).into_iter().filter_entry(|entry| entry.file_name() != ".tar-like");
    entries.filter(|entry| entry.as_ref().unwrap().file_type().is_file()).count()
}

/// P1: after a failed sync no block is acknowledged, and no later success makes up for it.
#[test]
fn a_failed_sync_degrades_until_a_restart() {
    for rule in ["syncfs:error=EIO:when=1"] {
        let lab = Lab::new();
        let (src, db) = small_job(&lab);
        let (dst, mut proxy) = with_index(&lab, &src, &db, &[rule], &[]);
        assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 200);
        for number in [0, 1, 0, 3] {
            let answer = put_block(&proxy, &src, &db, number);
            assert_eq!(answer.status, 503, "{rule}: {}", answer.text());
            assert!(answer.header("retry-after").is_some());
        }
        assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 503);
        assert_eq!(proxy.request("GET", "/healthz", &[], b"").status, 200);
        assert_eq!(proxy.metric("tarlike_degraded") as u32, 1);
        let finish = proxy.request("POST", "/tar/0/finish", &[], b"{\"partial\":true}");
        assert_eq!(finish.status, 503, "{}", finish.text());
        let other = proxy.request(
            "PUT",
            "/tar/7/db",
            &[("x-tar-like-index", &*index::digest(&db))],
            &index::frame_of(&db),
        );
        assert_eq!(other.status, 503, "{}", other.text());
        assert_eq!((proxy.status(0)["done_bytes"].as_u64(), published(&dst)), (Some(0), 0));
        let output = lab.upload(&src, &db, &proxy.url, args!["-s", "1000", "--stall-timeout", "2"]).code(4);
        assert!(output.stderr.contains("restart"), "the message says what to do: {}", output.stderr);
        proxy.kill9();
        let proxy = lab.proxy(&dst);
        lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
        assert_same_tree(&src, &dst);
    }
}

/// File systems that notice only at a sync that there is no space. The receiver goes on; the
/// written blocks are sent again.
#[test]
fn a_sync_that_finds_no_space_is_answered_507() {
    for errno in ["ENOSPC", "EDQUOT"] {
        let lab = Lab::new();
        let (src, db) = small_job(&lab);
        let dst = lab.dir("dst");
        let proxy = lab.proxy(&dst);
        let headers = [("x-tar-like-index", &*index::digest(&db))];
        assert_eq!(proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(&db)).status, 200);
        proxy.term_and_wait().code(0);
        let rule = format!("syncfs:error={errno}");
        let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).inject_until(&[&rule], &[]).serve();
        for number in [0, 1, 0, 3] {
            let answer = put_block(&proxy, &src, &db, number);
            assert_eq!(answer.status, 507, "{}", answer.text());
            assert_eq!((proxy.status(0)["done_bytes"].as_u64(), published(&dst)), (Some(0), 0));
        }
        assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 200);
        proxy.release();
        lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
        assert_same_tree(&src, &dst);
    }
}

/// The disk is full in the middle of the copies for a change.
#[test]
fn no_space_in_the_middle_of_a_change() {
    for more in [args![], args!["--keep", "2"]] {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 212);
        for number in 0..3 {
            tree.noise(format!("f{number}"), 9_000_000);
        }
        let files = args!["-db", lab.path("i.sqlite"), "-dbp", lab.path("p.sqlite")];
        lab.sync(&src, &dst, [files.clone(), more.clone()].concat()).code(0);
        for number in 0..3 {
            let mut content = std::fs::read(tree.path(format!("f{number}"))).unwrap();
            content[4_000_000] ^= 1;
            tree.file(format!("f{number}"), content);
        }
        let rule = "copy_file_range:error=ENOSPC:when=3+";
        let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).inject_until(&[rule], &[]).serve();
        let mut sender = lab.cmd([args!["sync", src, proxy.url], files, more].concat()).spawn();
        wait_until("the sender waits for space", PATIENCE, || {
            sender.has_ended() || sender.stderr_so_far().contains("no space left")
        });
        assert!(!sender.has_ended(), "{:?}", sender.wait());
        let left = |folder: &str| {
            let entries = walkdir::WalkDir::new(dst.join(".tar-like").join(folder)).into_iter();
            entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_type().is_file())).count()
        };
        // Between two attempts nothing is left of either.
        wait_until("the attempt has cleaned up", PATIENCE, || left("staging") + left("kept") == 0);
        let archives = std::fs::read_dir(dst.join(".tar-like/archives")).unwrap();
        let is_index =
            |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "sqlite");
        assert_eq!(archives.map(Result::unwrap).filter(is_index).count(), 1, "of a failed attempt");
        proxy.release();
        sender.wait().code(0);
        assert_same_tree(&src, &dst);
    }
}

/// Each block that arrives while `finish` compares files makes another `finish` necessary, but
/// never more than one.
#[test]
fn a_finish_that_waits_is_joined() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 213);
    for number in 0..150 {
        tree.noise(format!("f{number}"), 10);
    }
    tree.noise("zz", 30_000);
    let db = lab.index(&src);
    let (dst, proxy) = with_index(&lab, &src, &db, &["newfstatat:delay_enter=10ms"], &[]);
    let archive = index::archive(&src, &db);
    let put = |number: usize| {
        let content = index::block(&archive, 1500, number);
        let headers =
            [("x-tar-like-index", &*index::digest(&db)), ("x-tar-like-digest", &*blake3_hex(content))];
        let answer = proxy.request("PUT", &format!("/tar/0/1500/{number}"), &headers, &frame(content));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    put(0);
    let mut most = 0;
    std::thread::scope(|scope| {
        let finish = |name: usize| {
            let body = format!("{{\"name\":{name}}}");
            loop {
                let answer = proxy.request("POST", "/tar/0/finish", &[], body.as_bytes());
                match answer.status {
                    202 => {}
                    status => return assert_eq!(status, 200, "{}", answer.text()),
                }
            }
        };
        for number in 1..=10 {
            put(number);
            scope.spawn(move || finish(number));
            std::thread::sleep(Duration::from_millis(50));
            let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
            let names =
                tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
            most = most.max(names.filter(|name| name.starts_with("finish")).count());
        }
    });
    assert!((1..=2).contains(&most), "{most} of them at once");
    lab.upload(&src, &db, &proxy.url, args!["-s", "1500"]).code(0);
    assert_same_tree(&src, &dst);
}

/// The sender waits while the receiver is degraded; only a restart is needed.
#[test]
fn a_waiting_sender_goes_on_after_the_restart_of_a_degraded_receiver() {
    let lab = Lab::new();
    let (src, db) = small_job(&lab);
    let (dst, mut proxy) = with_index(&lab, &src, &db, &["syncfs:error=EIO"], &[]);
    let sender = lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "1000"]).spawn();
    wait_until("the receiver is degraded", PATIENCE, || {
        proxy.request("GET", "/readyz", &[], b"").status == 503
    });
    std::thread::sleep(Duration::from_millis(200));
    proxy.kill9();
    let proxy = lab.proxy_cmd(proxy.addr.port(), &dst).serve();
    sender.wait().code(0);
    assert_same_tree(&src, &dst);
    drop(proxy);
}

/// The journal's own sync or write fails.
#[test]
fn a_journal_that_cannot_be_written_degrades() {
    for rule in ["fsync:error=EIO", "pwrite64:error=EIO"] {
        let lab = Lab::new();
        let (src, db) = small_job(&lab);
        let journal = |dst: &Path| {
            ["journal.sqlite", "journal.sqlite-wal"].map(|name| dst.join(".tar-like").join(name)).to_vec()
        };
        // From the third on, since the start of the receiver writes too.
        let rule = format!("{rule}:when=3+");
        let only = journal(&lab.path("dst"));
        let (dst, mut proxy) = with_index(&lab, &src, &db, &[&rule], &only);
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.extend((0..5).map(|number| put_block(&proxy, &src, &db, number).status));
        }
        let first = statuses.iter().position(|&status| status != 200);
        let first = first.unwrap_or_else(|| panic!("{rule} hit nothing: {statuses:?}"));
        assert!(statuses[first..].iter().all(|&status| status == 503), "{rule}: {statuses:?}");
        assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 503);
        proxy.kill9();
        let proxy = lab.proxy(&dst);
        // P1: every block that was answered 200 is there.
        let missing: Vec<(u64, u64)> = serde_json::from_value(proxy.status(0)["missing"].clone()).unwrap();
        for number in (0..first as u64).filter(|&number| number < 5) {
            assert!(
                !missing.iter().any(|&(from, to)| from <= number * 1000 && number * 1000 < to),
                "{missing:?}"
            );
        }
        lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
        assert_same_tree(&src, &dst);
    }
}

/// P9: whichever call meets the full disk, the sender waits, the receiver goes on serving, and the
/// run completes by itself once there is space.
fn no_space(call: &str, in_staging: bool) {
    no_space_for(small_job, call, in_staging);
}

fn no_space_for(job: fn(&Lab) -> (PathBuf, PathBuf), call: &str, in_staging: bool) {
    for errno in ["ENOSPC", "EDQUOT"] {
        let lab = Lab::new();
        let (src, db) = job(&lab);
        let dst = lab.dir("dst");
        let proxy = lab.proxy(&dst);
        let headers = [("x-tar-like-index", &*index::digest(&db))];
        assert_eq!(proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(&db)).status, 200);
        proxy.term_and_wait().code(0);
        let only = if in_staging { staged(&dst) } else { Vec::new() };
        // The start makes folders, too; this test is about later ones.
        let when = if call == "mkdirat" { ":when=6+" } else { "" };
        let rule = format!("{call}:error={errno}{when}");
        let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).inject_until(&[&rule], &only).serve();
        let mut sender = lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "1000", "-p", "2"]).spawn();
        wait_until("the sender waits for space", Duration::from_secs(20), || {
            sender.has_ended() || sender.stderr_so_far().contains("no space left")
        });
        if sender.has_ended() {
            panic!("{rule}: the sender did not wait: {:?}", sender.wait());
        }
        for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 200), ("/tar/0/status", 200)]
        {
            assert_eq!(proxy.request("GET", path, &[], b"").status, status, "{rule}: {path}");
        }
        proxy.release();
        let output = sender.wait();
        assert_eq!(output.code, 0, "{rule}: {}\n{}", output.stderr, proxy.stderr());
        assert_same_tree(&src, &dst);
    }
}

fn staged(dst: &Path) -> Vec<PathBuf> {
    (0..5).map(|id| dst.join(".tar-like/staging/0.1").join(id.to_string())).collect()
}

#[test]
fn no_space_for_staged_files() {
    no_space("write", true);
}

#[test]
fn no_space_for_staged_pieces() {
    no_space("pwrite64", true);
}

#[test]
fn no_space_for_final_names() {
    no_space("renameat", false);
}

/// The verifier of a file of several blocks finds the disk full, not one of its blocks.
#[test]
fn no_space_for_the_final_name_of_a_large_file() {
    let large = |lab: &Lab| {
        let src = lab.path("src");
        Tree::new(&src, 211).noise("large", 4500);
        let db = lab.index(&src);
        (src, db)
    };
    no_space_for(large, "renameat", false);
}

#[test]
fn no_space_for_folders() {
    no_space("mkdirat", false);
}

#[test]
fn no_space_for_links() {
    no_space("symlinkat", false);
    no_space("linkat", false);
}

/// The answer itself.
#[test]
fn a_full_disk_is_answered_507() {
    let lab = Lab::new();
    let (src, db) = small_job(&lab);
    let rules = ["write:error=ENOSPC:when=1", "pwrite64:error=ENOSPC:when=1"];
    let (dst, proxy) = with_index(&lab, &src, &db, &rules, &staged(&lab.path("dst")));
    let statuses: Vec<u16> = (0..5).map(|number| put_block(&proxy, &src, &db, number).status).collect();
    assert!(statuses.contains(&507) && statuses.iter().all(|s| matches!(s, 200 | 507)), "{statuses:?}");
    assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 200);
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    assert_same_tree(&src, &dst);
}

/// A bad sector: the block is not acknowledged, and is sent again.
#[test]
fn a_write_that_fails_is_not_acknowledged() {
    let lab = Lab::new();
    let (src, db) = small_job(&lab);
    let rules = ["write:error=EIO:when=1", "pwrite64:error=EIO:when=1"];
    let (dst, proxy) = with_index(&lab, &src, &db, &rules, &staged(&lab.path("dst")));
    let statuses: Vec<u16> = (0..5).map(|number| put_block(&proxy, &src, &db, number).status).collect();
    let failed: Vec<u64> = (0..5).filter(|&number| statuses[number as usize] != 200).collect();
    assert!(!failed.is_empty() && failed.iter().all(|&n| statuses[n as usize] >= 500), "{statuses:?}");
    let missing: Vec<(u64, u64)> = serde_json::from_value(proxy.status(0)["missing"].clone()).unwrap();
    for number in failed {
        assert!(missing.iter().any(|&(from, to)| from <= number * 1000 && number * 1000 < to), "{missing:?}");
    }
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    assert_same_tree(&src, &dst);
}
