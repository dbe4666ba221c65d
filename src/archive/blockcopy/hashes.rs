//! The stream from `checksum` to `retrieve`.

use super::head::{HEAD, HEAD_LEN, Head};
use super::parts::{CHECK, Parts, RUN, check_of, push_run, seal, unseal};
use super::{BLOCK, BadRecord, DONE, MAX_BLOCK, MAX_SPAN, Tag};
use crate::archive::sha3::Sha3;

const HASH: Tag = *b"Hash";
const OLD_HASH: Tag = *b"hash";
const REST: Tag = *b"rest";
const SPAN: Tag = *b"tlhs";
const ZEROS: Tag = *b"tlzr";

/// Bytes of a hash of ours.
pub const NATIVE_HASH: usize = 32;

/// A record, without what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashRecord {
    /// The stream is ours.
    Head(Head),
    /// The original's hash of one block; the position is implied in its older form.
    Block {
        /// Where the block begins.
        position: Option<u64>,
        /// Its bytes.
        length: u32,
        /// Of its content.
        hash: Sha3,
    },
    /// The destination ends here; what the source has from here on is wanted.
    Rest(u64),
    /// The end.
    Done,
    /// Ours: hashes of the blocks of a span follow, then a check sum.
    Span {
        /// Where the first block begins.
        position: u64,
        /// Bytes of the span; all blocks but the last are whole.
        length: u32,
    },
    /// Ours: the destination has zeros.
    Zeros {
        /// Where they begin.
        position: u64,
        /// How many bytes.
        length: u64,
    },
}

impl HashRecord {
    /// Bytes of the record behind its tag, without what follows it.
    ///
    /// # Errors
    /// There is no such record.
    pub fn length(tag: Tag) -> Result<usize, BadRecord> {
        match tag {
            HEAD => Ok(HEAD_LEN),
            HASH => Ok(12 + 64),
            OLD_HASH => Ok(4 + 64),
            REST => Ok(8),
            DONE => Ok(0),
            SPAN => Ok(12),
            ZEROS => Ok(RUN),
            _ => Err(BadRecord::Unknown),
        }
    }

    /// Takes a record of that many bytes apart.
    ///
    /// # Errors
    /// It is damaged, or a number is beyond its limit.
    pub fn parse(tag: Tag, bytes: &[u8]) -> Result<Self, BadRecord> {
        let mut parts = Parts(bytes);
        match tag {
            HEAD => Head::parse(bytes).map(Self::Head),
            HASH => {
                let position = parts.position()?;
                let length = parts.length(position, MAX_BLOCK)?;
                Ok(Self::Block { position: Some(position), length, hash: parts.bytes()? })
            }
            OLD_HASH => {
                let length = parts.length(0, MAX_BLOCK)?;
                Ok(Self::Block { position: None, length, hash: parts.bytes()? })
            }
            REST => parts.position().map(Self::Rest),
            DONE => Ok(Self::Done),
            SPAN => {
                let position = parts.position()?;
                Ok(Self::Span { position, length: parts.length(position, MAX_SPAN)? })
            }
            ZEROS => {
                let mut parts = unseal(ZEROS, bytes)?;
                let position = parts.position()?;
                Ok(Self::Zeros { position, length: parts.run(position)? })
            }
            _ => Err(BadRecord::Unknown),
        }
    }
}

/// Adds the original's hash of a block.
pub fn push_block(to: &mut Vec<u8>, position: u64, length: u32, hash: &[u8]) {
    to.extend(HASH);
    to.extend(position.to_be_bytes());
    to.extend(length.to_be_bytes());
    to.extend(hash);
}

/// Adds the original's hashes of whole blocks from `position` on that are all alike.
pub fn push_alike(to: &mut Vec<u8>, position: u64, count: u64, hash: &[u8]) {
    for number in 0..count {
        push_block(to, position + number * u64::from(BLOCK), BLOCK, hash);
    }
}

/// Adds the record that the destination ends at `offset`.
pub fn push_rest(to: &mut Vec<u8>, offset: u64) {
    to.extend(REST);
    to.extend(offset.to_be_bytes());
}

/// Adds our hashes of the blocks of a span.
pub fn push_span(to: &mut Vec<u8>, position: u64, length: u32, hashes: &[u8]) {
    let start = to.len();
    to.extend(SPAN);
    to.extend(position.to_be_bytes());
    to.extend(length.to_be_bytes());
    to.extend(hashes);
    seal(to, start);
}

/// How many bytes follow a span's head.
#[must_use]
pub fn span_tail(length: u32, block: u32) -> usize {
    length.div_ceil(block) as usize * NATIVE_HASH + CHECK
}

/// The hashes of a span, of which `tail` is what follows its head.
///
/// # Errors
/// The check sum is wrong.
pub fn span_hashes(position: u64, length: u32, tail: &[u8]) -> Result<&[u8], BadRecord> {
    let (hashes, check) = tail.split_at_checked(tail.len().wrapping_sub(CHECK)).ok_or(BadRecord::Damaged)?;
    let whole = [&SPAN[..], &position.to_be_bytes(), &length.to_be_bytes(), hashes].concat();
    if check_of(&whole) == check { Ok(hashes) } else { Err(BadRecord::Damaged) }
}

/// Adds our record that the destination has zeros.
pub fn push_zeros(to: &mut Vec<u8>, position: u64, length: u64) {
    push_run(to, ZEROS, position, length);
}
