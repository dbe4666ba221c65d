//! The first copy to a folder of this host: the source is gone through once before a byte is
//! copied, where it may not fit. Later runs, and other receivers, are asked what they need.

use super::super::plan::{PlanOptions, plan};
use super::super::tasks::blocking;
use super::super::upload::{SpacePolicy, UploadOptions, no_room};
use super::Job;
use crate::archive::protocol::Space;
use crate::archive::ranges::RangeSet;
use crate::error::Result;
use crate::telemetry::{Counters, Monitor, Notice};
use rustix::fs::{StatVfs, statvfs};
use std::path::Path;
use std::sync::Arc;

impl Job {
    /// Refuses a first copy that does not fit into its folder. An existing copy in there gives room
    /// back when it is replaced: how much, only the receiver can tell.
    pub(super) async fn check_first_copy(&self) -> Result<()> {
        let index = &self.options.index;
        let is_checked = self.options.upload.space != SpacePolicy::Ignore
            && !self.options.upload.dry_run
            && self.adopt.is_none()
            && index.bucket.is_none()
            && !(index.reuse && self.has_previous);
        let Some(folder) = self.destination.unused_folder().filter(|_| is_checked) else { return Ok(()) };
        let has_entries = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        let Some(free_bytes) = free_bytes(folder).filter(|_| !has_entries) else { return Ok(()) };
        if used_bytes(&index.base).is_some_and(|used| used <= free_bytes) {
            return Ok(());
        }
        self.monitor.notice(Notice::Phase("planning"));
        let UploadOptions { block_size, scratch, .. } = self.options.upload.clone();
        let options =
            PlanOptions { index: self.index_options(), block_size, scratch, missing: RangeSet::default() };
        let monitor = Quiet { counters: Counters::default(), monitor: self.monitor.clone() };
        let needed_bytes = blocking(move || plan(&options, &monitor, |_| Ok(()))).await?.total_bytes;
        if needed_bytes <= free_bytes {
            return Ok(());
        }
        Err(no_room(&Space { needed_bytes, free_bytes }, folder))
    }
}

/// What is free where `folder` is, or is to be.
fn free_bytes(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|folder| folder.exists())?;
    statvfs(existing).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What the whole file system of `source` holds: a folder of it holds no more, unless another one
/// is mounted in it, or files have holes. Then the copy ends when the disk is full.
fn used_bytes(source: &Path) -> Option<u64> {
    let StatVfs { f_blocks, f_bfree, f_frsize, .. } = statvfs(source).ok()?;
    Some(f_blocks.saturating_sub(f_bfree).saturating_mul(f_frsize))
}

/// Only lets a run be cancelled: what is seen here is seen, and told, again.
struct Quiet {
    counters: Counters,
    monitor: Arc<dyn Monitor>,
}

impl Monitor for Quiet {
    fn notice(&self, _: Notice) {}

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn is_cancelled(&self) -> bool {
        self.monitor.is_cancelled()
    }
}
