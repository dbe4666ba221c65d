//! The chunk map as a value.

use super::tree::ChainingValue;
use std::ops::RangeInclusive;

/// Contents of this size and more, in bytes, have a chunk map.
pub const MIN_CHUNK_MAP_BYTES: u64 = 1 << 20;

/// The longest chunk map that is stored, in bytes: a database has no room for a longer one.
/// Contents of less than 100 TB have shorter ones.
const MAX_STORED_BYTES: usize = 512 << 20;

/// The mean chunk sizes that exist, in bytes: the powers of two in this range.
pub const MEANS: RangeInclusive<u32> = 1 << 16..=1 << 22;

/// About how many chunks a content has at most, if the largest mean allows it.
const CHUNKS: u64 = 1 << 16;

/// A previous mean is reused unless it is so many times too small or too large.
const REUSED_WITHIN: u32 = 16;

/// A content-defined chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// Length in bytes, at least 1.
    pub length: u32,
    /// The first 16 bytes of its BLAKE3.
    pub hash: [u8; 16],
}

/// What is known of a content; see the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkMap {
    pub(super) mean: u32,
    pub(super) size: u64,
    /// The state of md5 at the start of the last group.
    pub(super) md5_state: Option<[u8; 16]>,
    /// BLAKE3 of all groups before the last one: the largest complete subtrees, left to right.
    pub(super) subtrees: Vec<ChainingValue>,
    pub(super) chunks: Vec<Chunk>,
}

impl ChunkMap {
    /// The mean chunk size that it was made for, in bytes; see [`mean_chunk_for`].
    #[must_use]
    pub fn mean(&self) -> u32 {
        self.mean
    }

    /// The size of the content, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The chunk map as bytes, if it is to be stored: `None` for a content of less than
    /// [`MIN_CHUNK_MAP_BYTES`], and for a chunk map that is too long.
    #[must_use]
    pub fn stored(&self) -> Option<Vec<u8>> {
        let bytes = (self.size >= MIN_CHUNK_MAP_BYTES).then(|| self.encode());
        bytes.filter(|bytes| bytes.len() <= MAX_STORED_BYTES)
    }

    /// Its chunks, in order. Their lengths sum up to [`ChunkMap::size`].
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

/// The mean chunk size for a content of `size` bytes, in bytes: 64 KiB up to 4 GiB, twice that for
/// each doubling, at most 4 MiB. `previous` is the mean of the content's previous chunk map. It is
/// reused, since chunks of another mean match none of the previous ones, unless it is off by more
/// than a factor of 16.
#[must_use]
pub fn mean_chunk_for(size: u64, previous: Option<u32>) -> u32 {
    let wanted = size.div_ceil(CHUNKS).next_power_of_two();
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX).clamp(*MEANS.start(), *MEANS.end());
    let reused = previous.filter(|&previous| {
        is_mean(previous) && previous.max(wanted) / previous.min(wanted) <= REUSED_WITHIN
    });
    reused.unwrap_or(wanted)
}

pub(super) fn is_mean(bytes: u32) -> bool {
    bytes.is_power_of_two() && MEANS.contains(&bytes)
}
