//! Comparing a folder or a bucket with an index. It verifies a copy independently of the transfer
//! that made it.

mod bucket;
mod folder;
mod model;

pub use model::{CheckOptions, CheckReport, Finding};

use super::pipeline::{Feed, ordered};
use crate::archive::layout::BlockLayout;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use bucket::BucketComparer;
use folder::FolderComparer;
use model::{BATCH_BYTES, Entry};
use std::ops::{ControlFlow, Range};

/// Batches that may be under way.
const WINDOW: usize = 256;
/// Entries of a batch, at most.
const BATCH_ENTRIES: usize = 256;

/// Compares, and tells `report` each difference, in the order of the index.
///
/// # Errors
/// The folder or the index cannot be read, or `report` fails.
pub fn check(
    options: &CheckOptions,
    monitor: &dyn Monitor,
    mut report: impl FnMut(&Finding) -> Result<()>,
) -> Result<CheckReport> {
    let comparer = match &options.bucket {
        Some(bucket) => Comparer::Bucket(BucketComparer::new(options, bucket, monitor)?),
        None => Comparer::Folder(FolderComparer::new(options, monitor)?),
    };
    let index = IndexReader::open(&options.database)?;
    let (summary, top) = (index.summary()?, index.top()?);
    let layout = BlockLayout::new(summary.total_bytes, options.block_size)
        .ok_or_else(|| Error::new(ErrorKind::Usage, "the block size must not be 0"))?;
    let whole = options.first == 0 && options.last.is_none();
    let window = layout.window(options.first, options.last);
    monitor.counters().files_total.set(summary.files);
    monitor.counters().total_bytes.set(window.end - window.start);
    let mut totals = CheckReport::default();
    let window = (!whole).then_some(window);
    ordered(
        options.threads,
        WINDOW,
        move |feed: Feed<Vec<Entry>, Vec<Option<Finding>>>| read_entries(&index, window, &feed),
        |entries: Vec<Entry>| comparer.compare(&entries),
        |findings: Vec<Option<Finding>>| {
            if monitor.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
            }
            if let Some(error) = comparer.outage() {
                return Err(error);
            }
            for finding in findings {
                totals.count(finding.as_ref());
                if let Some(finding) = &finding {
                    report(finding)?;
                }
            }
            Ok(())
        },
    )?;
    if let (Comparer::Folder(comparer), true) = (&comparer, whole)
        && let Some(why) = comparer.top(top.as_ref())
    {
        totals.different += 1;
        report(&Finding::Different(".".to_string(), why))?;
    }
    if options.extra {
        totals.extra = match &comparer {
            Comparer::Folder(_) => folder::report_extra(options, &mut report)?,
            Comparer::Bucket(comparer) => comparer.report_extra(options, &mut report)?,
        };
    }
    Ok(totals)
}

/// Feeds the rows of the index in batches: all of them, or the files that touch `window` of the
/// archive.
fn read_entries(
    index: &IndexReader,
    window: Option<Range<u64>>,
    feed: &Feed<Vec<Entry>, Vec<Option<Finding>>>,
) -> Result<()> {
    let mut batch = Batch { feed, entries: Vec::new(), bytes: 0 };
    match window {
        None => {
            index.files(|file| batch.add(file.size, Entry::File(file)))?;
            index.nodes(|node| batch.add(0, Entry::Node(node)))?;
        }
        Some(window) => index.files_in(window, |file| batch.add(file.size, Entry::File(file)))?,
    }
    let _ = batch.flush();
    Ok(())
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

    /// False says that the comparison has ended early.
    fn flush(&mut self) -> bool {
        self.bytes = 0;
        self.feed.push(std::mem::take(&mut self.entries))
    }
}

/// Compares entries of the index with one kind of source.
enum Comparer<'a> {
    Folder(FolderComparer<'a>),
    Bucket(BucketComparer<'a>),
}

impl Comparer<'_> {
    fn compare(&self, entries: &[Entry]) -> Vec<Option<Finding>> {
        match self {
            Self::Folder(comparer) => comparer.compare(entries),
            Self::Bucket(comparer) => comparer.compare(entries),
        }
    }

    /// Why nothing can be read any more, if that is so.
    fn outage(&self) -> Option<Error> {
        match self {
            Self::Folder(_) => None,
            Self::Bucket(comparer) => comparer.outage(),
        }
    }
}
