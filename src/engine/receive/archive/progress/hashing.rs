//! Which files of an archive are hashed and verified: one thread at a time hashes a file, and those
//! that need all files verified wait for the threads.

use super::super::hashes::{Known, PrefixCheck};
use super::{Progress, are_durable};
use crate::archive::entry::FileEntry;
use std::collections::BTreeMap;
use std::ops::Range;

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
