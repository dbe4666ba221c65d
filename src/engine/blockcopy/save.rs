//! `blockcopy save`: writes what differs into the destination, in place.

mod options;
mod parse;
mod write;

pub use options::{SaveOptions, SaveReport};

use super::wire::{Input, Neighbour, Stop};
use crate::engine::buffers::Buffers;
use crate::engine::pipeline::ordered;
use crate::error::Result;
use crate::sink::device::Target;
use crate::telemetry::{Monitor, Notice};
use std::fs::File;

/// Reads a stream of `retrieve` from `data` and brings the destination to what the source was.
///
/// # Errors
/// The destination cannot be written, or the copy does not fit; the stream ends before its end or
/// is damaged; the user wants to stop.
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
