//! What other archives of the base folder would keep out of its place, for a dry run. The answer
//! comes from the code by which an entry is refused.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::files::others::{Leaf, Proposed, conflicts};
use super::super::open;
use super::super::reason::reason;
use super::cache::WalkCache;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::NodeKind;
use crate::archive::failures::FailureList;
use crate::archive::protocol::{FailedFile, PrecheckAnswer, ProposedEntry};
use crate::archive::ranges::RangeSet;
use crate::db::index_read::Row;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::FolderCache;
use std::ops::ControlFlow;

/// Entries that are looked up in the other archives at once.
const PAGE: usize = 1024;

/// Says which of `entries` other archives would keep out of their places in archive `tar_id`, which
/// need not exist. Without any, says it of the entries of `index` that are not in place.
///
/// # Errors
/// An entry is malformed, an archive is being opened ([`ErrorKind::Busy`]), or an index cannot be
/// read.
pub(crate) fn find_conflicts(
    context: &Context,
    tar_id: u64,
    index: &IndexDigest,
    entries: &[ProposedEntry],
) -> Result<PrecheckAnswer> {
    context.archives.check_none_opens()?;
    let mut found = FailureList::default();
    let shared = context.archives.all().iter().any(|archive| archive.tar_id != tar_id);
    if shared && entries.is_empty() {
        if let Some(archive) = open::find(context, tar_id)?
            && archive.check_active(index).is_ok()
        {
            of_index(context, &archive, &mut found)?;
        }
    } else if shared {
        let malformed = || Error::new(ErrorKind::Malformed, "an entry of the sender is malformed");
        let entries =
            entries.iter().map(Proposed::parse).collect::<Option<Vec<_>>>().ok_or_else(malformed)?;
        add(context, tar_id, &entries.iter().map(Leaf::Proposed).collect::<Vec<_>>(), &mut found)?;
    }
    let conflicts_total = found.total();
    Ok(PrecheckAnswer { shared, conflicts: found.into_named(), conflicts_total, ..PrecheckAnswer::default() })
}

/// Adds what of the index of `archive` is not in place because of other archives.
fn of_index(context: &Context, archive: &Archive, found: &mut FailureList) -> Result<()> {
    let _shared = archive.lock_shared()?;
    let (mut rows, mut cache) = (Vec::new(), WalkCache::default());
    let mut take = |row: Row| {
        rows.push(row);
        let is_full = rows.len() >= PAGE;
        if is_full {
            add_rows(context, archive, &mut rows, found)?
        }
        Ok(ControlFlow::Continue(()))
    };
    // Also what a thread is about to put in place.
    let published = archive.progress.published();
    archive.with_index(|index| {
        let unpublished: RangeSet = published.missing(0..index.next_id()?).collect();
        index.files_of(&unpublished, |file| take(Row::File(file)))?;
        index.nodes(|node| {
            // Folders are for all archives.
            match node.kind == NodeKind::Dir && context.sink.is_folder(&node.path, cache.next()) {
                true => Ok(ControlFlow::Continue(())),
                false => take(Row::Node(node)),
            }
        })
    })?;
    add_rows(context, archive, &mut rows, found)
}

/// Adds what of `rows` of `archive` other archives keep out, and empties `rows`.
fn add_rows(
    context: &Context,
    archive: &Archive,
    rows: &mut Vec<Row>,
    found: &mut FailureList,
) -> Result<()> {
    let leaves = rows.iter().map(|row| match row {
        Row::File(file) => Leaf::File(file),
        Row::Node(node) => Leaf::Node(node, archive),
    });
    add(context, archive.tar_id, &leaves.collect::<Vec<_>>(), found)?;
    rows.clear();
    Ok(())
}

fn add(context: &Context, tar_id: u64, leaves: &[Leaf<'_>], found: &mut FailureList) -> Result<()> {
    for (path, why) in conflicts(context, tar_id, leaves, &mut FolderCache::default())? {
        found.add(FailedFile { id: None, path: path.to_string(), reason: reason(&why) });
    }
    Ok(())
}
