//! The prefix of a file that grew, as the receiver checks it. The receiver has the previous content
//! with its BLAKE3. It reads the samples, and computes BLAKE3 of the grown content from the
//! subtrees and the new bytes.

use super::map::ChunkMap;
use super::resume::Sample;
use super::tree::{ChainingValue, GROUP_BYTES, Tree, groups_before};
use crate::archive::digest::Blake3;

/// What it takes to go on behind a prefix. A wrong one is noticed: its subtrees give another BLAKE3
/// of the prefix than the one that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPrefix {
    /// BLAKE3 of all groups of the prefix but the last: the largest complete subtrees, left to
    /// right.
    pub(in super::super) subtrees: Vec<ChainingValue>,
    /// Parts of the prefix to compare.
    pub(in super::super) samples: Vec<Sample>,
}

impl KnownPrefix {
    /// The most subtrees that it can have: one for each bit of a size.
    pub const MAX_SUBTREES: usize = 64;
    /// The most samples that it can have.
    pub const MAX_SAMPLES: usize = 256;

    /// The content of `chunk_map` as a prefix, with at most `samples` samples; see
    /// [`ChunkMap::samples`] for `seed`.
    #[must_use]
    pub fn of(chunk_map: &ChunkMap, samples: usize, seed: u64) -> Self {
        let samples = if samples == 0 { Vec::new() } else { chunk_map.samples(samples, seed) };
        Self { subtrees: chunk_map.subtrees.clone(), samples }
    }

    /// Parts of the prefix to compare, ascending.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

/// BLAKE3 of a content that begins with a known one.
pub struct ResumedBlake3 {
    tree: Tree,
    start: u64,
    known: Blake3,
}

impl ResumedBlake3 {
    /// Goes on behind the content of `size` bytes whose BLAKE3 is `known`; `None` if `prefix`
    /// cannot be of so many bytes.
    #[must_use]
    pub fn new(prefix: &KnownPrefix, size: u64, known: Blake3) -> Option<Self> {
        let groups = groups_before(size);
        let fits = size > 0 && prefix.subtrees.len() == groups.count_ones() as usize;
        let tree = || Tree::resume(groups, prefix.subtrees.clone(), Some(size));
        fits.then(|| Self { tree: tree(), start: groups * GROUP_BYTES, known })
    }

    /// The offset of the first byte to feed: at most a group before the end of the known content.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.tree.update(bytes);
    }

    /// BLAKE3 of the whole content; `None` if its prefix is not the known content.
    #[must_use]
    pub fn finish(&self) -> Option<Blake3> {
        self.tree.digest().filter(|_| self.tree.prefix() == Some(self.known))
    }
}
