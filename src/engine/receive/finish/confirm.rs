//! Confirming published files: each is looked at once more, and what was removed or changed since
//! is asked for again.

use super::super::archive::Archive;
use super::super::archive::gate::Shared;
use super::super::context::Context;
use super::super::files::invalidate::invalidate;
use super::super::files::parts::{PART_FILES, in_parts};
use super::super::files::published::is_in_place;
use crate::archive::ranges::RangeSet;
use crate::error::Result;
use crate::telemetry::Counter;
use std::ops::ControlFlow;

/// Takes the `stat` of each published file, and invalidates those that are not in place. Left out
/// are the files of `skipped`: a precheck has confirmed them, or they share their place with
/// another file and would be sent again in each run. Both count in `confirmed`.
///
/// # Errors
/// What is not the fault of one file.
pub(super) fn confirm(
    context: &Context,
    archive: &Archive,
    shared: &Shared<'_>,
    skipped: &[&RangeSet],
    confirmed: &Counter,
) -> Result<()> {
    let mut published = archive.progress.published();
    let all = published.covered();
    skipped.iter().flat_map(|ids| ids.iter()).for_each(|ids| published.remove(ids));
    confirmed.add(all - published.covered());
    in_parts(&published, PART_FILES, |ids, cache| {
        let mut lost = Vec::new();
        archive.with_index(|index| {
            index.files_of(ids, |file| {
                if !is_in_place(context, archive, &file, cache)? {
                    tracing::info!(
                        "\"{}\" was changed or removed since it was received; it is asked for again",
                        file.path
                    );
                    lost.push(file);
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        if !lost.is_empty()
            && let Some(lost_storage) = context.lost_storage()
        {
            // Files that are gone together with their storage are not asked for again.
            return Err(lost_storage);
        }
        invalidate(context, archive, shared, &lost)?;
        confirmed.add(ids.covered());
        Ok(())
    })
}
