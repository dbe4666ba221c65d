//! SIGKILL at random moments: the same command goes on, sends again at most the blocks that were in
//! flight, and ends right (P1, P3, P6).

use crate::support::index;
use crate::support::stress::{chance, sleep_some};
use crate::support::{Cmd, Lab, Proxy, Rng, Tree, assert_same_tree};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const SIZE: u64 = 1000;
const WORKERS: u64 = 3;

/// A folder of many small blocks, and destinations that hold older versions of some files.
struct Job {
    lab: Lab,
    src: PathBuf,
    db: PathBuf,
    blocks: u64,
    destinations: usize,
}

impl Job {
    fn new(seed: u64) -> Self {
        let lab = Lab::new();
        let src = lab.path("src");
        let mut tree = Tree::new(&src, seed);
        tree.rich(60_000).noise("several-blocks", 9_500);
        for number in 0..700 {
            let length = tree.rng.below(1500) as usize;
            tree.noise(format!("folder-{}/f{number}", number % 7), length);
        }
        let db = lab.index(&src);
        let total = index::rows(&db).iter().map(|row| row.size as u64).sum::<u64>();
        Self { lab, src, db, blocks: total.div_ceil(SIZE), destinations: 0 }
    }

    /// A new, watched destination, with other content under some of the names.
    fn destination(&mut self) -> (PathBuf, Watch) {
        self.destinations += 1;
        let dst = self.lab.dir(&format!("dst-{}", self.destinations));
        let mut old = Tree::new(&dst, self.destinations as u64);
        old.noise("several-blocks", 20_000).noise("text/compressible.txt", 3).noise("folder-3/f3", 5_000);
        old.noise("many/0/f0", 100).file("one-byte", "");
        (dst.clone(), Watch::start(&self.src, &dst))
    }

    fn upload(&self, proxy: &Proxy, progress: &Path, more: Vec<OsString>) -> Cmd {
        let all = args!["-s", SIZE.to_string(), "-p", WORKERS.to_string(), "-dbp", progress, "--json"];
        self.lab.upload_cmd(&self.src, &self.db, &proxy.url, all).args(more)
    }
}

/// Checks all final names continuously: each is absent, the previous content, or the new content
/// (P3).
struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Watch {
    fn start(src: &Path, dst: &Path) -> Self {
        let files = |root: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
            let entries = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
            let files = entries.filter(|entry| entry.file_type().is_file());
            files
                .map(|entry| {
                    let name = entry.path().strip_prefix(root).unwrap().to_path_buf();
                    (name, std::fs::read(entry.path()).unwrap())
                })
                .collect()
        };
        let (new, old, dst) = (files(src), files(dst), dst.to_path_buf());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = 0;
            loop {
                let last = stopped.load(Ordering::SeqCst);
                for (name, new) in &new {
                    match std::fs::read(dst.join(name)) {
                        Ok(content) => {
                            seen += 1;
                            let known = content == *new || old.get(name) == Some(&content);
                            assert!(known, "{} is torn: {} bytes", name.display(), content.len());
                        }
                        Err(e) => {
                            assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{}", name.display());
                            assert!(!old.contains_key(name), "{} was gone for a moment", name.display());
                        }
                    }
                }
                if last {
                    return seen;
                }
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let seen = self.thread.take().unwrap().join().expect("a final path was torn");
        assert!(seen > 0);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// The blocks whose acceptance the sender knows.
fn acknowledged(progress: &Path) -> Vec<u64> {
    let Ok(connection) = rusqlite::Connection::open(progress) else { return Vec::new() };
    let Ok(mut statement) = connection.prepare("SELECT blk_id FROM res") else { return Vec::new() };
    statement.query_map([], |row| row.get::<_, i64>(0)).unwrap().map(|block| block.unwrap() as u64).collect()
}

fn missing_bytes(proxy: &Proxy) -> Vec<(u64, u64)> {
    let answer = proxy.request("GET", "/tar/0/status", &[], b"");
    if answer.status == 404 {
        return vec![(0, u64::MAX)];
    }
    serde_json::from_value(answer.json()["missing"].clone()).unwrap()
}

#[test]
fn the_sender_is_killed_twenty_times() {
    let mut rng = chance();
    let mut job = Job::new(201);
    let mut kills = 0;
    while kills < 20 {
        let (dst, watch) = job.destination();
        let proxy = job.lab.proxy(&dst);
        let progress = job.lab.path(&format!("progress-of-{}", job.destinations));
        let mut kills_here = 0;
        while kills < 20 {
            let mut sender = job.upload(&proxy, &progress, args!["--bwlimit", "150K"]).spawn();
            sleep_some(&mut rng, Duration::from_millis(500));
            if sender.has_ended() {
                break;
            }
            sender.kill9();
            (kills, kills_here) = (kills + 1, kills_here + 1);
            let missing = missing_bytes(&proxy);
            for block in acknowledged(&progress) {
                let start = block * SIZE;
                assert!(
                    !missing.iter().any(|&(from, to)| from <= start && start < to),
                    "block {block} is lost"
                );
            }
            // P6: even if the progress database is lost.
            if kills % 3 == 0 {
                let _ = std::fs::remove_file(&progress);
            }
        }
        job.upload(&proxy, &progress, vec![]).run().code(0);
        assert_same_tree(&job.src, &dst);
        let accepted = proxy.blocks_accepted();
        println!("{kills_here} kills, {accepted} blocks accepted of {}", job.blocks);
        assert!(accepted <= job.blocks + kills_here * WORKERS, "{accepted} of {}", job.blocks);
        watch.end();
    }
}

#[test]
fn the_receiver_is_killed_twenty_times() {
    let mut rng = chance();
    let mut job = Job::new(202);
    let mut kills = 0;
    while kills < 20 {
        let (dst, watch) = job.destination();
        let mut proxy = job.lab.proxy(&dst);
        let progress = job.lab.path(&format!("progress-of-{}", job.destinations));
        let mut sender = job.upload(&proxy, &progress, args!["--bwlimit", "200K"]).spawn();
        while kills < 20 {
            std::thread::sleep(Duration::from_millis(50));
            sleep_some(&mut rng, Duration::from_millis(500));
            if sender.has_ended() {
                break;
            }
            proxy.kill9();
            kills += 1;
            sleep_some(&mut rng, Duration::from_millis(50));
            proxy.restart();
        }
        let summary = sender.wait().code(0).summary();
        println!("{summary}");
        // No block that was answered 200 is asked for again (P1).
        assert_eq!(summary["sent_blocks"], job.blocks, "{summary}");
        assert_same_tree(&job.src, &dst);
        watch.end();
    }
}

#[test]
fn both_are_killed_ten_times() {
    let mut rng = chance();
    let mut job = Job::new(203);
    let mut kills = 0;
    while kills < 10 {
        let (dst, watch) = job.destination();
        let mut proxy = job.lab.proxy(&dst);
        let progress = job.lab.path(&format!("progress-of-{}", job.destinations));
        loop {
            let mut sender = job.upload(&proxy, &progress, args!["--bwlimit", "150K"]).spawn();
            sleep_some(&mut rng, Duration::from_millis(700));
            if sender.has_ended() || kills == 10 {
                break;
            }
            kill_both(&mut rng, &mut sender, &mut proxy);
            kills += 1;
            proxy.restart();
            let missing = missing_bytes(&proxy);
            for block in acknowledged(&progress) {
                let start = block * SIZE;
                assert!(
                    !missing.iter().any(|&(from, to)| from <= start && start < to),
                    "block {block} is lost"
                );
            }
        }
        let before: u64 = missing_bytes(&proxy).iter().map(|(from, to)| to.saturating_sub(*from)).sum();
        let summary = job.upload(&proxy, &progress, vec![]).run().code(0).summary();
        if before < u64::MAX {
            // The missing bytes, and at most two blocks that overlap with them.
            let sent = summary["sent_blocks"].as_u64().unwrap();
            assert!(sent <= before.div_ceil(SIZE) + 1, "{sent} blocks for {before} bytes");
        }
        assert_same_tree(&job.src, &dst);
        watch.end();
    }
}

fn kill_both(rng: &mut Rng, sender: &mut crate::support::Running, proxy: &mut Proxy) {
    if rng.below(2) == 0 {
        sender.kill9();
        sleep_some(rng, Duration::from_millis(20));
        proxy.kill9();
    } else {
        proxy.kill9();
        sleep_some(rng, Duration::from_millis(20));
        sender.kill9();
    }
}

/// P6: the progress database is a cache: without it, or with that of another receiver, exactly the
/// missing blocks are sent.
#[test]
fn the_progress_database_is_lost() {
    let mut job = Job::new(204);
    let (dst, watch) = job.destination();
    let proxy = job.lab.proxy(&dst);
    let progress = job.lab.path("progress");
    job.upload(&proxy, &progress, args!["-l", "99"]).run().code(0);
    assert_eq!(proxy.blocks_accepted(), 100);
    std::fs::remove_file(&progress).unwrap();
    job.upload(&proxy, &progress, args!["-l", "199"]).run().code(0);
    assert_eq!(proxy.blocks_accepted(), 200);
    // The database claims that everything is done; the receiver knows better.
    let connection = rusqlite::Connection::open(&progress).unwrap();
    for block in 0..job.blocks {
        connection.execute("INSERT INTO res VALUES(0, ?, ?)", [SIZE as i64, block as i64]).unwrap();
    }
    drop(connection);
    let summary = job.upload(&proxy, &progress, vec![]).run().code(0).summary();
    assert_eq!(summary["sent_blocks"], job.blocks - 200, "{summary}");
    assert_same_tree(&job.src, &dst);
    watch.end();
    // Junk in its place is reported, not believed, and does no harm.
    std::fs::write(&progress, "junk").unwrap();
    let output = job.upload(&proxy, &progress, vec![]).run();
    assert!(output.code == 0 || output.stderr.contains("progress"), "{output:?}");
}

/// A complete index gets its name; the previous one stays until then.
#[test]
fn the_indexing_is_killed() {
    let mut rng = chance();
    let job = Job::new(205);
    let (digest, db) = (index::digest(&job.db), job.lab.path("new.sqlite"));
    for round in 0..12 {
        let mut indexing = job.lab.cmd(args!["index", "-c", "-b", job.src, "-db", db]).spawn();
        sleep_some(&mut rng, Duration::from_millis(120));
        indexing.kill9();
        if db.exists() {
            assert_eq!(index::digest(&db), digest, "round {round}");
        }
    }
    job.lab.run(args!["index", "-c", "-b", job.src, "-db", db]).code(0);
    assert_eq!(index::digest(&db), digest);
}
