//! A content that begins with another one, for those who have that one and are to believe that nobody wrote to it: BLAKE3 of
//! the longer one without the bytes of the shorter one, and where to look whether they are still there.

use super::tree::{ChainingValue, Tree};
use super::{ChunkMap, GROUP_BYTES, Sample, groups_before};
use crate::archive::digest::Blake3;

/// What it takes, and nothing that would have to be believed but for the bytes: whoever knows BLAKE3 of the shorter content sees whether it is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// BLAKE3 of all groups of the shorter content but the last one, as the largest complete subtrees from left to right.
    pub(in super::super) subtrees: Vec<ChainingValue>,
    /// Parts of it to look at.
    pub(in super::super) samples: Vec<Sample>,
}

impl Beginning {
    /// So many subtrees it has at most: one for each bit of a size.
    pub const MAX_SUBTREES: usize = 64;
    /// So many samples it has at most.
    pub const MAX_SAMPLES: usize = 256;

    /// Of the content of `chunk_map`, with at most `samples` samples; see [`ChunkMap::samples`] for `seed`.
    #[must_use]
    pub fn of(chunk_map: &ChunkMap, samples: usize, seed: u64) -> Self {
        let samples = if samples == 0 { Vec::new() } else { chunk_map.samples(samples, seed) };
        Self { subtrees: chunk_map.subtrees.clone(), samples }
    }

    /// Parts of the shorter content to look at, ascending.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

/// BLAKE3 of a content that begins with a known one.
pub struct Continued {
    tree: Tree,
    start: u64,
    known: Blake3,
}

impl Continued {
    /// Goes on behind the content of `size` bytes whose BLAKE3 is `known`; `None` if `beginning` cannot be of so many.
    #[must_use]
    pub fn new(beginning: &Beginning, size: u64, known: Blake3) -> Option<Self> {
        let groups = groups_before(size);
        let fits = size > 0 && beginning.subtrees.len() == groups.count_ones() as usize;
        let tree = || Tree::resume(groups, beginning.subtrees.clone(), Some(size));
        fits.then(|| Self { tree: tree(), start: groups * GROUP_BYTES, known })
    }

    /// Where in the content the first byte is that has to be fed: at most a group before the end of the known one.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.tree.update(bytes);
    }

    /// BLAKE3 of the whole; `None` if the beginning was not of the known content, or that does not end as it did.
    #[must_use]
    pub fn finish(&self) -> Option<Blake3> {
        self.tree.digest().filter(|_| self.tree.prefix() == Some(self.known))
    }
}
