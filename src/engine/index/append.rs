//! Files that grew: whether they still begin with their previous content, and how much of that has
//! to be read to know it.

use super::entry::PreviousContent;
use super::file_stat::size_of;
use crate::archive::chunk_map::{ChunkMap, KnownPrefix, Resume, mean_chunk_for};
use crate::archive::digest::blake3;
use crate::archive::entry::{FileEntry, Origin};
use crate::archive::log::Digests;
use crate::db::index_read::IndexReader;
use crate::telemetry::Monitor;
use parking_lot::Mutex;
use rand::RngExt;
use rustix::fs::Stat;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// How the indexer checks that a file that grew still begins with its previous content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Append {
    /// It reads and hashes the whole file.
    #[default]
    Full,
    /// It reads [`SAMPLES`] parts of the previous content, and the new end.
    Spot,
    /// It reads the new end only, and trusts the rest.
    Trust,
}

impl Append {
    /// How many samples of a previous content are read.
    fn samples(self) -> usize {
        if self == Self::Spot { SAMPLES } else { 0 }
    }

    /// The check for a receiver that has the previous content, of which `chunk_map` is the chunk
    /// map. It lets the receiver trust no more than the sender does.
    pub(super) fn beginning(self, chunk_map: &[u8]) -> Option<KnownPrefix> {
        let chunk_map = ChunkMap::decode(chunk_map).ok()?;
        Some(KnownPrefix::of(&chunk_map, self.samples(), rand::rng().random()))
    }
}

/// Parts of the previous content that [`Append::Spot`] reads: the first and the last chunk, and
/// others at random positions between them.
pub const SAMPLES: usize = 64;

impl PreviousContent {
    /// Whether these are its digests; an md5 that one of both has not is not compared.
    pub(super) fn has_digests(&self, (md5, blake3): &Digests) -> bool {
        let has_md5 = self.digests.0.zip(*md5).is_none_or(|(one, other)| one == other);
        has_md5 && self.digests.1 == *blake3
    }

    /// Whether `content` begins with it.
    pub(super) fn is_prefix_of(&self, content: &[u8]) -> bool {
        let start = usize::try_from(self.size).ok().and_then(|size| content.get(..size));
        start.is_some_and(|start| blake3(start) == self.digests.1)
    }
}

/// Whether a file of `size` bytes that begins with the content of `previous` needs only its growth
/// to be sent.
pub(in crate::engine) fn costs_its_growth(previous: &FileEntry, size: u64) -> bool {
    PreviousContent::of(previous, size).is_some()
}

/// Resumes the hashes of grown files behind their previous content.
pub(super) struct Resumer {
    /// The previous index.
    chunk_maps: Mutex<IndexReader>,
    append: Append,
    /// The md5 is wanted, too.
    md5: bool,
}

impl Resumer {
    pub(super) fn new(previous: IndexReader, append: Append, md5: bool) -> Self {
        Self { chunk_maps: Mutex::new(previous), append, md5 }
    }

    /// The hash state behind the previous content, if `file`, which has the attributes `stat`, need
    /// not be read from its start; the position of the file is there then. The caller has yet to
    /// check that hashing from there gives the digests of the previous content.
    pub(super) fn resume(
        &self,
        previous: &PreviousContent,
        (mut file, stat): (&File, &Stat),
        monitor: &dyn Monitor,
    ) -> Option<Resume> {
        // Another inode is another file: a log that was rotated, or an editor's copy.
        let is_same_file = |origin: Origin| (origin.dev, origin.ino) == (stat.st_dev, stat.st_ino);
        if previous.is_refuted || !previous.origin.is_some_and(is_same_file) {
            return None;
        }
        // A damaged chunk map is no error: the file itself can still be read.
        let chunk_map = self.chunk_maps.lock().chunk_map(previous.id);
        let chunk_map =
            ChunkMap::decode(&chunk_map.ok()??).ok().filter(|chunk_map| chunk_map.size() == previous.size)?;
        // Chunks that are too short for a file of the new size are replaced, which needs all of it.
        if mean_chunk_for(size_of(stat), Some(chunk_map.mean())) != chunk_map.mean() {
            return None;
        }
        let resume = Resume::new(&chunk_map, self.md5)?;
        if self.append == Append::Spot && !has_samples(&chunk_map, file, monitor) {
            return None;
        }
        file.seek(SeekFrom::Start(resume.start())).ok()?;
        Some(resume)
    }
}

/// Whether the samples of the previous content are unchanged in the file.
fn has_samples(chunk_map: &ChunkMap, file: &File, monitor: &dyn Monitor) -> bool {
    let mut bytes = Vec::new();
    chunk_map.samples(Append::Spot.samples(), rand::rng().random()).into_iter().all(|sample| {
        bytes.resize(sample.length as usize, 0);
        !monitor.is_cancelled()
            && file.read_exact_at(&mut bytes, sample.offset).is_ok()
            && sample.matches(&bytes)
    })
}
