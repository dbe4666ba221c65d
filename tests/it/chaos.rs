//! A bad network between sender and receiver, made by a relay: the result is right, or the exit
//! code says that it is not, and wrong content is never published (P2, P5, P7). Random choices come
//! from a printed seed.

mod flips;

use crate::support::http;
use crate::support::index;
use crate::support::relay::{Fate, Message, Relay};
use crate::support::stress::{chance, fingerprint};
use crate::support::{Lab, Output, Rng, Tree, assert_same_tree, tree_diff};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SIZE: usize = 4000;

/// A folder with its index; every test sends it through faults of its own.
struct Job {
    lab: Lab,
    src: PathBuf,
    db: PathBuf,
    blocks: usize,
}

impl Job {
    /// With so many bytes in its larger files.
    fn new(scale: usize) -> Self {
        let lab = Lab::new();
        let src = lab.path("src");
        Tree::new(&src, 240).rich(scale).noise("several-blocks", scale).text("text/more", scale).times();
        let db = lab.index(&src);
        let blocks = index::archive(&src, &db).len().div_ceil(SIZE);
        Self { lab, src, db, blocks }
    }

    fn upload(&self, url: &str) -> Output {
        let args = args!["-s", SIZE.to_string(), "-p", "3", "--block-timeout", "20", "--stall-timeout", "30"];
        self.lab.upload(&self.src, &self.db, url, args)
    }

    /// An upload to `dst`; `decide` gives the fate of request `number` and its answer. The upload
    /// ends right or with an error; the same command without faults then ends right. Returns the
    /// first exit code and the number of requests.
    #[track_caller]
    fn one_trouble(
        &self,
        name: &str,
        decide: impl Fn(u64, &Message) -> Fate + Send + Sync + 'static,
    ) -> (i32, u64) {
        let dst = self.lab.dir(&format!("dst-{name}"));
        let proxy = self.lab.proxy(&dst);
        let relay = Relay::start(proxy.addr, decide);
        let output = self.upload(&relay.url);
        let log = relay.log();
        if output.code == 0 {
            let differences = tree_diff(&self.src, &dst);
            assert!(differences.is_empty(), "{name}: {differences:?}\n{}\n{log:#?}", output.stderr);
        } else {
            assert!(!output.stderr.is_empty(), "{name}: exit {} without a word", output.code);
            let wrong = wrong(&self.src, &dst);
            assert!(wrong.is_empty(), "{name}: {wrong:?}\n{}\n{log:#?}", output.stderr);
            let again = self.upload(&proxy.url);
            assert_eq!(again.code, 0, "{name}: does not recover\n{}\n{log:#?}", again.stderr);
            assert_same_tree(&self.src, &dst);
        }
        std::fs::remove_dir_all(&dst).unwrap();
        (output.code, log.len() as u64)
    }
}

/// Final names with wrong content.
fn wrong(src: &Path, dst: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(dst).into_iter();
    let entries = entries.filter_entry(|e| e.depth() != 1 || e.file_name() != ".tar-like");
    let files = entries.map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    let names = files.map(|entry| entry.path().strip_prefix(dst).unwrap().to_path_buf());
    let wrong = names.filter(|name| std::fs::read(src.join(name)).ok() != std::fs::read(dst.join(name)).ok());
    wrong.map(|name| name.display().to_string()).collect()
}

fn shared(rng: Rng) -> impl Fn(u64) -> u64 + Send + Sync + 'static {
    let rng = Mutex::new(rng);
    move |end| rng.lock().unwrap().below(end)
}

/// Every second request is cut, delayed, repeated, or loses its answer.
#[test]
fn cut_delayed_repeated_and_unanswered() {
    let job = Job::new(150_000);
    let dst = job.lab.dir("dst");
    let proxy = job.lab.proxy(&dst);
    let below = shared(chance());
    let relay = Relay::start(proxy.addr, move |number, request| {
        let length = request.bytes().len() as u64;
        match number % 10 {
            0 => Fate::Cut(below(length) as usize),
            2 => Fate::CutAnswer(below(400) as usize),
            4 => Fate::Repeat(2 + below(2) as usize),
            6 => Fate::Delay(Duration::from_millis(below(200))),
            // The receiver has acted, and its answer is lost.
            8 => Fate::CutAnswer(0),
            _ => Fate::Pass,
        }
    });
    let output = job.upload(&relay.url).code(0);
    assert_same_tree(&job.src, &dst);
    let log = relay.log();
    println!("{} requests for {} blocks\n{}", log.len(), job.blocks, output.stderr);
    assert!(log.len() > job.blocks + 20, "{log:#?}");
    for fate in ["Cut(", "CutAnswer(", "Repeat(", "Delay("] {
        assert!(log.iter().any(|line| line.contains(fate)), "{fate} never came");
    }
    // It was not published by luck: the receiver asks for no more bytes.
    let accepted = proxy.blocks_accepted();
    job.upload(&proxy.url).code(0);
    assert_eq!(proxy.blocks_accepted(), accepted);
    assert_eq!(proxy.status(0)["complete"], true);
}

/// Copies of blocks arrive once more by other connections, late, while other blocks are under way.
#[test]
fn late_copies() {
    let job = Job::new(100_000);
    let dst = job.lab.dir("dst");
    let proxy = job.lab.proxy(&dst);
    let below = shared(chance());
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (addr, sent) = (proxy.addr, copies.clone());
    let relay = Relay::start(addr, move |_, request| {
        if request.is_block() && below(2) == 0 {
            let (bytes, delay) = (request.bytes(), Duration::from_millis(below(300)));
            sent.lock().unwrap().push(std::thread::spawn(move || {
                std::thread::sleep(delay);
                http::try_raw(addr, &bytes).map(|answer| answer.status)
            }));
        }
        Fate::Pass
    });
    job.upload(&relay.url).code(0);
    let copies = std::mem::take(&mut *copies.lock().unwrap());
    assert!(copies.len() > 10);
    for copy in copies {
        assert_eq!(copy.join().unwrap(), Some(200));
    }
    assert_same_tree(&job.src, &dst);
    assert_eq!(proxy.status(0)["complete"], true);
}

/// Every request that was ever sent is sent again when all is done, and again when another index is
/// active.
#[test]
fn old_requests_come_again() {
    let job = Job::new(40_000);
    let dst = job.lab.dir("dst");
    let proxy = job.lab.proxy(&dst);
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let relay = Relay::start(proxy.addr, move |_, request| {
        if request.is_block() {
            keep.lock().unwrap().push(request.bytes());
        }
        Fate::Pass
    });
    job.upload(&relay.url).code(0);
    let mut kept = std::mem::take(&mut *kept.lock().unwrap());
    assert!(kept.len() >= job.blocks);
    let mut rng = chance();
    for at in (1..kept.len()).rev() {
        kept.swap(at, rng.below(at as u64 + 1) as usize);
    }
    let again = |status: u16| {
        for bytes in &kept {
            assert_eq!(http::raw(proxy.addr, bytes).status, status);
        }
    };
    let before = fingerprint(&dst.join("names"));
    again(200);
    assert_same_tree(&job.src, &dst);
    assert_eq!(fingerprint(&dst.join("names")), before, "done files were written again");
    Tree::new(&job.src, 5).noise("several-blocks", 39_999).text("text/more", 10);
    job.lab.run(args!["index", "-c", "-b", job.src, "-db", job.db]).code(0);
    job.upload(&proxy.url).code(0);
    again(409);
    assert_same_tree(&job.src, &dst);
}
