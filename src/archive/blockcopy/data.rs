//! The stream from `retrieve` to `save`.

use super::head::{HEAD, HEAD_LEN, Head};
use super::parts::{CHECK, Parts, RUN, push_run, seal, unseal};
use super::{BadRecord, DONE, MAX_BLOCK, Tag};
use crate::archive::digest::{Blake3, Digest};

const DATA: Tag = *b"data";
const XZ: Tag = *b"dlzm";
const EQUAL: Tag = *b"tleq";
const ZEROS: Tag = *b"tlzr";
const BLOCK: Tag = *b"tlbl";
const ROOT: Tag = *b"tlrt";

/// How the bytes of a block are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// As they are.
    Plain,
    /// One Zstandard frame.
    Zstd,
}

/// A record, without the bytes that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataRecord {
    /// The stream is ours.
    Head(Head),
    /// The original's block; its bytes follow.
    Data {
        /// Where the block goes.
        position: u64,
        /// How many bytes follow.
        length: u32,
    },
    /// The original's block as an xz stream, which follows.
    Xz {
        /// Where the block goes.
        position: u64,
        /// How many bytes follow.
        length: u32,
    },
    /// The end.
    Done,
    /// Ours: the destination has what the source has.
    Equal {
        /// Where that begins.
        position: u64,
        /// How many bytes.
        length: u64,
    },
    /// Ours: the source has zeros, and the destination has something else.
    Zeros {
        /// Where they begin.
        position: u64,
        /// How many bytes.
        length: u64,
    },
    /// Ours: a block, which follows.
    Block(Block),
    /// Ours: the digest of the whole.
    Root {
        /// Where the copy ends.
        end: u64,
        /// See [`super::root`].
        root: Blake3,
    },
}

/// A block on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Where it goes.
    pub position: u64,
    /// Its bytes.
    pub length: u32,
    /// How they are on the wire.
    pub coding: Coding,
    /// How many bytes follow.
    pub coded_length: u32,
    /// Of its content.
    pub hash: Blake3,
}

impl DataRecord {
    /// Bytes of the record behind its tag, without what follows it.
    ///
    /// # Errors
    /// There is no such record.
    pub fn length(tag: Tag) -> Result<usize, BadRecord> {
        match tag {
            HEAD => Ok(HEAD_LEN),
            DATA | XZ => Ok(12),
            DONE => Ok(0),
            EQUAL | ZEROS => Ok(RUN),
            BLOCK => Ok(8 + 4 + 1 + 4 + 32 + CHECK),
            ROOT => Ok(8 + 32 + CHECK),
            _ => Err(BadRecord::Unknown),
        }
    }

    /// Takes a record of that many bytes apart.
    ///
    /// # Errors
    /// It is damaged, or a number is beyond its limit.
    pub fn parse(tag: Tag, bytes: &[u8]) -> Result<Self, BadRecord> {
        match tag {
            HEAD => Head::parse(bytes).map(Self::Head),
            DATA | XZ => {
                let mut parts = Parts(bytes);
                let position = parts.position()?;
                let length = parts.length(position, MAX_BLOCK)?;
                let is_xz = tag == XZ;
                Ok(if is_xz { Self::Xz { position, length } } else { Self::Data { position, length } })
            }
            DONE => Ok(Self::Done),
            EQUAL | ZEROS => {
                let mut parts = unseal(tag, bytes)?;
                let position = parts.position()?;
                let length = parts.run(position)?;
                let is_equal = tag == EQUAL;
                Ok(if is_equal { Self::Equal { position, length } } else { Self::Zeros { position, length } })
            }
            BLOCK => {
                let mut parts = unseal(tag, bytes)?;
                let position = parts.position()?;
                let length = parts.length(position, MAX_BLOCK)?;
                let coding = match parts.u8()? {
                    0 => Coding::Plain,
                    1 => Coding::Zstd,
                    _ => return Err(BadRecord::Newer),
                };
                let coded_length = parts.u32()?;
                let fits = match coding {
                    Coding::Plain => coded_length == length,
                    Coding::Zstd => coded_length < length,
                };
                if !fits {
                    return Err(BadRecord::TooLarge);
                }
                let hash = Digest::from(parts.bytes()?);
                Ok(Self::Block(Block { position, length, coding, coded_length, hash }))
            }
            ROOT => {
                let mut parts = unseal(tag, bytes)?;
                Ok(Self::Root { end: parts.position()?, root: Digest::from(parts.bytes()?) })
            }
            _ => Err(BadRecord::Unknown),
        }
    }
}

/// Adds the head of the original's block, whose `length` bytes have to follow.
pub fn push_data(to: &mut Vec<u8>, position: u64, length: u32) {
    push_original(to, DATA, position, length);
}

/// Adds the head of the original's block as an xz stream, whose `length` bytes have to follow.
pub fn push_xz(to: &mut Vec<u8>, position: u64, length: u32) {
    push_original(to, XZ, position, length);
}

fn push_original(to: &mut Vec<u8>, tag: Tag, position: u64, length: u32) {
    to.extend(tag);
    to.extend(position.to_be_bytes());
    to.extend(length.to_be_bytes());
}

/// Adds our record of what is equal.
pub fn push_equal(to: &mut Vec<u8>, position: u64, length: u64) {
    push_run(to, EQUAL, position, length);
}

/// Adds our record of zeros.
pub fn push_zeros(to: &mut Vec<u8>, position: u64, length: u64) {
    push_run(to, ZEROS, position, length);
}

/// Adds the head of our block, whose bytes have to follow.
pub fn push_block(to: &mut Vec<u8>, block: &Block) {
    let start = to.len();
    to.extend(BLOCK);
    to.extend(block.position.to_be_bytes());
    to.extend(block.length.to_be_bytes());
    to.push(if block.coding == Coding::Plain { 0 } else { 1 });
    to.extend(block.coded_length.to_be_bytes());
    to.extend(block.hash.as_bytes());
    seal(to, start);
}

/// Adds our digest of the whole.
pub fn push_root(to: &mut Vec<u8>, end: u64, root: &Blake3) {
    let start = to.len();
    to.extend(ROOT);
    to.extend(end.to_be_bytes());
    to.extend(root.as_bytes());
    seal(to, start);
}
