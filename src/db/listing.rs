//! What a bucket has, on disk, so that its size does not matter. Lists come in the order of the
//! bytes of whole keys; an index is in the order of path components, where a folder stands directly
//! before its contents.

use super::scratch::{Scratch, failed};
use super::{from_sql_int, schema, sql_int};
use crate::archive::path::EntryPath;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{OptionalExtension, Row, params};
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
    /// Whether the list has another object with this path, and how.
    pub clash: Clash,
}

/// How several objects of a list have the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clash {
    /// There is one.
    None,
    /// Their key is the same, and their sizes or ETags are not.
    Content,
    /// Their keys are the same only when they are decoded.
    Key,
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

    /// Whether `other`, which comes directly behind it, is its folder or lies in it: it cannot be a
    /// file then.
    #[must_use]
    pub fn is_folder_of(&self, other: &Self) -> bool {
        let (key, other) = (self.path.sort_key(), other.sort_key());
        !self.is_folder && other.len() > key.len() && other.starts_with(&key) && other[key.len()] == 0
    }
}

/// A list of objects, in a temporary database.
pub struct Listing {
    scratch: Scratch,
}

impl Listing {
    /// Makes an empty list in a temporary folder in `beside`; it goes when it is dropped.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(beside: &Path) -> Result<Self> {
        Ok(Self { scratch: Scratch::create(beside, "listing-", schema::LISTING)? })
    }

    /// Adds an object, whose key the list has as `encoded_key` if that was decoded; false says that
    /// it was there already. Of the same content, what was written last counts: a store may list a
    /// key twice. What differs is a [`Clash`].
    ///
    /// # Errors
    /// The disk is full.
    pub fn add(&self, object: &ListedObject, encoded_key: Option<&str>) -> Result<bool> {
        let key = object.sort_key();
        let (size, etag, modified_ns) = (sql_int(object.size), &object.etag, object.modified_ns);
        let run = |query, params: &[&dyn rusqlite::ToSql]| {
            self.scratch.prepare_cached(query).and_then(|mut statement| statement.execute(params))
        };
        let path = object.path.as_bytes();
        let insert = "INSERT OR IGNORE INTO object VALUES(?,?,?,?,?,?,?,?)";
        let row =
            params![key, path, object.is_folder, size, etag, modified_ns, object.clash as i64, encoded_key];
        if run(insert, row).map_err(failed)? == 1 {
            return Ok(true);
        }
        let update = "UPDATE object SET modified_ns=max(modified_ns, ?2),
                      clash=max(clash, CASE WHEN encoded_key IS NOT ?3 THEN 2 ELSE size<>?4 OR etag<>?5 END)
                      WHERE key=?1";
        run(update, params![key, modified_ns, encoded_key, size, etag]).map_err(failed)?;
        Ok(false)
    }

    /// Whether there is nothing in it.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn is_empty(&self) -> Result<bool> {
        let mut statement = self.scratch.prepare("SELECT 1 FROM object LIMIT 1").map_err(failed)?;
        statement.exists([]).map(|exists| !exists).map_err(failed)
    }

    /// Gives every object, in the order of an index.
    ///
    /// # Errors
    /// SQLite fails, or `each` does.
    pub fn objects(&self, mut each: impl FnMut(ListedObject) -> Result<ControlFlow<()>>) -> Result<()> {
        let query = format!("SELECT {COLUMNS} FROM object ORDER BY key");
        let mut statement = self.scratch.prepare(&query).map_err(failed)?;
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
        let mut statement = self.scratch.prepare_cached(&query).map_err(failed)?;
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
            .scratch
            .prepare_cached("SELECT 1 FROM object WHERE key >= ? AND key < ? LIMIT 1")
            .map_err(failed)?;
        statement.exists([first, behind]).map_err(failed)
    }
}

const COLUMNS: &str = "path, folder, size, etag, modified_ns, clash";

fn object_of(row: &Row<'_>) -> Result<ListedObject> {
    let read = || -> rusqlite::Result<(Vec<u8>, bool, i64, String, i64, i64)> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
    };
    let (path, is_folder, size, etag, modified_ns, clash) = read().map_err(failed)?;
    let clash = match clash {
        0 => Clash::None,
        1 => Clash::Content,
        _ => Clash::Key,
    };
    let path = EntryPath::new(path)
        .map_err(|why| Error::new(ErrorKind::Internal, format!("a path that was checked {why}")))?;
    Ok(ListedObject { path, is_folder, size: from_sql_int(size), etag, modified_ns, clash })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str, is_folder: bool) -> ListedObject {
        let path = EntryPath::new(path.as_bytes()).unwrap();
        ListedObject { path, is_folder, size: 1, etag: "e".into(), modified_ns: -5, clash: Clash::None }
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
        assert!(listed.map(name).iter().all(|object| listing.add(object, None).unwrap()));
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
        // Twice: of the same content the later one counts, in whatever order they come.
        let later = ListedObject { modified_ns: 9, ..object("b", false) };
        for again in [&object("b", false), &later, &object("b", false)] {
            assert!(!listing.add(again, None).unwrap());
        }
        assert_eq!(listing.find(&path("b")).unwrap(), Some(later));
    }

    #[test]
    fn what_differs_under_the_same_path_is_a_clash() {
        let folder = tempfile::tempdir().unwrap();
        let listing = Listing::create(folder.path()).unwrap();
        let other = |path: &str| ListedObject { etag: "other".into(), ..object(path, false) };
        let longer = |path: &str| ListedObject { size: 7, ..object(path, false) };
        let key = |key: &'static str| Some(key);
        let cases = [
            (
                "same",
                [(object("same", false), key("s%61me")), (object("same", false), key("s%61me"))],
                Clash::None,
            ),
            ("etag", [(object("etag", false), None), (other("etag"), None)], Clash::Content),
            ("size", [(object("size", false), None), (longer("size"), None)], Clash::Content),
            ("a b", [(object("a b", false), key("a+b")), (object("a b", false), None)], Clash::Key),
            ("c d", [(object("c d", false), key("c+d")), (other("c d"), key("c%20d"))], Clash::Key),
        ];
        for (name, [first, second], clash) in cases {
            assert!(listing.add(&first.0, first.1).unwrap(), "{name}");
            assert!(!listing.add(&second.0, second.1).unwrap(), "{name}");
            assert!(!listing.add(&first.0, first.1).unwrap(), "{name}");
            let found = listing.find(&EntryPath::new(name.as_bytes()).unwrap()).unwrap().unwrap();
            assert_eq!(found, ListedObject { clash, ..first.0 }, "{name}");
        }
    }
}
