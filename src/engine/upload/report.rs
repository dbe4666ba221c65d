//! What an upload ends with.

use crate::archive::protocol::{EntryPaths, Space, VerifyAnswer};
use crate::archive::ranges::RangeSet;
use crate::archive::shown::separated;
use crate::archive::slice::Slice;
use crate::engine::spill::EntryList;
use crate::telemetry::{Monitor, Notice};

/// A warning names so many entries.
const MAX_NAMED: usize = 3;

/// A file that is not at the receiver as the index says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedEntry {
    /// Its path, printable.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// One of several receivers that did not take in all of its files: these are among the failed ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedSlice {
    /// Which one.
    pub slice: Slice,
    /// Its address.
    pub address: String,
    /// Why.
    pub error: String,
    /// What the user can do.
    pub hint: String,
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
    /// Of several receivers, those that failed.
    pub failed_slices: Vec<FailedSlice>,
    /// Entries of previous generations that the receiver deleted, or moved to `moved_to`.
    pub deleted: u64,
    /// The folder below the receiver's base folder to which entries are moved instead.
    pub moved_to: Option<String>,
    /// So many would have had to be deleted, more than was allowed: none was.
    pub too_many: Option<u64>,
    /// A deletion was asked for, and none was made, since not everything is in place.
    pub deletes_nothing: bool,
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
    /// What would be needed at the receiver, and what is free there, where a dry run can tell.
    pub space: Option<Space>,
    /// What the receiver had before; only with [`super::UploadOptions::tells_before`].
    pub before: Before,
    /// What it did not have any more of what it had put in place: files that were removed or changed
    /// there. Where it had [the same](Before::Same), `before` has what a dry run has found of that.
    pub lost: RangeSet,
    /// What the receiver deleted. Of a dry run: what it could delete beside what the source does
    /// not have any more. Only with [`super::UploadOptions::lists_deleted`].
    pub candidates: EntryList,
    /// What the receiver did not delete because it was changed there. Of a dry run, before that is
    /// compared with the source: also what the source still has.
    pub changed: EntryPaths,
    /// Of a dry run: what the receiver had in place of its index, and was removed there.
    pub absent: EntryPaths,
}

impl UploadReport {
    /// Which bytes the receiver misses of the newest generation, as far as it has that.
    #[must_use]
    pub fn missing(&self) -> &RangeSet {
        match &self.before {
            Before::Same(missing) | Before::Other(missing) => missing,
            Before::Generation(_) => &self.lost,
        }
    }
}

/// Says what a deletion leaves alone because it was changed.
pub fn warn_of_changed(changed: &EntryPaths, monitor: &dyn Monitor) {
    if changed.is_empty() {
        return;
    }
    let named: Vec<&str> = changed.paths.iter().take(MAX_NAMED).map(String::as_str).collect();
    let more = match changed.total.saturating_sub(named.len() as u64) {
        0 => String::new(),
        more => format!(" and {} more", separated(more)),
    };
    monitor.notice(Notice::Warning(format!(
        "not deleted, because changed at the destination since it was copied: {}{more}",
        named.join(", ")
    )));
}
