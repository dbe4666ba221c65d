//! Large files and objects: read and hashed a piece at a time, two side by side.

use super::super::buffers::{Buffer, Buffers};
use super::append::{FormerContent, Growth};
use super::read::{is_grown, is_same};
use crate::archive::entry::FileEntry;
use crate::archive::log::Digests;
use crate::archive::sketch::{ContentPart, Hashed, Md5Part, Resume, SketchHasher};
use crate::source::base::look_again;
use crate::source::s3::{Bucket, ObjectReader, Wanted};
use bytes::Bytes;
use rustix::fs::Stat;
use std::fs::File;
use std::io::{Error, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// Large files that one thread reads and hashes at once.
pub(in super::super) const SIDE_BY_SIDE: usize = 2;

/// A file or an object that was looked at, but not read. The md5 of an object may be known already: it is not computed then.
pub(in super::super) struct Large {
    entry: FileEntry,
    /// Average length of its chunks, in bytes.
    average: u32,
    content: LargeContent,
    /// What it may begin with.
    former: Option<FormerContent>,
    /// Where its file is read from.
    resume: Option<Box<Resume>>,
    /// A file that has grown meanwhile has not changed.
    may_grow: bool,
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

/// A large file that was read to its end.
pub(in super::super) struct LargeDone {
    pub(in super::super) digests: Digests,
    /// They are those of a content that it had for sure.
    pub(in super::super) sure: bool,
    /// Of that content.
    pub(in super::super) sketch: Option<Vec<u8>>,
    /// It begins with the former content.
    pub(super) growth: Growth,
    /// Only its end was read, as if it began with a content with which it does not: all of this means nothing.
    pub(super) is_misled: bool,
}

impl Large {
    /// A file that is open, and was `stat` then. It counts as unchanged if it only grew while it was read, if it `may_grow`.
    pub(super) fn of_file(entry: FileEntry, average: u32, file: File, stat: Stat, may_grow: bool) -> Self {
        let content = LargeContent::File(file, Box::new(stat));
        Self { entry, average, content, former: None, resume: None, may_grow }
    }

    /// It may begin with `former`, which is smaller. With `resume` its file is to be read from there on.
    pub(super) fn with_former(self, former: FormerContent, resume: Option<Resume>) -> Self {
        Self { former: Some(former), resume: resume.map(Box::new), ..self }
    }

    /// Where it is read from.
    pub(super) fn start(&self) -> u64 {
        self.resume.as_ref().map_or(0, |resume| resume.start())
    }

    /// An object of a bucket; `entry` has at most its md5.
    pub(super) fn of_object(entry: FileEntry, average: u32, bucket: Arc<Bucket>, wanted: Wanted) -> Self {
        let content = LargeContent::Object(bucket, wanted);
        Self { entry, average, content, former: None, resume: None, may_grow: false }
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
    failure: Option<Error>,
    hasher: SketchHasher,
    former: Option<FormerContent>,
    is_resumed: bool,
    may_grow: bool,
}

enum ReaderContent {
    File(File, Box<Stat>),
    Object(ObjectReader<Buffer>),
}

impl LargeReader {
    /// Reads in pieces of `piece_bytes`.
    pub(in super::super) fn new(large: Large, piece_bytes: usize) -> Self {
        let left = large.entry.size.saturating_sub(large.start());
        let is_resumed = large.resume.is_some();
        let former_size = large.former.as_ref().map(|former| former.size);
        let hasher = match (large.resume, large.entry.md5) {
            (Some(resume), _) => resume.into_hasher(),
            (None, Some(md5)) => SketchHasher::with_md5(large.average, md5),
            (None, None) => SketchHasher::new(large.average, former_size),
        };
        let content = match large.content {
            LargeContent::File(file, before) => ReaderContent::File(file, before),
            LargeContent::Object(bucket, wanted) => {
                ReaderContent::Object(ObjectReader::new(bucket, wanted, piece_bytes))
            }
        };
        let Large { former, may_grow, .. } = large;
        Self {
            content,
            piece_bytes,
            left,
            broken: false,
            failure: None,
            hasher,
            former,
            is_resumed,
            may_grow,
        }
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
                    self.failure = got.err();
                    self.broken = self.failure.is_some() || piece.len() < wanted;
                }
                piece.resize(wanted, 0);
                if self.left == 0 && !self.broken {
                    // Its last piece is held back until it is known that nothing changed meanwhile.
                    let after = look_again(file, before);
                    self.broken = !after.is_ok_and(|after| {
                        is_same(before, &after) || self.may_grow && is_grown(before, &after)
                    });
                }
                Bytes::from_owner(piece)
            }
        };
        Some(LargePiece { bytes, bad: self.broken })
    }

    /// Why a file could not be read; `None` if it only changed.
    pub(super) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// Hashes the pieces that were read last of one or two files. md5 takes longest, and two at once hardly longer than one; all
    /// else is done meanwhile by another thread, if `helped`.
    pub(in super::super) fn hash(readers: &mut [(&mut Self, &[u8])], helped: bool) {
        let (mut md5s, mut contents) = (Vec::new(), Vec::new());
        for (reader, bytes) in readers {
            let (md5, content) = reader.hasher.parts();
            md5s.push((md5, *bytes));
            contents.push((content, *bytes));
        }
        if helped && md5s.iter().any(|(md5, _)| !md5.is_known()) {
            // Whoever comes first does it: there may be no other thread to be had.
            let contents = Mutex::new(Some(contents));
            let take = || {
                let contents = contents.lock().unwrap_or_else(PoisonError::into_inner).take();
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

    /// What all pieces came to.
    pub(in super::super) fn finish(self) -> LargeDone {
        let Hashed { md5, blake3, prefix, prefix_md5, sketch } = self.hasher.finish();
        let sure = !self.broken;
        let sketch = if sure { sketch.to_keep() } else { None };
        // Of a sketch that was resumed, this proves the states of both digests, too.
        let begins = prefix_md5.zip(prefix);
        let grown = self.former.is_some_and(|former| begins.is_some_and(|begins| former.is(&begins)));
        let is_misled = self.is_resumed && !grown;
        let growth = match (grown, self.is_resumed) {
            (false, _) => Growth::None,
            (true, false) => Growth::Read,
            (true, true) => Growth::Believed,
        };
        LargeDone { digests: (md5, blake3), sure, sketch, growth, is_misled }
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
