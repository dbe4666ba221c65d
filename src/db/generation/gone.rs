//! What an index that takes the place of another one has to remember of it, so that it can be deleted later.

use super::super::index_write::META;
use super::super::{db_error, sql_int};
use super::editor::GONE_TABLES;
use crate::error::Result;
use rusqlite::{Connection, OptionalExtension, params};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where a file was in an archive that is no more means nothing: its row reads as that of a scattered file without extents.
const FILES: &str = "INSERT INTO tarlike_gone(id, path, size, offset, offset_end, hash, blake3, mode, mtime_ns, uid, gid, died)";
/// Ids of remembered rows that were rows of another index begin here. No file of an index has such a high one.
pub(super) const REMEMBERED_IDS: i64 = 1 << 62;

/// The ids of such rows; stands before the columns of the row.
fn ids() -> String {
    format!(
        "max({REMEMBERED_IDS}, (SELECT coalesce(max(id), 0) FROM main.tarlike_gone)) + row_number() OVER ()"
    )
}

/// On a receiver: 1 if the newest change took a generation back.
pub(in super::super) const TAKEN_BACK: &str = "taken_back";

/// Notes on the index at `path`, which nobody reads yet, which generation its newest change took back, if it did.
///
/// # Errors
/// SQLite fails.
pub fn note_taken_back(path: &Path, taken_back: Option<u64>) -> Result<()> {
    let run = || -> rusqlite::Result<()> {
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")?;
        connection.execute(META, params![TAKEN_BACK, sql_int(taken_back.unwrap_or(0))])?;
        connection.close().map_err(|(_, e)| e)
    };
    run().map_err(|e| db_error(format!("cannot write the index {}", path.display()), e))
}

const NODES: &str = "INSERT OR REPLACE INTO tarlike_gone_node";

/// Has the index at `path`, which nobody reads yet, remember the files, directories and links of the index at `former`, and what that
/// one remembered. Those that it has itself count only when they are gone from it.
///
/// # Errors
/// SQLite fails.
pub fn remember_gone(path: &Path, former: &Path) -> Result<()> {
    let run = || -> rusqlite::Result<()> {
        let connection = Connection::open(path)?;
        connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")?;
        connection.execute("ATTACH ? AS former", params![former.as_os_str().as_bytes()])?;
        connection.execute_batch(&format!(
            "BEGIN; {GONE_TABLES} CREATE INDEX IF NOT EXISTS idx_tar_path ON tar(path);"
        ))?;
        let ids = ids();
        let absent = "NOT EXISTS(SELECT 1 FROM main.tar t WHERE t.path = o.path)";
        connection.execute_batch(&format!(
            "{FILES} SELECT {ids}, path, size, 0, -1, hash, blake3, mode, mtime_ns, uid, gid, 0
             FROM former.tar o LEFT JOIN former.tarlike_file f ON f.id = o.id WHERE {absent};
             {NODES} SELECT path, kind, target, mode, mtime_ns, uid, gid, 0 FROM former.tarlike_node o WHERE {absent};"
        ))?;
        let known = "SELECT 1 FROM former.sqlite_schema WHERE type='table' AND name='tarlike_gone'";
        if connection.query_row(known, [], |_| Ok(())).optional()?.is_some() {
            connection.execute_batch(&format!(
                "{FILES} SELECT {ids}, path, size, 0, -1, hash, blake3, mode, mtime_ns, uid, gid, died FROM former.tarlike_gone o WHERE {absent};
                 {NODES} SELECT * FROM former.tarlike_gone_node o WHERE {absent};"
            ))?;
        }
        connection.execute_batch("COMMIT; DETACH former;")?;
        connection.close().map_err(|(_, e)| e)
    };
    run().map_err(|e| db_error(format!("cannot write the index {}", path.display()), e))
}

/// Has an index remember its own rows, whose ids may get other meanings.
pub(in super::super) fn remember_own(connection: &Connection) -> rusqlite::Result<()> {
    let tx = connection.unchecked_transaction()?;
    tx.execute_batch(GONE_TABLES)?;
    let ids = ids();
    tx.execute_batch(&format!(
        "CREATE INDEX IF NOT EXISTS tarlike_gone_path ON tarlike_gone(path);
         {FILES} SELECT {ids}, path, size, 0, -1, hash, blake3, mode, mtime_ns, uid, gid, 0
         FROM tar o LEFT JOIN tarlike_file f ON f.id = o.id
         WHERE hash IS NOT NULL AND NOT EXISTS(SELECT 1 FROM tarlike_gone g WHERE g.path = o.path AND g.hash = o.hash AND g.size = o.size);
         {NODES} SELECT path, kind, target, mode, mtime_ns, uid, gid, 0 FROM tarlike_node;"
    ))?;
    tx.commit()
}
