//! The backup file of a copy, by which an interrupted one can be undone. Blocks are in it, on
//! stable storage, before they are overwritten.

use super::parts::{CHECK, Parts, RUN, push_run, seal, unseal};
use super::{BadRecord, MAX_BLOCK, Tag};
use crate::archive::digest::{Blake3, Digest};

/// What the file begins with.
pub const MAGIC: [u8; 32] = *b"tar-like blockcopy backup 2\n\0\0\0\0";
/// Bytes before the first record.
pub const START_LEN: usize = 32 + 8 + 8 + 16 + CHECK;

const OLD: Tag = *b"old ";
const ZEROS: Tag = *b"zero";
const BATCH: Tag = *b"batc";
const END: Tag = *b"end ";

/// The longest batch, in bytes of the file. At most one batch is torn at the end of an interrupted
/// copy.
pub const MAX_BATCH: u64 = 64 << 20;

/// What is known of the destination before the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Its size.
    pub size: u64,
    /// Whether it is a block device.
    pub is_device: bool,
    /// The device that it is on, or is.
    pub device: u64,
    /// Its inode; 0 for a device.
    pub inode: u64,
}

impl Start {
    /// The first bytes of the file.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(START_LEN);
        bytes.extend(MAGIC);
        bytes.extend(self.size.to_be_bytes());
        bytes.extend([u8::from(self.is_device), 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(self.device.to_be_bytes());
        bytes.extend(self.inode.to_be_bytes());
        seal(&mut bytes, 0);
        bytes
    }

    /// Takes them apart.
    ///
    /// # Errors
    /// It is no such file, or a damaged one.
    pub fn parse(bytes: &[u8; START_LEN]) -> Result<Self, BadRecord> {
        if !bytes.starts_with(&MAGIC) {
            return Err(BadRecord::Unknown);
        }
        // The tag is part of the magic.
        let Some((tag, rest)) = bytes.split_first_chunk() else { return Err(BadRecord::Damaged) };
        let mut parts: Parts<'_> = unseal(*tag, rest)?;
        parts.bytes::<28>()?;
        let (size, is_device) = (parts.position()?, parts.u8()? == 1);
        parts.bytes::<7>()?;
        Ok(Self { size, is_device, device: parts.u64()?, inode: parts.u64()? })
    }
}

/// A record, without the bytes that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupRecord {
    /// What was there; `length` bytes follow.
    Old {
        /// Where.
        position: u64,
        /// How many bytes follow.
        length: u32,
        /// Of these bytes.
        hash: Blake3,
    },
    /// Zeros were there.
    Zeros {
        /// Where.
        position: u64,
        /// How many.
        length: u64,
    },
    /// A batch begins; the file was on stable storage up to here before the destination was
    /// changed.
    Batch {
        /// Where in the file this record is.
        offset: u64,
    },
    /// The copy came to its end.
    End {
        /// Where in the file this record is.
        offset: u64,
    },
}

impl BackupRecord {
    /// Bytes of a batch's beginning, or of the end, tag included.
    pub const MARK_LEN: usize = 4 + 8 + CHECK;

    /// Whether a record of this kind tells where it is.
    #[must_use]
    pub fn is_mark(tag: Tag) -> bool {
        tag == BATCH || tag == END
    }

    /// Bytes of the record behind its tag, without what follows it.
    ///
    /// # Errors
    /// There is no such record.
    pub fn length(tag: Tag) -> Result<usize, BadRecord> {
        match tag {
            OLD => Ok(8 + 4 + 32 + CHECK),
            ZEROS => Ok(RUN),
            BATCH | END => Ok(8 + CHECK),
            _ => Err(BadRecord::Unknown),
        }
    }

    /// Takes a record of that many bytes apart.
    ///
    /// # Errors
    /// It is damaged, or a number is beyond its limit.
    pub fn parse(tag: Tag, bytes: &[u8]) -> Result<Self, BadRecord> {
        let mut parts = unseal(tag, bytes)?;
        let position = parts.position()?;
        match tag {
            OLD => {
                let length = parts.length(position, MAX_BLOCK)?;
                Ok(Self::Old { position, length, hash: Digest::from(parts.bytes()?) })
            }
            ZEROS => Ok(Self::Zeros { position, length: parts.run(position)? }),
            BATCH => Ok(Self::Batch { offset: position }),
            END => Ok(Self::End { offset: position }),
            _ => Err(BadRecord::Unknown),
        }
    }
}

/// Adds the head of what was there, which has to follow.
pub fn push_old(to: &mut Vec<u8>, position: u64, length: u32, hash: &Blake3) {
    let start = to.len();
    to.extend(OLD);
    to.extend(position.to_be_bytes());
    to.extend(length.to_be_bytes());
    to.extend(hash.as_bytes());
    seal(to, start);
}

/// Adds that zeros were there.
pub fn push_zeros(to: &mut Vec<u8>, position: u64, length: u64) {
    push_run(to, ZEROS, position, length);
}

/// Adds the beginning of a batch at `offset`.
pub fn push_batch(to: &mut Vec<u8>, offset: u64) {
    push_mark(to, BATCH, offset);
}

/// Adds the end of the copy, at `offset`.
pub fn push_end(to: &mut Vec<u8>, offset: u64) {
    push_mark(to, END, offset);
}

fn push_mark(to: &mut Vec<u8>, tag: Tag, offset: u64) {
    let start = to.len();
    to.extend(tag);
    to.extend(offset.to_be_bytes());
    seal(to, start);
}
