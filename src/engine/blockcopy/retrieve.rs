//! `blockcopy retrieve`: compares the source with the hashes of the destination, and sends what
//! differs.

mod ask;
mod compare;
mod job;
mod send;

pub use super::coder::Compress;
pub use job::RetrieveReport;

use super::coder::Coder;
use super::wire::{Input, Neighbour, Output, Stop, watching};
use crate::archive::blockcopy::hasher::{Algorithm, Hasher};
use crate::archive::blockcopy::hashes::HashRecord;
use crate::archive::blockcopy::head::{Head, Stream};
use crate::archive::blockcopy::{BLOCK, BadRecord};
use crate::engine::buffers::Buffers;
use crate::engine::pipeline::ordered;
use crate::error::{Error, Result};
use crate::source::device::Device;
use crate::telemetry::Monitor;
use job::Job;
use std::fs::File;
use std::path::PathBuf;

/// What to send, and how.
pub struct RetrieveOptions {
    /// The source of the copy.
    pub source: PathBuf,
    /// To a `save` of the original: blocks as xz streams where that is smaller.
    pub xz: bool,
    /// To our own `save`: how blocks are compressed.
    pub compress: Compress,
    /// Reading and hashing threads.
    pub threads: usize,
}

/// Reads hashes from `hashes` and writes to `out` what is missing at the destination.
///
/// # Errors
/// The source cannot be read, a neighbour has ended or sent what is no such stream, or the user
/// wants to stop.
pub fn retrieve(
    options: &RetrieveOptions,
    hashes: File,
    out: File,
    monitor: &dyn Monitor,
) -> Result<RetrieveReport> {
    let stop = Stop::new(monitor);
    let device = Device::open(&options.source)?;
    let reader = out.try_clone().map_err(|e| Error::io("cannot use standard output", e))?;
    let input = Input::new(hashes, Neighbour::Checksum, &stop);
    let output = Output::new(out, Neighbour::Save);
    watching(&reader, Neighbour::Save, &stop, || run(options, &device, input, output, &stop, monitor))
}

fn run(
    options: &RetrieveOptions,
    device: &Device,
    mut input: Input<'_>,
    output: Output,
    stop: &Stop<'_>,
    monitor: &dyn Monitor,
) -> Result<RetrieveReport> {
    // The first record tells whose stream it is.
    let mut bytes = Vec::new();
    let tag = input.record(&mut bytes, HashRecord::length)?;
    let first = HashRecord::parse(tag, &bytes).map_err(|bad| input.bad(bad))?;
    let head = match first {
        HashRecord::Head(head) if head.stream != Stream::Hashes => {
            return Err(input.bad(BadRecord::Unknown));
        }
        HashRecord::Head(head) => Some(Head { stream: Stream::Data, source_size: device.size(), ..head }),
        _ => None,
    };
    let (algorithm, block) = match &head {
        Some(head) => (Algorithm::Blake3, head.block),
        None => (Algorithm::Sha3, BLOCK),
    };
    let compress = match options.xz {
        true => Compress::Zstd,
        false => options.compress,
    };
    let job = Job {
        device,
        hasher: Hasher::new(algorithm, block),
        coder: Coder::new(compress),
        xz: options.xz,
        head,
        stop,
        monitor,
        buffers: Buffers::new(super::WINDOW + options.threads),
    };
    monitor.counters().total_bytes.set(head.map_or(device.size(), |head| head.copy_end() - head.start));
    let mut sender = send::Sender::new(&job, output);
    sender.begin()?;
    let asked = |feed| match head {
        Some(head) => ask::native(&job, &head, &mut input, &feed),
        None => ask::original(&job, first, &mut input, &feed),
    };
    ordered(
        options.threads,
        super::WINDOW,
        asked,
        |ask| compare::compare(&job, ask),
        |compared| stop.pass(compared.and_then(|compared| stop.check().and_then(|()| sender.take(compared)))),
    )?;
    sender.finish()
}
