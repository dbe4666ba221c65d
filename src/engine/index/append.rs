//! Files that grew: whether they still begin with what they had, and what of that need not be read to know it.

use super::read::size_of;
use crate::archive::digest::blake3;
use crate::archive::entry::{FileEntry, Origin};
use crate::archive::log::Digests;
use crate::archive::sketch::{Beginning, Resume, SKETCHED_BYTES, Sketch, average_for};
use crate::db::index_read::IndexReader;
use crate::telemetry::Monitor;
use rand::RngExt;
use rustix::fs::Stat;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// How it is known that a file that grew still begins with its former content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Append {
    /// All of it is read and hashed.
    #[default]
    Full,
    /// [`SAMPLES`] parts of it are, and its end.
    Spot,
    /// Only its end is: the rest is believed.
    Trust,
}

/// Whether a file begins with the content that it had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) enum Growth {
    /// It does not, or nobody knows.
    #[default]
    None,
    /// It does: all of it was read.
    Read,
    /// It does, as far as [`Append::Spot`] or [`Append::Trust`] can tell.
    Believed,
}

impl Append {
    /// How many samples of a former content there are to look at.
    fn samples(self) -> usize {
        if self == Self::Spot { SAMPLES } else { 0 }
    }

    /// What a receiver is to go by that has the former content, of which `sketch` is, and shall believe no less than we do.
    pub(super) fn beginning(self, sketch: &[u8]) -> Option<Beginning> {
        let sketch = Sketch::decode(sketch).ok()?;
        Some(Beginning::of(&sketch, self.samples(), rand::rng().random()))
    }
}

/// Parts of the former content that [`Append::Spot`] looks at: the first and the last chunk, and others anywhere between.
pub const SAMPLES: usize = 64;

/// The former content of a file that is larger now.
#[derive(Debug, Clone)]
pub(super) struct FormerContent {
    /// The id of its row.
    pub(super) id: u64,
    pub(super) size: u64,
    digests: Digests,
    origin: Option<Origin>,
    /// It turned out not to be there any more when only a part was read.
    pub(super) is_doubted: bool,
}

impl FormerContent {
    /// That of the former row, if it is worth knowing for a file of `size` bytes.
    pub(super) fn of(file: &FileEntry, size: u64) -> Option<Self> {
        let digests = file.md5.zip(file.blake3)?;
        let FileEntry { id, origin, .. } = *file;
        (SKETCHED_BYTES..size).contains(&file.size).then_some(Self {
            id,
            size: file.size,
            digests,
            origin,
            is_doubted: false,
        })
    }

    /// Whether these are its digests.
    pub(super) fn is(&self, digests: &Digests) -> bool {
        self.digests == *digests
    }

    /// Whether `content` begins with it.
    pub(super) fn begins(&self, content: &[u8]) -> bool {
        let start = usize::try_from(self.size).ok().and_then(|size| content.get(..size));
        start.is_some_and(|start| blake3(start) == self.digests.1)
    }
}

/// Whether a file of `size` bytes costs its growth alone, if it begins with the content that it has in `former`.
pub(in super::super) fn costs_its_growth(former: &FileEntry, size: u64) -> bool {
    FormerContent::of(former, size).is_some()
}

/// What it takes to read only the end of a file.
pub(super) struct Appending {
    /// The former index.
    sketches: Mutex<IndexReader>,
    append: Append,
}

impl Appending {
    pub(super) fn new(former: IndexReader, append: Append) -> Self {
        Self { sketches: Mutex::new(former), append }
    }

    /// Where hashing goes on, if `file`, of which `stat` says what it is, need not be read from its start; it is read from there on then.
    /// The caller has yet to see whether what is hashed there comes to the digests of the former content.
    pub(super) fn resume(
        &self,
        former: &FormerContent,
        (mut file, stat): (&File, &Stat),
        monitor: &dyn Monitor,
    ) -> Option<Resume> {
        // Another inode is another file: a log that was rotated, or an editor's copy.
        let is_same_file = |origin: Origin| (origin.dev, origin.ino) == (stat.st_dev, stat.st_ino);
        if former.is_doubted || !former.origin.is_some_and(is_same_file) {
            return None;
        }
        // Whatever is wrong with a sketch, the file itself can still be read.
        let sketch = self.sketches.lock().unwrap_or_else(PoisonError::into_inner).sketch(former.id);
        let sketch = Sketch::decode(&sketch.ok()??).ok().filter(|sketch| sketch.size() == former.size)?;
        // Its chunks have become too short for so large a file: others are made, of all of it.
        if average_for(size_of(stat), Some(sketch.average())) != sketch.average() {
            return None;
        }
        let resume = Resume::new(&sketch)?;
        if self.append == Append::Spot && !are_proven(&sketch, file, monitor) {
            return None;
        }
        file.seek(SeekFrom::Start(resume.start())).ok()?;
        Some(resume)
    }
}

/// Whether samples of a former content are where they were.
fn are_proven(sketch: &Sketch, file: &File, monitor: &dyn Monitor) -> bool {
    let mut bytes = Vec::new();
    sketch.samples(Append::Spot.samples(), rand::rng().random()).into_iter().all(|sample| {
        bytes.resize(sample.length as usize, 0);
        !monitor.is_cancelled()
            && file.read_exact_at(&mut bytes, sample.offset).is_ok()
            && sample.proves(&bytes)
    })
}
