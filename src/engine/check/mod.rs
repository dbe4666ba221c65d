//! Comparing a folder or a bucket with an index. It verifies a copy independently of the transfer
//! that made it.

mod bucket;
mod folder;
mod model;

pub use model::{CheckOptions, CheckReport, Finding};

use super::pipeline::{Feed, ordered};
use super::receive::index_digests;
use crate::archive::layout::BlockLayout;
use crate::db::generation::History;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use bucket::BucketComparer;
use folder::FolderComparer;
use model::{BATCH_BYTES, Entry};
use std::ops::{ControlFlow, Range};
use std::path::Path;

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
    let window = (!whole).then_some(window);
    let (files, bytes) = match &window {
        None => (summary.files, summary.content_bytes),
        Some(window) => totals_of(&index, window.clone())?,
    };
    monitor.counters().files_total.set(files);
    monitor.counters().total_bytes.set(bytes);
    let mut totals = CheckReport::default();
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

/// The generation of the index at `database` that a receiver has taken into the folder `base`, and
/// the newest one, if that is another one. `None` also where none of them is known to be there.
/// `state` is the receiver's state folder, if it is known.
///
/// # Errors
/// The index cannot be read.
pub fn other_generation(base: &Path, state: Option<&Path>, database: &Path) -> Result<Option<(u64, u64)>> {
    let there = index_digests(base, state);
    if there.is_empty() {
        return Ok(None);
    }
    let history = History::open(database)?;
    let newest = history.active()?;
    if there.contains(&newest.digest) {
        return Ok(None);
    }
    let known = there.iter().filter_map(|digest| history.with_digest(digest)).next();
    Ok(known.map(|known| (known.number, newest.number)))
}

/// How many files touch `window` of the archive, and their bytes: all of each is read.
fn totals_of(index: &IndexReader, window: Range<u64>) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    index.files_in(window, |file| {
        (files, bytes) = (files + 1, bytes + file.size);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((files, bytes))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::index::{IndexOptions, index};
    use crate::telemetry::Silent;

    /// Of an index whose archive has grown over several generations.
    #[test]
    fn progress_counts_up_to_the_bytes_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let options = IndexOptions::of_folder(folder.path().join("source"), folder.path().join("index"));
        std::fs::create_dir(&options.base).unwrap();
        std::fs::write(options.base.join("stays"), [1; 5000]).unwrap();
        for generation in 1..4 {
            std::fs::write(options.base.join("changes"), vec![generation; 30_000 * usize::from(generation)])
                .unwrap();
            index(&options, &Silent::default()).unwrap();
        }
        for (first, last, bytes) in [(0, None, 95_000), (30, Some(30), 5000)] {
            let monitor = Silent::default();
            let options = CheckOptions {
                base: options.base.clone(),
                bucket: None,
                database: options.database.clone(),
                first,
                last,
                block_size: 1000,
                extra: false,
                metadata: true,
                md5: true,
                threads: 2,
                scratch: folder.path().to_path_buf(),
            };
            let report = check(&options, &monitor, |finding| panic!("{finding:?}")).unwrap();
            assert!(report.is_equal());
            let counters = monitor.counters();
            assert_eq!((counters.total_bytes.get(), counters.done_bytes.get()), (bytes, bytes));
        }
    }
}
