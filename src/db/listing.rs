//! What a bucket has, on disk, so that its size does not matter. Lists come in the order of the bytes of whole keys; an index is
//! in the order of path components, where a folder stands directly before its contents.

use super::{db_error, from_sql_int, sql_int};
use crate::archive::path::EntryPath;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::ops::ControlFlow;
use std::path::Path;

/// An object that has a legal path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Relative to the prefix; of a folder's key without the `/` at its end.
    pub path: EntryPath,
    /// Its key ends in `/`: it stands for a folder.
    pub is_folder: bool,
    /// In bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was written, in nanoseconds since 1970.
    pub modified_ns: i64,
}

impl ListedObject {
    fn sort_key(&self) -> Vec<u8> {
        let mut key = self.path.sort_key();
        if self.is_folder {
            // Behind a file of the same name, before all that is in the folder.
            key.push(0);
        }
        key
    }

    /// Whether `other`, which comes directly behind it, is its folder or lies in it: it cannot be a file then.
    #[must_use]
    pub fn is_folder_of(&self, other: &Self) -> bool {
        let (key, other) = (self.path.sort_key(), other.sort_key());
        !self.is_folder && other.len() > key.len() && other.starts_with(&key) && other[key.len()] == 0
    }
}

/// A list of objects, in a temporary database.
pub struct Listing {
    connection: Connection,
    _folder: tempfile::TempDir,
}

fn failed(error: rusqlite::Error) -> Error {
    db_error("cannot use a temporary database for the list of the bucket", error)
}

impl Listing {
    /// Makes an empty list in a temporary folder in `beside`; it goes when it is dropped.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(beside: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("listing-")
            .tempdir_in(beside)
            .map_err(|e| Error::io(format!("cannot make a temporary folder in {}", beside.display()), e))?;
        let connection = Connection::open(folder.path().join("listing")).map_err(failed)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8000; PRAGMA temp_store=FILE;
                 CREATE TABLE object(key BLOB PRIMARY KEY, path BLOB NOT NULL, folder INT NOT NULL, size INT NOT NULL,
                                     etag TEXT NOT NULL, modified_ns INT NOT NULL) WITHOUT ROWID;
                 BEGIN;",
            )
            .map_err(failed)?;
        Ok(Self { connection, _folder: folder })
    }

    /// Adds an object.
    ///
    /// # Errors
    /// The disk is full, or it is there already.
    pub fn add(&self, object: &ListedObject) -> Result<()> {
        self.connection
            .prepare_cached("INSERT INTO object VALUES(?,?,?,?,?,?)")
            .and_then(|mut statement| {
                statement.execute(params![
                    object.sort_key(),
                    object.path.as_bytes(),
                    object.is_folder,
                    sql_int(object.size),
                    object.etag,
                    object.modified_ns
                ])
            })
            .map(drop)
            .map_err(failed)
    }

    /// Whether there is nothing in it.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn is_empty(&self) -> Result<bool> {
        let mut statement = self.connection.prepare("SELECT 1 FROM object LIMIT 1").map_err(failed)?;
        statement.exists([]).map(|exists| !exists).map_err(failed)
    }

    /// Gives every object, in the order of an index.
    ///
    /// # Errors
    /// SQLite fails, or `each` does.
    pub fn objects(&self, mut each: impl FnMut(ListedObject) -> Result<ControlFlow<()>>) -> Result<()> {
        let query = format!("SELECT {COLUMNS} FROM object ORDER BY key");
        let mut statement = self.connection.prepare(&query).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            if each(object_of(row)?)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The object that is a file at `path`, and is no folder of another one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn find(&self, path: &EntryPath) -> Result<Option<ListedObject>> {
        let query = format!("SELECT {COLUMNS} FROM object WHERE key=?");
        let mut statement = self.connection.prepare_cached(&query).map_err(failed)?;
        let found = statement.query_row([path.sort_key()], |row| Ok(object_of(row))).optional();
        found.map_err(failed)?.transpose()
    }

    /// Whether there is an object in the folder `path`, or one that stands for it.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn has_folder(&self, path: &EntryPath) -> Result<bool> {
        let key = path.sort_key();
        let (first, behind) = ([&key[..], &[0]].concat(), [&key[..], &[1]].concat());
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM object WHERE key >= ? AND key < ? LIMIT 1")
            .map_err(failed)?;
        statement.exists([first, behind]).map_err(failed)
    }
}

const COLUMNS: &str = "path, folder, size, etag, modified_ns";

fn object_of(row: &Row<'_>) -> Result<ListedObject> {
    let read = || -> rusqlite::Result<(Vec<u8>, bool, i64, String, i64)> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
    };
    let (path, is_folder, size, etag, modified_ns) = read().map_err(failed)?;
    let path = EntryPath::new(path)
        .map_err(|why| Error::new(ErrorKind::Internal, format!("a path that was checked {why}")))?;
    Ok(ListedObject { path, is_folder, size: from_sql_int(size), etag, modified_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str, is_folder: bool) -> ListedObject {
        let path = EntryPath::new(path.as_bytes()).unwrap();
        ListedObject { path, is_folder, size: 1, etag: "e".into(), modified_ns: -5 }
    }

    #[test]
    fn the_order_is_that_of_an_index_and_conflicts_are_neighbours() {
        let folder = tempfile::tempdir().unwrap();
        let listing = Listing::create(folder.path()).unwrap();
        // As a bucket lists them.
        let listed = [
            ("a", false),
            ("a b", false),
            ("a.d/x", false),
            ("a/", true),
            ("a/x", false),
            ("b", false),
            ("b0", false),
        ];
        let name = |(path, is_folder): (&str, bool)| object(path.trim_end_matches('/'), is_folder);
        listed.map(name).iter().for_each(|object| listing.add(object).unwrap());
        let mut found = Vec::new();
        listing
            .objects(|object| {
                found.push(object);
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        let expected = [
            ("a", false),
            ("a/", true),
            ("a/x", false),
            ("a b", false),
            ("a.d/x", false),
            ("b", false),
            ("b0", false),
        ];
        assert_eq!(found, expected.map(name));
        let conflicts: Vec<bool> = found.windows(2).map(|pair| pair[0].is_folder_of(&pair[1])).collect();
        assert_eq!(conflicts, [true, false, false, false, false, false]);
        assert!(object("a", false).is_folder_of(&object("a/x/y", false)));

        let path = |path: &str| EntryPath::new(path.as_bytes()).unwrap();
        assert_eq!(listing.find(&path("a/x")).unwrap(), Some(object("a/x", false)));
        assert_eq!(listing.find(&path("a.d")).unwrap(), None);
        assert!(listing.has_folder(&path("a.d")).unwrap() && listing.has_folder(&path("a")).unwrap());
        assert!(!listing.has_folder(&path("b")).unwrap());
        assert!(listing.add(&object("b", false)).is_err(), "twice");
    }
}
