//! The digest of a whole copy: BLAKE3 over the hashes of all blocks of the source, in order.

use super::head::Head;
use crate::archive::digest::{Blake3, Blake3Hasher};

const CONTEXT: &[u8] = b"tar-like blockcopy root 1\n";

/// Takes the hashes of the blocks from the copy's start to its end.
pub struct Root {
    hasher: Blake3Hasher,
    /// Hashes of zero blocks, many of them.
    zeros: Vec<u8>,
}

impl Root {
    /// Begins; `zero` is the hash of a whole block of zeros.
    #[must_use]
    pub fn new(head: &Head, zero: &[u8]) -> Self {
        let mut hasher = Blake3Hasher::default();
        hasher.update(CONTEXT);
        hasher.update(&head.block.to_be_bytes());
        hasher.update(&head.start.to_be_bytes());
        hasher.update(&head.copy_end().to_be_bytes());
        Self { hasher, zeros: zero.repeat(2048) }
    }

    /// Takes the hashes of the next blocks.
    pub fn push(&mut self, hashes: &[u8]) {
        self.hasher.update(hashes);
    }

    /// Takes `count` whole blocks of zeros.
    pub fn push_zeros(&mut self, count: u64) {
        let mut left = count * super::hashes::NATIVE_HASH as u64;
        while left > 0 {
            let now = left.min(self.zeros.len() as u64);
            self.hasher.update(&self.zeros[..now as usize]);
            left -= now;
        }
    }

    /// The digest.
    #[must_use]
    pub fn finish(&self) -> Blake3 {
        self.hasher.finish()
    }
}
