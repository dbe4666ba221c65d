//! The head of a record: what it is, what it follows, and how long it is.

use crate::archive::digest::{Blake3, Digest, IndexDigest};
use crate::archive::record::{CHECK_BYTES, Fault, Reader, sealed, unsealed};

/// Bytes of a head.
pub const HEAD_LEN: usize = 176;

const MAGIC: [u8; 8] = *b"tlrecord";
const ZEROS: [u8; 7] = [0; 7];

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A whole index.
    Snapshot,
    /// What makes this version of its parent.
    Change,
    /// No version: the file goes back to one that it has.
    Rewind,
}

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// What follows.
    pub kind: Kind,
    /// The version that is live from this record on.
    pub version: u64,
    /// The version that was live before.
    pub parent: Option<u64>,
    /// When the generation was made, in seconds since 1970.
    pub created_s: u64,
    /// Bytes of the payload.
    pub length: u64,
    /// The digest of the index at this version.
    pub digest: IndexDigest,
    /// BLAKE3 of the payload.
    pub payload: Blake3,
    /// The check of the record before; zeros in the first one.
    pub before: Blake3,
}

/// The bytes are no head of a record, or a damaged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the head of a record")]
pub struct NotARecord;

impl RecordHead {
    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEAD_LEN] {
        let letter = match self.kind {
            Kind::Snapshot => b'S',
            Kind::Change => b'C',
            Kind::Rewind => b'R',
        };
        sealed(|to| {
            to.bytes(&MAGIC);
            to.byte(letter);
            to.bytes(&ZEROS);
            let numbers = [self.version, self.parent.unwrap_or(0), self.created_s, self.length];
            numbers.into_iter().for_each(|number| to.u64(number));
            [self.digest, self.payload, self.before].iter().for_each(|digest| to.digest(digest));
        })
    }

    /// The name of this record in the next one.
    #[must_use]
    pub fn check(&self) -> Blake3 {
        let bytes = self.to_bytes();
        let mut check = [0; CHECK_BYTES];
        check.copy_from_slice(&bytes[HEAD_LEN - CHECK_BYTES..]);
        Digest::from(check)
    }

    /// Whether `bytes` begin like a head.
    #[must_use]
    pub fn may_be(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Reads a head.
    ///
    /// # Errors
    /// The bytes are no head.
    pub fn parse(bytes: &[u8; HEAD_LEN]) -> Result<Self, NotARecord> {
        let from = unsealed(bytes).filter(|_| Self::may_be(bytes)).ok_or(NotARecord)?;
        Self::read(from).map_err(|_| NotARecord)
    }

    fn read(mut from: Reader<'_>) -> Result<Self, Fault> {
        let _magic: [u8; MAGIC.len()] = from.bytes()?;
        let kind = match from.byte()? {
            b'S' => Kind::Snapshot,
            b'C' => Kind::Change,
            b'R' => Kind::Rewind,
            _ => return Err(Fault::Malformed),
        };
        let _zeros: [u8; ZEROS.len()] = from.bytes()?;
        Ok(Self {
            kind,
            version: from.u64()?,
            parent: Some(from.u64()?).filter(|&parent| parent != 0),
            created_s: from.u64()?,
            length: from.u64()?,
            digest: from.digest()?,
            payload: from.digest()?,
            before: from.digest()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::blake3;
    use proptest::prelude::*;

    #[test]
    fn any_flip_is_noticed() {
        let head = RecordHead {
            kind: Kind::Change,
            version: 3,
            parent: Some(2),
            created_s: 1_700_000_000,
            length: 4,
            digest: blake3(b"index"),
            payload: blake3(b"load"),
            before: blake3(b"before"),
        };
        let bytes = head.to_bytes();
        assert_eq!(RecordHead::parse(&bytes), Ok(head));
        assert_eq!(head.check().as_bytes(), &bytes[HEAD_LEN - CHECK_BYTES..]);
        for bit in 0..HEAD_LEN * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHead::parse(&flipped), Err(NotARecord), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn there_and_back(
            kind in prop_oneof![Just(Kind::Snapshot), Just(Kind::Change), Just(Kind::Rewind)],
            numbers: [u64; 4],
            digests: [[u8; 32]; 3],
        ) {
            let [version, parent, created_s, length] = numbers;
            let [digest, payload, before] = digests.map(Digest::from);
            let parent = Some(parent).filter(|&parent| parent != 0);
            let head = RecordHead { kind, version, parent, created_s, length, digest, payload, before };
            prop_assert_eq!(RecordHead::parse(&head.to_bytes()), Ok(head));
        }
    }
}
