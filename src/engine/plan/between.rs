//! Two generations of an index beside each other. Their contents are known, so that all is exact.

use super::compare::{Comparing, Former, Verdict, content_mark};
use super::{Change, Plan, What, go_on, no_block_size, note};
use crate::archive::entry::FileEntry;
use crate::archive::layout::Grid;
use crate::archive::ranges::RangeSet;
use crate::db::generation::{History, rebuild};
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Which generations to compare.
#[derive(Debug, Clone)]
pub struct BetweenOptions {
    /// The index.
    pub database: PathBuf,
    /// The generation to begin with …
    pub from: u64,
    /// … and that which was made of it; `None` means the newest one.
    pub to: Option<u64>,
    /// In bytes.
    pub block_size: u64,
    /// A folder for temporary files.
    pub scratch: PathBuf,
}

/// Files that are read in one go.
const PAGE: u64 = 4096;

/// Compares two generations, and gives `each` every entry that is not what it was, as [`super::plan`] does. What has to be sent is what a
/// receiver that has the former one lacks of the latter.
///
/// A generation that is not the newest one is put together in [`BetweenOptions::scratch`], which takes the room of the index. In
/// memory there are the ranges of the archive that are new, 8 bytes for each file that vanished, and no more.
///
/// # Errors
/// The index does not have these generations, one was not made of the other, or `each` fails.
pub fn between(
    options: &BetweenOptions,
    monitor: &dyn Monitor,
    mut each: impl FnMut(&Change<'_>) -> Result<()>,
) -> Result<Plan> {
    let BetweenOptions { database, from, scratch, block_size, .. } = options;
    let history = History::open(database)?;
    let active = history.active()?.number;
    let to = options.to.unwrap_or(active);
    // They go with us, however we end.
    let at = |number: u64| {
        let copy = (number != active).then(|| rebuild(database, number, scratch)).transpose()?;
        let path = copy.as_ref().map_or(database.clone(), |copy| copy.to_path_buf());
        Ok::<_, Error>((copy, path))
    };
    let (_from_copy, from_path) = at(*from)?;
    let (_to_copy, to_path) = at(to)?;
    if history.way(*from, to).is_none_or(|way| way.iter().any(|step| step.undo)) {
        let what = format!("generation {to} was not made of generation {from}");
        return Err(Error::new(ErrorKind::Usage, what)
            .hint("give the older one to --from; what was abandoned by rewind leads nowhere"));
    }
    let reader = IndexReader::open(&from_path)?;
    let summary = reader.summary()?;
    let former = Former::new(&from_path, reader, &summary)?;
    let mut comparing = Comparing::new(Some(former), Some(scratch), &mut each)?;
    (comparing.plan.from, comparing.plan.to) = (Some(*from), Some(to));
    let now = IndexReader::open(&to_path)?;
    let total_bytes = now.summary()?.total_bytes;
    let mut added = Added { from: summary.total_bytes, ranges: RangeSet::default(), reader: &now };
    files(&now, monitor, |file| {
        let Some(former) = comparing.former_at(&file.path)? else {
            let send_bytes = added.by(&file)?;
            // What was laid out anew is no former file, whatever its content.
            let mark = content_mark(&file).filter(|_| send_bytes == 0);
            return comparing.came(&file, mark.as_deref(), send_bytes);
        };
        let verdict = match former.id == file.id {
            // The content of a row never changes.
            true if former.meta == file.meta => Verdict::of(What::Unchanged, file.size, 0),
            true => Verdict::of(What::Touched, file.size, 0),
            false if file.size > former.size => {
                Verdict::of(What::Grown, file.size - former.size, added.by(&file)?)
            }
            false => Verdict::of(What::Changed, file.size, added.by(&file)?),
        };
        comparing.found(&file, verdict)
    })?;
    let mut at = 0;
    loop {
        let mut page = Vec::new();
        now.nodes_in_walk_order(at, PAGE, |node| {
            page.push(node);
            Ok(ControlFlow::Continue(()))
        })?;
        if page.is_empty() {
            break;
        }
        at += page.len() as u64;
        for node in page {
            comparing.node(&node, |former| former == &node)?;
        }
        go_on(monitor)?;
    }
    let ranges = added.ranges;
    let mut plan = comparing.finish(content_mark)?;
    // The contents are known: nothing is only believed.
    plan.believed_bytes = 0;
    let grid = Grid::new(total_bytes, *block_size).ok_or_else(no_block_size)?;
    plan.blocks = ranges.iter().map(|range| grid.blocks_of(range)).collect::<RangeSet>().covered();
    Ok(plan)
}

/// Gives every file, in the order of the walk.
fn files(
    index: &IndexReader,
    monitor: &dyn Monitor,
    mut each: impl FnMut(FileEntry) -> Result<()>,
) -> Result<()> {
    let count = index.summary()?.files;
    let mut at = 0;
    while at < count {
        let mut page = Vec::new();
        index.files_in_walk_order(at, PAGE.min(count - at), |file| {
            page.push(file);
            Ok(ControlFlow::Continue(()))
        })?;
        at += PAGE;
        for file in page {
            note(&file, monitor)?;
            each(file)?;
        }
    }
    Ok(())
}

/// What the archive has grown by.
struct Added<'a> {
    /// Where it ended before. Whatever lies behind that came later, and what lies before it was there: no place is used twice.
    from: u64,
    ranges: RangeSet,
    reader: &'a IndexReader,
}

impl Added<'_> {
    /// How many bytes `file` has added that no file before has.
    fn by(&mut self, file: &FileEntry) -> Result<u64> {
        let before = self.ranges.covered();
        let Self { from, ranges, reader } = self;
        reader.pieces_of(file, |piece| {
            ranges.insert(piece.range.start.max(*from)..piece.range.end);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(self.ranges.covered() - before)
    }
}
