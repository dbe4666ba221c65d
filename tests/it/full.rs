//! P9: a full disk, made by a file system of limited size. Skipped where the test may not mount.

use crate::support::index::{self, blake3_hex, frame};
use crate::support::stress::Mount;
use crate::support::{Lab, Proxy, Tree, assert_same_tree, wait_until};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Fails unless every file below `dst` outside of the state folder is exactly as in `src`; returns
/// their number.
#[track_caller]
fn nothing_torn(src: &Path, dst: &Path) -> usize {
    let entries = walkdir::WalkDir::new(dst).into_iter();
    let mut files = 0;
    for entry in entries.filter_entry(|e| e.file_name() != ".tar-like" && e.file_name() != "ballast") {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(dst).unwrap();
            let same = std::fs::read(entry.path()).unwrap() == std::fs::read(src.join(name)).unwrap();
            assert!(same, "{} is torn", name.display());
            files += 1;
        }
    }
    files
}

#[track_caller]
fn still_serves(proxy: &Proxy) {
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(proxy.request("GET", path, &[], b"").status, 200, "{path}");
    }
}

/// About 6 MB in files of all sizes.
fn source(lab: &Lab) -> (PathBuf, PathBuf) {
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 220);
    tree.rich(400_000).noise("large", 2_000_000).noise("larger", 3_000_000);
    for number in 0..100 {
        tree.noise(format!("small/{number}"), 3000);
    }
    let db = lab.index(&src);
    (src, db)
}

/// Takes this many bytes of the disk, or all that is free: the receiver has its reserve.
fn ballast(dst: &Path, bytes: usize) -> PathBuf {
    let path = dst.join("ballast");
    let _ = std::fs::write(&path, vec![1; bytes]);
    path
}

#[test]
fn the_sender_waits_for_space() {
    let lab = Lab::new();
    let (src, db) = source(&lab);
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=16m") else { return };
    // Room for the reserve and about half of the content.
    let ballast = ballast(&disk.path, 8 << 20);
    let proxy = lab.proxy(&disk.path);
    let mut sender = lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "100000"]).spawn();
    wait_until("the sender waits for space", PATIENCE, || {
        sender.has_ended() || sender.stderr_so_far().contains("no space left")
    });
    assert!(!sender.has_ended(), "{:?}", sender.wait());
    std::thread::sleep(Duration::from_millis(500));
    still_serves(&proxy);
    let status = proxy.status(0);
    let done = status["done_bytes"].as_u64().unwrap();
    assert!(done > 0 && done < status["total_bytes"].as_u64().unwrap(), "{status}");
    nothing_torn(&src, &disk.path);
    std::fs::remove_file(ballast).unwrap();
    sender.wait().code(0);
    assert_same_tree(&src, &disk.path);
    drop(proxy);
    disk.unmount();
}

/// Not even the reserve is free: blocks get 507, and small requests still work.
#[test]
fn the_answer_is_507_and_says_what_is_missing() {
    let lab = Lab::new();
    let (src, db) = source(&lab);
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=16m") else { return };
    let proxy = lab.proxy(&disk.path);
    let digest = index::digest(&db);
    let put_index =
        || proxy.request("PUT", "/tar/0/db", &[("x-tar-like-index", &*digest)], &index::frame_of(&db));
    assert_eq!(put_index().status, 200);
    let ballast = ballast(&disk.path, 12 << 20);
    let archive = index::archive(&src, &db);
    let content = index::block(&archive, 100_000, 0);
    let put = || {
        let headers = [("x-tar-like-index", &*digest), ("x-tar-like-digest", &*blake3_hex(content))];
        proxy.request("PUT", "/tar/0/100000/0", &headers, &frame(content))
    };
    for _ in 0..3 {
        let answer = put();
        assert_eq!(answer.status, 507, "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
        assert!(answer.json()["error"].as_str().unwrap().contains("space"), "{}", answer.text());
    }
    still_serves(&proxy);
    assert_eq!(proxy.status(0)["done_bytes"], 0);
    assert_eq!(nothing_torn(&src, &disk.path), 0);
    // Another index does not fit either, and the active index stays.
    let other = proxy.request("PUT", "/tar/1/db", &[("x-tar-like-index", &*digest)], &index::frame_of(&db));
    assert_eq!(other.status, 507, "{}", other.text());
    assert_eq!(proxy.request("GET", "/tar/1/status", &[], b"").status, 404);
    assert_eq!(put_index().status, 507);
    assert_eq!(std::fs::read_dir(disk.path.join(".tar-like/incoming")).unwrap().count(), 0, "left behind");
    std::fs::remove_file(ballast).unwrap();
    assert_eq!((put().status, put_index().status), (200, 200));
    assert_eq!(proxy.status(0)["done_bytes"], 100_000);
    drop(proxy);
    disk.unmount();
}

/// The disk fills up to the last byte while blocks are written, whatever the reserve says.
#[test]
fn full_to_the_last_byte() {
    let lab = Lab::new();
    let (src, db) = source(&lab);
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=20m") else { return };
    let proxy = lab.proxy(&disk.path);
    let mut sender =
        lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "50000", "--bwlimit", "4M", "-p", "3"]).spawn();
    wait_until("some blocks are there", PATIENCE, || proxy.blocks_accepted() > 5);
    // Another process takes all of it, again and again, and gives it back.
    let path = disk.path.join("ballast");
    for round in 0..3 {
        let mut file = std::fs::File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 65536]).is_ok() {}
        std::thread::sleep(Duration::from_millis(400));
        if round == 0 {
            wait_until("the sender hears of it", PATIENCE, || {
                sender.has_ended() || sender.stderr_so_far().contains("no space")
            });
        }
        still_serves(&proxy);
        nothing_torn(&src, &disk.path);
        std::fs::remove_file(&path).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    sender.wait().code(0);
    assert_same_tree(&src, &disk.path);
    drop(proxy);
    disk.unmount();
}

/// The space is freed too late.
#[test]
fn the_stall_timeout_is_exit_4() {
    let lab = Lab::new();
    let (src, db) = source(&lab);
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=16m") else { return };
    let ballast = ballast(&disk.path, 8 << 20);
    let proxy = lab.proxy(&disk.path);
    let start = Instant::now();
    let args = args!["-s", "100000", "--stall-timeout", "2", "--json"];
    let output = lab.upload(&src, &db, &proxy.url, args).code(4);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(output.stderr.contains("space"), "{}", output.stderr);
    output.summary();
    nothing_torn(&src, &disk.path);
    still_serves(&proxy);
    let before = proxy.blocks_accepted();
    std::fs::remove_file(ballast).unwrap();
    lab.upload(&src, &db, &proxy.url, args!["-s", "100000"]).code(0);
    let blocks = proxy.status(0)["total_bytes"].as_u64().unwrap().div_ceil(100_000);
    assert_eq!(proxy.blocks_accepted(), blocks, "{before} were there already");
    assert_same_tree(&src, &disk.path);
    drop(proxy);
    disk.unmount();
}

/// There is no space for the index itself: it is unpacked, read and written again.
#[test]
fn the_sender_waits_for_space_for_the_index() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 221);
    for number in 0..3000 {
        tree.file(format!("{:03}/{number}-{}", number % 50, "long-name".repeat(20)), "x");
    }
    let db = lab.index(&src);
    let size = std::fs::metadata(&db).unwrap().len();
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=24m") else { return };
    let proxy = lab.proxy(&disk.path);
    // The body fits, but not its unpacked content.
    let ballast = ballast(&disk.path, (24 << 20) - (4 << 20) - 200_000);
    assert!(size > 1 << 20, "{size}");
    let mut sender = lab.upload_cmd(&src, &db, &proxy.url, vec![]).spawn();
    wait_until("the sender waits for space", PATIENCE, || {
        sender.has_ended() || sender.stderr_so_far().contains("no space left")
    });
    assert!(!sender.has_ended(), "{:?}", sender.wait());
    still_serves(&proxy);
    assert_eq!(proxy.request("GET", "/tar/0/status", &[], b"").status, 404);
    std::fs::remove_file(ballast).unwrap();
    sender.wait().code(0);
    assert_same_tree(&src, &disk.path);
    drop(proxy);
    disk.unmount();
}

/// No inode is free for the empty files, directories and links that only `finish` makes.
#[test]
fn the_sender_waits_for_space_at_the_end() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 222);
    tree.noise("content", 5000).noise("more", 500);
    for number in 0..300 {
        tree.file(format!("empty/{}/{number}", number % 9), "");
        tree.symlink(format!("empty/{}/link-{number}", number % 9), "nowhere");
    }
    tree.times();
    let db = lab.index(&src);
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=64m,nr_inodes=200") else { return };
    let proxy = lab.proxy(&disk.path);
    let mut sender = lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "1000"]).spawn();
    wait_until("the sender waits for space", PATIENCE, || {
        sender.has_ended() || sender.stderr_so_far().contains("no space left")
    });
    assert!(!sender.has_ended(), "{:?}", sender.wait());
    still_serves(&proxy);
    let status = proxy.status(0);
    assert_eq!((&status["done_bytes"], &status["complete"]), (&5500.into(), &false.into()), "{status}");
    nothing_torn(&src, &disk.path);
    disk.remount("nr_inodes=5000");
    sender.wait().code(0);
    assert_same_tree(&src, &disk.path);
    drop(proxy);
    disk.unmount();
}

/// Files that failed attempts have left.
#[track_caller]
fn nothing_staged(dst: &Path) {
    let staged = walkdir::WalkDir::new(dst.join(".tar-like/staging")).into_iter().map(Result::unwrap);
    let staged: Vec<PathBuf> =
        staged.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect();
    assert!(staged.is_empty(), "{staged:?}");
    let incoming = std::fs::read_dir(dst.join(".tar-like/incoming")).unwrap().count();
    assert_eq!(incoming, 0, "left behind");
}

/// A change needs room for copies of the files that it changes. A change without that room leaves
/// as much space as there was before.
#[test]
fn a_change_without_room_delays_no_other_archive() {
    for adopt in [false, true] {
        let lab = Lab::new();
        let (src, other) = (lab.path("src"), lab.path("other"));
        let mut tree = Tree::new(&src, 223);
        tree.noise("a", 6_000_000).noise("b", 6_000_000);
        Tree::new(&other, 224).noise("other", 1_000_000);
        let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=26m") else { return };
        let (db, dbp) = (lab.path("index.sqlite"), lab.path("progress.sqlite"));
        let proxy = lab.proxy(&disk.path);
        let sync = |patience: &str| {
            // Each adoption begins from nothing.
            let _ = adopt.then(|| std::fs::remove_file(&db));
            let more = if adopt { args!["--adopt"] } else { vec![] };
            let args = args!["-db", db, "-dbp", dbp, "--compress", "none", "--stall-timeout", patience];
            lab.sync(&src, &proxy.url, [args, more].concat())
        };
        if adopt {
            for name in ["a", "b"] {
                std::fs::copy(src.join(name), disk.path.join(name)).unwrap();
            }
        } else {
            sync("900").code(0);
        }
        let before = [std::fs::read(src.join("a")).unwrap(), std::fs::read(src.join("b")).unwrap()];
        let change = |tree: &mut Tree| {
            for (name, content) in ["a", "b"].iter().zip(&before) {
                let mut content = content.clone();
                content[3_000_000] ^= 1;
                tree.file(name, content);
            }
        };
        change(&mut tree);
        let refused = sync("2").code(4);
        assert!(refused.stderr.contains("copied before they replace"), "{}", refused.stderr);
        if !adopt {
            nothing_staged(&disk.path);
            // Another archive goes on.
            lab.sync(
                &other,
                &proxy.url,
                args!["--tar-id", "1", "-db", lab.path("o"), "-dbp", lab.path("op")],
            )
            .code(0);
            std::fs::remove_file(disk.path.join("other")).unwrap();
        }
        still_serves(&proxy);
        if adopt {
            // The change is undone at the source, and needs no room any more.
            for (name, content) in ["a", "b"].iter().zip(&before) {
                tree.file(name, content);
            }
            sync("5").code(0);
            assert_same_tree(&src, &disk.path);
            change(&mut tree);
            sync("2").code(4);
        }
        // There is room.
        disk.remount("size=64m");
        sync("900").code(0);
        assert_same_tree(&src, &disk.path);
        drop(proxy);
        disk.unmount();
    }
}

/// A copy to a folder of this host says what it needs before it copies anything, and waits for
/// nothing.
#[test]
fn a_local_copy_without_room_ends_at_once() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 230);
    for number in 0..10 {
        tree.noise(format!("{number}"), 2_000_000);
    }
    let Some(disk) = Mount::tmpfs(&lab.path("mnt"), "size=40m") else { return };
    let first = ballast(&disk.path, 24 << 20);
    let dst = disk.path.join("dst");
    let sync = |more: Vec<std::ffi::OsString>| {
        let start = Instant::now();
        let flags = args!["-db", lab.path("i"), "-dbp", lab.path("p"), "-s", "300000", "-p", "2"];
        let output = lab.sync(&src, &dst, [flags, more].concat());
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        output
    };
    let output = sync(vec![]).code(4);
    assert!(output.stderr.contains("the copy needs 20,000,000 bytes"), "{}", output.stderr);
    assert!(output.stderr.contains(&format!("{} has 1", dst.display())), "{}", output.stderr);
    assert!(output.stderr.contains("--no-space-check"), "{}", output.stderr);
    assert!(!dst.exists());
    // Where the forecast is wrong, the copy goes as far as there is room.
    let output = sync(args!["--no-space-check"]).code(4);
    assert!(!output.stderr.contains("trying again") && !output.stderr.contains("WARN"), "{}", output.stderr);
    let full = format!("{} is full: it has ", dst.display());
    assert!(output.stderr.contains(&full) && output.stderr.contains("the copy needs "), "{}", output.stderr);
    assert!(nothing_torn(&src, &dst) > 0);
    // What is there already is not needed.
    std::fs::remove_file(&first).unwrap();
    sync(vec![]).code(0);
    assert_same_tree(&src, &dst);
    // All is changed: each file gives its room to the next one.
    for number in 0..10 {
        tree.noise(format!("{number}"), 2_000_000);
    }
    let stat = rustix::fs::statvfs(&disk.path).unwrap();
    ballast(&disk.path, (stat.f_bavail * stat.f_frsize) as usize - 12_000_000);
    sync(vec![]).code(0);
    assert_same_tree(&src, &dst);
    // A later run says it, too.
    tree.noise("new", 30_000_000);
    sync(vec![]).code(4).says("the copy needs 30,000,000 bytes");
    disk.unmount();
}

/// Also where nothing was sent yet: the source is gone through first. A dry run says the same.
#[test]
fn a_first_run_says_what_lacks_before_it_sends() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 232).noise("large", 20_000_000);
    let Some(disk) = Mount::tmpfs(&lab.path("mnt"), "size=16m") else { return };
    let proxy = lab.proxy(&lab.dir("mnt/remote"));
    let sync = |to: &std::ffi::OsStr, more| {
        let flags = args!["-db", lab.path("i"), "-dbp", lab.path("p"), "--stall-timeout", "2"];
        lab.sync(&src, to, [flags, more].concat())
    };
    let local = disk.path.join("local");
    for (to, place) in
        [(proxy.url.as_ref(), "the receiver's disk"), (local.as_os_str(), local.to_str().unwrap())]
    {
        let needs = format!("the copy needs 20,000,000 bytes, and {place} has ");
        sync(to, args!["-n"]).code(0).says(&needs);
        let unasked = sync(to, args!["-n", "--no-space-check"]).code(0);
        assert!(!unasked.stderr.contains("the copy needs"), "{}", unasked.stderr);
        let output = sync(to, args![]).code(4);
        assert!(output.stderr.contains(&needs), "{}", output.stderr);
    }
    // Also where the receiver has the index, and a part of the content.
    let db = lab.index(&src);
    lab.upload(&src, &db, &proxy.url, args!["-n"]).code(0).says("the copy needs ");
    drop(proxy);
    disk.unmount();
}

/// A receiver that others may free is waited for; what it lacks is said at once, and once.
#[test]
fn a_remote_copy_without_room_warns_once() {
    let lab = Lab::new();
    let (src, db) = source(&lab);
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=16m") else { return };
    let ballast = ballast(&disk.path, 8 << 20);
    let proxy = lab.proxy(&disk.path);
    let mut sender = lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "100000"]).spawn();
    wait_until("the sender waits for space", PATIENCE, || {
        sender.has_ended() || sender.stderr_so_far().contains("no space left")
    });
    std::thread::sleep(Duration::from_secs(8));
    let said = sender.stderr_so_far();
    assert_eq!(said.matches("the copy needs ").count(), 1, "{said}");
    assert_eq!(said.matches("no space left").count(), 1, "{said}");
    std::fs::remove_file(ballast).unwrap();
    sender.wait().code(0);
    assert_same_tree(&src, &disk.path);
    drop(proxy);
    disk.unmount();
}

/// Writes to the file system of `dst` until nothing fits any more.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("fill");
    let mut file = std::fs::File::create(&path).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    path
}

/// Another process has filled the disk to the last byte: a receiver starts, answers what it has,
/// and deletes files to make room.
#[test]
fn a_full_disk_can_be_emptied() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 225);
    let Some(disk) = Mount::tmpfs(&lab.path("mnt"), "size=24m") else { return };
    let dst = disk.path.join("dst");
    for way in ["local", "a proxy that starts", "a proxy that runs"] {
        println!("{way}");
        tree.noise("big", 3_000_000).file("one", "1").file("two", way);
        let sync = |to: &std::ffi::OsStr, more: bool| {
            let flags = args!["-db", lab.path("i"), "-dbp", lab.path("p"), "--stall-timeout", "5"];
            let flags = if more { [flags, args!["--delete"]].concat() } else { flags };
            lab.sync(&src, to, flags).code(0)
        };
        sync(dst.as_os_str(), false);
        let running = (way == "a proxy that runs").then(|| lab.proxy(&dst));
        let full = fill(&disk.path);
        let started = (way == "a proxy that starts").then(|| lab.proxy(&dst));
        let proxy = running.or(started);
        let to = proxy.as_ref().map_or(dst.clone().into_os_string(), |proxy| proxy.url.clone().into());
        // Nothing has changed, and nothing is written.
        sync(&to, false);
        tree.remove("big");
        sync(&to, true);
        assert!(!dst.join("big").exists());
        assert_same_tree(&src, &dst);
        std::fs::remove_file(full).unwrap();
        drop(proxy);
    }
    disk.unmount();
}

/// Staged files of an abandoned index have taken all inodes.
#[test]
fn inodes_come_back_with_the_next_index() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 226);
    tree.file("one", "1").file("two", "2");
    let Some(disk) = Mount::tmpfs(&lab.path("mnt"), "size=64m,nr_inodes=80") else { return };
    let dst = disk.path.join("dst");
    let sync = |patience: &str| {
        let flags =
            args!["-db", lab.path("i"), "-dbp", lab.path("p"), "--stall-timeout", patience, "--delete"];
        lab.sync(&src, &dst, flags)
    };
    sync("60").code(0);
    for number in 0..100 {
        tree.file(format!("n{number}"), number.to_string());
    }
    sync("1").code(4);
    for number in 0..100 {
        tree.remove(format!("n{number}"));
    }
    tree.file("three", "3");
    sync("5").code(0);
    assert_same_tree(&src, &dst);
    disk.unmount();
}

/// A generation for which there was no room needs none after the source has changed again.
#[test]
fn only_the_newest_generation_needs_room() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 227);
    tree.noise("a", 6_000_000).noise("b", 6_000_000).file("c", "c");
    let Some(disk) = Mount::tmpfs(&lab.path("dst"), "size=26m") else { return };
    let proxy = lab.proxy(&disk.path);
    let sync = |patience: &str| {
        let flags = args![
            "-db",
            lab.path("i"),
            "-dbp",
            lab.path("p"),
            "--compress",
            "none",
            "--delete",
            "--stall-timeout",
            patience
        ];
        lab.sync(&src, &proxy.url, flags)
    };
    sync("900").code(0);
    for name in ["a", "b"] {
        let mut content = std::fs::read(src.join(name)).unwrap();
        content[3_000_000] ^= 1;
        tree.file(name, content);
    }
    sync("2").code(4);
    tree.remove("b");
    sync("5").code(0);
    assert_same_tree(&src, &disk.path);
    drop(proxy);
    disk.unmount();
}

/// Storage that accepts no write from the start counts as storage that fails later.
#[test]
fn a_read_only_disk_is_named_at_the_start() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 228).file("one", "1");
    let Some(disk) = Mount::tmpfs(&lab.path("mnt"), "size=24m") else { return };
    let (dst, new) = (disk.path.join("dst"), disk.path.join("new"));
    let sync = |to: &Path| lab.sync(&src, to, args!["-db", lab.path("i"), "-dbp", lab.path("p")]);
    sync(&dst).code(0);
    std::fs::create_dir(&new).unwrap();
    disk.remount("ro");
    for base in [&dst, &new] {
        for output in [sync(base), lab.run(args!["proxy", "0", "-b", base])] {
            output.code(4).says("ead-only file system").says("cannot be written to");
        }
    }
    lab.run(args!["gc", "-b", dst]).code(4).says("ead-only file system");
    disk.remount("rw");
    sync(&dst).code(0);
    disk.unmount();
}

/// A limit on the size of files is not a failing disk, and trying again does not help.
#[test]
fn an_index_over_the_limit_for_files_is_named_at_once() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 229);
    for number in 0..3000 {
        tree.file(format!("{}-{number}", "some-long-name".repeat(5)), "");
    }
    let limited = || args!["sh", "-c", "ulimit -f 200; exec \"$@\"", "sh"];
    let index = args!["index", "-b", src, "-db", lab.path("limited")];
    lab.cmd(index).wrap(limited()).run().code(1).says("ulimit -f");
    let dst = lab.dir("dst");
    let port = crate::support::stress::free_port();
    let proxy = lab.proxy_cmd(port, &dst).wrap(limited()).serve();
    let start = Instant::now();
    for flags in [args!["-db", lab.path("i")], args!["-db", lab.path("i"), "--checksum"]] {
        let output = lab.sync(&src, &proxy.url, [flags, args!["-dbp", lab.path("p")]].concat()).code(1);
        let output = output.says("ulimit -f");
        assert!(!output.stderr.contains("does not answer"), "{}", output.stderr);
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    still_serves(&proxy);
}
