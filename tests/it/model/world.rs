//! A source that lives, a receiver, and passes between them.

use super::disk::{apply, differences, settle};
use super::steps::{Chooser, Step};
use super::switches::{BACKUP, COMPACT, DELETE, DELTA, REWIND};
use super::tree::{Model, Node};
use crate::support::relay::{Fate, Relay};
use crate::support::stress::sleep_some;
use crate::support::{Cmd, Lab, Output, Proxy, Rng, is_root, need_tool, set_mtime};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    /// Files of the copy are changed at the receiver.
    Tamper,
    /// The source changes while it is read.
    Race,
    /// Files of the copy can be neither changed nor replaced nor deleted.
    Immutable,
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
    /// Whether the last pass made one generation of the previous one, so that `rewind` leads there.
    can_rewind: bool,
    /// Whether the next pass has to bring the whole index.
    index_is_new: bool,
    /// A second destination of the same index, and what it has.
    second: PathBuf,
    second_has: Option<Model>,
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
        let second = lab.path("second");
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
            second,
            second_has: None,
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
        match self.below(13) {
            0..3 => Fault::KillSender,
            3..6 => Fault::KillReceiver,
            6..8 => Fault::KillSenderAt(call, when),
            8..9 => Fault::KillReceiverAt(call, when),
            9..10 => Fault::Tamper,
            10..11 => Fault::Race,
            _ if is_root() => Fault::Immutable,
            _ => Fault::Race,
        }
    }

    fn command(&self) -> Cmd {
        self.command_to(self.relay.url.as_ref())
    }

    fn command_to(&self, destination: &OsStr) -> Cmd {
        let mut args = args!["sync", self.src, destination, "-db", self.db, "--json"];
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
            Fault::Immutable => self.immutable(),
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
        self.quiet_pass_by(self.command(), fault);
    }

    fn quiet_pass_by(&mut self, command: Cmd, fault: Fault) {
        let before = self.carried.load(Ordering::SeqCst);
        let start = Instant::now();
        let output = command.run().code(0);
        if fault == Fault::Nothing {
            self.usual = (self.usual * 3 + start.elapsed()) / 4;
        }
        self.assert_same();
        let carried = self.carried.load(Ordering::SeqCst) - before;
        if fault == Fault::Nothing {
            let sent = self.assert_cheap(&output, self.passes.last());
            let names = if !DELTA || self.index_is_new || self.passes.is_empty() {
                self.model.names.len() as u64
            } else {
                self.model.cost_after(self.passes.last().unwrap()).1
            };
            let (index_bytes, most) = (carried - sent, 64 * 1024 + names * 1024);
            assert!(index_bytes <= most, "{index_bytes} bytes of index for {names} names, at most {most}");
            self.tell(format!("    sent {sent}, with the index {carried}"));
        }
        let changed = self.passes.last().is_some_and(|previous| self.model.cost_after(previous).1 > 0);
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
        match self.below(14) {
            0..3 if REWIND && self.can_rewind => self.rewind(),
            3 if COMPACT => self.compact(),
            4 | 5 if BACKUP => self.restore(),
            6 => self.begin_a_new_index("the index is made again", &["--clean"]),
            7 => {
                std::fs::remove_file(&self.db).unwrap();
                self.begin_a_new_index("the index is lost", &[]);
            }
            8 => {
                std::fs::remove_file(&self.db).unwrap();
                self.begin_a_new_index("the index is lost, the copy is adopted", &["--adopt"]);
            }
            9 | 10 => self.sync_to_the_second(),
            _ => {}
        }
    }

    /// Index and copy go back to the pass before, and no further. The source stays.
    fn rewind(&mut self) {
        self.tell("--- rewind".into());
        let rewind = |world: &Self| world.lab.run(args!["rewind", world.relay.url, "-db", world.db]);
        rewind(self).code(0);
        self.passes.pop();
        let previous = self.passes.last().unwrap();
        let mirrors = self.chooser.mirrors;
        assert_eq!(differences(previous, &self.dst, mirrors), Vec::<String>::new(), "after a rewind");
        let again = rewind(self);
        assert!(again.code != 0 && !again.stderr.is_empty(), "a second rewind: {again:?}");
        assert_eq!(differences(previous, &self.dst, mirrors), Vec::<String>::new(), "after a refused rewind");
        self.can_rewind = false;
    }

    /// Folders of now may be at the receiver from here on.
    fn note_folders(&mut self) {
        let folders = self.model.names.iter().filter(|(_, node)| matches!(node, Node::Folder { .. }));
        self.chooser.folders.extend(folders.map(|(name, _)| name.clone()));
    }

    /// The archive is compacted; the receiver keeps its files.
    fn compact(&mut self) {
        self.tell("--- compact".into());
        self.lab.run(args!["compact", "-db", self.db]).code(0);
        self.renew_index();
        self.quiet_pass(Fault::Nothing);
    }

    /// A pass with an index that has nothing in common with the previous one: whatever it was, the copy is right and nothing that is
    /// there is sent.
    fn begin_a_new_index(&mut self, how: &str, options: &[&str]) {
        self.tell(format!("--- {how}"));
        std::fs::remove_file(self.lab.path("backup")).unwrap();
        self.renew_index();
        let command = self.command().args(options.iter().map(Into::into).collect());
        self.quiet_pass_by(command, Fault::Nothing);
        self.can_rewind = false;
    }

    /// The next index has nothing in common with that of the receivers: it comes whole. A receiver that missed changes as well finds again
    /// what has kept its path, and no more is promised.
    fn renew_index(&mut self) {
        self.index_is_new = true;
        self.second_has = self.second_has.take().map(|_| Model::default());
    }

    /// The same index serves a second destination, which missed some generations; that costs what they are, and the first
    /// destination nothing.
    fn sync_to_the_second(&mut self) {
        self.tell("--- to the second destination".into());
        let output = self.command_to(self.second.as_os_str()).run().code(0);
        let there = differences(&self.model, &self.second, self.chooser.mirrors);
        assert_eq!(there, Vec::<String>::new(), "the second copy is wrong");
        self.assert_cheap(&output, self.second_has.as_ref());
        self.second_has = Some(self.model.clone());
        // The index may have got a generation that the first destination never had.
        self.can_rewind = false;
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

    /// No more was sent to a destination that has `previous` than that costs. Returns how much was.
    fn assert_cheap(&self, output: &Output, previous: Option<&Model>) -> u64 {
        // A fresh index lays every file out, the same content twice, too.
        let content = match previous {
            Some(previous) if DELTA => self.model.cost_after(previous).0,
            _ => self.model.bytes(),
        };
        // What is new is one range of the archive, so that only its first and its last block can hold something else.
        let bound = content + 2 * self.block_bytes;
        let sent = output.summary()["wire_bytes"].as_u64().unwrap();
        // Chunks are as long as the content has it.
        assert!(sent <= bound + bound / 2 + 4096, "sent {sent} bytes, at most {bound} had to be");
        sent
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

    /// Some files of the copy are immutable during a pass: they stay as they were, and every other change arrives.
    fn immutable(&mut self) {
        let Some(last) = self.passes.last().cloned() else { return };
        let names: Vec<&String> = last.names.keys().filter(|name| last.file(name).is_some()).collect();
        let mut fixed: Vec<(String, PathBuf)> = Vec::new();
        for _ in 0..1 + self.below(2) {
            let Some(name) = names.get(self.below(names.len().max(1) as u64) as usize) else { return };
            let path = self.dst.join(name);
            if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) && set_immutable(&path, true) {
                fixed.push(((*name).clone(), path));
            }
        }
        self.tell(format!(
            "    immutable in the copy: {:?}",
            fixed.iter().map(|(name, _)| name).collect::<Vec<_>>()
        ));
        let output = self.command().run();
        self.tell(format!("    it ended with {}", output.code));
        // A name of an immutable inode, in this run or the previous one, keeps its place: that concerns the folders
        // above it, and what is to lie beneath it where it is to become a folder. A new name of it cannot be made.
        let blocked: BTreeSet<&String> = fixed
            .iter()
            .flat_map(|(name, _)| {
                let inode = last.names.get(name);
                let names = last.names.iter().chain(&self.model.names);
                names.filter(move |(_, node)| Some(*node) == inode).map(|(name, _)| name).chain([name])
            })
            .collect();
        // Lines begin with the quoted name, or with a list of names.
        let concerns = |line: &str, name: &str| {
            let above = Path::new(name).ancestors().filter_map(Path::to_str).filter(|path| !path.is_empty());
            let is_above = above.into_iter().any(|path| line.contains(&format!("{path:?}")));
            let quoted = format!("{name:?}");
            is_above || line.contains(&format!("{}/", &quoted[..quoted.len() - 1]))
        };
        let shares = |line: &String| blocked.iter().any(|name| concerns(line, name));
        let mut wrong = differences(&self.model, &self.dst, self.chooser.mirrors);
        let any = !wrong.is_empty();
        wrong.retain(|line| !shares(line));
        for (_, path) in &fixed {
            set_immutable(path, false);
        }
        assert!(matches!((output.code, any), (0, false) | (3, _)), "{output:?}");
        // While a file is not in place nothing is deleted, and neither is what only follows from that.
        wrong.retain(|line| !line.ends_with("is too much"));
        assert_eq!(
            wrong,
            Vec::<String>::new(),
            "an immutable file kept others from their places: {output:?}"
        );
    }

    /// Files of the copy are written to, and some are removed; the next run sends each of them again.
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
            self.tell(format!("    {how} of {name:?} in the copy"));
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

/// Whether the file system has that flag, and the file has it now.
fn set_immutable(path: &Path, immutable: bool) -> bool {
    need_tool("chattr", "apt-get install e2fsprogs");
    let flag = if immutable { "+i" } else { "-i" };
    Command::new("chattr").arg(flag).arg(path).output().unwrap().status.success()
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
