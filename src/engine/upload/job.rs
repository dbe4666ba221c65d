//! What the parts of an upload share: what is to be sent, and what its receiver can do.

use super::super::spill::PathSpill;
use super::super::tasks::blocking;
use super::options::UploadOptions;
use super::report::Before;
use crate::archive::layout::{BlockLayout, intersect};
use crate::archive::protocol::{DeleteRequest, FinishAnswer, FinishRequest, SliceStatus, VerifyAnswer};
use crate::archive::ranges::RangeSet;
use crate::db::index_read::Summary;
use crate::db::progress::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::lease::LeaseQueue;
use crate::remote::{IndexBody, ReceiverClient};
use crate::source::Source;
use crate::telemetry::{Monitor, Notice};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One run of an upload.
pub(super) struct Upload {
    pub(super) source: Arc<dyn Source>,
    pub(super) client: Arc<dyn ReceiverClient>,
    pub(super) options: Arc<UploadOptions>,
    /// What the receiver is to delete, if it can spare what it must.
    pub(super) delete: Option<DeleteRequest>,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) summary: Summary,
    pub(super) block_layout: BlockLayout,
    pub(super) window: Range<u64>,
    /// What the receiver had, if the report is to have it.
    pub(super) before: Mutex<Before>,
    /// What of that it has lost.
    pub(super) lost: Mutex<RangeSet>,
    /// What the receiver could delete before it was asked to, if the report is to have what it
    /// deleted.
    pub(super) candidates: Mutex<Option<PathSpill>>,
    /// How many entries it has deleted so far.
    pub(super) deleted: AtomicU64,
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
    /// Ids of empty files that the source does not have ([`FinishRequest::failed`]).
    pub(super) gone: Mutex<String>,
    /// Which receiver it is.
    pub(super) receiver_id: Mutex<Option<String>>,
    /// Which of several receivers it is, if there are several.
    pub(super) slice: Mutex<Option<SliceStatus>>,
    /// Of a part of the upload that speaks to a slice: who knows of the whole archive.
    pub(super) whole: Option<Arc<dyn ReceiverClient>>,
    /// What all slices share.
    pub(super) shared: Arc<Shared>,
}

/// What the parts of an upload have in common that speak to one of several receivers each.
#[derive(Default)]
pub(super) struct Shared {
    /// The queues that other hosts have, too, by the names of their jobs.
    pub(super) queues: Mutex<BTreeMap<String, Arc<LeaseQueue>>>,
    /// The index as a body.
    pub(super) index: tokio::sync::OnceCell<IndexBody>,
}

impl Upload {
    /// An upload of the index that `summary` is of.
    ///
    /// # Errors
    /// The block size is 0.
    pub(super) fn new(
        source: Arc<dyn Source>,
        client: Arc<dyn ReceiverClient>,
        options: Arc<UploadOptions>,
        monitor: Arc<dyn Monitor>,
        summary: Summary,
    ) -> Result<Self> {
        let block_layout = BlockLayout::new(summary.total_bytes, options.block_size)
            .ok_or_else(|| Error::new(ErrorKind::Usage, "the block size must not be 0"))?;
        let window = block_layout.window(options.first, options.last);
        let (has_index, takes_parts, can_spare, can_filter, can_verify, verified, gone) = Default::default();
        let (delete, before, lost, candidates, deleted) = Default::default();
        let (receiver_id, slice, whole, shared) = Default::default();
        Ok(Self {
            source,
            client,
            options,
            delete,
            monitor,
            summary,
            block_layout,
            window,
            before,
            lost,
            candidates,
            deleted,
            has_index,
            takes_parts,
            can_spare,
            can_verify,
            verified,
            can_filter,
            gone,
            receiver_id,
            slice,
            whole,
            shared,
        })
    }

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

    /// Remembers what the receiver misses `now`, and did not miss at `first`.
    pub(super) fn record_lost(&self, first: &RangeSet, now: &RangeSet) {
        if self.options.tells_before {
            let mut lost = now.clone();
            first.iter().for_each(|range| lost.remove(range));
            let mut all = self.lost.lock();
            lost.iter().for_each(|range| all.insert(range));
        }
    }

    pub(super) async fn finish(&self, request: FinishRequest) -> Result<FinishAnswer> {
        self.monitor.notice(Notice::Phase("verifying"));
        let failed = self.gone.lock().clone();
        let request = FinishRequest { failed, backup: self.options.backup.clone(), ..request };
        let answer = self.client.finish(&self.summary.digest, request).await?;
        // A folder may have been emptied for a file before another file was sent again.
        self.deleted.fetch_add(answer.deleted, Ordering::Relaxed);
        Ok(answer)
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
