//! Looking at what is published before anybody asks for it: a sender that expects that nothing has changed has it done while it goes
//! through its own folder. A look changes nothing; `finish` believes one that ended a moment ago, by its name, and once.

use super::archive::{Archive, State};
use super::commit::lock;
use super::{Receiver, publish};
use crate::archive::digest::IndexDigest;
use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::FolderCache;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a look has found.
pub(super) struct Look {
    name: u64,
    /// When it ended; it still runs if there is none.
    ended: Option<Instant>,
    /// Files that stand as they were published.
    ids: RangeSet,
}

/// A look that ended longer ago does not count any more.
const FRESH: Duration = Duration::from_secs(60);
/// Files that one thread looks at in one go.
const FILES: u64 = 4096;
/// Threads that look at once.
const MOST_THREADS: usize = 8;

impl Look {
    pub(super) fn runs(&self) -> bool {
        self.ended.is_none()
    }
}

impl Receiver {
    /// Looks at every file of `index` that is published; `name` is what [`FinishRequest::looked`] may say then. Ends early when
    /// `wanted` says so, or when another index takes this one's place.
    ///
    /// [`FinishRequest::looked`]: crate::archive::protocol::FinishRequest::looked
    ///
    /// # Errors
    /// There is no such archive, another index is active, or another look runs.
    pub fn look(
        &self,
        tar_id: u64,
        index: &IndexDigest,
        name: u64,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        self.committer.check()?;
        let archive = self.archive(tar_id)?;
        super::finish::check_active(&archive, index)?;
        let published = {
            let mut state = archive.state();
            if state.look.as_ref().is_some_and(Look::runs) {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("archive {tar_id} is being looked at already"),
                ));
            }
            state.look = Some(Look { name, ended: None, ids: RangeSet::default() });
            state.published.clone()
        };
        // Also if a thread crashes: somebody may wait for the end.
        let _ended = Ended { archive: &archive, name };
        let ids = Mutex::new(RangeSet::default());
        in_parts(&published, |part, cache| {
            if !wanted() {
                return Err(Error::new(ErrorKind::Busy, "the receiver is stopping"));
            }
            // Only for this part: whoever replaces the index waits no longer.
            let _entered = archive.enter()?;
            let mut standing = RangeSet::default();
            archive.with_index(|index| {
                index.files_of(part, |file| {
                    if publish::stands(self, &file, cache).unwrap_or(false) {
                        standing.insert(file.id..file.id + 1);
                    }
                    Ok(ControlFlow::Continue(()))
                })
            })?;
            let mut ids = lock(&ids);
            standing.iter().for_each(|range| ids.insert(range));
            Ok(())
        })?;
        if let Some(look) = named(&mut archive.state(), name) {
            look.ids = std::mem::take(&mut *lock(&ids));
        }
        Ok(())
    }
}

/// The look of this name, if it is the last one: a stream that has begun anew has other files under the same ids.
fn named(state: &mut State, name: u64) -> Option<&mut Look> {
    state.look.as_mut().filter(|look| look.name == name)
}

struct Ended<'a> {
    archive: &'a Archive,
    name: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(look) = named(&mut self.archive.state(), self.name) {
            look.ended = Some(Instant::now());
        }
        self.archive.notify();
    }
}

/// Takes what the look of this name has found, waiting for its end; nothing if there is none, or none that still counts. Not for
/// those who have entered the archive: a look enters again and again.
pub(super) fn take(archive: &Archive, name: Option<u64>) -> RangeSet {
    let Some(name) = name else { return RangeSet::default() };
    let is_this = |look: &Look| look.name == name;
    archive.wait(|state| !state.look.as_ref().is_some_and(|look| is_this(look) && look.runs()));
    let look = archive.state().look.take_if(|look| is_this(look));
    look.filter(|look| look.ended.is_some_and(|ended| ended.elapsed() < FRESH))
        .map(|look| look.ids)
        .unwrap_or_default()
}

/// Does `work` for `ids`, a part of them at a time, on several threads; each has a cache of folders of its own. The first error ends it.
pub(super) fn in_parts(
    ids: &RangeSet,
    work: impl Fn(&RangeSet, &mut FolderCache) -> Result<()> + Sync,
) -> Result<()> {
    let parts = Mutex::new(parts_of(ids));
    let run = || -> Result<()> {
        loop {
            let Some(part) = lock(&parts).next() else { return Ok(()) };
            work(&part, &mut FolderCache::default())?;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
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

/// Parts of `ids`, ascending, each with the neighbours that it has within [`FILES`]: after some generations there are many gaps.
fn parts_of(ids: &RangeSet) -> impl Iterator<Item = RangeSet> {
    let pieces = ids.iter().flat_map(|ids| {
        let windows = ids.start / FILES..ids.end.div_ceil(FILES);
        windows.map(move |window| ids.start.max(window * FILES)..ids.end.min((window + 1) * FILES))
    });
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let first = pieces.next()?;
        let window = first.start / FILES;
        let mut part: RangeSet = std::iter::once(first).collect();
        while let Some(next) = pieces.next_if(|next| next.start / FILES == window) {
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
            let parts: Vec<RangeSet> = parts_of(&ids).collect();
            prop_assert_eq!(parts.iter().map(RangeSet::covered).sum::<u64>(), ids.covered());
            let all: RangeSet = parts.iter().flat_map(|part| part.iter()).collect();
            prop_assert_eq!(all, ids);
            prop_assert!(parts.iter().all(|part| part.covered() <= FILES));
        }
    }
}
