//! Putting an index in place: the only code that makes an index active, closes and reopens an
//! archive, and prunes what is retained for an index that was replaced.
//!
//! A [`Replacement`] owns what it makes: the new index's file, its staging folder, and the folder
//! of what is retained for it. Dropping it without [`Replacement::commit`] removes all three and
//! reopens the previous archive, so that an attempt that met a full disk leaves no less room than
//! there was, whatever becomes of its sender. The caller holds the [`Transition`] of the archive's
//! number, before every other lock.
//!
//! The steps, and what a crash after each of them leaves for the next start:
//!
//! | step | after a crash |
//! |---|---|
//! | 1. [`Replacement::close_previous`]: other receivers are kept out, names are recorded, writers are kept out | the previous index is active |
//! | 2. [`Replacement::write`]: the new index gets its place in the folder `archives` | the same; the file is removed |
//! | 3. staging: reused bytes are copied | the same; the folder is removed |
//! | 4. retention: files that are replaced get one more name | the same; the folder is removed |
//! | 5. everything is synced | as before |
//! | 6. one transaction of the journal makes the index active | the new index is active; what follows is done at the start |
//! | 7. what is retained is pruned, if its ids have other meanings now | done at the start |
//! | 7. the same, if the sender wants nothing to be retained | done by its `finish` |
//! | 8. the previous index and its staging folder are removed | done at the start |
//! | 9. metadata are updated | `finish` verifies those files, and sets them |
//!
//! Nothing that a rewind needs is pruned before step 6 has succeeded. The one exception is
//! [`make_room`].
//!
//! [`Transition`]: super::super::archive::log::Transition

use super::super::archive::Archive;
use super::super::archive::gate::Closing;
use super::super::archive::log::OpenLog;
use super::super::commit::Mark;
use super::super::context::Context;
use super::super::files::fence;
use super::super::files::metadata::apply_updates;
use super::super::files::published::record_names;
use super::super::files::take_over::take_over;
use super::super::open::{self, head_of, load, loss_of};
use super::super::retention::{self, Retention};
use super::super::reuse::Reusable;
use super::super::state_files::{remove_index, staging_name};
use crate::archive::digest::IndexDigest;
use crate::archive::log::LogDigest;
use crate::archive::source::{SourceClaim, SourceIdentity};
use crate::db::growing::GrowingIndex;
use crate::db::journal::ArchiveState;
use crate::error::{Error, Result};
use crate::sink::Sink;
use crate::sink::disk::Staging;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An attempt to put an index in place.
pub(crate) struct Replacement<'a> {
    context: &'a Context,
    log: &'a mut OpenLog,
    tar_id: u64,
    /// Of the new index.
    pub(crate) digest: IndexDigest,
    /// Of the new index.
    pub(crate) generation: u64,
    /// Where the new index is to be.
    pub(crate) path: PathBuf,
    /// The archive that is active, and its closed gate.
    previous: Option<&'a Arc<Archive>>,
    closing: Option<Closing<'a>>,
    /// Taken before anything of the new index was written.
    mark: Mark,
    /// Nothing is to be retained once the new index is active.
    pub(crate) prunes: bool,
    /// The source that the number is bound to with the new index.
    source: Option<SourceIdentity>,
    is_active: bool,
}

/// A step that a crash may follow; tests stop there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Closed,
    Written,
    Staged,
    Synced,
    Activated,
    Pruned,
    Removed,
    Updated,
}

impl<'a> Replacement<'a> {
    /// Begins to put the index `digest` in place for archive `tar_id`, of which `previous` is
    /// active. Nothing changes yet. `mark` was taken before anything of the new index was written;
    /// `claim` is what its sender says of the source.
    ///
    /// # Errors
    /// The number is bound to another source ([`crate::error::ErrorKind::OtherSource`]), or the
    /// journal cannot be read.
    pub(crate) fn begin(
        context: &'a Context,
        log: &'a mut OpenLog,
        (tar_id, digest): (u64, IndexDigest),
        previous: Option<&'a Arc<Archive>>,
        mark: Mark,
        claim: &SourceClaim,
    ) -> Result<Self> {
        context.archives.check_source(tar_id, claim)?;
        let generation = context.committer.rewrite(|journal| journal.next_generation(tar_id))?;
        let path = context.index_path(tar_id, &digest, generation);
        let (closing, prunes, is_active) = (None, false, false);
        Ok(Self {
            context,
            log,
            tar_id,
            digest,
            generation,
            path,
            previous,
            closing,
            mark,
            prunes,
            source: claim.source.clone(),
            is_active,
        })
    }

    /// Has other receivers put nothing in place any more, records the names that the previous archive
    /// has given, and waits until no thread writes for it: what is published now is what there is to
    /// reuse.
    ///
    /// # Errors
    /// The previous index cannot be read, or was replaced; another receiver does not end putting
    /// something in place ([`crate::error::ErrorKind::Busy`]).
    pub(crate) fn close_previous(&mut self) -> Result<()> {
        // What is in place now is all that will be.
        fence::raise(self.context, self.tar_id)?;
        if let Some(previous) = self.previous {
            {
                // What other receivers have put in place may have to be deleted, too.
                let shared = previous.lock_shared()?;
                take_over(self.context, previous, &shared)?;
            }
            record_names(self.context, previous)?;
            self.closing = Some(previous.close()?);
            // What the last blocks renamed must have its name for good: the journal will say so of
            // the new index.
            self.context.committer.flush(self.context.committer.mark())?;
        }
        reached(Step::Closed);
        Ok(())
    }

    /// Has `make` put the new index into its place.
    ///
    /// # Errors
    /// An error of `make`.
    pub(crate) fn write(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        make(&self.path)?;
        reached(Step::Written);
        Ok(())
    }

    /// The staging folder of the new index, with nothing in it.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn staging(&self) -> Result<Staging> {
        let name = staging_name(self.tar_id, self.generation);
        // An attempt that was cut by a crash may have left it.
        self.context.sink.remove_staging(&name)?;
        self.context.sink.staging(&name)
    }

    /// Where published files of the previous archive are retained that the new index replaces or
    /// takes away.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(crate) fn retention(&self, previous: &'a Archive) -> Result<Retention<'a>> {
        Retention::begin(self.context, previous, self.generation)
    }

    /// Makes the new index the active one, with what is `reusable` for it.
    ///
    /// # Errors
    /// Storage fails. If that was before the journal named the new index, the previous one stays.
    pub(crate) fn commit(mut self, mut reusable: Reusable) -> Result<Arc<Archive>> {
        reached(Step::Staged);
        let context = self.context;
        // The journal must never name an index, or say of bytes that they are here, that a power
        // loss can take away.
        context.committer.sync(self.mark)?;
        reached(Step::Synced);
        let archive = self.activate(&reusable)?;
        reached(Step::Activated);
        if archive.is_whole || self.prunes {
            retention::prune_all(&context.sink, archive.tar_id);
        }
        reached(Step::Pruned);
        if let Some(previous) = self.previous {
            remove_index(&previous.index_path);
            if let Err(e) = context.sink.remove_staging(&staging_name(previous.tar_id, previous.generation)) {
                // The next start removes it.
                tracing::warn!("{e}");
            }
        }
        reached(Step::Removed);
        drop(self);
        archive.progress.resume(std::mem::take(&mut reusable.prefixes));
        apply_updates(context, &archive, &mut reusable.updates)?;
        if reusable.has_staged {
            context.verify_unpublished(&archive);
        }
        reached(Step::Updated);
        Ok(archive)
    }

    fn activate(&mut self, reusable: &Reusable) -> Result<Arc<Archive>> {
        let context = self.context;
        let state = ArchiveState {
            tar_id: self.tar_id,
            digest: self.digest,
            generation: self.generation,
            finished: false,
            made: false,
            done: reusable.durable.clone(),
            published: reusable.published.clone(),
            source: self.source.clone(),
        };
        // Everything that can fail comes before the journal says which index is active.
        let archive = load(context, state.clone())?;
        if context.sink.syncs_each_file() {
            archive.store_index()?;
        }
        // Others get the index when it is active here, so that none puts anything of it in place yet.
        let head = archive.progress.head();
        fence::lower(context, self.tar_id, head.sealed.then_some(&head.digest))?;
        context.committer.rewrite(|journal| journal.activate(&state))?;
        self.is_active = true;
        context.archives.set_source(self.tar_id, self.source.clone());
        self.log.close();
        {
            let _placing = context.archives.names.place();
            context.archives.serve(archive.clone());
        }
        if let Some(closing) = self.closing.take() {
            closing.for_good();
        }
        Ok(archive)
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        // After a failure of storage the journal may name either index; the next start removes what
        // it does not name.
        if self.is_active || self.context.committer.is_degraded() {
            return;
        }
        remove_index(&self.path);
        if let Err(e) = self.context.sink.remove_staging(&staging_name(self.tar_id, self.generation)) {
            tracing::warn!("{e}");
        }
        retention::remove(&self.context.sink, self.tar_id, self.generation);
        let previous = self.previous.map(|previous| previous.progress.head()).filter(|head| head.sealed);
        let lowered = fence::lower(self.context, self.tar_id, previous.as_ref().map(|head| &head.digest));
        if let Err(e) = lowered {
            tracing::warn!("the other slices put nothing in place before another index is active: {e}");
        }
    }
}

/// Restarts the index of `archive` as `stream` in its place: its rows are compared with those of
/// the stream, and what is the same stays. Here, too, what is retained is pruned last, and a crash
/// before the journal's transaction leaves an index that its sender restarts again.
///
/// # Errors
/// Another index has taken this one's place, or storage fails.
pub(crate) fn restart_in_place(
    context: &Context,
    log: &mut OpenLog,
    archive: &Archive,
    stream: &LogDigest,
) -> Result<()> {
    let _finish = archive.lock_finish();
    record_names(context, archive)?;
    let exclusive = archive.lock_exclusive()?;
    log.close();
    let limit_bytes = context.options.max_index_bytes;
    let growing = GrowingIndex::adopt(&archive.index_path, stream, limit_bytes, &archive.progress.placed())?;
    reached(Step::Written);
    let head = head_of(&growing)?;
    archive.progress.restart(&context.committer, head, *stream, &exclusive)?;
    reached(Step::Activated);
    log.set(archive.generation, growing);
    retention::prune_all(&context.sink, archive.tar_id);
    Ok(())
}

/// Binds the number of an archive to the source that its sender claims, where it is not bound to
/// that yet. The caller has checked the claim, and holds the transition of the number.
///
/// # Errors
/// Storage fails.
pub(crate) fn bind(context: &Context, tar_id: u64, claim: &SourceClaim) -> Result<()> {
    let Some(source) = &claim.source else { return Ok(()) };
    if context.archives.source_of(tar_id).as_ref() == Some(source) {
        return Ok(());
    }
    context.committer.rewrite(|journal| journal.bind(tar_id, source))?;
    context.archives.set_source(tar_id, Some(source.clone()));
    Ok(())
}

/// Binds an archive to the source that `claim` names, if `index` is its active index: its sender
/// has that index, and has nothing else to send.
///
/// # Errors
/// The number is bound to another source, or storage fails.
pub(crate) fn bind_active(
    context: &Context,
    tar_id: u64,
    index: &IndexDigest,
    claim: &SourceClaim,
) -> Result<()> {
    let transition = context.archives.transition(tar_id);
    let _log = transition.lock();
    context.archives.check_source(tar_id, claim)?;
    open::get(context, tar_id)?.check_active(index)?;
    bind(context, tar_id, claim)
}

/// Prunes all that is retained of an archive, if `from` is its active index, or whatever is its
/// index without `from`. There was no space for an index whose sender wants nothing to be retained:
/// what is retained goes before that index is active, since a full receiver would refuse it for
/// ever.
pub(crate) fn make_room(context: &Context, tar_id: u64, from: Option<&IndexDigest>) {
    let transition = context.archives.transition(tar_id);
    // Kept out: a replacement that has just begun to retain something.
    let _log = transition.lock();
    let Ok(archive) = open::get(context, tar_id) else { return };
    if from.is_none_or(|from| archive.check_active(from).is_ok()) {
        retention::prune_all(&context.sink, tar_id);
    }
}

/// Gives up an archive whose index is damaged: no thread works for it any more, and its sender
/// hears what is lost.
pub(crate) fn give_up(context: &Context, archive: &Arc<Archive>, damage: &Error) {
    let transition = context.archives.transition(archive.tar_id);
    let mut log = transition.lock();
    // Another index may have taken its place meanwhile.
    if !context.archives.is_served(archive) {
        return;
    }
    let Ok(closing) = archive.close() else { return };
    log.close();
    if let Err(e) = fence::lower(context, archive.tar_id, None) {
        tracing::warn!("{e}");
    }
    context.archives.give_up(archive.tar_id, loss_of(context, archive.tar_id, damage));
    closing.for_good();
}

#[cfg(not(test))]
fn reached(_: Step) {}

#[cfg(test)]
use crash::reached;

/// Where tests stop to copy what a crash would leave.
#[cfg(test)]
pub(crate) mod crash {
    use super::Step;
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut(Step)>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Has `hook` called at each step of the replacements of this thread.
    pub(crate) fn at_each_step(hook: impl FnMut(Step) + 'static) {
        HOOK.with(|cell| *cell.borrow_mut() = Some(Box::new(hook)));
    }

    pub(super) fn reached(step: Step) {
        HOOK.with(|cell| {
            if let Some(hook) = &mut *cell.borrow_mut() {
                hook(step);
            }
        });
    }
}
