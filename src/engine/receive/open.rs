//! Opening the archives that the journal has: an archive is served once its index was read and its
//! rows are what its digest says.
//!
//! An index that cannot be read now may be read later: until then the archive is not served, every
//! request for it is answered with 503, and the next one tries again. Only an index that was read
//! and is damaged is given up: then the sender puts it again, and hears what was lost.
//!
//! Rows tell nothing of pages that hold none of them. Such damage shows when the page is needed:
//! then all pages of all indexes are read, and what is damaged is given up as at the start.

use super::archive::progress::{IndexHead, OpenedIndex, Owned, Progress};
use super::archive::{Archive, Unpublished};
use super::context::{Context, WatchRequest};
use super::files::fence;
use super::retention;
use super::state_files::{active_index_name, staging_name};
use crate::archive::digest::IndexDigest;
use crate::archive::ranges::RangeSet;
use crate::db::growing::GrowingIndex;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::is_damage;
use crate::db::journal::ArchiveState;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Sink;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of larger indexes are checked while the receiver serves other archives, in bytes as a
/// SQLite file.
const MAX_BYTES_CHECKED_AT_START: u64 = 256 << 20;

/// The archive of this number, which is opened if it is not; `None` if there is none.
///
/// # Errors
/// [`ErrorKind::Busy`]: there is one, and its index cannot be read now.
pub(crate) fn find(context: &Context, tar_id: u64) -> Result<Option<Arc<Archive>>> {
    if let Some(archive) = context.archives.get(tar_id) {
        return Ok(Some(archive));
    }
    if let Some(state) = context.archives.begin_opening(tar_id) {
        verify_all(context, try_open(context, state));
    }
    context.archives.check_readable(tar_id)?;
    Ok(context.archives.get(tar_id))
}

/// The same for an archive that has to be there.
///
/// # Errors
/// [`ErrorKind::NotFound`]: there is none. Or as [`find`].
pub(crate) fn get(context: &Context, tar_id: u64) -> Result<Arc<Archive>> {
    find(context, tar_id)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no index for archive {tar_id}"))
            .with_hint("put the index first: PUT …/{tar_id}/db")
    })
}

/// Opens all archives of the journal; what takes long goes on in a thread.
///
/// # Errors
/// No thread can be started, or the folder cannot be written to.
pub(crate) fn open_all(context: &Arc<Context>, states: Vec<ArchiveState>) -> Result<()> {
    let (mut later, mut opened) = (Vec::new(), Vec::new());
    let known: Vec<u64> = states.iter().map(|state| state.tar_id).collect();
    fence::forget_but(context, &known)?;
    for state in states {
        context.archives.add_unserved(state.clone());
        let path = path_of(context, &state);
        match std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_BYTES_CHECKED_AT_START) {
            true => later.push(state),
            false => opened.extend(try_open(context, state)),
        }
    }
    if later.is_empty() {
        verify_all(context, opened);
        return Ok(());
    }
    let context = context.clone();
    let work = move || {
        opened.extend(later.into_iter().filter_map(|state| try_open(&context, state)));
        verify_all(&context, opened);
    };
    let spawned = std::thread::Builder::new().name("check".into()).spawn(work);
    spawned.map(drop).map_err(Error::thread)
}

/// Verifies what of opened archives is here and has no name yet. Not before all archives are open:
/// such a file may wait because another archive has put something else at its path.
fn verify_all(context: &Context, opened: impl IntoIterator<Item = Arc<Archive>>) {
    opened.into_iter().for_each(|archive| context.verify_unpublished_from(&archive, Unpublished::FIRST));
}

fn path_of(context: &Context, state: &ArchiveState) -> PathBuf {
    context.sink.records_path().join("archives").join(active_index_name(state))
}

/// Opens an archive that this thread has been given to open. Those who wait for verifiers wait until
/// the archive is handed to [`verify_all`].
fn try_open(context: &Context, state: ArchiveState) -> Option<Arc<Archive>> {
    let tar_id = state.tar_id;
    match open(context, state) {
        Ok(archive) => {
            context.archives.opened(tar_id);
            return Some(archive);
        }
        Err(e) if is_damage(&e) => context.archives.give_up(tar_id, loss_of(context, tar_id, &e)),
        Err(e) => {
            let reason = context.text_of(&e);
            tracing::error!("archive {tar_id} is not served until its index can be read: {reason}");
            context.archives.not_opened(tar_id, reason);
        }
    }
    None
}

fn open(context: &Context, state: ArchiveState) -> Result<Arc<Archive>> {
    let tar_id = state.tar_id;
    let path = path_of(context, &state);
    let is_gone = std::fs::symlink_metadata(&path)
        .map_or_else(|e| e.kind() == std::io::ErrorKind::NotFound, |meta| meta.len() == 0);
    if is_gone {
        return Err(Error::new(ErrorKind::BadIndex, format!("{} is gone, or empty", path.display())));
    }
    let archive = load(context, state)?;
    if archive.is_whole {
        // A crash may have come between making the index active and this.
        retention::prune_all(&context.sink, tar_id);
    }
    if archive.progress.head().sealed {
        IndexReader::open(&path)?.check_rows()?;
    }
    let (head, is_finalized) = (archive.progress.head(), archive.progress.is_finalized());
    archive.progress.set_unrecorded_names(!is_finalized);
    fence::lower(context, tar_id, head.sealed.then_some(&head.digest))?;
    archive.progress.begin_queueing();
    context.archives.serve(archive.clone());
    // A legacy sender puts its index once, and never says that it is done.
    if context.options.legacy && head.sealed && !is_finalized {
        // Fails only when the watching thread has ended, and it ends with the receiver.
        let _ = context.watch.send(WatchRequest::FinishLegacy(tar_id));
    }
    Ok(archive)
}

/// The archive of `state`, with its index opened once.
///
/// # Errors
/// The index cannot be read, or is another one than its name says.
pub(crate) fn load(context: &Context, mut state: ArchiveState) -> Result<Arc<Archive>> {
    let path = path_of(context, &state);
    let log = GrowingIndex::open(&path, context.options.max_index_bytes)?;
    let (head, awaiting_digests, is_whole) = match &log {
        Some(log) => (head_of(log)?, log.pending()?.into_iter().collect(), true),
        None => {
            let (head, generation) = sealed_head(&path, &state.digest)?;
            (head, BTreeSet::new(), generation == 1)
        }
    };
    let stream = log.as_ref().map(|log| *log.stream());
    // Opened again when more of the log comes.
    drop(log);
    let staging = context.sink.staging(&staging_name(state.tar_id, state.generation))?;
    let reader = IndexReader::open_growing(&path)?;
    let reverted_generation = reader.reverted_generation()?;
    let owned = owned_of(context, &reader, &mut state.done)?;
    drop(reader);
    let key = (state.tar_id, state.generation);
    let index = OpenedIndex { head, stream, awaiting_digests, reverted_generation, owned };
    let progress = Progress::new(state, index, context.committer.mark());
    Ok(Arc::new(Archive::new(key, path, staging, progress, is_whole, context.caches.clone())))
}

/// What of `index` is for this receiver to take in, if that is one of several.
///
/// # Errors
/// The index cannot be read.
fn owned_of(context: &Context, index: &IndexReader, durable: &mut RangeSet) -> Result<Option<Owned>> {
    let Some(options) = context.options.slice else { return Ok(None) };
    let bytes = index.owned_bytes(&options.stripes(), options.slice.number())?;
    let alone = context.hands_over();
    if !alone {
        forget_parts(index, &bytes, durable)?;
    }
    Ok(Some(Owned { bytes, alone }))
}

/// Forgets what is here of files that other receivers take in, as far as it is not all: they take
/// in whole files. So it is when there were fewer receivers, or none but this one.
fn forget_parts(index: &IndexReader, owned: &RangeSet, durable: &mut RangeSet) -> Result<()> {
    let borders: Vec<u64> = durable.iter().flat_map(|range| [range.start, range.end]).collect();
    for border in borders {
        index.files_in(border..border.saturating_add(1), |file| {
            let is_cut = !file.fragmented && file.offset < border;
            if is_cut && !owned.contains(file.range()) {
                durable.remove(file.range());
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(())
}

/// What a log comes to: all rows that are there, also those that its stream has not come to again.
///
/// # Errors
/// The index cannot be read.
pub(crate) fn head_of(log: &GrowingIndex) -> Result<IndexHead> {
    let (files, total_bytes) = log.stored()?;
    let sealed = log.sealed()?;
    Ok(IndexHead {
        digest: sealed.unwrap_or(log.head().digest),
        files,
        total_bytes,
        sealed: sealed.is_some(),
    })
}

/// What an index comes to that came as a whole or by a change, and the generation that it says: a
/// whole index says 1.
fn sealed_head(path: &Path, name: &IndexDigest) -> Result<(IndexHead, u64)> {
    let Summary { digest, files, total_bytes, generation, .. } = IndexReader::open(path)?.summary()?;
    if digest != *name {
        return Err(Error::new(
            ErrorKind::BadIndex,
            format!("{} is another index than its name says", path.display()),
        ));
    }
    Ok((IndexHead { digest, files, total_bytes, sealed: true }, generation))
}

/// What is lost with the index of archive `tar_id`, which is damaged; for its sender.
pub(crate) fn loss_of(context: &Context, tar_id: u64, damage: &Error) -> String {
    let what = format!(
        "the receiver's index of archive {tar_id} was damaged and is given up: {}",
        context.text_of(damage)
    );
    tracing::error!("{what}; its sender puts it again, and all is sent again");
    format!(
        "{what}; all was sent again, and what earlier runs have put there and the source has no more is not known to --delete: \
         delete it by hand, or with --adopt --delete"
    )
}
