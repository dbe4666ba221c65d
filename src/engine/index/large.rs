//! Reading and hashing large files and objects a piece at a time, two side by side.

use super::entry::{Growth, LargeContent, LargeFile, LargeObject, PreviousContent};
use super::file_stat::{is_grown, is_unmodified};
use crate::archive::chunk_map::{ChunkMapHasher, ContentPart, Hashed, Md5Part};
use crate::archive::digest::Digest;
use crate::archive::log::Digests;
use crate::archive::path::EntryPath;
use crate::engine::buffers::{Buffer, Buffers};
use crate::source::base::restat;
use crate::source::s3::ObjectReader;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::Stat;
use std::fs::File;
use std::io::{Error, Read};
use std::sync::Arc;

/// Large files that one thread reads and hashes at once.
pub(in crate::engine) const SIDE_BY_SIDE: usize = 2;

/// One piece of a large file.
pub(in crate::engine) struct LargePiece {
    /// The bytes; zeros where they could not be read.
    pub(in crate::engine) bytes: Bytes,
    /// The bytes may differ from the content that the file had when it was opened.
    pub(in crate::engine) failed: bool,
}

/// A large file that was read to its end.
pub(in crate::engine) struct HashedLarge {
    pub(in crate::engine) digests: Digests,
    /// The digests are those of one content, which the file had when it was opened.
    pub(in crate::engine) consistent: bool,
    /// The chunk map of that content.
    pub(in crate::engine) chunk_map: Option<Vec<u8>>,
    /// Whether it begins with the previous content.
    pub(super) growth: Growth,
    /// The read resumed behind the previous content, and the file does not begin with it: digests
    /// and chunk map are meaningless.
    pub(super) prefix_mismatch: bool,
}

/// A large file that is being read, a piece at a time.
pub(in crate::engine) struct LargeReader {
    path: EntryPath,
    content: ReaderContent,
    piece_bytes: usize,
    /// Bytes that are still to be read.
    left: u64,
    /// A piece could not be read, or the file was modified: every piece from then on fails.
    failed: bool,
    /// Why a piece could not be read.
    error: Option<Error>,
    hasher: ChunkMapHasher,
    previous: Option<PreviousContent>,
    is_resumed: bool,
    may_grow: bool,
}

enum ReaderContent {
    File(File, Box<Stat>),
    Object(ObjectReader<Buffer>, LargeObject),
}

impl LargeReader {
    /// Reads in pieces of `piece_bytes`.
    pub(in crate::engine) fn new(large: LargeFile, piece_bytes: usize) -> Self {
        let left = large.entry.size.saturating_sub(large.start());
        let is_resumed = large.resume.is_some();
        let previous_size = large.previous.as_ref().map(|previous| previous.size);
        let hasher = match large.resume {
            Some(resume) => resume.into_hasher(),
            None => ChunkMapHasher::new(large.mean_chunk, previous_size, large.md5),
        };
        let content = match large.content {
            LargeContent::File(file, before) => ReaderContent::File(file, before),
            LargeContent::Object(object) => {
                let (bucket, state) = (object.bucket.clone(), object.state.clone());
                ReaderContent::Object(ObjectReader::new(bucket, state, piece_bytes), object)
            }
        };
        let LargeFile { previous, may_grow, .. } = large;
        Self {
            path: large.entry.path,
            content,
            piece_bytes,
            left,
            failed: false,
            error: None,
            hasher,
            previous,
            is_resumed,
            may_grow,
        }
    }

    /// Reads the next piece into a buffer of `pool`; `None` at the end. All pieces together have as
    /// many bytes as the file had when it was opened.
    pub(in crate::engine) fn piece(&mut self, pool: &Arc<Buffers>) -> Option<LargePiece> {
        if self.left == 0 {
            return None;
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.piece_bytes);
        self.left -= length as u64;
        let bytes = match &mut self.content {
            ReaderContent::Object(reader, _) => {
                // Nothing more is requested of an object that has failed.
                let part = if self.failed { None } else { reader.next_part(|| pool.take()) };
                match part {
                    Some(Ok(part)) if part.len() == length => Bytes::from_owner(part),
                    _ => {
                        // The upload that follows reads the missing bytes again, and reports the
                        // reason if that fails, too.
                        self.failed = true;
                        Bytes::from(vec![0; length])
                    }
                }
            }
            ReaderContent::File(file, before) => {
                let mut piece = pool.take();
                piece.clear();
                if !self.failed {
                    self.error = (&*file).take(length as u64).read_to_end(&mut piece).err();
                    self.failed = self.error.is_some() || piece.len() < length;
                }
                piece.resize(length, 0);
                if self.left == 0 && !self.failed {
                    // The last piece counts only if the file was not modified meanwhile.
                    let after = restat(file, before);
                    self.failed = !after.is_ok_and(|after| {
                        is_unmodified(before, &after) || self.may_grow && is_grown(before, &after)
                    });
                }
                Bytes::from_owner(piece)
            }
        };
        Some(LargePiece { bytes, failed: self.failed })
    }

    /// Why a file could not be read; `None` if it was only modified.
    pub(super) fn error(&mut self) -> Option<Error> {
        self.error.take()
    }

    /// Hashes the last pieces of one or two files. md5 takes longest, and hardly longer for two
    /// files than for one; with `parallel`, another thread does everything else meanwhile.
    pub(in crate::engine) fn hash(readers: &mut [(&mut Self, &[u8])], parallel: bool) {
        let (mut md5s, mut contents) = (Vec::new(), Vec::new());
        for (reader, bytes) in readers {
            let (md5, content) = reader.hasher.parts();
            md5s.extend(md5.map(|md5| (md5, *bytes)));
            contents.push((content, *bytes));
        }
        if parallel && !md5s.is_empty() {
            // The first thread to take the work does it: this one, if the system gives no other.
            let contents = Mutex::new(Some(contents));
            let take = || {
                let contents = contents.lock().take();
                contents.into_iter().for_each(update_contents);
            };
            std::thread::scope(|scope| {
                let helper = std::thread::Builder::new().spawn_scoped(scope, take);
                update_md5s(md5s);
                if helper.is_err() {
                    take();
                }
            });
        } else {
            update_md5s(md5s);
            update_contents(contents);
        }
    }

    /// The digests of all pieces.
    ///
    /// If the md5 of an object differs from its ETag, it is read once more. If the pieces were not
    /// its content, their digests are replaced by others, so that the receiver does not accept the
    /// pieces.
    pub(in crate::engine) fn finish(self) -> HashedLarge {
        let mut hashed = self.hasher.finish();
        let mut consistent = !self.failed;
        if let ReaderContent::Object(_, object) = &self.content
            && consistent
        {
            let md5 = object.etag.or(hashed.md5);
            match object.verified(hashed.clone()) {
                Ok(verified) => hashed = verified,
                Err(reason) => {
                    tracing::warn!("{}: {reason}", self.path);
                    (consistent, hashed.md5, hashed.blake3) = (false, md5, Digest::ZERO);
                }
            }
        }
        let Hashed { md5, blake3, prefix, prefix_md5, chunk_map } = hashed;
        let chunk_map = if consistent { chunk_map.stored() } else { None };
        // For a resumed chunk map, this verifies the states of both digests, too.
        let prefix = prefix.map(|blake3| (prefix_md5, blake3));
        let has_grown =
            self.previous.is_some_and(|previous| prefix.is_some_and(|prefix| previous.has_digests(&prefix)));
        let growth = match (has_grown, self.is_resumed) {
            (false, _) => Growth::None,
            (true, false) => Growth::Read,
            (true, true) => Growth::Resumed,
        };
        let prefix_mismatch = self.is_resumed && !has_grown;
        HashedLarge { digests: (md5, blake3), consistent, chunk_map, growth, prefix_mismatch }
    }
}

fn update_md5s(mut md5s: Vec<(&mut Md5Part, &[u8])>) {
    if let [(a, a_bytes), (b, b_bytes)] = &mut md5s[..] {
        return Md5Part::update_pair((a, a_bytes), (b, b_bytes));
    }
    md5s.into_iter().for_each(|(md5, bytes)| md5.update(bytes));
}

fn update_contents(contents: Vec<(&mut ContentPart, &[u8])>) {
    contents.into_iter().for_each(|(content, bytes)| content.update(bytes));
}
