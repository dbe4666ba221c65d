//! Block ↔ archive range ↔ piece of a file. One function for each direction, used by every command.

use std::ops::Range;

/// The block size of the original program, in bytes.
pub const DEFAULT_BLOCK_SIZE: u64 = 30_000_000;

/// An archive of `total_bytes` cut into blocks of `block_size` bytes, numbered from 0; the last one
/// may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    total_bytes: u64,
    block_size: u64,
}

impl BlockLayout {
    /// `block_size` must not be 0.
    #[must_use]
    pub fn new(total_bytes: u64, block_size: u64) -> Option<Self> {
        (block_size > 0).then_some(Self { total_bytes, block_size })
    }

    /// How many blocks there are; none for an empty archive.
    #[must_use]
    pub fn blocks(self) -> u64 {
        self.total_bytes.div_ceil(self.block_size)
    }

    /// The bytes of block `number`; `None` behind the end.
    #[must_use]
    pub fn range(self, number: u64) -> Option<Range<u64>> {
        let start = number.checked_mul(self.block_size).filter(|&start| start < self.total_bytes)?;
        Some(start..start.saturating_add(self.block_size).min(self.total_bytes))
    }

    /// The numbers of the blocks that hold any byte of `range`.
    #[must_use]
    pub fn blocks_of(self, range: Range<u64>) -> Range<u64> {
        let end = range.end.min(self.total_bytes);
        if range.start >= end {
            return 0..0;
        }
        range.start / self.block_size..end.div_ceil(self.block_size)
    }

    /// The bytes of the blocks `first..=last`, both as on the command line; `None` for `last` means
    /// to the end.
    #[must_use]
    pub fn window(self, first: u64, last: Option<u64>) -> Range<u64> {
        let start = first.saturating_mul(self.block_size).min(self.total_bytes);
        let end = last.map_or(self.total_bytes, |last| {
            last.saturating_add(1).saturating_mul(self.block_size).min(self.total_bytes)
        });
        start..end.max(start)
    }
}

/// The intersection of `a` and `b`; empty where they are apart, and never with `start > end`.
#[must_use]
pub fn intersect(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exact_multiples_have_no_empty_last_block() {
        let block_layout = BlockLayout::new(90, 30).unwrap();
        assert_eq!(
            (block_layout.blocks(), block_layout.range(2), block_layout.range(3)),
            (3, Some(60..90), None)
        );
        let block_layout = BlockLayout::new(91, 30).unwrap();
        assert_eq!((block_layout.blocks(), block_layout.range(3)), (4, Some(90..91)));
        assert_eq!(BlockLayout::new(0, 30).unwrap().blocks(), 0);
        assert!(BlockLayout::new(1, 0).is_none());
    }

    #[test]
    fn huge_numbers_do_not_overflow() {
        let block_layout = BlockLayout::new(u64::MAX, 1).unwrap();
        assert_eq!(block_layout.range(u64::MAX), None);
        assert_eq!(block_layout.range(u64::MAX - 1), Some(u64::MAX - 1..u64::MAX));
        assert_eq!(BlockLayout::new(10, u64::MAX).unwrap().range(u64::MAX), None);
        assert_eq!(BlockLayout::new(10, 3).unwrap().window(u64::MAX, Some(u64::MAX)), 10..10);
    }

    #[test]
    fn window_is_inclusive_on_both_ends() {
        let block_layout = BlockLayout::new(100, 30).unwrap();
        assert_eq!(block_layout.window(1, Some(1)), 30..60);
        assert_eq!(block_layout.window(0, None), 0..100);
        assert_eq!(block_layout.window(2, Some(1)), 60..60);
    }

    proptest! {
        #[test]
        fn blocks_tile_the_archive(total in 0u64..2000, size in 1u64..300) {
            let block_layout = BlockLayout::new(total, size).unwrap();
            let mut at = 0;
            for n in 0..block_layout.blocks() {
                let range = block_layout.range(n).unwrap();
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > range.start && range.end - range.start <= size);
                prop_assert_eq!(block_layout.blocks_of(range.clone()), n..n + 1);
                at = range.end;
            }
            prop_assert_eq!(at, total);
            prop_assert!(block_layout.range(block_layout.blocks()).is_none());
        }

        #[test]
        fn blocks_of_is_the_inverse_of_range(total in 1u64..2000, size in 1u64..300, a in 0u64..2500, len in 0u64..500) {
            let block_layout = BlockLayout::new(total, size).unwrap();
            let wanted = a..a + len;
            let expected: Vec<u64> = (0..block_layout.blocks()).filter(|&n| { let r = intersect(&block_layout.range(n).unwrap(), &wanted); r.start < r.end }).collect();
            prop_assert_eq!(block_layout.blocks_of(wanted).collect::<Vec<_>>(), expected);
        }
    }
}
