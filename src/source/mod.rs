//! Where the bytes of an archive come from: a folder, a single file or device, or a bucket.

pub mod base;
pub mod device;
pub mod disk;
pub mod filter;
mod read;
pub mod s3;
mod skipped;
pub mod walk;

pub use read::{Piece, Source};
pub use skipped::SkippedEntry;
