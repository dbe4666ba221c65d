//! The receiver's folder: staging below `.tar-like/`, final names by rename, everything from held
//! descriptors.

pub use super::cache::FolderCache;
pub use super::places::Places;
pub use super::staging::Staging;

use super::folding::{folds, says_whether_it_folds};
use super::left::{LeftOver, left_overs, put_back};
use super::mount::{is_fuse, watched_mount, write_below};
use super::pairing;
use super::places::{self, OwnFolders, unwritable};
use super::port::Sink;
use crate::archive::entry::Meta;
use crate::archive::path::{EntryPath, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Folder, apply_meta, is_kind};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A base folder with the receiver's own folder in it.
pub struct DiskSink {
    pub(super) base: Folder,
    base_path: PathBuf,
    pub(super) state: Folder,
    state_path: PathBuf,
    /// `.tar-like`, also where the receiver has a folder of its own in it.
    pub(super) own: Folder,
    /// The folder for the journal, the copies of indexes and what is temporary: the same, unless it
    /// has a place of its own.
    pub(super) records: Folder,
    records_path: PathBuf,
    /// That folder is on another file system.
    pub(super) records_apart: bool,
    /// It has a place of its own.
    has_state_folder: bool,
    /// What all slices of the folder have the same, where there are any, and what a state folder
    /// knows it by.
    tree: Option<String>,
    /// The right to receive into the folder.
    _lock: File,
    pub(super) owner: bool,
    /// A folder whose mode forbids its owner to go in was given all rights, and has to get its mode
    /// back.
    pub(super) opened_up: AtomicBool,
    /// What a file's owner and mode are set to does not stay: the file system has none, or an owner
    /// of its own.
    pub(super) forgets_meta: AtomicBool,
    /// Names that are spelled in different ways may be one.
    pub(super) folds: AtomicBool,
    /// Each folder can say for itself whether they may.
    folders_say: bool,
    /// The mounts that hold it all.
    pub(super) mounts: [Option<u64>; 2],
    /// When a thread began to find out that the state folder can be written to, the last time.
    pub(super) written: Mutex<Option<Instant>>,
    /// A sync of the whole file system does nothing here.
    syncs_each_file: bool,
}

impl DiskSink {
    /// Opens `base`, which must exist, and makes `.tar-like` in it.
    ///
    /// # Errors
    /// The base is no folder or cannot be written to, `.tar-like` is something else than a folder,
    /// or another receiver uses the base ([`ErrorKind::InUse`]).
    pub fn open(base: &Path) -> Result<Self> {
        Self::open_with(base, &Places::default())
    }

    /// The same with the receiver's own files elsewhere.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(base: &Path, places: &Places) -> Result<Self> {
        let folder = Folder::open(base)
            .map_err(|e| Error::io(format!("cannot open the base folder {}", base.display()), e))?;
        // Resolved once: only the way to the base may lead through symbolic links.
        let base_path = base
            .canonicalize()
            .map_err(|e| Error::io(format!("cannot resolve the base folder {}", base.display()), e))?;
        let OwnFolders { own, state, state_path, records, records_path, tree, lock } =
            places::open(&folder, &base_path, places)?;
        let (mounts, owner) =
            ([watched_mount(&state), watched_mount(&records)], rustix::process::geteuid().is_root());
        let syncs_each_file = is_fuse(&state) || is_fuse(&records);
        if syncs_each_file {
            tracing::warn!(
                "{} lies on a FUSE file system, which syncs no whole file system: each file is synced by itself, which is slow",
                if is_fuse(&state) { base.display() } else { records_path.display() }
            );
        }
        let records_apart = are_apart(&state, &records);
        let (opened_up, forgets_meta) = (AtomicBool::new(false), AtomicBool::new(false));
        let folds = AtomicBool::new(folds(&folder, &state));
        let folders_say = says_whether_it_folds(&folder).is_some();
        let sink = Self {
            base: folder,
            base_path,
            state,
            state_path,
            own,
            records,
            records_path,
            records_apart,
            has_state_folder: places.state.is_some(),
            tree,
            _lock: lock,
            owner,
            opened_up,
            forgets_meta,
            folds,
            folders_say,
            mounts,
            written: Mutex::new(None),
            syncs_each_file,
        };
        sink.remove_former(places.slice);
        // Before SQLite meets it, whose codes say nothing to anybody.
        let failed = |error: std::result::Result<(), Errno>, folder: &str, path: &Path| {
            error.err().and_then(|e| unwritable(folder, path, e))
        };
        if let Some(error) = failed(write_below(&sink.state), places::BASE, base) {
            return Err(error);
        }
        if let Some(error) = failed(write_below(&sink.records), places::STATE, &sink.records_path) {
            return Err(error);
        }
        Ok(sink)
    }

    /// The path of the receiver's own folder: by its descriptor where the system has /proc, so that
    /// it leads to the folder that was opened at the start, whatever has its name now.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.state.as_fd().as_raw_fd()));
        if held.exists() { held } else { self.state_path.clone() }
    }

    /// The path of the folder for the journal, the copies of indexes and what is temporary, in the
    /// same way.
    #[must_use]
    pub fn records_path(&self) -> PathBuf {
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.records.as_fd().as_raw_fd()));
        if held.exists() { held } else { self.records_path.clone() }
    }

    /// The path that this folder had when it was opened, as [`Self::state_name`].
    #[must_use]
    pub fn records_name(&self) -> &Path {
        &self.records_path
    }

    /// Whether that folder is another one than that of what is staged.
    #[must_use]
    pub fn has_state_folder(&self) -> bool {
        self.has_state_folder
    }

    /// Sees to it that the journal with this number is the one of the base folder, and says so in
    /// both folders if it is the first one. To be called before anything is received.
    ///
    /// # Errors
    /// It is the journal of another base folder, or what is said cannot be written.
    pub fn pair(&self, receiver_id: &str) -> Result<()> {
        let (true, Some(tree)) = (self.has_state_folder(), &self.tree) else { return Ok(()) };
        let Self { base_path, state, records, records_path, .. } = self;
        pairing::Place { base_path, state, records, records_path }.pair(tree, receiver_id)
    }

    /// The path of the base folder, in the same way.
    #[must_use]
    pub fn base_path(&self) -> PathBuf {
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.base.as_fd().as_raw_fd()));
        if held.exists() { held } else { self.base_path.clone() }
    }

    /// The path that the base folder had when it was opened.
    #[must_use]
    pub fn base_name(&self) -> &Path {
        &self.base_path
    }

    /// A random number that the base folder of slices has for ever, in hexadecimal: receivers on one
    /// folder say the same, and those on others do not. Without slices and a state folder, there is
    /// none.
    #[must_use]
    pub fn tree(&self) -> Option<&str> {
        self.tree.as_deref()
    }

    /// The path that the receiver's own folder had when it was opened, for people, and for what is
    /// opened once and for all.
    #[must_use]
    pub fn state_name(&self) -> &Path {
        &self.state_path
    }

    /// Fails unless the file `name` beside the journal is one that this process has open.
    /// SQLite opens by path: a user who may rename that folder could have put another one there
    /// since it was opened and checked.
    ///
    /// # Errors
    /// Another file was opened.
    pub fn check_opened(&self, name: &str) -> Result<()> {
        let failed = |e: std::io::Error| {
            Error::io(format!("cannot look at {}", self.records_path.join(name).display()), e)
        };
        let Some(stat) = self.records.stat(name.as_bytes()).map_err(|e| failed(e.into()))? else {
            return Ok(());
        };
        // Where there is no /proc, nothing tells.
        let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return Ok(()) };
        let is_this = |entry: std::io::Result<std::fs::DirEntry>| {
            let found = entry.and_then(|entry| std::fs::metadata(entry.path()));
            found.is_ok_and(|found| (found.dev(), found.ino()) == (stat.st_dev, stat.st_ino))
        };
        if open.into_iter().any(is_this) {
            return Ok(());
        }
        let what = format!("{} was replaced while it was opened", self.records_path.display());
        Err(Error::new(ErrorKind::Io, what)
            .with_hint("let nobody else rename what is in the base folder, then start the receiver again"))
    }

    /// Whether [`super::Storage::sync`] is not enough, because the kernel does not pass it on.
    #[must_use]
    pub fn syncs_each_file(&self) -> bool {
        self.syncs_each_file
    }

    /// Opens the folder `path`, also where modes forbid that to their owner.
    pub(super) fn enter(&self, path: &[u8]) -> std::result::Result<Folder, Errno> {
        let folder = self.base.enter(path, &self.opened_up)?;
        self.make_usable(&folder)?;
        Ok(folder)
    }

    /// A folder can be open, and its mode forbids to look for what is in it. Root is forbidden
    /// nothing. And one folder may take names for one where the base folder tells them apart.
    fn make_usable(&self, folder: &Folder) -> std::result::Result<(), Errno> {
        if self.folders_say
            && !self.folds.load(Ordering::Relaxed)
            && says_whether_it_folds(folder) == Some(true)
        {
            self.folds.store(true, Ordering::Relaxed);
        }
        let is_closed = || rustix::fs::fstat(folder).map(|stat| stat.st_mode & 0o100 == 0);
        if !self.owner && is_closed()? && folder.make_writable()? {
            self.opened_up.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Whether folders were opened up since this was asked last: then all of them have to get their
    /// modes again.
    pub fn take_opened_up(&self) -> bool {
        self.opened_up.swap(false, Ordering::SeqCst)
    }

    pub(super) fn folder_of(
        &self,
        path: &EntryPath,
        cache: &mut FolderCache,
    ) -> std::result::Result<Arc<Folder>, Errno> {
        let (parent, _) = path.split();
        if let Some(folder) = cache.find(parent) {
            return Ok(folder);
        }
        let folder = Arc::new(self.base.make_folders(parent, &self.opened_up, &mut |replaced| {
            tracing::info!("replaced \"{}\", which was no folder, by a folder", printable(replaced));
        })?);
        self.make_usable(&folder)?;
        cache.insert(parent, &folder);
        Ok(folder)
    }

    /// The folder of `path`, if it is there and no link leads to it.
    pub(super) fn existing_folder_of(
        &self,
        path: &EntryPath,
        cache: &mut FolderCache,
    ) -> std::result::Result<Option<Arc<Folder>>, Errno> {
        let (parent, _) = path.split();
        if let Some(folder) = cache.find(parent) {
            return Ok(Some(folder));
        }
        let folder = match self.enter(parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => Arc::new(other?),
        };
        cache.insert(parent, &folder);
        Ok(Some(folder))
    }

    /// What has the final name `path`; `None` if nothing does, or its folder is not there or leads
    /// through a link.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat(&self, path: &EntryPath, cache: &mut FolderCache) -> Result<Option<Stat>> {
        let mut stat = || match self.existing_folder_of(path, cache)? {
            Some(folder) => folder.stat_within(path.split().1, &self.opened_up),
            None => Ok(None),
        };
        stat().map_err(|e| Error::io(format!("cannot look at \"{path}\""), e))
    }

    /// Opens the file with the final name `path`; `None` if there is no regular file of this name.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_final(&self, path: &EntryPath) -> Result<Option<File>> {
        match self.base.enter_file(path.as_bytes(), &self.opened_up) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(None),
            Err(e) => Err(Error::io(format!("cannot open \"{path}\""), e)),
        }
    }

    /// Gives what is staged under the name `staged` its final name; see [`Sink::publish`].
    fn place(
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
                    // A folder of ours without write permission for its owner; `finish` sets its
                    // mode again.
                    Err(Errno::ACCESS) if folder.make_writable()? => {
                        self.opened_up.store(true, Ordering::SeqCst);
                    }
                    // The cached folder was removed behind our back.
                    Err(Errno::NOENT) if staging.folder.stat(staged.as_bytes())?.is_some() => cache.clear(),
                    other => return other,
                }
            }
            Err(Errno::AGAIN)
        };
        publish().map_err(|e| {
            let error = Error::io(format!("cannot put \"{path}\" in place"), e);
            match e {
                Errno::NOTEMPTY | Errno::EXIST => error.with_hint("a folder that is not empty stands where the file must be; move it away"),
                Errno::XDEV => error.with_hint("its folder is on another file system than .tar-like; mount nothing below the base folder"),
                Errno::BUSY => error.with_hint("something is mounted where the file must be; unmount it"),
                Errno::ACCESS | Errno::PERM => error.with_hint(
                    "the receiver's user may not replace it: its folder belongs to another user, or one of them is immutable \
                     (see lsattr)",
                ),
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
            .make_folders(path.as_bytes(), &self.opened_up, &mut |replaced| {
                tracing::info!("replaced \"{}\", which was no folder, by a folder", printable(replaced));
            })
            .map(drop)
            .map_err(|e| Error::io(format!("cannot make the folder \"{path}\""), e))
    }

    /// Gives the base folder itself owner, permissions and time of `meta`, if they are others;
    /// false if it belongs to another user, and this process may not set them.
    ///
    /// # Errors
    /// The system's error.
    pub fn apply_base_meta(&self, meta: &Meta) -> Result<bool> {
        let apply = || -> std::result::Result<bool, Errno> {
            let stat = rustix::fs::fstat(&self.base)?;
            if !self.owner && stat.st_uid != rustix::process::geteuid().as_raw() {
                return Ok(false);
            }
            // The next run has to come in by the path.
            let mode = if self.owner { meta.mode } else { meta.mode | 0o500 };
            let meta = Meta { mode: mode & 0o7777, ..*meta };
            if !self.has_meta(&stat, &meta) {
                apply_meta(&self.base, &meta, self.owner)?;
            }
            Ok(true)
        };
        apply().map_err(|e| Error::io("cannot set mode, owner or time of the base folder", e))
    }

    /// Whether there is a folder `path`, as far as it can be looked at.
    pub fn is_folder(&self, path: &EntryPath, cache: &mut FolderCache) -> bool {
        matches!(self.stat(path, cache), Ok(Some(stat)) if is_kind(&stat, FileType::Directory))
    }

    /// Makes the symbolic link `path`, unless it is there already; tells whether it was made.
    /// `before` is asked before it takes the place of something else.
    ///
    /// # Errors
    /// The system's error, or one of `before`.
    pub fn symlink(
        &self,
        staging: &Staging,
        path: &EntryPath,
        target: &[u8],
        meta: Option<&Meta>,
        cache: &mut FolderCache,
        before: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let (folder, name) = (
            self.folder_of(path, cache)
                .map_err(|e| Error::io(format!("cannot make the symbolic link \"{path}\""), e))?,
            path.split().1,
        );
        let set = |meta| {
            self.apply_link_meta(&folder, name, target, meta).map_err(|e| {
                Error::io(format!("cannot set owner or time of the symbolic link \"{path}\""), e)
            })
        };
        if set(meta)? {
            return Ok(false);
        }
        before()?;
        let make = || -> std::result::Result<(), Errno> {
            // Left over from a link that could not be put in place.
            let _ = rustix::fs::unlinkat(&staging.folder, "link", AtFlags::empty());
            rustix::fs::symlinkat(target, &staging.folder, "link")
        };
        make().map_err(|e| Error::io(format!("cannot make the symbolic link \"{path}\""), e))?;
        // No other process reaches the staging folder, so the link is complete before it has its
        // name.
        self.apply_link_meta(&staging.folder, b"link", target, meta)
            .map_err(|e| Error::io(format!("cannot set owner or time of the symbolic link \"{path}\""), e))?;
        self.place(staging, "link", path, cache)?;
        Ok(true)
    }

    /// Makes `path` a further name of the file `target`, unless it is already; tells whether it was
    /// made. `before` is asked before it takes the place of something else.
    ///
    /// # Errors
    /// The system's error, or one of `before`.
    pub fn hardlink(
        &self,
        staging: &Staging,
        path: &EntryPath,
        target: &EntryPath,
        cache: &mut FolderCache,
        before: impl FnOnce() -> Result<()>,
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
        before()?;
        let _ = rustix::fs::unlinkat(&staging.folder, "link", AtFlags::empty());
        let folder = self.folder_of(target, cache).map_err(what)?;
        rustix::fs::linkat(&*folder, target.split().1, &staging.folder, "link", AtFlags::empty())
            .map_err(what)?;
        self.place(staging, "link", path, cache).map(|()| true)
    }
}

impl Sink for DiskSink {
    fn staging(&self, name: &str) -> Result<Staging> {
        let open = || self.state.open_folder(b"staging")?.make_folder(name, 0o700);
        let folder = open().map_err(|e| Error::io(format!("cannot make the staging folder {name}"), e))?;
        Ok(Staging::new(folder, self.owner, self.syncs_each_file))
    }

    fn remove_staging(&self, name: &str) -> Result<()> {
        let path = self.state_path().join("staging").join(name);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot clean {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    fn remove_other_staging(&self, keep: &dyn Fn(&str) -> bool) -> Result<()> {
        let path = self.state_path().join("staging");
        let io = |e| Error::io(format!("cannot clean {}", path.display()), e);
        for entry in std::fs::read_dir(&path).map_err(io)? {
            let entry = entry.map_err(io)?;
            if !entry.file_name().to_str().is_some_and(keep) {
                std::fs::remove_dir_all(entry.path()).map_err(io)?;
            }
        }
        Ok(())
    }

    fn publish(&self, staging: &Staging, id: u64, path: &EntryPath, cache: &mut FolderCache) -> Result<()> {
        self.place(staging, &Staging::name(id), path, cache)
    }

    fn left_overs(&self) -> Vec<LeftOver> {
        left_overs(&self.state)
    }

    fn put_back(&self, left: &[LeftOver]) {
        put_back(&self.base, &self.state, left);
    }
}

/// Whether two folders are of two file systems, as far as can be told.
fn are_apart(one: &Folder, other: &Folder) -> bool {
    let device = |folder: &Folder| rustix::fs::fstat(folder).map(|stat| stat.st_dev);
    match (device(one), device(other)) {
        (Ok(one), Ok(other)) => one != other,
        _ => true,
    }
}
