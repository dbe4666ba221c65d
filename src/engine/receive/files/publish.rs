//! Final names: staged files that are verified and synced are renamed to their paths.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::names::Placing;
use super::super::reason::reason;
use super::fence::permit;
use super::others::{Leaf, conflicts, refuse_conflict};
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::error::{Error, Result};
use crate::sink::Sink;
use crate::sink::disk::FolderCache;

/// Files that get their names before a deletion of another archive may go on.
const MAX_NAMED_AT_ONCE: usize = 64;

/// Gives staged files, which are verified and synced, their names; `each` is told of every file,
/// whether it has its name or not. A file that cannot get its name stays staged: its bytes are
/// here, other files may share them, and the next `finish` tries again.
///
/// # Errors
/// What is not the fault of one file: a full disk, or storage that failed. Any other failure is
/// recorded as the reason why its file is not published.
pub(crate) fn publish_staged(
    context: &Context,
    archive: &Archive,
    files: Vec<FileEntry>,
    mut each: impl FnMut(&FileEntry),
) -> Result<()> {
    let mut cache = FolderCache::default();
    let leaves: Vec<Leaf<'_>> = files.iter().map(Leaf::File).collect();
    let mut conflicts = conflicts(context, archive.tar_id, &leaves, &mut cache)?;
    for files in files.chunks(MAX_NAMED_AT_ONCE) {
        let permit = permit(context, archive);
        let (placing, mut named) = (context.archives.names.place(), RangeSet::default());
        let outcome = files.iter().try_for_each(|file| {
            let outcome = match (&permit, conflicts.remove(&file.path)) {
                (Err(refusal), _) => Err(Error::new(refusal.kind(), reason(refusal))),
                (Ok(_), Some(conflict)) => Err(conflict),
                (Ok(_), None) => context.sink.publish(&archive.staging, file.id, &file.path, &mut cache),
            };
            match outcome {
                Ok(()) => named.insert(file.id..file.id + 1),
                Err(e) => {
                    let e = context.judged(e);
                    if !e.kind().is_of_one_file() {
                        return Err(e);
                    }
                    archive.progress.fail(file.id, &file.path, reason(&e));
                }
            }
            each(file);
            Ok(())
        });
        // Also when a full disk stopped it half-way: the files that have their names have them.
        record_published(context, archive, &named, &placing);
        outcome?;
    }
    Ok(())
}

/// Gives one staged file, which is verified, its name.
///
/// # Errors
/// Another archive has put another content there, the first of several receivers has another index,
/// or the system's error.
pub(crate) fn publish_one(
    context: &Context,
    archive: &Archive,
    file: &FileEntry,
    cache: &mut FolderCache,
) -> Result<()> {
    refuse_conflict(context, archive.tar_id, Leaf::File(file), cache)?;
    let _permit = permit(context, archive)?;
    let placing = context.archives.names.place();
    context.sink.publish(&archive.staging, file.id, &file.path, cache)?;
    record_published(context, archive, &std::iter::once(file.id..file.id + 1).collect(), &placing);
    Ok(())
}

/// Records that the files `ids` have their names. No deletion of another archive may come in
/// between.
pub(crate) fn record_published(context: &Context, archive: &Archive, ids: &RangeSet, placing: &Placing<'_>) {
    archive.progress.publish(&context.committer, ids, placing);
    context.counters.files_published.add(ids.covered());
}
