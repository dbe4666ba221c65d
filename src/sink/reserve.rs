//! The storage below a folder, and the reserve: what the receiver holds back of the file system, so
//! that it can take in what makes room when other programs have filled the rest. The reserve is a
//! folder with one file that has space on the disk, and some that have only a name. Where space
//! cannot be allocated ahead (ZFS, NFS), nothing is held.

use super::disk::DiskSink;
use super::port::Storage;
use crate::error::{Error, Result};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::path::Path;

const FOLDER: &str = "reserve";
/// The file that has the space.
const SPACE: &str = "space";
/// Names that are held besides: an index that is put needs a few files and folders.
const NAMES: u32 = 16;

impl Storage for DiskSink {
    fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.state)
            .map_err(|e| Error::io("cannot sync the base folder's file system", e))?;
        if !self.records_apart {
            return Ok(());
        }
        rustix::fs::syncfs(&self.records)
            .map_err(|e| Error::io("cannot sync the state folder's file system", e))
    }

    fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.base).map_err(|e| Error::io("cannot ask for free space", e))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn held_bytes(&self) -> u64 {
        let stat = rustix::fs::statat(&self.state, Path::new(FOLDER).join(SPACE), AtFlags::SYMLINK_NOFOLLOW);
        // It never has holes; what is there may be shared with nothing.
        stat.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512))
    }

    fn hold(&self, bytes: u64, left_bytes: u64) {
        let more = bytes.saturating_sub(self.held_bytes());
        if more == 0 || !self.has_room_for(more.saturating_add(left_bytes)) {
            return;
        }
        if let Err(e) = self.try_to_hold(bytes) {
            tracing::debug!("nothing can be held back on the receiver's disk: {e}");
            self.release();
        }
    }

    fn release(&self) -> bool {
        let Ok(folder) = self.state.open_folder(FOLDER.as_bytes()) else { return false };
        for number in 0..NAMES {
            let _ = rustix::fs::unlinkat(&folder, number.to_string(), AtFlags::empty());
        }
        rustix::fs::unlinkat(&folder, SPACE, AtFlags::empty()).is_ok()
    }
}

impl DiskSink {
    /// The bytes that are free for the journal where that is on another file system than the base
    /// folder; `None` also where it does not answer.
    #[must_use]
    pub fn free_records_bytes(&self) -> Option<u64> {
        let stat = self.records_apart.then(|| rustix::fs::fstatvfs(&self.records).ok()).flatten()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        rustix::fs::fstatvfs(&self.state).is_ok_and(|stat| {
            // Some file systems make inodes as they need them, and say that there are none.
            let has_names = stat.f_files == 0 || stat.f_favail >= u64::from(2 * NAMES);
            has_names && stat.f_bavail.saturating_mul(stat.f_frsize) >= bytes
        })
    }

    fn try_to_hold(&self, bytes: u64) -> std::result::Result<(), Errno> {
        let folder = self.state.make_folder(FOLDER, 0o700)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = |name: &str| rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600));
        rustix::fs::fallocate(create(SPACE)?, FallocateFlags::empty(), 0, bytes)?;
        (0..NAMES).try_for_each(|number| create(&number.to_string()).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_on_the_disk_until_it_is_released() {
        let base = tempfile::tempdir().unwrap();
        let sink = DiskSink::open(base.path()).unwrap();
        assert_eq!((sink.held_bytes(), sink.release()), (0, false));
        sink.hold(1 << 20, u64::MAX);
        assert_eq!(sink.held_bytes(), 0, "no room");
        sink.hold(1 << 20, 0);
        if sink.held_bytes() == 0 {
            return eprintln!("no space can be had ahead here");
        }
        let names = || std::fs::read_dir(base.path().join(".tar-like/reserve")).unwrap().count();
        assert_eq!(names() as u32, NAMES + 1);
        sink.hold(3 << 20, 0);
        assert!(sink.held_bytes() >= 3 << 20);
        sink.hold(1 << 20, 0);
        assert!(sink.held_bytes() >= 3 << 20, "never less");
        assert_eq!((sink.release(), sink.held_bytes(), names()), (true, 0, 0));
    }
}
