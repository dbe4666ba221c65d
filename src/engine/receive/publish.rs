//! Final names: proof of what is staged, rename, and taking back what is not as the index says.

use super::Receiver;
use super::archive::Archive;
use super::proof::Hashed;
use crate::archive::digest::ProofHasher;
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::db::journal::Change;
use crate::error::{ErrorKind, Result};
use crate::sink::Expected;
use crate::sink::disk::{FolderCache, Staging};
use std::fs::File;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::MetadataExt;

/// Why a proof fails.
pub(super) const NOT_AS_INDEXED: &str =
    "its content is not what the index says: it changed after it was indexed";

const READ_BYTES: usize = 1 << 20;

/// Gives staged whole files, which are proven and synced, their names; `done` is told of each that has it.
///
/// # Errors
/// A full disk. Any other failure is about one file, and is kept as the reason why it is not published.
pub(super) fn publish_staged(
    receiver: &Receiver,
    archive: &Archive,
    files: Vec<FileEntry>,
    mut done: impl FnMut(&FileEntry),
) -> Result<()> {
    let mut cache = FolderCache::default();
    for file in files {
        match receiver.sink.publish(&archive.staging, &Staging::name(file.id), &file.path, &mut cache) {
            Ok(()) => done(&file),
            Err(e) if e.kind() == ErrorKind::NoSpace => return Err(e),
            Err(e) => {
                archive.staging.remove(file.id);
                archive.state().fail(file.id, &file.path, reason(&e));
            }
        }
    }
    Ok(())
}

pub(super) fn reason(error: &crate::error::Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}

/// Takes note that the files `ids` have their names.
pub(super) fn note_published(receiver: &Receiver, archive: &Archive, ids: &RangeSet) {
    {
        let mut state = archive.state();
        for range in ids.iter() {
            state.published.insert(range.clone());
            if !state.failed.is_empty() {
                state.failed.retain(|id, _| !range.contains(id));
            }
        }
    }
    receiver.counters.files_published.add(ids.covered());
    receiver.committer.renamed(ids.iter().map(|range| archive.record(Change::Published(range))));
}

/// Proves a file all of whose bytes are done, and gives it its name; takes its bytes back if it is not what the index says.
/// The caller has entered the archive. A failure is kept as the reason why the file is not published; it stays done, and the
/// next `finish` tries again.
///
/// # Errors
/// The disk is full, or storage failed: no reason against this file.
pub(super) fn prove(
    receiver: &Receiver,
    archive: &Archive,
    file: &FileEntry,
    hashed: Option<Hashed>,
) -> Result<()> {
    let outcome = match proven(receiver, archive, file, hashed) {
        Ok(true) => {
            let id = file.id;
            note_published(receiver, archive, &std::iter::once(id..id + 1).collect());
            Ok(())
        }
        Ok(false) => {
            archive.state().fail(file.id, &file.path, NOT_AS_INDEXED);
            take_back(receiver, archive, file)
        }
        Err(e) => Err(e),
    };
    match outcome {
        Err(e) if matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::Degraded) => Err(e),
        Err(e) => {
            archive.state().fail(file.id, &file.path, reason(&e));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn proven(receiver: &Receiver, archive: &Archive, file: &FileEntry, hashed: Option<Hashed>) -> Result<bool> {
    if let Some(staged) = archive.staging.open(file.id)? {
        // One that was kept may still have another name, or be open elsewhere: what was hashed of it before may be other bytes now.
        let written = |staged: &File| staged.metadata().and_then(|metadata| metadata.modified()).ok();
        let before = written(&staged);
        let is_shared = staged.metadata().is_ok_and(|metadata| metadata.nlink() > 1);
        let right = match hashed.filter(|hashed| !is_shared && hashed.is_whole(file)) {
            Some(hashed) => staged.metadata().is_ok_and(|m| m.len() == file.size) && hashed.proves(file),
            None => {
                let begun = archive.state().begun.remove(&file.id).filter(|_| !is_shared);
                begun.map_or(Ok(false), |begun| begun.proves(&staged, file))? || is_as_indexed(&staged, file)?
            }
        };
        if !right || written(&staged) != before {
            return Ok(false);
        }
        archive.staging.apply_meta(&staged, file)?;
        let name = Staging::name(file.id);
        receiver.sink.publish(&archive.staging, &name, &file.path, &mut FolderCache::default())?;
        return Ok(true);
    }
    // A crash came between the rename and the journal.
    match receiver.sink.open_final(&file.path) {
        Ok(Some(named)) => {
            // Or between a change of metadata and the journal.
            Ok(is_as_indexed(&named, file)?
                && receiver.sink.apply_file_meta(file, None, &mut FolderCache::default())?)
        }
        Ok(None) => Ok(false),
        // Its own mode forbids us to read it. Only what was proven ever gets a name: its size and time must do.
        Err(_) => stands(receiver, file, &mut FolderCache::default()),
    }
}

/// Whether a regular file of the right size and time has the final name.
pub(super) fn stands(receiver: &Receiver, file: &FileEntry, cache: &mut FolderCache) -> Result<bool> {
    let expected = Expected::of(file);
    Ok(receiver.sink.stat(&file.path, cache)?.is_some_and(|stat| expected.is(&stat)))
}

/// Whether an open file has the content that the index says.
pub(super) fn is_as_indexed(content: &File, file: &FileEntry) -> Result<bool> {
    let read = || -> std::io::Result<bool> {
        let meta = content.metadata()?;
        if !meta.is_file() || meta.len() != file.size {
            return Ok(false);
        }
        let mut proof = ProofHasher::of(file);
        let mut buffer = vec![0; READ_BYTES.min(file.size as usize + 1)];
        let mut reader = content;
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(proof.proven()),
                n => proof.update(&buffer[..n]),
            }
        }
    };
    read().map_err(|e| crate::error::Error::io(format!("cannot read back \"{}\"", file.path), e))
}

/// Asks for all bytes of `file` again. Nobody may be writing any of them meanwhile.
pub(super) fn take_back(receiver: &Receiver, archive: &Archive, file: &FileEntry) -> Result<()> {
    let pieces = archive.pieces_of(file)?;
    let sharers = sharers(archive, file, &pieces)?;
    let (start, end) = (pieces.iter().map(|p| p.start).min(), pieces.iter().map(|p| p.end).max());
    let _claim = archive.claim(start.unwrap_or(0)..end.unwrap_or(0));
    archive.staging.remove(file.id);
    let ids = file.id..file.id + 1;
    let mut gone: Vec<_> = pieces.iter().map(|piece| (piece.clone(), 0..0)).collect();
    gone.push((0..0, ids));
    receiver.committer.rewrite(|journal| journal.forget(archive.tar_id, &gone))?;
    let mut state = archive.state();
    for id in sharers {
        state.hashed.remove(&id);
        if state.hashing.contains(&id) {
            state.rehash.insert(id);
        }
    }
    pieces.iter().for_each(|piece| state.done.remove(piece.clone()));
    state.published.remove(file.id..file.id + 1);
    state.hashed.remove(&file.id);
    // Their bytes may come again, too.
    state.begun.clear();
    state.finished = false;
    Ok(())
}

/// The natural files that have bytes in common with a scattered one: what is hashed of them may be written again.
fn sharers(archive: &Archive, file: &FileEntry, pieces: &[Range<u64>]) -> Result<Vec<u64>> {
    let mut sharers = Vec::new();
    if !file.scattered {
        return Ok(sharers);
    }
    for piece in pieces {
        archive.with_index(|index| {
            index.files_in(piece.clone(), |other| {
                if !other.scattered && sharers.last() != Some(&other.id) {
                    sharers.push(other.id);
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
    }
    Ok(sharers)
}
