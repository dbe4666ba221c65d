//! What the hashers of files and of objects share.

use crate::archive::chunk_map::{MIN_CHUNK_MAP_BYTES, chunk_map_of, mean_chunk_for};
use crate::archive::digest::{Blake3, blake3};
use crate::engine::buffers::Buffer;
use bytes::Bytes;

/// A file of more bytes is not read as a whole.
pub(super) const LARGE_BYTES: u64 = 4 << 20;

/// BLAKE3 of a content in memory, with its chunk map if it is large enough for one. `mean_chunk` is
/// the mean chunk size of its previous chunk map.
pub(super) fn blake3_and_chunk_map(content: &[u8], mean_chunk: Option<u32>) -> (Blake3, Option<Vec<u8>>) {
    let size = content.len() as u64;
    if size < MIN_CHUNK_MAP_BYTES {
        return (blake3(content), None);
    }
    let (blake3, chunk_map) = chunk_map_of(content, mean_chunk_for(size, mean_chunk));
    (blake3, chunk_map.stored())
}

/// The contents of a batch, to be passed on. They may wait for long, so that they are copied out of
/// a buffer that is mostly empty.
pub(super) fn share(buffer: Buffer) -> Bytes {
    if buffer.len() < buffer.capacity() / 8 * 7 {
        Bytes::copy_from_slice(&buffer)
    } else {
        Bytes::from_owner(buffer)
    }
}
