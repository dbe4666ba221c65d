//! A source that lives, a receiver, and passes between them.

use super::disk::{apply, differences, settle};
use super::steps::{Chooser, Step};
use super::switches::{BACKUP, COMPACT, DELETE, DELTA, REWIND};
use super::tree::{Model, Node};
use crate::support::relay::{Fate, Relay};
use crate::support::stress::sleep_some;
use crate::support::{Cmd, Lab, Output, Proxy, Rng, set_mtime};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What goes wrong during a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    Nothing,
    KillSender,
    KillReceiver,
    /// The sender is killed at the so-manieth of these calls of one of its threads.
    KillSenderAt(&'static str, u32),
    KillReceiverAt(&'static str, u32),
    /// Somebody changes files in the copy.
    Tamper,
    /// The source changes while it is read.
    Race,
}

/// Calls that separate what is done from what is not yet.
const CALLS: [&str; 6] = [
    "fsync,fdatasync,syncfs",
    "rename,renameat,renameat2",
    "pwrite64",
    "unlink,unlinkat",
    "write",
    "sendto,writev",
];

pub(super) struct World {
    pub(super) lab: Lab,
    pub(super) src: PathBuf,
    pub(super) dst: PathBuf,
    pub(super) db: PathBuf,
    pub(super) proxy: Proxy,
    relay: Relay,
    /// Bytes of all bodies that went to the receiver.
    carried: Arc<AtomicU64>,
    block_bytes: u64,
    pub(super) chooser: Chooser,
    /// The source as it is.
    pub(super) model: Model,
    /// As it was at each pass that ended; the last is what the receiver has.
    pub(super) passes: Vec<Model>,
    /// Whether the last pass made one generation of the one before, so that `rewind` leads there.
    can_rewind: bool,
    /// Whether the next pass has to bring the whole index.
    index_is_new: bool,
    /// How long a pass takes without trouble.
    usual: Duration,
    /// Everything so far, printed if the test fails.
    story: Vec<String>,
    name: String,
}

impl World {
    pub(super) fn new(seed: u64, large: bool, block_bytes: u64) -> Self {
        let lab = Lab::in_memory(1 << 30);
        let (src, dst, db) = (lab.dir("src"), lab.dir("dst"), lab.path("index.sqlite"));
        let proxy = lab.proxy(&dst);
        let carried = Arc::new(AtomicU64::new(0));
        let count = carried.clone();
        let relay = Relay::start(proxy.addr, move |_, request| {
            count.fetch_add(request.body.len() as u64, Ordering::SeqCst);
            Fate::Pass
        });
        let chooser = Chooser { rng: Rng::new(seed), large, mirrors: DELETE, folders: Default::default() };
        Self {
            lab,
            src,
            dst,
            db,
            proxy,
            relay,
            carried,
            block_bytes,
            chooser,
            model: Model::default(),
            passes: Vec::new(),
            can_rewind: false,
            index_is_new: false,
            usual: Duration::from_millis(300),
            story: Vec::new(),
            name: format!("seed {seed}, large {large}, blocks of {block_bytes}"),
        }
    }

    pub(super) fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    fn below(&mut self, end: u64) -> u64 {
        self.chooser.rng.below(end)
    }

    /// Lets so many things happen to the source.
    pub(super) fn live(&mut self, steps: usize) {
        for _ in 0..steps {
            let step = self.chooser.step(&self.model);
            self.happen(step);
        }
    }

    /// What a tree begins with.
    pub(super) fn fill(&mut self, steps: usize, large_files: usize) {
        while self.model.names.len() < steps {
            self.live(1);
        }
        let mut made = 0;
        while made < large_files {
            if let Some(step) = self.chooser.large_file(&self.model) {
                self.happen(step);
                made += 1;
            }
        }
    }

    pub(super) fn happen(&mut self, step: Step) {
        self.tell(format!("{step:?}"));
        self.model.apply(&step);
        apply(&self.src, &step);
        settle(&self.src, &self.model);
    }

    pub(super) fn fault(&mut self) -> Fault {
        let call = CALLS[self.below(CALLS.len() as u64) as usize];
        let when = 1 + self.below(8) as u32;
        match self.below(12) {
            0..3 => Fault::KillSender,
            3..6 => Fault::KillReceiver,
            6..8 => Fault::KillSenderAt(call, when),
            8..9 => Fault::KillReceiverAt(call, when),
            9..10 => Fault::Tamper,
            _ => Fault::Race,
        }
    }

    fn command(&self) -> Cmd {
        let mut args = args!["sync", self.src, self.relay.url, "-db", self.db, "--json"];
        args.extend(args!["-dbp", self.lab.path("progress.sqlite"), "-s", self.block_bytes.to_string()]);
        if self.chooser.mirrors {
            args.extend(args!["--delete", "--max-delete", "100%"]);
        }
        if REWIND {
            args.extend(args!["--keep", "2"]);
        }
        self.lab.cmd(args)
    }

    /// One pass, with something going wrong, and then without; the copy is right, and no more was sent than had to be.
    pub(super) fn pass(&mut self, fault: Fault) {
        // A pass that is cut may have made them there, too.
        self.note_folders();
        self.tell(format!("--- pass {} with {fault:?}", self.passes.len() + 1));
        match fault {
            Fault::Nothing => {}
            Fault::KillSender => {
                let mut sender = self.command().spawn();
                sleep_some(&mut self.chooser.rng, self.usual);
                sender.kill9();
                // The source goes on meanwhile, or it does not.
                let steps = self.below(3) as usize;
                self.live(steps);
            }
            Fault::KillSenderAt(call, when) => {
                let rule = format!("{call}:signal=KILL:when={when}");
                let output = self.command().inject(&[&rule], &[]).run();
                self.tell(format!("    it ended with {}", output.code));
                assert!(matches!(output.code, 0 | 137), "{output:?}");
            }
            Fault::KillReceiver => {
                let sender = self.command().spawn();
                sleep_some(&mut self.chooser.rng, self.usual);
                self.proxy.kill9();
                self.proxy.restart();
                sender.wait().code(0);
            }
            Fault::KillReceiverAt(call, when) => self.kill_receiver_at(call, when),
            Fault::Tamper => self.tamper(),
            Fault::Race => {
                let sender = self.command().spawn();
                let steps = 1 + self.below(4);
                for _ in 0..steps {
                    sleep_some(&mut self.chooser.rng, self.usual / steps as u32);
                    self.live(1);
                }
                let output = sender.wait();
                self.tell(format!("    it ended with {}", output.code));
                assert!(matches!(output.code, 0 | 3), "{output:?}");
            }
        }
        self.quiet_pass(fault);
    }

    fn quiet_pass(&mut self, fault: Fault) {
        let before = self.carried.load(Ordering::SeqCst);
        let start = Instant::now();
        let output = self.command().run().code(0);
        if fault == Fault::Nothing {
            self.usual = (self.usual * 3 + start.elapsed()) / 4;
        }
        self.assert_same();
        let carried = self.carried.load(Ordering::SeqCst) - before;
        if fault == Fault::Nothing {
            self.assert_cheap(&output, carried);
        }
        let changed = self.passes.last().is_some_and(|former| self.model.cost_after(former).1 > 0);
        self.can_rewind = fault == Fault::Nothing && changed && !self.index_is_new;
        self.index_is_new = false;
        // The receiver has now what the model has.
        self.note_folders();
        self.passes.push(self.model.clone());
        if BACKUP {
            let file = self.lab.path("backup");
            self.lab.run(args!["history", "backup", file, "-db", self.db]).code(0);
        }
    }

    /// What may be done between two passes.
    pub(super) fn between_passes(&mut self) {
        match self.below(8) {
            0 | 1 if REWIND && self.can_rewind => self.rewind(),
            2 if COMPACT => self.compact(),
            3 if BACKUP => self.restore(),
            _ => {}
        }
    }

    /// Index and copy go back to the pass before, and no further. The source stays.
    fn rewind(&mut self) {
        self.tell("--- rewind".into());
        let rewind = |world: &Self| world.lab.run(args!["rewind", world.relay.url, "-db", world.db]);
        rewind(self).code(0);
        self.passes.pop();
        let former = self.passes.last().unwrap();
        let mirrors = self.chooser.mirrors;
        assert_eq!(differences(former, &self.dst, mirrors), Vec::<String>::new(), "after a rewind");
        let again = rewind(self);
        assert!(again.code != 0 && !again.stderr.is_empty(), "a second rewind: {again:?}");
        assert_eq!(differences(former, &self.dst, mirrors), Vec::<String>::new(), "after a refused rewind");
        self.can_rewind = false;
    }

    /// Folders of now may be at the receiver from here on.
    fn note_folders(&mut self) {
        let folders = self.model.names.iter().filter(|(_, node)| matches!(node, Node::Folder { .. }));
        self.chooser.folders.extend(folders.map(|(name, _)| name.clone()));
    }

    /// The archive is laid out afresh; the receiver keeps what it has.
    fn compact(&mut self) {
        self.tell("--- compact".into());
        self.lab.run(args!["compact", "-db", self.db]).code(0);
        self.index_is_new = true;
        self.quiet_pass(Fault::Nothing);
    }

    /// The database is lost, and comes back out of its backup.
    fn restore(&mut self) {
        self.tell("--- restore".into());
        std::fs::remove_file(&self.db).unwrap();
        let file = self.lab.path("backup");
        self.lab.run(args!["history", "restore", file, "-db", self.db]).code(0);
        self.quiet_pass(Fault::Nothing);
        self.can_rewind = false;
    }

    #[track_caller]
    pub(super) fn assert_same(&self) {
        let there = differences(&self.model, &self.dst, self.chooser.mirrors);
        if !there.is_empty() {
            // A mistake of the test's own would show here as well.
            let here = differences(&self.model, &self.src, true);
            panic!("the copy is wrong: {there:#?}\nof the source the model says: {here:#?}");
        }
    }

    fn assert_cheap(&mut self, output: &Output, carried: u64) {
        let former = self.passes.last().cloned().unwrap_or_default();
        let (mut content, mut names) = self.model.cost_after(&former);
        // A fresh index lays every file out, the same content twice, too.
        if !DELTA || self.passes.is_empty() {
            content = self.model.bytes();
        }
        if !DELTA || self.index_is_new {
            names = self.model.names.len() as u64;
        }
        // What is new is one range of the archive, so that only its first and its last block can hold something else.
        let bound = content + 2 * self.block_bytes;
        let sent = output.summary()["wire_bytes"].as_u64().unwrap();
        self.tell(format!("    sent {sent} of at most {bound}, with the index {carried}"));
        // Chunks are as long as the content has it.
        assert!(sent <= bound + bound / 2 + 4096, "sent {sent} bytes, at most {bound} had to be");
        let index_bytes = carried - sent;
        let most = 64 * 1024 + names * 1024;
        assert!(index_bytes <= most, "{index_bytes} bytes of index for {names} names, at most {most}");
    }

    fn kill_receiver_at(&mut self, call: &'static str, when: u32) {
        let port = self.proxy.addr.port();
        self.proxy.kill9();
        let rule = format!("{call}:signal=KILL:when={when}");
        let mut receiver = self.lab.proxy_cmd(port, &self.dst).inject(&[&rule], &[]).spawn();
        let mut sender = self.command().spawn();
        let start = Instant::now();
        while !receiver.has_ended() && !sender.has_ended() {
            assert!(start.elapsed() < Duration::from_secs(60), "{}", receiver.stderr_so_far());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.tell(format!("    the receiver was killed: {}", receiver.has_ended()));
        receiver.kill9();
        self.proxy.restart();
        sender.wait().code(0);
    }

    /// Somebody writes to files of the copy, and removes some; what is not as it was published is sent again.
    fn tamper(&mut self) {
        let Some(last) = self.passes.last().cloned() else { return };
        let names: Vec<&String> = last.names.keys().filter(|name| last.file(name).is_some()).collect();
        for _ in 0..1 + self.below(3) {
            if names.is_empty() {
                return;
            }
            let name = names[self.below(names.len() as u64) as usize];
            let path = self.dst.join(name);
            if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                continue;
            }
            let how = self.below(4);
            self.tell(format!("    somebody does {how} to {name:?} of the copy"));
            match how {
                0 => std::fs::remove_file(&path).unwrap(),
                1 => std::fs::write(&path, "not what was published").unwrap(),
                2 => set_mtime(&path, 1_000_000_000_000_000_001),
                _ => {
                    let bytes = std::fs::read(&path).unwrap();
                    let changed = bytes.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>();
                    std::fs::write(&path, changed).unwrap();
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}; TARLIKE_TEST_SEED as printed above repeats it. What happened:", self.name);
            for line in &self.story {
                println!("  {line}");
            }
        }
    }
}
