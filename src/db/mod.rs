//! SQLite: the index, the sender's progress, the receiver's journal. The only place for rusqlite
//! and SQL.

mod belonging;
pub mod export;
pub mod file;
pub mod generation;
pub mod growing;
pub mod import;
pub mod index_read;
mod index_rows;
mod index_state;
pub mod index_write;
pub mod journal;
pub mod listing;
mod meta;
pub mod new_paths;
pub mod paths;
pub mod progress;
mod running;
mod schema;
mod scratch;
pub mod top;

use crate::error::{Error, ErrorKind, Result};
use rusqlite::config::DbConfig;
use rusqlite::types::{ToSqlOutput, ValueRef};
use std::fmt;
use std::path::Path;

/// Version of our tables beside `tar`, as long as every file is one range of the archive, in the
/// order of the walk.
const INDEX_FORMAT: u64 = 1;

/// The version from the second generation on: files may be fragmented, and ids have holes.
const INDEX_FORMAT_FRAGMENTED: u64 = 2;

/// An error of SQLite about `what`; a full disk becomes [`ErrorKind::NoSpace`].
fn db_error(what: impl fmt::Display, error: rusqlite::Error) -> Error {
    // SQLite has the same code for a disk that fails, and for a file that may not become larger.
    if error.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE)
        && let Some(error) = Error::over_limit(&what)
    {
        return error;
    }
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::NoSpace,
        _ => ErrorKind::Database,
    };
    let is_locked = error.sqlite_error_code().is_some_and(is_locked);
    let is_cut = is_cut(&error);
    let is_full = kind == ErrorKind::NoSpace;
    let error = Error::new(kind, what.to_string()).with_source(error);
    match (is_locked, is_full) {
        (true, _) => error.with_hint(LOCKED_HINT),
        (_, true) => error.of_this_host(),
        _ if is_cut => error.with_hint(CUT_HINT),
        _ => error,
    }
}

const CUT_HINT: &str = "a run that was killed has left its last write half done; run the same command once as a user who may write to \
     the file and its folder";

const LOCKED_HINT: &str = "another program has it open; run the same command again when that has ended";

/// Whether a database was found as a write that was cut left it, by a reader who may not mend that.
fn is_cut(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_READONLY_CANTINIT, SQLITE_READONLY_RECOVERY, SQLITE_READONLY_ROLLBACK};
    let codes = [SQLITE_READONLY_ROLLBACK, SQLITE_READONLY_RECOVERY, SQLITE_READONLY_CANTINIT];
    error.sqlite_error().is_some_and(|e| codes.contains(&e.extended_code))
}

/// Whether another process keeps the file for itself: there is nothing wrong with it then.
fn is_locked(code: rusqlite::ErrorCode) -> bool {
    matches!(code, rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
}

/// Whether `error` says that a database was read and is not what it was when it was written, rather
/// than that it could not be read.
#[must_use]
pub fn is_damage(error: &Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    match error.cause::<rusqlite::Error>() {
        // The last one is about a table or column that is not there.
        Some(rusqlite::Error::SqliteFailure(e, _)) => {
            matches!(e.code, DatabaseCorrupt | NotADatabase | Unknown)
        }
        Some(_) => true,
        None => error.kind() == ErrorKind::BadIndex,
    }
}

/// Whether `error` says that SQLite found one of our own databases damaged while it was in use.
#[must_use]
pub fn is_corrupt(error: &Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let code = error.cause::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    error.kind() == ErrorKind::Database && matches!(code, Some(DatabaseCorrupt | NotADatabase))
}

/// Otherwise SQLite prepares statements with a range again for each value: no statistics
/// would give them another plan.
fn keep_plans(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// A path or link target as it is stored: TEXT where it is UTF-8, else BLOB, byte for byte.
fn text_or_blob(bytes: &[u8]) -> ToSqlOutput<'_> {
    let is_text = std::str::from_utf8(bytes).is_ok();
    ToSqlOutput::Borrowed(if is_text { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) })
}

/// A number of ours as SQLite keeps it. Sizes and offsets are checked to fit when they enter an
/// index.
fn sql_int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that SQLite gave back; negative ones, which we never write, become 0.
fn from_sql_int(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Refuses what is there and no file.
///
/// # Errors
/// It is a folder, or something else that cannot be an index.
pub fn check_file(database: &Path) -> Result<()> {
    match std::fs::metadata(database) {
        Ok(meta) if !meta.is_file() => {
            let kind = if meta.is_dir() { "a folder" } else { "no regular file" };
            let what = format!("{} is {kind}, and cannot be an index", database.display());
            Err(Error::new(ErrorKind::Usage, what).with_hint("give -db the name of a file"))
        }
        _ => Ok(()),
    }
}
