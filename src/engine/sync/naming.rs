//! The names of the entries that a run brings to the receiver, or would bring.

use super::super::plan::{
    BetweenOptions, ChangeKind, EntrySink, Plan, PlanOptions, PlannedChange, between, check_cancelled,
    missing_bytes, plan,
};
use super::super::spill::PathSpill;
use super::super::upload::{Before, UploadReport};
use crate::archive::entry::{FileEntry, NodeKind};
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::protocol::DeleteRequest;
use crate::archive::ranges::RangeSet;
use crate::archive::skipped::SparedPaths;
use crate::db::generation::rebuild;
use crate::db::index_read::IndexReader;
use crate::error::Result;
use crate::telemetry::{Counters, Monitor, Notice};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The entries of one run on their way to the user. Entries that the source does not have any more
/// wait in a temporary file, since only the end of the run tells whether they are deleted.
pub(super) struct Names {
    sink: Option<EntrySink>,
    scratch: PathBuf,
    removed: PathSpill,
    /// How many files have another path now. Their previous paths are deleted as well.
    renamed: u64,
}

impl Names {
    /// `scratch` is a folder for temporary files.
    pub(super) fn new(sink: Option<EntrySink>, scratch: &Path) -> Self {
        Self { sink, scratch: scratch.to_path_buf(), removed: PathSpill::new(scratch), renamed: 0 }
    }

    fn take(&mut self, change: &PlannedChange<'_>) -> Result<()> {
        if change.kind == ChangeKind::Removed {
            return self.removed.push(change.node, change.bytes, change.path);
        }
        self.renamed += u64::from(change.kind == ChangeKind::Renamed);
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
        before: &Before,
        monitor: &dyn Monitor,
    ) -> Result<Plan> {
        let mut theirs = options.clone();
        // Removed when this function ends.
        let _generation = match before {
            Before::Same(missing) => {
                theirs.missing = missing.clone();
                return plan(&theirs, monitor, |change| self.take(change));
            }
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
    pub(super) fn compare_generations(
        &mut self,
        database: &Path,
        upload: &UploadReport,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let failed: HashSet<&str> = upload.failed.iter().map(|entry| &*entry.path).collect();
        let is_in_place =
            |change: &PlannedChange<'_>| failed.is_empty() || !failed.contains(&*change.path.to_string());
        let scratch = self.scratch.clone();
        let mut take = |change: &PlannedChange<'_>| {
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
                };
                between(&options, &monitor, take).map(drop)
            }
            Before::Same(missing) if missing.covered() == 0 => Ok(()),
            Before::Same(missing) => each_file(database, missing, &monitor, |file, bytes| match bytes {
                0 => Ok(()),
                bytes => take(&PlannedChange::of_file(ChangeKind::Missing, file, bytes)),
            }),
            Before::Other(missing) => name_new(database, missing, &monitor, take),
        }
    }

    /// Names what a run would delete that asks for `request`, and counts it in `upload`.
    pub(super) fn would_delete(&mut self, request: DeleteRequest, upload: &mut UploadReport) -> Result<()> {
        let spared = SparedPaths::parse(&request.spare, &request.filtered)?;
        let mut count = self.renamed;
        self.removed.each(|node, _, path| {
            count += u64::from(!spared.has(path, node == Some(NodeKind::Dir)));
            Ok(())
        })?;
        if count > request.most {
            upload.too_many = Some(count);
            return Ok(());
        }
        (upload.deleted, upload.moved_to) = (count, request.backup);
        self.name_removed(&spared)
    }

    /// Names what the receiver has deleted, if that is known.
    pub(super) fn deleted(&mut self, upload: &UploadReport, monitor: &dyn Monitor) -> Result<()> {
        if self.sink.is_none() || upload.deleted == 0 {
            return Ok(());
        }
        if upload.deleted == self.renamed + self.removed.count() {
            return self.name_removed(&SparedPaths::default());
        }
        monitor.notice(Notice::Info(format!(
            "the receiver has deleted {} entries, also such as earlier runs had left there: they are not named",
            upload.deleted
        )));
        Ok(())
    }

    fn name_removed(&mut self, spared: &SparedPaths) -> Result<()> {
        let Some(sink) = self.sink.clone() else { return Ok(()) };
        self.removed.each(|node, bytes, path| {
            let kind = ChangeKind::Removed;
            let change = PlannedChange { kind, node, path, from: None, bytes, send_bytes: 0 };
            if spared.has(path, node == Some(NodeKind::Dir)) { Ok(()) } else { sink.take(&change) }
        })
    }
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
