//! Prechecks: a `stat` of each published file ahead of `finish`. A sender that expects no changes
//! asks for one while it goes through its own folder. A precheck changes nothing. `finish` takes
//! the result of one that it is given the name of, once, and only if it ended a moment ago.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::files::parts::{PART_FILES, in_parts};
use super::super::files::published::{Condition, condition};
use super::super::open;
use crate::archive::digest::IndexDigest;
use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
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

impl Prechecks {
    /// Takes the `stat` of each published file of `index`; `name` is what [`FinishRequest::looked`]
    /// may say then. Gives where the files are in the archive that are gone or were changed. Ends
    /// early when `is_wanted` says so, or when another index takes this one's place.
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
    ) -> Result<RangeSet> {
        context.committer.check()?;
        let archive = open::get(context, tar_id)?;
        archive.check_active(index)?;
        // Ends also if a thread crashes: a `finish` may wait for the end.
        let running = self.begin(tar_id, index, name)?;
        let found = Mutex::new((RangeSet::default(), RangeSet::default()));
        in_parts(&archive.progress.published(), PART_FILES, |part, cache| {
            if !is_wanted() {
                return Err(Error::new(ErrorKind::Busy, "the receiver is stopping"));
            }
            // Only for this part: a thread that replaces the index waits no longer.
            let _shared = archive.lock_shared()?;
            let (mut unmodified, mut changed) = (RangeSet::default(), Vec::new());
            archive.with_index(|index| {
                index.files_of(part, |file| {
                    match condition(&context.sink, &file, cache) {
                        Ok(Condition::Unmodified) => unmodified.insert(file.id..file.id + 1),
                        Ok(Condition::Replaced) => changed.push(file),
                        Ok(Condition::OtherMetadata) | Err(_) => {}
                    }
                    Ok(ControlFlow::Continue(()))
                })
            })?;
            let changed = changed.iter().map(|file| archive.pieces_of(file)).collect::<Result<Vec<_>>>()?;
            let (ids, bytes) = &mut *found.lock();
            unmodified.iter().for_each(|range| ids.insert(range));
            changed.iter().flat_map(|pieces| pieces.iter()).for_each(|range| bytes.insert(range.clone()));
            Ok(())
        })?;
        let (ids, changed) = found.into_inner();
        running.found(ids);
        Ok(changed)
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
