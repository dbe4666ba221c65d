//! md5, BLAKE3 and chunk map of a content in one pass.

use super::chunker::Chunker;
use super::map::ChunkMap;
use super::tree::{GROUP_BYTES, Tree};
use crate::archive::digest::{Blake3, Digest, Md5};
use crate::archive::md5;

/// The digests of a content, and its chunk map.
#[derive(Debug, Clone)]
pub struct Hashed {
    /// Its md5, if that was wanted.
    pub md5: Option<Md5>,
    /// Its BLAKE3.
    pub blake3: Blake3,
    /// BLAKE3 of its prefix, if one was asked for and the content is that long.
    pub prefix: Option<Blake3>,
    /// md5 of the same prefix.
    pub prefix_md5: Option<Md5>,
    /// Its chunk map; see [`ChunkMap::stored`].
    pub chunk_map: ChunkMap,
}

/// Takes the bytes of a content in order. Two threads may feed its two parts.
pub struct ChunkMapHasher {
    md5: Option<Md5Part>,
    content: ContentPart,
}

/// md5 of a content.
pub struct Md5Part {
    stream: md5::Stream,
    /// Bytes in it so far.
    length: u64,
    /// The state where the last group so far begins, if it is known.
    state: Option<[u8; 16]>,
    /// Bytes at the start of the input that are in the state already.
    skips: u64,
    /// Length of the prefix whose md5 is wanted.
    prefix: Option<u64>,
    prefix_digest: Option<Md5>,
}

/// BLAKE3 and chunks of a content.
pub struct ContentPart {
    tree: Tree,
    /// Bytes at the start of the input that are in the tree already.
    tree_skips: u64,
    chunker: Chunker,
    /// The same for the chunks.
    chunker_skips: u64,
}

impl ChunkMapHasher {
    /// With the mean chunk size `mean`, in bytes, out of [`super::mean_chunk_for`]. With `prefix`,
    /// digests of so many bytes at the start are computed, too. Without `md5`, there is none.
    #[must_use]
    pub fn new(mean: u32, prefix: Option<u64>, md5: bool) -> Self {
        let md5 = md5.then(|| Md5Part::new(md5::Stream::default(), 0, 0, prefix));
        Self { md5, content: ContentPart::new(mean, prefix) }
    }

    pub(super) fn of_parts(md5: Option<Md5Part>, content: ContentPart) -> Self {
        Self { md5, content }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.content.update(bytes);
    }

    /// Its parts. The caller feeds the same bytes to each.
    pub fn parts(&mut self) -> (Option<&mut Md5Part>, &mut ContentPart) {
        (self.md5.as_mut(), &mut self.content)
    }

    /// The digests and the chunk map of all bytes.
    #[must_use]
    pub fn finish(self) -> Hashed {
        let (blake3, prefix, chunk_map) = self.content.finish();
        let (md5, prefix_md5, md5_state) = match self.md5.map(Md5Part::finish) {
            Some((md5, prefix, state)) => (Some(md5), prefix, state),
            None => (None, None, None),
        };
        // A BLAKE3 is missing only if nothing was fed after a resume, which `Resume` rules out.
        let blake3 = blake3.unwrap_or(Digest::ZERO);
        Hashed { md5, blake3, prefix, prefix_md5, chunk_map: ChunkMap { md5_state, ..chunk_map } }
    }
}

/// BLAKE3 and chunk map of a content in memory. The chunk map has no state of md5, so it cannot be
/// resumed.
#[must_use]
pub fn chunk_map_of(content: &[u8], mean: u32) -> (Blake3, ChunkMap) {
    let mut part = ContentPart::new(mean, None);
    part.update(content);
    let (blake3, _, chunk_map) = part.finish();
    (blake3.unwrap_or(Digest::ZERO), chunk_map)
}

impl Md5Part {
    fn new(stream: md5::Stream, length: u64, skips: u64, prefix: Option<u64>) -> Self {
        Self { stream, length, state: None, skips, prefix, prefix_digest: None }
    }

    /// Goes on behind the first `length` bytes of a content, whole groups, with their `state`. The
    /// first `skips` bytes of the input are in it already. The md5 of the first `prefix` bytes,
    /// which are more, is wanted too.
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

    /// Takes the next bytes of two contents, in little more time than one takes.
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

    /// How many of `count` bytes can be taken before the next group begins or the prefix ends.
    /// Saves the state if a group begins here, and has at least one byte.
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

    /// Saves the md5 of the prefix, if that ends here.
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
    fn new(mean: u32, prefix: Option<u64>) -> Self {
        let (tree, chunker) = (Tree::new(prefix), Chunker::new(mean, Vec::new()));
        Self { tree, tree_skips: 0, chunker, chunker_skips: 0 }
    }

    /// Goes on with a tree and a chunker, each with the number of input bytes that it has already.
    pub(super) fn resume(tree: (Tree, u64), chunker: (Chunker, u64)) -> Self {
        Self { tree: tree.0, tree_skips: tree.1, chunker: chunker.0, chunker_skips: chunker.1 }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        // In parts that fit into a core's cache.
        for bytes in bytes.chunks(CACHED_BYTES) {
            self.tree.update(unskipped(&mut self.tree_skips, bytes));
            self.chunker.update(unskipped(&mut self.chunker_skips, bytes));
        }
    }

    fn finish(self) -> (Option<Blake3>, Option<Blake3>, ChunkMap) {
        let (blake3, prefix) = (self.tree.digest(), self.tree.prefix());
        let chunk_map = ChunkMap {
            mean: self.chunker.mean(),
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
