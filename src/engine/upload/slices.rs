//! Several receivers on one folder: each is asked, gets the index, the blocks of its files, and is
//! told to finish, side by side with the others. What a slice has put in place, it hands over to the
//! first one, whose `finish` comes last.
//!
//! ```text
//! W: what the first slice misses of the whole archive ─▶ whose files are these?
//! slice k: status ─▶ index ─▶ blocks of its files in W ─▶ finish ─┐
//! slice 1:                    blocks of its files in W ───────────┴─▶ finish ─▶ W
//! ```
//!
//! A slice that fails takes only its files with it: they are named with its error when everything
//! else is in place.

use super::block::{BlockSender, OwnFiles};
use super::job::Upload;
use super::missing::missing_of;
use super::options::{ContentScope, UploadOptions};
use super::report::{FailedSlice, UploadReport};
use crate::archive::protocol::{FinishAnswer, FinishRequest, SliceStatus};
use crate::archive::ranges::RangeSet;
use crate::archive::shown::counted;
use crate::archive::slice::{Slice, Stripes};
use crate::engine::tasks::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{NamedMonitor, Notice};
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A slice that is looked for at several addresses answers within this time.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);

/// Blocks that are on their way to all slices together, at most, unless there are more slices: each
/// takes memory.
const MAX_SIDE_BY_SIDE: u64 = 64;

/// The receivers of an upload, as the first one names them.
pub(super) struct Slices<'a> {
    upload: &'a Upload,
    sender: &'a Arc<BlockSender>,
    /// What the first one has said of them; without it, there is one receiver.
    status: Option<SliceStatus>,
    members: Vec<Member<'a>>,
    /// The slices whose files are missing, by what the first one has last said.
    behind: BTreeSet<u64>,
    /// The receiver was none of several, and refused what came: it has become one.
    refusal: Option<Error>,
}

/// One of them.
struct Member<'a> {
    of: &'a Upload,
    all: &'a Arc<BlockSender>,
    slice: Slice,
    /// What the first one says.
    status: SliceStatus,
    upload: Upload,
    sender: Arc<BlockSender>,
    /// Why not all of its files were taken in ...
    failure: Option<Error>,
    /// ... and it is not asked again in this run.
    is_over: bool,
    /// What it has last answered when it was to finish.
    answer: Option<FinishAnswer>,
}

impl<'a> Slices<'a> {
    pub(super) fn new(upload: &'a Upload, sender: &'a Arc<BlockSender>) -> Self {
        let (status, members, behind, refusal) = Default::default();
        Self { upload, sender, status, members, behind, refusal }
    }

    /// Makes the members that the newest status of the first slice names, if these are others than
    /// before.
    fn learn(&mut self) -> Result<()> {
        let status = self.upload.slice.lock().clone();
        if status == self.status {
            return Ok(());
        }
        self.members.clear();
        if let Some(status) = &status {
            if !status.peers.is_empty() && status.peers.len() as u64 != status.count {
                let what = format!(
                    "the receiver at {} names {} for {} slices",
                    self.upload.client.address(),
                    counted(status.peers.len() as u64, "address"),
                    status.count
                );
                return Err(Error::new(ErrorKind::Malformed, what));
            }
            let first = Slice::new(status.number, status.count).filter(|slice| slice.is_first());
            let first = first.ok_or_else(|| {
                let what = format!("the receiver says that it is slice {}/{}", status.number, status.count);
                Error::new(ErrorKind::Malformed, what)
            })?;
            for slice in first.all() {
                self.members.push(Member::new(self.upload, self.sender, slice, status)?);
            }
        }
        self.status = status;
        Ok(())
    }

    fn stripes(&self) -> Option<Stripes> {
        self.status.as_ref().map(stripes_of)
    }

    /// Sends what of `missing` each receiver does not have; where there is one receiver, these are
    /// the blocks `todo`.
    ///
    /// # Errors
    /// What ends the run. What only the files of some slice fail for, [`Self::end`] says.
    pub(super) async fn send(&mut self, missing: &RangeSet, todo: &[Range<u64>], round: usize) -> Result<()> {
        self.learn()?;
        let (upload, workers) = (self.upload, self.upload.options.workers);
        let Some(stripes) = self.stripes() else {
            let sent = self.sender.send_all(&upload.queue(todo, round)?, workers).await;
            // It has become one of several: the next round is for all of them.
            let is_refused = sent.as_ref().is_err_and(|e| e.kind() == ErrorKind::WrongSlice);
            self.refusal = if is_refused { sent.err() } else { sent.map(|()| None)? };
            return Ok(());
        };
        self.refusal = None;
        // What is missing of no other slice costs it no request.
        self.record_missing(missing).await?;
        let behind = &self.behind;
        let sends_all = upload.options.ignore_done && round == 1;
        // One job has the limit that hosts share: before anything is sent.
        if let Some(first) = self.members.first() {
            first.upload.join_queue()?;
        }
        let workers = workers.min(usize::try_from(MAX_SIDE_BY_SIDE / stripes.slices).unwrap_or(1).max(1));
        let is_asked = |member: &&mut Member<'_>| {
            !member.is_over && (sends_all || behind.contains(&member.slice.number()))
        };
        let asked: Vec<&mut Member<'_>> = self.members.iter_mut().filter(is_asked).collect();
        let sending = &AtomicUsize::new(asked.len());
        try_join_all(asked.into_iter().map(|member| async move {
            let sent = member.send(missing, round, workers).await;
            if sending.fetch_sub(1, Ordering::Relaxed) == 1 && !upload.has_stopped() {
                upload.monitor.notice(Notice::Phase("verifying"));
            }
            let outcome = match sent {
                Ok(()) => member.finish().await,
                Err(e) => Err(e),
            };
            member.record(outcome)
        }))
        .await?;
        // Without the first one, nothing more can be done.
        match self.members.first_mut().filter(|first| first.is_over) {
            Some(first) => first.failure.take().map_or(Ok(()), Err),
            None => Ok(()),
        }
    }

    /// Takes note of what the first slice misses now of the archive. A slice that failed and has no
    /// file in it has done its work all the same.
    pub(super) async fn record_missing(&mut self, missing: &RangeSet) -> Result<()> {
        let Some(stripes) = self.stripes() else { return Ok(()) };
        let (sender, missing) = (self.sender.clone(), missing.clone());
        self.behind = blocking(move || sender.owners_of(&stripes, &missing)).await?;
        Ok(())
    }

    /// What of `missing` no slice has. A file of which other runs send the rest is not handed over
    /// yet, so the first slice misses all of it.
    pub(super) async fn lacking(&self, missing: &RangeSet) -> Result<RangeSet> {
        let (Some(stripes), false) = (self.stripes(), self.upload.is_whole()) else {
            return Ok(missing.clone());
        };
        let is_asked = |member: &&Member<'_>| {
            !member.is_over && !member.slice.is_first() && self.behind.contains(&member.slice.number())
        };
        let asked = self.members.iter().filter(is_asked).map(|member| async {
            let Upload { client, options, summary, .. } = &member.upload;
            let theirs = missing_of(&**client, options.block_size, &summary.digest).await.ok()?;
            Some((member.slice.number(), theirs))
        });
        let said: BTreeMap<u64, RangeSet> = join_all(asked).await.into_iter().flatten().collect();
        let (sender, missing) = (self.sender.clone(), missing.clone());
        blocking(move || {
            let mut lacking = missing.clone();
            for (number, theirs) in said {
                let mut held = sender.bytes_of(&stripes, &missing, |owner| owner == number)?;
                theirs.iter().for_each(|range| held.remove(range));
                held.iter().for_each(|range| lacking.remove(range));
            }
            Ok(lacking)
        })
        .await
    }

    /// What of `missing` is for slices that can take it in.
    pub(super) async fn reachable(&self, missing: &RangeSet) -> Result<RangeSet> {
        let over: Vec<u64> =
            self.members.iter().filter(|member| member.is_over).map(|member| member.slice.number()).collect();
        let Some(stripes) = self.stripes().filter(|_| !over.is_empty()) else { return Ok(missing.clone()) };
        let (sender, missing) = (self.sender.clone(), missing.clone());
        blocking(move || sender.bytes_of(&stripes, &missing, |owner| !over.contains(&owner))).await
    }

    /// The run ends and `missing` is missing: files fail for what their slices say.
    pub(super) async fn name_failures(&self, missing: &RangeSet) -> Result<()> {
        for member in &self.members {
            if let Some(failure) = self.failure_of(member) {
                let reason = format!("{}: {failure}", member.name());
                self.sender.fail_slice(member.own(), &self.upload.inside(missing), &reason).await?;
            } else if let Some(answer) = &member.answer {
                self.sender.record_receiver_failures(answer);
            }
        }
        Ok(())
    }

    /// Why the slice has not all of its files.
    fn failure_of<'m>(&self, member: &'m Member<'_>) -> Option<&'m Error> {
        member.failure.as_ref().filter(|_| self.behind.contains(&member.slice.number()))
    }

    /// The report of the run, with the slices that failed.
    ///
    /// # Errors
    /// The receiver has become one of several again and again.
    pub(super) fn end(mut self, report: UploadReport) -> Result<UploadReport> {
        if report.complete {
            return Ok(report);
        }
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let failed = |member: &Member<'_>| {
            let error = self.failure_of(member)?;
            Some(FailedSlice {
                slice: member.slice,
                address: member.upload.client.address().to_owned(),
                error: error.to_string(),
                hint: error
                    .hint()
                    .unwrap_or("look at that receiver, then run the same command again")
                    .to_owned(),
            })
        };
        let failed_slices = self.members.iter().filter_map(failed).collect();
        Ok(UploadReport { failed_slices, ..report })
    }
}

fn stripes_of(status: &SliceStatus) -> Stripes {
    Stripes { slices: status.count, stripe_bytes: status.stripe_bytes }
}

impl<'a> Member<'a> {
    fn new(of: &'a Upload, all: &'a Arc<BlockSender>, slice: Slice, status: &SliceStatus) -> Result<Self> {
        // The address that the user gave is the one that reaches the first slice from here.
        let address = status.peers.get(slice.number() as usize - 1).filter(|_| !slice.is_first());
        let upload = of.for_slice(slice, address.map(String::as_str))?;
        let own = OwnFiles { stripes: stripes_of(status), number: slice.number() };
        let sender = all.of_slice(&upload, own);
        let (status, failure, is_over, answer) = (status.clone(), None, false, None);
        Ok(Self { of, all, slice, status, upload, sender, failure, is_over, answer })
    }

    fn own(&self) -> OwnFiles {
        OwnFiles { stripes: stripes_of(&self.status), number: self.slice.number() }
    }

    /// Sends it what it misses of `wanted`.
    async fn send(&mut self, wanted: &RangeSet, round: usize, workers: usize) -> Result<()> {
        let missing = match self.misses().await {
            Err(e) if matches!(e.kind(), ErrorKind::WrongSlice | ErrorKind::Unreachable) => {
                self.find(e).await?
            }
            other => other?,
        };
        let missing = missing.in_common(wanted);
        let upload = &self.upload;
        let todo = match upload.options.ignore_done && round == 1 {
            true => upload.blocks_of(None),
            false => upload.remaining(self.sender.failed_ranges(), &missing),
        };
        if !upload.options.ignore_done {
            self.sender.send_only(&missing);
            self.sender.record_held(wanted, &missing, round == 1).await?;
        }
        self.sender.send_all(&upload.queue(&todo, round)?, workers).await
    }

    /// Has it put in place what it has; gives its answer. The first one finishes after the others.
    async fn finish(&self) -> Result<Option<FinishAnswer>> {
        if self.slice.is_first() || self.upload.has_stopped() {
            return Ok(None);
        }
        self.upload.finish(FinishRequest::default()).await.map(Some)
    }

    /// What it misses of its files, once it has the index.
    async fn misses(&self) -> Result<RangeSet> {
        let upload = &self.upload;
        if self.slice.is_first() {
            return missing_of(&*upload.client, upload.options.block_size, &upload.summary.digest).await;
        }
        let receiver = upload.ask().await?;
        self.check()?;
        let missing = upload.put(receiver).await?;
        self.check()?;
        if upload.slice.lock().is_none() || missing.is_none() {
            let what = format!("the receiver at {} does not know of slices", upload.client.address());
            return Err(Error::new(ErrorKind::Malformed, what)
                .with_hint("use the same version of tar-like on all hosts"));
        }
        Ok(missing.unwrap_or_default())
    }

    /// Looks for the slice at the other addresses, at all of them at the same time: they may be in
    /// another order, and one that is down holds up no other.
    async fn find(&mut self, refusal: Error) -> Result<RangeSet> {
        let tried = self.upload.client.address().to_owned();
        let mut asked = FuturesUnordered::new();
        for address in self.status.peers.iter().filter(|_| !self.slice.is_first()) {
            let upload = self.of.for_slice(self.slice, Some(address))?;
            if upload.client.address() == tried {
                continue;
            }
            asked.push(async move {
                let status = upload.client.status(upload.options.block_size, 0);
                let answer = tokio::time::timeout(FIND_TIMEOUT, status).await;
                (answer, upload)
            });
        }
        let mut silent = None;
        while let Some((answer, upload)) = asked.next().await {
            let is_there = match answer {
                Ok(Ok(status)) => status.is_some(),
                Ok(Err(e)) if e.kind() == ErrorKind::WrongSlice => false,
                Ok(Err(e)) if e.kind() == ErrorKind::NotFound => true,
                _ => {
                    silent = Some(upload.client.address().to_owned());
                    false
                }
            };
            if is_there {
                self.upload = upload;
                self.sender = self.all.of_slice(&self.upload, self.own());
                return self.misses().await;
            }
        }
        match silent.filter(|_| refusal.kind() == ErrorKind::WrongSlice) {
            Some(address) => {
                let what = format!("{tried} is another slice, and {address} does not answer");
                Err(Error::new(ErrorKind::Unreachable, what).with_source(refusal))
            }
            None => Err(refusal),
        }
    }

    /// Refuses a receiver that is not on the folder of the first one, or deals out files in another
    /// way.
    fn check(&self) -> Result<()> {
        let (first, said) = (&self.status, self.upload.slice.lock().clone());
        let Some(said) = said else { return Ok(()) };
        let is_sibling = said.number == self.slice.number()
            && (said.count, said.stripe_bytes, &said.tree) == (first.count, first.stripe_bytes, &first.tree);
        if is_sibling {
            return Ok(());
        }
        let say = |address: &str, said: &SliceStatus| {
            format!(
                "{address} is slice {}/{} with stripes of {} on folder {}",
                said.number,
                said.count,
                counted(said.stripe_bytes, "byte"),
                said.tree
            )
        };
        let what = format!(
            "these receivers are not slices of one folder: {}, and {}",
            say(self.of.client.address(), first),
            say(self.upload.client.address(), &said)
        );
        Err(Error::new(ErrorKind::Usage, what)
            .with_hint("start all of them on the same folder, with the same N and --stripe-size"))
    }

    /// Takes note of how it went.
    ///
    /// # Errors
    /// What ends the whole run.
    fn record(&mut self, outcome: Result<Option<FinishAnswer>>) -> Result<()> {
        self.failure = None;
        let error = match outcome {
            Ok(answer) => {
                self.answer = answer.or(self.answer.take());
                return Ok(());
            }
            Err(e) if matches!(e.kind(), ErrorKind::Usage | ErrorKind::Interrupted) => return Err(e),
            Err(e) => e,
        };
        // It is asked once more where it was started in another way meanwhile, lost its index, or got
        // another one.
        let passes =
            matches!(error.kind(), ErrorKind::WrongSlice | ErrorKind::NotFound | ErrorKind::WrongIndex);
        self.is_over = if self.slice.is_first() { error.kind() != ErrorKind::WrongSlice } else { !passes };
        if self.is_over && !self.slice.is_first() {
            self.of
                .monitor
                .notice(Notice::Warning(format!("{}: {error}; the other slices go on", self.name())));
        }
        self.failure = Some(error);
        Ok(())
    }

    /// What it is called in messages.
    fn name(&self) -> String {
        format!("slice {} at {}", self.slice, self.upload.client.address())
    }
}

impl Upload {
    /// The part of it that speaks to one of several receivers.
    fn for_slice(&self, slice: Slice, address: Option<&str>) -> Result<Self> {
        let client = self.client.for_slice(slice, address)?;
        // Only the first slice does what is not the content of a file. A receiver without the index
        // gets it, also from a worker: the first slice has it.
        let options = UploadOptions {
            puts_index: true,
            checks_space: false,
            verify: ContentScope::Nothing,
            dry_run: false,
            tells_before: false,
            lists_deleted: false,
            precheck: None,
            delete: None,
            backup: None,
            adopt: None,
            keep: None,
            ..(*self.options).clone()
        };
        let monitor = match slice.is_first() {
            true => self.monitor.clone(),
            false => {
                let name = format!("slice {slice}");
                Arc::new(NamedMonitor { monitor: self.monitor.clone(), name })
            }
        };
        let part = Self::new(self.source.clone(), client, Arc::new(options), monitor, self.summary.clone())?;
        if slice.is_first() {
            part.slice.lock().clone_from(&self.slice.lock());
            part.receiver_id.lock().clone_from(&self.receiver_id.lock());
        }
        Ok(Self { whole: Some(self.client.clone()), shared: self.shared.clone(), ..part })
    }
}
