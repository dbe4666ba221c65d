//! Sending to one of several receivers: it takes in files that are its own, and refuses a block with
//! bytes of others.

use super::super::super::compression_policy::CompressionPolicy;
use super::super::job::Upload;
use super::{BlockSender, MAX_GAP_BYTES, OwnFiles};
use crate::archive::layout::intersect;
use crate::archive::ranges::RangeSet;
use crate::archive::slice::Stripes;
use crate::engine::tasks::blocking;
use crate::error::Result;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

impl BlockSender {
    /// One that sends to the slice of `upload`, and records with this one what failed and what is
    /// done.
    pub(in super::super) fn of_slice(&self, upload: &Upload, own: OwnFiles) -> Arc<Self> {
        let slices = usize::try_from(own.stripes.slices.max(1)).unwrap_or(usize::MAX);
        // All of them compress at the same time.
        let cores = (upload.options.cores / slices).max(1);
        let compression =
            CompressionPolicy::new(upload.options.compression, &*upload.client, cores, self.buffers.clone());
        Arc::new(Self {
            source: self.source.clone(),
            client: upload.client.clone(),
            monitor: upload.monitor.clone(),
            database: self.database.clone(),
            digest: self.digest,
            block_layout: self.block_layout,
            block_size: self.block_size,
            takes_parts: true,
            compression,
            buffers: self.buffers.clone(),
            // A cache for receivers that do not say what they miss.
            progress: Mutex::default(),
            readers: self.readers.clone(),
            missing: Mutex::default(),
            own: Some(own),
            state: self.state.clone(),
        })
    }

    /// What is to be sent of `block`.
    pub(super) async fn wanted_of(self: &Arc<Self>, block: &Range<u64>) -> Result<Vec<Range<u64>>> {
        let Some(own) = self.own else { return Ok(self.parts_of(block)) };
        let (this, block) = (self.clone(), block.clone());
        blocking(move || {
            let all = std::iter::once(block).collect();
            let own = this.bytes_of(&own.stripes, &all, |owner| owner == own.number)?;
            let missing = this.missing.lock();
            let wanted = missing.as_ref().map_or_else(|| own.clone(), |missing| missing.in_common(&own));
            let mut parts: Vec<Range<u64>> = Vec::new();
            for part in wanted.iter() {
                match parts.last_mut() {
                    Some(last) if is_short(&own, last.end..part.start) => last.end = part.end,
                    _ => parts.push(part),
                }
            }
            Ok(parts)
        })
        .await
    }

    /// What its slice has of `wanted`, all but `missing`, counts as done, though the first slice does
    /// not know of it yet; `is_before` says that this run has sent nothing of it.
    pub(in super::super) async fn record_held(
        self: &Arc<Self>,
        wanted: &RangeSet,
        missing: &RangeSet,
        is_before: bool,
    ) -> Result<()> {
        let Some(own) = self.own else { return Ok(()) };
        let (this, wanted, missing) = (self.clone(), wanted.clone(), missing.clone());
        blocking(move || {
            let mut held = this.bytes_of(&own.stripes, &wanted, |owner| owner == own.number)?;
            missing.iter().for_each(|range| held.remove(range));
            let counters = this.monitor.counters();
            let mut state = this.state.lock();
            let before = state.undone.covered();
            held.iter().for_each(|range| state.undone.remove(range));
            let bytes = before - state.undone.covered();
            counters.done_bytes.add(bytes);
            if is_before {
                counters.resumed_bytes.add(bytes);
            }
            Ok(())
        })
        .await
    }

    /// What of `ranges` files have of slices that `is_meant` names.
    pub(in super::super) fn bytes_of(
        &self,
        stripes: &Stripes,
        ranges: &RangeSet,
        is_meant: impl Fn(u64) -> bool,
    ) -> Result<RangeSet> {
        let mut bytes = RangeSet::default();
        self.with_index(|index| {
            for range in ranges.iter() {
                index.pieces_in(&range, |file, piece| {
                    if is_meant(stripes.owner(file)) {
                        bytes.insert(intersect(&piece.range, &range));
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
            }
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The numbers of the slices whose files have anything of `ranges`.
    pub(in super::super) fn owners_of(&self, stripes: &Stripes, ranges: &RangeSet) -> Result<BTreeSet<u64>> {
        let mut owners = BTreeSet::new();
        self.with_index(|index| {
            for range in ranges.iter() {
                index.pieces_in(&range, |file, _| {
                    owners.insert(stripes.owner(file));
                    match owners.len() as u64 >= stripes.slices {
                        true => Ok(ControlFlow::Break(())),
                        false => Ok(ControlFlow::Continue(())),
                    }
                })?;
            }
            Ok(())
        })?;
        Ok(owners)
    }

    /// The files of a slice that have anything of `missing` have failed.
    pub(in super::super) async fn fail_slice(
        self: &Arc<Self>,
        own: OwnFiles,
        missing: &RangeSet,
        reason: &str,
    ) -> Result<()> {
        let (this, missing, reason) = (self.clone(), missing.clone(), reason.to_string());
        blocking(move || {
            this.with_index(|index| {
                for range in missing.iter() {
                    index.pieces_in(&range, |file, _| {
                        if own.stripes.owner(file) == own.number {
                            this.fail(file, reason.clone());
                        }
                        Ok(ControlFlow::Continue(()))
                    })?;
                }
                Ok(())
            })
        })
        .await
    }
}

/// Whether `gap` is sent with what is around it: a request costs about as much, and all of it is of
/// the same slice.
fn is_short(own: &RangeSet, gap: Range<u64>) -> bool {
    gap.end - gap.start <= MAX_GAP_BYTES && own.contains(gap)
}
