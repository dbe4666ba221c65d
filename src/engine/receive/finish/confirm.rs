//! Confirming published files: each is looked at once more, and what was removed or changed since
//! is asked for again.

use super::super::archive::Archive;
use super::super::archive::gate::Shared;
use super::super::context::Context;
use super::super::files::invalidate::invalidate;
use super::super::files::published::{Condition, condition, mend};
use super::super::reason::reason;
use super::precheck::{PART_FILES, in_parts};
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::error::Result;
use crate::sink::disk::FolderCache;
use std::ops::ControlFlow;

/// Takes the `stat` of each published file, and invalidates those that are not in place. Left out
/// are the files of `skipped`: a precheck has confirmed them, or they share their place with
/// another file and would be sent again in each run.
///
/// # Errors
/// What is not the fault of one file.
pub(super) fn confirm(
    context: &Context,
    archive: &Archive,
    shared: &Shared<'_>,
    skipped: &[&RangeSet],
) -> Result<()> {
    let mut published = archive.progress.published();
    skipped.iter().flat_map(|ids| ids.iter()).for_each(|ids| published.remove(ids));
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
        invalidate(context, archive, shared, &lost)
    })
}

/// Whether a published file is in place, with its metadata.
fn is_in_place(
    context: &Context,
    archive: &Archive,
    file: &FileEntry,
    cache: &mut FolderCache,
) -> Result<bool> {
    let found = condition(&context.sink, file, cache).and_then(|found| match found {
        Condition::Unmodified => Ok(true),
        Condition::OtherMetadata => {
            tracing::info!("owner or permissions of \"{}\" were changed; they are set again", file.path);
            mend(&context.sink, file, cache)
        }
        Condition::Replaced => Ok(false),
    });
    match found.map_err(|e| context.judged(e)) {
        Ok(is_in_place) => {
            if is_in_place {
                // It may have been out of sight the last time.
                archive.progress.clear_failure(file.id);
            }
            Ok(is_in_place)
        }
        Err(e) if !e.kind().is_of_one_file() => Err(e),
        Err(e) => {
            // Its folder forbids even to look: the receiver can neither confirm nor replace it.
            archive.progress.fail(file.id, &file.path, reason(&e));
            Ok(true)
        }
    }
}
