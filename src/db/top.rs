//! How the folder itself was that an index is of: it has no row, since its path would be empty. A value of `tarlike_meta`, which no digest
//! names, and which whoever does not know it leaves alone.

use super::index_read::{IndexReader, Summary};
use super::index_write::META;
use super::{belonging, db_error};
use crate::archive::entry::Meta;
use crate::error::Result;
use rusqlite::{Connection, params};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Four numbers: mode, owner, group, and time in nanoseconds since 1970.
pub(super) const KEY: &str = "top";

const PATIENCE: Duration = Duration::from_secs(10);

/// Notes in the index at `path`, which is one of ours, how the folder was; nothing is written where it says so already.
///
/// # Errors
/// SQLite fails.
pub fn note_top(path: &Path, top: &Meta) -> Result<()> {
    if IndexReader::open(path)?.top()? == Some(*top) {
        return Ok(());
    }
    let Meta { mode, mtime_ns, uid, gid } = top;
    let run = || -> rusqlite::Result<()> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(PATIENCE)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute(META, params![KEY, format!("{mode} {uid} {gid} {mtime_ns}")])?;
        belonging::expect_write(&connection)?;
        connection.execute_batch("COMMIT")?;
        connection.close().map_err(|(_, e)| e)
    };
    run().map_err(|e| db_error(format!("cannot write the index {}", path.display()), e))
}

impl IndexReader {
    /// Owner, permissions and time of the folder that was indexed, where the index says so.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn top(&self) -> Result<Option<Meta>> {
        let value = if self.is_ours() { self.meta_bytes(KEY)? } else { None };
        Ok(value.and_then(|value| parse(&value)))
    }

    /// Whether a file, a device or an object alone was indexed, and no folder. The index says so by its only path, which is that of its
    /// base; the same of a folder whose only file has its name is told by what is noted of the folder.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn is_of_one_file(&self, summary: &Summary) -> Result<bool> {
        let Some(base) = &summary.base else { return Ok(false) };
        if base.is_dir() || (summary.files, summary.nodes) != (1, 0) {
            return Ok(base.exists() && !base.is_dir());
        }
        let (base, mut is_one) = (base.as_os_str().as_bytes(), false);
        self.files(|file| {
            let folder = base.strip_suffix(file.path.as_bytes());
            is_one = folder.is_some_and(|folder| folder.ends_with(b"/"));
            Ok(ControlFlow::Break(()))
        })?;
        Ok(is_one && self.top()?.is_none())
    }
}

/// What [`note_top`] has written; nothing where somebody else wrote something else.
fn parse(value: &[u8]) -> Option<Meta> {
    let mut numbers = std::str::from_utf8(value).ok()?.split(' ');
    let (mode, uid, gid) = (numbers.next()?, numbers.next()?, numbers.next()?);
    let (mode, uid, gid): (u32, u32, u32) = (mode.parse().ok()?, uid.parse().ok()?, gid.parse().ok()?);
    let mtime_ns = numbers.next()?.parse().ok()?;
    (numbers.next().is_none() && mode <= 0o7777).then_some(Meta { mode, mtime_ns, uid, gid })
}
