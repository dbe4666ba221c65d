//! What a receiver put under a final name, and whether it is still that.

use crate::archive::entry::FileEntry;
use crate::folder::{is_common_time, is_kind, is_same_time, mtime_ns};
use rustix::fs::{FileType, Stat};

/// What has a final name as far as the receiver knows. A file is known by its size and time: its content was proven before it got the
/// name, and whoever changes it later changes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected<'a> {
    /// A regular file.
    File {
        /// Its length, in bytes.
        size: u64,
        /// When its content changed last, in nanoseconds since 1970; `None` where nothing is known of it.
        mtime_ns: Option<i64>,
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
            Self::File { size, mtime_ns: wanted } => {
                is_kind(stat, FileType::RegularFile)
                    && u64::try_from(stat.st_size) == Ok(size)
                    // Some file systems keep the nearest time that they know instead.
                    && wanted.is_none_or(|at| !is_common_time(at) || is_same_time(mtime_ns(stat), at))
            }
        }
    }
}
