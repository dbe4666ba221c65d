//! What of an index goes to a receiver: not what is of use only where it was made.

use super::super::belonging;
use super::super::db_error;
use super::super::file::{checkpoint, open_private, open_to_read};
use super::super::index_read::IndexReader;
use super::super::schema::{CHUNK_MAP_NAME, PRIVATE};
use crate::error::{Error, Result};
use std::path::Path;

/// A copy of the index at `path` without its private tables, in the folder `scratch`; `None` if it
/// has none of them. `chunk_maps` go with it if the receiver is to compare by them.
///
/// # Errors
/// The index cannot be read, or the folder cannot be written to.
pub fn without_private(path: &Path, scratch: &Path, chunk_maps: bool) -> Result<Option<tempfile::TempPath>> {
    let failed = |e| db_error(format!("cannot copy the index {}", path.display()), e);
    checkpoint(path)?;
    let ours = IndexReader::open(path)?.is_ours();
    let find = || -> rusqlite::Result<Vec<String>> {
        let connection = open_to_read(path)?;
        let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type='table'")?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    let mut there = find().map_err(failed)?;
    // Our tables say nothing true of rows that another program has replaced.
    let is_stale = |name: &str| !ours && name.starts_with("tarlike_");
    // Chunk maps do not compress, and a receiver that does not know these tables refuses the index.
    let is_private = |name: &str| PRIVATE.contains(&name) && !(chunk_maps && name == CHUNK_MAP_NAME);
    there.retain(|name| is_private(name) || is_stale(name));
    if there.is_empty() {
        return Ok(None);
    }
    let io = |e: std::io::Error| {
        let what = format!(
            "cannot copy the index {} into the temporary folder {}",
            path.display(),
            scratch.display()
        );
        Error::io(what, e).with_hint("set TMPDIR to a folder with as much free space as the index has")
    };
    let mut from = std::fs::File::open(path).map_err(io)?;
    let mut to = tempfile::NamedTempFile::new_in(scratch).map_err(io)?;
    std::io::copy(&mut from, to.as_file_mut()).map_err(io)?;
    let copy = to.into_temp_path();
    let strip = || -> rusqlite::Result<()> {
        let connection = open_private(&copy)?;
        connection.execute_batch("PRAGMA secure_delete=ON; BEGIN;")?;
        for table in &there {
            connection.execute_batch(&format!("DROP TABLE \"{}\"", table.replace('"', "\"\"")))?;
        }
        // Rows must keep their numbers, which a VACUUM may change where a table has no key: what is
        // free is zeroed instead, and costs nothing once it is compressed.
        if ours {
            belonging::expect_write(&connection)?;
        }
        connection.execute_batch("COMMIT")?;
        connection.close().map_err(|(_, e)| e)
    };
    strip().map_err(failed)?;
    Ok(Some(copy))
}
