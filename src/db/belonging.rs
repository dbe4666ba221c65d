//! Which rows of `tar` our tables belong to. The original program replaces `tar` in an index of
//! ours and leaves our tables as they are: then these say nothing true any more.
//!
//! An index that was made here has the digest of its rows, and the change counter that the file had
//! then (bytes 24 to 27 of any SQLite file). As long as the counter is the same, no program has
//! written to the file. Otherwise the digest decides, or the digest of the whole index, which
//! earlier versions keep right and the digest of the rows not.

use super::{meta, sql_int};
use crate::archive::digest::{Blake3, Blake3Hasher};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use std::os::unix::fs::FileExt;

/// Names the rows. To be called with all of them in place, in the transaction that is the last one
/// to write to the file.
pub(super) fn name_rows(connection: &Connection) -> rusqlite::Result<()> {
    meta::ROWS.set(connection, &digest(connection)?)?;
    expect_write(connection)
}

/// Removes the name of the rows: a receiver's own index needs none.
pub(super) fn forget(connection: &Connection) -> rusqlite::Result<()> {
    meta::ROWS.remove(connection)?;
    meta::COUNTER.remove(connection)
}

/// Says that this transaction is ours. To be called in each later one, where the rows stay as they
/// are.
pub(super) fn expect_write(connection: &Connection) -> rusqlite::Result<()> {
    match counter(connection) {
        Some(counter) if meta::ROWS.is_in(connection, "main")? => {
            meta::COUNTER.set(connection, &u64::from(counter.wrapping_add(1)))
        }
        _ => meta::COUNTER.remove(connection),
    }
}

/// Whether the rows are those that were named. An index that does not name them is believed.
pub(super) fn is_ours(connection: &Connection) -> rusqlite::Result<bool> {
    if !meta::ROWS.is_in(connection, "main")? {
        return Ok(true);
    }
    let now = counter(connection).map(u64::from);
    if now.is_some() && meta::COUNTER.get(connection)? == now {
        return Ok(true);
    }
    Ok(meta::ROWS.get(connection)? == Some(digest(connection)?))
}

/// The change counter in the file's header.
fn counter(connection: &Connection) -> Option<u32> {
    let file = std::fs::File::open(connection.path().filter(|path| !path.is_empty())?).ok()?;
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 24).ok()?;
    Some(u32::from_be_bytes(bytes))
}

/// BLAKE3 over the values of all rows, each behind what it is and how long it is.
fn digest(connection: &Connection) -> rusqlite::Result<Blake3> {
    let query = "SELECT id, path, size, offset, offset_end, hash FROM tar ORDER BY rowid";
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    let (mut hasher, mut bytes) = (Blake3Hasher::default(), Vec::new());
    while let Some(row) = rows.next()? {
        for column in 0..6 {
            match row.get_ref(column)? {
                ValueRef::Null => bytes.push(b'n'),
                ValueRef::Integer(number) => {
                    bytes.push(b'i');
                    bytes.extend(number.to_le_bytes());
                }
                ValueRef::Real(number) => {
                    bytes.push(b'r');
                    bytes.extend(number.to_le_bytes());
                }
                ValueRef::Text(text) | ValueRef::Blob(text) => {
                    bytes.push(b't');
                    bytes.extend(sql_int(text.len() as u64).to_le_bytes());
                    bytes.extend(text);
                }
            }
        }
        if bytes.len() > 1 << 16 {
            hasher.update(&bytes);
            bytes.clear();
        }
    }
    hasher.update(&bytes);
    Ok(hasher.finish())
}
