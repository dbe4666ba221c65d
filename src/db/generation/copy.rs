//! A private copy of an index, to be changed and put in its place, or dropped.

use super::super::file::{checkpoint, folder_of};
use crate::archive::path::PARTIAL_INFIX;
use crate::error::{Error, Result};
use std::path::Path;

/// A copy of the index `database` beside it.
pub(super) fn copy(database: &Path) -> Result<tempfile::TempPath> {
    copy_to(database, folder_of(database))
}

/// A copy of the index `database` in `folder`.
pub(super) fn copy_to(database: &Path, folder: &Path) -> Result<tempfile::TempPath> {
    let what = || format!("cannot copy the index {}", database.display());
    let mut prefix = database.file_name().unwrap_or_default().to_os_string();
    prefix.push(PARTIAL_INFIX);
    checkpoint(database)?;
    let mut from = std::fs::File::open(database).map_err(|e| Error::io(what(), e))?;
    let mode = from.metadata().map_err(|e| Error::io(what(), e))?.permissions();
    let mut to = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(mode)
        .tempfile_in(folder)
        .map_err(|e| Error::io(what(), e).with_hint(format!("may you write to {}?", folder.display())))?;
    std::io::copy(&mut from, to.as_file_mut()).map_err(|e| Error::io(what(), e))?;
    Ok(to.into_temp_path())
}
