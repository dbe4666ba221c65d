//! The files of an index in the order of the walk, one after the other.

use super::{IndexReader, WALK_ORDER};
use crate::archive::entry::FileEntry;
use crate::db::sql_int;
use crate::error::Result;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Goes through the files of an index. Those that one run has written are in the order of the walk; what later generations added is put in order,
/// and among them.
pub struct WalkRows {
    reader: IndexReader,
    /// Ids from here on are in no order.
    in_order: u64,
    first: Page,
    /// The others, by their places in a temporary table.
    later: Page,
}

/// Files with their sort keys, and where the next ones are.
#[derive(Default)]
struct Page {
    rows: VecDeque<(Vec<u8>, FileEntry)>,
    next: u64,
    is_last: bool,
}

const PAGE: u64 = 4096;

impl WalkRows {
    /// The files of the index that `reader` reads.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn new(reader: IndexReader) -> Result<Self> {
        let end = reader.next_id()?;
        let in_order = if reader.fragmented { reader.meta_int(IN_ORDER)?.unwrap_or(0) } else { sql_int(end) };
        let in_order = u64::try_from(in_order).unwrap_or(0).min(end);
        if in_order < end {
            let walk = format!(
                "CREATE TEMP TABLE later AS SELECT rowid AS row FROM tar WHERE rowid > {in_order} ORDER BY {WALK_ORDER}"
            );
            reader.connection.execute_batch(&walk).map_err(|e| reader.error(e))?;
        }
        let later = Page { is_last: in_order == end, ..Page::default() };
        Ok(Self { reader, in_order, first: Page::default(), later })
    }

    /// The index itself.
    pub fn reader(&self) -> &IndexReader {
        &self.reader
    }

    /// The sort key of the next file, which stays the next one.
    ///
    /// # Errors
    /// SQLite fails, or a row is invalid.
    pub fn peek(&mut self) -> Result<Option<&[u8]>> {
        Ok(self.front()?.front().map(|(key, _)| &key[..]))
    }

    /// The next file, with its sort key.
    ///
    /// # Errors
    /// SQLite fails, or a row is invalid.
    pub fn pop(&mut self) -> Result<Option<(Vec<u8>, FileEntry)>> {
        Ok(self.front()?.pop_front())
    }

    /// Those of which the first is the next one.
    fn front(&mut self) -> Result<&mut VecDeque<(Vec<u8>, FileEntry)>> {
        self.fill()?;
        let Self { first, later, .. } = self;
        let is_first = match (first.rows.front(), later.rows.front()) {
            (Some((a, _)), Some((b, _))) => a <= b,
            (first, _) => first.is_some(),
        };
        Ok(if is_first { &mut first.rows } else { &mut later.rows })
    }

    fn fill(&mut self) -> Result<()> {
        let in_order = self.in_order;
        let Self { reader, first, later, .. } = self;
        while first.rows.is_empty() && !first.is_last {
            let ids = first.next..in_order.min(first.next.saturating_add(PAGE));
            (first.next, first.is_last) = (ids.end, ids.is_empty());
            reader.files_with_ids(ids, |file| {
                first.rows.push_back((file.path.sort_key(), file));
                Ok(ControlFlow::Continue(()))
            })?;
        }
        if later.rows.is_empty() && !later.is_last {
            let places = [sql_int(later.next), sql_int(later.next + PAGE)];
            let tail = "WHERE tar.rowid IN (SELECT row FROM later WHERE rowid > ? AND rowid <= ?)";
            let mut page = Vec::new();
            reader.each_file(tail, places, |file| {
                page.push((file.path.sort_key(), file));
                Ok(ControlFlow::Continue(()))
            })?;
            page.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            (later.next, later.is_last) = (later.next + PAGE, page.is_empty());
            later.rows = page.into();
        }
        Ok(())
    }
}

/// The number of ids, from 0 on, that are in the order of the walk, in `tarlike_meta` of an index that has had generations since.
pub(in super::super) const IN_ORDER: &str = "in_order";
