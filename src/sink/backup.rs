//! A folder that takes what is removed, or what is about to be replaced, each entry under its path.

use super::aside::{MAX_NUMBERED, copy, make_folders, numbered};
use super::disk::{DiskSink, FolderCache};
use super::expected::Expected;
use crate::archive::path::{EntryPath, backup_folder, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Folder, is_kind, mtime_ns};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A folder that takes what is removed or replaced, by its path below the base.
pub struct Backup {
    pub(super) folder: Folder,
    /// For messages.
    pub(super) name: String,
}

impl DiskSink {
    /// Opens the folder that is to take what is removed or replaced; made if missing. A relative path is one
    /// below the base; an absolute one is refused unless `anywhere`, since the sender names it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: the path is none that can be used. Or the system's error.
    pub fn backup(&self, path: &Path, anywhere: bool) -> Result<Backup> {
        let name = printable(path.as_os_str().as_bytes());
        let refuse = |why: &str| {
            Error::new(ErrorKind::Usage, format!("\"{name}\" cannot be the backup folder: {why}"))
                .with_hint("name a folder below the receiver's base folder, by a relative path")
        };
        let failed = |e: std::io::Error| Error::io(format!("cannot use the backup folder \"{name}\""), e);
        let folder = if path.is_absolute() {
            if !anywhere {
                return Err(refuse(
                    "it is absolute, and the sender may choose only what lies below the base folder",
                ));
            }
            std::fs::create_dir_all(path).map_err(failed)?;
            if path.canonicalize().map_err(failed)?.starts_with(self.state_name()) {
                return Err(refuse("it lies in the receiver's own folder .tar-like"));
            }
            Folder::open(path).map_err(failed)?
        } else {
            let below = backup_folder(path.as_os_str().as_bytes()).map_err(|why| refuse(&why.to_string()))?;
            make_folders(&self.base, below.as_bytes(), false).map_err(|e| match e {
                Errno::LOOP | Errno::NOTDIR => refuse("something that is no folder has its name"),
                e => failed(e.into()),
            })?
        };
        let device = |fd: &Folder| rustix::fs::fstat(fd).map(|stat| stat.st_dev);
        if device(&folder).map_err(|e| failed(e.into()))?
            != device(&self.state).map_err(|e| failed(e.into()))?
        {
            return Err(refuse("it is on another file system than .tar-like"));
        }
        Ok(Backup::new(folder, name))
    }

    /// What has to make way for an entry that gets the place `path`, and is no folder: what has that
    /// place, unless that is the `same` as what comes, or what has the place of a folder above it.
    ///
    /// # Errors
    /// The system's error, about this entry alone.
    pub fn in_the_way(
        &self,
        path: &EntryPath,
        same: Option<&Expected<'_>>,
        cache: &mut FolderCache,
    ) -> Result<Option<EntryPath>> {
        let mut find = || -> std::result::Result<Option<EntryPath>, Errno> {
            let name = path.split().1;
            if let Some(folder) = self.existing_folder_of(path, cache)? {
                let is_leaf = folder.stat(name)?.is_some_and(|stat| !is_kind(&stat, FileType::Directory));
                let is_same = same.map_or(Ok(None), |same| same.is_at(&folder, name))? == Some(true);
                return Ok((is_leaf && !is_same).then(|| path.clone()));
            }
            let bytes = path.as_bytes();
            let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
            for above in ends.filter_map(|end| EntryPath::new(&bytes[..end]).ok()) {
                let Some(folder) = self.existing_folder_of(&above, cache)? else { return Ok(None) };
                match folder.stat(above.split().1)? {
                    None => return Ok(None),
                    Some(stat) if !is_kind(&stat, FileType::Directory) => return Ok(Some(above)),
                    Some(_) => {}
                }
            }
            Ok(None)
        };
        find().map_err(|e| Error::io(format!("cannot look at \"{path}\""), e))
    }

    /// Gives the file or link `path` one more name in `backup`, or puts a copy there if it takes no
    /// further name. If something else has that name, it gets a numbered name beside it. Nothing
    /// happens if nothing has the path.
    ///
    /// # Errors
    /// The system's error, about this entry alone.
    pub fn back_up(&self, backup: &Backup, path: &EntryPath, cache: &mut FolderCache) -> Result<()> {
        let (parent, name) = path.split();
        let mut link = || -> std::result::Result<(), Errno> {
            let Some(folder) = self.existing_folder_of(path, cache)? else { return Ok(()) };
            let Some(stat) = folder.stat(name)? else { return Ok(()) };
            let to = make_folders(&backup.folder, parent, true)?;
            for number in 0..MAX_NUMBERED {
                let own = numbered(name, number);
                let outcome = match rustix::fs::linkat(&*folder, name, &to, &*own, AtFlags::empty()) {
                    Err(Errno::PERM | Errno::ACCESS | Errno::MLINK | Errno::NOTSUP | Errno::XDEV) => {
                        let size = u64::try_from(stat.st_size).unwrap_or_default();
                        let expected = Expected::File { size, mtime_ns: Some(mtime_ns(&stat)) };
                        copy(&folder, name, &expected, &to, &own)
                    }
                    other => other,
                };
                match outcome {
                    Err(Errno::EXIST) => {
                        // An attempt that was cut off may have made it.
                        let there = to.stat(&own)?.map(|there| (there.st_dev, there.st_ino));
                        if there == Some((stat.st_dev, stat.st_ino)) {
                            return Ok(());
                        }
                    }
                    other => return other,
                }
            }
            Err(Errno::EXIST)
        };
        link().map_err(|e| {
            Error::io(format!("cannot put \"{path}\" into the backup folder \"{}\"", backup.name), e)
        })
    }
}

impl Backup {
    /// `name` is for messages.
    pub(super) fn new(folder: Folder, name: String) -> Self {
        Self { folder, name }
    }

    /// Makes the folder `path`, if something else does not have that name.
    ///
    /// # Errors
    /// The system's error, about this folder alone.
    pub fn make_folder(&self, path: &EntryPath) -> Result<()> {
        let made = make_folders(&self.folder, path.as_bytes(), false);
        made.map(drop).map_err(|e| Error::io(format!("cannot make \"{path}\" in \"{}\"", self.name), e))
    }
}
