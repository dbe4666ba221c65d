//! Comparing a folder or a bucket with an index: the proof after a transfer, independent of how it was made.

mod bucket;

use super::opener::Opener;
use super::pipeline::{Feed, ordered};
use crate::archive::digest::{Blake3, ContentHasher, Md5, blake3, md5_of_each};
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind};
use crate::archive::layout::Grid;
use crate::archive::path::EntryPath;
use crate::db::index_read::IndexReader;
use crate::db::paths::PathTable;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{is_kind, is_same_time, meta_of};
use crate::source::base::Base;
use crate::source::s3::Bucket;
use crate::source::walk::Walk;
use crate::telemetry::Monitor;
use bucket::BucketComparer;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Arc;

/// What to compare.
pub struct CheckOptions {
    /// The folder, or the file or block device alone; means nothing where there is a bucket.
    pub base: PathBuf,
    /// The bucket, if that is what to compare.
    pub bucket: Option<Arc<Bucket>>,
    /// The index.
    pub database: PathBuf,
    /// Only files that touch the blocks from this one on …
    pub first: u64,
    /// … to this one, inclusive; `None` means to the end.
    pub last: Option<u64>,
    /// The size of these blocks, in bytes.
    pub block_size: u64,
    /// Report what is in the folder and not in the index, too.
    pub extra: bool,
    /// Compare permissions, times and (as root) owners, too.
    pub metadata: bool,
    /// Hashing threads.
    pub threads: usize,
    /// A folder for temporary files.
    pub scratch: PathBuf,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The entry is there, but not as the index says; the text says how.
    Different(String, String),
    /// The entry is not there.
    Missing(String),
    /// The index does not know the entry.
    Extra(String),
    /// Nothing differs, but the index has nothing by which the content could be told from another one.
    Unverified(String),
}

/// The result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Entries that are as the index says.
    pub ok: u64,
    /// Entries that are there, but different.
    pub different: u64,
    /// Entries that are not there.
    pub missing: u64,
    /// Entries that the index does not know.
    pub extra: u64,
    /// Files of whose content the index says nothing.
    pub unverified: u64,
}

impl CheckReport {
    /// Whether everything is as the index says, and known to be.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        (self.different, self.missing, self.extra, self.unverified) == (0, 0, 0, 0)
    }
}

enum Entry {
    File(FileEntry),
    Node(Node),
}

/// Batches that may be under way.
const WINDOW: usize = 256;
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: u64 = 4 << 20;
const READ_BYTES: usize = 256 << 10;

/// Compares, and tells `report` of each difference, in the order of the index.
///
/// # Errors
/// The folder or the index cannot be read, or `report` fails.
pub fn check(
    options: &CheckOptions,
    monitor: &dyn Monitor,
    mut report: impl FnMut(&Finding) -> Result<()>,
) -> Result<CheckReport> {
    let place = match &options.bucket {
        Some(bucket) => Place::Bucket(BucketComparer::new(options, bucket, monitor)?),
        None => Place::Folder(Comparer {
            base: Base::open(&options.base)?,
            metadata: options.metadata,
            owner: rustix::process::geteuid().is_root(),
            monitor,
        }),
    };
    let index = IndexReader::open(&options.database)?;
    let summary = index.summary()?;
    let grid = Grid::new(summary.total_bytes, options.block_size)
        .ok_or_else(|| Error::new(ErrorKind::Usage, "the block size must not be 0"))?;
    let whole = options.first == 0 && options.last.is_none();
    let window = grid.window(options.first, options.last);
    monitor.counters().files_total.set(summary.files);
    monitor.counters().total_bytes.set(window.end - window.start);
    let mut totals = CheckReport::default();
    let range = window.clone();
    let produce = move |feed: Feed<Vec<Entry>, Vec<Option<Finding>>>| {
        let mut batch = Batch { feed: &feed, entries: Vec::new(), bytes: 0 };
        if whole {
            index.files(|file| batch.add(file.size, Entry::File(file)))?;
            index.nodes(|node| batch.add(0, Entry::Node(node)))?;
        } else {
            index.files_in(range, |file| batch.add(file.size, Entry::File(file)))?;
        }
        let _ = batch.flush();
        Ok(())
    };
    ordered(
        options.threads,
        WINDOW,
        produce,
        |entries: Vec<Entry>| match &place {
            Place::Folder(comparer) => comparer.compare(&entries),
            Place::Bucket(comparer) => comparer.compare(&entries),
        },
        |findings: Vec<Option<Finding>>| {
            if monitor.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
            }
            for finding in findings {
                match &finding {
                    None => totals.ok += 1,
                    Some(Finding::Different(..)) => totals.different += 1,
                    Some(Finding::Missing(_)) => totals.missing += 1,
                    Some(Finding::Extra(_)) => totals.extra += 1,
                    Some(Finding::Unverified(_)) => totals.unverified += 1,
                }
                if let Some(finding) = &finding {
                    report(finding)?;
                }
            }
            Ok(())
        },
    )?;
    if options.extra {
        totals.extra = match &place {
            Place::Folder(_) => report_extra(options, &mut report)?,
            Place::Bucket(comparer) => comparer.report_extra(options, &mut report)?,
        };
    }
    Ok(totals)
}

struct Batch<'a> {
    feed: &'a Feed<Vec<Entry>, Vec<Option<Finding>>>,
    entries: Vec<Entry>,
    bytes: u64,
}

impl Batch<'_> {
    fn add(&mut self, size: u64, entry: Entry) -> Result<ControlFlow<()>> {
        self.entries.push(entry);
        self.bytes += size;
        if self.entries.len() < BATCH_ENTRIES && self.bytes < BATCH_BYTES {
            return Ok(ControlFlow::Continue(()));
        }
        Ok(if self.flush() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    fn flush(&mut self) -> bool {
        self.bytes = 0;
        self.feed.push(std::mem::take(&mut self.entries))
    }
}

/// What the index is compared with.
enum Place<'a> {
    Folder(Comparer<'a>),
    Bucket(BucketComparer<'a>),
}

struct Comparer<'a> {
    base: Base,
    metadata: bool,
    owner: bool,
    monitor: &'a dyn Monitor,
}

/// What is known of a file once it was read.
enum Seen {
    /// A difference that shows without its content.
    Differs(String),
    /// Its content is in the buffer.
    Small(Stat, Range<usize>),
    Hashed(Stat, (Md5, Blake3)),
    /// The index does not know its content, so that it was not read.
    Unproven,
    /// The user wants to stop.
    Cancelled,
}

impl Comparer<'_> {
    /// Small files are hashed side by side: that is why they come in batches.
    fn compare(&self, entries: &[Entry]) -> Vec<Option<Finding>> {
        let (mut opener, mut buffer) = (Opener::new(&self.base), Vec::new());
        let (mut outcomes, mut small) = (Vec::with_capacity(entries.len()), Vec::new());
        for (position, entry) in entries.iter().enumerate() {
            outcomes.push(match entry {
                Entry::Node(node) => self.node(node),
                Entry::File(file) => {
                    self.monitor.counters().files_done.add(1);
                    match self.file(file, &mut opener, &mut buffer) {
                        Ok(Seen::Differs(why)) => Ok(Some(why)),
                        Ok(Seen::Small(stat, range)) => {
                            small.push((position, file, stat, range));
                            Ok(None)
                        }
                        Ok(Seen::Hashed(stat, digests)) => Ok(self.verdict(file, &stat, digests)),
                        Ok(Seen::Unproven | Seen::Cancelled) => Ok(None),
                        Err(e) => Err(e),
                    }
                }
            });
        }
        let contents: Vec<&[u8]> = small.iter().map(|(.., range)| &buffer[range.clone()]).collect();
        for ((position, file, stat, _), (md5, content)) in
            small.iter().zip(md5_of_each(&contents).into_iter().zip(&contents))
        {
            outcomes[*position] = Ok(self.verdict(file, stat, (md5, blake3(content))));
        }
        entries.iter().zip(outcomes).map(|(entry, outcome)| finding(entry, outcome)).collect()
    }

    fn stat(&self, path: &EntryPath) -> std::result::Result<Stat, Errno> {
        match &self.base {
            Base::Single(single) if single.path() == path => single.stat(),
            Base::Single(_) => Err(Errno::NOENT),
            Base::Folder(base) => {
                let (parent, name) = path.split();
                base.open_folder(parent)?.stat(name)?.ok_or(Errno::NOENT)
            }
        }
    }

    fn file(
        &self,
        file: &FileEntry,
        opener: &mut Opener<'_>,
        buffer: &mut Vec<u8>,
    ) -> std::result::Result<Seen, Errno> {
        let opened = match opener.open(&file.path) {
            // A link in the place of the file is a difference, a link in the place of its folder makes it missing.
            Err(Errno::LOOP | Errno::NXIO) => {
                return self.stat(&file.path).map(|_| Seen::Differs("it is no regular file".to_string()));
            }
            other => other?,
        };
        let stat = self.base.look(&opened)?;
        if !is_kind(&stat, FileType::RegularFile) {
            return Ok(Seen::Differs("it is no regular file".to_string()));
        }
        if u64::try_from(stat.st_size) != Ok(file.size) {
            return Ok(Seen::Differs(format!("its size is {}, not {}", stat.st_size, file.size)));
        }
        if !file.is_provable() {
            return Ok(self.meta(&stat, file.meta.as_ref(), true).map_or(Seen::Unproven, Seen::Differs));
        }
        let unreadable = |e: std::io::Error| Ok(Seen::Differs(format!("it cannot be read: {e}")));
        // One byte more than it should have: it may have grown since.
        let mut reader = opened.take(file.size.saturating_add(1));
        if file.size <= BATCH_BYTES {
            let start = buffer.len();
            buffer.reserve(file.size as usize + 1);
            return match reader.read_to_end(buffer) {
                Ok(length) => {
                    self.monitor.counters().done_bytes.add(length as u64);
                    Ok(Seen::Small(stat, start..buffer.len()))
                }
                Err(e) => {
                    buffer.truncate(start);
                    unreadable(e)
                }
            };
        }
        let (mut hasher, mut piece) = (ContentHasher::default(), vec![0; READ_BYTES]);
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok(Seen::Hashed(stat, hasher.finish())),
                Ok(_) if self.monitor.is_cancelled() => return Ok(Seen::Cancelled),
                Ok(n) => {
                    hasher.update(&piece[..n]);
                    self.monitor.counters().done_bytes.add(n as u64);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return unreadable(e),
            }
        }
    }

    fn verdict(&self, file: &FileEntry, stat: &Stat, (md5, blake3): (Md5, Blake3)) -> Option<String> {
        if let Some(wanted) = file.md5.filter(|&wanted| wanted != md5) {
            return Some(format!("its md5 is {md5}, not {wanted}"));
        }
        if file.blake3.is_some_and(|wanted| wanted != blake3) {
            return Some("its BLAKE3 differs although its md5 does not".to_string());
        }
        self.meta(stat, file.meta.as_ref(), true)
    }

    fn node(&self, node: &Node) -> std::result::Result<Option<String>, Errno> {
        let stat = self.stat(&node.path)?;
        let wrong = |what: &str| Ok(Some(format!("it is no {what}")));
        match node.kind {
            NodeKind::Dir if !is_kind(&stat, FileType::Directory) => wrong("folder"),
            NodeKind::Dir => Ok(self.meta(&stat, node.meta.as_ref(), true)),
            NodeKind::Symlink if !is_kind(&stat, FileType::Symlink) => wrong("symbolic link"),
            NodeKind::Symlink => {
                let Base::Folder(base) = &self.base else { return Err(Errno::NOENT) };
                let (parent, name) = node.path.split();
                let target = rustix::fs::readlinkat(base.open_folder(parent)?, name, Vec::new())?;
                if target.as_bytes() != &*node.target {
                    return Ok(Some("it points somewhere else".to_string()));
                }
                Ok(self.meta(&stat, node.meta.as_ref(), false))
            }
            NodeKind::Hardlink => {
                let Ok(target) = EntryPath::new(node.target.clone()) else { return wrong("hard link") };
                let same =
                    self.stat(&target).is_ok_and(|t| (t.st_dev, t.st_ino) == (stat.st_dev, stat.st_ino));
                Ok((!same).then(|| format!("it is not the same file as \"{target}\"")))
            }
        }
    }

    /// Symbolic links have no permissions of their own. Who is not root could neither have set owners nor set-id bits.
    fn meta(&self, stat: &Stat, wanted: Option<&Meta>, mode: bool) -> Option<String> {
        let wanted = wanted.filter(|_| self.metadata)?;
        let found = meta_of(stat);
        let bits = if self.owner { 0o7777 } else { 0o1777 };
        if mode && found.mode & bits != wanted.mode & bits {
            return Some(format!("its mode is {:04o}, not {:04o}", found.mode & bits, wanted.mode & bits));
        }
        // A device does not say when it changed.
        if !self.base.is_device() && !is_same_time(found.mtime_ns, wanted.mtime_ns) {
            return Some(format!("its time is {}, not {} ns", found.mtime_ns, wanted.mtime_ns));
        }
        if self.owner && (found.uid, found.gid) != (wanted.uid, wanted.gid) {
            return Some(format!(
                "its owner is {}:{}, not {}:{}",
                found.uid, found.gid, wanted.uid, wanted.gid
            ));
        }
        None
    }
}

fn finding(entry: &Entry, outcome: std::result::Result<Option<String>, Errno>) -> Option<Finding> {
    let path = || match entry {
        Entry::File(file) => file.path.to_string(),
        Entry::Node(node) => node.path.to_string(),
    };
    match outcome {
        Ok(None) if matches!(entry, Entry::File(file) if !file.is_provable()) => {
            Some(Finding::Unverified(path()))
        }
        Ok(None) => None,
        Ok(Some(why)) => Some(Finding::Different(path(), why)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Some(Finding::Missing(path())),
        Err(e) => Some(Finding::Different(path(), format!("it cannot be read: {}", std::io::Error::from(e)))),
    }
}

fn report_extra(options: &CheckOptions, report: &mut impl FnMut(&Finding) -> Result<()>) -> Result<u64> {
    let known = PathTable::create(&options.scratch)?;
    let index = IndexReader::open(&options.database)?;
    index.files(|file| known.add(&file.path, "f").map(|_| ControlFlow::Continue(())))?;
    index.nodes(|node| known.add(&node.path, node.kind.letter()).map(|_| ControlFlow::Continue(())))?;
    let (mut count, mut outcome) = (0, Ok(()));
    let plain = !index.is_ours();
    Walk::new(&Base::open(&options.base)?, &options.base, Vec::new(), &[&options.database])?.run(
        |found| {
            let path = match found {
                // An index of the original program lists no directories: they are no difference.
                Ok(found) if plain && found.is_dir() => return true,
                Ok(found) => match known.kind_of(found.path.as_bytes()) {
                    Ok(Some(_)) => return true,
                    Ok(None) => found.path.to_string(),
                    Err(e) => {
                        outcome = Err(e);
                        return false;
                    }
                },
                // What no index could name, or what has no content to copy.
                Err(skipped) => skipped.path,
            };
            count += 1;
            outcome = report(&Finding::Extra(path));
            outcome.is_ok()
        },
    )?;
    outcome.map(|()| count)
}
