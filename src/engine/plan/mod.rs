//! What the next pass would find and send, without reading a content or asking a receiver: the source as it looks now beside the newest
//! generation of its index, or two generations beside each other.

mod between;
mod compare;

pub use between::{BetweenOptions, between};

use super::index::{
    FormerNodes, FormerRows, IndexOptions, Links, ListedEntry, Looked, costs_its_growth, former_index,
    is_same_object, list_bucket_with, listed_entries, look_at_all, walk_of,
};
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::layout::Grid;
use crate::archive::path::EntryPath;
use crate::db::generation::History;
use crate::db::listing::{ListedObject, Listing};
use crate::error::{Error, ErrorKind, Result};
use crate::source::s3::Bucket;
use crate::source::walk::Skipped;
use crate::telemetry::{Monitor, Notice};
use compare::{Comparing, Verdict, moved_mark};
use std::path::PathBuf;

/// What became of an entry since the generation that it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is the same.
    Unchanged,
    /// Its path is.
    New,
    /// A file with another size or time, or another content; a directory or link that is another one.
    Changed,
    /// A file that is larger than before, and still the same file.
    Grown,
    /// A file that has another path now.
    Renamed,
    /// A file of the same size and time, of which something else is not the same.
    Touched,
    /// Nothing is at its path any more.
    Removed,
}

impl What {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 7] =
        [Self::Unchanged, Self::New, Self::Changed, Self::Grown, Self::Renamed, Self::Touched, Self::Removed];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::New => "new",
            Self::Changed => "changed",
            Self::Grown => "grown",
            Self::Renamed => "renamed",
            Self::Touched => "touched",
            Self::Removed => "removed",
        }
    }

    /// The letter that stands for it.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Unchanged => 'U',
            Self::New => 'N',
            Self::Changed => 'C',
            Self::Grown => 'G',
            Self::Renamed => 'R',
            Self::Touched => 'T',
            Self::Removed => 'D',
        }
    }
}

/// An entry that is not what it was.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What became of it.
    pub what: What,
    /// What it is; `None` for a file.
    pub kind: Option<NodeKind>,
    /// Its path; of a removed one, that which it had.
    pub path: &'a EntryPath,
    /// The path that a renamed file had.
    pub from: Option<&'a EntryPath>,
    /// Its size, or what a grown file has grown by.
    pub bytes: u64,
    /// What of it has to be sent.
    pub send_bytes: u64,
}

/// Files that the same became of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub files: u64,
    /// Their sizes together, or what grown files have grown by.
    pub bytes: u64,
    /// What of them has to be sent.
    pub send_bytes: u64,
}

/// What would happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The generation that everything is compared with; absent where there is no index.
    pub from: Option<u64>,
    /// The generation that is compared with it; absent where that is the source itself.
    pub to: Option<u64>,
    files: [Tally; What::ALL.len()],
    nodes: [u64; What::ALL.len()],
    /// Entries that were left out because they could not be looked at or have no content to copy.
    pub skipped: u64,
    /// Files there are now.
    pub total_files: u64,
    /// Bytes of these.
    pub total_bytes: u64,
    /// Bytes to send.
    pub send_bytes: u64,
    /// [`Plan::send_bytes`] may turn out to be more than is needed: contents were not read.
    pub at_most: bool,
    /// Bytes of files that are believed to be what they were, and not in [`Plan::send_bytes`]; they are read before anything is sent.
    pub believed_bytes: u64,
    /// Blocks that have any of the bytes to send.
    pub blocks: u64,
}

impl Plan {
    /// The files that this became of.
    #[must_use]
    pub fn files(&self, what: What) -> Tally {
        self.files[what as usize]
    }

    /// How many directories and links this became of.
    #[must_use]
    pub fn nodes(&self, what: What) -> u64 {
        self.nodes[what as usize]
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        What::ALL[1..].iter().all(|&what| self.files(what).files + self.nodes(what) == 0)
    }
}

/// What to compare.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// The source and its index, as for the next generation of it.
    pub index: IndexOptions,
    /// In bytes.
    pub block_size: u64,
    /// A folder for temporary files.
    pub scratch: PathBuf,
}

/// Compares the source with the newest generation of its index, and gives `each` every entry that is not what it was: in the order of the
/// walk, but for directories and links that went, which come later, and files that came, went, or were renamed, which follow. Only names, sizes, times and owners are looked at; of a bucket, its list.
///
/// In memory there are 8 bytes for each file that vanished, and what a scan keeps of files with several names. Files at new
/// paths are kept on disk, in [`PlanOptions::scratch`].
///
/// # Errors
/// The source cannot be gone through, the index cannot be read, or `each` fails.
pub fn plan(
    options: &PlanOptions,
    monitor: &dyn Monitor,
    mut each: impl FnMut(&Change<'_>) -> Result<()>,
) -> Result<Plan> {
    let index = &options.index;
    let (mut end, mut generation, mut former) = (0, None, None);
    if let Some((reader, summary)) = former_index(index)? {
        let log_end = History::open(&index.database)?.counters()?.log_end;
        end = log_end.max(summary.total_bytes);
        generation = Some(summary.generation);
        former = Some((reader, summary));
    }
    let former = former
        .map(|(reader, summary)| compare::Former::new(&index.database, reader, &summary))
        .transpose()?;
    // Only a folder tells where its files were before.
    let has_moves = former.is_some() && index.bucket.is_none();
    let mut comparing = Comparing::new(former, has_moves.then_some(&*options.scratch), &mut each)?;
    comparing.plan.from = generation;
    match &index.bucket {
        None => look_at_folder(index, &mut comparing, monitor)?,
        Some(bucket) => look_at_bucket(options, bucket, &mut comparing, monitor)?,
    }
    let mut plan = comparing.finish(moved_mark)?;
    plan.at_most = plan.send_bytes > 0;
    let grid = end
        .checked_add(plan.send_bytes)
        .and_then(|total_bytes| Grid::new(total_bytes, options.block_size))
        .ok_or_else(no_block_size)?;
    let blocks = grid.blocks_of(end..u64::MAX);
    plan.blocks = blocks.end - blocks.start;
    Ok(plan)
}

fn no_block_size() -> Error {
    Error::new(ErrorKind::Usage, "the block size must not be 0")
}

/// A file was found.
fn note(file: &FileEntry, monitor: &dyn Monitor) -> Result<()> {
    let counters = monitor.counters();
    counters.files_total.add(1);
    counters.files_done.add(1);
    counters.total_bytes.add(file.size);
    counters.done_bytes.add(file.size);
    go_on(monitor)
}

fn go_on(monitor: &dyn Monitor) -> Result<()> {
    if monitor.is_cancelled() { Err(Error::new(ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
}

fn skip(skipped: Skipped, plan: &mut Plan, monitor: &dyn Monitor) {
    plan.skipped += 1;
    monitor.counters().files_failed.add(1);
    monitor.notice(Notice::Failed { path: skipped.path, reason: skipped.reason });
}

fn look_at_folder(
    options: &IndexOptions,
    comparing: &mut Comparing<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let (base, walk) = walk_of(options)?;
    let mut links = Links::default();
    monitor.counters().totals_open.set(1);
    look_at_all(&walk, &base, options.threads, |found| {
        let found = match found {
            Ok(found) => found,
            Err(skipped) => {
                skip(skipped, &mut comparing.plan, monitor);
                return go_on(monitor);
            }
        };
        match links.entry(found) {
            Looked::Node(node) => comparing.node(&node, |former| former == &node),
            Looked::File { file, .. } => {
                note(&file, monitor)?;
                match comparing.former_at(&file.path)? {
                    None => comparing.came(&file, moved_mark(&file).as_deref(), file.size),
                    Some(former) => {
                        let verdict = by_stat(comparing.rows(), &former, &file)?;
                        comparing.found(&file, verdict)
                    }
                }
            }
        }
    })?;
    monitor.counters().totals_open.set(0);
    Ok(())
}

/// What became of `former`, which looks like `now`.
fn by_stat(rows: Option<&FormerRows>, former: &FileEntry, now: &FileEntry) -> Result<Verdict> {
    let Some(rows) = rows else { return Ok(Verdict::of(What::New, now.size, now.size)) };
    let time = |file: &FileEntry| file.meta.map(|meta| meta.mtime_ns);
    let inode = |file: &FileEntry| file.origin.map(|origin| (origin.dev, origin.ino));
    if rows.is_unchanged(former, now) {
        let what = if former.meta == now.meta { What::Unchanged } else { What::Touched };
        return Ok(Verdict::of(what, now.size, 0));
    }
    // It is read, but whoever changes a content without its time showing that has taken care to do so. There is one empty content only.
    if former.size == now.size && (time(former) == time(now) || now.size == 0) {
        return Ok(Verdict::believed(What::Touched, now.size));
    }
    if now.size <= former.size || inode(former) != inode(now) {
        return Ok(Verdict::of(What::Changed, now.size, now.size));
    }
    let bytes = now.size - former.size;
    let (send_bytes, believed_bytes) =
        if costs_its_growth(former, now.size) { (bytes, former.size) } else { (now.size, 0) };
    Ok(Verdict { what: What::Grown, bytes, send_bytes, believed_bytes })
}

fn look_at_bucket(
    options: &PlanOptions,
    bucket: &Bucket,
    comparing: &mut Comparing<'_>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let listing = Listing::create(&options.scratch)?;
    comparing.plan.skipped += list_bucket_with(bucket, &options.index.exclude, &listing, monitor)?;
    // What is recorded with the key of a folder is only in its head, which is not asked for.
    let folder = |comparing: &mut Comparing<'_>, node: &Node| {
        comparing.node(node, |former| former.kind == NodeKind::Dir)
    };
    listed_entries(&listing, |entry| {
        match entry {
            ListedEntry::Skipped(skipped) => skip(skipped, &mut comparing.plan, monitor),
            ListedEntry::Folder(node) => folder(comparing, &node)?,
            ListedEntry::Object(ListedObject { path, is_folder: true, .. }) => {
                folder(comparing, &Node { kind: NodeKind::Dir, path, target: Box::default(), meta: None })?;
            }
            ListedEntry::Object(object) => {
                let file = file_of(&object);
                note(&file, monitor)?;
                match comparing.former_at(&file.path)? {
                    None => comparing.came(&file, None, file.size)?,
                    Some(former) => comparing.found(&file, by_list(&former, &object))?,
                }
            }
        }
        go_on(monitor)?;
        Ok(true)
    })?;
    monitor.counters().totals_open.set(0);
    Ok(())
}

fn by_list(former: &FileEntry, object: &ListedObject) -> Verdict {
    let bytes = object.size;
    if is_same_object(former, object) {
        return Verdict::of(What::Unchanged, bytes, 0);
    }
    let etag = former.object.as_deref().map(|known| &known.etag);
    let is_same_content = former.size == object.size && !object.etag.is_empty() && etag == Some(&object.etag);
    // Written again with the same content. It costs nothing if the pass finds out the same digests: of an ETag in parts from the content,
    // else from the head, which has no BLAKE3.
    if is_same_content && former.is_provable() && (former.blake3.is_none() || object.etag.contains('-')) {
        return Verdict::believed(What::Touched, bytes);
    }
    Verdict::of(What::Changed, bytes, bytes)
}

fn file_of(object: &ListedObject) -> FileEntry {
    FileEntry {
        id: 0,
        path: object.path.clone(),
        size: object.size,
        offset: 0,
        scattered: false,
        md5: None,
        blake3: None,
        meta: None,
        origin: None,
        object: None,
    }
}
