//! Files by their ids.

use super::IndexReader;
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::db::sql_int;
use crate::error::Result;
use std::ops::{ControlFlow, Range};

/// Reading so many rows that are not asked for costs less than another query.
const NEAR: u64 = 16;

impl IndexReader {
    /// Gives the files with ids in `ids`, ascending.
    ///
    /// # Errors
    /// SQLite fails, a row is invalid, or `each` fails.
    pub fn files_with_ids(
        &self,
        ids: Range<u64>,
        each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        // Ids are dense from 0 in row order, so an id is a rowid less 1 in every index that was
        // written in one go.
        self.each_file(
            "WHERE tar.rowid > ? AND tar.rowid <= ? ORDER BY tar.rowid",
            [sql_int(ids.start), sql_int(ids.end)],
            each,
        )
    }

    /// The same for a set of ids, which has many gaps after some generations.
    ///
    /// # Errors
    /// As [`IndexReader::files_with_ids`].
    pub fn files_of(
        &self,
        ids: &RangeSet,
        mut each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        // To begin to read the database costs more than the row.
        let _reading = match self.connection.is_autocommit() {
            true => Some(self.connection.unchecked_transaction().map_err(|e| self.error(e))?),
            false => None,
        };
        let (mut ranges, mut goes_on) = (ids.iter().peekable(), true);
        while let Some(first) = ranges.next().filter(|_| goes_on) {
            let mut span = first;
            while let Some(next) = ranges.next_if(|next| next.start - span.end <= NEAR) {
                span.end = next.end;
            }
            self.files_with_ids(span, |file| {
                if !ids.contains(file.id..file.id + 1) {
                    return Ok(ControlFlow::Continue(()));
                }
                let flow = each(file)?;
                goes_on = flow.is_continue();
                Ok(flow)
            })?;
        }
        Ok(())
    }
}
