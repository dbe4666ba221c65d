//! The attributes of an open file as those of a row.

use crate::archive::entry::{FileEntry, Origin};
use crate::archive::log::Digests;
use crate::archive::path::EntryPath;
use crate::folder::{ctime_ns, meta_of};
use rustix::fs::Stat;

pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Whether a file was not modified between two stats.
pub(super) fn is_unmodified(before: &Stat, after: &Stat) -> bool {
    before.st_size == after.st_size
        && meta_of(before) == meta_of(after)
        && ctime_ns(before) == ctime_ns(after)
}

/// Whether a file grew between two stats. They do not tell whether its first part was modified.
pub(super) fn is_grown(before: &Stat, after: &Stat) -> bool {
    before.st_size < after.st_size
}

/// The row of a file.
pub(super) fn entry_of(path: &EntryPath, stat: &Stat, digests: Option<Digests>) -> FileEntry {
    FileEntry {
        id: 0,
        path: path.clone(),
        size: size_of(stat),
        offset: 0,
        fragmented: false,
        md5: digests.and_then(|(md5, _)| md5),
        blake3: digests.map(|(_, blake3)| blake3),
        meta: Some(meta_of(stat)),
        origin: Some(Origin { dev: stat.st_dev, ino: stat.st_ino, ctime_ns: ctime_ns(stat) }),
        object: None,
    }
}
