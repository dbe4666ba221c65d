//! The head of a record: what it is, what it follows, and how long it is.

use crate::archive::digest::{Blake3, Digest, IndexDigest, blake3};

/// Bytes of a head.
pub const HEAD_LEN: usize = 176;

const MAGIC: [u8; 8] = *b"tlrecord";
const CHECKED: usize = HEAD_LEN - 32;

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
        let mut bytes = [0; HEAD_LEN];
        let letter = match self.kind {
            Kind::Snapshot => b'S',
            Kind::Change => b'C',
            Kind::Rewind => b'R',
        };
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = letter;
        let numbers = [self.version, self.parent.unwrap_or(0), self.created_s, self.length];
        for (place, number) in bytes[16..48].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        for (place, digest) in
            bytes[48..CHECKED].chunks_exact_mut(32).zip([self.digest, self.payload, self.before])
        {
            place.copy_from_slice(digest.as_bytes());
        }
        let check = blake3(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(check.as_bytes());
        bytes
    }

    /// What the next record names this one by.
    #[must_use]
    pub fn check(&self) -> Blake3 {
        blake3(&self.to_bytes()[..CHECKED])
    }

    /// Takes bytes apart.
    ///
    /// # Errors
    /// They are no head.
    pub fn parse(bytes: &[u8; HEAD_LEN]) -> Result<Self, NotARecord> {
        if !bytes.starts_with(&MAGIC) || blake3(&bytes[..CHECKED]).as_bytes() != &bytes[CHECKED..] {
            return Err(NotARecord);
        }
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let digest = |at: usize| {
            let mut digest = [0; 32];
            digest.copy_from_slice(&bytes[at..at + 32]);
            Digest::from(digest)
        };
        let kind = match bytes[8] {
            b'S' => Kind::Snapshot,
            b'C' => Kind::Change,
            b'R' => Kind::Rewind,
            _ => return Err(NotARecord),
        };
        Ok(Self {
            kind,
            version: number(16),
            parent: Some(number(24)).filter(|&parent| parent != 0),
            created_s: number(32),
            length: number(40),
            digest: digest(48),
            payload: digest(80),
            before: digest(112),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!(head.check().as_bytes(), &bytes[CHECKED..]);
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
