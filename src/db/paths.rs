//! The set of all paths of an index, on disk, so that its size does not matter.

use super::schema;
use super::scratch::{Scratch, failed};
use crate::archive::path::{EntryPath, printable};
use crate::error::Result;
use rusqlite::{OptionalExtension, params};
use std::path::Path;

/// Paths with a word about what they are, in an order in which a folder stands directly before its
/// contents.
pub struct PathTable {
    scratch: Scratch,
}

impl PathTable {
    /// Makes an empty table in a temporary folder in `beside`; it goes when it is dropped.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(beside: &Path) -> Result<Self> {
        Ok(Self { scratch: Scratch::create(beside, "paths-", schema::PATHS)? })
    }

    /// Adds `path`; false if it is there already.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn add(&self, path: &EntryPath, kind: &str) -> Result<bool> {
        let added = self
            .scratch
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
        self.scratch
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
            self.scratch.prepare("SELECT key, kind FROM path ORDER BY key").map_err(failed)?;
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
