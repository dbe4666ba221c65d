//! Reading and hashing the files of a folder: small ones whole and side by side, large ones a piece
//! at a time.

use super::append::Resumer;
use super::entry::{
    BatchContent, Candidate, ContentUse, FileSource, Growth, HashedFile, LargeFile, PreviousContent,
    ScanItem, ScanOutcome, ScannedEntry,
};
use super::file_stat::{entry_of, is_grown, is_unmodified, size_of};
use super::hash::{LARGE_BYTES, blake3_and_chunk_map, share};
use super::large::{LargeReader, SIDE_BY_SIDE};
use crate::archive::chunk_map::mean_chunk_for;
use crate::archive::digest::md5_of_each;
use crate::archive::entry::FileEntry;
use crate::archive::path::EntryPath;
use crate::engine::buffers::{Buffer, Buffers};
use crate::engine::opener::Opener;
use crate::folder::is_kind;
use crate::source::SkippedEntry;
use crate::source::base::Base;
use crate::telemetry::Monitor;
use rustix::fs::{FileType, Stat};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// Pieces in which large files are read.
const PIECE_BYTES: usize = 2 << 20;
/// A file that is modified while it is read is read so many times in all.
const MAX_ATTEMPTS: usize = 3;

/// Reads and hashes the files of a folder. All hashing threads share it.
pub(super) struct FileHasher<'a> {
    pub(super) base: &'a Base,
    pub(super) contents: &'a ContentUse,
    /// Buffers for the contents of small files.
    pub(super) buffers: Arc<Buffers>,
    pub(super) monitor: &'a dyn Monitor,
    /// Buffers for pieces of large files.
    pub(super) pieces: Arc<Buffers>,
    /// Each thread may start another one that hashes large files.
    pub(super) parallel: bool,
    /// Set if files that grew need not be read from their start.
    pub(super) resumer: Option<Resumer>,
    /// A file that only grows while it is read counts as unmodified, with its size before.
    pub(super) may_grow: bool,
    /// Compute md5 beside BLAKE3.
    pub(super) md5: bool,
}

type FileCandidate = Candidate<FileSource>;

/// A file that was opened and, if it is small, read.
enum OpenedFile {
    /// Its content is the end of the buffer.
    Small(Stat),
    Large(Box<LargeFile>),
}

/// A small file that was read.
struct SmallFile {
    /// Its place among the outcomes.
    at: usize,
    stat: Stat,
    path: EntryPath,
    mean_chunk: Option<u32>,
    previous: Option<Box<PreviousContent>>,
    /// Where its content is in the buffer.
    range: std::ops::Range<usize>,
}

/// A large file that waits to be read.
struct QueuedLarge {
    /// Its place among the outcomes.
    at: usize,
    candidate: FileCandidate,
    large: Box<LargeFile>,
    /// How often it was read before.
    attempts: usize,
}

/// A large file that is being read.
struct ReadingLarge {
    at: usize,
    candidate: FileCandidate,
    attempts: usize,
    entry: FileEntry,
    reader: LargeReader,
    /// Bytes so far, those included that need not be read.
    length: u64,
}

impl From<QueuedLarge> for ReadingLarge {
    fn from(QueuedLarge { at, candidate, large, attempts }: QueuedLarge) -> Self {
        let (entry, length) = (large.entry(), large.start());
        Self { at, candidate, attempts, entry, reader: LargeReader::new(*large, PIECE_BYTES), length }
    }
}

/// The work on one batch.
struct BatchWork<'a> {
    hasher: &'a FileHasher<'a>,
    opener: Opener<'a>,
    /// Contents of small files.
    buffer: Buffer,
    /// `None` where digests are still to be computed.
    outcomes: Vec<Option<ScanOutcome>>,
    small: Vec<SmallFile>,
    large: VecDeque<QueuedLarge>,
}

impl FileHasher<'_> {
    /// Reads what must be read of a batch.
    pub(super) fn examine(&self, items: Vec<ScanItem<FileSource>>) -> Vec<ScanOutcome> {
        let mut buffer = self.buffers.take();
        buffer.clear();
        buffer.reserve_exact(self.contents.batch_bytes() as usize);
        let mut work = BatchWork {
            hasher: self,
            opener: Opener::new(self.base),
            buffer,
            outcomes: Vec::with_capacity(items.len()),
            small: Vec::new(),
            large: VecDeque::new(),
        };
        for (at, item) in items.into_iter().enumerate() {
            let outcome = match item {
                ScanItem::Node(node) => Some(ScanOutcome::Scanned(ScannedEntry::Node(node))),
                ScanItem::Skipped(skipped) => Some(ScanOutcome::Skipped { skipped, is_shared: false }),
                ScanItem::File(Candidate { unmodified: Some(unmodified), .. }) => {
                    self.add_unread(unmodified.file.size);
                    Some(HashedFile::from(unmodified).into())
                }
                ScanItem::File(candidate) => work.read(at, candidate, 0),
            };
            work.outcomes.push(outcome);
        }
        work.hash_large();
        work.hash_small()
    }

    /// The progress of an index counts bytes that were read; where contents are passed on, the
    /// bytes that were sent are counted elsewhere.
    fn add_progress(&self, bytes: u64) {
        if !self.contents.has_contents() {
            self.monitor.counters().done_bytes.add(bytes);
        }
    }

    /// Bytes that need not be read, because the previous index knows them.
    fn add_unread(&self, bytes: u64) {
        self.add_progress(bytes);
        if !self.contents.has_contents() {
            self.monitor.counters().resumed_bytes.add(bytes);
        }
    }

    /// Takes back the progress of a file that has to be read again.
    fn revert_progress(&self, bytes: u64) {
        if !self.contents.has_contents() {
            self.monitor.counters().done_bytes.sub(bytes);
        }
    }

    /// Opens a file and reads it to the end of `buffer` if it is small; `Err` is the reason why it
    /// is left out.
    fn open(
        &self,
        opener: &mut Opener<'_>,
        candidate: &FileCandidate,
        buffer: &mut Vec<u8>,
    ) -> Result<OpenedFile, String> {
        let FileSource { path, shared_inode } = &candidate.source;
        let start = buffer.len();
        let stat = |file: &File| {
            self.base.stat(file).map_err(|e| format!("stat failed: {}", std::io::Error::from(e)))
        };
        for _ in 0..MAX_ATTEMPTS {
            let file =
                opener.open(path).map_err(|e| format!("it cannot be opened: {}", std::io::Error::from(e)))?;
            let before = stat(&file)?;
            if !is_kind(&before, FileType::RegularFile) {
                return Err("it is no regular file any more".to_string());
            }
            if shared_inode.is_some_and(|inode| inode != (before.st_dev, before.st_ino)) {
                // Its other names are still those of the previous file.
                return Err("it was replaced while its folder was indexed".to_string());
            }
            let size = size_of(&before);
            buffer.truncate(start);
            if size > LARGE_BYTES {
                return Ok(OpenedFile::Large(Box::new(self.large(candidate, file, before))));
            }
            buffer.reserve(size as usize);
            // At most as many bytes as it had: the second stat shows whether it grew.
            let read = (&file).take(size).read_to_end(buffer);
            let length = read.map_err(|e| format!("it cannot be read: {e}"))? as u64;
            self.add_progress(length);
            let after = stat(&file)?;
            let is_same = is_unmodified(&before, &after) || self.may_grow && is_grown(&before, &after);
            if length == size && is_same {
                return Ok(OpenedFile::Small(before));
            }
            self.revert_progress(length);
        }
        Err(modified())
    }

    /// A large file that was opened with the attributes `stat`.
    fn large(&self, candidate: &FileCandidate, file: File, stat: Stat) -> LargeFile {
        let size = size_of(&stat);
        let previous = candidate.previous.clone().filter(|previous| previous.size < size);
        let resume = match (&self.resumer, &previous) {
            (Some(resumer), Some(previous)) => resumer.resume(previous, (&file, &stat), self.monitor),
            _ => None,
        };
        let entry = entry_of(&candidate.source.path, &stat, None);
        let mean_chunk = mean_chunk_for(size, candidate.mean_chunk);
        let Self { may_grow, md5, .. } = *self;
        let large = LargeFile { may_grow, md5, ..LargeFile::of_file(entry, mean_chunk, file, stat) };
        match previous {
            Some(previous) => large.with_previous(*previous, resume),
            None => large,
        }
    }
}

fn modified() -> String {
    format!("it changed each time it was read, {MAX_ATTEMPTS} times")
}

impl BatchWork<'_> {
    /// Reads a file if it is small; gives its outcome if nothing is left to be done.
    fn read(&mut self, at: usize, candidate: FileCandidate, attempts: usize) -> Option<ScanOutcome> {
        let start = self.buffer.len();
        match self.hasher.open(&mut self.opener, &candidate, &mut self.buffer) {
            Ok(OpenedFile::Small(stat)) => {
                let Candidate { source: FileSource { path, .. }, mean_chunk, previous, .. } = candidate;
                let range = start..self.buffer.len();
                self.small.push(SmallFile { at, stat, path, mean_chunk, previous, range });
                None
            }
            Ok(OpenedFile::Large(large)) if self.hasher.contents.has_contents() => {
                Some(ScanOutcome::Scanned(ScannedEntry::Large(large)))
            }
            Ok(OpenedFile::Large(large)) => {
                self.hasher.add_progress(large.start());
                self.large.push_back(QueuedLarge { at, candidate, large, attempts });
                None
            }
            Err(reason) => {
                self.buffer.truncate(start);
                Some(failed(candidate, reason))
            }
        }
    }

    /// Reads and hashes the large files, two at a time.
    fn hash_large(&mut self) {
        let mut reading: Vec<ReadingLarge> = Vec::new();
        loop {
            let free = SIDE_BY_SIDE - reading.len();
            reading.extend(self.large.drain(..free.min(self.large.len())).map(ReadingLarge::from));
            if reading.is_empty() {
                return;
            }
            if self.hasher.monitor.is_cancelled() {
                return self.cancel(reading);
            }
            let pieces: Vec<_> =
                reading.iter_mut().map(|file| file.reader.piece(&self.hasher.pieces)).collect();
            let mut to_hash: Vec<(&mut LargeReader, &[u8])> = reading
                .iter_mut()
                .zip(&pieces)
                .filter_map(|(file, piece)| {
                    Some((&mut file.reader, &*piece.as_ref().filter(|piece| !piece.failed)?.bytes))
                })
                .collect();
            LargeReader::hash(&mut to_hash, self.hasher.parallel);
            for (mut file, piece) in std::mem::take(&mut reading).into_iter().zip(pieces) {
                match piece {
                    Some(piece) if !piece.failed => {
                        file.length += piece.bytes.len() as u64;
                        self.hasher.add_progress(piece.bytes.len() as u64);
                        reading.push(file);
                    }
                    Some(_) => self.retry_large(file),
                    None => self.finish_large(file),
                }
            }
        }
    }

    /// The user has interrupted the run: the large files of the batch count as failed.
    fn cancel(&mut self, reading: Vec<ReadingLarge>) {
        let queued = self.large.drain(..).map(|file| (file.at, file.candidate));
        let reading = reading.into_iter().map(|file| (file.at, file.candidate));
        for (at, candidate) in queued.chain(reading) {
            self.outcomes[at] = Some(failed(candidate, "it was not read: interrupted".to_string()));
        }
    }

    /// Takes a large file that could not be read to its end as it was when it was opened.
    fn retry_large(&mut self, mut file: ReadingLarge) {
        self.hasher.revert_progress(file.length);
        self.outcomes[file.at] = match file.reader.error() {
            Some(e) => Some(failed(file.candidate, format!("it cannot be read: {e}"))),
            None if file.attempts + 1 == MAX_ATTEMPTS => Some(failed(file.candidate, modified())),
            None => self.read(file.at, file.candidate, file.attempts + 1),
        };
    }

    /// Takes a large file that was read to its end.
    fn finish_large(&mut self, file: ReadingLarge) {
        let ReadingLarge { at, mut candidate, attempts, entry, reader, length } = file;
        let hashed = reader.finish();
        if hashed.prefix_mismatch {
            self.hasher.revert_progress(length);
            if let Some(previous) = &mut candidate.previous {
                previous.is_refuted = true;
            }
            self.outcomes[at] = self.read(at, candidate, attempts);
            return;
        }
        let (md5, blake3) = hashed.digests;
        let file = FileEntry { md5, blake3: Some(blake3), ..entry };
        let hashed =
            HashedFile { chunk_map: hashed.chunk_map, growth: hashed.growth, ..HashedFile::new(file) };
        self.outcomes[at] = Some(hashed.into());
    }

    /// Hashes the small files side by side, which completes the batch.
    fn hash_small(self) -> Vec<ScanOutcome> {
        let Self { hasher, buffer, mut outcomes, small, .. } = self;
        let slices: Vec<&[u8]> = small.iter().map(|file| &buffer[file.range.clone()]).collect();
        let md5s = if hasher.md5 {
            md5_of_each(&slices).into_iter().map(Some).collect()
        } else {
            vec![None; small.len()]
        };
        let mut hashed = Vec::with_capacity(small.len());
        for ((md5, content), file) in md5s.into_iter().zip(slices).zip(&small) {
            let (blake3, chunk_map) = blake3_and_chunk_map(content, file.mean_chunk);
            let has_grown = file.previous.as_ref().is_some_and(|previous| previous.is_prefix_of(content));
            let growth = if has_grown { Growth::Read } else { Growth::None };
            let entry = entry_of(&file.path, &file.stat, Some((md5, blake3)));
            hashed.push(HashedFile { chunk_map, growth, ..HashedFile::new(entry) });
        }
        let batch = hasher.contents.has_contents().then(|| share(buffer));
        for (SmallFile { at, range, .. }, hashed) in small.into_iter().zip(hashed) {
            let content = batch.clone().map(|batch| BatchContent { batch, range });
            outcomes[at] = Some(HashedFile { content, ..hashed }.into());
        }
        outcomes.into_iter().flatten().collect()
    }
}

fn failed(candidate: FileCandidate, reason: String) -> ScanOutcome {
    let FileSource { path, shared_inode } = candidate.source;
    let skipped = SkippedEntry::unreadable(path.as_bytes(), reason);
    ScanOutcome::Skipped { skipped, is_shared: shared_inode.is_some() }
}
