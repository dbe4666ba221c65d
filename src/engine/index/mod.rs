//! Making an index of a folder: walk, hash in parallel, write in order.

mod former;
mod read;
mod scan;

pub(super) use read::{Large, LargeReader};
pub(super) use scan::{Contents, Scan, Scanned};

use crate::archive::digest::IndexDigest;
use crate::db::index_write::IndexWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use former::FormerRows;
use regex::bytes::Regex;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// What to index.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The folder.
    pub base: PathBuf,
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
    /// The folder without any symbolic link on the way, as an index records it.
    pub(super) fn base_bytes(&self) -> Vec<u8> {
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
    let mut writer = IndexWriter::create(&options.database)?;
    let former = scan::former_index(options)?;
    let former_summary = former.as_ref().map(|(_, summary)| summary.clone());
    let former_rows = former.map(|(reader, summary)| FormerRows::new(reader, &summary));
    let scan = Scan::new(options, writer.partial_path(), former_rows, Contents::Drop)?;
    let mut read_count = 0;
    let skipped = scan.run(options.threads, monitor, |scanned| match scanned {
        Scanned::File { mut file, read, .. } => {
            read_count += u64::from(read);
            (file.id, file.offset) = (writer.files(), writer.total_bytes());
            writer.file(&file)?;
            monitor.counters().files_done.add(1);
            Ok(())
        }
        Scanned::Node(node) => writer.node(&node),
        Scanned::Large(_) => Err(Error::new(ErrorKind::Internal, "a file was left unread")),
    })?;
    let digest = writer.digest()?;
    let report = |digest, files, nodes, total_bytes, unchanged| IndexReport {
        digest,
        files,
        nodes,
        total_bytes,
        skipped,
        unchanged,
    };
    let unchanged = former_summary.as_ref().is_some_and(|former| former.digest == digest);
    if let Some(former) = former_summary.as_ref().filter(|_| unchanged && read_count == 0) {
        return Ok(report(digest, former.files, former.nodes, former.total_bytes, true));
    }
    // Files that were read again although nothing changed have new inodes or times: the next run wants to know them.
    let generation = former_summary.map_or(1, |former| former.generation + u64::from(!unchanged));
    let written = writer.finish(&options.base_bytes(), generation, started_s)?;
    Ok(report(written.digest, written.files, written.nodes, written.total_bytes, unchanged))
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
