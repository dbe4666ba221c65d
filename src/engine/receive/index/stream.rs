//! An index that arrives while its source is still being read, batch by batch; see
//! [`crate::archive::log`].

use super::super::archive::Archive;
use super::super::archive::gate::Exclusive;
use super::super::archive::log::OpenLog;
use super::super::archive::progress::IndexHead;
use super::super::context::Context;
use super::super::open;
use super::super::reuse::Reusable;
use super::super::state_files::remove_index;
use super::replace::{Replacement, bind, restart_in_place};
use crate::archive::log::{self, LogDigest, first_digest, next_digest};
use crate::archive::protocol::LogAnswer;
use crate::archive::ranges::RangeSet;
use crate::archive::source::SourceClaim;
use crate::db::generation::add_tombstones;
use crate::db::growing::{Appended, Differences, GrowingIndex};
use crate::error::{Error, ErrorKind, Result};
use std::ops::Range;
use std::sync::Arc;

/// Adds a batch to the index of `tar_id`. `stream` names the sender's run, and `before` the prefix
/// of its log that the batch follows; the first batch of a stream makes it the active one. The same
/// batch again changes nothing.
///
/// # Errors
/// [`ErrorKind::WrongIndex`]: another stream or another prefix is active. [`ErrorKind::BadIndex`]:
/// the batch is refused.
pub(crate) fn append(
    context: &Context,
    tar_id: u64,
    stream: &LogDigest,
    before: &LogDigest,
    batch: &[u8],
    claim: &SourceClaim,
) -> Result<LogAnswer> {
    context.committer.check()?;
    if let Some(e) = log::records(batch).find_map(std::result::Result::err) {
        return Err(Error::new(ErrorKind::BadIndex, "the log of the index is refused").with_source(e));
    }
    let after = next_digest(before, batch);
    let mark = context.committer.mark();
    let transition = context.archives.transition(tar_id);
    let mut log = transition.lock();
    context.archives.check_source(tar_id, claim)?;
    let archive = archive_of(context, &mut log, tar_id, (stream, before), claim)?;
    let growing = log.open(archive.generation, &archive.index_path, context.options.max_index_bytes)?;
    let growing = growing.filter(|growing| growing.stream() == stream).ok_or_else(|| other_stream(tar_id))?;
    context.caches.use_log(&transition);
    if growing.head().digest != *before {
        // Sent again because the answer was lost, or because something failed after the batch was
        // stored.
        let Some(range) = growing.appended(&after)? else { return Err(lost_end(tar_id)) };
        archive.progress.set_head(open::head_of(growing)?);
        archive.progress.set_awaiting_digests(growing.pending()?);
        return Ok(answer(&archive, &after, &range));
    }
    let appended = growing.append(batch, after, |found| forget_differences(context, &archive, found))?;
    let (files, total_bytes) = growing.stored()?;
    let (digest, sealed) = appended.end.as_ref().map_or((after, false), |end| (end.digest, true));
    archive.progress.set_head(IndexHead { digest, files, total_bytes, sealed });
    // Before the next batch: it may bring the digests of a file that this one has brought.
    record_digests(context, &archive, &appended)?;
    if let Some(end) = &appended.end {
        log.close();
        // The journal's next record must not be about an index that a power loss can take away.
        archive.check_index_is_stored(&context.committer, mark)?;
        context.committer.sync(mark)?;
        tracing::info!(
            "archive {tar_id}: index {} with {} files, {} bytes",
            end.digest,
            end.files,
            end.total_bytes
        );
    }
    Ok(answer(&archive, &after, &appended.range))
}

/// The archive that has `stream` as its log, which begins now if `before` is its start.
fn archive_of(
    context: &Context,
    log: &mut OpenLog,
    tar_id: u64,
    (stream, before): (&LogDigest, &LogDigest),
    claim: &SourceClaim,
) -> Result<Arc<Archive>> {
    let previous = open::find(context, tar_id)?;
    if let Some(archive) = previous.as_ref().filter(|archive| archive.progress.stream() == Some(*stream)) {
        return Ok(archive.clone());
    }
    if *before != first_digest(stream) {
        return Err(other_stream(tar_id));
    }
    match previous {
        // Rows of an index with generations cannot be compared with those of a stream one by one.
        Some(archive) if !archive.with_index(|index| Ok(index.is_fragmented()))? => {
            bind(context, tar_id, claim)?;
            restart_in_place(context, log, &archive, stream)?;
            Ok(archive)
        }
        previous => begin(context, log, (tar_id, *stream), previous.as_ref(), claim),
    }
}

/// Begins a new index as `stream`, which remembers what `previous` has put in place.
fn begin(
    context: &Context,
    log: &mut OpenLog,
    (tar_id, stream): (u64, LogDigest),
    previous: Option<&Arc<Archive>>,
    claim: &SourceClaim,
) -> Result<Arc<Archive>> {
    let mark = context.committer.mark();
    let mut replacement = Replacement::begin(context, log, (tar_id, stream), previous, mark, claim)?;
    replacement.close_previous()?;
    replacement.write(|path| {
        remove_index(path);
        drop(GrowingIndex::create(path, &stream, context.options.max_index_bytes)?);
        match previous {
            None => Ok(()),
            Some(previous) => {
                let placed = previous.progress.placed();
                add_tombstones(path, &previous.index_path, &placed, &RangeSet::default())
            }
        }
    })?;
    let archive = replacement.commit(Reusable::new(&context.incoming_path()))?;
    tracing::info!("archive {tar_id}: a new index begins as {stream}");
    Ok(archive)
}

/// Forgets what was received for rows that are different now. No thread writes for the archive as
/// long as the result lives.
fn forget_differences<'a>(
    context: &Context,
    archive: &'a Archive,
    found: &Differences,
) -> Result<Option<Exclusive<'a>>> {
    if found.files_from.is_none() && found.files.is_empty() {
        return Ok(None);
    }
    let exclusive = archive.lock_exclusive()?;
    // The journal must not hear later of names that were given before.
    context.committer.flush(context.committer.mark())?;
    let end = archive.progress.head();
    let mut bytes: RangeSet = found.files.values().cloned().collect();
    let mut ids: RangeSet = found.files.keys().map(|id| *id..id + 1).collect();
    if let Some((first, offset)) = found.files_from {
        bytes.insert(offset..end.total_bytes.max(offset));
        ids.insert(first..end.files.max(first));
    }
    let unpublished = archive.progress.forget_rows(&context.committer, &bytes, &ids, &exclusive)?;
    unpublished.iter().flatten().for_each(|id| archive.staging.remove(id));
    Ok(Some(exclusive))
}

/// Has files verified whose digests have come and whose content is durable already.
fn record_digests(context: &Context, archive: &Arc<Archive>, appended: &Appended) -> Result<()> {
    archive.progress.await_digests(&appended.pending);
    for &id in &appended.digested {
        archive.progress.has_digests(id);
        let Some(file) = archive.file(id)? else { continue };
        if archive.progress.queue_if_durable(&file) {
            context.verify_later(archive, id);
        }
    }
    Ok(())
}

fn answer(archive: &Archive, after: &LogDigest, range: &Range<u64>) -> LogAnswer {
    let (digest, sealed) = (after.to_string(), archive.progress.head().sealed);
    LogAnswer { digest, sealed, held: archive.progress.held(range) }
}

/// Batches are not synced one by one: a power loss takes the last ones, until a block is answered.
fn lost_end(tar_id: u64) -> Error {
    let what = format!(
        "the receiver does not have the index of archive {tar_id} up to here; it was restarted, perhaps"
    );
    Error::new(ErrorKind::WrongIndex, what).with_hint("run the same command again: it goes on where it was")
}

fn other_stream(tar_id: u64) -> Error {
    Error::new(
        ErrorKind::WrongIndex,
        format!("another sender has put another index in place for archive {tar_id}"),
    )
    .with_hint("let only one sync at a time use the same archive number, or give --tar-id")
}
