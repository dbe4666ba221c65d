//! What every sink promises, whatever is behind it. Each promise is one function of a
//! [`Destination`]; [`promises!`] makes a test of each for one kind of destination. Another sink
//! implements `Destination` in its own tests and calls the macro with it.

use super::disk::{DiskSink, FolderCache};
use super::{LeftOver, Sink};
use crate::archive::entry::FileEntry;
use crate::archive::path::EntryPath;
use std::io::Read;
use std::path::Path;

/// A sink under test, and a way to its contents that does not lead through the sink.
pub(crate) trait Destination: Sized {
    /// An empty destination; `None` where this machine cannot have one.
    fn new() -> Option<Self>;
    fn sink(&self) -> &dyn Sink;
    /// The content that has the final name `path`; `None` if there is no file.
    fn content(&self, path: &str) -> Option<Vec<u8>>;
    /// All final names of files, sorted.
    fn names(&self) -> Vec<String>;
    /// Puts a file under a final name, as another program would, with the folders above it.
    fn plant_file(&self, path: &str, content: &[u8]);
    /// Makes an empty folder.
    fn plant_folder(&self, path: &str);
    /// Puts a link to something outside of the destination under a final name.
    fn plant_link(&self, path: &str, to_folder: bool);
    /// Whether everything outside is as it was made.
    fn is_outside_unchanged(&self) -> bool;
    /// Leaves an entry as a kill in the middle of a deletion does.
    fn plant_left_over(&self, path: &str, content: &[u8]);
}

fn file(id: u64, path: &str, size: usize) -> FileEntry {
    FileEntry {
        id,
        path: EntryPath::new(path.as_bytes()).unwrap(),
        size: size as u64,
        offset: 0,
        fragmented: false,
        md5: None,
        blake3: None,
        meta: None,
        origin: None,
        object: None,
    }
}

fn stage(destination: &impl Destination, file: &FileEntry, content: &[u8]) -> super::disk::Staging {
    let staging = destination.sink().staging("0.1").unwrap();
    staging.write_whole(file, [content]).unwrap();
    staging
}

fn publish(destination: &impl Destination, id: u64, path: &str, content: &[u8]) -> crate::error::Result<()> {
    let file = file(id, path, content.len());
    let staging = stage(destination, &file, content);
    destination.sink().publish(&staging, id, &file.path, &mut FolderCache::default())
}

fn staged(staging: &super::disk::Staging, id: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    staging.open(id).unwrap()?.read_to_end(&mut content).unwrap();
    Some(content)
}

pub(crate) fn staged_content_is_invisible_until_it_is_published(to: &impl Destination) {
    let (small, large) = (file(1, "folder/small", 5), file(2, "large", 9));
    let staging = stage(to, &small, b"small");
    staging.write_at(&large, 4, [&b"piece"[..]]).unwrap();
    to.sink().sync().unwrap();
    assert_eq!((to.names(), to.content("folder/small")), (vec![], None));
    let mut cache = FolderCache::default();
    to.sink().publish(&staging, 1, &small.path, &mut cache).unwrap();
    assert_eq!(to.names(), ["folder/small"]);
    assert_eq!(to.content("folder/small").as_deref(), Some(&b"small"[..]));
    assert_eq!((staged(&staging, 1), staged(&staging, 2).unwrap().len()), (None, 9));
}

pub(crate) fn ranges_read_back_what_was_written(to: &impl Destination) {
    let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let large = file(7, "large", content.len());
    let staging = to.sink().staging("0.1").unwrap();
    for (start, end) in [(60_000, 100_000), (0, 10), (30_001, 60_000), (10, 30_001)] {
        staging.write_at(&large, start as u64, [&content[start..end]]).unwrap();
    }
    assert!(staged(&staging, 7).unwrap() == content);
    staging.write_at(&large, 5, [&b"other"[..]]).unwrap();
    let mut content = content;
    content[5..10].copy_from_slice(b"other");
    to.sink().publish(&staging, 7, &large.path, &mut FolderCache::default()).unwrap();
    assert!(to.content("large").unwrap() == content);
}

pub(crate) fn a_whole_file_leaves_nothing_of_what_was_staged_before(to: &impl Destination) {
    let file = file(1, "file", 3);
    let staging = stage(to, &file, b"longer than what comes");
    staging.write_whole(&file, [&b"new"[..]]).unwrap();
    assert_eq!(staged(&staging, 1).as_deref(), Some(&b"new"[..]));
    staging.remove(1);
    assert_eq!(staged(&staging, 1), None);
}

pub(crate) fn a_file_is_replaced_as_a_whole(to: &impl Destination) {
    to.plant_file("a/file", b"an older and longer file");
    publish(to, 1, "a/file", b"new").unwrap();
    assert_eq!(to.content("a/file").as_deref(), Some(&b"new"[..]));
    publish(to, 1, "a/file", b"").unwrap();
    assert_eq!((to.content("a/file").as_deref(), to.names()), (Some(&b""[..]), vec!["a/file".into()]));
}

pub(crate) fn a_folder_with_contents_is_never_replaced(to: &impl Destination) {
    to.plant_file("name/inside", b"not ours");
    let file = file(1, "name", 3);
    let staging = stage(to, &file, b"new");
    let error = to.sink().publish(&staging, 1, &file.path, &mut FolderCache::default()).unwrap_err();
    assert!(error.to_string().contains("name") && error.kind().is_of_one_file(), "{error}");
    assert_eq!(to.content("name/inside").as_deref(), Some(&b"not ours"[..]));
    // The next attempt needs no byte of it again.
    assert_eq!(staged(&staging, 1).as_deref(), Some(&b"new"[..]));
}

pub(crate) fn an_empty_folder_gives_way(to: &impl Destination) {
    to.plant_folder("name");
    publish(to, 1, "name", b"file").unwrap();
    assert_eq!(to.content("name").as_deref(), Some(&b"file"[..]));
}

pub(crate) fn a_link_in_the_way_is_never_followed(to: &impl Destination) {
    to.plant_link("link", false);
    to.plant_link("folder", true);
    to.plant_link("deep/folder", true);
    for (id, path) in [(1, "link"), (2, "folder/file"), (3, "deep/folder/deeper/file")] {
        // A sink may refuse the name, or put the file in place of the link.
        if publish(to, id, path, b"new").is_ok() {
            assert_eq!(to.content(path).as_deref(), Some(&b"new"[..]), "{path}");
        }
        assert!(to.is_outside_unchanged(), "{path}");
    }
}

pub(crate) fn staging_folders_are_apart(to: &impl Destination) {
    let (sink, file) = (to.sink(), file(1, "file", 3));
    let names = ["0.1", "0.2", "1.1"];
    for name in names {
        sink.staging(name).unwrap().write_whole(&file, [name.as_bytes()]).unwrap();
    }
    let content = |name: &str| staged(&sink.staging(name).unwrap(), 1).map(|c| String::from_utf8(c).unwrap());
    assert_eq!(names.map(content), names.map(|name| Some(name.to_string())));
    sink.remove_staging("0.2").unwrap();
    sink.remove_staging("none").unwrap();
    assert_eq!(names.map(content), [Some("0.1".into()), None, Some("1.1".into())]);
    sink.remove_other_staging(&|name| name == "1.1").unwrap();
    assert_eq!(names.map(content), [None, None, Some("1.1".into())]);
}

pub(crate) fn room_is_accounted(to: &impl Destination) {
    let sink = to.sink();
    assert_eq!((sink.held_bytes(), sink.release()), (0, false));
    assert!(sink.free_bytes().unwrap() > 0);
    sink.hold(1 << 20, u64::MAX);
    assert_eq!(sink.held_bytes(), 0, "that much is not free besides");
    sink.hold(1 << 20, 0);
    let held = sink.held_bytes();
    // Nothing is held where space cannot be allocated ahead.
    assert!(held == 0 || held >= 1 << 20, "{held}");
    sink.hold(1 << 10, 0);
    assert_eq!(sink.held_bytes(), held, "never less");
    assert_eq!((sink.release(), sink.held_bytes()), (held > 0, 0));
}

pub(crate) fn left_overs_are_listed_and_go_back(to: &impl Destination) {
    assert_eq!(to.sink().left_overs(), []);
    to.plant_left_over("folder/file", b"left");
    to.plant_left_over("taken", b"left");
    to.plant_file("taken", b"here meanwhile");
    let mut places: Vec<_> = to.sink().left_overs().into_iter().map(|left: LeftOver| left.place).collect();
    places.sort();
    assert_eq!(places, ["folder/file", "taken"].map(|path| Some(Path::new(path).to_path_buf())));
    to.sink().put_back(&to.sink().left_overs());
    assert_eq!(to.sink().left_overs(), []);
    assert_eq!(to.content("folder/file").as_deref(), Some(&b"left"[..]));
    assert_eq!(to.content("taken").as_deref(), Some(&b"here meanwhile"[..]));
    assert_eq!(to.content("taken.~1~").as_deref(), Some(&b"left"[..]));
}

/// One test for each promise, run for one kind of destination.
macro_rules! promises {
    ($destination:ty: $($promise:ident),+ $(,)?) => {
        $(
            #[test]
            fn $promise() {
                use $crate::sink::tests::Destination;
                match <$destination>::new() {
                    Some(destination) => $crate::sink::tests::$promise(&destination),
                    None => eprintln!("SKIP {}: there is no such destination here", stringify!($promise)),
                }
            }
        )+
    };
    ($destination:ty) => {
        $crate::sink::tests::promises! { $destination:
            staged_content_is_invisible_until_it_is_published,
            ranges_read_back_what_was_written,
            a_whole_file_leaves_nothing_of_what_was_staged_before,
            a_file_is_replaced_as_a_whole,
            a_folder_with_contents_is_never_replaced,
            an_empty_folder_gives_way,
            a_link_in_the_way_is_never_followed,
            staging_folders_are_apart,
            room_is_accounted,
            left_overs_are_listed_and_go_back,
        }
    };
}
pub(crate) use promises;

mod disk {
    use super::*;

    /// A folder on this disk, beside a folder that no sink may touch.
    struct DiskDestination {
        folder: tempfile::TempDir,
        sink: DiskSink,
    }

    impl DiskDestination {
        fn at(&self, path: &str) -> std::path::PathBuf {
            self.folder.path().join("base").join(path)
        }
    }

    fn write(path: &Path, content: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn names_below(folder: &Path, prefix: &str, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true if name == ".tar-like" => {}
                true => names_below(&entry.path(), &format!("{name}/"), names),
                false => names.push(name),
            }
        }
    }

    impl Destination for DiskDestination {
        fn new() -> Option<Self> {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("base")).unwrap();
            write(&folder.path().join("outside/file"), b"outside");
            let sink = DiskSink::open(&folder.path().join("base")).unwrap();
            Some(Self { folder, sink })
        }

        fn sink(&self) -> &dyn Sink {
            &self.sink
        }

        fn content(&self, path: &str) -> Option<Vec<u8>> {
            let path = self.at(path);
            path.symlink_metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some(std::fs::read(path).unwrap())
        }

        fn names(&self) -> Vec<String> {
            let mut names = Vec::new();
            names_below(&self.at(""), "", &mut names);
            names.sort();
            names
        }

        fn plant_file(&self, path: &str, content: &[u8]) {
            write(&self.at(path), content);
        }

        fn plant_folder(&self, path: &str) {
            std::fs::create_dir_all(self.at(path)).unwrap();
        }

        fn plant_link(&self, path: &str, to_folder: bool) {
            let path = self.at(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let outside = self.folder.path().join("outside");
            let target = if to_folder { outside } else { outside.join("file") };
            std::os::unix::fs::symlink(target, path).unwrap();
        }

        fn is_outside_unchanged(&self) -> bool {
            let (outside, mut names) = (self.folder.path().join("outside"), Vec::new());
            names_below(&outside, "", &mut names);
            names == ["file"] && std::fs::read(outside.join("file")).unwrap() == b"outside"
        }

        fn plant_left_over(&self, path: &str, content: &[u8]) {
            write(&self.at(".tar-like/removed/0123456789abcdef").join(path), content);
        }
    }

    promises!(DiskDestination);
}
