//! Block numbers of one process, as ranges: a list of ten million missing blocks is one range.

use super::{Answer, BlockQueue, Ticket};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::Range;

/// Hands out block numbers, each once, ascending.
#[derive(Debug, Default)]
pub struct RangeQueue {
    ranges: Mutex<VecDeque<Range<u64>>>,
    again: bool,
}

impl RangeQueue {
    /// A queue of the blocks in `ranges`.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let ranges = ranges.into_iter().filter(|range| range.start < range.end).collect();
        Self { ranges: Mutex::new(ranges), again: false }
    }

    /// The same of blocks that were sent in vain.
    pub fn again(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self { again: true, ..Self::new(ranges) }
    }

    fn next(&self) -> Option<u64> {
        let mut ranges = self.ranges.lock();
        let first = ranges.front_mut()?;
        let number = first.start;
        first.start += 1;
        if first.start >= first.end {
            ranges.pop_front();
        }
        Some(number)
    }
}

impl BlockQueue for RangeQueue {
    fn claim(&self) -> Answer<'_, Option<Ticket>> {
        Box::pin(std::future::ready(Ok(self.next().map(|number| Ticket {
            number,
            again: self.again,
            lease: None,
        }))))
    }

    fn confirm(&self, _: Ticket) {}

    fn fail(&self, _: Ticket) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&self) -> Answer<'_, ()> {
        self.ranges.lock().clear();
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_once() {
        let queue = RangeQueue::new([0..2, 5..5, 7..9]);
        let all: Vec<u64> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(all, [0, 1, 7, 8]);
        assert!(queue.next().is_none());
    }
}
