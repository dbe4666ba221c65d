//! A chunk map as bytes. Numbers are little-endian.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | the mean chunk size, as a power of 2: 16 to 22 |
//! | 1 | 1 if there is a state of md5, 0 if not |
//! | 8 | size of the content, at least 1 |
//! | 16 or 0 | the four words of md5's state at the start of the last group |
//! | 32 each | BLAKE3 chaining values of the complete subtrees over the groups before the last, left to right: one for each bit set in their number |
//! | 20 each | the chunks: length u32, and the first 16 bytes of BLAKE3 |
//!
//! A group is 1 MiB. The last group has at least one byte. The lengths of the chunks sum up to the
//! size. All chunks but the last have from a quarter to four times the mean.

use super::map::{Chunk, ChunkMap, is_mean};
use super::tree::groups_before;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 11;
const CHUNK_BYTES: usize = 20;

/// Why bytes are no chunk map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkMapError {
    /// Another version wrote it.
    #[error("the chunk map has version {0}, which this program does not know")]
    Version(u8),
    /// It ends early, or no content can have it.
    #[error("the chunk map is damaged: {0}")]
    Damaged(&'static str),
}

impl ChunkMap {
    /// The chunk map as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(HEAD_BYTES + 16 + 32 * self.subtrees.len() + CHUNK_BYTES * self.chunks.len());
        bytes.extend([VERSION, self.mean.ilog2() as u8, u8::from(self.md5_state.is_some())]);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.md5_state.iter().flatten());
        bytes.extend(self.subtrees.as_flattened());
        for chunk in &self.chunks {
            bytes.extend(chunk.length.to_le_bytes());
            bytes.extend(chunk.hash);
        }
        bytes
    }

    /// [`ChunkMap::mean`] of the chunk map that begins with `bytes`, two at least. `None` if they
    /// begin no chunk map.
    #[must_use]
    pub fn mean_of(bytes: &[u8]) -> Option<u32> {
        let &[VERSION, mean, ..] = bytes else { return None };
        1_u32.checked_shl(mean.into()).filter(|&mean| is_mean(mean))
    }

    /// Reads what [`ChunkMap::encode`] made.
    ///
    /// # Errors
    /// It is no chunk map, or no content can have it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkMapError> {
        let damaged = ChunkMapError::Damaged;
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(ChunkMapError::Version(other)),
            None => return Err(damaged("it is empty")),
        }
        let (&[_, mean, has_state, size @ ..], rest) =
            bytes.split_first_chunk::<HEAD_BYTES>().ok_or(damaged("it ends early"))?;
        let size = u64::from_le_bytes(size);
        let mean = 1_u32.checked_shl(mean.into()).unwrap_or(0);
        if !is_mean(mean) || has_state > 1 || size == 0 || i64::try_from(size).is_err() {
            return Err(damaged("its head says what cannot be"));
        }
        let (md5_state, rest) = match has_state {
            0 => (None, rest),
            _ => rest
                .split_first_chunk()
                .map(|(state, rest)| (Some(*state), rest))
                .ok_or(damaged("it ends early"))?,
        };
        let subtrees = groups_before(size).count_ones() as usize;
        let (subtrees, chunks) = rest.split_at_checked(32 * subtrees).ok_or(damaged("it ends early"))?;
        let (chunks, &[]) = chunks.as_chunks::<CHUNK_BYTES>() else { return Err(damaged("it ends early")) };
        let mut left = size;
        let mut read = Vec::with_capacity(chunks.len());
        for [l0, l1, l2, l3, hash @ ..] in chunks {
            let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]);
            let min = if read.len() + 1 < chunks.len() { mean / 4 } else { 1 };
            if !(min..=mean * 4).contains(&length) {
                return Err(damaged("a chunk has a length that none can have"));
            }
            left = left.checked_sub(length.into()).ok_or(damaged("its chunks are longer than it is"))?;
            read.push(Chunk { length, hash: *hash });
        }
        if left > 0 {
            return Err(damaged("its chunks are shorter than it is"));
        }
        Ok(Self { mean, size, md5_state, subtrees: subtrees.as_chunks().0.to_vec(), chunks: read })
    }
}
