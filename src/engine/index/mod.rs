//! Making an index of a folder or a bucket: scan, hash in parallel, write in order.
//!
//! The modules from bottom to top: `entry` (the stages of an entry), `file_stat`, `report`, `hash`;
//! `append`, `etag`, `shared_extents`; `options`, `large`, `previous`, `listing`; `stat`, `files`,
//! `explain`, `objects`, `batches`; `folder`, `bucket`, `next`; `scan`. `from_list` makes one of a list
//! instead.

mod append;
mod batches;
mod bucket;
mod entry;
mod etag;
mod explain;
mod file_stat;
mod files;
mod folder;
mod from_list;
mod hash;
mod large;
mod listing;
mod next;
mod objects;
mod options;
mod previous;
mod report;
mod scan;
mod shared_extents;
mod stat;

pub use append::{Append, SAMPLES};
pub use explain::{Explanation, explain};
pub use from_list::index_from_list;
pub use options::IndexOptions;
pub use report::{GenerationChanges, IndexReport};

pub(super) use append::costs_its_growth;
pub(super) use entry::{BatchContent, CONTENT_BATCH_BYTES, ContentUse, HashedFile, LargeFile, ScannedEntry};
pub(super) use large::{HashedLarge, LargeReader, SIDE_BY_SIDE};
pub(super) use listing::{ListedEntry, end_of_filter, list_bucket, list_bucket_reporting, listed_entries};
pub(super) use objects::is_same_object;
pub(super) use previous::{PreviousFiles, PreviousNodes};
pub(super) use scan::{Scan, previous_index};
pub(super) use stat::{HardLinks, StatRow, record_top_of, stat_all, walk_of};

use crate::archive::source::SourceIdentity;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::index_write::{IndexWriter, Written};
use crate::engine::identity::record_identity;
use crate::engine::spill::IdSpill;
use crate::error::{Error, ErrorKind, Result};
use crate::source::base::folder_of;
use crate::telemetry::Monitor;
use crate::unix_time::now_s;
use next::NextRows;

/// Makes the index.
///
/// # Errors
/// The base folder cannot be read, or the database cannot be written.
pub fn index(options: &IndexOptions, monitor: &dyn Monitor) -> Result<IndexReport> {
    let started_s = now_s();
    let source = options.identity()?;
    let report = match previous_index(options)? {
        Some((reader, summary)) => next_generation(options, monitor, reader, summary, started_s),
        None => first_generation(options, monitor, &source, started_s),
    }?;
    record_top_of(options)?;
    record_identity(&options.database, &source)?;
    Ok(report)
}

fn first_generation(
    options: &IndexOptions,
    monitor: &dyn Monitor,
    source: &SourceIdentity,
    started_s: u64,
) -> Result<IndexReport> {
    let mut writer = IndexWriter::create(&options.database)?;
    let scan = Scan::new(options, None, ContentUse::Digests)?;
    let skipped = scan.run(options.threads, monitor, |scanned| match scanned {
        ScannedEntry::File(HashedFile { mut file, chunk_map, .. }) => {
            monitor.counters().files_done.add(1);
            (file.id, file.offset) = (writer.files(), writer.total_bytes());
            writer.file(&file)?;
            chunk_map.map_or(Ok(()), |chunk_map| writer.chunk_map(file.id, &chunk_map))
        }
        ScannedEntry::Node(node) => writer.node(&node),
        ScannedEntry::Large(_) => Err(unread()),
    })?;
    writer.skipped(1, &skipped)?;
    writer.source(&source.id)?;
    let Written { digest, files, nodes, total_bytes } =
        writer.finish(&options.source_bytes(), 1, started_s)?;
    // The first generation has no holes, and no two files share content.
    let (content_bytes, skipped, unchanged) = (total_bytes, skipped.total(), false);
    let excluded = options.filter.left_out();
    let (generation, changes) = (1, None);
    Ok(IndexReport {
        digest,
        files,
        nodes,
        total_bytes,
        content_bytes,
        skipped,
        excluded,
        unchanged,
        generation,
        changes,
    })
}

/// A scan reads every file if only digests are passed on.
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
    let vanished = IdSpill::new(folder_of(&options.database));
    let previous = PreviousFiles::new(reader, &summary, vanished.clone(), options.checksum)?;
    let nodes = PreviousNodes::new(IndexReader::open(&options.database)?)?;
    let scan = Scan::new(options, Some(previous), ContentUse::Digests)?;
    let mut rows = NextRows::new(options.database.clone(), summary, nodes, scan.is_device(), options.append);
    let skipped = scan.run(options.threads, monitor, |scanned| match scanned {
        ScannedEntry::File(hashed) => {
            monitor.counters().files_done.add(1);
            rows.file(hashed)
        }
        ScannedEntry::Node(node) => rows.node(&node),
        ScannedEntry::Large(_) => Err(unread()),
    })?;
    let (written, changes, summary) = rows.finish(&skipped, &vanished, started_s)?;
    let unchanged = written.is_none();
    let summary = match written {
        Some(_) => IndexReader::open(&options.database)?.summary()?,
        None => summary,
    };
    let Summary { digest, generation, files, nodes, total_bytes, content_bytes, .. } = summary;
    let (changes, skipped, excluded) = (Some(changes), skipped.total(), options.filter.left_out());
    Ok(IndexReport {
        digest,
        files,
        nodes,
        total_bytes,
        content_bytes,
        skipped,
        excluded,
        unchanged,
        generation,
        changes,
    })
}

/// Refuses to make the next generation of an index of another program.
///
/// # Errors
/// The file at `database` is no index, or the original program wrote it.
pub fn refuse_foreign(options: &IndexOptions) -> Result<()> {
    if !options.reuse || !options.database.exists() || IndexReader::open(&options.database)?.is_ours() {
        return Ok(());
    }
    let what = format!("{} was made by the original program", options.database.display());
    Err(Error::new(ErrorKind::Source, what).with_hint("give -c to replace it, or -db to write another one"))
}
