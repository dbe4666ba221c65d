//! Preparing and sending one block, and remembering what failed.

mod failures;

use super::super::buffers::{Buffer, Buffers};
use super::super::compression_policy::{Coding, CompressionPolicy};
use super::super::tasks::blocking;
use super::Upload;
use crate::archive::block_digest::BlockHasher;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::extent;
use crate::archive::layout::BlockLayout;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::db::progress::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{BlockBody, Claim, ReceiverClient};
use crate::source::{Piece, Source};
use crate::telemetry::{Monitor, Notice};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why the receiver refuses a file whose bytes arrived as they were sent.
const CHANGED: &str = "its content is not what the index says: it changed after it was indexed";

/// Everything that the workers share.
pub(super) struct Sender {
    source: Arc<dyn Source>,
    client: Arc<dyn ReceiverClient>,
    monitor: Arc<dyn Monitor>,
    database: PathBuf,
    digest: IndexDigest,
    block_layout: BlockLayout,
    block_size: u64,
    /// The receiver takes parts of blocks.
    parts: bool,
    compression: CompressionPolicy,
    buffers: Arc<Buffers>,
    progress: Mutex<Option<Progress>>,
    readers: Mutex<Vec<IndexReader>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the content of failed files lies in the archive. Files of their own are not kept: there may be millions.
    failed: RangeSet,
    named: BTreeMap<String, String>,
    failed_total: u64,
    /// What the receiver misses, if it takes parts of blocks.
    wanted: Option<RangeSet>,
    /// Files that the receiver refused once; the second time they count as failed.
    refused: BTreeSet<u64>,
    /// Files that may have given bytes that are not as indexed, by id: who shares these bytes is read before them.
    suspects: RangeSet,
}

/// How many failed files are named in the report.
pub(super) const NAMED: usize = 1_000;

/// How many failed files of one block are named to the receiver.
const NAMED_TO_RECEIVER: usize = 500;

/// Parts of a block are sent as one if there is no more between them, in bytes: a request costs about as much.
const CLOSE_BYTES: u64 = 128 << 10;

/// Pieces that are read in one go.
const PIECES: usize = 1024;

/// Where `piece` of the archive lies in the bytes of `range`, which contains it.
fn within(piece: &Range<u64>, range: &Range<u64>) -> Range<usize> {
    (piece.start - range.start) as usize..(piece.end - range.start) as usize
}

/// A piece of a file that lies in a block.
struct Wanted {
    file: FileEntry,
    piece: extent::Piece,
}

/// A block while it is read.
struct Reading {
    range: Range<u64>,
    content: Buffer,
    /// What some file has given.
    have: RangeSet,
    /// What a file could not give, and why.
    lost: Vec<(Wanted, String)>,
}

/// A block as it was read.
struct Prepared {
    block: BlockBody,
    coding: Coding,
    /// Bytes that could be read.
    good_bytes: u64,
    /// Every file in it could be read.
    whole: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sender {
    pub(super) fn new(upload: &Upload<'_>, progress: Option<Progress>) -> Self {
        let buffers = Buffers::new(upload.options.workers.max(1) * 2);
        Self {
            source: upload.source.clone(),
            client: upload.client.clone(),
            monitor: upload.monitor.clone(),
            database: upload.options.database.clone(),
            digest: upload.summary.digest,
            block_layout: upload.block_layout,
            block_size: upload.options.block_size,
            parts: upload.parts.load(Ordering::Relaxed),
            compression: CompressionPolicy::new(
                upload.options.compression,
                &*upload.client,
                upload.options.cores,
                buffers.clone(),
            ),
            buffers,
            progress: Mutex::new(progress),
            readers: Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Reads and sends what is wanted of block `number`. What is wrong with a file is noted; only what stops everything is an error.
    pub(super) async fn send(self: &Arc<Self>, number: u64) -> Result<()> {
        let block = self
            .block_layout
            .range(number)
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("block {number} lies behind the end")))?;
        let mut counts = true;
        for wanted in self.wanted_of(&block) {
            let mut at = wanted.start;
            while at < wanted.end {
                let claim = self.client.window().claim(wanted.end - at, self.parts).await;
                match self.send_part(number, &block, at..at + claim.bytes(), &claim, counts).await {
                    // The link carries less than it seemed: in smaller parts.
                    Err(e) if e.kind().is_transient() && claim.is_outdated() => continue,
                    outcome => outcome?,
                }
                at += claim.bytes();
                counts = false;
            }
        }
        Ok(())
    }

    /// The same for a part of it, or for all of it, for which `claim` was made. `counts` says that it is the first one.
    async fn send_part(
        self: &Arc<Self>,
        number: u64,
        block: &Range<u64>,
        part: Range<u64>,
        claim: &Claim,
        counts: bool,
    ) -> Result<()> {
        for attempt in 1..=2 {
            let (this, block, range) = (self.clone(), block.clone(), part.clone());
            let prepared = blocking(move || this.prepare(number, &block, range)).await?;
            if prepared.good_bytes == 0 {
                return Ok(());
            }
            match self.client.put_block(&prepared.block, &self.digest, claim).await {
                Ok(answer) => {
                    self.note_sent(&prepared, counts);
                    let rejected = answer.map(|answer| answer.rejected).unwrap_or_default();
                    return self.note_rejected(&rejected).await;
                }
                // Damaged on the way, most likely: read it again and send it once more.
                Err(e) if e.kind() == ErrorKind::BadBlock && attempt == 1 => {
                    self.monitor.notice(Notice::Warning(format!(
                        "block {number} was refused and is sent again ({e})"
                    )));
                }
                Err(e) if e.kind() == ErrorKind::BadBlock => {
                    return self.fail_range(part, format!("block {number} was refused twice: {e}")).await;
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    return Err(e.with_hint(
                        "the receiver lost the index; run the same command again: it puts the index anew",
                    ));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn prepare(&self, number: u64, whole_range: &Range<u64>, range: Range<u64>) -> Result<Prepared> {
        let part = (range != *whole_range).then(|| range.clone());
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| Error::new(ErrorKind::Usage, "the block size is too large for this machine"))?;
        let mut content = self.buffers.take();
        let more = length.saturating_sub(content.len());
        content.reserve_exact(more);
        content.resize(length, 0);
        let mut failed = Vec::new();
        let mut reading =
            Reading { range: range.clone(), content, have: RangeSet::default(), lost: Vec::new() };
        let suspects = lock(&self.state).suspects.clone();
        let turns: &[bool] = if suspects.covered() == 0 { &[false] } else { &[false, true] };
        self.with_index(|index| {
            for &turn in turns {
                let mut wanted: Vec<Wanted> = Vec::new();
                index.pieces_in(&range, |file, piece| {
                    let is_next = suspects.contains(file.id..file.id + 1) == turn;
                    let Some(piece) = piece.within(&range).filter(|_| is_next) else {
                        return Ok(ControlFlow::Continue(()));
                    };
                    let last = wanted.last().map_or(0, |last: &Wanted| last.piece.range.end);
                    if wanted.len() >= PIECES || piece.range.start < last {
                        self.read_pieces(&mut wanted, &mut reading)?;
                    }
                    // Several files may share bytes: what one of them has given is not read again.
                    for gap in reading.have.missing(piece.range.clone()) {
                        let file_offset = piece.file_offset_of(gap.start);
                        let piece = extent::Piece { file_offset, range: gap };
                        wanted.push(Wanted { file: file.clone(), piece });
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
                self.read_pieces(&mut wanted, &mut reading)?;
            }
            Ok(())
        })?;
        let Reading { content, have, lost, .. } = reading;
        let good_bytes = have.covered();
        for (Wanted { file, piece }, reason) in lost {
            // Another file may have the same bytes, and still have them.
            if have.contains(piece.range.clone()) {
                continue;
            }
            // Of a file that lies whole in this block the receiver notices by itself that it is not right; a header has no room for
            // all of many.
            if piece.range != file.range() || failed.len() < NAMED_TO_RECEIVER {
                failed.push(file.id);
            }
            self.fail(&file, reason);
        }
        failed.sort_unstable();
        failed.dedup();
        let mut hasher = BlockHasher::default();
        hasher.update(&content);
        let digest = hasher.finish();
        let (body, coding) = self.compression.encode(vec![bytes::Bytes::from_owner(content)]);
        let zstd = matches!(coding, Coding::Zstd(_));
        let block = BlockBody { number, block_size: self.block_size, body, zstd, part, digest, failed };
        let whole = good_bytes == whole_range.end - whole_range.start;
        Ok(Prepared { block, coding, good_bytes, whole })
    }

    /// What of a block the receiver misses, if it takes parts of blocks; else, or if it misses nothing, all of it.
    fn wanted_of(&self, block: &Range<u64>) -> Vec<Range<u64>> {
        let state = lock(&self.state);
        let Some(wanted) = &state.wanted else { return vec![block.clone()] };
        let have: RangeSet = wanted.missing(block.clone()).collect();
        let mut parts: Vec<Range<u64>> = Vec::new();
        for gap in have.missing(block.clone()) {
            match parts.last_mut() {
                Some(last) if gap.start - last.end <= CLOSE_BYTES => last.end = gap.end,
                _ => parts.push(gap),
            }
        }
        if parts.is_empty() { vec![block.clone()] } else { parts }
    }

    /// Only what is in `missing` is sent from now on.
    pub(super) fn want(&self, missing: &RangeSet) {
        lock(&self.state).wanted = Some(missing.clone());
    }

    /// The receiver still misses `missing` after it was sent: who was read for it may have changed without a trace. Others that share
    /// these bytes are read first from now on; a file must not fail for what became of another one.
    pub(super) async fn suspect(self: &Arc<Self>, missing: &RangeSet) -> Result<()> {
        let (this, missing) = (self.clone(), missing.clone());
        blocking(move || {
            // Who was one before was not read for what others have, too; who becomes one here was, wherever anything is missing.
            let before = lock(&this.state).suspects.clone();
            let mut suspects = before.clone();
            this.with_index(|index| {
                // Nobody shares anything in a fresh index.
                for range in missing.iter().filter(|_| index.is_fragmented()) {
                    let mut given = RangeSet::default();
                    index.pieces_in(&range, |file, piece| {
                        let id = file.id..file.id + 1;
                        if let Some(piece) = piece.within(&range).filter(|_| !before.contains(id.clone())) {
                            if given.missing(piece.range.clone()).next().is_some() {
                                suspects.insert(id);
                            }
                            given.insert(piece.range);
                        }
                        Ok(ControlFlow::Continue(()))
                    })?;
                }
                Ok(())
            })?;
            lock(&this.state).suspects = suspects;
            Ok(())
        })
        .await
    }

    /// Takes `wanted`, ascending, and reads it into its place in the block.
    fn read_pieces(&self, wanted: &mut Vec<Wanted>, reading: &mut Reading) -> Result<()> {
        let Reading { range, content, have, lost } = reading;
        let (mut pieces, mut rest, mut at) = (Vec::with_capacity(wanted.len()), &mut content[..], 0);
        for Wanted { file, piece } in wanted.iter() {
            let place = within(&piece.range, range);
            let behind = std::mem::take(&mut rest).split_at_mut(place.start - at).1;
            let (buffer, behind) = behind.split_at_mut(place.len());
            pieces.push(Piece { file: file.clone(), file_offset: piece.file_offset, buffer });
            (rest, at) = (behind, place.end);
        }
        let outcomes = self.source.read_each(pieces);
        for (wanted, outcome) in wanted.drain(..).zip(outcomes) {
            match outcome {
                Ok(()) => have.insert(wanted.piece.range),
                Err(reason) => {
                    if let Some(failure) = self.source.failure() {
                        return Err(failure);
                    }
                    content[within(&wanted.piece.range, range)].fill(0);
                    lost.push((wanted, reason));
                }
            }
        }
        Ok(())
    }

    fn with_index<T>(&self, work: impl FnOnce(&IndexReader) -> Result<T>) -> Result<T> {
        let reader = lock(&self.readers).pop();
        let reader = match reader {
            Some(reader) => reader,
            None => IndexReader::open(&self.database)?,
        };
        let outcome = work(&reader);
        lock(&self.readers).push(reader);
        outcome
    }

    fn note_sent(&self, prepared: &Prepared, counts: bool) {
        let counters = self.monitor.counters();
        if counts {
            counters.sent_blocks.add(1);
            prepared.coding.count(counters);
        }
        counters.sent_bytes.add(prepared.good_bytes);
        counters.done_bytes.add(prepared.good_bytes);
        if !prepared.whole {
            // Not done as a whole: the next run must look at it again.
            return;
        }
        let mut progress = lock(&self.progress);
        if let Some(Err(e)) = progress.as_ref().map(|progress| progress.add(prepared.block.number)) {
            // A cache: without it a block may be sent twice, at worst.
            *progress = None;
            self.monitor.notice(Notice::Warning(format!("{e}; going on without it")));
        }
    }

    /// Files that the receiver did not accept are asked for once more by the next round, and fail the second time.
    async fn note_rejected(self: &Arc<Self>, ids: &[u64]) -> Result<()> {
        let again: Vec<u64> = {
            let mut state = lock(&self.state);
            ids.iter().copied().filter(|&id| !state.refused.insert(id)).collect()
        };
        let this = self.clone();
        blocking(move || {
            this.with_index(|index| {
                for id in again {
                    index.files_with_ids(id..id + 1, |file| {
                        this.fail(&file, CHANGED.to_string());
                        Ok(ControlFlow::Continue(()))
                    })?;
                }
                Ok(())
            })
        })
        .await
    }
}
