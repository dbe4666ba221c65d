//! Files at new paths, on disk, so that their number does not matter: some of them may be previous ones under another name.

use super::scratch::{Scratch, failed};
use super::{from_sql_int, schema, sql_int};
use crate::archive::path::EntryPath;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{OptionalExtension, Row, params};
use std::ops::ControlFlow;
use std::path::Path;

/// A file at a path that no previous file had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// Relative to the base folder.
    pub path: EntryPath,
    /// In bytes.
    pub size: u64,
    /// Bytes that have to be sent for it, if it is none of the previous ones.
    pub send_bytes: u64,
}

/// Such files, in a temporary database. Each comes with a mark, by which it is known where it was before.
pub struct Moves {
    scratch: Scratch,
    indexed: bool,
}

impl Moves {
    /// Makes an empty one in a temporary folder in `beside`; it goes when it is dropped.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(beside: &Path) -> Result<Self> {
        Ok(Self { scratch: Scratch::create(beside, "moves-", schema::NEW_PATHS)?, indexed: false })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// The disk is full, or it is there already.
    pub fn add(&self, mark: &[u8], came: &Came) -> Result<()> {
        let Came { path, size, send_bytes } = came;
        self.scratch
            .prepare_cached("INSERT INTO came VALUES(?,?,?,?,?)")
            .and_then(|mut insert| {
                insert.execute(params![
                    path.sort_key(),
                    mark,
                    path.as_bytes(),
                    sql_int(*size),
                    sql_int(*send_bytes)
                ])
            })
            .map(drop)
            .map_err(failed)
    }

    /// Takes the first file with this mark out, if there is one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn take(&mut self, mark: &[u8]) -> Result<Option<Came>> {
        if !self.indexed {
            // Once, when all of them are there.
            self.scratch.execute_batch("CREATE INDEX by_mark ON came(mark, key)").map_err(failed)?;
            self.indexed = true;
        }
        let query = "SELECT path, size, send FROM came WHERE mark=? ORDER BY key LIMIT 1";
        let mut statement = self.scratch.prepare_cached(query).map_err(failed)?;
        let found = statement.query_row([mark], |row| Ok(came_of(row))).optional().map_err(failed)?;
        let Some(came) = found.transpose()? else { return Ok(None) };
        self.scratch
            .prepare_cached("DELETE FROM came WHERE key=?")
            .and_then(|mut delete| delete.execute([came.path.sort_key()]))
            .map_err(failed)?;
        Ok(Some(came))
    }

    /// Gives those that were not taken out, in the order of the walk.
    ///
    /// # Errors
    /// SQLite fails, or `each` does.
    pub fn rest(&self, mut each: impl FnMut(Came) -> Result<ControlFlow<()>>) -> Result<()> {
        let mut statement =
            self.scratch.prepare("SELECT path, size, send FROM came ORDER BY key").map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            if each(came_of(row)?)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn came_of(row: &Row<'_>) -> Result<Came> {
    let read = || -> rusqlite::Result<(Vec<u8>, i64, i64)> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
    let (path, size, send) = read().map_err(failed)?;
    let path = EntryPath::new(path)
        .map_err(|why| Error::new(ErrorKind::Internal, format!("a path that was checked {why}")))?;
    Ok(Came { path, size: from_sql_int(size), send_bytes: from_sql_int(send) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_and_the_rest_is_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut moves = Moves::create(folder.path()).unwrap();
        let came = |path: &str| Came {
            path: EntryPath::new(path.as_bytes()).unwrap(),
            size: path.len() as u64,
            send_bytes: 7,
        };
        for (mark, path) in [("1", "b"), ("1", "a/x"), ("2", "c"), ("3", "a b")] {
            moves.add(mark.as_bytes(), &came(path)).unwrap();
        }
        assert!(moves.add(b"4", &came("c")).is_err(), "twice");
        assert_eq!(moves.take(b"1").unwrap(), Some(came("a/x")));
        assert_eq!(moves.take(b"9").unwrap(), None);
        assert_eq!(moves.take(b"2").unwrap(), Some(came("c")));
        assert_eq!(moves.take(b"2").unwrap(), None);
        let mut rest = Vec::new();
        moves
            .rest(|came| {
                rest.push(came);
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        assert_eq!(rest, [came("a b"), came("b")]);
    }
}
