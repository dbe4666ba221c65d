//! The index of a dry run that reads contents.

use crate::engine::index::IndexOptions;
use crate::error::{Error, Result};
use std::path::PathBuf;

/// A temporary index. A dry run changes nothing, the kept index included; so it works on a copy of
/// that, or on a fresh index.
pub(super) struct DryIndex {
    folder: tempfile::TempDir,
    is_copy: bool,
}

impl DryIndex {
    /// Copies the index that `kept` names, if there is one and `kept` goes on with it.
    ///
    /// # Errors
    /// The temporary folder cannot be written to, or the index cannot be read.
    pub(super) fn new(kept: &IndexOptions) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("cannot make a temporary folder", e))?;
        let is_copy = kept.reuse && kept.database.exists();
        let index = Self { folder, is_copy };
        if is_copy {
            std::fs::copy(&kept.database, index.path())
                .map_err(|e| Error::io(format!("cannot copy the index {}", kept.database.display()), e))?;
        }
        Ok(index)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("index.sqlite")
    }

    /// Whether it began as a copy of the kept index.
    pub(super) fn is_copy(&self) -> bool {
        self.is_copy
    }
}
