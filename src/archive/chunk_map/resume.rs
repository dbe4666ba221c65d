//! A content that grew: its digests and its chunk map without the bytes that it had, and where to look whether they are still there.

use super::chunker::Chunker;
use super::hasher::{ChunkMapHasher, ContentPart, Md5Part};
use super::tree::Tree;
use super::{ChunkMap, GROUP_BYTES, groups_before};
use crate::archive::digest::blake3;

/// Goes on where a chunk map ends.
pub struct Resume {
    hasher: ChunkMapHasher,
    start: u64,
}

impl Resume {
    /// Of the content whose previous chunk map is `previous`, if md5 can be resumed from there. What comes before [`Resume::start`] is
    /// believed.
    #[must_use]
    pub fn new(previous: &ChunkMap) -> Option<Self> {
        let groups = groups_before(previous.size);
        let group_start = groups * GROUP_BYTES;
        let mut chunks = previous.chunks.clone();
        let last = chunks.pop()?;
        let chunk_start = previous.size.checked_sub(last.length.into())?;
        let start = group_start.min(chunk_start);
        let md5 = Md5Part::resume(group_start, previous.md5_state?, group_start - start, previous.size);
        let tree = Tree::resume(groups, previous.subtrees.clone(), Some(previous.size));
        let chunker = Chunker::new(previous.average, chunks);
        let content = ContentPart::resume((tree, group_start - start), (chunker, chunk_start - start));
        Some(Self { hasher: ChunkMapHasher::of_parts(md5, content), start })
    }

    /// Where in the content the first byte is that has to be fed: shortly before the previous end, at most 17 MiB.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Takes the bytes from [`Resume::start`] on, and gives digests and chunk map of the whole content. [`prefix`](super::Hashed::prefix) and
    /// [`prefix_md5`](super::Hashed::prefix_md5) are of as many bytes as the previous content had: if they are others than that one's, it is not there any more, or the chunk map is
    /// not of it. They are `None` if the content has become shorter, and no digest counts then.
    #[must_use]
    pub fn into_hasher(self) -> ChunkMapHasher {
        self.hasher
    }
}

/// A part of a content that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Where it starts.
    pub offset: u64,
    /// Its length in bytes, at most 16 MiB.
    pub length: u32,
    pub(in super::super) hash: [u8; 16],
}

/// The longest chunk of any average, in bytes.
pub(in super::super) const MAX_SAMPLE_BYTES: u32 = 4 * *super::MEANS.end();

impl Sample {
    /// Whether `bytes` are this part.
    #[must_use]
    pub fn proves(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.length as usize && blake3(bytes).as_bytes().starts_with(&self.hash)
    }
}

impl ChunkMap {
    /// At most `count` parts of the content, ascending: the first and the last chunk, and others spread over all of it. `seed` says
    /// which: with one that nobody can know, no place is safe from being looked at.
    #[must_use]
    pub fn samples(&self, count: usize, seed: u64) -> Vec<Sample> {
        let total = self.chunks.len();
        let count = count.min(total);
        // One chunk out of each of `count` spans of about the same number.
        let chosen = |span: usize| {
            let (start, end) = (span * total / count, (span + 1) * total / count);
            match span {
                0 => start,
                _ if span + 1 == count => end - 1,
                _ => start + (mix(seed.wrapping_add(span as u64)) % (end - start) as u64) as usize,
            }
        };
        let (mut samples, mut offset, mut span) = (Vec::with_capacity(count), 0, 0);
        for (at, chunk) in self.chunks.iter().enumerate() {
            if span < count && at == chosen(span) {
                samples.push(Sample { offset, length: chunk.length, hash: chunk.hash });
                span += 1;
            }
            offset += u64::from(chunk.length);
        }
        samples
    }
}

/// Spreads a number over all 64 bits (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
