//! How entries are deleted: a kill at any step, replacements that never arrive, foreign entries in
//! the way, equal names, limits.

use crate::support::folding::Folding;
use crate::support::stress::{Mount, free_port, peak_kib};
use crate::support::{Cmd, Lab, Proxy, Tree, assert_same_tree, need_tool, wait_until};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn sync_cmd(lab: &Lab, src: &Path, to: impl AsRef<std::ffi::OsStr>, more: &[&str]) -> Cmd {
    let (db, dbp) = (lab.path("index.sqlite"), lab.path("progress.sqlite"));
    lab.cmd(args!["sync", src, to, "-db", db, "-dbp", dbp, "--json"])
        .args(more.iter().map(std::ffi::OsString::from).collect())
}

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-aT").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// The contents of all files below `root`, under any name.
fn contents(root: &Path) -> BTreeSet<Vec<u8>> {
    let files = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
    files
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| std::fs::read(entry.path()).unwrap())
        .collect()
}

fn entries(root: &Path) -> usize {
    if root.exists() { walkdir::WalkDir::new(root).min_depth(1).into_iter().count() } else { 0 }
}

/// A receiver is killed at the `number`th `call` of any of its threads while it deletes. Nothing is
/// lost, and the same command again does the rest. Returns false if no thread made so many calls.
fn killed_at(lab: &Lab, whole: &Path, src: &Path, call: &str, number: u32, backup: bool) -> bool {
    let dst = lab.path(&format!("dst-{call}-{number}-{backup}"));
    copy_tree(&lab.path("dst"), &dst);
    for name in ["index.sqlite", "progress.sqlite"] {
        std::fs::copy(lab.path(&format!("{name}.before")), lab.path(name)).unwrap();
    }
    let flags: &[&str] = if backup { &["--delete", "--backup-dir", "bak"] } else { &["--delete"] };
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/tar");
    // Not by its filter for system calls: with that, strace 6.1 acts on the first call of a thread
    // only.
    let rule = format!("{call}:signal=KILL:when={number}");
    let receiver = lab.proxy_cmd(port, &dst).inject_until(&[&rule], &[]);
    let mut receiver = receiver.spawn();
    wait_until("the receiver listens or ends", Duration::from_secs(60), || {
        receiver.stderr_so_far().contains("listening on") || receiver.has_ended()
    });
    let mut sender = sync_cmd(lab, src, &url, flags).spawn();
    wait_until("one of them ends", Duration::from_secs(60), || receiver.has_ended() || sender.has_ended());
    let killed = receiver.has_ended();
    if killed {
        sender.kill9();
        if backup {
            let there = contents(&dst);
            assert!(contents(whole).is_subset(&there), "{call} {number}: content is lost after the kill");
        }
        let proxy = lab.proxy_cmd(port, &dst).serve();
        let left = entries(&dst.join(".tar-like/removed"));
        assert_eq!(left, 0, "{call} {number}: {left} left-overs after the restart\n{}", proxy.stderr());
        sync_cmd(lab, src, &url, flags).run().code(0);
    } else {
        sender.wait().code(0);
    }
    if backup {
        for name in ["goes", "d/in", "d/deep/er", "link", "hard"] {
            let there = dst.join("bak").join(name).symlink_metadata().is_ok();
            assert!(there, "{call} {number}: {name} is not in the backup folder");
        }
        assert_eq!(contents(&dst.join("bak")).len(), 4, "{call} {number}");
        std::fs::remove_dir_all(dst.join("bak")).unwrap();
    }
    // A foreign file, which appeared in between.
    assert_same_tree(src, &dst);
    std::fs::remove_dir_all(&dst).unwrap();
    killed
}

#[test]
fn a_kill_at_any_step_loses_nothing() {
    let lab = Lab::new();
    let (src, dst, whole) = (lab.path("src"), lab.dir("dst"), lab.path("whole"));
    let mut tree = Tree::new(&src, 500);
    tree.file("goes", "goes").file("d/in", "in").file("d/deep/er", "deeper").symlink("link", "goes");
    tree.file("stays", "stays").hardlink("hard", "stays");
    sync_cmd(&lab, &src, &dst, &[]).run().code(0);
    for name in ["index.sqlite", "progress.sqlite"] {
        std::fs::copy(lab.path(name), lab.path(&format!("{name}.before"))).unwrap();
    }
    copy_tree(&src, &whole);
    tree.remove("goes").remove("d").remove("link").remove("hard");
    let mut kills = 0;
    for backup in [true, false] {
        let calls: &[&str] = if backup { &["renameat", "renameat2"] } else { &["renameat", "unlinkat"] };
        for call in calls {
            let mut number = 1;
            while killed_at(&lab, &whole, &src, call, number, backup) {
                number += 1;
                assert!(number < 60, "{call}: it never gets through");
            }
            println!("{call}, backup {backup}: killed {} times", number - 1);
            kills += number - 1;
        }
    }
    assert!(kills >= 15, "only {kills} kills");
}

/// Entries that an earlier version, or a kill at any moment, has left aside.
#[test]
fn left_overs_are_put_back_and_shown() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 501).file("stays", "stays").file("taken", "the source's");
    sync_cmd(&lab, &src, &dst, &[]).run().code(0);
    let removed = dst.join(".tar-like/removed");
    for (path, content) in
        [("0123456789abcdef/a/b/mine", "mine"), ("0123456789abcdef/taken", "older"), ("4711-0", "of whom?")]
    {
        std::fs::create_dir_all(removed.join(path).parent().unwrap()).unwrap();
        std::fs::write(removed.join(path), content).unwrap();
    }
    let found = lab.run(args!["gc", "-b", dst, "--dry-run"]).code(0).stdout;
    assert!(found.contains("0123456789abcdef/a/b/mine") && found.contains("4711-0"), "{found}");
    assert!(removed.join("0123456789abcdef/a/b/mine").exists());
    let proxy = lab.proxy(&dst);
    assert_eq!(std::fs::read(dst.join("a/b/mine")).unwrap(), b"mine");
    assert_eq!(std::fs::read(dst.join("taken")).unwrap(), b"the source's");
    assert_eq!(std::fs::read(dst.join("taken.~1~")).unwrap(), b"older");
    // The entry's place is unknown: it stays, and a warning names it.
    assert_eq!(std::fs::read(removed.join("4711-0")).unwrap(), b"of whom?");
    assert!(proxy.stderr().contains("4711-0"), "{}", proxy.stderr());
    assert_eq!(entries(&removed), 1);
    drop(proxy);
    let found = lab.run(args!["gc", "-b", dst]).code(0).stdout;
    assert!(found.contains("4711-0") && removed.join("4711-0").exists(), "{found}");
    // An entry with a known place gets it back, in any order of names.
    std::fs::create_dir_all(removed.join("fedcba9876543210/c")).unwrap();
    std::fs::write(removed.join("fedcba9876543210/c/again"), "again").unwrap();
    lab.run(args!["gc", "-b", dst]).code(0);
    assert_eq!(std::fs::read(dst.join("c/again")).unwrap(), b"again");
}

/// A folder with files, in whose place the source has a file now.
struct Replaced {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    tree: Tree,
    proxy: Proxy,
}

impl Replaced {
    fn new(seed: u64) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, seed);
        tree.file("d/1", "in d 1").file("d/2", "in d 2").file("d/sub/3", "in d 3").file("other", "other");
        tree.symlink("d/link", "1");
        let proxy = lab.proxy(&dst);
        sync_cmd(&lab, &src, &proxy.url, &[]).run().code(0);
        Self { lab, src, dst, tree, proxy }
    }

    fn all_there(&self) -> bool {
        ["d/1", "d/2", "d/sub/3", "d/link"].iter().all(|name| self.dst.join(name).symlink_metadata().is_ok())
    }

    fn run(&self, more: &[&str]) -> crate::support::Output {
        sync_cmd(&self.lab, &self.src, &self.proxy.url, more).run()
    }
}

#[test]
fn nothing_is_deleted_before_its_replacement_is_there() {
    for size in [7, 3_000_000] {
        let mut replaced = Replaced::new(502);
        let db = replaced.lab.path("index.sqlite");
        replaced.tree.remove("d").noise("d", size);
        replaced.lab.run(args!["index", "-b", replaced.src, "-db", db]).code(0);
        let kept = std::fs::read(replaced.tree.path("d")).unwrap();
        // The file vanishes between the index and the upload.
        replaced.tree.remove("d");
        let upload = |delete: &str| {
            let progress = replaced.lab.path("progress.sqlite");
            replaced.lab.upload(&replaced.src, &db, &replaced.proxy.url, args!["-dbp", progress, delete])
        };
        upload("--delete").code(3);
        assert!(replaced.all_there(), "{size}: deleted for nothing");
        std::fs::write(replaced.tree.path("d"), &kept).unwrap();
        assert!(replaced.all_there());
        let output = replaced.run(&["--delete"]).code(0).summary();
        assert_eq!(output["deleted"], 5, "{output}");
        assert_same_tree(&replaced.src, &replaced.dst);
    }
}

/// The same for links, empty files and further names, which no block carries.
#[test]
fn empty_files_and_links_take_the_place_of_a_folder() {
    let kinds: [fn(&mut Tree); 4] = [
        |tree| {
            tree.symlink("d", "other");
        },
        |tree| {
            tree.file("d", "");
        },
        |tree| {
            tree.hardlink("d", "other");
        },
        |tree| {
            tree.file("d", "other").times();
        },
    ];
    for (number, make) in kinds.into_iter().enumerate() {
        let mut replaced = Replaced::new(503);
        replaced.tree.remove("d");
        make(&mut replaced.tree);
        replaced.run(&[]).code(3);
        assert!(replaced.all_there(), "{number}");
        // More would be deleted than the limit allows.
        let summary = replaced.run(&["--delete", "--max-delete", "4"]).code(25).summary();
        assert_eq!(summary["too_many_to_delete"], 5, "{number}: {summary}");
        assert!(replaced.all_there(), "{number}");
        std::fs::write(replaced.dst.join("d/sub/foreign"), "of a stranger").unwrap();
        let output = replaced.run(&["--delete"]).code(3);
        let summary = output.summary();
        assert!(summary["failed"].to_string().contains("d/sub/foreign"), "{number}: it is named: {summary}");
        assert_eq!(summary["deletes_nothing"], true, "{number}: {summary}");
        assert!(replaced.all_there() && replaced.dst.join("d/sub/foreign").exists(), "{number}: {summary}");
        std::fs::remove_file(replaced.dst.join("d/sub/foreign")).unwrap();
        let summary = replaced.run(&["--delete", "--backup-dir", "bak"]).code(0).summary();
        assert_eq!(summary["deleted"], 5, "{number}: {summary}");
        assert_eq!(std::fs::read(replaced.dst.join("bak/d/sub/3")).unwrap(), b"in d 3", "{number}");
        std::fs::remove_dir_all(replaced.dst.join("bak")).unwrap();
        assert_same_tree(&replaced.src, &replaced.dst);
    }
}

/// The further name of an empty file that comes in the same run: neither is there when the folder is to
/// make way.
#[test]
fn a_further_name_of_a_new_empty_file_takes_the_place_of_a_folder() {
    let mut replaced = Replaced::new(506);
    replaced.tree.remove("d").file("a-new-one", "").hardlink("d", "a-new-one");
    let summary = replaced.run(&["--delete"]).code(0).summary();
    assert_eq!(summary["deleted"], 5, "{summary}");
    assert_same_tree(&replaced.src, &replaced.dst);
}

/// Names that differ in case only, at a destination that takes them for one.
#[test]
fn a_name_that_leads_to_a_live_file_is_not_deleted() {
    let lab = Lab::new();
    let Some(disk) = Folding::mount(&lab, "dst") else { return };
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 504);
    tree.file("File", "file").file("Folder/one", "one").file("Folder/Two", "two").dir("Hollow");
    tree.symlink("Link", "File").file("goes", "goes").file("Gone/in", "in").file("stays", "stays");
    tree.file("Empty", "").file("Folder/Void", "");
    tree.file("Old/name", "a name").hardlink("Hard", "stays");
    let proxy = lab.proxy(&disk.path);
    let run = |more: &[&str]| sync_cmd(&lab, &src, &proxy.url, more).run();
    run(&[]).code(0);
    let renamed = ["File", "Folder", "Hollow", "Link", "Empty"];
    for name in renamed {
        std::fs::rename(src.join(name), src.join(name.to_lowercase())).unwrap();
    }
    std::fs::rename(src.join("Old"), src.join("new")).unwrap();
    tree.remove("goes").remove("Gone").remove("Hard");
    for round in 0..3 {
        run(&["--delete"]).code(0);
        let there = |name: &str| disk.path.join(name).symlink_metadata().is_ok();
        let stay = [
            "file",
            "folder/one",
            "folder/Two",
            "folder/Void",
            "hollow",
            "link",
            "empty",
            "stays",
            "new/name",
        ];
        for name in stay {
            assert!(there(name), "round {round}: {name} was deleted\n{}", proxy.stderr());
        }
        for name in ["goes", "Gone", "Hard", "Old"] {
            assert!(!there(name), "round {round}: {name} is still there");
        }
    }
    drop(proxy);
}

/// A further name of a file of the index is not deleted, so it does not count.
#[test]
fn other_names_of_live_files_do_not_count_for_max_delete() {
    let lab = Lab::new();
    let Some(disk) = Folding::mount(&lab, "dst") else { return };
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 508);
    for name in ["One", "Two", "Three"] {
        tree.file(name, name).file(format!("{name}-empty"), "");
    }
    tree.file("goes", "goes").file("also", "also");
    let proxy = lab.proxy(&disk.path);
    let run = |more: &[&str]| sync_cmd(&lab, &src, &proxy.url, more).run();
    run(&[]).code(0);
    for name in ["One", "Two", "Three", "One-empty", "Two-empty", "Three-empty"] {
        std::fs::rename(src.join(name), src.join(name.to_lowercase())).unwrap();
    }
    tree.remove("goes");
    for deleted in [1, 0] {
        let summary = run(&["--delete", "--max-delete", "1"]).code(0).summary();
        assert_eq!(summary["deleted"], deleted, "{summary}");
    }
    tree.remove("also").remove("one");
    let summary = run(&["--delete", "--max-delete", "1"]).code(25).summary();
    assert_eq!(summary["too_many_to_delete"], 2, "{summary}");
    drop(proxy);
}

#[test]
fn two_names_that_are_one_are_named() {
    let lab = Lab::new();
    let Some(disk) = Folding::mount(&lab, "dst") else { return };
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 505);
    tree.file("name", "one content").file("NAME", "other stuff").file("a/x", "1").file("A/X", "22");
    tree.file("alone", "alone")
        .hardlink("hard", "alone")
        .mtime("name", 1_700_000_000)
        .mtime("NAME", 1_700_000_000);
    let proxy = lab.proxy(&disk.path);
    for flags in [&[][..], &["--delete"]] {
        let output = sync_cmd(&lab, &src, &proxy.url, flags).run().code(3);
        let named = output.summary()["failed"].to_string();
        for name in ["\"name\"", "\"NAME\"", "\"a/x\"", "\"A/X\""] {
            assert!(named.contains(name), "{name} is not named: {named}");
        }
        assert!(!named.contains("\"alone\"") && !named.contains("\"hard\""), "{named}");
        assert_eq!(std::fs::read(disk.path.join("alone")).unwrap(), b"alone");
    }
    tree.remove("NAME").remove("A");
    sync_cmd(&lab, &src, &proxy.url, &["--delete"]).run().code(0);
    assert_eq!(std::fs::read(disk.path.join("name")).unwrap(), b"one content");
    assert_eq!(std::fs::read(disk.path.join("a/x")).unwrap(), b"1");
    drop(proxy);
}

/// A spared entry in a folder that is in the way: the message gives that reason, not that it is
/// foreign.
#[test]
fn a_spared_entry_in_the_way_is_named_as_such() {
    let mut replaced = Replaced::new(509);
    replaced.tree.remove("d").file("d", "a file now");
    replaced.run(&[]).code(3);
    for spare in ["d/sub/", "d/1"] {
        let body = format!(r#"{{"partial":false,"delete":{{"most":100,"spare":["{spare}"]}}}}"#);
        let mut answer = String::new();
        wait_until("finish has ended", Duration::from_secs(60), || {
            let got = replaced.proxy.request("POST", "/tar/0/finish", &[], body.as_bytes());
            answer = got.text();
            got.status == 200
        });
        let name = spare.trim_end_matches('/');
        assert!(answer.contains(&format!("\\\"{name}\\\" in it is left alone")), "{answer}");
        assert!(!answer.contains("not of this archive"), "{answer}");
        assert!(replaced.all_there());
    }
    replaced.run(&["--delete"]).code(0);
    assert_same_tree(&replaced.src, &replaced.dst);
}

/// A verified file that could not get its name is not read again by every run.
#[test]
fn a_file_that_cannot_be_published_is_read_once() {
    const SIZE: usize = 8_000_000;
    let mut replaced = Replaced::new(510);
    replaced.tree.remove("d").noise("d", SIZE);
    let read_bytes = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", replaced.proxy.pid())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        line.unwrap().parse::<usize>().unwrap()
    };
    std::fs::write(replaced.dst.join("d/foreign"), "of a stranger").unwrap();
    let run = |more: &[&str]| sync_cmd(&replaced.lab, &replaced.src, &replaced.proxy.url, more).run();
    run(&["--delete"]).code(3);
    for _ in 0..2 {
        let before = read_bytes();
        run(&["--delete"]).code(3);
        let read = read_bytes() - before;
        assert!(read < SIZE / 2, "{read} bytes were read");
    }
    std::fs::remove_file(replaced.dst.join("d/foreign")).unwrap();
    let before = read_bytes();
    run(&["--delete"]).code(0);
    let read = read_bytes() - before;
    assert!(read < SIZE / 2, "{read} bytes were read");
    assert_same_tree(&replaced.src, &replaced.dst);
}

/// Where the file system takes no two names for one, a deletion stats each published file once, as
/// every run does.
#[test]
fn a_deletion_stats_each_published_file_once() {
    const FILES: usize = 1000;
    let lab = Lab::new();
    need_tool("strace", "apt-get install strace");
    let (src, dst, log) = (lab.path("src"), lab.dir("dst"), lab.path("strace"));
    let mut tree = Tree::new(&src, 511);
    for number in 0..FILES {
        tree.file(format!("d/{number}"), "content");
    }
    tree.file("goes", "goes");
    let strace = args!["strace", "-D", "-f", "-qqq", "-I2", "-o", log, "-e", "trace=newfstatat"];
    let proxy = lab.proxy_cmd(free_port(), &dst).wrap(strace).serve();
    sync_cmd(&lab, &src, &proxy.url, &[]).run().code(0);
    let looks = || std::fs::read_to_string(&log).unwrap().matches("newfstatat(").count();
    let mut last = looks();
    let mut run = || {
        let summary = sync_cmd(&lab, &src, &proxy.url, &["--delete"]).run().code(0).summary();
        let before = std::mem::replace(&mut last, looks());
        println!("{} looks: {summary}", last - before);
        last - before
    };
    tree.file("new", "new");
    let changed = run();
    tree.remove("goes");
    let deleting = run();
    assert!(changed >= FILES && deleting < changed + FILES / 2, "{changed} and {deleting}");
    drop(proxy);
}

/// As on ext4, where each folder has a flag for case folding.
#[test]
fn a_single_folder_that_takes_names_for_one_is_noticed() {
    let lab = Lab::new();
    let Some(disk) = Folding::mount_with(&lab, "dst", Some("folds")) else { return };
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 507);
    tree.file("name", "one")
        .file("NAME", "two")
        .file("folds/sub/name", "three")
        .file("folds/sub/NAME", "four");
    let proxy = lab.proxy(&disk.path);
    for flags in [&[][..], &["--delete"]] {
        let failed = sync_cmd(&lab, &src, &proxy.url, flags).run().code(3).summary()["failed"].to_string();
        assert!(failed.contains("folds/sub/name") && failed.contains("folds/sub/NAME"), "{failed}");
        assert!(!failed.contains("\"name\"") && !failed.contains("\"NAME\""), "{failed}");
    }
    tree.remove("folds/sub/NAME");
    std::fs::rename(src.join("folds/sub/name"), src.join("folds/sub/Name")).unwrap();
    for _ in 0..2 {
        sync_cmd(&lab, &src, &proxy.url, &["--delete"]).run().code(0);
        assert_eq!(std::fs::read(disk.path.join("folds/sub/Name")).unwrap(), b"three");
        assert_eq!(std::fs::read(disk.path.join("NAME")).unwrap(), b"two");
    }
    drop(proxy);
}

/// The source is empty, most likely not mounted: the receiver counts the candidates and does not
/// collect them.
#[test]
fn candidates_take_no_memory() {
    let lab = Lab::in_memory(1 << 30);
    let (src, dst, moved) = (lab.path("src"), lab.dir("dst"), lab.path("moved"));
    std::fs::create_dir_all(src.join("d")).unwrap();
    for number in 0..20_000 {
        std::fs::write(src.join(format!("d/{}{number}", "n".repeat(200))), "").unwrap();
    }
    std::fs::write(src.join("stays"), "stays").unwrap();
    sync_cmd(&lab, &src, &dst, &[]).run().code(0);
    std::fs::rename(src.join("d"), moved).unwrap();
    let proxy = lab.proxy(&dst);
    sync_cmd(&lab, &src, &proxy.url, &[]).run().code(0);
    let before = peak_kib(proxy.pid());
    let summary = sync_cmd(&lab, &src, &proxy.url, &["--delete"]).run().code(25).summary();
    assert_eq!(summary["too_many_to_delete"], 20_001, "{summary}");
    let after = peak_kib(proxy.pid());
    println!("{before} KiB before, {after} KiB after");
    assert!(after < before + 4096, "{before} KiB before, {after} KiB after");
    let summary =
        sync_cmd(&lab, &src, &proxy.url, &["--delete", "--max-delete", "20001"]).run().code(0).summary();
    assert_eq!(summary["deleted"], 20_001, "{summary}");
    let after = peak_kib(proxy.pid());
    println!("{after} KiB after all were deleted");
    assert!(after < before + 8192, "{before} KiB before, {after} KiB after");
}

/// Retained content is pruned first, since there is no room for the change of the index.
#[test]
fn keep_0_frees_a_full_receiver() {
    let lab = Lab::new();
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=24m") else { return };
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 506);
    tree.noise("large", 6_000_000).file("small", "small");
    let proxy = lab.proxy(&disk.path);
    let run = |more: &[&str]| sync_cmd(&lab, &src, &proxy.url, more).run();
    run(&[]).code(0);
    tree.noise("large", 6_000_000);
    run(&["--keep", "1"]).code(0);
    let free = rustix::fs::statvfs(&disk.path).unwrap();
    let free_bytes = free.f_bavail * free.f_frsize;
    std::fs::write(disk.path.join("ballast"), vec![1; usize::try_from(free_bytes).unwrap() - (1 << 20)])
        .unwrap();
    tree.file("new", "new");
    run(&["--keep", "0", "--stall-timeout", "5"]).code(0);
    assert_eq!(std::fs::read(disk.path.join("new")).unwrap(), b"new");
    drop(proxy);
    disk.unmount();
}

/// Also over HTTP, and `--max-delete` and `--backup-dir` beside `--delete-excluded` alone.
#[test]
fn an_upload_says_what_it_would_delete() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("index.sqlite"));
    let mut tree = Tree::new(&src, 1);
    tree.file("left", "left").file("goes", "goes").file("stays", "stays");
    let proxy = lab.proxy(&dst);
    let index = || lab.run(args!["index", "-b", src, "-db", db]).code(0);
    index();
    lab.upload(&src, &db, &proxy.url, args![]).code(0);
    tree.remove("left");
    index();
    lab.upload(&src, &db, &proxy.url, args![]).code(0);
    tree.remove("goes");
    index();
    let dry = |more: Vec<std::ffi::OsString>| {
        lab.upload(&src, &db, &proxy.url, [args!["-n", "--json"], more].concat())
    };
    assert_eq!(dry(args!["--delete"]).code(0).summary()["deleted"], 2);
    assert_eq!(
        dry(args!["--delete-excluded", "--max-delete", "1"]).code(25).summary()["too_many_to_delete"],
        2
    );
    let moved = dry(args!["--delete-excluded", "--backup-dir", "old", "--ignore-errors"]).code(0).summary();
    assert_eq!((&moved["deleted"], &moved["moved_to"]), (&2.into(), &"old".into()), "{moved}");
    assert_eq!(dry(args!["--max-delete", "1"]).code, 2);
    assert!(dst.join("left").exists() && dst.join("goes").exists() && !dst.join("old").exists());
    let did = lab.upload(&src, &db, &proxy.url, args!["--delete-excluded", "--max-delete", "2", "--json"]);
    assert_eq!(did.code(0).summary()["deleted"], 2);
}
