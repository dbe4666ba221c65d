//! A source that changes between index and upload, and during the upload: the changed file is
//! named, its neighbours arrive byte for byte, and once the source is restored the same command
//! completes (P3, P4, P5, P6).

/// A test of each change; `$test` is what it calls, as seen from within the module.
macro_rules! each_change {
    ($module:ident: $test:path) => {
        each_change! { $module $test;
            shrinks: Shrinks, empties: Empties, grows: Grows, vanishes: Vanishes, replaced: Replaced,
            replaced_in_secret: ReplacedInSecret, rewritten_in_secret: RewrittenInSecret,
            becomes_link: BecomesLink, becomes_folder: BecomesFolder, becomes_fifo: BecomesFifo,
            unreadable: Unreadable, parent_becomes_link: ParentBecomesLink, parent_vanishes: ParentVanishes,
        }
    };
    ($module:ident $test:path; $($name:ident: $change:ident),* $(,)?) => {
        mod $module { $(#[test] fn $name() { $test(crate::change::Change::$change) })* }
    };
}

mod altered;
mod generations;
mod hosts;

use crate::support::stop::StopAtEnd;
use crate::support::stress::sleep_some;
use crate::support::{
    Cmd, Lab, Output, Proxy, Rng, Tree, assert_same_tree, set_mtime, tree_diff, wait_until,
};
use rustix::fs::{CWD, FileType, Mode};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SIZE: &str = "4000";

/// What happens to a file of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Shrinks,
    Empties,
    Grows,
    Vanishes,
    /// Same size, other content, new time; another file takes its name.
    Replaced,
    /// The same, and the time is set back.
    ReplacedInSecret,
    /// Written to in place, and its time set back.
    RewrittenInSecret,
    /// A link to a file with the same content.
    BecomesLink,
    BecomesFolder,
    BecomesFifo,
    /// The uploading user may not read it.
    Unreadable,
    /// Its folder becomes a link to the moved folder.
    ParentBecomesLink,
    ParentVanishes,
}

use Change::*;

impl Change {
    /// Makes the change to `path`, a file of `src`; `aside` is an empty folder for files that have
    /// to exist elsewhere.
    fn apply(self, src: &Path, path: &Path, aside: &Path) {
        let (file, parent) = (src.join(path), src.join(path).parent().unwrap().to_path_buf());
        let old = file.metadata().unwrap();
        let other = || Rng::new(77).noise(old.len() as usize);
        let mtime = |path: &Path| set_mtime(path, old.mtime() * 1_000_000_000 + old.mtime_nsec());
        let open = || std::fs::File::options().write(true).open(&file).unwrap();
        match self {
            Shrinks => open().set_len(old.len() - 1).unwrap(),
            Empties => open().set_len(0).unwrap(),
            Grows => open().set_len(old.len() + 1).unwrap(),
            Vanishes => std::fs::remove_file(&file).unwrap(),
            Replaced | ReplacedInSecret => {
                std::fs::write(aside.join("new"), other()).unwrap();
                if self == ReplacedInSecret {
                    mtime(&aside.join("new"));
                }
                std::fs::rename(aside.join("new"), &file).unwrap();
            }
            RewrittenInSecret => {
                std::os::unix::fs::FileExt::write_all_at(&open(), &other(), 0).unwrap();
                mtime(&file);
            }
            BecomesLink => {
                std::fs::rename(&file, aside.join("kept")).unwrap();
                symlink(aside.join("kept"), &file).unwrap();
            }
            BecomesFolder => {
                std::fs::remove_file(&file).unwrap();
                std::fs::create_dir(&file).unwrap();
            }
            BecomesFifo => {
                std::fs::remove_file(&file).unwrap();
                rustix::fs::mknodat(CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
            }
            Unreadable => std::fs::set_permissions(&file, PermissionsExt::from_mode(0o0)).unwrap(),
            ParentBecomesLink => {
                std::fs::rename(&parent, aside.join("kept")).unwrap();
                symlink(aside.join("kept"), &parent).unwrap();
            }
            ParentVanishes => std::fs::rename(&parent, aside.join("kept")).unwrap(),
        }
    }
}

/// A source, an unchanged twin of it, and its index.
struct Setting {
    lab: Lab,
    src: PathBuf,
    twin: PathBuf,
    db: PathBuf,
    runs: usize,
}

impl Setting {
    fn new(build: impl Fn(&mut Tree)) -> Self {
        let lab = Lab::new();
        let (src, twin) = (lab.path("src"), lab.path("twin"));
        for root in [&src, &twin] {
            build(Tree::new(root, 201).dir(""));
            // The same for both: the seed alone decides a folder's time.
            let mut tree = Tree::new(root, 202);
            tree.times();
        }
        let db = lab.index(&src);
        Self { lab, src, twin, db, runs: 0 }
    }

    /// A new receiver.
    fn receiver(&mut self) -> (PathBuf, Proxy) {
        self.runs += 1;
        let dst = self.lab.dir(&format!("dst-{}", self.runs));
        let proxy = self.lab.proxy(&dst);
        (dst, proxy)
    }

    fn upload(&self, change: Change, url: &str, more: &[&str]) -> Cmd {
        let more = ["-s", SIZE, "--json"].iter().chain(more).map(Into::into).collect();
        let cmd = self.lab.upload_cmd(&self.src, &self.db, url, more);
        // Root reads everything.
        if change == Unreadable { self.lab.unprivileged(cmd) } else { cmd }
    }

    fn apply(&self, change: Change, path: &str) {
        let aside = self.lab.path(&format!("aside-{}", path.replace('/', "-")));
        let _ = std::fs::remove_dir_all(&aside);
        std::fs::create_dir(&aside).unwrap();
        change.apply(&self.src, Path::new(path), &aside);
    }

    /// Makes the source equal to its twin again, including times.
    fn restore(&self) {
        std::fs::remove_dir_all(&self.src).unwrap();
        copy(&self.twin, &self.src);
    }
}

/// Copies a tree of folders and files, times and modes included.
fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// Fails unless exactly `paths` failed, by name, and the destination has everything else as the
/// twin does.
#[track_caller]
fn only_failed(output: &Output, paths: &[&str], twin: &Path, dst: &Path, what: &str) {
    only_named(output, paths, what);
    let missing: Vec<String> = paths.iter().map(|path| format!("missing: {path}")).collect();
    assert_eq!(tree_diff(twin, dst), missing, "{what}");
}

/// Fails unless exactly `paths` failed, by name.
#[track_caller]
fn only_named(output: &Output, paths: &[&str], what: &str) {
    let summary = output.summary();
    let failed: Vec<&str> =
        summary["failed"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(failed, paths, "{what}: {summary}");
    assert_eq!(summary["failed_total"], paths.len(), "{what}");
    assert_eq!(summary["complete"], false, "{what}");
    for path in paths {
        assert!(output.stderr.contains(path), "{what}: {path} is not on stderr: {}", output.stderr);
    }
}

/// Blocks of 4000: small files at the beginning, in the middle and at the end of block 0, one over
/// blocks 1 to 3, one that is block 4, some at the end.
fn layout(tree: &mut Tree) {
    tree.noise("a-first", 1000)
        .text("b-middle", 1000)
        .noise("c-last", 2000)
        .text("d-before", 500)
        .noise("e-spans", 9000)
        .noise("f-after", 2500);
    tree.noise("g-block", 4000).text("h/first", 1500).noise("z-tail", 1234).file("zz-empty", "");
}

const PLACES: [&str; 7] = ["a-first", "b-middle", "c-last", "e-spans", "g-block", "h/first", "z-tail"];

/// The change at every place of the layout, each to a receiver of its own.
fn everywhere(change: Change) {
    let mut setting = Setting::new(layout);
    let places: &[&str] =
        if matches!(change, ParentBecomesLink | ParentVanishes) { &["h/first"] } else { &PLACES };
    for place in places {
        let what = format!("{place} {change:?}");
        let (dst, proxy) = setting.receiver();
        setting.apply(change, place);
        let upload = setting.upload(change, &proxy.url, &[]).run();
        if change == Grows {
            // The indexed content still exists, and is sent.
            upload.code(0);
            assert_same_tree(&setting.twin, &dst);
        } else {
            only_failed(&upload.code(3), &[place], &setting.twin, &dst, &what);
        }
        setting.restore();
        setting.upload(change, &proxy.url, &[]).run().code(0);
        assert_same_tree(&setting.twin, &dst);
    }
}

/// During the upload: of three files the first has arrived, the second is under way, the third
/// comes later.
fn while_it_runs(change: Change) {
    let mut setting = Setting::new(|tree| {
        tree.noise("a/done", 60_000).noise("b", 1000).noise("m/now", 120_000).noise("n", 1000);
        tree.noise("y/later", 60_000).noise("z", 1000);
    });
    let (dst, proxy) = setting.receiver();
    let done_bytes = || {
        let answer = proxy.request("GET", "/tar/0/status", &[], b"");
        if answer.status == 200 { answer.json()["done_bytes"].as_u64().unwrap() } else { 0 }
    };
    let more = ["-p", "1", "--bwlimit", "64K", "--compress", "none"];
    let mut upload = setting.upload(change, &proxy.url, &more).spawn();
    wait_until("a third is sent", Duration::from_secs(60), || upload.has_ended() || done_bytes() > 80_000);
    for place in ["a/done", "m/now", "y/later"] {
        setting.apply(change, place);
    }
    assert!(
        !upload.has_ended() && done_bytes() < 150_000,
        "the change came too late to test anything: {}",
        done_bytes()
    );
    let output = upload.wait();
    if change == Grows {
        output.code(0);
        assert_same_tree(&setting.twin, &dst);
    } else {
        only_failed(&output.code(3), &["m/now", "y/later"], &setting.twin, &dst, &format!("{change:?}"));
    }
    setting.restore();
    setting.upload(change, &proxy.url, &[]).run().code(0);
    assert_same_tree(&setting.twin, &dst);
}

each_change!(before: super::everywhere);
each_change!(during: super::while_it_runs);

/// Does not restore the source, but indexes its present state.
#[test]
fn a_new_index_takes_the_change_in() {
    for change in [Shrinks, Empties, Grows, Vanishes, Replaced, BecomesLink, BecomesFolder] {
        let mut setting = Setting::new(layout);
        let (dst, proxy) = setting.receiver();
        setting.apply(change, "e-spans");
        setting.upload(change, &proxy.url, &[]).run().code(if change == Grows { 0 } else { 3 });
        setting.lab.index(&setting.src);
        setting.upload(change, &proxy.url, &[]).run().code(0);
        assert_same_tree(&setting.src, &dst);
    }
}

#[test]
fn thousands_of_files_of_one_block_vanish() {
    let name = |number: usize| format!("d{}/f{number:05}", number % 7);
    let setting = Setting::new(|tree| {
        for number in 0..6600 {
            tree.noise(name(number), 1 + number % 40);
        }
        tree.noise("large", 100_000);
    });
    let lab = &setting.lab;
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    // Every second file of each folder.
    let gone: Vec<String> = (0..6600).filter(|number| number / 7 % 2 == 0).map(name).collect();
    assert!(gone.len() > 3000);
    for path in &gone {
        std::fs::remove_file(setting.src.join(path)).unwrap();
    }
    let run = |code| lab.upload(&setting.src, &setting.db, &proxy.url, args!["--json"]).code(code);
    let output = run(3);
    assert_eq!(output.summary()["failed_total"], gone.len());
    let mut missing: Vec<String> = gone.iter().map(|path| format!("missing: {path}")).collect();
    missing.sort();
    assert_eq!(tree_diff(&setting.twin, &dst), missing);
    let unnamed: Vec<&String> = gone.iter().filter(|path| !output.stderr.contains(*path)).collect();
    assert!(unnamed.is_empty(), "{} are not on stderr: {:?}", unnamed.len(), &unnamed[..3]);
    setting.restore();
    run(0);
    assert_same_tree(&setting.twin, &dst);
    assert_eq!(proxy.blocks_accepted(), 2, "one block, twice");
}

#[test]
fn everything_vanishes() {
    let mut setting = Setting::new(layout);
    let (dst, proxy) = setting.receiver();
    for entry in std::fs::read_dir(&setting.src).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }
    let output = setting.upload(Vanishes, &proxy.url, &[]).run().code(3);
    assert_eq!(output.summary()["failed_total"], 9, "all but the empty one");
    assert_eq!(tree_diff(&setting.twin, &dst).len(), 9);
    setting.restore();
    setting.upload(Vanishes, &proxy.url, &[]).run().code(0);
    assert_same_tree(&setting.twin, &dst);
}

/// A file that is overwritten all the time, always with the same size and time: it arrives as
/// indexed or not at all.
#[test]
fn a_file_that_never_rests() {
    let mut setting = Setting::new(|tree| {
        tree.noise("a", 3000)
            .noise("b-restless", 50_000)
            .noise("c", 3000)
            .noise("d-restless", 900)
            .noise("e", 3000);
    });
    let (dst, proxy) = setting.receiver();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::new(5);
            while !stop.load(Ordering::SeqCst) {
                for (path, change) in [("b-restless", RewrittenInSecret), ("d-restless", ReplacedInSecret)] {
                    setting.apply(change, path);
                    sleep_some(&mut rng, Duration::from_millis(3));
                    let meta = setting.twin.join(path).metadata().unwrap();
                    let content = std::fs::read(setting.twin.join(path)).unwrap();
                    std::fs::write(setting.src.join(path), content).unwrap();
                    set_mtime(&setting.src.join(path), meta.mtime() * 1_000_000_000 + meta.mtime_nsec());
                    sleep_some(&mut rng, Duration::from_millis(3));
                }
            }
        });
        // Also when an assertion fails; otherwise the scope would wait for the thread for ever.
        let _stop = StopAtEnd(&stop);
        let mut caught = 0;
        for round in 0..60 {
            let output = setting.upload(Replaced, &proxy.url, &[]).run();
            let missing = tree_diff(&setting.twin, &dst);
            let allowed = ["missing: b-restless", "missing: d-restless"];
            assert!(missing.iter().all(|line| allowed.contains(&line.as_str())), "{missing:?}");
            assert!(
                matches!((output.code, missing.is_empty()), (3, false) | (0, true)),
                "{missing:?} {output:?}"
            );
            caught += missing.len();
            if round >= 8 && caught > 1 {
                break;
            }
            // Content that arrived has to be sent again, or later rounds would test nothing.
            for path in ["b-restless", "d-restless"] {
                let _ = std::fs::remove_file(dst.join(path));
            }
        }
        assert!(caught > 1, "the files were never read while they were changed");
    });
    setting.restore();
    setting.upload(Replaced, &proxy.url, &[]).run().code(0);
    assert_same_tree(&setting.twin, &dst);
}

/// A folder without permissions makes all its files fail, and no other file.
#[test]
fn a_folder_becomes_unreadable() {
    let mut setting = Setting::new(|tree| {
        layout(tree);
        tree.noise("h/second", 5000).file("h/zz-empty", "");
    });
    let (dst, proxy) = setting.receiver();
    std::fs::set_permissions(setting.src.join("h"), PermissionsExt::from_mode(0o0)).unwrap();
    let output = setting.upload(Unreadable, &proxy.url, &[]).run().code(3);
    only_failed(&output, &["h/first", "h/second"], &setting.twin, &dst, "folder");
    setting.restore();
    setting.upload(Unreadable, &proxy.url, &[]).run().code(0);
    assert_same_tree(&setting.twin, &dst);
}

/// Blocks of two sizes overlap: a block does not overwrite bytes that are durable and hashed
/// already.
#[test]
fn received_content_stays_when_its_source_changes() {
    let lab = Lab::new();
    let (src, dst) = (lab.dir("src"), lab.dir("dst"));
    let content = Rng::new(91).noise(10_000_000);
    std::fs::write(src.join("large"), &content).unwrap();
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    let first = args!["-s", "3000000", "-l", "1", "--json"];
    lab.upload(&src, &db, &proxy.url, first).code(0);
    // The first 6,000,000 bytes are durable; hashing them takes a moment.
    std::thread::sleep(Duration::from_secs(1));
    let mut changed = content.clone();
    changed[5_000_000..6_000_000].fill(b'x');
    std::fs::write(src.join("large"), &changed).unwrap();
    lab.upload(&src, &db, &proxy.url, args!["-s", "4000000"]).code(0);
    assert!(
        std::fs::read(dst.join("large")).unwrap() == content,
        "the file differs from its verified content"
    );
}
