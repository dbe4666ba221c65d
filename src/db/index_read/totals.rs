//! What all rows of an index come to.

use super::super::from_sql_int;
use super::IndexReader;
use crate::error::Result;

impl IndexReader {
    /// Size of the archive, in bytes.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn archive_bytes(&self) -> Result<u64> {
        if self.fragmented {
            return Ok(from_sql_int(self.meta_int("total")?.unwrap_or(0)));
        }
        let query = "SELECT coalesce((SELECT offset_end + 1 FROM tar ORDER BY rowid DESC LIMIT 1), 0)";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// What is more than the id of any file.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn next_id(&self) -> Result<u64> {
        let query = "SELECT coalesce(max(rowid), 0) FROM tar";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// What is more than the id of any directory or link.
    ///
    /// # Errors
    /// SQLite fails.
    pub(super) fn next_node_id(&self) -> Result<u64> {
        let query = "SELECT coalesce(max(id) + 1, 0) FROM tarlike_node";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// The bytes of all files together.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn content_bytes(&self) -> Result<u64> {
        let query = "SELECT coalesce(sum(size), 0) FROM tar";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// How many files with a content have nothing by which it could be proven.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn unprovable(&self) -> Result<u64> {
        if !self.optional {
            return Ok(0);
        }
        let query = "SELECT count(*) FROM tar WHERE hash IS NULL AND size > 0";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }
}
