//! What was indexed.

use crate::archive::digest::IndexDigest;

/// What was indexed.
#[derive(Debug, Clone)]
pub struct IndexReport {
    /// Names this state of the index.
    pub digest: IndexDigest,
    /// Regular files.
    pub files: u64,
    /// Directories and links.
    pub nodes: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
    /// The sum of the sizes of all files, in bytes.
    pub content_bytes: u64,
    /// Entries that were left out because they could not be read or have no content to copy.
    pub skipped: u64,
    /// Entries that the filter left out; a folder is one, with everything in it.
    pub excluded: u64,
    /// Nothing changed: the previous index stays.
    pub unchanged: bool,
    /// The number of the generation, counted from 1.
    pub generation: u64,
    /// The difference to the previous generation, if there was one.
    pub changes: Option<GenerationChanges>,
}

/// The difference of a generation to the previous one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GenerationChanges {
    /// Files that are new, or have another content.
    pub added: u64,
    /// Those among them whose content another file had already.
    pub known: u64,
    /// Files of which only metadata changed.
    pub touched: u64,
    /// Those among `added` that had another content under the same path.
    pub changed: u64,
    /// Files whose path no file has any more.
    pub removed: u64,
    /// Directories and links that are new, have changed or are gone.
    pub nodes: u64,
    /// Bytes that the archive has grown by: these have to be sent.
    pub appended_bytes: u64,
}
