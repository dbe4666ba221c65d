//! How often requests were answered with which status, for the metrics.

use crate::telemetry::Counter;

/// Statuses that ask an operator for something different each.
const REFUSALS: [u16; 12] = [401, 403, 404, 408, 409, 412, 413, 422, 429, 431, 503, 507];

/// Answers by the first digit of their status, of which index 0 counts 1xx; and refusals by their
/// status.
#[derive(Debug, Default)]
pub(super) struct ResponseCounters {
    classes: [Counter; 5],
    refusals: [Counter; REFUSALS.len()],
}

impl ResponseCounters {
    pub(super) fn count(&self, status: u16) {
        if let Some(counter) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            counter.add(1);
        }
        for (_, counter) in REFUSALS.iter().zip(&self.refusals).filter(|(refusal, _)| **refusal == status) {
            counter.add(1);
        }
    }

    /// How many answers had a status of each class: 1xx to 5xx.
    pub(super) fn classes(&self) -> [u64; 5] {
        self.classes.each_ref().map(Counter::get)
    }

    /// How many answers had each of the statuses that ask an operator for something.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (u16, u64)> {
        REFUSALS.into_iter().zip(self.refusals.iter().map(Counter::get))
    }
}
