//! Whether a copy fits where it goes, before it begins. The source of a first copy is gone through
//! once before a byte is copied, where it may not fit. Later runs are told by the receiver what they
//! need.

use super::super::plan::{PlanOptions, plan};
use super::super::tasks::blocking;
use super::super::upload::{UploadOptions, UploadReport, check_room};
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
        if self.options.upload.dry_run || self.adopt.is_some() || (index.reuse && self.has_previous) {
            return Ok(());
        }
        match self.destination.unused_folder().and_then(free_of_empty) {
            Some(free_bytes) => self.check_source_fits(free_bytes).await,
            None => Ok(()),
        }
    }

    /// Says it where all of the source is more than `free_bytes`.
    ///
    /// # Errors
    /// It does not fit into the folder of this host. Or the source cannot be gone through.
    pub(super) async fn check_source_fits(&self, free_bytes: u64) -> Result<()> {
        let (index, options) = (&self.options.index, self.upload_options());
        let is_checked = options.checks_space && index.bucket.is_none();
        if !is_checked || used_bytes(&index.base).is_some_and(|used| used <= free_bytes) {
            return Ok(());
        }
        self.monitor.notice(Notice::Phase("planning"));
        let UploadOptions { block_size, scratch, .. } = options.clone();
        let plan_options =
            PlanOptions { index: self.index_options(), block_size, scratch, missing: RangeSet::default() };
        let monitor = Quiet { counters: Counters::default(), monitor: self.monitor.clone() };
        let needed_bytes = blocking(move || plan(&plan_options, &monitor, |_| Ok(()))).await?.total_bytes;
        check_room(&Space { needed_bytes, free_bytes }, &options, &*self.monitor)
    }

    /// What a dry run would need in a folder into which nothing was ever received; says so where it
    /// does not fit.
    ///
    /// # Errors
    /// None, in a dry run.
    pub(super) fn forecast_into(&self, folder: &Path, needed_bytes: u64) -> Result<Option<Space>> {
        let options = self.upload_options();
        let free_bytes = free_of_empty(folder).filter(|_| options.checks_space && self.adopt.is_none());
        let space = free_bytes.map(|free_bytes| Space { needed_bytes, free_bytes });
        space.iter().try_for_each(|space| check_room(space, &options, &*self.monitor))?;
        Ok(space)
    }

    /// Says it where what `upload` would send fits, but not with `more_bytes` that the source has.
    ///
    /// # Errors
    /// None, in a dry run.
    pub(super) fn forecast_more(&self, upload: &UploadReport, more_bytes: u64) -> Result<()> {
        let fits = |space: &Space| space.needed_bytes <= space.free_bytes;
        let Some(space) = upload.space.filter(fits) else { return Ok(()) };
        let needed_bytes = space.needed_bytes.saturating_add(more_bytes);
        check_room(&Space { needed_bytes, ..space }, &self.upload_options(), &*self.monitor)
    }
}

/// What is free where `folder` is, or is to be, if it has no entries.
fn free_of_empty(folder: &Path) -> Option<u64> {
    let has_entries = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    let existing = folder.ancestors().find(|folder| folder.exists()).filter(|_| !has_entries)?;
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
