//! Partial files below `.tar-like/staging`, by file id: written whole, piece by piece, or from what
//! is here already.

use crate::archive::entry::{FileEntry, Meta};
use crate::error::{Error, Result};
use crate::folder::{Folder, apply_meta, timestamps};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Partial files of one archive's generation, by file id.
pub struct Staging {
    pub(super) folder: Folder,
    owner: bool,
    fresh: Option<Fresh>,
    /// Whatever is written is synced at once.
    syncs: bool,
}

/// What a new file in a staging folder is without being asked: then it need not be asked.
#[derive(Debug, Clone, Copy)]
struct Fresh {
    uid: u32,
    gid: u32,
    /// The permission bits that it gets of those that it is made with.
    mode: u32,
}

impl Fresh {
    /// Makes a file, looks at it, and removes it: besides the umask, folders and mounts may have
    /// their own idea of groups and modes.
    fn learn(folder: &Folder) -> std::result::Result<Self, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let _ = rustix::fs::unlinkat(folder, "fresh", AtFlags::empty());
        let probe = rustix::fs::openat(folder, "fresh", flags, Mode::from_raw_mode(0o777))?;
        let stat = rustix::fs::fstat(&probe)?;
        rustix::fs::unlinkat(folder, "fresh", AtFlags::empty())?;
        Ok(Self { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o777 })
    }
}

impl Staging {
    pub(super) fn new(folder: Folder, owner: bool, syncs: bool) -> Self {
        let fresh = Fresh::learn(&folder).ok();
        Self { folder, owner, fresh, syncs }
    }

    /// Syncs what was written to a staged file, where no sync of the whole file system does.
    pub(super) fn sync_one(&self, staged: &File) -> std::io::Result<()> {
        if self.syncs { staged.sync_all() } else { Ok(()) }
    }

    /// Whether a file that is made with the permissions of `meta` has them, and the owner as well.
    fn is_born_with(&self, meta: &Meta) -> bool {
        self.fresh.is_some_and(|fresh| {
            meta.mode & !fresh.mode == 0 && (!self.owner || (meta.uid, meta.gid) == (fresh.uid, fresh.gid))
        })
    }

    /// The name under which the file with this id is staged.
    #[must_use]
    pub fn name(id: u64) -> String {
        id.to_string()
    }

    /// Stages a whole file, metadata included; its content comes in pieces.
    ///
    /// # Errors
    /// The system's error; nothing is left behind then.
    pub fn write_whole<'a>(
        &self,
        file: &FileEntry,
        content: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<()> {
        let name = Self::name(file.id);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let write = move || -> std::io::Result<()> {
            // No other user can enter the staging folder, whatever the modes of the files in it.
            let born = file.meta.filter(|meta| self.is_born_with(meta));
            let mode = Mode::from_raw_mode(match (born, file.meta) {
                (Some(meta), _) => meta.mode,
                (None, Some(_)) => 0o600,
                (None, None) => 0o666,
            });
            let fd = match rustix::fs::openat(&self.folder, &*name, flags, mode) {
                // Left over from an attempt that was cut; never written through, it may be linked
                // elsewhere.
                Err(Errno::EXIST) => {
                    rustix::fs::unlinkat(&self.folder, &*name, AtFlags::empty())?;
                    rustix::fs::openat(&self.folder, &*name, flags, mode)?
                }
                other => other?,
            };
            let mut staged = File::from(fd);
            content.into_iter().try_for_each(|piece| staged.write_all(piece))?;
            match (born, &file.meta) {
                (Some(meta), _) => rustix::fs::futimens(&staged, &timestamps(&meta))?,
                (None, Some(meta)) => apply_meta(&staged, meta, self.owner)?,
                (None, None) => {}
            }
            self.sync_one(&staged)
        };
        write().map_err(|e| {
            self.remove(file.id);
            Error::io(format!("cannot write \"{}\"", file.path), e)
        })
    }

    /// Writes bytes, in pieces, of a file that more than one block holds.
    ///
    /// # Errors
    /// The system's error.
    pub fn write_at<'a>(
        &self,
        file: &FileEntry,
        file_offset: u64,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<()> {
        let write = move || -> std::io::Result<()> {
            let staged = File::from(self.open_for_writing(file.id)?);
            let mut at = file_offset;
            for piece in pieces {
                staged.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            self.sync_one(&staged)
        };
        write().map_err(|e| Error::io(format!("cannot write \"{}\" at {file_offset}", file.path), e))
    }

    /// Opens the staged file `id` to write pieces of it; made if it is missing. A file with another
    /// name, too, is not written to: it was staged whole. It is replaced by an empty one.
    pub(super) fn open_for_writing(&self, id: u64) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (name, mode) = (Self::name(id), Mode::from_raw_mode(0o600));
        loop {
            let fd = rustix::fs::openat(&self.folder, &*name, flags, mode)?;
            if rustix::fs::fstat(&fd)?.st_nlink <= 1 {
                return Ok(fd);
            }
            rustix::fs::unlinkat(&self.folder, &*name, AtFlags::empty())?;
        }
    }

    /// Opens a staged file for reading; `None` if it is not staged.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(&self, id: u64) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = Self::name(id);
        let mut opened = rustix::fs::openat(&self.folder, &*name, flags, Mode::empty());
        if let Err(Errno::ACCESS) = opened {
            // It has the mode of its index entry already, which forbids reading.
            opened = rustix::fs::chmodat(&self.folder, &*name, Mode::from_raw_mode(0o600), AtFlags::empty())
                .and_then(|()| rustix::fs::openat(&self.folder, &*name, flags, Mode::empty()));
        }
        match opened {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::io(format!("cannot open the staged file {id}"), e)),
        }
    }

    /// Sets owner, permissions and time of a staged file that is complete. Without metadata it gets
    /// the usual permissions.
    ///
    /// # Errors
    /// The system's error.
    pub fn apply_meta(&self, staged: &File, file: &FileEntry) -> Result<()> {
        match &file.meta {
            Some(meta) => apply_meta(staged, meta, self.owner),
            None => rustix::fs::fchmod(staged, Mode::from_raw_mode(0o644)),
        }
        .map_err(|e| Error::io(format!("cannot set mode, owner or time of \"{}\"", file.path), e))
    }

    /// Gives a staged file whose content is complete its metadata; false if it is not there.
    ///
    /// # Errors
    /// The system's error.
    pub fn complete(&self, file: &FileEntry) -> Result<bool> {
        let Some(staged) = self.open(file.id)? else { return Ok(false) };
        self.apply_meta(&staged, file)?;
        self.sync_one(&staged).map_err(|e| Error::io(format!("cannot write \"{}\"", file.path), e))?;
        Ok(true)
    }

    /// Removes a staged file, if it is there.
    pub fn remove(&self, id: u64) {
        let _ = rustix::fs::unlinkat(&self.folder, &*Self::name(id), AtFlags::empty());
    }
}
