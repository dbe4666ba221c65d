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
use super::stream::stream;
use super::tasks::{blocking, until_cancelled};
use super::upload::{
    ContentScope, DeletePolicy, SpacePolicy, UploadOptions, UploadReport, compare, plan_from_nothing, upload,
};
use crate::archive::log::LogDigest;
use crate::archive::protocol::{AdoptRequest, Similarity};
use crate::archive::ranges::RangeSet;
use crate::db::index_read::check_replaceable;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::source::Source;
use crate::source::disk::DiskSource;
use crate::telemetry::{Monitor, Notice};
use adopt::Adoption;
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
        let options = self.upload_options();
        let mut upload = match self.destination.unused_folder() {
            Some(_) => self.upload_to_nothing().await?,
            None => {
                let ask = async |client| {
                    let (tar_id, client) = self.archive_of(&client).await?;
                    self.upload(&client, UploadOptions { tar_id, ..options }).await
                };
                self.destination.with_client(ask).await?
            }
        };
        self.monitor.notice(Notice::Phase("planning"));
        self.monitor.counters().restart();
        let UploadOptions { block_size, scratch, delete, .. } = self.options.upload.clone();
        let (index, missing) = (self.index_options(), RangeSet::default());
        let options = PlanOptions { index, block_size, scratch, missing };
        let (mut names, monitor) = (self.names(), self.monitor.clone());
        blocking(move || {
            let plan = names.compare_source(&options, &upload.before, &*monitor)?;
            if let Some(policy) = delete {
                let database = &options.index.database;
                let now = (plan.total_files, plan.total_entries());
                if let Some(request) = policy.planned_request(database, now, &plan.skipped, &*monitor)? {
                    names.would_delete(request, &mut upload)?;
                }
            }
            Ok(SyncReport::Planned { plan, upload })
        })
        .await
    }

    fn names(&self) -> Names {
        Names::new(self.options.entries.clone(), &self.options.upload.scratch)
    }

    /// Names what was sent, or would be, and what was deleted.
    async fn name(&self, mut upload: UploadReport) -> Result<UploadReport> {
        let UploadOptions { dry_run, delete, .. } = &self.options.upload;
        let policy = delete.clone().filter(|_| *dry_run);
        let names_all = upload.dry_run || upload.complete || is_all_named(&upload);
        if !self.upload_options().tells_before || !names_all {
            return Ok(upload);
        }
        let (mut names, monitor, database) = (self.names(), self.monitor.clone(), self.database());
        blocking(move || {
            names.compare_generations(&database, &upload, &*monitor)?;
            let request =
                policy.map(|policy: DeletePolicy| policy.request(&database, &*monitor)).transpose()?;
            match request.flatten() {
                Some(request) => names.would_delete(request, &mut upload)?,
                None => names.deleted(&upload, &*monitor)?,
            }
            Ok(upload)
        })
        .await
    }

    /// A dry run to a folder into which nothing was ever received.
    async fn compare_with_nothing(&self, folder: &Path) -> Result<SyncReport> {
        let index = self.index().await?;
        let upload = self.name(self.upload_to_nothing().await?).await?;
        let similarity = match self.adopt.clone() {
            Some(request) => Some(self.compare_here(folder.to_path_buf(), request).await?),
            None => None,
        };
        Ok(SyncReport::Copied { index, upload, similarity })
    }

    async fn upload_to_nothing(&self) -> Result<UploadReport> {
        let options = self.upload_options();
        blocking(move || plan_from_nothing(&options)).await
    }

    /// How much of the index is in a folder of this host into which nothing was ever received.
    async fn compare_here(&self, folder: PathBuf, request: AdoptRequest) -> Result<Similarity> {
        self.monitor.notice(Notice::Phase("comparing"));
        let (database, monitor) = (self.database(), self.monitor.clone());
        let parent = self.options.upload.scratch.clone();
        blocking(move || {
            let scratch =
                tempfile::tempdir_in(parent).map_err(|e| Error::io("cannot make a temporary folder", e))?;
            compare_folder(&folder, &request, &database, scratch.path(), &*monitor)
        })
        .await
    }

    /// Everything that needs the receiver.
    async fn transfer(&self, tar_id: u64, client: &Arc<dyn ReceiverClient>) -> Result<SyncReport> {
        let mut options = UploadOptions { tar_id, ..self.upload_options() };
        if let (Destination::Folder { path, .. }, SpacePolicy::Warn) = (&self.destination, &options.space) {
            options.space = SpacePolicy::Refuse(path.clone());
        }
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
        let upload = self.name(self.upload(client, options).await?).await?;
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
        if upload.dry_run || self.adopt.is_some() || (index.reuse && self.has_previous) {
            return Ok(None);
        }
        self.monitor.notice(Notice::Phase("asking"));
        until_cancelled(&*self.monitor, async {
            client.budget().restart();
            let is_new = match client.status(upload.block_size, 0).await {
                Err(e) if e.kind() == ErrorKind::NotFound => true,
                Ok(None) => return Ok(None),
                // The receiver has a copy. A stream lays the archive out from its start, a whole
                // index finds published files by path.
                Ok(Some(status)) if status.sealed && status.files_published > 0 => return Ok(None),
                answer => answer?.is_none_or(|status| status.files_published == 0),
            };
            let name = LogDigest::from(rand::rng().random::<[u8; 32]>());
            let index = self.index_options();
            let (entries, monitor) = (self.options.entries.clone(), self.monitor.clone());
            let report = stream(index, upload, name, entries, client.clone(), monitor).await?;
            Ok(Some((report, is_new)))
        })
        .await
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
        let tells_before = self.options.entries.is_some() || (upload.dry_run && upload.delete.is_some());
        UploadOptions { database: self.database(), tells_before, ..upload }
    }
}

/// Whether every entry that is not in place is in the report.
fn is_all_named(upload: &UploadReport) -> bool {
    upload.others_bytes == 0 && !upload.legacy && upload.failed_total == upload.failed.len() as u64
}
