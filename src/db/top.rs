//! The top folder: owner, permissions and time of the folder that an index is of. It has no row,
//! since its path would be empty, and is in no digest.

use super::file::open_shared;
use super::index_read::{IndexReader, Summary};
use super::{belonging, index_state, meta};
use crate::archive::entry::Meta;
use crate::error::Result;
use rusqlite::Connection;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// How long other programs may use the index meanwhile.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Notes in the index at `path`, which is one of ours, how the folder was; nothing is written where
/// it says so already.
///
/// # Errors
/// SQLite fails.
pub fn set_top(path: &Path, top: &Meta) -> Result<()> {
    if IndexReader::open(path)?.top()? == Some(*top) {
        return Ok(());
    }
    let begin = || -> rusqlite::Result<Connection> {
        let connection = open_shared(path, LOCK_TIMEOUT)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        meta::TOP.set(&connection, top)?;
        belonging::expect_write(&connection)?;
        Ok(connection)
    };
    index_state::close(begin().map_err(|e| index_state::failed(path, e))?, path)
}

impl IndexReader {
    /// Owner, permissions and time of the folder that was indexed, where the index says so.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn top(&self) -> Result<Option<Meta>> {
        if self.is_ours() { self.meta(&meta::TOP) } else { Ok(None) }
    }

    /// Whether a file, a device or an object alone was indexed, and no folder. The index says so by
    /// its only path, which is that of its base; the same of a folder whose only file has its name
    /// is told by what is noted of the folder.
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
