//! Sketches of large files, where the index was made here.

use super::super::sql_int;
use super::IndexReader;
use crate::error::Result;
use rusqlite::OptionalExtension;

impl IndexReader {
    /// The sketch of a file ([`crate::archive::sketch`]), if the index has one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn sketch(&self, id: u64) -> Result<Option<Vec<u8>>> {
        self.of_sketch("SELECT data FROM tarlike_sketch WHERE id=?", id)
    }

    /// The start of that, at most `length` bytes.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn sketch_head(&self, id: u64, length: usize) -> Result<Option<Vec<u8>>> {
        let query = format!("SELECT substr(data, 1, {length}) FROM tarlike_sketch WHERE id=?");
        self.of_sketch(&query, id)
    }

    fn of_sketch(&self, query: &str, id: u64) -> Result<Option<Vec<u8>>> {
        if !self.sketches {
            return Ok(None);
        }
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_row([sql_int(id)], |row| row.get(0)).optional())
            // The start of nothing is no bytes, but NULL.
            .map(Option::flatten)
            .map_err(|e| self.error(e))
    }
}
