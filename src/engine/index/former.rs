//! What the former index of the same folder says: files that did not change since need not be read.

use crate::archive::entry::FileEntry;
use crate::archive::path::EntryPath;
use crate::db::index_read::{IndexReader, Summary};
use crate::error::Result;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// The rows of the former index, in step with the walk: both are in the same order.
pub(in super::super) struct FormerRows {
    reader: IndexReader,
    next_id: u64,
    files: u64,
    /// Files that changed from here on, in nanoseconds since 1970, may have changed again unnoticed in the same tick of the clock.
    pub(super) settled_ns: i64,
    rows: VecDeque<(Vec<u8>, FileEntry)>,
}

impl FormerRows {
    const PAGE: u64 = 4096;

    /// A clock tick of the coarsest file systems.
    const TICK_S: u64 = 2;

    pub(super) fn new(reader: IndexReader, summary: &Summary) -> Self {
        let settled_s = summary.created_s.saturating_sub(Self::TICK_S);
        let settled_ns = i64::try_from(settled_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        Self { reader, next_id: 0, files: summary.files, settled_ns, rows: VecDeque::new() }
    }

    /// The former row of `path`. Paths are asked for in ascending order of their keys.
    pub(super) fn find(&mut self, path: &EntryPath) -> Result<Option<FileEntry>> {
        let key = path.sort_key();
        loop {
            if self.rows.is_empty() {
                if self.next_id >= self.files {
                    return Ok(None);
                }
                let page = self.next_id..(self.next_id + Self::PAGE).min(self.files);
                self.next_id = page.end;
                let rows = &mut self.rows;
                self.reader.files_with_ids(page, |file| {
                    rows.push_back((file.path.sort_key(), file));
                    Ok(ControlFlow::Continue(()))
                })?;
                continue;
            }
            match self.rows.front().map(|(former, _)| former.cmp(&key)) {
                Some(std::cmp::Ordering::Less) => drop(self.rows.pop_front()),
                Some(std::cmp::Ordering::Equal) => return Ok(self.rows.pop_front().map(|(_, file)| file)),
                _ => return Ok(None),
            }
        }
    }
}
