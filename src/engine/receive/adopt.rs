//! A copy that somebody else made: the receiver finds out what is below its base folder, at the same time as the sender goes through its own
//! one. What it finds counts as the former state when the index comes: files that are as they should be keep their place, and what others
//! have in common with what is there is copied from it.

use super::carry::{self, Carried};
use super::commit::lock;
use super::{Receiver, now_s, publish};
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::path::EntryPath;
use crate::archive::protocol::{AdoptAnswer, AdoptRequest, Similarity};
use crate::archive::ranges::RangeSet;
use crate::archive::sketch::{Run, SKETCHED_BYTES, Sketch, diff};
use crate::db::import::{import, open_uploaded};
use crate::db::index_read::IndexReader;
use crate::engine::index::{Append, IndexOptions, index};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::{FolderCache, Staging};
use crate::telemetry::{Counters, Monitor, Notice};
use regex::bytes::Regex;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An adoption that runs, or whose result waits for an index.
pub struct AdoptJob {
    request: AdoptRequest,
    /// When somebody last asked for it.
    asked: Mutex<Instant>,
    outcome: Mutex<Option<std::result::Result<Found, (ErrorKind, String)>>>,
    ended: Condvar,
    progress: Progress,
}

/// What was found.
struct Found {
    /// Removed when nobody needs it any more.
    folder: tempfile::TempDir,
    /// There is anything at all.
    any: bool,
}

#[derive(Default)]
struct Progress {
    counters: Counters,
    cancelled: AtomicBool,
}

impl Monitor for Progress {
    fn notice(&self, notice: Notice) {
        if let Notice::Failed { path, reason } = notice {
            tracing::info!("\"{path}\" is not taken for anything that is here: {reason}");
        }
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

const INDEX: &str = "found.sqlite";

/// A sender asks more often than this.
const ABANDONED: Duration = Duration::from_secs(30);

impl AdoptJob {
    /// Waits until all is found, at most `patience`; gives whether it is, and how far it is.
    ///
    /// # Errors
    /// The job's own.
    pub fn wait(&self, patience: Duration) -> Result<(bool, AdoptAnswer)> {
        *lock(&self.asked) = Instant::now();
        let outcome = lock(&self.outcome);
        let (outcome, _) = self
            .ended
            .wait_timeout_while(outcome, patience, |outcome| outcome.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let counters = self.progress.counters();
        let answer = AdoptAnswer { files: counters.files_done.get(), bytes: counters.done_bytes.get() };
        match &*outcome {
            None => Ok((false, answer)),
            Some(Ok(_)) => Ok((true, answer)),
            Some(Err((kind, message))) => Err(Error::new(*kind, message.clone())),
        }
    }

    fn runs(&self) -> bool {
        lock(&self.outcome).is_none()
    }

    fn has_failed(&self) -> bool {
        matches!(&*lock(&self.outcome), Some(Err(_)))
    }

    /// The index of what was found, if there is anything.
    pub(super) fn index(&self) -> Option<PathBuf> {
        let outcome = lock(&self.outcome);
        let found = outcome.as_ref().and_then(|outcome| outcome.as_ref().ok()).filter(|found| found.any);
        found.map(|found| found.folder.path().join(INDEX))
    }
}

impl Receiver {
    /// Starts to find out what is below the base folder, or joins the same request that runs already, or has ended.
    ///
    /// # Errors
    /// Other archives are received into the folder, whose files would be taken for this one's; another sender's adoption runs
    /// ([`ErrorKind::Busy`]); the request is malformed; or storage failed earlier.
    pub fn adopt(self: &Arc<Self>, tar_id: u64, request: AdoptRequest) -> Result<Arc<AdoptJob>> {
        self.committer.check()?;
        let archives = self.archives.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = archives.keys().find(|&&other| other != tar_id) {
            let what =
                format!("archive {other} is received into this folder, too: what is there may be its own");
            return Err(Error::new(ErrorKind::WrongIndex, what).hint(
                "a copy can be adopted only where its folder is for one archive; use the same --tar-id",
            ));
        }
        drop(archives);
        let what = What::of(&request)?;
        let mut jobs = lock(&self.adopting);
        if let Some(job) = jobs.get(&tar_id) {
            // What has failed may go well now.
            if job.request == request && !job.has_failed() {
                return Ok(job.clone());
            }
            if job.runs() && lock(&job.asked).elapsed() < ABANDONED {
                let what = format!("another sender adopts what is here for archive {tar_id}");
                return Err(Error::new(ErrorKind::Busy, what).hint("let it end, or stop it"));
            }
            job.progress.cancelled.store(true, Ordering::Relaxed);
        }
        let job = Arc::new(AdoptJob {
            request,
            asked: Mutex::new(Instant::now()),
            outcome: Mutex::new(None),
            ended: Condvar::new(),
            progress: Progress::default(),
        });
        jobs.insert(tar_id, job.clone());
        drop(jobs);
        let (receiver, theirs) = (self.clone(), job.clone());
        let spawned = std::thread::Builder::new().name("adopt".into()).spawn(move || {
            let work = || {
                let folder = tempfile::tempdir_in(receiver.incoming_path())
                    .map_err(|e| Error::io("cannot make a temporary folder", e))?;
                let (base, monitor) = (receiver.sink.base_path(), &theirs.progress);
                let any = find(&base, what, &folder.path().join(INDEX), monitor)?;
                Ok(Found { folder, any })
            };
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Internal, "the adoption crashed; this is a bug of tar-like"))
            });
            *lock(&theirs.outcome) = Some(outcome.map_err(|e| (e.kind(), publish::reason(&e))));
            theirs.ended.notify_all();
        });
        spawned.map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(job)
    }

    /// The result of the adoption `name`.
    pub(super) fn adopted(&self, tar_id: u64, name: u64) -> Result<Arc<AdoptJob>> {
        let job = lock(&self.adopting).get(&tar_id).filter(|job| job.request.name == name).cloned();
        let job = job.filter(|job| lock(&job.outcome).as_ref().is_some_and(std::result::Result::is_ok));
        job.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("nothing was adopted for archive {tar_id} by this name"))
                .hint("the receiver was started anew, or another sender has adopted meanwhile; run the same command again")
        })
    }

    /// How much of the uploaded index is there, by the result of the adoption `name`. Changes nothing.
    ///
    /// # Errors
    /// The index is refused, there is no such adoption ([`ErrorKind::NotFound`]), or our disk fails.
    pub fn compare(
        &self,
        tar_id: u64,
        uploaded: &Path,
        expected: &IndexDigest,
        name: u64,
    ) -> Result<Similarity> {
        let found = self.adopted(tar_id, name)?;
        let folder = tempfile::tempdir_in(self.incoming_path())
            .map_err(|e| Error::io("cannot make a temporary folder", e))?;
        let imported = folder.path().join("index.sqlite");
        let written = import(uploaded, &imported, "the uploaded index", 1, now_s())?;
        if written.digest != *expected {
            let what =
                format!("the uploaded index has digest {}, the sender says {expected}", written.digest);
            return Err(Error::new(ErrorKind::BadIndex, what));
        }
        let sketches = open_uploaded(uploaded, "the uploaded index")?;
        similarity(found.index().as_deref(), &sketches, &imported)
    }

    /// Finds out what is there of the index at `path`, which came as `uploaded`: by the index at `found` of what is below the base folder.
    /// Copies into `staging` what files have in common with it that are not there as they should be.
    pub(super) fn carry_found(
        &self,
        found: Option<&Path>,
        uploaded: &Path,
        path: &Path,
        staging: &Staging,
    ) -> Result<Carried> {
        let Some(found) = found else { return carry::nothing(path) };
        let index = IndexReader::open_growing(path)?;
        let mut cache = FolderCache::default();
        let stands = |old: &FileEntry| self.may_stand(old, &mut cache);
        let mut carried = carry::same_by_path(found, &index, |_| true, stands)?;
        let sketches = open_uploaded(uploaded, "the uploaded index")?;
        let likes = Likes { found: IndexReader::open(found)?, sketches: &sketches };
        let mut lacking = RangeSet::default();
        carry::unpublished(&index, &carried.published, |file| {
            let have = self.copy_like(&likes.of(&file)?, &file, staging)?;
            index.pieces_of(&file, |piece| {
                let end = piece.file_offset + (piece.range.end - piece.range.start);
                for gap in have.missing(piece.file_offset..end) {
                    let in_archive = |at| piece.range.start + (at - piece.file_offset);
                    lacking.insert(in_archive(gap.start)..in_archive(gap.end));
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        carried.done = carry::complement(&lacking, index.archive_bytes()?);
        carried.hold_back_touched();
        Ok(carried)
    }

    /// Gives the parts of `file` that were copied.
    fn copy_like(&self, like: &Like, file: &FileEntry, staging: &Staging) -> Result<RangeSet> {
        let mut have = RangeSet::default();
        let Some(source) = &like.source else { return Ok(have) };
        let Some(content) = self.open_published(source) else { return Ok(have) };
        let mut at = 0;
        for run in &like.runs {
            match *run {
                Run::New { length } => at += length,
                Run::Same { old_offset, length } => {
                    match staging.copy_from(file.id, &content, old_offset, length, at) {
                        Ok(()) => have.insert(at..at + length),
                        // It can still come from the sender.
                        Err(e) if e.kind() == ErrorKind::Source => tracing::warn!("{e}"),
                        Err(e) => return Err(e),
                    }
                    at += length;
                }
            }
        }
        Ok(have)
    }
}

/// A name without folders.
fn top_name(name: &str) -> Result<EntryPath> {
    EntryPath::new(name.as_bytes().to_vec())
        .ok()
        .filter(|path| path.split().0.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Malformed, "what is to be adopted is no name of a file"))
}

/// What is to be found.
struct What {
    only: Option<EntryPath>,
    exclude: Vec<Regex>,
}

impl What {
    fn of(request: &AdoptRequest) -> Result<Self> {
        let regex = |pattern: &String| {
            Regex::new(pattern).map_err(|e| {
                let what = format!("{pattern:?} is no regular expression");
                Error::new(ErrorKind::Malformed, what).because(e)
            })
        };
        let exclude = request.exclude.iter().map(regex).collect::<Result<Vec<_>>>()?;
        Ok(Self { only: request.only.as_deref().map(top_name).transpose()?, exclude })
    }
}

/// Makes the index of what is in the folder `base` at `target`; false if the only file that is wanted is not there.
fn find(base: &Path, what: What, target: &Path, monitor: &dyn Monitor) -> Result<bool> {
    let base = match what.only {
        None => base.to_path_buf(),
        Some(name) => {
            let path = base.join(name.as_path());
            // A link may lead anywhere.
            if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                return Ok(false);
            }
            path
        }
    };
    let options = IndexOptions {
        base,
        bucket: None,
        read_contents: true,
        database: target.to_path_buf(),
        exclude: what.exclude,
        own_files: Vec::new(),
        reuse: false,
        checksum: false,
        append: Append::Full,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    index(&options, monitor).map(|_| true)
}

/// What a file can be made of.
#[derive(Default)]
struct Like {
    source: Option<FileEntry>,
    /// They make up the file.
    runs: Vec<Run>,
}

/// Finds for each file of an index what is there of its content.
struct Likes<'a> {
    found: IndexReader,
    /// The index with its sketches.
    sketches: &'a IndexReader,
}

impl Likes<'_> {
    fn of(&self, file: &FileEntry) -> Result<Like> {
        if file.size > 0
            && let Some(source) = self.found.find_content_of(file)?
        {
            return Ok(Like {
                source: Some(source),
                runs: vec![Run::Same { old_offset: 0, length: file.size }],
            });
        }
        if file.size < SKETCHED_BYTES {
            return Ok(Like::default());
        }
        let Some(source) = self.found.file_at(&file.path)? else { return Ok(Like::default()) };
        let decode = |sketch: Option<Vec<u8>>| sketch.and_then(|bytes| Sketch::decode(&bytes).ok());
        let theirs = decode(self.found.sketch(source.id)?).filter(|sketch| sketch.size() == source.size);
        // What is wrong with one that somebody sent costs him the saving.
        let ours = decode(self.sketches.sketch(file.id).unwrap_or(None)).filter(|s| s.size() == file.size);
        let (Some(theirs), Some(ours)) = (theirs, ours) else { return Ok(Like::default()) };
        let runs = diff(&theirs, &ours);
        let any = runs.iter().any(|run| matches!(run, Run::Same { .. }));
        Ok(if any { Like { source: Some(source), runs } } else { Like::default() })
    }
}

/// How much of the index at `index` there is in what the one at `found` says; `sketches` is it as it was made.
fn similarity(found: Option<&Path>, sketches: &IndexReader, index: &Path) -> Result<Similarity> {
    let index = IndexReader::open_growing(index)?;
    let mut similarity = Similarity::default();
    let carried = found.map(|found| carry::same_by_path(found, &index, |_| true, |_| true)).transpose()?;
    let carried = carried.unwrap_or_default();
    (similarity.same_files, similarity.same_bytes) = (carried.published.covered(), carried.same_bytes);
    let found = found.map(IndexReader::open).transpose()?;
    let likes = found.map(|found| Likes { found, sketches });
    index.files(|file| {
        similarity.files += 1;
        similarity.total_bytes += file.size;
        if let Some(likes) = likes.as_ref().filter(|_| !carried.published.contains(file.id..file.id + 1)) {
            let like = likes.of(&file)?;
            let bytes = like.runs.iter().map(|run| match run {
                Run::Same { length, .. } => *length,
                Run::New { .. } => 0,
            });
            let bytes: u64 = bytes.sum();
            similarity.same_bytes += bytes;
            similarity.known_files += u64::from(bytes == file.size && file.size > 0);
            similarity.similar_files += u64::from(bytes > 0 && bytes < file.size);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(similarity)
}

/// How much of the index at `index` there is of what `request` wants in the folder `base`, where nothing was ever received. The folder
/// `scratch` is for what is temporary.
///
/// # Errors
/// Something cannot be read, or the temporary folder cannot be written to.
pub fn compare_folder(
    base: &Path,
    request: &AdoptRequest,
    index: &Path,
    scratch: &Path,
    monitor: &dyn Monitor,
) -> Result<Similarity> {
    let target = scratch.join(INDEX);
    let any = base.is_dir() && find(base, What::of(request)?, &target, monitor)?;
    similarity(any.then_some(&*target), &IndexReader::open(index)?, index)
}
