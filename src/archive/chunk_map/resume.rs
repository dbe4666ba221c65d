//! Digests and chunk map of a content that grew, without reading what it had, and samples by which
//! to see whether that is still there.

use super::chunker::Chunker;
use super::hasher::{ChunkMapHasher, ContentPart, Md5Part};
use super::map::{ChunkMap, MEANS};
use super::tree::{GROUP_BYTES, Tree, groups_before};
use crate::archive::digest::blake3;

/// Goes on where a chunk map ends.
pub struct Resume {
    hasher: ChunkMapHasher,
    start: u64,
}

impl Resume {
    /// Goes on behind the content of `previous`; with `md5`, only if that has a state of it. Bytes
    /// before [`Resume::start`] are taken for unchanged.
    #[must_use]
    pub fn new(previous: &ChunkMap, md5: bool) -> Option<Self> {
        let groups = groups_before(previous.size);
        let group_start = groups * GROUP_BYTES;
        let mut chunks = previous.chunks.clone();
        let last = chunks.pop()?;
        let chunk_start = previous.size.checked_sub(last.length.into())?;
        let start = group_start.min(chunk_start);
        let md5 = match (md5, previous.md5_state) {
            (false, _) => None,
            (true, state) => Some(Md5Part::resume(group_start, state?, group_start - start, previous.size)),
        };
        let tree = Tree::resume(groups, previous.subtrees.clone(), Some(previous.size));
        let chunker = Chunker::new(previous.mean, chunks);
        let content = ContentPart::resume((tree, group_start - start), (chunker, chunk_start - start));
        Some(Self { hasher: ChunkMapHasher::of_parts(md5, content), start })
    }

    /// The offset of the first byte to feed: at most 17 MiB before the previous end.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Takes the bytes from [`Resume::start`] on, and gives digests and chunk map of the whole
    /// content. [`prefix`](super::Hashed::prefix) and [`prefix_md5`](super::Hashed::prefix_md5) are
    /// of as many bytes as the previous content had, the latter with md5 only. If they differ from its digests, the content
    /// does not begin with it, or the chunk map is of another one. They are `None` if the content
    /// has become shorter; no digest is valid then.
    #[must_use]
    pub fn into_hasher(self) -> ChunkMapHasher {
        self.hasher
    }
}

/// A part of a content, with its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Where it starts.
    pub offset: u64,
    /// Its length in bytes, at most 16 MiB.
    pub length: u32,
    pub(in super::super) hash: [u8; 16],
}

/// The longest chunk that there is, in bytes.
pub(in super::super) const MAX_SAMPLE_BYTES: u32 = 4 * *MEANS.end();

impl Sample {
    /// Whether `bytes` are this part.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.length as usize && blake3(bytes).as_bytes().starts_with(&self.hash)
    }
}

impl ChunkMap {
    /// At most `count` parts of the content, ascending: the first and the last chunk, and others
    /// spread between them. `seed` chooses which; a random one leaves no place that is never read.
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
