//! `tar-like check`: finds every kind of difference, and nothing else.

use crate::support::{Lab, Tree};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A folder, an index of it, and a true copy of it.
struct Setting {
    lab: Lab,
    copy: PathBuf,
    db: PathBuf,
}

impl Setting {
    fn new() -> Self {
        let lab = Lab::new();
        let (src, copy) = (lab.path("src"), lab.path("copy"));
        let mut tree = Tree::new(&src, 60);
        for name in ["a", "b", "c", "d", "e"] {
            tree.noise(name, 1000);
        }
        tree.file("empty", "")
            .dir("dir/sub")
            .symlink("link", "a")
            .hardlink("hard", "a")
            .mode("dir", 0o750)
            .times();
        let db = lab.index(&src);
        assert!(std::process::Command::new("cp").arg("-a").arg(&src).arg(&copy).status().unwrap().success());
        Self { lab, copy, db }
    }

    /// The report on stdout; fails unless the exit code fits it.
    fn check(&self, more: Vec<OsString>) -> Vec<Vec<String>> {
        let output = self.lab.check(&self.copy, &self.db, more);
        let lines: Vec<Vec<String>> =
            output.stdout.lines().map(|line| line.split('\t').map(str::to_string).collect()).collect();
        assert!(!output.stderr.trim().is_empty(), "no summary");
        output.code(i32::from(!lines.is_empty()));
        lines
    }

    fn names(&self, more: Vec<OsString>) -> Vec<String> {
        self.check(more).into_iter().map(|mut line| line.swap_remove(1)).collect()
    }
}

#[test]
fn a_true_copy_has_no_difference() {
    let setting = Setting::new();
    assert!(setting.check(vec![]).is_empty());
    assert!(setting.check(args!["--extra"]).is_empty());
    let output = setting.lab.check(&setting.copy, &setting.db, args!["--extra", "--json"]).code(0);
    assert_eq!(output.json().len(), 1);
    let summary = output.summary();
    assert_eq!(
        (&summary["different"], &summary["missing"], &summary["extra"]),
        (&0.into(), &0.into(), &0.into())
    );
}

/// Changes the copy, and checks the one line that must follow: its kind, path, and a word of the
/// reason.
fn finds(kind: &str, path: &str, reason: &str, more: Vec<OsString>, change: impl FnOnce(&mut Tree)) {
    let setting = Setting::new();
    let mut tree = Tree::new(&setting.copy, 61);
    let root_time = |path: PathBuf| path.metadata().unwrap().modified().unwrap();
    let before = root_time(setting.copy.clone());
    change(&mut tree);
    let _ = std::fs::File::open(&setting.copy).unwrap().set_modified(before);
    let lines = setting.check(more);
    assert_eq!(lines.len(), 1, "{kind} {path}: {lines:?}");
    assert_eq!((&*lines[0][0], &*lines[0][1]), (kind, path), "{lines:?}");
    assert!(lines[0].get(2).is_none_or(|why| why.contains(reason)), "{reason:?} is not in {lines:?}");
    assert_eq!(lines[0].len(), if kind == "different" { 3 } else { 2 });
}

/// Changes a file's content only: its time stays.
fn overwrite(tree: &Tree, name: &str, content: &[u8]) {
    let path = tree.path(name);
    let time = path.metadata().unwrap().modified().unwrap();
    std::fs::write(&path, content).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
}

#[test]
fn content_of_the_same_size() {
    finds("different", "c", "md5", vec![], |tree| {
        let mut content = std::fs::read(tree.path("c")).unwrap();
        content[999] ^= 1;
        overwrite(tree, "c", &content);
    });
}

#[test]
fn size() {
    finds("different", "c", "size", vec![], |tree| overwrite(tree, "c", b"short"));
    finds("different", "empty", "size", vec![], |tree| overwrite(tree, "empty", b"x"));
}

#[test]
fn missing_file() {
    finds("missing", "c", "", vec![], |tree| drop_from(tree, "c"));
    finds("missing", "empty", "", vec![], |tree| drop_from(tree, "empty"));
}

fn drop_from(tree: &mut Tree, name: &str) {
    tree.remove(name);
}

#[test]
fn missing_folder_and_link() {
    // The folder's time would be a second difference.
    let keep_dir = |tree: &mut Tree| {
        let time = tree.path("dir").metadata().unwrap().modified().unwrap();
        tree.remove("dir/sub");
        std::fs::File::open(tree.path("dir")).unwrap().set_modified(time).unwrap();
    };
    finds("missing", "dir/sub", "", vec![], keep_dir);
    finds("missing", "link", "", vec![], |tree| drop_from(tree, "link"));
}

#[test]
fn extra_only_when_asked() {
    finds("extra", "more", "", args!["--extra"], |tree| {
        tree.file("more", "");
    });
    finds("extra", "more-dir", "", args!["--extra"], |tree| {
        tree.dir("more-dir");
    });
    let setting = Setting::new();
    Tree::new(&setting.copy, 1).file("more", "").file(".tar-like/own", "");
    assert!(setting.check(vec![]).is_empty());
    assert_eq!(setting.names(args!["--extra"]), ["more"]);
}

#[test]
fn mode_and_time() {
    finds("different", "c", "mode", vec![], |tree| {
        tree.mode("c", 0o600);
    });
    finds("different", "c", "time", vec![], |tree| {
        tree.mtime("c", 1);
    });
    finds("different", "dir", "mode", vec![], |tree| {
        tree.mode("dir", 0o700);
    });
    finds("different", "dir/sub", "time", vec![], |tree| {
        tree.mtime("dir/sub", -5);
    });
    finds("different", "link", "time", vec![], |tree| {
        tree.mtime("link", 77);
    });
    let setting = Setting::new();
    Tree::new(&setting.copy, 1).mode("c", 0o600).mtime("d", 1).mode("dir", 0o700).mtime("link", 3);
    assert_eq!(setting.check(vec![]).len(), 4);
    assert!(setting.check(args!["--no-metadata"]).is_empty());
}

#[test]
fn link_target_and_type() {
    finds("different", "link", "", args!["--no-metadata"], |tree| {
        tree.remove("link").symlink("link", "b");
    });
    finds("different", "link", "", args!["--no-metadata"], |tree| {
        tree.remove("link").file("link", "a");
    });
    finds("different", "c", "", args!["--no-metadata"], |tree| {
        tree.remove("c").symlink("c", "d");
    });
    finds("different", "c", "", args!["--no-metadata"], |tree| {
        tree.remove("c").dir("c");
    });
    finds("different", "dir/sub", "", args!["--no-metadata"], |tree| {
        tree.remove("dir/sub").file("dir/sub", "");
    });
}

#[test]
fn a_hard_link_that_is_a_copy() {
    finds("different", "hard", "same file", vec![], |tree| {
        let (content, time) = (
            std::fs::read(tree.path("hard")).unwrap(),
            tree.path("hard").metadata().unwrap().modified().unwrap(),
        );
        tree.remove("hard").file("hard", content);
        std::fs::File::options().write(true).open(tree.path("hard")).unwrap().set_modified(time).unwrap();
    });
}

/// A folder on the way that became a symbolic link is a difference, whatever it points to.
#[test]
fn a_folder_that_became_a_link() {
    let setting = Setting::new();
    let mut tree = Tree::new(&setting.copy, 1);
    std::fs::rename(tree.path("dir"), setting.lab.path("elsewhere")).unwrap();
    tree.symlink("dir", setting.lab.path("elsewhere"));
    let names = setting.names(args!["--no-metadata"]);
    assert!(names.contains(&"dir".to_string()), "{names:?}");
}

/// FORMAT.md 13: `-l` is inclusive. Files a to e have 1000 bytes each, in this order.
#[test]
fn ranges_look_at_the_files_that_touch_these_blocks() {
    let setting = Setting::new();
    let mut tree = Tree::new(&setting.copy, 1);
    for name in ["a", "b", "c", "d", "e"] {
        // `hard` is a name of `a`.
        overwrite(&tree, name, b"changed");
    }
    tree.remove("link");
    let names =
        |first: &str, last: &str, size: &str| setting.names(args!["-f", first, "-l", last, "-s", size]);
    assert_eq!(names("1", "2", "1000"), ["b", "c"]);
    assert_eq!(names("0", "0", "1000"), ["a"]);
    assert_eq!(names("0", "0", "1001"), ["a", "b"]);
    assert_eq!(names("0", "0", "999"), ["a"]);
    assert_eq!(names("1", "1", "999"), ["a", "b"]);
    assert_eq!(names("4", "4", "1000"), ["e"]);
    assert_eq!(names("3", "99", "1000"), ["d", "e"]);
    assert_eq!(setting.names(args!["--first-block", "3", "--block-size", "1000"]), ["d", "e"]);
    assert_eq!(setting.names(args!["--last-block", "1", "-s", "1000"]), ["a", "b"]);
    assert_eq!(names("2500", "2500", "1"), ["c"]);
    // Without a range, `check` compares everything.
    let all = setting.names(vec![]);
    assert!(all.contains(&"link".to_string()) && all.len() >= 6, "{all:?}");
    // Differences outside of the range do not change the exit code.
    for name in ["b", "c", "d", "e"] {
        let src = std::fs::read(setting.lab.path("src").join(name)).unwrap();
        overwrite(&tree, name, &src);
    }
    assert!(setting.names(args!["-f", "1", "-s", "1000"]).is_empty());
}

#[test]
fn json_has_a_line_for_each_difference_and_a_summary() {
    let setting = Setting::new();
    let mut tree = Tree::new(&setting.copy, 1);
    tree.remove("b").file("more", "x");
    overwrite(&tree, "c", &[7; 1000]);
    let output = setting.lab.check(&setting.copy, &setting.db, args!["--extra", "--json"]).code(1);
    let lines = output.json();
    let find =
        |event: &str, path: &str| lines.iter().any(|line| line["event"] == event && line["path"] == path);
    assert!(find("different", "c") && find("missing", "b") && find("extra", "more"), "{lines:?}");
    let summary = output.summary();
    assert_eq!(
        (&summary["different"], &summary["missing"], &summary["extra"]),
        (&1.into(), &1.into(), &1.into())
    );
}

#[test]
fn a_missing_index_or_folder_is_an_error_not_a_difference() {
    let setting = Setting::new();
    let output = setting.lab.check(&setting.copy, &setting.lab.path("nowhere.sqlite"), vec![]).code(1);
    assert!(output.stderr.contains("nowhere.sqlite") && output.stdout.is_empty(), "{output:?}");
    let output = setting.lab.check(&setting.lab.path("nowhere"), &setting.db, vec![]).code(1);
    assert!(output.stderr.contains("nowhere") && output.stdout.is_empty(), "{output:?}");
}

/// Names are printed so that each stays on one line, and no terminal code gets through.
#[test]
fn odd_names_do_not_break_the_report() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 62).file("new\nline\tand\x1b[31m", "x");
    let db = lab.index(&src);
    let output = lab.check(&lab.dir("empty"), &db, vec![]).code(1);
    assert_eq!(output.stdout.lines().count(), 1, "{:?}", output.stdout);
    assert_eq!(output.stdout.matches('\t').count(), 1, "{:?}", output.stdout);
    assert!(!output.stdout.contains('\x1b'));
}

/// One index serves all copies of a source. A check of one of them says what it compares with.
#[test]
fn a_copy_of_another_generation_or_filter_is_told() {
    let lab = Lab::new();
    let (src, one, two) = (lab.path("src"), lab.path("one"), lab.path("two"));
    Tree::new(&src, 400).file("a", "x").file("b.tmp", "y").file("c.tmp", "z");
    let sync = |dst: &Path, more| lab.cmd([args!["sync", src, dst], more].concat()).derived().run().code(0);
    sync(&one, vec![]);
    let check = |more| lab.run([args!["check", "-b", one, "--source", src], more].concat());
    let output = check(vec![]).code(0);
    assert!(!output.stderr.contains("generation") && !output.stderr.contains("without"), "{}", output.stderr);
    sync(&two, args!["--exclude", "*.tmp", "--max-size", "1M"]);
    std::fs::write(one.join("b.tmp"), "damaged").unwrap();
    let output = check(vec![]).code(0).says("1 ok").says("the index is without - *.tmp");
    output.says("copy of generation 1 of the index, and is compared with generation 2");
    check(args!["--generation", "1"]).code(1).says("2 ok, 1 different");
    assert_eq!(check(args!["--json"]).summary()["filter"], "- *.tmp");
    // The list of indexes has the filter, too.
    let listed = lab.run(args!["indexes"]).code(0).stdout;
    assert!(listed.contains("without - *.tmp"), "{listed}");
    // A run that finds nothing new makes no generation, so the time stays that of the generation.
    let created = || lab.run(args!["indexes", "--json"]).code(0).json()[0]["created_s"].as_u64().unwrap();
    let before = created();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    sync(&two, args!["--exclude", "*.tmp"]);
    assert_eq!(created(), before);
}

#[test]
fn a_check_of_nothing_is_no_success() {
    let lab = Lab::new();
    let src = lab.dir("src");
    let db = lab.index(&src);
    lab.check(&src, &db, vec![]).code(0).says("nothing was compared: the index").says("has no entries");
    Tree::new(&src, 401).file("a.tmp", "x");
    lab.run(args!["index", "-c", "-b", src, "-db", db, "-x", "tmp"]).code(0);
    lab.check(&src, &db, vec![]).code(1).says("nothing was compared").says("the index is without x tmp");
    let db = lab.index(&src);
    lab.check(&src, &db, vec![]).code(0);
    lab.check(&src, &db, args!["-f", "1"]).code(1).says("has no file from block 1 on");
}
