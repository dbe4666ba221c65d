//! `sync` to a folder of this host: its receiver takes blocks out of the sender's memory, and shares
//! the blocks of large files where the file system can.

use crate::support::stress::{Mount, chance, sleep_some};
use crate::support::{Lab, Rng, Tree, assert_same_tree, need_tool};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LARGE: usize = 30 << 20;

/// Small files, links, and some large ones: one of several blocks, one that is less than a block,
/// one with further names, and one with a hole.
fn source(root: &Path) {
    let mut tree = Tree::new(root, 71);
    tree.noise("large/noise", LARGE).text("large/text", 5 << 20).hardlink("large/again", "large/noise");
    tree.noise("large/hole", 6 << 20).rich(300_000);
    OpenOptions::new().write(true).open(root.join("large/hole")).unwrap().set_len(20 << 20).unwrap();
    tree.times();
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// A file system that shares blocks; `None`, with a printed reason, where it cannot be mounted.
fn xfs(lab: &Lab) -> Option<Mount> {
    need_tool("mkfs.xfs", "apt-get install xfsprogs");
    let image = lab.path("xfs.img");
    std::fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let made = Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Mount::image(&image, &lab.path("xfs"))
}

/// The bytes that are free, once everything is on the disk.
fn free_bytes(mount: &Mount) -> u64 {
    assert!(Command::new("sync").arg("-f").arg(&mount.path).status().unwrap().success());
    let stat = rustix::fs::statvfs(&mount.path).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Does `work` for a source and a destination on a usual file system, and on one that shares blocks.
fn on_each_file_system(work: impl Fn(&Lab, PathBuf, PathBuf)) {
    let lab = Lab::new();
    source(&lab.path("src"));
    work(&lab, lab.path("src"), lab.path("dst"));
    let lab = Lab::new();
    if let Some(mount) = xfs(&lab) {
        source(&mount.path.join("src"));
        work(&lab, mount.path.join("src"), mount.path.join("dst"));
    }
}

#[test]
fn nothing_is_compressed_within_a_process() {
    let lab = Lab::new();
    source(&lab.path("src"));
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    let more = args!["--compress", "lz4", "-s", "1000000", "--json"];
    let first = lab.sync(&src, &dst, more.clone()).code(0).summary();
    assert!(first["sent_blocks"].as_u64().unwrap() > 50, "{first}");
    assert_eq!(first["stored_blocks"], first["sent_blocks"], "{first}");
    assert_same_tree(&src, &dst);
    overwrite(&src.join("large/noise"), 7_000_000, b"other");
    let second = lab.sync(&src, &dst, more).code(0).summary();
    assert_eq!(second["stored_blocks"], second["sent_blocks"], "{second}");
    assert_same_tree(&src, &dst);
}

#[test]
fn a_large_file_takes_no_room_where_blocks_can_be_shared() {
    let lab = Lab::new();
    let Some(mount) = xfs(&lab) else { return };
    let (src, dst) = (mount.path.join("src"), mount.path.join("dst"));
    source(&src);
    let before = free_bytes(&mount);
    lab.sync(&src, &dst, args!["-s", "7000000"]).code(0);
    let taken = before - free_bytes(&mount);
    assert!(taken < LARGE as u64 / 2, "{taken}");
    assert_same_tree(&src, &dst);
    // A copy it is all the same.
    let copied = std::fs::read(dst.join("large/noise")).unwrap();
    overwrite(&src.join("large/noise"), 3, b"other");
    assert!(std::fs::read(dst.join("large/noise")).unwrap() == copied);
    lab.sync(&src, &dst, args![]).code(0);
    assert_same_tree(&src, &dst);
}

#[test]
fn files_that_change_while_they_are_copied_are_right_in_the_end() {
    on_each_file_system(|lab, src, dst| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng::new(5);
                while !done.load(Ordering::Relaxed) {
                    overwrite(&src.join("large/noise"), rng.below(LARGE as u64), b"other");
                    overwrite(&src.join("large/text"), rng.below(5 << 20), b"other");
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let first = lab.sync(&src, &dst, args!["-s", "3000000"]);
            done.store(true, Ordering::Relaxed);
            assert!([0, 3].contains(&first.code), "{first:?}");
        });
        lab.sync(&src, &dst, args!["-s", "3000000"]).code(0);
        assert_same_tree(&src, &dst);
    });
}

#[test]
fn a_run_that_is_killed_again_and_again_is_completed() {
    on_each_file_system(|lab, src, dst| {
        let mut rng = chance();
        for _ in 0..6 {
            let mut running = lab.cmd(args!["sync", src, dst, "-s", "2000000"]).spawn();
            sleep_some(&mut rng, Duration::from_millis(1200));
            running.kill9();
        }
        lab.sync(&src, &dst, args!["-s", "2000000"]).code(0);
        assert_same_tree(&src, &dst);
    });
}
