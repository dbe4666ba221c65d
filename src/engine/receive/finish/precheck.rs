//! Prechecks: a `stat` of each published file ahead of `finish`. A sender that expects no changes
//! asks for one while it goes through its own folder. A precheck changes nothing. `finish` takes
//! the result of one that it is given the name of, once, and only if it ended a moment ago.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::files::published::{Condition, condition};
use super::super::open;
use crate::archive::digest::IndexDigest;
use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::FolderCache;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// The last precheck of each archive.
#[derive(Default)]
pub(crate) struct Prechecks {
    last: Mutex<HashMap<u64, Precheck>>,
    ended: Condvar,
}

struct Precheck {
    name: u64,
    /// The files of this index.
    index: IndexDigest,
    /// When it ended; `None` while it runs.
    ended: Option<Instant>,
    /// Files that are unmodified since they were published.
    ids: RangeSet,
}

/// A precheck that ended longer ago does not count any more.
const FRESH_TIMEOUT: Duration = Duration::from_secs(60);
/// Files of one part, which one thread takes.
pub(super) const PART_FILES: u64 = 4096;
/// Threads of one precheck.
const MAX_THREADS: usize = 8;

impl Prechecks {
    /// Takes the `stat` of each published file of `index`; `name` is what [`FinishRequest::looked`]
    /// may say then. Ends early when `is_wanted` says so, or when another index takes this one's
    /// place.
    ///
    /// [`FinishRequest::looked`]: crate::archive::protocol::FinishRequest::looked
    ///
    /// # Errors
    /// There is no such archive, another index is active, or another precheck runs.
    pub(crate) fn run(
        &self,
        context: &Context,
        tar_id: u64,
        index: &IndexDigest,
        name: u64,
        is_wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        context.committer.check()?;
        let archive = open::get(context, tar_id)?;
        archive.check_active(index)?;
        // Ends also if a thread crashes: a `finish` may wait for the end.
        let running = self.begin(tar_id, index, name)?;
        let ids = Mutex::new(RangeSet::default());
        in_parts(&archive.progress.published(), PART_FILES, |part, cache| {
            if !is_wanted() {
                return Err(Error::new(ErrorKind::Busy, "the receiver is stopping"));
            }
            // Only for this part: a thread that replaces the index waits no longer.
            let _shared = archive.lock_shared()?;
            let mut unmodified = RangeSet::default();
            archive.with_index(|index| {
                index.files_of(part, |file| {
                    if matches!(condition(&context.sink, &file, cache), Ok(Condition::Unmodified)) {
                        unmodified.insert(file.id..file.id + 1);
                    }
                    Ok(ControlFlow::Continue(()))
                })
            })?;
            let mut ids = ids.lock();
            unmodified.iter().for_each(|range| ids.insert(range));
            Ok(())
        })?;
        running.found(ids.into_inner());
        Ok(())
    }

    fn begin(&self, tar_id: u64, index: &IndexDigest, name: u64) -> Result<RunningPrecheck<'_>> {
        let mut last = self.last.lock();
        if last.get(&tar_id).is_some_and(|precheck| precheck.ended.is_none()) {
            return Err(Error::new(ErrorKind::Busy, format!("archive {tar_id} is being looked at already")));
        }
        last.insert(tar_id, Precheck { name, index: *index, ended: None, ids: RangeSet::default() });
        Ok(RunningPrecheck { prechecks: self, tar_id })
    }

    /// Takes what the precheck of this name has found, after waiting for its end; nothing if there
    /// is none, or none that still counts. Not for a thread that shares the archive's gate: a
    /// precheck shares it again and again.
    pub(super) fn take(&self, archive: &Archive, name: Option<u64>) -> RangeSet {
        let Some(name) = name else { return RangeSet::default() };
        let index = archive.progress.head().digest;
        let is_this = |precheck: &Precheck| precheck.name == name && precheck.index == index;
        let mut last = self.last.lock();
        self.ended.wait_while(&mut last, |last| {
            last.get(&archive.tar_id).is_some_and(|precheck| is_this(precheck) && precheck.ended.is_none())
        });
        if !last.get(&archive.tar_id).is_some_and(is_this) {
            return RangeSet::default();
        }
        let precheck = last.remove(&archive.tar_id);
        let is_fresh = |ended: Instant| ended.elapsed() < FRESH_TIMEOUT;
        precheck
            .filter(|precheck| precheck.ended.is_some_and(is_fresh))
            .map(|precheck| precheck.ids)
            .unwrap_or_default()
    }
}

/// The precheck of an archive that runs; it ends when this is dropped.
struct RunningPrecheck<'a> {
    prechecks: &'a Prechecks,
    tar_id: u64,
}

impl RunningPrecheck<'_> {
    fn found(&self, ids: RangeSet) {
        if let Some(precheck) = self.prechecks.last.lock().get_mut(&self.tar_id) {
            precheck.ids = ids;
        }
    }
}

impl Drop for RunningPrecheck<'_> {
    fn drop(&mut self) {
        if let Some(precheck) = self.prechecks.last.lock().get_mut(&self.tar_id) {
            precheck.ended = Some(Instant::now());
        }
        self.prechecks.ended.notify_all();
    }
}

/// Does `work` for `ids`, a part of `part_files` of them at a time, on several threads; each has a
/// cache of folders of its own. The first error ends it.
///
/// # Errors
/// Those of `work`.
pub(super) fn in_parts(
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
