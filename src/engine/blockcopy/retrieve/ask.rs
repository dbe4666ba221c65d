//! Questions about the source, made of the hashes of the destination. Where both have zeros, and
//! the source has a hole, the answer is made here: terabytes of it take no time.

use super::super::scan::{pieces, span_of};
use super::super::wire::Input;
use super::compare::{Ask, Compared, Want};
use super::job::Job;
use crate::archive::blockcopy::BadRecord;
use crate::archive::blockcopy::hashes::{HashRecord, span_hashes, span_tail};
use crate::archive::blockcopy::head::Head;
use crate::engine::pipeline::Feed;
use crate::error::Result;
use crate::source::device::SparseExtent;
use std::ops::Range;

type Asks = Feed<Ask, Result<Compared>>;

/// Where the source has holes, with the last answer cached: hashes come in order.
struct Holes<'j> {
    job: &'j Job<'j>,
    known: SparseExtent,
}

impl<'j> Holes<'j> {
    fn new(job: &'j Job<'j>) -> Self {
        Self { job, known: SparseExtent::Data(0..0) }
    }

    /// Whether all of `range`, which is not empty, is a hole.
    fn holds(&mut self, range: &Range<u64>) -> bool {
        let (SparseExtent::Data(known) | SparseExtent::Hole(known)) = &self.known;
        if !known.contains(&range.start) {
            self.known = self.job.device.extent(range.start..self.job.device.size());
        }
        matches!(&self.known, SparseExtent::Hole(hole) if hole.start <= range.start && range.end <= hole.end)
    }
}

/// Answers the original's stream, of which `first` was read already.
pub(super) fn original(job: &Job<'_>, first: HashRecord, input: &mut Input<'_>, feed: &Asks) -> Result<()> {
    let size = job.device.size();
    let most = span_of(job.hasher.block());
    let mut holes = Holes::new(job);
    let mut group: Option<Ask> = None;
    let mut equal = 0..0;
    let mut bytes = Vec::new();
    let (mut record, mut next) = (first, 0);
    loop {
        match record {
            HashRecord::Block { position, length, hash } => {
                let position = position.unwrap_or(next);
                next = position + u64::from(length);
                let is_zero = hash[..] == *job.hasher.zero() && length as usize == job.hasher.block();
                if length == 0 || position >= size {
                    // Nothing to compare, or the destination goes on behind the source's end.
                } else if is_zero && next <= size && holes.holds(&(position..next)) {
                    if equal.end == position && group.is_none() {
                        equal.end = next;
                    } else {
                        if !flush(&mut group, &mut equal, feed) {
                            return Ok(());
                        }
                        equal = position..next;
                    }
                } else {
                    let joins = equal.is_empty()
                        && group.as_ref().is_some_and(|group| group.takes(position, length, most));
                    if !joins && !flush(&mut group, &mut equal, feed) {
                        return Ok(());
                    }
                    let group = group.get_or_insert_with(|| Ask::blocks(position, length));
                    group.push(length, &hash);
                }
            }
            HashRecord::Rest(offset) => {
                if !flush(&mut group, &mut equal, feed) {
                    return Ok(());
                }
                let mut at = offset;
                while at < size {
                    let end = (at + u64::from(most)).min(size);
                    let hole = holes.holds(&(at..end));
                    if !feed.push(Ask::all(at, (end - at) as u32, job.hasher.block(), hole)) {
                        return Ok(());
                    }
                    at = end;
                    job.stop.check()?;
                }
            }
            HashRecord::Done => {
                flush(&mut group, &mut equal, feed);
                return Ok(());
            }
            _ => return Err(input.bad(BadRecord::Unknown)),
        }
        let tag = input.record(&mut bytes, HashRecord::length)?;
        record = HashRecord::parse(tag, &bytes).map_err(|bad| input.bad(bad))?;
    }
}

/// Hands on the group or the run that was collected; there is at most one of them. False says that
/// the readers have ended.
fn flush(group: &mut Option<Ask>, equal: &mut Range<u64>, feed: &Asks) -> bool {
    let run = std::mem::take(equal);
    let run = (!run.is_empty()).then(|| Ask::Answered(Compared::Equal(run)));
    run.into_iter().chain(group.take()).all(|ask| feed.push(ask))
}

/// Answers our own stream: without gaps, in order, in whole blocks counted from the copy's start.
pub(super) fn native(job: &Job<'_>, head: &Head, input: &mut Input<'_>, feed: &Asks) -> Result<()> {
    let (block, end) = (u64::from(head.block), head.copy_end());
    let mut holes = Holes::new(job);
    let mut bytes = Vec::new();
    // Up to where the destination was heard of; a block that it has only a part of counts as a
    // whole one.
    let (mut next, mut is_last) = (head.start, false);
    loop {
        let tag = input.record(&mut bytes, HashRecord::length)?;
        let record = HashRecord::parse(tag, &bytes).map_err(|bad| input.bad(bad))?;
        let expected = |position: u64, length: u64, is_last: bool| position == next && length > 0 && !is_last;
        match record {
            // All of it is read at once: no more than what our own checksum sends.
            HashRecord::Span { length, .. } if length > span_of(head.block as usize) => {
                return Err(input.bad(BadRecord::TooLarge));
            }
            HashRecord::Span { position, length } if expected(position, length.into(), is_last) => {
                bytes.resize(span_tail(length, head.block), 0);
                input.exact(&mut bytes)?;
                let hashes = span_hashes(position, length, &bytes).map_err(|bad| input.bad(bad))?;
                is_last = !u64::from(length).is_multiple_of(block);
                next = head.start + (position + u64::from(length) - head.start).next_multiple_of(block);
                let here = position..next.min(end);
                if !here.is_empty() {
                    let hole = holes.holds(&here);
                    let want = Want::Hashes { hashes: hashes.to_vec(), length: length.into() };
                    let (position, length) = (here.start, (here.end - here.start) as u32);
                    if !feed.push(Ask::Compare { position, length, block: head.block, want, hole }) {
                        return Ok(());
                    }
                }
            }
            HashRecord::Zeros { position, length } if expected(position, length, is_last) => {
                let there = position + length;
                is_last = !length.is_multiple_of(block);
                next = head.start + (there - head.start).next_multiple_of(block);
                if !compare_zeros(job, head, position..next.min(end), there, feed)? {
                    return Ok(());
                }
            }
            HashRecord::Rest(offset) if offset <= next && next - offset < block => {
                // A block of which there is only a part was compared as a whole.
                if !compare_zeros(job, head, next.min(end)..end, 0, feed)? {
                    return Ok(());
                }
                next = next.max(end);
                is_last = true;
            }
            HashRecord::Done if next >= end => return Ok(()),
            _ => return Err(input.bad(BadRecord::Damaged)),
        }
    }
}

/// Compares `range` with zeros that end at `there`; what is behind is wanted whatever it is.
fn compare_zeros(job: &Job<'_>, head: &Head, range: Range<u64>, there: u64, feed: &Asks) -> Result<bool> {
    let mut is_wanted = true;
    pieces(job.device, head.block as usize, head.start, range, |piece| {
        job.stop.check()?;
        is_wanted = match piece {
            SparseExtent::Hole(hole) => {
                let compared = if hole.end <= there { Compared::Equal(hole) } else { Compared::Zeros(hole) };
                feed.push(Ask::Answered(compared))
            }
            SparseExtent::Data(data) => {
                let want = Want::Zeros { length: there.saturating_sub(data.start) };
                let (position, length) = (data.start, (data.end - data.start) as u32);
                feed.push(Ask::Compare { position, length, block: head.block, want, hole: false })
            }
        };
        Ok(is_wanted)
    })?;
    Ok(is_wanted)
}
