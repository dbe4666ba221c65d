//! Copying one huge file or block device over pipes: `checksum` reads the destination, `retrieve`
//! reads the source, and `save` writes the destination. docs/dev/FORMAT.md has the streams between
//! them.

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

/// Bytes of one piece of work: small enough for a core's cache, and as many of the original's
/// blocks as are hashed side by side.
const SPAN: u32 = 1 << 20;

/// Pieces of work under way.
const WINDOW: usize = 16;
