//! What all parts of the receiver share: the sink, the committer, the archives, and the way to the
//! threads. It also tells errors of one file from the end of storage.

use super::super::buffers::Buffers;
use super::archive::caches::Caches;
use super::archive::{Archive, Unpublished};
use super::archives::Archives;
use super::commit::{Committer, JOURNAL_BYTES};
use super::state_files::index_name;
use crate::archive::digest::IndexDigest;
use crate::archive::shown::{counted, separated};
use crate::archive::slice::{Slice, Stripes};
use crate::db::is_corrupt;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::DiskSink;
use crate::sink::{Storage, is_suspicious};
use crate::telemetry::Counter;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

/// How a receiver behaves.
#[derive(Debug, Clone)]
pub struct ReceiverOptions {
    /// Serve senders that know only the original's protocol (FORMAT.md 5.1): they name neither
    /// index nor digest, and never say that they are done.
    pub legacy: bool,
    /// The largest index, in bytes as a SQLite file.
    pub max_index_bytes: u64,
    /// Which of several receivers on the folder it is.
    pub slice: Option<SliceOptions>,
    /// The folder for the journal, the copies of indexes and what is temporary, if it is not
    /// `.tar-like`.
    pub state: Option<PathBuf>,
}

/// One of several receivers on one folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceOptions {
    /// Which one.
    pub slice: Slice,
    /// The length of a stripe, in bytes: the same for all.
    pub stripe_bytes: u64,
}

impl SliceOptions {
    /// How files are dealt out.
    #[must_use]
    pub fn stripes(self) -> Stripes {
        Stripes { slices: self.slice.count(), stripe_bytes: self.stripe_bytes }
    }
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        Self { legacy: false, max_index_bytes: 16 << 30, slice: None, state: None }
    }
}

/// What a receiver did since it started.
#[derive(Debug, Default)]
pub struct ReceiverCounters {
    /// Blocks accepted.
    pub blocks: Counter,
    /// Bytes of content in them.
    pub block_bytes: Counter,
    /// Bytes of their bodies.
    pub wire_bytes: Counter,
    /// Files that got their final name.
    pub files_published: Counter,
    /// When the last block was accepted, in seconds since 1970; 0 if none was.
    pub last_block_s: Counter,
}

/// What a verifier thread is to do.
pub(crate) enum VerifyTask {
    /// Hash the file `id`, and verify it if it is complete.
    File { archive: Arc<Archive>, id: u64 },
    /// Queue files from this place on that are complete and have no name.
    Unpublished { archive: Arc<Archive>, from: Unpublished },
}

/// What other threads ask of the thread that watches over the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchRequest {
    /// Something failed that may be the end of storage.
    CheckStorage,
    /// A page of some index is damaged.
    CheckIndexes,
    /// The archive of a legacy sender was opened, which never says that it is done.
    FinishLegacy(u64),
}

/// What all parts of the receiver share.
pub(crate) struct Context {
    /// The number by which senders know this receiver, whatever its address.
    pub(crate) id: String,
    pub(crate) sink: Arc<DiskSink>,
    pub(crate) committer: Committer,
    pub(crate) archives: Archives,
    /// What of all archives is open, and in memory.
    pub(crate) caches: Arc<Caches>,
    pub(crate) options: ReceiverOptions,
    /// Bodies and contents of blocks.
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) counters: Arc<ReceiverCounters>,
    pub(crate) verifiers: mpsc::Sender<VerifyTask>,
    /// There is no room to take anything in, as was last seen.
    pub(crate) is_full: AtomicBool,
    pub(crate) watch: mpsc::SyncSender<WatchRequest>,
}

/// Free space that is left alone, in bytes, so that the journal can still be written when the disk
/// is nearly full. As far as the file system allows, it is held ([`Storage::hold`]), since others
/// fill disks, too.
pub(crate) const RESERVE_BYTES: u64 = 4 << 20;

/// Places.
impl Context {
    pub(crate) fn index_path(&self, tar_id: u64, digest: &IndexDigest, generation: u64) -> PathBuf {
        self.sink.records_path().join("archives").join(index_name(tar_id, digest, generation))
    }

    /// The folder for what is temporary; emptied at the start.
    pub(crate) fn incoming_path(&self) -> PathBuf {
        self.sink.records_path().join("incoming")
    }

    /// A folder for an index that comes in, removed when it is dropped.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn temporary_folder(&self) -> Result<tempfile::TempDir> {
        tempfile::tempdir_in(self.incoming_path()).map_err(|e| Error::io("cannot make a temporary folder", e))
    }

    /// The text of `error` with the paths of the receiver's own folders as people know them.
    pub(crate) fn text_of(&self, error: &Error) -> String {
        let (state, records) = (self.sink.state_path(), self.sink.records_path());
        let text = error.to_string();
        let text = text.replace(&*state.to_string_lossy(), &self.sink.state_name().to_string_lossy());
        text.replace(&*records.to_string_lossy(), &self.sink.records_name().to_string_lossy())
    }
}

/// Slices.
impl Context {
    /// Whether another receiver on the folder has the journal of the whole archive: this one only
    /// takes in and publishes files that are its own, and hands them over.
    pub(crate) fn hands_over(&self) -> bool {
        self.options.slice.is_some_and(|options| !options.slice.is_first())
    }
}

/// Threads.
impl Context {
    /// Has a verifier thread hash file `id` on, and verify it if it is complete.
    pub(crate) fn verify_later(&self, archive: &Arc<Archive>, id: u64) {
        // Fails only when the verifiers have ended, and they end with the receiver.
        let _ = self.verifiers.send(VerifyTask::File { archive: archive.clone(), id });
    }

    /// Has the verifier threads verify files that were complete when an earlier process ended, or
    /// when their index came, and that the journal does not know as published.
    pub(crate) fn verify_unpublished(&self, archive: &Arc<Archive>) {
        archive.progress.begin_queueing();
        self.verify_unpublished_from(archive, Unpublished::FIRST);
    }

    /// The same, begun earlier, from the place `from` on.
    pub(crate) fn verify_unpublished_from(&self, archive: &Arc<Archive>, from: Unpublished) {
        let _ = self.verifiers.send(VerifyTask::Unpublished { archive: archive.clone(), from });
    }
}

/// Space.
impl Context {
    /// The bytes that are free for content: not the reserve.
    ///
    /// # Errors
    /// The file system does not answer.
    pub(crate) fn free_for_content(&self) -> Result<u64> {
        let reserve = RESERVE_BYTES.saturating_sub(self.sink.held_bytes());
        Ok(self.sink.free_bytes()?.saturating_sub(reserve))
    }

    /// The folder of the receiver that has no room, for people: nothing is taken in then.
    fn full_folder(&self) -> Option<String> {
        if self.sink.free_records_bytes().is_some_and(|free_bytes| free_bytes < JOURNAL_BYTES) {
            return Some(format!("the state folder {}", self.sink.records_name().display()));
        }
        let is_full = self.free_for_content().is_ok_and(|free_bytes| free_bytes == 0);
        is_full.then(|| format!("the base folder {}", self.sink.base_name().display()))
    }

    /// Looks whether there is room, and says when that changes.
    pub(crate) fn watch_space(&self) {
        let full = self.full_folder();
        let was_full = self.is_full.swap(full.is_some(), Ordering::Relaxed);
        match full {
            Some(folder) if !was_full => {
                tracing::warn!("{folder} has no space left: nothing is taken in until there is some");
            }
            None if was_full => tracing::warn!("there is space again"),
            _ => {}
        }
    }

    /// The error that there is no space, with where that is. The state folder may be what is full,
    /// which a sender would not think of.
    fn with_place(&self, error: Error) -> Error {
        let Some(folder) = self.full_folder() else { return error };
        let is_known = error.hint().is_some() && !folder.starts_with("the state");
        if is_known {
            return error;
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        error.with_hint(format!("free space on the disk of {folder} of the receiver on {host}"))
    }

    /// Checks that `needed_bytes` fit on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if they do not.
    pub(crate) fn check_space(&self, needed_bytes: u64) -> Result<()> {
        let free_bytes = self.sink.free_bytes()?;
        let reserve = RESERVE_BYTES.saturating_sub(self.sink.held_bytes());
        if free_bytes >= needed_bytes.saturating_add(reserve) {
            return Ok(());
        }
        let (needed, free) = (counted(needed_bytes, "byte"), separated(free_bytes.saturating_sub(reserve)));
        let what = format!("no space: {needed} needed, {free} free for content");
        Err(Error::new(ErrorKind::NoSpace, what).with_hint("free space on the receiver's disk"))
    }

    /// The same for a change of an index, `needed_bytes` of which take disk: only the change knows
    /// what it makes room for, so it may have the reserve.
    ///
    /// # Errors
    /// As [`Self::check_space`].
    pub(crate) fn check_space_for_change(&self, needed_bytes: u64) -> Result<()> {
        let error = match self.check_space(needed_bytes) {
            Err(e) if e.kind() == ErrorKind::NoSpace => e,
            other => return other,
        };
        self.sink.release();
        if self.sink.free_bytes()? >= needed_bytes { Ok(()) } else { Err(error) }
    }

    /// The same for copies of what is here, of which a new generation is made.
    ///
    /// # Errors
    /// As [`Self::check_space`].
    pub(crate) fn check_space_for_copies(&self, needed_bytes: u64) -> Result<()> {
        if needed_bytes == 0 {
            return Ok(());
        }
        self.check_space(needed_bytes).map_err(|e| {
            e.with_hint(
                "files that were changed or renamed are copied before they replace the old ones: free as much space on the \
                 receiver's disk",
            )
        })
    }
}

/// Errors.
impl Context {
    /// Degrades the receiver if its storage is gone; gives the error. With `write`, looking at
    /// storage is not enough.
    pub(crate) fn check_storage(&self, write: bool) -> Option<Error> {
        if self.committer.is_degraded() {
            return self.committer.check().err();
        }
        let why = self.sink.loss(write)?;
        Some(self.committer.degrade(Error::new(ErrorKind::Io, why).with_hint(
            "look after the receiver's storage (mount, cables, the system's log), then restart the proxy",
        )))
    }

    /// The error that storage is gone, if it is, as far as looking tells.
    pub(crate) fn lost_storage(&self) -> Option<Error> {
        self.check_storage(false)
    }

    /// The same error, unless it comes from storage that is gone, or from a damaged index: neither
    /// is the fault of one file.
    pub(crate) fn judged(&self, error: Error) -> Error {
        let is_suspect = match error.kind() {
            ErrorKind::Database => true,
            ErrorKind::Io | ErrorKind::Source => error.os_error().is_some_and(is_suspicious),
            _ => false,
        };
        let error = if is_suspect { self.check_storage(true).unwrap_or(error) } else { error };
        self.doubt_indexes(error)
    }

    /// The error as it is answered, after a request failed by it: the watching thread finds out
    /// whether storage is gone.
    pub(crate) fn suspect(&self, error: Error) -> Error {
        if matches!(error.kind(), ErrorKind::Io | ErrorKind::Database | ErrorKind::Source) {
            // The thread has enough to do if there is no room for this.
            let _ = self.watch.try_send(WatchRequest::CheckStorage);
        }
        if error.kind() == ErrorKind::NoSpace {
            return self.with_place(error);
        }
        self.doubt_indexes(error)
    }

    /// The same error, unless it says that an index is damaged. Which one, and how much of it, a
    /// thread finds out, and gives it up; until then the sender is asked to come again.
    fn doubt_indexes(&self, error: Error) -> Error {
        if !is_corrupt(&error) {
            return error;
        }
        let _ = self.watch.try_send(WatchRequest::CheckIndexes);
        let what = format!("the receiver checks its indexes for damage: {}", self.text_of(&error));
        tracing::error!("{what}");
        Error::new(ErrorKind::Busy, what)
            .with_hint("look for disk errors in the system's log of the receiver")
    }
}
