//! Asking for files again that are not what the index says.

use super::super::archive::Archive;
use super::super::archive::gate::Shared;
use super::super::archive::progress::Invalid;
use super::super::context::Context;
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::error::Result;
use std::ops::{ControlFlow, Range};

/// Files that are invalidated by one transaction of the journal.
pub(crate) const MAX_INVALIDATED_AT_ONCE: usize = 4096;

/// Asks for all bytes of `files` again, in one transaction of the journal.
///
/// # Errors
/// The index cannot be read, or the journal not be written.
pub(crate) fn invalidate(
    context: &Context,
    archive: &Archive,
    shared: &Shared<'_>,
    files: &[FileEntry],
) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let mut invalid = Invalid::default();
    for file in files {
        let pieces = archive.pieces_of(file)?;
        add_sharing(archive, file, &pieces, &mut invalid.sharing)?;
        pieces.iter().for_each(|piece| invalid.bytes.insert(piece.clone()));
        invalid.files.insert(file.id..file.id + 1);
    }
    let start = invalid.bytes.iter().map(|range| range.start).min();
    let end = invalid.bytes.iter().map(|range| range.end).max();
    // No block may be writing any of the bytes meanwhile.
    let claim = shared.claim(start.unwrap_or(0)..end.unwrap_or(0));
    files.iter().for_each(|file| archive.staging.remove(file.id));
    archive.progress.invalidate(&context.committer, &invalid, &claim)
}

/// Adds the contiguous files that have bytes in common with a fragmented one: what is hashed of
/// them may be written again.
fn add_sharing(
    archive: &Archive,
    file: &FileEntry,
    pieces: &[Range<u64>],
    sharing: &mut RangeSet,
) -> Result<()> {
    if !file.fragmented {
        return Ok(());
    }
    archive.with_index(|index| {
        pieces.iter().try_for_each(|piece| {
            index.files_in(piece.clone(), |other| {
                if !other.fragmented {
                    sharing.insert(other.id..other.id + 1);
                }
                Ok(ControlFlow::Continue(()))
            })
        })
    })
}
