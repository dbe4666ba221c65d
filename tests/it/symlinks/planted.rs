//! Links, FIFOs, devices and folders that stand where entries of the index belong.

use super::{SIZE, Setting, remove};
use crate::support::{Proxy, Tree, assert_same_tree, skip, tree_diff};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Where an entry of the index belongs, and where in `outside` the link leads that stands there.
const PLANTS: [(&str, &str); 20] = [
    ("top", "top"),
    ("top", "new-file"),
    ("top", "sub"),
    ("z-large", "large"),
    ("z-large", "no/such/folder"),
    ("dir", ""),
    ("dir", "dir"),
    ("dir", "new-folder"),
    ("dir/sub", "sub"),
    ("dir/sub", ""),
    ("dir/sub/deep", "sub/deep"),
    ("dir/large", "large"),
    ("dir/sub/file", "file"),
    ("empty", "empty"),
    ("empty-dir", "empty-dir"),
    ("dir/sub/empty-dir", "empty-dir"),
    ("link", "file"),
    ("dir/link", "sub"),
    ("dir/hard", "first"),
    ("first", "first"),
];

/// The same through links to themselves, to each other, and to places by relative paths.
const TANGLES: [(&str, &str); 6] = [
    ("dir", "dir"),
    ("dir/sub", "../../outside"),
    ("dir/sub", "../../dst/../outside/sub"),
    ("top", "../outside/top"),
    ("top", "."),
    ("empty-dir", "../outside/empty-dir"),
];

fn plants(setting: &Setting) -> Vec<(&'static str, PathBuf)> {
    let outside = PLANTS.iter().map(|(name, target)| (*name, setting.outside.join(target)));
    outside.chain(TANGLES.iter().map(|(name, target)| (*name, PathBuf::from(target)))).collect()
}

fn clean(base: &Path) {
    for entry in std::fs::read_dir(base).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != ".tar-like" {
            remove(&entry.path());
        }
    }
}

/// What stands in the way is replaced, as rsync does: one transfer is enough.
#[test]
fn links_that_are_there_before() {
    let setting = Setting::new();
    for (name, target) in plants(&setting) {
        remove(&setting.dst);
        std::fs::create_dir(&setting.dst).unwrap();
        setting.plant(name, &target);
        setting.completes(&setting.proxy(), &format!("{name} -> {}", target.display()));
    }
    // All that can stand beside each other.
    remove(&setting.dst);
    for name in ["top", "z-large", "empty", "first", "dir/file"] {
        setting.plant(name, &setting.outside.join("file"));
    }
    for name in ["dir/sub", "empty-dir", "link", "hard"] {
        setting.plant(name, &setting.outside.join("sub"));
    }
    setting.completes(&setting.proxy(), "all at once");
}

/// Planted over what was received, by a first sender that got half-way.
#[test]
fn links_that_come_half_way() {
    for (name, target) in plants(&Setting::new()) {
        let setting = Setting::new();
        let target = if target.is_absolute() {
            setting.outside.join(target.strip_prefix(target.ancestors().nth(1).unwrap()).unwrap())
        } else {
            target
        };
        let what = format!("{name} -> {}", target.display());
        let proxy = setting.proxy();
        setting.upload(&proxy, vec!["-l".into(), "3".into()]).code(0);
        setting.plant(name, &target);
        let first = setting.upload(&proxy, vec![]);
        assert!(matches!(first.code, 0 | 3), "{what}: {first:?}");
        setting.nothing_touched(&what);
        assert!(first.code == 3 || tree_diff(&setting.src, &setting.dst).is_empty(), "{what}: 0, but not equal");
        setting.completes(&proxy, &what);
    }
}

/// Planted when all blocks are there and `finish` comes: it makes folders, links and empty files, and sets metadata.
#[test]
fn links_that_come_before_finish() {
    let setting = Setting::new();
    let proxy = setting.proxy();
    setting.send_without_finish(&proxy);
    for name in ["empty-dir", "empty", "link", "dir/link", "hard", "dir/hard", "dir/sub/empty-dir", "dir/empty"] {
        setting.plant(name, &setting.outside.join("sub"));
    }
    setting.completes(&proxy, "links where finish makes something");
    for (name, target) in plants(&setting) {
        let what = format!("{name} -> {}", target.display());
        let lab = Setting::new();
        let proxy = lab.proxy();
        lab.send_without_finish(&proxy);
        let target = match target.strip_prefix(&setting.outside) {
            Ok(inside) => lab.outside.join(inside),
            Err(_) => target,
        };
        lab.plant(name, &target);
        let finish = proxy.request("POST", "/tar/0/finish", &[], b"{\"partial\":true}");
        assert_eq!(finish.status, 200, "{what}: {}", finish.text());
        lab.nothing_touched(&what);
        let complete = finish.json()["complete"] == true;
        assert!(!complete || tree_diff(&lab.src, &lab.dst).is_empty(), "{what}: complete, but not equal");
        lab.completes(&proxy, &what);
    }
}

/// Planted over a transfer that was finished: the next run of the same command mends it.
#[test]
fn links_that_come_after_all() {
    for restart in [false, true] {
        let setting = Setting::new();
        let mut proxy = setting.proxy();
        setting.completes(&proxy, "nothing planted yet");
        for name in ["top", "z-large", "dir/sub", "empty-dir", "empty", "hard", "link"] {
            setting.plant(name, &setting.outside.join("sub"));
        }
        if restart {
            proxy.kill9();
            proxy.restart();
        }
        setting.completes(&proxy, &format!("restarted: {restart}"));
    }
}

/// A base folder that is itself a link was chosen by who started the receiver.
#[test]
fn a_base_that_is_a_link() {
    let setting = Setting::new();
    std::os::unix::fs::symlink(&setting.dst, setting.lab.path("base")).unwrap();
    let proxy = setting.lab.proxy(&setting.lab.path("base"));
    setting.completes(&proxy, "base");
}

fn make(path: &Path, kind: FileType) -> bool {
    // The null device: opening it does nothing.
    let device = if kind == FileType::CharacterDevice { rustix::fs::makedev(1, 3) } else { 0 };
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    match rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device) {
        Ok(()) => true,
        Err(Errno::PERM | Errno::ACCESS) => false,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

/// FIFOs, sockets and devices at names of files, folders and links: nobody waits for their other end, nobody writes to them.
#[test]
fn special_files_in_the_way() {
    for kind in [FileType::Fifo, FileType::Socket, FileType::CharacterDevice] {
        for restart in [false, true] {
            let setting = Setting::new();
            let names = ["top", "z-large", "dir/large", "empty", "link", "hard", "first", "dir/sub", "empty-dir"];
            if !names.iter().all(|name| make(&setting.dst.join(name), kind)) {
                skip(&format!("may not make a {kind:?}"));
                break;
            }
            let mut proxy = setting.proxy();
            setting.completes(&proxy, &format!("{kind:?}"));
            // And over what was received.
            for name in names {
                remove(&setting.dst.join(name));
                make(&setting.dst.join(name), kind);
            }
            if restart {
                proxy.kill9();
                proxy.restart();
            }
            setting.completes(&proxy, &format!("{kind:?} over what was received, restarted: {restart}"));
        }
    }
}

/// A folder with contents in the way of a file: that file fails by name, its contents stay, the others are fine.
#[test]
fn a_folder_with_contents_in_the_way() {
    for (names, how) in [(&["top"][..], "small"), (&["z-large"], "large"), (&["empty"], "empty"), (&["link"], "link")] {
        in_the_way(names, how);
    }
    in_the_way(&["top", "z-large", "dir/large", "dir/sub/file", "empty", "link", "dir/hard"], "many");
}

fn in_the_way(names: &[&str], how: &str) {
    let setting = Setting::new();
    for name in names {
        Tree::new(&setting.dst.join(name), 222).file("mine", "not yours");
    }
    let proxy = setting.proxy();
    let run = |proxy: &Proxy| {
        let output = setting.upload(proxy, vec!["--json".into()]).code(3);
        let summary = output.summary();
        assert_eq!(summary["complete"], false, "{how}");
        let failed: Vec<&str> =
            summary["failed"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
        for name in names {
            assert!(failed.contains(name) && output.stderr.contains(name), "{how}: {name} in {failed:?}");
            assert_eq!(std::fs::read(setting.dst.join(name).join("mine")).unwrap(), b"not yours");
        }
        let mut differences = tree_diff(&setting.src, &setting.dst);
        // A hard link shares the fate of its first name.
        let expected = |line: &String| names.iter().any(|name| line.contains(name)) || line.contains("hard");
        differences.retain(|line| !expected(line));
        assert!(differences.is_empty(), "{how}: {differences:?}");
    };
    run(&proxy);
    run(&proxy);
    for name in names {
        remove(&setting.dst.join(name));
    }
    setting.completes(&proxy, how);
    assert_eq!(proxy.status(0)["failed"], serde_json::json!([]), "{how}");
    clean(&setting.dst);
    let again = setting.lab.upload(
        &setting.src,
        &setting.db,
        &proxy.url,
        args!["-s", SIZE.to_string(), "--tar-id", "1"],
    );
    again.code(0);
    assert_same_tree(&setting.src, &setting.dst);
}

/// A socket is no place to write to either: what was made is one.
#[test]
fn special_files_are_what_they_say() {
    let lab = crate::support::Lab::new();
    let path = lab.path("x/fifo");
    assert!(make(&path, FileType::Fifo) && path.symlink_metadata().unwrap().file_type().is_fifo());
}
