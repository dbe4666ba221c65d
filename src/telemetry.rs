//! Counters that everybody reads the same way (terminal, metrics, JSON), and the port through which
//! the engine speaks.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only ever grows, or a level that moves both ways.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes `amount` away.
    pub fn sub(&self, amount: u64) {
        self.0.fetch_sub(amount, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How far a piece of work is. One instance a command; every field starts at 0.
#[derive(Debug, Default)]
pub struct Counters {
    /// Files to be done, as far as known.
    pub files_total: Counter,
    /// Files done.
    pub files_done: Counter,
    /// Files that failed or were skipped.
    pub files_failed: Counter,
    /// Bytes of content to be done, as far as known.
    pub total_bytes: Counter,
    /// More than 0 as long as more to do may still be found.
    pub totals_open: Counter,
    /// Bytes of content done, those included that were there before. Bytes that are sent count when
    /// they leave ([`InFlight`]).
    pub done_bytes: Counter,
    /// Bytes of content that were done before this run: they say nothing about its speed.
    pub resumed_bytes: Counter,
    /// Bytes of content that the other side has already, as comparing shows.
    pub equal_bytes: Counter,
    /// Blocks that were sent and accepted.
    pub sent_blocks: Counter,
    /// Bytes of content in them.
    pub sent_bytes: Counter,
    /// Bytes of bodies that went over the wire, attempts that failed included.
    pub wire_bytes: Counter,
    /// Requests that were sent again.
    pub retries: Counter,
    /// Blocks that were sent stored, not compressed.
    pub stored_blocks: Counter,
    /// Blocks that were sent as Zstandard frames.
    pub zstd_blocks: Counter,
}

impl Counters {
    /// Sets what progress is measured by to 0, for the next piece of the work.
    pub fn restart(&self) {
        let Self { files_total, files_done, total_bytes, done_bytes, resumed_bytes, .. } = self;
        for counter in [files_total, files_done, total_bytes, done_bytes, resumed_bytes] {
            counter.set(0);
        }
    }

    /// Sets everything to 0, for another run of the same command.
    pub fn clear(&self) {
        self.restart();
        let Self { files_failed, totals_open, equal_bytes, sent_blocks, sent_bytes, .. } = self;
        let Self { wire_bytes, retries, stored_blocks, zstd_blocks, .. } = self;
        let of_progress = [files_failed, totals_open, equal_bytes, sent_blocks, sent_bytes];
        for counter in of_progress.into_iter().chain([wire_bytes, retries, stored_blocks, zstd_blocks]) {
            counter.set(0);
        }
    }
}

/// Something a user wants to know while the work goes on. The engine never prints: it tells a
/// [`Monitor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A new phase of the work begins; the text is for people.
    Phase(&'static str),
    /// An entry has no content to copy: its printable path, and why.
    Skipped {
        /// The path, printable.
        path: String,
        /// Why.
        reason: String,
    },
    /// A file failed: its printable path, and why.
    Failed {
        /// The path, printable.
        path: String,
        /// Why.
        reason: String,
    },
    /// Something unusual that changes no result.
    Warning(String),
    /// Something that a user may want to know.
    Info(String),
}

/// Who is told what happens.
pub trait Monitor: Send + Sync {
    /// Takes a notice. It must not block for long.
    fn notice(&self, notice: Notice);
    /// The counters of this piece of work.
    fn counters(&self) -> &Counters;
    /// Whether the user wants the work to stop; long work looks now and then.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// What of a body may still be in the buffers of this host, in bytes, when the socket has taken it.
const BUFFERED_BYTES: u64 = 48 << 10;

/// Bytes of content on their way to a receiver. They count as done while they leave, all of them
/// once the receiver has [confirmed](Self::confirm) them, and none of them if it does not: dropping
/// takes back what was counted.
pub struct InFlight(Arc<Flight>);

struct Flight {
    monitor: Arc<dyn Monitor>,
    content_bytes: u64,
    state: Mutex<FlightState>,
}

#[derive(Default)]
struct FlightState {
    /// The number of the present attempt to send the body.
    attempt: u64,
    /// Bytes of the body that the socket has taken in this attempt.
    left_bytes: u64,
    /// Bytes of content that are counted as done.
    counted_bytes: u64,
    is_confirmed: bool,
}

impl InFlight {
    /// Nothing has left yet. `content_bytes` are the bytes that count as done in the end.
    #[must_use]
    pub fn new(monitor: Arc<dyn Monitor>, content_bytes: u64) -> Self {
        Self(Arc::new(Flight { monitor, content_bytes, state: Mutex::default() }))
    }

    /// A body of `length` bytes begins to bring the content, in place of any earlier one.
    #[must_use]
    pub fn begin(&self, length: u64) -> Departure {
        let attempt = self.0.revert();
        Departure { flight: self.0.clone(), attempt, length }
    }

    /// The attempt has failed: nothing of it counts any more.
    pub fn revert(&self) {
        self.0.revert();
    }

    /// The receiver has all of it.
    pub fn confirm(&self) {
        let mut state = self.0.state.lock();
        self.0.count(&mut state, self.0.content_bytes);
        state.is_confirmed = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.revert();
    }
}

impl Flight {
    /// Ends the present attempt; gives the number of the next one.
    fn revert(&self) -> u64 {
        let mut state = self.state.lock();
        if !state.is_confirmed {
            (state.attempt, state.left_bytes) = (state.attempt + 1, 0);
            self.count(&mut state, 0);
        }
        state.attempt
    }

    fn count(&self, state: &mut FlightState, bytes: u64) {
        let done = &self.monitor.counters().done_bytes;
        if bytes >= state.counted_bytes {
            done.add(bytes - state.counted_bytes);
        } else {
            done.sub(state.counted_bytes - bytes);
        }
        state.counted_bytes = bytes;
    }
}

/// The body of one attempt while it leaves.
#[derive(Clone)]
pub struct Departure {
    flight: Arc<Flight>,
    attempt: u64,
    length: u64,
}

impl Departure {
    /// The socket has taken `bytes` more of the body. What may still be in buffers of this host
    /// counts at the confirmation.
    pub fn record(&self, bytes: usize) {
        let mut state = self.flight.state.lock();
        if state.attempt != self.attempt || state.is_confirmed {
            return;
        }
        state.left_bytes = (state.left_bytes + bytes as u64).min(self.length);
        let gone_bytes = state.left_bytes.saturating_sub(BUFFERED_BYTES.min(self.length / 2));
        let share = u128::from(self.flight.content_bytes) * u128::from(gone_bytes);
        let counted = share / u128::from(self.length.max(1));
        self.flight.count(&mut state, u64::try_from(counted).unwrap_or(u64::MAX));
    }
}

/// Speaks for one of several that do the same work side by side: its warnings say which one, and it
/// begins no phases, which are those of the whole work.
pub struct NamedMonitor {
    /// Who is told.
    pub monitor: Arc<dyn Monitor>,
    /// Which one it is.
    pub name: String,
}

impl Monitor for NamedMonitor {
    fn notice(&self, notice: Notice) {
        match notice {
            Notice::Phase(_) => {}
            Notice::Warning(text) => self.monitor.notice(Notice::Warning(format!("{}: {text}", self.name))),
            Notice::Info(text) => self.monitor.notice(Notice::Info(format!("{}: {text}", self.name))),
            other => self.monitor.notice(other),
        }
    }

    fn counters(&self) -> &Counters {
        self.monitor.counters()
    }

    fn is_cancelled(&self) -> bool {
        self.monitor.is_cancelled()
    }
}

/// A monitor that keeps counters and drops every notice.
#[derive(Debug, Default)]
pub struct Silent(Counters);

impl Monitor for Silent {
    fn notice(&self, _: Notice) {}
    fn counters(&self) -> &Counters {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An [`InFlight`] of 30,000,000 bytes of content, and how many count as done.
    fn flight() -> (InFlight, impl Fn() -> u64) {
        let monitor = Arc::new(Silent::default());
        let flight = InFlight::new(monitor.clone(), 30_000_000);
        (flight, move || monitor.counters().done_bytes.get())
    }

    #[test]
    fn content_counts_in_proportion_while_it_leaves_and_exactly_when_confirmed() {
        let (flight, done) = flight();
        // Half as long, because it is compressed.
        let body = flight.begin(15_000_000);
        body.record(40_000);
        assert_eq!(done(), 0, "it may still be in a buffer");
        body.record(7_460_000);
        assert_eq!(done(), 30_000_000 / 2 - 2 * BUFFERED_BYTES);
        body.record(7_500_000);
        assert!(done() < 30_000_000);
        flight.confirm();
        assert_eq!(done(), 30_000_000);
        body.record(1);
        drop((flight, body));
        assert_eq!(done(), 30_000_000);
    }

    #[test]
    fn an_attempt_that_failed_does_not_count() {
        let (flight, done) = flight();
        let first = flight.begin(20_000_000);
        first.record(10_000_000);
        assert!(done() > 14_000_000);
        flight.revert();
        assert_eq!(done(), 0);
        first.record(10_000_000);
        assert_eq!(done(), 0, "a piece of the failed attempt was dropped");
        let second = flight.begin(1_000_000);
        second.record(2_000_000);
        assert!((20_000_000..30_000_000).contains(&done()), "a body never counts more than it brings");
        drop(flight);
        assert_eq!(done(), 0);
        second.record(1);
        assert_eq!(done(), 0);
    }
}
