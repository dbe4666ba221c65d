use super::*;
use crate::archive::path::{MAX_NAME_BYTES, MAX_PATH_BYTES};
use crate::error::ErrorKind;
use crate::folder::mtime_ns;
use crate::sink::Sink;
use rustix::fs::OFlags;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

struct Setting {
    folder: tempfile::TempDir,
    sink: DiskSink,
}

fn setting() -> Setting {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("base")).unwrap();
    std::fs::create_dir(folder.path().join("outside")).unwrap();
    std::fs::write(folder.path().join("outside/file"), "outside").unwrap();
    let sink = DiskSink::open(&folder.path().join("base")).unwrap();
    Setting { folder, sink }
}

impl Setting {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("base").join(name)
    }

    fn write(&self, name: &str, content: &str) -> Expected<'static> {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        self.expected(name)
    }

    fn expected(&self, name: &str) -> Expected<'static> {
        let stat = rustix::fs::lstat(self.path(name)).unwrap();
        Expected::File { size: stat.st_size.cast_unsigned(), mtime_ns: Some(mtime_ns(&stat)) }
    }

    fn remove(&self, name: &str, expected: &Expected<'_>, backup: Option<&Backup>) -> Outcome {
        self.sink.removal(backup).remove(&entry(name), expected).unwrap()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn entry(path: &str) -> EntryPath {
    EntryPath::new(path.as_bytes()).unwrap()
}

#[test]
fn only_what_is_as_expected_goes() {
    let setting = setting();
    let expected = setting.write("a/file", "old");
    assert_eq!(setting.remove("a/none", &expected, None), Outcome::Absent);
    assert_eq!(setting.remove("b/none", &expected, None), Outcome::Absent);
    let other = Expected::File { size: 4, mtime_ns: None };
    assert_eq!(setting.remove("a/file", &other, None), Outcome::Changed);
    let other = Expected::File { size: 3, mtime_ns: Some(1) };
    assert_eq!(setting.remove("a/file", &other, None), Outcome::Changed);
    assert_eq!(setting.remove("a/file", &Expected::Link(b"x"), None), Outcome::Changed);
    assert_eq!(setting.remove("a/file", &expected, None), Outcome::Removed);
    assert!(!setting.path("a/file").exists());
    symlink("target", setting.path("link")).unwrap();
    assert_eq!(setting.remove("link", &Expected::Link(b"other"), None), Outcome::Changed);
    assert_eq!(setting.remove("link", &expected, None), Outcome::Changed);
    assert_eq!(setting.remove("link", &Expected::Link(b"target"), None), Outcome::Removed);
    assert!(setting.path("link").symlink_metadata().is_err());
    assert_eq!(setting.names(".tar-like/removed"), [""; 0]);
}

#[test]
fn folders_go_only_when_empty() {
    let setting = setting();
    setting.write("a/b/mine", "x");
    symlink("a", setting.path("link")).unwrap();
    let outcome = |name: &str| setting.sink.remove_folder_if_empty(&entry(name)).unwrap();
    assert_eq!(outcome("a/b"), Outcome::Changed);
    assert_eq!(outcome("a/b/mine"), Outcome::Changed);
    assert_eq!(outcome("link"), Outcome::Changed);
    assert_eq!(outcome("link/b"), Outcome::Absent);
    std::fs::remove_file(setting.path("a/b/mine")).unwrap();
    assert_eq!(outcome("a/b"), Outcome::Removed);
    assert_eq!(outcome("a/b"), Outcome::Absent);
    assert_eq!(outcome("none/b"), Outcome::Absent);
}

#[test]
fn nothing_outside_goes_by_planted_links() {
    let setting = setting();
    let outside = setting.folder.path().join("outside");
    let stat = rustix::fs::stat(outside.join("file")).unwrap();
    let expected = Expected::File { size: stat.st_size.cast_unsigned(), mtime_ns: Some(mtime_ns(&stat)) };
    symlink(&outside, setting.path("planted")).unwrap();
    symlink(outside.join("file"), setting.path("file")).unwrap();
    std::fs::create_dir(outside.join("empty")).unwrap();
    assert_eq!(setting.remove("planted/file", &expected, None), Outcome::Absent);
    assert_eq!(setting.remove("file", &expected, None), Outcome::Changed);
    assert_eq!(setting.sink.remove_folder_if_empty(&entry("planted/empty")).unwrap(), Outcome::Absent);
    // Nor does a backup lead there.
    let kept = setting.write("sub/kept", "x");
    let error = setting.sink.backup(Path::new("planted"), false).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    let backup = setting.sink.backup(Path::new("bak"), false).unwrap();
    symlink(&outside, setting.path("bak/sub")).unwrap();
    assert_eq!(setting.remove("sub/kept", &kept, Some(&backup)), Outcome::Removed);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 2);
    assert_eq!(std::fs::read(setting.path("bak/sub.~1~/kept")).unwrap(), b"x");
}

#[test]
fn backups_keep_their_paths_and_never_overwrite_one_another() {
    let setting = setting();
    let backup = setting.sink.backup(Path::new("bak/deep/"), false).unwrap();
    for content in ["1", "22", "333"] {
        let expected = setting.write("a/b/file", content);
        assert_eq!(setting.remove("a/b/file", &expected, Some(&backup)), Outcome::Removed);
    }
    assert_eq!(setting.names("bak/deep/a/b"), ["file", "file.~1~", "file.~2~"]);
    assert_eq!(std::fs::read(setting.path("bak/deep/a/b/file")).unwrap(), b"1");
    assert_eq!(std::fs::read(setting.path("bak/deep/a/b/file.~2~")).unwrap(), b"333");
    // A folder where a backup of a file stands, and a file where one of a folder stands.
    let expected = setting.write("x", "file");
    assert_eq!(setting.remove("x", &expected, Some(&backup)), Outcome::Removed);
    let expected = setting.write("x/y", "in a folder");
    assert_eq!(setting.remove("x/y", &expected, Some(&backup)), Outcome::Removed);
    assert_eq!(std::fs::read(setting.path("bak/deep/x.~1~/y")).unwrap(), b"in a folder");
    std::fs::remove_dir_all(setting.path("a")).unwrap();
    let expected = setting.write("a", "now a file");
    assert_eq!(setting.remove("a", &expected, Some(&backup)), Outcome::Removed);
    assert_eq!(std::fs::read(setting.path("bak/deep/a.~1~")).unwrap(), b"now a file");
    // A name that has no room for a number.
    let long = "n".repeat(MAX_NAME_BYTES);
    for content in ["1", "2"] {
        let expected = setting.write(&long, content);
        assert_eq!(setting.remove(&long, &expected, Some(&backup)), Outcome::Removed);
    }
    let cut = format!("bak/deep/{}.~1~", "n".repeat(MAX_NAME_BYTES - 4));
    assert_eq!(std::fs::read(setting.path(&cut)).unwrap(), b"2");
    // A link is moved as it is.
    symlink("nowhere", setting.path("link")).unwrap();
    assert_eq!(setting.remove("link", &Expected::Link(b"nowhere"), Some(&backup)), Outcome::Removed);
    assert_eq!(std::fs::read_link(setting.path("bak/deep/link")).unwrap(), Path::new("nowhere"));
}

#[test]
fn backup_folders_that_cannot_be() {
    let setting = setting();
    let absolute = setting.folder.path().join("elsewhere");
    setting.write("file", "x");
    for path in ["", "..", "../x", "a/../../x", ".tar-like", ".tar-like/x", "a//b", "file", "file/x", "a\0b"]
    {
        let error = setting.sink.backup(Path::new(path), true).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage, "{path}: {error}");
    }
    let error = setting.sink.backup(&absolute, false).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    assert!(!absolute.exists());
    let backup = setting.sink.backup(&absolute, true).unwrap();
    let expected = setting.expected("file");
    assert_eq!(setting.remove("file", &expected, Some(&backup)), Outcome::Removed);
    assert_eq!(std::fs::read(absolute.join("file")).unwrap(), b"x");
    let inside = setting.path(".tar-like/archives");
    assert_eq!(setting.sink.backup(&inside, true).err().unwrap().kind(), ErrorKind::Usage);
    if Path::new("/dev/shm").is_dir() {
        let other = tempfile::tempdir_in("/dev/shm").unwrap();
        let error = setting.sink.backup(other.path(), true).err();
        let same = rustix::fs::stat("/dev/shm").unwrap().st_dev
            == rustix::fs::stat(setting.folder.path()).unwrap().st_dev;
        assert_eq!(error.is_some(), !same, "{error:?}");
    }
}

/// Somebody saves a file again and again, as editors do, while it is being removed: not one of his
/// versions is lost.
#[test]
fn what_comes_in_between_is_put_back() {
    let setting = setting();
    let stop = AtomicBool::new(false);
    let ours = setting.write("seed", "ours");
    let (path, next) = (setting.path("file"), setting.path("next"));
    let backup = setting.sink.backup(Path::new("bak"), false).unwrap();
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::fs::write(&next, "his own, longer").unwrap();
                std::fs::rename(&next, &path).unwrap();
            }
        });
        for _ in 0..3000 {
            // Ours is in place for a moment, until his replaces it.
            let _ = std::fs::remove_file(setting.path("again"));
            std::fs::hard_link(setting.path("seed"), setting.path("again")).unwrap();
            std::fs::rename(setting.path("again"), &path).unwrap();
            if setting.remove("file", &ours, Some(&backup)) == Outcome::Removed {
                assert_eq!(std::fs::read(setting.path("bak/file")).unwrap(), b"ours");
                std::fs::remove_file(setting.path("bak/file")).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        attacker.join().unwrap();
    });
    // The last thing that happened to the name was his; what had to step aside for him has a
    // number.
    assert_eq!(std::fs::read(&path).unwrap(), b"his own, longer");
    for name in setting.names("").iter().filter(|name| name.starts_with("file.~")) {
        assert_eq!(std::fs::read(setting.path(name)).unwrap(), b"his own, longer", "{name}");
    }
    assert_eq!(setting.names(".tar-like/removed"), [""; 0]);
}

/// One deletion moves files and folders of the same names aside, one after another.
#[test]
fn names_that_were_folders_do_not_hinder() {
    let setting = setting();
    let mut removal = setting.sink.removal(None);
    for name in ["x/y", "x", "x/y/z", "x"] {
        let _ = std::fs::remove_dir_all(setting.path("x"));
        let expected = setting.write(name, name);
        assert_eq!(removal.remove(&entry(name), &expected).unwrap(), Outcome::Removed, "{name}");
    }
    drop(removal);
    assert_eq!(setting.names(".tar-like/removed"), [""; 0]);
}

/// What a kill has left goes back; what stands there meanwhile stays.
#[test]
fn what_was_left_is_put_back() {
    let setting = setting();
    let mut removal = setting.sink.removal(None);
    let expected = setting.write("a/b/file", "old");
    let folder = setting.sink.base.open_folder(b"a/b").unwrap();
    removal.move_aside(&folder, b"a/b", b"file").unwrap();
    symlink("target", setting.path("link")).unwrap();
    removal.move_aside(&setting.sink.base, b"", b"link").unwrap();
    std::mem::forget(removal);
    setting.write("a/b/file", "new");
    setting.write(".tar-like/removed/4711-0", "of an earlier version");
    let left = setting.sink.left_overs();
    let mut places: Vec<_> = left.iter().map(|left| left.place.clone()).collect();
    places.sort();
    assert_eq!(places, [None, Some("a/b/file".into()), Some("link".into())]);
    setting.sink.put_back(&left);
    assert_eq!(std::fs::read(setting.path("a/b/file")).unwrap(), b"new");
    assert_eq!(std::fs::read(setting.path("a/b/file.~1~")).unwrap(), b"old");
    assert_eq!(setting.expected("a/b/file.~1~"), expected);
    assert_eq!(std::fs::read_link(setting.path("link")).unwrap(), Path::new("target"));
    assert_eq!(setting.names(".tar-like/removed"), ["4711-0"]);
}

/// An entry that could not be put back has the name that a later one would get aside: both stay.
#[test]
fn what_is_aside_already_is_not_overwritten() {
    let setting = setting();
    let mut removal = setting.sink.removal(None);
    let expected = setting.write("a/file", "mine");
    removal.aside(b"a").unwrap();
    let session = setting.names(".tar-like/removed").remove(0);
    let left = setting.path(&format!(".tar-like/removed/{session}/a/file"));
    std::fs::write(&left, "not put back").unwrap();
    assert_eq!(removal.remove(&entry("a/file"), &expected).unwrap(), Outcome::Removed);
    drop(removal);
    assert_eq!(std::fs::read(&left).unwrap(), b"not put back");
    assert!(!setting.path("a/file").exists());
}

/// The path of an entry may be as long as the system takes: below the folder of what is removed it
/// is longer.
#[test]
fn the_longest_path_is_put_back_and_leaves_nothing() {
    let setting = setting();
    let mut path = vec![b'x'; MAX_PATH_BYTES];
    (0..path.len()).step_by(200).skip(1).chain([MAX_PATH_BYTES - 2]).for_each(|at| path[at] = b'/');
    let path = EntryPath::new(path).unwrap();
    let (parent, name) = path.split();
    let folder = make_folders(&setting.sink.base, parent, false).unwrap();
    let make = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        drop(rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600)).unwrap());
        let stat = folder.stat(name).unwrap().unwrap();
        Expected::File { size: 0, mtime_ns: Some(mtime_ns(&stat)) }
    };
    let expected = make();
    let mut removal = setting.sink.removal(None);
    removal.move_aside(&folder, parent, name).unwrap();
    std::mem::forget(removal);
    let left = setting.sink.left_overs();
    let places: Vec<_> = left.iter().map(|left| left.place.as_deref()).collect();
    assert_eq!(places, [Some(path.as_path())]);
    setting.sink.put_back(&left);
    assert_eq!(expected.is_at(&folder, name), Ok(Some(true)));
    assert_eq!(setting.names(".tar-like/removed"), [""; 0]);

    assert_eq!(setting.sink.removal(None).remove(&path, &expected).unwrap(), Outcome::Removed);
    assert_eq!(setting.names(".tar-like/removed"), [""; 0], "an empty folder is left");
}
