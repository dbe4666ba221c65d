//! What other archives of the base folder have put in place: no archive deletes that.

use super::super::super::archive::Archive;
use super::super::super::context::Context;
use super::super::super::files::published::has_content_of;
use super::super::super::names::Deleting;
use super::super::collide;
use super::form::fits;
use crate::archive::path::EntryPath;
use crate::db::index_read::Row;
use crate::error::Result;
use crate::folder::Folder;
use rustix::fs::Stat;
use std::collections::HashMap;
use std::sync::Arc;

/// What an archive has put in place once, and its index does not have any more.
pub(super) struct DeletionCandidate {
    pub(super) row: Row,
    /// What has its name now.
    pub(super) stat: Stat,
    /// Another archive had it once, too, and the content is the one that this archive put there.
    pub(super) has_our_content: bool,
}

/// What is not another archive's.
pub(super) struct Unclaimed {
    pub(super) ours: Vec<DeletionCandidate>,
    /// Another archive had the path once, too, neither has it any more, and size and time fit both:
    /// the content tells whose it is.
    pub(super) contested: Vec<DeletionCandidate>,
}

/// What another archive says of a path.
#[derive(Default, Clone, Copy)]
struct PathClaim {
    /// Its index has the path.
    is_live: bool,
    /// What has the name may be what it has put there.
    fits: bool,
}

/// Leaves out of `found` what archives other than `tar_id` have put in place.
///
/// # Errors
/// Another archive is not served, or its index cannot be read.
pub(super) fn unclaimed(
    context: &Context,
    tar_id: u64,
    mut found: Vec<DeletionCandidate>,
    _: &Deleting<'_>,
) -> Result<Unclaimed> {
    let mut contested = Vec::new();
    for other in context.archives.others(tar_id)? {
        let mut claims = claims_of(&other, &found)?.into_iter();
        let mut ours = Vec::with_capacity(found.len());
        for candidate in found {
            match claims.next().unwrap_or_default() {
                PathClaim { fits: false, .. } => ours.push(candidate),
                PathClaim { is_live: true, .. } => tracing::info!(
                    "\"{}\" is not deleted: archive {} has put it there",
                    candidate.row.path(),
                    other.tar_id
                ),
                _ if candidate.has_our_content || matches!(candidate.row, Row::Node(_)) => {
                    ours.push(candidate);
                }
                _ => contested.push(candidate),
            }
        }
        found = ours;
    }
    Ok(Unclaimed { ours: found, contested })
}

/// Whether what has the name has the content that this archive put there.
pub(super) fn has_our_content(context: &Context, row: &Row) -> bool {
    let Row::File(file) = row else { return true };
    let is_ours = file.is_verifiable() && has_content_of(&context.sink, file);
    if !is_ours {
        tracing::info!("\"{}\" is not deleted: another archive has put it there", file.path);
    }
    is_ours
}

/// Gives what archives other than `tar_id` have in place, as [`collide::each_live`] does.
///
/// # Errors
/// Another archive is not served, or its index cannot be read, or an error of `each`.
pub(super) fn each_live_of_others(
    context: &Context,
    tar_id: u64,
    mut each: impl FnMut(&Row, &Stat, &Folder) -> Result<()>,
) -> Result<()> {
    for mut other in context.archives.others(tar_id)? {
        // An index that is replaced meanwhile is removed: then its archive's next one has the
        // entries.
        while let Err(e) = collide::each_live(context, &other, |row, stat, folder| {
            if fits(row, stat) { each(row, stat, folder) } else { Ok(()) }
        }) {
            match context.archives.get(other.tar_id) {
                Some(next) if !Arc::ptr_eq(&next, &other) => other = next,
                _ => return Err(e),
            }
        }
    }
    Ok(())
}

/// What `other` says of each of `found`.
fn claims_of(other: &Archive, found: &[DeletionCandidate]) -> Result<Vec<PathClaim>> {
    let placed = other.progress.placed();
    // Of several receivers, none knows at once what the others put in place.
    let is_sliced = other.progress.is_of_several();
    let mut claims = vec![PathClaim::default(); found.len()];
    let mut numbers: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (number, candidate) in found.iter().enumerate() {
        numbers.entry(candidate.row.path().as_bytes()).or_default().push(number);
    }
    let paths: Vec<&EntryPath> = found.iter().map(|candidate| candidate.row.path()).collect();
    other.with_index(|index| {
        index.rows_at(&paths, |row, is_live| {
            for &number in numbers.get(row.path().as_bytes()).into_iter().flatten() {
                let is_placed = match &row {
                    _ if !is_live => true,
                    Row::File(file) => is_sliced || placed.files.contains(file.id..file.id + 1),
                    Row::Node(_) => placed.nodes,
                };
                claims[number].is_live |= is_live;
                claims[number].fits |= is_placed && fits(&row, &found[number].stat);
            }
            Ok(())
        })
    })?;
    Ok(claims)
}
