//! What an archive answers to those who ask how far it is.

use super::Progress;
use crate::archive::failures::FailureList;
use crate::archive::layout::BlockLayout;
use crate::archive::protocol::{STATUS_RANGES, Status};
use crate::error::{Error, ErrorKind, Result};
use std::ops::Range;

/// How far an archive is, for the answer to `finish`.
pub(crate) struct Summary {
    pub(crate) missing_bytes: u64,
    pub(crate) published_files: u64,
    pub(crate) failed: FailureList,
    /// All bytes are durable, all files published, and nothing has failed.
    pub(crate) is_complete: bool,
}

/// Answers.
impl Progress {
    /// How far the archive is, for the answer to `finish`.
    pub(crate) fn summary(&self) -> Summary {
        let state = self.state();
        Summary {
            missing_bytes: state.missing_bytes(),
            published_files: state.published.covered(),
            failed: state.failed.clone(),
            is_complete: state.is_complete(),
        }
    }

    /// The durable ranges within `range`, at most as many as an answer has.
    pub(crate) fn held(&self, range: &Range<u64>) -> Vec<(u64, u64)> {
        let state = self.state();
        let missing: Vec<Range<u64>> = state.durable.missing(range.clone()).collect();
        let starts = std::iter::once(range.start).chain(missing.iter().map(|gap| gap.end));
        let ends = missing.iter().map(|gap| gap.start).chain(std::iter::once(range.end));
        starts.zip(ends).filter(|(start, end)| start < end).take(STATUS_RANGES).collect()
    }

    /// How far the archive is, or as a slice the files that are its own; `missing` starts at byte
    /// `from`. The source is not known here.
    ///
    /// # Errors
    /// The block size is 0.
    pub(crate) fn status(&self, block_size: u64, from: u64, as_slice: bool) -> Result<Status> {
        let state = self.state();
        let head = &state.head;
        let layout = BlockLayout::new(head.total_bytes, block_size)
            .ok_or_else(|| Error::new(ErrorKind::Malformed, "the block size must not be 0"))?;
        let mut missing: Vec<(u64, u64)> = state
            .missing_in(from.min(head.total_bytes)..head.total_bytes, as_slice)
            .take(STATUS_RANGES + 1)
            .map(|range| (range.start, range.end))
            .collect();
        let next = (missing.len() > STATUS_RANGES).then(|| missing[STATUS_RANGES].0);
        missing.truncate(STATUS_RANGES);
        // Whole blocks within the durable ranges; the last block may be short.
        let whole_blocks = |range: Range<u64>| {
            let is_last = range.end == head.total_bytes;
            let end = if is_last { layout.blocks() } else { range.end / block_size };
            end.saturating_sub(range.start.div_ceil(block_size))
        };
        Ok(Status {
            tar_id: self.tar_id,
            generation: self.generation,
            digest: head.digest.to_string(),
            total_bytes: head.total_bytes,
            done_bytes: match state.is_about_own(as_slice) {
                true => head.total_bytes.saturating_sub(state.missing_bytes_of(as_slice)),
                false => state.durable.covered(),
            },
            missing,
            next,
            blk_size: block_size,
            blocks_total: layout.blocks(),
            blocks_done: state.durable.iter().map(whole_blocks).sum(),
            files_total: head.files,
            files_published: state.published.covered(),
            parts: true,
            spares: true,
            filters: true,
            keeps: true,
            verifies: true,
            backs_up: true,
            lists: true,
            failed: state.failed.clone().into_named(),
            complete: state.finalized,
            sealed: head.sealed,
            source_id: None,
            receiver_id: None,
            source: None,
            space: None,
            slice: None,
        })
    }
}
