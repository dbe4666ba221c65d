//! How far one archive is. Its files go from *laid out* over *durable* and *verified* to
//! *published*; the archive is *finalized* at last.
//!
//! [`Progress`] is a monitor: its lock is taken inside its methods, after every other lock but the
//! committer's. A method that changes what the journal has to know writes the record as well, in
//! the order that a crash allows: bytes are durable here once the journal says so; a file is
//! published here first, and its record waits for the sync that makes its name safe; what is
//! invalidated is so in the journal first.

use super::super::commit::{Committer, Mark};
use super::super::names::{Names, Placing};
use super::gate::{Claim, Exclusive};
use super::hashes::{Hashes, Known, PrefixCheck};
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::failures::FailureList;
use crate::archive::layout::BlockLayout;
use crate::archive::log::LogDigest;
use crate::archive::protocol::{FailedFile, STATUS_RANGES, Status};
use crate::archive::ranges::RangeSet;
use crate::db::generation::Placed;
use crate::db::journal::{ArchiveState, Change, Record};
use crate::error::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// What an index comes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IndexHead {
    /// Names the index; while it grows, the prefix of its log.
    pub(crate) digest: IndexDigest,
    /// How many files it has.
    pub(crate) files: u64,
    /// Size of the archive, in bytes.
    pub(crate) total_bytes: u64,
    /// Nothing will be added.
    pub(crate) sealed: bool,
}

/// What an index says of itself when it is opened.
pub(crate) struct OpenedIndex {
    pub(crate) head: IndexHead,
    /// The stream by which it grows, or grew.
    pub(crate) stream: Option<LogDigest>,
    /// Files whose digests are still to come.
    pub(crate) awaiting_digests: BTreeSet<u64>,
    /// The generation that was reverted to come to this one.
    pub(crate) reverted_generation: Option<u64>,
}

/// Where the content of a file is in the archive.
pub(crate) type Pieces = Arc<Vec<Range<u64>>>;

/// The progress of one archive.
pub(crate) struct Progress {
    tar_id: u64,
    generation: u64,
    state: Mutex<State>,
    /// A thread has ended hashing a file.
    hashed: Condvar,
}

struct State {
    head: IndexHead,
    stream: Option<LogDigest>,
    awaiting_digests: BTreeSet<u64>,
    /// What is retained of it is of no use once all is in place.
    reverted_generation: Option<u64>,
    /// Bytes of the archive that the journal has as durable.
    durable: RangeSet,
    /// Ids of files with their final name.
    published: RangeSet,
    /// Everything is in place.
    finalized: bool,
    /// Directories and links were made, or are about to be.
    nodes_made: bool,
    /// An earlier process may have given names that the journal does not know of.
    has_unrecorded_names: bool,
    /// The last mark at which the index was known to be stored.
    index_stored: Mark,
    /// Why files are not published, and entries not in place.
    failed: FailureList,
    hashes: Hashes,
}

/// How far an archive is, for the answer to `finish`.
pub(crate) struct Summary {
    pub(crate) missing_bytes: u64,
    pub(crate) published_files: u64,
    pub(crate) failed: FailureList,
    /// All bytes are durable, all files published, and nothing has failed.
    pub(crate) is_complete: bool,
}

/// What does not count any more of an archive.
#[derive(Default)]
pub(crate) struct Invalid {
    /// Bytes that have to come again.
    pub(crate) bytes: RangeSet,
    /// Files that are not published.
    pub(crate) files: RangeSet,
    /// Other files that have some of the bytes.
    pub(crate) sharing: RangeSet,
}

/// A thread's turn to hash a file: no other thread hashes it meanwhile. What is in `known` at the
/// end is remembered.
pub(crate) struct Hashing<'a> {
    progress: &'a Progress,
    id: u64,
    pub(crate) known: Known,
    /// The file need not be verified any more.
    pub(crate) is_settled: bool,
}

impl Drop for Hashing<'_> {
    fn drop(&mut self) {
        let known = std::mem::take(&mut self.known);
        self.progress.state.lock().hashes.end(self.id, known, self.is_settled);
        self.progress.hashed.notify_all();
    }
}

/// Whether all of `pieces` is durable.
fn are_durable(durable: &RangeSet, pieces: &[Range<u64>]) -> bool {
    pieces.iter().all(|piece| durable.contains(piece.clone()))
}

impl State {
    fn is_published(&self, id: u64) -> bool {
        self.published.contains(id..id + 1)
    }

    fn missing_bytes(&self) -> u64 {
        self.head.total_bytes.saturating_sub(self.durable.covered())
    }

    fn is_complete(&self) -> bool {
        self.missing_bytes() == 0 && self.failed.named() == 0 && self.published.covered() == self.head.files
    }
}

impl Progress {
    /// The progress that the journal has of an archive, whose index was opened.
    pub(crate) fn new(recorded: ArchiveState, index: OpenedIndex, index_stored: Mark) -> Self {
        let state = State {
            head: index.head,
            stream: index.stream,
            awaiting_digests: index.awaiting_digests,
            reverted_generation: index.reverted_generation,
            durable: recorded.done,
            published: recorded.published,
            finalized: recorded.finished,
            nodes_made: recorded.made,
            has_unrecorded_names: false,
            index_stored,
            failed: FailureList::default(),
            hashes: Hashes::default(),
        };
        let (tar_id, generation) = (recorded.tar_id, recorded.generation);
        Self { tar_id, generation, state: Mutex::new(state), hashed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn record(&self, change: Change) -> Record {
        Record { tar_id: self.tar_id, generation: self.generation, change }
    }
}

/// The index.
impl Progress {
    pub(crate) fn head(&self) -> IndexHead {
        self.state().head
    }

    pub(crate) fn set_head(&self, head: IndexHead) {
        self.state().head = head;
    }

    /// The stream by which the index grows, or grew.
    pub(crate) fn stream(&self) -> Option<LogDigest> {
        self.state().stream
    }

    /// Files whose digests are still to come.
    pub(crate) fn awaiting_digests(&self) -> BTreeSet<u64> {
        self.state().awaiting_digests.clone()
    }

    /// Replaces the files whose digests are still to come.
    pub(crate) fn set_awaiting_digests(&self, ids: impl IntoIterator<Item = u64>) {
        self.state().awaiting_digests = ids.into_iter().collect();
    }

    /// The digests of these files are still to come, too.
    pub(crate) fn await_digests(&self, ids: &[u64]) {
        self.state().awaiting_digests.extend(ids);
    }

    /// The digests of file `id` have come.
    pub(crate) fn has_digests(&self, id: u64) {
        self.state().awaiting_digests.remove(&id);
    }

    /// The last mark at which the index was known to be stored.
    pub(crate) fn index_stored(&self) -> Mark {
        self.state().index_stored
    }

    pub(crate) fn set_index_stored(&self, mark: Mark) {
        self.state().index_stored = mark;
    }

    /// The index begins again as `stream`: nothing is known to be in place but its published files.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn restart(
        &self,
        committer: &Committer,
        head: IndexHead,
        stream: LogDigest,
        _: &Exclusive<'_>,
    ) -> Result<()> {
        committer.rewrite(|journal| journal.restart(self.tar_id))?;
        let mut state = self.state();
        (state.finalized, state.nodes_made) = (false, false);
        (state.head, state.stream) = (head, Some(stream));
        Ok(())
    }
}

/// Durable bytes.
impl Progress {
    pub(crate) fn durable_bytes(&self) -> u64 {
        self.state().durable.covered()
    }

    pub(crate) fn durable(&self) -> RangeSet {
        self.state().durable.clone()
    }

    pub(crate) fn missing_bytes(&self) -> u64 {
        self.state().missing_bytes()
    }

    /// Whether all bytes are durable, all files published, and nothing has failed.
    pub(crate) fn is_complete(&self) -> bool {
        self.state().is_complete()
    }

    /// The ranges within `range` that are not durable.
    pub(crate) fn missing(&self, range: &Range<u64>) -> RangeSet {
        self.state().durable.missing(range.clone()).collect()
    }

    /// Whether all of `pieces` is durable.
    pub(crate) fn are_durable(&self, pieces: &[Range<u64>]) -> bool {
        are_durable(&self.state().durable, pieces)
    }

    /// Records that `ranges` are on stable storage, which have bytes of the `large` files. Gives
    /// the files of them that a thread is to hash.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn make_durable(
        &self,
        committer: &Committer,
        ranges: &RangeSet,
        large: Vec<(FileEntry, Pieces)>,
    ) -> Result<Vec<u64>> {
        committer.record(ranges.iter().map(|range| self.record(Change::Done(range))).collect())?;
        let mut state = self.state();
        ranges.iter().for_each(|range| state.durable.insert(range));
        let mut to_hash = Vec::new();
        // Under the same lock: exactly one of several blocks sees that a file has become complete.
        for (file, pieces) in large {
            let is_verifiable = !state.awaiting_digests.contains(&file.id);
            if is_verifiable && are_durable(&state.durable, &pieces) {
                if state.hashes.queue(file.id) {
                    to_hash.push(file.id);
                }
            } else if !file.fragmented && !state.hashes.is_hashing(file.id) {
                to_hash.push(file.id);
            }
        }
        Ok(to_hash)
    }

    /// Forgets what was received for rows of the index that have other content now. Gives the files
    /// of them that were not published.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn forget_rows(
        &self,
        committer: &Committer,
        bytes: &RangeSet,
        ids: &RangeSet,
        _: &Exclusive<'_>,
    ) -> Result<RangeSet> {
        committer.rewrite(|journal| journal.invalidate(self.tar_id, bytes, ids))?;
        let mut state = self.state();
        bytes.iter().for_each(|range| state.durable.remove(range));
        state.awaiting_digests.retain(|&id| !ids.contains(id..id + 1));
        state.failed.retain(|failed| failed.id.is_none_or(|id| !ids.contains(id..id + 1)));
        state.hashes.forget(ids);
        let mut unpublished = RangeSet::default();
        for range in ids.iter() {
            state.published.missing(range.clone()).for_each(|ids| unpublished.insert(ids));
            state.published.remove(range);
        }
        Ok(unpublished)
    }

    /// Asks for bytes again, in one transaction of the journal.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn invalidate(&self, committer: &Committer, invalid: &Invalid, _: &Claim<'_>) -> Result<()> {
        let Invalid { bytes, files, sharing } = invalid;
        committer.invalidate(self.tar_id, files, |journal| journal.invalidate(self.tar_id, bytes, files))?;
        let mut state = self.state();
        bytes.iter().for_each(|range| state.durable.remove(range));
        files.iter().for_each(|range| state.published.remove(range));
        let mut unknown = files.clone();
        sharing.iter().for_each(|range| unknown.insert(range));
        state.hashes.invalidate(&unknown);
        state.finalized = false;
        Ok(())
    }
}

/// Published files, directories and links.
impl Progress {
    pub(crate) fn published(&self) -> RangeSet {
        self.state().published.clone()
    }

    pub(crate) fn is_published(&self, id: u64) -> bool {
        self.state().is_published(id)
    }

    /// What of the index is in place.
    pub(crate) fn placed(&self) -> Placed {
        let state = self.state();
        Placed { files: state.published.clone(), nodes: state.nodes_made, complete: state.finalized }
    }

    /// Records that the files `ids` have their final names.
    pub(crate) fn publish(&self, committer: &Committer, ids: &RangeSet, _: &Placing<'_>) {
        let mut state = self.state();
        for range in ids.iter() {
            state.published.insert(range.clone());
            if state.failed.named() > 0 {
                state.failed.retain(|failed| failed.id.is_none_or(|id| !range.contains(&id)));
            }
        }
        state.hashes.forget(ids);
        // Under the lock: a thread that sees that a file is published, to invalidate it, finds the
        // record as well.
        committer.renamed(ids.iter().map(|range| self.record(Change::Published(range))));
    }

    /// Records that directories and links are about to be made: what is there after a crash may be
    /// deleted when the source has it no more.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn make_nodes(&self, committer: &Committer, names: &Names) -> Result<()> {
        if self.state().nodes_made {
            return Ok(());
        }
        committer.rewrite(|journal| journal.set_made(self.tar_id))?;
        let _placing = names.place();
        self.state().nodes_made = true;
        Ok(())
    }

    pub(crate) fn is_finalized(&self) -> bool {
        self.state().finalized
    }

    /// Records whether everything is in place. Gives the generation that was reverted to come here,
    /// once nothing of it is needed any more.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn set_finalized(&self, committer: &Committer, finalized: bool) -> Result<()> {
        if self.is_finalized() != finalized {
            committer.rewrite(|journal| journal.set_finished(self.tar_id, finalized))?;
            self.state().finalized = finalized;
        }
        Ok(())
    }

    /// The generation that was reverted to come here, asked for once.
    pub(crate) fn take_reverted_generation(&self) -> Option<u64> {
        self.state().reverted_generation.take()
    }

    /// Whether files may have their names that are not known as published.
    pub(crate) fn has_unrecorded_names(&self) -> bool {
        self.state().has_unrecorded_names
    }

    pub(crate) fn set_unrecorded_names(&self, has_unrecorded_names: bool) {
        self.state().has_unrecorded_names = has_unrecorded_names;
    }
}

/// Failures.
impl Progress {
    /// Records why the file `id` is not published.
    pub(crate) fn fail(&self, id: u64, path: impl std::fmt::Display, reason: impl std::fmt::Display) {
        let failed = FailedFile { id: Some(id), path: path.to_string(), reason: reason.to_string() };
        self.state().failed.add(failed);
    }

    /// The file `id` is in place after all.
    pub(crate) fn clear_failure(&self, id: u64) {
        self.state().failed.remove(id);
    }

    /// Replaces all failures for one reason by `failed`; some entries have no id.
    pub(crate) fn replace_failures(&self, reason: &str, failed: Vec<FailedFile>) {
        let mut state = self.state();
        state.failed.retain(|failed| failed.reason != reason);
        failed.into_iter().for_each(|failed| state.failed.add(failed));
    }

    /// How many failures are named.
    pub(crate) fn named_failures(&self) -> u64 {
        self.state().failed.named() as u64
    }

    /// Whether the file `id` is named among the failures.
    pub(crate) fn is_named_failure(&self, id: u64) -> bool {
        self.state().failed.names(id)
    }
}

/// Hashing and verification.
impl Progress {
    /// Begins to hash file `id`, after waiting for another thread that hashes it.
    pub(crate) fn begin_hashing(&self, id: u64) -> Hashing<'_> {
        let mut state = self.state();
        self.hashed.wait_while(&mut state, |state| state.hashes.is_hashing(id));
        Hashing { progress: self, id, known: state.hashes.begin(id), is_settled: false }
    }

    /// Waits until no file is being hashed, none waits for it, and none is about to be queued.
    pub(crate) fn wait_for_verifiers(&self) {
        let mut state = self.state();
        self.hashed.wait_while(&mut state, |state| !state.hashes.are_idle());
    }

    /// Queues `file` for verification if all of its bytes are durable and its digests known; false
    /// if it need not be.
    pub(crate) fn queue_if_durable(&self, file: &FileEntry) -> bool {
        let mut state = self.state();
        file.size > 0
            && state.durable.contains(file.range())
            && !state.is_published(file.id)
            && state.hashes.queue(file.id)
    }

    /// Queues file `id` for verification.
    pub(crate) fn queue(&self, id: u64) {
        self.state().hashes.queue(id);
    }

    /// A thread begins to look for files to queue: those that wait for verifiers wait for it, too.
    pub(crate) fn begin_queueing(&self) {
        self.state().hashes.begin_queueing();
    }

    /// The thread has found all of them.
    pub(crate) fn end_queueing(&self) {
        self.state().hashes.end_queueing();
        self.hashed.notify_all();
    }

    /// The file `id` is not to be verified any more: another index has taken this one's place.
    pub(crate) fn unqueue(&self, id: u64) {
        self.state().hashes.unqueue(id);
        self.hashed.notify_all();
    }

    /// These files are resumed.
    pub(crate) fn resume(&self, prefixes: BTreeMap<u64, PrefixCheck>) {
        let mut state = self.state();
        prefixes.into_iter().for_each(|(id, check)| state.hashes.resume(id, check));
    }

    /// Whether no thread writes to file `id` any more: it is published, or is being verified.
    pub(crate) fn has_all(&self, id: u64) -> bool {
        let state = self.state();
        state.is_published(id) || state.hashes.is_queued(id)
    }

    /// Whether file `id` can be hashed before all of it is there, as far as its digests go:
    /// `known_digest` says whether the index has one that is computed from the start.
    pub(crate) fn is_awaiting_digests(&self, id: u64) -> bool {
        self.state().awaiting_digests.contains(&id)
    }

    /// Whether the file `id` waits for its name, and no thread is about to give it: neither
    /// published nor queued, and its digests are known.
    pub(crate) fn is_unattended(&self, id: u64) -> bool {
        let state = self.state();
        !state.awaiting_digests.contains(&id) && !state.hashes.is_queued(id) && !state.is_published(id)
    }

    /// Whether a queued file can be verified now. What the thread knows of it is dropped if bytes
    /// of it may have been written again.
    pub(crate) fn check_verifiable(&self, hashing: &mut Hashing<'_>, pieces: &[Range<u64>]) -> Verifiable {
        let state = self.state();
        if state.hashes.is_stale(hashing.id) {
            hashing.known = Known::Nothing;
        }
        let is_queued = state.hashes.is_queued(hashing.id);
        let is_here = are_durable(&state.durable, pieces) && !state.awaiting_digests.contains(&hashing.id);
        match (is_queued, is_here) {
            (false, _) => Verifiable::NotQueued,
            (true, false) => Verifiable::Incomplete,
            (true, true) => Verifiable::Now,
        }
    }
}

/// Whether a file can be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verifiable {
    Now,
    /// Bytes of it were invalidated since it was queued.
    Incomplete,
    /// It was not complete when it was to be hashed: a later block queues it.
    NotQueued,
}

/// Answers.
impl Progress {
    /// How far the archive is, for the answer to `finish`.
    pub(crate) fn summary(&self) -> Summary {
        let state = self.state();
        Summary {
            missing_bytes: state.missing_bytes(),
            published_files: state.published.covered(),
            failed: state.failed.clone(),
            is_complete: state.is_complete(),
        }
    }

    /// The durable ranges within `range`, at most as many as an answer has.
    pub(crate) fn held(&self, range: &Range<u64>) -> Vec<(u64, u64)> {
        let state = self.state();
        let missing: Vec<Range<u64>> = state.durable.missing(range.clone()).collect();
        let starts = std::iter::once(range.start).chain(missing.iter().map(|gap| gap.end));
        let ends = missing.iter().map(|gap| gap.start).chain(std::iter::once(range.end));
        starts.zip(ends).filter(|(start, end)| start < end).take(STATUS_RANGES).collect()
    }

    /// How far the archive is; `missing` starts at byte `from`. The source is not known here.
    ///
    /// # Errors
    /// The block size is 0.
    pub(crate) fn status(&self, block_size: u64, from: u64) -> Result<Status> {
        let state = self.state();
        let head = &state.head;
        let layout = BlockLayout::new(head.total_bytes, block_size)
            .ok_or_else(|| Error::new(ErrorKind::Malformed, "the block size must not be 0"))?;
        let mut missing: Vec<(u64, u64)> = state
            .durable
            .missing(from.min(head.total_bytes)..head.total_bytes)
            .take(STATUS_RANGES + 1)
            .map(|range| (range.start, range.end))
            .collect();
        let next = (missing.len() > STATUS_RANGES).then(|| missing[STATUS_RANGES].0);
        missing.truncate(STATUS_RANGES);
        // Whole blocks within the durable ranges; the last block may be short.
        let whole_blocks = |range: Range<u64>| {
            let is_last = range.end == head.total_bytes;
            let end = if is_last { layout.blocks() } else { range.end / block_size };
            end.saturating_sub(range.start.div_ceil(block_size))
        };
        Ok(Status {
            tar_id: self.tar_id,
            generation: self.generation,
            digest: head.digest.to_string(),
            total_bytes: head.total_bytes,
            done_bytes: state.durable.covered(),
            missing,
            next,
            blk_size: block_size,
            blocks_total: layout.blocks(),
            blocks_done: state.durable.iter().map(whole_blocks).sum(),
            files_total: head.files,
            files_published: state.published.covered(),
            parts: true,
            spares: true,
            filters: true,
            keeps: true,
            verifies: true,
            failed: state.failed.clone().into_named(),
            complete: state.finalized,
            sealed: head.sealed,
            source_id: None,
            source: None,
            space: None,
        })
    }
}
