//! What is said of a run: its figures, and the names of entries.

use crate::support::{Lab, Output, Tree, assert_same_tree, index};
use std::ffi::OsString;

/// A file that was written again has holes in the archive. They are no part of the folder.
#[test]
fn sizes_are_those_of_the_folder() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 1);
    tree.noise("stays", 1024);
    let sync = |more: Vec<OsString>| lab.sync(&src, &dst, more).code(0);
    for _ in 0..4 {
        tree.noise("again", 9 * 1024);
        sync(vec![]);
    }
    let summary = sync(args!["--json"]).summary();
    assert_eq!((&summary["content_bytes"], &summary["total_bytes"]), (&10_240.into(), &37_888.into()));
    assert_eq!(summary["index"]["content_bytes"], 10_240, "{summary}");
    sync(args!["-v"]).says("indexed 2 files, 0 folders and links, 10.00 KiB").says("all 2 files");
    let would = sync(args!["-n"]).stdout;
    assert!(would.contains("of 10.00 KiB in 2 files"), "{would}");
    let indexed = lab.run(args!["index", "-b", src, "-db", lab.path("home/.tar_like.sqlite"), "-v"]);
    indexed.code(0).says("10.00 KiB");
}

#[test]
fn what_changed_is_not_counted_as_removed() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 2);
    tree.noise("changes", 100).noise("goes", 100).noise("moves", 100).noise("stays", 100).dir("d");
    lab.sync(&src, &dst, vec![]).code(0);
    tree.noise("changes", 100).remove("goes").noise("new", 100).mode("stays", 0o600).remove("d");
    let output = lab.sync(&src, &dst, args!["-v", "--json"]).code(0);
    let changes = output.summary()["index"]["changes"].clone();
    let number = |name: &str| changes[name].as_u64().unwrap();
    assert_eq!(["added", "changed", "touched", "removed", "nodes"].map(number), [2, 1, 1, 1, 1], "{changes}");
    tree.noise("changes", 100).remove("new");
    let output = lab.sync(&src, &dst, args!["-v"]).code(0);
    output.says("generation 3: 0 new, 1 changed, 0 with new metadata, 1 removed, 100 B to send");
}

#[test]
fn what_goes_to_a_backup_folder_is_moved() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 3);
    tree.noise("goes", 100).noise("stays", 100);
    lab.sync(&src, &dst, vec![]).code(0);
    tree.remove("goes");
    let output = lab.sync(&src, &dst, args!["-v", "--delete", "--backup-dir", "old"]).code(0);
    let text = output.says("1 moved to old").stderr;
    assert!(!text.contains("1 deleted"), "{text}");
    assert!(dst.join("old/goes").exists());
    tree.remove("stays").noise("new", 10);
    let summary = lab.sync(&src, &dst, args!["--json", "--delete", "--backup-dir", "old"]).code(0).summary();
    assert_eq!((&summary["deleted"], &summary["moved_to"]), (&1.into(), &"old".into()), "{summary}");
}

#[test]
fn what_was_changed_at_the_destination_is_not_deleted_and_named() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let mut tree = Tree::new(&src, 5);
    tree.file("f", "1").file("f2", "2").file("d/deep", "3").file("absent", "4").file("goes", "5");
    tree.file("same", "2").symlink("link", "f").file("empty", "");
    lab.sync(&src, &dst, vec![]).code(0);
    for name in ["f2", "d/deep", "f", "empty"] {
        std::fs::write(dst.join(name), "edited").unwrap();
    }
    std::fs::remove_file(dst.join("link")).unwrap();
    std::os::unix::fs::symlink("edited", dst.join("link")).unwrap();
    std::fs::remove_file(dst.join("absent")).unwrap();
    for name in ["f2", "d", "absent", "goes", "empty"] {
        tree.remove(name);
    }
    let kept = "not deleted, because changed at the destination since it was copied: ";
    let sync = |more: Vec<OsString>| {
        let output = lab.sync(&src, &dst, [args!["-i", "--delete"], more].concat()).code(0);
        let line = output.stderr.lines().find(|line| line.contains(kept)).map(str::to_owned);
        let mut names = names(&output);
        names.sort();
        (names, line.unwrap_or_else(|| panic!("{output:?}")), output)
    };
    let (would, line, output) = sync(args!["-n"]);
    let text = &output.stdout;
    assert!(text.contains("would send 1 block, 1 B") && text.contains("1 would be deleted"), "{text}");
    for name in ["f2", "d/deep", "empty"] {
        assert!(line.contains(name), "{line}");
    }
    assert!(!line.contains("link") && !line.contains("more"), "{line}");
    let (did, same_line, _) = sync(vec![]);
    assert!(!dst.join("goes").exists() && dst.join("f2").exists() && dst.join("d/deep").exists());
    assert_eq!((&would, &line), (&did, &same_line));
    assert!(would.contains(&"D\tf\t1\tgoes".to_string()), "{would:?}");
    // Also in the next run, as long as it is there.
    let (would, line, _) = sync(args!["-n"]);
    assert_eq!((would, line), (vec![], same_line));
}

/// The lines of standard output that name entries.
fn names(output: &Output) -> Vec<String> {
    output.stdout.lines().filter(|line| line.contains('\t')).map(str::to_owned).collect()
}

#[test]
fn each_entry_of_a_run_is_named() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("i.sqlite"));
    let mut tree = Tree::new(&src, 4);
    tree.noise("changes", 300).noise("d/moves", 70).noise("goes", 40).noise("grows", 200);
    tree.noise("mode", 500).noise("stays", 1000).symlink("link", "stays").dir("old");
    let sync = |more: Vec<OsString>| lab.sync(&src, &dst, [args!["-db", db, "-i"], more].concat());
    let all = [
        "N\tf\t300\tchanges",
        "N\td\t0\td",
        "N\tf\t70\td/moves",
        "N\tf\t40\tgoes",
        "N\tf\t200\tgrows",
        "N\tl\t0\tlink",
        "N\tf\t500\tmode",
        "N\td\t0\told",
        "N\tf\t1000\tstays",
    ];
    let mut would = names(&sync(args!["-n"]).code(0));
    would.sort_by_key(|line| line.rsplit('\t').next().map(str::to_owned));
    assert_eq!(would, all);
    assert!(!dst.exists());
    let mut did = names(&sync(vec![]).code(0));
    did.sort_by_key(|line| line.rsplit('\t').next().map(str::to_owned));
    assert_eq!(did, all);
    assert!(names(&sync(vec![]).code(0)).is_empty(), "nothing changed");
    assert!(names(&sync(args!["-n"]).code(0)).is_empty());

    tree.noise("changes", 300).remove("goes").noise("new", 30).mode("mode", 0o600).remove("old");
    std::fs::rename(src.join("d/moves"), src.join("moved")).unwrap();
    tree.remove("link").symlink("link", "new");
    let grown = [std::fs::read(src.join("grows")).unwrap(), vec![7; 50]].concat();
    std::io::Write::write_all(
        &mut std::fs::File::options().append(true).open(src.join("grows")).unwrap(),
        &grown[200..],
    )
    .unwrap();
    let expected = [
        "C\td\t0\td",
        "C\tf\t300\tchanges",
        "C\tl\t0\tlink",
        "D\td\t0\told",
        "D\tf\t40\tgoes",
        "G\tf\t50\tgrows",
        "N\tf\t30\tnew",
        "R\tf\t70\tmoved\td/moves",
        "T\tf\t500\tmode",
    ];
    let sorted = |output: Output| {
        let mut lines = names(&output);
        lines.sort();
        lines
    };
    let kept: Vec<&str> = expected.iter().copied().filter(|line| !line.starts_with('D')).collect();
    assert_eq!(sorted(sync(args!["-n"]).code(0)), kept);
    let would = sync(args!["-n", "--delete"]).code(0);
    assert!(would.stdout.contains("; 3 would be deleted"), "{would:?}");
    assert_eq!(sorted(would), expected);
    let would = sync(args!["-n", "--delete", "--max-delete", "2"]).code(25);
    assert!(would.stdout.contains("NOTHING WOULD BE DELETED: 3 entries"), "{would:?}");
    assert_eq!(sorted(would), kept);
    let summary = sync(args!["-n", "--delete", "--json"]).code(0).summary();
    assert_eq!((&summary["deleted"], &summary["dry_run"]), (&3.into(), &true.into()), "{summary}");
    assert!(dst.join("goes").exists());
    // Reading everything tells the same.
    assert_eq!(sorted(sync(args!["-n", "--delete", "--checksum"]).code(0)), expected);
    let did = sync(args!["--delete", "-v"]).code(0);
    assert!(did.stderr.contains("; 3 deleted"), "{did:?}");
    assert_eq!(sorted(did), expected);
    assert!(!dst.join("goes").exists());
}

#[test]
fn a_destination_that_is_behind_gets_other_names() {
    let lab = Lab::new();
    let (src, one, two) = (lab.path("src"), lab.path("one"), lab.path("two"));
    let mut tree = Tree::new(&src, 5);
    tree.noise("a", 100).noise("b", 100).dir("e");
    let sync = |dst: &std::path::Path, more: Vec<OsString>| lab.sync(&src, dst, [args!["-i"], more].concat());
    sync(&one, vec![]).code(0);
    tree.noise("a", 100).noise("c", 10);
    sync(&two, vec![]).code(0);
    tree.noise("b", 100);
    // One has the first generation, two the second one, three none.
    let lines = |output: Output| {
        let mut lines = names(&output.code(0));
        lines.sort();
        lines
    };
    assert_eq!(lines(sync(&one, args!["-n"])), ["C\tf\t100\ta", "C\tf\t100\tb", "N\tf\t10\tc"]);
    assert_eq!(lines(sync(&two, args!["-n"])), ["C\tf\t100\tb"]);
    let all = ["N\td\t0\te", "N\tf\t10\tc", "N\tf\t100\ta", "N\tf\t100\tb"];
    assert_eq!(lines(sync(&lab.path("three"), args!["-n"])), all);
    assert_eq!(lines(sync(&one, vec![])), ["C\tf\t100\ta", "C\tf\t100\tb", "N\tf\t10\tc"]);
    assert_eq!(lines(sync(&two, vec![])), ["C\tf\t100\tb"]);
    assert_eq!(lines(sync(&lab.path("three"), vec![])), all);
}

#[test]
fn what_the_receiver_lacks_of_an_interrupted_run_is_named() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("i.sqlite"));
    let mut tree = Tree::new(&src, 6);
    tree.noise("a", 3000).noise("b", 3000).noise("c", 3000);
    let proxy = lab.proxy(&dst);
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    lab.upload(&src, &db, &proxy.url, args!["-s", "3000", "-f", "0", "-l", "0"]).code(0);
    let sync = |more: Vec<OsString>| lab.sync(&src, &proxy.url, [args!["-db", db, "-i"], more].concat());
    assert_eq!(names(&sync(args!["-n"]).code(0)), ["M\tf\t3000\tb", "M\tf\t3000\tc"]);
    tree.noise("c", 3000);
    assert_eq!(names(&sync(args!["-n"]).code(0)), ["M\tf\t3000\tb", "C\tf\t3000\tc"]);
    tree.remove("c");
    assert_eq!(names(&sync(args!["-n"]).code(0)), ["M\tf\t3000\tb"]);
}

#[test]
fn verbose_names_alone() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let mut tree = Tree::new(&src, 7);
    tree.noise("a\nb", 100).noise("goes", 100).dir("d");
    let first = lab.sync(&src, &dst, args!["-v"]).code(0);
    assert_eq!(first.stdout, "a\\x0ab\nd\ngoes\n");
    tree.remove("goes");
    let second = lab.sync(&src, &dst, args!["-v", "--delete", "--max-delete", "100%"]).code(0);
    assert_eq!(second.stdout, "deleting goes\n");
    let json = lab.sync(&src, lab.path("other"), args!["-v", "--json"]).code(0).json();
    let paths: Vec<&str> = json.iter().filter_map(|line| line["path"].as_str()).collect();
    assert_eq!(paths, ["a\\x0ab", "d"]);
    assert!(lab.sync(&src, lab.path("silent"), vec![]).code(0).stdout.is_empty());
}

/// A file that failed is no name of what was brought.
#[test]
fn a_file_that_failed_is_not_named() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 8);
    tree.noise("a", 100);
    lab.sync(&src, &dst, vec![]).code(0);
    tree.noise("b", 100).noise("in-the-way", 100);
    std::fs::create_dir_all(dst.join("in-the-way/x")).unwrap();
    let output = lab.sync(&src, &dst, args!["-i"]).code(3);
    assert_eq!(names(&output), ["N\tf\t100\tb"], "{output:?}");
}

#[test]
fn an_index_of_a_list_is_that_of_the_folder() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("i.sqlite"));
    Tree::new(&src, 9).noise("c", 3000).noise("a b", 10).mode("a b", 0o600).noise("d/\n\\", 70);
    lab.sync(&src, &dst, vec![]).code(0);
    let list = |text: &str, more: Vec<OsString>| {
        let list = lab.file("list", text);
        lab.run([args!["index", "-c", "--from-list", list, "-b", src, "-db", db, "--json"], more].concat())
    };
    let md5 = |name: &str| index::md5_hex(&std::fs::read(src.join(name)).unwrap());
    let lines = [
        format!("\\{}  ./d/\\n\\\\", md5("d/\n\\")),
        format!("{} *a b", md5("a b")),
        format!("{}\t3000\tc", md5("c")),
    ];
    let summary = list(&(lines.join("\n") + "\n\n"), vec![]).code(0).summary();
    assert_eq!((&summary["files"], &summary["content_bytes"]), (&3.into(), &3080.into()), "{summary}");
    lab.check(&dst, &db, args!["--extra"]).code(0);
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    // Another size, a path twice, one that leads out, one without a size, no md5 at all.
    let summary = list(&format!("{}\t7\tc\n", md5("c")), vec![]).code(3).says("the list says 7").summary();
    assert_eq!((&summary["files"], &summary["skipped"]), (&0.into(), &1.into()), "{summary}");
    let one = &lines[1];
    list(&format!("{one}\n{one}\n"), vec![]).code(2).says("line 2 of the list: a b comes twice");
    list(&format!("{one}\n{}  ../x\n", md5("c")), vec![]).code(2).says("line 2 of the list: ../x");
    list(&format!("{}  nowhere\n", md5("c")), vec![]).code(2).says("no size");
    list("nonsense\n", vec![]).code(2).says("line 1 of the list");
    lab.run(args!["index", "--from-list", "list", "-b", src, "-db", db]).code(2).says("give -c");
}

/// As sync does.
#[test]
fn upload_names_what_it_has_sent() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("db"));
    let mut tree = Tree::new(&src, 13);
    tree.noise("a", 300).noise("d/b", 200);
    let proxy = lab.proxy(&lab.dir("dst"));
    let upload = |more: Vec<OsString>| {
        lab.run(args!["index", "-b", src, "-db", db]).code(0);
        let output = lab.upload(&src, &db, &proxy.url, [args!["-v"], more].concat()).code(0);
        assert!(!output.stderr.contains("INFO"), "{}", output.stderr);
        let mut lines: Vec<String> = output.stdout.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with("would send"));
        lines.sort();
        lines
    };
    assert_eq!(upload(args!["-n"]), ["a", "d", "d/b"]);
    assert_eq!(upload(vec![]), ["a", "d", "d/b"]);
    assert!(upload(vec![]).is_empty());
    tree.noise("new", 10);
    assert_eq!(upload(vec![]), ["new"]);
    tree.remove("new");
    assert_eq!(upload(args!["--delete"]), ["deleting new"]);
}

/// No block brings an empty file: one that is not there must not be made all the same.
#[test]
fn a_listed_empty_file_that_is_not_there_fails() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("i.sqlite"));
    Tree::new(&src, 12).noise("a", 300).file("empty", "").dir("folder");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, src.join("fifo"), fifo, 0o600.into(), 0).unwrap();
    let md5 = |bytes: &[u8]| index::md5_hex(bytes);
    let mut lines = format!("{} 300 a\n", md5(&std::fs::read(src.join("a")).unwrap()));
    for name in ["empty", "fifo", "folder", "missing"] {
        lines.push_str(&format!("{} 0 {name}\n", md5(b"")));
    }
    let list = lab.file("list", &lines);
    lab.run(args!["index", "--from-list", list, "-b", src, "-db", db]).code(0);
    let proxy = lab.proxy(&dst);
    for _ in 0..2 {
        let output = lab.upload(&src, &db, &proxy.url, vec![]).code(3);
        for (name, why) in
            [("fifo", "no regular file"), ("folder", "no regular file"), ("missing", "it is gone")]
        {
            let line = output.stderr.lines().find(|line| line.starts_with(&format!("failed: {name}: ")));
            assert!(line.is_some_and(|line| line.contains(why)), "{}", output.stderr);
            assert!(!dst.join(name).exists(), "{name}");
        }
        assert!(dst.join("a").exists() && dst.join("empty").exists());
        assert!(output.stderr.contains("3 FAILED"), "{}", output.stderr);
    }
}

#[test]
fn figures_at_the_end() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let mut tree = Tree::new(&src, 10);
    tree.noise("a", 3000).noise("b", 1000).dir("d");
    let first = lab.sync(&src, &dst, args!["--stats"]).code(0).stdout;
    let has = |text: &str, name: &str, value: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).map(str::to_owned);
        assert!(line.as_ref().is_some_and(|line| line.contains(&format!("  {value}"))), "{name}: {text}");
    };
    for (name, value) in [("files", "2, 3.91 KiB"), ("folders and links", "1"), ("sent", "1 block, 3.91 KiB")]
    {
        has(&first, name, value);
    }
    tree.noise("b", 500).remove("d").noise("c", 10);
    let second = lab.sync(&src, &dst, args!["--stats", "--delete"]).code(0).stdout;
    for (name, value) in [("changed", "1"), ("new", "1"), ("deleted", "1"), ("sent", "1 block, 510 B")] {
        has(&second, name, value);
    }
    has(&second, "reused", "2.93 KiB");
    let dry = lab.sync(&src, &dst, args!["--stats", "-n"]).code(0).stdout;
    has(&dry, "to send, at most", "0 B");
    let json = lab.sync(&src, &dst, args!["--stats", "--json"]).code(0);
    assert_eq!(json.summary()["reused_bytes"], 3510);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, src.join("fifo"), fifo, 0o600.into(), 0).unwrap();
    let dry = lab.sync(&src, &dst, args!["--stats", "-n", "--exclude", "[bc]"]).code(3).stdout;
    for (name, value) in [("left out", "2"), ("skipped", "1"), ("removed", "0"), ("filtered", "2")] {
        has(&dry, name, value);
    }
    // No more than there is: a new copy gets nothing of what is left out now.
    let dry = lab.sync(&src, lab.path("new"), args!["--json", "-n", "--exclude", "[bc]"]).code(3).summary();
    assert_eq!(dry["sent_bytes"], dry["content_bytes"], "{dry}");
}

#[test]
fn ls_lists_an_index() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    let mut tree = Tree::new(&src, 11);
    tree.noise("b", 10).noise("a/x.c", 20).noise("a\nb", 1).symlink("z", "b").hardlink("y", "b");
    tree.mode("b", 0o640).mtime("b", 1_700_000_000_000_000_000);
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let ls = |more: Vec<OsString>| lab.run([args!["ls", "-db", db], more].concat());
    assert_eq!(ls(vec![]).code(0).stdout, "a\na/x.c\na\\x0ab\nb\ny\nz\n");
    assert_eq!(ls(args!["-0", "a*"]).code(0).stdout, "a\0a/x.c\0a\nb\0");
    let long = ls(args!["-l", "b", "y", "z"]).code(0).stdout;
    let lines: Vec<&str> = long.lines().collect();
    assert_eq!(lines[0], "f 0640\t10\t2023-11-14T22:13:20+00:00\tb");
    assert!(lines[1].starts_with("h ") && lines[1].ends_with("\ty -> b"), "{long}");
    assert!(lines[2].starts_with("l ") && lines[2].ends_with("\tz -> b"), "{long}");
    ls(args!["nothing"]).code(1).says("nothing matches");
    let json = ls(args!["--json", "*.c"]).code(0).json();
    assert_eq!((json[0]["path"].as_str(), json[0]["bytes"].as_u64()), (Some("a/x.c"), Some(20)));
    assert_eq!(json[1]["entries"], 1);
    // Rows of later generations are in their places, and earlier generations are there.
    tree.remove("b").remove("y").noise("a/w", 5).noise("aa", 5);
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    assert_eq!(ls(vec![]).code(0).stdout, "a\na/w\na/x.c\na\\x0ab\naa\nz\n");
    assert_eq!(ls(args!["--generation", "1", "b"]).code(0).stdout, "b\n");
    lab.run(args!["ls", "-db", lab.path("none")]).code(1).says("none");
}

/// Another program has deleted and changed files there: a run mends that, and a dry run says so.
#[test]
fn runs_name_what_became_of_files_at_the_destination() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let mut tree = Tree::new(&src, 8);
    tree.noise("goes", 300).noise("changes", 200).noise("stays", 100);
    let proxy = lab.proxy(&lab.dir("far"));
    for (to, folder) in [(dst.as_os_str(), &dst), (proxy.url.as_ref(), &lab.path("far"))] {
        let sync =
            |more| lab.sync(&src, to, [args!["-i", "-db", folder.with_extension("db")], more].concat());
        sync(vec![]).code(0);
        std::fs::remove_file(folder.join("goes")).unwrap();
        std::fs::write(folder.join("changes"), "another").unwrap();
        let would = sync(args!["-n"]).code(0);
        let mut named = names(&would);
        named.sort();
        assert_eq!(named, ["M\tf\t200\tchanges", "M\tf\t300\tgoes"], "{would:?}");
        assert!(would.stdout.contains("would send 1 block, 500 B of 600 B"), "{would:?}");
        assert!(!folder.join("goes").exists(), "a dry run changes nothing");
        let alike = |more: Vec<OsString>, expected: &[&str]| {
            let would = sync([more.clone(), args!["-n"]].concat()).code(0);
            let did = sync(more).code(0);
            for output in [would, did] {
                let mut named = names(&output);
                named.sort();
                assert_eq!(named, expected, "{output:?}");
            }
            assert_same_tree(&src, folder);
        };
        alike(vec![], &["M\tf\t200\tchanges", "M\tf\t300\tgoes"]);
        alike(vec![], &[]);
        // Size and time do not tell it.
        let damage = |name: &str| {
            let path = folder.join(name);
            let time = std::fs::metadata(&path).unwrap().modified().unwrap();
            let damaged: Vec<u8> = std::fs::read(&path).unwrap().iter().map(|byte| !byte).collect();
            std::fs::write(&path, damaged).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        };
        damage("stays");
        alike(args!["--checksum"], &["M\tf\t100\tstays"]);
        // While the source has changed, too.
        damage("stays");
        std::fs::remove_file(folder.join("goes")).unwrap();
        tree.noise("changes", 200);
        alike(args!["--checksum"], &["C\tf\t200\tchanges", "M\tf\t100\tstays", "M\tf\t300\tgoes"]);
        std::fs::remove_file(folder.join("goes")).unwrap();
        tree.noise("changes", 200);
        alike(vec![], &["C\tf\t200\tchanges", "M\tf\t300\tgoes"]);
    }
}

/// After some generations the archive has holes, which nobody sends.
#[test]
fn the_figures_of_a_dry_run_are_those_of_the_folder() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 9);
    tree.noise("stays", 1000).noise("changes", 7);
    let (db, dst) = (lab.path("db"), lab.path("dst"));
    for _ in 0..3 {
        lab.sync(&src, &dst, args!["-db", db]).code(0);
        tree.noise("changes", 70_000);
    }
    lab.sync(&src, &dst, args!["-db", db]).code(0);
    let proxy = lab.proxy(&lab.dir("far"));
    let would = |output: Output| {
        let summary = output.code(0).summary();
        (summary["sent_bytes"].as_u64().unwrap(), summary["content_bytes"].as_u64().unwrap())
    };
    let more = || args!["-db", db, "-n", "--json"];
    assert_eq!(would(lab.sync(&src, lab.path("new"), more())), (71_000, 71_000));
    assert_eq!(would(lab.sync(&src, &proxy.url, more())), (71_000, 71_000));
    assert_eq!(would(lab.sync(&src, &dst, more())), (0, 71_000));
}
