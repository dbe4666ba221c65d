//! Work on many files, in parts that threads take in turn.

use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::FolderCache;
use parking_lot::Mutex;

/// Files of one part, where each takes a `stat`.
pub(crate) const PART_FILES: u64 = 4096;
/// Threads at once.
const MAX_THREADS: usize = 8;

/// Does `work` for `ids`, a part of `part_files` of them at a time, on several threads; each has a
/// cache of folders of its own. The first error ends it.
///
/// # Errors
/// Those of `work`.
pub(crate) fn in_parts(
    ids: &RangeSet,
    part_files: u64,
    work: impl Fn(&RangeSet, &mut FolderCache) -> Result<()> + Sync,
) -> Result<()> {
    let parts = Mutex::new(parts_of(ids, part_files));
    let run = || -> Result<()> {
        loop {
            let Some(part) = parts.lock().next() else { return Ok(()) };
            work(&part, &mut FolderCache::default())?;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    std::thread::scope(|scope| {
        // Where the system gives no more threads, fewer do the work.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, run).ok();
        let others: Vec<_> = (1..threads).filter_map(start).collect();
        let mut outcome = run();
        for other in others {
            let theirs = other.join().unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Internal, "a thread of finish crashed; this is a bug of tar-like"))
            });
            outcome = outcome.and(theirs);
        }
        outcome
    })
}

/// Parts of `ids`, ascending, each with the neighbours that it has within `part_files`: after
/// some generations there are many gaps.
fn parts_of(ids: &RangeSet, part_files: u64) -> impl Iterator<Item = RangeSet> {
    let pieces = ids.iter().flat_map(move |ids| {
        let windows = ids.start / part_files..ids.end.div_ceil(part_files);
        windows.map(move |window| ids.start.max(window * part_files)..ids.end.min((window + 1) * part_files))
    });
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let first = pieces.next()?;
        let window = first.start / part_files;
        let mut part: RangeSet = std::iter::once(first).collect();
        while let Some(next) = pieces.next_if(|next| next.start / part_files == window) {
            part.insert(next);
        }
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_are_the_whole(gaps in proptest::collection::vec((1u64..9000, 1u64..9000), 0..12)) {
            let (mut ids, mut at) = (RangeSet::default(), 0);
            for (gap, length) in gaps {
                ids.insert(at + gap..at + gap + length);
                at += gap + length;
            }
            let parts: Vec<RangeSet> = parts_of(&ids, PART_FILES).collect();
            prop_assert_eq!(parts.iter().map(RangeSet::covered).sum::<u64>(), ids.covered());
            let all: RangeSet = parts.iter().flat_map(|part| part.iter()).collect();
            prop_assert_eq!(all, ids);
            prop_assert!(parts.iter().all(|part| part.covered() <= PART_FILES));
        }
    }
}
