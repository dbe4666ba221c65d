//! The streams of `blockcopy`, as docs/dev/FORMAT.md describes them: those of the original program,
//! our own, and the file that keeps what was overwritten. Every record begins with a tag of four
//! bytes and has a head of fixed length; all numbers are big-endian.

pub mod backup;
pub mod data;
pub mod hasher;
pub mod hashes;
pub mod head;
mod parts;
pub mod root;
pub mod xz;

#[cfg(test)]
mod tests;

/// A record's first four bytes.
pub type Tag = [u8; 4];

/// Ends a stream: what ends without it was cut.
pub const DONE: Tag = *b"done";

/// The original's blocks, in bytes.
pub const BLOCK: u32 = 131_072;

/// Our own blocks, in bytes: hashes are a hundredth of a percent of the content then, and a change
/// of one byte sends little.
pub const NATIVE_BLOCK: u32 = 262_144;

/// The largest block that a record may announce, in bytes. No more memory than that is taken.
pub const MAX_BLOCK: u32 = 16 << 20;

/// The most that one record of hashes may cover, in bytes: the largest block.
pub const MAX_SPAN: u32 = MAX_BLOCK;

/// Positions and sizes end here: those of files are signed.
pub const MAX_POSITION: u64 = i64::MAX as u64;

/// Why a record is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// A tag that is not known.
    #[error("a record of an unknown kind")]
    Unknown,
    /// A length, or what it leads to, is beyond the limit.
    #[error("a length or position beyond the limit")]
    TooLarge,
    /// The check sum behind the head is not that of the head.
    #[error("a damaged record")]
    Damaged,
    /// A version or setting that this program does not know.
    #[error("a version or setting that this tar-like does not know")]
    Newer,
}
