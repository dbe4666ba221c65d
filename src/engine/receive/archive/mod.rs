//! One archive on the receiver: its active index, its staging folder, how far it is, and who may
//! work for it.
//!
//! An [`Archive`] lives as long as its index is the active one. A thread that wants several of its
//! locks takes them in this order, which the types ask for where they can:
//!
//! 1. [`log::Transition`], of the archive's number: to change the index
//! 2. [`Archive::lock_finish`]: one `finish` at a time
//! 3. [`gate::Gate`]: shared to write, exclusive to change what is written for
//! 4. [`gate::Claim`]: the bytes that are written
//! 5. [`super::names::Names`]: to place or to delete names
//! 6. [`Archive::handed_over`]
//! 7. [`progress::Progress`], inside its methods
//! 8. [`super::commit::Committer`], inside its methods

pub(crate) mod caches;
pub(crate) mod gate;
pub(crate) mod hashes;
pub(crate) mod log;
pub(crate) mod progress;

use super::commit::{Committer, Mark};
use super::state_files::index_files;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::Staging;
use caches::{Caches, Key};
use gate::{Closing, Exclusive, Gate, Refusal, Shared};
use parking_lot::{Mutex, MutexGuard};
use progress::{Pieces, Progress};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// An archive and its active index.
pub(crate) struct Archive {
    pub(crate) tar_id: u64,
    pub(crate) generation: u64,
    pub(crate) staging: Staging,
    pub(crate) index_path: PathBuf,
    pub(crate) progress: Progress,
    /// The index came as a whole, or as a log: ids of earlier generations have other meanings.
    pub(crate) is_whole: bool,
    /// What was handed over last, where another receiver takes it over; `None` if that is not known.
    pub(crate) handed_over: Mutex<Option<Offer>>,
    caches: Arc<Caches>,
    finish: Mutex<()>,
    gate: Gate,
}

/// What one of several receivers hands over to the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Ids of files that it has put in place.
    pub(crate) published: RangeSet,
    /// Ids of files that are complete, and verified, and have not got their names because a folder
    /// stands in their place.
    pub(crate) waiting: RangeSet,
}

/// A place among the files of [`Archive::each_unpublished`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unpublished {
    /// Contiguous files from this byte of the archive on, and all fragmented ones.
    Contiguous { from: u64 },
    /// Fragmented files from this id on.
    Fragmented { from: u64 },
}

impl Unpublished {
    /// The first place.
    pub(crate) const FIRST: Self = Self::Contiguous { from: 0 };

    /// The place behind `file`.
    pub(crate) fn behind(file: &FileEntry) -> Self {
        match file.fragmented {
            true => Self::Fragmented { from: file.id + 1 },
            false => Self::Contiguous { from: file.range().end },
        }
    }
}

/// How long a block waits for a thread that holds the gate exclusively: the block holds a permit
/// that the blocks of other archives wait for.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(1);

impl Drop for Archive {
    fn drop(&mut self) {
        self.caches.forget(self.key());
    }
}

impl Archive {
    pub(crate) fn new(
        (tar_id, generation): Key,
        index_path: PathBuf,
        staging: Staging,
        progress: Progress,
        is_whole: bool,
        caches: Arc<Caches>,
    ) -> Self {
        let (finish, gate, handed_over) = Default::default();
        Self {
            tar_id,
            generation,
            staging,
            index_path,
            progress,
            is_whole,
            handed_over,
            caches,
            finish,
            gate,
        }
    }

    /// Which index this is, among all.
    fn key(&self) -> Key {
        (self.tar_id, self.generation)
    }
}

/// Locks.
impl Archive {
    /// Waits until no other thread finishes the archive, or replaces its index by a change.
    pub(crate) fn lock_finish(&self) -> MutexGuard<'_, ()> {
        self.finish.lock()
    }

    /// Keeps the index from being replaced as long as the guard lives.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while another index is being put in place, [`ErrorKind::WrongIndex`]
    /// once it is.
    pub(crate) fn lock_shared(&self) -> Result<Shared<'_>> {
        self.gate.lock_shared(Duration::MAX).map_err(|refusal| self.refused(refusal))
    }

    /// The same for a block, which waits for a moment only.
    ///
    /// # Errors
    /// As [`Self::lock_shared`].
    pub(crate) fn lock_shared_for_block(&self) -> Result<Shared<'_>> {
        self.gate.lock_shared(BLOCK_TIMEOUT).map_err(|refusal| self.refused(refusal))
    }

    /// Whether the gate can be shared now, or in a moment.
    ///
    /// # Errors
    /// As [`Self::lock_shared`].
    pub(crate) fn check_open(&self) -> Result<()> {
        self.gate.refusal().map_or(Ok(()), |refusal| Err(self.refused(refusal)))
    }

    /// Waits until no thread writes for this index, and keeps all threads out as long as the guard
    /// lives.
    ///
    /// # Errors
    /// Another index has taken this one's place.
    pub(crate) fn lock_exclusive(&self) -> Result<Exclusive<'_>> {
        self.gate.lock_exclusive().ok_or_else(|| self.refused(Refusal::Replaced))
    }

    /// Waits until no thread writes for this index, and keeps all threads out until the guard is
    /// dropped, or for good.
    ///
    /// # Errors
    /// Another index has taken this one's place.
    pub(crate) fn close(&self) -> Result<Closing<'_>> {
        self.gate.close().ok_or_else(|| self.refused(Refusal::Replaced))
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Busy => {
                let what = format!("another index is being put in place for archive {}", self.tar_id);
                Error::new(ErrorKind::Busy, what).with_hint("send it again a little later")
            }
            Refusal::Replaced => {
                let what = format!("the index of archive {} was just replaced", self.tar_id);
                Error::new(ErrorKind::WrongIndex, what).with_hint(
                    "another sender put a new index in place; run the command again with the index that is wanted",
                )
            }
        }
    }
}

/// The index.
impl Archive {
    /// Makes sure that `index` is what the archive has, and all of it.
    ///
    /// # Errors
    /// [`ErrorKind::WrongIndex`]: it is not.
    pub(crate) fn check_active(&self, index: &IndexDigest) -> Result<()> {
        let (active, tar_id) = (self.progress.head(), self.tar_id);
        if !active.sealed {
            let what = format!(
                "the index of archive {tar_id} is not complete: its sender is still at work, or was interrupted"
            );
            return Err(Error::new(ErrorKind::WrongIndex, what)
                .with_hint("run the sender's command again; it goes on where it was"));
        }
        if active.digest != *index {
            let what = format!(
                "index {index} of archive {tar_id} was sent, but another sender has put index {} in place",
                active.digest
            );
            return Err(Error::new(ErrorKind::WrongIndex, what)
                .with_hint("let only one sender at a time use the same archive number, or give --tar-id"));
        }
        Ok(())
    }

    /// Where the archive ends in the index that a block names; `None` if that is another index. A
    /// block may come before the index is complete: then it names the prefix of the log that lays
    /// it out.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(crate) fn end_of(&self, named: &IndexDigest) -> Result<Option<u64>> {
        let head = self.progress.head();
        if head.sealed && head.digest == *named {
            return Ok(Some(head.total_bytes));
        }
        if self.progress.stream().is_none() {
            return Ok(None);
        }
        self.with_index(|index| index.prefix_end(named))
    }

    /// Makes sure that no sync that found no space before `mark` has taken anything of the index,
    /// which is not synced batch by batch: each file says so once, to the next thread that opens
    /// it.
    ///
    /// # Errors
    /// It has: nothing that depends on the index may be acknowledged, and the receiver is degraded.
    pub(crate) fn check_index_is_stored(&self, committer: &Committer, mark: Mark) -> Result<()> {
        if self.progress.index_stored() != mark {
            self.store_index().map_err(|e| committer.degrade(e))?;
            self.progress.set_index_stored(mark);
        }
        Ok(())
    }

    /// Syncs the files of the index.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn store_index(&self) -> Result<()> {
        for path in index_files(&self.index_path) {
            match std::fs::File::open(&path).and_then(|file| file.sync_all()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("cannot sync {}", path.display()), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Runs `work` with a reader of the index; readers are cached.
    pub(crate) fn with_index<T>(&self, work: impl FnOnce(&IndexReader) -> Result<T>) -> Result<T> {
        let reader = match self.caches.take_reader(self.key()) {
            Some(reader) => reader,
            None => IndexReader::open_growing(&self.index_path)?,
        };
        let outcome = work(&reader);
        self.caches.put_reader(self.key(), reader);
        outcome
    }

    /// The file with this id, if there is one.
    pub(crate) fn file(&self, id: u64) -> Result<Option<FileEntry>> {
        let mut found = None;
        self.with_index(|index| {
            index.files_with_ids(id..id + 1, |file| {
                found = Some(file);
                Ok(ControlFlow::Break(()))
            })
        })?;
        Ok(found)
    }

    /// Where the content of `file` is in the archive. What was asked for last is cached: a file of
    /// many pieces is asked for with every block.
    pub(crate) fn pieces_of(&self, file: &FileEntry) -> Result<Pieces> {
        if !file.fragmented {
            return Ok(Arc::new(vec![file.range()]));
        }
        if let Some(pieces) = self.caches.pieces(self.key(), file.id) {
            return Ok(pieces);
        }
        let mut pieces: Vec<Range<u64>> = Vec::new();
        self.with_index(|index| {
            index.pieces_of(file, |piece| {
                pieces.push(piece.range);
                Ok(ControlFlow::Continue(()))
            })
        })?;
        let pieces = Arc::new(pieces);
        self.caches.put_pieces(self.key(), file.id, &pieces);
        Ok(pieces)
    }

    /// Gives the files with content, all of which is durable, that have no name yet and that no
    /// thread is about to give one, from the place `from` on: contiguous files, then fragmented
    /// ones.
    ///
    /// # Errors
    /// The index cannot be read, or an error of `each`.
    pub(crate) fn each_unpublished(
        &self,
        from: Unpublished,
        mut each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (progress, mut goes_on) = (&self.progress, true);
        if let Unpublished::Contiguous { from } = from {
            let (published, mut unknown) = (progress.published(), RangeSet::default());
            for range in progress.durable().iter().filter(|range| range.end > from) {
                let ids = self.ids_within(&(range.start.max(from)..range.end))?;
                published.missing(ids).for_each(|ids| unknown.insert(ids));
            }
            self.with_index(|index| {
                index.files_of(&unknown, |file| {
                    let is_here = !file.fragmented && progress.are_durable(&[file.range()]);
                    if !is_here || file.size == 0 || !progress.is_unattended(file.id) {
                        return Ok(ControlFlow::Continue(()));
                    }
                    let flow = each(file)?;
                    goes_on = flow.is_continue();
                    Ok(flow)
                })
            })?;
        }
        let from = if let Unpublished::Fragmented { from } = from { from } else { 0 };
        if !goes_on {
            return Ok(());
        }
        self.with_index(|index| {
            index.fragmented_files(from, |file| {
                let is_unattended = file.size > 0 && progress.is_unattended(file.id);
                if is_unattended && progress.are_durable(&self.pieces_of(&file)?) {
                    return each(file);
                }
                Ok(ControlFlow::Continue(()))
            })
        })
    }

    /// The ids of the contiguous files that lie whole in the archive range `range`; empty files at
    /// its borders, and fragmented ones, may be among them.
    fn ids_within(&self, range: &Range<u64>) -> Result<Range<u64>> {
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
            // The range may end in what only fragmented files have, or in a hole: then with the
            // file before the next one.
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
}
