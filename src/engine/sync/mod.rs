//! The whole job of a run: index a source, send what the receiver misses, and have the receiver
//! verify it.
//!
//! ```text
//! dry run  compare by stat, or index into a temporary copy ─▶ ask the receiver
//! stream   index and send at the same time ─────────────────▶ upload    no index yet, or a fresh one is wanted
//! index    index what changed ∥ the receiver prechecks ─────▶ upload    a later run
//! adopt    index ∥ the receiver reads its copy ─────────────▶ upload    the copy was made by another program
//! ```
//!
//! The upload is the last step of each run. It asks the receiver what it misses, so it also mends
//! what an earlier step left undone.
//!
//! A job holds the lock of its index ([`IndexLock`]) from its first check to its end; a dry run
//! changes nothing and holds none. A crash leaves the previous or the new index, never a part of
//! one, and the same run again goes on from what the receiver has.

mod adopt;
mod checks;
mod conflicts;
mod dry_index;
mod naming;
mod precheck;
mod space;
#[cfg(test)]
mod tests;

use super::archive_number::archive_of;
use super::destination::Destination;
use super::index::{IndexOptions, IndexReport, index};
use super::index_lock::IndexLock;
use super::index_source::refuse_other_source;
use super::indexes::make_folder;
use super::plan::{EntrySink, Plan, PlanOptions};
use super::receive::compare_folder;
use super::spill::{EntryList, PathSpill};
use super::stream::stream;
use super::tasks::{blocking, until_cancelled};
use super::upload::{
    ContentScope, UploadOptions, UploadReport, compare, plan_from_nothing, upload, when_full,
};
use crate::archive::entry::NodeKind;
use crate::archive::log::LogDigest;
use crate::archive::path::EntryPath;
use crate::archive::protocol::{AdoptRequest, Similarity};
use crate::db::index_read::check_replaceable;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::source::Source;
use crate::source::disk::DiskSource;
use crate::telemetry::{Monitor, Notice};
use adopt::Adoption;
pub use checks::check_places;
use conflicts::{ConflictCheck, EntryRows};
use dry_index::DryIndex;
use naming::Names;
use precheck::Precheck;
use rand::RngExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to copy, and how.
#[derive(Debug, Clone)]
pub struct SyncOptions {
    /// The source, and where its index is kept between runs. With `reuse`, that index is gone on
    /// with, and must be one of this source.
    pub index: IndexOptions,
    /// The folder of this program's own in which the index may be; a run that is not refused makes it.
    pub index_folder: Option<PathBuf>,
    /// How the archive is sent. The job itself says which index, the whole archive, and what was
    /// prechecked or adopted.
    pub upload: UploadOptions,
    /// Take what is in the destination for a previous copy, whatever program made it.
    pub adopt: bool,
    /// Where the name of each entry goes that the run brings to the receiver, or would. The first
    /// run names entries when it reads them, others when the receiver has confirmed everything. An
    /// entry that failed is in the report.
    pub entries: Option<EntrySink>,
    /// The number of the archive at the receiver; `None` has it derived from the source.
    pub tar_id: Option<u64>,
    /// Take the number from another source that has it.
    pub replace_source: bool,
}

/// What a run did, or would do.
#[derive(Debug)]
pub enum SyncReport {
    /// A dry run that compared the source with its index and read no content.
    Planned {
        /// What changed in the source.
        plan: Plan,
        /// What the receiver misses of the newest generation of the index.
        upload: UploadReport,
    },
    /// A run, or a dry run that had to read contents.
    Copied {
        /// What was indexed.
        index: IndexReport,
        /// What was sent, or would be.
        upload: UploadReport,
        /// How much of it the receiver had, where a dry run was to adopt.
        similarity: Option<Similarity>,
    },
}

impl SyncReport {
    /// What was sent, or would be.
    #[must_use]
    pub fn upload(&self) -> &UploadReport {
        match self {
            Self::Planned { upload, .. } | Self::Copied { upload, .. } => upload,
        }
    }
}

/// Brings the contents of a source to `destination`. Ends early when the monitor says that the run
/// is cancelled.
///
/// # Errors
/// A source, index or destination that cannot be used, or what stopped the run. Files that failed
/// are in the report.
pub async fn sync(
    options: SyncOptions,
    destination: Destination,
    monitor: Arc<dyn Monitor>,
) -> Result<SyncReport> {
    Job::new(options, destination, monitor)?.run().await
}

struct Job {
    options: SyncOptions,
    destination: Destination,
    monitor: Arc<dyn Monitor>,
    /// There was an index before this run.
    has_previous: bool,
    adopt: Option<AdoptRequest>,
    /// Where a dry run that reads contents makes its index.
    dry_index: Option<DryIndex>,
    _lock: Option<IndexLock>,
}

impl Job {
    /// Checks everything that can be checked before anything is made.
    fn new(options: SyncOptions, destination: Destination, monitor: Arc<dyn Monitor>) -> Result<Self> {
        let kept = &options.index.database;
        let destination = checks::resolve(destination, &options.index)?;
        destination.check_new_folder()?;
        if let Some(folder) = &options.index_folder
            && !options.upload.dry_run
            && kept.starts_with(folder)
        {
            make_folder(folder)?;
        }
        let lock = match options.upload.dry_run {
            true => check_replaceable(kept).map(|()| None)?,
            false => IndexLock::take(kept)?,
        };
        if options.index.reuse {
            refuse_other_source(&options.index)?;
        }
        let adopt = if options.adopt { Some(adopt::request(&options.index)?) } else { None };
        let has_previous = kept.exists();
        let job = Self { has_previous, adopt, dry_index: None, _lock: lock, options, destination, monitor };
        let dry_index = match job.options.upload.dry_run && !job.compares_by_stat() {
            true => Some(DryIndex::new(&job.options.index)?),
            false => None,
        };
        Ok(Self { dry_index, ..job })
    }

    /// Whether sizes and times tell what has changed since the previous index.
    fn compares_by_stat(&self) -> bool {
        let index = &self.options.index;
        self.has_previous && index.reuse && !index.checksum && self.adopt.is_none()
    }

    async fn run(self) -> Result<SyncReport> {
        let dry_run = self.options.upload.dry_run;
        if dry_run && self.compares_by_stat() {
            return self.plan().await;
        }
        if let (true, Some(folder)) = (dry_run, self.destination.unused_folder()) {
            // To ask a receiver would mean to make its folder.
            return self.compare_with_nothing(folder).await;
        }
        self.check_first_copy().await?;
        // Not earlier: a run that is refused leaves nothing behind.
        let new_folder = self.destination.make_folder()?;
        let transfer = async |client| {
            let (tar_id, client) = self.archive_of(&client).await?;
            self.transfer(tar_id, &client).await
        };
        let outcome = self.destination.with_client(transfer).await;
        if let (Err(_), Some(folder)) = (&outcome, new_folder) {
            folder.remove_if_unused();
        }
        outcome
    }

    /// A dry run that asks the receiver what it has, and compares the source with the index.
    async fn plan(&self) -> Result<SyncReport> {
        if let Some(folder) = self.destination.unused_folder() {
            return self.compare(self.upload_to_nothing(folder).await?, None).await;
        }
        let options = self.upload_options();
        let ask = async |client| {
            let (tar_id, client) = self.archive_of(&client).await?;
            let upload = self.upload(&client, UploadOptions { tar_id, ..options }).await?;
            let IndexOptions { bucket, base, database, .. } = &self.options.index;
            let rows =
                EntryRows { database: database.clone(), source: bucket.is_none().then(|| base.clone()) };
            let begin =
                ConflictCheck::begin(&client, options.block_size, &upload.before, rows, &self.monitor);
            let conflicts = until_cancelled(&*self.monitor, begin).await?;
            self.compare(upload, conflicts).await
        };
        self.destination.with_client(ask).await
    }

    /// Compares the source with the index; `upload` says what the receiver has.
    async fn compare(
        &self,
        mut upload: UploadReport,
        conflicts: Option<ConflictCheck>,
    ) -> Result<SyncReport> {
        self.monitor.notice(Notice::Phase("planning"));
        self.monitor.counters().restart();
        let UploadOptions { block_size, scratch, delete, .. } = self.options.upload.clone();
        let missing = upload.missing().clone();
        let (index, entries) = (self.index_options(), self.options.entries.clone());
        let (mut names, monitor) = (Names::new(entries, &scratch, conflicts), self.monitor.clone());
        let options = PlanOptions { index, block_size, scratch, missing };
        let report = blocking(move || {
            if delete.is_some() {
                names.record_arriving()?;
            }
            let plan = names.compare_source(&options, &mut upload, &*monitor)?;
            if let Some(policy) = delete {
                let database = &options.index.database;
                let now = (plan.total_files, plan.total_entries());
                if let Some(request) = policy.planned_request(database, now, &plan.skipped, &*monitor)? {
                    names.would_delete_of_source(request, database, &mut upload, &*monitor)?;
                }
            }
            Ok((plan, upload))
        });
        let (plan, upload) = report.await?;
        self.forecast_more(&upload, plan.send_bytes)?;
        Ok(SyncReport::Planned { plan, upload })
    }

    /// Names what was sent, or would be, and what was deleted, or would be.
    async fn name(
        &self,
        upload: UploadReport,
        client: Option<&Arc<dyn ReceiverClient>>,
    ) -> Result<UploadReport> {
        let entries = self.options.entries.clone();
        name_upload(&self.upload_options(), upload, client, entries, self.monitor.clone()).await
    }

    /// A dry run to a folder into which nothing was ever received.
    async fn compare_with_nothing(&self, folder: &Path) -> Result<SyncReport> {
        let index = self.index().await?;
        let (mut upload, mut similarity) = (self.upload_to_nothing(folder).await?, None);
        if let Some(request) = self.adopt.clone() {
            let (found, candidates) = self.compare_here(folder.to_path_buf(), request).await?;
            (similarity, upload.candidates) = (Some(found), candidates);
        }
        let upload = self.name(upload, None).await?;
        Ok(SyncReport::Copied { index, upload, similarity })
    }

    async fn upload_to_nothing(&self, folder: &Path) -> Result<UploadReport> {
        let options = self.upload_options();
        let report = blocking(move || plan_from_nothing(&options)).await?;
        Ok(UploadReport { space: self.forecast_into(folder, report.content_bytes)?, ..report })
    }

    /// How much of the index is in a folder of this host into which nothing was ever received, and
    /// what is there.
    async fn compare_here(&self, folder: PathBuf, request: AdoptRequest) -> Result<(Similarity, EntryList)> {
        self.monitor.notice(Notice::Phase("comparing"));
        let (database, monitor) = (self.database(), self.monitor.clone());
        let parent = self.options.upload.scratch.clone();
        blocking(move || {
            let scratch =
                tempfile::tempdir_in(&parent).map_err(|e| Error::io("cannot make a temporary folder", e))?;
            let mut found = PathSpill::new(&parent);
            let each = |node: Option<NodeKind>, bytes, path: &EntryPath| found.push(node, bytes, path);
            let similar = compare_folder(&folder, &request, &database, scratch.path(), &*monitor, each)?;
            Ok((similar, EntryList::new(found)))
        })
        .await
    }

    /// Everything that needs the receiver.
    async fn transfer(&self, tar_id: u64, client: &Arc<dyn ReceiverClient>) -> Result<SyncReport> {
        let mut options = UploadOptions { tar_id, ..self.upload_options() };
        let kept = &self.options.index.database;
        let adoption = match self.adopt.clone() {
            Some(request) => Adoption::begin(kept, request, client.clone(), &*self.monitor).await?,
            None => None,
        };
        if self.adopt.is_some() && adoption.is_none() {
            // The receiver has a copy that it knows: it reads that one.
            options.verify = ContentScope::All;
        }
        // Dropped after the upload: the receiver gives a precheck up when its request ends.
        let mut precheck = None;
        let index = match self.stream(client).await? {
            Some((index, is_new)) => {
                // Everything was sent, and named, a moment ago.
                (options.ignore_done, options.tells_before) = (false, false);
                if is_new {
                    // And verified.
                    options.verify = ContentScope::Nothing;
                }
                index
            }
            None => {
                if !options.dry_run && self.options.index.reuse && adoption.is_none() {
                    let precheck = precheck.insert(Precheck::begin(kept.clone(), client.clone()));
                    options.precheck = Some(precheck.name);
                }
                self.index().await?
            }
        };
        let mut similarity = None;
        if let Some(adoption) = adoption {
            options.adopt = Some(adoption.finish(&*self.monitor).await?);
            if options.dry_run {
                self.monitor.notice(Notice::Phase("comparing"));
                similarity = Some(compare(&**client, &options, &*self.monitor).await?);
            }
        }
        let upload = self.name(self.upload(client, options).await?, Some(client)).await?;
        Ok(SyncReport::Copied { index, upload, similarity })
    }

    /// The number of the archive, and a client that says whose it is.
    async fn archive_of(&self, client: &Arc<dyn ReceiverClient>) -> Result<(u64, Arc<dyn ReceiverClient>)> {
        let SyncOptions { index, tar_id, replace_source, .. } = &self.options;
        self.monitor.notice(Notice::Phase("asking"));
        let find = archive_of(client, *tar_id, index.identity()?, *replace_source, &index.database);
        let (number, client) = until_cancelled(&*self.monitor, find).await?;
        self.monitor.notice(Notice::Info(format!("this source is archive {number} of {}", client.address())));
        Ok((number, client))
    }

    /// Indexes and sends at the same time, and gives whether the receiver had nothing before; `None`
    /// where that makes no sense, or the receiver cannot take it.
    async fn stream(&self, client: &Arc<dyn ReceiverClient>) -> Result<Option<(IndexReport, bool)>> {
        let SyncOptions { index, upload, .. } = &self.options;
        // A stream does not know what it replaces before it replaces it, and other hosts cannot help
        // before there is an index.
        let needs_index = upload.backup.is_some() || upload.queue.is_some();
        if upload.dry_run || self.adopt.is_some() || needs_index || (index.reuse && self.has_previous) {
            return Ok(None);
        }
        self.monitor.notice(Notice::Phase("asking"));
        until_cancelled(&*self.monitor, async {
            client.budget().restart();
            let is_new = match client.status(upload.block_size, 0).await {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    if let (None, Some(space)) = (self.destination.folder(), client.space().await?) {
                        self.check_source_fits(space.free_bytes).await?;
                    }
                    true
                }
                Ok(None) => return Ok(None),
                // The receiver has a copy. A stream lays the archive out from its start, a whole
                // index finds published files by path.
                Ok(Some(status)) if status.sealed && status.files_published > 0 => return Ok(None),
                answer => answer?.is_none_or(|status| status.files_published == 0),
            };
            if client.is_slice() {
                // Which of several receivers takes a file in is known when there is an index.
                return Ok(None);
            }
            let name = LogDigest::from(rand::rng().random::<[u8; 32]>());
            let index = self.index_options();
            let (entries, monitor) = (self.options.entries.clone(), self.monitor.clone());
            match stream(index, upload, name, entries, client.clone(), monitor).await {
                Ok(report) => Ok(Some((report, is_new))),
                Err(e) => Err(when_full(e, &**client, self.destination.folder(), self.left_bytes()).await),
            }
        })
        .await
    }

    /// Bytes that are known to be still to be sent.
    fn left_bytes(&self) -> u64 {
        let counters = self.monitor.counters();
        counters.total_bytes.get().saturating_sub(counters.done_bytes.get())
    }

    async fn index(&self) -> Result<IndexReport> {
        self.monitor.notice(Notice::Phase("indexing"));
        let (options, monitor) = (self.index_options(), self.monitor.clone());
        blocking(move || index(&options, &*monitor)).await
    }

    async fn upload(&self, client: &Arc<dyn ReceiverClient>, options: UploadOptions) -> Result<UploadReport> {
        let index = &self.options.index;
        let source: Arc<dyn Source> = match &index.bucket {
            Some(bucket) => bucket.clone(),
            None => Arc::new(DiskSource::open(&index.base)?),
        };
        upload(source, client.clone(), &options, self.monitor.clone()).await
    }

    /// Where the index is that this run makes and sends.
    fn database(&self) -> PathBuf {
        self.dry_index.as_ref().map_or_else(|| self.options.index.database.clone(), DryIndex::path)
    }

    fn index_options(&self) -> IndexOptions {
        let mut options = self.options.index.clone();
        let databases = [self.options.upload.progress.clone(), options.database.clone()];
        options.own_files.extend(databases);
        options.reuse = self.dry_index.as_ref().map_or(options.reuse, DryIndex::is_copy);
        options.database = self.database();
        options
    }

    fn upload_options(&self) -> UploadOptions {
        let upload = self.options.upload.clone();
        let database = self.database();
        let folder = self.destination.folder().map(Path::to_path_buf);
        UploadOptions { database, folder, ..upload }.telling(self.options.entries.is_some())
    }
}

/// Names the entries that an upload has brought to the receiver, or would bring, and counts in the
/// report of a dry run what the run would delete. The options are those of the upload, which
/// [tell](UploadOptions::telling) what the receiver had and deleted. A dry run asks the receiver at
/// `client` what other archives keep out.
///
/// # Errors
/// The receiver refuses, the index cannot be read, or `entries` fails.
pub async fn name_upload(
    options: &UploadOptions,
    mut upload: UploadReport,
    client: Option<&Arc<dyn ReceiverClient>>,
    entries: Option<EntrySink>,
    monitor: Arc<dyn Monitor>,
) -> Result<UploadReport> {
    let policy = options.delete.clone().filter(|_| options.dry_run);
    let names_all = upload.dry_run || upload.complete || is_all_named(&upload);
    let database = options.database.clone();
    let conflicts = match client.filter(|_| options.dry_run) {
        Some(client) => {
            let rows = EntryRows { database: database.clone(), source: None };
            let begin = ConflictCheck::begin(client, options.block_size, &upload.before, rows, &monitor);
            until_cancelled(&*monitor, begin).await?
        }
        None => None,
    };
    if !names_all || (entries.is_none() && policy.is_none() && conflicts.is_none()) {
        return Ok(upload);
    }
    let mut names = Names::new(entries, &options.scratch, conflicts);
    blocking(move || {
        names.of_index(&database, policy.as_ref(), &mut upload, &*monitor)?;
        Ok(upload)
    })
    .await
}

/// Whether every entry that is not in place is in the report.
fn is_all_named(upload: &UploadReport) -> bool {
    upload.others_bytes == 0 && !upload.legacy && upload.failed_total == upload.failed.len() as u64
}
