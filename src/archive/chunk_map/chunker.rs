//! Content-defined chunks of a content that comes in pieces.
//!
//! The functions of the crate `fastcdc` want all of a chunk in one slice, but a piece of a file
//! ends anywhere. So the loop is here, on the crate's tables, and a test compares the two. They
//! differ in one thing: the crate ignores the last byte of an odd content. Here a cut never depends
//! on where the content ends, so a content that grew has all chunks it had, but for the last.

use super::map::{Chunk, MEANS, is_mean};
use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};

/// Takes the pieces.
pub(super) struct Chunker {
    mean: usize,
    masks: Masks,
    gear: Box<[[u64; 2]; 256]>,
    /// Rolling hash of the bytes of this chunk so far, without those before the shortest length.
    rolling: u64,
    /// Bytes of this chunk so far.
    length: usize,
    hasher: blake3::Hasher,
    chunks: Vec<Chunk>,
}

/// A chunk ends before the byte after which the masked bits of the rolling hash are all 0.
#[derive(Clone, Copy)]
struct Masks {
    /// For positions up to the mean.
    short: u64,
    /// For positions beyond it: less strict.
    long: u64,
}

/// How the chunk goes on.
enum Scan {
    /// The chunk takes so many of the bytes, and ends.
    Cut(usize),
    /// The chunk takes so many of the bytes, and goes on with the rest, if there is one.
    Took(usize),
}

impl Chunker {
    /// With `mean` out of [`MEANS`]; any other value stands for the smallest. `chunks` are those
    /// before.
    pub(super) fn new(mean: u32, chunks: Vec<Chunk>) -> Self {
        let mean = if is_mean(mean) { mean } else { *MEANS.start() } as usize;
        let (short, long) = select_masks(mean, Normalization::Level1);
        let (gear, gear_twice) = get_gear_with_seed(0);
        let mut both = Box::new([[0; 2]; 256]);
        for (entry, (once, twice)) in both.iter_mut().zip(gear.iter().zip(gear_twice.iter())) {
            *entry = [*once, *twice];
        }
        Self {
            mean,
            masks: Masks { short, long },
            gear: both,
            rolling: 0,
            length: 0,
            hasher: blake3::Hasher::new(),
            chunks,
        }
    }

    /// The mean chunk size, in bytes.
    pub(super) fn mean(&self) -> u32 {
        self.mean as u32
    }

    /// The shortest chunk, but for the last of a content, in bytes.
    fn shortest(&self) -> usize {
        self.mean / 4
    }

    /// The longest chunk, in bytes.
    fn longest(&self) -> usize {
        self.mean * 4
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        // Where in `bytes` the part ends that was scanned for this chunk.
        let mut end = 0;
        loop {
            match self.scan(&bytes[end..]) {
                Scan::Took(count) => {
                    end += count;
                    self.length += count;
                    if end < bytes.len() {
                        continue;
                    }
                    self.hasher.update(bytes);
                    return;
                }
                Scan::Cut(count) => {
                    end += count;
                    self.length += count;
                    self.end_chunk(&bytes[..end]);
                    bytes = &bytes[end..];
                    end = 0;
                }
            }
        }
    }

    /// The chunks of all bytes.
    pub(super) fn finish(mut self) -> Vec<Chunk> {
        if self.length > 0 {
            self.end_chunk(&[]);
        }
        self.chunks
    }

    /// The chunk ends with `bytes`.
    fn end_chunk(&mut self, bytes: &[u8]) {
        let hash = if bytes.len() == self.length {
            blake3::hash(bytes)
        } else {
            self.hasher.update(bytes);
            self.hasher.finalize()
        };
        self.hasher.reset();
        let (hash, _) = hash.as_bytes().split_at(16);
        // At most 16 MiB, and 16 bytes always.
        let chunk = Chunk { length: self.length as u32, hash: hash.try_into().unwrap_or_default() };
        self.chunks.push(chunk);
        (self.length, self.rolling) = (0, 0);
    }

    /// Scans `bytes` up to the next length at which another mask applies.
    fn scan(&mut self, bytes: &[u8]) -> Scan {
        let (until, mask) = match self.length {
            length if length < self.shortest() => (self.shortest(), None),
            length if length < self.mean => (self.mean, Some(self.masks.short)),
            length if length < self.longest() => (self.longest(), Some(self.masks.long)),
            _ if bytes.is_empty() => return Scan::Took(0),
            _ => return Scan::Cut(0),
        };
        let bytes = &bytes[..bytes.len().min(until - self.length)];
        let found = mask.and_then(|mask| roll(&mut self.rolling, &self.gear, bytes, mask));
        found.map_or(Scan::Took(bytes.len()), Scan::Cut)
    }
}

/// Rolls over `bytes`. Gives the place of the first byte after which the masked bits are all 0.
#[inline]
fn roll(rolling: &mut u64, gear: &[[u64; 2]; 256], bytes: &[u8], mask: u64) -> Option<usize> {
    let mut hash = *rolling;
    let (pairs, rest) = bytes.as_chunks::<2>();
    // Two bytes take one shift: the values of the first one are stored shifted by one, and its mask
    // is shifted likewise.
    let twice = mask << 1;
    for (pair, &[first, second]) in pairs.iter().enumerate() {
        hash = (hash << 2).wrapping_add(gear[usize::from(first)][1]);
        if hash & twice == 0 {
            return Some(2 * pair);
        }
        hash = hash.wrapping_add(gear[usize::from(second)][0]);
        if hash & mask == 0 {
            return Some(2 * pair + 1);
        }
    }
    if let [last] = rest {
        hash = (hash << 1).wrapping_add(gear[usize::from(*last)][0]);
        if hash & mask == 0 {
            return Some(bytes.len() - 1);
        }
    }
    *rolling = hash;
    None
}
