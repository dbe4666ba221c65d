//! Making an index of a folder or a bucket: walk or list, hash in parallel, write in order.

mod append;
mod bucket;
mod former;
mod large;
mod next;
mod object;
mod read;
mod rows;
mod scan;

pub(super) use bucket::{
    ListedEntry, entries as listed_entries, list as list_bucket, list_with as list_bucket_with,
};
pub(super) use former::{FormerRows, Vanished};
pub(super) use large::{Large, LargeDone, LargeReader, SIDE_BY_SIDE};
pub(super) use object::is_same as is_same_object;
pub(super) use read::KEPT_BATCH_BYTES;
pub(super) use rows::FormerNodes;
pub(super) use scan::{Content, Contents, Links, Looked, Scan, Scanned, former_index, look_at_all, walk_of};

pub(super) use append::costs_its_growth;
pub use append::{Append, SAMPLES};
pub use next::Changes;

use crate::archive::digest::IndexDigest;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::index_write::{IndexWriter, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::source::base::resolved;
use crate::source::s3::Bucket;
use crate::telemetry::Monitor;
use next::NextRows;
use regex::bytes::Regex;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What to index.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The folder, or the file or block device alone; means nothing where there is a bucket.
    pub base: PathBuf,
    /// The bucket, if that is the source.
    pub bucket: Option<Arc<Bucket>>,
    /// Read the objects of a bucket whose ETag is no md5; else they have none.
    pub read_contents: bool,
    /// Where the index goes.
    pub database: PathBuf,
    /// Relative paths that match are left out.
    pub exclude: Vec<Regex>,
    /// Other files of ours that may lie in the folder and are left out.
    pub own_files: Vec<PathBuf>,
    /// Make the next generation of the index at `database`, if there is one: files that did not change are not read, and that index
    /// stands if nothing changed at all. Else a fresh one takes its place.
    pub reuse: bool,
    /// Read also what seems not to have changed.
    pub checksum: bool,
    /// How files that grew are read; all of them whole with `checksum`. Means nothing for a bucket.
    pub append: Append,
    /// Hashing threads.
    pub threads: usize,
}

/// What was indexed.
#[derive(Debug, Clone)]
pub struct IndexReport {
    /// Names this state of the index.
    pub digest: IndexDigest,
    /// Regular files.
    pub files: u64,
    /// Directories and links.
    pub nodes: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
    /// Entries that were left out because they could not be read or have no content to copy.
    pub skipped: u64,
    /// Nothing changed: the former index stands.
    pub unchanged: bool,
    /// Which generation this is, counted from 1.
    pub generation: u64,
    /// What it is made of, where there was a former one.
    pub changes: Option<Changes>,
}

/// Now, in seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl IndexOptions {
    /// The same as a path.
    #[must_use]
    pub fn source_name(&self) -> PathBuf {
        PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(self.base_bytes()))
    }

    /// The folder without any symbolic link on the way, or a single file in such a folder, or the address of the bucket, as an index
    /// records it.
    pub(super) fn base_bytes(&self) -> Vec<u8> {
        if let Some(bucket) = &self.bucket {
            return bucket.address().into_bytes();
        }
        let resolved = resolved(&self.base).unwrap_or_else(|_| self.base.clone());
        resolved.as_os_str().as_bytes().to_vec()
    }
}

/// Makes the index.
///
/// # Errors
/// The base folder cannot be read, or the database cannot be written.
pub fn index(options: &IndexOptions, monitor: &dyn Monitor) -> Result<IndexReport> {
    let started_s = now_s();
    match former_index(options)? {
        Some((reader, summary)) => next_generation(options, monitor, reader, summary, started_s),
        None => fresh(options, monitor, started_s),
    }
}

fn fresh(options: &IndexOptions, monitor: &dyn Monitor, started_s: u64) -> Result<IndexReport> {
    let mut writer = IndexWriter::create(&options.database)?;
    let scan = Scan::new(options, None, Contents::Drop)?;
    let skipped = scan.run(options.threads, monitor, |scanned| match scanned {
        Scanned::File { mut file, sketch, .. } => {
            monitor.counters().files_done.add(1);
            (file.id, file.offset) = (writer.files(), writer.total_bytes());
            writer.file(&file)?;
            sketch.map_or(Ok(()), |sketch| writer.sketch(file.id, &sketch))
        }
        Scanned::Node(node) => writer.node(&node),
        Scanned::Large(_) => Err(unread()),
    })?;
    let Written { digest, files, nodes, total_bytes } = writer.finish(&options.base_bytes(), 1, started_s)?;
    let (unchanged, generation, changes) = (false, 1, None);
    Ok(IndexReport { digest, files, nodes, total_bytes, skipped, unchanged, generation, changes })
}

fn unread() -> Error {
    Error::new(ErrorKind::Internal, "a file was left unread")
}

fn next_generation(
    options: &IndexOptions,
    monitor: &dyn Monitor,
    reader: IndexReader,
    summary: Summary,
    started_s: u64,
) -> Result<IndexReport> {
    let vanished = Vanished::default();
    let former = FormerRows::new(reader, &summary, vanished.clone(), options.checksum)?;
    let nodes = FormerNodes::new(IndexReader::open(&options.database)?);
    let former_generation = summary.generation;
    let scan = Scan::new(options, Some(former), Contents::Drop)?;
    let mut rows = NextRows::new(options.database.clone(), summary, nodes, scan.is_device(), options.append);
    let skipped = scan.run(options.threads, monitor, |scanned| match scanned {
        Scanned::File { file, same, sketch, growth, .. } => {
            monitor.counters().files_done.add(1);
            rows.file(file, same, sketch.as_deref(), growth)
        }
        Scanned::Node(node) => rows.node(&node),
        Scanned::Large(_) => Err(unread()),
    })?;
    let (written, changes, summary) = rows.finish(skipped, &vanished, started_s)?;
    let unchanged = written.is_none();
    let generation = match &written {
        Some(_) => IndexReader::open(&options.database)?.summary()?.generation,
        None => former_generation,
    };
    let Summary { digest, files, nodes, total_bytes, .. } = summary;
    let Written { digest, files, nodes, total_bytes } =
        written.unwrap_or(Written { digest, files, nodes, total_bytes });
    let changes = Some(changes);
    Ok(IndexReport { digest, files, nodes, total_bytes, skipped, unchanged, generation, changes })
}

/// Refuses to make the next generation of what is no index of ours.
///
/// # Errors
/// It is no index at all, or the original program wrote it.
pub fn refuse_foreign(options: &IndexOptions) -> Result<()> {
    if !options.reuse || !options.database.exists() || IndexReader::open(&options.database)?.is_ours() {
        return Ok(());
    }
    let what = format!("{} was made by the original program", options.database.display());
    Err(Error::new(ErrorKind::Source, what).hint("give -c to replace it, or -db to write another one"))
}
