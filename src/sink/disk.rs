//! The receiver's folder: staging below `.tar-like/`, final names by rename, everything from held descriptors.

pub use super::staging::Staging;

use super::Expected;
use crate::archive::entry::{FileEntry, Meta};
use crate::archive::path::{EntryPath, STATE_DIR, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Folder, apply_meta, is_kind, is_same_time, meta_of, mtime_ns, owner_set, timestamps};
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A base folder with the receiver's own folder in it.
pub struct DiskSink {
    pub(super) base: Folder,
    pub(super) state: Folder,
    state_path: PathBuf,
    owner: bool,
}

/// Folders that were used last, held open: files of one block mostly share a few. Not to be kept for long: a
/// folder may be moved away.
#[derive(Default)]
pub struct FolderCache {
    entries: Vec<(Box<[u8]>, Arc<Folder>)>,
}

const CACHED_FOLDERS: usize = 32;

impl FolderCache {
    fn keep(&mut self, path: &[u8], folder: &Arc<Folder>) {
        if self.entries.len() >= CACHED_FOLDERS {
            self.entries.remove(0);
        }
        self.entries.push((path.into(), folder.clone()));
    }
}

impl DiskSink {
    /// Opens `base`, which must exist, and makes `.tar-like` in it.
    ///
    /// # Errors
    /// The base is no folder or cannot be written to, or `.tar-like` is something else than a folder.
    pub fn open(base: &Path) -> Result<Self> {
        let folder = Folder::open(base)
            .map_err(|e| Error::io(format!("cannot open the base folder {}", base.display()), e))?;
        // Resolved once: only the way to the base may lead through symbolic links.
        let state_path = base
            .canonicalize()
            .map_err(|e| Error::io(format!("cannot resolve the base folder {}", base.display()), e))?
            .join(STATE_DIR);
        let state = folder.make_folder(STATE_DIR, 0o700).map_err(|e| {
            Error::io(format!("cannot make the receiver's folder {}", state_path.display()), e)
        })?;
        check_private(&state, &state_path)?;
        for name in ["archives", "staging", "incoming"] {
            state
                .make_folder(name, 0o700)
                .map_err(|e| Error::io(format!("cannot make {}", state_path.join(name).display()), e))?;
        }
        Ok(Self { base: folder, state, state_path, owner: rustix::process::geteuid().is_root() })
    }

    /// The path of the receiver's own folder: by its descriptor where the system has /proc, so that it leads to the folder
    /// that was opened at the start, whatever has its name now.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.state.as_fd().as_raw_fd()));
        if held.exists() { held } else { self.state_path.clone() }
    }

    /// The path of the base folder, in the same way.
    #[must_use]
    pub fn base_path(&self) -> PathBuf {
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.base.as_fd().as_raw_fd()));
        let named = self.state_path.parent().unwrap_or(Path::new("/")).to_path_buf();
        if held.exists() { held } else { named }
    }

    /// The path that the receiver's own folder had when it was opened, for people, and for what is opened once and for all.
    #[must_use]
    pub fn state_name(&self) -> &Path {
        &self.state_path
    }

    /// Waits until everything that was written so far, by anybody on this file system, is on stable storage.
    ///
    /// # Errors
    /// Storage failed. What was written since the last success must count as lost.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.state).map_err(|e| {
            Error::io("cannot sync the base folder's file system", e).with_kind(ErrorKind::Degraded)
        })
    }

    /// The bytes that are free for the receiver's user.
    ///
    /// # Errors
    /// The system's error.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.base).map_err(|e| Error::io("cannot ask for free space", e))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The staging folder `name`, made if missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn staging(&self, name: &str) -> Result<Staging> {
        let open = || self.state.open_folder(b"staging")?.make_folder(name, 0o700);
        let folder = open().map_err(|e| Error::io(format!("cannot make the staging folder {name}"), e))?;
        Ok(Staging::new(folder, self.owner))
    }

    /// Removes all staging folders but those named.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove_other_staging(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        let path = self.state_path().join("staging");
        let io = |e| Error::io(format!("cannot clean {}", path.display()), e);
        for entry in std::fs::read_dir(&path).map_err(io)? {
            let entry = entry.map_err(io)?;
            if !entry.file_name().to_str().is_some_and(&keep) {
                std::fs::remove_dir_all(entry.path()).map_err(io)?;
            }
        }
        Ok(())
    }

    pub(super) fn folder_of(
        &self,
        path: &EntryPath,
        cache: &mut FolderCache,
    ) -> std::result::Result<Arc<Folder>, Errno> {
        let (parent, _) = path.split();
        if let Some((_, folder)) = cache.entries.iter().rev().find(|(cached, _)| **cached == *parent) {
            return Ok(folder.clone());
        }
        let folder = Arc::new(self.base.make_folders(parent, &mut |replaced| {
            tracing::warn!("replaced \"{}\", which was no folder, by a folder", printable(replaced));
        })?);
        cache.keep(parent, &folder);
        Ok(folder)
    }

    /// The folder of `path`, if it is there and no link leads to it.
    pub(super) fn existing_folder_of(
        &self,
        path: &EntryPath,
        cache: &mut FolderCache,
    ) -> std::result::Result<Option<Arc<Folder>>, Errno> {
        let (parent, _) = path.split();
        if let Some((_, folder)) = cache.entries.iter().rev().find(|(cached, _)| **cached == *parent) {
            return Ok(Some(folder.clone()));
        }
        let folder = match self.base.open_folder(parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => Arc::new(other?),
        };
        cache.keep(parent, &folder);
        Ok(Some(folder))
    }

    /// What has the final name `path`; `None` if nothing does, or its folder is not there or leads through a link.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat(&self, path: &EntryPath, cache: &mut FolderCache) -> Result<Option<Stat>> {
        let mut stat = || match self.existing_folder_of(path, cache)? {
            Some(folder) => folder.stat(path.split().1),
            None => Ok(None),
        };
        stat().map_err(|e| Error::io(format!("cannot look at \"{path}\""), e))
    }

    /// Opens the file with the final name `path`; `None` if there is no regular file of this name.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_final(&self, path: &EntryPath) -> Result<Option<File>> {
        match self.base.open_file(path.as_bytes()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
            Err(e) => Err(Error::io(format!("cannot open \"{path}\""), e)),
        }
    }

    /// Gives the regular file with the final name of `file`, if it has its size, its owner, permissions and time; false if there is no such.
    /// With `former` it must have that time, or its own already: whoever wrote to it since has changed it.
    ///
    /// # Errors
    /// The system's error.
    pub fn apply_file_meta(
        &self,
        file: &FileEntry,
        former: Option<Expected<'_>>,
        cache: &mut FolderCache,
    ) -> Result<bool> {
        let (path, Some(meta)) = (&file.path, &file.meta) else { return Ok(true) };
        let stands = |stat: &Stat| {
            is_kind(stat, FileType::RegularFile)
                && u64::try_from(stat.st_size) == Ok(file.size)
                && former.is_none_or(|former| former.is(stat) || Expected::of(file).is(stat))
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
        apply_meta(&opened, meta, self.owner).map_err(what)?;
        Ok(true)
    }

    /// Gives a staged file its final name, replacing in one step what had it. An empty folder in the way is removed.
    ///
    /// # Errors
    /// The system's error, as a sentence about this file.
    pub fn publish(
        &self,
        staging: &Staging,
        staged: &str,
        path: &EntryPath,
        cache: &mut FolderCache,
    ) -> Result<()> {
        let name = path.split().1;
        let mut publish = || {
            for _ in 0..3 {
                let folder = self.folder_of(path, cache)?;
                match rustix::fs::renameat(&staging.folder, staged, &*folder, name) {
                    Err(Errno::ISDIR | Errno::NOTDIR | Errno::EXIST) => {
                        rustix::fs::unlinkat(&*folder, name, AtFlags::REMOVEDIR)?;
                    }
                    // A folder of ours without write permission for its owner; `finish` sets its mode again.
                    Err(Errno::ACCESS) if folder.make_writable()? => {}
                    // The cached folder was removed behind our back.
                    Err(Errno::NOENT) if staging.folder.stat(staged.as_bytes())?.is_some() => {
                        cache.entries.clear()
                    }
                    other => return other,
                }
            }
            Err(Errno::AGAIN)
        };
        publish().map_err(|e| {
            let error = Error::io(format!("cannot put \"{path}\" in place"), e);
            match e {
                Errno::NOTEMPTY | Errno::EXIST => error.hint("a folder that is not empty stands where the file must be; move it away"),
                Errno::XDEV => error.hint("its folder is on another file system than .tar-like; mount nothing below the base folder"),
                _ => error,
            }
        })
    }

    /// Makes the folder `path`.
    ///
    /// # Errors
    /// The system's error.
    pub fn make_folder(&self, path: &EntryPath) -> Result<()> {
        self.base
            .make_folders(path.as_bytes(), &mut |replaced| {
                tracing::warn!("replaced \"{}\", which was no folder, by a folder", printable(replaced));
            })
            .map(drop)
            .map_err(|e| Error::io(format!("cannot make the folder \"{path}\""), e))
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

    /// Whether there is a folder `path`, as far as it can be looked at.
    pub fn is_folder(&self, path: &EntryPath, cache: &mut FolderCache) -> bool {
        matches!(self.stat(path, cache), Ok(Some(stat)) if is_kind(&stat, FileType::Directory))
    }

    /// Whether an entry is as [`apply_meta`] makes it.
    fn has_meta(&self, stat: &Stat, meta: &Meta) -> bool {
        let Meta { mode, uid, gid, .. } = meta_of(stat);
        is_same_time(mtime_ns(stat), meta.mtime_ns)
            && if self.owner {
                (mode, uid, gid) == (meta.mode, meta.uid, meta.gid)
            } else {
                mode == meta.mode & 0o1777
            }
    }

    /// Sets owner, permissions and time of the folder `path`.
    ///
    /// # Errors
    /// The system's error.
    pub fn apply_folder_meta(&self, path: &EntryPath, meta: &Meta) -> Result<()> {
        self.base
            .open_folder(path.as_bytes())
            .and_then(|folder| apply_meta(&folder, meta, self.owner))
            .map_err(|e| Error::io(format!("cannot set mode, owner or time of the folder \"{path}\""), e))
    }

    /// Makes the symbolic link `path`, unless it is there already; tells whether it was made.
    ///
    /// # Errors
    /// The system's error.
    pub fn symlink(
        &self,
        staging: &Staging,
        path: &EntryPath,
        target: &[u8],
        meta: Option<&Meta>,
        cache: &mut FolderCache,
    ) -> Result<bool> {
        let make = |cache: &mut FolderCache| -> std::result::Result<(Arc<Folder>, bool), Errno> {
            let folder = self.folder_of(path, cache)?;
            let stands = rustix::fs::readlinkat(&*folder, path.split().1, Vec::new())
                .is_ok_and(|now| now.as_bytes() == target);
            if !stands {
                // Left over from a link that could not be put in place.
                let _ = rustix::fs::unlinkat(&staging.folder, "link", AtFlags::empty());
                rustix::fs::symlinkat(target, &staging.folder, "link")?;
            }
            Ok((folder, stands))
        };
        let (folder, stands) =
            make(cache).map_err(|e| Error::io(format!("cannot make the symbolic link \"{path}\""), e))?;
        if !stands {
            self.publish(staging, "link", path, cache)?;
        }
        if let Some(meta) = meta {
            let name = path.split().1;
            let set = || -> std::result::Result<(), Errno> {
                if self.owner {
                    let (uid, gid) =
                        (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    owner_set(rustix::fs::chownat(&*folder, name, Some(uid), Some(gid), flags))?;
                }
                rustix::fs::utimensat(&*folder, name, &timestamps(meta), AtFlags::SYMLINK_NOFOLLOW)
            };
            set().map_err(|e| {
                Error::io(format!("cannot set owner or time of the symbolic link \"{path}\""), e)
            })?;
        }
        Ok(!stands)
    }

    /// Makes `path` a further name of the file `target`, unless it is already; tells whether it was made.
    ///
    /// # Errors
    /// The system's error.
    pub fn hardlink(
        &self,
        staging: &Staging,
        path: &EntryPath,
        target: &EntryPath,
        cache: &mut FolderCache,
    ) -> Result<bool> {
        let what = |e: Errno| Error::io(format!("cannot make the hard link \"{path}\" to \"{target}\""), e);
        let Some(wanted) = self.stat(target, cache)? else { return Err(what(Errno::NOENT)) };
        if !is_kind(&wanted, FileType::RegularFile) {
            return Err(what(Errno::INVAL));
        }
        if self
            .stat(path, cache)?
            .is_some_and(|now| (now.st_dev, now.st_ino) == (wanted.st_dev, wanted.st_ino))
        {
            return Ok(false);
        }
        let _ = rustix::fs::unlinkat(&staging.folder, "link", AtFlags::empty());
        let folder = self.folder_of(target, cache).map_err(what)?;
        rustix::fs::linkat(&*folder, target.split().1, &staging.folder, "link", AtFlags::empty())
            .map_err(what)?;
        self.publish(staging, "link", path, cache).map(|()| true)
    }
}

/// Refuses a state folder in which somebody else could have put links or databases for us to follow.
fn check_private(state: &Folder, path: &Path) -> Result<()> {
    let stat =
        rustix::fs::fstat(state).map_err(|e| Error::io(format!("cannot look at {}", path.display()), e))?;
    if stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Io,
        format!("{} belongs to another user, or others may write there", path.display()),
    )
    .hint("run the receiver as the user who owns it; if nothing there is needed, remove the folder"))
}
