//! Preparing and sending one block, and remembering what failed.

mod again;
mod failures;
mod own;

use super::super::buffers::{Buffer, Buffers};
use super::super::compression_policy::{Coding, CompressionPolicy};
use super::super::tasks::blocking;
use super::job::Upload;
use crate::archive::block_digest::BlockDigest;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::extent;
use crate::archive::layout::BlockLayout;
use crate::archive::ranges::RangeSet;
use crate::archive::slice::Stripes;
use crate::db::index_read::IndexReader;
use crate::db::progress::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::BlockQueue;
use crate::remote::{BlockBody, Claim, ReceiverClient};
use crate::source::{Piece, Source};
use crate::telemetry::{InFlight, Monitor, Notice};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// Why the receiver refuses a file whose bytes arrived as they were sent.
const CHANGED: &str = "its content is not what the index says: it changed after it was indexed";

/// Everything that the workers share.
pub(super) struct BlockSender {
    source: Arc<dyn Source>,
    client: Arc<dyn ReceiverClient>,
    monitor: Arc<dyn Monitor>,
    database: PathBuf,
    digest: IndexDigest,
    block_layout: BlockLayout,
    block_size: u64,
    /// The receiver takes parts of blocks.
    takes_parts: bool,
    compression: CompressionPolicy,
    buffers: Arc<Buffers>,
    progress: Mutex<Option<Progress>>,
    readers: Arc<Mutex<Vec<IndexReader>>>,
    /// What the receiver misses, if it takes parts of blocks.
    missing: Mutex<Option<RangeSet>>,
    /// Which files the receiver takes in, if it is one of several.
    own: Option<OwnFiles>,
    /// What the senders to all slices have in common.
    state: Arc<Mutex<SendState>>,
}

/// The files of a slice.
#[derive(Clone, Copy)]
pub(super) struct OwnFiles {
    /// How files are dealt out.
    pub(super) stripes: Stripes,
    /// The number of the slice.
    pub(super) number: u64,
}

#[derive(Default)]
struct SendState {
    /// Where the content of failed files lies in the archive. There is no list of files: there may
    /// be millions.
    failed: RangeSet,
    named: BTreeMap<String, String>,
    failed_total: u64,
    /// What of the archive does not count as done yet.
    undone: RangeSet,
    /// Files that the receiver refused once; the second time they count as failed.
    refused: BTreeSet<u64>,
    /// Files that may have given bytes that are not as indexed, by id: who shares these bytes is
    /// read before them.
    suspects: RangeSet,
    /// Files that were read as a whole, by id, and those of them that are not as indexed.
    verified: RangeSet,
    unfit: RangeSet,
}

/// How many failed files are named in the report.
pub(super) const MAX_NAMED: usize = 1_000;

/// How many failed files of one block are named to the receiver.
const MAX_FAILED_IDS: usize = 500;

/// Parts of a block are sent as one if there is no more between them, in bytes: a request costs
/// about as much.
const MAX_GAP_BYTES: u64 = 128 << 10;

/// Pieces that are read in one go.
const MAX_PIECES: usize = 1024;

/// Where `piece` of the archive lies in the bytes of `range`, which contains it.
fn within(piece: &Range<u64>, range: &Range<u64>) -> Range<usize> {
    (piece.start - range.start) as usize..(piece.end - range.start) as usize
}

/// A piece of a file that lies in a block.
struct FilePiece {
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
    lost: Vec<(FilePiece, String)>,
}

/// A block as it was read.
struct Prepared {
    block: BlockBody,
    coding: Coding,
    /// What of the archive could be read.
    have: RangeSet,
    /// Every file that has bytes in it could be read.
    has_all: bool,
    /// All of the block is in it.
    whole: bool,
}

impl BlockSender {
    pub(super) fn new(upload: &Upload, progress: Option<Progress>) -> Self {
        let buffers = Buffers::new(upload.options.workers.max(1) * 2);
        Self {
            source: upload.source.clone(),
            client: upload.client.clone(),
            monitor: upload.monitor.clone(),
            database: upload.options.database.clone(),
            digest: upload.summary.digest,
            block_layout: upload.block_layout,
            block_size: upload.options.block_size,
            takes_parts: upload.takes_parts.load(Ordering::Relaxed),
            compression: CompressionPolicy::new(
                upload.options.compression,
                &*upload.client,
                upload.options.cores,
                buffers.clone(),
            ),
            buffers,
            progress: Mutex::new(progress),
            readers: Arc::default(),
            missing: Mutex::default(),
            own: None,
            state: Arc::default(),
        }
    }

    /// Sends what the queue gives out, at most `workers` blocks at a time. The first error stops all
    /// of them.
    pub(super) async fn send_all(
        self: &Arc<Self>,
        queue: &Arc<dyn BlockQueue>,
        workers: usize,
    ) -> Result<()> {
        let mut tasks: JoinSet<Result<()>> = JoinSet::new();
        for _ in 0..workers.max(1) {
            let (sender, queue) = (self.clone(), queue.clone());
            tasks.spawn(async move {
                while let Some(ticket) = queue.claim().await? {
                    tokio::select! {
                        is_whole = sender.send(ticket.number, ticket.again) => match is_whole? {
                            true => queue.confirm(ticket),
                            false => queue.fail(ticket).await?,
                        },
                        () = ticket.taken() => {}
                    }
                }
                Ok(())
            });
        }
        while let Some(outcome) = tasks.join_next().await {
            // Leaving drops the set, which stops the other workers.
            outcome.map_err(|e| Error::new(ErrorKind::Internal, "a worker crashed").with_source(e))??;
        }
        Ok(())
    }

    /// Reads and sends what is wanted of block `number`; gives whether all of that could be read, and
    /// was accepted. What is wrong with a file is noted; only what stops everything is an error.
    /// With `again`, nothing of a file is sent that is not as the index says.
    async fn send(self: &Arc<Self>, number: u64, again: bool) -> Result<bool> {
        let block = self
            .block_layout
            .range(number)
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("block {number} lies behind the end")))?;
        if again {
            let (this, range) = (self.clone(), block.clone());
            blocking(move || this.verify_files(&range)).await?;
        }
        let (mut counts, mut is_whole) = (true, true);
        for wanted in self.wanted_of(&block).await? {
            let mut at = wanted.start;
            while at < wanted.end {
                let claim = self.client.window().claim(wanted.end - at, self.takes_parts).await;
                match self.send_part(number, &block, at..at + claim.bytes(), &claim, counts).await {
                    // The link carries less than it seemed: in smaller parts.
                    Err(e) if e.kind().is_transient() && claim.is_outdated() => continue,
                    outcome => is_whole &= outcome?,
                }
                at += claim.bytes();
                counts = false;
            }
        }
        Ok(is_whole)
    }

    /// The same for a part of it, or for all of it, for which `claim` was made. `counts` says that
    /// it is the first one.
    async fn send_part(
        self: &Arc<Self>,
        number: u64,
        block: &Range<u64>,
        part: Range<u64>,
        claim: &Claim,
        counts: bool,
    ) -> Result<bool> {
        for attempt in 1..=2 {
            let (this, block, range) = (self.clone(), block.clone(), part.clone());
            let prepared = blocking(move || this.prepare(number, &block, range)).await?;
            if prepared.have.covered() == 0 {
                return Ok(prepared.has_all);
            }
            match self.client.put_block(&prepared.block, &self.digest, claim).await {
                Ok(answer) => {
                    self.record_sent(&prepared, counts);
                    let rejected = answer.map(|answer| answer.rejected).unwrap_or_default();
                    let is_whole = prepared.has_all && rejected.is_empty();
                    return self.record_rejected(&rejected).await.map(|()| is_whole);
                }
                // Damaged on the way, most likely: read it again and send it once more.
                Err(e) if e.kind() == ErrorKind::BadBlock && attempt == 1 => {
                    self.monitor.notice(Notice::Warning(format!(
                        "block {number} was refused and is sent again ({e})"
                    )));
                }
                Err(e) if e.kind() == ErrorKind::BadBlock => {
                    let why = format!("block {number} was refused twice: {e}");
                    return self.fail_range(part, why).await.map(|()| false);
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    return Err(e.with_hint(
                        "the receiver lost the index; run the same command again: it puts the index again",
                    ));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// Reads `range`, which lies in block `number`, and codes it.
    fn prepare(&self, number: u64, whole_range: &Range<u64>, range: Range<u64>) -> Result<Prepared> {
        let part = (range != *whole_range).then(|| range.clone());
        let Reading { content, have, lost, .. } = self.read(range)?;
        let has_all = lost.iter().all(|(lost, _)| have.contains(lost.piece.range.clone()));
        let failed = self.fail_lost(&have, lost);
        let content = vec![bytes::Bytes::from_owner(content)];
        let digest = (!self.client.is_in_process()).then(|| BlockDigest::of(&content));
        let (body, coding) = self.compression.encode(content);
        let zstd = matches!(coding, Coding::Zstd(_));
        let in_flight = InFlight::new(self.monitor.clone(), self.undone_bytes(&have));
        let (block_size, staged) = (self.block_size, Vec::new());
        let block = BlockBody { number, block_size, body, zstd, part, digest, failed, staged, in_flight };
        let whole = have.covered() == whole_range.end - whole_range.start;
        Ok(Prepared { block, coding, have, has_all, whole })
    }

    /// Reads `range` from the files that have it; suspects come last.
    fn read(&self, range: Range<u64>) -> Result<Reading> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| Error::new(ErrorKind::Usage, "the block size is too large for this machine"))?;
        let mut content = self.buffers.take();
        let more = length.saturating_sub(content.len());
        content.reserve_exact(more);
        content.resize(length, 0);
        let mut reading = Reading { range, content, have: RangeSet::default(), lost: Vec::new() };
        let suspects = self.state.lock().suspects.clone();
        self.with_index(|index| {
            self.read_files(index, &mut reading, |id| !suspects.contains(id..id + 1))?;
            if suspects.covered() > 0 {
                self.read_files(index, &mut reading, |id| suspects.contains(id..id + 1))?;
            }
            Ok(())
        })?;
        Ok(reading)
    }

    /// Reads what is still missing of the block from the files whose ids `is_next` accepts.
    fn read_files(
        &self,
        index: &IndexReader,
        reading: &mut Reading,
        is_next: impl Fn(u64) -> bool,
    ) -> Result<()> {
        let range = reading.range.clone();
        let mut wanted: Vec<FilePiece> = Vec::new();
        index.pieces_in(&range, |file, piece| {
            let Some(piece) = piece.within(&range).filter(|_| is_next(file.id)) else {
                return Ok(ControlFlow::Continue(()));
            };
            if self.is_unfit(file.id) {
                reading.lost.push(Self::lost(file, piece));
                return Ok(ControlFlow::Continue(()));
            }
            let last = wanted.last().map_or(0, |last: &FilePiece| last.piece.range.end);
            if wanted.len() >= MAX_PIECES || piece.range.start < last {
                self.read_pieces(&mut wanted, reading)?;
            }
            // Several files may share bytes: what one of them has given is not read again.
            for gap in reading.have.missing(piece.range.clone()) {
                let file_offset = piece.file_offset_of(gap.start);
                let piece = extent::Piece { file_offset, range: gap };
                wanted.push(FilePiece { file: file.clone(), piece });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.read_pieces(&mut wanted, reading)
    }

    /// Files fail whose bytes no other file has given; gives the ids of which the receiver has to
    /// hear, ascending.
    fn fail_lost(&self, have: &RangeSet, lost: Vec<(FilePiece, String)>) -> Vec<u64> {
        let mut failed = Vec::new();
        for (FilePiece { file, piece }, reason) in lost {
            if have.contains(piece.range.clone()) {
                continue;
            }
            // Of a file that lies whole in this block the receiver notices by itself that it is not
            // right; a header has no room for all of many.
            if piece.range != file.range() || failed.len() < MAX_FAILED_IDS {
                failed.push(file.id);
            }
            self.fail(&file, reason);
        }
        failed.sort_unstable();
        failed.dedup();
        failed
    }

    /// What of a block the receiver misses, if it takes parts of blocks; else, or if it misses
    /// nothing, all of it.
    fn parts_of(&self, block: &Range<u64>) -> Vec<Range<u64>> {
        let missing = self.missing.lock();
        let Some(wanted) = &*missing else { return vec![block.clone()] };
        let have: RangeSet = wanted.missing(block.clone()).collect();
        let mut parts: Vec<Range<u64>> = Vec::new();
        for gap in have.missing(block.clone()) {
            match parts.last_mut() {
                Some(last) if gap.start - last.end <= MAX_GAP_BYTES => last.end = gap.end,
                _ => parts.push(gap),
            }
        }
        if parts.is_empty() { vec![block.clone()] } else { parts }
    }

    /// Only what is in `missing` is sent from now on.
    pub(super) fn send_only(&self, missing: &RangeSet) {
        *self.missing.lock() = Some(missing.clone());
    }

    /// Progress starts from what is there already. Of that, what this run has sent itself is not
    /// resumed.
    pub(super) fn record_present(&self, upload: &Upload, missing: &RangeSet) {
        let all = std::iter::once(upload.window.clone()).collect();
        self.record_missing(upload, if upload.options.ignore_done { &all } else { missing });
        let counters = self.monitor.counters();
        counters.resumed_bytes.set(counters.done_bytes.get().saturating_sub(counters.sent_bytes.get()));
    }

    /// Everything counts as done but `missing`.
    pub(super) fn record_missing(&self, upload: &Upload, missing: &RangeSet) {
        let undone = upload.inside(missing);
        let done_bytes = upload.work_bytes().saturating_sub(undone.covered());
        self.monitor.counters().done_bytes.set(done_bytes);
        self.state.lock().undone = undone;
    }

    /// How many bytes of `have` do not count as done yet.
    fn undone_bytes(&self, have: &RangeSet) -> u64 {
        let state = self.state.lock();
        let done =
            |range: Range<u64>| state.undone.missing(range).map(|gap| gap.end - gap.start).sum::<u64>();
        have.covered() - have.iter().map(done).sum::<u64>()
    }

    /// The receiver still misses `missing` after it was sent: who was read for it may have changed
    /// without a trace. Others that share these bytes are read first from now on; a file must not
    /// fail for what became of another one.
    pub(super) async fn add_suspects(self: &Arc<Self>, missing: &RangeSet) -> Result<()> {
        let (this, missing) = (self.clone(), missing.clone());
        blocking(move || {
            // Who was one before was not read for what others have, too; who becomes one here was,
            // wherever anything is missing.
            let before = this.state.lock().suspects.clone();
            let mut suspects = before.clone();
            this.with_index(|index| {
                // Files share bytes only in a fragmented index.
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
            this.state.lock().suspects = suspects;
            Ok(())
        })
        .await
    }

    /// Takes `wanted`, ascending, and reads it into its place in the block.
    fn read_pieces(&self, wanted: &mut Vec<FilePiece>, reading: &mut Reading) -> Result<()> {
        let Reading { range, content, have, lost } = reading;
        let (mut pieces, mut rest, mut at) = (Vec::with_capacity(wanted.len()), &mut content[..], 0);
        for FilePiece { file, piece } in wanted.iter() {
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
        let reader = self.readers.lock().pop();
        let reader = match reader {
            Some(reader) => reader,
            None => IndexReader::open(&self.database)?,
        };
        let outcome = work(&reader);
        self.readers.lock().push(reader);
        outcome
    }

    fn record_sent(&self, prepared: &Prepared, counts: bool) {
        let counters = self.monitor.counters();
        if counts {
            counters.sent_blocks.add(1);
            prepared.coding.count(counters);
        }
        counters.sent_bytes.add(prepared.have.covered());
        prepared.block.in_flight.confirm();
        {
            let mut state = self.state.lock();
            prepared.have.iter().for_each(|range| state.undone.remove(range));
        }
        if !prepared.whole {
            // Not done as a whole: the next run must send it again.
            return;
        }
        let mut progress = self.progress.lock();
        if let Some(Err(e)) = progress.as_ref().map(|progress| progress.add(prepared.block.number)) {
            // A cache: without it a block may be sent twice, at worst.
            *progress = None;
            self.monitor.notice(Notice::Warning(format!("{e}; going on without it")));
        }
    }

    /// Files that the receiver did not accept are asked for once more by the next round, and fail
    /// the second time.
    async fn record_rejected(self: &Arc<Self>, ids: &[u64]) -> Result<()> {
        let again: Vec<u64> = {
            let mut state = self.state.lock();
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
