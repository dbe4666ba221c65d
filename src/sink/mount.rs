//! The file system below a folder: which mount it is, of which kind, and which errors mean its
//! loss.

use crate::folder::Folder;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// The mount through which `folder` was opened; `None` where the system does not say.
fn mount_of(folder: &Folder) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", folder.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// Whether this mount still exists; `None` where the system does not say.
pub(super) fn is_mounted(mount: u64) -> Option<bool> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mut mounts = text.lines().filter_map(|line| line.split(' ').next()?.parse::<u64>().ok());
    Some(mounts.any(|known| known == mount))
}

/// The mount of `folder`, if the system would tell of its end.
pub(super) fn watched_mount(folder: &Folder) -> Option<u64> {
    mount_of(folder).filter(|&mount| is_mounted(mount) == Some(true))
}

/// Whether `folder` lies on a FUSE file system. The kernel passes a sync of the whole file system
/// on to a few of its own kinds only (virtiofs).
pub(super) fn is_fuse(folder: &Folder) -> bool {
    const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
    rustix::fs::fstatfs(folder).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(FUSE_SUPER_MAGIC))
}

/// Whether an error may mean that storage was lost, and not only that one file has a fault.
#[must_use]
pub fn is_suspicious(error: Errno) -> bool {
    matches!(
        error,
        Errno::IO
            | Errno::ROFS
            | Errno::STALE
            | Errno::NODEV
            | Errno::NXIO
            | Errno::NOENT
            | Errno::NOTDIR
            | Errno::SHUTDOWN
            | Errno::UCLEAN
            | Errno::NOTCONN
            | Errno::CONNABORTED
            | Errno::HOSTDOWN
            | Errno::TIMEDOUT
            | Errno::REMOTEIO
    )
}
