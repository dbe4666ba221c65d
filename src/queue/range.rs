//! Block numbers of one process, as ranges: a list of ten million missing blocks is one range.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;

/// Hands out block numbers, each once, ascending.
#[derive(Debug, Default)]
pub struct RangeQueue(Mutex<VecDeque<Range<u64>>>);

impl RangeQueue {
    /// A queue of the blocks in `ranges`.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self(Mutex::new(ranges.into_iter().filter(|range| range.start < range.end).collect()))
    }

    /// The next block number; `None` when all were handed out.
    pub fn claim(&self) -> Option<u64> {
        let mut ranges = self.0.lock();
        let first = ranges.front_mut()?;
        let number = first.start;
        first.start += 1;
        if first.start >= first.end {
            ranges.pop_front();
        }
        Some(number)
    }

    /// How many block numbers are left.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.lock().iter().map(|range| range.end - range.start).sum()
    }

    /// Whether all were handed out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_once() {
        let queue = RangeQueue::new([0..2, 5..5, 7..9]);
        assert_eq!(queue.len(), 4);
        let all: Vec<u64> = std::iter::from_fn(|| queue.claim()).collect();
        assert_eq!(all, [0, 1, 7, 8]);
        assert!(queue.is_empty() && queue.claim().is_none());
    }
}
