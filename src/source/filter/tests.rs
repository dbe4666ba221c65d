use super::*;
use crate::archive::skipped::SkipKind;
use crate::source::base::Base;
use crate::source::walk::Walk;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// Paths with what patterns are about: names at several depths, and names with special characters.
const TREE: &[&[u8]] = &[
    b"a.tmp",
    b"b.txt",
    b"foo.c",
    b"top",
    b".hidden",
    b"sub/top",
    b"sub/foo",
    b"sub/bar/foo",
    b"sub/bar/a.tmp",
    b"any/sub/foo",
    b"any/sub/bar/x",
    b"any/x",
    b"tmp/a",
    b"tmp/b/c.tmp",
    b"a/tmp",
    b"a/b/c/d",
    b"x-y/[z]",
    b"star*",
    b"back\\slash",
    b"q?",
    b"caf\xc3\xa9",
    b"no-utf-8-\xff",
    b"with space",
    b"A",
    b"z9",
];

fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for path in TREE {
        write(folder.path(), path, b"");
    }
    folder
}

fn write(base: &Path, path: &[u8], content: &[u8]) {
    let path = base.join(OsStr::from_bytes(path));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn rule(text: &str) -> FilterRule {
    FilterRule { rule: PathRule::parse(text).unwrap(), name: format!("rule {text}"), file: None }
}

fn filter(options: FilterOptions) -> Filter {
    Filter::new(options).unwrap()
}

fn with_rules(texts: &[&str]) -> Filter {
    let rules = texts.iter().map(|text| rule(text)).collect();
    filter(FilterOptions { rules, ..FilterOptions::default() })
}

type Paths = BTreeSet<Vec<u8>>;

/// What a walk gives, folders with a slash at their end; and what it leaves out by more than rules
/// for paths.
fn walked(base: &Path, filter: &Filter) -> (Paths, Paths) {
    let opened = Base::open(base).unwrap();
    let walk = Walk::new(&opened, base, filter.clone(), &[]).unwrap();
    let mut worker = crate::source::walk::StatWorker::new(&walk, &opened);
    let (mut found, mut left_out) = (Paths::new(), Paths::new());
    walk.run(|name| {
        match name.and_then(|name| worker.stat(name)) {
            Ok(entry) => {
                let is_dir = matches!(entry.kind, crate::source::walk::StatKind::Dir);
                found.insert([entry.path.as_bytes(), if is_dir { b"/" } else { b"" }].concat());
            }
            Err(skipped) => {
                assert!(skipped.kind == SkipKind::Filtered, "{}", skipped.reason);
                left_out.insert(skipped.path);
            }
        }
        true
    })
    .unwrap();
    (found, left_out)
}

/// What rsync copies with the same rules.
fn of_rsync(base: &Path, rules: &[&str]) -> Paths {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = Command::new("rsync");
    command.args(["-rn8", "--out-format=%n"]);
    for rule in rules {
        let (sign, pattern) = rule.split_once(' ').unwrap();
        let pattern = crate::archive::path::unprintable(pattern).unwrap();
        let flag = if sign == "+" { &b"--include="[..] } else { b"--exclude=" };
        command.arg(OsStr::from_bytes(&[flag, &pattern].concat()));
    }
    let output = command.arg(base.join("")).arg(nowhere.path()).output();
    let output = output.expect("this test needs rsync: apt-get install rsync");
    assert!(output.status.success(), "{rules:?}: {output:?}");
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !matches!(*line, b"" | b"./"));
    lines.map(|line| line.to_vec()).collect()
}

fn shown(paths: &Paths) -> Vec<String> {
    paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[track_caller]
fn assert_as_rsync(base: &Path, rules: &[&str]) {
    let (ours, theirs) = (walked(base, &with_rules(rules)).0, of_rsync(base, rules));
    assert_eq!(shown(&ours), shown(&theirs), "{rules:?}");
}

/// Patterns are written as a text of a rule is: a backslash is `\x5c`.
#[test]
fn globs_match_as_those_of_rsync() {
    let folder = tree();
    for rules in [
        &["- *.tmp"][..],
        &["- tmp"],
        &["- tmp/"],
        &["- /tmp"],
        &["- /tmp/"],
        &["- top"],
        &["- /top"],
        &["- sub/foo"],
        &["- /sub/foo"],
        &["- sub/*"],
        &["- sub/**"],
        &["- sub/***"],
        &["- /sub/***"],
        &["- **/foo"],
        &["- **foo"],
        &["- foo**"],
        &["- sub/**/x"],
        &["- a/**/d"],
        &["- **"],
        &["- ***"],
        &["- *"],
        &["- */"],
        &["- ?"],
        &["- [a-c].*"],
        &["- [!a-c]*"],
        &["- [^a-c]*"],
        &["- [[:upper:]]"],
        &["- z[[:digit:]]"],
        &["- x-y/[[]z]"],
        &["- x-y/[[\\x5c]z]"],
        &["- [z]"],
        &["- [z"],
        &["- []]"],
        &["- x?y"],
        &["- star\\x5c*"],
        &["- back\\x5cslash"],
        &["- back\\x5c\\x5cslash"],
        &["- back\\x5c\\x5cslas*"],
        &["- q\\x5c?"],
        &["- .*"],
        &["- caf??"],
        &["- caf?"],
        &["- no-utf-8-\\xff"],
        &["- no-utf-8-?"],
        &["- with space"],
        &["+ */", "+ *.c", "- *"],
        &["+ /sub/", "+ /sub/foo", "- *"],
        &["+ foo", "- sub/*"],
        &["+ /sub/***", "- *"],
        &["- *.tmp", "+ a.tmp"],
        &["+ a.tmp", "- *.tmp"],
        &["- any/*/foo"],
        &["- any/sub/"],
        &["- bar/foo"],
        &["- /bar/foo"],
        &["- sub//foo"],
        &["- a/b/c/d/"],
    ] {
        assert_as_rsync(folder.path(), rules);
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "*", "**", "***", "?", "[a-t]", "[!s]", "a", "b", "sub", "foo", "tmp", ".", "/", "/", "bar", "top",
        "x",
    ]);
    (prop::bool::ANY, prop::collection::vec(part, 1..6))
        .prop_map(|(includes, parts)| format!("{} {}", if includes { "+" } else { "-" }, parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_globs_match_as_those_of_rsync(rules in prop::collection::vec(pattern(), 1..4)) {
        let folder = tree();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        assert_as_rsync(folder.path(), &rules);
    }
}

/// What git does not ignore in `base`.
fn of_git(base: &Path) -> Paths {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(base).args(["-c", "core.excludesFile=/dev/null"]).args(args);
        let output = command.output().expect("this test needs git: apt-get install git");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    git(&["init", "--quiet"]);
    let listed = git(&["ls-files", "-z", "--others", "--exclude-standard"]);
    std::fs::remove_dir_all(base.join(".git")).unwrap();
    listed.split(|&byte| byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect()
}

#[track_caller]
fn assert_as_git(base: &Path, what: &str) {
    let name = Some(b".gitignore".to_vec());
    let files = filter(FilterOptions { ignore_files: name, ..FilterOptions::default() });
    let theirs = of_git(base);
    let (mut ours, _) = walked(base, &files);
    ours.retain(|path| !path.ends_with(b"/"));
    assert_eq!(shown(&ours), shown(&theirs), "{what:?}");
}

#[test]
fn files_of_rules_mean_what_git_takes_them_for() {
    for rules in [
        "*.tmp\n",
        "tmp\n",
        "tmp/\n",
        "/tmp\n",
        "sub/foo\n",
        "/sub/foo\n",
        "foo\n!sub/foo\n",
        "*\n!*/\n!*.c\n",
        "/*\n!/sub\n/sub/*\n!/sub/bar/\n",
        "**/foo\n",
        "sub/**\n",
        "a/**/d\n",
        "a/**\n!a/b/\n",
        "**/bar/**\n",
        "su**\n",
        "# comment\n\n\\#x\n \n*.txt  \n",
        "with\\ space\n",
        "with space\\ \n",
        "star\\*\n",
        "back\\\\slash\n",
        "back\\slash\n",
        "[a-c].*\n",
        "[!a-c]*\n",
        "caf??\n",
        "x-y/[[]z]\n",
        "*.tmp\r\ntop\r\n",
        "\\!important\n!top\ntop\n",
        "sub/\n!sub/foo\n",
    ] {
        let folder = tree();
        write(folder.path(), b".gitignore", rules.as_bytes());
        assert_as_git(folder.path(), rules);
    }
    let folder = tree();
    write(folder.path(), b".gitignore", b"foo\n*.tmp\n/any/x\n");
    write(folder.path(), b"sub/.gitignore", b"!foo\n/top\n");
    write(folder.path(), b"sub/bar/.gitignore", b"foo\n!a.tmp\n");
    write(folder.path(), b"any/.gitignore", b"/sub/bar\n");
    assert_as_git(folder.path(), "several files");
}

#[test]
fn limits_and_lists() {
    let folder = tempfile::tempdir().unwrap();
    for (path, size) in [("small", 1), ("middle", 10), ("large", 100), ("d/large", 100), ("d/e/small", 1)] {
        write(folder.path(), path.as_bytes(), &vec![0; size]);
    }
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    let middle = std::fs::File::options().write(true).open(folder.path().join("middle")).unwrap();
    middle.set_modified(old).unwrap();
    let found = |options: FilterOptions| {
        let filter = filter(options);
        let (found, left_out) = walked(folder.path(), &filter);
        (shown(&found).join(" "), shown(&left_out).join(" "), filter.left_out())
    };
    let none = FilterOptions::default;
    let strings = |found: &str, left_out: &str, count| (found.to_string(), left_out.to_string(), count);
    assert_eq!(
        found(FilterOptions { min_size: Some(10), max_size: Some(10), ..none() }),
        strings("d/ d/e/ middle", "d/e/small d/large large small", 4)
    );
    assert_eq!(
        found(FilterOptions { newer_ns: Some(1_000_000_000_000_000), ..none() }),
        strings("d/ d/e/ d/e/small d/large large small", "middle", 1)
    );
    let listed = || Some(ListedPaths::new([&b"./d/e/"[..], b"small", b"gone", b"d/gone/x"]).unwrap());
    assert_eq!(
        found(FilterOptions { listed: listed(), ..none() }),
        strings("d/ d/e/ d/e/small small", "", 3)
    );
    let filter = filter(FilterOptions { listed: listed(), rules: vec![rule("- gone")], ..none() });
    walked(folder.path(), &filter);
    assert_eq!(filter.missing(), [b"d/gone/x".to_vec(), b"gone".to_vec()]);
}

#[test]
fn what_has_matched_nothing_is_named() {
    let folder = tree();
    let mut rules = vec![rule("- *.tmp"), rule("- *.nothing"), rule("+ top"), rule("- top")];
    for pattern in ["- foo", "- 1", "- 2", "- 3", "- 4", "- 5", "- 6"] {
        rules.push(FilterRule { file: Some("list".to_string()), ..rule(pattern) });
    }
    let filter = filter(FilterOptions { rules, ..FilterOptions::default() });
    walked(folder.path(), &filter);
    assert_eq!(
        filter.unmatched(),
        [
            "rule - *.nothing matched nothing",
            "6 of 7 patterns in list matched nothing: '1', '2', '3', '4', '5', …"
        ]
    );
    walked(folder.path(), &filter);
    assert_eq!(filter.left_out(), 6, "counts are of one scan");
}

#[test]
fn what_decides_is_explained() {
    let folder = tree();
    write(folder.path(), b"sub/.rules", b"foo\n!kept\n");
    let options = FilterOptions {
        rules: vec![rule("+ keep"), rule("- /tmp/"), rule("- top")],
        ignore_files: Some(b".rules".to_vec()),
        max_size: Some(5),
        ..FilterOptions::default()
    };
    write(folder.path(), b"keep", b"");
    write(folder.path(), b"big", b"123456");
    let filter = filter(options);
    let base = Base::open(folder.path()).unwrap();
    let walk = Walk::new(&base, folder.path(), filter.clone(), &[]).unwrap();
    let kept = |rule: Option<&str>| Verdict::Kept(rule.map(str::to_owned));
    let out = |rule: &str| Verdict::LeftOut(rule.to_owned());
    for (path, expected, decided) in [
        ("b.txt", kept(None), "b.txt"),
        ("keep", kept(Some("rule + keep")), "keep"),
        ("tmp/b/c.tmp", out("rule - /tmp/"), "tmp"),
        ("top", out("rule - top"), "top"),
        ("sub/foo", out("'foo' in sub/.rules"), "sub/foo"),
        ("sub/bar/foo", out("'foo' in sub/.rules"), "sub/bar/foo"),
        ("sub/kept", kept(Some("'!kept' in sub/.rules")), "sub/kept"),
        ("big", out("--max-size"), "big"),
        ("not/there", kept(None), "not/there"),
    ] {
        assert_eq!(walk.explain(path.as_bytes()), (expected, decided.as_bytes()), "{path}");
    }
    assert_eq!(filter.explain_key(b"d/tmp/"), (kept(None), &b"d/tmp"[..]));
    assert_eq!(filter.explain_key(b"tmp/a"), (out("rule - /tmp/"), &b"tmp"[..]));
}

/// The devices of a running system are a file system of their own, with others below it.
#[test]
fn one_file_system_ends_where_another_one_is_mounted() {
    let (base, inside) = (Path::new("/dev"), Path::new("/dev/shm"));
    let device = |path: &Path| std::os::unix::fs::MetadataExt::dev(&path.metadata().unwrap());
    if !inside.is_dir() || device(base) == device(inside) {
        println!("{} is no file system of its own here", inside.display());
        return;
    }
    let file = tempfile::NamedTempFile::new_in(inside).unwrap();
    let name = file.path().strip_prefix(base).unwrap().as_os_str().as_bytes();
    for one_file_system in [false, true] {
        let filter = filter(FilterOptions { one_file_system, ..FilterOptions::default() });
        let opened = Base::open(base).unwrap();
        let walk = Walk::new(&opened, base, filter.clone(), &[]).unwrap();
        let (mut found, mut left_out) = (Paths::new(), Paths::new());
        walk.run(|walked| {
            match walked {
                Ok(entry) => found.insert(entry.path.as_bytes().to_vec()),
                Err(skipped) => left_out.insert(skipped.path),
            };
            true
        })
        .unwrap();
        assert!(found.contains(&b"shm"[..]));
        assert_eq!(
            (found.contains(name), left_out.contains(&b"shm"[..])),
            (!one_file_system, one_file_system)
        );
        assert_eq!(filter.left_out() > 0, one_file_system);
        let (verdict, decided) = walk.explain(name);
        assert_eq!(verdict == Verdict::Kept(None), !one_file_system, "{verdict:?}");
        assert_eq!(decided == b"shm", one_file_system);
    }
}
