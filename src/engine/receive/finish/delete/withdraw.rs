//! Taking an entry of the index out of its place, which something else is to have.

use super::super::super::archive::Archive;
use super::super::super::archive::gate::Shared;
use super::super::super::archive::progress::Invalid;
use super::super::super::context::Context;
use super::form::{Form, form_of};
use super::others::{DeletionCandidate, unclaimed};
use crate::archive::path::EntryPath;
use crate::db::index_read::Row;
use crate::error::Result;
use crate::sink::disk::FolderCache;
use crate::sink::{Outcome, Scratch};

/// Removes the file or link `path` of the index, if it is still what was put there, and no other
/// archive has it. Gives its row then. The content of a file is staged: nothing is asked for again,
/// and a `finish` that finds the place free puts it there.
///
/// # Errors
/// The index or another archive cannot be read, or storage fails.
pub(crate) fn withdraw(
    context: &Context,
    archive: &Archive,
    shared: &Shared<'_>,
    path: &EntryPath,
) -> Result<Option<Row>> {
    let mut found = None;
    archive.with_index(|index| {
        index.rows_at(&[path], |row, is_live| {
            found = if is_live { Some(row) } else { found.take() };
            Ok(())
        })
    })?;
    let (Some(row), Some(stat)) = (found, context.sink.stat(path, &mut FolderCache::default())?) else {
        return Ok(None);
    };
    let Some(Form::Leaf(expected)) = form_of(context, archive, &row, &stat, &mut Scratch::default())? else {
        return Ok(None);
    };
    if let Row::File(file) = &row {
        let is_staged = archive.progress.is_published(file.id)
            && context.sink.stage_published(&archive.staging, file, &mut FolderCache::default())?;
        if !is_staged {
            return Ok(None);
        }
        // Before its name is removed: after a crash in between, it is found there, and published.
        let files = std::iter::once(file.id..file.id + 1).collect();
        let pieces = archive.pieces_of(file)?;
        let start = pieces.iter().map(|piece| piece.start).min().unwrap_or(0);
        let end = pieces.iter().map(|piece| piece.end).max().unwrap_or(0);
        let claim = shared.claim(start..end);
        let invalid = Invalid { files, ..Invalid::default() };
        archive.progress.invalidate(&context.committer, &invalid, &claim)?;
    }
    let candidate = DeletionCandidate { row: row.clone(), stat, has_our_content: true };
    let deleting = context.archives.names.delete();
    if unclaimed(context, archive.tar_id, vec![candidate], &deleting)?.ours.is_empty() {
        return Ok(None);
    }
    let outcome = context.sink.removal(None).remove(path, &expected)?;
    Ok((outcome == Outcome::Removed).then_some(row))
}
