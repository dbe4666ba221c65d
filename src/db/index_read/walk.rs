//! The rows of an index in the order of the walk, one after the other.

use super::IndexReader;
use crate::archive::entry::{FileEntry, Node};
use crate::archive::path::EntryPath;
use crate::db::index_rows::read_nodes;
use crate::db::{meta, sql_int};
use crate::error::Result;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

/// The order of the walk, which is that of the bytes of path components: [`EntryPath::sort_key`] in
/// SQL.
pub(in super::super) const WALK_ORDER: &str = "CAST(replace(CAST(path AS TEXT), '/', char(0)) AS BLOB)";

/// What an index has rows of: files, or directories and links.
pub trait WalkRow: Sized {
    /// The table of the rows.
    const TABLE: &'static str;
    /// What identifies a row in the table.
    const ROW: &'static str;
    /// That of the row with the id 0.
    const FIRST: u64;

    /// The path of the row.
    fn path(&self) -> &EntryPath;

    /// How many ids there are, and how many of these, from 0 on, are in the order of the walk.
    ///
    /// # Errors
    /// SQLite fails.
    fn ids(reader: &IndexReader) -> Result<(u64, u64)>;

    /// Gives the rows with these ids.
    ///
    /// # Errors
    /// SQLite fails, a row is invalid, or `each` fails.
    fn with_ids(reader: &IndexReader, ids: Range<u64>, each: impl FnMut(Self)) -> Result<()>;

    /// Gives the rows that `tail` selects.
    ///
    /// # Errors
    /// SQLite fails, a row is invalid, or `each` fails.
    fn selected(reader: &IndexReader, tail: &str, places: [i64; 2], each: impl FnMut(Self)) -> Result<()>;
}

/// Has `each` take every row.
fn every<R>(mut each: impl FnMut(R)) -> impl FnMut(R) -> Result<ControlFlow<()>> {
    move |row| {
        each(row);
        Ok(ControlFlow::Continue(()))
    }
}

impl WalkRow for FileEntry {
    const TABLE: &'static str = "tar";
    const ROW: &'static str = "rowid";
    const FIRST: u64 = 1;

    fn path(&self) -> &EntryPath {
        &self.path
    }

    fn ids(reader: &IndexReader) -> Result<(u64, u64)> {
        let end = reader.next_id()?;
        let in_order = if reader.is_fragmented() { reader.meta(&meta::IN_ORDER)?.unwrap_or(0) } else { end };
        Ok((end, in_order.min(end)))
    }

    fn with_ids(reader: &IndexReader, ids: Range<u64>, each: impl FnMut(Self)) -> Result<()> {
        reader.files_with_ids(ids, every(each))
    }

    fn selected(reader: &IndexReader, tail: &str, places: [i64; 2], each: impl FnMut(Self)) -> Result<()> {
        reader.each_file(tail, places, every(each))
    }
}

impl WalkRow for Node {
    const TABLE: &'static str = "tarlike_node";
    const ROW: &'static str = "id";
    const FIRST: u64 = 0;

    fn path(&self) -> &EntryPath {
        &self.path
    }

    fn ids(reader: &IndexReader) -> Result<(u64, u64)> {
        let end = if reader.is_ours() { reader.next_node_id()? } else { 0 };
        Ok((end, if reader.is_fragmented() { 0 } else { end }))
    }

    fn with_ids(reader: &IndexReader, ids: Range<u64>, each: impl FnMut(Self)) -> Result<()> {
        reader.nodes_with_ids(ids, every(each))
    }

    fn selected(reader: &IndexReader, tail: &str, places: [i64; 2], each: impl FnMut(Self)) -> Result<()> {
        read_nodes(&reader.connection, &reader.path, tail, places, every(each))
    }
}

/// Goes through the files of an index, or through its directories and links. Rows that one run has
/// written are in the order of the walk; those that later generations added are put in order, and
/// among them. A reader has one of these of each kind at a time.
pub struct WalkRows<E = FileEntry, R = IndexReader> {
    reader: R,
    /// Ids from here on are in no order.
    in_order: u64,
    first: Page<E>,
    /// The others, by their places in a temporary table.
    later: Page<E>,
}

/// Rows with their sort keys, and where the next ones are.
struct Page<E> {
    rows: VecDeque<(Vec<u8>, E)>,
    next: u64,
    is_last: bool,
}

/// Rows that are read at a time.
const PAGE: u64 = 4096;

impl<E: WalkRow, R: Borrow<IndexReader>> WalkRows<E, R> {
    /// The rows of the index that `reader` reads.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn new(reader: R) -> Result<Self> {
        let (end, in_order) = E::ids(reader.borrow())?;
        if in_order < end {
            let (table, row, first) = (E::TABLE, E::ROW, E::FIRST + in_order);
            let walk = format!(
                "CREATE TEMP TABLE IF NOT EXISTS later_{table} AS
                 SELECT {row} AS row FROM {table} WHERE {row} >= {first} ORDER BY {WALK_ORDER}"
            );
            let reader = reader.borrow();
            reader.connection.execute_batch(&walk).map_err(|e| reader.error(e))?;
        }
        let page = |is_last| Page { rows: VecDeque::new(), next: 0, is_last };
        Ok(Self { reader, in_order, first: page(in_order == 0), later: page(in_order == end) })
    }

    /// The index itself.
    pub fn reader(&self) -> &IndexReader {
        self.reader.borrow()
    }

    /// The next row, with its sort key.
    ///
    /// # Errors
    /// SQLite fails, or a row is invalid.
    pub fn pop(&mut self) -> Result<Option<(Vec<u8>, E)>> {
        Ok(self.front()?.pop_front())
    }

    /// The row of this sort key, if there is one; `passed` gets the rows before it. Callers ask for
    /// keys in ascending order.
    ///
    /// # Errors
    /// SQLite fails, a row is invalid, or `passed` fails.
    pub fn find(&mut self, key: &[u8], mut passed: impl FnMut(E) -> Result<()>) -> Result<Option<E>> {
        loop {
            let front = self.front()?;
            match front.front().map(|(next, _)| next[..].cmp(key)) {
                Some(Ordering::Less) => front.pop_front().map_or(Ok(()), |(_, row)| passed(row))?,
                Some(Ordering::Equal) => return Ok(front.pop_front().map(|(_, row)| row)),
                _ => return Ok(None),
            }
        }
    }

    /// Rows of which the first is the next one.
    fn front(&mut self) -> Result<&mut VecDeque<(Vec<u8>, E)>> {
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
        let reader: &IndexReader = (*reader).borrow();
        while first.rows.is_empty() && !first.is_last {
            let ids = first.next..in_order.min(first.next.saturating_add(PAGE));
            (first.next, first.is_last) = (ids.end, ids.is_empty());
            E::with_ids(reader, ids, |row| first.rows.push_back((row.path().sort_key(), row)))?;
        }
        if later.rows.is_empty() && !later.is_last {
            let (table, row) = (E::TABLE, E::ROW);
            let tail = format!(
                "WHERE {table}.{row} IN (SELECT row FROM temp.later_{table} WHERE rowid > ? AND rowid <= ?)"
            );
            let mut page = Vec::new();
            let places = [sql_int(later.next), sql_int(later.next + PAGE)];
            E::selected(reader, &tail, places, |row| page.push((row.path().sort_key(), row)))?;
            page.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            (later.next, later.is_last) = (later.next + PAGE, page.is_empty());
            later.rows = page.into();
        }
        Ok(())
    }
}
