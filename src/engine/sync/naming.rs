//! The names of the entries that a run brings to the receiver, or would bring.

use super::super::plan::{
    BetweenOptions, ChangeKind, EntrySink, Plan, PlanOptions, PlannedChange, between, check_cancelled,
    missing_bytes, plan,
};
use super::super::spill::PathSpill;
use super::super::upload::{Before, DeletePolicy, UploadReport, warn_of_changed};
use super::conflicts::ConflictCheck;
use crate::archive::entry::{FileEntry, NodeKind};
use crate::archive::layout::{BlockLayout, DEFAULT_BLOCK_SIZE};
use crate::archive::path::{EntryPath, printable, unprintable};
use crate::archive::protocol::DeleteRequest;
use crate::archive::ranges::RangeSet;
use crate::archive::skipped::SparedPaths;
use crate::db::generation::rebuild;
use crate::db::index_read::IndexReader;
use crate::db::paths::PathTable;
use crate::error::Result;
use crate::telemetry::{Counters, Monitor, Notice};
use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The entries of one run on their way to the user. What a dry run would delete waits in temporary
/// files, since only the end of the comparison tells what comes back.
pub(super) struct Names {
    sink: Option<EntrySink>,
    scratch: PathBuf,
    /// What the source does not have any more.
    removed: PathSpill,
    /// The previous paths of renamed files: deleted as well, and named with the new ones.
    previous_paths: PathSpill,
    /// The paths that the receiver gets, where something there may have one of them.
    arriving: Option<PathTable>,
    /// For a dry run: what other archives keep out is not named, but has failed.
    conflicts: Option<ConflictCheck>,
}

impl Names {
    /// `scratch` is a folder for temporary files.
    pub(super) fn new(sink: Option<EntrySink>, scratch: &Path, conflicts: Option<ConflictCheck>) -> Self {
        let [removed, previous_paths] = [(); 2].map(|()| PathSpill::new(scratch));
        Self { sink, scratch: scratch.to_path_buf(), removed, previous_paths, arriving: None, conflicts }
    }

    /// Has the paths recorded that the receiver would get, for [`Self::arrives`].
    pub(super) fn record_arriving(&mut self) -> Result<()> {
        self.arriving = Some(PathTable::create(&self.scratch)?);
        Ok(())
    }

    /// Whether the receiver would get an entry of this path.
    fn arrives(&self, path: &EntryPath) -> Result<bool> {
        let kind = self.arriving.as_ref().map(|arriving| arriving.kind_of(path.as_bytes())).transpose()?;
        Ok(kind.flatten().is_some())
    }

    fn take(&mut self, change: &PlannedChange<'_>) -> Result<()> {
        if change.kind.is_absent() {
            if let Some(conflicts) = &mut self.conflicts {
                conflicts.forget(change.path);
            }
            return self.removed.push(change.node, change.bytes, change.path);
        }
        match &mut self.conflicts {
            Some(conflicts) => {
                let free = conflicts.take(change)?;
                free.iter().try_for_each(|waiting| self.bring(&waiting.change()))
            }
            None => self.bring(change),
        }
    }

    /// Takes what still waits, and tells in `upload` what other archives keep out.
    fn end_conflicts(&mut self, upload: &mut UploadReport) -> Result<()> {
        let Some(mut conflicts) = self.conflicts.take() else { return Ok(()) };
        let free = conflicts.flush()?;
        conflicts.end(upload);
        free.iter().try_for_each(|waiting| self.bring(&waiting.change()))
    }

    fn bring(&mut self, change: &PlannedChange<'_>) -> Result<()> {
        if let Some(from) = change.from {
            self.previous_paths.push(None, change.bytes, from)?;
        }
        if let Some(arriving) = &self.arriving {
            arriving.add(change.path, change.kind.word())?;
        }
        self.name(change)
    }

    fn name(&self, change: &PlannedChange<'_>) -> Result<()> {
        self.sink.as_ref().map_or(Ok(()), |sink| sink.take(change))
    }

    /// Compares the source with its index, and names what would be sent to a receiver that had
    /// `before`. The plan is one since the newest generation.
    pub(super) fn compare_source(
        &mut self,
        options: &PlanOptions,
        upload: &mut UploadReport,
        monitor: &dyn Monitor,
    ) -> Result<Plan> {
        let plan = self.compare_with(options, &upload.before, monitor)?;
        self.end_conflicts(upload)?;
        self.forget_removed(options, upload)?;
        Ok(plan)
    }

    /// Takes out of `upload` the bytes that only files have which the source does not have any more:
    /// they are not sent, although the receiver misses them.
    fn forget_removed(&mut self, options: &PlanOptions, upload: &mut UploadReport) -> Result<()> {
        let missing = &options.missing;
        let (is_same, is_other) =
            (matches!(upload.before, Before::Same(_)), matches!(upload.before, Before::Other(_)));
        // All is sent again where that is wanted.
        let sends_all = is_same && upload.sent_bytes != missing.covered();
        if missing.covered() == 0 || self.removed.count() == 0 || is_other || sends_all {
            return Ok(());
        }
        let removed = PathTable::create(&self.scratch)?;
        self.removed.each(|_, _, path| removed.add(path, "").map(drop))?;
        let database = &options.index.database;
        let (index, pieces) = (IndexReader::open(database)?, IndexReader::open(database)?);
        let mut unused = missing.clone();
        index.files(|file| {
            if removed.kind_of(file.path.as_bytes())?.is_none() {
                pieces.pieces_of(&file, |piece| {
                    unused.remove(piece.range);
                    Ok(ControlFlow::Continue(()))
                })?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        upload.sent_bytes -= unused.covered().min(upload.sent_bytes);
        let mut needed = missing.clone();
        unused.iter().for_each(|range| needed.remove(range));
        let blocks = BlockLayout::new(upload.total_bytes, options.block_size).filter(|_| is_same);
        upload.complete |= is_same && needed.covered() == 0;
        upload.sent_blocks = match blocks {
            Some(layout) => {
                needed.iter().map(|range| layout.blocks_of(range)).collect::<RangeSet>().covered()
            }
            None => upload.sent_bytes.div_ceil(options.block_size),
        };
        Ok(())
    }

    fn compare_with(
        &mut self,
        options: &PlanOptions,
        before: &Before,
        monitor: &dyn Monitor,
    ) -> Result<Plan> {
        let needs_removed = options.missing.covered() > 0;
        if self.sink.is_none() && self.conflicts.is_none() && self.arriving.is_none() && !needs_removed {
            return plan(options, monitor, |_| Ok(()));
        }
        let mut theirs = options.clone();
        // Removed when this function ends.
        let _generation = match before {
            Before::Same(_) => return plan(options, monitor, |change| self.take(change)),
            Before::Generation(number) => {
                let generation = rebuild(&options.index.database, *number, &self.scratch)?;
                theirs.index.database = generation.to_path_buf();
                theirs.index.own_files.push(generation.to_path_buf());
                Some(generation)
            }
            Before::Other(_) => {
                theirs.index.reuse = false;
                None
            }
        };
        let figures = plan(options, monitor, |_| Ok(()))?;
        plan(&theirs, &Quiet::new(monitor), |change| self.take(change))?;
        Ok(figures)
    }

    /// Names what the receiver lacked, or lacks, of the newest generation of the index at
    /// `database`, without the entries that failed.
    fn compare_generations(
        &mut self,
        database: &Path,
        upload: &UploadReport,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let failed: HashSet<&str> = upload.failed.iter().map(|entry| &*entry.path).collect();
        let is_in_place =
            |change: &PlannedChange<'_>| failed.is_empty() || !failed.contains(&*change.path.to_string());
        let scratch = self.scratch.clone();
        let take = |change: &PlannedChange<'_>| {
            if is_in_place(change) { self.take(change) } else { Ok(()) }
        };
        let monitor = Quiet::new(monitor);
        match &upload.before {
            Before::Generation(from) => {
                let options = BetweenOptions {
                    database: database.to_path_buf(),
                    from: *from,
                    to: None,
                    block_size: DEFAULT_BLOCK_SIZE,
                    scratch: scratch.clone(),
                    missing: upload.lost.clone(),
                };
                between(&options, &monitor, take).map(drop)
            }
            Before::Same(missing) => {
                let missing = missing.iter().chain(upload.lost.iter()).collect();
                name_missing(database, &missing, &monitor, take)
            }
            Before::Other(missing) => {
                let missing = missing.iter().chain(upload.lost.iter()).collect();
                name_new(database, &missing, &monitor, take)
            }
        }
    }

    /// Names what a run would delete that asks for `request`, and counts it in `upload`: of what the
    /// source had when the receiver got its index, and of the receiver's own candidates, all but
    /// what `stays`, and what was changed or removed at the receiver. Where an entry fails, nothing
    /// is deleted. `index` is the newest one, with which the source was compared.
    fn would_delete(
        &mut self,
        request: DeleteRequest,
        index: &IndexReader,
        stays: impl Fn(&Self, &EntryPath) -> Result<bool>,
        upload: &mut UploadReport,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let spared = SparedPaths::parse(&request.spare, &request.filtered)?;
        let changed = unprintable_paths(std::mem::take(&mut upload.changed).paths);
        let absent = unprintable_paths(std::mem::take(&mut upload.absent).paths);
        let is_there = |node: Option<NodeKind>, path: &EntryPath| {
            let below = [path.as_bytes(), b"/"].concat();
            let has_below = || changed.range(below.clone()..).next().is_some_and(|p| p.starts_with(&below));
            let stays = changed.contains(path.as_bytes()) || (node == Some(NodeKind::Dir) && has_below());
            !stays && !absent.contains(path.as_bytes())
        };
        let goes = |names: &Self, node: Option<NodeKind>, path: &EntryPath| -> Result<bool> {
            let is_spared = spared.has(path, node == Some(NodeKind::Dir));
            Ok(!is_spared && is_there(node, path) && !stays(names, path)?)
        };
        let [mut removed, mut previous_paths] = [&mut self.removed, &mut self.previous_paths]
            .map(|entries| std::mem::replace(entries, PathSpill::new(&self.scratch)));
        let (mut going, mut count) = (PathSpill::new(&self.scratch), 0);
        let mut take = |node: Option<NodeKind>, bytes: u64, path: &EntryPath| match goes(self, node, path)? {
            true => going.push(node, bytes, path),
            false => Ok(()),
        };
        let mut has_left = BTreeSet::new();
        removed.each(|node, bytes, path| {
            if changed.contains(path.as_bytes()) {
                has_left.insert(path.as_bytes().to_vec());
            }
            take(node, bytes, path)
        })?;
        upload.candidates.each(&mut take)?;
        previous_paths.each(|node, _, path| {
            count += u64::from(goes(self, node, path)?);
            Ok(())
        })?;
        for path in changed.iter().filter_map(|path| EntryPath::new(path.clone()).ok()) {
            // What the source still has is sent again.
            let is_left = has_left.contains(path.as_bytes()) || !index.has_path(&path)?;
            if is_left && !spared.has(&path, false) && !stays(self, &path)? {
                upload.changed.add(printable(path.as_bytes()));
            }
        }
        warn_of_changed(&upload.changed, monitor);
        count += going.count();
        if count > request.most {
            upload.too_many = Some(count);
            return Ok(());
        }
        if upload.failed_total > 0 {
            return Ok(());
        }
        (upload.deleted, upload.moved_to) = (count, request.backup);
        going.each(|node, bytes, path| self.name_removed(node, bytes, path))
    }

    /// The same after [`Self::compare_source`].
    pub(super) fn would_delete_of_source(
        &mut self,
        request: DeleteRequest,
        database: &Path,
        upload: &mut UploadReport,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        self.would_delete(request, &IndexReader::open(database)?, Self::arrives, upload, monitor)
    }

    /// Names what the run of an index did, or would do, and counts in `upload` what a dry run with
    /// the policy `delete` would delete.
    pub(super) fn of_index(
        &mut self,
        database: &Path,
        delete: Option<&DeletePolicy>,
        upload: &mut UploadReport,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        self.compare_generations(database, upload, monitor)?;
        self.end_conflicts(upload)?;
        let Some(policy) = delete else { return self.deleted(upload) };
        let Some(request) = policy.request(database, monitor)? else { return Ok(()) };
        let index = IndexReader::open(database)?;
        self.would_delete(request, &index, |_, path| index.has_path(path), upload, monitor)
    }

    /// Names what the receiver has deleted, but for the previous paths of renamed files.
    fn deleted(&mut self, upload: &UploadReport) -> Result<()> {
        if upload.deleted == 0 {
            return Ok(());
        }
        let renamed = PathTable::create(&self.scratch)?;
        self.previous_paths.each(|_, _, path| renamed.add(path, "").map(drop))?;
        upload.candidates.each(|node, bytes, path| match renamed.kind_of(path.as_bytes())? {
            Some(_) => Ok(()),
            None => self.name_removed(node, bytes, path),
        })
    }

    fn name_removed(&self, node: Option<NodeKind>, bytes: u64, path: &EntryPath) -> Result<()> {
        let kind = ChangeKind::Removed;
        self.name(&PlannedChange { kind, node, path, from: None, bytes, send_bytes: 0 })
    }
}

/// Paths that a receiver names.
fn unprintable_paths(paths: Vec<String>) -> BTreeSet<Vec<u8>> {
    paths.iter().filter_map(|path| unprintable(path)).collect()
}

/// Names the files that have any of the `missing` ranges of the archive.
fn name_missing(
    database: &Path,
    missing: &RangeSet,
    monitor: &dyn Monitor,
    mut take: impl FnMut(&PlannedChange<'_>) -> Result<()>,
) -> Result<()> {
    if missing.covered() == 0 {
        return Ok(());
    }
    each_file(database, missing, monitor, |file, bytes| match bytes {
        0 => Ok(()),
        bytes => take(&PlannedChange::of_file(ChangeKind::Missing, file, bytes)),
    })
}

/// Names the entries that a receiver got of which `missing` ranges of the archive were missing: all
/// entries where it had nothing, otherwise the files that have any of these bytes.
fn name_new(
    database: &Path,
    missing: &RangeSet,
    monitor: &dyn Monitor,
    mut take: impl FnMut(&PlannedChange<'_>) -> Result<()>,
) -> Result<()> {
    let mut had_nothing = true;
    each_file(database, missing, monitor, |file, bytes| {
        had_nothing &= bytes == file.size;
        Ok(())
    })?;
    each_file(database, missing, monitor, |file, bytes| match had_nothing || bytes > 0 {
        true => take(&PlannedChange::of_file(ChangeKind::New, file, bytes)),
        false => Ok(()),
    })?;
    if !had_nothing {
        return Ok(());
    }
    IndexReader::open(database)?.nodes(|node| {
        check_cancelled(monitor)?;
        take(&PlannedChange::of_node(ChangeKind::New, &node))?;
        Ok(ControlFlow::Continue(()))
    })
}

/// Gives every file, and how many of its bytes are in `missing`.
fn each_file(
    database: &Path,
    missing: &RangeSet,
    monitor: &dyn Monitor,
    mut each: impl FnMut(&FileEntry, u64) -> Result<()>,
) -> Result<()> {
    let (index, pieces) = (IndexReader::open(database)?, IndexReader::open(database)?);
    index.files(|file| {
        check_cancelled(monitor)?;
        each(&file, missing_bytes(&pieces, &file, missing)?)?;
        Ok(ControlFlow::Continue(()))
    })
}

/// A monitor of what is done a second time: it tells nothing and counts nothing.
struct Quiet<'a> {
    monitor: &'a dyn Monitor,
    counters: Counters,
}

impl<'a> Quiet<'a> {
    fn new(monitor: &'a dyn Monitor) -> Self {
        Self { monitor, counters: Counters::default() }
    }
}

impl Monitor for Quiet<'_> {
    fn notice(&self, _: Notice) {}

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn is_cancelled(&self) -> bool {
        self.monitor.is_cancelled()
    }
}
