//! SQLite: the index, the sender's progress, the receiver's journal. The only place for rusqlite and SQL.

pub mod generation;
pub mod growing;
pub mod import;
pub mod index_read;
mod index_rows;
pub mod index_write;
pub mod journal;
pub mod listing;
pub mod moves;
pub mod paths;
pub mod progress;
mod running;

use crate::error::{Error, ErrorKind};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use std::fmt;

/// Version of our tables beside `tar`, as long as every file is one range of the archive, in the order of the walk.
pub const INDEX_FORMAT: i64 = 1;

/// The version from the second generation on: files may be scattered, and ids have holes.
pub const INDEX_FORMAT_SCATTERED: i64 = 2;

/// What an index says of its hashes where all files have one ...
const HASH_MD5: &str = "md5";
/// ... and where the user left them out for some.
const HASH_OPTIONAL: &str = "md5, optional";

/// An error of SQLite about `what`; a full disk becomes [`ErrorKind::NoSpace`].
fn db_error(what: impl fmt::Display, error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::NoSpace,
        _ => ErrorKind::Database,
    };
    Error::new(kind, what.to_string()).because(error)
}

/// Else statements with a range are prepared anew for each value: there are no statistics that would give them another plan.
fn keep_plans(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// A path or link target as it is stored: TEXT where it is UTF-8, else BLOB, byte for byte.
fn text_or_blob(bytes: &[u8]) -> ValueRef<'_> {
    if std::str::from_utf8(bytes).is_ok() { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) }
}

/// A number of ours as SQLite keeps it. Sizes and offsets are checked to fit when they enter an index.
fn sql_int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that SQLite gave back; negative ones, which we never write, become 0.
fn from_sql_int(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
