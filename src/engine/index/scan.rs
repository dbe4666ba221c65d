//! Going through a source. Of a folder, one thread walks, several read and hash, and the entries come out in the order of the walk.

use super::super::buffers::Buffers;
use super::super::pipeline::{Feed, ordered};
use super::IndexOptions;
use super::append::{Append, Appending, FormerContent, Growth};
use super::bucket::BucketScan;
use super::former::FormerRows;
use super::large::{Large, SIDE_BY_SIDE};
use super::read::{BATCH_FILES, Candidate, Item, LARGE_BYTES, Outcome, Reader, entry_of};
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::db::index_read::{IndexReader, Summary};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::meta_of;
use crate::source::base::Base;
use crate::source::walk::{Found, FoundKind, Looker, Seen, Skipped, Walk};
use crate::telemetry::{Monitor, Notice};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What becomes of the contents that were read.
pub(in super::super) enum Contents {
    /// Only their digests are wanted.
    Drop,
    /// They come with the entries, in buffers from here; what is too large for that is left unread.
    Keep(Arc<Buffers>),
}

/// An entry of the folder, in its place.
pub(in super::super) enum Scanned {
    /// A file; its id and offset are not set.
    File {
        /// With its digests.
        file: FileEntry,
        /// Whether the former index has this very row; its id is set then.
        same: bool,
        /// Where contents are kept.
        content: Option<Content>,
        /// Of a large file that was read ([`crate::archive::sketch`]).
        sketch: Option<Vec<u8>>,
        /// Whether it is longer than the former row of this path says, and begins with the content of that one.
        growth: Growth,
    },
    /// A file that is too large to be kept in memory; it was only opened.
    Large(Box<Large>),
    /// A directory or link.
    Node(Node),
}

/// The content of a file, among those of its batch.
pub(in super::super) struct Content {
    /// All of them, one behind the other.
    pub(in super::super) batch: Bytes,
    /// Where this one is.
    pub(in super::super) range: Range<usize>,
}

/// How many batches may be under way where only digests are kept …
const WINDOW: usize = 256;
/// … and where contents are.
const WINDOW_WITH_CONTENTS: usize = 2;

/// A source that is about to be gone through.
pub(in super::super) enum Scan {
    Folder(Box<FolderScan>),
    Bucket(Box<BucketScan>),
}

impl Scan {
    pub(in super::super) fn new(
        options: &IndexOptions,
        former: Option<FormerRows>,
        contents: Contents,
    ) -> Result<Self> {
        Ok(match &options.bucket {
            None => Self::Folder(Box::new(FolderScan::new(options, former, contents)?)),
            Some(bucket) => {
                Self::Bucket(Box::new(BucketScan::new(options, bucket.clone(), former, contents)?))
            }
        })
    }

    /// Whether times are only those of this very look ([`Base::is_device`]).
    pub(super) fn is_device(&self) -> bool {
        matches!(self, Self::Folder(scan) if scan.base.is_device())
    }

    /// Gives every entry to `each`; tells `monitor` of those that are left out, and returns their number.
    pub(in super::super) fn run(
        self,
        threads: usize,
        monitor: &dyn Monitor,
        each: impl FnMut(Scanned) -> Result<()>,
    ) -> Result<u64> {
        match self {
            Self::Folder(scan) => scan.run(threads, monitor, each),
            Self::Bucket(scan) => scan.run(threads, monitor, each),
        }
    }
}

/// A folder, or a single file, that is about to be gone through.
pub(in super::super) struct FolderScan {
    walk: Walk,
    base: Base,
    former: Option<FormerRows>,
    contents: Contents,
    appending: Option<Appending>,
    /// Files that grow while they are read have not changed.
    may_grow: bool,
}

impl FolderScan {
    fn new(options: &IndexOptions, former: Option<FormerRows>, contents: Contents) -> Result<Self> {
        let (base, walk) = walk_of(options)?;
        let may_grow = options.append != Append::Full;
        let appending = if may_grow && !options.checksum && former.is_some() && !base.is_device() {
            Some(Appending::new(IndexReader::open(&options.database)?, options.append))
        } else {
            None
        };
        Ok(Self { walk, base, former, contents, appending, may_grow })
    }

    fn run(
        mut self,
        threads: usize,
        monitor: &dyn Monitor,
        mut each: impl FnMut(Scanned) -> Result<()>,
    ) -> Result<u64> {
        let (walk, former) = (&self.walk, self.former.as_mut());
        let window = if matches!(self.contents, Contents::Keep(_)) { WINDOW_WITH_CONTENTS } else { WINDOW };
        let buffers = match &self.contents {
            Contents::Drop => Buffers::new(threads),
            Contents::Keep(buffers) => buffers.clone(),
        };
        let reader = Reader {
            base: &self.base,
            contents: &self.contents,
            buffers,
            monitor,
            pieces: Buffers::new(threads * SIDE_BY_SIDE),
            helped: threads > 1,
            appending: self.appending.take(),
            may_grow: self.may_grow,
        };
        let mut failed_links: HashSet<EntryPath> = HashSet::new();
        let mut skipped_count = 0;
        let limits = Limits {
            batch_bytes: self.contents.batch_bytes(),
            file_bytes: match &self.contents {
                Contents::Drop => LARGE_BYTES,
                Contents::Keep(_) => u64::MAX,
            },
        };
        let base = &self.base;
        let produce = |feed| walk_into(walk, base, threads, feed, limits, former, monitor);
        ordered(
            threads,
            window,
            produce,
            |batch: Vec<Item>| reader.examine(batch),
            |outcomes| {
                if monitor.is_cancelled() {
                    return Err(Error::new(ErrorKind::Interrupted, "interrupted; no index was written"));
                }
                for outcome in outcomes {
                    let skipped = match outcome {
                        Outcome::Scanned(Scanned::Node(node)) if is_lost(&node, &failed_links) => Skipped {
                            path: node.path.to_string(),
                            reason: "another name of the same file failed".to_string(),
                        },
                        Outcome::Scanned(scanned) => {
                            each(scanned)?;
                            continue;
                        }
                        Outcome::Skipped { skipped, linked } => {
                            failed_links.extend(linked);
                            skipped
                        }
                    };
                    skipped_count += 1;
                    monitor.counters().files_failed.add(1);
                    monitor.notice(Notice::Failed { path: skipped.path, reason: skipped.reason });
                }
                Ok(())
            },
        )?;
        if let Some(former) = &mut self.former {
            former.end()?;
        }
        Ok(skipped_count)
    }
}

/// The folder or file of `options`, with what of it is walked.
pub(in super::super) fn walk_of(options: &IndexOptions) -> Result<(Base, Walk)> {
    let mut own: Vec<&Path> = options.own_files.iter().map(PathBuf::as_path).collect();
    own.push(&options.database);
    let base = Base::open(&options.base)?;
    let walk = Walk::new(&base, &options.base, options.exclude.clone(), &own)?;
    Ok((base, walk))
}

fn is_lost(node: &Node, failed_links: &HashSet<EntryPath>) -> bool {
    node.kind == NodeKind::Hardlink && failed_links.iter().any(|path| *path.as_bytes() == *node.target)
}

/// The index that `options` may reuse.
pub(in super::super) fn former_index(options: &IndexOptions) -> Result<Option<(IndexReader, Summary)>> {
    if !options.reuse || !options.database.exists() {
        return Ok(None);
    }
    let reader = IndexReader::open(&options.database)?;
    if !reader.is_ours() {
        return Ok(None);
    }
    let summary = reader.summary()?;
    Ok(Some((reader, summary)))
}

/// Entries that one thread looks at in one go …
const LOOK_AT: usize = 256;
/// … and how often so many may be under way.
const LOOK_AHEAD: usize = 8;

/// What goes into a batch.
struct Limits {
    /// So many bytes, if it has more than one file.
    batch_bytes: u64,
    /// A file counts as no more than this: of a large one only a piece at a time is in memory, and two are hashed side by side.
    file_bytes: u64,
}

fn walk_into(
    walk: &Walk,
    base: &Base,
    threads: usize,
    feed: Feed<Vec<Item>, Vec<Outcome>>,
    limits: Limits,
    mut former: Option<&mut FormerRows>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut links = Links::default();
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    // Whoever wants no more results says why.
    let unwanted = || Error::new(ErrorKind::Internal, "nobody wants what is found");
    monitor.counters().totals_open.set(1);
    look_at_all(walk, base, threads, |found| {
        let (item, size_bytes) = match found {
            Err(skipped) => (Item::Skipped(skipped), 0),
            Ok(found) => item_of(found, &mut links, former.as_deref_mut())?,
        };
        if matches!(item, Item::File(_)) {
            monitor.counters().files_total.add(1);
            monitor.counters().total_bytes.add(size_bytes);
        }
        let size_bytes = size_bytes.min(limits.file_bytes);
        // A file that does not fit any more begins the next batch: contents of a batch are in memory at once.
        if batch_bytes > 0 && batch_bytes + size_bytes > limits.batch_bytes {
            batch_bytes = 0;
            if !feed.push(std::mem::take(&mut batch)) {
                return Err(unwanted());
            }
        }
        batch.push(item);
        batch_bytes += size_bytes;
        if batch.len() >= BATCH_FILES || batch_bytes >= limits.batch_bytes {
            batch_bytes = 0;
            if !feed.push(std::mem::take(&mut batch)) {
                return Err(unwanted());
            }
        }
        Ok(())
    })?;
    monitor.counters().totals_open.set(0);
    feed.push(batch);
    Ok(())
}

/// Gives everything that `walk` finds in `base`, in its order; several threads ask what it is.
pub(in super::super) fn look_at_all(
    walk: &Walk,
    base: &Base,
    threads: usize,
    each: impl FnMut(std::result::Result<Found, Skipped>) -> Result<()>,
) -> Result<()> {
    let mut each = each;
    ordered(
        threads,
        LOOK_AHEAD,
        |looks| walk_names(walk, &looks),
        |seen: Vec<_>| {
            let mut looker = Looker::new(walk, base);
            let look = |seen: std::result::Result<Seen, Skipped>| seen.and_then(|seen| looker.look(seen));
            seen.into_iter().map(look).collect::<Vec<_>>()
        },
        |found| found.into_iter().try_for_each(&mut each),
    )
}

type Names = Vec<std::result::Result<Seen, Skipped>>;

fn walk_names<R>(walk: &Walk, looks: &Feed<Names, R>) -> Result<()> {
    let mut names = Names::with_capacity(LOOK_AT);
    walk.run(|seen| {
        names.push(seen);
        names.len() < LOOK_AT || looks.push(std::mem::replace(&mut names, Names::with_capacity(LOOK_AT)))
    })?;
    looks.push(names);
    Ok(())
}

/// An entry of a folder as far as looking tells.
pub(in super::super) enum Looked {
    /// Without digests; device and inode where it has other names, too.
    File { file: FileEntry, linked: Option<(u64, u64)> },
    /// A directory, a link, or a further name of a file.
    Node(Node),
}

/// Files with several names, by device and inode, with how many of these are still to come. Only such files need to be remembered, and
/// only until all of their names were seen.
#[derive(Default)]
pub(in super::super) struct Links(HashMap<(u64, u64), (EntryPath, u64)>);

impl Links {
    /// What `found` is in an index. Entries come in the order of the walk.
    pub(in super::super) fn entry(&mut self, found: Found) -> Looked {
        let Found { path, kind, stat, mtime_ns } = found;
        let meta = Some(Meta { mtime_ns, ..meta_of(&stat) });
        let node = |kind, path, target: &[u8]| Looked::Node(Node { kind, path, target: target.into(), meta });
        match kind {
            FoundKind::Dir => return node(NodeKind::Dir, path, b""),
            FoundKind::Symlink(target) => return node(NodeKind::Symlink, path, &target),
            FoundKind::File => {}
        }
        let inode = (stat.st_dev, stat.st_ino);
        let linked = stat.st_nlink > 1;
        if linked && let Some((first, left)) = self.0.get_mut(&inode) {
            let first_path = first.clone();
            *left -= 1;
            if *left == 0 {
                self.0.remove(&inode);
            }
            return node(NodeKind::Hardlink, path, first_path.as_bytes());
        }
        if linked {
            self.0.insert(inode, (path.clone(), stat.st_nlink - 1));
        }
        let file = FileEntry { meta, ..entry_of(&path, &stat, None) };
        Looked::File { file, linked: linked.then_some(inode) }
    }
}

fn item_of(found: Found, links: &mut Links, former: Option<&mut FormerRows>) -> Result<(Item, u64)> {
    let (now, linked) = match links.entry(found) {
        Looked::Node(node) => return Ok((Item::Node(node), 0)),
        Looked::File { file, linked } => (file, linked),
    };
    let (mut known, mut average, mut content) = (None, None, None);
    if let Some(former) = former
        && let Some(file) = former.find(&now.path)?
    {
        if former.is_unchanged(&file, &now) {
            known = Some((file.meta == now.meta, FileEntry { meta: now.meta, ..file }));
        } else {
            average = former.average_of(&file)?;
            content = FormerContent::of(&file, now.size).map(Box::new);
        }
    }
    let candidate = Candidate { path: now.path, linked, known, average, former: content };
    Ok((Item::File(candidate), now.size))
}
