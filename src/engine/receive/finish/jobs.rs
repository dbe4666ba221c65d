//! The jobs of `finish` for each archive: one runs and one waits for it, however many senders ask
//! for the same.

use super::super::context::Context;
use super::super::job::Job;
use super::super::open;
use super::candidates::CandidateLists;
use super::precheck::Prechecks;
use super::run;
use crate::archive::digest::{Blake3, IndexDigest, blake3};
use crate::archive::protocol::{FinishAnswer, FinishProgress, FinishRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Counter;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A `finish` that runs, or waits until another one has ended; several senders may wait for the
/// same one.
pub struct FinishJob {
    job: Job<FinishAnswer>,
    state: Mutex<JobState>,
    /// The digest of what is wanted: a list of paths may be long.
    wanted: Blake3,
    generation: u64,
    /// The index that it is about.
    index: IndexDigest,
    /// Files that were confirmed.
    confirmed: Counter,
}

#[derive(Default)]
struct JobState {
    /// How many bytes were durable when it began; `None` while it waits.
    durable_bytes: Option<u64>,
    /// The names of the senders that asked for it: however long they take to ask again, this is
    /// their answer.
    names: Vec<u64>,
}

/// Jobs of different senders of one archive that may wait.
const MAX_WAITING: usize = 8;
/// Names that are remembered of a job.
const MAX_NAMES: usize = 256;
/// Jobs of one archive whose answers can still be fetched by the senders that asked for them.
const MAX_ENDED: usize = 4;

impl FinishJob {
    fn new(request: &FinishRequest, generation: u64, index: IndexDigest) -> Self {
        let state = JobState { names: request.name.into_iter().collect(), durable_bytes: None };
        let (job, state, wanted) = (Job::default(), Mutex::new(state), digest_of(request));
        Self { job, state, wanted, generation, index, confirmed: Counter::default() }
    }

    /// How far the job is of an archive of which so many files have their final names.
    pub(crate) fn progress(&self, files_published: u64, files_total: u64) -> FinishProgress {
        // What is invalidated on the way was confirmed, and is not published any more.
        let files_done = (files_published + self.confirmed.get()) / 2;
        FinishProgress { files_done: files_done.min(files_total), files_total }
    }

    /// Waits until the job ends, at most for `timeout`. `None` says that it still runs.
    ///
    /// # Errors
    /// The job's own.
    pub async fn wait(&self, timeout: Duration) -> Result<Option<FinishAnswer>> {
        self.job.wait(timeout).await;
        self.job.result(FinishAnswer::clone)
    }

    fn is_waiting(&self) -> bool {
        self.state.lock().durable_bytes.is_none() && !self.job.has_ended()
    }

    /// Whether the answer to this job is that to `request`, which comes when so many bytes are
    /// durable. Which files were prechecked makes no difference: at worst they are looked at twice.
    fn answers(&self, request: &FinishRequest, durable_bytes: u64) -> bool {
        // What has failed may go well now.
        if digest_of(request) != self.wanted || self.job.has_failed() {
            return false;
        }
        let (name, mut state) = (request.name, self.state.lock());
        if name.is_some_and(|name| state.names.contains(&name)) {
            return true;
        }
        // A job that began before the last block came would answer for what was then.
        let is_current = state.durable_bytes.is_none_or(|then| then == durable_bytes);
        let joins = is_current && !self.job.has_ended();
        if joins && state.names.len() < MAX_NAMES {
            state.names.extend(name);
        }
        joins
    }
}

/// What `request` wants, whichever sender asks and whatever was prechecked.
fn digest_of(request: &FinishRequest) -> Blake3 {
    let request = FinishRequest { looked: None, name: None, ..request.clone() };
    blake3(&serde_json::to_vec(&request).unwrap_or_default())
}

/// The jobs by their archives.
#[derive(Default)]
pub(crate) struct FinishJobs {
    jobs: Mutex<HashMap<u64, Vec<Arc<FinishJob>>>>,
    /// What is looked at ahead of them.
    pub(crate) prechecks: Arc<Prechecks>,
    /// What they could delete.
    pub(crate) candidates: CandidateLists,
}

/// What can be made is made, although content is missing.
const PARTIAL: FinishRequest = FinishRequest {
    partial: true,
    looked: None,
    delete: None,
    keep: None,
    backup: None,
    top: None,
    failed: String::new(),
    name: None,
};

impl FinishJobs {
    /// Starts to finish an archive, or joins the same `finish` that runs or waits already: there
    /// are never more than one of each for senders that want the same. `index` is what the sender
    /// has sent; a legacy sender names none.
    ///
    /// # Errors
    /// There is no such archive, another index is active, storage failed earlier, or too many other
    /// senders wait.
    pub(crate) fn start(
        &self,
        context: &Arc<Context>,
        tar_id: u64,
        index: Option<IndexDigest>,
        request: FinishRequest,
    ) -> Result<Arc<FinishJob>> {
        context.committer.check()?;
        let archive = open::get(context, tar_id)?;
        let index = index.unwrap_or(archive.progress.head().digest);
        archive.check_active(&index)?;
        let mut jobs = self.jobs.lock();
        let jobs = jobs.entry(tar_id).or_default();
        jobs.retain(|job| (job.generation, job.index) == (archive.generation, index));
        let durable_bytes = archive.progress.durable_bytes();
        if let Some(job) = jobs.iter().find(|job| job.answers(&request, durable_bytes)) {
            return Ok(job.clone());
        }
        // The last jobs that ended stay for a while: their answers may not have been fetched yet.
        while let Some(ended) = jobs.iter().position(|job| job.job.has_ended())
            && jobs.iter().filter(|job| job.job.has_ended()).count() > MAX_ENDED
        {
            jobs.remove(ended);
        }
        if jobs.iter().filter(|job| job.is_waiting()).count() >= MAX_WAITING {
            let what = format!("too many senders finish archive {tar_id}, each in another way");
            return Err(Error::new(ErrorKind::Busy, what).with_hint("let them end"));
        }
        let job = Arc::new(FinishJob::new(&request, archive.generation, index));
        let (context, prechecks, theirs) = (context.clone(), self.prechecks.clone(), job.clone());
        let work = move || {
            theirs.job.run("finish", || {
                // One at a time for each archive: two would invalidate and make the same things at
                // once.
                let _finish = archive.lock_finish();
                theirs.state.lock().durable_bytes = Some(archive.progress.durable_bytes());
                let watched = (&*prechecks, &theirs.confirmed);
                run(&context, &archive, &index, &request, watched).map_err(|e| context.judged(e))
            });
        };
        std::thread::Builder::new().name("finish".into()).spawn(work).map_err(Error::thread)?;
        jobs.push(job.clone());
        Ok(job)
    }

    /// Finishes what a legacy sender has sent so far. It never says that it is done: what no block
    /// brings is made when it puts its index.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_legacy(&self, context: &Arc<Context>, tar_id: u64) -> Result<Arc<FinishJob>> {
        self.start(context, tar_id, None, PARTIAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::Digest;

    fn request(name: impl Into<Option<u64>>) -> FinishRequest {
        FinishRequest { name: name.into(), ..FinishRequest::default() }
    }

    /// A job that was asked for by the name 1, and waits.
    fn waiting_job() -> FinishJob {
        FinishJob::new(&request(1), 1, Digest::from([1; 32]))
    }

    #[test]
    fn a_file_counts_half_before_it_is_confirmed() {
        let job = waiting_job();
        let done = |published| job.progress(published, 10).files_done;
        assert_eq!((done(0), done(10)), (0, 5));
        job.confirmed.add(4);
        assert_eq!((done(10), job.progress(10, 10).files_total), (7, 10));
        job.confirmed.add(8);
        assert_eq!(done(10), 10, "some were confirmed twice");
    }

    #[test]
    fn senders_join_a_job_whose_answer_is_true_for_them() {
        let job = waiting_job();
        // As long as the job waits, it will be right for all senders that want the same.
        assert!(job.is_waiting() && job.answers(&request(2), 5) && job.answers(&request(None), 7));
        assert!(!job.answers(&FinishRequest { partial: true, ..request(1) }, 5));
        assert!(job.answers(&FinishRequest { looked: Some(9), ..request(3) }, 5));
        job.state.lock().durable_bytes = Some(10);
        // The job runs: for senders that sent something since, it began too early.
        assert!(job.answers(&request(4), 10) && job.answers(&request(None), 10));
        assert!(!job.answers(&request(5), 11) && !job.answers(&request(None), 11));
        // Senders that asked before ask again, whatever others have sent.
        assert!((1..=4).all(|name| job.answers(&request(name), 11)));
        job.job.run("finish", || Ok(FinishAnswer::default()));
        assert!(job.job.has_ended() && !job.is_waiting());
        assert!((1..=4).all(|name| job.answers(&request(name), 12)));
        assert!(!job.answers(&request(5), 10) && !job.answers(&request(None), 10));
    }

    #[test]
    fn a_failed_job_answers_no_sender_that_asks_again() {
        let job = waiting_job();
        job.job.run("finish", || Err(Error::new(ErrorKind::NoSpace, "no space")));
        assert!(!job.answers(&request(1), 10));
    }
}
