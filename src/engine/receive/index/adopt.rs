//! Adopting a copy that another program made: the receiver finds out what is below its base folder,
//! at the same time as the sender goes through its own one. What it finds counts as the previous
//! state when the index comes: files that are as they should be keep their place, and what others
//! have in common with what is there is copied from it.

use super::super::context::Context;
use super::super::files::published::may_be_unmodified;
use super::super::job::Job;
use super::super::reuse::Reusable;
use super::super::reuse::in_place::same_by_path;
use super::super::reuse::similar::{ContentMatches, SimilarFiles, similarity};
use crate::archive::digest::IndexDigest;
use crate::archive::entry::{FileEntry, NodeKind};
use crate::archive::path::EntryPath;
use crate::archive::path_rules::{PathRule, PathRules, RuleAction, RuleSyntax};
use crate::archive::protocol::{AdoptAnswer, AdoptRequest, Similarity};
use crate::db::import::{import, open_uploaded};
use crate::db::index_read::IndexReader;
use crate::engine::index::{Append, IndexOptions, index};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::{FolderCache, Staging};
use crate::source::filter::{Filter, FilterOptions, FilterRule};
use crate::telemetry::{Counters, Monitor, Notice};
use crate::unix_time::now_s;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The index of what was found, in a folder of its own.
const INDEX: &str = "found.sqlite";

/// A sender asks more often than this; the job of a sender that does not can be replaced.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(30);
/// A result that no sender asked for in so long is dropped.
const FORGOTTEN_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// An adoption that runs, or whose result waits for an index.
pub struct AdoptJob {
    request: AdoptRequest,
    /// When a sender last asked for it.
    asked: Mutex<Instant>,
    job: Job<Found>,
    monitor: AdoptMonitor,
}

/// What was found.
struct Found {
    /// Removed when no sender needs it any more.
    folder: tempfile::TempDir,
    /// The folder has anything at all.
    has_any: bool,
}

#[derive(Default)]
struct AdoptMonitor {
    counters: Counters,
    cancelled: AtomicBool,
}

impl Monitor for AdoptMonitor {
    fn notice(&self, notice: Notice) {
        if let Notice::Failed { path, reason } | Notice::Skipped { path, reason } = notice {
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

impl AdoptJob {
    fn new(request: AdoptRequest) -> Self {
        let (job, monitor) = Default::default();
        Self { request, asked: Mutex::new(Instant::now()), job, monitor }
    }

    /// Waits until all is found, at most for `timeout`; gives whether it is, and how far the job
    /// is.
    ///
    /// # Errors
    /// The job's own.
    pub async fn wait(&self, timeout: Duration) -> Result<(bool, AdoptAnswer)> {
        *self.asked.lock() = Instant::now();
        self.job.wait(timeout).await;
        let counters = self.monitor.counters();
        let answer = AdoptAnswer { files: counters.files_done.get(), bytes: counters.done_bytes.get() };
        Ok((self.job.result(|_| ())?.is_some(), answer))
    }

    fn run(&self, context: &Context, wanted: AdoptFilter) {
        self.job.run("the adoption", || {
            let folder = context.temporary_folder()?;
            let target = folder.path().join(INDEX);
            let has_any = find(&context.sink.base_path(), wanted, &target, &self.monitor)?;
            Ok(Found { folder, has_any })
        });
    }

    fn is_abandoned(&self) -> bool {
        self.asked.lock().elapsed() >= ABANDONED_TIMEOUT
    }

    fn is_forgotten(&self) -> bool {
        self.job.has_ended() && self.asked.lock().elapsed() > FORGOTTEN_TIMEOUT
    }

    /// The index of what was found, if there is anything.
    pub(crate) fn index(&self) -> Option<PathBuf> {
        let path = |found: &Found| found.has_any.then(|| found.folder.path().join(INDEX));
        self.job.result(path).ok().flatten().flatten()
    }
}

/// The adoptions by their archives.
#[derive(Default)]
pub(crate) struct Adoptions {
    jobs: Mutex<HashMap<u64, Arc<AdoptJob>>>,
}

impl Adoptions {
    /// Starts to find out what is below the base folder, or joins the same request that runs
    /// already, or has ended.
    ///
    /// # Errors
    /// Other archives are received into the folder, whose files would be taken for this one's;
    /// another sender's adoption runs ([`ErrorKind::Busy`]); the request is malformed; or storage
    /// failed earlier.
    pub(crate) fn start(
        &self,
        context: &Arc<Context>,
        tar_id: u64,
        request: AdoptRequest,
    ) -> Result<Arc<AdoptJob>> {
        context.committer.check()?;
        context.archives.check_alone(tar_id)?;
        let wanted = AdoptFilter::of(&request)?;
        let mut jobs = self.jobs.lock();
        if let Some(job) = jobs.get(&tar_id) {
            // What has failed may go well now.
            if job.request == request && !job.job.has_failed() {
                return Ok(job.clone());
            }
            if !job.job.has_ended() && !job.is_abandoned() {
                let what = format!("another sender adopts what is here for archive {tar_id}");
                return Err(Error::new(ErrorKind::Busy, what).with_hint("let it end, or stop it"));
            }
            job.monitor.cancelled.store(true, Ordering::Relaxed);
        }
        let job = Arc::new(AdoptJob::new(request));
        let (context, theirs) = (context.clone(), job.clone());
        let work = move || theirs.run(&context, wanted);
        std::thread::Builder::new().name("adopt".into()).spawn(work).map_err(Error::thread)?;
        jobs.insert(tar_id, job.clone());
        Ok(job)
    }

    /// The result of the adoption `name`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: there is none.
    pub(crate) fn get(&self, tar_id: u64, name: u64) -> Result<Arc<AdoptJob>> {
        let job = self.jobs.lock().get(&tar_id).filter(|job| job.request.name == name).cloned();
        job.iter().for_each(|job| *job.asked.lock() = Instant::now());
        job.filter(|job| job.job.has_ended() && !job.job.has_failed()).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("nothing was adopted for archive {tar_id} by this name"))
                .with_hint("the receiver was restarted, or another sender has adopted meanwhile; run the same command again")
        })
    }

    /// The index has come.
    pub(super) fn remove(&self, tar_id: u64) {
        self.jobs.lock().remove(&tar_id);
    }

    /// Drops results that no sender asks for any more.
    pub(crate) fn drop_forgotten(&self) {
        self.jobs.lock().retain(|_, job| !job.is_forgotten());
    }

    /// How much of the uploaded index is there, by the result of the adoption `name`. Changes
    /// nothing.
    ///
    /// # Errors
    /// The index is refused, there is no such adoption ([`ErrorKind::NotFound`]), or storage fails.
    pub(crate) fn compare(
        &self,
        context: &Context,
        tar_id: u64,
        uploaded: &Path,
        expected: &IndexDigest,
        name: u64,
    ) -> Result<Similarity> {
        let adopted = self.get(tar_id, name)?;
        let folder = context.temporary_folder()?;
        let imported = folder.path().join("index.sqlite");
        let written = import(uploaded, &imported, "the uploaded index", 1, now_s())?;
        if written.digest != *expected {
            return Err(other_digest(&written.digest, expected));
        }
        let chunk_maps = open_uploaded(uploaded, "the uploaded index")?;
        similarity(folder.path(), adopted.index().as_deref(), &chunk_maps, &imported)
    }
}

/// Finds out what is here of `index`, which came as `uploaded`, by the index at `found` of what is
/// below the base folder. Copies into `staging` what files have in common with it that are not
/// there as they should be.
///
/// # Errors
/// An index cannot be read, or there is no space.
pub(super) fn reusable_of_found(
    context: &Context,
    found: Option<&Path>,
    uploaded: &Path,
    index: &IndexReader,
    staging: &Staging,
) -> Result<Reusable> {
    let Some(found) = found else { return Reusable::nothing(&context.incoming_path(), index) };
    let mut cache = FolderCache::default();
    let is_unmodified = |old: &FileEntry| may_be_unmodified(&context.sink, old, &mut cache);
    let mut reusable = same_by_path(&context.incoming_path(), found, index, |_| true, is_unmodified)?;
    let chunk_maps = open_uploaded(uploaded, "the uploaded index")?;
    let mut similar = SimilarFiles { context, matches: ContentMatches::open(found, &chunk_maps)? };
    reusable.stage(context, index, staging, &mut [&mut similar])?;
    reusable.hold_back_updates()?;
    Ok(reusable)
}

/// The uploaded index is another one than its sender says.
pub(super) fn other_digest(found: &IndexDigest, expected: &IndexDigest) -> Error {
    let what = format!("the uploaded index has digest {found}, the sender says {expected}");
    Error::new(ErrorKind::BadIndex, what)
}

/// A name without folders.
fn top_name(name: &str) -> Result<EntryPath> {
    EntryPath::new(name.as_bytes().to_vec())
        .ok()
        .filter(|path| path.split().0.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Malformed, "what is to be adopted is no name of a file"))
}

/// What is to be adopted, and how it is read.
struct AdoptFilter {
    only: Option<EntryPath>,
    filter: Filter,
    /// Files are looked for by their md5, too.
    md5: bool,
}

impl AdoptFilter {
    fn of(request: &AdoptRequest) -> Result<Self> {
        // A sender of an earlier version has regular expressions only.
        let excluded = request.exclude.iter().map(|pattern| PathRule {
            action: RuleAction::Exclude,
            syntax: RuleSyntax::Regex,
            pattern: pattern.as_bytes().into(),
        });
        let sent = PathRules::parse(&request.rules)?;
        let rules = excluded.chain(sent.rules().iter().cloned());
        let rules = rules.map(|rule| FilterRule { rule, name: String::new(), file: None }).collect();
        let filter = Filter::new(FilterOptions { rules, ..FilterOptions::default() })
            .map_err(|e| Error::new(ErrorKind::Malformed, e.to_string()))?;
        Ok(Self { only: request.only.as_deref().map(top_name).transpose()?, filter, md5: !request.blake3 })
    }
}

/// Makes the index of what is in the folder `base` at `target`; false if the only file that is
/// wanted is not there.
fn find(base: &Path, wanted: AdoptFilter, target: &Path, monitor: &dyn Monitor) -> Result<bool> {
    let base = match wanted.only {
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
        filter: wanted.filter,
        own_files: Vec::new(),
        reuse: false,
        checksum: false,
        append: Append::Full,
        md5: wanted.md5,
        threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    index(&options, monitor).map(|_| true)
}

/// How much of the index at `index` there is of what `request` wants in the folder `base`, where
/// nothing was ever received. The folder `scratch` is for what is temporary. Gives `each` entry that
/// is there.
///
/// # Errors
/// Something cannot be read, or the temporary folder cannot be written to; or an error of `each`.
pub fn compare_folder(
    base: &Path,
    request: &AdoptRequest,
    index: &Path,
    scratch: &Path,
    monitor: &dyn Monitor,
    each: impl FnMut(Option<NodeKind>, u64, &EntryPath) -> Result<()>,
) -> Result<Similarity> {
    let target = scratch.join(INDEX);
    let has_any = base.is_dir() && find(base, AdoptFilter::of(request)?, &target, monitor)?;
    if has_any {
        each_found(&target, each)?;
    }
    similarity(scratch, has_any.then_some(&*target), &IndexReader::open(index)?, index)
}

/// Gives each entry of the index at `found` of what is below a base folder: the kind of a directory
/// or link, the size of a file, and the path. What is in a directory comes before it.
///
/// # Errors
/// The index cannot be read, or an error of `each`.
pub(crate) fn each_found(
    found: &Path,
    mut each: impl FnMut(Option<NodeKind>, u64, &EntryPath) -> Result<()>,
) -> Result<()> {
    let index = IndexReader::open(found)?;
    index.files(|file| each(None, file.size, &file.path).map(ControlFlow::Continue))?;
    index.nodes(|node| match node.kind {
        NodeKind::Dir => Ok(ControlFlow::Continue(())),
        _ => each(Some(node.kind), 0, &node.path).map(ControlFlow::Continue),
    })?;
    index.directories_deepest_first(|node| each(Some(node.kind), 0, &node.path).map(ControlFlow::Continue))
}
