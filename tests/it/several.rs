//! `sync` of several sources: their contents come into one destination, and each is an archive of its
//! own.

use crate::support::{Lab, Output, Tree, assert_same_files};
use std::ffi::OsString;
use std::path::PathBuf;

/// Two folders, `one` and `two`, with a file each.
fn lab() -> (Lab, PathBuf, PathBuf) {
    let lab = Lab::new();
    let [one, two] = ["one", "two"].map(|name| lab.path(name));
    Tree::new(&one, 1).file("a", "of one").file("sub/x", "x");
    Tree::new(&two, 2).file("b", "of two").file("sub/y", "y");
    (lab, one, two)
}

fn sync(lab: &Lab, args: Vec<OsString>) -> Output {
    lab.cmd([args!["sync"], args].concat()).derived().run()
}

#[test]
fn contents_are_merged_and_each_source_deletes_its_own() {
    let (lab, one, two) = lab();
    let (dst, all) = (lab.path("dst"), lab.path("all"));
    Tree::new(&all, 3).file("a", "of one").file("b", "of two").file("sub/x", "x").file("sub/y", "y");
    let copy = |more| sync(&lab, [args![one, two, dst, "--json", "--delete"], more].concat());
    let output = copy(vec![]).code(0);
    let output =
        output.says("come into").says(&format!("tar-like sync {} {}/one", one.display(), dst.display()));
    assert_same_files(&all, &dst);
    let summary = output.summary();
    assert_eq!((summary["sources"].as_u64(), summary["files"].as_u64()), (Some(2), Some(4)), "{summary}");
    assert_eq!((summary["complete"].as_bool(), summary["sent_bytes"].as_u64()), (Some(true), Some(14)));
    let of_sources: Vec<_> = output.json().into_iter().filter(|line| line["event"] == "source").collect();
    let names: Vec<_> = of_sources.iter().map(|line| line["source"].as_str().unwrap()).collect();
    assert_eq!(names, [one.to_str().unwrap(), two.to_str().unwrap()]);
    assert!(of_sources.iter().all(|line| line["sent_bytes"] == 7), "each run counts its own: {of_sources:?}");
    assert_ne!(of_sources[0]["tar_id"], of_sources[1]["tar_id"]);
    // Each has an index of its own, so this is an incremental run of both.
    std::fs::remove_file(two.join("b")).unwrap();
    let summary = copy(vec![]).code(0).summary();
    assert_eq!(
        (summary["sent_bytes"].as_u64(), summary["deleted"].as_u64()),
        (Some(0), Some(1)),
        "{summary}"
    );
    assert!(!dst.join("b").exists() && dst.join("a").exists() && dst.join("sub/y").exists());
    // With slashes, nothing is said; a dry run says what each would do.
    let [slash_one, slash_two] = [&one, &two].map(|folder| folder.join(""));
    let output = sync(&lab, args![slash_one, slash_two, dst, "-n"]).code(0);
    assert!(!output.stderr.contains("come into"), "{}", output.stderr);
    assert!(output.stdout.contains(&format!("{}:\nsince generation", slash_one.display())), "{output:?}");
    assert!(output.stdout.ends_with("2 sources, 3 files: would send 0 B\n"), "{output:?}");
}

#[test]
fn files_keep_their_names() {
    let (lab, one, two) = lab();
    let dst = lab.path("dst");
    let output = sync(&lab, args![one.join("a"), two.join("b"), dst]).code(0);
    assert_eq!(output.stderr, "");
    assert_eq!(std::fs::read(dst.join("a")).unwrap(), b"of one");
    assert_eq!(std::fs::read(dst.join("b")).unwrap(), b"of two");
}

#[test]
fn the_first_of_two_contents_at_one_path_stays() {
    let (lab, one, two) = lab();
    std::fs::write(two.join("a"), "of two").unwrap();
    let dst = lab.path("dst");
    sync(&lab, args![one, dst]).code(0);
    for _ in 0..2 {
        sync(&lab, args![one, two, dst, "-n"]).code(3).says("failed: a: archive");
        let output = sync(&lab, args![one, two, dst]).code(3).says("failed: a: archive");
        output
            .says(&format!("{} has put another content", one.display()))
            .says(&format!("{}: indexed", two.display()))
            .says(&format!("NOT all is well with {}", two.display()));
        assert_eq!(std::fs::read(dst.join("a")).unwrap(), b"of one");
        assert_eq!(std::fs::read(dst.join("b")).unwrap(), b"of two");
    }
}

/// A source that fails does not keep the next one from being copied; the worst exit code counts.
#[test]
fn a_source_that_is_not_there_hinders_no_other_one() {
    let (lab, one, two) = lab();
    let dst = lab.path("dst");
    let nowhere = lab.path("nowhere");
    let output = sync(&lab, args![one, nowhere, two, dst]).code(1);
    output.says(&format!("tar-like: {}: cannot open the base", nowhere.display()));
    assert!(dst.join("a").exists() && dst.join("b").exists());
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_copied() {
    let (lab, one, two) = lab();
    let dst = lab.path("dst");
    for (flags, word) in [
        (args!["-db", lab.path("i.sqlite")], "--database (-db) is for one source"),
        (args!["--tar-id", "3"], "--tar-id is for one source"),
        (args!["--replace-source"], "--replace-source is for one source"),
        (args!["--explain", "a"], "--explain is for one source"),
        (args!["--adopt"], "--adopt is for one source"),
        (args!["--files-from", "-"], "--files-from is for one source"),
    ] {
        sync(&lab, [args![one, two, dst], flags].concat()).code(2).says(word);
    }
    sync(&lab, args![one, two, two.join("inner")]).code(2).says("lies in the source");
    sync(&lab, args![one, two, one.join("a")]).code(2).says("is not a folder");
    sync(&lab, args![one, "host:/x", dst]).code(2).says("another host");
    assert!(!dst.exists() && !two.join("inner").exists());
    // As `sync *` has it, where the destination was forgotten.
    let three = lab.path("three");
    Tree::new(&three, 4).file("a", "not to be lost");
    sync(&lab, args![one, two, three]).code(2).says(&format!("type {}/", three.display()));
    assert_eq!(std::fs::read(three.join("a")).unwrap(), b"not to be lost");
    sync(&lab, args![one, two, three.join("")]).code(0);
    assert_eq!(std::fs::read(three.join("a")).unwrap(), b"of one");
    // Now it is a copy of ours.
    sync(&lab, args![one, two, three]).code(0);
}
