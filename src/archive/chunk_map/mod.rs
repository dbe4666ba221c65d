//! The chunk map of a large content: what of it is worth knowing when it has changed (FORMAT.md 3.9).
//! It is made in the same read as md5 and BLAKE3, leaves the host that indexed only to be compared
//! with an adopted copy, and says
//!
//! - where the content falls into content-defined chunks, and a hash of each: [`diff()`] finds what of a new content an old one
//!   has already, wherever it moved to,
//! - how far md5 and BLAKE3 had come shortly before the end: [`Resume`] computes those of a content that grew without the bytes
//!   before,
//! - by [`ChunkMap::samples`], what to look at to see whether the previous content is still there. Of a file that grew, both go to a
//!   receiver as a [`Beginning`], if the user says that they are enough.
//!
//! ```text
//! content  |------ group ------|------ group ------|------ group ------|-- tail --|
//! chunks   |----|--------|---|------|-------|-----|----|---------|------|-----|----|
//!                                                            M = start of the last group: md5 state, BLAKE3 of all before
//!                                                                               C = start of the last chunk
//! ```
//!
//! A group is [`GROUP_BYTES`]. The last one has at least one byte, so M is before the end of every content. Whoever resumes reads from the
//! smaller one of M and C on: the last chunk ends because the content ended, and may be longer now.
//!
//! Chunks are those of FastCDC as of 2020 (Wen Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication
//! Based Storage Systems", IEEE TPDS 31/9), with tables, masks and normalization level 1 of the crate `fastcdc`. `chunker` makes
//! them, `tree` is BLAKE3 by groups, `hasher` is both with md5, `format` is the chunk map as bytes, `diff`, `resume` and `beginning` are what
//! it is good for.

mod beginning;
mod chunker;
mod diff;
mod format;
mod hasher;
mod resume;
#[cfg(test)]
mod tests;
mod tree;

pub use beginning::{Beginning, Continued};
pub use diff::{Run, diff};
pub use format::ChunkMapError;
pub use hasher::{ChunkMapHasher, ContentPart, Hashed, Md5Part, chunk_map_of, update_pair};
pub(super) use resume::MAX_SAMPLE_BYTES;
pub use resume::{Resume, Sample};

use std::ops::RangeInclusive;
use tree::ChainingValue;

/// Contents from this size on, in bytes, have a chunk map.
pub const MIN_CHUNK_MAP_BYTES: u64 = 1 << 20;

/// A longer chunk map is not kept, in bytes: a database has no room for it. Contents of less than 100 TB have shorter ones.
const KEPT_BYTES: usize = 512 << 20;

/// A group, in bytes: md5 and BLAKE3 can be resumed where one begins.
pub const GROUP_BYTES: u64 = 1 << 20;

/// The averages that chunks may have, in bytes: the powers of two in here.
pub const MEANS: RangeInclusive<u32> = 1 << 16..=1 << 22;

/// So many chunks a content has about, at most, if its average can be large enough.
const CHUNKS: u64 = 1 << 16;

/// A previous average is kept unless it is so many times too small or too large.
const KEPT_WITHIN: u32 = 16;

/// A content-defined chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// Length in bytes, from 1 on.
    pub length: u32,
    /// The first 16 bytes of its BLAKE3.
    pub hash: [u8; 16],
}

/// What is known of a content; see the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMap {
    average: u32,
    size: u64,
    /// The state of md5 at the start of the last group.
    md5_state: Option<[u8; 16]>,
    /// BLAKE3 of all groups before the last one, as the largest complete subtrees from left to right.
    subtrees: Vec<ChainingValue>,
    chunks: Vec<Chunk>,
}

impl ChunkMap {
    /// The average length of chunks that it was made for, in bytes; see [`average_for`].
    #[must_use]
    pub fn average(&self) -> u32 {
        self.average
    }

    /// The size of the content, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The chunk map as bytes, if it is worth keeping: nobody looks into a content of less than [`MIN_CHUNK_MAP_BYTES`].
    #[must_use]
    pub fn to_keep(&self) -> Option<Vec<u8>> {
        (self.size >= MIN_CHUNK_MAP_BYTES).then(|| self.encode()).filter(|bytes| bytes.len() <= KEPT_BYTES)
    }

    /// Its chunks, in order; their lengths sum up to [`ChunkMap::size`].
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

/// Which average length of chunks, in bytes, a content of `size` bytes gets: 64 KiB up to 4 GiB, twice that for each doubling, at most
/// 4 MiB. `previous` is the average of its previous chunk map, which it keeps, since chunks of another average are others: unless it
/// is off by more than a factor of 16.
#[must_use]
pub fn average_for(size: u64, previous: Option<u32>) -> u32 {
    let wanted = size.div_ceil(CHUNKS).next_power_of_two();
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX).clamp(*MEANS.start(), *MEANS.end());
    let kept = previous.filter(|&previous| {
        is_average(previous) && previous.max(wanted) / previous.min(wanted) <= KEPT_WITHIN
    });
    kept.unwrap_or(wanted)
}

fn is_average(average: u32) -> bool {
    average.is_power_of_two() && MEANS.contains(&average)
}

/// How many groups lie before the last one of a content of `size` bytes.
fn groups_before(size: u64) -> u64 {
    size.saturating_sub(1) / GROUP_BYTES
}
