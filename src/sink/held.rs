//! Replaced files that are still needed, as sources of copies or to go back to: a second name below `.tar-like/held`, by file id.

use super::disk::{DiskSink, FolderCache, Staging};
use super::expected::Expected;
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::error::{Error, Result};
use crate::folder::Folder;
use rustix::fs::{AtFlags, Dir, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;

/// Files that are pinned: hard links to what had a final name once. Nobody writes to them.
pub struct Held {
    folder: Folder,
}

impl DiskSink {
    /// The pins that belong to the ids of `name`, which is that of a staging folder; the folder is made if missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn held(&self, name: &str) -> Result<Held> {
        let open = || self.state.make_folder("held", 0o700)?.make_folder(name, 0o700);
        let folder = open().map_err(|e| Error::io(format!("cannot make the folder held/{name}"), e))?;
        Ok(Held { folder })
    }

    /// Removes all pins but those of the names that `keep` says.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove_other_held(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        let path = self.state_path().join("held");
        let io = |e| Error::io(format!("cannot clean {}", path.display()), e);
        let entries = match std::fs::read_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(io)?,
        };
        for entry in entries {
            let entry = entry.map_err(io)?;
            if !entry.file_name().to_str().is_some_and(&keep) {
                std::fs::remove_dir_all(entry.path()).map_err(io)?;
            }
        }
        Ok(())
    }

    /// Pins what has the final name `path` as `id`, if it is as `expected`; false if it is not, or if it cannot be linked. A pin of this
    /// id that is as expected stays as it is.
    ///
    /// # Errors
    /// The disk is full, or the system's error.
    pub fn pin(
        &self,
        held: &Held,
        id: u64,
        path: &EntryPath,
        expected: &Expected<'_>,
        cache: &mut FolderCache,
    ) -> Result<bool> {
        let name = Held::name(id);
        let mut pin = || -> std::result::Result<bool, Errno> {
            if let Some(stat) = held.folder.stat(name.as_bytes())? {
                if expected.is(&stat) {
                    return Ok(true);
                }
                rustix::fs::unlinkat(&held.folder, &*name, AtFlags::empty())?;
            }
            let Some(folder) = self.existing_folder_of(path, cache)? else { return Ok(false) };
            // Looked at first: what is not as expected needs no second name, not even for a moment.
            if !folder.stat(path.split().1)?.is_some_and(|stat| expected.is(&stat)) {
                return Ok(false);
            }
            match rustix::fs::linkat(&*folder, path.split().1, &held.folder, &*name, AtFlags::empty()) {
                Ok(()) => {}
                // Gone meanwhile; too many names; another file system below the base; one without links, or not for us.
                Err(
                    Errno::NOENT | Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::NOTSUP | Errno::ACCESS,
                ) => {
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
            // And again where nobody else comes: another one may have got the name in between.
            if held.folder.stat(name.as_bytes())?.is_some_and(|stat| expected.is(&stat)) {
                return Ok(true);
            }
            rustix::fs::unlinkat(&held.folder, &*name, AtFlags::empty())?;
            Ok(false)
        };
        pin().map_err(|e| Error::io(format!("cannot hold \"{path}\""), e))
    }
}

impl Held {
    fn name(id: u64) -> String {
        id.to_string()
    }

    /// The ids of all pins.
    ///
    /// # Errors
    /// The system's error.
    pub fn ids(&self) -> Result<RangeSet> {
        let read = || -> std::result::Result<RangeSet, Errno> {
            let mut ids: Vec<u64> = Vec::new();
            for entry in Dir::read_from(&self.folder)? {
                let entry = entry?;
                let id = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
                ids.extend(id.filter(|&id: &u64| id < u64::MAX));
            }
            ids.sort_unstable();
            Ok(ids.into_iter().map(|id| id..id + 1).collect())
        };
        read().map_err(|e| Error::io("cannot list what is held", e))
    }

    /// What pin `id` is; `None` if there is none.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat(&self, id: u64) -> Result<Option<Stat>> {
        self.folder
            .stat(Self::name(id).as_bytes())
            .map_err(|e| Error::io(format!("cannot look at what is held of file {id}"), e))
    }

    /// Opens pin `id` for reading, if it is there and as `expected`.
    ///
    /// # Errors
    /// The system's error: it may be there, but its own permissions forbid to read it.
    pub fn open(&self, id: u64, expected: &Expected<'_>) -> Result<Option<File>> {
        let open = || -> std::result::Result<Option<File>, Errno> {
            let file = match self.folder.open_file(Self::name(id).as_bytes()) {
                Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
                other => other?,
            };
            let right = expected.is(&rustix::fs::fstat(&file)?);
            Ok(right.then_some(file))
        };
        open().map_err(|e| Error::io(format!("cannot open what is held of file {id}"), e))
    }

    /// Puts pin `id` into `staging` under the same id, as a further name of the same file; false if there is no such pin.
    ///
    /// # Errors
    /// The system's error.
    pub fn stage(&self, id: u64, staging: &Staging) -> Result<bool> {
        let (name, staged) = (Self::name(id), Staging::name(id));
        let stage = || -> std::result::Result<bool, Errno> {
            match rustix::fs::unlinkat(&staging.folder, &*staged, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
            match rustix::fs::linkat(&self.folder, &*name, &staging.folder, &*staged, AtFlags::empty()) {
                Ok(()) => Ok(true),
                Err(Errno::NOENT | Errno::MLINK) => Ok(false),
                Err(e) => Err(e),
            }
        };
        stage().map_err(|e| Error::io(format!("cannot take back what is held of file {id}"), e))
    }

    /// Removes pin `id`, if it is there.
    pub fn remove(&self, id: u64) {
        // What stays is removed with the others at the next start.
        let _ = rustix::fs::unlinkat(&self.folder, &*Self::name(id), AtFlags::empty());
    }

    /// Removes all pins but those of `keep`.
    ///
    /// # Errors
    /// The pins cannot be listed.
    pub fn remove_all_but(&self, keep: &RangeSet) -> Result<()> {
        let gone: Vec<Range<u64>> =
            self.ids()?.iter().flat_map(|ids| keep.missing(ids).collect::<Vec<_>>()).collect();
        gone.into_iter().flatten().for_each(|id| self.remove(id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::mtime_ns;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    fn entry(path: &str) -> EntryPath {
        EntryPath::new(path.as_bytes()).unwrap()
    }

    fn expected(path: &Path) -> Expected<'static> {
        let stat = rustix::fs::lstat(path).unwrap();
        Expected::File { size: stat.st_size.cast_unsigned(), mtime_ns: Some(mtime_ns(&stat)) }
    }

    #[test]
    fn a_pin_outlives_its_name_and_is_only_of_what_is_expected() {
        let folder = tempfile::tempdir().unwrap();
        let (base, outside) = (folder.path().join("base"), folder.path().join("outside"));
        std::fs::create_dir_all(base.join("sub")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "content").unwrap();
        std::fs::write(base.join("sub/file"), "content").unwrap();
        let right = expected(&base.join("sub/file"));
        symlink(&outside, base.join("planted")).unwrap();
        symlink(outside.join("file"), base.join("link")).unwrap();
        let sink = DiskSink::open(&base).unwrap();
        let held = sink.held("0.1").unwrap();
        let pin = |id, path: &str, expected: &Expected<'_>| {
            sink.pin(&held, id, &entry(path), expected, &mut FolderCache::default()).unwrap()
        };
        let outside_file = expected(&outside.join("file"));
        for (path, wanted) in [
            ("planted/file", outside_file),
            ("link", outside_file),
            ("sub", right),
            ("none", right),
            ("none/none", right),
            ("sub/file", Expected::File { size: 8, mtime_ns: None }),
            ("sub/file", Expected::File { size: 7, mtime_ns: Some(5) }),
        ] {
            assert!(!pin(7, path, &wanted), "{path} {wanted:?}");
        }
        assert_eq!(held.ids().unwrap(), RangeSet::default());
        assert_eq!(std::fs::metadata(outside.join("file")).unwrap().nlink(), 1);
        assert!(pin(7, "sub/file", &right) && pin(7, "sub/file", &right));
        std::fs::write(base.join("new"), "other!!").unwrap();
        std::fs::rename(base.join("new"), base.join("sub/file")).unwrap();
        // What is pinned stays, and something else is not taken for it.
        assert!(pin(7, "sub/file", &right));
        let other = Expected::File { size: 7, mtime_ns: Some(1) };
        assert!(held.open(7, &other).unwrap().is_none() && held.open(8, &right).unwrap().is_none());
        let mut content = String::new();
        std::io::Read::read_to_string(&mut held.open(7, &right).unwrap().unwrap(), &mut content).unwrap();
        assert_eq!(content, "content");
        // An id that was used by a crashed attempt gets the file of today.
        assert!(pin(7, "sub/file", &expected(&base.join("sub/file"))));
        assert_eq!(held.ids().unwrap().iter().collect::<Vec<_>>(), [7..8]);
        drop((sink, held));
    }

    #[test]
    fn staged_again_and_pruned() {
        let base = tempfile::tempdir().unwrap();
        let sink = DiskSink::open(base.path()).unwrap();
        let (held, staging) = (sink.held("0.1").unwrap(), sink.staging("0.1").unwrap());
        for id in 0..5 {
            std::fs::write(base.path().join("file"), id.to_string()).unwrap();
            let wanted = expected(&base.path().join("file"));
            assert!(sink.pin(&held, id, &entry("file"), &wanted, &mut FolderCache::default()).unwrap());
            std::fs::remove_file(base.path().join("file")).unwrap();
        }
        assert!(held.stage(3, &staging).unwrap() && held.stage(3, &staging).unwrap());
        assert!(!held.stage(9, &staging).unwrap());
        sink.publish(&staging, "3", &entry("again"), &mut FolderCache::default()).unwrap();
        assert_eq!(std::fs::read(base.path().join("again")).unwrap(), b"3");
        held.remove_all_but(&[1..2, 3..4].into_iter().collect()).unwrap();
        assert_eq!(held.ids().unwrap().iter().collect::<Vec<_>>(), [1..2, 3..4]);
        assert_eq!(std::fs::read(base.path().join("again")).unwrap(), b"3");
        sink.remove_other_held(|name| name == "0.1").unwrap();
        assert_eq!(held.ids().unwrap().covered(), 2);
        sink.remove_other_held(|name| name == "0.2").unwrap();
        assert!(!base.path().join(".tar-like/held/0.1").exists());
    }
}
