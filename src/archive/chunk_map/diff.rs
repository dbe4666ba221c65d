//! Which ranges of a new content an old one has.

use super::map::{Chunk, ChunkMap};
use std::collections::HashMap;

/// A run of bytes of the new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// The old content has them.
    Same {
        /// Where they start in the old content.
        old_offset: u64,
        /// How many bytes, at least 1.
        length: u64,
    },
    /// The old content does not have them.
    New {
        /// How many bytes, at least 1.
        length: u64,
    },
}

/// The chunks of the old content, with their offsets.
struct Old<'a> {
    chunks: &'a [Chunk],
    /// Offset of each chunk, and the end of the last.
    offsets: Vec<u64>,
    /// The first of equal chunks. Made when it is needed first, which is never for a content that
    /// only grew.
    first: Option<HashMap<Chunk, usize>>,
}

impl<'a> Old<'a> {
    fn new(chunks: &'a [Chunk]) -> Self {
        let mut offsets = Vec::with_capacity(chunks.len() + 1);
        let mut at = 0;
        offsets.push(at);
        offsets.extend(chunks.iter().map(|chunk| {
            at += u64::from(chunk.length);
            at
        }));
        Self { chunks, offsets, first: None }
    }

    fn first(&mut self, chunk: &Chunk) -> Option<usize> {
        let chunks = self.chunks;
        let first = self.first.get_or_insert_with(|| {
            let mut first = HashMap::with_capacity(chunks.len());
            for (at, chunk) in chunks.iter().enumerate() {
                first.entry(*chunk).or_insert(at);
            }
            first
        });
        first.get(chunk).copied()
    }
}

/// Which ranges of the content of `new` that of `old` has: runs that make up the new content, in
/// order. Neighbours are one run where they can be. Of several equal old chunks, the one that
/// continues the run before is taken, else the one at the same offset, else the first. Chunks count
/// as equal by 128 bits of BLAKE3, so the caller verifies the whole content. Time and memory are in
/// proportion to the number of chunks.
#[must_use]
pub fn diff(old: &ChunkMap, new: &ChunkMap) -> Vec<Run> {
    let mut old = Old::new(&old.chunks);
    let mut runs: Vec<Run> = Vec::new();
    // The old chunk behind the last one that matched; the first old chunk that does not lie before
    // this offset.
    let (mut next, mut beside) = (0, 0);
    let mut at = 0;
    for chunk in &new.chunks {
        while old.offsets[beside] < at && beside < old.chunks.len() {
            beside += 1;
        }
        let is_here = |place: usize| old.chunks.get(place) == Some(chunk);
        let found = if is_here(next) {
            Some(next)
        } else if old.offsets[beside] == at && is_here(beside) {
            Some(beside)
        } else {
            old.first(chunk)
        };
        let length = u64::from(chunk.length);
        if let Some(found) = found {
            next = found + 1;
        }
        add(&mut runs, found.map(|found| old.offsets[found]), length);
        at += length;
    }
    runs
}

fn add(runs: &mut Vec<Run>, old_offset: Option<u64>, more: u64) {
    match (runs.last_mut(), old_offset) {
        (Some(Run::New { length }), None) => *length += more,
        (Some(Run::Same { old_offset: from, length }), Some(at)) if *from + *length == at => *length += more,
        (_, None) => runs.push(Run::New { length: more }),
        (_, Some(old_offset)) => runs.push(Run::Same { old_offset, length: more }),
    }
}
