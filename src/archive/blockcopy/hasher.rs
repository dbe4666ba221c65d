//! Hashes of blocks.

use crate::archive::digest::blake3;
use crate::archive::sha3::{sha3, sha3_of_each};

/// Which hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA3-512: the original's.
    Sha3,
    /// BLAKE3: ours.
    Blake3,
}

/// Hashes blocks of one size. The hash of a whole block of zeros is computed once.
pub struct Hasher {
    algorithm: Algorithm,
    block: usize,
    zero: Vec<u8>,
}

impl Hasher {
    /// For blocks of `block` bytes.
    #[must_use]
    pub fn new(algorithm: Algorithm, block: u32) -> Self {
        let content = vec![0; block as usize];
        let zero = match algorithm {
            Algorithm::Sha3 => sha3(&content).to_vec(),
            Algorithm::Blake3 => blake3(&content).as_bytes().to_vec(),
        };
        Self { algorithm, block: block as usize, zero }
    }

    /// Bytes of a block; the last one of a content may be shorter.
    #[must_use]
    pub fn block(&self) -> usize {
        self.block
    }

    /// Bytes of a hash.
    #[must_use]
    pub fn width(&self) -> usize {
        self.zero.len()
    }

    /// The hash of a whole block of zeros.
    #[must_use]
    pub fn zero(&self) -> &[u8] {
        &self.zero
    }

    /// The hashes of these blocks, one behind the other.
    #[must_use]
    pub fn each(&self, blocks: &[&[u8]]) -> Vec<u8> {
        let mut hashes = Vec::with_capacity(blocks.len() * self.width());
        let is_zero = |block: &[u8]| block.len() == self.block && is_zero(block);
        match self.algorithm {
            Algorithm::Blake3 => {
                for block in blocks {
                    match is_zero(block) {
                        true => hashes.extend(&self.zero),
                        false => hashes.extend(blake3(block).as_bytes()),
                    }
                }
            }
            Algorithm::Sha3 => {
                let zeros: Vec<bool> = blocks.iter().map(|block| is_zero(block)).collect();
                let others: Vec<&[u8]> =
                    blocks.iter().zip(&zeros).filter(|(_, zero)| !**zero).map(|(block, _)| *block).collect();
                let mut found = sha3_of_each(&others).into_iter().peekable();
                for zero in zeros {
                    match found.next_if(|_| !zero) {
                        Some(hash) => hashes.extend(hash),
                        None => hashes.extend(&self.zero),
                    }
                }
            }
        }
        hashes
    }
}

/// Whether all bytes are zeros. Other content nearly always differs in its first bytes, which are
/// compared first.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (first, rest) = bytes.split_at(bytes.len().min(64));
    first.iter().all(|&byte| byte == 0) && (rest.is_empty() || bytes[..rest.len()] == *rest)
}
