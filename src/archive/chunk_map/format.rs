//! A chunk map as bytes. Numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | the average length of chunks, as a power of 2: 16 to 22 |
//! | 1 | 1 if there is a state of md5, 0 if not |
//! | 8 | size of the content, at least 1 |
//! | 16 or 0 | the four words of md5's state at the start of the last group |
//! | 32 each | BLAKE3 chaining values of the complete subtrees over all groups before the last one, from left to right: one for each bit that is set in the number of those groups |
//! | 20 each | the chunks: length u32, and the first 16 bytes of BLAKE3 |
//!
//! A group is 1 MiB; the last one has at least one byte. The lengths of the chunks sum up to the size; all but the last are from a
//! quarter to four times the average.

use super::{Chunk, ChunkMap, groups_before, is_average};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 11;
const CHUNK_BYTES: usize = 20;

/// Why bytes are no chunk map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkMapError {
    /// Another version wrote it.
    #[error("the chunk map has version {0}, which this program does not know")]
    Version(u8),
    /// It ends early, or says what cannot be.
    #[error("the chunk map is damaged: {0}")]
    Damaged(&'static str),
}

impl ChunkMap {
    /// The chunk map as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(HEAD_BYTES + 16 + 32 * self.subtrees.len() + CHUNK_BYTES * self.chunks.len());
        bytes.extend([VERSION, self.average.ilog2() as u8, u8::from(self.md5_state.is_some())]);
        bytes.extend(self.size.to_le_bytes());
        bytes.extend(self.md5_state.iter().flatten());
        bytes.extend(self.subtrees.as_flattened());
        for chunk in &self.chunks {
            bytes.extend(chunk.length.to_le_bytes());
            bytes.extend(chunk.hash);
        }
        bytes
    }

    /// The average length of chunks of a chunk map that begins with `bytes`, the first two or more; see [`ChunkMap::average`]. `None` if it is
    /// no chunk map.
    #[must_use]
    pub fn average_of(bytes: &[u8]) -> Option<u32> {
        let &[VERSION, average, ..] = bytes else { return None };
        1_u32.checked_shl(average.into()).filter(|&average| is_average(average))
    }

    /// Reads what [`ChunkMap::encode`] made.
    ///
    /// # Errors
    /// It is no chunk map, or one that cannot be of any content.
    pub fn decode(bytes: &[u8]) -> Result<Self, ChunkMapError> {
        let damaged = ChunkMapError::Damaged;
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(ChunkMapError::Version(other)),
            None => return Err(damaged("it is empty")),
        }
        let (&[_, average, has_state, size @ ..], rest) =
            bytes.split_first_chunk::<HEAD_BYTES>().ok_or(damaged("it ends early"))?;
        let size = u64::from_le_bytes(size);
        let average = 1_u32.checked_shl(average.into()).unwrap_or(0);
        if !is_average(average) || has_state > 1 || size == 0 || i64::try_from(size).is_err() {
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
            let shortest = if read.len() + 1 < chunks.len() { average / 4 } else { 1 };
            if !(shortest..=average * 4).contains(&length) {
                return Err(damaged("a chunk has a length that none can have"));
            }
            left = left.checked_sub(length.into()).ok_or(damaged("its chunks are longer than it is"))?;
            read.push(Chunk { length, hash: *hash });
        }
        if left > 0 {
            return Err(damaged("its chunks are shorter than it is"));
        }
        Ok(Self { average, size, md5_state, subtrees: subtrees.as_chunks().0.to_vec(), chunks: read })
    }
}
