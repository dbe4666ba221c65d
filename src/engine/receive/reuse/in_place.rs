//! Files that keep their names: the previous index had them under the same path with the same
//! content, and they are in place.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::files::metadata::MetadataUpdate;
use super::super::files::published::{has_content_of, may_be_unmodified};
use super::Reusable;
use crate::archive::entry::FileEntry;
use crate::db::index_read::{IndexReader, WalkRows};
use crate::error::Result;
use crate::sink::disk::{DiskSink, FolderCache};
use std::ops::ControlFlow;
use std::path::Path;

/// The files of `index` that `previous` had published under the same path, with the same content.
///
/// # Errors
/// An index cannot be read.
pub(crate) fn published_by_path(
    context: &Context,
    previous: &Archive,
    index: &IndexReader,
) -> Result<Reusable> {
    let (sink, scratch) = (&context.sink, context.incoming_path());
    let published = previous.progress.published();
    if published.covered() == 0 || !previous.progress.head().sealed {
        return Reusable::nothing(&scratch, index);
    }
    let mut cache = FolderCache::default();
    let is_published = |id| published.contains(id..id + 1);
    let is_unmodified = |old: &FileEntry| may_be_unmodified(sink, old, &mut cache);
    let mut reusable = same_by_path(&scratch, &previous.index_path, index, is_published, is_unmodified)?;
    previous.with_index(|rows| add_older(sink, rows, index, &mut reusable))?;
    reusable.find_missing(index)?;
    reusable.hold_back_updates()?;
    Ok(reusable)
}

/// Adds files that indexes before the previous one had put in place: several sources may come to
/// one folder in turn. What their rows say is only where to look; the content is read.
fn add_older(
    sink: &DiskSink,
    previous: &IndexReader,
    index: &IndexReader,
    reusable: &mut Reusable,
) -> Result<()> {
    previous.file_tombstones(0, |old| {
        let Some(id) = index.id_of(&old.path)?.filter(|&id| !reusable.published.contains(id..id + 1)) else {
            return Ok(ControlFlow::Continue(()));
        };
        let mut found = None;
        index.files_with_ids(id..id + 1, |file| {
            found = Some(file);
            Ok(ControlFlow::Break(()))
        })?;
        let is_same =
            |file: &FileEntry| file.is_verifiable() && file.meta.is_some() && old.has_content_of(file);
        // What cannot be read is sent.
        if let Some(file) = found.filter(|file| is_same(file) && has_content_of(sink, file)) {
            reusable.updates.push(MetadataUpdate::of(id, &old))?;
            reusable.published.insert(id..id + 1);
            reusable.same_bytes += file.size;
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// The files of `index` that the one at `previous` has under the same path, with the same content,
/// if `is_there` says so of their previous ids. Those whose metadata differ are both published and
/// to be updated, if `is_unmodified` says so of the previous row: the new time would hide that
/// another program wrote to the file. What is durable is left open.
///
/// # Errors
/// An index cannot be read.
pub(crate) fn same_by_path(
    scratch: &Path,
    previous: &Path,
    index: &IndexReader,
    is_there: impl Fn(u64) -> bool,
    mut is_unmodified: impl FnMut(&FileEntry) -> bool,
) -> Result<Reusable> {
    let mut reusable = Reusable::new(scratch);
    // Both in the order of the walk, so that no row needs to be looked up. Of an index that was not
    // written in that order, some rows are not found: their files are sent.
    let mut old_rows = WalkRows::<FileEntry>::new(IndexReader::open_growing(previous)?)?;
    let mut rows = WalkRows::<FileEntry, _>::new(index)?;
    while let Some((key, file)) = rows.pop()? {
        // A file without a time could have been changed by any program.
        let is_same = |old: &FileEntry| old.has_content_of(&file) && old.meta.is_some() && is_there(old.id);
        let Some(old) = old_rows.find(&key, |_| Ok(()))?.filter(is_same) else { continue };
        if old.meta != file.meta {
            if !is_unmodified(&old) {
                continue;
            }
            reusable.updates.push(MetadataUpdate::of(file.id, &old))?;
        }
        reusable.published.insert(file.id..file.id + 1);
        reusable.same_bytes += file.size;
    }
    Ok(reusable)
}
