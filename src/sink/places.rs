//! The folders of a receiver's own: what has to be in the base folder's file system, because it gets
//! its final name by a rename, and what may lie elsewhere (FORMAT.md 9).
//!
//! SQLite's journals do not work on file systems of the network, so the journal, the copies of
//! indexes and what is temporary can have a folder of their own host. [`super::pairing`] sees to it
//! that both folders belong together. A lock in the base folder keeps a second receiver out, also
//! one that has another journal.

use super::mount::{is_network, is_suspicious};
use super::pairing;
use super::running;
use super::shared::{self, LOCK};
use crate::archive::path::STATE_DIR;
use crate::archive::slice::Slice;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::Folder;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where a receiver has its own files, if not all in `.tar-like`.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// One of several receivers on the folder: all but the first have a folder of their own in
    /// `.tar-like`.
    pub slice: Option<Slice>,
    /// The folder for the journal, the copies of indexes and what is temporary; made if missing.
    pub state: Option<PathBuf>,
}

impl Places {
    /// The name of the folder that a slice has, where it has one of its own.
    pub(super) fn slice_folder(&self) -> Option<String> {
        self.slice.filter(|slice| !slice.is_first()).map(Slice::folder_name)
    }
}

/// The opened folders.
pub(super) struct OwnFolders {
    /// `.tar-like`.
    pub(super) own: Folder,
    /// `.tar-like`, or the folder of a slice in it.
    pub(super) state: Folder,
    pub(super) state_path: PathBuf,
    /// Where the journal is: the same folder, unless it has a place of its own.
    pub(super) records: Folder,
    pub(super) records_path: PathBuf,
    /// What all slices of the base folder have the same, and what a state folder knows it by.
    pub(super) tree: Option<String>,
    /// Keeps other receivers out until it is closed.
    pub(super) lock: File,
}

/// What the folders are called in messages.
pub(super) const BASE: &str = "base folder";
pub(super) const STATE: &str = "state folder";

/// Opens the folders of a receiver on `base`, and makes those that are missing.
///
/// # Errors
/// They cannot be made, or do not belong together; or another receiver uses the base folder
/// ([`ErrorKind::InUse`]).
pub(super) fn open(base: &Folder, base_path: &Path, places: &Places) -> Result<OwnFolders> {
    let cannot_make = |path: &Path, e| {
        let what = || format!("cannot make {}", path.display());
        unwritable(BASE, base_path, e).unwrap_or_else(|| Error::io(what(), e))
    };
    let mut state_path = base_path.join(STATE_DIR);
    let mut state = base.make_folder(STATE_DIR, 0o700).map_err(|e| cannot_make(&state_path, e))?;
    check_private(&state, &state_path)?;
    let needs_tree = places.slice.is_some() || places.state.is_some();
    let tree = needs_tree.then(|| tree_of(&state)).transpose();
    let tree = tree.map_err(|e| cannot_make(&state_path.join(TREE), e))?;
    let own = state.open_folder(b"").map_err(|e| cannot_make(&state_path, e))?;
    if let Some(name) = places.slice_folder() {
        state_path = state_path.join(&name);
        state = state.make_folder(&name, 0o700).map_err(|e| cannot_make(&state_path, e))?;
        check_private(&state, &state_path)?;
    }
    let lock = take_lock(&state, &state_path, base_path, places)?;
    refuse_other_slices(&own, base_path, places.slice)?;
    let (records, records_path) = match &places.state {
        None => {
            pairing::refuse_without_state(&state, base_path)?;
            let same = state.open_folder(b"").map_err(|e| cannot_make(&state_path, e))?;
            (same, state_path.clone())
        }
        Some(path) => open_records(base_path, path, places)?,
    };
    if places.slice.is_some() {
        shared::check_journal_place(&records, &records_path, places.state.is_some())?;
    }
    if let (Some(_), Some(tree)) = (&places.state, &tree) {
        let place =
            pairing::Place { base_path, state: &state, records: &records, records_path: &records_path };
        place.check(tree, places.slice)?;
    }
    for name in ["staging", "incoming"] {
        state.make_folder(name, 0o700).map_err(|e| cannot_make(&state_path.join(name), e))?;
    }
    for name in ["archives", "incoming"] {
        records.make_folder(name, 0o700).map_err(|e| match places.state.is_some() {
            true => unwritable(STATE, &records_path, e).unwrap_or_else(|| cannot_make(&records_path, e)),
            false => cannot_make(&records_path.join(name), e),
        })?;
    }
    if places.slice.is_some() {
        shared::probe(&state, &state_path)?;
    }
    Ok(OwnFolders { own, state, state_path, records, records_path, tree, lock })
}

/// The error that nothing can be stored below `path`, which is a `folder` of this name, if `error`
/// says so: that is the same as storage that fails later.
pub(super) fn unwritable(folder: &str, path: &Path, error: Errno) -> Option<Error> {
    // A name that is not there says nothing: another receiver that starts at the same time tries to
    // write, too.
    (is_suspicious(error) && !matches!(error, Errno::NOENT | Errno::NOTDIR)).then(|| {
        let what = format!("the {folder} {} cannot be written to", path.display());
        let error = Error::new(ErrorKind::Degraded, what).with_source(std::io::Error::from(error));
        error.with_hint("look after the receiver's storage (mount, cables, the system's log), then run the same command again")
    })
}

/// Takes the lock in `state`, without waiting.
///
/// # Errors
/// [`ErrorKind::InUse`]: another receiver has it. Or the file system has no locks, and needs them.
fn take_lock(state: &Folder, state_path: &Path, base_path: &Path, places: &Places) -> Result<File> {
    let what = || format!("cannot use the receiver's folder {}", state_path.display());
    let in_use = || {
        Error::new(ErrorKind::InUse, what())
            .with_source("another tar-like receiver uses this base folder")
            .with_hint("stop the other one, or use another base folder")
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(state, LOCK, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| unwritable(BASE, base_path, e).unwrap_or_else(|| Error::io(what(), e)))?;
    let file = File::from(file);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(in_use()),
        Err(e) if places.slice.is_some() => return Err(shared::no_locks(base_path, e)),
        Err(e) if places.state.is_some() => tracing::warn!(
            "the file system of {} has no locks ({e}): see to it that one receiver runs on it",
            base_path.display()
        ),
        // Then the journal lies there, too, and its own lock has to do.
        Err(_) => {}
    }
    // The first slice removes the folders of slices that are no more, with their locks.
    let mine = rustix::fs::fstat(&file).map_err(|e| Error::io(what(), e))?;
    match state.stat(LOCK.as_bytes()) {
        Ok(Some(named)) if (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino) => {
            running::sign(&file, places.slice);
            Ok(file)
        }
        Ok(_) => Err(in_use()),
        Err(e) => Err(Error::io(what(), e)),
    }
}

/// Fails if a slice of another number of slices runs on the base folder, whose `.tar-like` is `top`.
///
/// # Errors
/// [`ErrorKind::InUse`], with its name.
fn refuse_other_slices(top: &Folder, base_path: &Path, slice: Option<Slice>) -> Result<()> {
    let others: Vec<String> = running::others_running(top, slice).iter().map(ToString::to_string).collect();
    if others.is_empty() {
        return Ok(());
    }
    let own =
        slice.map_or_else(|| "a receiver without --slice".to_string(), |slice| format!("slice {slice}"));
    let what =
        format!("{own} cannot use {}, on which other slices run: {}", base_path.display(), others.join(", "));
    Err(Error::new(ErrorKind::InUse, what)
        .with_hint("stop all slices before you start others; or give this one the same N"))
}

/// Opens the folder `path` for the journal of a receiver on `base_path`.
///
/// # Errors
/// It is in the way of the receiver's other folders, its file system is one of the network, or it
/// cannot be made or used.
fn open_records(base_path: &Path, path: &Path, places: &Places) -> Result<(Folder, PathBuf)> {
    let failed = |e: std::io::Error| Error::io(format!("cannot use the state folder {}", path.display()), e);
    let resolved = resolved(path).map_err(failed)?;
    check_apart(base_path, &resolved)?;
    if let Some(above) = resolved.parent() {
        std::fs::create_dir_all(above).map_err(failed)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(&resolved) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    let mut folder = Folder::open(&resolved).map_err(failed)?;
    let mut resolved = resolved.canonicalize().map_err(failed)?;
    check_private(&folder, &resolved)?;
    if let Some(kind) = is_network(&folder) {
        let what = format!("the state folder {} is on a network file system ({kind})", path.display());
        return Err(Error::new(ErrorKind::Usage, what)
            .with_hint("SQLite's journals do not work there: give --state a folder on a disk of this host"));
    }
    if let Some(name) = places.slice_folder() {
        folder = folder.make_folder(&name, 0o700).map_err(|e| failed(e.into()))?;
        resolved = resolved.join(name);
        check_private(&folder, &resolved)?;
    }
    Ok((folder, resolved))
}

/// `path` without links and `..`, though it need not exist.
fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for above in absolute.ancestors() {
        match above.canonicalize() {
            Ok(real) => return Ok(real.join(absolute.strip_prefix(above).unwrap_or(Path::new("")))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(absolute)
}

/// Refuses a state folder in which the receiver would take files of others for its own, or the
/// other way round.
fn check_apart(base_path: &Path, state: &Path) -> Result<()> {
    let refused = |why: &str| {
        let what = format!("{} cannot be the state folder: {why}", state.display());
        Err(Error::new(ErrorKind::Usage, what)
            .with_hint("give --state a folder of its own, outside of the base folder"))
    };
    if base_path.starts_with(state) {
        return refused("the base folder lies in it");
    }
    let Ok(below) = state.strip_prefix(base_path) else { return Ok(()) };
    let mut names = below.iter().map(|name| name.to_string_lossy());
    match (names.next().as_deref(), names.next().as_deref()) {
        (Some(STATE_DIR), None) => refused("without --state, the journal is there"),
        (Some(STATE_DIR), Some(name)) if !is_of_receiver(name) => Ok(()),
        (Some(STATE_DIR), Some(_)) => refused("the receiver has other files there"),
        _ => refused("it lies in the base folder, among the files of senders"),
    }
}

/// Whether the receiver has a file or folder of this name in `.tar-like`.
fn is_of_receiver(name: &str) -> bool {
    const FOLDERS: [&str; 6] = ["archives", "staging", "incoming", "kept", "removed", "reserve"];
    FOLDERS.contains(&name) || name.starts_with("slice-")
}

/// The file in `.tar-like` that names the base folder.
const TREE: &str = "tree";
const TREE_DIGITS: usize = 32;

/// The name of the folder whose `.tar-like` is `state`, which gets one if it has none.
fn tree_of(state: &Folder) -> std::result::Result<String, Errno> {
    let read = || -> std::result::Result<Option<String>, Errno> {
        if state.stat(TREE.as_bytes())?.is_none() {
            return Ok(None);
        }
        let mut text = String::new();
        let file = state.open_file(TREE.as_bytes())?;
        let read = file.take(TREE_DIGITS as u64 + 1).read_to_string(&mut text);
        let is_name =
            read.is_ok() && text.len() == TREE_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(is_name.then_some(text))
    };
    if let Some(tree) = read()? {
        return Ok(tree);
    }
    // Whole before it has its name: another receiver may look for it at the same time.
    let (tree, temporary) =
        (format!("{:032x}", rand::random::<u128>()), format!("{TREE}.{:x}", rand::random::<u64>()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(state, &*temporary, flags, Mode::from_raw_mode(0o600))?;
    let made =
        rustix::io::write(&file, tree.as_bytes()).and_then(|_| rustix::fs::fsync(&file)).and_then(|()| {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(state, &*temporary, state, TREE, flags) {
                // Not every file system knows how.
                Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::renameat(state, &*temporary, state, TREE),
                other => other,
            }
        });
    let _ = rustix::fs::unlinkat(state, &*temporary, AtFlags::empty());
    match made {
        Err(Errno::EXIST) => match read()? {
            Some(tree) => Ok(tree),
            // What is there names nothing.
            None => {
                rustix::fs::unlinkat(state, TREE, AtFlags::empty())?;
                tree_of(state)
            }
        },
        other => other.map(|()| tree),
    }
}

/// Refuses a state folder in which another user could have put links or databases for us to
/// follow.
pub(super) fn check_private(state: &Folder, path: &Path) -> Result<()> {
    let stat =
        rustix::fs::fstat(state).map_err(|e| Error::io(format!("cannot look at {}", path.display()), e))?;
    if stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Io,
        format!("{} belongs to another user, or others may write there", path.display()),
    )
    .with_hint("run the receiver as the user who owns it; if nothing there is needed, remove the folder"))
}
