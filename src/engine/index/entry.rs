//! One entry of a source on its way into an index, stage by stage:
//!
//! 1. listed: its name by a walk ([`ListedName`](crate::source::walk::ListedName)), or an object of
//!    a list ([`ListedObject`](crate::db::listing::ListedObject))
//! 2. [`ScanItem`]: a file with its attributes and with what the previous index knows of it, or
//!    a node, which is complete
//! 3. [`ScannedEntry`]: a file with its digests, or a large one that is still to be read
//! 4. a row: [`FileEntry`] with its id and offset, or [`Node`]
//!
//! An entry may be left out at each stage ([`SkippedEntry`]).

use super::file_stat::is_unmodified;
use crate::archive::chunk_map::{MIN_CHUNK_MAP_BYTES, Resume};
use crate::archive::digest::Md5;
use crate::archive::entry::{FileEntry, Node, Origin};
use crate::archive::log::Digests;
use crate::archive::path::EntryPath;
use crate::engine::buffers::Buffers;
use crate::source::SkippedEntry;
use crate::source::base::restat;
use crate::source::s3::{Bucket, ObjectState};
use bytes::Bytes;
use rustix::fs::{Stat, fstat};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Whether the contents that a scan reads are passed on.
pub(in crate::engine) enum ContentUse {
    /// Only their digests are passed on.
    Digests,
    /// They are passed on with their entries, in buffers of this pool. A file that is too large for
    /// that is left unread.
    Contents(Arc<Buffers>),
}

/// Bytes of files in a batch, if it has more than one file. Files that are hashed side by side take
/// as long as the longest of them.
const BATCH_BYTES: u64 = 8 << 20;
/// The same where contents are passed on.
pub(in crate::engine) const CONTENT_BATCH_BYTES: u64 = 4 << 20;

impl ContentUse {
    pub(super) fn batch_bytes(&self) -> u64 {
        if self.has_contents() { CONTENT_BATCH_BYTES } else { BATCH_BYTES }
    }

    /// Whether contents are passed on.
    pub(super) fn has_contents(&self) -> bool {
        matches!(self, Self::Contents(_))
    }
}

/// A listed entry.
pub(super) enum ScanItem<S> {
    /// A file, or the key of a bucket that stands for a folder.
    File(Candidate<S>),
    /// A directory or link.
    Node(Node),
    Skipped(SkippedEntry),
}

/// A file whose digests may have to be computed. `S` is what its source tells without reading it.
pub(super) struct Candidate<S> {
    pub(super) source: S,
    /// Its row, if the file is unmodified since the previous index.
    pub(super) unmodified: Option<UnmodifiedFile>,
    /// The mean chunk size of its previous content, in bytes.
    pub(super) mean_chunk: Option<u32>,
    /// Its previous content, if the file is larger now.
    pub(super) previous: Option<Box<PreviousContent>>,
}

/// A file that need not be read.
pub(super) struct UnmodifiedFile {
    pub(super) file: FileEntry,
    /// The previous index has this very row, metadata included.
    pub(super) is_same_row: bool,
}

/// A file of a folder, as its source.
pub(super) struct FileSource {
    pub(super) path: EntryPath,
    /// Device and inode of a file that has several names.
    pub(super) shared_inode: Option<(u64, u64)>,
}

/// The previous content of a file that is larger now.
#[derive(Debug, Clone)]
pub(super) struct PreviousContent {
    /// The id of its row.
    pub(super) id: u64,
    pub(super) size: u64,
    pub(super) digests: Digests,
    pub(super) origin: Option<Origin>,
    /// A read that resumed behind this content has shown that the file no longer begins with it.
    pub(super) is_refuted: bool,
}

impl PreviousContent {
    /// The content of a previous row, if a file of `size` bytes that begins with it can share its
    /// extents.
    pub(super) fn of(file: &FileEntry, size: u64) -> Option<Self> {
        let digests = (file.md5, file.blake3?);
        let FileEntry { id, origin, .. } = *file;
        (MIN_CHUNK_MAP_BYTES..size).contains(&file.size).then_some(Self {
            id,
            size: file.size,
            digests,
            origin,
            is_refuted: false,
        })
    }
}

/// Whether a file begins with its previous content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::engine) enum Growth {
    /// It does not, or that is unknown.
    #[default]
    None,
    /// It does: all of it was read.
    Read,
    /// It does, as far as [`Append::Spot`](super::Append::Spot) or
    /// [`Append::Trust`](super::Append::Trust) can tell.
    Resumed,
}

/// The outcome of examining an entry.
pub(super) enum ScanOutcome {
    Scanned(ScannedEntry),
    /// `is_shared`: the file has further names, which cannot be in the index without it.
    Skipped {
        skipped: SkippedEntry,
        is_shared: bool,
    },
}

impl ScanOutcome {
    pub(super) fn unreadable(path: &EntryPath, reason: impl Into<String>) -> Self {
        let skipped = SkippedEntry::unreadable(path.as_bytes(), reason);
        Self::Skipped { skipped, is_shared: false }
    }
}

impl From<HashedFile> for ScanOutcome {
    fn from(hashed: HashedFile) -> Self {
        Self::Scanned(ScannedEntry::File(hashed))
    }
}

/// An entry that a scan gives, in the order of the index.
pub(in crate::engine) enum ScannedEntry {
    File(HashedFile),
    /// A file that is too large for memory; it is open, but not read.
    Large(Box<LargeFile>),
    /// A directory or link.
    Node(Node),
}

/// A file with its digests.
pub(in crate::engine) struct HashedFile {
    /// Its id is set only for a row of the previous index, its offset never.
    pub(in crate::engine) file: FileEntry,
    /// The previous index has this very row.
    pub(in crate::engine) is_same_row: bool,
    /// Its content, if contents are passed on.
    pub(in crate::engine) content: Option<BatchContent>,
    /// The chunk map of a large file that was read ([`crate::archive::chunk_map`]).
    pub(in crate::engine) chunk_map: Option<Vec<u8>>,
    /// Whether it is larger than the previous row of this path, and begins with that content.
    pub(in crate::engine) growth: Growth,
}

impl HashedFile {
    /// A file without content, chunk map and previous content.
    pub(super) fn new(file: FileEntry) -> Self {
        Self { file, is_same_row: false, content: None, chunk_map: None, growth: Growth::None }
    }
}

impl From<UnmodifiedFile> for HashedFile {
    fn from(UnmodifiedFile { file, is_same_row }: UnmodifiedFile) -> Self {
        Self { is_same_row, ..Self::new(file) }
    }
}

/// The content of a file, among those of its batch.
pub(in crate::engine) struct BatchContent {
    /// All contents of the batch, one behind the other.
    pub(in crate::engine) batch: Bytes,
    /// Where this one is.
    pub(in crate::engine) range: Range<usize>,
}

/// A file or an object that is too large to be read as a whole. It is not read yet.
pub(in crate::engine) struct LargeFile {
    pub(super) entry: FileEntry,
    /// The mean size of its chunks, in bytes.
    pub(super) mean_chunk: u32,
    pub(super) content: LargeContent,
    /// The content that it may begin with.
    pub(super) previous: Option<PreviousContent>,
    /// Where reading resumes behind that content.
    pub(super) resume: Option<Box<Resume>>,
    /// A file that only grows while it is read counts as unmodified.
    pub(super) may_grow: bool,
    /// Compute md5 beside BLAKE3.
    pub(super) md5: bool,
}

pub(super) enum LargeContent {
    /// An open file with its attributes.
    File(File, Box<Stat>),
    Object(LargeObject),
}

/// An object that is too large for memory.
#[derive(Clone)]
pub(super) struct LargeObject {
    pub(super) bucket: Arc<Bucket>,
    pub(super) state: ObjectState,
    /// Its ETag, if that looks like an md5.
    pub(super) etag: Option<Md5>,
    /// The mean size of its chunks, in bytes.
    pub(super) mean_chunk: u32,
}

impl LargeFile {
    /// An open file with its attributes.
    pub(super) fn of_file(entry: FileEntry, mean_chunk: u32, file: File, stat: Stat) -> Self {
        let content = LargeContent::File(file, Box::new(stat));
        Self { entry, mean_chunk, content, previous: None, resume: None, may_grow: false, md5: true }
    }

    /// An object of a bucket.
    pub(super) fn of_object(entry: FileEntry, object: LargeObject) -> Self {
        let (mean_chunk, content) = (object.mean_chunk, LargeContent::Object(object));
        Self { entry, mean_chunk, content, previous: None, resume: None, may_grow: false, md5: true }
    }

    /// It may begin with `previous`, which is smaller. With `resume` reading starts behind that.
    pub(super) fn with_previous(self, previous: PreviousContent, resume: Option<Resume>) -> Self {
        Self { previous: Some(previous), resume: resume.map(Box::new), ..self }
    }

    /// The offset at which reading starts.
    pub(super) fn start(&self) -> u64 {
        self.resume.as_ref().map_or(0, |resume| resume.start())
    }

    /// The same file read out of a snapshot, and whether it is: `take` makes one of the open file,
    /// where that can be. A file that was modified since it was opened is read as it is.
    pub(in crate::engine) fn snapshot(mut self, take: impl FnOnce(&File) -> Option<File>) -> (Self, bool) {
        let (LargeContent::File(file, before), None) = (&self.content, &self.resume) else {
            return (self, false);
        };
        let Some(snapshot) = take(file) else { return (self, false) };
        let is_unmodified = restat(file, before).is_ok_and(|after| is_unmodified(before, &after));
        match fstat(&snapshot) {
            Ok(stat) if is_unmodified => {
                self.content = LargeContent::File(snapshot, Box::new(stat));
                (self, true)
            }
            _ => (self, false),
        }
    }

    /// Its row without digests.
    pub(in crate::engine) fn entry(&self) -> FileEntry {
        self.entry.clone()
    }
}
