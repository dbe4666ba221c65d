//! Taking in one block.

use super::super::buffers::Buffer;
use super::archive::Archive;
use super::commit::Mark;
use super::context::Context;
use super::files::content::NOT_AS_INDEXED;
use super::files::publish::publish_staged;
use super::open;
use super::reason::reason;
use crate::archive::block_digest::BlockDigest;
use crate::archive::codec::{self, FrameError};
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::extent::Piece;
use crate::archive::intake::Taken;
use crate::archive::layout::BlockLayout;
use crate::archive::pieces::Pieces;
use crate::archive::protocol::BlockAnswer;
use crate::archive::ranges::RangeSet;
use crate::archive::source::SourceClaim;
use crate::archive::verify::is_content_of;
use crate::archive::zstd;
use crate::error::{Error, ErrorKind, Result};
use crate::unix_time::now_s;
use bytes::Bytes;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Instant;

/// A block as it came in.
pub struct BlockPut {
    /// Which archive.
    pub tar_id: u64,
    /// The block size of the URL, in bytes.
    pub block_size: u64,
    /// The block's number.
    pub number: u64,
    /// What came.
    pub content: BlockContent,
    /// Length of what came, in bytes.
    pub wire_bytes: u64,
    /// The bytes of the archive that came, if they are not all of the block.
    pub part: Option<Range<u64>>,
    /// The index that the sender works by; a legacy sender names none.
    pub index: Option<IndexDigest>,
    /// Of the uncompressed block; a legacy sender names none, nor does one in this process.
    pub digest: Option<BlockDigest>,
    /// Ids of files whose bytes in this block are zeros because they could not be read.
    pub failed: RangeSet,
    /// Ids of files whose bytes in this block were read out of their clones.
    pub staged: RangeSet,
}

impl BlockPut {
    fn is_staged(&self, id: u64) -> bool {
        self.staged.contains(id..id + 1)
    }
}

/// How the content of a block came.
pub enum BlockContent {
    /// As the body of a request, which is what the second says.
    Body(Buffer, Taken),
    /// In the memory of a sender in this process, one piece after the other.
    Pieces(Vec<Bytes>),
}

/// Whole files of a block that are staged and wait for the next sync before they get their names. A
/// block may hold millions of tiny files: beyond this many bytes of paths, the sync comes earlier.
const STAGED_BYTES: usize = 4 << 20;
/// What one staged file costs besides its path, in bytes, about.
const STAGED_ENTRY_BYTES: usize = 250;

/// What a block comes to while it is taken in.
struct BlockIntake<'a> {
    context: &'a Context,
    archive: &'a Arc<Archive>,
    /// Taken before anything was written.
    mark: Mark,
    staged: Vec<FileEntry>,
    staged_bytes: usize,
    /// Bytes that are written and correct as far as this block can tell.
    accepted: RangeSet,
    fragments: u64,
    rejected: Vec<u64>,
    /// Files that go beyond this block, or cannot be verified yet.
    large: Vec<FileEntry>,
    /// Files whose digests had not come when the block was looked up.
    awaiting_digests: BTreeSet<u64>,
}

/// Takes in a block: verifies it, writes it to staging, makes it durable, and gives files that are
/// complete their names.
///
/// # Errors
/// The kind says what the sender has to do; nothing was written unless storage itself failed.
pub(crate) fn put(context: &Context, mut put: BlockPut) -> Result<BlockAnswer> {
    let start = Instant::now();
    context.committer.check()?;
    let archive = open::get(context, put.tar_id)?;
    let shared = archive.lock_shared_for_block()?;
    let range = range_of(context, &archive, &put)?;
    let content = content_of(context, &mut put, &range)?;
    let _claim = shared.claim(range.clone());
    let mark = context.committer.mark();
    // What the block is acknowledged by must be there as long as the block is.
    archive.check_index_is_stored(&context.committer, mark)?;
    if context.sink.syncs_each_file() {
        archive.store_index()?;
    }
    let mut intake = BlockIntake {
        context,
        archive: &archive,
        mark,
        staged: Vec::new(),
        staged_bytes: 0,
        accepted: RangeSet::default(),
        fragments: 0,
        rejected: Vec::new(),
        large: Vec::new(),
        awaiting_digests: archive.progress.awaiting_digests(),
    };
    let missing = archive.progress.missing(&range);
    if missing.covered() > 0 {
        context.check_space(missing.covered())?;
    }
    archive.with_index(|index| {
        index.pieces_in(&range, |file, piece| {
            if let Some(piece) = piece.within(&range) {
                intake.piece(&put, &content, &missing, file, piece)?;
            }
            Ok(ControlFlow::Continue(()))
        })
    })?;
    drop(content);
    intake.commit()?;
    context.counters.blocks.add(1);
    context.counters.block_bytes.add(range.end - range.start);
    context.counters.wire_bytes.add(put.wire_bytes);
    context.counters.last_block_s.set(now_s());
    Ok(BlockAnswer {
        blk_no: put.number,
        blk_size: put.block_size,
        frags: intake.fragments,
        path: [put.tar_id, put.block_size, put.number],
        dur: start.elapsed().as_secs_f64(),
        in_len: put.wire_bytes,
        rejected: intake.rejected,
    })
}

/// Stages the file `id`, nothing of which has come, as a clone of `source`; gives it to be read by a
/// sender in this process. `None` where that cannot be.
///
/// # Errors
/// The archive cannot be used.
pub(crate) fn clone_file(context: &Context, tar_id: u64, id: u64, source: &File) -> Result<Option<File>> {
    context.committer.check()?;
    let archive = open::get(context, tar_id)?;
    let shared = archive.lock_shared_for_block()?;
    let Some(file) = archive.file(id)?.filter(|file| !file.fragmented) else { return Ok(None) };
    let _claim = shared.claim(file.range());
    let is_untouched = archive.progress.missing(&file.range()).covered() == file.size;
    if !is_untouched || archive.progress.has_all(id) {
        return Ok(None);
    }
    Ok(archive.staging.clone_from(id, source, file.size))
}

/// Refuses a block before its body is there, if what is known of it is enough for that.
///
/// # Errors
/// As [`put`].
pub(crate) fn check(context: &Context, put: &BlockPut) -> Result<()> {
    context.committer.check()?;
    let archive = open::get(context, put.tar_id)?;
    // Its files could not get their names.
    context.archives.check_none_opens()?;
    archive.check_open()?;
    range_of(context, &archive, put).map(drop)
}

/// The content of the block, of which nothing is left in `put`.
fn content_of(context: &Context, put: &mut BlockPut, range: &Range<u64>) -> Result<Pieces> {
    let bad = |why: String| {
        Error::new(ErrorKind::BadBlock, format!("block {} of {} bytes: {why}", put.number, put.block_size))
    };
    let length = usize::try_from(range.end - range.start).map_err(|e| bad(e.to_string()))?;
    let content = match std::mem::replace(&mut put.content, BlockContent::Pieces(Vec::new())) {
        BlockContent::Pieces(pieces) => pieces,
        BlockContent::Body(body, taken) => {
            let content = decoded(context, body, taken, length).map_err(bad)?;
            match &put.digest {
                Some(digest) if !digest.is_of(&content) => {
                    return Err(bad("its digest is wrong: it was changed on the way".to_string()));
                }
                _ => vec![Bytes::from_owner(content)],
            }
        }
    };
    let content = Pieces::new(range.start, content);
    match content.range() == *range {
        true => Ok(content),
        false => Err(bad(FrameError::WrongLength.to_string())),
    }
}

/// The content of a block of `length` bytes that came as `body`, or what is wrong with that.
fn decoded(
    context: &Context,
    body: Buffer,
    taken: Taken,
    length: usize,
) -> std::result::Result<Buffer, String> {
    if taken == Taken::Content {
        return Ok(body);
    }
    let mut content = context.buffers.take();
    let decoded = match taken {
        Taken::Zstd => zstd::decode(&body, length, &mut content).map_err(|e| ("a Zstandard frame", e)),
        _ => codec::decode(&body, length, &mut content).map_err(|e| ("an LZ4 frame", e)),
    };
    decoded.map(|()| content).map_err(|(what, e)| format!("as {what}: {e}"))
}

/// The bytes of the archive that the block is, by the index that it names.
fn range_of(context: &Context, archive: &Archive, put: &BlockPut) -> Result<Range<u64>> {
    if put.index.is_none() {
        // An original sender names no index, so that nothing else tells that it sends another one.
        context.archives.check_source(put.tar_id, &SourceClaim::default())?;
    }
    let end = match &put.index {
        Some(digest) => archive.end_of(digest)?.ok_or_else(|| {
            let active = archive.progress.head().digest;
            Error::new(
                ErrorKind::WrongIndex,
                format!("the block belongs to index {digest}, but index {active} is active"),
            )
            .with_hint("another sender put another index in place, or this one is out of date; run upload again with the index that is wanted")
        })?,
        None if context.options.legacy => archive.progress.head().total_bytes,
        None => {
            return Err(Error::new(ErrorKind::NoIndexNamed, "the block names no index")
                .with_hint("the sender is too old for this receiver; start the proxy with --legacy to serve it"));
        }
    };
    let range = BlockLayout::new(end, put.block_size)
        .ok_or_else(|| Error::new(ErrorKind::Malformed, "the block size must not be 0"))?
        .range(put.number)
        .ok_or_else(|| {
            let what = format!(
                "block {} of {} bytes lies behind the archive's end at {end} bytes",
                put.number, put.block_size
            );
            Error::new(ErrorKind::Malformed, what)
        })?;
    let range = match &put.part {
        None => range,
        Some(part) if range.start <= part.start && part.start < part.end && part.end <= range.end => {
            part.clone()
        }
        Some(_) => {
            return Err(Error::new(
                ErrorKind::Malformed,
                format!("the part of block {} of {} bytes does not lie in it", put.number, put.block_size),
            ));
        }
    };
    if archive.progress.owns(&range) {
        return Ok(range);
    }
    let what =
        format!("block {} of {} bytes has files that other slices take in", put.number, put.block_size);
    Err(Error::new(ErrorKind::WrongSlice, what).with_hint("send the parts that are this slice's"))
}

impl BlockIntake<'_> {
    /// Takes what the block has of one piece of a file.
    fn piece(
        &mut self,
        put: &BlockPut,
        content: &Pieces,
        missing: &RangeSet,
        file: &FileEntry,
        piece: Piece,
    ) -> Result<()> {
        self.fragments += 1;
        if missing.missing(piece.range.clone()).next() == Some(piece.range.clone()) {
            // All of it is durable: sent twice.
            return Ok(());
        }
        let is_published = self.archive.progress.is_published(file.id);
        if put.failed.contains(file.id..file.id + 1) {
            // A published file has the bytes: the block has them for another file.
            if !is_published {
                self.archive.progress.fail(file.id, &file.path, "the sender could not read it");
            }
            return Ok(());
        }
        let is_whole =
            !file.fragmented && piece.range == file.range() && !self.awaiting_digests.contains(&file.id);
        match is_whole {
            true => self.whole_file(put, file, content, is_published),
            false => self.part_of_file(put, file, &piece, content),
        }
    }

    /// Stages the missing bytes of a file that is verified later.
    fn part_of_file(
        &mut self,
        put: &BlockPut,
        file: &FileEntry,
        piece: &Piece,
        content: &Pieces,
    ) -> Result<()> {
        // Durable bytes stay: they may be hashed already, and no thread would see that they
        // changed.
        for gap in self.archive.progress.missing(&piece.range).iter() {
            if !put.is_staged(file.id) && !self.archive.progress.has_all(file.id) {
                let at = piece.file_offset_of(gap.start);
                let written = self.archive.staging.write_at(file, at, content.slices(&gap));
                if !self.staged_or_failed(file, written)? {
                    return Ok(());
                }
            }
            self.accepted.insert(gap);
        }
        if self.large.last().is_none_or(|last| last.id != file.id) {
            self.large.push(file.clone());
        }
        Ok(())
    }

    /// Verifies and stages a file that the block has whole.
    fn whole_file(
        &mut self,
        put: &BlockPut,
        file: &FileEntry,
        content: &Pieces,
        is_published: bool,
    ) -> Result<()> {
        let content = content.slices(&file.range());
        if !is_content_of(file, content.clone()) {
            if !is_published {
                self.archive.progress.fail(file.id, &file.path, NOT_AS_INDEXED);
                self.rejected.push(file.id);
            }
            return Ok(());
        }
        if is_published {
            self.accepted.insert(file.range());
            return Ok(());
        }
        let staged = match put.is_staged(file.id) {
            true => self.archive.staging.complete(file)?,
            false => self.staged_or_failed(file, self.archive.staging.write_whole(file, content))?,
        };
        if !staged {
            return Ok(());
        }
        self.staged_bytes += file.path.as_bytes().len() + STAGED_ENTRY_BYTES;
        self.staged.push(file.clone());
        if self.staged_bytes >= STAGED_BYTES {
            self.publish_staged()?;
        }
        Ok(())
    }

    /// Whether a piece could be staged. A file that is larger than the file system or a limit of
    /// the system allows fails alone.
    fn staged_or_failed(&self, file: &FileEntry, outcome: Result<()>) -> Result<bool> {
        match outcome {
            Err(e) if e.os_error() == Some(Errno::FBIG) => {
                let e =
                    e.with_hint("it is larger than the receiver's file system, or ulimit -f there, allows");
                self.archive.progress.fail(file.id, &file.path, reason(&e));
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Syncs, then gives the staged whole files their names. A file that cannot get its name is
    /// here all the same, staged and synced.
    fn publish_staged(&mut self) -> Result<()> {
        self.context.committer.sync(self.mark)?;
        self.staged_bytes = 0;
        let staged = std::mem::take(&mut self.staged);
        publish_staged(self.context, self.archive, staged, |file| self.accepted.insert(file.range()))
    }

    /// Publishes what is whole, makes the bytes durable, and has large files hashed.
    fn commit(&mut self) -> Result<()> {
        self.publish_staged()?;
        if self.accepted.covered() == 0 {
            return Ok(());
        }
        let archive = self.archive;
        let mut large = Vec::with_capacity(self.large.len());
        for file in self.large.drain(..) {
            if !archive.progress.is_published(file.id) {
                let pieces = archive.pieces_of(&file)?;
                large.push((file, pieces));
            }
        }
        for id in archive.progress.make_durable(&self.context.committer, &self.accepted, large)? {
            self.context.verify_later(archive, id);
        }
        Ok(())
    }
}
