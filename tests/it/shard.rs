//! `--shard I/N`: hosts that share a source without knowing of each other.

use crate::support::{Lab, Output, Proxy, Tree, assert_same_tree};
use std::ffi::OsString;
use std::path::Path;

fn all_parts(lab: &Lab, src: &Path, url: &str, more: Vec<OsString>) -> Vec<Output> {
    let start = |number: u64| {
        let part = args!["sync", src, url, "--shard", format!("{number}/3"), "--json"];
        lab.cmd([part, more.clone()].concat()).derived().spawn()
    };
    let running: Vec<_> = (1..=3).map(start).collect();
    running.into_iter().map(|host| host.wait().code(0)).collect()
}

fn sent(outputs: &[Output]) -> Vec<u64> {
    outputs.iter().map(|output| output.summary()["sent_bytes"].as_u64().unwrap()).collect()
}

/// Many folders, each with files, so that no part is empty.
fn grow(src: &Path) {
    for number in 0..30 {
        let folder = src.join(format!("f{}/g{number}", number % 4));
        std::fs::create_dir_all(&folder).unwrap();
        for file in 0..3 {
            std::fs::write(folder.join(format!("file-{file}")), format!("{number} {file}").repeat(300))
                .unwrap();
        }
    }
}

#[test]
fn three_hosts_copy_one_folder_and_delete_in_their_parts_only() {
    let lab = Lab::new();
    let (src, dst) = (lab.dir("src"), lab.dir("dst"));
    grow(&src);
    let proxy: Proxy = lab.proxy(&dst);
    let first = all_parts(&lab, &src, &proxy.url, vec![]);
    let files: Vec<u64> = first.iter().map(|output| output.summary()["files"].as_u64().unwrap()).collect();
    assert_eq!(files.iter().sum::<u64>(), 90, "{files:?}");
    assert!(files.iter().all(|count| *count > 10), "{files:?}");
    // The time of a folder is right when the last host has ended, whichever that is.
    all_parts(&lab, &src, &proxy.url, vec![]);
    assert_same_tree(&src, &dst);

    std::fs::remove_dir_all(src.join("f1")).unwrap();
    std::fs::remove_file(src.join("f2/g2/file-1")).unwrap();
    std::fs::write(src.join("f3/g3/file-0"), "changed").unwrap();
    let foreign = dst.join("f2/of-another-program");
    std::fs::write(&foreign, "x").unwrap();
    let second = all_parts(&lab, &src, &proxy.url, args!["--delete", "--max-delete", "100"]);
    assert_eq!(sent(&second).iter().sum::<u64>(), 7);
    all_parts(&lab, &src, &proxy.url, args!["--delete"]);
    std::fs::remove_file(foreign).unwrap();
    all_parts(&lab, &src, &proxy.url, args!["--delete", "--checksum"]);
    assert_eq!(list(&src), list(&dst));
}

/// All paths below a folder but those of a receiver's state.
fn list(folder: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap().flatten() {
            if entry.file_name() == ".tar-like" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
            paths.push(entry.path().strip_prefix(folder).unwrap().display().to_string());
        }
    }
    paths.sort();
    paths
}

#[test]
fn three_hosts_send_parts_of_one_index() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 3).rich(30_000);
    let (db, proxy) = (lab.index(&src), lab.proxy(&dst));
    let start =
        |part: &str| lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "1000", "--shard", part]).spawn();
    let running: Vec<_> = ["1/3", "2/3", "3/3"].map(start).into();
    running.into_iter().for_each(|host| {
        host.wait().code(0);
    });
    assert_same_tree(&src, &dst);
    // More parts than blocks.
    let empty = lab.upload(&src, &db, &proxy.url, args!["-s", "10M", "--shard", "1/9"]);
    empty.code(0);
}

#[test]
fn links_between_parts_are_told() {
    let lab = Lab::new();
    let (src, dst) = (lab.dir("src"), lab.dir("dst"));
    grow(&src);
    for number in 1..30 {
        std::fs::hard_link(src.join("f0/g0/file-0"), src.join(format!("f{}/g{number}/link", number % 4)))
            .unwrap();
    }
    let proxy = lab.proxy(&dst);
    let outputs = all_parts(&lab, &src, &proxy.url, vec![]);
    assert!(outputs.iter().any(|output| output.stderr.contains("hard links")), "{outputs:?}");
    assert_eq!(list(&src), list(&dst));
}

#[test]
fn what_a_part_cannot_be() {
    let lab = Lab::new();
    let (src, dst) = (lab.dir("src"), lab.dir("dst"));
    let file = lab.file("file", "x");
    for (arguments, says) in [
        (args!["sync", src, dst, "--shard", "0/3"], "0/3"),
        (args!["sync", src, dst, "--shard", "1/3", "--adopt"], "--adopt"),
        (args!["sync", file, dst, "--shard", "1/3"], "--shard"),
        (args!["upload", "--shard", "1/3", "-f", "1"], "--shard"),
    ] {
        let output = lab.run(arguments).code(2);
        assert!(output.stderr.contains(says), "{output:?}");
    }
    // The index of the whole is not gone on with for a part.
    let db = lab.path("x.sqlite");
    grow(&src);
    lab.run(args!["sync", src, dst, "-db", db]).code(0);
    let output = lab.run(args!["sync", src, dst, "-db", db, "--shard", "1/3"]).code(1);
    assert!(output.stderr.contains("is the index of"), "{output:?}");
}
