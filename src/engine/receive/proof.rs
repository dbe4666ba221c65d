//! The threads that prove files of more than one block, off the path of the blocks. What has arrived is hashed meanwhile, as far as
//! it has no gap, so that little is left to do when the last block comes.

use super::archive::{Archive, is_done};
use super::commit::lock;
use super::{Receiver, publish};
use crate::archive::digest::{Blake3, Blake3Hasher};
use crate::archive::entry::FileEntry;
use crate::error::{Error, Result};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, Weak, mpsc};

const PROVERS: usize = 2;
const READ_BYTES: usize = 256 << 10;
/// Files of which a begun hash is kept; beyond that it is begun anew.
const KEPT: usize = 256;

/// The hash of the first bytes of a file.
#[derive(Default)]
pub(super) struct Hashed {
    bytes: u64,
    hasher: Blake3Hasher,
}

impl Hashed {
    /// Whether it is of all bytes.
    pub(super) fn is_whole(&self, file: &FileEntry) -> bool {
        self.bytes == file.size
    }

    /// Whether it is what the index says.
    pub(super) fn proves(&self, file: &FileEntry) -> bool {
        let digest: Blake3 = self.hasher.finish();
        file.blake3 == Some(digest)
    }
}

/// Work for one of the threads: to hash what is there of a file, and to prove it if it is complete.
pub(super) struct Proof {
    archive: Arc<Archive>,
    id: u64,
}

impl Receiver {
    /// Has file `id` hashed on, and proven if it is complete.
    pub(super) fn prove_later(&self, archive: &Arc<Archive>, id: u64) {
        // Fails only when the provers have ended, and they end with the receiver.
        let _ = self.proofs.send(Proof { archive: archive.clone(), id });
    }
}

impl Proof {
    fn run(&self, receiver: &Receiver) {
        // Held from before the hash is taken until it is back: whoever keeps everybody out finds every hash in its place.
        let Ok(_entered) = self.archive.enter() else {
            // An index that was replaced meanwhile: nobody wants this file any more.
            self.archive.state().proving.remove(&self.id);
            self.archive.notify();
            return;
        };
        let mut hashed = self.archive.begin_hashing(self.id);
        let outcome = self.prove(receiver, &mut hashed);
        if let Err(e) = &outcome {
            tracing::warn!("file {} is not in place yet: {e}", self.id);
        }
        {
            let mut state = self.archive.state();
            let counts = !state.rehash.remove(&self.id);
            let kept = hashed.filter(|hashed| counts && hashed.bytes > 0 && state.hashed.len() < KEPT);
            if let Some(hashed) = kept {
                state.hashed.insert(self.id, hashed);
            }
            state.hashing.remove(&self.id);
            if outcome.unwrap_or(true) {
                state.proving.remove(&self.id);
            }
        }
        self.archive.notify();
    }

    /// True says that nobody need prove the file any more; false, that it is not complete, and another job will come.
    fn prove(&self, receiver: &Receiver, hashed: &mut Option<Hashed>) -> Result<bool> {
        // Looked up only now: the row may have been taken back since.
        let Some(file) = self.archive.file(self.id)? else {
            *hashed = None;
            return Ok(true);
        };
        // Where md5 is all that the index has, nothing is hashed before all is there.
        // The bytes of a scattered one may come twice, for the sake of another file.
        let by_blake3 =
            !file.scattered && (file.blake3.is_some() || self.archive.state().pending.contains(&self.id));
        let pieces = self.archive.pieces_of(&file)?;
        match hashed.as_mut().filter(|_| by_blake3) {
            Some(hashed) => hash_on(&self.archive, &file, hashed)?,
            None => *hashed = None,
        }
        // Whoever takes bytes back that this file shares says so under the same lock; from then on nobody writes to it, as it is being proven.
        let (wanted, complete) = {
            let state = self.archive.state();
            if state.rehash.contains(&self.id) {
                *hashed = None;
            }
            let there = is_done(&state.done, &pieces) && !state.pending.contains(&self.id);
            (state.proving.contains(&self.id), there)
        };
        if wanted && complete {
            // Its digests may have come while it was being hashed.
            if let Some(file) = self.archive.file(self.id)? {
                publish::prove(receiver, &self.archive, &file, hashed.take())?;
            }
        }
        // Wanted and not complete: it was taken back meanwhile.
        Ok(wanted)
    }
}

/// Hashes the bytes that are there behind those that were hashed. Nobody writes any of them again.
fn hash_on(archive: &Archive, file: &FileEntry, hashed: &mut Hashed) -> Result<()> {
    let Some(staged) = archive.staging.open(file.id)? else { return Ok(()) };
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let start = file.offset + hashed.bytes;
        let gap = archive.state().done.missing(start..file.range().end).next();
        let end = gap.map_or(file.range().end, |gap| gap.start);
        if end <= start {
            return Ok(());
        }
        let mut left = end - start;
        while left > 0 {
            let piece = &mut buffer[..left.min(READ_BYTES as u64) as usize];
            staged
                .read_exact_at(piece, hashed.bytes)
                .map_err(|e| Error::io(format!("cannot read back \"{}\"", file.path), e))?;
            hashed.hasher.update(piece);
            hashed.bytes += piece.len() as u64;
            left -= piece.len() as u64;
        }
    }
}

/// Starts the threads, which end with the receiver.
pub(super) fn start_provers(receiver: &Arc<Receiver>, work: mpsc::Receiver<Proof>) -> Result<()> {
    let work = Arc::new(Mutex::new(work));
    for _ in 0..PROVERS {
        let (work, receiver): (_, Weak<Receiver>) = (work.clone(), Arc::downgrade(receiver));
        let prover = move || {
            loop {
                let next = lock(&work).recv();
                let (Ok(proof), Some(receiver)) = (next, receiver.upgrade()) else { return };
                proof.run(&receiver);
            }
        };
        std::thread::Builder::new()
            .name("prover".into())
            .spawn(prover)
            .map_err(|e| Error::io("cannot start a thread", e))?;
    }
    Ok(())
}
