//! Which slices run on a folder: each has a lock, and says in the lock file which one it is. Slices
//! of another number of slices keep a receiver out, since both would take in files of the other.

use super::shared::LOCK;
use crate::archive::slice::{FOLDER_PREFIX, Slice};
use crate::folder::Folder;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// What a receiver without slices writes into its lock file.
const ALONE: &str = "1/1";
/// More than the name of a slice takes, in bytes.
const MAX_SIGN_BYTES: u64 = 64;

/// The slice that has a folder of this name.
pub(super) fn slice_of(name: &[u8]) -> Option<Slice> {
    let text = std::str::from_utf8(name).ok()?;
    let (number, count) = text.strip_prefix(FOLDER_PREFIX)?.split_once("-of-")?;
    let slice = Slice::new(number.parse().ok()?, count.parse().ok()?)?;
    (slice.folder_name() == text).then_some(slice)
}

/// Says in its lock file which slice has the lock: a receiver without slices is one of one. For
/// others that start; where it cannot be written, they are kept out by less.
pub(super) fn sign(lock: &File, slice: Option<Slice>) {
    let text = slice.map_or_else(|| ALONE.to_string(), |slice| slice.to_string());
    let written = lock.set_len(0).and_then(|()| lock.write_all_at(text.as_bytes(), 0));
    if let Err(e) = written.and_then(|()| lock.sync_data()) {
        tracing::debug!("the lock file does not say which slice has the lock: {e}");
    }
}

/// The slices that run on the folder whose `.tar-like` is `top`, and are of another number of slices
/// than that of `slice`.
pub(super) fn others_running(top: &Folder, slice: Option<Slice>) -> Vec<Slice> {
    let count = slice.map_or(1, Slice::count);
    let names = top.names().unwrap_or_default();
    let mut others: Vec<Slice> = names.iter().filter_map(|name| slice_of(name)).collect();
    others.retain(|other| {
        let folder = || top.open_folder(other.folder_name().as_bytes()).ok();
        other.count() != count && folder().is_some_and(|folder| is_locked(&folder))
    });
    // The first slice of any number of slices has the same lock: it says of how many it is one.
    if slice.is_some_and(|slice| !slice.is_first()) {
        let mut text = String::new();
        let file = top.open_file(LOCK.as_bytes()).ok();
        let read = file.and_then(|file| file.take(MAX_SIGN_BYTES).read_to_string(&mut text).ok());
        let first = read.and_then(|_| text.parse::<Slice>().ok()).filter(|first| first.count() != count);
        others.extend(first.filter(|_| is_locked(top)));
    }
    others.sort_unstable();
    others
}

/// Whether a receiver has the lock in `folder`.
fn is_locked(folder: &Folder) -> bool {
    let Ok(lock) = folder.open_at(LOCK.as_bytes(), OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) else {
        return false;
    };
    matches!(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_slices_are_told_from_others() {
        let slice = |name: &str| slice_of(name.as_bytes()).map(|slice| slice.to_string());
        assert_eq!(slice("slice-2-of-3").as_deref(), Some("2/3"));
        for other in
            ["slice-0-of-3", "slice-4-of-3", "slice-02-of-3", "slice-2-of-3x", "slice-2", "staging", ""]
        {
            assert_eq!(slice(other), None, "{other}");
        }
    }
}
