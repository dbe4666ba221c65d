//! Removing one candidate after the other, and where they go.

use super::super::super::archive::Archive;
use super::super::super::context::Context;
use super::super::super::reason::reason;
use super::super::super::retention::retained_name;
use super::form::Form;
use crate::archive::failures::FailureList;
use crate::archive::path::EntryPath;
use crate::archive::protocol::{DeleteRequest, EntryPaths, FailedFile};
use crate::error::{Error, Result};
use crate::sink::{Backup, Outcome, Removal};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// What deleting came to.
#[derive(Default)]
pub(crate) struct Deleted {
    /// Files, links and folders that were deleted.
    pub(crate) count: u64,
    /// The number of candidates, if it was more than the request allows: none was deleted.
    pub(crate) too_many: Option<u64>,
    /// What stays because it was changed.
    pub(crate) changed: EntryPaths,
    /// Entries of the index that could get their places if more could be deleted.
    pub(crate) blocked: u64,
    /// Why a folder stands in the place of an entry of the index, by its path as it is shown.
    pub(crate) in_the_way: BTreeMap<String, String>,
    /// What could not be deleted.
    pub(crate) failed: FailureList,
}

impl Deleted {
    pub(super) fn fail(&mut self, path: &EntryPath, error: &Error) {
        self.failed.add(FailedFile { id: None, path: path.to_string(), reason: reason(error) });
    }
}

/// The folders that take what is deleted.
pub(super) struct BackupPlaces {
    /// What the sender names, for everything.
    named: Option<Backup>,
    /// Where what earlier runs had left is retained, with the folder's name: the previous
    /// generation has no row of it, so that it is retained nowhere else.
    left: Option<(Backup, String)>,
}

impl BackupPlaces {
    /// Opens those that the request needs; they are made if missing. With `retains`, the active
    /// generation retains what it takes away.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`]: the folder that the sender names is none that can be
    /// used. Or the system's error.
    pub(super) fn open(
        context: &Context,
        archive: &Archive,
        request: &DeleteRequest,
        retains: bool,
    ) -> Result<Self> {
        let named = request.backup.as_deref().map(|name| context.sink.backup(Path::new(name), false));
        let named = named.transpose()?;
        let left = match retains && named.is_none() {
            true => {
                let name = retained_name(archive.tar_id, archive.generation);
                Some((context.sink.kept_left(&name)?, name))
            }
            false => None,
        };
        Ok(Self { named, left })
    }

    /// Removes the receiver's own folder again if nothing has come into it.
    pub(super) fn close(self, context: &Context) {
        if let Some((_, name)) = self.left {
            context.sink.prune_kept_left(&name);
        }
    }
}

/// Removes candidates.
pub(super) struct Remover<'a> {
    context: &'a Context,
    archive: &'a Archive,
    removal: Removal<'a>,
    left: Option<(&'a Backup, Removal<'a>)>,
}

impl<'a> Remover<'a> {
    pub(super) fn new(context: &'a Context, archive: &'a Archive, places: &'a BackupPlaces) -> Self {
        let left = places.left.as_ref().map(|(backup, _)| (backup, context.sink.removal(Some(backup))));
        Self { context, archive, removal: context.sink.removal(places.named.as_ref()), left }
    }

    /// Removes a leaf, or a folder if it is empty. Only a full disk or storage that fails is an
    /// error.
    pub(super) fn remove(&mut self, deleted: &mut Deleted, path: &EntryPath, form: &Form<'_>) -> Result<()> {
        match self.take_away(path, form).map_err(|e| self.context.judged(e)) {
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

    fn take_away(&mut self, path: &EntryPath, form: &Form<'_>) -> Result<Outcome> {
        let was_left = self.left.is_some() && self.was_left(path)?;
        let left = self.left.as_mut().filter(|_| was_left);
        match (form, left) {
            (Form::Leaf(expected), Some((_, removal))) => removal.remove(path, expected),
            (Form::Leaf(expected), None) => self.removal.remove(path, expected),
            (Form::Folder, left) => {
                let outcome = self.context.sink.remove_folder_if_empty(path)?;
                if let (Outcome::Removed, Some((backup, _))) = (outcome, left) {
                    backup.make_folder(path)?;
                }
                Ok(outcome)
            }
        }
    }

    /// Whether the previous generation did not have `path`: an earlier run had left it.
    fn was_left(&self, path: &EntryPath) -> Result<bool> {
        let since = self.archive.generation;
        self.archive.with_index(|index| {
            let mut is_of_previous = index.node_tombstone_at(path, since)?.is_some();
            index.file_tombstones_at(path, since, |_| {
                is_of_previous = true;
                Ok(ControlFlow::Break(()))
            })?;
            Ok(!is_of_previous)
        })
    }
}
