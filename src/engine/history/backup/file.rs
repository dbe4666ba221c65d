//! An open backup.

use crate::archive::backup::{Lineage, RECORDS, Slot};
use crate::error::{Error, ErrorKind, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

/// A backup, open and locked: by one writer, or by any number of readers.
pub struct BackupFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) lineage: Lineage,
    /// The slot that counts, and which of the two it is.
    pub(super) slot: Option<(usize, Slot)>,
    pub(super) damage: Option<Damage>,
    /// The damaged part says that the index was rewound to this version, or to one before it. Later
    /// versions in the whole records are abandoned.
    pub(super) rewound_to: Option<u64>,
}

/// What was found wrong with a backup when it was opened. All records before it are whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// An interrupted run left bytes behind the last record. They never counted.
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
    pub fn length(&self) -> Result<u64> {
        self.file.metadata().map(|meta| meta.len()).map_err(|e| self.io("read", e))
    }

    /// Where the last whole record ends.
    pub(super) fn end(&self) -> u64 {
        self.lineage.records().last().map_or(RECORDS, |last| last.payload().end)
    }

    pub(super) fn io(&self, what: &str, error: std::io::Error) -> Error {
        Error::io(format!("cannot {what} the backup {}", self.path.display()), error)
    }

    pub(super) fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::BadIndex, format!("{}: {why}", self.path.display()))
    }
}

/// Brings the names in the folder of `path` onto stable storage.
pub(crate) fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(folder_of(path)).and_then(|folder| folder.sync_all())
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
