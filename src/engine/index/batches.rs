//! Batches of listed entries: examined on several threads, given on in the order of the index.

use super::entry::{ScanItem, ScanOutcome, ScannedEntry};
use crate::archive::entry::{Node, NodeKind};
use crate::archive::skipped::SkippedList;
use crate::engine::pipeline::{Feed, ordered};
use crate::error::{Error, ErrorKind, Result};
use crate::source::SkippedEntry;
use crate::telemetry::Monitor;
use std::collections::HashSet;

type BatchFeed<S> = Feed<Vec<ScanItem<S>>, Vec<ScanOutcome>>;

/// Collects items into batches.
pub(super) struct Batches<S> {
    feed: BatchFeed<S>,
    items: Vec<ScanItem<S>>,
    bytes: u64,
    limits: BatchLimits,
}

/// How large a batch may be.
#[derive(Clone, Copy)]
pub(super) struct BatchLimits {
    pub(super) items: usize,
    /// Bytes of files, if there is more than one.
    pub(super) bytes: u64,
}

impl<S> Batches<S> {
    /// Adds an item that takes so many bytes of memory; false if no more items are needed.
    pub(super) fn push(&mut self, item: ScanItem<S>, bytes: u64) -> bool {
        // The contents of a batch are in memory at once: a file that does not fit begins the next
        // one.
        if self.bytes > 0 && self.bytes + bytes > self.limits.bytes && !self.flush() {
            return false;
        }
        self.items.push(item);
        self.bytes += bytes;
        (self.items.len() < self.limits.items && self.bytes < self.limits.bytes) || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.bytes = 0;
        self.feed.push(std::mem::take(&mut self.items))
    }
}

/// A scan in batches.
pub(super) struct BatchScan<'a> {
    pub(super) threads: usize,
    /// Batches that may be under way or wait for their turn.
    pub(super) window: usize,
    pub(super) limits: BatchLimits,
    pub(super) monitor: &'a dyn Monitor,
    /// Entries that were left out before.
    pub(super) skipped: SkippedList,
}

impl BatchScan<'_> {
    /// Runs `list`, which lists the source into batches, and `examine` for each batch on several
    /// threads. Gives the entries to `each` in their order; reports those that are left out, and
    /// gives their list.
    ///
    /// `outage` tells why nothing can be read any more: that error ends the scan, in place of a
    /// report for each entry.
    pub(super) fn run<S: Send>(
        self,
        list: impl FnOnce(&mut Batches<S>) -> Result<()> + Send,
        examine: impl Fn(Vec<ScanItem<S>>) -> Vec<ScanOutcome> + Sync,
        outage: impl Fn() -> Option<Error>,
        mut each: impl FnMut(ScannedEntry) -> Result<()>,
    ) -> Result<SkippedList> {
        let Self { threads, window, limits, monitor, skipped: mut skipped_list } = self;
        // Paths of files that are left out and have further names.
        let mut lost: HashSet<Vec<u8>> = HashSet::new();
        let produce = |feed: BatchFeed<S>| {
            monitor.counters().totals_open.set(1);
            let mut batches = Batches { feed, items: Vec::new(), bytes: 0, limits };
            list(&mut batches)?;
            monitor.counters().totals_open.set(0);
            batches.flush();
            Ok(())
        };
        ordered(threads, window, produce, examine, |outcomes| {
            if monitor.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted; no index was written"));
            }
            for outcome in outcomes {
                let skipped = match outcome {
                    ScanOutcome::Scanned(ScannedEntry::Node(node)) if is_lost(&node, &lost) => {
                        let reason = "another name of the same file failed";
                        SkippedEntry::unreadable(node.path.as_bytes(), reason)
                    }
                    ScanOutcome::Scanned(scanned) => {
                        each(scanned)?;
                        continue;
                    }
                    ScanOutcome::Skipped { skipped, is_shared } => {
                        if let Some(error) = outage() {
                            return Err(error);
                        }
                        if is_shared {
                            lost.insert(skipped.path.clone());
                        }
                        skipped
                    }
                };
                skipped_list.add(skipped.kind, &skipped.path);
                skipped.report(monitor);
            }
            Ok(())
        })?;
        Ok(skipped_list)
    }
}

/// Whether a further name belongs to a file that is left out.
fn is_lost(node: &Node, lost: &HashSet<Vec<u8>>) -> bool {
    node.kind == NodeKind::Hardlink && lost.contains(&*node.target)
}
