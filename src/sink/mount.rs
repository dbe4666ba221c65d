//! The file system below a folder: which mount it is, of which kind, and which errors mean its
//! loss.

use crate::folder::Folder;
use rustix::fs::{AtFlags, Mode, OFlags};
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

/// The kind of the file system of `folder`, if it is one of the network, where SQLite's journals do
/// not work.
pub(super) fn is_network(folder: &Folder) -> Option<&'static str> {
    let stat = rustix::fs::fstatfs(folder).ok()?;
    // 32 bits, which some platforms have as a signed number.
    kind_of_network(u64::try_from(stat.f_type & 0xFFFF_FFFF).ok()?)
}

fn kind_of_network(magic: u64) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => "SMB",
        0x00C3_6400 => "CephFS",
        0x0BD0_0BD0 => "Lustre",
        0x1983_0326 => "BeeGFS",
        0x4750_4653 => "GPFS",
        0x5346_414F | 0x6B41_4653 => "AFS",
        _ => return None,
    })
}

/// The option by which the file system of `folder` is mounted and has locks of this host only.
pub(super) fn local_locks(folder: &Folder) -> Option<String> {
    let mount = mount_of(folder)?;
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = text.lines().find(|line| line.split(' ').next() == Some(&*mount.to_string()))?;
    local_locks_of(line).map(str::to_owned)
}

/// The same for a line of mountinfo, whose last field has the options of the file system.
fn local_locks_of(line: &str) -> Option<&str> {
    let options = line.rsplit(' ').next()?.split(',');
    let is_local = |option: &&str| {
        matches!(*option, "nolock" | "local_lock=all" | "local_lock=flock" | "localflock" | "nobrl")
    };
    options.into_iter().find(is_local)
}

/// Finds out whether `folder`, which is a receiver's own, can be written to.
pub(super) fn write_below(folder: &Folder) -> Result<(), Errno> {
    let folder = folder.open_folder(b"incoming")?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, "probe", flags, Mode::from_raw_mode(0o600))?;
    let written = rustix::io::write(&file, b"x");
    rustix::fs::unlinkat(&folder, "probe", AtFlags::empty())?;
    written.map(drop)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known() {
        assert_eq!(kind_of_network(0x6969), Some("NFS"));
        // As statfs gives it where the field is signed.
        assert_eq!(kind_of_network(0xFF53_4D42_u32.cast_signed() as u32 as u64), Some("SMB"));
        for local in [0xEF53, 0x0102_1994, 0x5846_5342, 0x9123_683E, 0x794C_7630] {
            assert_eq!(kind_of_network(local), None, "{local:x}");
        }
    }

    #[test]
    fn locks_of_one_host_are_told_from_those_of_all() {
        let line = |options: &str| {
            format!("97 29 0:52 / /srv/copy rw,relatime shared:1 - nfs4 server:/copy rw,vers=4.2,{options}")
        };
        for (options, found) in [
            ("hard,local_lock=none,addr=10.0.0.1", None),
            ("hard,local_lock=all", Some("local_lock=all")),
            ("local_lock=flock,addr=10.0.0.1", Some("local_lock=flock")),
            ("local_lock=posix", None),
            ("nolock,hard", Some("nolock")),
            ("localflock", Some("localflock")),
            ("nobrl", Some("nobrl")),
            ("nobrlx", None),
        ] {
            assert_eq!(local_locks_of(&line(options)), found, "{options}");
        }
    }
}
