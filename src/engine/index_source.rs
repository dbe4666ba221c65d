//! Which source an index is of. The usual place of the index is the same for every source, so an
//! index is compared with its source before another one replaces it.

use super::index::{IndexOptions, refuse_foreign};
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};

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
