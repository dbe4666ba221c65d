//! One archive on the receiver: its index, what of it has arrived, and who is writing which part of it.

use super::commit::lock;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::layout::Grid;
use crate::archive::protocol::{FAILED_NAMES, FailedFile, STATUS_RANGES, Status};
use crate::archive::ranges::RangeSet;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::journal::{Change, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::Staging;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// An archive and its active index.
pub(super) struct Archive {
    pub(super) tar_id: u64,
    pub(super) digest: IndexDigest,
    pub(super) generation: u64,
    pub(super) files: u64,
    pub(super) total_bytes: u64,
    pub(super) staging: Staging,
    pub(super) index_path: PathBuf,
    readers: Mutex<Vec<IndexReader>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by the one `finish` that may run.
    pub(super) finish: Mutex<()>,
    /// Read by whoever writes for this index, written by whoever replaces it; true once it is replaced.
    retired: RwLock<bool>,
}

/// What changes while blocks arrive.
#[derive(Default)]
pub(super) struct State {
    /// Bytes of the archive in the journal.
    pub(super) done: RangeSet,
    /// Ids of files with their final name.
    pub(super) published: RangeSet,
    /// Everything is in place.
    pub(super) finished: bool,
    /// Why files are not published.
    pub(super) failed: BTreeMap<u64, FailedFile>,
    /// Parts of the archive that somebody is writing.
    pub(super) claims: Vec<Range<u64>>,
    /// Large files that wait for their proof, or are being proven.
    pub(super) proving: BTreeSet<u64>,
}

impl State {
    pub(super) fn fail(&mut self, id: u64, path: impl std::fmt::Display, reason: impl std::fmt::Display) {
        // Bounded: beyond the names that any answer gives, the count of what is missing has to do.
        if self.failed.len() < FAILED_NAMES {
            self.failed
                .insert(id, FailedFile { id: Some(id), path: path.to_string(), reason: reason.to_string() });
        }
    }
}

/// The right to write a part of the archive; nobody else has it for any byte of the part.
pub(super) struct Claim<'a> {
    archive: &'a Archive,
    range: Range<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.archive.state).claims.retain(|range| *range != self.range);
        self.archive.changed.notify_all();
    }
}

impl Archive {
    pub(super) fn new(
        tar_id: u64,
        index_path: PathBuf,
        summary: &Summary,
        generation: u64,
        staging: Staging,
        state: State,
    ) -> Self {
        Self {
            tar_id,
            digest: summary.digest,
            generation,
            files: summary.files,
            total_bytes: summary.total_bytes,
            staging,
            index_path,
            readers: Mutex::default(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            finish: Mutex::new(()),
            retired: RwLock::new(false),
        }
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Tells whoever waits in [`Archive::wait`] that the state changed.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until `done` says so.
    pub(super) fn wait(&self, mut done: impl FnMut(&State) -> bool) {
        let state = self.state();
        drop(self.changed.wait_while(state, |state| !done(state)).unwrap_or_else(PoisonError::into_inner));
    }

    /// Keeps the index from being replaced as long as the guard lives.
    pub(super) fn enter(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
        if *retired {
            return Err(Error::new(ErrorKind::WrongIndex, format!("the index of archive {} was just replaced", self.tar_id))
                .hint("another sender put a new index in place; run the command again with the index that is wanted"));
        }
        Ok(retired)
    }

    /// Waits until nobody writes for this index any more, and keeps everybody out from now on.
    pub(super) fn retire(&self) {
        *self.retired.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Takes [`Archive::retire`] back: the new index could not be put in place.
    pub(super) fn revive(&self) {
        *self.retired.write().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Waits until nobody writes any byte of `range`, then takes it.
    pub(super) fn claim(&self, range: Range<u64>) -> Claim<'_> {
        let state = self.state();
        let overlaps =
            |state: &mut State| state.claims.iter().any(|c| c.start < range.end && range.start < c.end);
        let mut state = self.changed.wait_while(state, overlaps).unwrap_or_else(PoisonError::into_inner);
        state.claims.push(range.clone());
        drop(state);
        Claim { archive: self, range }
    }

    /// Runs `work` with a reader of the index; readers are kept for the next one.
    pub(super) fn with_index<T>(&self, work: impl FnOnce(&IndexReader) -> Result<T>) -> Result<T> {
        let reader = lock(&self.readers).pop();
        let reader = match reader {
            Some(reader) => reader,
            None => IndexReader::open(&self.index_path)?,
        };
        let outcome = work(&reader);
        lock(&self.readers).push(reader);
        outcome
    }

    /// Files with content, all of which is done, that have no name yet and that nobody is proving.
    pub(super) fn unpublished(&self) -> Result<Vec<FileEntry>> {
        let done: Vec<Range<u64>> = self.state().done.iter().collect();
        let mut files = Vec::new();
        for range in done {
            let ids = self.ids_within(&range)?;
            let unknown: Vec<Range<u64>> = self.state().published.missing(ids).collect();
            for ids in unknown {
                self.with_index(|index| {
                    index.files_with_ids(ids, |file| {
                        if file.size > 0 && !self.state().proving.contains(&file.id) {
                            files.push(file);
                        }
                        Ok(ControlFlow::Continue(()))
                    })
                })?;
            }
        }
        Ok(files)
    }

    /// The ids of the files that lie whole in the archive range `range`; empty files at its borders may be among them.
    pub(super) fn ids_within(&self, range: &Range<u64>) -> Result<Range<u64>> {
        self.with_index(|index| {
            let (mut first, mut end) = (None, 0);
            index.files_in(range.clone(), |file| {
                first = Some(if file.offset < range.start { file.id + 1 } else { file.id });
                Ok(ControlFlow::Break(()))
            })?;
            if let Some(file) = index.last_file_before(range.end)? {
                end = if file.range().end > range.end { file.id } else { file.id + 1 };
            }
            Ok(first.map_or(0..0, |first| first..end.max(first)))
        })
    }

    /// A change of this archive's state for the journal.
    pub(super) fn record(&self, change: Change) -> Record {
        Record { tar_id: self.tar_id, generation: self.generation, change }
    }

    /// How far this archive is; `missing` starts at byte `from`.
    pub(super) fn status(&self, block_size: u64, from: u64) -> Result<Status> {
        let grid = Grid::new(self.total_bytes, block_size)
            .ok_or_else(|| Error::new(ErrorKind::Malformed, "the block size must not be 0"))?;
        let state = self.state();
        let mut missing: Vec<(u64, u64)> = state
            .done
            .missing(from.min(self.total_bytes)..self.total_bytes)
            .take(STATUS_RANGES + 1)
            .map(|range| (range.start, range.end))
            .collect();
        let next = (missing.len() > STATUS_RANGES).then(|| missing[STATUS_RANGES].0);
        missing.truncate(STATUS_RANGES);
        // Whole blocks within the done ranges; the last block may be short.
        let blocks_done = state
            .done
            .iter()
            .map(|range| {
                let end = if range.end == self.total_bytes { grid.blocks() } else { range.end / block_size };
                end.saturating_sub(range.start.div_ceil(block_size))
            })
            .sum();
        Ok(Status {
            tar_id: self.tar_id,
            generation: self.generation,
            digest: self.digest.to_string(),
            total_bytes: self.total_bytes,
            done_bytes: state.done.covered(),
            missing,
            next,
            blk_size: block_size,
            blocks_total: grid.blocks(),
            blocks_done,
            files_total: self.files,
            files_published: state.published.covered(),
            failed: state.failed.values().cloned().collect(),
            complete: state.finished,
        })
    }
}
