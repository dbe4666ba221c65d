//! Taking in one block.

use super::super::buffers::{Buffer, Buffers};
use super::archive::{Archive, is_done};
use super::{Receiver, now_s, publish};
use crate::archive::block_digest::BlockDigest;
use crate::archive::codec::{self, FrameError};
use crate::archive::digest::{IndexDigest, proves};
use crate::archive::entry::FileEntry;
use crate::archive::extent::Piece;
use crate::archive::intake::Taken;
use crate::archive::layout::Grid;
use crate::archive::protocol::{BlockAnswer, FinishRequest};
use crate::archive::ranges::RangeSet;
use crate::archive::zstd;
use crate::db::journal::Change;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
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
    /// What came: its content, or one frame.
    pub body: Buffer,
    /// Which of these.
    pub taken: Taken,
    /// Length of what came, in bytes.
    pub wire_bytes: u64,
    /// The bytes of the archive that came, if they are not all of the block.
    pub part: Option<Range<u64>>,
    /// The index that the sender works by; a legacy sender names none.
    pub index: Option<IndexDigest>,
    /// Of the uncompressed block; a legacy sender names none.
    pub digest: Option<BlockDigest>,
    /// Ids of files whose bytes in this block are zeros because they could not be read.
    pub failed: RangeSet,
}

/// Whole files of a block that are staged and wait for the next sync before they get their names. A block may hold millions
/// of tiny files: beyond this many bytes of paths, the sync comes earlier.
const STAGED_BYTES: usize = 4 << 20;
/// What one staged file costs besides its path, in bytes, about.
const STAGED_ENTRY_BYTES: usize = 250;

struct Intake<'a> {
    receiver: &'a Receiver,
    archive: &'a Arc<Archive>,
    staged: Vec<FileEntry>,
    staged_bytes: usize,
    /// Bytes that are written and correct as far as this block can tell.
    accepted: RangeSet,
    frags: u64,
    rejected: Vec<u64>,
    /// Files that go beyond this block, or cannot be proven yet.
    large: Vec<FileEntry>,
    /// Files whose digests had not come when the block was looked up.
    pending: BTreeSet<u64>,
}

impl Receiver {
    /// Takes in a block: proves it, writes it to staging, makes it durable, gives files that are complete their names.
    ///
    /// # Errors
    /// The kind says what the sender has to do; nothing was written unless storage itself failed.
    pub fn put_block(self: &Arc<Self>, mut put: BlockPut) -> Result<BlockAnswer> {
        let start = Instant::now();
        self.committer.check()?;
        let archive = self.archive(put.tar_id)?;
        let _entered = archive.enter()?;
        let range = self.range_of(&archive, &put)?;
        let content = self.content_of(&mut put, &range)?;
        let _claim = archive.claim(range.clone());
        let mut intake = Intake {
            receiver: self,
            archive: &archive,
            staged: Vec::new(),
            staged_bytes: 0,
            accepted: RangeSet::default(),
            frags: 0,
            rejected: Vec::new(),
            large: Vec::new(),
            pending: archive.state().pending.clone(),
        };
        let missing: RangeSet = archive.state().done.missing(range.clone()).collect();
        if missing.covered() > 0 {
            self.check_space(missing.covered())?;
        }
        archive.with_index(|index| {
            index.pieces_in(&range, |file, piece| {
                if let Some(piece) = piece.within(&range) {
                    intake.piece(&put, &range, &content, &missing, file, piece)?;
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        drop(content);
        intake.commit()?;
        if put.index.is_none() && archive.state().done.covered() == archive.extent().total_bytes {
            // The last block of a legacy sender, which never says that it is done.
            self.finish(put.tar_id, None, FinishRequest::default())?;
        }
        self.counters.blocks.add(1);
        self.counters.block_bytes.add(range.end - range.start);
        self.counters.wire_bytes.add(put.wire_bytes);
        self.counters.last_block_s.set(now_s());
        Ok(BlockAnswer {
            blk_no: put.number,
            blk_size: put.block_size,
            frags: intake.frags,
            path: vec![put.tar_id.to_string(), put.block_size.to_string(), put.number.to_string()],
            dur: start.elapsed().as_secs_f64(),
            in_len: put.wire_bytes,
            rejected: intake.rejected,
        })
    }

    /// What can be said of a block before its body is there.
    ///
    /// # Errors
    /// As [`Receiver::put_block`].
    pub fn check_block(&self, put: &BlockPut) -> Result<()> {
        self.committer.check()?;
        let archive = self.archive(put.tar_id)?;
        self.range_of(&archive, put).map(drop)
    }

    /// The content of the block, of which nothing is left in `put`.
    fn content_of(&self, put: &mut BlockPut, range: &Range<u64>) -> Result<Buffer> {
        let bad = |why: String| {
            Error::new(
                ErrorKind::BadBlock,
                format!("block {} of {} bytes: {why}", put.number, put.block_size),
            )
        };
        let length = usize::try_from(range.end - range.start).map_err(|e| bad(e.to_string()))?;
        let body = std::mem::replace(&mut put.body, Buffers::new(0).take());
        let content = match put.taken {
            Taken::Content if body.len() == length => body,
            Taken::Content => return Err(bad(FrameError::WrongLength.to_string())),
            Taken::Body => {
                let mut content = self.buffers.take();
                codec::decode(&body, length, &mut content)
                    .map_err(|e| bad(format!("as an LZ4 frame: {e}")))?;
                content
            }
            Taken::Zstd => {
                let mut content = self.buffers.take();
                zstd::decode(&body, length, &mut content)
                    .map_err(|e| bad(format!("as a Zstandard frame: {e}")))?;
                content
            }
        };
        match &put.digest {
            Some(digest) if !digest.is_of(&content) => {
                Err(bad("its digest is wrong: it was changed on the way".to_string()))
            }
            _ => Ok(content),
        }
    }

    /// The bytes of the archive that the block is, by the index that it names.
    fn range_of(&self, archive: &Archive, put: &BlockPut) -> Result<Range<u64>> {
        let end = match &put.index {
            Some(digest) => archive.end_of(digest)?.ok_or_else(|| {
                let active = archive.extent().digest;
                Error::new(
                    ErrorKind::WrongIndex,
                    format!("the block belongs to index {digest}, but index {active} is active"),
                )
                .hint("another sender put another index in place, or this one is out of date; run upload again with the index that is wanted")
            })?,
            None if self.options.legacy => archive.extent().total_bytes,
            None => {
                return Err(Error::new(ErrorKind::NoIndexNamed, "the block names no index").hint(
                    "the sender is too old for this receiver; start the proxy with --legacy to serve it",
                ));
            }
        };
        let range = Grid::new(end, put.block_size)
            .ok_or_else(|| Error::new(ErrorKind::Malformed, "the block size must not be 0"))?
            .range(put.number)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Malformed,
                    format!(
                        "block {} of {} bytes lies behind the archive's end at {end} bytes",
                        put.number, put.block_size
                    ),
                )
            })?;
        match &put.part {
            None => Ok(range),
            Some(part) if range.start <= part.start && part.start < part.end && part.end <= range.end => {
                Ok(part.clone())
            }
            Some(_) => Err(Error::new(
                ErrorKind::Malformed,
                format!("the part of block {} of {} bytes does not lie in it", put.number, put.block_size),
            )),
        }
    }
}

impl Intake<'_> {
    /// Takes what the block has of one piece of a file.
    fn piece(
        &mut self,
        put: &BlockPut,
        block: &Range<u64>,
        content: &[u8],
        missing: &RangeSet,
        file: &FileEntry,
        Piece { file_offset, range: piece }: Piece,
    ) -> Result<()> {
        self.frags += 1;
        let whole = !file.scattered && piece == file.range() && !self.pending.contains(&file.id);
        if missing.missing(piece.clone()).next() == Some(piece.clone()) {
            // All of it is done: sent twice.
            return Ok(());
        }
        let published = self.archive.state().published.contains(file.id..file.id + 1);
        if put.failed.contains(file.id..file.id + 1) {
            if published {
                // Another file asks for the same bytes.
                return Ok(());
            }
            self.archive.state().fail(file.id, &file.path, "the sender could not read it");
            return Ok(());
        }
        let bytes = |part: &Range<u64>| {
            &content[(part.start - block.start) as usize..(part.end - block.start) as usize]
        };
        if !whole {
            // What is done may be hashed already: nobody would see that it has changed.
            let gaps: Vec<Range<u64>> = self.archive.state().done.missing(piece.clone()).collect();
            for gap in gaps {
                if !self.has_all(file) {
                    self.archive.staging.write_at(
                        file,
                        file_offset + (gap.start - piece.start),
                        bytes(&gap),
                    )?;
                }
                self.accepted.insert(gap);
            }
            if self.large.last().is_none_or(|last| last.id != file.id) {
                self.large.push(file.clone());
            }
            return Ok(());
        }
        let bytes = bytes(&piece);
        if !proves(file, bytes) {
            if published {
                return Ok(());
            }
            self.archive.state().fail(file.id, &file.path, publish::NOT_AS_INDEXED);
            self.rejected.push(file.id);
            return Ok(());
        }
        if published {
            self.accepted.insert(piece);
            return Ok(());
        }
        self.archive.staging.write_whole(file, bytes)?;
        self.staged_bytes += file.path.as_bytes().len() + STAGED_ENTRY_BYTES;
        self.staged.push(file.clone());
        if self.staged_bytes >= STAGED_BYTES {
            self.publish_staged()?;
        }
        Ok(())
    }

    /// Whether a file that shares these bytes has all of its own already: it has its name, or is being proven, and nobody writes to it.
    fn has_all(&self, file: &FileEntry) -> bool {
        let state = self.archive.state();
        state.published.contains(file.id..file.id + 1) || state.proving.contains(&file.id)
    }

    /// Syncs, then gives the staged whole files their names. What cannot get its name is not accepted.
    fn publish_staged(&mut self) -> Result<()> {
        self.receiver.committer.sync()?;
        self.staged_bytes = 0;
        let mut ids = RangeSet::default();
        let published =
            publish::publish_staged(self.receiver, self.archive, std::mem::take(&mut self.staged), |file| {
                ids.insert(file.id..file.id + 1);
                self.accepted.insert(file.range());
            });
        // Also when a full disk stopped it half-way: those that have their names have them.
        publish::note_published(self.receiver, self.archive, &ids);
        published
    }

    fn commit(&mut self) -> Result<()> {
        self.publish_staged()?;
        let archive = self.archive;
        if self.accepted.covered() == 0 {
            return Ok(());
        }
        self.receiver
            .committer
            .record(self.accepted.iter().map(|range| archive.record(Change::Done(range))).collect())?;
        let mut to_hash = Vec::new();
        let mut large = Vec::with_capacity(self.large.len());
        for file in self.large.drain(..) {
            if !archive.state().published.contains(file.id..file.id + 1) {
                let pieces = archive.pieces_of(&file)?;
                large.push((file, pieces));
            }
        }
        {
            let mut state = archive.state();
            for range in self.accepted.iter() {
                state.done.insert(range);
            }
            // Under the same lock: exactly one of several blocks sees that a file has become complete.
            for (file, pieces) in large {
                let known = !state.pending.contains(&file.id);
                if known && is_done(&state.done, &pieces) {
                    if state.proving.insert(file.id) {
                        to_hash.push(file.id);
                    }
                } else if !file.scattered && !state.hashing.contains(&file.id) {
                    to_hash.push(file.id);
                }
            }
        }
        for id in to_hash {
            self.receiver.prove_later(archive, id);
        }
        Ok(())
    }
}
