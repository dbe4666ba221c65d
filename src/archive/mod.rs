//! Pure parts: entry paths, layout, digests, codec, protocol types. No I/O, async, clock,
//! randomness or environment.

pub mod backup;
pub mod block_digest;
pub mod blockcopy;
pub mod change;
pub mod chunk_map;
pub mod codec;
pub mod digest;
pub mod entry;
pub mod extent;
pub mod failures;
pub mod frame;
pub mod glob;
pub mod index_digest;
pub mod intake;
pub mod layout;
pub mod log;
pub mod md5;
pub mod part;
pub mod path;
pub mod path_rules;
pub mod pieces;
pub mod protocol;
pub mod ranges;
pub(crate) mod record;
pub mod sha3;
pub mod shard;
pub mod shown;
pub mod skipped;
pub mod slice;
pub mod source;
pub mod verify;
pub mod zstd;
