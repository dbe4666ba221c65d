//! The first record of both streams between processes of ours: the options and findings of
//! `checksum`, to which `retrieve` adds its own. A stream that begins with another record is that
//! of the original.

use super::parts::{CHECK, Parts, seal, unseal};
use super::{BadRecord, MAX_BLOCK, Tag};

/// The record's tag.
pub const HEAD: Tag = *b"tlbc";
/// Bytes of the record behind its tag.
pub const HEAD_LEN: usize = 4 + 4 + 7 * 8 + CHECK;

const VERSION: u8 = 1;
const BLAKE3: u8 = 1;
/// The smallest block, in bytes.
pub const MIN_BLOCK: u32 = 4096;
const UNKNOWN: u64 = u64::MAX;

/// Which of the two streams it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// From `checksum` to `retrieve`.
    Hashes,
    /// From `retrieve` to `save`.
    Data,
}

/// Which file `checksum` read, so that `save` notices another file, or one that was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Whether it is a block device; a regular file otherwise.
    pub is_device: bool,
    /// Its size.
    pub size: u64,
    /// The device that it is on, or is.
    pub device: u64,
    /// Its inode; 0 for a device.
    pub inode: u64,
    /// When it was modified last, in nanoseconds; 0 for a device.
    pub modified_ns: i64,
}

/// What both streams begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which of the two streams it is.
    pub stream: Stream,
    /// Bytes of a block.
    pub block: u32,
    /// Where the part to copy begins.
    pub start: u64,
    /// Where it ends, if that was said.
    pub end: Option<u64>,
    /// The destination, if that is a file or device.
    pub destination: Option<Identity>,
    /// The source's size; 0 in a stream of hashes.
    pub source_size: u64,
}

impl Head {
    /// Where the copy of the source ends.
    #[must_use]
    pub fn copy_end(&self) -> u64 {
        self.end.unwrap_or(u64::MAX).min(self.source_size).max(self.start)
    }

    /// Adds the record.
    pub fn push(&self, to: &mut Vec<u8>) {
        let begin = to.len();
        let identity = self.destination;
        let kind = identity.map_or(0, |identity| if identity.is_device { 2 } else { 1 });
        to.extend(HEAD);
        to.extend([VERSION, if self.stream == Stream::Hashes { 1 } else { 2 }, BLAKE3, kind]);
        to.extend(self.block.to_be_bytes());
        for number in [
            self.start,
            self.end.unwrap_or(UNKNOWN),
            identity.map_or(UNKNOWN, |identity| identity.size),
            identity.map_or(0, |identity| identity.device),
            identity.map_or(0, |identity| identity.inode),
            identity.map_or(0, |identity| identity.modified_ns.cast_unsigned()),
            self.source_size,
        ] {
            to.extend(number.to_be_bytes());
        }
        seal(to, begin);
    }

    /// Takes it apart.
    ///
    /// # Errors
    /// It is damaged, or of a later version.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadRecord> {
        // Checked before the check sum, so that a later version may have another one.
        if bytes.first() != Some(&VERSION) {
            return Err(BadRecord::Newer);
        }
        let mut parts = unseal(HEAD, bytes)?;
        let [_, stream, hash, kind] = parts.bytes()?;
        let stream = match stream {
            1 => Stream::Hashes,
            2 => Stream::Data,
            _ => return Err(BadRecord::Newer),
        };
        if hash != BLAKE3 || kind > 2 {
            return Err(BadRecord::Newer);
        }
        let block = parts.u32()?;
        if !(MIN_BLOCK..=MAX_BLOCK).contains(&block) {
            return Err(BadRecord::TooLarge);
        }
        let start = parts.position()?;
        let end = known(&mut parts)?;
        let size = known(&mut parts)?;
        let (device, inode, modified) = (parts.u64()?, parts.u64()?, parts.u64()?);
        let destination = size.filter(|_| kind > 0).map(|size| Identity {
            is_device: kind == 2,
            size,
            device,
            inode,
            modified_ns: modified.cast_signed(),
        });
        Ok(Self { stream, block, start, end, destination, source_size: parts.position()? })
    }
}

fn known(parts: &mut Parts<'_>) -> Result<Option<u64>, BadRecord> {
    match parts.u64()? {
        UNKNOWN => Ok(None),
        number if number <= super::MAX_POSITION => Ok(Some(number)),
        _ => Err(BadRecord::TooLarge),
    }
}
