//! Counters that everybody reads the same way (terminal, metrics, JSON), and the port through which
//! the engine speaks.

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
    /// Bytes of content done, those included that were there before.
    pub done_bytes: Counter,
    /// Bytes of content that were there before this run.
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
        for counter in [&self.files_total, &self.files_done, &self.total_bytes, &self.done_bytes] {
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
    /// A file was skipped or failed: its printable path, and why.
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

/// A monitor that keeps counters and drops every notice.
#[derive(Debug, Default)]
pub struct Silent(Counters);

impl Monitor for Silent {
    fn notice(&self, _: Notice) {}
    fn counters(&self) -> &Counters {
        &self.0
    }
}
