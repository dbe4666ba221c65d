//! Making an index of a folder or a bucket: walk or list, hash in parallel, write in order.

mod bucket;
mod former;
mod object;
mod read;
mod rows;
mod scan;

pub(super) use bucket::list as list_bucket;
pub(super) use read::{KEPT_BATCH_BYTES, Large, LargeReader};
pub(super) use scan::{Content, Contents, Scan, Scanned};

use crate::archive::digest::IndexDigest;
use crate::db::index_read::Summary;
use crate::db::index_write::Written;
use crate::error::{Error, ErrorKind, Result};
use crate::source::s3::Bucket;
use crate::telemetry::Monitor;
use former::FormerRows;
use regex::bytes::Regex;
use rows::Rows;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What to index.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The folder; means nothing where there is a bucket.
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
    /// Take the digests of files that did not change since `database` was made from there, and keep that index if nothing
    /// changed at all.
    pub reuse: bool,
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
}

/// Now, in seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl IndexOptions {
    /// The folder without any symbolic link on the way, or the address of the bucket, as an index records it.
    pub(super) fn base_bytes(&self) -> Vec<u8> {
        if let Some(bucket) = &self.bucket {
            return bucket.address().into_bytes();
        }
        let resolved = self.base.canonicalize().unwrap_or_else(|_| self.base.clone());
        resolved.as_os_str().as_bytes().to_vec()
    }
}

/// Makes the index.
///
/// # Errors
/// The base folder cannot be read, or the database cannot be written.
pub fn index(options: &IndexOptions, monitor: &dyn Monitor) -> Result<IndexReport> {
    let started_s = now_s();
    let former_rows = scan::former_index(options)?.map(|(reader, summary)| FormerRows::new(reader, &summary));
    let mut rows = Rows::new(options.database.clone(), scan::former_index(options)?);
    let scan = Scan::new(options, former_rows, Contents::Drop)?;
    let skipped = scan.run(options.threads, monitor, |scanned| match scanned {
        Scanned::File { file, same, .. } => {
            monitor.counters().files_done.add(1);
            rows.file(file, same)
        }
        Scanned::Node(node) => rows.node(&node),
        Scanned::Large(_) => Err(Error::new(ErrorKind::Internal, "a file was left unread")),
    })?;
    if let Some(Summary { digest, files, nodes, total_bytes, .. }) = rows.unchanged().cloned() {
        return Ok(IndexReport { digest, files, nodes, total_bytes, skipped, unchanged: true });
    }
    let (written, unchanged) = rows.finish(&options.base_bytes(), started_s)?;
    let Written { digest, files, nodes, total_bytes } = written;
    Ok(IndexReport { digest, files, nodes, total_bytes, skipped, unchanged })
}

/// Refuses to replace an index that is there, unless `clean` asks for that.
///
/// # Errors
/// There is one.
pub fn refuse_existing(options: &IndexOptions, clean: bool) -> Result<()> {
    if clean || !options.database.exists() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("there is an index already at {}", options.database.display()))
        .hint("give -c to replace it, or -db to write another one")
        .with_kind(ErrorKind::Source))
}
