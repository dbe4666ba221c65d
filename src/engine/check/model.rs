//! What is compared, and what a comparison finds.

use crate::archive::digest::{Blake3, Md5};
use crate::archive::entry::{FileEntry, Node};
use crate::source::s3::Bucket;
use std::path::PathBuf;
use std::sync::Arc;

/// What to compare.
pub struct CheckOptions {
    /// The folder, or the file or block device alone; ignored where there is a bucket.
    pub base: PathBuf,
    /// The bucket, if that is to be compared.
    pub bucket: Option<Arc<Bucket>>,
    /// The index.
    pub database: PathBuf,
    /// Only files that touch the blocks from this one on …
    pub first: u64,
    /// … to this one, inclusive; `None` means to the end.
    pub last: Option<u64>,
    /// The size of these blocks, in bytes.
    pub block_size: u64,
    /// Report also entries that the index does not have.
    pub extra: bool,
    /// Compare also permissions, times and (as root) owners.
    pub metadata: bool,
    /// Compare md5 also where the index has a BLAKE3.
    pub md5: bool,
    /// Hashing threads.
    pub threads: usize,
    /// A folder for temporary files.
    pub scratch: PathBuf,
}

/// One difference. Paths are printable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The entry at this path exists, but not as the index says; the text says how it differs.
    Different(String, String),
    /// The entry does not exist.
    Missing(String),
    /// The index does not have the entry.
    Extra(String),
    /// Nothing differs, but the index has no digest of the content.
    Unverified(String),
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Entries that are as the index says.
    pub ok: u64,
    /// Entries that exist, but are different.
    pub different: u64,
    /// Entries that do not exist.
    pub missing: u64,
    /// Entries that the index does not have.
    pub extra: u64,
    /// Files whose digest the index does not have.
    pub unverified: u64,
}

impl CheckReport {
    /// Whether everything is verified to be as the index says.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        (self.different, self.missing, self.extra, self.unverified) == (0, 0, 0, 0)
    }

    /// How many entries of the index were compared.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.ok + self.different + self.missing + self.unverified
    }

    /// Counts an entry of the index.
    pub(super) fn count(&mut self, finding: Option<&Finding>) {
        let counter = match finding {
            None => &mut self.ok,
            Some(Finding::Different(..)) => &mut self.different,
            Some(Finding::Missing(_)) => &mut self.missing,
            Some(Finding::Extra(_)) => &mut self.extra,
            Some(Finding::Unverified(_)) => &mut self.unverified,
        };
        *counter += 1;
    }
}

/// A row of the index.
pub(super) enum Entry {
    File(FileEntry),
    Node(Node),
}

/// Content that is read at once, in bytes; larger files are read in pieces.
pub(super) const BATCH_BYTES: u64 = 4 << 20;

/// How an entry that exists differs; `None` if it does not.
pub(super) type Difference = Option<String>;

impl Entry {
    pub(super) fn path(&self) -> String {
        match self {
            Self::File(file) => file.path.to_string(),
            Self::Node(node) => node.path.to_string(),
        }
    }

    /// What the comparison of this entry found.
    pub(super) fn finding(&self, difference: Difference) -> Option<Finding> {
        match (difference, self) {
            (Some(why), _) => Some(Finding::Different(self.path(), why)),
            (None, Self::File(file)) if !file.is_verifiable() => Some(Finding::Unverified(self.path())),
            (None, _) => None,
        }
    }
}

/// How content with these digests differs from the content of `file`.
pub(super) fn digest_difference(file: &FileEntry, (md5, blake3): (Option<Md5>, Blake3)) -> Difference {
    if let Some((expected, found)) = file.md5.zip(md5).filter(|(expected, found)| expected != found) {
        return Some(format!("its md5 is {found}, not {expected}"));
    }
    let expected = file.blake3.filter(|&expected| expected != blake3)?;
    Some(match file.md5.and(md5) {
        Some(_) => "its BLAKE3 differs although its md5 does not".to_string(),
        None => format!("its BLAKE3 is {blake3}, not {expected}"),
    })
}

/// Whether the md5 of a content is needed to compare it with `file`. With `all`, that is so wherever
/// the index has one.
pub(super) fn needs_md5(file: &FileEntry, all: bool) -> bool {
    file.md5.is_some() && (all || file.blake3.is_none())
}

pub(super) fn unreadable(reason: impl std::fmt::Display) -> Difference {
    Some(format!("it cannot be read: {reason}"))
}
