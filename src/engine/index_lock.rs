//! The lock of an index: one run at a time changes it.
//!
//! The lock is held on a file beside the index, which the holder removes before it lets go. A crash
//! leaves that file without a lock, which the next run takes.

use crate::archive::path::LOCK_SUFFIX;
use crate::db::index_read::check_replaceable;
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The longest chain of links that is followed; Linux has the same limit.
const MAX_LINKS: usize = 40;

/// Attempts to take a lock whose file its last holder is just removing.
const MAX_ATTEMPTS: usize = 100;

/// The right to change an index; it ends when this is dropped.
pub struct IndexLock {
    _file: File,
    path: PathBuf,
}

impl IndexLock {
    /// Takes the lock of the index at `database`, which need not exist, without waiting. `None` if
    /// there can be no lock: some file systems have none, and a process that may not write there
    /// cannot change the index either.
    ///
    /// # Errors
    /// Another run holds it ([`ErrorKind::InUse`]), `database` is no file ([`ErrorKind::Usage`]), or
    /// a file that is no index ([`ErrorKind::BadIndex`]).
    pub fn take(database: &Path) -> Result<Option<Self>> {
        check_replaceable(database)?;
        let path = path_of(database);
        for _ in 0..MAX_ATTEMPTS {
            let options = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o666)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
                .open(&path);
            let Ok(file) = options else { return Ok(None) };
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Some(Self { _file: file, path })),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(in_use(database)),
                Err(TryLockError::Error(_)) => return Ok(None),
            }
        }
        Err(in_use(database))
    }
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        // While the lock is held: a process that has opened the file meanwhile finds its name gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn in_use(database: &Path) -> Error {
    let what = format!("another run uses the index {}", database.display());
    Error::new(ErrorKind::InUse, what)
        .with_hint("wait until it has ended, or give each run an index of its own with -db FILE")
}

/// The file of the lock. Links are followed, so that two names of one index have one lock, also
/// before the index exists.
fn path_of(database: &Path) -> PathBuf {
    let mut target = database.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(next) = std::fs::read_link(&target) else { break };
        target = folder_of(&target).join(next);
    }
    if let (Ok(folder), Some(name)) = (folder_of(&target).canonicalize(), target.file_name()) {
        target = folder.join(name);
    }
    let mut path = target.into_os_string();
    path.push(LOCK_SUFFIX);
    path.into()
}

/// The folder part of `path`.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether `path` is still a name of the open file.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |meta: std::io::Result<std::fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
    id(file.metadata()).is_some_and(|open| Some(open) == id(std::fs::metadata(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_by_any_name_and_no_file_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("index"), folder.path().join("link"));
        let refused = |path: &Path| IndexLock::take(path).err().unwrap().kind();
        // The index does not exist yet.
        let held = IndexLock::take(&real).unwrap().unwrap();
        assert_eq!(refused(&real), ErrorKind::InUse);
        std::os::unix::fs::symlink("index", &link).unwrap();
        assert_eq!(refused(&link), ErrorKind::InUse);
        std::fs::write(&real, "").unwrap();
        assert_eq!(refused(&link), ErrorKind::InUse);
        drop(held);
        let held = IndexLock::take(&link).unwrap().unwrap();
        assert_eq!(refused(&real), ErrorKind::InUse);
        drop(held);
        // The file that a killed run left blocks no run.
        std::fs::write(folder.path().join("index-lock"), "").unwrap();
        drop(IndexLock::take(&real).unwrap().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(refused(folder.path()), ErrorKind::Usage);
    }

    #[test]
    fn one_of_many_threads_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let holders = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        if let Ok(lock) = IndexLock::take(&path) {
                            assert!(lock.is_some());
                            assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                            holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        }
                    }
                });
            }
        });
    }
}
