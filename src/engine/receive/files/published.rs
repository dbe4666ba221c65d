//! What has the name of a published file now: the file, unmodified since it was published, or
//! something else.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::reason::reason;
use super::content::is_as_indexed;
use super::fence::permit;
use super::parts::{PART_FILES, in_parts};
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::Result;
use crate::sink::Expected;
use crate::sink::disk::{DiskSink, FolderCache};
use parking_lot::Mutex;
use std::fs::File;
use std::ops::ControlFlow;

/// What has the name of a published file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The file.
    Unmodified,
    /// Something of its size and time with another owner or other permissions.
    OtherMetadata,
    /// Something else, or nothing.
    Replaced,
}

/// Whether a regular file of the right size and time has the final name.
///
/// # Errors
/// The system's error.
pub(crate) fn is_unmodified(sink: &DiskSink, file: &FileEntry, cache: &mut FolderCache) -> Result<bool> {
    let expected = Expected::of(file);
    Ok(sink.stat(&file.path, cache)?.is_some_and(|stat| expected.is(&stat)))
}

/// The same, but for a file that cannot be looked at: changing it fails, and says why.
pub(crate) fn may_be_unmodified(sink: &DiskSink, file: &FileEntry, cache: &mut FolderCache) -> bool {
    is_unmodified(sink, file, cache).unwrap_or(true)
}

/// The same as [`is_unmodified`], and whether owner and permissions are as they were set.
///
/// # Errors
/// The system's error.
pub(crate) fn condition(sink: &DiskSink, file: &FileEntry, cache: &mut FolderCache) -> Result<Condition> {
    let stat = sink.stat(&file.path, cache)?.filter(|stat| Expected::of(file).is(stat));
    Ok(match stat {
        None => Condition::Replaced,
        Some(stat) if sink.lacks_meta(&stat, file) => Condition::OtherMetadata,
        Some(_) => Condition::Unmodified,
    })
}

/// Gives what has the name of `file` its metadata, if it has the content that the index says. Size
/// and time do not suffice for that: another user who may write to the folder can put a file there
/// that has both, to get its owner or its permissions.
///
/// # Errors
/// The system's error.
pub(crate) fn mend(sink: &DiskSink, file: &FileEntry, cache: &mut FolderCache) -> Result<bool> {
    if !file.is_verifiable() {
        return Ok(false);
    }
    let Some(opened) = sink.open_to_mend(file, cache)? else { return Ok(false) };
    if !is_as_indexed(&opened, file)? {
        return Ok(false);
    }
    sink.mend_meta(&opened, file)?;
    Ok(true)
}

/// Whether a published file is in place, with its metadata, which are set again if they were changed.
///
/// # Errors
/// What is not the fault of the file.
pub(crate) fn is_in_place(
    context: &Context,
    archive: &Archive,
    file: &FileEntry,
    cache: &mut FolderCache,
) -> Result<bool> {
    let found = condition(&context.sink, file, cache).and_then(|found| match found {
        Condition::Unmodified => Ok(true),
        Condition::OtherMetadata => {
            tracing::info!("owner or permissions of \"{}\" were changed; they are set again", file.path);
            let _permit = permit(context, archive)?;
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

/// Opens a published file; `None` if it was modified since.
pub(crate) fn open_unmodified(sink: &DiskSink, file: &FileEntry) -> Option<File> {
    // What cannot be looked at, or what its own mode forbids to read, can still come from the
    // sender.
    let is_unmodified = is_unmodified(sink, file, &mut FolderCache::default()).unwrap_or(false);
    let opened = if is_unmodified { sink.open_final(&file.path).unwrap_or(None) } else { None };
    if opened.is_none() {
        tracing::info!("\"{}\" was changed or removed since it was received", file.path);
    }
    opened
}

/// Whether the content under the name of `file` is what the index says. What cannot be read is not.
pub(crate) fn has_content_of(sink: &DiskSink, file: &FileEntry) -> bool {
    let opened = sink.open_final(&file.path).unwrap_or(None);
    opened.is_some_and(|opened| is_as_indexed(&opened, file).unwrap_or(false))
}

/// Gives the files of `index` that are not in `published`.
///
/// # Errors
/// The index cannot be read, or an error of `each`.
pub(crate) fn each_unpublished(
    index: &IndexReader,
    published: &RangeSet,
    mut each: impl FnMut(FileEntry) -> Result<()>,
) -> Result<()> {
    let ids: RangeSet = published.missing(0..index.next_id()?).collect();
    index.files_of(&ids, |file| {
        each(file)?;
        Ok(ControlFlow::Continue(()))
    })
}

/// Records names that the journal missed, before another index takes the place of this one: what
/// that one does not have may be deleted only if it was put there. A crash may have come between a
/// rename and the journal, and other receivers on the folder have put files in place that they have
/// not handed over. Such files are known by their content.
///
/// # Errors
/// The index cannot be read, or another index has taken this one's place.
pub(crate) fn record_names(context: &Context, archive: &Archive) -> Result<()> {
    archive.progress.wait_for_verifiers();
    if context.hands_over() {
        // What a slice does not know of, the first one does.
        return Ok(());
    }
    let others = context.sink.other_slices()?;
    let count = context.options.slice.map_or(1, |options| options.slice.count());
    // Former slices had other files.
    let of_all = archive.progress.has_unrecorded_names() || others.iter().any(|slice| slice.count() != count);
    if !of_all && others.is_empty() {
        return Ok(());
    }
    let _shared = archive.lock_shared()?;
    let (mark, sink) = (context.committer.mark(), &context.sink);
    let wanted = archive.with_index(IndexReader::next_id)?;
    let wanted: RangeSet = archive.progress.published().missing(0..wanted).collect();
    let found = Mutex::new((RangeSet::default(), RangeSet::default()));
    in_parts(&wanted, PART_FILES, |part, cache| {
        archive.with_index(|index| {
            index.files_of(part, |file| {
                let is_named = (of_all || !archive.progress.owns(&file.range()))
                    && file.meta.is_some()
                    && file.is_verifiable()
                    && is_unmodified(sink, &file, cache).unwrap_or(false)
                    && has_content_of(sink, &file);
                if is_named {
                    let (ids, bytes) = &mut *found.lock();
                    ids.insert(file.id..file.id + 1);
                    // The receiver that has it is not sent it again. What several files share is
                    // the first one's.
                    if !others.is_empty() && !file.fragmented {
                        bytes.insert(file.range());
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
        })
    })?;
    let (ids, bytes) = found.into_inner();
    if ids.covered() > 0 {
        // The names are on stable storage before the journal says so.
        context.committer.sync(mark)?;
        archive.progress.take_over(&context.committer, &ids, &bytes, &context.archives.names.place())?;
    }
    archive.progress.set_unrecorded_names(false);
    Ok(())
}
