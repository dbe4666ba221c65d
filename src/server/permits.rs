//! Permits for what takes memory or work: given in turn to clients, and taken from slow bodies for
//! which others wait.
//!
//! A request that waits gets the next free permit if its client holds the fewest; so a client with
//! hundreds of requests delays another client by one of its own at most. A permit that is held by a
//! body which hardly comes in is taken away, but only while another request waits: a slow link has
//! an idle receiver for itself.

use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Counter;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// The rate of a body is that of its last bytes, over so long.
const RATE_WINDOW: Duration = Duration::from_secs(1);
/// Below this rate, in bytes a second, a body does not come but drip: it gives way to any other
/// request.
const DRIP_RATE: u64 = 1 << 10;
/// Below this rate, in bytes a second, a body gives way to a client that holds fewer permits.
const FAIR_RATE: u64 = 64 << 10;
/// Below this rate, in bytes a second, a body gives way to any other ...
const MIN_RATE: u64 = 16 << 10;
/// ... after so long. A sender that knows its link to be slow sends bodies that take less.
const SLOW_TIMEOUT: Duration = Duration::from_secs(10);
/// A body whose client holds more permits than the waiting client gives way after so long, whatever
/// its rate.
const LONG_TIMEOUT: Duration = Duration::from_secs(120);
/// A body that came faster than [`FAIR_RATE`] may pause for so long.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How often a request that waits looks for a body that is too slow.
const PREEMPTION_INTERVAL: Duration = Duration::from_millis(100);

/// Whose request it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requester {
    /// The name of its token, if there are tokens.
    pub(super) token: Option<String>,
    /// The network that it comes from.
    pub(super) network: IpAddr,
    /// The archive that it is about.
    pub(super) tar_id: u64,
}

/// A number of permits.
pub(super) struct Permits {
    total: usize,
    /// So many more there are for clients that hold none.
    spare: usize,
    /// Bytes that have come of bodies with permits.
    received: Counter,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    holders: Vec<Holder>,
    /// In the order in which they came.
    waiters: Vec<Waiter>,
    next_id: u64,
}

struct Holder {
    id: u64,
    requester: Requester,
    progress: Arc<Progress>,
}

struct Waiter {
    id: u64,
    requester: Requester,
    grant: oneshot::Sender<Permit>,
}

/// How a body comes in.
#[derive(Default)]
struct Progress {
    rate: Mutex<Option<Rate>>,
    /// The permit was taken away, and is on its way back.
    is_preempted: AtomicBool,
    preempted: Notify,
}

impl Progress {
    fn is_preempted(&self) -> bool {
        self.is_preempted.load(Ordering::Relaxed)
    }
}

/// How much of a body came in the last [`RATE_WINDOW`].
struct Rate {
    begun: Instant,
    total_bytes: u64,
    last: Instant,
    /// Bytes from a time on.
    buckets: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { begun: now, total_bytes: 0, last: now, buckets: VecDeque::new() }
    }

    fn add(&mut self, bytes: u64, now: Instant) {
        self.total_bytes += bytes;
        self.last = now;
        while self.buckets.front().is_some_and(|(at, _)| now - *at >= RATE_WINDOW) {
            self.buckets.pop_front();
        }
        match self.buckets.back_mut() {
            Some((at, in_bucket)) if now - *at < RATE_WINDOW / 8 => *in_bucket += bytes,
            _ => self.buckets.push_back((now, bytes)),
        }
    }

    fn bytes_per_s(&self, now: Instant) -> u64 {
        let recent = self.buckets.iter().filter(|(at, _)| now - *at < RATE_WINDOW);
        recent.map(|(_, bytes)| bytes).sum::<u64>() * 1000 / RATE_WINDOW.as_millis() as u64
    }

    /// Whether a body that came well only pauses, as where packets were lost.
    fn pauses(&self, now: Instant) -> bool {
        let average = self.total_bytes as f64 / (now - self.begun).as_secs_f64().max(0.001);
        average >= FAIR_RATE as f64 && now - self.last < MAX_PAUSE
    }
}

impl Table {
    /// What is on its way back does not count.
    fn held(&self, same: impl Fn(&Requester) -> bool) -> usize {
        self.holders
            .iter()
            .filter(|holder| same(&holder.requester) && !holder.progress.is_preempted())
            .count()
    }

    /// What a requester holds already: by its token, of that by its network, and of that for its
    /// archive.
    fn load(&self, of: &Requester) -> (usize, usize, usize) {
        let by_token = |other: &Requester| other.token == of.token;
        let by_network = |other: &Requester| by_token(other) && other.network == of.network;
        (self.held(by_token), self.held(by_network), self.held(|other| other == of))
    }

    /// Whether a permit that goes from `holder` to `waiter` makes their shares more equal.
    fn is_heavier(&self, holder: &Requester, waiter: &Requester) -> bool {
        let (theirs, ours) = (self.load(holder), self.load(waiter));
        if holder.token != waiter.token {
            theirs.0 > ours.0 + 1
        } else if holder.network != waiter.network {
            theirs.1 > ours.1 + 1
        } else {
            theirs.2 > ours.2 + 1
        }
    }

    /// What a client holds already: by its token, or where there are none, by its network.
    fn held_by(&self, client: &Requester) -> usize {
        let (by_token, by_network, _) = self.load(client);
        if client.token.is_some() { by_token } else { by_network }
    }

    /// Whether there is a permit for a requester.
    fn has_room(&self, permits: &Permits, requester: &Requester) -> bool {
        let spare = if self.held_by(requester) == 0 { permits.spare } else { 0 };
        self.holders.len() < permits.total + spare
    }

    fn hold(&mut self, permits: &Arc<Permits>, requester: Requester) -> Permit {
        let id = self.next_id;
        self.next_id += 1;
        let progress = Arc::<Progress>::default();
        self.holders.push(Holder { id, requester, progress: progress.clone() });
        Permit { permits: permits.clone(), id, progress }
    }

    /// The waiter whose turn it is, if there is a permit for it.
    fn next_waiter(&mut self, permits: &Permits) -> Option<Waiter> {
        let turn = |waiter: &Waiter| (self.load(&waiter.requester), waiter.id);
        let (at, next) = self.waiters.iter().enumerate().min_by_key(|(_, waiter)| turn(waiter))?;
        self.has_room(permits, &next.requester).then(|| self.waiters.remove(at))
    }

    /// Takes a permit from the slowest body that has to give way to the waiter `id`, unless as many
    /// are on their way back already as there are waiters.
    fn preempt_for(&self, id: u64, now: Instant) {
        let Some(waiter) = self.waiters.iter().find(|waiter| waiter.id == id) else { return };
        let mut returning = 0;
        let mut slowest: Option<(u64, &Holder)> = None;
        for holder in &self.holders {
            if holder.progress.is_preempted() {
                returning += 1;
                continue;
            }
            let rate = holder.progress.rate.lock();
            let Some(rate) = rate.as_ref().filter(|rate| !rate.pauses(now)) else { continue };
            let (age, bytes_per_s) = (now - rate.begun, rate.bytes_per_s(now));
            let gives_way = bytes_per_s < DRIP_RATE
                || bytes_per_s < MIN_RATE && age >= SLOW_TIMEOUT
                || age >= LONG_TIMEOUT && self.held_by(&holder.requester) > self.held_by(&waiter.requester)
                || bytes_per_s < FAIR_RATE && self.is_heavier(&holder.requester, &waiter.requester);
            if age >= RATE_WINDOW && gives_way && slowest.is_none_or(|(least, _)| bytes_per_s < least) {
                slowest = Some((bytes_per_s, holder));
            }
        }
        if let Some((_, holder)) = slowest.filter(|_| returning < self.waiters.len()) {
            holder.progress.is_preempted.store(true, Ordering::Relaxed);
            holder.progress.preempted.notify_one();
        }
    }
}

impl Permits {
    /// `total` permits, and `spare` more of which each client gets one at most, so that a client
    /// that holds all others does not keep it waiting.
    pub(super) fn new(total: usize, spare: usize) -> Arc<Self> {
        Arc::new(Self { total, spare, received: Counter::default(), table: Mutex::default() })
    }

    /// Bytes that have come of bodies with permits, also of those that were given up.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received.get()
    }

    /// How many are held.
    pub(super) fn held(&self) -> usize {
        self.table.lock().holders.len()
    }

    /// Waits for a permit, at most `timeout`; `None` says that there was none.
    pub(super) async fn acquire(self: &Arc<Self>, requester: Requester, timeout: Duration) -> Option<Permit> {
        let (id, mut granted) = {
            let mut table = self.table.lock();
            if table.waiters.is_empty() && table.has_room(self, &requester) {
                return Some(table.hold(self, requester));
            }
            let (grant, granted) = oneshot::channel();
            let id = table.next_id;
            table.next_id += 1;
            table.waiters.push(Waiter { id, requester, grant });
            (id, granted)
        };
        let waiting = Waiting { permits: self, id };
        self.grant();
        let deadline = Instant::now() + timeout;
        loop {
            self.table.lock().preempt_for(waiting.id, Instant::now());
            let tick = deadline.min(Instant::now() + PREEMPTION_INTERVAL);
            match tokio::time::timeout_at(tick, &mut granted).await {
                Ok(permit) => return permit.ok(),
                Err(_) if Instant::now() >= deadline => return None,
                Err(_) => {}
            }
        }
    }

    fn release(self: &Arc<Self>, id: u64) {
        self.table.lock().holders.retain(|holder| holder.id != id);
        self.grant();
    }

    /// Gives what is free to those whose turn it is.
    fn grant(self: &Arc<Self>) {
        loop {
            let (grant, permit) = {
                let mut table = self.table.lock();
                let Some(waiter) = table.next_waiter(self) else { return };
                (waiter.grant, table.hold(self, waiter.requester))
            };
            // Who does not wait any more leaves its permit to the next one. The lock is free: a
            // permit that is dropped takes it.
            match grant.send(permit) {
                Ok(()) => {}
                Err(permit) => drop(permit),
            }
        }
    }
}

/// A request that waits; it leaves the queue when it stops waiting.
struct Waiting<'a> {
    permits: &'a Arc<Permits>,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.permits.table.lock().waiters.retain(|waiter| waiter.id != self.id);
    }
}

/// Given back when it is dropped.
pub(super) struct Permit {
    permits: Arc<Permits>,
    id: u64,
    progress: Arc<Progress>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.release(self.id);
    }
}

impl Permit {
    /// Begins to watch the body for which the permit is held.
    pub(super) fn begin_body(&self) {
        *self.progress.rate.lock() = Some(Rate::new(Instant::now()));
    }

    /// Records `bytes` more of the body.
    pub(super) fn record_bytes(&self, bytes: u64) {
        self.permits.received.add(bytes);
        if let Some(rate) = self.progress.rate.lock().as_mut() {
            rate.add(bytes, Instant::now());
        }
    }

    /// The body is there: the permit stays until the work is done.
    pub(super) fn end_body(&self) {
        *self.progress.rate.lock() = None;
        self.progress.is_preempted.store(false, Ordering::Relaxed);
    }

    /// Ready when the permit is taken away.
    pub(super) async fn preempted(&self) -> Error {
        self.progress.preempted.notified().await;
        Error::new(ErrorKind::TooSlow, "the body came too slowly while others waited, and was given up")
            .with_hint("send it again; on a slow link, smaller blocks (--block-size) get through")
    }
}

/// The answer to a request that waited for a permit in vain.
pub(super) fn busy(what: &str) -> Error {
    Error::new(ErrorKind::Busy, format!("too many {what} at once")).with_hint("send it again a little later")
}

/// Requests of one kind, of which an archive has one at most: one more is refused at once.
#[derive(Default)]
pub(super) struct PerArchive {
    busy: Mutex<HashSet<u64>>,
}

impl PerArchive {
    /// Begins the request about `tar_id`, which ends when the result is dropped.
    pub(super) fn enter(self: &Arc<Self>, tar_id: u64) -> Result<Entered> {
        if self.busy.lock().insert(tar_id) {
            return Ok(Entered { of: self.clone(), tar_id });
        }
        Err(Self::refusal(tar_id))
    }

    /// Refuses what [`PerArchive::enter`] would refuse.
    pub(super) fn check(&self, tar_id: u64) -> Result<()> {
        if self.busy.lock().contains(&tar_id) { Err(Self::refusal(tar_id)) } else { Ok(()) }
    }

    fn refusal(tar_id: u64) -> Error {
        let what = format!("another index of archive {tar_id} is being put in place");
        Error::new(ErrorKind::Busy, what).with_hint("send it again a little later")
    }
}

/// The request that [`PerArchive`] knows of.
pub(super) struct Entered {
    of: Arc<PerArchive>,
    tar_id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.of.busy.lock().remove(&self.tar_id);
    }
}

#[cfg(test)]
mod tests;
