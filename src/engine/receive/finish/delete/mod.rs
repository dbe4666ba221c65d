//! Deletes entries that a previous generation of the archive put in place and the present one does
//! not have.
//!
//! A deletion goes through the candidates more than once and holds none of them. First it counts
//! them: if there are more than the request allows, it deletes none. A folder in the place of a
//! file or a link is emptied only when that entry is staged and verified, and only if everything in
//! the folder is a candidate. All other candidates are deleted when the whole index is in place. A
//! name that leads to an entry of this index or of another archive's, whatever its spelling, is no
//! candidate.

mod changed;
mod clear;
mod form;
mod live;
mod others;
mod remover;
mod withdraw;

pub(super) use remover::Deleted;
pub(super) use withdraw::withdraw;

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::reason::reason;
use super::cache::WalkCache;
use super::collide::each_live;
use crate::archive::entry::NodeKind;
use crate::archive::path::EntryPath;
use crate::archive::protocol::{CandidatesRequest, DeleteRequest, EntryPaths, FailedFile};
use crate::archive::skipped::SparedPaths;
use crate::db::index_read::{IndexReader, Row};
use crate::error::{Error, Result};
use crate::folder::{Folder, is_kind};
use crate::sink::Scratch;
use form::{Form, form_of, leaf_above};
use live::Live;
use others::{DeletionCandidate, Unclaimed, each_live_of_others, has_our_content, unclaimed};
use remover::{BackupPlaces, Remover};
use rustix::fs::{FileType, Stat};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A deletion for one request.
pub(super) struct Deletion<'a> {
    context: &'a Context,
    archive: &'a Archive,
    /// Candidates were there before this generation of the receiver; `None` if nothing may be
    /// deleted.
    since: Option<u64>,
    /// What the index has in place is a candidate, too: another index is to come.
    all: bool,
    /// Why nothing may be deleted.
    refused: Option<String>,
    /// What the sender wants left alone.
    spared: SparedPaths,
    /// Open if there was any candidate at the beginning.
    places: Option<BackupPlaces>,
    most: u64,
    /// How many candidates there are.
    seen: u64,
    /// Where some of them are, names that are spelled in different ways may be one.
    folds: bool,
    /// Files and links of the index that have candidates below their paths, at most
    /// [`MAX_REPLACEMENTS`]: the next run has the others.
    replacements: BTreeSet<EntryPath>,
    deleted: Deleted,
}

/// An entry that a deletion would take away.
pub(super) struct Listed<'a> {
    pub(super) path: &'a EntryPath,
    /// The kind of a directory or link; `None` for a file.
    pub(super) node: Option<NodeKind>,
    /// The size of a file.
    pub(super) bytes: u64,
}

/// What a deletion would leave alone.
#[derive(Clone, Default)]
pub(super) struct Unlisted {
    /// Why nothing would be deleted, if that is so.
    pub(super) refused: Option<String>,
    /// If the request wants it: what was changed since it was put in place.
    pub(super) changed: EntryPaths,
    /// The same: what the index had in place, and was removed.
    pub(super) absent: EntryPaths,
}

/// Gives what a deletion with no limit would take away now; with `all`, what it would take away if
/// an index without any entry was active. Changes nothing.
///
/// # Errors
/// The index cannot be read, or an error of `each`.
pub(super) fn list(
    context: &Context,
    archive: &Archive,
    CandidatesRequest { all, changed, .. }: CandidatesRequest,
    mut each: impl FnMut(Listed<'_>) -> Result<()>,
) -> Result<Unlisted> {
    let mut deletion = Deletion { all, ..Deletion::new(context, archive, &DeleteRequest::default())? };
    if !all {
        deletion.find_places()?;
    }
    deletion.each_free(
        |_, _| {},
        |row, _, _| {
            let (node, bytes) = match row {
                Row::File(file) => (None, file.size),
                Row::Node(node) => (Some(node.kind), 0),
            };
            each(Listed { path: row.path(), node, bytes })
        },
    )?;
    deletion.all = true;
    let (changed, absent) = if changed { deletion.changed()? } else { Default::default() };
    Ok(Unlisted { refused: deletion.refused, changed, absent })
}

/// So many are looked up in the other archives, and removed, before these may put anything in place
/// again.
const PAGE: usize = 1024;
/// Where names may be one, so many candidates are compared at once with what is in place.
const PART_CANDIDATES: u64 = 2 << 20;
const MAX_REPLACEMENTS: usize = 1 << 16;

impl<'a> Deletion<'a> {
    /// Counts what would go.
    ///
    /// With `retains`, what earlier runs had left is retained, for a rewind of the active
    /// generation.
    pub(super) fn begin(
        context: &'a Context,
        archive: &'a Archive,
        request: &DeleteRequest,
        retains: bool,
    ) -> Result<Self> {
        let mut deletion = Self::new(context, archive, request)?;
        if let Some(reason) = deletion.refused.take() {
            // What other archives have put here cannot be told from this one's. Everything else goes
            // on.
            deletion.deleted.failed.add(FailedFile { id: None, path: ".".to_string(), reason });
        }
        deletion.find_places()?;
        deletion.count()?;
        if !request.only_reverted {
            deletion.deleted.changed = deletion.changed()?.0;
        }
        if deletion.seen > 0 {
            // Not earlier: a run that deletes nothing makes no folder.
            deletion.places = Some(BackupPlaces::open(context, archive, request, retains)?);
        }
        Ok(deletion)
    }

    fn new(context: &'a Context, archive: &'a Archive, request: &DeleteRequest) -> Result<Self> {
        let spared = SparedPaths::parse(&request.spare, &request.filtered)?;
        let mut since = match request.only_reverted {
            false => Some(0),
            true => archive.with_index(IndexReader::reverted_generation)?.map(|_| archive.generation),
        };
        if !archive.progress.is_finalized() && !archive.with_index(IndexReader::tombstones_are_placed)? {
            since = None;
        }
        let served = context.archives.check_all_served();
        let refused = served.err().map(|e| format!("nothing is deleted: {}", reason(&e)));
        Ok(Self {
            context,
            archive,
            since: since.filter(|_| refused.is_none()),
            all: false,
            refused,
            spared,
            places: None,
            most: request.most,
            seen: 0,
            folds: context.sink.folds_names() || context.sink.folds_names_in(b""),
            replacements: BTreeSet::new(),
            deleted: Deleted::default(),
        })
    }

    /// Learns how many candidates there are, and where.
    fn find_places(&mut self) -> Result<()> {
        let (mut seen, mut folds) = (0u64, self.folds);
        let (mut replacements, mut parent) = (BTreeSet::new(), Vec::new());
        self.candidates(
            |_, _| {},
            |row, _, _| {
                let folder = row.path().split().0;
                if parent != folder {
                    folds = folds || self.folds_above(folder, &parent);
                    if replacements.len() < MAX_REPLACEMENTS {
                        replacements.extend(leaf_above(self.archive, folder)?);
                    }
                    parent = folder.to_vec();
                }
                seen += 1;
                Ok(())
            },
        )?;
        (self.seen, self.folds, self.replacements) = (seen, folds, replacements);
        Ok(())
    }

    /// Whether names are folded in `folder`, or in one above it; not asked again for what is above
    /// `previous`, too.
    fn folds_above(&self, folder: &[u8], previous: &[u8]) -> bool {
        let ends = folder.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        let mut above = ends.chain([folder.len()]).map(|end| &folder[..end]);
        let is_known = |above: &[u8]| {
            previous.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        above.any(|above| !is_known(above) && self.context.sink.folds_names_in(above))
    }

    /// Counts what would go now, with what has gone.
    fn count(&mut self) -> Result<()> {
        let mut count = self.deleted.count;
        match self.folds {
            false => count += self.seen,
            true => self.each_free(
                |_, _| {},
                |_, _, _| {
                    count += 1;
                    Ok(())
                },
            )?,
        }
        self.deleted.too_many = (count > self.most).then_some(count);
        Ok(())
    }

    /// Whether two names of what it goes through may be one.
    pub(super) fn folds(&self) -> bool {
        self.folds
    }

    /// Gives every candidate that leads to nothing that is to stay.
    fn each_free(
        &self,
        mut failed: impl FnMut(&EntryPath, &Error),
        mut each: impl FnMut(&Row, &Stat, Form<'_>) -> Result<()>,
    ) -> Result<()> {
        // Of all that is in place, the sender says what stays.
        if !self.folds || self.all {
            return self.candidates(failed, each);
        }
        let parts = self.seen / PART_CANDIDATES + 1;
        for part in 0..parts {
            let mut live = self.learn_live(|_, stat| part_of(stat, parts) == part)?;
            self.candidates(
                |path, e| {
                    if part == 0 {
                        failed(path, e);
                    }
                },
                |row, stat, form| {
                    let goes =
                        part_of(stat, parts) == part && live.is_free(&self.context.sink, row.path(), stat)?;
                    if goes { each(row, stat, form) } else { Ok(()) }
                },
            )?;
        }
        Ok(())
    }

    /// Gives everything that previous generations left and that is still what they put there; what
    /// is in a folder comes before it. What cannot be looked at goes to `failed`. No other archive
    /// puts anything in place while `each` runs.
    fn candidates(
        &self,
        mut failed: impl FnMut(&EntryPath, &Error),
        mut each: impl FnMut(&Row, &Stat, Form<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(since) = self.since else { return Ok(()) };
        let (mut cache, mut scratch) = (WalkCache::default(), Scratch::default());
        let (mut last, mut page) = (None, Vec::new());
        let mut add = |row: Row| -> Result<()> {
            // A path may have had several files; one row is enough to know the one that is there.
            if last.as_ref() == Some(row.path()) || self.is_spared(&row) {
                return Ok(());
            }
            // A `stat` that fails hinders no other candidate.
            let stat = self.context.sink.stat(row.path(), cache.next()).unwrap_or_else(|e| {
                failed(row.path(), &e);
                None
            });
            let Some(stat) = stat else { return Ok(()) };
            if form_of(self.context, self.archive, &row, &stat, &mut scratch)?.is_none() {
                return Ok(());
            }
            if self.is_of_file_too(&row, &stat, since, &mut scratch)? {
                return Ok(());
            }
            last = Some(row.path().clone());
            // Files of which the content is looked at come last of a page, and before the folders
            // that they are in.
            let is_first_node = matches!(
                (&row, page.last()),
                (Row::Node(_), Some(DeletionCandidate { row: Row::File(_), .. }))
            );
            if page.len() >= PAGE || is_first_node {
                self.turn(&mut page, &mut each)?;
            }
            page.push(DeletionCandidate { row, stat, has_our_content: false });
            Ok(())
        };
        self.each_row(since, |row, _| add(row))?;
        self.turn(&mut page, &mut each)
    }

    /// Gives everything that previous generations left, and with `all` what the index has in place;
    /// and whether it is the latter.
    fn each_row(&self, since: u64, mut add: impl FnMut(Row, bool) -> Result<()>) -> Result<()> {
        self.archive.with_index(|index| {
            if self.all {
                let placed = self.archive.progress.placed();
                index
                    .files_of(&placed.files, |file| add(Row::File(file), true).map(ControlFlow::Continue))?;
                let add_node = |node| add(Row::Node(node), true).map(ControlFlow::Continue);
                if placed.nodes { index.nodes(add_node) } else { Ok(()) }?;
            }
            index.file_tombstones(since, |file| add(Row::File(file), false).map(ControlFlow::Continue))?;
            index.node_tombstones(since, |node| add(Row::Node(node), false).map(ControlFlow::Continue))
        })
    }

    /// Whether the sender wants what `row` says left alone.
    fn is_spared(&self, row: &Row) -> bool {
        self.spared.has(row.path(), matches!(row, Row::Node(node) if node.kind == NodeKind::Dir))
    }

    /// Whether `row`, of a further name, is of what a tombstone of a file has given already: a name
    /// that was one of a file's, and later a further one of another file, is there once.
    fn is_of_file_too(&self, row: &Row, stat: &Stat, since: u64, scratch: &mut Scratch) -> Result<bool> {
        if !matches!(row, Row::Node(node) if node.kind == NodeKind::Hardlink) {
            return Ok(false);
        }
        let mut was_file = false;
        self.archive.with_index(|index| {
            index.file_tombstones_at(row.path(), since, |file| {
                let row = Row::File(file);
                was_file |= form_of(self.context, self.archive, &row, stat, scratch)?.is_some();
                Ok(ControlFlow::Continue(()))
            })
        })?;
        Ok(was_file)
    }

    /// Gives what is on the page, but for what is another archive's.
    fn turn(
        &self,
        page: &mut Vec<DeletionCandidate>,
        each: &mut impl FnMut(&Row, &Stat, Form<'_>) -> Result<()>,
    ) -> Result<()> {
        let (mut scratch, mut page) = (Scratch::default(), std::mem::take(page));
        while !page.is_empty() {
            let deleting = self.context.archives.names.delete();
            let Unclaimed { ours, mut contested } =
                unclaimed(self.context, self.archive.tar_id, page, &deleting)?;
            for DeletionCandidate { row, stat, .. } in ours {
                if let Some(form) = form_of(self.context, self.archive, &row, &stat, &mut scratch)? {
                    each(&row, &stat, form)?;
                }
            }
            drop(deleting);
            // Reading takes long, so the lock is free meanwhile and the other archives are asked
            // again.
            contested.retain_mut(|candidate| {
                candidate.has_our_content = has_our_content(self.context, &candidate.row);
                candidate.has_our_content
            });
            page = contested;
        }
        Ok(())
    }

    /// Learns which of the candidates that are `wanted` something else has, too, that is to stay.
    fn learn_live(&self, wanted: impl Fn(&EntryPath, &Stat) -> bool) -> Result<Live> {
        let mut inodes = Vec::new();
        self.candidates(
            |_, _| {},
            |row, stat, _| {
                if wanted(row.path(), stat) {
                    inodes.push(stat.st_ino);
                }
                Ok(())
            },
        )?;
        let mut live = Live::new(inodes);
        let mut add =
            |row: &Row, stat: &Stat, folder: &Folder| live.add(&self.context.sink, row.path(), stat, folder);
        each_live(self.context, self.archive, &mut add)?;
        each_live_of_others(self.context, self.archive.tar_id, &mut add)?;
        live.seal();
        Ok(live)
    }

    /// Deletes everything that may go, if that is no more than the request allows.
    pub(super) fn all(&mut self) -> Result<()> {
        if self.folds {
            // Of what has got its place since some leads there.
            self.count()?;
        }
        let Some(places) = self.places.as_ref().filter(|_| self.deleted.too_many.is_none()) else {
            return Ok(());
        };
        let (mut deleted, mut unseen) = (std::mem::take(&mut self.deleted), Deleted::default());
        let mut remover = Remover::new(self.context, self.archive, places);
        let outcome = self.each_free(
            |path, e| unseen.fail(path, e),
            |row, _, form| remover.remove(&mut deleted, row.path(), &form),
        );
        drop(remover);
        deleted.failed.append(unseen.failed);
        self.deleted = deleted;
        outcome
    }

    /// What it came to so far.
    pub(super) fn deleted(&self) -> &Deleted {
        &self.deleted
    }

    /// What it came to.
    pub(super) fn end(self) -> Deleted {
        if let Some(places) = self.places {
            places.close(self.context);
        }
        self.deleted
    }
}

/// Which part a candidate is of. All folders are of the last one: what is in a folder goes before
/// it.
fn part_of(stat: &Stat, parts: u64) -> u64 {
    if is_kind(stat, FileType::Directory) { parts - 1 } else { stat.st_ino % parts }
}
