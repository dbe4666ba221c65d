//! `--keep`, and a `rewind` that takes the receiver back, too.

use crate::support::original::OriginalReceiver;
use crate::support::{Lab, Proxy, Tree, assert_same_tree, index, need_tool};
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A source that was copied with `--keep`, a copy of both sides as they were before the last run,
/// and the receiver.
struct Kept {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    tree: Tree,
    /// The state to which the destination has to return.
    before: PathBuf,
}

fn copy_tree(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    let status = std::process::Command::new("cp").arg("-aT").args([from, to]).status().unwrap();
    assert!(status.success());
}

impl Kept {
    fn new(seed: u64) -> Self {
        let lab = Lab::new();
        let (src, dst, db, before) =
            (lab.path("src"), lab.dir("dst"), lab.path("index.sqlite"), lab.path("before"));
        let mut tree = Tree::new(&src, seed);
        tree.rich(100_000).noise("big", 5_000_000).noise("log", 2_000_000).noise("last", 1_500_000);
        tree.file("small", "small")
            .file("goes", "goes")
            .file("mode", "mode")
            .file("d/in", "in")
            .symlink("link", "small");
        tree.file("first-name", "of two")
            .hardlink("second-name", "first-name")
            .file("folder-to-be", "a file")
            .dir("hollow");
        Self { lab, src, dst, db, tree, before }
    }

    fn run(&self, to: impl AsRef<std::ffi::OsStr>, more: Vec<OsString>) -> Value {
        let flags = args!["-db", self.db, "-dbp", self.lab.path("progress"), "--json"];
        self.lab.sync(&self.src, to, [flags, more].concat()).code(0).summary()
    }

    /// Records the present state of the source, and so of the destination.
    fn record(&self) {
        copy_tree(&self.src, &self.before);
    }

    /// Every kind of change.
    fn change(&mut self) {
        let tree = &mut self.tree;
        let mut content = std::fs::read(tree.path("big")).unwrap();
        content.splice(2_000_000..2_000_010, *b"inserted");
        tree.file("big", content);
        let grown = [std::fs::read(tree.path("log")).unwrap(), tree.rng.noise(70_000)].concat();
        tree.file("log", grown);
        std::fs::rename(tree.path("last"), tree.path("a-renamed")).unwrap();
        tree.file("small", "other").remove("goes").mode("mode", 0o600).remove("d").file("d", "a file now");
        tree.remove("link").symlink("link", "big").file("new", "new").noise("new-large", 1_200_000);
        tree.remove("first-name")
            .remove("folder-to-be")
            .file("folder-to-be/in", "in")
            .remove("empty")
            .file("empty", "");
    }

    fn rewind(&self, to: impl AsRef<std::ffi::OsStr>) -> crate::support::Output {
        self.lab.run(args!["rewind", "-db", self.db, "--json", to.as_ref()])
    }

    /// The number of retained files.
    fn retained_files(&self) -> usize {
        let kept = self.dst.join(".tar-like/kept");
        let Ok(folders) = kept.read_dir() else { return 0 };
        folders.map(|folder| folder.unwrap().path().read_dir().unwrap().count()).sum()
    }

    fn retained_folders(&self) -> usize {
        self.dst.join(".tar-like/kept").read_dir().map_or(0, Iterator::count)
    }
}

fn blocks(proxy: Option<&Proxy>) -> u64 {
    proxy.map_or(0, Proxy::blocks_accepted)
}

/// Mode and time.
fn metadata_of(path: &Path) -> (u32, i64, i64) {
    let metadata = path.metadata().unwrap();
    (metadata.mode(), metadata.mtime(), metadata.mtime_nsec())
}

#[test]
fn a_rewind_brings_back_what_was_replaced() {
    for (seed, remote, delete) in [(1, true, true), (2, false, true), (3, true, false)] {
        let mut kept = Kept::new(seed);
        let proxy = remote.then(|| kept.lab.proxy(&kept.dst));
        let to: OsString = proxy.as_ref().map_or(kept.dst.clone().into(), |proxy| (&proxy.url).into());
        kept.run(&to, args!["--keep", "1"]);
        kept.record();
        let (previous, top) = (index::digest(&kept.db), metadata_of(&kept.src));
        kept.change();
        std::fs::set_permissions(&kept.src, std::fs::Permissions::from_mode(0o750)).unwrap();
        if delete {
            kept.run(&to, args!["--keep", "1", "--delete"]);
            assert_same_tree(&kept.src, &kept.dst);
        } else {
            // A file in the place of a folder needs the folder out of its way.
            kept.tree.remove("d").file("d/in", "in");
            kept.run(&to, args!["--keep", "1"]);
            assert!(kept.dst.join("goes").exists());
        }
        let sent = blocks(proxy.as_ref());
        let summary = kept.rewind(&to).code(0).summary();
        assert_eq!(summary["receiver"]["complete"], true, "{summary}");
        assert_eq!(summary["generation"], 1, "{summary}");
        assert_eq!(blocks(proxy.as_ref()), sent, "nothing is sent");
        assert_same_tree(&kept.before, &kept.dst);
        assert_eq!(metadata_of(&kept.dst), top, "of the top folder");
        assert_eq!(index::digest(&kept.db), previous);
        kept.lab.check(&kept.dst, &kept.db, args!["--extra"]).code(0);
        assert_eq!(kept.retained_files(), 0);
        // Once, and then forward again.
        let second = kept.rewind(&to);
        assert!(second.code(2).stderr.contains("has none before it"));
        kept.run(&to, args!["--keep", "1", "--delete"]);
        assert_same_tree(&kept.src, &kept.dst);
        assert!(kept.rewind(&to).code(0).summary()["receiver"]["complete"] == true);
        assert_same_tree(&kept.before, &kept.dst);
    }
}

/// Content that was not retained cannot come back: the rewind is refused before it changes
/// anything.
#[test]
fn missing_retained_content_refuses_the_rewind() {
    type Damage = fn(&Path);
    let damages: [(&[&str], Damage, bool); 4] = [
        // Nothing was retained.
        (&[], |_| (), false),
        (&["--keep", "0"], |_| (), false),
        // Another process wrote to retained content.
        (
            &["--keep", "1"],
            |kept| {
                let folder = kept.read_dir().unwrap().next().unwrap().unwrap().path();
                for file in folder.read_dir().unwrap() {
                    let path = file.unwrap().path();
                    let length = path.metadata().unwrap().len();
                    if length == 5 {
                        std::fs::write(path, "wrong").unwrap();
                    }
                }
            },
            false,
        ),
        (&["--keep", "1"], |_| (), true),
    ];
    for (seed, (flags, damage, works)) in damages.into_iter().enumerate() {
        let mut kept = Kept::new(10 + seed as u64);
        let proxy = kept.lab.proxy(&kept.dst);
        kept.run(&proxy.url, vec![]);
        kept.change();
        kept.run(&proxy.url, [flags.iter().map(OsString::from).collect(), args!["--delete"]].concat());
        damage(&kept.dst.join(".tar-like/kept"));
        kept.record();
        let (digest, status) = (index::digest(&kept.db), proxy.status(0));
        let output = kept.rewind(&proxy.url);
        if works {
            output.code(0);
            continue;
        }
        assert!(output.code(1).stderr.contains("nothing was changed"));
        assert_eq!(index::digest(&kept.db), digest);
        assert_eq!(proxy.status(0), status);
        assert_same_tree(&kept.before, &kept.dst);
        assert_eq!(kept.dst.join(".tar-like/staging").read_dir().unwrap().count(), 1);
        // The next run has nothing to do with it.
        assert_eq!(kept.run(&proxy.url, args!["--delete"])["sent_bytes"], 0);
    }
}

/// Generations that only add, or only rename, can be taken back without retained content.
#[test]
fn content_that_is_published_elsewhere_need_not_be_retained() {
    let mut kept = Kept::new(20);
    let proxy = kept.lab.proxy(&kept.dst);
    kept.run(&proxy.url, vec![]);
    kept.record();
    std::fs::rename(kept.tree.path("last"), kept.tree.path("a-renamed")).unwrap();
    kept.tree.noise("new", 100_000).mode("mode", 0o600);
    kept.run(&proxy.url, args!["--delete"]);
    kept.rewind(&proxy.url).code(0);
    assert_same_tree(&kept.before, &kept.dst);
    // The same for a file that vanished at the end of the archive, if no run has deleted it.
    kept.tree.noise("zzz-last", 5000);
    kept.run(&proxy.url, args!["--delete"]);
    kept.record();
    kept.tree.remove("zzz-last");
    kept.run(&proxy.url, vec![]);
    kept.rewind(&proxy.url).code(0);
    assert_same_tree(&kept.before, &kept.dst);
}

/// A rewind deletes no file that an earlier generation left at the receiver without `--delete`.
#[test]
fn a_rewind_deletes_only_what_it_takes_back() {
    let mut kept = Kept::new(21);
    let proxy = kept.lab.proxy(&kept.dst);
    kept.run(&proxy.url, vec![]);
    kept.tree.remove("goes");
    kept.run(&proxy.url, args!["--keep", "5"]);
    kept.tree.file("new", "new");
    // An index that the receiver never gets.
    kept.lab.run(args!["index", "-b", kept.src, "-db", kept.db]).code(0);
    kept.rewind(&proxy.url).code(0);
    assert!(kept.dst.join("goes").exists());
    kept.run(&proxy.url, args!["--keep", "5"]);
    assert!(kept.dst.join("new").exists());
    kept.rewind(&proxy.url).code(0);
    assert!(kept.dst.join("goes").exists() && !kept.dst.join("new").exists());
}

#[test]
fn the_given_number_of_generations_is_retained() {
    let mut kept = Kept::new(22);
    let proxy = kept.lab.proxy(&kept.dst);
    kept.run(&proxy.url, vec![]);
    for number in 0..4 {
        kept.tree.file("small", format!("content {number}"));
        kept.run(&proxy.url, args!["--keep", "2"]);
        assert_eq!(
            (kept.retained_folders(), kept.retained_files()),
            ((number + 1).min(2), (number + 1).min(2))
        );
    }
    // A run without the option prunes nothing.
    kept.tree.file("small", "last");
    kept.run(&proxy.url, vec![]);
    assert_eq!(kept.retained_files(), 2);
    // A restart and `gc` do not remove it; a compacted archive knows the files by other ids.
    drop(proxy);
    let folder = kept.dst.join(".tar-like/kept");
    std::fs::create_dir(folder.join("0.99")).unwrap();
    std::fs::create_dir(folder.join("7.1")).unwrap();
    std::fs::write(folder.join("record"), "of somebody").unwrap();
    let found = kept.lab.run(args!["gc", "-b", kept.dst, "--dry-run"]).code(0).stdout;
    assert!(
        found.contains("kept/0.99") && found.contains("kept/7.1") && !found.contains("kept/0.4"),
        "{found}"
    );
    let proxy = kept.lab.proxy(&kept.dst);
    std::fs::remove_file(folder.join("record")).unwrap();
    assert_eq!((kept.retained_folders(), kept.retained_files()), (2, 2));
    // Fewer generations, although nothing changed.
    kept.run(&proxy.url, args!["--keep", "1"]);
    assert_eq!((kept.retained_folders(), kept.retained_files()), (1, 1));
    kept.lab.run(args!["compact", "-db", kept.db]).code(0);
    kept.run(&proxy.url, args!["--keep", "2"]);
    assert_eq!(kept.retained_folders(), 0);
    kept.tree.file("small", "after it");
    kept.run(&proxy.url, args!["--keep", "2"]);
    assert_eq!(kept.retained_files(), 1);
    kept.run(&proxy.url, args!["--keep", "0"]);
    assert_eq!(kept.retained_folders(), 0);
    // A file that is never published does not stop the pruning.
    std::fs::create_dir_all(kept.dst.join("stuck/here")).unwrap();
    kept.tree.file("stuck", "a file");
    for number in 0..3 {
        kept.tree.file("small", format!("again {number}"));
        let flags = args!["-db", kept.db, "--keep", "1"];
        kept.lab.sync(&kept.src, &proxy.url, flags).code(3);
        assert_eq!((kept.retained_folders(), kept.retained_files()), (1, 1));
    }
    kept.lab.sync(&kept.src, &proxy.url, args!["-db", kept.db, "--keep", "0"]).code(3);
    assert_eq!(kept.retained_folders(), 0);
}

/// Killed anywhere, the same command completes it.
#[test]
fn a_rewind_that_was_cut_goes_on() {
    need_tool("strace", "apt-get install strace");
    let mut killed = 0;
    for call in ["linkat", "renameat", "unlinkat", "syncfs"] {
        for nth in [1, 3, 6] {
            let mut kept = Kept::new(30);
            kept.run(kept.dst.clone(), vec![]);
            kept.record();
            kept.change();
            kept.run(kept.dst.clone(), args!["--keep", "1", "--delete"]);
            let cmd = kept.lab.cmd(args!["rewind", "-db", kept.db, kept.dst]);
            let inject = format!("--inject={call}:signal=KILL:when={nth}");
            let trace = format!("--trace={call}");
            let log = kept.lab.path("strace");
            let cut = cmd.wrap(args!["strace", "-f", "-qq", "-o", log, trace, inject]).run();
            killed += u32::from(cut.code == 137);
            let again = kept.rewind(&kept.dst);
            // The command may have ended before.
            again.code(if cut.code == 137 { 0 } else { 2 });
            assert_same_tree(&kept.before, &kept.dst);
            assert_eq!(kept.retained_files(), 0, "{call} {nth}");
            kept.lab.check(&kept.dst, &kept.db, args!["--extra"]).code(0);
        }
    }
    assert!(killed >= 8, "only {killed} were killed");
}

/// Killed behind everything but its end, too.
#[test]
fn a_rewind_whose_index_has_its_name_goes_on() {
    let mut kept = Kept::new(31);
    kept.run(kept.dst.clone(), vec![]);
    kept.record();
    kept.change();
    kept.run(kept.dst.clone(), args!["--keep", "1", "--delete"]);
    let connection = || rusqlite::Connection::open(&kept.db).unwrap();
    let mark = "INSERT OR REPLACE INTO tarlike_meta VALUES('rewinding', 2)";
    // A mark that means nothing changes nothing.
    connection().execute_batch(mark).unwrap();
    kept.rewind(&kept.dst).code(0);
    assert!(kept.rewind(&kept.dst).code(2).stderr.contains("has none before it"));
    connection().execute_batch(mark).unwrap();
    let summary = kept.rewind(&kept.dst).code(0).summary();
    assert_eq!((&summary["abandoned"], &summary["generation"]), (&2.into(), &1.into()), "{summary}");
    assert_same_tree(&kept.before, &kept.dst);
    assert!(kept.rewind(&kept.dst).code(2).stderr.contains("has none before it"));
    // The next generation begins without the mark.
    connection().execute_batch(mark).unwrap();
    kept.run(kept.dst.clone(), args!["--keep", "1", "--delete"]);
    assert_eq!(kept.rewind(&kept.dst).code(0).summary()["abandoned"], 3);
    assert_same_tree(&kept.before, &kept.dst);
}

/// Before, the way back of the copy was shut, and no word was said of the copy.
#[test]
fn a_copy_can_go_back_after_its_index() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let mut tree = Tree::new(&src, 33);
    let run = |arguments| lab.cmd(arguments).derived().run();
    tree.file("changes", "one").file("goes", "goes");
    run(args!["sync", src, dst]).code(0);
    tree.file("changes", "another").file("new", "new").remove("goes");
    run(args!["sync", src, dst, "--keep", "1", "--delete"]).code(0);
    let alone = || run(args!["rewind", "--source", src]);
    let command = format!("tar-like rewind --source {} DESTINATION", src.display());
    alone().code(0).says("a copy that has generation 2 still has it").says(&command);
    assert_same_tree(&src, &dst);
    alone().code(2).says("has none before it").says("give its DESTINATION");
    run(args!["rewind", "--source", src, dst]).code(0);
    assert_eq!(std::fs::read_to_string(dst.join("changes")).unwrap(), "one");
    assert!(dst.join("goes").exists() && !dst.join("new").exists());
    run(args!["rewind", "--source", src, dst]).code(2).says("has none before it");
}

/// An index of an earlier version, or from a backup, does not say what was left out of it: what the
/// abandoned generation added may be such an entry.
#[test]
fn a_rewind_that_cannot_delete_says_so() {
    let mut kept = Kept::new(32);
    kept.run(kept.dst.clone(), vec![]);
    let forget = "DELETE FROM tarlike_meta WHERE key LIKE 'skipped.%'";
    for adds in [true, false] {
        kept.tree.file("small", format!("other {adds}"));
        if adds {
            kept.tree.file("new", "new").symlink("new-link", "new");
        }
        kept.run(kept.dst.clone(), args!["--keep", "1", "--delete"]);
        rusqlite::Connection::open(&kept.db).unwrap().execute_batch(forget).unwrap();
        let output = kept.rewind(&kept.dst).code(if adds { 3 } else { 0 });
        let summary = output.summary();
        assert_eq!(summary["receiver"]["undeleted"], if adds { 2 } else { 0 }, "{summary}");
        assert_eq!(output.stderr.contains("2 entries that generation 2 added"), adds, "{}", output.stderr);
        assert!(kept.dst.join("new").exists());
        // The next run over the source deletes what the source does not have.
        kept.tree.remove("small").file("small", format!("after {adds}"));
        if adds {
            kept.tree.remove("new").remove("new-link");
            kept.run(kept.dst.clone(), args!["--delete"]);
            assert_same_tree(&kept.src, &kept.dst);
            kept.tree.file("new", "back");
            kept.run(kept.dst.clone(), vec![]);
        }
    }
}

#[test]
fn a_rewind_of_another_receiver_is_refused() {
    let mut kept = Kept::new(40);
    let proxy = kept.lab.proxy(&kept.dst);
    kept.run(&proxy.url, vec![]);
    kept.tree.file("small", "other");
    kept.run(&proxy.url, args!["--keep", "1"]);
    let digest = index::digest(&kept.db);
    let other = kept.lab.proxy(&kept.lab.dir("other"));
    assert!(kept.rewind(&other.url).code(1).stderr.contains("there is no index for archive 0"));
    kept.lab.sync(&kept.lab.dir("hollow"), &other.url, args!["-db", kept.lab.path("other.sqlite")]).code(0);
    assert!(kept.rewind(&other.url).code(1).stderr.contains("is the copy of"));
    assert!(kept.rewind(kept.lab.dir("never")).code(2).stderr.contains("nothing was ever received into"));
    assert_eq!(index::digest(&kept.db), digest);
    let original = OriginalReceiver::start(404, Box::new(|_, _, _| None));
    assert!(kept.rewind(original.url()).code(2).stderr.contains("cannot go back"));
    let keep = args!["-db", kept.db, "--keep", "1"];
    assert!(
        kept.lab.sync(&kept.src, original.url(), keep).code(2).stderr.contains("does not know how to keep")
    );
    kept.rewind(&proxy.url).code(0);
}

/// Content that another program has changed is missing after a rewind. The command that is printed
/// brings it, as it stands there.
#[test]
fn the_command_that_completes_a_rewind_works() {
    for remote in [true, false] {
        let lab = Lab::new();
        let (src, dst) = (lab.path("a source"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 40);
        tree.file("changes", "one").file("stays", "ok").file("empty", "");
        let proxy = remote.then(|| lab.proxy(&dst));
        let to: OsString = proxy.as_ref().map_or(dst.clone().into(), |proxy| (&proxy.url).into());
        let run = |arguments| lab.cmd(arguments).derived().run();
        run(args!["sync", src, to, "--keep", "1"]).code(0);
        tree.file("changes", "another");
        run(args!["sync", src, to, "--keep", "1"]).code(0);
        std::fs::write(dst.join("stays"), "changed there").unwrap();
        let rewound = run(args!["rewind", "--source", src, to]).code(3);
        let said = format!("{}{}", rewound.stdout, rewound.stderr);
        assert!(said.contains("misses 1 file with 2 bytes"), "{said}");
        let (_, command) = said.split_once("complete it with: tar-like ").unwrap();
        let command = command.lines().next().unwrap();
        assert_eq!(command.starts_with("upload"), remote, "{command}");
        let quoted = format!("'{}'", src.display());
        let words = command.split_once(&quoted).map(|(before, after)| {
            let split = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
            [split(before), vec![src.clone().into()], split(after)].concat()
        });
        run(words.unwrap_or_else(|| panic!("{command}"))).code(0);
        assert_eq!(std::fs::read(dst.join("stays")).unwrap(), b"ok");
        // upload keeps to the index, sync has also what is new in the source.
        let changes = if remote { "one" } else { "another" };
        assert_eq!(std::fs::read_to_string(dst.join("changes")).unwrap(), changes);
    }
}
