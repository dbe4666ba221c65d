//! Files that cannot get their names, and owners, permissions and times of published files.

use crate::support::stress::Mount;
use crate::support::{Lab, Tree, assert_same_tree, is_root, need_tool, set_mtime, skip, tree_diff};
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// An immutable file: it cannot be changed, linked or replaced until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    fn new(path: &Path) -> Option<Self> {
        need_tool("chattr", "apt-get install e2fsprogs");
        let status = std::process::Command::new("chattr").arg("+i").arg(path).output().unwrap().status;
        if !status.success() {
            skip("this file system has no immutable files, or only root may make them");
            return None;
        }
        Some(Self(path.to_path_buf()))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = std::process::Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

fn failed(summary: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let failed = summary["failed"].as_array().unwrap();
    failed.iter().map(|failed| (text(&failed["path"]), text(&failed["reason"]))).collect()
}

/// `conf` cannot be placed; files of the same content can, and the file that stays is not sent
/// again.
#[track_caller]
fn only_conf_fails(lab: &Lab, what: &str, src: &Path, sync: impl Fn() -> crate::support::Output) {
    let mut tree = Tree::new(src, 400);
    tree.noise("conf", 5000).noise("large/conf", 90_000).noise("b", 3000).times();
    let names = |summary: &Value| failed(summary).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    let first = sync().code(3).summary();
    assert_eq!(names(&first), ["conf", "large/conf"], "{what}: {first}");
    for name in ["other", "o1", "z/o2", "large/other", "large/z/o1"] {
        let from = if name.starts_with("large") { "large/conf" } else { "conf" };
        std::fs::create_dir_all(src.join(name).parent().unwrap()).unwrap();
        std::fs::copy(src.join(from), src.join(name)).unwrap();
    }
    let dst = lab.path("dst");
    for round in 0..2 {
        let summary = sync().code(3).summary();
        assert_eq!(names(&summary), ["conf", "large/conf"], "{what} {round}: {summary}");
        for (_, reason) in failed(&summary) {
            assert!(reason.contains("cannot put"), "{what} {round}: {reason}");
        }
        // Once more for the new generation at most, then never again.
        assert!(round == 0 || summary["sent_bytes"] == 0, "{what} {round}: {summary}");
        for name in ["b", "other", "o1", "z/o2", "large/other", "large/z/o1"] {
            assert!(
                std::fs::read(src.join(name)).unwrap() == std::fs::read(dst.join(name)).unwrap(),
                "{what} {round}: {name}"
            );
        }
    }
}

#[track_caller]
fn ends_right(what: &str, src: &Path, dst: &Path, sync: impl Fn() -> crate::support::Output) {
    let summary = sync().code(0).summary();
    assert_eq!(summary["sent_bytes"], 0, "{what}: it was here all the time: {summary}");
    assert_same_tree(src, dst);
}

#[test]
fn a_file_that_cannot_be_placed_hinders_no_other_of_its_content() {
    for what in ["folder", "mount", "immutable"] {
        let lab = Lab::new();
        let (src, dst) = (lab.dir("src"), lab.dir("dst"));
        let db = lab.path("db");
        let sync = || lab.sync(&src, &dst, args!["-db", db, "-s", "20000", "--json"]);
        let (mut mounts, mut files) = (Vec::new(), Vec::new());
        for name in ["conf", "large/conf"] {
            let place = dst.join(name);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            match what {
                "folder" => {
                    std::fs::create_dir(&place).unwrap();
                    std::fs::write(place.join("inside"), "x").unwrap();
                }
                "mount" => mounts.extend(Mount::tmpfs(&place, "size=64k")),
                _ => {
                    std::fs::write(&place, "not to be changed").unwrap();
                    files.extend(Immutable::new(&place));
                }
            }
        }
        if what != "folder" && mounts.len() + files.len() < 2 {
            continue;
        }
        only_conf_fails(&lab, what, &src, sync);
        drop((mounts, files));
        for name in ["conf", "large/conf"] {
            let place = dst.join(name);
            if place.is_dir() {
                std::fs::remove_dir_all(place).unwrap();
            }
        }
        ends_right(what, &src, &dst, sync);
    }
}

/// More files than any answer names.
#[test]
fn files_that_cannot_be_placed_are_counted_also_where_they_are_not_named() {
    let lab = Lab::new();
    let (src, dst) = (lab.dir("src"), lab.dir("dst"));
    for number in 0..1500 {
        std::fs::write(src.join(format!("f{number}")), "content").unwrap();
        std::fs::create_dir_all(dst.join(format!("f{number}/inside"))).unwrap();
    }
    std::fs::write(src.join("free"), "free").unwrap();
    let sync = || lab.sync(&src, &dst, args!["-db", lab.path("db"), "--json"]).code(3).summary();
    for round in 0..2 {
        let summary = sync();
        assert_eq!(summary["failed_total"], 1500, "{round}: {}", summary["failed_total"]);
    }
}

#[test]
fn a_folder_of_another_user_hinders_only_what_is_in_it() {
    if !is_root() {
        return skip("only root can make a folder of another user");
    }
    let lab = Lab::new();
    let (src, dst, db) = (lab.dir("src"), lab.dir("dst"), lab.path("tmp/db"));
    Tree::new(&dst, 0).mode("", 0o777).file("foreign/there", "x");
    let mut tree = Tree::new(&src, 401);
    tree.noise("foreign/conf", 5000).noise("b", 3000);
    let sync = || {
        let cmd = lab.cmd(args!["sync", src, dst, "-db", db, "-s", "20000", "--json"]);
        lab.unprivileged(cmd).run()
    };
    let first = sync().code(3).summary();
    assert!(
        failed(&first)
            .iter()
            .any(|(path, reason)| path == "foreign/conf" && reason.contains("ermission denied"))
    );
    std::fs::copy(src.join("foreign/conf"), src.join("other")).unwrap();
    for round in 0..2 {
        let summary = sync().code(3).summary();
        assert!(failed(&summary).iter().all(|(path, _)| path.starts_with("foreign")), "{round}: {summary}");
        assert!(round == 0 || summary["sent_bytes"] == 0, "{round}: {summary}");
        assert_eq!(std::fs::read(src.join("other")).unwrap(), std::fs::read(dst.join("other")).unwrap());
    }
    std::fs::remove_dir_all(dst.join("foreign")).unwrap();
    let last = sync().code(0).summary();
    assert_eq!(last["sent_bytes"], 0, "{last}");
}

/// If the system refuses a further name, that fails one file at most.
#[test]
fn keep_goes_on_where_a_file_takes_no_further_name() {
    for error in ["EPERM", "EACCES", "EMLINK", "EOPNOTSUPP", "EXDEV"] {
        let lab = Lab::new();
        let (src, dst, db, before) = (lab.dir("src"), lab.dir("dst"), lab.path("db"), lab.dir("before"));
        let mut tree = Tree::new(&src, 402);
        tree.noise("f", 5000).noise("large", 90_000).file("mode", "x").mode("f", 0o640).times();
        let flags = args!["-db", db, "-s", "20000", "--keep", "2", "--json"];
        let proxy = lab.proxy(&dst);
        lab.sync(&src, &proxy.url, flags.clone()).code(0);
        let status = std::process::Command::new("cp").arg("-aT").args([&src, &before]).status().unwrap();
        assert!(status.success());
        drop(proxy.term_and_wait());
        tree.noise("f", 6000).noise("large", 80_000).mode("mode", 0o600);
        let rule = format!("linkat:error={error}");
        let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).inject(&[&rule], &[]).serve();
        lab.sync(&src, &proxy.url, flags.clone()).code(0);
        assert_same_tree(&src, &dst);
        drop(proxy.term_and_wait());
        let proxy = lab.proxy(&dst);
        lab.run(args!["rewind", "-db", db, proxy.url]).code(0);
        assert_same_tree(&before, &dst);
    }
}

#[test]
fn keep_goes_on_beside_an_immutable_file() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.dir("src"), lab.dir("dst"), lab.path("db"));
    let mut tree = Tree::new(&src, 403);
    tree.noise("f", 5000).noise("g", 5000);
    let sync = || lab.sync(&src, &dst, args!["-db", db, "--keep", "1", "--json"]);
    sync().code(0);
    let Some(immutable) = Immutable::new(&dst.join("f")) else { return };
    tree.noise("f", 6000).noise("g", 6000).noise("h", 10);
    let output = sync().code(3);
    assert_eq!(failed(&output.summary()).len(), 1, "{output:?}");
    assert!(!output.stderr.contains("set owners"), "{}", output.stderr);
    let differences = tree_diff(&src, &dst);
    assert!(differences.iter().all(|line| line.starts_with("f: ")), "{differences:?}");
    // Nor if only its metadata are to change.
    tree.mode("g", 0o600);
    let second = Immutable::new(&dst.join("g"));
    let output = sync().code(3);
    assert!(!output.stderr.contains("set owners"), "{}", output.stderr);
    drop((immutable, second));
    sync().code(0);
    assert_same_tree(&src, &dst);
}

/// The top folder as `mode uid:gid seconds.nanoseconds`.
fn top(path: &Path) -> String {
    let meta = path.metadata().unwrap();
    format!("{:o} {}:{} {}.{}", meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())
}

#[test]
fn the_top_folder_is_copied_too() {
    for way in ["local", "proxy", "steps"] {
        let lab = Lab::new();
        let (src, dst, db) = (lab.dir("src"), lab.dir("dst"), lab.path("db"));
        Tree::new(&src, 404).noise("a", 2000).noise("d/b", 100).dir("empty");
        let proxy = (way != "local").then(|| lab.proxy(&dst));
        let to: OsString = proxy.as_ref().map_or(dst.clone().into(), |proxy| (&proxy.url).into());
        let run = |more: Vec<OsString>| {
            if way == "steps" {
                lab.run([args!["index", "-b", src, "-db", db], more].concat()).code(0);
                lab.upload(&src, &db, to.to_str().unwrap(), vec![]).code(0);
            } else {
                lab.sync(&src, &to, [args!["-db", db], more].concat()).code(0);
            }
        };
        let as_source = |what: &str| assert_eq!(top(&dst), top(&src), "{way}: {what}");
        set_mode(&src, 0o2750);
        if is_root() {
            chown(&src, Some(1234), Some(4321)).unwrap();
            set_mode(&src, 0o2750);
        }
        set_mtime(&src, 1_400_000_000_500_000_000);
        run(vec![]);
        as_source("the first run");
        set_mode(&dst, 0o755);
        run(vec![]);
        as_source("it was changed in the copy");
        set_mode(&src, 0o700);
        run(vec![]);
        as_source("nothing else has changed");
        set_mtime(&src, -1_500_000_000);
        std::fs::write(src.join("d/new"), "new").unwrap();
        run(args!["--clean"]);
        as_source("from the start");
        std::fs::write(src.join("top"), "new").unwrap();
        run(vec![]);
        as_source("something came in");
        assert_same_tree(&src, &dst);
    }
}

#[test]
fn check_compares_the_top_folder_too() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.dir("src"), lab.dir("dst"), lab.path("db"));
    Tree::new(&src, 407).noise("a", 2000).mode("", 0o750);
    let run = || lab.sync(&src, &dst, args!["-db", db]).code(0);
    let check = |more: Vec<OsString>| lab.run([args!["check", "-b", dst, "-db", db], more].concat());
    run();
    check(vec![]).code(0);
    set_mode(&src, 0o700);
    std::fs::write(src.join("b"), "new").unwrap();
    run();
    check(vec![]).code(0);
    // Its time is that of the last entry that was put beside the copy.
    std::fs::write(dst.join("beside"), "not ours").unwrap();
    check(vec![]).code(0);
    check(args!["--generation", "1"]).code(0);
    set_mode(&dst, 0o755);
    let differs = |what: &str| {
        let output = check(vec![]).code(1);
        assert!(output.stdout.contains(what), "{}", output.stdout);
    };
    differs(".\tits mode is 0755, not 0700");
    check(args!["--no-metadata"]).code(0);
    check(args!["-f", "0", "-l", "0"]).code(0);
    if is_root() {
        set_mode(&dst, 0o700);
        chown(&dst, Some(1234), Some(4321)).unwrap();
        differs(".\tits owner is 1234:4321");
    }
}

#[test]
fn the_base_folder_keeps_its_metadata_without_a_source() {
    let lab = Lab::new();
    let (src, other, dst) = (lab.dir("src"), lab.dir("other"), lab.dir("dst"));
    Tree::new(&src, 405).noise("a", 2000).mode("", 0o750);
    Tree::new(&other, 406).noise("b", 2000).mode("", 0o711);
    let db = lab.index(&src);
    // An index of an earlier version.
    rusqlite::Connection::open(&db).unwrap().execute("DELETE FROM tarlike_meta WHERE key='top'", []).unwrap();
    set_mode(&dst, 0o705);
    let proxy = lab.proxy(&dst);
    let mode = || dst.metadata().unwrap().mode() & 0o7777;
    lab.upload(&src, &db, &proxy.url, vec![]).code(0);
    assert_eq!(mode(), 0o705);
    // One of several archives.
    lab.sync(&other, &proxy.url, args!["-db", lab.path("db2"), "--tar-id", "1"]).code(0);
    assert_eq!(mode(), 0o705);
    // A single file.
    let single = lab.dir("single");
    set_mode(&single, 0o705);
    lab.sync(&src.join("a"), &single, args!["-db", lab.path("db3")]).code(0);
    assert_eq!(single.metadata().unwrap().mode() & 0o7777, 0o705);
    if !is_root() {
        return;
    }
    // A folder of another user.
    let foreign = lab.dir("foreign");
    set_mode(&foreign, 0o777);
    set_mode(&src, 0o755);
    let cmd = lab.cmd(args!["sync", src, foreign, "-db", lab.path("tmp/db4"), "-dbp", lab.path("tmp/p4")]);
    lab.unprivileged(cmd).run().code(0);
    assert_eq!(foreign.metadata().unwrap().mode() & 0o7777, 0o777);
}

#[test]
fn mode_and_owner_of_a_file_come_back() {
    for more in [vec![], args!["--checksum"], args!["--clean"]] {
        let lab = Lab::new();
        let (src, dst, db) = (lab.dir("src"), lab.dir("dst"), lab.path("db"));
        let mut tree = Tree::new(&src, 407);
        tree.noise("a", 2000)
            .noise("large", 90_000)
            .file("empty", "")
            .noise("set-id", 10)
            .mode("set-id", 0o4755);
        tree.noise("closed", 10).mode("closed", 0).dir("d").mtime("d", 1_500_000_000_500_000_000);
        let sync = || {
            let flags = args!["-db", db, "-s", "20000", "--json"];
            lab.sync(&src, &dst, [flags, more.clone()].concat()).code(0).summary()
        };
        sync();
        for name in ["a", "large", "empty", "set-id", "closed"] {
            set_mode(&dst.join(name), 0o4777);
            if is_root() {
                chown(dst.join(name), Some(1234), Some(4321)).unwrap();
            }
        }
        set_mtime(&dst.join("d"), 1_500_000_000_000_000_000);
        let summary = sync();
        assert_eq!(summary["sent_bytes"], 0, "{more:?}: {summary}");
        assert_same_tree(&src, &dst);
        // Nothing is touched where everything is right, links included.
        std::os::unix::fs::symlink("a", src.join("link")).unwrap();
        sync();
        let ctimes = || {
            let ctime = |name: &str| {
                let meta = dst.join(name).symlink_metadata().unwrap();
                (meta.ctime(), meta.ctime_nsec())
            };
            ["a", "large", "closed", "d", "link"].map(ctime)
        };
        let before = ctimes();
        sync();
        assert_eq!(ctimes(), before, "{more:?}");
    }
}

/// A user who may write to a folder of the copy puts another user's file there, with size and time
/// of one of the copy's files.
#[test]
fn a_planted_file_keeps_its_owner() {
    if !is_root() {
        return skip("only root gives files to others");
    }
    for touched in [false, true] {
        let lab = Lab::new();
        let (src, dst, db) = (lab.dir("src"), lab.dir("dst"), lab.path("db"));
        let mut tree = Tree::new(&src, 408);
        tree.noise("d/mine", 2000).mtime("d/mine", 1_500_000_000_000_000_000);
        chown(src.join("d/mine"), Some(1234), Some(1234)).unwrap();
        let sync = || lab.sync(&src, &dst, args!["-db", db]).code(0);
        sync();
        let secret = lab.file("secret", vec![7; 2000]);
        set_mode(&secret, 0o600);
        set_mtime(&secret, 1_500_000_000_000_000_000);
        std::fs::remove_file(dst.join("d/mine")).unwrap();
        std::fs::hard_link(&secret, dst.join("d/mine")).unwrap();
        if touched {
            tree.mode("d/mine", 0o644).mode("d/mine", 0o666);
        }
        sync();
        let meta = secret.metadata().unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o600), "{touched}");
        assert_same_tree(&src, &dst);
    }
}

/// The receiver finds present content by path and content, whichever way the new index arrives.
#[test]
fn no_present_content_is_sent() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.dir("src"), lab.dir("dst"), lab.path("db"));
    let mut tree = Tree::new(&src, 409);
    for name in ["a", "b", "c"] {
        tree.noise(name, 500_000);
    }
    let sent = |source: &Path, dst: &Path, more: Vec<OsString>| {
        let flags = args!["--json", "--replace-source"];
        let summary = lab.sync(source, dst, [flags, more].concat()).code(0).summary();
        summary["sent_bytes"].as_u64().unwrap()
    };
    sent(&src, &dst, args!["-db", db]);
    tree.file("a", "shorter");
    sent(&src, &dst, args!["-db", db]);
    assert_eq!(sent(&src, &dst, args!["-db", db, "--clean"]), 0, "a new index of the same");
    tree.noise("a", 10);
    assert!(
        sent(&src, &dst, args!["-db", db, "--clean"]) < 1000,
        "every file behind it has moved in the archive"
    );
    assert_eq!(sent(&src, &dst, args!["-db", lab.path("db2")]), 0, "the index was lost");
    assert_same_tree(&src, &dst);
    // Single files in turn into one folder.
    let single = lab.dir("single");
    for round in 0..3 {
        for name in ["b", "c"] {
            let sent = sent(&src.join(name), &single, args!["-db", lab.path(name)]);
            assert_eq!(sent, if round == 0 { 500_000 } else { 0 }, "{name} {round}");
        }
    }
    // A foreign file of the same name, size and time is not believed.
    let time = single.join("b").metadata().unwrap().modified().unwrap();
    std::fs::write(single.join("b"), vec![1; 500_000]).unwrap();
    std::fs::File::open(single.join("b")).unwrap().set_modified(time).unwrap();
    assert_eq!(sent(&src.join("b"), &single, args!["-db", lab.path("b")]), 500_000);
    assert_eq!(std::fs::read(src.join("b")).unwrap(), std::fs::read(single.join("b")).unwrap());
}
