//! What several receivers on one folder need of its file system: a rename that replaces, a sync that
//! stores (P1 to P3), and locks that other hosts see.

use super::mount::{is_network, local_locks};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::Folder;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io::{Read, Write};
use std::path::Path;

/// The file whose lock is the right to receive, beside that of the journal: receivers on several
/// hosts may have several journals.
pub(super) const LOCK: &str = "lock";

const NEEDED: &str = "slices need a file system that all hosts share and that has locks, fsync and a rename that replaces, such as NFSv4, \
     CephFS, Lustre (mounted with flock) or GFS2";

fn refused(path: &Path, why: &str) -> Error {
    let what = format!("the file system of {} cannot be shared by slices: {why}", path.display());
    Error::new(ErrorKind::Usage, what).with_hint(NEEDED)
}

/// The error that the file system of `path` refuses locks by `error`.
pub(super) fn no_locks(path: &Path, error: Errno) -> Error {
    refused(path, "it has no locks").with_source(std::io::Error::from(error))
}

/// Refuses a slice whose journal would lie on a file system of the network.
///
/// # Errors
/// [`ErrorKind::Usage`], with what to do.
pub(super) fn check_journal_place(records: &Folder, path: &Path, has_state_folder: bool) -> Result<()> {
    match is_network(records).filter(|_| !has_state_folder) {
        None => Ok(()),
        Some(kind) => {
            let what =
                format!("{} is on a network file system ({kind}), where a journal cannot be", path.display());
            Err(Error::new(ErrorKind::Usage, what)
                .with_hint("give --state FOLDER, a folder on a disk of this host that is this slice's alone"))
        }
    }
}

/// Tries what the promises need in `state`, whose lock this process holds.
///
/// # Errors
/// [`ErrorKind::Usage`]: the file system cannot do it. Or it fails.
pub(super) fn probe(state: &Folder, path: &Path) -> Result<()> {
    let failed = |what: &str, e: std::io::Error| match rustix::io::Errno::from_io_error(&e) {
        Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK | Errno::EXIST | Errno::PERM) => {
            refused(path, what).with_source(e)
        }
        _ => Error::io(format!("cannot try the file system of {}", path.display()), e),
    };
    let folder = state.open_folder(b"incoming").map_err(|e| failed("it has no folders", e.into()))?;
    let create = |name: &str| -> std::io::Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file =
            std::fs::File::from(rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(name.as_bytes())?;
        Ok(file)
    };
    let (new, old) = ("new", "old");
    let file = create(new).map_err(|e| failed("it takes no files", e))?;
    file.sync_all().map_err(|e| failed("it has no fsync", e))?;
    rustix::fs::syncfs(state).map_err(|e| failed("it has no sync", e.into()))?;
    create(old).map_err(|e| failed("it takes no files", e))?;
    rustix::fs::renameat(&folder, new, &folder, old)
        .map_err(|e| failed("a rename does not replace what has the name", e.into()))?;
    let mut content = String::new();
    let read = folder.open_file(old.as_bytes()).map_err(Into::into);
    read.and_then(|mut file| file.read_to_string(&mut content))
        .map_err(|e| failed("a renamed file cannot be read", e))?;
    if content != new {
        return Err(refused(path, "a rename does not replace what has the name"));
    }
    if let Err(e) = rustix::fs::linkat(&folder, old, &folder, new, AtFlags::empty()) {
        tracing::warn!(
            "the file system of {} has no hard links ({e}): what --keep retains is copied",
            path.display()
        );
    }
    for name in [new, old] {
        // The next start removes what stays.
        let _ = rustix::fs::unlinkat(&folder, name, AtFlags::empty());
    }
    probe_lock(state, path)
}

/// Fails if the lock that this process holds keeps nothing out, or hosts do not see each other's.
fn probe_lock(state: &Folder, path: &Path) -> Result<()> {
    if let Some(option) = local_locks(state) {
        return Err(refused(
            path,
            &format!("it is mounted with {option}, so other hosts do not see its locks"),
        ));
    }
    let file = state.open_at(LOCK.as_bytes(), OFlags::RDWR, Mode::empty());
    let file = file.map_err(|e| Error::io(format!("cannot open the lock of {}", path.display()), e))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(()),
        Ok(()) => Err(refused(path, "its locks keep nothing out")),
        Err(e) => Err(no_locks(path, e)),
    }
}
