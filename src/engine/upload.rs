//! Sending an archive: ask what is missing, send the blocks that hold it, finish.

mod block;
mod change;
mod deletion;
mod job;
mod legacy;
mod options;
mod report;
mod space;
mod verify;
mod whole;

pub(super) use change::change_body;
pub use deletion::{DeleteLimit, DeletePolicy};
pub use options::{ContentScope, SpacePolicy, UploadOptions};
pub use report::{Before, FailedEntry, UploadReport};
pub use space::no_room;
pub use whole::compare;

use super::tasks::{blocking, until_cancelled};
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
use job::Upload;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use whole::EDITED_INDEX;

/// How often what is missing after all was sent is sent again, before the files that it belongs to
/// count as failed.
const ROUNDS: usize = 3;

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
            "the index has no md5 of {}: sent, but the contents cannot be verified",
            counted(unprovable, "file")
        )));
    }
    let block_layout = BlockLayout::new(summary.total_bytes, options.block_size)
        .ok_or_else(|| Error::new(ErrorKind::Usage, "the block size must not be 0"))?;
    let window = block_layout.window(options.first, options.last);
    monitor.counters().files_total.set(summary.files);
    let (has_index, takes_parts, can_spare, can_filter, can_verify, verified) = Default::default();
    let upload = Upload {
        source,
        client,
        options,
        delete,
        monitor,
        summary,
        block_layout,
        window,
        before: Mutex::default(),
        has_index,
        takes_parts,
        can_spare,
        can_verify,
        verified,
        can_filter,
    };
    upload.monitor.counters().total_bytes.set(upload.work_bytes());
    upload.client.budget().restart();
    let report = until_cancelled(&*upload.monitor, upload.run()).await?;
    Ok(UploadReport { tar_id: Some(options.tar_id), ..report })
}

/// What a receiver said when it was asked for the first time.
enum Receiver {
    /// It has this index, and misses these bytes.
    Ours(RangeSet),
    /// It has this generation of this index, which leads to ours by these steps.
    Previous(u64, Vec<Step>),
    /// It has another index or none.
    Empty,
    /// It knows only the original's protocol (FORMAT.md 5.1).
    Legacy,
}

impl Upload<'_> {
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
        let (before, verified) = (std::mem::take(&mut *self.before.lock()), *self.verified.lock());
        Ok(UploadReport { before, verified, ..report? })
    }

    async fn attempt(&self) -> Result<UploadReport> {
        let receiver = self.ask().await?;
        if self.options.dry_run {
            if let Receiver::Ours(missing) = &receiver {
                self.verify_contents(missing.clone()).await?;
            }
            return Ok(self.plan(&receiver));
        }
        let missing = self.put(receiver).await?;
        let Some(missing) = missing else { return self.run_legacy().await };
        let missing = self.verify_contents(missing).await?;
        if self.options.keep == Some(0) {
            // Before anything is sent: there may be no room for it.
            self.finish(FinishRequest { keep: Some(0), ..FinishRequest::default() }).await?;
        }
        self.check_space(&missing).await?;
        let progress = self.open_progress(true).await;
        let sender = Arc::new(BlockSender::new(self, progress));
        let mut todo = self.blocks_of(if self.options.ignore_done { None } else { Some(&missing) });
        sender.record_present(self, &missing);
        self.limit(&sender, &missing);
        for round in 1.. {
            self.monitor.notice(Notice::Phase("sending"));
            sender.send_all(&todo, self.options.workers).await?;
            // `finish` waits until large files are verified: only then is it known what is missing.
            // A precheck counts only where nothing had to be sent.
            let looked = self.options.precheck.filter(|_| round == 1 && todo.is_empty());
            let (delete, keep) = (self.delete_request(), self.options.keep);
            let top = IndexReader::open(&self.options.database)?.top()?.map(Into::into);
            let answer =
                self.finish(FinishRequest { looked, delete, keep, top, ..FinishRequest::default() }).await?;
            if answer.missing_bytes == 0 {
                return self.conclude(&sender, answer).await;
            }
            let missing = self.missing().await?;
            sender.record_missing(self, &missing);
            self.limit(&sender, &missing);
            todo = self.remaining(sender.failed_ranges(), &missing);
            if todo.is_empty() || round >= ROUNDS {
                return self.end_incomplete(&sender, &missing, &answer).await;
            }
            sender.add_suspects(&self.inside(&missing)).await?;
            self.monitor.notice(Notice::Info(format!(
                "the receiver still misses {} bytes; sending them again",
                missing.covered()
            )));
        }
        Err(Error::new(ErrorKind::Internal, "the rounds of an upload never end"))
    }

    /// Brings the receiver our index; gives what it misses of the archive then, or `None` if it knows
    /// only the original's protocol.
    async fn put(&self, receiver: Receiver) -> Result<Option<RangeSet>> {
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
            Receiver::Previous(from, steps) => {
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

    /// What is still missing was sent as often as makes sense, or is not this run's to send.
    async fn end_incomplete(
        &self,
        sender: &Arc<BlockSender>,
        missing: &RangeSet,
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
            sender.give_up(&self.inside(missing)).await?;
            return Ok(sender.report(&self.summary, false, others_bytes));
        }
        // The receiver's own reason, if it has one, is better than our guess.
        sender.record_receiver_failures(answer);
        sender.give_up(&self.inside(missing)).await?;
        let answer = self.finish(FinishRequest { partial: true, ..FinishRequest::default() }).await?;
        self.conclude(sender, answer).await
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
        if self.options.adopt.is_some() {
            // What it has adopted counts only where the index comes as a whole.
            return Ok(Receiver::Empty);
        }
        if status.digest == self.summary.digest.to_string() {
            return Ok(Receiver::Ours(self.all_missing(status).await?));
        }
        if let Some((from, steps)) = self.steps_from(&status.digest).await? {
            return Ok(Receiver::Previous(from, steps));
        }
        if self.options.keep.is_some_and(|count| count > 0) && status.done_bytes > 0 {
            self.monitor.notice(Notice::Warning(
                "the receiver has no generation of this index: nothing that is replaced there is retained"
                    .to_string(),
            ));
        }
        if !status.complete && status.done_bytes > 0 && !self.options.dry_run {
            self.monitor.notice(Notice::Warning(format!(
                "archive {} of the receiver had another index that was not finished; it is replaced",
                self.options.tar_id
            )));
        }
        Ok(Receiver::Empty)
    }

    async fn missing(&self) -> Result<RangeSet> {
        let status = self.client.status(self.options.block_size, 0).await?;
        let status = status.ok_or_else(|| {
            Error::new(ErrorKind::Malformed, "the receiver was replaced by another program")
        })?;
        if status.digest != self.summary.digest.to_string() {
            return Err(Error::new(
                ErrorKind::WrongIndex,
                format!(
                    "another sender put index {} in place of ours, {}",
                    status.digest, self.summary.digest
                ),
            )
            .with_hint(
                "let only senders with the same index use the same archive number, or give --tar-id",
            ));
        }
        self.all_missing(status).await
    }

    /// All pages of what is missing.
    async fn all_missing(&self, mut status: Status) -> Result<RangeSet> {
        let mut missing = RangeSet::default();
        self.takes_parts.store(status.parts, Ordering::Relaxed);
        self.can_spare.store(status.spares, Ordering::Relaxed);
        self.can_verify.store(status.verifies, Ordering::Relaxed);
        self.can_filter.store(status.filters, Ordering::Relaxed);
        loop {
            for (start, end) in &status.missing {
                missing.insert(*start..*end);
            }
            let Some(next) = status.next else { return Ok(missing) };
            status = self.client.status(self.options.block_size, next).await?.ok_or_else(|| {
                Error::new(ErrorKind::Malformed, "the receiver was replaced by another program")
            })?;
        }
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
        self.monitor.counters().files_done.set(answer.files_published);
        let report = sender.report(&self.summary, answer.complete, 0);
        let (deleted, too_many, blocked) = (answer.deleted, answer.too_many, answer.blocked);
        let moved_to = self.delete.as_ref().and_then(|delete| delete.backup.clone());
        Ok(UploadReport { deleted, moved_to, too_many, blocked, ..report })
    }

    fn plan(&self, receiver: &Receiver) -> UploadReport {
        let all: RangeSet = std::iter::once(0..self.summary.total_bytes).collect();
        self.record_before(|| match receiver {
            Receiver::Ours(missing) => Before::Same(missing.clone()),
            Receiver::Previous(from, steps) => {
                made_of(*from, steps).map_or_else(|| Before::Other(all.clone()), Before::Generation)
            }
            Receiver::Empty | Receiver::Legacy => Before::Other(all.clone()),
        });
        let missing = match receiver {
            Receiver::Ours(missing) => missing,
            Receiver::Previous(_, steps) => {
                // What the generations on the way have added; what they took away again is counted,
                // too.
                let added: u64 = steps.iter().map(|step| step.appended_bytes).sum();
                let blocks = added.div_ceil(self.options.block_size);
                let plan = plan(self.block_layout, &[], &self.summary);
                return UploadReport { sent_bytes: added, sent_blocks: blocks, ..plan };
            }
            Receiver::Empty | Receiver::Legacy => &all,
        };
        let blocks = self.blocks_of(if self.options.ignore_done { None } else { Some(missing) });
        let legacy = matches!(receiver, Receiver::Legacy);
        UploadReport {
            complete: missing.covered() == 0,
            legacy,
            ..plan(self.block_layout, &blocks, &self.summary)
        }
    }
}

/// `from`, if the generation to which `steps` lead was made from it: none of them was abandoned.
fn made_of(from: u64, steps: &[Step]) -> Option<u64> {
    steps.iter().all(|step| !step.undo).then_some(from)
}

fn plan(block_layout: BlockLayout, blocks: &[Range<u64>], summary: &Summary) -> UploadReport {
    let bytes = |range: &Range<u64>| {
        Some(block_layout.range(range.end - 1)?.end - block_layout.range(range.start)?.start)
    };
    UploadReport {
        sent_blocks: blocks.iter().map(|range| range.end - range.start).sum(),
        sent_bytes: blocks.iter().filter_map(bytes).sum(),
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
    let summary = IndexReader::open(&options.database)?.summary()?;
    let block_layout = BlockLayout::new(summary.total_bytes, options.block_size)
        .ok_or_else(|| Error::new(ErrorKind::Usage, "the block size must not be 0"))?;
    let [blocks, all]: [RangeSet; 2] =
        [block_layout.blocks(), summary.total_bytes].map(|end| std::iter::once(0..end).collect());
    let report = plan(block_layout, &blocks.iter().collect::<Vec<_>>(), &summary);
    Ok(UploadReport { before: Before::Other(all), ..report })
}
