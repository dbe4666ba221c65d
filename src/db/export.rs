//! A receiver's index as a sender could have sent it: without tombstones and whatever else is of
//! use only there.

use super::db_error;
use super::file::open_private;
use super::generation;
use super::index_read::IndexReader;
use super::index_write::{IndexWriter, Written};
use super::schema::RECEIVED;
use crate::error::Result;
use crate::unix_time::now_s;
use std::ops::ControlFlow;
use std::path::Path;

/// Copies the sealed index at `path` into a new one at `target`.
///
/// # Errors
/// The index cannot be read, or the copy cannot be written.
pub fn export(path: &Path, target: &Path) -> Result<Written> {
    let reader = IndexReader::open(path)?;
    if reader.is_fragmented() {
        let written = generation::copy_rows(&reader, target, 1, now_s())?;
        strip(target).map_err(|e| db_error(format!("cannot write the index {}", target.display()), e))?;
        return Ok(written);
    }
    let mut writer = IndexWriter::create(target)?;
    reader.files(|file| writer.file(&file).map(ControlFlow::Continue))?;
    reader.nodes(|node| writer.node(&node).map(ControlFlow::Continue))?;
    writer.finish(b"", 1, now_s())
}

/// Removes the tables that no index has which comes from a sender.
fn strip(path: &Path) -> rusqlite::Result<()> {
    let connection = open_private(path)?;
    for table in RECEIVED {
        connection.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    connection.close().map_err(|(_, e)| e)
}
