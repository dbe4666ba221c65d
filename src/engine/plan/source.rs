//! The source beside the newest generation of its index.

use super::changes::{ChangeKind, Plan, PlannedChange};
use super::compare::{
    Comparison, FileChange, PreviousGeneration, check_cancelled, count_file, moved_key, no_block_size,
};
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::layout::BlockLayout;
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::archive::skipped::SparedPaths;
use crate::db::generation::History;
use crate::db::listing::{ListedObject, Listing};
use crate::engine::index::{
    HardLinks, IndexOptions, ListedEntry, PreviousFiles, StatRow, costs_its_growth, end_of_filter,
    is_same_object, list_bucket_reporting, listed_entries, previous_index, stat_all, walk_of,
};
use crate::error::Result;
use crate::source::SkippedEntry;
use crate::source::filter::Filter;
use crate::source::s3::Bucket;
use crate::telemetry::Monitor;
use std::path::PathBuf;

/// Which source to compare.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// The source and its index, as for the next generation of it.
    pub index: IndexOptions,
    /// In bytes.
    pub block_size: u64,
    /// A folder for temporary files.
    pub scratch: PathBuf,
    /// What the receiver is missing of the archive of the newest generation, if it was asked.
    pub missing: RangeSet,
}

/// Compares the source with the newest generation of its index, and gives `each` every entry that
/// differs or is [missing](PlanOptions::missing). It uses only names, sizes, times and owners; of a
/// bucket, its list.
///
/// Entries come in the order of the walk; new, removed and renamed files, and removed directories
/// and links, come at the end.
///
/// It holds in memory what a scan holds of files with several names. Files at new paths and the ids
/// of removed files are on disk, in [`PlanOptions::scratch`].
///
/// # Errors
/// The source cannot be scanned, the index cannot be read, or `each` fails.
pub fn plan(
    options: &PlanOptions,
    monitor: &dyn Monitor,
    mut each: impl FnMut(&PlannedChange<'_>) -> Result<()>,
) -> Result<Plan> {
    let index = &options.index;
    let (mut end, mut generation, mut previous) = (0, None, None);
    if let Some((reader, summary)) = previous_index(index)? {
        let log_end = History::open(&index.database)?.counters()?.log_end;
        end = log_end.max(summary.total_bytes);
        generation = Some(summary.generation);
        previous = Some((reader, summary));
    }
    let previous = previous
        .map(|(reader, summary)| PreviousGeneration::new(&index.database, reader, &summary, &options.scratch))
        .transpose()?;
    // Only the files of a folder have inodes, by which a renamed file is found.
    let has_moves = previous.is_some() && index.bucket.is_none();
    let mut comparison = Comparison::new(previous, has_moves.then_some(&*options.scratch), &mut each)?;
    comparison.plan.from = generation;
    comparison.missing = options.missing.clone();
    match &index.bucket {
        None => plan_folder(index, &mut comparison, monitor)?,
        Some(bucket) => plan_bucket(options, bucket, &mut comparison, monitor)?,
    }
    let filtered = match comparison.plan.skipped.filtered() {
        Some(filtered) => Some(SparedPaths::parse(&[], filtered)?),
        None => None,
    };
    let mut plan = comparison.finish(moved_key, |path, is_dir| match &filtered {
        Some(filtered) => filtered.has(path, is_dir),
        // A list of paths leaves out more than the names of.
        None => leaves_out(&index.filter, path, is_dir),
    })?;
    plan.at_most = plan.send_bytes > 0;
    plan.excluded = index.filter.left_out();
    let block_layout = end
        .checked_add(plan.send_bytes)
        .and_then(|total_bytes| BlockLayout::new(total_bytes, options.block_size))
        .ok_or_else(no_block_size)?;
    let blocks = block_layout.blocks_of(end..u64::MAX);
    plan.blocks = blocks.end - blocks.start;
    Ok(plan)
}

/// Whether `filter` leaves out a path of which the source has nothing.
fn leaves_out(filter: &Filter, path: &EntryPath, is_dir: bool) -> bool {
    let slash: &[u8] = if is_dir { b"/" } else { b"" };
    filter.leaves_out_key(&[path.as_bytes(), slash].concat())
}

fn skip(skipped: &SkippedEntry, plan: &mut Plan, monitor: &dyn Monitor) {
    plan.skipped.add(skipped.kind, &skipped.path);
    skipped.report(monitor);
}

fn plan_folder(options: &IndexOptions, comparison: &mut Comparison<'_>, monitor: &dyn Monitor) -> Result<()> {
    let (base, walk) = walk_of(options)?;
    let mut links = HardLinks::default();
    monitor.counters().totals_open.set(1);
    stat_all(&walk, &base, options.threads, |entry| {
        let entry = match entry {
            Ok(entry) => entry,
            Err(skipped) => {
                skip(&skipped, &mut comparison.plan, monitor);
                return check_cancelled(monitor);
            }
        };
        match links.row_of(entry) {
            StatRow::Node(node) => comparison.node(&node, |previous| previous == &node),
            StatRow::File { file, .. } => {
                count_file(&file, monitor)?;
                match comparison.previous_at(&file.path)? {
                    None => comparison.new_path(&file, moved_key(&file).as_deref(), file.size),
                    Some(previous) => {
                        let change = by_stat(comparison.previous_files(), &previous, &file);
                        comparison.same_path(&file, &previous, change)
                    }
                }
            }
        }
    })?;
    monitor.counters().totals_open.set(0);
    end_of_filter(walk.filter(), &mut comparison.plan.skipped, monitor);
    Ok(())
}

/// How a file with the attributes `now` differs from its previous row.
fn by_stat(files: Option<&PreviousFiles>, previous: &FileEntry, now: &FileEntry) -> FileChange {
    let Some(files) = files else { return FileChange::of(ChangeKind::New, now.size, now.size) };
    let time = |file: &FileEntry| file.meta.map(|meta| meta.mtime_ns);
    let inode = |file: &FileEntry| file.origin.map(|origin| (origin.dev, origin.ino));
    if files.is_unmodified(previous, now) {
        let kind = if previous.meta == now.meta { ChangeKind::Unchanged } else { ChangeKind::Touched };
        return FileChange::of(kind, now.size, 0);
    }
    // The next run reads it: it was written just before its index, or its inode has changed. Only a
    // program that restores the time changes a content without a new time. Two empty contents are
    // equal.
    if previous.size == now.size && (time(previous) == time(now) || now.size == 0) {
        let kind = if previous.meta == now.meta { ChangeKind::Unchanged } else { ChangeKind::Touched };
        return FileChange::assumed(kind, now.size);
    }
    if now.size <= previous.size || inode(previous) != inode(now) {
        return FileChange::of(ChangeKind::Changed, now.size, now.size);
    }
    let bytes = now.size - previous.size;
    let (send_bytes, assumed_bytes) =
        if costs_its_growth(previous, now.size) { (bytes, previous.size) } else { (now.size, 0) };
    FileChange { kind: ChangeKind::Grown, bytes, send_bytes, assumed_bytes }
}

fn plan_bucket(
    options: &PlanOptions,
    bucket: &Bucket,
    comparison: &mut Comparison<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let listing = Listing::create(&options.scratch)?;
    *comparison.plan.skipped = list_bucket_reporting(bucket, &options.index.filter, &listing, monitor)?;
    // The metadata of a folder's key are only in the answer to a HEAD, which a plan does not
    // request.
    let folder = |comparison: &mut Comparison<'_>, node: &Node| {
        comparison.node(node, |previous| previous.kind == NodeKind::Dir)
    };
    listed_entries(&listing, |entry| {
        match entry {
            ListedEntry::Skipped(skipped) => skip(&skipped, &mut comparison.plan, monitor),
            ListedEntry::Folder(node) => folder(comparison, &node)?,
            ListedEntry::Object(ListedObject { path, is_folder: true, .. }) => {
                folder(comparison, &Node { kind: NodeKind::Dir, path, target: Box::default(), meta: None })?;
            }
            ListedEntry::Object(object) => {
                let file = file_of(&object);
                count_file(&file, monitor)?;
                match comparison.previous_at(&file.path)? {
                    None => comparison.new_path(&file, None, file.size)?,
                    Some(previous) => {
                        comparison.same_path(&file, &previous, by_list(&previous, &object))?;
                    }
                }
            }
        }
        check_cancelled(monitor)?;
        Ok(true)
    })?;
    monitor.counters().totals_open.set(0);
    Ok(())
}

/// How a listed object differs from its previous row.
fn by_list(previous: &FileEntry, object: &ListedObject) -> FileChange {
    let bytes = object.size;
    if is_same_object(previous, object) {
        return FileChange::of(ChangeKind::Unchanged, bytes, 0);
    }
    let etag = previous.object.as_deref().map(|object| &object.etag);
    let is_same_content =
        previous.size == object.size && !object.etag.is_empty() && etag == Some(&object.etag);
    // The object was written again with the same content. It costs nothing if the next run finds
    // the same digests: for the ETag of an upload in parts by reading the content, else by a HEAD,
    // which gives no BLAKE3.
    if is_same_content && previous.is_verifiable() && (previous.blake3.is_none() || object.etag.contains('-'))
    {
        return FileChange::assumed(ChangeKind::Touched, bytes);
    }
    FileChange::of(ChangeKind::Changed, bytes, bytes)
}

/// A row without digests and metadata.
fn file_of(object: &ListedObject) -> FileEntry {
    FileEntry {
        id: 0,
        path: object.path.clone(),
        size: object.size,
        offset: 0,
        fragmented: false,
        md5: None,
        blake3: None,
        meta: None,
        origin: None,
        object: None,
    }
}
