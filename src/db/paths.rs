//! The set of all paths of an index, on disk, so that its size does not matter.

use super::db_error;
use crate::archive::path::{EntryPath, printable};
use crate::error::{Error, Result};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;

/// Paths with a word about what they are, in an order in which a folder stands directly before its contents.
pub struct PathTable {
    connection: Connection,
    _folder: tempfile::TempDir,
}

fn failed(error: rusqlite::Error) -> Error {
    db_error("cannot use a temporary database", error)
}

impl PathTable {
    /// Makes an empty table in a temporary folder in `beside`; it goes when it is dropped.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(beside: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("paths-")
            .tempdir_in(beside)
            .map_err(|e| Error::io(format!("cannot make a temporary folder in {}", beside.display()), e))?;
        let connection = Connection::open(folder.path().join("paths")).map_err(failed)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8000;
                 CREATE TABLE path(key BLOB PRIMARY KEY, kind TEXT) WITHOUT ROWID; BEGIN;",
            )
            .map_err(failed)?;
        Ok(Self { connection, _folder: folder })
    }

    /// Adds `path`; false if it is there already.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn add(&self, path: &EntryPath, kind: &str) -> Result<bool> {
        let added = self
            .connection
            .prepare_cached("INSERT OR IGNORE INTO path VALUES(?,?)")
            .and_then(|mut statement| statement.execute(params![path.sort_key(), kind]))
            .map_err(failed)?;
        Ok(added == 1)
    }

    /// The word that came with `path`, if it is in the table.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn kind_of(&self, path: &[u8]) -> Result<Option<String>> {
        let Ok(path) = EntryPath::new(path) else { return Ok(None) };
        self.connection
            .prepare_cached("SELECT kind FROM path WHERE key=?")
            .and_then(|mut statement| statement.query_row([path.sort_key()], |row| row.get(0)).optional())
            .map_err(failed)
    }

    /// A path that is no directory (kind `d`) and yet the folder of another path, printable.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn conflict(&self) -> Result<Option<String>> {
        let mut statement =
            self.connection.prepare("SELECT key, kind FROM path ORDER BY key").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut leaf: Option<Vec<u8>> = None;
        while let Some(row) = rows.next().map_err(failed)? {
            let key: Vec<u8> = row.get(0).map_err(failed)?;
            let kind: String = row.get(1).map_err(failed)?;
            if let Some(leaf) = &leaf
                && key.len() > leaf.len()
                && key.starts_with(leaf)
                && key[leaf.len()] == 0
            {
                let path: Vec<u8> = leaf.iter().map(|&b| if b == 0 { b'/' } else { b }).collect();
                return Ok(Some(printable(&path)));
            }
            leaf = (kind != "d").then_some(key);
        }
        Ok(None)
    }
}
