//! What an upload ends with.

use crate::archive::protocol::VerifyAnswer;
use crate::archive::ranges::RangeSet;

/// A file that is not at the receiver as the index says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedEntry {
    /// Its path, printable.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What the receiver had of the archive when an upload began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// The newest generation of the index, without these bytes of the archive.
    Same(RangeSet),
    /// This previous generation, from which the newest one was made.
    Generation(u64),
    /// Another index or none. When it had ours, these bytes of the archive were missing.
    Other(RangeSet),
}

impl Default for Before {
    fn default() -> Self {
        Self::Same(RangeSet::default())
    }
}

/// What an upload did, or would do.
#[derive(Debug, Clone, Default)]
pub struct UploadReport {
    /// The number of the archive at the receiver; `None` where no receiver was asked.
    pub tar_id: Option<u64>,
    /// Files of the index.
    pub files: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
    /// The sum of the sizes of all files, in bytes.
    pub content_bytes: u64,
    /// Blocks that were accepted.
    pub sent_blocks: u64,
    /// Bytes of content in them.
    pub sent_bytes: u64,
    /// Bytes of bodies, attempts that failed included.
    pub wire_bytes: u64,
    /// Blocks that were sent stored.
    pub stored_blocks: u64,
    /// Blocks that were sent as Zstandard frames.
    pub zstd_blocks: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// Files that failed, and how many entries failed in all: the list may be shorter.
    pub failed: Vec<FailedEntry>,
    /// How many failed.
    pub failed_total: u64,
    /// Entries of previous generations that the receiver deleted, or moved to `moved_to`.
    pub deleted: u64,
    /// The folder below the receiver's base folder to which entries are moved instead.
    pub moved_to: Option<String>,
    /// So many would have had to be deleted, more than was allowed: none was.
    pub too_many: Option<u64>,
    /// Of what failed, so many would get their places at the receiver if more were allowed to be
    /// deleted.
    pub blocked: u64,
    /// The receiver confirmed everything that the index says.
    pub complete: bool,
    /// What other senders have still to send, in bytes: only with a range of blocks.
    pub others_bytes: u64,
    /// The receiver knows only the original's protocol (FORMAT.md 5.1), so that nothing is
    /// confirmed.
    pub legacy: bool,
    /// What the receiver found when it read its files, if it was asked to.
    pub verified: Option<VerifyAnswer>,
    /// Nothing was sent: this is a plan.
    pub dry_run: bool,
    /// What the receiver had before; only with [`super::UploadOptions::tells_before`].
    pub before: Before,
}
