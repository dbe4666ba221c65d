//! Which source an index is of. The usual place of the index is the same for every source, so an
//! index is compared with its source before another one replaces it.

use super::index::{IndexOptions, refuse_foreign};
use crate::archive::shard::Shard;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::source::base::resolved;
use crate::source::s3::Bucket;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Refuses to go on with the index of another source.
///
/// # Errors
/// There is an index at `options.database`, and it is of another source, or of the original
/// program.
pub fn refuse_other_source(options: &IndexOptions) -> Result<()> {
    let database = &options.database;
    if !database.exists() {
        return Ok(());
    }
    let previous = IndexReader::open(database)?;
    let base = if previous.is_ours() { previous.summary()?.base } else { None };
    if base.as_ref() == Some(&options.source_name()) {
        return Ok(());
    }
    let source = base.map_or_else(|| "another program".to_string(), |base| base.display().to_string());
    Err(Error::new(ErrorKind::Source, format!("{} is the index of {source}", database.display()))
        .with_hint("give -db FILE to keep one index for each source, or --clean to replace this one"))
}

/// How many files of an index are looked for in another source than the one that was indexed.
const SAMPLE: usize = 100;

/// The source of which `name` is a part, or `name` itself.
pub(super) fn whole_of(name: &Path) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(Shard::whole_of(name.as_os_str().as_bytes())))
}

/// Refuses to send from a `base` that has none of the first files of the index at `database`. If it
/// is another source than the one that was indexed, and has some, gives a warning: the folder may
/// have been moved, or be a snapshot.
///
/// # Errors
/// [`ErrorKind::Source`], with the source that was indexed; or the index cannot be read.
pub fn refuse_other_base(database: &Path, base: &Path, bucket: Option<&Bucket>) -> Result<Option<String>> {
    if !database.exists() {
        return Ok(None);
    }
    let index = IndexReader::open(database)?;
    let indexed = if index.is_ours() { index.summary()?.base } else { None };
    let indexed = indexed.map(|base| whole_of(&base));
    let name =
        bucket.map_or_else(|| resolved(base).unwrap_or_else(|_| base.to_path_buf()), |b| b.address().into());
    if indexed.as_ref() == Some(&name) {
        return Ok(None);
    }
    let (mut looked, mut found) = (0, bucket.is_some() || !base.is_dir());
    if !found {
        index.files(|entry| {
            looked += 1;
            found = base.join(OsStr::from_bytes(entry.path.as_bytes())).symlink_metadata().is_ok();
            Ok(if found || looked == SAMPLE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
    }
    let what = |indexed: &Path| format!("{} is the index of {}", database.display(), indexed.display());
    if found || looked == 0 {
        return Ok(indexed
            .map(|indexed| format!("{}; the contents are read from {}", what(&indexed), name.display())));
    }
    let lacks = format!("{} has none of the first files of the index", name.display());
    Err(match indexed {
        Some(indexed) => Error::new(ErrorKind::Source, format!("{}, and {lacks}", what(&indexed)))
            .with_hint(format!("give that source: -b {}; or another index: -db FILE", indexed.display())),
        None => Error::new(ErrorKind::Source, format!("{lacks} {}", database.display()))
            .with_hint("give the source that was indexed with -b, or another index with -db FILE"),
    })
}

/// Refuses to compare with an index of the original program; with `has_source`, also with the index
/// of another source.
///
/// # Errors
/// The index is no index, or one of those.
pub fn refuse_other_index(options: &IndexOptions, has_source: bool) -> Result<()> {
    let source = || if has_source { refuse_other_source(options) } else { Ok(()) };
    refuse_foreign(options).and_then(|()| source()).map_err(|e| match e.kind() {
        ErrorKind::Source => e.with_hint(
            "give the index of this source with -db FILE, or the name of one that does not exist yet",
        ),
        _ => e,
    })
}
