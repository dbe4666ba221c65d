//! What is said of a run: its figures, and the names of entries.

use crate::support::{Lab, Output, Tree};
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

/// Waits, since files that changed just before an index began count as touched.
fn let_files_age() {
    std::thread::sleep(std::time::Duration::from_millis(3100));
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
    let_files_age();
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
    let_files_age();
    let sync = |dst: &std::path::Path, more: Vec<OsString>| lab.sync(&src, dst, [args!["-i"], more].concat());
    sync(&one, vec![]).code(0);
    tree.noise("a", 100).noise("c", 10);
    let_files_age();
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
    let_files_age();
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
