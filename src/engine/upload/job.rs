//! What the parts of an upload share: what is to be sent, and what its receiver can do.

use super::super::tasks::blocking;
use super::options::UploadOptions;
use super::report::Before;
use crate::archive::layout::{BlockLayout, intersect};
use crate::archive::protocol::{DeleteRequest, FinishAnswer, FinishRequest, VerifyAnswer};
use crate::archive::ranges::RangeSet;
use crate::db::index_read::Summary;
use crate::db::progress::Progress;
use crate::error::Result;
use crate::remote::ReceiverClient;
use crate::source::Source;
use crate::telemetry::{Monitor, Notice};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One run of an upload.
pub(super) struct Upload<'a> {
    pub(super) source: Arc<dyn Source>,
    pub(super) client: Arc<dyn ReceiverClient>,
    pub(super) options: &'a UploadOptions,
    /// What the receiver is to delete, if it can spare what it must.
    pub(super) delete: Option<DeleteRequest>,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) summary: Summary,
    pub(super) block_layout: BlockLayout,
    pub(super) window: Range<u64>,
    /// What the receiver had, if the report is to have it.
    pub(super) before: Mutex<Before>,
    /// The receiver had an index of this archive, or took ours.
    pub(super) has_index: AtomicBool,
    /// The receiver takes parts of blocks.
    pub(super) takes_parts: AtomicBool,
    /// The receiver leaves alone what a deletion has to spare.
    pub(super) can_spare: AtomicBool,
    /// The receiver reads what it has published.
    pub(super) can_verify: AtomicBool,
    /// What it found there.
    pub(super) verified: Mutex<Option<VerifyAnswer>>,
    /// The receiver leaves alone what a filter left out.
    pub(super) can_filter: AtomicBool,
}

impl Upload<'_> {
    /// The blocks of this run that hold anything of `missing`, or all of them.
    pub(super) fn blocks_of(&self, missing: Option<&RangeSet>) -> Vec<Range<u64>> {
        let mut blocks = RangeSet::default();
        match missing {
            None => blocks.insert(self.block_layout.blocks_of(self.window.clone())),
            Some(missing) => {
                for range in missing.iter() {
                    blocks.insert(self.block_layout.blocks_of(intersect(&range, &self.window)));
                }
            }
        }
        blocks.iter().collect()
    }

    /// The blocks of this run that hold anything of `missing` outside of `failed`, which files that
    /// failed have.
    pub(super) fn remaining(&self, failed: Vec<Range<u64>>, missing: &RangeSet) -> Vec<Range<u64>> {
        let mut wanted = missing.clone();
        failed.into_iter().for_each(|range| wanted.remove(range));
        self.blocks_of(Some(&wanted))
    }

    /// Whether all blocks are this run's to send.
    pub(super) fn is_whole(&self) -> bool {
        self.options.first == 0 && self.options.last.is_none()
    }

    /// What of `missing` is this run's to send.
    pub(super) fn inside(&self, missing: &RangeSet) -> RangeSet {
        let mut inside = missing.clone();
        inside.remove(0..self.window.start);
        inside.remove(self.window.end..u64::MAX);
        inside
    }

    /// How much of `missing` is not this run's to send.
    pub(super) fn outside(&self, missing: &RangeSet) -> u64 {
        let mut outside = missing.clone();
        outside.remove(self.window.clone());
        outside.covered()
    }

    /// What progress counts up to, in bytes: the sizes of all files, or the part of the archive that
    /// this run is to send.
    pub(super) fn work_bytes(&self) -> u64 {
        match self.window == (0..self.summary.total_bytes) {
            true => self.summary.content_bytes,
            false => self.window.end - self.window.start,
        }
    }

    /// Remembers what the receiver had before this upload.
    pub(super) fn record_before(&self, before: impl FnOnce() -> Before) {
        if self.options.tells_before {
            *self.before.lock() = before();
        }
    }

    pub(super) async fn finish(&self, request: FinishRequest) -> Result<FinishAnswer> {
        self.monitor.notice(Notice::Phase("verifying"));
        self.client.finish(&self.summary.digest, request).await
    }

    /// The progress database; `clear` empties it. It is a cache: where it cannot be used, the run
    /// goes on without it.
    pub(super) async fn open_progress(&self, clear: bool) -> Option<Progress> {
        let (path, digest, url) =
            (self.options.progress.clone(), self.summary.digest, self.client.address().to_owned());
        let (tar_id, block_size) = (self.options.tar_id, self.options.block_size);
        let opened = blocking(move || {
            let progress = Progress::open(&path, tar_id, block_size, &digest, &url)?;
            if clear {
                progress.clear()?;
            }
            Ok(progress)
        });
        match opened.await {
            Ok(progress) => Some(progress),
            Err(e) => {
                let hint = e.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                self.monitor.notice(Notice::Warning(format!("{e}; going on without it{hint}")));
                None
            }
        }
    }

    /// What the receiver is asked to delete. A receiver of an earlier version, which cannot spare
    /// entries, is asked for nothing if there are any to spare.
    pub(super) fn delete_request(&self) -> Option<DeleteRequest> {
        let request = self.delete.clone()?;
        let spares = request.spare.is_empty() || self.can_spare.load(Ordering::Relaxed);
        if spares && (request.filtered.is_empty() || self.can_filter.load(Ordering::Relaxed)) {
            return Some(request);
        }
        let text = "nothing is deleted in this run: the receiver is of an earlier version, which cannot spare what was left out of the index";
        self.monitor.notice(Notice::Warning(text.to_string()));
        None
    }
}
