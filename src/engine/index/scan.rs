//! Scanning a source: a folder or a bucket.

use super::bucket::BucketScan;
use super::entry::{ContentUse, ScannedEntry};
use super::folder::FolderScan;
use super::options::IndexOptions;
use super::previous::PreviousFiles;
use crate::archive::skipped::SkippedList;
use crate::db::index_read::{IndexReader, Summary};
use crate::error::Result;
use crate::telemetry::Monitor;

/// A source that is about to be scanned.
pub(in crate::engine) enum Scan {
    Folder(Box<FolderScan>),
    Bucket(Box<BucketScan>),
}

impl Scan {
    pub(in crate::engine) fn new(
        options: &IndexOptions,
        previous: Option<PreviousFiles>,
        contents: ContentUse,
    ) -> Result<Self> {
        Ok(match &options.bucket {
            None => Self::Folder(Box::new(FolderScan::new(options, previous, contents)?)),
            Some(bucket) => {
                Self::Bucket(Box::new(BucketScan::new(options, bucket.clone(), previous, contents)?))
            }
        })
    }

    /// Whether the source is a device, whose time is that of this scan.
    pub(super) fn is_device(&self) -> bool {
        matches!(self, Self::Folder(scan) if scan.is_device())
    }

    /// Gives every entry to `each`; reports those that are left out, and gives their list.
    pub(in crate::engine) fn run(
        self,
        threads: usize,
        monitor: &dyn Monitor,
        each: impl FnMut(ScannedEntry) -> Result<()>,
    ) -> Result<SkippedList> {
        match self {
            Self::Folder(scan) => scan.run(threads, monitor, each),
            Self::Bucket(scan) => scan.run(threads, monitor, each),
        }
    }
}

/// The index that `options` may reuse.
pub(in crate::engine) fn previous_index(options: &IndexOptions) -> Result<Option<(IndexReader, Summary)>> {
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
