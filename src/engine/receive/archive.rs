//! One archive on the receiver: its index, what of it has arrived, and who is writing which part of it.

use super::beginning::Begun;
use super::commit::lock;
use super::look::Look;
use super::proof::Hashed;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::layout::Grid;
use crate::archive::protocol::{FAILED_NAMES, FailedFile, STATUS_RANGES, Status};
use crate::archive::ranges::RangeSet;
use crate::db::growing::GrowingIndex;
use crate::db::index_read::IndexReader;
use crate::db::journal::{Change, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::Staging;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// An archive and its active index.
pub(super) struct Archive {
    pub(super) tar_id: u64,
    pub(super) generation: u64,
    pub(super) staging: Staging,
    pub(super) index_path: PathBuf,
    readers: Mutex<Vec<IndexReader>>,
    /// Pieces of scattered files, by id.
    pieces: Mutex<Vec<KeptPieces>>,
    extent: Mutex<Extent>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by the one `finish` that may run.
    pub(super) finish: Mutex<()>,
    /// The log by which the index grows, or grew. Taken before `finish`, and that before anybody enters or pauses: whoever has entered
    /// must not want it.
    pub(super) log: Mutex<Option<GrowingIndex>>,
    /// There is one.
    has_log: AtomicBool,
    /// Read by whoever writes for this index, written by whoever replaces it; true once it is replaced.
    retired: RwLock<bool>,
}

/// What an index comes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Names it; while it grows, nobody knows the name.
    pub(super) digest: IndexDigest,
    /// Files of it.
    pub(super) files: u64,
    /// Size of the archive, in bytes.
    pub(super) total_bytes: u64,
    /// Nothing will be added.
    pub(super) sealed: bool,
}

/// What changes while blocks arrive.
#[derive(Default)]
pub(super) struct State {
    /// Files of a growing index whose digests are still to come.
    pub(super) pending: BTreeSet<u64>,
    /// Bytes of the archive in the journal.
    pub(super) done: RangeSet,
    /// Ids of files with their final name.
    pub(super) published: RangeSet,
    /// Everything is in place.
    pub(super) finished: bool,
    /// The generation that was taken back to come here: what is kept of it is of no use once all is in place.
    pub(super) taken_back: Option<u64>,
    /// The last look at published files.
    pub(super) look: Option<Look>,
    /// Why files are not published.
    pub(super) failed: BTreeMap<u64, FailedFile>,
    /// Parts of the archive that somebody is writing.
    pub(super) claims: Vec<Range<u64>>,
    /// Large files that wait for their proof, or are being proven.
    pub(super) proving: BTreeSet<u64>,
    /// Large files that somebody is hashing.
    pub(super) hashing: BTreeSet<u64>,
    /// Large files of which what is hashed does not count: bytes below it may come again, for the sake of another file.
    pub(super) rehash: BTreeSet<u64>,
    /// What is hashed of large files that are not complete.
    pub(super) hashed: BTreeMap<u64, Hashed>,
    /// Files that are to be hashed from the end of what they begin with.
    pub(super) begun: BTreeMap<u64, Begun>,
}

/// A file's id, and where its content is in the archive.
type KeptPieces = (u64, Arc<Vec<Range<u64>>>);

/// Scattered files whose pieces are kept in memory ...
const KEPT_FILES: usize = 8;
/// ... if they have no more than so many.
const KEPT_PIECES: usize = 1 << 18;

/// Whether all of `pieces` is done.
pub(super) fn is_done(done: &RangeSet, pieces: &[Range<u64>]) -> bool {
    pieces.iter().all(|piece| done.contains(piece.clone()))
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
        extent: Extent,
        log: Option<GrowingIndex>,
        generation: u64,
        staging: Staging,
        state: State,
    ) -> Self {
        Self {
            tar_id,
            generation,
            staging,
            index_path,
            readers: Mutex::default(),
            pieces: Mutex::default(),
            has_log: AtomicBool::new(log.is_some()),
            log: Mutex::new(log),
            extent: Mutex::new(extent),
            state: Mutex::new(state),
            changed: Condvar::new(),
            finish: Mutex::new(()),
            retired: RwLock::new(false),
        }
    }

    pub(super) fn extent(&self) -> Extent {
        *lock(&self.extent)
    }

    /// Takes note that the index grows from now on.
    pub(super) fn note_log(&self) {
        self.has_log.store(true, Ordering::SeqCst);
    }

    pub(super) fn set_extent(&self, extent: Extent) {
        *lock(&self.extent) = extent;
    }

    /// Where the archive ends in the index that a block names; `None` if that is another index. A block may come before the index
    /// is complete: then it names the prefix of the log that lays it out.
    pub(super) fn end_of(&self, named: &IndexDigest) -> Result<Option<u64>> {
        let extent = self.extent();
        if extent.sealed && extent.digest == *named {
            return Ok(Some(extent.total_bytes));
        }
        if !self.has_log.load(Ordering::SeqCst) {
            return Ok(None);
        }
        self.with_index(|index| index.prefix_end(named))
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Tells whoever waits in [`Archive::wait`] that the state changed.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until nobody hashes file `id`, and takes what is hashed of it.
    pub(super) fn begin_hashing(&self, id: u64) -> Option<Hashed> {
        let state = self.state();
        let busy = |state: &mut State| state.hashing.contains(&id);
        let mut state = self.changed.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner);
        state.hashing.insert(id);
        Some(state.hashed.remove(&id).unwrap_or_default())
    }

    /// Waits until no large file is being looked at.
    pub(super) fn wait_for_provers(&self) {
        self.wait(|state| state.proving.is_empty() && state.hashing.is_empty());
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
            return Err(self.replaced());
        }
        Ok(retired)
    }

    fn replaced(&self) -> Error {
        let what = format!("the index of archive {} was just replaced", self.tar_id);
        Error::new(ErrorKind::WrongIndex, what).hint(
            "another sender put a new index in place; run the command again with the index that is wanted",
        )
    }

    /// Waits until nobody writes for this index, and keeps everybody out as long as the guard lives.
    pub(super) fn pause(&self) -> Result<RwLockWriteGuard<'_, bool>> {
        let retired = self.retired.write().unwrap_or_else(PoisonError::into_inner);
        if *retired {
            return Err(self.replaced());
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
            None => IndexReader::open_growing(&self.index_path)?,
        };
        let outcome = work(&reader);
        lock(&self.readers).push(reader);
        outcome
    }

    /// The file with this id, if there is one.
    pub(super) fn file(&self, id: u64) -> Result<Option<FileEntry>> {
        let mut found = None;
        self.with_index(|index| {
            index.files_with_ids(id..id + 1, |file| {
                found = Some(file);
                Ok(ControlFlow::Break(()))
            })
        })?;
        Ok(found)
    }

    /// Where the content of `file` is in the archive. What was asked for last is kept: a file of many pieces is asked for with every block.
    pub(super) fn pieces_of(&self, file: &FileEntry) -> Result<Arc<Vec<Range<u64>>>> {
        if !file.scattered {
            return Ok(Arc::new(vec![file.range()]));
        }
        if let Some((_, pieces)) = lock(&self.pieces).iter().find(|(id, _)| *id == file.id) {
            return Ok(pieces.clone());
        }
        let mut pieces: Vec<Range<u64>> = Vec::new();
        self.with_index(|index| {
            index.pieces_of(file, |piece| {
                pieces.push(piece.range);
                Ok(ControlFlow::Continue(()))
            })
        })?;
        let pieces = Arc::new(pieces);
        if pieces.len() <= KEPT_PIECES {
            let mut kept = lock(&self.pieces);
            if kept.len() >= KEPT_FILES {
                kept.remove(0);
            }
            kept.push((file.id, pieces.clone()));
        }
        Ok(pieces)
    }

    /// Files with content, all of which is done, that have no name yet and that nobody is proving.
    pub(super) fn unpublished(&self) -> Result<Vec<FileEntry>> {
        let done: Vec<Range<u64>> = self.state().done.iter().collect();
        let (mut files, mut unknown) = (Vec::new(), RangeSet::default());
        let waits = |file: &FileEntry| {
            let state = self.state();
            file.size > 0 && !state.pending.contains(&file.id) && !state.proving.contains(&file.id)
        };
        for range in done {
            let ids = self.ids_within(&range)?;
            self.state().published.missing(ids).for_each(|ids| unknown.insert(ids));
        }
        self.with_index(|index| {
            index.files_of(&unknown, |file| {
                let is_there = !file.scattered && self.state().done.contains(file.range());
                if is_there && waits(&file) {
                    files.push(file);
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        let mut scattered = Vec::new();
        self.with_index(|index| {
            index.scattered_files(|file| {
                if waits(&file) && !self.state().published.contains(file.id..file.id + 1) {
                    scattered.push(file);
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        for file in scattered {
            let pieces = self.pieces_of(&file)?;
            if is_done(&self.state().done, &pieces) {
                files.push(file);
            }
        }
        Ok(files)
    }

    /// The ids of the natural files that lie whole in the archive range `range`; empty files at its borders, and scattered ones, may be
    /// among them.
    pub(super) fn ids_within(&self, range: &Range<u64>) -> Result<Range<u64>> {
        self.with_index(|index| {
            let (mut first, mut end) = (None, None);
            index.files_in(range.clone(), |file| {
                first = Some(if file.offset < range.start { file.id + 1 } else { file.id });
                Ok(ControlFlow::Break(()))
            })?;
            index.files_in(range.end.saturating_sub(1)..range.end, |file| {
                end = Some(if file.range().end > range.end { file.id } else { file.id + 1 });
                Ok(ControlFlow::Break(()))
            })?;
            // It may end in what only scattered files have, or in a hole: then with the file before the next one.
            if end.is_none() {
                index.files_in(range.end..u64::MAX, |file| {
                    end = Some(file.id);
                    Ok(ControlFlow::Break(()))
                })?;
            }
            let end = end.map_or_else(|| index.next_id(), Ok)?;
            Ok(first.map_or(0..0, |first| first..end.max(first)))
        })
    }

    /// A change of this archive's state for the journal.
    pub(super) fn record(&self, change: Change) -> Record {
        Record { tar_id: self.tar_id, generation: self.generation, change }
    }

    /// How far this archive is; `missing` starts at byte `from`.
    pub(super) fn status(&self, block_size: u64, from: u64) -> Result<Status> {
        let extent = self.extent();
        let grid = Grid::new(extent.total_bytes, block_size)
            .ok_or_else(|| Error::new(ErrorKind::Malformed, "the block size must not be 0"))?;
        let state = self.state();
        let mut missing: Vec<(u64, u64)> = state
            .done
            .missing(from.min(extent.total_bytes)..extent.total_bytes)
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
                let end =
                    if range.end == extent.total_bytes { grid.blocks() } else { range.end / block_size };
                end.saturating_sub(range.start.div_ceil(block_size))
            })
            .sum();
        Ok(Status {
            tar_id: self.tar_id,
            generation: self.generation,
            digest: extent.digest.to_string(),
            total_bytes: extent.total_bytes,
            done_bytes: state.done.covered(),
            missing,
            next,
            blk_size: block_size,
            blocks_total: grid.blocks(),
            blocks_done,
            files_total: extent.files,
            files_published: state.published.covered(),
            parts: true,
            keeps: true,
            failed: state.failed.values().cloned().collect(),
            complete: state.finished,
        })
    }
}
