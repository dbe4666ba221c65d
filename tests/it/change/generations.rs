//! The same over generations: the receiver has the first generation; the source changes and is
//! indexed again; then it changes once more, between index and upload and during the upload.
//! Damaged files whose bytes are needed are named, and stay at the receiver as in the first
//! generation. Files that need no bytes arrive, whatever happens to them at the source (P2, P3, P4,
//! P5, P6).

use super::{Change, Change::*, Setting, copy, only_named};
use crate::support::{Cmd, Output, Proxy, Tree, assert_same_tree, tree_diff, wait_until};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A source in its second generation, which is indexed, and the folder of a receiver that has the
/// first generation and is not running.
pub(super) struct Second {
    pub(super) setting: Setting,
    /// The source as it was in its first generation.
    pub(super) first: PathBuf,
    received: PathBuf,
}

impl Second {
    pub(super) fn new(first: fn(&mut Tree), second: fn(&mut Tree)) -> Self {
        let mut setting = Setting::new(first);
        let (received, proxy) = setting.receiver();
        setting.lab.upload(&setting.src, &setting.db, &proxy.url, vec![]).code(0);
        proxy.term_and_wait().code(0);
        let first = setting.lab.path("first");
        std::fs::rename(&setting.twin, &first).unwrap();
        second(&mut Tree::new(&setting.src, 203));
        copy(&setting.src, &setting.twin);
        setting.lab.run(args!["index", "-b", setting.src, "-db", setting.db]).code(0);
        Self { setting, first, received }
    }

    /// A receiver of its own with the first generation.
    pub(super) fn receiver(&mut self) -> (PathBuf, Proxy) {
        self.setting.runs += 1;
        let dst = self.setting.lab.path(&format!("dst-{}", self.setting.runs));
        copy(&self.received, &dst);
        let proxy = self.setting.lab.proxy(&dst);
        (dst, proxy)
    }

    /// The upload of the second generation.
    pub(super) fn upload(&self, change: Change, url: &str, more: &[&str]) -> Cmd {
        let setting = &self.setting;
        let more = ["--json", "--delete"].iter().chain(more).map(Into::into).collect();
        let cmd = setting.lab.upload_cmd(&setting.src, &setting.db, url, more);
        if change == Unreadable { setting.lab.unprivileged(cmd) } else { cmd }
    }

    /// What the second generation adds to the archive.
    pub(super) fn tail_bytes(&mut self) -> u64 {
        let (_, proxy) = self.receiver();
        let planned = self.upload(Vanishes, &proxy.url, &["--dry-run"]).run().code(0).summary();
        planned["sent_bytes"].as_u64().unwrap()
    }

    /// Uploads slowly, in small blocks, and does `damage` when `sent_bytes` of the tail have
    /// arrived and `ready` is true.
    pub(super) fn while_sending(
        &self,
        change: Change,
        proxy: &Proxy,
        sent_bytes: u64,
        ready: impl Fn() -> bool,
        damage: impl FnOnce(),
    ) -> Output {
        let left = || {
            let status = proxy.status(0);
            let bytes = |name: &str| status[name].as_u64().unwrap();
            (bytes("generation") > 1).then(|| bytes("total_bytes") - bytes("done_bytes"))
        };
        let slow = ["-p", "1", "-s", "4000", "--bwlimit", "1M", "--compress", "none"];
        let mut upload = self.upload(change, &proxy.url, &slow).spawn();
        let (patience, mut tail) = (Duration::from_secs(60), None);
        wait_until("some is sent", patience, || {
            let left = left();
            tail = tail.or(left);
            upload.has_ended() || left.zip(tail).is_some_and(|(left, tail)| left + sent_bytes < tail)
        });
        // The upload stands still while the source is damaged, so the progress does not depend on
        // luck.
        upload.signal(Signal::STOP);
        wait_until("what is done has its name", patience, ready);
        let left = left();
        damage();
        upload.signal(Signal::CONT);
        assert!(!upload.has_ended() && left > Some(100_000), "too late to be a test: {left:?}");
        upload.wait()
    }

    /// Fails unless `damaged` are at the receiver as in the first generation, entries that the
    /// second generation lacks are still there, and everything else is as in the second.
    #[track_caller]
    fn only_previous(&self, damaged: &[&str], dst: &Path, what: &str) {
        let is_of = |line: &str, path: &str| {
            line.strip_prefix(path).is_some_and(|rest| rest.starts_with(':'))
                || line == format!("missing: {path}")
        };
        // New files are missing, and `check` must report nothing else about them.
        for path in damaged {
            let is_new = !self.first.join(path).exists();
            let expected = if is_new { &self.setting.twin } else { &self.first };
            let mut said = tree_diff(expected, dst);
            said.retain(|line| is_of(line, path));
            let missing = if is_new { vec![format!("missing: {path}")] } else { vec![] };
            assert_eq!(said, missing, "{what}");
        }
        let mut rest = tree_diff(&self.setting.twin, dst);
        rest.retain(|line| !damaged.iter().any(|path| is_of(line, path)));
        assert_eq!(rest, extra(&self.first, &self.setting.twin), "{what}");
    }

    /// Restores the source, and lets the same command complete.
    fn completes(&self, change: Change, proxy: &Proxy, dst: &Path) {
        self.setting.restore();
        self.upload(change, &proxy.url, &[]).run().code(0);
        assert_same_tree(&self.setting.twin, dst);
    }
}

/// Entries of the first generation that the second lacks: nothing is deleted before everything is
/// in place.
fn extra(first: &Path, second: &Path) -> Vec<String> {
    let mut lines = tree_diff(second, first);
    lines.retain(|line| line.starts_with("extra: "));
    lines
}

/// Each in a folder of its own, so that a test can remove that folder, too.
pub(super) fn first(tree: &mut Tree) {
    tree.noise("changed/small", 3000)
        .noise("edited/large", 1_300_000)
        .noise("grown/log", 1_100_000)
        .noise("origin/file", 7000)
        .noise("removed/file", 2500)
        .noise("renamed/old", 6000)
        .noise("touched/file", 5000)
        .noise("unchanged/file", 4500);
}

/// All the changes that a source makes between two generations.
pub(super) fn second(tree: &mut Tree) {
    let mut content = std::fs::read(tree.path("edited/large")).unwrap();
    for at in [0, 600_000, 1_299_990] {
        content[at..at + 10].fill(7);
    }
    let grown = [std::fs::read(tree.path("grown/log")).unwrap(), tree.rng.noise(30_000)].concat();
    let copied = std::fs::read(tree.path("origin/file")).unwrap();
    tree.noise("changed/small", 3000)
        .file("edited/large", content)
        .file("grown/log", grown)
        .file("copied/file", copied)
        .noise("new/file", 9000)
        .remove("removed")
        .mtime("touched/file", 1_600_000_000_000_000_000);
    std::fs::rename(tree.path("renamed/old"), tree.path("renamed/new")).unwrap();
}

/// Files whose bytes the sender has to read.
const NEEDY: [&str; 4] = ["changed/small", "edited/large", "grown/log", "new/file"];

/// Files whose content the receiver has, under this name or another one. No run reads them, so no
/// run notices what happens to them at the source: the second generation arrives as it was indexed.
const FREE: [&str; 5] = ["copied/file", "origin/file", "renamed/new", "touched/file", "unchanged/file"];

/// The change of each file that needs bytes, each to a receiver of its own, and of all files that
/// need none.
fn everywhere(change: Change) {
    let mut second = Second::new(first, second);
    for place in NEEDY {
        let what = format!("{place} {change:?}");
        let (dst, proxy) = second.receiver();
        second.setting.apply(change, place);
        let upload = second.upload(change, &proxy.url, &[]).run();
        if change == Grows {
            // The indexed content still exists, and is sent.
            upload.code(0);
            assert_same_tree(&second.setting.twin, &dst);
        } else {
            only_named(&upload.code(3), &[place], &what);
            second.only_previous(&[place], &dst, &what);
        }
        second.completes(change, &proxy, &dst);
    }
    let (dst, proxy) = second.receiver();
    for place in FREE {
        second.setting.apply(change, place);
    }
    let summary = second.upload(change, &proxy.url, &[]).run().code(0).summary();
    assert_same_tree(&second.setting.twin, &dst);
    assert!(summary["sent_bytes"].as_u64().unwrap() < 1_000_000, "only what changed: {summary}");
    second.setting.restore();
}

/// A part of the second generation's tail has arrived, an edited file is under way, more comes
/// later.
fn while_it_runs(change: Change) {
    let mut second = Second::new(
        |tree| {
            tree.noise("m/now", 1_050_000)
                .noise("r/old", 40_000)
                .noise("s/small", 3000)
                .noise("u/free", 5000);
            tree.noise("y/later", 60_000).noise("z", 1000);
        },
        |tree| {
            let mut content = std::fs::read(tree.path("m/now")).unwrap();
            content[400_000..700_000].copy_from_slice(&tree.rng.noise(300_000));
            tree.noise("d/done", 60_000).file("m/now", content).noise("n", 2000).noise("s/small", 2000);
            tree.noise("y/later", 60_000).noise("zz", 3000);
            std::fs::rename(tree.path("r/old"), tree.path("r/free")).unwrap();
        },
    );
    let (dst, proxy) = second.receiver();
    let damage = || {
        for place in ["d/done", "m/now", "r/free", "s/small", "u/free", "y/later"] {
            second.setting.apply(change, place);
        }
    };
    let output = second.while_sending(change, &proxy, 150_000, || dst.join("d/done").exists(), damage);
    if change == Grows {
        output.code(0);
        assert_same_tree(&second.setting.twin, &dst);
    } else {
        let damaged = ["m/now", "s/small", "y/later"];
        only_named(&output.code(3), &damaged, &format!("{change:?}"));
        second.only_previous(&damaged, &dst, &format!("{change:?}"));
    }
    second.completes(change, &proxy, &dst);
}

/// Two new files of the same content, which is sent once: whatever happens to either, the other one
/// has the content, so both arrive.
fn one_of_two(change: Change) {
    let mut second = Second::new(
        |tree| {
            tree.noise("a", 1000);
        },
        |tree| {
            for (name, length) in [("small", 3000), ("blocks", 30_000), ("large", 1_100_000)] {
                let content = tree.rng.noise(length);
                for folder in ["m", "n"] {
                    tree.file(format!("{folder}/{name}"), &content);
                }
            }
        },
    );
    for folder in ["m", "n"] {
        let (dst, proxy) = second.receiver();
        for name in ["small", "blocks", "large"] {
            let place = format!("{folder}/{name}");
            // A change of another file may have removed the folder.
            if second.setting.src.join(&place).exists() {
                second.setting.apply(change, &place);
            }
        }
        second.upload(change, &proxy.url, &["-s", "20000"]).run().code(0);
        assert_same_tree(&second.setting.twin, &dst);
        second.setting.restore();
    }
}

each_change!(before: super::everywhere);
each_change!(during: super::while_it_runs);
each_change!(shared: super::one_of_two);
