//! `tar-like worker`: further hosts that have the source and nothing else.

use super::{BLOCK, Setting, sent_bytes};
use crate::support::s3::{Object, Stub};
use crate::support::{Output, Tree, assert_same_tree, set_mtime, wait_until};
use rustix::process::Signal;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

/// Flags of a worker of the host `name`, which has its own folders for indexes and progress.
fn worker(setting: &Setting, base: &Path, more: Vec<OsString>) -> crate::support::Cmd {
    let url = &setting.proxy.url;
    let queue = setting.redis.url();
    let flags = args!["worker", "--queue", queue, "-u", url, "-p", "2", "-b", base];
    setting.lab.cmd([flags, more].concat()).env("XDG_CACHE_HOME", setting.lab.path("cache"))
}

fn list(setting: &Setting) -> Vec<serde_json::Value> {
    setting.lab.run(args!["worker", "list", "--queue", setting.redis.url(), "--json"]).code(0).json()
}

fn wait_for_job(setting: &Setting) {
    wait_until("a job is there", Duration::from_secs(20), || {
        list(setting).iter().any(|line| line["event"] == "job")
    });
}

fn wait_for_hosts(setting: &Setting, count: usize) {
    wait_until("several hosts are at the job", Duration::from_secs(30), || {
        list(setting).iter().filter(|line| line["event"] == "host").count() == count
    });
}

fn job_of(output: &Output) -> serde_json::Value {
    output.json().into_iter().find(|line| line["event"] == "job_ended").expect("a job has ended")
}

#[test]
fn a_worker_needs_queue_receiver_and_source() {
    let setting = Setting::new(21, 300_000);
    // A later generation: the receiver's index has extents, tombstones and a history of its own.
    setting.lab.upload(&setting.src, &setting.db, &setting.proxy.url, args!["-s", BLOCK.to_string()]).code(0);
    Tree::new(&setting.src.join("more"), 22).rich(200_000);
    let noise =
        std::fs::read(setting.src.join("more").read_dir().unwrap().find_map(file_of).unwrap()).unwrap();
    std::fs::write(setting.src.join("grown"), noise.repeat(2)).unwrap();
    setting.lab.run(args!["index", "-b", &setting.src, "-db", &setting.db]).code(0);
    let first = setting.slow_host();
    wait_for_job(&setting);
    let moved = setting.lab.path("mounted-elsewhere");
    std::os::unix::fs::symlink(&setting.src, &moved).unwrap();
    // The folder of the indexes may have something of others in it.
    let foreign = setting.lab.dir("cache/tar-like").join("thesis.txt");
    std::fs::write(&foreign, "x").unwrap();
    set_mtime(&foreign, 1_600_000_000_000_000_000);
    let second = worker(&setting, &moved, args!["--json"]).run().code(0);
    assert!(foreign.exists());
    first.wait().code(0);
    setting.assert_whole();
    let job = job_of(&second);
    assert!(job["sent_bytes"].as_u64().unwrap() > 20_000 && job["complete"] == true, "{job}");
    assert_eq!(second.summary()["jobs"], 1);
    // Nothing is left of the job, and a worker that comes too late says so.
    assert_eq!(setting.redis.words(&["KEYS", "*"]), Vec::<String>::new());
    let late = worker(&setting, &setting.src, vec![]).run().code(1);
    assert!(late.stderr.contains("there is no job"), "{late:?}");
}

fn file_of(entry: std::io::Result<std::fs::DirEntry>) -> Option<std::path::PathBuf> {
    entry.ok().map(|entry| entry.path()).filter(|path| path.is_file())
}

/// One worker serves job after job, of several archives, and leaves when it is asked to.
#[test]
fn a_worker_follows_and_is_drained() {
    let setting = Setting::new(23, 60_000);
    let following = worker(&setting, &setting.src, args!["--follow", "--json", "--bwlimit", "30K"]).spawn();
    for tar_id in ["0", "5"] {
        let host = setting.host(args!["--bwlimit", "20K", "--compress", "none", "--tar-id", tar_id]);
        host.wait().code(0);
    }
    assert_eq!(setting.proxy.status(5)["complete"], true);
    setting.assert_whole();
    // It is asked in the middle of a job, and another host ends that.
    Tree::new(&setting.src.join("more"), 24).rich(200_000);
    setting.lab.run(args!["index", "-c", "-b", &setting.src, "-db", &setting.db]).code(0);
    let slow = args!["--json", "--follow", "--bwlimit", "10K", "--compress", "none"];
    let other = worker(&setting, &setting.src, slow).spawn();
    let host = setting.slow_host();
    wait_for_hosts(&setting, 3);
    let drain = |whom: &str| {
        let flags = args!["worker", "drain", whom, "--queue", setting.redis.url()];
        setting.lab.run(flags).code(0).stderr
    };
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert!(drain("another-node").contains("no host called another-node"));
    assert_eq!(drain(&node), "");
    let left = other.wait().code(0);
    assert!(left.summary()["left"] == true && left.stderr.contains("asked to leave"), "{left:?}");
    let served = following.wait().code(0);
    assert!(served.summary()["jobs"].as_u64().unwrap() >= 2, "{served:?}");
    assert_eq!(served.summary()["left"], true);
    host.wait().code(0);
    setting.assert_whole();
    // One that starts later is not asked. There is no job, so it ends.
    worker(&setting, &setting.src, vec![]).run().code(1);
}

/// Only the part of a host fails that has other files, and it is told so.
#[test]
fn workers_with_other_files_or_another_receiver() {
    let setting = Setting::new(25, 200_000);
    let host = setting.slow_host();
    wait_for_job(&setting);
    let empty = setting.lab.dir("empty");
    let output = worker(&setting, &empty, vec![]).run().code(1);
    assert!(output.stderr.contains("has none of the first files of the index"), "{output:?}");
    let other = setting.lab.path("other");
    Tree::new(&other, 98).rich(200_000);
    let output = worker(&setting, &other, vec![]).run();
    assert!([0, 3].contains(&output.code), "{output:?}");
    assert!(output.stderr.contains("this host takes no more"), "{output:?}");
    // Of another receiver, no job is touched, whatever the archive's number.
    let proxy = setting.lab.proxy(&setting.lab.dir("second"));
    let flags = args!["worker", "--queue", setting.redis.url(), "-u", proxy.url, "-b", setting.src];
    let output = setting.lab.run(flags).code(1);
    assert!(output.stderr.contains("of others"), "{output:?}");
    let output = worker(&setting, &setting.src, args!["--tar-id", "7"]).run().code(1);
    assert!(output.stderr.contains("of others"), "{output:?}");
    host.wait().code(0);
    setting.assert_whole();
}

#[test]
fn a_job_is_listed_and_forgotten() {
    let setting = Setting::new(26, 200_000);
    let mut host = setting.slow_host();
    wait_for_job(&setting);
    setting.wait_for_blocks(3);
    let lines = list(&setting);
    let of = |event: &str| lines.iter().find(|line| line["event"] == event).unwrap();
    let (job, busy) = (of("job"), of("host"));
    assert_eq!((&job["tar_id"], &job["block_size"]), (&0.into(), &BLOCK.into()), "{job}");
    assert!(job["left"].as_u64().unwrap() > 0 && job["leases"].as_u64().unwrap() > 0, "{job}");
    assert!(busy["host"].as_str().unwrap().contains('/') && busy["version"].is_string(), "{busy}");
    let queue = setting.redis.url();
    let text = setting.lab.run(args!["worker", "list", "--queue", queue]).code(0);
    assert!(text.stdout.contains("receiver") && text.stdout.contains("heard of"), "{text:?}");
    let metrics = setting.lab.run(args!["worker", "list", "--queue", queue, "--metrics"]).code(0).stdout;
    assert!(metrics.contains("\ntarlike_queue_hosts{job=") && metrics.ends_with('\n'), "{metrics}");
    let name = job["job"].as_str().unwrap();
    let forget = || setting.lab.run(args!["worker", "forget", name[..6], "--queue", queue]);
    let refused = forget().code(1);
    assert!(refused.stderr.contains("is at this job"), "{refused:?}");
    for key in setting.redis.words(&["KEYS", "*"]) {
        let left = setting.redis.ask(&["TTL", &key]).unwrap();
        assert!(left.trim_start_matches(':').parse::<i64>().unwrap() > 0, "{key} {left}");
    }
    host.kill9();
    wait_until("the host is gone", Duration::from_secs(20), || forget().code == 0);
    assert_eq!(setting.redis.words(&["KEYS", "*"]), Vec::<String>::new());
    forget().code(1);
    // What another program has written there is no job.
    setting.redis.ask(&["HSET", "tl:jobs", name, "{}"]).unwrap();
    setting.redis.ask(&["HSET", "tl:jobs", "x\u{1b}[1m", &job.to_string()]).unwrap();
    assert_eq!(list(&setting).len(), 1, "the summary alone");
    setting.lab.run(args!["worker", "list"]).code(2).says("--queue");
}

/// The token of a worker is for the index, too; no other one shows it.
#[test]
fn the_scope_of_indexes() {
    let mut setting = Setting::new(27, 30_000);
    let tokens = setting.lab.path("tokens");
    let make = |name: &str, scope: &str| {
        let flags = args!["token", "new", "--name", name, "--scope", scope, "--tokens", tokens];
        setting.lab.run(flags).code(0).stdout.trim().to_owned()
    };
    let (sender, both, status) =
        (make("sender", "upload"), make("worker", "upload,index"), make("watcher", "status"));
    setting.proxy = setting.lab.proxy_with(&setting.lab.dir("guarded"), args!["--tokens", tokens]);
    let flags = args!["--bwlimit", "8K", "--compress", "none", "-s", BLOCK.to_string()];
    let flags = [flags, args!["--queue", setting.redis.url()]].concat();
    let upload = setting.lab.upload_cmd(&setting.src, &setting.db, &setting.proxy.url, flags);
    let host = upload.env("TARLIKE_TOKEN", &sender).spawn();
    wait_for_job(&setting);
    let run = |token: &str| worker(&setting, &setting.src, vec![]).env("TARLIKE_TOKEN", token).run();
    let refused = run(&sender).code(1);
    assert!(refused.stderr.contains("--scope upload,index"), "{refused:?}");
    let digest = list(&setting)[0]["index"].as_str().unwrap().to_owned();
    let get = |token: &str, digest: &str| {
        let token = format!("Bearer {token}");
        let headers = [("authorization", &*token), ("x-tar-like-index", digest)];
        setting.proxy.request("GET", "/tar/0/db", &headers, b"").status
    };
    assert_eq!((get(&sender, &digest), get(&status, &digest)), (403, 403));
    assert_eq!(get("tarlike_wrong-token-of-anybody", &digest), 401);
    assert_eq!((get(&both, &"0".repeat(64)), get(&both, "x")), (409, 400));
    assert_eq!(get(&both, &digest), 200);
    run(&both).code(0);
    host.wait().code(0);
    assert_same_tree(&setting.src, &setting.lab.path("guarded"));
}

/// All hosts read one bucket.
#[test]
fn objects_of_a_bucket() {
    let stub = Stub::start("bkt");
    for number in 0..40 {
        stub.put(format!("folder/{number}"), Object::new(format!("{number} ").repeat(1500)));
    }
    let setting = Setting::new(28, 1000);
    let db = setting.lab.path("bucket.sqlite");
    let cmd = |flags: Vec<OsString>| setting.lab.cmd(flags).envs(stub.env());
    cmd(args!["index", "--use-s3", "-c", "-db", db]).run().code(0);
    let (queue, url) = (setting.redis.url(), setting.proxy.url.clone());
    let upload = args!["upload", "--use-s3", "-db", db, "-u", url, "--queue", queue, "-s", BLOCK.to_string()];
    let host = cmd([upload, args!["--bwlimit", "30K", "--compress", "none", "--json"]].concat()).spawn();
    wait_for_job(&setting);
    let help = args!["worker", "--use-s3", "-u", url, "--queue", queue, "--json"];
    let help = cmd(help).env("XDG_CACHE_HOME", setting.lab.path("cache")).run().code(0);
    let sent = sent_bytes(&host.wait().code(0)) + job_of(&help)["sent_bytes"].as_u64().unwrap();
    assert!(job_of(&help)["sent_blocks"].as_u64().unwrap() > 0);
    let all = std::fs::read_dir(setting.dst.join("folder")).unwrap().count();
    assert!(all == 40 && sent < 40 * 6000 * 5 / 4, "{all} files, {sent} bytes sent");
}

/// A worker that is stopped gives back what it has; an engine that is away is waited for.
#[test]
fn a_worker_outlives_the_engine() {
    let mut setting = Setting::new(29, 100_000);
    setting.redis.kill();
    worker(&setting, &setting.src, vec![]).run().code(1).says("does not answer");
    let following = worker(&setting, &setting.src, args!["--follow"]).spawn();
    std::thread::sleep(Duration::from_millis(500));
    setting.redis.restart();
    let host = setting.host_with_lease(600, args!["--bwlimit", "20K", "--compress", "none"]);
    wait_for_hosts(&setting, 2);
    following.signal(Signal::INT);
    following.wait().code(130);
    host.wait().code(0);
    setting.assert_whole();
}
