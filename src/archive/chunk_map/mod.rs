//! The chunk map of a large content (FORMAT.md 3.9). One read makes it together with md5 and
//! BLAKE3. It leaves the host that indexed only to be compared with an adopted copy. It says
//!
//! - where the content falls into content-defined chunks, with a hash of each: [`diff()`] finds
//!   which ranges of a new content an old one has, wherever they moved to;
//! - how far md5 and BLAKE3 were shortly before the end: [`Resume`] computes the digests of a
//!   content that grew without reading the bytes before;
//! - by [`ChunkMap::samples`], which parts to read to see whether the previous content is still
//!   there. If the user chose so, a file that grew goes to the receiver with a [`KnownPrefix`].
//!
//! ```text
//! content  |------ group ------|------ group ------|------ group ------|- last group -|
//! chunks   |----|--------|---|------|-------|-----|----|---------|------|-----|-------|
//!                                                                      M      C
//! M = start of the last group: md5 state, and BLAKE3 of all groups before
//! C = start of the last chunk
//! ```
//!
//! A group is [`GROUP_BYTES`]. The last group has at least one byte, so M lies before the end of
//! every content. Resuming reads from the smaller one of M and C on: the last chunk ends because
//! the content ended, and may be longer now.
//!
//! Chunks are those of FastCDC as of 2020 (Wen Xia et al., "The Design of Fast Content-Defined
//! Chunking for Data Deduplication Based Storage Systems", IEEE TPDS 31/9), with tables, masks and
//! normalization level 1 of the crate `fastcdc`. `chunker` makes them, `tree` is BLAKE3 by groups,
//! `hasher` is both with md5, and `format` is the chunk map as bytes. `diff`, `resume` and `prefix`
//! use it.

mod chunker;
mod diff;
mod format;
mod hasher;
mod map;
mod prefix;
mod resume;
#[cfg(test)]
mod tests;
mod tree;

pub use diff::{Run, diff};
pub use format::ChunkMapError;
pub use hasher::{ChunkMapHasher, ContentPart, Hashed, Md5Part, chunk_map_of};
pub use map::{Chunk, ChunkMap, MEANS, MIN_CHUNK_MAP_BYTES, mean_chunk_for};
pub use prefix::{KnownPrefix, ResumedBlake3};
pub(super) use resume::MAX_SAMPLE_BYTES;
pub use resume::{Resume, Sample};
pub use tree::GROUP_BYTES;
