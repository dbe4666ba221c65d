//! Links, FIFOs, devices and folders in the places of entries of the index.

use super::{Setting, remove};
use crate::support::{Proxy, Tree, skip, tree_diff};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use std::path::Path;

/// The place of an entry of the index, and the target of the link that stands there: with `out`, in
/// the folder outside, otherwise as written.
const PLANTS: [(&str, &str); 26] = [
    ("top", "out/top"),
    ("top", "out/new-file"),
    ("top", "out/sub"),
    ("z-large", "out/large"),
    ("z-large", "out/no/such/folder"),
    ("dir", "out"),
    ("dir", "out/dir"),
    ("dir", "out/new-folder"),
    ("dir/sub", "out/sub"),
    ("dir/sub", "out"),
    ("dir/sub/deep", "out/sub/deep"),
    ("dir/large", "out/large"),
    ("dir/sub/file", "out/file"),
    ("empty", "out/empty"),
    ("empty-dir", "out/empty-dir"),
    ("dir/sub/empty-dir", "out/empty-dir"),
    ("link", "out/file"),
    ("dir/link", "out/sub"),
    ("dir/hard", "out/a-first"),
    ("a-first", "out/a-first"),
    // To themselves, and by relative paths.
    ("dir", "dir"),
    ("dir/sub", "../../outside"),
    ("dir/sub", "../../dst/../outside/sub"),
    ("top", "../outside/top"),
    ("top", "."),
    ("empty-dir", "../outside/empty-dir"),
];

fn plant(setting: &Setting, (name, target): (&str, &str)) {
    match target.strip_prefix("out") {
        Some(inside) => setting.plant(name, &setting.outside.join(inside.trim_start_matches('/'))),
        None => setting.plant(name, Path::new(target)),
    }
}

/// Links in the way are replaced, as rsync does: one transfer is enough.
#[test]
fn links_that_are_there_before() {
    let setting = Setting::new();
    for planted in PLANTS {
        remove(&setting.dst);
        std::fs::create_dir(&setting.dst).unwrap();
        plant(&setting, planted);
        setting.completes(&setting.proxy(), &format!("{planted:?}"));
    }
    // All that can exist side by side.
    remove(&setting.dst);
    for name in ["top", "z-large", "empty", "a-first", "dir/file"] {
        setting.plant(name, &setting.outside.join("file"));
    }
    for name in ["dir/sub", "empty-dir", "link", "hard"] {
        setting.plant(name, &setting.outside.join("sub"));
    }
    setting.completes(&setting.proxy(), "all at once");
}

/// Planted over received entries, after a first sender got half-way. The next command ends right.
#[test]
fn links_that_come_half_way() {
    let mut wrong = Vec::new();
    for planted in PLANTS {
        let setting = Setting::new();
        let proxy = setting.proxy();
        setting.upload(&proxy, args!["-l", "4"]).code(0);
        plant(&setting, planted);
        if let Err(why) = setting.try_complete(&proxy) {
            wrong.push(format!("{planted:?}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), PLANTS.len(), wrong.join("\n"));
}

/// Planted when all blocks have arrived, before `finish` makes folders, links and empty files, and
/// sets metadata. It may say complete only if everything is; the next command ends right in any
/// case.
#[test]
fn links_that_come_before_finish() {
    let mut wrong = Vec::new();
    for planted in PLANTS {
        let setting = Setting::new();
        let proxy = setting.proxy();
        setting.send_without_finish(&proxy);
        plant(&setting, planted);
        let finish = proxy.request("POST", "/tar/0/finish", &[], b"{\"partial\":true}");
        assert_eq!(finish.status, 200, "{planted:?}: {}", finish.text());
        setting.nothing_touched(&format!("{planted:?}"));
        let differences = tree_diff(&setting.src, &setting.dst);
        if finish.json()["complete"] == true && !differences.is_empty() {
            wrong.push(format!("{planted:?}: finish says complete, but {differences:#?}"));
        }
        if let Err(why) = setting.try_complete(&proxy) {
            wrong.push(format!("{planted:?}: {why}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), PLANTS.len(), wrong.join("\n"));
}

/// All places at once where `finish` makes entries.
#[test]
fn links_wherever_finish_makes_something() {
    let setting = Setting::new();
    let proxy = setting.proxy();
    setting.send_without_finish(&proxy);
    for name in
        ["empty-dir", "empty", "link", "dir/link", "hard", "dir/hard", "dir/sub/empty-dir", "dir/empty"]
    {
        setting.plant(name, &setting.outside.join("sub"));
    }
    setting.completes(&proxy, "links where finish makes something");
}

/// Planted over a finished transfer: the next run of the same command repairs it.
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

/// A base folder that is itself a link is the operator's choice.
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

/// FIFOs, sockets and devices at names of files, folders and links: the receiver neither opens nor
/// writes to them.
#[test]
fn special_files_in_the_way() {
    for kind in [FileType::Fifo, FileType::Socket, FileType::CharacterDevice] {
        for restart in [false, true] {
            let setting = Setting::new();
            let names =
                ["top", "z-large", "dir/large", "empty", "link", "hard", "a-first", "dir/sub", "empty-dir"];
            if !names.iter().all(|name| make(&setting.dst.join(name), kind)) {
                skip(&format!("may not make a {kind:?}"));
                break;
            }
            let mut proxy = setting.proxy();
            setting.completes(&proxy, &format!("{kind:?}"));
            // Also over received entries.
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

/// A folder with contents in the way of a file: that file fails by name, its contents stay, the
/// others are fine.
#[test]
fn a_folder_with_contents_in_the_way() {
    for (names, how) in
        [(&["top"][..], "small"), (&["z-large"], "large"), (&["empty"], "empty"), (&["link"], "link")]
    {
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
        let expected = |line: &String| {
            let of = |name: &&str| {
                line.starts_with(&format!("{name}: ")) || line.starts_with(&format!("extra: {name}/"))
            };
            // A hard link shares the fate of its first name.
            names.iter().any(of)
                || line.contains(": hard links is ")
                || line == "missing: dir/sub/hard-large" && names.contains(&"dir/large")
        };
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
}
