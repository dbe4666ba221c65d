//! Verification: whether the content of a complete file is what the index says. Threads verify
//! files of more than one block, off the path of the blocks; they hash meanwhile what has arrived
//! without a gap, so that little is left to do when the last block comes.

use super::super::archive::gate::Shared;
use super::super::archive::hashes::{Known, PartialHash, Stamp};
use super::super::archive::progress::hashing::{Hashing, Verifiable};
use super::super::archive::{Archive, Unpublished};
use super::super::context::{Context, VerifyTask};
use super::super::reason::reason;
use super::content::{NOT_AS_INDEXED, is_as_indexed};
use super::fence::permit;
use super::invalidate::{MAX_INVALIDATED_AT_ONCE, invalidate};
use super::others::{Leaf, refuse_conflict};
use super::publish::{publish_one, record_published};
use super::published::is_unmodified;
use crate::archive::entry::FileEntry;
use crate::error::{Error, Result};
use crate::sink::disk::FolderCache;
use parking_lot::Mutex;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Weak, mpsc};

const THREADS: usize = 2;
const READ_BYTES: usize = 256 << 10;

/// Starts the verifier threads, which end with the receiver.
///
/// # Errors
/// No thread can be started.
pub(crate) fn start(context: &Arc<Context>, tasks: mpsc::Receiver<VerifyTask>) -> Result<()> {
    let tasks = Arc::new(Mutex::new(tasks));
    for _ in 0..THREADS {
        let (tasks, context): (_, Weak<Context>) = (tasks.clone(), Arc::downgrade(context));
        let verifier = move || {
            loop {
                let next = tasks.lock().recv();
                let (Ok(task), Some(context)) = (next, context.upgrade()) else { return };
                run(&context, &task);
            }
        };
        std::thread::Builder::new().name("verifier".into()).spawn(verifier).map_err(Error::thread)?;
    }
    Ok(())
}

fn run(context: &Context, task: &VerifyTask) {
    match task {
        VerifyTask::File { archive, id } => verify_file(context, archive, *id),
        VerifyTask::Unpublished { archive, from } => queue_unpublished(context, archive, *from),
    }
}

/// Files that are queued at once by [`queue_unpublished`]: however many there are, no more wait.
const MAX_QUEUED: usize = 4096;

/// Queues the next files that were complete when an earlier process ended, or when their index
/// came. The next ones follow when a thread has come to these.
fn queue_unpublished(context: &Context, archive: &Arc<Archive>, mut from: Unpublished) {
    let mut queued = 0;
    let found = archive.lock_shared().and_then(|_shared| {
        archive.each_unpublished(from, |file| {
            from = Unpublished::behind(&file);
            archive.progress.queue(file.id);
            context.verify_later(archive, file.id);
            queued += 1;
            Ok(if queued < MAX_QUEUED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
    });
    match found.map_err(|e| context.judged(e)) {
        Ok(()) if queued >= MAX_QUEUED => return context.verify_unpublished_from(archive, from),
        Ok(()) => {}
        // `finish` verifies the files that no thread was asked to.
        Err(e) => tracing::warn!("files of archive {} are not in place yet: {e}", archive.tar_id),
    }
    archive.progress.end_queueing();
}

fn verify_file(context: &Context, archive: &Arc<Archive>, id: u64) {
    // Held from before the hash is taken until it is back: a thread that locks the gate alone finds
    // every hash in its place.
    let Ok(shared) = archive.lock_shared() else {
        archive.progress.unqueue(id);
        return;
    };
    let mut hashing = archive.progress.begin_hashing(id);
    match hash_on(context, archive, &shared, id, &mut hashing) {
        Ok(is_settled) => hashing.is_settled = is_settled,
        Err(e) => {
            tracing::warn!("file {id} is not in place yet: {e}");
            hashing.is_settled = true;
        }
    }
}

/// Hashes what is there of a file, and verifies it if it is queued and complete. True: it need not
/// be verified any more. False: it is not complete, and a later block queues it.
fn hash_on(
    context: &Context,
    archive: &Archive,
    shared: &Shared<'_>,
    id: u64,
    hashing: &mut Hashing<'_>,
) -> Result<bool> {
    // Looked up only now: its row may be another one since it was queued.
    let Some(file) = archive.file(id)? else {
        hashing.known = Known::Nothing;
        return Ok(true);
    };
    // Where md5 is all that the index has, nothing is hashed before all is there. Bytes of a
    // fragmented file may come twice, for the sake of another file.
    let is_hashed_on =
        !file.fragmented && (file.blake3.is_some() || archive.progress.is_awaiting_digests(id));
    let pieces = archive.pieces_of(&file)?;
    hashing.known = match std::mem::take(&mut hashing.known) {
        Known::Partial(hash) if is_hashed_on => Known::Partial(hash_staged(archive, &file, hash)?),
        Known::Nothing if is_hashed_on => Known::Partial(hash_staged(archive, &file, Box::default())?),
        Known::Partial(_) => Known::Nothing,
        other => other,
    };
    // A thread that invalidates bytes that this file shares says so under the same lock; from then
    // on no block writes to this file, as it is being verified.
    let verifiable = archive.progress.check_verifiable(hashing, &pieces);
    if verifiable == Verifiable::Now {
        // Its digests may have come while it was being hashed.
        if let Some(file) = archive.file(id)?
            && !verify_and_publish(context, archive, &file, &mut hashing.known)?
        {
            invalidate(context, archive, shared, &[file])?;
        }
    }
    Ok(verifiable != Verifiable::NotQueued)
}

/// Hashes the durable bytes behind those that were hashed. No block writes any of them again.
fn hash_staged(archive: &Archive, file: &FileEntry, mut hash: Box<PartialHash>) -> Result<Box<PartialHash>> {
    let Some(staged) = archive.staging.open(file.id)? else { return Ok(hash) };
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let start = file.offset + hash.bytes();
        let gap = archive.progress.missing(&(start..file.range().end)).iter().next();
        let end = gap.map_or(file.range().end, |gap| gap.start);
        if end <= start {
            return Ok(hash);
        }
        let mut left = end - start;
        while left > 0 {
            let piece = &mut buffer[..left.min(READ_BYTES as u64) as usize];
            staged
                .read_exact_at(piece, hash.bytes())
                .map_err(|e| Error::io(format!("cannot read back \"{}\"", file.path), e))?;
            hash.update(piece);
            left -= piece.len() as u64;
        }
    }
}

/// Verifies files all of whose bytes are durable and that have no name: a full disk or a folder in
/// the way prevented it.
///
/// # Errors
/// What is not the fault of one file.
pub(crate) fn publish_complete(context: &Context, archive: &Archive, shared: &Shared<'_>) -> Result<()> {
    let mut wrong = Vec::new();
    archive.each_unpublished(Unpublished::FIRST, |file| {
        if !verify_now(context, archive, &file)? {
            wrong.push(file);
        }
        if wrong.len() >= MAX_INVALIDATED_AT_ONCE {
            invalidate(context, archive, shared, &std::mem::take(&mut wrong))?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    invalidate(context, archive, shared, &wrong)
}

/// Verifies a file all of whose bytes are durable on this thread, and gives it its name; see
/// [`verify_and_publish`].
///
/// # Errors
/// What is not the fault of this file.
pub(crate) fn verify_now(context: &Context, archive: &Archive, file: &FileEntry) -> Result<bool> {
    let mut hashing = archive.progress.begin_hashing(file.id);
    hashing.is_settled = true;
    verify_and_publish(context, archive, file, &mut hashing.known)
}

/// Verifies a file all of whose bytes are durable, and gives it its name. False: it is not what the
/// index says, and is to be invalidated. A failure is recorded as the reason why the file is not
/// published; it stays durable, and the next `finish` tries again.
///
/// # Errors
/// The disk is full, or storage failed: no fault of this file.
fn verify_and_publish(
    context: &Context,
    archive: &Archive,
    file: &FileEntry,
    known: &mut Known,
) -> Result<bool> {
    match verify(context, archive, file, known) {
        Ok(Verdict::AsIndexed) => Ok(true),
        Ok(Verdict::Different) => {
            archive.progress.fail(file.id, &file.path, NOT_AS_INDEXED);
            Ok(false)
        }
        Ok(Verdict::Absent) => Ok(false),
        Err(e) => {
            let e = context.judged(e);
            if !e.kind().is_of_one_file() {
                return Err(e);
            }
            archive.progress.fail(file.id, &file.path, reason(&e));
            Ok(true)
        }
    }
}

/// What verifying a file has found.
enum Verdict {
    /// The file has the content that the index says, and its name.
    AsIndexed,
    /// The staged content is another one.
    Different,
    /// Nothing of the file is staged, and what has its name is something else: that tells nothing
    /// of the source.
    Absent,
}

fn verify(context: &Context, archive: &Archive, file: &FileEntry, known: &mut Known) -> Result<Verdict> {
    if let Some(staged) = archive.staging.open(file.id)? {
        let stamp = Stamp::of(&staged);
        let is_verified = matches!(known, Known::Verified(known) if Some(*known) == stamp);
        if !is_verified {
            if !is_staged_as_indexed(&staged, file, std::mem::take(known))? {
                return Ok(Verdict::Different);
            }
            archive.staging.apply_meta(&staged, file)?;
        }
        // If it cannot get its name, the next try need not read it again.
        *known = Stamp::of(&staged).map_or(Known::Nothing, Known::Verified);
        publish_one(context, archive, file, &mut FolderCache::default())?;
        *known = Known::Nothing;
        return Ok(Verdict::AsIndexed);
    }
    // A crash came between the rename, or a change of metadata, and the journal. One descriptor is
    // both verified and changed.
    let is_there = match context.sink.open_final(&file.path) {
        Ok(Some(named)) => {
            is_as_indexed(&named, file)? && {
                refuse_conflict(context, archive.tar_id, Leaf::File(file), &mut FolderCache::default())?;
                let _permit = permit(context, archive)?;
                context.sink.apply_opened_meta(&named, file)?;
                true
            }
        }
        Ok(None) => false,
        // Its own mode forbids the receiver to read it. Only what was verified ever gets a name:
        // its size and time must do.
        Err(_) => true,
    };
    let placing = context.archives.names.place();
    // Another archive may have deleted it while it was being read.
    if !is_there || !is_unmodified(&context.sink, file, &mut FolderCache::default())? {
        return Ok(Verdict::Absent);
    }
    record_published(context, archive, &std::iter::once(file.id..file.id + 1).collect(), &placing);
    Ok(Verdict::AsIndexed)
}

/// Whether a staged file has the content that the index says; `known` is what was known of it
/// before.
fn is_staged_as_indexed(staged: &File, file: &FileEntry, known: Known) -> Result<bool> {
    // A retained file may still have another name, or be open elsewhere: what was hashed of it
    // before may be other bytes now.
    let written = || staged.metadata().and_then(|metadata| metadata.modified()).ok();
    let before = written();
    let is_shared = staged.metadata().is_ok_and(|metadata| metadata.nlink() > 1);
    let is_right = match known {
        Known::Partial(hash) if !is_shared && hash.is_whole(file) => {
            staged.metadata().is_ok_and(|metadata| metadata.len() == file.size) && hash.verifies(file)
        }
        Known::Prefix(check) if !is_shared => check.verifies(staged, file)? || is_as_indexed(staged, file)?,
        _ => is_as_indexed(staged, file)?,
    };
    Ok(is_right && written() == before)
}
