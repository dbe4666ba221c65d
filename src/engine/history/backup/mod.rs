//! The backup of an index as a file ([`crate::archive::backup`] has the format): opening, reading, appending, and laying it out afresh.

mod append;
mod compact;
mod open;
mod read;
#[cfg(test)]
mod tests;

pub use append::Record;
pub use read::{Intact, Payload};

use crate::archive::backup::{Lineage, Slot};
use crate::error::{Error, ErrorKind};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A backup, open and locked: for one who writes, or any number who read.
pub struct BackupFile {
    file: File,
    path: PathBuf,
    lineage: Lineage,
    /// The slot that counts, and which of the two it is.
    slot: Option<(usize, Slot)>,
    damage: Option<Damage>,
    /// The damaged part says that the index went back to this version, or to one before it: what the whole records have above it was
    /// abandoned.
    rewound_to: Option<u64>,
}

/// What was found wrong with a backup when it was opened. Everything before it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Something behind the last record, which an interrupted run has left: it never counted.
    Unfinished {
        /// Where it begins, in bytes from the start of the file.
        at: u64,
    },
    /// Records that counted are cut off or altered.
    Lost {
        /// Where the first of them begins, in bytes from the start of the file.
        at: u64,
        /// The version that was the newest one.
        newest: u64,
    },
}

impl BackupFile {
    /// Its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its whole records.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// What is wrong with it, if anything.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        self.damage
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's error.
    pub fn length(&self) -> crate::error::Result<u64> {
        self.file.metadata().map(|meta| meta.len()).map_err(|e| self.io("read", e))
    }

    /// Where the last whole record ends.
    fn end(&self) -> u64 {
        self.lineage.records().last().map_or(crate::archive::backup::RECORDS, |last| last.payload().end)
    }

    fn io(&self, what: &str, error: std::io::Error) -> Error {
        Error::io(format!("cannot {what} the backup {}", self.path.display()), error)
    }

    fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::BadIndex, format!("{}: {why}", self.path.display()))
    }
}

/// Brings the names in the folder of `path` onto stable storage.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder_of(path)).and_then(|folder| folder.sync_all())
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
