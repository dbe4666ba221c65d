//! What a receiver could delete: only the receiver knows what earlier runs have left there, or what
//! the index of another run has put there. A dry run says of that what would go. A run asks before
//! and after the receiver deletes: what is on the first list only has gone.

use super::super::spill::{EntryList, PathSpill};
use super::super::tasks::blocking;
use super::job::Upload;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::NodeKind;
use crate::archive::path::{EntryPath, unprintable};
use crate::archive::protocol::{CandidatesAnswer, CandidatesRequest, EntryPaths};
use crate::db::paths::PathTable;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Notice;
use std::sync::atomic::Ordering;

/// The receiver's list of candidates.
#[derive(Default)]
pub(super) struct Listing<T> {
    pub(super) entries: T,
    /// Why it would delete nothing, if that is so.
    refused: Option<String>,
    /// For a dry run: what is no candidate because it was changed ...
    pub(super) changed: EntryPaths,
    /// ... or removed.
    pub(super) absent: EntryPaths,
}

impl Listing<PathSpill> {
    fn end(self) -> Listing<EntryList> {
        let Self { entries, refused, changed, absent } = self;
        Listing { entries: EntryList::new(entries), refused, changed, absent }
    }
}

impl Upload {
    /// For a dry run: what the receiver could delete that earlier runs have left there; with `all`,
    /// also all that its own index has, or what it adopts. And what was changed there. Of a receiver
    /// that cannot say it, nothing, and a warning.
    ///
    /// # Errors
    /// The receiver refuses, or there is no room for a temporary file.
    pub(super) async fn could_delete(&self, all: bool) -> Result<Listing<EntryList>> {
        if !self.options.lists_deleted {
            return Ok(Listing::default());
        }
        if self.options.adopt.is_some() {
            return Ok(self.list(&self.summary.digest, true).await?.end());
        }
        let status = match self.client.status(self.options.block_size, 0).await {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Listing::default()),
            other => other?,
        };
        // A receiver of the original's kind deletes nothing.
        let Some(status) = status else { return Ok(Listing::default()) };
        let why = match (status.lists, status.sealed) {
            (true, true) => None,
            (false, _) => {
                Some("the receiver is of an earlier version, which does not say what it would delete")
            }
            (_, false) => Some("the index that the receiver has is not complete"),
        };
        if let Some(why) = why {
            self.monitor.notice(Notice::Warning(format!(
                "{why}: what earlier runs have left there is neither named nor counted"
            )));
            return Ok(Listing::default());
        }
        let index = status.digest.parse::<IndexDigest>().map_err(|_| no_list())?;
        let found = self.list(&index, all).await?;
        if let Some(why) = &found.refused {
            self.monitor.notice(Notice::Warning(why.clone()));
        }
        Ok(found.end())
    }

    /// Lists what a `finish` may delete, once.
    ///
    /// # Errors
    /// There is no room for a temporary file, or the run is cancelled.
    pub(super) async fn list_candidates(&self) -> Result<()> {
        if self.options.lists_deleted && self.candidates.lock().is_none() {
            let found = self.list_or_warn().await?;
            *self.candidates.lock() = found;
        }
        Ok(())
    }

    /// What of the [listed](Self::list_candidates) candidates the receiver has deleted.
    ///
    /// # Errors
    /// As [`Self::list_candidates`].
    pub(super) async fn has_deleted(&self) -> Result<EntryList> {
        let has_any = self.deleted.load(Ordering::Relaxed) > 0;
        let before = self.candidates.lock().take().filter(|_| has_any);
        let Some(mut before) = before else { return Ok(EntryList::default()) };
        let Some(mut left) = self.list_or_warn().await? else { return Ok(EntryList::default()) };
        let scratch = self.options.scratch.clone();
        blocking(move || {
            let (stays, mut gone) = (PathTable::create(&scratch)?, PathSpill::new(&scratch));
            left.each(|_, _, path| stays.add(path, "").map(drop))?;
            before.each(|node, bytes, path| match stays.kind_of(path.as_bytes())? {
                Some(_) => Ok(()),
                None => gone.push(node, bytes, path),
            })?;
            Ok(EntryList::new(gone))
        })
        .await
    }

    /// What a receiver could delete that has our index. Names alone fail no run: without the list,
    /// a warning says that there are none.
    async fn list_or_warn(&self) -> Result<Option<PathSpill>> {
        match self.list(&self.summary.digest, false).await {
            Ok(found) => Ok(Some(found.entries)),
            Err(e) if e.kind() == ErrorKind::Interrupted => Err(e),
            Err(e) => {
                self.monitor.notice(Notice::Warning(format!("{e}: what the receiver deletes is not named")));
                Ok(None)
            }
        }
    }

    async fn list(&self, index: &IndexDigest, all: bool) -> Result<Listing<PathSpill>> {
        self.monitor.notice(Notice::Phase("the receiver looks for what could be deleted"));
        let mut found = PathSpill::new(&self.options.scratch);
        let is_dry = self.options.dry_run;
        // A run has brought its index, which has taken what was adopted.
        let adopt = self.options.adopt.filter(|_| is_dry);
        let mut request = CandidatesRequest { name: rand::random(), all, adopt, changed: is_dry, page: 0 };
        loop {
            let answer = self.client.candidates(index, request).await?;
            let CandidatesAnswer { entries, more, refused, changed, absent } = answer;
            for (letter, bytes, path) in entries {
                let path =
                    unprintable(&path).and_then(|path| EntryPath::new(path).ok()).ok_or_else(no_list)?;
                found.push(NodeKind::from_letter(&letter), bytes, &path)?;
            }
            if !more {
                return Ok(Listing { entries: found, refused, changed, absent });
            }
            request.page += 1;
        }
    }
}

fn no_list() -> Error {
    Error::new(ErrorKind::Malformed, "the receiver's list of what could be deleted is malformed")
}
