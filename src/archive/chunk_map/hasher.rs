//! md5, BLAKE3 and chunk map of a content in one pass.

use super::chunker::Chunker;
use super::tree::Tree;
use super::{ChunkMap, GROUP_BYTES};
use crate::archive::digest::{Blake3, Digest, Md5};
use crate::archive::md5;

/// What a content came to.
#[derive(Debug, Clone)]
pub struct Hashed {
    /// Its md5.
    pub md5: Md5,
    /// Its BLAKE3.
    pub blake3: Blake3,
    /// BLAKE3 of its first bytes, if it was asked for and there are so many.
    pub prefix: Option<Blake3>,
    /// md5 of the same bytes.
    pub prefix_md5: Option<Md5>,
    /// Its chunk map. Worth keeping from [`super::MIN_CHUNK_MAP_BYTES`] on.
    pub chunk_map: ChunkMap,
}

/// Takes the bytes of a content in order. What takes longest are its two parts, which may be fed by two threads.
pub struct ChunkMapHasher {
    md5: Md5Part,
    content: ContentPart,
}

/// md5 of a content.
pub struct Md5Part {
    stream: md5::Stream,
    /// Bytes in it so far.
    length: u64,
    /// The state where the last group begins, as far as it is known.
    state: Option<[u8; 16]>,
    /// Bytes that it has had before, and is not to take again.
    skips: u64,
    /// Whose md5 is wanted on the way: that of so many bytes at the start.
    prefix: Option<u64>,
    prefix_digest: Option<Md5>,
}

/// BLAKE3 and chunks of a content.
pub struct ContentPart {
    tree: Tree,
    /// Bytes that the tree has had before, and is not to take again; likewise the chunks.
    tree_skips: u64,
    chunker: Chunker,
    chunker_skips: u64,
}

impl ChunkMapHasher {
    /// Chunks get the average length `average`, in bytes, out of [`super::average_for`]; with `prefix` the BLAKE3 of so many bytes at the
    /// start is wanted, too, and their md5.
    #[must_use]
    pub fn new(average: u32, prefix: Option<u64>) -> Self {
        let md5 = Md5Part::new(md5::Stream::default(), 0, 0, prefix);
        Self { md5, content: ContentPart::new(average, prefix) }
    }

    pub(super) fn of_parts(md5: Md5Part, content: ContentPart) -> Self {
        Self { md5, content }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.content.update(bytes);
    }

    /// The parts, which have to be given the same bytes.
    pub fn parts(&mut self) -> (&mut Md5Part, &mut ContentPart) {
        (&mut self.md5, &mut self.content)
    }

    /// What all bytes came to.
    #[must_use]
    pub fn finish(self) -> Hashed {
        let (blake3, prefix, chunk_map) = self.content.finish();
        let (md5, prefix_md5, md5_state) = self.md5.finish();
        // Only what was resumed and then given nothing has none, and Resume does not ask.
        let blake3 = blake3.unwrap_or(Digest::ZERO);
        Hashed { md5, blake3, prefix, prefix_md5, chunk_map: ChunkMap { md5_state, ..chunk_map } }
    }
}

/// Takes the next bytes of two contents: as to md5, this takes little longer than one.
pub fn update_pair(a: (&mut ChunkMapHasher, &[u8]), b: (&mut ChunkMapHasher, &[u8])) {
    Md5Part::update_pair((&mut a.0.md5, a.1), (&mut b.0.md5, b.1));
    a.0.content.update(a.1);
    b.0.content.update(b.1);
}

/// BLAKE3 and chunk map of a content that is in memory; the chunk map cannot be resumed.
#[must_use]
pub fn chunk_map_of(content: &[u8], average: u32) -> (Blake3, ChunkMap) {
    let mut part = ContentPart::new(average, None);
    part.update(content);
    let (blake3, _, chunk_map) = part.finish();
    (blake3.unwrap_or(Digest::ZERO), chunk_map)
}

impl Md5Part {
    fn new(stream: md5::Stream, length: u64, skips: u64, prefix: Option<u64>) -> Self {
        Self { stream, length, state: None, skips, prefix, prefix_digest: None }
    }

    /// Of a content whose first `length` bytes, whole groups, came to `state`; skips so many bytes first. The md5 of the first `prefix` bytes
    /// is wanted, too, which are more.
    pub(super) fn resume(length: u64, state: [u8; 16], skips: u64, prefix: u64) -> Self {
        Self::new(md5::Stream::resume(length, state), length, skips, Some(prefix))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut bytes = unskipped(&mut self.skips, bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.enter(bytes.len()));
            self.stream.update(now);
            self.length += now.len() as u64;
            bytes = later;
        }
    }

    /// Takes the next bytes of two contents, in little more time than one of them needs.
    pub fn update_pair(a: (&mut Self, &[u8]), b: (&mut Self, &[u8])) {
        let ((a, a_bytes), (b, b_bytes)) = (a, b);
        let mut a_bytes = unskipped(&mut a.skips, a_bytes);
        let mut b_bytes = unskipped(&mut b.skips, b_bytes);
        loop {
            let count = a.enter(a_bytes.len()).min(b.enter(b_bytes.len()));
            if count == 0 {
                break;
            }
            md5::update_pair((&mut a.stream, &a_bytes[..count]), (&mut b.stream, &b_bytes[..count]));
            (a.length, b.length) = (a.length + count as u64, b.length + count as u64);
            (a_bytes, b_bytes) = (&a_bytes[count..], &b_bytes[count..]);
        }
        a.update(a_bytes);
        b.update(b_bytes);
    }

    /// Before some of `count` bytes are taken: how many can be before the next group begins, or the prefix ends. If a group begins here, keeps
    /// the state: there is at least one byte in it.
    fn enter(&mut self, count: usize) -> usize {
        self.end_prefix();
        let in_group = self.length % GROUP_BYTES;
        if in_group == 0 && count > 0 {
            self.state = self.stream.state();
        }
        let left = self.prefix.and_then(|prefix| prefix.checked_sub(self.length)).filter(|&left| left > 0);
        let room = (GROUP_BYTES - in_group).min(left.unwrap_or(u64::MAX));
        count.min(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Keeps the md5 of the prefix, if that ends here.
    fn end_prefix(&mut self) {
        if self.prefix == Some(self.length) && self.prefix_digest.is_none() {
            self.prefix_digest = Some(Digest::from(self.stream.clone().finish()));
        }
    }

    fn finish(mut self) -> (Md5, Option<Md5>, Option<[u8; 16]>) {
        self.end_prefix();
        (Digest::from(self.stream.finish()), self.prefix_digest, self.state)
    }
}

impl ContentPart {
    fn new(average: u32, prefix: Option<u64>) -> Self {
        let (tree, chunker) = (Tree::new(prefix), Chunker::new(average, Vec::new()));
        Self { tree, tree_skips: 0, chunker, chunker_skips: 0 }
    }

    /// Goes on with both, which skip so many bytes first.
    pub(super) fn resume(tree: (Tree, u64), chunker: (Chunker, u64)) -> Self {
        Self { tree: tree.0, tree_skips: tree.1, chunker: chunker.0, chunker_skips: chunker.1 }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        // One after the other in parts that a core's cache holds.
        for bytes in bytes.chunks(CACHED_BYTES) {
            self.tree.update(unskipped(&mut self.tree_skips, bytes));
            self.chunker.update(unskipped(&mut self.chunker_skips, bytes));
        }
    }

    fn finish(self) -> (Option<Blake3>, Option<Blake3>, ChunkMap) {
        let (blake3, prefix) = (self.tree.digest(), self.tree.prefix());
        let chunk_map = ChunkMap {
            average: self.chunker.average(),
            size: self.tree.length(),
            md5_state: None,
            subtrees: self.tree.into_subtrees(),
            chunks: self.chunker.finish(),
        };
        (blake3, prefix, chunk_map)
    }
}

const CACHED_BYTES: usize = 256 << 10;

fn unskipped<'a>(skips: &mut u64, bytes: &'a [u8]) -> &'a [u8] {
    let skipped = usize::try_from(*skips).unwrap_or(usize::MAX).min(bytes.len());
    *skips -= skipped as u64;
    &bytes[skipped..]
}
