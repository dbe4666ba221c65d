//! What a filter leaves out: in which order rules count, what is said of them, and that nothing of
//! it is deleted at the receiver.

use crate::support::{Lab, Output, Proxy, Tree, index};
use std::ffi::OsString;
use std::path::PathBuf;

/// A source and its copy at a receiver.
struct World {
    lab: Lab,
    tree: Tree,
    src: PathBuf,
    dst: PathBuf,
    proxy: Proxy,
}

impl World {
    fn new(files: &[&str]) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 190);
        for file in files {
            tree.file(file, *file);
        }
        let proxy = lab.proxy(&dst);
        Self { lab, tree, src, dst, proxy }
    }

    fn db(&self) -> PathBuf {
        self.lab.path("i.sqlite")
    }

    fn sync(&self, more: &[&str]) -> Output {
        let more: Vec<OsString> = more.iter().map(OsString::from).collect();
        self.lab.sync(&self.src, &self.proxy.url, [args!["-db", self.db()], more].concat())
    }

    #[track_caller]
    fn deletes(&self, flags: &[&str], count: u64) {
        let summary = self.sync(&[&["--json", "--delete"], flags].concat()).code(0).summary();
        assert_eq!(summary["deleted"], count, "{flags:?}: {summary}");
    }

    fn has(&self, name: &str) -> bool {
        self.dst.join(name).exists()
    }
}

/// Before, `--delete` removed what a new `-x` had left out of the next generation.
#[test]
fn what_is_left_out_is_not_deleted() {
    for flags in [
        &["-x", r"\.tmp$"][..],
        &["--exclude", "*.tmp"],
        &["--include", "b*", "--exclude", "*.tmp"],
        &["--max-size", "4"],
        &["--filter-file", ".rules"],
    ] {
        let mut world = World::new(&["a.tmp", "d/a.tmp", "goes", "stay"]);
        world.tree.file(".rules", "*.tmp\n/.rules\n");
        world.sync(&[]).code(0);
        // The file grows beyond the limit; the copy is still below it.
        world.tree.file("a.tmp", "longer than before").file("d/a.tmp", "longer").remove("goes");
        let plan = &world.sync(&[&["--json", "-n"], flags].concat()).code(0).summary()["plan"];
        assert_eq!(plan["removed"]["files"], 1, "{flags:?}: {plan}");
        assert!(plan["filtered"]["files"].as_u64() >= Some(2), "{flags:?}: {plan}");
        world.deletes(flags, 1);
        assert!(world.has("a.tmp") && world.has("d/a.tmp") && !world.has("goes"), "{flags:?}");
        // The tombstones of an earlier generation count as well.
        world.tree.file("goes", "1").file("stay", "x");
        world.sync(flags).code(0);
        world.tree.remove("goes");
        world.deletes(flags, 1);
        assert!(world.has("a.tmp") && world.has("d/a.tmp") && !world.has("goes"), "{flags:?}");
        let all: Vec<&str> = flags.iter().copied().chain(["--delete-excluded"]).collect();
        // The file of rules is left out as well, or is too large.
        world.deletes(&all, if matches!(flags[0], "--filter-file" | "--max-size") { 3 } else { 2 });
        assert!(!world.has("a.tmp") && !world.has("d/a.tmp"), "{flags:?}");
    }
}

/// A rule for paths holds for the copy: it protects also what the source does not have any more.
/// Without the rule, that goes.
#[test]
fn a_rule_protects_what_the_source_has_lost() {
    let mut world = World::new(&["a.tmp", "cache/x", "stay"]);
    world.sync(&[]).code(0);
    world.tree.remove("a.tmp").remove("cache/x").remove("cache");
    world.deletes(&["-n", "--exclude", "*.tmp", "--exclude", "cache/"], 0);
    world.deletes(&["-n"], 3);
    world.deletes(&["--exclude", "*.tmp", "--exclude", "cache/"], 0);
    assert!(world.has("a.tmp") && world.has("cache/x"));
    world.deletes(&[], 3);
    assert!(!world.has("a.tmp") && !world.has("cache") && world.has("stay"));
}

/// `index` and `upload` in place of `sync`: the index says what was left out.
#[test]
fn an_index_says_what_an_upload_must_not_delete() {
    let mut world = World::new(&["a.tmp", "goes", "other", "stay"]);
    let (db, url) = (world.db(), world.proxy.url.clone());
    let index = |world: &World, more: Vec<OsString>| {
        world.lab.run([args!["index", "-b", world.src, "-db", db], more].concat()).code(0)
    };
    let upload = |world: &World, more| world.lab.upload(&world.src, &db, &url, more).code(0).summary();
    index(&world, args![]);
    upload(&world, args!["--json"]);
    world.tree.remove("goes");
    let text = index(&world, args!["-v", "--exclude-glob", "*.tmp"]).stderr;
    assert!(text.contains("1 left out"), "{text}");
    assert_eq!(index::paths(&db), ["other", "stay"]);
    assert_eq!(upload(&world, args!["--delete", "--json"])["deleted"], 1);
    assert!(world.has("a.tmp"));
    // Another filter and the same files: the index says the newest filter.
    index(&world, args!["-x", "^a"]);
    assert_eq!(upload(&world, args!["--delete", "--json"])["deleted"], 0);
    index(&world, args!["-x", "stay", "--include-glob", "stay", "--exclude-glob", "a.*"]);
    assert_eq!(upload(&world, args!["--delete", "--json"])["deleted"], 0);
    assert_eq!(upload(&world, args!["--delete-excluded", "--json"])["deleted"], 2);
}

#[test]
fn a_list_of_files_deletes_nothing() {
    let mut world = World::new(&["a", "b", "d/e", "d/f"]);
    world.sync(&[]).code(0);
    let list = world.lab.file("list", "# comment\n./d/\n/a\n");
    let list = list.to_str().unwrap().to_owned();
    world.tree.remove("d/f");
    let kept = world.sync(&["--files-from", &list, "--delete"]).code(0);
    assert!(kept.stderr.contains("nothing is deleted in this run"), "{kept:?}");
    assert_eq!(index::paths(&world.db()), ["a", "d/e"]);
    assert!(world.has("b") && world.has("d/f"));
    world.deletes(&["--files-from", &list, "--delete-excluded"], 2);
    assert!(!world.has("b") && !world.has("d/f") && world.has("d/e"));
    let zeros = world.lab.file("zeros", "a\0gone\0#x\0");
    let missing = world.sync(&["--files-from0", zeros.to_str().unwrap()]).code(3);
    assert!(missing.stderr.contains("gone") && missing.stderr.contains("#x"), "{missing:?}");
}

#[test]
fn the_order_on_the_command_line_counts() {
    let world = World::new(&["a.tmp", "keep.tmp", "b", "sub/top", "top", "digits/pi.txt", "tmp/x"]);
    let patterns = world.lab.file("patterns", "; comment\n\n+ keep.tmp\n*.tmp\r\n/top\n");
    let patterns = patterns.to_str().unwrap();
    let indexed = |flags: &[&str]| {
        let db = world.lab.path("order.sqlite");
        let more: Vec<OsString> = flags.iter().map(OsString::from).collect();
        world.lab.run([args!["plan", "-b", world.src, "-db", db, "--paths"], more].concat()).code(0).stdout
    };
    for (flags, left_out) in [
        (&["--include", "keep.tmp", "--exclude", "*.tmp"][..], &["a.tmp"][..]),
        (&["--exclude", "*.tmp", "--include", "keep.tmp"], &["a.tmp", "keep.tmp"]),
        (&["--include", "keep.tmp", "-x", "tmp$"], &["a.tmp", "tmp/x"]),
        (&["-x", "tmp$", "--include", "keep.tmp"], &["a.tmp", "keep.tmp", "tmp/x"]),
        (&["--exclude-from", patterns], &["a.tmp", "\ttop"]),
        (&["--include", "a.tmp", "--exclude-from", patterns], &["\ttop"]),
        (&["--exclude", ".git", "--exclude", "tmp"], &["tmp/x"]),
    ] {
        let paths = indexed(flags);
        for name in ["a.tmp", "keep.tmp", "b", "sub/top", "\ttop", "digits/pi.txt", "tmp/x"] {
            let is_in = paths.lines().any(|line| line.ends_with(name));
            assert_eq!(is_in, !left_out.contains(&name), "{flags:?} {name}: {paths}");
        }
    }
}

#[test]
fn what_is_said_of_a_filter() {
    let world = World::new(&["a.tmp", "d/b.tmp", "c"]);
    let said = world.sync(&["-n", "--exclude", r"\.tmp$", "-x", "d*", "--exclude", "*.o"]).code(0).stderr;
    for text in [
        r"--exclude '\.tmp$' is a glob, and looks like a regular expression, which -x takes",
        "-x 'd*' is a regular expression, and looks like a glob, which --exclude takes",
        "--exclude '*.o' matched nothing",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let summary = world.sync(&["--json", "--exclude", "*.tmp"]).code(0).summary();
    assert_eq!(summary["index"]["excluded"], 2, "{summary}");
    let plan = world.sync(&["--json", "-n", "--exclude", "d/"]).code(0).summary();
    assert_eq!(plan["plan"]["excluded"], 1, "{plan}");
    let many = "1\n2\n3\n4\n5\n6\n*.tmp\n";
    let many = world.lab.file("many", many);
    let said = world.sync(&["-n", "--exclude-from", many.to_str().unwrap()]).code(0).stderr;
    assert!(said.contains("6 of 7 patterns in") && said.contains("'5', …"), "{said}");
    for (flags, text) in [
        (&["-x", "*.tmp"][..], "--exclude of sync and plan"),
        (&["--exclude", ""], "no pattern"),
        (&["--exclude-from", "no-such-file"], "cannot read no-such-file"),
        (&["--newer", "yesterday"], "neither a time"),
        (&["--filter-file", "a/b"], "not a path"),
    ] {
        let refused = world.sync(flags).code(2);
        assert!(refused.stderr.contains(text), "{flags:?}: {refused:?}");
    }
}

#[test]
fn a_rule_is_explained_and_nothing_else_is_done() {
    let world = World::new(&["a.tmp", "keep.tmp", "d/cache/x", "c"]);
    let flags = ["--include", "keep.tmp", "--exclude", "*.tmp", "-x", "(^|/)cache$"];
    for (path, text) in [
        ("a.tmp", "a.tmp is left out: --exclude '*.tmp'\n"),
        ("keep.tmp", "keep.tmp is copied: --include 'keep.tmp'\n"),
        ("./d/cache/x", "d/cache/x is left out: -x '(^|/)cache$' leaves out d/cache\n"),
        ("c", "c is copied: no rule matches it\n"),
    ] {
        let explain = [&flags[..], &["--explain", path]].concat();
        assert_eq!(world.sync(&explain).code(0).stdout, text);
        let more: Vec<OsString> = explain.iter().map(OsString::from).collect();
        let plan = args!["plan", "-b", world.src, "-db", world.db()];
        assert_eq!(world.lab.run([plan, more].concat()).code(0).stdout, text);
    }
    let absolute = world.src.join("a.tmp");
    let said = world.sync(&[&flags[..], &["--json", "--explain", absolute.to_str().unwrap()]].concat());
    let summary = said.code(0).summary();
    assert_eq!((&summary["left_out"], &summary["rule"]), (&true.into(), &"--exclude '*.tmp'".into()));
    world.sync(&["--explain", "../x"]).code(2).says("relative to the source");
    assert!(!world.db().exists() && !world.has("c"));
}

/// The receiver gets the rules, also those that no regular expression says.
#[test]
fn globs_hold_for_an_adoption() {
    let world = World::new(&["a.tmp", "keep.tmp", "d/b.tmp", "c"]);
    for name in ["keep.tmp", "other.tmp", "goes"] {
        std::fs::write(world.dst.join(name), name).unwrap();
    }
    world.deletes(&["--adopt", "--include", "keep.tmp", "--exclude", "*.tmp"], 1);
    assert!(world.has("other.tmp") && world.has("keep.tmp") && !world.has("goes") && !world.has("a.tmp"));
}
