//! Sending an archive: ask what is missing, send the blocks that hold it, finish.

mod block;
mod candidates;
mod change;
mod deletion;
mod gone;
mod job;
mod legacy;
mod missing;
mod options;
mod queue;
mod report;
mod slices;
mod space;
mod verify;
mod whole;

pub(super) use change::change_body;
pub use deletion::{DeleteLimit, DeletePolicy};
pub use options::{ContentScope, QueueOptions, TotalLimit, UploadOptions};
pub use report::{Before, FailedEntry, FailedSlice, UploadReport, warn_of_changed};
pub use space::{check_room, when_full};
pub use whole::compare;

use super::tasks::{blocking, until_cancelled};
use crate::archive::digest::IndexDigest;
use crate::archive::layout::BlockLayout;
use crate::archive::protocol::{FinishAnswer, FinishRequest, Status};
use crate::archive::ranges::RangeSet;
use crate::archive::shown::counted;
use crate::db::generation::Step;
use crate::db::index_read::{IndexReader, Summary};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::source::Source;
use crate::telemetry::{Monitor, Notice};
use block::BlockSender;
use candidates::Listing;
use gone::GoneFile;
use job::Upload;
use slices::Slices;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use whole::EDITED_INDEX;

/// Sends what the receiver misses. Ends early when the monitor says that the run is cancelled.
///
/// # Errors
/// What stopped the upload as a whole. Files that failed are in the report.
pub async fn upload(
    source: Arc<dyn Source>,
    client: Arc<dyn ReceiverClient>,
    options: &UploadOptions,
    monitor: Arc<dyn Monitor>,
) -> Result<UploadReport> {
    monitor.counters().restart();
    monitor.notice(Notice::Phase("asking"));
    let (database, theirs) = (options.database.clone(), monitor.clone());
    let policy = options.delete.clone().filter(|_| !options.dry_run);
    let (summary, unprovable, delete) = blocking(move || {
        let index = IndexReader::open(&database)?;
        index.check_archive_bytes()?;
        let delete = policy.map(|policy| policy.request(&database, &*theirs)).transpose()?;
        Ok((index.summary()?, index.unprovable()?, delete.flatten()))
    })
    .await?;
    if unprovable > 0 {
        monitor.notice(Notice::Warning(format!(
            "the index has no digest of {}: sent, but the contents cannot be verified",
            counted(unprovable, "file")
        )));
    }
    monitor.counters().files_total.set(summary.files);
    let upload = Upload::new(source, client, Arc::new(options.clone()), monitor, summary)?;
    let upload = Upload { delete, ..upload };
    upload.monitor.counters().total_bytes.set(upload.work_bytes());
    upload.client.budget().restart();
    let outcome = until_cancelled(&*upload.monitor, upload.run()).await;
    upload.leave_queue(outcome.as_ref().is_ok_and(|report| report.complete)).await;
    Ok(UploadReport { tar_id: Some(options.tar_id), ..outcome? })
}

/// What a receiver said when it was asked for the first time.
enum Receiver {
    /// It has this index, and misses these bytes.
    Ours(RangeSet),
    /// It has this index, which is this generation of ours and leads to it by these steps.
    Previous(IndexDigest, u64, Vec<Step>),
    /// It has another index or none.
    Empty,
    /// It knows only the original's protocol (FORMAT.md 5.1).
    Legacy,
}

impl Upload {
    async fn run(&self) -> Result<UploadReport> {
        let report = match self.attempt().await {
            // It has given up an index that was damaged, or its folder was replaced: what it has
            // not is put.
            Err(e) if e.kind() == ErrorKind::NotFound && self.has_index.load(Ordering::Relaxed) => {
                self.monitor.notice(Notice::Warning(format!("{e}; the index is sent again")));
                self.attempt().await
            }
            other => other,
        };
        let report = report?;
        let (before, verified) = (std::mem::take(&mut *self.before.lock()), self.verified.lock().take());
        let lost = std::mem::take(&mut *self.lost.lock());
        let report = match self.options.dry_run {
            true => {
                let listing = self.could_delete(matches!(before, Before::Other(_))).await?;
                let Listing { entries: candidates, changed, absent, .. } = listing;
                UploadReport { candidates, changed, absent, ..report }
            }
            false => UploadReport { candidates: self.has_deleted().await?, ..report },
        };
        let deleted = self.deleted.load(Ordering::Relaxed);
        let is_refused = self.delete.is_some() && !report.complete && report.too_many.is_none();
        let deletes_nothing = is_refused && deleted == 0;
        Ok(UploadReport { before, lost, verified, deleted, deletes_nothing, ..report })
    }

    async fn attempt(&self) -> Result<UploadReport> {
        let mut receiver = self.ask().await?;
        if self.options.dry_run {
            match &mut receiver {
                Receiver::Ours(missing) => {
                    let lost = self.find_lost(&self.summary.digest).await?;
                    lost.iter().for_each(|range| missing.insert(range));
                }
                Receiver::Previous(theirs, ..) => {
                    let lost = self.find_lost(theirs).await?;
                    self.record_lost(&RangeSet::default(), &lost);
                }
                Receiver::Empty | Receiver::Legacy => {}
            }
            return self.plan_with_space(&receiver).await;
        }
        let is_put = !matches!(receiver, Receiver::Ours(_));
        let Some(first) = self.put(receiver).await? else { return self.run_legacy().await };
        let missing = self.verify_contents(first.clone()).await?;
        self.record_lost(&first, &missing);
        let gone = self.find_gone().await?;
        let keep = self.options.keep.filter(|&keep| keep == 0);
        // What comes with an index is backed up when that is put.
        let is_backed_up = missing.covered() == 0 || (is_put && missing == first);
        if keep.is_some() || (self.options.backup.is_some() && !is_backed_up) {
            // Before anything is sent: there may be no room for it, or it replaces what is backed up.
            self.finish(FinishRequest { keep, ..FinishRequest::default() }).await?;
        }
        self.check_space(&missing).await?;
        match self.send_missing(missing, gone).await {
            Err(e) => Err(when_full(e, &*self.client, self.options.folder.as_deref(), 0).await),
            report => report,
        }
    }

    /// Sends what is missing, and finishes. The files `gone` have failed.
    async fn send_missing(&self, first: RangeSet, gone: Vec<GoneFile>) -> Result<UploadReport> {
        let progress = self.open_progress(true).await;
        let sender = Arc::new(BlockSender::new(self, progress));
        gone.into_iter().for_each(|GoneFile { file, reason }| sender.fail(&file, reason));
        let mut slices = Slices::new(self, &sender);
        let report = self.send_rounds(first, &sender, &mut slices).await?;
        slices.end(report)
    }

    async fn send_rounds(
        &self,
        first: RangeSet,
        sender: &Arc<BlockSender>,
        slices: &mut Slices<'_>,
    ) -> Result<UploadReport> {
        let mut missing = first.clone();
        let mut todo = self.blocks_of(if self.options.ignore_done { None } else { Some(&first) });
        sender.record_present(self, &first);
        for round in 1.. {
            self.limit(sender, &missing);
            self.monitor.notice(Notice::Phase("sending"));
            slices.send(&missing, &todo, round).await?;
            if self.has_stopped() {
                let others_bytes = self.missing().await?.covered();
                return Ok(sender.report(&self.summary, false, others_bytes));
            }
            let answer = self.finish_round(round == 1 && todo.is_empty()).await?;
            if answer.missing_bytes == 0 {
                slices.record_missing(&RangeSet::default()).await?;
            }
            let is_explained = answer.complete || answer.failed_total > 0 || answer.too_many.is_some();
            if answer.missing_bytes == 0 && (is_explained || round >= self.rounds()) {
                return self.conclude(sender, answer).await;
            }
            if answer.missing_bytes == 0 {
                // The answer is that of a finish which began before another sender was done.
                todo.clear();
                continue;
            }
            missing = self.missing().await?;
            self.record_lost(&first, &missing);
            slices.record_missing(&missing).await?;
            let lacking = slices.lacking(&missing).await?;
            sender.record_missing(self, &lacking);
            let reachable = slices.reachable(&lacking).await?;
            todo = self.remaining(sender.failed_ranges(), &reachable);
            // Another sender may have sent the rest since the answer: then it is asked for once more.
            let is_all_here = missing.covered() == 0;
            if (todo.is_empty() && !is_all_here) || round >= self.rounds() {
                return self.end_incomplete((sender, &*slices), &missing, &reachable, &answer).await;
            }
            sender.add_suspects(&self.inside(&lacking)).await?;
            self.monitor.notice(Notice::Info(format!(
                "the receiver still misses {} bytes; sending them again",
                lacking.covered()
            )));
        }
        Err(Error::new(ErrorKind::Internal, "the rounds of an upload never end"))
    }

    /// Asks the receiver to finish. `is_unchanged` says that nothing had to be sent: only then a
    /// precheck counts.
    async fn finish_round(&self, is_unchanged: bool) -> Result<FinishAnswer> {
        // `finish` waits until large files are verified: only then is it known what is missing.
        let looked = self.options.precheck.filter(|_| is_unchanged);
        let (delete, keep) = (self.delete_request(), self.options.keep);
        if delete.is_some() {
            self.list_candidates().await?;
        }
        let top = IndexReader::open(&self.options.database)?.top()?.map(Into::into);
        self.finish(FinishRequest { looked, delete, keep, top, ..FinishRequest::default() }).await
    }

    /// Brings the receiver our index; gives what it misses of the archive then, or `None` if it knows
    /// only the original's protocol.
    async fn put(&self, receiver: Receiver) -> Result<Option<RangeSet>> {
        if !self.options.puts_index && !matches!(receiver, Receiver::Ours(_)) {
            let what = "the receiver has another index by now: this job is over";
            return Err(Error::new(ErrorKind::WrongIndex, what));
        }
        let from = match receiver {
            Receiver::Ours(missing) => {
                self.record_before(|| Before::Same(missing.clone()));
                return Ok(Some(missing));
            }
            // Only if both answers are the original's: damage to one of them must not cost the
            // verification.
            Receiver::Legacy => match self.put_index().await? {
                true => None,
                false => return Ok(None),
            },
            Receiver::Previous(_, from, steps) => {
                self.put_changes(&steps).await?;
                made_of(from, &steps)
            }
            Receiver::Empty => {
                self.put_index().await?;
                None
            }
        };
        let missing = self.missing().await?;
        self.record_before(|| from.map_or_else(|| Before::Other(missing.clone()), Before::Generation));
        Ok(Some(missing))
    }

    /// What is still missing was sent as often as makes sense, or is not this run's to send. Of that,
    /// `reachable` is what receivers that answer were to take in.
    async fn end_incomplete(
        &self,
        (sender, slices): (&Arc<BlockSender>, &Slices<'_>),
        missing: &RangeSet,
        reachable: &RangeSet,
        answer: &FinishAnswer,
    ) -> Result<UploadReport> {
        let others_bytes = self.outside(missing);
        if others_bytes > 0 && self.is_whole() {
            let what = format!("the receiver misses {others_bytes} bytes behind the end of the archive");
            return Err(Error::new(ErrorKind::BadIndex, what).with_hint(EDITED_INDEX));
        }
        if others_bytes > 0 {
            // The host that ends last finishes. The receiver's list names the failures of every
            // host: only ours count here.
            slices.name_failures(missing).await?;
            sender.give_up(&self.inside(reachable)).await?;
            return Ok(sender.report(&self.summary, false, others_bytes));
        }
        // The receiver's own reason, if it has one, is better than our guess, and the first slice
        // knows more than the others.
        sender.record_receiver_failures(answer);
        slices.name_failures(missing).await?;
        sender.give_up(&self.inside(reachable)).await?;
        let last = self.finish(FinishRequest { partial: true, ..FinishRequest::default() }).await?;
        // That one deletes nothing, so it does not say what waits for more deletions.
        let (too_many, blocked) = (answer.too_many, answer.blocked);
        self.conclude(sender, FinishAnswer { too_many, blocked, ..last }).await
    }

    async fn ask(&self) -> Result<Receiver> {
        let status = match self.client.status(self.options.block_size, 0).await {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Receiver::Empty),
            other => other?,
        };
        self.has_index.store(true, Ordering::Relaxed);
        if self.options.keep.is_some() && !status.as_ref().is_some_and(|status| status.keeps) {
            return Err(Error::new(
                ErrorKind::Usage,
                "the receiver does not know how to keep what is replaced",
            )
            .with_hint("use the same version of tar-like on all hosts, or leave out --keep"));
        }
        let Some(status) = status else { return Ok(Receiver::Legacy) };
        self.record_abilities(&status);
        if let Some(folder) = self.options.backup.as_ref().filter(|_| !status.backs_up) {
            self.monitor.notice(Notice::Warning(format!(
                "the receiver is of an earlier version: it moves only what it deletes to {folder}, not what it replaces"
            )));
        }
        if self.options.adopt.is_some() {
            // What it has adopted counts only where the index comes as a whole.
            return Ok(Receiver::Empty);
        }
        if status.digest == self.summary.digest.to_string() {
            return Ok(Receiver::Ours(self.all_missing(status).await?));
        }
        if let Some((from, steps)) = self.steps_from(&status.digest).await? {
            let theirs = status.digest.parse().map_err(|_| no_digest())?;
            return Ok(Receiver::Previous(theirs, from, steps));
        }
        if self.options.keep.is_some_and(|count| count > 0) && status.done_bytes > 0 {
            self.monitor.notice(Notice::Warning(
                "the receiver has no generation of this index: nothing that is replaced there is retained"
                    .to_string(),
            ));
        }
        if !status.complete && status.done_bytes > 0 && !self.options.dry_run && self.whole.is_none() {
            self.monitor.notice(Notice::Warning(format!(
                "archive {} of the receiver had another index that was not finished; it is replaced, and all is sent \
                 again (sync --adopt takes the files that are there already)",
                self.options.tar_id
            )));
        }
        Ok(Receiver::Empty)
    }

    async fn missing(&self) -> Result<RangeSet> {
        let status = missing::status_of(&*self.client, self.options.block_size, &self.summary.digest).await?;
        self.all_missing(status).await
    }

    /// Learns what the receiver can do, and gives all that is missing.
    async fn all_missing(&self, status: Status) -> Result<RangeSet> {
        self.record_abilities(&status);
        missing::all_missing(&*self.client, self.options.block_size, status).await
    }

    fn record_abilities(&self, status: &Status) {
        self.takes_parts.store(status.parts, Ordering::Relaxed);
        self.can_spare.store(status.spares, Ordering::Relaxed);
        self.can_verify.store(status.verifies, Ordering::Relaxed);
        self.can_filter.store(status.filters, Ordering::Relaxed);
        self.receiver_id.lock().clone_from(&status.receiver_id);
        self.slice.lock().clone_from(&status.slice);
    }

    /// A receiver that takes parts of blocks gets no more than it misses.
    fn limit(&self, sender: &BlockSender, missing: &RangeSet) {
        if self.takes_parts.load(Ordering::Relaxed) && !self.options.ignore_done {
            sender.send_only(missing);
        }
    }

    async fn conclude(&self, sender: &BlockSender, answer: FinishAnswer) -> Result<UploadReport> {
        if answer.complete {
            sender.record_missing(self, &RangeSet::default());
            // Also what could not be read here any more had arrived before.
            sender.forgive();
        } else {
            sender.record_receiver_failures(&answer);
        }
        if let Some(lost) = &answer.lost {
            self.monitor.notice(Notice::Warning(lost.clone()));
        }
        warn_of_changed(&answer.changed, &*self.monitor);
        self.monitor.counters().files_done.set(answer.files_published);
        let report = sender.report(&self.summary, answer.complete, 0);
        let moved_to = self.delete.as_ref().and_then(|delete| delete.backup.clone());
        let FinishAnswer { too_many, blocked, changed, .. } = answer;
        Ok(UploadReport { moved_to, too_many, blocked, changed, ..report })
    }

    /// Which bytes of files that the index `theirs` of the receiver still has, and ours, were removed
    /// or changed there: a run finds that when it finishes, a dry run has to ask. What the receiver
    /// does not say stays unknown.
    async fn find_lost(&self, theirs: &IndexDigest) -> Result<RangeSet> {
        let mut found = self.read_contents(theirs).await?.map(|found| found.changed).unwrap_or_default();
        match self.client.precheck(theirs, rand::random()).await {
            Ok(answer) => found.extend(answer.changed),
            Err(e) => tracing::debug!("the receiver did not precheck what it has: {e}"),
        }
        let mut lost: RangeSet = found.into_iter().map(|(start, end)| start..end).collect();
        if lost.covered() == 0 {
            return Ok(lost);
        }
        // A file that has left the source is not sent again.
        let used = IndexReader::open(&self.options.database)?.used_ranges()?;
        let mut unused = lost.clone();
        used.iter().for_each(|range| unused.remove(range));
        unused.iter().for_each(|range| lost.remove(range));
        Ok(lost)
    }

    /// What would be sent, and whether there is room for it.
    async fn plan_with_space(&self, receiver: &Receiver) -> Result<UploadReport> {
        let report = self.plan(receiver)?;
        let space = match receiver {
            Receiver::Ours(missing) => self.forecast(missing.covered()).await?,
            // Of another index it is not known how much of its content is the same.
            Receiver::Empty if self.has_index.load(Ordering::Relaxed) => None,
            Receiver::Previous(..) | Receiver::Empty => self.forecast(report.sent_bytes).await?,
            Receiver::Legacy => None,
        };
        Ok(UploadReport { space, ..report })
    }

    fn plan(&self, receiver: &Receiver) -> Result<UploadReport> {
        let all = IndexReader::open(&self.options.database)?.used_ranges()?;
        self.record_before(|| match receiver {
            Receiver::Ours(missing) => Before::Same(missing.clone()),
            Receiver::Previous(_, from, steps) => {
                made_of(*from, steps).map_or_else(|| Before::Other(all.clone()), Before::Generation)
            }
            Receiver::Empty | Receiver::Legacy => Before::Other(all.clone()),
        });
        let missing = match receiver {
            Receiver::Ours(missing) => missing,
            Receiver::Previous(_, _, steps) => {
                // What the generations on the way have added; what they took away again is counted,
                // too.
                let appended: u64 = steps.iter().map(|step| step.appended_bytes).sum();
                let added = appended + self.lost.lock().covered();
                let blocks = added.div_ceil(self.options.block_size);
                return Ok(UploadReport { sent_bytes: added, sent_blocks: blocks, ..plan(&self.summary) });
            }
            Receiver::Empty | Receiver::Legacy => &all,
        };
        let wanted = if self.options.ignore_done { &all } else { missing };
        Ok(UploadReport {
            complete: missing.covered() == 0,
            legacy: matches!(receiver, Receiver::Legacy),
            sent_blocks: self.blocks_of(Some(wanted)).iter().map(|range| range.end - range.start).sum(),
            sent_bytes: self.inside(wanted).covered(),
            ..plan(&self.summary)
        })
    }
}

fn no_digest() -> Error {
    Error::new(ErrorKind::Malformed, "the receiver says of its index a digest that is none")
}

/// `from`, if the generation to which `steps` lead was made from it: none of them was abandoned.
fn made_of(from: u64, steps: &[Step]) -> Option<u64> {
    steps.iter().all(|step| !step.undo).then_some(from)
}

/// The report of a dry run that sends nothing.
fn plan(summary: &Summary) -> UploadReport {
    UploadReport {
        files: summary.files,
        total_bytes: summary.total_bytes,
        content_bytes: summary.content_bytes,
        dry_run: true,
        ..UploadReport::default()
    }
}

/// What would be sent to a receiver that has nothing.
///
/// # Errors
/// The index cannot be read.
pub fn plan_from_nothing(options: &UploadOptions) -> Result<UploadReport> {
    let index = IndexReader::open(&options.database)?;
    let (summary, all) = (index.summary()?, index.used_ranges()?);
    let block_layout = BlockLayout::new(summary.total_bytes, options.block_size)
        .ok_or_else(|| Error::new(ErrorKind::Usage, "the block size must not be 0"))?;
    let blocks: RangeSet = all.iter().map(|range| block_layout.blocks_of(range)).collect();
    let (sent_blocks, sent_bytes) = (blocks.covered(), all.covered());
    Ok(UploadReport { sent_blocks, sent_bytes, before: Before::Other(all), ..plan(&summary) })
}
