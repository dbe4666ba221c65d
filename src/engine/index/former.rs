//! What the former index of the same folder says: files that did not change since need not be read.

use crate::archive::entry::{FileEntry, Meta, Origin};
use crate::archive::path::EntryPath;
use crate::archive::sketch::{SKETCHED_BYTES, Sketch};
use crate::db::index_read::{IndexReader, Summary};
use crate::error::Result;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

/// The rows of the former index, in step with the walk: both are in the same order.
pub(in super::super) struct FormerRows {
    reader: IndexReader,
    next: u64,
    files: u64,
    /// Ids of the files that the walk has gone past.
    vanished: Vanished,
    /// Files that changed from here on, in nanoseconds since 1970, may have changed again unnoticed in the same tick of the clock.
    settled_ns: i64,
    /// No file is taken for unchanged without being read.
    pub(super) read_all: bool,
    rows: VecDeque<(Vec<u8>, FileEntry)>,
}

/// Ids of files of the former index that are not there any more.
pub(in super::super) type Vanished = Arc<Mutex<Vec<u64>>>;

impl FormerRows {
    const PAGE: u64 = 4096;

    /// A clock tick of the coarsest file systems.
    const TICK_S: u64 = 2;

    pub(in super::super) fn new(
        reader: IndexReader,
        summary: &Summary,
        vanished: Vanished,
        read_all: bool,
    ) -> Self {
        let settled_s = summary.created_s.saturating_sub(Self::TICK_S);
        let settled_ns = i64::try_from(settled_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        Self { reader, next: 0, files: summary.files, vanished, settled_ns, read_all, rows: VecDeque::new() }
    }

    /// The former row of `path`. Paths are asked for in ascending order of their keys.
    pub(in super::super) fn find(&mut self, path: &EntryPath) -> Result<Option<FileEntry>> {
        let key = path.sort_key();
        loop {
            if self.rows.is_empty() && !self.read_page()? {
                return Ok(None);
            }
            match self.rows.front().map(|(former, _)| former.cmp(&key)) {
                Some(std::cmp::Ordering::Less) => self.skip(),
                Some(std::cmp::Ordering::Equal) => return Ok(self.rows.pop_front().map(|(_, file)| file)),
                _ => return Ok(None),
            }
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
        let head = self.reader.sketch_head(file.id, 2)?;
        Ok(head.and_then(|head| Sketch::average_of(&head)))
    }

    /// The walk is at its end: what is left has vanished.
    pub(in super::super) fn end(&mut self) -> Result<()> {
        loop {
            while !self.rows.is_empty() {
                self.skip();
            }
            if !self.read_page()? {
                return Ok(());
            }
        }
    }

    fn skip(&mut self) {
        if let Some((_, file)) = self.rows.pop_front() {
            self.vanished.lock().unwrap_or_else(PoisonError::into_inner).push(file.id);
        }
    }

    /// False at the end.
    fn read_page(&mut self) -> Result<bool> {
        if self.next >= self.files {
            return Ok(false);
        }
        let count = Self::PAGE.min(self.files - self.next);
        let rows = &mut self.rows;
        self.reader.files_in_walk_order(self.next, count, |file| {
            rows.push_back((file.path.sort_key(), file));
            Ok(ControlFlow::Continue(()))
        })?;
        self.next += count;
        Ok(!self.rows.is_empty())
    }
}
