//! A set of non-negative integers, stored as disjoint half-open ranges: which bytes have arrived,
//! which files are published.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-adjacent, non-empty half-open ranges. Memory grows with the number of gaps, not
/// with the integers covered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: BTreeMap<u64, u64>,
    covered: u64,
}

impl RangeSet {
    /// How many integers are in the set.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// Adds `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && before_end >= start
        {
            start = before;
            end = end.max(before_end);
        }
        let absorbed: Vec<(u64, u64)> = self.ranges.range(start..=end).map(|(&s, &e)| (s, e)).collect();
        for (s, e) in absorbed {
            self.ranges.remove(&s);
            self.covered -= e - s;
            end = end.max(e);
        }
        self.ranges.insert(start, end);
        self.covered += end - start;
    }

    /// Removes `range`.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let from = self.ranges.range(..=range.start).next_back().map_or(range.start, |(&s, _)| s);
        let touched: Vec<(u64, u64)> = self.ranges.range(from..range.end).map(|(&s, &e)| (s, e)).collect();
        for (s, e) in touched {
            if e <= range.start {
                continue;
            }
            self.ranges.remove(&s);
            self.covered -= e - s;
            for (s, e) in [(s, e.min(range.start)), (s.max(range.end), e)] {
                if s < e {
                    self.ranges.insert(s, e);
                    self.covered += e - s;
                }
            }
        }
    }

    /// Whether every integer of `range` is in the set; true for an empty range.
    #[must_use]
    pub fn contains(&self, range: Range<u64>) -> bool {
        range.start >= range.end
            || self.ranges.range(..=range.start).next_back().is_some_and(|(_, &end)| end >= range.end)
    }

    /// The ranges of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&s, &e)| s..e)
    }

    /// The ranges of `window` that are in the set, ascending.
    pub fn common(&self, window: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.range(..=window.start).next_back().map_or(window.start, |(&s, _)| s);
        self.ranges
            .range(first..window.end.max(first))
            .map(move |(&s, &e)| s.max(window.start)..e.min(window.end))
            .filter(|range| range.start < range.end)
    }

    /// What is in both sets.
    #[must_use]
    pub fn in_common(&self, other: &Self) -> Self {
        other.iter().flat_map(|range| self.common(range)).collect()
    }

    /// The ranges of `window` that are not in the set, ascending.
    pub fn missing(&self, window: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.range(..=window.start).next_back().map_or(window.start, |(&s, _)| s);
        let mut at = window.start;
        self.ranges
            .range(first..window.end.max(first))
            .map(|(&s, &e)| (s, e))
            .chain(std::iter::once((window.end, window.end)))
            .filter_map(move |(s, e)| {
                let gap = at..s.min(window.end);
                at = at.max(e);
                (gap.start < gap.end).then_some(gap)
            })
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn adjacent_ranges_merge() {
        let mut set = RangeSet::default();
        set.insert(0..10);
        set.insert(20..30);
        set.insert(10..20);
        assert_eq!((set.iter().count(), set.iter().next()), (1, Some(0..30)));
        set.remove(5..7);
        assert_eq!(set.missing(0..40).collect::<Vec<_>>(), [5..7, 30..40]);
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_integers(steps in proptest::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..60), window in (0u64..70, 0u64..30)) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (add, start, length) in steps {
                let range = start..start + length;
                if add { set.insert(range.clone()); model.extend(range) } else { set.remove(range.clone()); for i in range { model.remove(&i); } }
                prop_assert_eq!(set.covered(), model.len() as u64);
                prop_assert_eq!(set.iter().flatten().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            }
            let all: Vec<_> = set.iter().collect();
            prop_assert!(all.windows(2).all(|w| w[0].end < w[1].start));
            let window = window.0..window.0 + window.1;
            prop_assert_eq!(set.missing(window.clone()).flatten().collect::<Vec<_>>(), window.clone().filter(|i| !model.contains(i)).collect::<Vec<_>>());
            prop_assert_eq!(set.common(window.clone()).flatten().collect::<Vec<_>>(), window.clone().filter(|i| model.contains(i)).collect::<Vec<_>>());
            prop_assert_eq!(set.contains(window.clone()), window.clone().all(|i| model.contains(&i)));
        }
    }
}
