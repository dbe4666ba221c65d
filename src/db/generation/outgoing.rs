//! What of an index goes to a receiver: not what is of use only where it was made.

use super::super::db_error;
use crate::error::{Error, Result};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// Sketches do not compress, and a receiver that does not know these tables refuses the index.
const SKETCHES: &str = "tarlike_sketch";
const HISTORY: [&str; 3] = ["tarlike_generation", "tarlike_change", "tarlike_former"];

/// A copy of the index at `path` without its private tables, in the folder `scratch`; `None` if it has none of them. `sketches` go with it
/// if the receiver is to compare by them.
///
/// # Errors
/// The index cannot be read, or the folder cannot be written to.
pub fn without_private(path: &Path, scratch: &Path, sketches: bool) -> Result<Option<tempfile::TempPath>> {
    let failed = |e| db_error(format!("cannot copy the index {}", path.display()), e);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let find = || -> rusqlite::Result<Vec<String>> {
        let connection = Connection::open_with_flags(path, flags)?;
        let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type='table'")?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    let mut there = find().map_err(failed)?;
    there.retain(|name| HISTORY.contains(&&**name) || (name == SKETCHES && !sketches));
    if there.is_empty() {
        return Ok(None);
    }
    let io = |e: std::io::Error| {
        Error::io(format!("cannot copy the index {} into the temporary folder", path.display()), e)
            .hint("set TMPDIR to a folder with as much free space as the index has")
    };
    let mut from = std::fs::File::open(path).map_err(io)?;
    let mut to = tempfile::NamedTempFile::new_in(scratch).map_err(io)?;
    std::io::copy(&mut from, to.as_file_mut()).map_err(io)?;
    let copy = to.into_temp_path();
    let strip = || -> rusqlite::Result<()> {
        let connection = Connection::open(&copy)?;
        connection
            .execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA secure_delete=ON;")?;
        for table in &there {
            // One of the names above.
            connection.execute_batch(&format!("DROP TABLE {table}"))?;
        }
        // Rows must keep their numbers, which a VACUUM may change where a table has no key: what is free is zeroed instead, and costs nothing
        // once it is compressed.
        connection.close().map_err(|(_, e)| e)
    };
    strip().map_err(failed)?;
    Ok(Some(copy))
}
