//! Scanning a folder, or a single file: one thread walks, several stat, read and hash.

use super::append::{Append, Resumer};
use super::batches::{BatchLimits, BatchScan, Batches};
use super::entry::{
    Candidate, ContentUse, FileSource, PreviousContent, ScanItem, ScannedEntry, UnmodifiedFile,
};
use super::files::FileHasher;
use super::hash::LARGE_BYTES;
use super::large::SIDE_BY_SIDE;
use super::listing::end_of_filter;
use super::options::IndexOptions;
use super::previous::PreviousFiles;
use super::stat::{HardLinks, StatRow, stat_all, walk_of};
use crate::archive::entry::FileEntry;
use crate::archive::shown::counted;
use crate::archive::skipped::SkippedList;
use crate::db::index_read::IndexReader;
use crate::engine::buffers::Buffers;
use crate::error::{Error, ErrorKind, Result};
use crate::source::base::Base;
use crate::source::walk::{StatEntry, Walk};
use crate::telemetry::{Monitor, Notice};

/// Files in a batch.
const BATCH_FILES: usize = 1024;
/// Batches under way where only digests are passed on.
const WINDOW: usize = 256;
/// Batches under way where contents are passed on.
const WINDOW_WITH_CONTENTS: usize = 2;

/// A folder, or a single file, that is about to be scanned.
pub(in crate::engine) struct FolderScan {
    walk: Walk,
    base: Base,
    previous: Option<PreviousFiles>,
    contents: ContentUse,
    resumer: Option<Resumer>,
    /// A file that only grows while it is read counts as unmodified.
    may_grow: bool,
    md5: bool,
}

impl FolderScan {
    pub(super) fn new(
        options: &IndexOptions,
        previous: Option<PreviousFiles>,
        contents: ContentUse,
    ) -> Result<Self> {
        let (base, walk) = walk_of(options)?;
        let may_grow = options.append != Append::Full;
        let resumer = if may_grow && !options.checksum && previous.is_some() && !base.is_device() {
            Some(Resumer::new(IndexReader::open(&options.database)?, options.append, options.md5))
        } else {
            None
        };
        Ok(Self { walk, base, previous, contents, resumer, may_grow, md5: options.md5 })
    }

    /// Whether the base is a device ([`Base::is_device`]).
    pub(super) fn is_device(&self) -> bool {
        self.base.is_device()
    }

    /// Gives every entry to `each`; reports those that are left out, and gives their list.
    pub(super) fn run(
        mut self,
        threads: usize,
        monitor: &dyn Monitor,
        each: impl FnMut(ScannedEntry) -> Result<()>,
    ) -> Result<SkippedList> {
        let has_contents = self.contents.has_contents();
        let hasher = FileHasher {
            base: &self.base,
            contents: &self.contents,
            buffers: match &self.contents {
                ContentUse::Digests => Buffers::new(threads),
                ContentUse::Contents(buffers) => buffers.clone(),
            },
            monitor,
            pieces: Buffers::new(threads * SIDE_BY_SIDE),
            parallel: threads > 1,
            resumer: self.resumer.take(),
            may_grow: self.may_grow,
            md5: self.md5,
        };
        // Of a large file, only a piece at a time is in memory, and two files are hashed side by
        // side.
        let max_file_bytes = if has_contents { u64::MAX } else { LARGE_BYTES };
        let scan = BatchScan {
            threads,
            window: if has_contents { WINDOW_WITH_CONTENTS } else { WINDOW },
            limits: BatchLimits { items: BATCH_FILES, bytes: self.contents.batch_bytes() },
            monitor,
            skipped: SkippedList::default(),
        };
        let (walk, base, previous) = (&self.walk, &self.base, self.previous.as_mut());
        let list = |batches: &mut Batches<FileSource>| {
            list(walk, base, threads, batches, max_file_bytes, previous, monitor)
        };
        let mut skipped_list = scan.run(list, |items| hasher.examine(items), || None, each)?;
        end_of_filter(walk.filter(), &mut skipped_list, monitor);
        if let Some(previous) = &mut self.previous {
            previous.end()?;
        }
        Ok(skipped_list)
    }
}

fn list(
    walk: &Walk,
    base: &Base,
    threads: usize,
    batches: &mut Batches<FileSource>,
    max_file_bytes: u64,
    mut previous: Option<&mut PreviousFiles>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut links = HardLinks::default();
    stat_all(walk, base, threads, |entry| {
        let (item, size) = match entry {
            Err(skipped) => (ScanItem::Skipped(skipped), 0),
            Ok(entry) => item_of(entry, &mut links, previous.as_deref_mut())?,
        };
        if matches!(item, ScanItem::File(_)) {
            monitor.counters().files_total.add(1);
            monitor.counters().total_bytes.add(size);
        }
        if batches.push(item, size.min(max_file_bytes)) {
            Ok(())
        } else {
            // The thread that takes the entries has ended with an error of its own.
            Err(Error::new(ErrorKind::Internal, "no more entries are taken"))
        }
    })?;
    let divided = links.unmet();
    if divided > 0 && walk.filter().options().shard.is_some() {
        monitor.notice(Notice::Warning(format!(
            "{} of this part have further names (hard links) in other parts, or outside of the source: each \
             part copies them as files of their own",
            counted(divided, "file")
        )));
    }
    Ok(())
}

/// An entry with what the previous index knows of it, and its size in bytes.
fn item_of(
    entry: StatEntry,
    links: &mut HardLinks,
    previous: Option<&mut PreviousFiles>,
) -> Result<(ScanItem<FileSource>, u64)> {
    let (now, shared_inode) = match links.row_of(entry) {
        StatRow::Node(node) => return Ok((ScanItem::Node(node), 0)),
        StatRow::File { file, shared_inode } => (file, shared_inode),
    };
    let (mut unmodified, mut mean_chunk, mut content) = (None, None, None);
    if let Some(previous) = previous
        && let Some(file) = previous.find(&now.path)?
    {
        if previous.is_unmodified(&file, &now) {
            let is_same_row = file.meta == now.meta;
            unmodified = Some(UnmodifiedFile { file: FileEntry { meta: now.meta, ..file }, is_same_row });
        } else {
            mean_chunk = previous.mean_chunk_of(&file)?;
            content = PreviousContent::of(&file, now.size).map(Box::new);
        }
    }
    let source = FileSource { path: now.path, shared_inode };
    Ok((ScanItem::File(Candidate { source, unmodified, mean_chunk, previous: content }), now.size))
}
