//! Compacting a backup: all but the last change becomes one snapshot.

use super::append::{NewBackup, Record};
use super::file::{BackupFile, Damage};
use crate::archive::backup::{Kind, Place, Rebase};
use crate::error::{Error, ErrorKind, Result};
use std::io::Write;

fn record_of(place: &Place) -> Record {
    let head = &place.head;
    Record { version: head.version, digest: head.digest, created_s: head.created_s }
}

impl BackupFile {
    /// Merges all but the last change into a snapshot of the version before it. `snapshot` writes
    /// that, and gets the verified records that make the version. Abandoned versions are dropped.
    /// The new file replaces the old one in one step. Gives the lengths in bytes before and after.
    ///
    /// # Errors
    /// The file is damaged, or the disk or `snapshot` fails; the old file is unchanged then.
    pub fn compact(
        self,
        snapshot: impl FnOnce(&Self, &[Place], &mut dyn Write) -> Result<()>,
    ) -> Result<(Self, [u64; 2])> {
        if let Some(Damage::Lost { at, .. }) = self.damage {
            return Err(self
                .bad(format!("it is damaged from byte {at} on"))
                .with_hint("history backup adds once more what was lost, if the index is still there"));
        }
        let live = self.lineage.rebase().ok_or_else(|| self.bad("it has no record"))?;
        let metadata = self.file.metadata().map_err(|e| self.io("read", e))?;
        let mut new = NewBackup::create(&self.path, metadata.permissions())?;
        match live {
            Rebase::Alone(place) => {
                self.intact_version(place.head.version)?;
                new.backup.add(Kind::Snapshot, None, &record_of(&place), |to| self.copy(&place, to))?;
            }
            Rebase::Whole(place) => {
                let chain = self.intact_version(place.head.version)?;
                let write = |to: &mut dyn Write| snapshot(&self, &chain, to);
                new.backup.add(Kind::Snapshot, None, &record_of(&place), write)?;
            }
            Rebase::Folded { base, change } => {
                let mut chain = self.intact_version(change.head.version)?;
                chain.pop();
                let write = |to: &mut dyn Write| snapshot(&self, &chain, to);
                new.backup.add(Kind::Snapshot, None, &record_of(&base), write)?;
                let parent = Some(base.head.version);
                let write = |to: &mut dyn Write| self.copy(&change, to);
                new.backup.add(Kind::Change, parent, &record_of(&change), write)?;
            }
        }
        // The payloads were verified when they were read the first time.
        let copied =
            [self.lineage.live(), new.backup.lineage.live()].map(|live| live.map(|live| live.head.payload));
        if copied[0] != copied[1] && !matches!(live, Rebase::Whole(_)) {
            let what = format!("{} changed while it was read", self.path.display());
            return Err(Error::new(ErrorKind::Io, what).with_hint("run the same command again"));
        }
        let new = new.put_in_place(true)?;
        let lengths = [self.file.metadata(), new.file.metadata()].map(|meta| meta.map(|meta| meta.len()));
        let [before, after] = lengths;
        Ok((new, [before.unwrap_or(0), after.unwrap_or(0)]))
    }

    fn copy(&self, place: &Place, to: &mut dyn Write) -> Result<()> {
        std::io::copy(&mut self.payload(place), to).map(drop).map_err(|e| self.io("copy a record of", e))
    }
}
