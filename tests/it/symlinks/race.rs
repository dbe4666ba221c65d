//! A thread that keeps exchanging folders and files of the base with links to outside, while blocks
//! arrive and `finish` runs.

use super::Setting;
use crate::support::stop::StopAtEnd;
use crate::support::stress::{chance, sleep_some};
use crate::support::{Rng, Tree, skip};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Folders in folders, all kinds of entries in each; many, so that the exchanges meet them.
fn wide(tree: &mut Tree) {
    for folder in ["d", "d/e", "d/e/f", "g"] {
        for number in 0..25 {
            let name = |kind: &str| format!("{folder}/{kind}{number}");
            tree.noise(name("file"), 120)
                .file(name("empty"), "")
                .dir(name("sub"))
                .file(name("sub/inner"), "");
            tree.symlink(name("link"), "file0").hardlink(name("hard"), name("file"));
        }
        tree.noise(format!("{folder}/large"), 5300);
    }
    tree.times();
}

/// Exchanges `name` in the base with a link outside the base, and back, until told to stop.
struct Attacker<'a> {
    base: &'a Path,
    aside: &'a Path,
    outside: &'a Path,
    names: &'a [&'a str],
    exchanges: &'a AtomicU64,
}

impl Attacker<'_> {
    fn run(&self, mut rng: Rng, stop: &AtomicBool) {
        let link = self.aside.join("link");
        while !stop.load(Ordering::SeqCst) {
            let name = self.names[rng.below(self.names.len() as u64) as usize];
            let target = if rng.below(2) == 0 { self.outside.to_path_buf() } else { self.outside.join(name) };
            clear(&link);
            symlink(target, &link).unwrap();
            let place = self.base.join(name);
            if self.exchange(&place, &link) {
                sleep_some(&mut rng, Duration::from_micros(400));
                // Back again. A folder that was made there meanwhile is removed; where nothing
                // exists for a moment, a rename is enough.
                while !self.exchange(&place, &link)
                    && rustix::fs::renameat_with(CWD, &link, CWD, &place, RenameFlags::NOREPLACE).is_err()
                    && !stop.load(Ordering::SeqCst)
                {}
                self.exchanges.fetch_add(1, Ordering::SeqCst);
            }
            sleep_some(&mut rng, Duration::from_micros(400));
        }
        clear(&link);
    }

    fn exchange(&self, place: &Path, link: &Path) -> bool {
        match rustix::fs::renameat_with(CWD, place, CWD, link, RenameFlags::EXCHANGE) {
            Ok(()) => true,
            // It is not there yet, or a folder above it is exchanged.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => false,
            Err(e) => panic!("cannot exchange {}: {e}", place.display()),
        }
    }
}

/// Removes a folder although another process may write to it.
fn clear(path: &Path) {
    while let Ok(meta) = path.symlink_metadata() {
        let _ = if meta.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
}

fn can_exchange(setting: &Setting) -> bool {
    let (a, b) = (setting.lab.dir("probe-a"), setting.lab.path("probe-b"));
    symlink("x", &b).unwrap();
    let can = rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
    if let Err(e) = can {
        skip(&format!("the file system cannot exchange names: {e}"));
    }
    can.is_ok()
}

/// Runs `work` under attack, and returns the number of exchanges.
fn under_attack(setting: &Setting, names: &[&str], work: impl FnOnce()) -> u64 {
    let (aside, exchanges, stop) = (setting.lab.dir("aside"), AtomicU64::new(0), AtomicBool::new(false));
    let rng = chance();
    std::thread::scope(|scope| {
        let attacker = Attacker {
            base: &setting.dst,
            aside: &aside,
            outside: &setting.outside,
            names,
            exchanges: &exchanges,
        };
        let stopped = &stop;
        scope.spawn(move || attacker.run(rng, stopped));
        let _stop = StopAtEnd(stopped);
        work();
    });
    exchanges.into_inner()
}

#[test]
fn folders_are_exchanged_while_blocks_arrive() {
    let setting = Setting::with(wide);
    if !can_exchange(&setting) {
        return;
    }
    Tree::new(&setting.dst, 225).dir("d/e/f").dir("g");
    let proxy = setting.proxy();
    let start = Instant::now();
    let exchanges = under_attack(&setting, &["d", "d/e", "d/e/f", "g"], || {
        for id in 0.. {
            let id = id.to_string();
            // Small blocks, slowly: each gives names to a few files.
            let more = args!["--tar-id", id, "--bwlimit", "64K", "--stall-timeout", "20", "-p", "3"];
            let output = setting.upload(&proxy, more);
            assert!(matches!(output.code, 0 | 1 | 3), "{output:?}");
            setting.nothing_touched("blocks");
            if start.elapsed() > Duration::from_secs(6) {
                break;
            }
        }
    });
    println!("{exchanges} exchanges");
    assert!(exchanges > 200, "{exchanges} exchanges are no attack");
    setting.completes(&proxy, "the attack is over");
}

#[test]
fn folders_are_exchanged_while_finish_runs() {
    let setting = Setting::with(wide);
    if !can_exchange(&setting) {
        return;
    }
    let mut proxy = setting.proxy();
    setting.completes(&proxy, "before");
    let start = Instant::now();
    let exchanges = under_attack(&setting, &["d", "d/e", "d/e/f", "g", "d/sub3", "d/e/sub7"], || {
        while start.elapsed() < Duration::from_secs(6) {
            // The receiver has everything; each time it makes links and folders and sets metadata
            // all over.
            for _ in 0..5 {
                let answer = proxy.request("POST", "/tar/0/finish", &[], b"{\"partial\":true}");
                assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
            }
            setting.nothing_touched("finish");
        }
    });
    assert!(exchanges > 200, "{exchanges} exchanges are no attack");
    setting.completes(&proxy, "the attack is over");
    proxy.kill9();
    proxy.restart();
    setting.completes(&proxy, "the receiver is restarted");
}

/// Exchanges final names of files, instead of folders: the link or the file is replaced, but not
/// the link's target.
#[test]
fn files_are_exchanged_while_blocks_arrive() {
    let setting = Setting::new();
    if !can_exchange(&setting) {
        return;
    }
    let proxy = setting.proxy();
    let names = [
        "top",
        "z-large",
        "dir/file",
        "dir/large",
        "first",
        "hard",
        "empty",
        "link",
        "dir/hard",
        "empty-dir",
    ];
    let start = Instant::now();
    let exchanges = under_attack(&setting, &names, || {
        for id in 0.. {
            let output = setting.upload(&proxy, args!["--tar-id", id.to_string(), "--stall-timeout", "20"]);
            assert!(matches!(output.code, 0 | 1 | 3), "{output:?}");
            setting.nothing_touched("files");
            if start.elapsed() > Duration::from_secs(5) {
                break;
            }
        }
    });
    assert!(exchanges > 100, "{exchanges} exchanges are no attack");
    setting.completes(&proxy, "the attack is over");
}

/// The receiver is started again and again under attack: it verifies files again, beneath the base
/// only.
#[test]
fn folders_are_exchanged_while_it_starts() {
    let setting = Setting::with(wide);
    if !can_exchange(&setting) {
        return;
    }
    let mut proxy = setting.proxy();
    setting.send_without_finish(&proxy);
    let exchanges = under_attack(&setting, &["d", "d/e", "d/e/f", "g"], || {
        for _ in 0..15 {
            proxy.kill9();
            proxy.restart();
            let answer = proxy.request("POST", "/tar/0/finish", &[], b"{}");
            assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
            setting.nothing_touched("start");
        }
    });
    assert!(exchanges > 100, "{exchanges} exchanges are no attack");
    setting.completes(&proxy, "the attack is over");
}

/// An exchange really happens in the tests above: the link appears, then the folder again.
#[test]
fn the_attacker_attacks() {
    let setting = Setting::new();
    if !can_exchange(&setting) {
        return;
    }
    Tree::new(&setting.dst, 226).file("d/file", "x");
    let seen = AtomicBool::new(false);
    let place: PathBuf = setting.dst.join("d");
    under_attack(&setting, &["d"], || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) && !seen.load(Ordering::SeqCst) {
            seen.store(place.symlink_metadata().is_ok_and(|meta| meta.is_symlink()), Ordering::SeqCst);
        }
    });
    assert!(seen.load(Ordering::SeqCst));
    assert_eq!(std::fs::read(setting.dst.join("d/file")).unwrap(), b"x");
}
