//! The previous index of the same source, read in step with the walk: an unmodified file need not
//! be read.

use crate::archive::chunk_map::{ChunkMap, MIN_CHUNK_MAP_BYTES};
use crate::archive::entry::{FileEntry, Meta, Node, Origin};
use crate::archive::path::EntryPath;
use crate::db::index_read::{IndexReader, Summary, WalkRows};
use crate::engine::spill::IdSpill;
use crate::error::Result;
use crate::unix_time::now_s;

/// The files of the previous index. They and the walk have the same order.
pub(in crate::engine) struct PreviousFiles {
    rows: WalkRows,
    /// Ids of the files that the walk has passed without finding them.
    vanished: IdSpill,
    /// A file that changed at this time or later, in nanoseconds since 1970, may have changed again
    /// unnoticed in the same tick of the clock.
    settled_ns: i64,
    /// Now, in nanoseconds since 1970: no write before now has a later time.
    now_ns: i64,
    /// No file counts as unmodified without being read.
    read_all: bool,
}

/// Whether a write after a file was read would have given it other times than these, all in
/// nanoseconds since 1970. A time in the future was set on purpose: a write would have replaced it.
fn is_settled(mtime_ns: i64, ctime_ns: i64, settled_ns: i64, now_ns: i64) -> bool {
    ctime_ns < settled_ns && (mtime_ns < settled_ns || mtime_ns > now_ns)
}

impl PreviousFiles {
    /// A clock tick of the coarsest file systems.
    const TICK_S: u64 = 2;

    pub(in crate::engine) fn new(
        reader: IndexReader,
        summary: &Summary,
        vanished: IdSpill,
        read_all: bool,
    ) -> Result<Self> {
        let settled_s = summary.created_s.saturating_sub(Self::TICK_S);
        let settled_ns = i64::try_from(settled_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        let now_ns = i64::try_from(now_s().saturating_add(Self::TICK_S)).unwrap_or(i64::MAX);
        let now_ns = now_ns.saturating_mul(1_000_000_000);
        Ok(Self { rows: WalkRows::new(reader)?, vanished, settled_ns, now_ns, read_all })
    }

    /// The previous row of `path`. Callers ask for paths in ascending order of their keys.
    pub(in crate::engine) fn find(&mut self, path: &EntryPath) -> Result<Option<FileEntry>> {
        let Self { rows, vanished, .. } = self;
        rows.find(&path.sort_key(), |file| vanished.push(file.id))
    }

    /// Whether a file with the attributes `now`, which has no digests, still has the content of
    /// `previous`, so that it need not be read. Its mode and owner may differ.
    pub(in crate::engine) fn is_unmodified(&self, previous: &FileEntry, now: &FileEntry) -> bool {
        let time_of = |meta: Option<Meta>| meta.map(|meta| meta.mtime_ns);
        let is_settled = |origin: Origin| {
            let mtime_ns = time_of(now.meta);
            mtime_ns.is_some_and(|at| is_settled(at, origin.ctime_ns, self.settled_ns, self.now_ns))
        };
        !self.read_all
            && now.origin.is_some_and(is_settled)
            && previous.size == now.size
            && previous.origin == now.origin
            && previous.blake3.is_some()
            && time_of(previous.meta) == time_of(now.meta)
    }

    /// Whether every file has to be read.
    pub(super) fn has_to_read_all(&self) -> bool {
        self.read_all
    }

    /// The mean chunk size in the chunk map of the file, in bytes, if it has one.
    pub(super) fn mean_chunk_of(&self, file: &FileEntry) -> Result<Option<u32>> {
        if file.size < MIN_CHUNK_MAP_BYTES {
            return Ok(None);
        }
        let head = self.rows.reader().chunk_map_head(file.id, 2)?;
        Ok(head.and_then(|head| ChunkMap::mean_of(&head)))
    }

    /// The walk is at its end: the remaining files have vanished.
    pub(in crate::engine) fn end(&mut self) -> Result<()> {
        while let Some((_, file)) = self.rows.pop()? {
            self.vanished.push(file.id)?;
        }
        Ok(())
    }
}

/// The directories and links of the previous index, in the order of the walk.
pub(in crate::engine) struct PreviousNodes {
    rows: WalkRows<Node>,
    /// Nodes that the walk has passed without finding them.
    pub(in crate::engine) vanished: Vec<Node>,
}

impl PreviousNodes {
    pub(in crate::engine) fn new(reader: IndexReader) -> Result<Self> {
        Ok(Self { rows: WalkRows::new(reader)?, vanished: Vec::new() })
    }

    /// Whether the previous index has this very node. Callers ask for nodes in the order of the
    /// walk.
    pub(super) fn has(&mut self, node: &Node) -> Result<bool> {
        Ok(self.find(node)?.is_some_and(|previous| previous == *node))
    }

    /// The previous node at the path of `node`. Callers ask for nodes in the order of the walk.
    pub(in crate::engine) fn find(&mut self, node: &Node) -> Result<Option<Node>> {
        let Self { rows, vanished } = self;
        rows.find(&node.path.sort_key(), |passed| {
            vanished.push(passed);
            Ok(())
        })
    }

    /// The walk is at its end: takes the next of the remaining nodes, which have vanished.
    pub(in crate::engine) fn pop(&mut self) -> Result<Option<Node>> {
        Ok(self.rows.pop()?.map(|(_, node)| node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_in_the_future_is_no_recent_change() {
        // (content changed, inode changed, settled)
        for (mtime, ctime, expected) in [
            (50, 50, true),
            (100, 50, false),
            (150, 50, false),
            (201, 50, true),
            (i64::MAX, 50, true),
            (50, 100, false),
            (201, 150, false),
            (201, 300, false),
        ] {
            assert_eq!(is_settled(mtime, ctime, 100, 200), expected, "{mtime} {ctime}");
        }
    }
}
