//! `blockcopy save`: writes what differs into the destination, in place.

mod parse;
mod write;

use super::wire::{Input, Neighbour, Stop};
use crate::archive::digest::Blake3;
use crate::engine::buffers::Buffers;
use crate::engine::pipeline::ordered;
use crate::error::Result;
use crate::sink::device::Target;
use crate::telemetry::{Monitor, Notice};
use std::fs::File;
use std::path::PathBuf;

/// Where to write, and how.
pub struct SaveOptions {
    /// The destination of the copy, which is there.
    pub destination: PathBuf,
    /// A new file for what is overwritten.
    pub backup: Option<PathBuf>,
    /// Zeros become holes.
    pub sparse: bool,
    /// Count, and write nothing.
    pub dry_run: bool,
    /// Read all of the destination at the end, and prove that it is what the source was.
    pub verify: bool,
    /// Threads for decompressing and comparing.
    pub threads: usize,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveReport {
    /// Bytes that were equal already; known only if all three processes are ours.
    pub equal_bytes: u64,
    /// Bytes of blocks that were written, zeros included.
    pub written_bytes: u64,
    /// Bytes of them that came as runs of zeros.
    pub zero_bytes: u64,
    /// Bytes by which the file became shorter.
    pub cut_bytes: u64,
    /// Bytes that came from `retrieve`.
    pub wire_bytes: u64,
    /// Bytes of the backup file.
    pub backup_bytes: u64,
    /// Whether the stream was ours.
    pub is_native: bool,
    /// The proof of the whole, if the destination was read again.
    pub proven: Option<Blake3>,
}

/// Reads a stream of `retrieve` from `data` and brings the destination to what the source was.
///
/// # Errors
/// The destination cannot be written, or the copy does not fit; the stream ends before its end or is damaged; the user wants to stop.
pub fn save(options: &SaveOptions, data: File, monitor: &dyn Monitor) -> Result<SaveReport> {
    let stop = Stop::new(monitor);
    let target = Target::open(&options.destination, options.dry_run, options.sparse)?;
    if !options.dry_run && target.is_in_use(&options.destination) {
        monitor.notice(Notice::Warning(format!(
            "{} is in use, mounted perhaps: what uses it will not see that it changes, and may write over it",
            target.name()
        )));
    }
    let mut writer = write::Writer::new(options, target, &stop, monitor)?;
    let mut input = Input::new(data, Neighbour::RetrieveBefore, &stop);
    let buffers = Buffers::new(super::WINDOW + options.threads);
    let parts = |feed| parse::parse(&mut input, &buffers, &feed);
    ordered(
        options.threads,
        super::WINDOW,
        parts,
        |part| parse::decode(part, &buffers),
        |part| stop.pass(part.and_then(|part| stop.check().and_then(|()| writer.take(part)))),
    )
    .map_err(|e| writer.stopped(e))?;
    writer.finish(input.bytes())
}
