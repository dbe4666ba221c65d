//! What the receiver may delete.

use crate::archive::protocol::DeleteRequest;
use crate::archive::skipped::{FilteredPaths, SkippedList};
use crate::db::generation::History;
use crate::db::index_read::{IndexReader, Summary};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use std::path::Path;

/// How the receiver deletes what previous generations of the index have put in place and the newest
/// one does not have.
#[derive(Debug, Clone, Default)]
pub struct DeletePolicy {
    /// How many entries may go in one run; `None` means 1,000 or 10 % of the files, whichever is
    /// more.
    pub limit: Option<DeleteLimit>,
    /// Move what would be deleted to this folder below the receiver's base folder.
    pub backup: Option<String>,
    /// Delete also where parts of the source could not be read. These, and what is below them,
    /// stay.
    pub ignore_errors: bool,
    /// Delete also what a filter left out of the source.
    pub filtered: bool,
}

/// How many entries may be deleted in one run. If there are more, none is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteLimit {
    /// This many.
    Entries(u64),
    /// This percentage of the files, from 0 to 100.
    Percent(u64),
}

/// How many entries may be deleted unless the policy says it ...
const DEFAULT_LIMIT: u64 = 1000;
/// ... or this percentage of the files, if that is more.
const DEFAULT_LIMIT_PERCENT: u64 = 10;

impl DeleteLimit {
    /// The number of entries that it allows where there are `files`.
    fn entries(self, files: u64) -> u64 {
        match self {
            Self::Entries(number) => number,
            // Folders and links count, too, so there may be more entries than files.
            Self::Percent(100) => u64::MAX,
            Self::Percent(percent) => files.saturating_mul(percent) / 100,
        }
    }
}

impl DeletePolicy {
    /// What the receiver is asked to delete once it has the index at `database`; `None` where
    /// nothing is to be deleted.
    ///
    /// # Errors
    /// The index cannot be read, or is empty.
    pub(in super::super) fn request(
        &self,
        database: &Path,
        monitor: &dyn Monitor,
    ) -> Result<Option<DeleteRequest>> {
        let index = IndexReader::open(database)?;
        let summary = index.summary()?;
        let what = || format!("index {}", database.display());
        if !may_delete(&index, &summary, summary.files + summary.nodes, what)? {
            return Ok(None);
        }
        let history = History::open(database)?;
        let previous = history.active()?.parent.and_then(|parent| history.generation(parent));
        let previous_files = previous.map_or(0, |previous| previous.files);
        let skipped = index.skipped()?;
        Ok(self.request_for((previous_files, summary.files), skipped.as_ref(), database, monitor))
    }

    /// What the receiver would be asked to delete if the index at `database` got another generation
    /// with `entries`, of which so many are `files`, and without `skipped`; `None` where nothing
    /// would be deleted.
    ///
    /// # Errors
    /// The index cannot be read, or the generation would be empty.
    pub(in super::super) fn planned_request(
        &self,
        database: &Path,
        (files, entries): (u64, u64),
        skipped: &SkippedList,
        monitor: &dyn Monitor,
    ) -> Result<Option<DeleteRequest>> {
        let index = IndexReader::open(database)?;
        let summary = index.summary()?;
        if !may_delete(&index, &summary, entries, || format!("source of {}", database.display()))? {
            return Ok(None);
        }
        Ok(self.request_for((summary.files, files), Some(skipped), database, monitor))
    }

    /// The request of a run that had so many files before, and has so many now.
    fn request_for(
        &self,
        (previous_files, files): (u64, u64),
        skipped: Option<&SkippedList>,
        database: &Path,
        monitor: &dyn Monitor,
    ) -> Option<DeleteRequest> {
        let (spare, filtered) = match self.spared(skipped, database) {
            Ok(spared) => spared,
            Err(why) => {
                monitor.notice(Notice::Warning(format!("nothing is deleted in this run: {why}")));
                return None;
            }
        };
        let most = match self.limit {
            None => DEFAULT_LIMIT.max(DeleteLimit::Percent(DEFAULT_LIMIT_PERCENT).entries(files)),
            // The percentage is one of what there was before.
            Some(limit) => limit.entries(previous_files.max(files)),
        };
        Some(DeleteRequest { most, backup: self.backup.clone(), only_reverted: false, spare, filtered })
    }

    /// What must stay although the index does not have it; or why nothing may be deleted.
    fn spared(
        &self,
        skipped: Option<&SkippedList>,
        database: &Path,
    ) -> std::result::Result<(Vec<String>, FilteredPaths), String> {
        let skipped = skipped.ok_or_else(|| {
            format!(
                "{} does not say what of the source was left out when it was made; run index, or sync, again",
                database.display()
            )
        })?;
        if skipped.unreadable() > 0 && !self.ignore_errors {
            return Err(format!(
                "{} entries of the source could not be read; --ignore-errors spares only these and what is below them",
                skipped.unreadable()
            ));
        }
        let spare = skipped.spared().ok_or_else(|| {
            format!(
                "{} entries of the source were left out, and not all of their names are known",
                skipped.total()
            )
        })?;
        if self.filtered {
            return Ok((spare, FilteredPaths::default()));
        }
        let filtered = skipped.filtered().cloned().ok_or(
            "what --files-from or the filter left out of the source has no list of names; --delete-excluded deletes all of it as well",
        )?;
        Ok((spare, filtered))
    }
}

/// Whether anything may be deleted in a run to a state with so many `entries`; `what` has that
/// state.
///
/// # Errors
/// There are no entries.
fn may_delete(
    index: &IndexReader,
    summary: &Summary,
    entries: u64,
    what: impl FnOnce() -> String,
) -> Result<bool> {
    if index.is_of_one_file(summary)? {
        // As rsync does: other files of that folder came from other sources.
        return Ok(false);
    }
    if entries == 0 {
        let what = format!("the {} is empty: --delete would leave nothing at the receiver", what());
        return Err(Error::new(ErrorKind::Source, what)
            .with_hint("is the source mounted? Delete by hand what really is to go"));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_one_of_the_files() {
        assert_eq!((DeleteLimit::Entries(5).entries(1000), DeleteLimit::Percent(10).entries(1000)), (5, 100));
        assert_eq!(DeleteLimit::Percent(0).entries(1000), 0);
        // Folders count, too, so all files may be fewer than all entries.
        assert_eq!(DeleteLimit::Percent(100).entries(10), u64::MAX);
    }
}
