//! Chunk maps of large files, where the index was made here.

use super::super::sql_int;
use super::IndexReader;
use crate::error::Result;
use rusqlite::OptionalExtension;

impl IndexReader {
    /// The chunk map of a file ([`crate::archive::chunk_map`]), if the index has one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn chunk_map(&self, id: u64) -> Result<Option<Vec<u8>>> {
        self.of_chunk_map("SELECT data FROM tarlike_sketch WHERE id=?", id)
    }

    /// The start of that, at most `length` bytes.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn chunk_map_head(&self, id: u64, length: usize) -> Result<Option<Vec<u8>>> {
        let query = format!("SELECT substr(data, 1, {length}) FROM tarlike_sketch WHERE id=?");
        self.of_chunk_map(&query, id)
    }

    fn of_chunk_map(&self, query: &str, id: u64) -> Result<Option<Vec<u8>>> {
        if !self.kind.beside().chunk_maps {
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
