//! What a generation replaces or takes away, under one more name:
//! `.tar-like/kept/<archive>.<generation>/<file id>`. What earlier runs had left there, and this
//! generation's run has deleted or replaced, has no row in the previous generation: it lies in
//! `.tar-like/kept/<archive>.<generation>/left/<path>`.

use super::aside::{copy, each_below, make_folders, rename_new};
use super::backup::Backup;
use super::disk::{DiskSink, FolderCache, Staging};
use super::expected::Expected;
use crate::archive::entry::FileEntry;
use crate::archive::path::{EntryPath, STATE_DIR};
use crate::error::{Error, Result};
use crate::folder::{Folder, is_kind};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::ops::RangeInclusive;

const FOLDER: &str = "kept";
/// The folder of what earlier runs had left.
const LEFT: &str = "left";

/// What one generation has replaced or taken away.
pub struct Kept {
    folder: Folder,
}

impl DiskSink {
    /// The folder `name` of what is kept, made if missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn kept(&self, name: &str) -> Result<Kept> {
        let open = || self.state.make_folder(FOLDER, 0o700)?.make_folder(name, 0o700);
        let folder = open().map_err(|e| Error::io(format!("cannot make the folder {FOLDER}/{name}"), e))?;
        Ok(Kept { folder })
    }

    /// Opens the place in the folder `name` of what is kept that takes what earlier runs had left;
    /// made if missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn kept_left(&self, name: &str) -> Result<Backup> {
        let shown = Self::kept_left_path(name);
        let folder = self.kept(name)?.folder.make_folder(LEFT, 0o700);
        let folder = folder.map_err(|e| Error::io(format!("cannot make the folder {shown}"), e))?;
        Ok(Backup::new(folder, shown))
    }

    /// That place, by its path below the base folder, for messages.
    #[must_use]
    pub fn kept_left_path(name: &str) -> String {
        format!("{STATE_DIR}/{FOLDER}/{name}/{LEFT}")
    }

    /// Removes that place, and the folder `name`, as far as they are empty.
    pub fn prune_kept_left(&self, name: &str) {
        let prune = || -> std::result::Result<(), Errno> {
            let kept = self.state.open_folder(FOLDER.as_bytes())?;
            rustix::fs::unlinkat(&kept.open_folder(name.as_bytes())?, LEFT, AtFlags::REMOVEDIR)?;
            rustix::fs::unlinkat(&kept, name, AtFlags::REMOVEDIR)
        };
        // It is not there, or has something in it.
        let _ = prune();
    }

    /// Gives what the folder `name` of what is kept has of earlier runs: each path, and whether it
    /// is a folder, which comes after what is in it. `each` may move it away.
    ///
    /// # Errors
    /// The system's error, or an error of `each`.
    pub fn each_kept_left(
        &self,
        name: &str,
        mut each: impl FnMut(&EntryPath, bool) -> Result<()>,
    ) -> Result<()> {
        let Some(left) = self.left_of(name)? else { return Ok(()) };
        let mut outcome = Ok(());
        each_below(&left, b"", |path, stat| {
            if let (Ok(()), Ok(path)) = (&outcome, EntryPath::new(path)) {
                outcome = each(&path, stat.is_none());
            }
        });
        outcome
    }

    /// Moves `path`, which [`Self::each_kept_left`] gave and which is no folder, to its place below
    /// the base folder; false if something has that place, or that of a folder above it.
    ///
    /// # Errors
    /// The system's error, about this entry alone.
    pub fn restore_kept_left(&self, name: &str, path: &EntryPath) -> Result<bool> {
        let Some(left) = self.left_of(name)? else { return Ok(false) };
        let (parent, own) = path.split();
        let move_back = || {
            let to = make_folders(&self.base, parent, false)?;
            rename_new(&left.open_folder(parent)?, own, &to, own)
        };
        is_placed(move_back()).map_err(|e| Error::io(format!("cannot bring \"{path}\" back"), e))
    }

    /// Makes the folder `path`, which [`Self::each_kept_left`] gave, below the base folder, unless
    /// it is there; false if something else has that place, or that of a folder above it.
    ///
    /// # Errors
    /// The system's error, about this folder alone.
    pub fn restore_kept_folder(&self, path: &EntryPath) -> Result<bool> {
        let made = make_folders(&self.base, path.as_bytes(), false).map(drop);
        is_placed(made).map_err(|e| Error::io(format!("cannot bring the folder \"{path}\" back"), e))
    }

    /// Whether anything is left in the folder `path` of what earlier runs had left, of the folder
    /// `name` of what is kept.
    ///
    /// # Errors
    /// The system's error.
    pub fn has_kept_in(&self, name: &str, path: &EntryPath) -> Result<bool> {
        let Some(left) = self.left_of(name)? else { return Ok(false) };
        let names = left.open_folder(path.as_bytes()).and_then(|folder| folder.names());
        let names = names.map_err(|e| Error::io(format!("cannot look at what is kept of \"{path}\""), e))?;
        Ok(!names.is_empty())
    }

    /// Removes that folder if it is empty.
    pub fn prune_kept_folder(&self, name: &str, path: &EntryPath) {
        let (parent, own) = path.split();
        if let Ok(Some(left)) = self.left_of(name)
            && let Ok(folder) = left.open_folder(parent)
        {
            let _ = rustix::fs::unlinkat(&folder, own, AtFlags::REMOVEDIR);
        }
    }

    /// The place in the folder `name` of what earlier runs had left, if it is there.
    fn left_of(&self, name: &str) -> Result<Option<Folder>> {
        let path = format!("{FOLDER}/{name}/{LEFT}");
        match self.state.open_folder(path.as_bytes()) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some).map_err(|e| Error::io(format!("cannot open the folder {path}"), e)),
        }
    }

    /// The names of all folders of what is kept.
    ///
    /// # Errors
    /// The system's error.
    pub fn kept_names(&self) -> Result<Vec<String>> {
        let path = self.state_path().join(FOLDER);
        let list = || -> std::io::Result<Vec<String>> {
            let entries = match std::fs::read_dir(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            // Anything else there was not made by a receiver.
            let folders = entries.filter(|entry| {
                entry.as_ref().map_or(true, |e| e.file_type().is_ok_and(|kind| kind.is_dir()))
            });
            folders.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        list().map_err(|e| Error::io(format!("cannot look at {}", path.display()), e))
    }

    /// Removes the folder `name` of what is kept, if it is there.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove_kept(&self, name: &str) -> Result<()> {
        let path = self.state_path().join(FOLDER).join(name);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => std::fs::remove_file(&path)
                .map_err(|e| Error::io(format!("cannot remove {}", path.display()), e)),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// Gives a published file its name in `kept`, too, or puts a copy there if it takes no further
    /// name: it is immutable, has as many as it can have, or its file system has no hard links.
    /// False if something else, or nothing, has its final name.
    ///
    /// # Errors
    /// The system's error, about this file alone.
    pub fn keep(&self, kept: &Kept, file: &FileEntry, cache: &mut FolderCache) -> Result<bool> {
        self.link_by_id(&kept.folder, file, cache)
            .map_err(|e| Error::io(format!("cannot keep \"{}\"", file.path), e))
    }

    /// Stages a published file, whole, as [`Self::keep`] keeps it. False as there.
    ///
    /// # Errors
    /// The system's error, about this file alone.
    pub fn stage_published(
        &self,
        staging: &Staging,
        file: &FileEntry,
        cache: &mut FolderCache,
    ) -> Result<bool> {
        staging.remove(file.id);
        self.link_by_id(&staging.folder, file, cache)
            .map_err(|e| Error::io(format!("cannot stage \"{}\" again", file.path), e))
    }

    /// Gives a published file its id as a further name, in `to`, or puts a copy there.
    fn link_by_id(
        &self,
        to: &Folder,
        file: &FileEntry,
        cache: &mut FolderCache,
    ) -> std::result::Result<bool, Errno> {
        let expected = Expected::of(file);
        let (name, own) = (file.path.split().1, Staging::name(file.id));
        let mut link = || -> std::result::Result<bool, Errno> {
            let Some(folder) = self.existing_folder_of(&file.path, cache)? else { return Ok(false) };
            if !folder.stat(name)?.is_some_and(|stat| expected.is(&stat)) {
                return Ok(false);
            }
            match rustix::fs::linkat(&*folder, name, to, &*own, AtFlags::empty()) {
                Err(Errno::NOENT) => return Ok(false),
                Err(Errno::PERM | Errno::ACCESS | Errno::MLINK | Errno::NOTSUP | Errno::XDEV) => {
                    copy(&folder, name, &expected, to, own.as_bytes())?;
                }
                other => other?,
            }
            // Another process may have put another file there since the check.
            if to.stat(own.as_bytes())?.is_some_and(|stat| expected.is(&stat)) {
                return Ok(true);
            }
            rustix::fs::unlinkat(to, &*own, AtFlags::empty())?;
            Ok(false)
        };
        link().inspect_err(|_| {
            // Half a copy must not pass for the file.
            let _ = rustix::fs::unlinkat(to, &*own, AtFlags::empty());
        })
    }
}

/// Whether an entry has got its place; false if another one has that.
fn is_placed(outcome: std::result::Result<(), Errno>) -> std::result::Result<bool, Errno> {
    match outcome {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(e) => Err(e),
    }
}

impl Kept {
    /// The least and the highest id of the files that are here; `None` if there is no file.
    ///
    /// # Errors
    /// The system's error.
    pub fn ids(&self) -> Result<Option<RangeInclusive<u64>>> {
        let list = || -> std::result::Result<Option<RangeInclusive<u64>>, Errno> {
            let mut ids: Option<RangeInclusive<u64>> = None;
            for entry in rustix::fs::Dir::read_from(&self.folder)? {
                let Some(id) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let (least, highest) = ids.map_or((id, id), |ids| ids.into_inner());
                ids = Some(least.min(id)..=highest.max(id));
            }
            Ok(ids)
        };
        list().map_err(|e| Error::io("cannot look at what is retained", e))
    }

    /// Whether the file with this id is here, with this size.
    ///
    /// # Errors
    /// The system's error.
    pub fn has(&self, file: &FileEntry) -> Result<bool> {
        let stat = self.folder.stat(Staging::name(file.id).as_bytes());
        let stat =
            stat.map_err(|e| Error::io(format!("cannot look for what is kept of \"{}\"", file.path), e))?;
        let is = |stat| is_kind(stat, FileType::RegularFile) && u64::try_from(stat.st_size) == Ok(file.size);
        Ok(stat.as_ref().is_some_and(is))
    }
}

impl Staging {
    /// Stages a file that is kept, whole, in place of whatever is staged of it.
    ///
    /// # Errors
    /// The system's error.
    pub fn take_kept(&self, kept: &Kept, id: u64) -> Result<()> {
        let name = Self::name(id);
        self.remove(id);
        rustix::fs::linkat(&kept.folder, &*name, &self.folder, &*name, AtFlags::empty())
            .map_err(|e| Error::io(format!("cannot stage the file {id} that is kept"), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::Meta;
    use crate::archive::path::EntryPath;
    use crate::folder::{meta_of, mtime_ns};
    use crate::sink::Sink;

    fn entry(sink: &DiskSink, id: u64, name: &str) -> FileEntry {
        let path = EntryPath::new(name.as_bytes()).unwrap();
        let stat = sink.stat(&path, &mut FolderCache::default()).unwrap().unwrap();
        let meta = Some(Meta { mtime_ns: mtime_ns(&stat), ..meta_of(&stat) });
        let size = u64::try_from(stat.st_size).unwrap();
        let (md5, blake3, origin, object) = (None, None, None, None);
        FileEntry { id, path, size, offset: 0, fragmented: false, md5, blake3, meta, origin, object }
    }

    #[test]
    fn a_file_that_is_kept_outlives_its_name() {
        let base = tempfile::tempdir().unwrap();
        let sink = DiskSink::open(base.path()).unwrap();
        std::fs::write(base.path().join("f"), "content").unwrap();
        let file = entry(&sink, 7, "f");
        let (kept, mut cache) = (sink.kept("0.2").unwrap(), FolderCache::default());
        assert!(sink.keep(&kept, &file, &mut cache).unwrap());
        std::fs::remove_file(base.path().join("f")).unwrap();
        assert!(
            !sink.keep(&kept, &FileEntry { id: 8, ..file.clone() }, &mut cache).unwrap(),
            "it is not there"
        );
        std::fs::write(base.path().join("f"), "CONTENT").unwrap();
        assert!(!sink.keep(&kept, &FileEntry { id: 8, ..file.clone() }, &mut cache).unwrap(), "another time");
        assert_eq!(kept.ids().unwrap(), Some(7..=7));
        assert!(kept.has(&file).unwrap() && !kept.has(&FileEntry { size: 8, ..file.clone() }).unwrap());
        let staging = sink.staging("0.3").unwrap();
        staging.take_kept(&kept, 7).unwrap();
        assert_eq!(std::fs::read(base.path().join(".tar-like/staging/0.3/7")).unwrap(), b"content");
        sink.remove_kept("0.2").unwrap();
        assert_eq!(sink.kept_names().unwrap(), [""; 0]);
        // A foreign file is not listed, and does no harm.
        std::fs::write(base.path().join(".tar-like/kept/0.5"), "").unwrap();
        assert_eq!(sink.kept_names().unwrap(), [""; 0]);
        sink.remove_kept("0.5").unwrap();
        assert!(!base.path().join(".tar-like/kept/0.5").exists());
        assert_eq!(std::fs::read(base.path().join(".tar-like/staging/0.3/7")).unwrap(), b"content");
    }

    /// Metadata go to what was there, not to what another process has written since.
    #[test]
    fn another_time_than_the_former_one_gets_no_metadata() {
        let base = tempfile::tempdir().unwrap();
        let sink = DiskSink::open(base.path()).unwrap();
        std::fs::write(base.path().join("f"), "content").unwrap();
        let (previous, mut cache) = (entry(&sink, 1, "f"), FolderCache::default());
        let meta = previous.meta.map(|meta| Meta { mtime_ns: 1_700_000_000_000_000_000, ..meta });
        let file = FileEntry { meta, ..previous.clone() };
        let wrong = Expected::File { size: 7, mtime_ns: Some(1_600_000_000_000_000_000) };
        assert!(!sink.apply_file_meta(&file, Some((wrong, None)), &mut cache).unwrap());
        assert_eq!(entry(&sink, 1, "f").meta, previous.meta);
        assert!(
            sink.apply_file_meta(&file, Some((Expected::of(&previous), previous.meta)), &mut cache).unwrap()
        );
        assert_eq!(entry(&sink, 1, "f").meta, file.meta);
        // Once more, as after a crash.
        assert!(
            sink.apply_file_meta(&file, Some((Expected::of(&previous), previous.meta)), &mut cache).unwrap()
        );
        assert!(sink.apply_file_meta(&previous, None, &mut cache).unwrap());
    }
}
