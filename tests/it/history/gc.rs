//! `gc` removes files that are of no use, and leaves files that a transfer continues with.

use crate::support::{Lab, Tree, assert_same_tree, set_mtime};
use std::path::{Path, PathBuf};

/// Everything below a folder, as relative paths, without the journal's own files, which only the
/// receiver manages.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder).min_depth(1).sort_by_file_name().into_iter();
    let paths = entries.map(|entry| entry.unwrap().path().strip_prefix(folder).unwrap().to_path_buf());
    paths.filter(|path| !path.to_string_lossy().contains("journal.sqlite-")).collect()
}

#[test]
fn left_overs_of_a_receiver_go_and_its_transfers_go_on() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 31).noise("large", 200_000).file("a", "one").file("z", "two");
    let db = lab.index(&src);
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    // Half of the large file has arrived.
    lab.upload(&src, &db, &proxy.url, args!["-s", "50000", "-l", "1"]).code(0);
    lab.run(args!["gc", "-b", dst]).code(1).says("another tar-like receiver uses this base folder");
    drop(proxy);
    let state = dst.join(".tar-like");
    let staging: Vec<_> = below(&state.join("staging"));
    let [folder, file] = &staging[..] else { panic!("{staging:?}") };
    let before = below(&dst);
    let clean = lab.run(args!["gc", "-b", dst, "--json"]).code(0).summary();
    assert_eq!(clean["count"], 0);
    assert_eq!(below(&dst), before);
    // Files of a killed receiver, of a previous index, and of a file that is no longer in the
    // index.
    let planted = [
        "incoming/body",
        "archives/0-00.99.sqlite",
        "archives/0-00.99.sqlite-wal",
        "staging/0.99/5",
        &format!("staging/{}/4711", folder.display()),
    ]
    .map(|name| state.join(name));
    for path in &planted {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![1; 10_000]).unwrap();
    }
    // `gc` follows no link from here.
    let outside = lab.file("outside", "precious");
    std::os::unix::fs::symlink(lab.path("."), state.join("incoming/link")).unwrap();
    let plan = lab.run(args!["gc", "-b", dst, "--dry-run"]).code(0);
    assert_eq!(plan.stdout.lines().count(), 6, "{}", plan.stdout);
    for path in &planted {
        assert!(path.exists());
        assert!(plan.stdout.contains(path.parent().unwrap().to_str().unwrap()), "{}", path.display());
    }
    let summary = lab.run(args!["gc", "-b", dst, "--json"]).code(0).summary();
    assert!(summary["count"] == 6 && summary["disk_bytes"].as_u64().unwrap() > 50_000, "{summary}");
    assert!(planted.iter().all(|path| !path.exists()));
    assert!(outside.exists() && state.join("staging").join(file).exists());
    let proxy = lab.proxy(&dst);
    assert!(proxy.status(0)["done_bytes"].as_u64().unwrap() >= 100_000);
    lab.upload(&src, &db, &proxy.url, args!["-s", "50000"]).code(0);
    assert_same_tree(&src, &dst);
}

#[test]
fn unfinished_files_beside_an_index_go_after_a_day() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 32).file("a", "one");
    let db = lab.index(&src);
    let old = lab.file("src.sqlite.partial-aB3x", "x");
    let new = lab.file("src.sqlite.partial-cD4y", "x");
    let other = lab.file("other.sqlite.partial-eF5z", "x");
    for path in [&old, &other, &db] {
        set_mtime(path, 1_600_000_000_000_000_000);
    }
    let lines = lab.run(args!["gc", "-db", db, "--dry-run"]).code(0).stdout;
    assert_eq!(lines.lines().count(), 1);
    assert!(lines.contains("aB3x") && old.exists(), "{lines}");
    lab.run(args!["gc", "-db", db]).code(0);
    assert!(!old.exists() && new.exists() && other.exists() && db.exists());
}

#[test]
fn a_folder_of_no_receiver_is_left_alone() {
    let lab = Lab::new();
    let folder = lab.dir("folder");
    lab.run(args!["gc", "-b", folder]).code(2).says("is no folder that a receiver has used");
    assert_eq!(below(&folder), Vec::<PathBuf>::new());
    lab.run(args!["gc"]).code(2).says("--base-folder");
    lab.run(args!["gc", "-b", lab.path("absent")]).code(2);
}
