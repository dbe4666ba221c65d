//! Temporary databases and tables, on disk, so that the number of their rows does not matter.

use super::db_error;
use super::file::open_private;
use crate::error::{Error, Result};
use rusqlite::Connection;
use std::ops::Deref;
use std::path::Path;

/// A database in a temporary folder of its own, and a transaction that never ends. All of it goes
/// when it is dropped.
pub(super) struct Scratch {
    connection: Connection,
    _folder: tempfile::TempDir,
}

impl Scratch {
    /// Makes one with `tables`. `name` begins the name of its folder, which lies in `beside`.
    pub(super) fn create(beside: &Path, name: &str, tables: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(name)
            .tempdir_in(beside)
            .map_err(|e| Error::io(format!("cannot make a temporary folder in {}", beside.display()), e))?;
        let open = || -> rusqlite::Result<Connection> {
            let connection = open_private(&folder.path().join(name))?;
            connection.execute_batch(tables)?;
            connection.execute_batch("BEGIN")?;
            Ok(connection)
        };
        Ok(Self { connection: open().map_err(failed)?, _folder: folder })
    }
}

impl Deref for Scratch {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// An error of a temporary database.
pub(super) fn failed(error: rusqlite::Error) -> Error {
    db_error("cannot use a temporary database", error)
}

/// Makes the empty temporary table `name` beside the index of `connection`; `columns` is the rest
/// of its definition.
pub(super) fn table(connection: &Connection, name: &str, columns: &str) -> rusqlite::Result<()> {
    let query = format!("CREATE TEMP TABLE IF NOT EXISTS {name}{columns}; DELETE FROM temp.{name};");
    connection.execute_batch(&query)
}
