//! Copying one huge file or block device over pipes: `checksum` reads the destination, `retrieve` the source, and `save` writes.
//! docs/dev/FORMAT.md has the streams between them.

pub mod backup;
pub mod checksum;
mod coder;
pub mod retrieve;
pub mod save;
mod scan;
mod wire;

#[cfg(test)]
mod tests;

pub use wire::Neighbour;

use crate::archive::blockcopy::BadRecord;
use crate::error::{Error, ErrorKind};

/// Bytes of one piece of work: small enough for a core's cache, and as many of the original's blocks as are hashed side by side.
const SPAN: u32 = 1 << 20;

/// Pieces of work under way.
const WINDOW: usize = 16;

/// A stream that is not what it has to be.
fn malformed(neighbour: Neighbour, bad: BadRecord) -> Error {
    let error = Error::new(ErrorKind::Malformed, format!("{neighbour} sent {bad}"));
    match bad {
        BadRecord::Newer => error.with_hint("use the same version of tar-like on both hosts"),
        _ => error.with_hint(
            "the stream is damaged, or it is not that of blockcopy; nothing else may write to that pipe",
        ),
    }
}
