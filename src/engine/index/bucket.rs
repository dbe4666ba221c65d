//! Scanning a bucket: it is listed as a whole first; then its objects are examined, many at a time.

use super::batches::{BatchLimits, BatchScan, Batches};
use super::entry::{Candidate, ContentUse, ScanItem, ScannedEntry, UnmodifiedFile};
use super::listing::{ListedEntry, list_bucket_reporting, listed_entries};
use super::objects::{ObjectHasher, is_same_object};
use super::options::IndexOptions;
use super::previous::PreviousFiles;
use crate::archive::skipped::SkippedList;
use crate::db::listing::{ListedObject, Listing};
use crate::error::Result;
use crate::source::filter::Filter;
use crate::source::s3::Bucket;
use crate::telemetry::Monitor;
use std::path::Path;
use std::sync::Arc;

/// Objects in a batch.
const BATCH_OBJECTS: usize = 512;
/// Batches under way where only digests are passed on.
const WINDOW: usize = 16;
/// Batches under way where contents are passed on.
const WINDOW_WITH_CONTENTS: usize = 2;
/// At least so many threads, however few cores there are: they mostly wait for the store.
const MIN_THREADS: usize = 4;

/// A bucket that is about to be scanned.
pub(in crate::engine) struct BucketScan {
    bucket: Arc<Bucket>,
    listing: Listing,
    filter: Filter,
    previous: Option<PreviousFiles>,
    contents: ContentUse,
    read_contents: bool,
    checksum: bool,
}

impl BucketScan {
    pub(super) fn new(
        options: &IndexOptions,
        bucket: Arc<Bucket>,
        previous: Option<PreviousFiles>,
        contents: ContentUse,
    ) -> Result<Self> {
        let folder = options.database.parent().filter(|folder| !folder.as_os_str().is_empty());
        let listing = Listing::create(folder.unwrap_or(Path::new(".")))?;
        let (filter, read_contents) = (options.filter.clone(), options.read_contents);
        let checksum = options.checksum;
        Ok(Self { bucket, listing, filter, previous, contents, read_contents, checksum })
    }

    /// Gives every entry to `each`; reports those that are left out, and gives their list.
    pub(super) fn run(
        mut self,
        threads: usize,
        monitor: &dyn Monitor,
        each: impl FnMut(ScannedEntry) -> Result<()>,
    ) -> Result<SkippedList> {
        let has_contents = self.contents.has_contents();
        let scan = BatchScan {
            threads: threads.max(MIN_THREADS),
            window: if has_contents { WINDOW_WITH_CONTENTS } else { WINDOW },
            limits: BatchLimits { items: BATCH_OBJECTS, bytes: self.contents.batch_bytes() },
            monitor,
            skipped: list_bucket_reporting(&self.bucket, &self.filter, &self.listing, monitor)?,
        };
        let hasher = ObjectHasher {
            bucket: &self.bucket,
            contents: &self.contents,
            read_contents: self.read_contents,
            read_all: self.checksum,
            monitor,
        };
        // Exclusive, as one thread only may use an SQLite connection at a time.
        let (listing, previous) = (&mut self.listing, self.previous.as_mut());
        let list = move |batches: &mut Batches<ListedObject>| list(listing, batches, previous, monitor);
        let skipped_list = scan.run(list, |items| hasher.examine(items), || self.bucket.outage(), each)?;
        if let Some(previous) = &mut self.previous {
            previous.end()?;
        }
        Ok(skipped_list)
    }
}

fn list(
    listing: &Listing,
    batches: &mut Batches<ListedObject>,
    mut previous: Option<&mut PreviousFiles>,
    monitor: &dyn Monitor,
) -> Result<()> {
    listed_entries(listing, |entry| {
        let object = match entry {
            ListedEntry::Skipped(skipped) => return Ok(batches.push(ScanItem::Skipped(skipped), 0)),
            ListedEntry::Folder(node) => return Ok(batches.push(ScanItem::Node(node), 0)),
            ListedEntry::Object(object) => object,
        };
        let (mut unmodified, mut mean_chunk, mut size) = (None, None, 0);
        if !object.is_folder {
            size = object.size;
            monitor.counters().files_total.add(1);
            monitor.counters().total_bytes.add(size);
            if let Some(previous) = previous.as_deref_mut()
                && let Some(file) = previous.find(&object.path)?
            {
                mean_chunk = previous.mean_chunk_of(&file)?;
                unmodified = Some(file)
                    .filter(|file| !previous.has_to_read_all() && is_same_object(file, &object))
                    .map(|file| UnmodifiedFile { file, is_same_row: true });
            }
        }
        let candidate = Candidate { source: object, unmodified, mean_chunk, previous: None };
        Ok(batches.push(ScanItem::File(candidate), size))
    })
}
