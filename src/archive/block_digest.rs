//! The digest of a block's content: it tells that the content came as it was sent. Whether a file
//! is right is not its task; that is verified by BLAKE3 of each file. So a fast checksum will do:
//! XXH3 costs a fifth of BLAKE3, which older senders use here.

use super::digest::{Blake3, Digest, NotADigest, blake3};
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;
use twox_hash::XxHash3_128;

/// As lowercase hex, 32 digits of XXH3 (128 bits, no seed, most significant byte first) or 64 of
/// BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockDigest {
    /// What we send.
    Xxh3(Digest<16>),
    /// What is accepted, too.
    Blake3(Blake3),
}

impl BlockDigest {
    /// The digest of a content that comes in pieces.
    #[must_use]
    pub fn of(content: &[Bytes]) -> Self {
        let mut hasher = XxHash3_128::default();
        content.iter().for_each(|piece| hasher.write(piece));
        Self::Xxh3(Digest::from(hasher.finish_128().to_be_bytes()))
    }

    /// Whether `content` is what this is the digest of.
    #[must_use]
    pub fn is_of(&self, content: &[u8]) -> bool {
        match self {
            Self::Xxh3(digest) => Digest::from(XxHash3_128::oneshot(content).to_be_bytes()) == *digest,
            Self::Blake3(digest) => blake3(content) == *digest,
        }
    }
}

impl fmt::Display for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xxh3(digest) => digest.fmt(f),
            Self::Blake3(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for BlockDigest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        text.parse().map(Self::Xxh3).or_else(|_| text.parse().map(Self::Blake3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_and_both_kinds() {
        // Of the reference implementation: `printf abc | xxh128sum`, `printf '' | xxh128sum`.
        for (content, hex) in
            [(&b"abc"[..], "06b05ab6733a618578af5f94892f3950"), (b"", "99aa06d3014798d86001c324468d497f")]
        {
            let pieces: Vec<Bytes> = content.chunks(2).map(Bytes::from_static).collect();
            assert_eq!(BlockDigest::of(&pieces).to_string(), hex);
            assert!(hex.parse::<BlockDigest>().unwrap().is_of(content));
            assert!(!hex.parse::<BlockDigest>().unwrap().is_of(b"abd"));
        }
        let old = blake3(b"abc").to_string().parse::<BlockDigest>().unwrap();
        assert!(old.is_of(b"abc") && !old.is_of(b"abd"));
        assert!("99aa".parse::<BlockDigest>().is_err() && "".parse::<BlockDigest>().is_err());
    }
}
