//! One file or block device as a source.

use crate::support::device::Loop;
use crate::support::{Lab, Rng, assert_same_tree, index, set_mtime, skip};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A file in a folder of its own, so that folder and copy can be compared.
fn image(lab: &Lab, length: usize, seed: u64) -> PathBuf {
    let path = lab.dir("src").join("disk.img");
    std::fs::write(&path, Rng::new(seed).noise(length)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    set_mtime(&path, 1_500_000_000);
    path
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

/// The sizes of a file that is read whole, of one that is read in pieces, and of an empty one.
#[test]
fn a_file_becomes_a_file_of_its_name_and_the_next_run_sends_little() {
    for (length, local) in [(300_000, true), (7 << 20, false), (0, true)] {
        let lab = Lab::new();
        let src = image(&lab, length, 40);
        let dst = lab.dir("dst");
        let proxy = (!local).then(|| lab.proxy(&dst));
        let to = proxy.as_ref().map_or(dst.clone().into_os_string(), |proxy| (&proxy.url).into());
        let sync = || lab.sync(&src, &to, args!["-s", "100000", "--json"]).code(0).summary();
        let first = sync();
        assert_eq!((&first["index"]["files"], &first["total_bytes"]), (&1.into(), &length.into()), "{first}");
        assert_same_tree(src.parent().unwrap(), &dst);
        let again = sync();
        assert!(again["index"]["unchanged"] == true && again["sent_blocks"] == 0, "{again}");
        overwrite(&src, length as u64, b"and a little more");
        let grown = sync();
        assert_eq!(grown["index"]["generation"], 2, "{grown}");
        assert_same_tree(src.parent().unwrap(), &dst);
        if length > 1 << 20 {
            assert!(grown["sent_bytes"].as_u64().unwrap() < 1 << 20, "{grown}");
        }
    }
}

#[test]
fn index_upload_and_check_take_it_step_by_step() {
    let lab = Lab::new();
    let src = image(&lab, 5_000_000, 41);
    let (db, dst) = (lab.path("db"), lab.dir("dst"));
    let indexed = lab.run(args!["index", "-b", src, "-db", db, "--json"]).code(0).summary();
    assert_eq!((&indexed["files"], &indexed["nodes"]), (&1.into(), &0.into()), "{indexed}");
    assert_eq!(index::paths(&db), ["disk.img"]);
    let proxy = lab.proxy(&dst);
    let plan = lab.upload(&src, &db, &proxy.url, args!["--dry-run", "--json"]).code(0).summary();
    assert_eq!(plan["sent_bytes"], 5_000_000, "{plan}");
    lab.upload(&src, &db, &proxy.url, args!["-s", "100000", "-f", "10", "-l", "19"]).code(0);
    lab.upload(&src, &db, &proxy.url, args!["-s", "100000"]).code(0);
    assert_same_tree(src.parent().unwrap(), &dst);
    lab.check(&dst, &db, args!["--extra"]).code(0);
    // `check` takes the source itself, as a file and as the content of its folder.
    lab.check(&src, &db, args!["--extra"]).code(0);
    lab.check(src.parent().unwrap(), &db, vec![]).code(0);
    overwrite(&src, 4_999_999, b"?");
    lab.check(&src, &db, vec![]).code(1);
    let other = lab.file("other.img", Rng::new(41).noise(5_000_000));
    let missing = lab.check(&other, &db, vec![]).code(1);
    assert!(missing.stdout.contains("missing\tdisk.img"), "{missing:?}");
    // Another file does not take the place of this one.
    lab.upload(&other, &db, &proxy.url, args!["--ignore-done"]).code(0);
    lab.check(&dst, &db, vec![]).code(0);
    let fresh = lab.proxy(&lab.dir("dst2"));
    lab.upload(&other, &db, &fresh.url, vec![]).code(3).says("it is gone");
    assert!(!lab.path("dst2/disk.img").exists());
}

#[test]
fn a_link_is_followed_and_gives_its_name() {
    let lab = Lab::new();
    let src = image(&lab, 20_000, 42);
    let link = lab.path("newest");
    symlink("src/disk.img", &link).unwrap();
    let dst = lab.path("dst");
    lab.sync(&link, &dst, vec![]).code(0);
    let copy = dst.join("newest");
    assert!(copy.symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&src).unwrap());
    // The link leads elsewhere now, and still counts as the same source.
    let other = lab.file("src/other.img", Rng::new(43).noise(30_000));
    std::fs::remove_file(&link).unwrap();
    symlink(&other, &link).unwrap();
    lab.sync(&link, &dst, vec![]).code(0);
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&other).unwrap());
}

#[test]
fn dry_runs_and_exclusions_count_it_as_a_file() {
    let lab = Lab::new();
    let src = image(&lab, 20_000, 44);
    let dst = lab.path("dst");
    let plan = lab.sync(&src, &dst, args!["--dry-run", "--json"]).code(0).summary();
    assert_eq!((&plan["files"], &plan["sent_bytes"]), (&1.into(), &20_000.into()), "{plan}");
    assert!(!dst.exists());
    let without = lab.sync(&src, &dst, args!["-x", r"\.img$", "--json"]).code(0).summary();
    assert_eq!(without["files"], 0, "{without}");
    assert!(!dst.join("disk.img").exists());
    // The pattern sees the name, not its folder.
    lab.sync(&src, &dst, args!["-x", "src", "--clean"]).code(0);
    assert_same_tree(src.parent().unwrap(), &dst);
}

#[test]
fn a_base_that_is_neither_file_nor_folder_is_refused() {
    let lab = Lab::new();
    let dst = lab.path("dst");
    mknodat(CWD, lab.path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(lab.path("socket")).unwrap();
    lab.file(".tar-like", "x");
    symlink("fifo", lab.path("link")).unwrap();
    for (path, what) in [
        (lab.path("fifo"), "is a FIFO"),
        (lab.path("link"), "is a FIFO"),
        (lab.path("socket"), "is a socket"),
        (PathBuf::from("/dev/null"), "is a character device"),
        (lab.path(".tar-like"), "cannot be in an index"),
    ] {
        lab.sync(&path, &dst, vec![]).code(2).says(what);
        lab.run(args!["index", "-b", path, "-db", lab.path("db")]).code(2).says(what);
        assert!(!dst.exists() && !lab.path("db").exists());
    }
    lab.run(args!["index", "-b", lab.path("fifo/x"), "-db", lab.path("db")]).code(1).says("fifo/x");
}

/// If the only file cannot be read, neither its copy nor its index is lost.
#[test]
fn a_vanished_file_is_an_error_and_the_index_stays() {
    let lab = Lab::new();
    let src = image(&lab, 20_000, 45);
    let (db, dst) = (lab.path("db"), lab.path("dst"));
    lab.sync(&src, &dst, args!["-db", db]).code(0);
    let before = index::digest(&db);
    std::fs::rename(&src, lab.path("away")).unwrap();
    lab.sync(&src, &dst, args!["-db", db, "--delete"]).code(1).says("disk.img");
    assert_eq!(index::digest(&db), before);
    assert!(dst.join("disk.img").exists());
}

#[test]
fn a_source_is_not_replaced_by_its_own_copy() {
    let lab = Lab::new();
    let src = image(&lab, 20_000, 46);
    let link = lab.path("link");
    symlink(&src, &link).unwrap();
    let inode = src.metadata().unwrap().ino();
    lab.sync(&src, src.parent().unwrap(), vec![]).code(2).says("its own");
    lab.sync(&link, link.parent().unwrap(), vec![]).code(2).says("its own");
    lab.sync(&src, &src, vec![]).code(2).says("is not a folder");
    assert!(src.metadata().unwrap().ino() == inode && link.symlink_metadata().unwrap().is_symlink());
    assert!(!src.parent().unwrap().join(".tar-like").exists());
    let db = lab.index(&src);
    lab.run(args!["index", "-c", "-b", db, "-db", db]).code(2).says("this command itself uses");
    assert_eq!(index::paths(&db), ["disk.img"]);
}

/// A device of 6 MiB with its image.
fn device(lab: &Lab) -> Option<(Loop, PathBuf)> {
    let image = lab.file("image", Rng::new(47).noise(6 << 20));
    Some((Loop::new(&image)?, image))
}

#[test]
fn a_device_becomes_a_file_with_its_content() {
    let lab = Lab::new();
    let Some((device, image)) = device(&lab) else { return };
    let (db, dst) = (lab.path("db"), lab.dir("dst"));
    let copy = dst.join(device.0.file_name().unwrap());
    let proxy = lab.proxy(&dst);
    let sync =
        || lab.sync(&device.0, &proxy.url, args!["-db", db, "-s", "500000", "--json"]).code(0).summary();
    let first = sync();
    assert_eq!(first["total_bytes"], 6 << 20, "{first}");
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&image).unwrap());
    let (found, given) = (copy.metadata().unwrap(), device.0.metadata().unwrap());
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o600, given.uid(), given.gid()));
    assert!(found.mtime() > 1_700_000_000);
    // The same content makes no new generation, although only reading can tell.
    let again = sync();
    assert!(again["index"]["unchanged"] == true && again["sent_blocks"] == 0, "{again}");
    assert_eq!(copy.metadata().unwrap().mtime_nsec(), found.mtime_nsec());
    overwrite(&device.0, 3 << 20, &[7; 4096]);
    let changed = sync();
    assert!(changed["sent_bytes"].as_u64().unwrap() < 2 << 20, "{changed}");
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&device.0).unwrap());
    assert!(std::fs::read(&copy).unwrap()[(3 << 20)..][..4096] == [7; 4096]);
    lab.check(&dst, &db, args!["--extra"]).code(0);
    lab.check(&device.0, &db, vec![]).code(0);
    // Step by step, and from the existing index.
    let other = lab.dir("other");
    lab.upload(&device.0, &db, &lab.proxy(&other).url, args!["-s", "500000"]).code(0);
    lab.check(&other, &db, vec![]).code(0);
    overwrite(&device.0, 0, b"changed");
    let differs = lab.check(&device.0, &db, vec![]).code(1);
    assert!(differs.stdout.contains("md5"), "{differs:?}");
}

#[test]
fn a_small_device_that_changed_after_it_was_indexed_fails() {
    let lab = Lab::new();
    let image = lab.file("image", Rng::new(48).noise(1 << 20));
    let Some(device) = Loop::new(&image) else { return };
    let dst = lab.dir("dst");
    let db = lab.path("db");
    lab.run(args!["index", "-b", device.0, "-db", db]).code(0);
    let proxy = lab.proxy(&dst);
    overwrite(&device.0, 5000, b"changed");
    lab.upload(&device.0, &db, &proxy.url, vec![]).code(3).says("changed after it was indexed");
    assert!(!dst.join(device.0.file_name().unwrap()).exists());
}

#[test]
fn a_device_that_shrinks_or_fails_is_named_and_nothing_gets_its_name() {
    let lab = Lab::new();
    let Some((device, image)) = device(&lab) else { return };
    let dst = lab.dir("dst");
    let copy = dst.join(device.0.file_name().unwrap());
    let db = lab.path("db");
    lab.run(args!["index", "-b", device.0, "-db", db]).code(0);
    let proxy = lab.proxy(&dst);
    let shrink = OpenOptions::new().write(true).open(&image).unwrap();
    // Behind its end, the medium cannot be read.
    shrink.set_len(4 << 20).unwrap();
    device.forget();
    let upload = || lab.upload(&device.0, &db, &proxy.url, args!["-s", "500000"]);
    upload().code(3).says("it cannot be read");
    assert!(!copy.exists());
    let dst2 = lab.path("dst2");
    lab.sync(&device.0, &dst2, args!["-db", lab.path("db2")]).code(3);
    lab.run(args!["index", "-b", device.0, "-db", lab.path("db3")]).code(3).says("it cannot be read");
    device.resize();
    upload().code(3).says("shrank from");
    assert!(!copy.exists());
    assert!(!dst2.join(device.0.file_name().unwrap()).exists());
}

#[test]
fn a_device_without_a_medium_is_an_error() {
    let lab = Lab::new();
    // Other processes may take the first free device.
    let free = (0..8).rev().map(|number| PathBuf::from(format!("/dev/loop{number}"))).find(|device| {
        let size = std::fs::File::open(device).and_then(|mut file| file.seek(SeekFrom::End(0)));
        size.is_ok_and(|size| size == 0)
    });
    let Some(device) = free else {
        skip("there is no loop device that is free and may be opened");
        return;
    };
    lab.sync(&device, lab.path("dst"), vec![]).code(1).says("its size is 0");
    assert!(!lab.path("dst").exists());
}
