//! Files at new paths, on disk, so that their number does not matter: some of them may be previous
//! ones under another name.

use super::scratch::{Scratch, failed};
use super::{from_sql_int, schema, sql_int};
use crate::archive::path::EntryPath;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{OptionalExtension, Row, params};
use std::ops::ControlFlow;
use std::path::Path;

/// A file at a path that no previous file had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPath {
    /// Relative to the base folder.
    pub path: EntryPath,
    /// In bytes.
    pub size: u64,
    /// Bytes that have to be sent for it, if it is none of the previous ones.
    pub send_bytes: u64,
}

/// Such files, in a temporary database. Each comes with a identity, by which it is known where it
/// was before.
pub struct NewPaths {
    scratch: Scratch,
    indexed: bool,
}

impl NewPaths {
    /// Makes an empty one in a temporary folder in `beside`; it goes when it is dropped.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(beside: &Path) -> Result<Self> {
        Ok(Self { scratch: Scratch::create(beside, "new_paths-", schema::NEW_PATHS)?, indexed: false })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// The disk is full, or it is there already.
    pub fn add(&self, identity: &[u8], new_path: &NewPath) -> Result<()> {
        let NewPath { path, size, send_bytes } = new_path;
        self.scratch
            .prepare_cached("INSERT INTO new_path VALUES(?,?,?,?,?)")
            .and_then(|mut insert| {
                insert.execute(params![
                    path.sort_key(),
                    identity,
                    path.as_bytes(),
                    sql_int(*size),
                    sql_int(*send_bytes)
                ])
            })
            .map(drop)
            .map_err(failed)
    }

    /// Takes the first file with this identity out, if there is one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn take(&mut self, identity: &[u8]) -> Result<Option<NewPath>> {
        if !self.indexed {
            // Once, when all of them are there.
            self.scratch
                .execute_batch("CREATE INDEX by_identity ON new_path(identity, key)")
                .map_err(failed)?;
            self.indexed = true;
        }
        let query = "SELECT path, size, send FROM new_path WHERE identity=? ORDER BY key LIMIT 1";
        let mut statement = self.scratch.prepare_cached(query).map_err(failed)?;
        let found = statement.query_row([identity], |row| Ok(new_path_of(row))).optional().map_err(failed)?;
        let Some(new_path) = found.transpose()? else { return Ok(None) };
        self.scratch
            .prepare_cached("DELETE FROM new_path WHERE key=?")
            .and_then(|mut delete| delete.execute([new_path.path.sort_key()]))
            .map_err(failed)?;
        Ok(Some(new_path))
    }

    /// Gives those that were not taken out, in the order of the walk.
    ///
    /// # Errors
    /// SQLite fails, or `each` does.
    pub fn rest(&self, mut each: impl FnMut(NewPath) -> Result<ControlFlow<()>>) -> Result<()> {
        let mut statement =
            self.scratch.prepare("SELECT path, size, send FROM new_path ORDER BY key").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            if each(new_path_of(row)?)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn new_path_of(row: &Row<'_>) -> Result<NewPath> {
    let read = || -> rusqlite::Result<(Vec<u8>, i64, i64)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
    let (path, size, send) = read().map_err(failed)?;
    let path = EntryPath::new(path)
        .map_err(|why| Error::new(ErrorKind::Internal, format!("a path that was checked {why}")))?;
    Ok(NewPath { path, size: from_sql_int(size), send_bytes: from_sql_int(send) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_and_the_rest_is_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut new_paths = NewPaths::create(folder.path()).unwrap();
        let new_path = |path: &str| NewPath {
            path: EntryPath::new(path.as_bytes()).unwrap(),
            size: path.len() as u64,
            send_bytes: 7,
        };
        for (identity, path) in [("1", "b"), ("1", "a/x"), ("2", "c"), ("3", "a b")] {
            new_paths.add(identity.as_bytes(), &new_path(path)).unwrap();
        }
        assert!(new_paths.add(b"4", &new_path("c")).is_err(), "twice");
        assert_eq!(new_paths.take(b"1").unwrap(), Some(new_path("a/x")));
        assert_eq!(new_paths.take(b"9").unwrap(), None);
        assert_eq!(new_paths.take(b"2").unwrap(), Some(new_path("c")));
        assert_eq!(new_paths.take(b"2").unwrap(), None);
        let mut rest = Vec::new();
        new_paths
            .rest(|new_path| {
                rest.push(new_path);
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        assert_eq!(rest, [new_path("a b"), new_path("b")]);
    }
}
