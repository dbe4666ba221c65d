//! Two generations of an index beside each other. Their contents are known, so that the plan is
//! exact.

use super::changes::{ChangeKind, Plan, PlannedChange};
use super::compare::{
    Comparison, FileChange, PreviousGeneration, check_cancelled, content_key, count_file, no_block_size,
};
use crate::archive::entry::{FileEntry, Node};
use crate::archive::layout::BlockLayout;
use crate::archive::ranges::RangeSet;
use crate::archive::skipped::{SkippedList, SparedPaths};
use crate::db::generation::{History, rebuild};
use crate::db::index_read::{IndexReader, WalkRows};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// Which generations to compare.
#[derive(Debug, Clone)]
pub struct BetweenOptions {
    /// The index.
    pub database: PathBuf,
    /// The older generation.
    pub from: u64,
    /// The later generation, which was made of it; `None` means the newest one.
    pub to: Option<u64>,
    /// In bytes.
    pub block_size: u64,
    /// A folder for temporary files.
    pub scratch: PathBuf,
    /// What a receiver with the older generation has lost of it. A file that has any of this and is
    /// in both of them is [missing](ChangeKind::Missing).
    pub missing: RangeSet,
}

/// Compares two generations, and gives `each` every entry that differs, as [`super::plan`] does.
/// The bytes to send are those that a receiver with the older one is missing.
///
/// A generation that is not the newest one is rebuilt in [`BetweenOptions::scratch`], which takes
/// as much space as the index. In memory are the ranges of the archive that are new.
///
/// # Errors
/// The index does not have these generations, one was not made of the other, or `each` fails.
pub fn between(
    options: &BetweenOptions,
    monitor: &dyn Monitor,
    mut each: impl FnMut(&PlannedChange<'_>) -> Result<()>,
) -> Result<Plan> {
    let BetweenOptions { database, from, scratch, block_size, .. } = options;
    let (from_index, to_index, to) = open_generations(options)?;
    let reader = IndexReader::open(from_index.path(database))?;
    let summary = reader.summary()?;
    let previous = PreviousGeneration::new(from_index.path(database), reader, &summary, scratch)?;
    let mut comparison = Comparison::new(Some(previous), Some(scratch), &mut each)?;
    (comparison.plan.from, comparison.plan.to) = (Some(*from), Some(to));
    comparison.missing = options.missing.clone();
    let now = IndexReader::open(to_index.path(database))?;
    let total_bytes = now.summary()?.total_bytes;
    let mut appended =
        AppendedRanges { from: summary.total_bytes, ranges: RangeSet::default(), reader: &now };
    let mut files = WalkRows::<FileEntry, _>::new(&now)?;
    while let Some((_, file)) = files.pop()? {
        count_file(&file, monitor)?;
        let Some(previous) = comparison.previous_at(&file.path)? else {
            let send_bytes = appended.add(&file)?;
            // A file with appended bytes was not renamed, whatever its content.
            let key = content_key(&file).filter(|_| send_bytes == 0);
            comparison.new_path(&file, key.as_deref(), send_bytes)?;
            continue;
        };
        let change = match previous.id == file.id {
            // The content of a row never changes.
            true if previous.meta == file.meta => FileChange::of(ChangeKind::Unchanged, file.size, 0),
            true => FileChange::of(ChangeKind::Touched, file.size, 0),
            false if file.size > previous.size => {
                FileChange::of(ChangeKind::Grown, file.size - previous.size, appended.add(&file)?)
            }
            false => FileChange::of(ChangeKind::Changed, file.size, appended.add(&file)?),
        };
        comparison.same_path(&file, &previous, change)?;
    }
    let mut nodes = WalkRows::<Node, _>::new(&now)?;
    while let Some((_, node)) = nodes.pop()? {
        check_cancelled(monitor)?;
        comparison.node(&node, |previous| previous == &node)?;
    }
    let ranges = appended.ranges;
    let filtered = match now.skipped()?.as_ref().and_then(SkippedList::filtered) {
        Some(filtered) => SparedPaths::parse(&[], filtered)?,
        None => SparedPaths::default(),
    };
    let mut plan = comparison.finish(content_key, |path, is_dir| filtered.has(path, is_dir))?;
    // All contents are known.
    plan.assumed_bytes = 0;
    let layout = BlockLayout::new(total_bytes, *block_size).ok_or_else(no_block_size)?;
    plan.blocks = ranges.iter().map(|range| layout.blocks_of(range)).collect::<RangeSet>().covered();
    Ok(plan)
}

/// The index of one generation: the newest one itself, or a copy, which is removed when this is
/// dropped.
struct GenerationIndex(Option<TempPath>);

impl GenerationIndex {
    fn path<'a>(&'a self, database: &'a Path) -> &'a Path {
        self.0.as_deref().unwrap_or(database)
    }
}

/// The older and the later generation, and the number of the later one.
fn open_generations(options: &BetweenOptions) -> Result<(GenerationIndex, GenerationIndex, u64)> {
    let BetweenOptions { database, from, scratch, .. } = options;
    let history = History::open(database)?;
    let active = history.active()?.number;
    let to = options.to.unwrap_or(active);
    let open = |number: u64| -> Result<GenerationIndex> {
        let copy = (number != active).then(|| rebuild(database, number, scratch)).transpose()?;
        Ok(GenerationIndex(copy))
    };
    let (from_index, to_index) = (open(*from)?, open(to)?);
    if history.way(*from, to).is_none_or(|way| way.iter().any(|step| step.undo)) {
        let what = format!("generation {to} was not made of generation {from}");
        return Err(Error::new(ErrorKind::Usage, what)
            .with_hint("give the older one to --from; what was abandoned by rewind leads nowhere"));
    }
    Ok((from_index, to_index, to))
}

/// The ranges that were appended to the archive after the older generation.
struct AppendedRanges<'a> {
    /// The end of the archive in the older generation. A range behind it was appended later, and a
    /// range before it was there: no place is used twice.
    from: u64,
    ranges: RangeSet,
    reader: &'a IndexReader,
}

impl AppendedRanges<'_> {
    /// Adds the ranges of `file`; gives how many bytes of them no earlier file has.
    fn add(&mut self, file: &FileEntry) -> Result<u64> {
        let before = self.ranges.covered();
        let Self { from, ranges, reader } = self;
        reader.pieces_of(file, |piece| {
            ranges.insert(piece.range.start.max(*from)..piece.range.end);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(self.ranges.covered() - before)
    }
}
