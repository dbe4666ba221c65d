//! What a receiver put under a final name, and whether it is still that.

use crate::archive::entry::FileEntry;
use crate::folder::{Folder, is_kept_time, is_kind, is_same_time, mtime_ns};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// What has a final name as far as the receiver knows. A file is known by its size and time: its
/// content was verified before it got the name, and a process that changes it later changes its
/// time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected<'a> {
    /// A regular file.
    File {
        /// Its length, in bytes.
        size: u64,
        /// When its content changed last, in nanoseconds since 1970; `None` where nothing is known
        /// of it.
        mtime_ns: Option<i64>,
    },
    /// A regular file with this very time, odd as it may be: as `DiskSink::kept_time` says that it
    /// is kept.
    Kept {
        /// Its length, in bytes.
        size: u64,
        /// When its content changed last, in nanoseconds since 1970.
        mtime_ns: i64,
    },
    /// A symbolic link with this target.
    Link(&'a [u8]),
}

impl Expected<'_> {
    /// What stands where `file` was published.
    #[must_use]
    pub fn of(file: &FileEntry) -> Self {
        Self::File { size: file.size, mtime_ns: file.meta.map(|meta| meta.mtime_ns) }
    }

    /// Whether `stat` is of that. Of a link this tells only that it is one.
    #[must_use]
    pub fn is(&self, stat: &Stat) -> bool {
        match *self {
            Self::Link(_) => is_kind(stat, FileType::Symlink),
            Self::Kept { size, mtime_ns: kept } => {
                is_file_of(stat, size) && is_same_time(mtime_ns(stat), kept)
            }
            Self::File { size, mtime_ns: wanted } => {
                is_file_of(stat, size) && wanted.is_none_or(|at| is_kept_time(mtime_ns(stat), at))
            }
        }
    }

    /// Whether `name` in `folder` is that, with the target of a link; `None` if nothing has that
    /// name.
    pub(super) fn is_at(&self, folder: &Folder, name: &[u8]) -> Result<Option<bool>, Errno> {
        let Some(stat) = folder.stat(name)? else { return Ok(None) };
        if !self.is(&stat) {
            return Ok(Some(false));
        }
        let Self::Link(target) = self else { return Ok(Some(true)) };
        match rustix::fs::readlinkat(folder, name, Vec::new()) {
            Ok(now) => Ok(Some(now.as_bytes() == *target)),
            Err(Errno::INVAL) => Ok(Some(false)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn is_file_of(stat: &Stat, size: u64) -> bool {
    is_kind(stat, FileType::RegularFile) && u64::try_from(stat.st_size) == Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::timestamps;

    #[test]
    fn a_file_with_another_time_is_not_what_was_put_there_whatever_the_time() {
        let file = tempfile::tempfile().unwrap();
        let stat = |mtime_ns| {
            let meta = crate::archive::entry::Meta { mode: 0, mtime_ns, uid: 0, gid: 0 };
            rustix::fs::futimens(&file, &timestamps(&meta)).unwrap();
            rustix::fs::fstat(&file).unwrap()
        };
        for at in [i64::MIN, -2_000_000_000_500_000_000, 0, 1, 4_000_000_000_123_456_789, i64::MAX] {
            let expected = Expected::File { size: 0, mtime_ns: Some(at) };
            assert!(expected.is(&stat(at)), "{at}");
            assert!(!expected.is(&stat(1_000_000_000_000_000_001)), "{at}");
        }
    }
}
