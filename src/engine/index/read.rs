//! Reading files and hashing them: small ones whole and side by side, large ones a piece at a time.

use super::super::buffers::{Buffer, Buffers};
use super::super::opener::Opener;
use super::append::{Appending, FormerContent, Growth};
use super::large::{Large, LargeDone, LargeReader, SIDE_BY_SIDE};
use super::scan::{Content, Contents, Scanned};
use crate::archive::digest::{Blake3, blake3, md5_of_each};
use crate::archive::entry::{FileEntry, Node, Origin};
use crate::archive::log::Digests;
use crate::archive::path::EntryPath;
use crate::archive::sketch::{SKETCHED_BYTES, average_for, sketch_of};
use crate::folder::{ctime_ns, is_kind, meta_of};
use crate::source::base::Base;
use crate::source::walk::Skipped;
use crate::telemetry::Monitor;
use bytes::Bytes;
use rustix::fs::{FileType, Stat};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// Files that are hashed by one thread in one go: so many …
pub(super) const BATCH_FILES: usize = 1024;
/// … or so many bytes, whichever comes first: side by side, files take as long as the longest of them …
const BATCH_BYTES: u64 = 8 << 20;
/// … and fewer where the contents are kept.
pub(in super::super) const KEPT_BATCH_BYTES: u64 = 4 << 20;
/// Files of more bytes are not read whole.
pub(super) const LARGE_BYTES: u64 = 4 << 20;
/// Pieces in which they are read where only their digests are wanted.
const PIECE_BYTES: usize = 2 << 20;
/// A file that changes while it is read is read again, so many times in all.
const ATTEMPTS: usize = 3;

/// A file that is to be hashed, or whose digests are known from the former index.
pub(super) struct Candidate {
    pub(super) path: EntryPath,
    /// Device and inode of a file that has other names, too.
    pub(super) linked: Option<(u64, u64)>,
    /// With whether the row would be the same.
    pub(super) known: Option<(bool, FileEntry)>,
    /// Average length of the chunks of its former content, in bytes.
    pub(super) average: Option<u32>,
    /// That content, if it is larger now.
    pub(super) former: Option<Box<FormerContent>>,
}

/// What the walk found.
pub(super) enum Item {
    File(Candidate),
    Node(Node),
    Skipped(Skipped),
}

/// What became of it.
pub(super) enum Outcome {
    Scanned(Scanned),
    Skipped { skipped: Skipped, linked: Option<EntryPath> },
}

/// What reading a file came to.
enum Read1 {
    /// Its content is the last bytes of the buffer.
    Small(Stat),
    Large(Box<Large>),
}

/// A small file that was read.
struct Small {
    /// Its place among the outcomes.
    at: usize,
    stat: Stat,
    path: EntryPath,
    average: Option<u32>,
    former: Option<Box<FormerContent>>,
    /// Where its content is in the buffer.
    range: std::ops::Range<usize>,
}

/// A large file that is to be hashed.
struct ToHash {
    /// Its place among the outcomes.
    at: usize,
    candidate: Candidate,
    large: Box<Large>,
    /// How often it was read before.
    attempts: usize,
}

/// The same while it is read.
struct Hashing {
    at: usize,
    candidate: Candidate,
    attempts: usize,
    entry: FileEntry,
    reader: LargeReader,
    /// Bytes so far, with those that need not be read.
    length: u64,
}

/// The reading threads' shared part.
pub(super) struct Reader<'a> {
    pub(super) base: &'a Base,
    pub(super) contents: &'a Contents,
    pub(super) buffers: Arc<Buffers>,
    pub(super) monitor: &'a dyn Monitor,
    /// Buffers for pieces of large files.
    pub(super) pieces: Arc<Buffers>,
    /// There may be another thread for each that hashes large files.
    pub(super) helped: bool,
    /// Files that grew need not be read from their start.
    pub(super) appending: Option<Appending>,
    /// A file that grows while it is read has not changed: it counts up to where it was.
    pub(super) may_grow: bool,
}

/// The work on one batch.
struct Work<'a> {
    reader: &'a Reader<'a>,
    opener: Opener<'a>,
    /// Contents of small files.
    buffer: Buffer,
    /// `None` where digests are still to be computed.
    outcomes: Vec<Option<Outcome>>,
    small: Vec<Small>,
    large: VecDeque<ToHash>,
}

impl Contents {
    /// How many bytes of files go into a batch, if it has more than one.
    pub(super) fn batch_bytes(&self) -> u64 {
        if matches!(self, Self::Keep(_)) { KEPT_BATCH_BYTES } else { BATCH_BYTES }
    }
}

impl Reader<'_> {
    /// Reads what must be read of a batch.
    pub(super) fn examine(&self, items: Vec<Item>) -> Vec<Outcome> {
        let mut buffer = self.buffers.take();
        buffer.clear();
        buffer.reserve_exact(self.contents.batch_bytes() as usize);
        let mut work = Work {
            reader: self,
            opener: Opener::new(self.base),
            buffer,
            outcomes: Vec::with_capacity(items.len()),
            small: Vec::new(),
            large: VecDeque::new(),
        };
        for (at, item) in items.into_iter().enumerate() {
            let outcome = match item {
                Item::Node(node) => Some(Outcome::Scanned(Scanned::Node(node))),
                Item::Skipped(skipped) => Some(Outcome::Skipped { skipped, linked: None }),
                Item::File(Candidate { known: Some((same, file)), .. }) => {
                    self.note_read(file.size);
                    let (content, sketch, growth) = (None, None, Growth::None);
                    Some(Outcome::Scanned(Scanned::File { file, same, content, sketch, growth }))
                }
                Item::File(candidate) => work.read(at, candidate, 0),
            };
            work.outcomes.push(outcome);
        }
        work.hash_large();
        work.hash_small()
    }

    /// Progress of an index is what was read; where contents are sent, it is what was sent.
    fn note_read(&self, bytes: u64) {
        if matches!(self.contents, Contents::Drop) {
            self.monitor.counters().done_bytes.add(bytes);
        }
    }

    /// It is to be read again.
    fn note_unread(&self, bytes: u64) {
        if matches!(self.contents, Contents::Drop) {
            self.monitor.counters().done_bytes.sub(bytes);
        }
    }

    fn read(
        &self,
        opener: &mut Opener<'_>,
        candidate: &Candidate,
        buffer: &mut Vec<u8>,
    ) -> Result<Read1, String> {
        let path = &candidate.path;
        let start = buffer.len();
        for _ in 0..ATTEMPTS {
            let cannot = |what: &str, e: std::io::Error| format!("it cannot be {what}: {e}");
            let file = opener.open(path).map_err(|e| cannot("opened", e.into()))?;
            let before = self.base.look(&file).map_err(|e| cannot("looked at", e.into()))?;
            if !is_kind(&before, FileType::RegularFile) {
                return Err("it is no regular file any more".to_string());
            }
            if candidate.linked.is_some_and(|inode| inode != (before.st_dev, before.st_ino)) {
                // Its other names still mean the former file.
                return Err("it was replaced while its folder was indexed".to_string());
            }
            let size = size_of(&before);
            buffer.truncate(start);
            if size > LARGE_BYTES {
                return Ok(Read1::Large(Box::new(self.large(candidate, file, before))));
            }
            buffer.reserve(size as usize);
            // Not a byte more than it had: a file that grows is noticed by its size.
            let length = (&file).take(size).read_to_end(buffer).map_err(|e| cannot("read", e))? as u64;
            self.note_read(length);
            let after = self.base.look(&file).map_err(|e| cannot("looked at", e.into()))?;
            if length == size && (is_same(&before, &after) || self.may_grow && is_grown(&before, &after)) {
                return Ok(Read1::Small(before));
            }
            self.note_unread(length);
        }
        Err(changed())
    }

    /// A large file that is open, and was `stat` then.
    fn large(&self, candidate: &Candidate, file: File, stat: Stat) -> Large {
        let size = size_of(&stat);
        let former = candidate.former.clone().filter(|former| former.size < size);
        let resume = match (&self.appending, &former) {
            (Some(appending), Some(former)) => appending.resume(former, (&file, &stat), self.monitor),
            _ => None,
        };
        let (entry, average) = (entry_of(&candidate.path, &stat, None), average_for(size, candidate.average));
        let large = Large::of_file(entry, average, file, stat, self.may_grow);
        match former {
            Some(former) => large.with_former(*former, resume),
            None => large,
        }
    }
}

fn changed() -> String {
    format!("it changed each time it was read, {ATTEMPTS} times")
}

impl Work<'_> {
    /// Reads a file if it is small; gives what became of it if nothing is left to be done.
    fn read(&mut self, at: usize, candidate: Candidate, attempts: usize) -> Option<Outcome> {
        let start = self.buffer.len();
        match self.reader.read(&mut self.opener, &candidate, &mut self.buffer) {
            Ok(Read1::Small(stat)) => {
                let Candidate { path, average, former, .. } = candidate;
                let range = start..self.buffer.len();
                self.small.push(Small { at, stat, path, average, former, range });
                None
            }
            Ok(Read1::Large(large)) if matches!(self.reader.contents, Contents::Keep(_)) => {
                Some(Outcome::Scanned(Scanned::Large(large)))
            }
            Ok(Read1::Large(large)) => {
                self.reader.note_read(large.start());
                self.large.push_back(ToHash { at, candidate, large, attempts });
                None
            }
            Err(reason) => {
                self.buffer.truncate(start);
                Some(failed(candidate, reason))
            }
        }
    }

    /// Hashes the large files, two at a time.
    fn hash_large(&mut self) {
        let mut under_way: Vec<Hashing> = Vec::new();
        loop {
            let room = SIDE_BY_SIDE - under_way.len();
            under_way.extend(self.large.drain(..room.min(self.large.len())).map(Hashing::from));
            if under_way.is_empty() {
                return;
            }
            if self.reader.monitor.is_cancelled() {
                let queued = self.large.drain(..).map(|file| (file.at, file.candidate));
                let under_way = under_way.into_iter().map(|file| (file.at, file.candidate));
                for (at, candidate) in queued.chain(under_way) {
                    self.outcomes[at] = Some(failed(candidate, "it was not read: interrupted".to_string()));
                }
                return;
            }
            let pieces: Vec<_> =
                under_way.iter_mut().map(|file| file.reader.piece(&self.reader.pieces)).collect();
            let mut to_hash: Vec<(&mut LargeReader, &[u8])> = under_way
                .iter_mut()
                .zip(&pieces)
                .filter_map(|(file, piece)| {
                    Some((&mut file.reader, &*piece.as_ref().filter(|piece| !piece.bad)?.bytes))
                })
                .collect();
            LargeReader::hash(&mut to_hash, self.reader.helped);
            for (mut file, piece) in std::mem::take(&mut under_way).into_iter().zip(pieces) {
                match piece {
                    Some(piece) if !piece.bad => {
                        file.length += piece.bytes.len() as u64;
                        self.reader.note_read(piece.bytes.len() as u64);
                        under_way.push(file);
                    }
                    Some(_) => {
                        let at = file.at;
                        self.outcomes[at] = self.broken(file);
                    }
                    None => {
                        let done = file.reader.finish();
                        if done.is_misled {
                            let Hashing { at, mut candidate, attempts, length, .. } = file;
                            self.reader.note_unread(length);
                            if let Some(former) = &mut candidate.former {
                                former.is_doubted = true;
                            }
                            self.outcomes[at] = self.read(at, candidate, attempts);
                            continue;
                        }
                        let LargeDone { digests: (md5, blake3), sketch, growth, .. } = done;
                        let entry = FileEntry { md5: Some(md5), blake3: Some(blake3), ..file.entry };
                        self.outcomes[file.at] = Some(scanned(entry, None, sketch, growth));
                    }
                }
            }
        }
    }

    /// What becomes of a large file that could not be read to its end as it was when it was opened.
    fn broken(&mut self, mut file: Hashing) -> Option<Outcome> {
        self.reader.note_unread(file.length);
        match file.reader.failure() {
            Some(e) => Some(failed(file.candidate, format!("it cannot be read: {e}"))),
            None if file.attempts + 1 == ATTEMPTS => Some(failed(file.candidate, changed())),
            None => self.read(file.at, file.candidate, file.attempts + 1),
        }
    }

    /// Hashes the small files side by side; everything is done then.
    fn hash_small(self) -> Vec<Outcome> {
        let Self { reader, buffer, mut outcomes, small, .. } = self;
        let slices: Vec<&[u8]> = small.iter().map(|file| &buffer[file.range.clone()]).collect();
        let md5s = md5_of_each(&slices);
        let hashed: Vec<(Digests, Option<Vec<u8>>, Growth)> = md5s
            .into_iter()
            .zip(slices.iter().zip(&small))
            .map(|(md5, (content, file))| {
                let (blake3, sketch) = blake3_and_sketch(content, file.average);
                let grown = file.former.as_ref().is_some_and(|former| former.begins(content));
                ((md5, blake3), sketch, if grown { Growth::Read } else { Growth::None })
            })
            .collect();
        drop(slices);
        let kept = match reader.contents {
            Contents::Drop => None,
            // Contents may wait for long: not in a buffer that is mostly empty.
            Contents::Keep(_) if buffer.len() < buffer.capacity() / 8 * 7 => {
                Some(Bytes::copy_from_slice(&buffer))
            }
            Contents::Keep(_) => Some(Bytes::from_owner(buffer)),
        };
        for (Small { at, stat, path, range, .. }, (digests, sketch, growth)) in small.into_iter().zip(hashed)
        {
            let content = kept.as_ref().map(|batch| Content { batch: batch.clone(), range });
            outcomes[at] = Some(scanned(entry_of(&path, &stat, Some(digests)), content, sketch, growth));
        }
        outcomes.into_iter().flatten().collect()
    }
}

impl From<ToHash> for Hashing {
    fn from(ToHash { at, candidate, large, attempts }: ToHash) -> Self {
        let (entry, length) = (large.entry(), large.start());
        Self { at, candidate, attempts, entry, reader: LargeReader::new(*large, PIECE_BYTES), length }
    }
}

fn scanned(file: FileEntry, content: Option<Content>, sketch: Option<Vec<u8>>, growth: Growth) -> Outcome {
    Outcome::Scanned(Scanned::File { file, same: false, content, sketch, growth })
}

fn failed(Candidate { path, linked, .. }: Candidate, reason: String) -> Outcome {
    let skipped = Skipped { path: path.to_string(), reason };
    Outcome::Skipped { skipped, linked: linked.map(|_| path) }
}

/// BLAKE3 of a content that is in memory, with its sketch if it is large enough for one; `average` is that of its former sketch.
pub(super) fn blake3_and_sketch(content: &[u8], average: Option<u32>) -> (Blake3, Option<Vec<u8>>) {
    let size = content.len() as u64;
    if size < SKETCHED_BYTES {
        return (blake3(content), None);
    }
    let (blake3, sketch) = sketch_of(content, average_for(size, average));
    (blake3, sketch.to_keep())
}

pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

pub(super) fn is_same(before: &Stat, after: &Stat) -> bool {
    before.st_size == after.st_size
        && meta_of(before) == meta_of(after)
        && ctime_ns(before) == ctime_ns(after)
}

/// Whether a file got longer; of what it had before, nobody says that it was changed.
pub(super) fn is_grown(before: &Stat, after: &Stat) -> bool {
    before.st_size < after.st_size
}

pub(super) fn entry_of(path: &EntryPath, stat: &Stat, digests: Option<Digests>) -> FileEntry {
    FileEntry {
        id: 0,
        path: path.clone(),
        size: size_of(stat),
        offset: 0,
        scattered: false,
        md5: digests.map(|(md5, _)| md5),
        blake3: digests.map(|(_, blake3)| blake3),
        meta: Some(meta_of(stat)),
        origin: Some(Origin { dev: stat.st_dev, ino: stat.st_ino, ctime_ns: ctime_ns(stat) }),
        object: None,
    }
}
