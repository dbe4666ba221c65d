//! What an index notes of its source as a whole, in no row and in no digest: the identity of the
//! source, and owner, permissions and time of the top folder, whose path would be empty.

use super::file::open_shared;
use super::index_read::{IndexReader, Summary};
use super::meta::{self, Key, Stored};
use super::{belonging, index_state};
use crate::archive::entry::Meta;
use crate::archive::source::SourceId;
use crate::error::Result;
use rusqlite::Connection;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long other programs may use the index meanwhile.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Notes in the index at `path`, which is one of ours, how the folder was; nothing is written where
/// it says so already.
///
/// # Errors
/// SQLite fails.
pub fn set_top(path: &Path, top: &Meta) -> Result<()> {
    if IndexReader::open(path)?.top()? == Some(*top) { Ok(()) } else { set(path, &meta::TOP, top) }
}

/// Notes in the index at `path` that it is of `source`. Nothing is written if it is not one of
/// ours, or names a source already.
///
/// # Errors
/// SQLite fails.
pub fn set_source(path: &Path, source: &SourceId) -> Result<()> {
    let index = IndexReader::open(path)?;
    if !index.is_ours() || index.source_id()?.is_some() {
        return Ok(());
    }
    drop(index);
    set(path, &meta::SOURCE, source)
}

fn set<T: Stored>(path: &Path, key: &Key<T>, value: &T) -> Result<()> {
    let begin = || -> rusqlite::Result<Connection> {
        let connection = open_shared(path, LOCK_TIMEOUT)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        key.set(&connection, value)?;
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

    /// How the folder was in `generation`, of which the present one was made, where the index says so.
    ///
    /// # Errors
    /// SQLite fails.
    pub(super) fn top_of(&self, generation: u64) -> Result<Option<Meta>> {
        if self.is_ours() { self.meta(&meta::top_of(generation)) } else { Ok(None) }
    }

    /// Which source the index is of, if it says so.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn source_id(&self) -> Result<Option<SourceId>> {
        if self.is_ours() { self.meta(&meta::SOURCE) } else { Ok(None) }
    }

    /// The folder, file, device or address of a bucket that was indexed, if the index says so.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn base(&self) -> Result<Option<PathBuf>> {
        let base = if self.is_ours() { self.meta(&meta::BASE)? } else { None };
        Ok(base.filter(|base| !base.is_empty()).map(|base| PathBuf::from(OsString::from_vec(base))))
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
