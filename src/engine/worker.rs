//! A further host for uploads that share a queue: it finds the jobs of a receiver in the queue's
//! engine, gets the index from the receiver, and sends its part of the blocks, job after job.
//!
//! ```text
//! engine: which jobs? ─▶ receiver: is it its job? ─▶ receiver: index, kept by its digest ─▶ upload
//!          ▲                                                                                  │
//!          └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A worker never brings a receiver an index: what the receiver has says what is sent. Of several
//! receivers on one folder, this is the first; the others get its index. Each has a job of its own,
//! and a worker that finds one of them takes part in all.

use super::index_body::{Kind, unpack};
use super::index_source::refuse_other_base;
use super::indexes::make_folder;
use super::tasks::{blocking, interrupted, until_cancelled};
use super::upload::{QueueOptions, TotalLimit, UploadOptions, UploadReport, upload};
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::Status;
use crate::archive::slice::Slice;
use crate::archive::source::{SourceClaim, SourceIdentity};
use crate::db::import::import;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::lease::{Engine, JobParameters, Jobs};
use crate::remote::{Bandwidth, ReceiverClient};
use crate::source::Source;
use crate::source::disk::DiskSource;
use crate::source::s3::Bucket;
use crate::telemetry::{Monitor, Notice};
use crate::unix_time::now_s;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How often a worker that has nothing to do looks for a job, and one that has asks whether it is
/// to leave.
const INTERVAL: Duration = Duration::from_secs(2);
/// So long a job is left alone that this host can do nothing for.
const PASS_INTERVAL: Duration = Duration::from_secs(60);
/// So long a worker waits for what a slice says of itself.
const SLICE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest index that is taken, in bytes: the default of a receiver.
const MAX_INDEX_BYTES: u64 = 16 << 30;
/// An index that was not used for so long is removed from the cache.
const CACHE_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a worker has, and which jobs it serves.
pub struct WorkerOptions {
    /// The engine, and the name of this process. The job says the rest.
    pub queue: QueueOptions,
    /// Serve this archive alone.
    pub tar_id: Option<u64>,
    /// How blocks are sent. The job says which ones.
    pub upload: UploadOptions,
    /// The folder, file or device that was indexed …
    pub base: PathBuf,
    /// … or the bucket.
    pub bucket: Option<Arc<Bucket>>,
    /// The folder in which indexes are kept.
    pub cache: PathBuf,
    /// Wait for further jobs.
    pub follow: bool,
    /// What this host sends at most, in bytes a second.
    pub limit: Option<u64>,
}

/// Makes a client for the receiver, with a limit on what is sent.
pub type Connect = Box<dyn Fn(Option<Arc<Bandwidth>>) -> Result<Arc<dyn ReceiverClient>> + Send + Sync>;

/// What a worker did for a job.
pub struct ServedJob {
    /// The job's name in the queue.
    pub name: String,
    /// The number of the archive.
    pub tar_id: u64,
    /// What was sent, and whether the receiver has everything; or why this host can do nothing for
    /// the job.
    pub outcome: Result<UploadReport>,
}

/// What a worker that has ended did.
#[derive(Debug, Default)]
pub struct WorkerReport {
    /// Jobs that it took part in.
    pub jobs: u64,
    /// Jobs in the queue that are those of other receivers, or of other archives.
    pub others: u64,
    /// It was asked to leave.
    pub left: bool,
}

/// Serves jobs until there are none, or with [`WorkerOptions::follow`] until the run is cancelled
/// or the worker is asked to leave. `ended` is called for each job.
///
/// # Errors
/// The engine or the receiver cannot be reached, and the worker does not follow; or the run is
/// cancelled.
pub async fn work(
    options: WorkerOptions,
    connect: Connect,
    monitor: Arc<dyn Monitor>,
    ended: impl Fn(ServedJob),
) -> Result<WorkerReport> {
    make_folder(&options.cache)?;
    let jobs = Jobs::new(Engine::new(&options.queue.address)?);
    let mut worker = Worker {
        client: connect(None)?,
        options,
        connect,
        monitor,
        jobs,
        started_ms: None,
        passed: HashMap::new(),
        report: WorkerReport::default(),
    };
    worker.run(ended).await?;
    Ok(worker.report)
}

struct Worker {
    options: WorkerOptions,
    connect: Connect,
    monitor: Arc<dyn Monitor>,
    jobs: Jobs,
    /// For questions.
    client: Arc<dyn ReceiverClient>,
    /// When this worker began, by the engine's clock.
    started_ms: Option<u64>,
    /// Jobs that are left alone: the round that they were in, and since when.
    passed: HashMap<String, (u64, Instant)>,
    report: WorkerReport,
}

/// A job that this worker can serve.
struct Found {
    name: String,
    parameters: JobParameters,
    index: IndexDigest,
    status: Status,
}

impl Worker {
    async fn run(&mut self, ended: impl Fn(ServedJob)) -> Result<()> {
        let (mut is_lost, mut waits) = (false, false);
        loop {
            if self.monitor.is_cancelled() {
                return Err(interrupted());
            }
            // Once: it may wait for days.
            if !std::mem::replace(&mut waits, true) {
                self.monitor.notice(Notice::Phase("waiting for a job"));
            }
            let monitor = self.monitor.clone();
            match until_cancelled(&*monitor, self.find()).await {
                Ok(Some(found)) => {
                    let outcome = self.serve(&found).await;
                    if let Err(e) = &outcome
                        && e.kind() == ErrorKind::Interrupted
                    {
                        return Err(interrupted());
                    }
                    self.report.jobs += 1;
                    ended(ServedJob { name: found.name, tar_id: found.parameters.tar_id, outcome });
                    (is_lost, waits) = (false, false);
                    continue;
                }
                Ok(None) if self.report.left || !self.options.follow => return Ok(()),
                Ok(None) => is_lost = false,
                Err(e) if !self.options.follow || !e.kind().is_transient() => return Err(e),
                Err(e) => {
                    if !std::mem::replace(&mut is_lost, true) {
                        self.monitor.notice(Notice::Warning(format!("{e}; waiting until that is over")));
                    }
                }
            }
            let pause = async {
                tokio::time::sleep(INTERVAL).await;
                Ok(())
            };
            until_cancelled(&*self.monitor, pause).await?;
        }
    }

    /// The next job that this worker can do something for.
    async fn find(&mut self) -> Result<Option<Found>> {
        let started_ms = match self.started_ms {
            Some(started_ms) => started_ms,
            None => *self.started_ms.insert(self.jobs.now_ms().await?),
        };
        if self.jobs.is_asked_to_leave(&self.options.queue.host, started_ms).await? {
            self.report.left = true;
            return Ok(None);
        }
        self.passed.retain(|_, (_, since)| since.elapsed() < PASS_INTERVAL);
        self.report.others = 0;
        for (name, parameters) in self.jobs.list().await? {
            if self.options.tar_id.is_some_and(|tar_id| tar_id != parameters.tar_id) {
                self.report.others += 1;
                continue;
            }
            // What the engine has forgotten is begun again by the host that began it.
            let Some(details) = self.jobs.details(&name).await? else { continue };
            let round = details.state.round;
            if self.passed.get(&name).is_some_and(|(passed, _)| *passed == round) {
                continue;
            }
            self.passed.insert(name.clone(), (round, Instant::now()));
            let client = self.client.for_archive(parameters.tar_id, SourceClaim::default());
            client.budget().restart();
            let status = match client.status(parameters.block_size, 0).await {
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                // Other jobs may be for this token.
                Err(e) if e.kind() == ErrorKind::Forbidden => {
                    let what = format!("job {name} of archive {} is passed over: {e}", parameters.tar_id);
                    self.monitor.notice(Notice::Warning(what));
                    None
                }
                other => other?,
            };
            let Ok(index) = parameters.index.parse::<IndexDigest>() else { continue };
            let found = match status.filter(|status| status.digest == parameters.index) {
                Some(status) if is_job_of(&*client, &status, &parameters).await => Some(status),
                _ => None,
            };
            match found {
                Some(status) => return Ok(Some(Found { name, parameters, index, status })),
                None => self.report.others += 1,
            }
        }
        Ok(None)
    }

    async fn serve(&mut self, found: &Found) -> Result<UploadReport> {
        let Found { name, parameters, .. } = found;
        let limit = parameters.limit.map(|total| TotalLimit {
            bytes_per_second: total,
            own: Arc::new(Bandwidth::new(self.options.limit.map_or(total, |own| own.min(total)))),
        });
        let own = || self.options.limit.map(|rate| Arc::new(Bandwidth::new(rate)));
        let client = (self.connect)(limit.as_ref().map(|limit| limit.own.clone()).or_else(own))?;
        // One of several receivers may have to get the index of the first one from here.
        let client = client.for_archive(parameters.tar_id, claim_of(&found.status));
        let database = until_cancelled(&*self.monitor, self.index(found, &*client)).await?;
        let source = self.source(&database).await?;
        let leaves = Arc::new(AtomicBool::new(false));
        let queue = QueueOptions {
            lease: parameters.lease(),
            limit,
            leaves: leaves.clone(),
            ..self.options.queue.clone()
        };
        let options = UploadOptions {
            database,
            tar_id: parameters.tar_id,
            block_size: parameters.block_size,
            queue: Some(queue),
            puts_index: false,
            ..self.options.upload.clone()
        };
        let sending = upload(source, client, &options, self.monitor.clone());
        let report = tokio::select! {
            report = sending => report?,
            never = self.watch(&leaves) => match never {},
        };
        self.report.left |= leaves.load(Ordering::Relaxed);
        // Not again before another round: this host has sent what it can, also to other slices.
        let of_same = |(_, job): &(String, JobParameters)| {
            (job.tar_id, &job.index, job.block_size)
                == (parameters.tar_id, &parameters.index, parameters.block_size)
        };
        let slices = self.jobs.list().await.unwrap_or_default().into_iter().filter(of_same);
        for name in slices.map(|(name, _)| name).chain([name.clone()]) {
            if let Ok(Some(details)) = self.jobs.details(&name).await {
                self.passed.insert(name, (details.state.round, Instant::now()));
            }
        }
        Ok(report)
    }

    /// Sets `leaves` when this worker is asked to leave.
    async fn watch(&self, leaves: &AtomicBool) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let asked = self.jobs.is_asked_to_leave(&self.options.queue.host, self.started_ms.unwrap_or(0));
            if asked.await.unwrap_or(false) && !leaves.swap(true, Ordering::Relaxed) {
                let what = "asked to leave: ending with what is on its way".to_string();
                self.monitor.notice(Notice::Warning(what));
            }
        }
    }

    /// The source, if it has the files of the index at `database`.
    async fn source(&self, database: &Path) -> Result<Arc<dyn Source>> {
        let (database, base, bucket) =
            (database.to_path_buf(), self.options.base.clone(), self.options.bucket.clone());
        blocking(move || {
            refuse_other_base(&database, &base, bucket.as_deref())?;
            let Some(bucket) = bucket else { return Ok(Arc::new(DiskSource::open(&base)?) as Arc<dyn Source>) };
            // Which state of an object was indexed, no receiver knows; a digest tells as well.
            if IndexReader::open(&database)?.unprovable()? > 0 {
                let what = "the index has objects without md5, of which a worker cannot know whether they are still the same";
                return Err(Error::new(ErrorKind::Source, what)
                    .with_hint("copy the index to this host and use upload --queue, or index without --s3-no-md5"));
            }
            Ok(bucket as Arc<dyn Source>)
        })
        .await
    }

    /// The index of the job, from the cache or the receiver.
    async fn index(&self, found: &Found, client: &dyn ReceiverClient) -> Result<PathBuf> {
        let (cache, index) = (self.options.cache.clone(), found.index);
        let kept = cache.join(format!("{index}.sqlite"));
        let (path, folder) = (kept.clone(), cache.clone());
        if blocking(move || Ok(take_kept(&folder, &path, &index))).await? {
            return Ok(kept);
        }
        self.monitor.notice(Notice::Phase("getting the index"));
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&cache);
        let folder = folder.map_err(|e| in_cache(&cache, e))?;
        let body = std::fs::File::create_new(folder.path().join("body")).map_err(|e| in_cache(&cache, e))?;
        client.budget().restart();
        client.get_index(&index, found.status.files_total, MAX_INDEX_BYTES, &body).await?;
        let target = kept.clone();
        blocking(move || {
            let (unpacked, imported) = (folder.path().join("unpacked"), folder.path().join("index.sqlite"));
            let body = folder.path().join("body");
            let written = unpack(&body, &unpacked, Kind::Index, MAX_INDEX_BYTES, u64::MAX)
                .and_then(|()| import(&unpacked, &imported, "the receiver's index", 1, now_s()))
                .map_err(|e| not_taken(&cache, e))?;
            if written.digest != index {
                let what = format!("the receiver sent index {} in place of {index}", written.digest);
                return Err(Error::new(ErrorKind::BadIndex, what));
            }
            std::fs::rename(&imported, &target).map_err(|e| in_cache(&cache, e))
        })
        .await?;
        Ok(kept)
    }
}

/// Whose archive it is, as its receiver says.
fn claim_of(status: &Status) -> SourceClaim {
    let id = status.source_id.as_deref().and_then(|id| id.parse().ok());
    let name = status.source.clone().unwrap_or_default();
    SourceClaim { source: id.map(|id| SourceIdentity { id, name }), replaces: false }
}

/// Whether `job` is one of the receiver whose `status` this is, or of another slice of it. The upload
/// of any of them is that of all.
async fn is_job_of(client: &dyn ReceiverClient, status: &Status, job: &JobParameters) -> bool {
    let is_of = |status: &Status| status.receiver_id.as_deref() == Some(&*job.receiver);
    if is_of(status) {
        return true;
    }
    let Some(slices) = &status.slice else { return false };
    let Some(first) = Slice::new(slices.number, slices.count) else { return false };
    for slice in first.all().filter(|slice| !slice.is_first()) {
        let address = slices.peers.get(slice.number() as usize - 1).map(String::as_str);
        let Ok(client) = client.for_slice(slice, address) else { continue };
        // One that does not answer now is asked when the next worker looks.
        let asked = tokio::time::timeout(SLICE_TIMEOUT, client.status(job.block_size, 0)).await;
        if let Ok(Ok(Some(status))) = asked
            && is_of(&status)
        {
            return true;
        }
    }
    false
}

fn in_cache(cache: &Path, e: std::io::Error) -> Error {
    Error::io(format!("cannot keep an index in {}", cache.display()), e).of_this_host()
}

/// Why the index that a receiver gave is not in the cache.
fn not_taken(cache: &Path, e: Error) -> Error {
    match e.kind() {
        ErrorKind::NoSpace => Error::new(
            ErrorKind::NoSpace,
            format!("no space for the receiver's index in {}", cache.display()),
        )
        .of_this_host()
        .with_hint("free space there, or give another folder with --index-cache"),
        ErrorKind::BadIndex => {
            Error::new(ErrorKind::BadIndex, "what the receiver sent is no index of this program")
                .with_source(e)
        }
        _ => e,
    }
}

/// Folders in which an index is while it comes.
const PREFIX: &str = ".tar-like-index-";

/// Whether an entry of the cache has a name that only a worker gives.
fn is_ours(name: &str) -> bool {
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.starts_with(PREFIX) || name.split_once(".sqlite").is_some_and(|(digest, _)| is_digest(digest))
}

/// Whether the index `digest` is at `path`, in the folder `cache`. Others that were not used for
/// long are removed.
fn take_kept(cache: &Path, path: &Path, digest: &IndexDigest) -> bool {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let age = age.and_then(|time| time.elapsed().ok()).unwrap_or_default();
        let other = entry.path();
        let is_ours = entry.file_name().to_str().is_some_and(is_ours);
        if !is_ours || age < CACHE_TIME || other == path {
            continue;
        }
        // What cannot be removed takes space, and no more.
        let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => std::fs::remove_dir_all(&other),
            false => std::fs::remove_file(&other),
        };
    }
    let has_rows = || Ok::<_, Error>(IndexReader::open(path)?.summary()?.digest == *digest);
    if !path.exists() || !has_rows().unwrap_or(false) {
        return false;
    }
    let now = std::fs::FileTimes::new().set_modified(std::time::SystemTime::now());
    let _ = std::fs::File::options().write(true).open(path).and_then(|file| file.set_times(now));
    true
}
