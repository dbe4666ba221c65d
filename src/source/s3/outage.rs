//! Failures that are not those of one object: the credentials, a store that is down or refuses
//! everything. The first request that meets one ends all of them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// After so many refusals without an answer for any object, all objects count as refused. Fewer
/// than an index asks for in one batch, so that most of them are not named one by one before.
const MAX_REFUSALS: u32 = 256;

/// Whether the store refuses all objects, or only some.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    refused: AtomicU32,
    has_answered: AtomicBool,
}

impl Refusals {
    /// Records that a request for an object was answered.
    pub(super) fn record_answer(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Records a refusal; true if the store refuses all objects.
    pub(super) fn record_refusal(&self) -> bool {
        self.refused.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_REFUSALS
            && !self.has_answered.load(Ordering::Relaxed)
    }
}

/// Why nothing can be read from a bucket any more.
#[derive(Debug)]
pub(super) struct Outage {
    pub(super) why: String,
    pub(super) hint: String,
}
