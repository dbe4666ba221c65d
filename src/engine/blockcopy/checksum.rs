//! `blockcopy checksum`: hashes of the blocks of the destination.

use super::scan::{Scanned, scan, scan_pipe};
use super::wire::{Input, Neighbour, Output, Stop, watching};
use crate::archive::blockcopy::hasher::{Algorithm, Hasher};
use crate::archive::blockcopy::head::{Head, Stream};
use crate::archive::blockcopy::{BLOCK, DONE, MAX_POSITION, hashes};
use crate::error::{Error, ErrorKind, Result};
use crate::source::device::{Device, open_pipe};
use crate::telemetry::Monitor;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

/// What to hash.
pub enum ChecksumInput {
    /// A file, block device or named pipe.
    Path(PathBuf),
    /// A pipe.
    Pipe(File),
}

/// What to hash, and how.
pub struct ChecksumOptions {
    /// The destination of the copy.
    pub input: ChecksumInput,
    /// Where the part to copy begins.
    pub start: u64,
    /// Where it ends, if not at the end.
    pub end: Option<u64>,
    /// Bytes of a block if all three processes are ours; `None` speaks as the original does.
    pub native: Option<u32>,
    /// Hashing threads.
    pub threads: usize,
}

/// What was hashed.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChecksumReport {
    /// Bytes of the destination that were hashed.
    pub hashed_bytes: u64,
    /// Bytes of them that are holes.
    pub hole_bytes: u64,
    /// Bytes that went to `retrieve`.
    pub wire_bytes: u64,
}

/// Writes the hashes of a destination to `out`.
///
/// # Errors
/// The destination cannot be read, `retrieve` has ended, or the user wants to stop.
pub fn checksum(options: ChecksumOptions, out: File, monitor: &dyn Monitor) -> Result<ChecksumReport> {
    let stop = Stop::new(monitor);
    if options.end.is_some_and(|end| end < options.start) || options.start > MAX_POSITION {
        return Err(Error::new(ErrorKind::Usage, "--end is before --start, or an offset is too large"));
    }
    let reader = out.try_clone().map_err(|e| Error::io("cannot use standard output", e))?;
    let writer = Writer {
        out: Output::new(out, Neighbour::RetrieveBehind),
        native: options.native.is_some(),
        record: Vec::new(),
        report: ChecksumReport::default(),
    };
    watching(&reader, Neighbour::RetrieveBehind, &stop, || run(options, writer, &stop, monitor))
}

fn run(
    options: ChecksumOptions,
    mut writer: Writer,
    stop: &Stop<'_>,
    monitor: &dyn Monitor,
) -> Result<ChecksumReport> {
    let (start, limit) = (options.start, options.end.unwrap_or(MAX_POSITION));
    let (algorithm, block) = match options.native {
        Some(block) => (Algorithm::Blake3, block),
        None => (Algorithm::Sha3, BLOCK),
    };
    let hasher = Hasher::new(algorithm, block);
    let counters = monitor.counters();
    let head = |destination| Head {
        stream: Stream::Hashes,
        block,
        start,
        end: options.end,
        destination,
        source_size: 0,
    };
    // A path may name a pipe, too: /dev/stdin, or what a shell makes of <(...).
    let input = match options.input {
        ChecksumInput::Path(path) => match open_pipe(&path)? {
            Some(pipe) => ChecksumInput::Pipe(pipe),
            None => ChecksumInput::Path(path),
        },
        pipe => pipe,
    };
    let (end, is_whole) = match input {
        ChecksumInput::Path(path) => {
            let device = Device::open(&path)?;
            writer.begin(&head(Some(device.identity())))?;
            let end = device.size().clamp(start, limit.max(start));
            counters.total_bytes.set(end - start);
            scan(&device, &hasher, start..end, options.threads, stop, |scanned| {
                writer.take(scanned, hasher.zero(), monitor)
            })?;
            (end, device.size() <= limit)
        }
        ChecksumInput::Pipe(file) => {
            counters.totals_open.add(1);
            let mut input = Input::new(file, Neighbour::Input, stop);
            writer.begin(&head(None))?;
            skip(&mut input, start)?;
            let end = scan_pipe(&mut input, &hasher, start..limit, options.threads, stop, |scanned| {
                writer.take(scanned, hasher.zero(), monitor)
            })?;
            let is_whole = end < limit || input.at_end()?;
            counters.totals_open.sub(1);
            (end, is_whole)
        }
    };
    writer.finish(end, options.end, is_whole, stop)
}

/// Reads a pipe up to the start of the part, and drops that: a pipe has no positions.
fn skip(input: &mut Input<'_>, mut left: u64) -> Result<()> {
    let mut dropped = vec![0; 1 << 20];
    while left > 0 {
        let want = left.min(dropped.len() as u64) as usize;
        let count = input.fill(&mut dropped[..want])?;
        if count < want {
            return Ok(());
        }
        left -= count as u64;
    }
    Ok(())
}

struct Writer {
    out: Output,
    native: bool,
    record: Vec<u8>,
    report: ChecksumReport,
}

/// The longest block of which any content is wanted, in bytes.
const WANTED_BYTES: u64 = 1 << 20;
/// Bytes of a hash of the original's.
const SHA3_BYTES: usize = 64;
/// Records are written when they have so many bytes.
const FLUSH_BYTES: usize = 1 << 18;

impl Writer {
    fn begin(&mut self, head: &Head) -> Result<()> {
        if self.native {
            head.push(&mut self.record);
            self.flush()?;
        }
        Ok(())
    }

    fn take(&mut self, scanned: Scanned, zero: &[u8], monitor: &dyn Monitor) -> Result<()> {
        let bytes = match scanned {
            Scanned::Span { position, length, hashes } => {
                if self.native {
                    hashes::push_span(&mut self.record, position, length, &hashes);
                } else {
                    for (number, hash) in hashes.chunks(zero.len()).enumerate() {
                        let at = number as u64 * u64::from(BLOCK);
                        let block = (u64::from(length) - at).min(u64::from(BLOCK)) as u32;
                        hashes::push_block(&mut self.record, position + at, block, hash);
                    }
                }
                u64::from(length)
            }
            Scanned::Zeros { position, length } => {
                self.report.hole_bytes += length;
                if self.native {
                    hashes::push_zeros(&mut self.record, position, length);
                } else {
                    self.alike(position, length, zero, monitor)?;
                }
                length
            }
        };
        self.report.hashed_bytes += bytes;
        monitor.counters().done_bytes.set(self.report.hashed_bytes);
        // `retrieve` works while this process reads on.
        self.flush()
    }

    /// The original's records of a hole, which may be many.
    fn alike(&mut self, position: u64, length: u64, zero: &[u8], monitor: &dyn Monitor) -> Result<()> {
        let block = u64::from(BLOCK);
        let batch = (FLUSH_BYTES / 80) as u64;
        let mut done = 0;
        while done < length {
            let count = batch.min((length - done) / block);
            hashes::push_alike(&mut self.record, position + done, count, zero);
            done += count * block;
            monitor.counters().done_bytes.set(self.report.hashed_bytes + done);
            if monitor.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
            }
            self.flush()?;
        }
        Ok(())
    }

    /// The original's records of blocks that are wanted in any case: their hash is that of no
    /// content.
    fn want(&mut self, range: Range<u64>, stop: &Stop<'_>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(WANTED_BYTES) as u32;
            hashes::push_block(&mut self.record, at, length, &[0; SHA3_BYTES]);
            at += u64::from(length);
            if self.record.len() >= FLUSH_BYTES {
                stop.check()?;
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Ends the stream. The destination was hashed up to `end`; `is_whole` says that it ends there.
    fn finish(
        mut self,
        end: u64,
        wanted: Option<u64>,
        is_whole: bool,
        stop: &Stop<'_>,
    ) -> Result<ChecksumReport> {
        match wanted {
            // The original's stream cannot say that the copy ends behind the destination's end.
            Some(wanted) if !self.native => self.want(end..wanted, stop)?,
            // Where only a part was asked for, the rest of the source is not wanted.
            _ if is_whole => hashes::push_rest(&mut self.record, end),
            _ => {}
        }
        self.record.extend(DONE);
        self.flush()?;
        Ok(self.report)
    }

    fn flush(&mut self) -> Result<()> {
        self.out.write(&[&self.record])?;
        self.record.clear();
        self.report.wire_bytes = self.out.bytes();
        Ok(())
    }
}
