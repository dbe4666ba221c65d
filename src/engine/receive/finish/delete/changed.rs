//! What a deletion leaves alone because it was changed since it was put in place.

use super::form::form_of;
use super::others::{DeletionCandidate, unclaimed};
use super::{Deletion, PAGE};
use crate::archive::path::{EntryPath, printable};
use crate::archive::protocol::EntryPaths;
use crate::db::index_read::Row;
use crate::error::Result;
use crate::folder::is_kind;
use crate::sink::Scratch;
use rustix::fs::{FileType, Stat};
use std::ops::ControlFlow;

impl Deletion<'_> {
    /// The entries that would be candidates if they were still what was put in place. Where names
    /// are folded, nothing tells them from entries that took their names. With them, those of the
    /// index that were removed.
    pub(super) fn changed(&self) -> Result<(EntryPaths, EntryPaths)> {
        let (mut scratch, mut cache) = (Scratch::default(), super::WalkCache::default());
        let (mut page, mut changed, mut absent) = (Vec::new(), EntryPaths::default(), EntryPaths::default());
        let Some(since) = self.since.filter(|_| !self.folds) else { return Ok((changed, absent)) };
        let mut last: Option<EntryPath> = None;
        self.each_row(since, |row, is_live| {
            // Without a time, nothing tells whose file it is.
            let is_unknown = matches!(&row, Row::File(file) if file.meta.is_none());
            if is_unknown || last.as_ref() == Some(row.path()) || self.is_spared(&row) {
                return Ok(());
            }
            // The deletion itself names what cannot be looked at.
            let Ok(stat) = self.context.sink.stat(row.path(), cache.next()) else { return Ok(()) };
            let Some(stat) = stat else {
                if is_live {
                    absent.add(printable(row.path().as_bytes()));
                }
                return Ok(());
            };
            // A folder may have come with what another archive has put into it.
            if is_kind(&stat, FileType::Directory)
                || form_of(self.context, self.archive, &row, &stat, &mut scratch)?.is_some()
                || self.is_of_other_row(row.path(), &stat, since, &mut scratch)?
            {
                return Ok(());
            }
            last = Some(row.path().clone());
            if page.len() >= PAGE {
                self.add_changed(&mut page, &mut changed)?;
            }
            page.push(DeletionCandidate { row, stat, has_our_content: false });
            Ok(())
        })?;
        self.add_changed(&mut page, &mut changed)?;
        Ok((changed, absent))
    }

    /// Adds what is on the page, but for what is another archive's.
    fn add_changed(&self, page: &mut Vec<DeletionCandidate>, changed: &mut EntryPaths) -> Result<()> {
        let deleting = self.context.archives.names.delete();
        let found = unclaimed(self.context, self.archive.tar_id, std::mem::take(page), &deleting)?;
        found.ours.iter().for_each(|found| changed.add(printable(found.row.path().as_bytes())));
        Ok(())
    }

    /// Whether what has the path is what a previous generation put there: it may have had several
    /// entries of one path.
    fn is_of_other_row(
        &self,
        path: &EntryPath,
        stat: &Stat,
        since: u64,
        scratch: &mut Scratch,
    ) -> Result<bool> {
        let mut rows = Vec::new();
        self.archive.with_index(|index| {
            rows.extend(index.node_tombstone_at(path, since)?.map(Row::Node));
            index.file_tombstones_at(path, since, |file| {
                rows.push(Row::File(file));
                Ok(ControlFlow::Continue(()))
            })
        })?;
        for row in &rows {
            if form_of(self.context, self.archive, row, stat, scratch)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
