//! Reading files and hashing them: small ones whole and side by side, large ones as a stream.

use super::super::buffers::{Buffer, Buffers};
use super::super::opener::Opener;
use super::scan::{Content, Contents, Scanned};
use crate::archive::digest::{Blake3Hasher, ContentHasher, Md5, blake3, md5_of_each, update_pair};
use crate::archive::entry::{FileEntry, Node, Origin};
use crate::archive::log::Digests;
use crate::archive::path::EntryPath;
use crate::folder::{Folder, ctime_ns, is_kind, meta_of};
use crate::source::s3::{Bucket, ObjectReader, Wanted};
use crate::source::walk::Skipped;
use crate::telemetry::Monitor;
use bytes::Bytes;
use rustix::fs::{FileType, Stat};
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
const READ_BYTES: usize = 256 << 10;
/// A file that changes while it is read is read again, so many times in all.
const ATTEMPTS: usize = 3;

/// A file that is to be hashed, or whose digests are known from the former index.
pub(super) struct Candidate {
    pub(super) path: EntryPath,
    /// Device and inode of a file that has other names, too.
    pub(super) linked: Option<(u64, u64)>,
    /// With whether the row would be the same.
    pub(super) known: Option<(bool, FileEntry)>,
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

/// A file or an object that was looked at, but not read. The md5 of an object may be known already: it is not computed then.
pub(in super::super) struct Large {
    entry: FileEntry,
    content: LargeContent,
}

enum LargeContent {
    /// Open.
    File(File, Box<Stat>),
    Object(Arc<Bucket>, Wanted),
}

/// One piece of a large file.
pub(in super::super) struct LargePiece {
    /// The bytes, zeros where they could not be read.
    pub(in super::super) bytes: Bytes,
    /// They are not what the file had when it was opened, or nobody knows.
    pub(in super::super) bad: bool,
}

/// What reading a file came to.
enum Read1 {
    /// Its content is the last bytes of the buffer.
    Small(Stat),
    Large(Large),
    /// Hashed on the way.
    Hashed(FileEntry),
}

/// The reading threads' shared part.
pub(super) struct Reader<'a> {
    pub(super) base: &'a Folder,
    pub(super) contents: &'a Contents,
    pub(super) buffers: Arc<Buffers>,
    pub(super) monitor: &'a dyn Monitor,
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
        let mut opener = Opener::new(self.base);
        let mut outcomes = Vec::with_capacity(items.len());
        // Where in `outcomes` the files stand whose digests are still to be computed, and where their contents end.
        let mut small: Vec<(usize, Stat, EntryPath, std::ops::Range<usize>)> = Vec::new();
        for item in items {
            let outcome = match item {
                Item::Node(node) => Outcome::Scanned(Scanned::Node(node)),
                Item::Skipped(skipped) => Outcome::Skipped { skipped, linked: None },
                Item::File(Candidate { known: Some((same, file)), .. }) => {
                    self.note_read(file.size);
                    Outcome::Scanned(Scanned::File { file, same, content: None })
                }
                Item::File(Candidate { path, linked, known: None }) => {
                    let start = buffer.len();
                    match self.read(&mut opener, &path, linked, &mut buffer) {
                        Ok(Read1::Small(stat)) => {
                            let entry = entry_of(&path, &stat, Default::default());
                            small.push((outcomes.len(), stat, path, start..buffer.len()));
                            Outcome::Scanned(Scanned::File { file: entry, same: false, content: None })
                        }
                        Ok(Read1::Large(large)) => Outcome::Scanned(Scanned::Large(Box::new(large))),
                        Ok(Read1::Hashed(file)) => {
                            Outcome::Scanned(Scanned::File { file, same: false, content: None })
                        }
                        Err(reason) => {
                            buffer.truncate(start);
                            let skipped = Skipped { path: path.to_string(), reason };
                            Outcome::Skipped { skipped, linked: linked.map(|_| path) }
                        }
                    }
                }
            };
            outcomes.push(outcome);
        }
        let slices: Vec<&[u8]> = small.iter().map(|(.., range)| &buffer[range.clone()]).collect();
        let digests: Vec<Digests> = md5_of_each(&slices)
            .into_iter()
            .zip(&slices)
            .map(|(md5, content)| (md5, blake3(content)))
            .collect();
        drop(slices);
        let kept = match self.contents {
            Contents::Drop => None,
            // Contents may wait for long: not in a buffer that is mostly empty.
            Contents::Keep(_) if buffer.len() < buffer.capacity() / 8 * 7 => {
                Some(Bytes::copy_from_slice(&buffer))
            }
            Contents::Keep(_) => Some(Bytes::from_owner(buffer)),
        };
        for ((position, stat, path, range), digests) in small.into_iter().zip(digests) {
            let content = kept.as_ref().map(|batch| Content { batch: batch.clone(), range });
            let file = entry_of(&path, &stat, Some(digests));
            outcomes[position] = Outcome::Scanned(Scanned::File { file, same: false, content });
        }
        outcomes
    }

    /// Progress of an index is what was read; where contents are sent, it is what was sent.
    fn note_read(&self, bytes: u64) {
        if matches!(self.contents, Contents::Drop) {
            self.monitor.counters().done_bytes.add(bytes);
        }
    }

    fn read(
        &self,
        opener: &mut Opener<'_>,
        path: &EntryPath,
        linked: Option<(u64, u64)>,
        buffer: &mut Vec<u8>,
    ) -> Result<Read1, String> {
        let start = buffer.len();
        for _ in 0..ATTEMPTS {
            let cannot = |what: &str, e: std::io::Error| format!("it cannot be {what}: {e}");
            let file = opener.open(path).map_err(|e| cannot("opened", e.into()))?;
            let before = rustix::fs::fstat(&file).map_err(|e| cannot("looked at", e.into()))?;
            if !is_kind(&before, FileType::RegularFile) {
                return Err("it is no regular file any more".to_string());
            }
            if linked.is_some_and(|inode| inode != (before.st_dev, before.st_ino)) {
                // Its other names still mean the former file.
                return Err("it was replaced while its folder was indexed".to_string());
            }
            let size = size_of(&before);
            if size > LARGE_BYTES && matches!(self.contents, Contents::Keep(_)) {
                let entry = entry_of(path, &before, None);
                return Ok(Read1::Large(Large {
                    entry,
                    content: LargeContent::File(file, Box::new(before)),
                }));
            }
            buffer.truncate(start);
            let mut digests = None;
            let length = if size > LARGE_BYTES {
                let (length, hashed) = self.hash(&file, size).map_err(|e| cannot("read", e))?;
                digests = Some(hashed);
                length
            } else {
                buffer.reserve(size as usize);
                // Not a byte more than it had: a file that grows is noticed by its size.
                let length = (&file).take(size).read_to_end(buffer).map_err(|e| cannot("read", e))? as u64;
                self.note_read(length);
                length
            };
            let after = rustix::fs::fstat(&file).map_err(|e| cannot("looked at", e.into()))?;
            if length == size && is_same(&before, &after) {
                return Ok(match digests {
                    None => Read1::Small(before),
                    digests => Read1::Hashed(entry_of(path, &before, digests)),
                });
            }
            if matches!(self.contents, Contents::Drop) {
                self.monitor.counters().done_bytes.sub(length);
            }
        }
        Err(format!("it changed each time it was read, {ATTEMPTS} times"))
    }

    /// Hashes at most `size` bytes.
    fn hash(&self, file: &File, size: u64) -> std::io::Result<(u64, Digests)> {
        let mut buffer = vec![0; READ_BYTES];
        let mut reader = file.take(size);
        let mut hasher = ContentHasher::default();
        let mut length = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok((length, hasher.finish())),
                Ok(_) if self.monitor.is_cancelled() => return Err(std::io::Error::other("interrupted")),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    length += n as u64;
                    self.note_read(n as u64);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn is_same(before: &Stat, after: &Stat) -> bool {
    before.st_size == after.st_size
        && meta_of(before) == meta_of(after)
        && ctime_ns(before) == ctime_ns(after)
}

fn entry_of(path: &EntryPath, stat: &Stat, digests: Option<Digests>) -> FileEntry {
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

impl Large {
    /// An object of a bucket; `entry` has at most its md5.
    pub(super) fn of_object(entry: FileEntry, bucket: Arc<Bucket>, wanted: Wanted) -> Self {
        Self { entry, content: LargeContent::Object(bucket, wanted) }
    }

    /// What is known of it before it is read.
    pub(in super::super) fn entry(&self) -> FileEntry {
        self.entry.clone()
    }
}

/// A large file that is being read, a piece at a time.
pub(in super::super) struct LargeReader {
    content: ReaderContent,
    piece_bytes: usize,
    left: u64,
    broken: bool,
    hasher: LargeHasher,
}

enum LargeHasher {
    Both(Box<ContentHasher>),
    /// The md5 is known.
    Blake3(Box<Blake3Hasher>, Md5),
}

enum ReaderContent {
    File(File, Box<Stat>),
    Object(ObjectReader<Buffer>),
}

impl LargeReader {
    /// Reads in pieces of `piece_bytes`.
    pub(in super::super) fn new(large: Large, piece_bytes: usize) -> Self {
        let left = large.entry.size;
        let hasher = match large.entry.md5 {
            Some(md5) => LargeHasher::Blake3(Box::default(), md5),
            None => LargeHasher::Both(Box::default()),
        };
        let content = match large.content {
            LargeContent::File(file, before) => ReaderContent::File(file, before),
            LargeContent::Object(bucket, wanted) => {
                ReaderContent::Object(ObjectReader::new(bucket, wanted, piece_bytes))
            }
        };
        Self { content, piece_bytes, left, broken: false, hasher }
    }

    /// Reads the next piece, or the last one, into a buffer of `pool`; `None` at the end. As many bytes come as the file had when
    /// it was looked at.
    pub(in super::super) fn piece(&mut self, pool: &Arc<Buffers>) -> Option<LargePiece> {
        if self.left == 0 {
            return None;
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.piece_bytes);
        self.left -= wanted as u64;
        let bytes = match &mut self.content {
            ReaderContent::Object(reader) => {
                // Of one that has failed nothing more is asked for.
                let part = if self.broken { None } else { reader.next_part(|| pool.take()) };
                match part {
                    Some(Ok(part)) if part.len() == wanted => Bytes::from_owner(part),
                    _ => {
                        // What is missing is read again by the upload that follows, and it says why where that fails, too.
                        self.broken = true;
                        Bytes::from(vec![0; wanted])
                    }
                }
            }
            ReaderContent::File(file, before) => {
                let mut piece = pool.take();
                piece.clear();
                if !self.broken {
                    let got = (&*file).take(wanted as u64).read_to_end(&mut piece);
                    self.broken = got.is_err() || piece.len() < wanted;
                }
                piece.resize(wanted, 0);
                if self.left == 0 && !self.broken {
                    // Its last piece is held back until it is known that nothing changed meanwhile.
                    let after = rustix::fs::fstat(&*file);
                    self.broken = !after.is_ok_and(|after| is_same(before, &after));
                }
                Bytes::from_owner(piece)
            }
        };
        Some(LargePiece { bytes, bad: self.broken })
    }

    /// Hashes the pieces that were read last of one or two files; two at once are faster.
    pub(in super::super) fn hash(readers: &mut [(&mut Self, &[u8])]) {
        if let [(a, a_bytes), (b, b_bytes)] = readers
            && let (LargeHasher::Both(a), LargeHasher::Both(b)) = (&mut a.hasher, &mut b.hasher)
        {
            return update_pair((a, a_bytes), (b, b_bytes));
        }
        for (reader, bytes) in readers {
            match &mut reader.hasher {
                LargeHasher::Both(hasher) => hasher.update(bytes),
                LargeHasher::Blake3(hasher, _) => hasher.update(bytes),
            }
        }
    }

    /// The digests of all pieces, and whether they are a content that it had for sure.
    pub(in super::super) fn finish(self) -> (Digests, bool) {
        let digests = match self.hasher {
            LargeHasher::Both(hasher) => hasher.finish(),
            LargeHasher::Blake3(hasher, md5) => (md5, hasher.finish()),
        };
        (digests, !self.broken)
    }
}
