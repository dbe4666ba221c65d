//! Owner, permissions and time of what has its final name. Everything is looked at and changed
//! through one descriptor: a user who may write to a folder can put another file, or a link, under
//! a name at any instant, and must not get that file's owner changed.

use super::Expected;
use super::disk::{DiskSink, FolderCache};
use crate::archive::entry::{FileEntry, Meta};
use crate::archive::path::EntryPath;
use crate::error::{Error, Result};
use crate::folder::{Folder, apply_meta, is_kind, meta_of, mtime_ns, note_no_owner, owner_set, timestamps};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::sync::atomic::Ordering;

impl DiskSink {
    /// Gives the regular file with the final name of `file`, if it has its size, its owner,
    /// permissions and time; false if there is no such. With `previous` it must have that time and
    /// owner, or its own already: a process that wrote to it since has changed the time, and a user
    /// who put another file there may not own that file.
    ///
    /// # Errors
    /// The system's error.
    pub fn apply_file_meta(
        &self,
        file: &FileEntry,
        previous: Option<(Expected<'_>, Option<Meta>)>,
        cache: &mut FolderCache,
    ) -> Result<bool> {
        let (path, Some(meta)) = (&file.path, &file.meta) else { return Ok(true) };
        let is_owner_of = |stat: &Stat, meta: &Meta| (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid);
        let stands = |stat: &Stat| {
            is_kind(stat, FileType::RegularFile)
                && u64::try_from(stat.st_size) == Ok(file.size)
                && previous.is_none_or(|(previous, owner)| {
                    (previous.is(stat) || Expected::of(file).is(stat))
                        && (!self.owner
                            || owner.is_none_or(|owner| is_owner_of(stat, &owner))
                            || is_owner_of(stat, meta))
                })
        };
        if !self.stat(path, cache)?.is_some_and(|stat| stands(&stat)) {
            return Ok(false);
        }
        let what = |e| Error::io(format!("cannot set mode, owner or time of \"{path}\""), e);
        // What its own mode forbids to open is asked for again.
        let Some(opened) = self.open_final(path).unwrap_or(None) else { return Ok(false) };
        if !stands(&rustix::fs::fstat(&opened).map_err(what)?) {
            return Ok(false);
        }
        self.apply_opened_meta(&opened, file)?;
        Ok(true)
    }

    /// Gives the open file `opened` owner, permissions and time of `file`.
    ///
    /// # Errors
    /// The system's error.
    pub fn apply_opened_meta(&self, opened: &File, file: &FileEntry) -> Result<()> {
        let Some(meta) = &file.meta else { return Ok(()) };
        apply_meta(opened, meta, self.owner)
            .map_err(|e| Error::io(format!("cannot set mode, owner or time of \"{}\"", file.path), e))
    }

    /// Whether files get the owners that the index says.
    #[must_use]
    pub fn sets_owners(&self) -> bool {
        self.owner
    }

    /// Whether `stat`, of the file that stands where `file` was published, has another owner or
    /// other permissions, and we could set them.
    #[must_use]
    pub fn lacks_meta(&self, stat: &Stat, file: &FileEntry) -> bool {
        let Some(meta) = &file.meta else { return false };
        let may_set = self.owner || stat.st_uid == rustix::process::geteuid().as_raw();
        may_set && !self.forgets_meta.load(Ordering::Relaxed) && !self.is_owned_as(stat, meta)
    }

    /// Opens the file with the final name of `file` to verify it and give it its metadata, also
    /// where its own mode forbids that.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_to_mend(&self, file: &FileEntry, cache: &mut FolderCache) -> Result<Option<File>> {
        match self.open_final(&file.path) {
            Err(e) if e.os_error() == Some(Errno::ACCESS) => {
                let mut open_up = || -> std::result::Result<(), Errno> {
                    let Some(folder) = self.existing_folder_of(&file.path, cache)? else { return Ok(()) };
                    folder.open_up(file.path.split().1, FileType::RegularFile).map(drop)
                };
                if open_up().is_err() {
                    return Err(e);
                }
                self.open_final(&file.path)
            }
            opened => opened,
        }
    }

    /// As [`DiskSink::apply_opened_meta`], for a file that had them before. Where they do not stay,
    /// no file is asked for them any more.
    ///
    /// # Errors
    /// The system's error.
    pub fn mend_meta(&self, opened: &File, file: &FileEntry) -> Result<()> {
        self.apply_opened_meta(opened, file)?;
        let stays = match (&file.meta, rustix::fs::fstat(opened)) {
            (Some(meta), Ok(stat)) => self.is_owned_as(&stat, meta),
            _ => true,
        };
        if !stays && !self.forgets_meta.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the file system does not keep owners or permissions; those of files are not compared"
            );
        }
        Ok(())
    }

    /// Whether the folder `path` is there, with owner, permissions and time as `meta` says.
    ///
    /// # Errors
    /// The system's error.
    pub fn folder_stands(
        &self,
        path: &EntryPath,
        meta: Option<&Meta>,
        cache: &mut FolderCache,
    ) -> Result<bool> {
        let stat = self.stat(path, cache)?.filter(|stat| is_kind(stat, FileType::Directory));
        Ok(stat.is_some_and(|stat| meta.is_none_or(|meta| self.has_meta(&stat, meta))))
    }

    /// Whether a folder is as [`apply_meta`] makes it. A file system with coarser times is asked to
    /// set them in each run: the time of a folder is nowhere taken for a proof, so it need not be
    /// told from one that another process has set.
    pub(super) fn has_meta(&self, stat: &Stat, meta: &Meta) -> bool {
        mtime_ns(stat) == meta.mtime_ns && self.is_owned_as(stat, meta)
    }

    /// Whether owner and permissions are as [`apply_meta`] makes them.
    fn is_owned_as(&self, stat: &Stat, meta: &Meta) -> bool {
        let Meta { mode, uid, gid, .. } = meta_of(stat);
        if self.owner {
            (mode, uid, gid) == (meta.mode, meta.uid, meta.gid)
        } else {
            mode == meta.mode & 0o1777
        }
    }

    /// Sets owner, permissions and time of the folder `path`, if they are others.
    ///
    /// # Errors
    /// The system's error.
    pub fn apply_folder_meta(&self, path: &EntryPath, meta: &Meta, cache: &mut FolderCache) -> Result<()> {
        if self.folder_stands(path, Some(meta), cache)? {
            return Ok(());
        }
        self.enter(path.as_bytes())
            .and_then(|folder| apply_meta(&folder, meta, self.owner))
            .map_err(|e| Error::io(format!("cannot set mode, owner or time of the folder \"{path}\""), e))
    }

    /// Sets owner and time of the symbolic link `name` in `folder`, where they are others; false if
    /// there is no such link to `target`.
    pub(super) fn apply_link_meta(
        &self,
        folder: &Folder,
        name: &[u8],
        target: &[u8],
        meta: Option<&Meta>,
    ) -> std::result::Result<bool, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(false),
            other => other?,
        };
        let stat = rustix::fs::fstat(&link)?;
        let leads_there =
            || rustix::fs::readlinkat(&link, "", Vec::new()).map(|now| now.as_bytes() == target);
        if !is_kind(&stat, FileType::Symlink) || !leads_there()? {
            return Ok(false);
        }
        let Some(meta) = meta else { return Ok(true) };
        let mut owned = true;
        if self.owner && (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            owned = owner_set(rustix::fs::chownat(&link, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH))?;
        }
        if mtime_ns(&stat) != meta.mtime_ns {
            let times = timestamps(meta);
            match rustix::fs::utimensat(&link, "", &times, AtFlags::EMPTY_PATH) {
                // Before Linux 5.8. A time is no right: by name it is set of whatever is there now.
                Err(Errno::INVAL | Errno::NOENT) => {
                    rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
                }
                other => other?,
            }
        }
        if !owned {
            note_no_owner();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// One who may write to the folder flips a link with a file of root while the link gets its
    /// owner.
    #[test]
    fn a_file_that_takes_the_place_of_a_link_keeps_its_owner() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        let sink = DiskSink::open(base.path()).unwrap();
        std::fs::write(at("b"), "secret").unwrap();
        symlink("target", at("a")).unwrap();
        let meta = Meta { mode: 0o777, mtime_ns: 1_500_000_000_000_000_000, uid: 1234, gid: 1234 };
        let folder = sink.enter(b"").unwrap();
        let set = |name: &[u8]| sink.apply_link_meta(&folder, name, b"target", Some(&meta));
        assert_eq!(
            [set(b"b"), set(b"none"), sink.apply_link_meta(&folder, b"a", b"elsewhere", Some(&meta))],
            [Ok(false); 3]
        );
        assert_eq!(set(b"a"), Ok(true));
        let link = at("a").symlink_metadata().unwrap();
        assert_eq!((link.uid(), link.mtime()), (1234, 1_500_000_000));
        let (stop, flipped) = (std::sync::atomic::AtomicBool::new(false), folder.open_folder(b"").unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(&flipped, "a", &flipped, "b", exchange).unwrap();
                }
            });
            for number in 0..3000u32 {
                let meta = Meta { uid: 1000 + number, ..meta };
                let _ = sink.apply_link_meta(&folder, b"a", b"target", Some(&meta));
            }
            stop.store(true, Ordering::Relaxed);
        });
        for name in ["a", "b"] {
            let now = at(name).symlink_metadata().unwrap();
            assert!(now.is_symlink() || now.uid() == 0, "{name}");
        }
    }

    #[test]
    fn what_is_not_open_is_told_from_what_is() {
        let base = tempfile::tempdir().unwrap();
        let sink = DiskSink::open(base.path()).unwrap();
        let path = base.path().join(".tar-like/file");
        let held = File::create(&path).unwrap();
        sink.check_opened("file").unwrap();
        sink.check_opened("none").unwrap();
        std::fs::rename(&path, base.path().join("elsewhere")).unwrap();
        std::fs::write(&path, "another one").unwrap();
        assert!(sink.check_opened("file").is_err());
        drop(held);
    }
}
