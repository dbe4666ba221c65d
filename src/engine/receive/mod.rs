//! The receiver: takes an index and blocks, and puts files in place. Free of HTTP, so that any
//! server can drive it.
//!
//! Upper parts call lower ones, and never the other way round:
//!
//! | part | what it does |
//! |---|---|
//! | this file, `watch` | entry points; the thread that watches over storage |
//! | `index`, `finish`, `block` | the requests: another index, the end of a transfer, a block |
//! | `reuse` | what of the previous index is staged for the new one |
//! | `open` | opening the archives of the journal |
//! | `files`, `retention` | verified, published and retained files |
//! | `context`, `archives` | what all of them share |
//! | `archive` | one archive: locks, progress, caches |
//! | `commit`, `job`, `names`, `state_files`, `reason` | group commit, background work, the lock over names, file names |

mod archive;
mod archives;
mod block;
mod commit;
mod context;
mod files;
mod finish;
mod gc;
mod index;
mod job;
mod names;
mod open;
mod reason;
mod retention;
mod reuse;
mod slice;
mod state_files;
#[cfg(test)]
mod tests;
mod watch;

pub use block::{BlockContent, BlockPut};
pub use context::{ReceiverCounters, ReceiverOptions, SliceOptions};
pub use finish::candidates::CandidateList;
pub use finish::contents::ContentCheck;
pub use finish::jobs::FinishJob;
pub use gc::{Garbage, collect_garbage};
pub use index::adopt::{AdoptJob, compare_folder};
pub use index::change::ChangeOptions;
pub use index::whole::WholeOptions;
pub use slice::SliceRequest;
pub use state_files::{archive_with, index_digests};

use super::buffers::Buffers;
use crate::archive::digest::IndexDigest;
use crate::archive::log::LogDigest;
use crate::archive::protocol::{
    AdoptRequest, BlockAnswer, CandidatesRequest, FinishProgress, FinishRequest, IndexAnswer, LogAnswer,
    PrecheckAnswer, ProposedEntry, STATUS_RANGES, Similarity, SliceStatus, Status, VerifyRequest,
};
use crate::archive::slice::Slice;
use crate::archive::source::SourceClaim;
use crate::db::journal::{ArchiveState, Journal};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::{DiskSink, Places};
use crate::sink::{Sink, Storage};
use archive::Archive;
use archives::Archives;
use commit::{Committer, open_journal};
use context::Context;
use files::handover::forget_taken;
use finish::candidates::EachFound;
use finish::conflicts::find_conflicts;
use finish::contents::ContentChecks;
use finish::jobs::FinishJobs;
use index::adopt::{Adoptions, each_found};
use rand::RngExt;
use state_files::{active_index_name, staging_name};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use watch::Watch;

/// A base folder that takes in archives.
pub struct Receiver {
    context: Arc<Context>,
    finishing: Arc<FinishJobs>,
    /// What is found, or was, below the base folder.
    adoptions: Arc<Adoptions>,
    /// Published files that are read.
    content_checks: ContentChecks,
    /// Bodies and contents of blocks.
    pub buffers: Arc<Buffers>,
    /// What it did since it started.
    pub counters: Arc<ReceiverCounters>,
}

/// Two for each of a few blocks at once; more than that are made and dropped.
const MAX_POOLED_BUFFERS: usize = 16;

/// How long a receiver waits for the end of another one that uses its folder.
pub const IN_USE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opening a receiver.
impl Receiver {
    /// Opens `base`, which must exist, and takes up what an earlier receiver left in it.
    ///
    /// # Errors
    /// The folder cannot be used, or another receiver uses it.
    pub fn open(base: &Path, options: ReceiverOptions) -> Result<Arc<Self>> {
        Self::take_up(base, options).map_err(|e| match e.kind() {
            ErrorKind::NoSpace => e.of_receiver().with_hint("free space on the receiver's disk"),
            _ => e,
        })
    }

    /// Opens `base` as [`Self::open`] does. While another receiver uses it, waits for its end, up to
    /// [`IN_USE_TIMEOUT`]; `tell` is called before that.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_when_free(base: &Path, options: ReceiverOptions, tell: impl FnOnce()) -> Result<Arc<Self>> {
        let (start, mut tell) = (Instant::now(), Some(tell));
        loop {
            match Self::open(base, options.clone()) {
                Err(e) if e.kind() == ErrorKind::InUse && start.elapsed() < IN_USE_TIMEOUT => {
                    if let Some(tell) = tell.take() {
                        tell();
                    }
                    // A random time, because two that try at the same time may refuse each other.
                    std::thread::sleep(Duration::from_millis(rand::rng().random_range(50..200)));
                }
                outcome => return outcome,
            }
        }
    }

    fn take_up(base: &Path, options: ReceiverOptions) -> Result<Arc<Self>> {
        let places =
            Places { slice: options.slice.map(|options| options.slice), state: options.state.clone() };
        let sink = Arc::new(DiskSink::open_with(base, &places)?);
        let mut journal = open_journal(&sink)?;
        let id = journal.receiver_id()?;
        let states = journal.archives()?;
        compact(&mut journal, &states)?;
        let (verifiers, tasks) = mpsc::channel();
        let (watch, requests) = mpsc::sync_channel(watch::MAX_REQUESTS);
        let (buffers, counters) = (Buffers::new(MAX_POOLED_BUFFERS), Arc::<ReceiverCounters>::default());
        let context = Arc::new(Context {
            id,
            committer: Committer::new(sink.clone(), journal),
            sink,
            archives: Archives::default(),
            caches: Arc::default(),
            options,
            buffers: buffers.clone(),
            counters: counters.clone(),
            verifiers,
            is_full: AtomicBool::default(),
            watch,
        });
        let (finishing, adoptions) = (Arc::<FinishJobs>::default(), Arc::<Adoptions>::default());
        files::verify::start(&context, tasks)?;
        if context.hands_over() {
            files::handover::start(&context)?;
        }
        let theirs = Arc::downgrade(&context);
        Watch {
            context: theirs,
            finishing: finishing.clone(),
            adoptions: adoptions.clone(),
            damage_check: None,
        }
        .start(requests)?;
        for folder in [context.sink.state_path(), context.sink.records_path()] {
            empty_folder(&folder.join("incoming"), |_| false)?;
        }
        for state in &states {
            context.archives.set_source(state.tar_id, state.source.clone());
        }
        context.sink.put_back(&context.sink.left_overs());
        retention::remove_unknown(&context.sink, &states)?;
        let indexes: Vec<String> = states.iter().map(active_index_name).collect();
        // SQLite's own files beside an index begin with its name.
        let is_of_index = |name: &str| indexes.iter().any(|index| name.starts_with(&**index));
        empty_folder(&context.sink.records_path().join("archives"), is_of_index)?;
        let staging: Vec<String> = states.iter().map(|s| staging_name(s.tar_id, s.generation)).collect();
        context.sink.remove_other_staging(&|name| staging.iter().any(|kept| kept == name))?;
        open::open_all(&context, states)?;
        watch::hold_reserve(&context);
        context.watch_space();
        let content_checks = ContentChecks::default();
        Ok(Arc::new(Self { context, finishing, adoptions, content_checks, buffers, counters }))
    }
}

/// Makes the journal as short as it can be.
fn compact(journal: &mut Journal, states: &[ArchiveState]) -> Result<()> {
    for state in states {
        match journal.compact(state) {
            // The journal stays as long as it is.
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                tracing::warn!("the journal is not compacted: {e}")
            }
            other => other?,
        }
    }
    Ok(())
}

/// Removes what a crash left in a folder of the receiver's state, but for what `keep` names.
fn empty_folder(path: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
    let clean = || -> std::io::Result<()> {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(&keep) {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => std::fs::remove_dir_all(entry.path())?,
                false => std::fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    };
    clean().map_err(|e| Error::io(format!("cannot clean {}", path.display()), e))
}

/// State and storage.
impl Receiver {
    /// Whether storage failed, so that nothing is accepted.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.context.committer.is_degraded()
    }

    /// Whether there is no room to take anything in, as was seen within the last seconds. Requests
    /// that make room are served.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.context.is_full.load(Ordering::Relaxed)
    }

    /// The bytes that are free in the state folder, if that is on another file system than the base
    /// folder, and answers.
    #[must_use]
    pub fn free_state_bytes(&self) -> Option<u64> {
        self.context.sink.free_records_bytes()
    }

    /// The folder in which a request body may be kept while it comes in; emptied at the start.
    #[must_use]
    pub fn incoming_path(&self) -> PathBuf {
        self.context.incoming_path()
    }

    /// How many archives are complete, and how many are not.
    #[must_use]
    pub fn archives_by_state(&self) -> (u64, u64) {
        let archives = self.context.archives.all();
        let finalized = archives.iter().filter(|archive| archive.progress.is_finalized()).count();
        (finalized as u64, (archives.len() - finalized) as u64)
    }

    /// How many bytes all archives together lack.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.context.archives.all().iter().map(|archive| archive.progress.missing_bytes()).sum()
    }

    /// How far archive `tar_id` is; see [`Status`]. With `as_slice`, it is about the files that this
    /// slice takes in, and no others.
    ///
    /// # Errors
    /// There is no such archive, or the block size is 0.
    pub fn status(&self, tar_id: u64, block_size: u64, from: u64, as_slice: bool) -> Result<Status> {
        let archive = open::get(&self.context, tar_id)?;
        self.forget_taken(&archive)?;
        let status = archive.progress.status(block_size, from, as_slice)?;
        let bound = self.context.archives.source_of(tar_id);
        let (source_id, source) = bound.map(|bound| (bound.id.to_string(), bound.name)).unzip();
        let receiver_id = Some(self.context.id.clone());
        Ok(Status { source_id, source, receiver_id, slice: self.slice_status(), ..status })
    }

    /// Which of several receivers on the folder it is.
    #[must_use]
    pub fn slice(&self) -> Option<Slice> {
        self.context.options.slice.map(|options| options.slice)
    }

    fn slice_status(&self) -> Option<SliceStatus> {
        let SliceOptions { slice, stripe_bytes } = self.context.options.slice?;
        let tree = self.context.sink.tree().unwrap_or_default().to_string();
        let (number, count, peers) = (slice.number(), slice.count(), Vec::new());
        Some(SliceStatus { number, count, stripe_bytes, tree, peers })
    }

    /// Forgets what the first of several receivers has taken over of `archive`.
    fn forget_taken(&self, archive: &Archive) -> Result<()> {
        if !self.context.hands_over() {
            return Ok(());
        }
        let shared = archive.lock_shared_for_block()?;
        forget_taken(&self.context, archive, &shared)
    }

    /// The same before another index takes its place, by which ids may mean other files.
    fn forget_taken_before(&self, tar_id: u64) -> Result<()> {
        match self.context.archives.get(tar_id) {
            Some(archive) => self.forget_taken(&archive),
            None => Ok(()),
        }
    }

    /// Refuses a request that is for another one of several receivers: `asked` is the slice that the
    /// sender speaks to, if it says one.
    ///
    /// # Errors
    /// [`ErrorKind::WrongSlice`].
    pub fn check_slice(&self, asked: Option<Slice>, request: SliceRequest) -> Result<()> {
        slice::check(self.slice(), asked, request)
    }

    /// The same, with whether what is missing fits on the disk.
    ///
    /// # Errors
    /// As [`Receiver::status`], or the file system does not answer.
    pub fn status_with_space(
        &self,
        tar_id: u64,
        block_size: u64,
        from: u64,
        as_slice: bool,
    ) -> Result<Status> {
        let archive = open::get(&self.context, tar_id)?;
        let space = Some(files::space::forecast(&self.context, &archive)?);
        Ok(Status { space, ..self.status(tar_id, block_size, from, as_slice)? })
    }

    /// Makes everything so far durable and known to the journal: for a graceful stop.
    ///
    /// # Errors
    /// Storage fails.
    pub fn flush(&self) -> Result<()> {
        self.context.committer.flush(self.context.committer.mark())
    }

    /// To be called after a request failed: what it failed by may be the end of storage, or damage
    /// to an index. Gives what to answer.
    #[must_use]
    pub fn suspect(&self, error: Error) -> Error {
        self.context.suspect(error)
    }

    /// Checks that `needed_bytes` fit on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if they do not.
    pub fn check_space(&self, needed_bytes: u64) -> Result<()> {
        self.context.check_space(needed_bytes)
    }

    /// The same for a change of an index, `needed_bytes` of which take disk: it may have the
    /// reserve.
    ///
    /// # Errors
    /// As [`Receiver::check_space`].
    pub fn check_space_for_change(&self, needed_bytes: u64) -> Result<()> {
        self.context.check_space_for_change(needed_bytes)
    }

    /// Gives back what is held of the disk, names included; false if nothing was.
    pub fn release_reserve(&self) -> bool {
        self.context.sink.release()
    }

    /// The bytes that are free for content.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn free_for_content(&self) -> Result<u64> {
        self.context.free_for_content()
    }

    /// The bytes that are free below the base folder.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn free_bytes(&self) -> Result<u64> {
        self.context.sink.free_bytes()
    }
}

/// Indexes.
impl Receiver {
    /// What can be said of an index before its body is there.
    ///
    /// # Errors
    /// Storage failed earlier, or the sender names no digest and must.
    pub fn check_index(&self, expected: Option<&IndexDigest>) -> Result<()> {
        index::whole::check(&self.context, expected)
    }

    /// Whether `digest` is the active index of `tar_id`: the answer to putting it once more. With
    /// `adopt`, only if that was taken in.
    #[must_use]
    pub fn has_index(&self, tar_id: u64, digest: &IndexDigest, adopt: Option<u64>) -> Option<IndexAnswer> {
        index::whole::answer_if_active(&self.context, &self.adoptions, tar_id, digest, adopt)
    }

    /// The active index of archive `tar_id`, which must be `index`, as a body that a sender could
    /// put; and its length, in bytes.
    ///
    /// # Errors
    /// There is no such archive, another index is active, all of it is not here yet
    /// ([`ErrorKind::WrongIndex`]), or there is no space for the copy.
    pub fn pack_index(&self, tar_id: u64, index: &IndexDigest) -> Result<(std::fs::File, u64)> {
        index::outgoing::pack(&self.context, tar_id, index)
    }

    /// Takes in an index for archive `tar_id`: validates it and makes it the active one. The same
    /// index again changes nothing; another one replaces what was there, files that are in place
    /// stay. `expected` is the digest that the sender names; a legacy sender names none. `claim` says
    /// whose index it is.
    ///
    /// # Errors
    /// The number is that of another source ([`ErrorKind::OtherSource`]), the index is refused,
    /// there is no such adoption ([`ErrorKind::NotFound`]), or our disk fails.
    pub fn put_index(
        &self,
        tar_id: u64,
        uploaded: &Path,
        expected: Option<&IndexDigest>,
        options: &WholeOptions,
        claim: &SourceClaim,
    ) -> Result<IndexAnswer> {
        self.forget_taken_before(tar_id)?;
        index::whole::put(&self.context, &self.adoptions, tar_id, uploaded, expected, options, claim)
    }

    /// Makes the index that `expected` names of the one that `from` names, by the change in the
    /// file `uploaded`. If it is there already, nothing changes.
    ///
    /// # Errors
    /// [`ErrorKind::WrongIndex`]: another index is active, or what is to be reverted is not there
    /// any more. [`ErrorKind::BadIndex`]: the change is refused. Others: our own disk. The previous
    /// index stays then.
    pub fn put_change(
        &self,
        tar_id: u64,
        uploaded: &Path,
        from: &IndexDigest,
        expected: &IndexDigest,
        options: &ChangeOptions,
        claim: &SourceClaim,
    ) -> Result<IndexAnswer> {
        self.forget_taken_before(tar_id)?;
        index::change::put(&self.context, tar_id, uploaded, (from, expected), options, claim)
    }

    /// Adds a batch to the index of `tar_id`. `stream` names the sender's run, and `before` the
    /// prefix of its log that the batch follows; the first batch of a stream makes it the active
    /// one. The same batch again changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::WrongIndex`]: another stream or another prefix is active.
    /// [`ErrorKind::BadIndex`]: the batch is refused.
    pub fn append_log(
        &self,
        tar_id: u64,
        stream: &LogDigest,
        before: &LogDigest,
        batch: &[u8],
        claim: &SourceClaim,
    ) -> Result<LogAnswer> {
        index::stream::append(&self.context, tar_id, stream, before, batch, claim)
    }

    /// Makes sure that a sender with this claim may send archive `tar_id`.
    ///
    /// # Errors
    /// [`ErrorKind::OtherSource`]: the number is bound to another source.
    pub fn check_source(&self, tar_id: u64, claim: &SourceClaim) -> Result<()> {
        self.context.archives.check_source(tar_id, claim)
    }

    /// Binds archive `tar_id` to the source that `claim` names, if `index` is its active index and
    /// it is not bound yet.
    ///
    /// # Errors
    /// As [`Receiver::check_source`], or storage fails.
    pub fn bind_source(&self, tar_id: u64, index: &IndexDigest, claim: &SourceClaim) -> Result<()> {
        index::replace::bind_active(&self.context, tar_id, index, claim)
    }

    /// Prunes all that is retained of an archive, if `from` is its active index, or whatever is its
    /// index without `from`. There was no space for an index whose sender wants nothing to be
    /// retained.
    pub fn make_room(&self, tar_id: u64, from: Option<&IndexDigest>) {
        index::replace::make_room(&self.context, tar_id, from);
    }

    /// Starts to find out what is below the base folder, or joins the same request that runs
    /// already, or has ended.
    ///
    /// # Errors
    /// Other archives are received into the folder, whose files would be taken for this one's;
    /// another sender's adoption runs ([`ErrorKind::Busy`]); the request is malformed; or storage
    /// failed earlier.
    pub fn adopt(&self, tar_id: u64, request: AdoptRequest) -> Result<Arc<AdoptJob>> {
        self.adoptions.start(&self.context, tar_id, request)
    }

    /// How much of the uploaded index is there, by the result of the adoption `name`. Changes
    /// nothing.
    ///
    /// # Errors
    /// The index is refused, there is no such adoption ([`ErrorKind::NotFound`]), or our disk
    /// fails.
    pub fn compare(
        &self,
        tar_id: u64,
        uploaded: &Path,
        expected: &IndexDigest,
        name: u64,
    ) -> Result<Similarity> {
        self.adoptions.compare(&self.context, tar_id, uploaded, expected, name)
    }
}

/// Blocks, and the end of a transfer.
impl Receiver {
    /// What can be said of a block before its body is there.
    ///
    /// # Errors
    /// As [`Receiver::put_block`].
    pub fn check_block(&self, put: &BlockPut) -> Result<()> {
        block::check(&self.context, put)
    }

    /// Stages the file `id` of archive `tar_id`, nothing of which has come yet, as a clone of `source`
    /// that shares its blocks; opened for reading. `None` where that cannot be.
    ///
    /// # Errors
    /// As [`Receiver::put_block`].
    pub fn clone_file(&self, tar_id: u64, id: u64, source: &File) -> Result<Option<File>> {
        block::clone_file(&self.context, tar_id, id, source)
    }

    /// Takes in a block: verifies it, writes it to staging, makes it durable, gives files that are
    /// complete their names.
    ///
    /// # Errors
    /// The kind says what the sender has to do; nothing was written unless storage itself failed.
    pub fn put_block(&self, put: BlockPut) -> Result<BlockAnswer> {
        let (tar_id, is_legacy) = (put.tar_id, put.index.is_none());
        let take = || -> Result<BlockAnswer> {
            let answer = block::put(&self.context, put)?;
            if is_legacy && open::get(&self.context, tar_id)?.progress.missing_bytes() == 0 {
                // The last block of a legacy sender, which never says that it is done.
                self.finish(tar_id, None, FinishRequest::default())?;
            }
            Ok(answer)
        };
        take().map_err(|e| self.context.judged(e))
    }

    /// Takes the `stat` of each published file of `index`; `name` is what [`FinishRequest::looked`]
    /// may say then. Gives where the files are in the archive that are gone or were changed. Ends
    /// early when `wanted` says so, or when another index takes this one's place.
    ///
    /// # Errors
    /// There is no such archive, another index is active, or another precheck runs.
    pub fn precheck(
        &self,
        tar_id: u64,
        index: &IndexDigest,
        name: u64,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<PrecheckAnswer> {
        let changed = self.finishing.prechecks.run(&self.context, tar_id, index, name, wanted)?;
        let changed = changed.iter().take(STATUS_RANGES).map(|range| (range.start, range.end));
        Ok(PrecheckAnswer { changed: changed.collect(), ..PrecheckAnswer::default() })
    }

    /// Says which of `entries` other archives would keep out of their places in archive `tar_id`,
    /// which need not exist. Without any, says it of the entries of `index` that are not in place.
    /// Changes nothing.
    ///
    /// # Errors
    /// An entry is malformed, or the index of an archive cannot be read now ([`ErrorKind::Busy`]).
    pub fn conflicts(
        &self,
        tar_id: u64,
        index: &IndexDigest,
        entries: &[ProposedEntry],
    ) -> Result<PrecheckAnswer> {
        find_conflicts(&self.context, tar_id, index, entries)
    }

    /// Starts to read the published files of `index`, or joins the same request that runs already,
    /// or has ended. Files that are not what the index says are asked for again.
    ///
    /// # Errors
    /// There is no such archive, another index is active, another sender's check runs
    /// ([`ErrorKind::Busy`]), or storage failed earlier.
    pub fn verify(
        &self,
        tar_id: u64,
        index: &IndexDigest,
        request: VerifyRequest,
    ) -> Result<Arc<ContentCheck>> {
        self.content_checks.start(&self.context, tar_id, index, request)
    }

    /// Starts to list what a `finish` of `index` could delete, or gives the list of that name.
    /// Changes nothing.
    ///
    /// # Errors
    /// There is no such archive, another index is active, the list is not here any more
    /// ([`ErrorKind::NotFound`]), or too many other senders want one ([`ErrorKind::Busy`]).
    pub fn candidates(
        &self,
        tar_id: u64,
        index: &IndexDigest,
        request: CandidatesRequest,
    ) -> Result<Arc<CandidateList>> {
        let adopted = request.adopt.map(|name| self.adoptions.get(tar_id, name)).transpose()?;
        let adopted = adopted.map(|job| -> EachFound {
            Box::new(move |each| job.index().map_or(Ok(()), |found| each_found(&found, each)))
        });
        self.finishing.candidates.start(&self.context, tar_id, index, request, adopted)
    }

    /// Starts to finish an archive, or joins the same `finish` that runs or waits already: there
    /// are never more than one of each for senders that want the same. `index` is what the sender
    /// has sent; a legacy sender names none.
    ///
    /// # Errors
    /// There is no such archive, another index is active, storage failed earlier, or too many other
    /// senders wait.
    pub fn finish(
        &self,
        tar_id: u64,
        index: Option<IndexDigest>,
        request: FinishRequest,
    ) -> Result<Arc<FinishJob>> {
        self.finishing.start(&self.context, tar_id, index, request)
    }

    /// How far `job` is, a `finish` of archive `tar_id`.
    #[must_use]
    pub fn finish_progress(&self, tar_id: u64, job: &FinishJob) -> FinishProgress {
        self.context.archives.get(tar_id).map_or_else(FinishProgress::default, |archive| {
            job.progress(archive.progress.published().covered(), archive.progress.head().files)
        })
    }

    /// Finishes what an original sender has sent so far. It never says that it is done: what no
    /// block brings is made when it puts its index.
    ///
    /// # Errors
    /// As [`Receiver::finish`].
    pub fn finish_legacy(&self, tar_id: u64) -> Result<Arc<FinishJob>> {
        self.finishing.start_legacy(&self.context, tar_id)
    }
}
