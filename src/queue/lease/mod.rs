//! Leases on ranges of blocks, for many hosts that send one archive. An engine keeps them, as a
//! hint.
//!
//! ```text
//!  seed ─▶ free ranges ── claim ─▶ lease ── renew … ─▶ done
//!                ▲                   │ silent, or given back
//!                └───────────────────┘ 5 attempts ─▶ parked
//! ```
//!
//! Each host claims what it sends in about three quarters of a lease. When nothing is free, it
//! takes the far half of the largest lease; of small ones, it helps with the oldest from its far end.
//! So a slow host holds up no other. The engine may lose all it has: a host that finds nothing asks the receiver what is
//! missing, and begins another round. While the engine does not answer, a host sends what it has
//! leased, waits, and then goes through what the receiver misses in an order of its own
//! (`detour`).

mod detour;
mod engine;
mod held;
mod jobs;
mod scripts;

pub use engine::{Engine, EngineAddress};
pub use jobs::{ALL_HOSTS, JobDetails, JobHost, JobParameters, Jobs, MAX_LEASE_S};
pub use scripts::{Grant, Job, JobState, Renewal, Wish};

use super::{Answer, BlockQueue, Ticket};
use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use detour::Detour;
use held::Held;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// So often a range is given out before it is parked.
pub const ATTEMPTS: u64 = 5;
/// A host that waits for others asks again after this time.
const WAIT: Duration = Duration::from_millis(500);
/// So many ranges at most are in a job when it begins. What lies in small gaps between them is
/// claimed, too, and skipped by hosts that know it is there.
const MAX_RANGES: usize = 4096;
/// So many blocks a host may fail to send before it is asked whether it sends any.
const MAX_FAILED: u64 = 8;
/// How often a host says how far it is, so that others see the job's progress ...
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);
/// ... and when others may help, so that little is sent twice.
const END_INTERVAL: Duration = Duration::from_millis(400);
/// Of more hosts than this, each one says it in proportion less often.
const FREQUENT_HOSTS: u64 = 100;
/// So long an engine is left alone that did not answer.
const ENGINE_INTERVAL: Duration = Duration::from_secs(5);
/// A lease that gets nowhere for so many times its length is not renewed.
const STANDSTILL_LEASES: u32 = 10;

/// Tells which blocks the receiver misses.
pub type Missing = Box<dyn Fn() -> Answer<'static, RangeSet> + Send + Sync>;

/// How a host takes part in a job.
pub struct LeaseOptions {
    /// A name that no other process ever has.
    pub host: String,
    /// What further hosts have to know.
    pub parameters: JobParameters,
    /// Becomes true when this host is to claim no more.
    pub leaves: Arc<AtomicBool>,
    /// Blocks that are sent at once.
    pub workers: usize,
    /// Which blocks the receiver misses.
    pub missing: Missing,
}

impl LeaseOptions {
    fn lease(&self) -> Duration {
        self.parameters.lease()
    }
}

/// The blocks of a job that this host sends.
pub struct LeaseQueue {
    job: Job,
    options: LeaseOptions,
    monitor: Arc<dyn Monitor>,
    state: Mutex<State>,
    /// One worker at a time asks for more.
    asking: tokio::sync::Mutex<()>,
    /// Told when all of a lease is confirmed: perhaps nothing is left then.
    done: Notify,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    held: Vec<Held>,
    /// Blocks that this host has sent, that it has confirmed in the round, and since when.
    sent: u64,
    confirmed: u64,
    since: Option<Instant>,
    /// The engine does not answer since then.
    lost: Option<Instant>,
    detour: Option<Detour>,
    /// Nothing is free any more, so that others may help.
    ends: bool,
    /// What the receiver missed when the round began, in blocks.
    wanted: RangeSet,
    /// Blocks that this host had, and could not send.
    failed: u64,
    has_given_up: bool,
    /// When this host has learnt last how far the job is.
    looked: Option<Instant>,
    /// Hosts that took part when this one looked last, with this one.
    hosts: u64,
    /// What other hosts had confirmed when this one looked last: round and blocks.
    others: Option<(u64, u64)>,
    /// Rounds of this host, with this one.
    rounds: u64,
    /// This host has taken part in the round.
    begun: bool,
    /// Nothing is left in the round.
    drained: bool,
    parked: u64,
    /// When to try the engine again that did not answer.
    ask_next: Option<Instant>,
}

/// The few ranges that cover `missing`: the largest gaps stay gaps.
fn coarsened(missing: &RangeSet) -> Vec<std::ops::Range<u64>> {
    let all: Vec<_> = missing.iter().collect();
    if all.len() <= MAX_RANGES {
        return all;
    }
    let mut gaps: Vec<u64> = all.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
    let nth = gaps.len() - (MAX_RANGES - 1);
    let (_, &mut smallest_kept, _) = gaps.select_nth_unstable(nth);
    let mut few: Vec<std::ops::Range<u64>> = Vec::with_capacity(MAX_RANGES);
    for range in all {
        let is_full = few.len() == MAX_RANGES;
        match few.last_mut() {
            Some(last) if range.start - last.end < smallest_kept || is_full => last.end = range.end,
            _ => few.push(range),
        }
    }
    few
}

/// Whose error it is that nothing could be claimed: an engine may be away, and the receiver has its
/// own patience.
enum Failed {
    Engine(Error),
    Receiver(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl LeaseQueue {
    /// This host's part of `job`.
    #[must_use]
    pub fn new(job: Job, options: LeaseOptions, monitor: Arc<dyn Monitor>) -> Arc<Self> {
        let queue = Arc::new(Self {
            job,
            options,
            monitor,
            state: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            done: Notify::new(),
            closed: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&queue);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(END_INTERVAL).await;
                let Some(queue) = weak.upgrade() else { return };
                if queue.closed.load(Ordering::Relaxed) {
                    return;
                }
                queue.renew_due().await;
            }
        });
        queue
    }

    /// At most a third of a lease.
    fn renewal_interval(&self) -> Duration {
        let State { ends, hosts, .. } = *self.state.lock();
        let interval = if ends { END_INTERVAL } else { RENEWAL_INTERVAL };
        let crowd = (hosts as f64 / FREQUENT_HOSTS as f64).max(1.0);
        interval.mul_f64(crowd).min(self.options.lease() / 3)
    }

    /// How many hosts take part, as far as is known here.
    #[must_use]
    pub fn hosts(&self) -> u64 {
        self.state.lock().hosts
    }

    /// Begins the next round, or joins one that is on. Of what the engine gives out, only `wanted` is
    /// sent: the receiver has the rest.
    pub fn begin_round(&self, wanted: RangeSet) {
        let mut state = self.state.lock();
        (state.wanted, state.begun, state.drained, state.parked) = (wanted, false, false, 0);
        state.rounds += 1;
    }

    /// Whether this host has stopped although something is left: its files are not those of the
    /// index, or it is to leave.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.state.lock().has_given_up || self.leaves()
    }

    fn leaves(&self) -> bool {
        self.options.leaves.load(Ordering::Relaxed)
    }

    /// Removes the job from the engine: nothing is left of it.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn forget(&self) -> Result<()> {
        self.job.forget().await
    }

    /// How many ranges no host could send.
    #[must_use]
    pub fn parked(&self) -> u64 {
        self.state.lock().parked
    }

    /// After which time this host may send `bytes`, if all hosts together are to send `rate` bytes a
    /// second. While the engine does not answer, each has an equal share.
    pub async fn grant(&self, bytes: u64, rate: u64) -> Duration {
        let is_lost = self.state.lock().lost.is_some();
        let granted = if is_lost { None } else { self.job.take(bytes, rate).await.ok() };
        granted.unwrap_or_else(|| {
            let hosts = self.state.lock().hosts.max(1);
            Duration::from_secs_f64((bytes * hosts) as f64 / rate.max(1) as f64)
        })
    }

    fn take_held(&self) -> Option<Ticket> {
        let mut state = self.state.lock();
        let State { held, wanted, confirmed, .. } = &mut *state;
        held.iter_mut().find_map(|held| {
            while let Some(number) = held.next() {
                if wanted.contains(number..number + 1) {
                    return Some(held.ticket(number));
                }
                held.confirm(number);
                *confirmed += 1;
            }
            None
        })
    }

    /// What is claimed next: as many blocks as this host sends in three quarters of a lease.
    fn wish<'a>(&'a self, about: &'a str, done: Option<&'a str>) -> Wish<'a> {
        let LeaseOptions { host, parameters, workers, .. } = &self.options;
        let (lease, all_blocks) = (parameters.lease(), parameters.blocks);
        let blocks = match self.rate() {
            // Nothing is known of the link yet.
            None => *workers as u64,
            Some(rate) => (rate * lease.as_secs_f64() * 0.75) as u64,
        };
        let blocks = blocks.max(1);
        Wish { host, about, blocks, all_blocks, lease, attempts: ATTEMPTS, done }
    }

    /// Blocks that this host sends in a second.
    fn rate(&self) -> Option<f64> {
        let state = self.state.lock();
        let seconds = state.since?.elapsed().as_secs_f64();
        (state.sent > 0).then(|| state.sent as f64 / seconds)
    }

    /// What this host says of itself.
    fn about(&self) -> String {
        let rate = self.rate().unwrap_or_default() * self.options.parameters.block_size as f64;
        format!(r#"{{"version":"{}","rate":{}}}"#, env!("CARGO_PKG_VERSION"), rate as u64)
    }

    /// Claims more from the engine; gives whether there may be something now.
    async fn ask(&self) -> std::result::Result<bool, Failed> {
        let done = {
            let mut state = self.state.lock();
            let done = state.held.iter().position(Held::is_done).map(|at| state.held.swap_remove(at));
            state.since.get_or_insert_with(Instant::now);
            done.and_then(|held| held.id)
        };
        let about = self.about();
        let grant = self.job.claim(&self.wish(&about, done.as_deref())).await?;
        self.found();
        match grant {
            Grant::Nothing => self.begin(0).await?,
            Grant::Drained { round, .. } if !self.state.lock().begun => self.begin(round).await?,
            Grant::Drained { parked, .. } => {
                let mut state = self.state.lock();
                (state.drained, state.parked) = (true, parked);
            }
            // Another lease of this host may be done, too.
            Grant::Wait => {
                let mut state = self.state.lock();
                (state.begun, state.ends) = (true, true);
                return Ok(done.is_some());
            }
            Grant::Range { id, blocks, attempts, again, ends, helps } => {
                let mut state = self.state.lock();
                (state.begun, state.ends) = (true, ends);
                state.held.push(Held::new(Some(id), blocks, helps).tried(attempts, again));
            }
        }
        Ok(true)
    }

    /// Begins the round after `before`, if the receiver misses anything.
    async fn begin(&self, before: u64) -> std::result::Result<(), Failed> {
        let missing = (self.options.missing)().await.map_err(Failed::Receiver)?;
        if missing.covered() == 0 {
            self.state.lock().drained = true;
            return Ok(());
        }
        let again = self.state.lock().rounds > 1;
        self.job.seed(before, &coarsened(&missing), again).await?;
        self.job.announce(&self.options.parameters).await?;
        self.state.lock().begun = true;
        Ok(())
    }

    /// The engine does not answer; says so once.
    fn lose(&self, error: &Error) -> Instant {
        let mut state = self.state.lock();
        state.ask_next = Some(Instant::now() + ENGINE_INTERVAL);
        if let Some(since) = state.lost {
            return since;
        }
        drop(state);
        let lease = self.options.lease().as_secs();
        self.monitor.notice(Notice::Warning(format!(
            "{error}; going on with what this host has, and after {lease} s without the queue"
        )));
        *self.state.lock().lost.insert(Instant::now())
    }

    /// The engine answers.
    fn found(&self) {
        let mut state = self.state.lock();
        (state.detour, state.ask_next) = (None, None);
        if state.lost.take().is_some() {
            drop(state);
            self.monitor.notice(Notice::Warning(format!("the queue {} answers again", self.job.engine())));
        }
    }

    /// What to do while the engine does not answer: wait, then take from what the receiver misses.
    async fn detour(&self, lost: Instant) -> Result<()> {
        if lost.elapsed() < self.options.lease() {
            tokio::time::sleep(WAIT).await;
            return Ok(());
        }
        let is_stale = self.state.lock().detour.as_ref().is_none_or(Detour::is_stale);
        if is_stale {
            let missing = (self.options.missing)().await?;
            let mut state = self.state.lock();
            state.held.retain(|held| held.id.is_some());
            state.drained = missing.covered() == 0;
            state.detour = Some(Detour::new(&self.options.host, &missing, self.options.lease() / 4));
        }
        let mut state = self.state.lock();
        if let Some(blocks) = state.detour.as_mut().and_then(Detour::next) {
            let again = state.rounds > 1;
            state.held.push(Held::new(None, blocks, false).tried(0, again));
        }
        Ok(())
    }

    /// Claims until there is something to send, or nothing left.
    async fn claim_next(&self) -> Result<Option<Ticket>> {
        loop {
            let ends = || self.closed.load(Ordering::Relaxed) || self.leaves() || self.state.lock().drained;
            if ends() {
                return Ok(None);
            }
            if let Some(ticket) = self.take_held() {
                return Ok(Some(ticket));
            }
            let _turn = self.asking.lock().await;
            if ends() || self.state.lock().held.iter().any(Held::has_next) {
                continue;
            }
            let (lost, ask_next) = {
                let state = self.state.lock();
                (state.lost, state.ask_next)
            };
            if let (Some(lost), Some(at)) = (lost, ask_next)
                && Instant::now() < at
            {
                self.detour(lost).await?;
                continue;
            }
            match self.ask().await {
                Ok(true) => {}
                Ok(false) => {
                    let _ = tokio::time::timeout(WAIT, self.done.notified()).await;
                }
                Err(Failed::Engine(e)) if e.kind() == ErrorKind::Unreachable => {
                    let lost = self.lose(&e);
                    self.detour(lost).await?;
                }
                Err(Failed::Engine(e) | Failed::Receiver(e)) => return Err(e),
            }
        }
    }

    /// The leases of which the engine is to hear again, and how far they are; `None` if it is to be
    /// asked alone how far others are.
    fn due(&self) -> Option<Vec<(String, u64)>> {
        let (interval, mut state) = (self.renewal_interval(), self.state.lock());
        let State { held, looked, .. } = &mut *state;
        let mut leases = held.iter_mut().filter_map(|held| Some((held.id.clone()?, held))).peekable();
        if leases.peek().is_none() {
            let is_due = looked.is_none_or(|at| at.elapsed() >= interval);
            return if is_due { None } else { Some(vec![]) };
        }
        let due = leases.filter(|(_, held)| held.told.elapsed() >= interval).map(|(id, held)| {
            held.told = Instant::now();
            (id, held.reached())
        });
        Some(due.collect())
    }

    /// Says of each lease that is due how far it is, and learns how far others are.
    async fn renew_due(&self) {
        let due = self.due();
        if due.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        self.state.lock().looked = Some(Instant::now());
        let (about, standstill) = (self.about(), self.options.lease() * STANDSTILL_LEASES);
        let renew = async {
            let mut job = None;
            for (id, reached) in due.iter().flatten() {
                let wish = self.wish(&about, None);
                let renewal;
                (renewal, job) = self.job.renew(&wish, id, *reached, standstill).await?;
                self.learn(id, renewal);
            }
            if due.is_none() {
                job = self.job.state(self.options.lease()).await?;
            }
            job.into_iter().for_each(|job| self.count_others(job));
            Ok(())
        };
        // That the engine answers here does not say that it gives out blocks.
        if let Err(e) = renew.await {
            self.lose(&e);
        }
    }

    /// What other hosts have sent counts as done.
    fn count_others(&self, job: JobState) {
        let mut state = self.state.lock();
        state.hosts = job.hosts;
        let others = (job.blocks - job.left.min(job.blocks)).saturating_sub(state.confirmed);
        let before = state.others.replace((job.round, others));
        if let Some((round, before)) = before
            && round == job.round
        {
            let bytes = others.saturating_sub(before) * self.options.parameters.block_size;
            let counters = self.monitor.counters();
            let open = counters.total_bytes.get().saturating_sub(counters.done_bytes.get());
            counters.done_bytes.add(bytes.min(open));
        }
    }

    fn learn(&self, id: &str, renewal: Renewal) {
        let mut state = self.state.lock();
        let Some(at) = state.held.iter().position(|held| held.id.as_deref() == Some(id)) else { return };
        match renewal {
            Renewal::Held { open, ends } => {
                state.held[at].learn(open);
                state.ends = ends;
            }
            Renewal::Gone => {
                let held = state.held.swap_remove(at);
                // Otherwise the engine has forgotten it, or this host was silent for too long: what
                // is on its way is not given up for that.
                if state.ends {
                    held.lose();
                }
            }
        }
    }

    /// A host that can send little of what it gets leaves it to others.
    fn give_up_if_unfit(&self) {
        let mut state = self.state.lock();
        if state.has_given_up || state.failed < MAX_FAILED || state.failed <= state.sent {
            return;
        }
        state.has_given_up = true;
        let (failed, sent) = (state.failed, state.sent);
        drop(state);
        self.closed.store(true, Ordering::Relaxed);
        self.monitor.notice(Notice::Warning(format!(
            "{failed} blocks could not be read here as the index says, {sent} could: this host takes no more, and leaves them to \
             others. Has it the files of the host that made the index?"
        )));
    }

    /// Notes that `ticket` needs nothing more of this host; gives how often its range was given out.
    fn end_ticket(&self, ticket: &Ticket, is_sent: bool) -> Option<u64> {
        let mut state = self.state.lock();
        state.confirmed += 1;
        match is_sent {
            true => state.sent += 1,
            false => state.failed += 1,
        }
        let held = state.held.iter_mut().find(|held| held.has(ticket))?;
        held.confirm(ticket.number);
        let attempts = held.attempts;
        if held.is_done() {
            self.done.notify_one();
        }
        Some(attempts)
    }
}

impl BlockQueue for LeaseQueue {
    fn claim(&self) -> Answer<'_, Option<Ticket>> {
        Box::pin(self.claim_next())
    }

    fn confirm(&self, ticket: Ticket) {
        self.end_ticket(&ticket, true);
    }

    fn fail(&self, ticket: Ticket) -> Answer<'_, ()> {
        Box::pin(async move {
            let Some(attempts) = self.end_ticket(&ticket, false) else { return Ok(()) };
            self.give_up_if_unfit();
            match self.job.fail(&self.options.host, ticket.number, attempts + 1, ATTEMPTS).await {
                // The next round asks for it again.
                Err(e) if e.kind() == ErrorKind::Unreachable => {
                    self.lose(&e);
                    Ok(())
                }
                outcome => outcome,
            }
        })
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.closed.store(true, Ordering::Relaxed);
            let held = std::mem::take(&mut self.state.lock().held);
            if self.state.lock().lost.is_some() {
                return Ok(());
            }
            for held in &held {
                let Some(id) = &held.id else { continue };
                self.job.release(&self.options.host, Some((id, held.reached()))).await?;
            }
            // Only what others see of this host: it expires anyway.
            let _ = self.job.release(&self.options.host, None).await;
            Ok(())
        })
    }
}
