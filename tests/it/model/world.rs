//! A source that changes, a receiver, and runs between them.

use super::disk::{apply, differences, set_metadata};
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

/// The fault during a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    Nothing,
    KillSender,
    KillReceiver,
    /// Kills the sender at the Nth of these calls of one of its threads.
    KillSenderAt(&'static str, u32),
    KillReceiverAt(&'static str, u32),
    /// Changes files of the copy at the receiver.
    Tamper,
    /// The source changes while it is read.
    Race,
    /// Makes files of the copy immutable.
    Immutable,
}

/// Calls that separate durable work from work that is not.
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
    /// Bytes of all bodies that were sent to the receiver.
    carried: Arc<AtomicU64>,
    block_bytes: u64,
    pub(super) chooser: Chooser,
    /// The present source.
    pub(super) model: Model,
    /// The source at each run that ended; the receiver has the last one.
    pub(super) runs: Vec<Model>,
    /// Whether the last run made one generation of the previous one, so that `rewind` leads there.
    can_rewind: bool,
    /// Whether the next run has to send the whole index.
    index_is_new: bool,
    /// A second destination of the same index, and its state.
    second: PathBuf,
    second_has: Option<Model>,
    /// The source at each run that ended since then.
    second_missed: Vec<Model>,
    /// How long a run without a fault takes.
    usual: Duration,
    /// The steps so far, printed if the test fails.
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
            runs: Vec::new(),
            can_rewind: false,
            index_is_new: false,
            second,
            second_has: None,
            second_missed: Vec::new(),
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

    /// Makes so many steps at the source.
    pub(super) fn live(&mut self, steps: usize) {
        for _ in 0..steps {
            let step = self.chooser.step(&self.model);
            self.happen(step);
        }
    }

    /// The first contents of a tree.
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
        set_metadata(&self.src, &self.model);
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

    /// One run with a fault, and then one without; the copy is right, and no more was sent than
    /// necessary.
    pub(super) fn run(&mut self, fault: Fault) {
        // An interrupted run may have made them there, too.
        self.note_folders();
        self.tell(format!("--- run {} with {fault:?}", self.runs.len() + 1));
        match fault {
            Fault::Nothing => {}
            Fault::KillSender => {
                let mut sender = self.command().spawn();
                sleep_some(&mut self.chooser.rng, self.usual);
                sender.kill9();
                // The source changes meanwhile, or it does not.
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
        self.quiet_run(fault);
    }

    fn quiet_run(&mut self, fault: Fault) {
        self.quiet_run_by(self.command(), fault);
    }

    fn quiet_run_by(&mut self, command: Cmd, fault: Fault) {
        let before = self.carried.load(Ordering::SeqCst);
        let start = Instant::now();
        let output = command.run().code(0);
        if fault == Fault::Nothing {
            self.usual = (self.usual * 3 + start.elapsed()) / 4;
        }
        self.assert_same();
        let carried = self.carried.load(Ordering::SeqCst) - before;
        if fault == Fault::Nothing {
            let sent = self.assert_cheap(&output, self.runs.last());
            let names = if !DELTA || self.index_is_new || self.runs.is_empty() {
                self.model.names.len() as u64
            } else {
                self.model.cost_after(self.runs.last().unwrap()).1
            };
            let (index_bytes, most) = (carried - sent, 64 * 1024 + names * 1024);
            assert!(index_bytes <= most, "{index_bytes} bytes of index for {names} names, at most {most}");
            self.tell(format!("    sent {sent}, with the index {carried}"));
        }
        let changed = self.runs.last().is_some_and(|previous| self.model.cost_after(previous).1 > 0);
        self.can_rewind = fault == Fault::Nothing && changed && !self.index_is_new;
        self.index_is_new = false;
        // The receiver now equals the model.
        self.note_folders();
        self.runs.push(self.model.clone());
        if self.second_has.is_some() {
            self.second_missed.push(self.model.clone());
        }
        if BACKUP {
            let file = self.lab.path("backup");
            self.lab.run(args!["history", "backup", file, "-db", self.db]).code(0);
        }
    }

    /// Steps between two runs.
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

    /// Index and copy go back to the previous run, and no further. The source stays.
    fn rewind(&mut self) {
        self.tell("--- rewind".into());
        let rewind = |world: &Self| world.lab.run(args!["rewind", world.relay.url, "-db", world.db]);
        rewind(self).code(0);
        self.runs.pop();
        let previous = self.runs.last().unwrap();
        let mirrors = self.chooser.mirrors;
        assert_eq!(differences(previous, &self.dst, mirrors), Vec::<String>::new(), "after a rewind");
        let again = rewind(self);
        assert!(again.code != 0 && !again.stderr.is_empty(), "a second rewind: {again:?}");
        assert_eq!(differences(previous, &self.dst, mirrors), Vec::<String>::new(), "after a refused rewind");
        self.can_rewind = false;
    }

    /// The present folders may be at the receiver from here on.
    fn note_folders(&mut self) {
        let folders = self.model.names.iter().filter(|(_, node)| matches!(node, Node::Folder { .. }));
        self.chooser.folders.extend(folders.map(|(name, _)| name.clone()));
    }

    /// The archive is compacted; the receiver keeps its files.
    fn compact(&mut self) {
        self.tell("--- compact".into());
        self.lab.run(args!["compact", "-db", self.db]).code(0);
        self.renew_index();
        self.quiet_run(Fault::Nothing);
    }

    /// A run with an index that is unrelated to the previous one: the copy is right, and content
    /// that the receiver has is not sent.
    fn begin_a_new_index(&mut self, how: &str, options: &[&str]) {
        self.tell(format!("--- {how}"));
        std::fs::remove_file(self.lab.path("backup")).unwrap();
        self.renew_index();
        let command = self.command().args(options.iter().map(Into::into).collect());
        self.quiet_run_by(command, Fault::Nothing);
        self.can_rewind = false;
    }

    /// The next index is unrelated to those of the receivers: it goes as a whole. A receiver that
    /// also missed changes finds files that kept their paths, and no more is promised.
    fn renew_index(&mut self) {
        self.index_is_new = true;
        self.second_has = None;
        self.second_missed.clear();
    }

    /// The same index serves a second destination, which missed some generations. It gets what
    /// these cost, and the first destination gets nothing.
    fn sync_to_the_second(&mut self) {
        self.tell("--- to the second destination".into());
        let output = self.command_to(self.second.as_os_str()).run().code(0);
        let there = differences(&self.model, &self.second, self.chooser.mirrors);
        assert_eq!(there, Vec::<String>::new(), "the second copy is wrong");
        let most = self.content_after(self.second_has.as_ref()) + self.homeless_bytes();
        self.assert_at_most(&output, most);
        self.second_has = Some(self.model.clone());
        self.second_missed.clear();
        // The index may have got a generation that the first destination never had.
        self.can_rewind = false;
    }

    /// The database is lost, and restored from its backup.
    fn restore(&mut self) {
        self.tell("--- restore".into());
        std::fs::remove_file(&self.db).unwrap();
        let file = self.lab.path("backup");
        self.lab.run(args!["history", "restore", file, "-db", self.db]).code(0);
        self.quiet_run(Fault::Nothing);
        self.can_rewind = false;
    }

    #[track_caller]
    pub(super) fn assert_same(&self) {
        let there = differences(&self.model, &self.dst, self.chooser.mirrors);
        if !there.is_empty() {
            // A mistake of the test itself would show here as well.
            let here = differences(&self.model, &self.src, true);
            panic!("the copy is wrong: {there:#?}\nof the source the model says: {here:#?}");
        }
    }

    /// Fails if more was sent to a destination with `previous` than the difference costs. Returns
    /// how much was sent.
    fn assert_cheap(&self, output: &Output, previous: Option<&Model>) -> u64 {
        self.assert_at_most(output, self.content_after(previous))
    }

    /// The content that a destination with `previous` does not have.
    fn content_after(&self, previous: Option<&Model>) -> u64 {
        match previous {
            Some(previous) if DELTA => self.model.cost_after(previous).0,
            // A new index lays out every file, the same content twice, too.
            _ => self.model.bytes(),
        }
    }

    /// Content that the second destination may lose while it gets several generations. In the place
    /// of a folder a file comes only at the end. Until then its content is copied from its previous
    /// name by each of them, and that name may be taken by the first.
    fn homeless_bytes(&self) -> u64 {
        if self.second_missed.len() < 2 {
            return 0;
        }
        let states: Vec<&Model> = self.second_has.iter().chain(&self.second_missed).collect();
        let homeless = |pair: &[&Model]| {
            let files = pair[1].names.keys().filter(|name| pair[0].is_folder(name));
            files
                .filter_map(|name| pair[1].file(name))
                .map(|file| file.content.bytes.len() as u64)
                .sum::<u64>()
        };
        states.windows(2).map(homeless).sum()
    }

    /// Fails if more was sent than `content` takes. Returns how much that was.
    #[track_caller]
    fn assert_at_most(&self, output: &Output, content: u64) -> u64 {
        // The new content is one range of the archive, so only its first and last block can hold
        // something else.
        let bound = content + 2 * self.block_bytes;
        let sent = output.summary()["wire_bytes"].as_u64().unwrap();
        // The content decides how long chunks are.
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

    /// Some files of the copy are immutable during a run: they stay, and every other change
    /// arrives.
    fn immutable(&mut self) {
        let Some(last) = self.runs.last().cloned() else { return };
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
        // A name of an immutable inode, in this run or the previous one, keeps its place. So do the
        // folders above it, and entries beneath it if it is to become a folder. No new name of it
        // can be made.
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
        // While a file is not in place nothing is deleted, nor are the consequences of a deletion
        // expected.
        wrong.retain(|line| !line.ends_with("is too much"));
        assert_eq!(
            wrong,
            Vec::<String>::new(),
            "an immutable file kept others from their places: {output:?}"
        );
    }

    /// Another program writes to files of the copy and removes some; the next run sends each of
    /// them again.
    fn tamper(&mut self) {
        let Some(last) = self.runs.last().cloned() else { return };
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

/// Whether the file system has the flag, and the file has it now.
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
