//! Reading and hashing a file, a device or a pipe on all cores. The hashes come out in order. Holes
//! are not read.

use super::wire::{Input, Stop};
use super::{SPAN, WINDOW};
use crate::archive::blockcopy::hasher::Hasher;
use crate::engine::buffers::{Buffer, Buffers};
use crate::engine::pipeline::{Feed, ordered};
use crate::error::Result;
use crate::source::device::{Device, SparseExtent};
use std::ops::Range;

/// A part that was read.
pub(super) enum Scanned {
    /// Hashes of the blocks of a span.
    Span { position: u64, length: u32, hashes: Vec<u8> },
    /// Whole blocks of zeros.
    Zeros { position: u64, length: u64 },
}

enum Work {
    Read { position: u64, length: u32 },
    Content { position: u64, content: Buffer },
    Zeros { position: u64, length: u64 },
}

/// Bytes of a piece of work: whole blocks.
pub(super) fn span_of(block: usize) -> u32 {
    let block = block as u32;
    (SPAN / block).max(1) * block
}

/// Cuts `range` of a device into spans to read and runs of whole blocks that are a hole. Blocks are
/// counted from `start` on.
pub(super) fn pieces(
    device: &Device,
    block: usize,
    start: u64,
    range: Range<u64>,
    mut piece: impl FnMut(SparseExtent) -> Result<bool>,
) -> Result<()> {
    let (block, span) = (block as u64, u64::from(span_of(block)));
    let up = |position: u64| start + (position - start).div_ceil(block) * block;
    let down = |position: u64| start + (position - start) / block * block;
    let mut at = range.start;
    while at < range.end {
        let data_end = match device.extent(at..range.end) {
            SparseExtent::Hole(hole) => {
                let (first, last) = (up(hole.start), down(hole.end));
                if first == at && first < last {
                    if !piece(SparseExtent::Hole(first..last))? {
                        return Ok(());
                    }
                    at = last;
                    continue;
                }
                // Less than a block of a hole is read.
                if first < last { first } else { up(hole.end.max(at + 1)).min(range.end) }
            }
            SparseExtent::Data(data) => up(data.end).min(range.end),
        };
        while at < data_end {
            let end = (at + span).min(data_end);
            if !piece(SparseExtent::Data(at..end))? {
                return Ok(());
            }
            at = end;
        }
    }
    Ok(())
}

/// Hashes the blocks of `range`.
pub(super) fn scan(
    device: &Device,
    hasher: &Hasher,
    range: Range<u64>,
    threads: usize,
    stop: &Stop<'_>,
    take: impl FnMut(Scanned) -> Result<()>,
) -> Result<()> {
    run(Some(device), hasher, threads, stop, take, |feed| {
        pieces(device, hasher.block(), range.start, range.clone(), |piece| {
            stop.check()?;
            Ok(feed.push(match piece {
                SparseExtent::Hole(hole) => {
                    Work::Zeros { position: hole.start, length: hole.end - hole.start }
                }
                SparseExtent::Data(data) => {
                    Work::Read { position: data.start, length: (data.end - data.start) as u32 }
                }
            }))
        })
    })
}

/// Hashes the blocks of a pipe, as far as `end`. Says where it ended.
pub(super) fn scan_pipe(
    input: &mut Input<'_>,
    hasher: &Hasher,
    range: Range<u64>,
    threads: usize,
    stop: &Stop<'_>,
    take: impl FnMut(Scanned) -> Result<()>,
) -> Result<u64> {
    let buffers = Buffers::new(WINDOW + threads);
    let mut position = range.start;
    let at = &mut position;
    run(None, hasher, threads, stop, take, |feed| {
        while *at < range.end {
            let want = u64::from(span_of(hasher.block())).min(range.end - *at) as usize;
            let mut content = buffers.take();
            content.resize(want, 0);
            let count = input.fill(&mut content)?;
            content.truncate(count);
            if count > 0 && !feed.push(Work::Content { position: *at, content }) {
                break;
            }
            *at += count as u64;
            if count < want {
                break;
            }
        }
        Ok(())
    })?;
    Ok(position)
}

fn run(
    device: Option<&Device>,
    hasher: &Hasher,
    threads: usize,
    stop: &Stop<'_>,
    mut take: impl FnMut(Scanned) -> Result<()>,
    produce: impl FnOnce(&Feed<Work, Result<Scanned>>) -> Result<()> + Send,
) -> Result<()> {
    let buffers = Buffers::new(threads);
    let work = |work: Work| match work {
        Work::Zeros { position, length } => Ok(Scanned::Zeros { position, length }),
        Work::Content { position, content } => {
            Ok(Scanned::Span { position, length: content.len() as u32, hashes: hash(hasher, &content) })
        }
        Work::Read { position, length } => {
            let mut content = buffers.take();
            content.resize(length as usize, 0);
            if let Some(device) = device {
                device.read(position, &mut content)?;
            }
            Ok(Scanned::Span { position, length, hashes: hash(hasher, &content) })
        }
    };
    ordered(
        threads,
        WINDOW,
        |feed| produce(&feed),
        work,
        |scanned| stop.pass(scanned.and_then(|scanned| stop.check().and_then(|()| take(scanned)))),
    )
}

fn hash(hasher: &Hasher, content: &[u8]) -> Vec<u8> {
    let blocks: Vec<&[u8]> = content.chunks(hasher.block()).collect();
    hasher.each(&blocks)
}
