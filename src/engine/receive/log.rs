//! An index that arrives while its source is still being read, batch by batch; see [`crate::archive::log`].

use super::archive::{Archive, Extent};
use super::commit::lock;
use super::{Receiver, remove_index};
use crate::archive::log::{self, LogDigest, first_digest, next_digest};
use crate::archive::protocol::{LogAnswer, STATUS_RANGES};
use crate::db::generation::remember_gone;
use crate::db::growing::{Appended, Differences, GrowingIndex};
use crate::db::journal::ArchiveState;
use crate::error::{Error, ErrorKind, Result};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLockWriteGuard};

/// What a log that was opened again comes to: all rows that are there, also those that its stream has not come to again.
pub(super) fn extent_of(log: &GrowingIndex) -> Result<Extent> {
    let (files, total_bytes) = log.stored()?;
    let sealed = log.sealed()?;
    Ok(Extent { digest: sealed.unwrap_or(log.head().digest), files, total_bytes, sealed: sealed.is_some() })
}

impl Receiver {
    /// Adds a batch to the index of `tar_id`. `stream` names the sender's run, and `before` the prefix of its log that the batch
    /// follows; the first batch of a stream makes it the active one. The same batch again changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::WrongIndex`]: another stream or another prefix is active. [`ErrorKind::BadIndex`]: the batch is refused.
    pub fn append_log(
        &self,
        tar_id: u64,
        stream: &LogDigest,
        before: &LogDigest,
        batch: &[u8],
    ) -> Result<LogAnswer> {
        self.committer.check()?;
        let records = log::records(batch)
            .map_err(|e| Error::new(ErrorKind::BadIndex, "the log of the index is refused").because(e))?;
        let after = next_digest(before, batch);
        let archive = self.archive_of(tar_id, stream, before)?;
        let mut slot = lock(&archive.log);
        let Some(growing) = slot.as_mut().filter(|growing| growing.stream() == stream) else {
            return Err(other_stream(tar_id));
        };
        if growing.head().digest != *before {
            // Sent again because the answer was lost.
            let Some(range) = growing.appended(&after)? else { return Err(lost_end(tar_id)) };
            // Or because something failed after it was stored.
            archive.set_extent(extent_of(growing)?);
            archive.state().pending = growing.pending()?.into_iter().collect();
            return Ok(answer(&archive, &after, range));
        }
        let appended = growing.append(&records, after, |found| self.forget_differences(&archive, found))?;
        let (files, total_bytes) = growing.stored()?;
        let (digest, sealed) = match &appended.end {
            Some(end) => (end.digest, true),
            None => (after, false),
        };
        archive.set_extent(Extent { digest, files, total_bytes, sealed });
        // Before the next batch: it may bring the digests of a file that this one has brought.
        self.note_digests(&archive, &appended)?;
        drop(slot);
        if let Some(end) = &appended.end {
            // The journal's next record must not be about an index that a power loss can take away.
            self.committer.sync()?;
            tracing::info!(
                "archive {tar_id}: index {} with {} files, {} bytes",
                end.digest,
                end.files,
                end.total_bytes
            );
        }
        Ok(answer(&archive, &after, appended.range))
    }

    /// The archive that has `stream` as its log, which begins now if `before` is its start.
    fn archive_of(&self, tar_id: u64, stream: &LogDigest, before: &LogDigest) -> Result<Arc<Archive>> {
        let active = || {
            let former = self.archives.read().unwrap_or_else(PoisonError::into_inner).get(&tar_id).cloned();
            former.map(|archive| {
                let same = lock(&archive.log).as_ref().is_some_and(|log| log.stream() == stream);
                (archive, same)
            })
        };
        if let Some((archive, true)) = active() {
            return Ok(archive);
        }
        if *before != first_digest(stream) {
            return Err(other_stream(tar_id));
        }
        let replacing = self.replacing(tar_id);
        let _one = lock(&replacing);
        match active() {
            Some((archive, true)) => Ok(archive),
            Some((archive, false)) => self.begin_again(archive, stream),
            None => {
                let generation = self.next_generation(tar_id)?;
                let path = self.index_path(tar_id, stream, generation);
                // What an attempt left that met a full disk.
                remove_index(&path);
                let log = GrowingIndex::create(&path, stream, self.options.max_index_bytes)?;
                drop(log);
                self.committer.sync()?;
                tracing::info!("archive {tar_id}: a new index begins as {stream}");
                self.keep_only(tar_id, 0)?;
                self.activate(nothing_done(tar_id, *stream, generation))
            }
        }
    }

    /// A new stream for an archive that is there: what it says again, stays.
    fn begin_again(&self, archive: Arc<Archive>, stream: &LogDigest) -> Result<Arc<Archive>> {
        if archive.with_index(|index| Ok(index.is_scattered()))? {
            return self.begin_beside(archive, stream);
        }
        let mut slot = lock(&archive.log);
        let _finishing = lock(&archive.finish);
        let _paused = archive.pause()?;
        // What is kept is known by ids, which have other meanings from here on.
        self.keep_only(archive.tar_id, 0)?;
        *slot = None;
        self.committer.rewrite(|journal| journal.set_finished(archive.tar_id, false))?;
        {
            let mut state = archive.state();
            (state.finished, state.look) = (false, None);
        }
        let remembers = archive.state().published.covered() > 0;
        let limit_bytes = self.options.max_index_bytes;
        let log = GrowingIndex::adopt(&archive.index_path, stream, limit_bytes, remembers)?;
        archive.set_extent(extent_of(&log)?);
        *slot = Some(log);
        archive.note_log();
        drop(slot);
        Ok(archive.clone())
    }

    /// The archive has a later generation of another index, whose rows cannot be compared one by one.
    fn begin_beside(&self, former: Arc<Archive>, stream: &LogDigest) -> Result<Arc<Archive>> {
        let tar_id = former.tar_id;
        let generation = self.next_generation(tar_id)?;
        let path = self.index_path(tar_id, stream, generation);
        remove_index(&path);
        drop(GrowingIndex::create(&path, stream, self.options.max_index_bytes)?);
        remember_gone(&path, &former.index_path)?;
        self.committer.sync()?;
        self.keep_only(tar_id, 0)?;
        former.retire();
        self.replaced(Some(former), self.activate(nothing_done(tar_id, *stream, generation)))
    }

    /// What was received for rows that are different now means nothing any more. Nobody writes as long as the result lives.
    fn forget_differences<'a>(
        &self,
        archive: &'a Archive,
        found: &Differences,
    ) -> Result<Option<RwLockWriteGuard<'a, bool>>> {
        if found.files_from.is_none() && found.files.is_empty() {
            return Ok(None);
        }
        let paused = archive.pause()?;
        // The journal must not hear later of names that were given before.
        self.committer.settle()?;
        let end = archive.extent();
        let mut gone: Vec<(Range<u64>, Range<u64>)> =
            found.files.iter().map(|(id, range)| (range.clone(), *id..id + 1)).collect();
        if let Some((first, offset)) = found.files_from {
            gone.push((offset..end.total_bytes.max(offset), first..end.files.max(first)));
        }
        self.committer.rewrite(|journal| journal.forget(archive.tar_id, &gone))?;
        for (bytes, ids) in gone {
            let mut state = archive.state();
            let staged: Vec<Range<u64>> = state.published.missing(ids.clone()).collect();
            state.done.remove(bytes);
            state.published.remove(ids.clone());
            state.pending.retain(|id| !ids.contains(id));
            state.hashed.retain(|id, _| !ids.contains(id));
            state.failed.retain(|id, _| !ids.contains(id));
            drop(state);
            for id in staged.into_iter().flatten() {
                archive.staging.remove(id);
            }
        }
        Ok(Some(paused))
    }

    /// Files whose digests have come and whose content is there already can be proven now.
    fn note_digests(&self, archive: &Arc<Archive>, appended: &Appended) -> Result<()> {
        archive.state().pending.extend(&appended.pending);
        for &id in &appended.digested {
            archive.state().pending.remove(&id);
            let Some(file) = archive.file(id)? else { continue };
            let mut state = archive.state();
            let waits = file.size > 0
                && state.done.contains(file.range())
                && !state.published.contains(id..id + 1)
                && state.proving.insert(id);
            drop(state);
            if waits {
                self.prove_later(archive, id);
            }
        }
        Ok(())
    }
}

fn nothing_done(tar_id: u64, digest: LogDigest, generation: u64) -> ArchiveState {
    let (done, published) = Default::default();
    ArchiveState { tar_id, digest, generation, finished: false, done, published }
}

fn answer(archive: &Archive, after: &LogDigest, range: Range<u64>) -> LogAnswer {
    let extent = archive.extent();
    let state = archive.state();
    let held: Vec<(u64, u64)> = {
        let missing: Vec<Range<u64>> = state.done.missing(range.clone()).collect();
        let starts = std::iter::once(range.start).chain(missing.iter().map(|gap| gap.end));
        let ends = missing.iter().map(|gap| gap.start).chain(std::iter::once(range.end));
        starts.zip(ends).filter(|(start, end)| start < end).take(STATUS_RANGES).collect()
    };
    LogAnswer { digest: after.to_string(), sealed: extent.sealed, held }
}

/// Batches are not synced one by one: a power loss takes the last ones, until a block is answered.
fn lost_end(tar_id: u64) -> Error {
    let what = format!(
        "the receiver does not have the index of archive {tar_id} up to here; it was restarted, perhaps"
    );
    Error::new(ErrorKind::WrongIndex, what).hint("run the same command again: it goes on where it was")
}

fn other_stream(tar_id: u64) -> Error {
    Error::new(
        ErrorKind::WrongIndex,
        format!("another sender has put another index in place for archive {tar_id}"),
    )
    .hint("let only one sync at a time use the same archive number, or give --tar-id")
}
