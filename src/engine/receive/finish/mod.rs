//! The end of a transfer: published files are confirmed, what is left is published, directories and
//! links are made, metadata set, and what the source has no more is deleted.

mod cache;
pub(crate) mod candidates;
mod collide;
mod confirm;
pub(crate) mod conflicts;
pub(crate) mod contents;
mod create;
mod delete;
mod failures;
pub(crate) mod jobs;
pub(crate) mod precheck;
mod restore;

use super::archive::gate::Shared;
use super::archive::{Archive, Unpublished};
use super::context::Context;
use super::files::handover::{forget_taken, hand_over, waiting};
use super::files::published::record_names;
use super::files::replaced::back_up_replaced;
use super::files::take_over::{TakenOver, take_over};
use super::files::verify::publish_complete;
use super::retention;
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::{FailedFile, FinishAnswer, FinishRequest, parse_ids};
use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Counter;
use collide::{COLLIDES, collisions};
use confirm::confirm;
use create::{create, reset_folder_metadata};
use delete::{Deleted, Deletion};
use failures::Failures;
use precheck::Prechecks;
use restore::restore_left;
use std::ops::ControlFlow;

/// Finishes `archive`, if `index` is what it has. Files that were confirmed count in `confirmed`.
///
/// # Errors
/// Another index is active, or what is not the fault of one entry.
fn run(
    context: &Context,
    archive: &Archive,
    index: &IndexDigest,
    request: &FinishRequest,
    (prechecks, confirmed): (&Prechecks, &Counter),
) -> Result<FinishAnswer> {
    if context.hands_over() {
        return run_as_slice(context, archive, index, confirmed);
    }
    let mark = context.committer.mark();
    if let Some(count) = request.keep {
        // First of all: the disk may be full. But only for the index that this is about: one that
        // has taken its place retains what it replaced.
        let _shared = archive.lock_shared()?;
        archive.check_active(index)?;
        retention::prune(&context.sink, archive.tar_id, count)?;
    }
    let unmodified = prechecks.take(archive, request.looked);
    archive.progress.wait_for_verifiers();
    if request.backup.is_some() {
        record_names(context, archive)?;
    }
    let shared = archive.lock_shared()?;
    // A stream that begins again waits until `finish` has ended; one that began before has taken
    // this index away.
    archive.check_active(index)?;
    let colliding = record_collisions(context, archive)?;
    let taken = take_over(context, archive, &shared)?;
    confirm(context, archive, &shared, &[&unmodified, &colliding, &taken.ids], confirmed)?;
    if let Some(folder) = &request.backup {
        // Before the sender hears what is missing, and before empty files and links are made.
        let mut published = archive.progress.published();
        // The place of these is that of another file of the index.
        colliding.iter().for_each(|ids| published.insert(ids));
        archive.with_index(|index| back_up_replaced(context, index, &published, folder))?;
    }
    let mut failures = Failures::new(context);
    let deleted = put_in_place(context, archive, &shared, request, (&colliding, &taken), &mut failures)?;
    // What is in place where no program can find it is not in place.
    if let Some(lost) = context.lost_storage() {
        return Err(lost);
    }
    context.committer.flush(mark)?;
    let answer = answer(context, archive, failures, deleted)?;
    if answer.complete {
        context.archives.forget_lost(archive.tar_id);
        if let Some(generation) = archive.progress.take_reverted_generation() {
            retention::remove(&context.sink, archive.tar_id, generation);
        }
    }
    archive.progress.set_finalized(&context.committer, answer.complete)?;
    Ok(answer)
}

/// The same for one of several receivers that only takes in files: publishes what is whole, and
/// hands over what is in place. What the archive misses, the first receiver knows.
fn run_as_slice(
    context: &Context,
    archive: &Archive,
    index: &IndexDigest,
    confirmed: &Counter,
) -> Result<FinishAnswer> {
    archive.progress.wait_for_verifiers();
    let shared = archive.lock_shared()?;
    archive.check_active(index)?;
    forget_taken(context, archive, &shared)?;
    confirm(context, archive, &shared, &[], confirmed)?;
    publish_complete(context, archive, &shared)?;
    if let Some(lost) = context.lost_storage() {
        return Err(lost);
    }
    hand_over(context, archive, Some(waiting(context, archive)?))?;
    let answer = answer(context, archive, Failures::new(context), Deleted::default())?;
    Ok(FinishAnswer { complete: answer.failed_total == 0, missing_bytes: 0, ..answer })
}

/// Publishes files, makes directories and links, deletes what is to go, and sets the metadata of
/// the base folder.
fn put_in_place(
    context: &Context,
    archive: &Archive,
    shared: &Shared<'_>,
    request: &FinishRequest,
    (colliding, taken): (&RangeSet, &TakenOver),
    failures: &mut Failures<'_>,
) -> Result<Deleted> {
    let retains = request.keep.is_some_and(|count| count > 0);
    let deletion = request.delete.as_ref().map(|request| Deletion::begin(context, archive, request, retains));
    let mut deletion = deletion.transpose()?;
    publish_complete(context, archive, shared)?;
    let makes_nodes = archive.progress.missing_bytes() == 0 || request.partial;
    if let Some(deletion) = &mut deletion {
        // A file may have taken the place of a folder.
        deletion.clear_the_way(&taken.waiting, makes_nodes)?;
        failures.reasons.clone_from(&deletion.deleted().in_the_way);
    }
    if makes_nodes {
        archive.progress.make_nodes(&context.committer, &context.archives.names)?;
        create(context, archive, &failed_ids(request)?, failures)?;
        record_collisions(context, archive)?;
    }
    let is_in_place = failures.list.total() == 0 && archive.progress.is_complete();
    if let Some(deletion) = deletion.as_mut().filter(|_| is_in_place) {
        delete_all(context, archive, shared, deletion, colliding, failures)?;
    }
    // Also where the index is not all in place: what comes back here may have the place of its entry.
    if let Some(generation) = archive.progress.reverted_generation()
        && restore_left(context, archive, shared, generation, failures)?
    {
        reset_folder_metadata(context, archive, failures)?;
    }
    if is_in_place {
        apply_top(context, archive, request);
    }
    let mut deleted = deletion.map(Deletion::end).unwrap_or_default();
    failures.list.append(std::mem::take(&mut deleted.failed));
    Ok(deleted)
}

/// The empty files that the sender does not have.
fn failed_ids(request: &FinishRequest) -> Result<RangeSet> {
    parse_ids(&request.failed)
        .ok_or_else(|| Error::new(ErrorKind::Malformed, "what the sender does not have is no list of ids"))
}

/// Deletes everything that may go. All of the index is in place.
fn delete_all(
    context: &Context,
    archive: &Archive,
    shared: &Shared<'_>,
    deletion: &mut Deletion<'_>,
    colliding: &RangeSet,
    failures: &mut Failures<'_>,
) -> Result<()> {
    deletion.all()?;
    let has_deleted = deletion.deleted().count > 0;
    if has_deleted && deletion.folds() {
        // A name that went may have led to something of the index all the same: that comes again.
        confirm(context, archive, shared, &[colliding], &Counter::default())?;
        create(context, archive, &RangeSet::default(), failures)?;
    }
    if context.sink.take_opened_up() || has_deleted {
        reset_folder_metadata(context, archive, failures)?;
    }
    Ok(())
}

/// Gives the base folder the metadata that the sender says, if it is for this archive alone.
fn apply_top(context: &Context, archive: &Archive, request: &FinishRequest) {
    let Some(top) = request.top.filter(|_| context.archives.has_one()) else { return };
    match context.sink.apply_base_meta(&top.into()) {
        Ok(true) => {}
        Ok(false) => tracing::info!("the base folder belongs to another user, and keeps its mode and times"),
        // It is there, and all of archive is in it.
        Err(e) => tracing::warn!("archive {}: {e}", archive.tar_id),
    }
}

fn answer(
    context: &Context,
    archive: &Archive,
    failures: Failures<'_>,
    deleted: Deleted,
) -> Result<FinishAnswer> {
    // Content that is durable but has no name is in no list of missing bytes, and only some of
    // these files have their reasons named.
    let mut unpublished = archive.progress.named_failures();
    if unpublished > 0 {
        archive.each_unpublished(Unpublished::FIRST, |file| {
            unpublished += u64::from(!archive.progress.is_named_failure(file.id));
            Ok(ControlFlow::Continue(()))
        })?;
    }
    let summary = archive.progress.summary();
    let failed_total = failures.list.total() + unpublished;
    let mut failed = summary.failed;
    failed.append(failures.list);
    Ok(FinishAnswer {
        complete: failed_total == unpublished && summary.is_complete,
        missing_bytes: summary.missing_bytes,
        files_published: summary.published_files,
        failed: failed.into_named(),
        failed_total,
        deleted: deleted.count,
        too_many: deleted.too_many,
        changed: deleted.changed,
        lost: context.archives.lost(archive.tar_id),
        blocked: if deleted.blocked > 0 { deleted.blocked + failures.consequences } else { 0 },
    })
}

/// Names the rows that lead to the place of another row; gives the ids of those that are files.
fn record_collisions(context: &Context, archive: &Archive) -> Result<RangeSet> {
    let found = collisions(context, archive)?;
    let ids = found.iter().filter_map(|(id, _)| id.map(|id| id..id + 1)).collect();
    let failed = |(id, path): (Option<u64>, _)| FailedFile {
        id,
        path: format!("{path}"),
        reason: COLLIDES.to_string(),
    };
    archive.progress.replace_failures(COLLIDES, found.into_iter().map(failed).collect());
    Ok(ids)
}
