//! What a host sends while no engine answers.

use crate::archive::ranges::RangeSet;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;
use twox_hash::XxHash3_128;

/// Blocks that are sent in a row.
const CHUNK_BLOCKS: u64 = 8;
/// The blocks that a receiver missed a moment ago, in an order that each host has for itself: hosts
/// that know nothing of each other seldom send the same one.
#[derive(Debug)]
pub(super) struct Detour {
    stale_at: Instant,
    missing: RangeSet,
    /// What is left of them, the next one last.
    chunks: Vec<u64>,
}

impl Detour {
    /// The way of `host` through `missing`, which the receiver is asked for again after `patience`:
    /// what others send meanwhile may be sent twice.
    pub(super) fn new(host: &str, missing: &RangeSet, patience: Duration) -> Self {
        let mut chunks: Vec<u64> = Vec::new();
        for range in missing.iter() {
            let first = range.start / CHUNK_BLOCKS;
            let first = if chunks.last() == Some(&first) { first + 1 } else { first };
            chunks.extend(first..range.end.div_ceil(CHUNK_BLOCKS));
        }
        chunks.sort_by_cached_key(|chunk| XxHash3_128::oneshot_with_seed(*chunk, host.as_bytes()));
        Self { stale_at: Instant::now() + patience, missing: missing.clone(), chunks }
    }

    /// Whether the receiver should be asked again.
    pub(super) fn is_stale(&self) -> bool {
        self.chunks.is_empty() || Instant::now() > self.stale_at
    }

    /// What to send next.
    pub(super) fn next(&mut self) -> Option<Range<u64>> {
        let first = self.chunks.pop()? * CHUNK_BLOCKS;
        let mut all = first..first + CHUNK_BLOCKS;
        // The edges that are there already.
        let is_missing = |block: &u64| self.missing.contains(*block..*block + 1);
        let start = all.find(is_missing)?;
        let end = (start..first + CHUNK_BLOCKS).rev().find(is_missing)? + 1;
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_missing_block_comes_once_and_hosts_begin_elsewhere() {
        let missing: RangeSet = [3..5, 6..7, 100..1000].into_iter().collect();
        let all = |host: &str| {
            let mut detour = Detour::new(host, &missing, Duration::from_secs(9));
            std::iter::from_fn(|| detour.next()).flatten().collect::<Vec<u64>>()
        };
        let (one, other) = (all("one"), all("other"));
        for blocks in [&one, &other] {
            let set: BTreeSet<u64> = blocks.iter().copied().collect();
            assert_eq!(set.len(), blocks.len());
            assert!(missing.iter().flatten().all(|block| set.contains(&block)));
            // Block 5 lies between two that are missing.
            assert_eq!(set.len() as u64, missing.covered() + 1);
        }
        let first: BTreeSet<_> = one[..300].iter().collect();
        let both = other[..300].iter().filter(|block| first.contains(block)).count();
        assert!((50..150).contains(&both), "{both} of 300");
    }
}
