//! What the former index of the same folder says: files that did not change since need not be read.

use crate::archive::entry::{FileEntry, Meta, Origin};
use crate::archive::path::EntryPath;
use crate::archive::sketch::{SKETCHED_BYTES, Sketch};
use crate::db::index_read::{IndexReader, Summary, WalkRows};
use crate::error::Result;
use std::cmp::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// The rows of the former index, in step with the walk: both are in the same order.
pub(in super::super) struct FormerRows {
    rows: WalkRows,
    /// Ids of the files that the walk has gone past.
    vanished: Vanished,
    /// Files that changed from here on, in nanoseconds since 1970, may have changed again unnoticed in the same tick of the clock.
    settled_ns: i64,
    /// No file is taken for unchanged without being read.
    pub(super) read_all: bool,
}

/// Ids of files of the former index that are not there any more.
pub(in super::super) type Vanished = Arc<Mutex<Vec<u64>>>;

impl FormerRows {
    /// A clock tick of the coarsest file systems.
    const TICK_S: u64 = 2;

    pub(in super::super) fn new(
        reader: IndexReader,
        summary: &Summary,
        vanished: Vanished,
        read_all: bool,
    ) -> Result<Self> {
        let settled_s = summary.created_s.saturating_sub(Self::TICK_S);
        let settled_ns = i64::try_from(settled_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        Ok(Self { rows: WalkRows::new(reader)?, vanished, settled_ns, read_all })
    }

    /// The former row of `path`. Paths are asked for in ascending order of their keys.
    pub(in super::super) fn find(&mut self, path: &EntryPath) -> Result<Option<FileEntry>> {
        let key = path.sort_key();
        loop {
            match self.rows.peek()?.map(|former| former.cmp(&key)) {
                Some(Ordering::Less) => self.skip()?,
                Some(Ordering::Equal) => return Ok(self.rows.pop()?.map(|(_, file)| file)),
                _ => return Ok(None),
            };
        }
    }

    /// Whether a file that looks like `now`, which has no digests, still is `former`: its content need not be read then. Its mode and owner may
    /// be others.
    pub(in super::super) fn is_unchanged(&self, former: &FileEntry, now: &FileEntry) -> bool {
        let time_of = |meta: Option<Meta>| meta.map(|meta| meta.mtime_ns);
        let is_settled = |origin: Origin| {
            time_of(now.meta).is_some_and(|mtime_ns| origin.ctime_ns.max(mtime_ns) < self.settled_ns)
        };
        !self.read_all
            && now.origin.is_some_and(is_settled)
            && former.size == now.size
            && former.origin == now.origin
            && former.blake3.is_some()
            && time_of(former.meta) == time_of(now.meta)
    }

    /// The average length of the chunks in its sketch, in bytes, if it has one.
    pub(super) fn average_of(&self, file: &FileEntry) -> Result<Option<u32>> {
        if file.size < SKETCHED_BYTES {
            return Ok(None);
        }
        let head = self.rows.reader().sketch_head(file.id, 2)?;
        Ok(head.and_then(|head| Sketch::average_of(&head)))
    }

    /// The walk is at its end: what is left has vanished.
    pub(in super::super) fn end(&mut self) -> Result<()> {
        while self.skip()? {}
        Ok(())
    }

    /// Goes past the next row; false at the end.
    fn skip(&mut self) -> Result<bool> {
        let Some((_, file)) = self.rows.pop()? else { return Ok(false) };
        self.vanished.lock().unwrap_or_else(PoisonError::into_inner).push(file.id);
        Ok(true)
    }
}
