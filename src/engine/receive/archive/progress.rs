//! How far one archive is. Its files go from *laid out* over *durable* and *verified* to
//! *published*; the archive is *finalized* at last.
//!
//! [`Progress`] is a monitor: its lock is taken inside its methods, after every other lock but the
//! committer's. A method that changes what the journal has to know writes the record as well, in
//! the order that a crash allows: bytes are durable here once the journal says so; a file is
//! published here first, and its record waits for the sync that makes its name safe; what is
//! invalidated is so in the journal first.

mod answers;
pub(crate) mod hashing;

use super::super::commit::{Committer, Mark};
use super::super::names::{Names, Placing};
use super::gate::{Claim, Exclusive};
use super::hashes::Hashes;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::failures::FailureList;
use crate::archive::layout::intersect;
use crate::archive::log::LogDigest;
use crate::archive::protocol::FailedFile;
use crate::archive::ranges::RangeSet;
use crate::db::generation::Placed;
use crate::db::journal::{ArchiveState, Change, Record};
use crate::error::Result;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::BTreeSet;
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
    /// What of it is for this receiver to take in, if that is one of several.
    pub(crate) owned: Option<Owned>,
}

/// What of an archive one of several receivers is to take in.
pub(crate) struct Owned {
    /// The bytes of files that are its own.
    pub(crate) bytes: RangeSet,
    /// Nothing else of the archive is known here.
    pub(crate) alone: bool,
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
    owned: Option<Owned>,
    /// The last mark at which the index was known to be stored.
    index_stored: Mark,
    /// Why files are not published, and entries not in place.
    failed: FailureList,
    hashes: Hashes,
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

/// Whether all of `pieces` is durable.
fn are_durable(durable: &RangeSet, pieces: &[Range<u64>]) -> bool {
    pieces.iter().all(|piece| durable.contains(piece.clone()))
}

impl State {
    fn is_published(&self, id: u64) -> bool {
        self.published.contains(id..id + 1)
    }

    fn missing_bytes(&self) -> u64 {
        self.missing_bytes_of(false)
    }

    /// How much is missing of the archive; as a slice, of the files that are its own.
    fn missing_bytes_of(&self, as_slice: bool) -> u64 {
        match self.is_about_own(as_slice) {
            true => self.missing_in(0..u64::MAX, as_slice).map(|range| range.end - range.start).sum(),
            false => self.head.total_bytes.saturating_sub(self.durable.covered()),
        }
    }

    fn is_about_own(&self, as_slice: bool) -> bool {
        self.owned.as_ref().is_some_and(|owned| as_slice || owned.alone)
    }

    /// What is missing in `window` of the archive; as a slice, of the files that are its own.
    fn missing_in(&self, window: Range<u64>, as_slice: bool) -> Box<dyn Iterator<Item = Range<u64>> + '_> {
        match self.owned.as_ref().filter(|_| self.is_about_own(as_slice)) {
            Some(owned) => {
                let within = owned.bytes.iter().map(move |range| intersect(&range, &window));
                Box::new(within.flat_map(|range| self.durable.missing(range)))
            }
            None => Box::new(self.durable.missing(window)),
        }
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
            owned: index.owned,
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

    /// Whether this receiver is to take in `range`.
    pub(crate) fn owns(&self, range: &Range<u64>) -> bool {
        self.state().owned.as_ref().is_none_or(|owned| owned.bytes.contains(range.clone()))
    }

    /// Whether other receivers on the folder take in files of it.
    pub(crate) fn is_of_several(&self) -> bool {
        self.state().owned.is_some()
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

    /// Records that another receiver has put the files `ids` in place, which have `bytes`: all of that
    /// is on stable storage.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub(crate) fn take_over(
        &self,
        committer: &Committer,
        ids: &RangeSet,
        bytes: &RangeSet,
        _: &Placing<'_>,
    ) -> Result<()> {
        let done = bytes.iter().map(|range| self.record(Change::Done(range)));
        let published = ids.iter().map(|range| self.record(Change::Published(range)));
        committer.record(done.chain(published).collect())?;
        let mut state = self.state();
        bytes.iter().for_each(|range| state.durable.insert(range));
        for range in ids.iter() {
            state.published.insert(range.clone());
            state.failed.retain(|failed| failed.id.is_none_or(|id| !range.contains(&id)));
        }
        state.hashes.forget(ids);
        Ok(())
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

    /// The generation that was reverted to come here, until [`Self::take_reverted_generation`].
    pub(crate) fn reverted_generation(&self) -> Option<u64> {
        self.state().reverted_generation
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
