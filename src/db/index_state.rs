//! What an index says of itself when it is complete, and the one end of a write.

use super::file::{make_way, open_private};
use super::meta::Counts;
use super::{INDEX_FORMAT_FRAGMENTED, belonging, db_error, meta};
use crate::archive::change::ChangeEnd;
use crate::error::{Error, Result};
use rusqlite::Connection;
use std::path::Path;
use tempfile::{PathPersistError, TempPath};

/// Writes what a complete index says of itself, whichever way it was made. `content_bytes` are
/// those of all files together.
pub(super) fn seal(
    connection: &Connection,
    end: &ChangeEnd,
    content_bytes: u64,
    generation: u64,
) -> rusqlite::Result<()> {
    let ChangeEnd { format, digest, files, nodes, total_bytes } = *end;
    let format = u64::from(format);
    meta::FORMAT.set(connection, &format)?;
    meta::GENERATION.set(connection, &generation)?;
    meta::DIGEST.set(connection, &digest)?;
    meta::COUNTS.set(connection, &Counts { digest, files, nodes, content_bytes })?;
    match format {
        INDEX_FORMAT_FRAGMENTED => meta::TOTAL.set(connection, &total_bytes)?,
        _ => meta::TOTAL.remove(connection)?,
    }
    meta::COMPLETE.set(connection, &1)
}

/// An error of writing the index `name`.
pub(super) fn failed(name: &Path, error: rusqlite::Error) -> Error {
    db_error(format!("cannot write the index {}", name.display()), error)
}

/// Ends the transaction of `connection`, and closes it.
pub(super) fn close(connection: Connection, name: &Path) -> Result<()> {
    connection.execute_batch("COMMIT").map_err(|e| failed(name, e))?;
    connection.close().map_err(|(_, e)| failed(name, e))
}

/// Brings the index in the file at `path` onto stable storage.
pub(super) fn sync(path: &Path, name: &Path) -> Result<()> {
    std::fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| Error::io(format!("cannot sync the index {}", name.display()), e))
}

/// Gives the index in `partial` the name `target`, in the place of an older one, in one step.
pub(super) fn put_in_place(partial: TempPath, target: &Path) -> Result<()> {
    make_way(target)?;
    let failed = |e: PathPersistError| {
        Error::io(format!("cannot give the index its name {}", target.display()), e.error)
    };
    partial.persist(target).map_err(failed)
}

/// Changes the index at `path`, which only the caller uses, in one transaction. The rows of `tar`
/// stay as they are. `name` stands for the index in messages.
pub(super) fn edit(path: &Path, name: &Path, change: impl FnOnce(&Connection) -> Result<()>) -> Result<()> {
    let connection = open_private(path).map_err(|e| failed(name, e))?;
    connection.execute_batch("BEGIN").map_err(|e| failed(name, e))?;
    change(&connection)?;
    belonging::expect_write(&connection).map_err(|e| failed(name, e))?;
    close(connection, name)
}
