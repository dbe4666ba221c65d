//! Deletes entries that a previous generation of the archive put in place and the present one does
//! not have.
//!
//! A deletion goes through the candidates more than once and holds none of them. First it counts
//! them: if there are more than the request allows, it deletes none. A folder in the place of a
//! file or a link is emptied only when that entry is staged and verified, and only if everything in
//! the folder is a candidate. All other candidates are deleted when the whole index is in place. A
//! name that leads to an entry of this index or of another archive's, whatever its spelling, is no
//! candidate.

mod clear;
mod form;
mod live;
mod others;

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::reason::reason;
use super::cache::WalkCache;
use super::collide::each_live;
use crate::archive::entry::NodeKind;
use crate::archive::failures::FailureList;
use crate::archive::path::EntryPath;
use crate::archive::protocol::{DeleteRequest, FailedFile};
use crate::archive::skipped::SparedPaths;
use crate::db::index_read::{IndexReader, Row};
use crate::error::{Error, Result};
use crate::folder::{Folder, is_kind};
use crate::sink::{Backup, Outcome, Removal, Scratch};
use form::{Form, form_of, leaf_above};
use live::Live;
use others::{DeletionCandidate, Unclaimed, each_live_of_others, has_our_content, unclaimed};
use rustix::fs::{FileType, Stat};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

/// What deleting came to.
#[derive(Default)]
pub(super) struct Deleted {
    /// Files, links and folders that were deleted.
    pub(super) count: u64,
    /// The number of candidates, if it was more than the request allows: none was deleted.
    pub(super) too_many: Option<u64>,
    /// Entries of the index that could get their places if more could be deleted.
    pub(super) blocked: u64,
    /// Why a folder stands in the place of an entry of the index, by its path as it is shown.
    pub(super) in_the_way: BTreeMap<String, String>,
    /// What could not be deleted.
    pub(super) failed: FailureList,
}

/// A deletion for one request.
pub(super) struct Deletion<'a> {
    context: &'a Context,
    archive: &'a Archive,
    /// Candidates were there before this generation of the receiver; `None` if nothing may be
    /// deleted.
    since: Option<u64>,
    /// What the sender wants left alone.
    spared: SparedPaths,
    backup: Option<Backup>,
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

/// So many are looked up in the other archives, and removed, before these may put anything in place
/// again.
const PAGE: usize = 1024;
/// Where names may be one, so many candidates are compared at once with what is in place.
const PART_CANDIDATES: u64 = 2 << 20;
const MAX_REPLACEMENTS: usize = 1 << 16;

impl<'a> Deletion<'a> {
    /// Counts what would go.
    pub(super) fn begin(context: &'a Context, archive: &'a Archive, request: &DeleteRequest) -> Result<Self> {
        let spared = SparedPaths::parse(&request.spare, &request.filtered)?;
        let mut since = match request.only_reverted {
            false => Some(0),
            true => archive.with_index(IndexReader::reverted_generation)?.map(|_| archive.generation),
        };
        if !archive.progress.is_finalized() && !archive.with_index(IndexReader::tombstones_are_placed)? {
            since = None;
        }
        let mut deleted = Deleted::default();
        if let Err(e) = context.archives.check_all_served() {
            // What it has put here cannot be told from this archive's. Everything else goes on.
            let (path, reason) = (".".to_string(), format!("nothing is deleted: {}", reason(&e)));
            deleted.failed.add(FailedFile { id: None, path, reason });
            since = None;
        }
        let backup = request.backup.as_deref().map(|name| context.sink.backup(Path::new(name), false));
        let mut deletion = Self {
            context,
            archive,
            since,
            spared,
            backup: backup.transpose()?,
            most: request.most,
            seen: 0,
            folds: context.sink.folds_names() || context.sink.folds_names_in(b""),
            replacements: BTreeSet::new(),
            deleted,
        };
        deletion.find_places()?;
        deletion.count()?;
        Ok(deletion)
    }

    /// Learns how many candidates there are, and where.
    fn find_places(&mut self) -> Result<()> {
        let (mut seen, mut folds) = (0u64, self.folds);
        let (mut replacements, mut parent) = (BTreeSet::new(), Vec::new());
        self.candidates(
            |_, _| {},
            |path, _, _| {
                let folder = path.split().0;
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
        mut each: impl FnMut(&EntryPath, &Stat, Form<'_>) -> Result<()>,
    ) -> Result<()> {
        if !self.folds {
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
                |path, stat, form| {
                    let goes =
                        part_of(stat, parts) == part && live.is_free(&self.context.sink, path, stat)?;
                    if goes { each(path, stat, form) } else { Ok(()) }
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
        mut each: impl FnMut(&EntryPath, &Stat, Form<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some(since) = self.since else { return Ok(()) };
        let (mut cache, mut scratch) = (WalkCache::default(), Scratch::default());
        let (mut last, mut page) = (None, Vec::new());
        let mut add = |row: Row| -> Result<()> {
            // A path may have had several files; one row is enough to know the one that is there.
            let is_dir = matches!(&row, Row::Node(node) if node.kind == NodeKind::Dir);
            if last.as_ref() == Some(row.path()) || self.spared.has(row.path(), is_dir) {
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
            // A name that was one of a file's, and later a further one of another file, is there
            // once.
            if matches!(&row, Row::Node(node) if node.kind == NodeKind::Hardlink) {
                let mut was_file = false;
                self.archive.with_index(|index| {
                    index.file_tombstones_at(row.path(), since, |file| {
                        let row = Row::File(file);
                        let form = form_of(self.context, self.archive, &row, &stat, &mut scratch)?;
                        was_file |= form.is_some();
                        Ok(ControlFlow::Continue(()))
                    })
                })?;
                if was_file {
                    return Ok(());
                }
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
        self.archive.with_index(|index| {
            index.file_tombstones(since, |file| add(Row::File(file)).map(ControlFlow::Continue))?;
            index.node_tombstones(since, |node| add(Row::Node(node)).map(ControlFlow::Continue))
        })?;
        self.turn(&mut page, &mut each)
    }

    /// Gives what is on the page, but for what is another archive's.
    fn turn(
        &self,
        page: &mut Vec<DeletionCandidate>,
        each: &mut impl FnMut(&EntryPath, &Stat, Form<'_>) -> Result<()>,
    ) -> Result<()> {
        let (mut scratch, mut page) = (Scratch::default(), std::mem::take(page));
        while !page.is_empty() {
            let deleting = self.context.archives.names.delete();
            let Unclaimed { ours, mut contested } =
                unclaimed(self.context, self.archive.tar_id, page, &deleting)?;
            for DeletionCandidate { row, stat, .. } in ours {
                if let Some(form) = form_of(self.context, self.archive, &row, &stat, &mut scratch)? {
                    each(row.path(), &stat, form)?;
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
            |path, stat, _| {
                if wanted(path, stat) {
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
        if self.deleted.too_many.is_some() {
            return Ok(());
        }
        let (mut deleted, mut unseen) = (std::mem::take(&mut self.deleted), Deleted::default());
        let mut removal = self.context.sink.removal(self.backup.as_ref());
        let outcome = self.each_free(
            |path, e| unseen.fail(path, e),
            |path, _, form| remove(self.context, &mut deleted, &mut removal, path, form),
        );
        drop(removal);
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
        self.deleted
    }
}

impl Deleted {
    fn fail(&mut self, path: &EntryPath, error: &Error) {
        self.failed.add(FailedFile { id: None, path: path.to_string(), reason: reason(error) });
    }
}

/// Removes a leaf, or a folder if it is empty. Only a full disk or storage that fails is an error.
fn remove(
    context: &Context,
    deleted: &mut Deleted,
    removal: &mut Removal<'_>,
    path: &EntryPath,
    form: Form<'_>,
) -> Result<()> {
    let outcome = match form {
        Form::Leaf(expected) => removal.remove(path, &expected),
        Form::Folder => context.sink.remove_folder_if_empty(path),
    };
    match outcome.map_err(|e| context.judged(e)) {
        Ok(Outcome::Removed) => {
            deleted.count += 1;
            tracing::info!("deleted \"{path}\"");
        }
        Ok(Outcome::Absent | Outcome::Changed) => {}
        Err(e) if !e.kind().is_of_one_file() => return Err(e),
        Err(e) => deleted.fail(path, &e),
    }
    Ok(())
}

/// Which part a candidate is of. All folders are of the last one: what is in a folder goes before
/// it.
fn part_of(stat: &Stat, parts: u64) -> u64 {
    if is_kind(stat, FileType::Directory) { parts - 1 } else { stat.st_ino % parts }
}
