//! What is known of the content of files that are staged and not published: one state for each
//! file.

use crate::archive::chunk_map::ResumedBlake3;
use crate::archive::digest::{Blake3, Blake3Hasher};
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

const READ_BYTES: usize = 1 << 20;
/// Files of which the hash of the first bytes is remembered; the others are read again.
const MAX_PARTIAL: usize = 256;
/// Files that were verified and could not get their names, as far as they are remembered.
const MAX_VERIFIED: usize = 1 << 16;

/// The hash of the first bytes of a contiguous file.
#[derive(Default)]
pub(crate) struct PartialHash {
    bytes: u64,
    hasher: Blake3Hasher,
}

impl PartialHash {
    /// How many bytes it is of.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the bytes that follow.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Whether it is of all bytes of `file`.
    pub(crate) fn is_whole(&self, file: &FileEntry) -> bool {
        self.bytes == file.size
    }

    /// Whether it is the digest that the index has.
    pub(crate) fn verifies(&self, file: &FileEntry) -> bool {
        let digest: Blake3 = self.hasher.finish();
        file.blake3 == Some(digest)
    }
}

/// How a resumed file is verified: its prefix was verified under another id, and BLAKE3 continues
/// behind it.
pub(crate) struct PrefixCheck {
    continued: ResumedBlake3,
    prefix_bytes: u64,
}

impl PrefixCheck {
    /// For a staged file whose first `prefix_bytes` bytes are what `continued` is of.
    pub(crate) fn new(continued: ResumedBlake3, prefix_bytes: u64) -> Self {
        Self { continued, prefix_bytes }
    }

    /// So many bytes at the start of the file are staged.
    pub(crate) fn prefix_bytes(&self) -> u64 {
        self.prefix_bytes
    }

    /// Whether the staged file, all of which is there, is what the index says. If it is not, the
    /// whole content may be right all the same: the sender may have been wrong about the prefix.
    ///
    /// # Errors
    /// The staged file cannot be read.
    pub(crate) fn verifies(self, staged: &File, file: &FileEntry) -> Result<bool> {
        let Self { mut continued, .. } = self;
        let mut buffer = vec![0; READ_BYTES];
        let mut at = continued.start();
        let mut hash = || -> std::io::Result<bool> {
            if staged.metadata()?.len() != file.size {
                return Ok(false);
            }
            while at < file.size {
                let piece = &mut buffer[..(file.size - at).min(READ_BYTES as u64) as usize];
                staged.read_exact_at(piece, at)?;
                continued.update(piece);
                at += piece.len() as u64;
            }
            Ok(file.blake3.is_some() && continued.finish() == file.blake3)
        };
        hash().map_err(|e| Error::io(format!("cannot read back \"{}\"", file.path), e))
    }
}

/// A staged file at the time it was verified: a write to it changes its stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    ino: u64,
    bytes: u64,
    ctime: (i64, i64),
}

impl Stamp {
    /// `None` if the file has further names, by which other programs may write to it.
    pub(crate) fn of(staged: &File) -> Option<Self> {
        let metadata = staged.metadata().ok().filter(|metadata| metadata.nlink() == 1)?;
        let ctime = (metadata.ctime(), metadata.ctime_nsec());
        Some(Self { ino: metadata.ino(), bytes: metadata.len(), ctime })
    }
}

/// What is known of a file's content.
#[derive(Default)]
pub(crate) enum Known {
    /// Nothing: all of it has to be read.
    #[default]
    Nothing,
    /// The hash of its first bytes.
    Partial(Box<PartialHash>),
    /// Its prefix is that of another file, which was verified.
    Prefix(Box<PrefixCheck>),
    /// The staged file with this stamp is what the index says, and could not get its name.
    Verified(Stamp),
}

/// The state of one file.
enum HashState {
    /// No thread hashes the file, and none was asked to.
    Idle(Known),
    /// The file waits for a thread to verify it.
    Queued(Known),
    /// A thread hashes the file, and has what is known of it.
    Hashing {
        /// The file is to be verified, by this thread or by one that waits for it.
        verify: bool,
        /// Bytes of the file may be written again for the sake of another file: what the thread
        /// knows does not count.
        is_stale: bool,
    },
}

/// The states of all files; one that is not here is idle, and nothing is known of it.
#[derive(Default)]
pub(crate) struct Hashes {
    files: BTreeMap<u64, HashState>,
    /// Files that are queued or being hashed, and threads that look for files to queue.
    busy: usize,
    partial: usize,
    verified: usize,
}

impl HashState {
    fn is_busy(&self) -> bool {
        !matches!(self, Self::Idle(_))
    }

    fn known(&self) -> Option<&Known> {
        match self {
            Self::Idle(known) | Self::Queued(known) => Some(known),
            Self::Hashing { .. } => None,
        }
    }
}

impl Hashes {
    fn count(&mut self, state: &HashState, by: impl Fn(usize) -> usize) {
        if state.is_busy() {
            self.busy = by(self.busy);
        }
        match state.known() {
            Some(Known::Partial(_)) => self.partial = by(self.partial),
            Some(Known::Verified(_)) => self.verified = by(self.verified),
            _ => {}
        }
    }

    fn take(&mut self, id: u64) -> HashState {
        let state = self.files.remove(&id);
        if let Some(state) = &state {
            self.count(state, |count| count - 1);
        }
        state.unwrap_or(HashState::Idle(Known::Nothing))
    }

    fn put(&mut self, id: u64, state: HashState) {
        if matches!(state, HashState::Idle(Known::Nothing)) {
            return;
        }
        self.count(&state, |count| count + 1);
        self.files.insert(id, state);
    }

    /// Queues a file for verification; false if it is queued already.
    pub(crate) fn queue(&mut self, id: u64) -> bool {
        if self.is_queued(id) {
            return false;
        }
        let state = match self.take(id) {
            HashState::Idle(known) | HashState::Queued(known) => HashState::Queued(known),
            HashState::Hashing { is_stale, .. } => HashState::Hashing { verify: true, is_stale },
        };
        self.put(id, state);
        true
    }

    /// Whether a file waits for its verification, or is being verified.
    pub(crate) fn is_queued(&self, id: u64) -> bool {
        matches!(self.files.get(&id), Some(HashState::Queued(_) | HashState::Hashing { verify: true, .. }))
    }

    /// A file is not to be verified any more.
    pub(crate) fn unqueue(&mut self, id: u64) {
        let state = match self.take(id) {
            HashState::Queued(known) => HashState::Idle(known),
            HashState::Hashing { is_stale, .. } => HashState::Hashing { verify: false, is_stale },
            idle => idle,
        };
        self.put(id, state);
    }

    /// Whether a thread hashes the file.
    pub(crate) fn is_hashing(&self, id: u64) -> bool {
        matches!(self.files.get(&id), Some(HashState::Hashing { .. }))
    }

    /// Whether what a thread that hashes the file knows of it counts no more.
    pub(crate) fn is_stale(&self, id: u64) -> bool {
        matches!(self.files.get(&id), Some(HashState::Hashing { is_stale: true, .. }))
    }

    /// A thread begins to look for files to queue.
    pub(crate) fn begin_queueing(&mut self) {
        self.busy += 1;
    }

    /// The thread has found all of them.
    pub(crate) fn end_queueing(&mut self) {
        self.busy -= 1;
    }

    /// Whether no file is queued or being hashed, and none is about to be queued.
    pub(crate) fn are_idle(&self) -> bool {
        self.busy == 0
    }

    /// Gives a thread what is known of a file that no other thread hashes.
    pub(crate) fn begin(&mut self, id: u64) -> Known {
        let (known, verify) = match self.take(id) {
            HashState::Idle(known) => (known, false),
            HashState::Queued(known) => (known, true),
            HashState::Hashing { verify, .. } => (Known::Nothing, verify),
        };
        self.put(id, HashState::Hashing { verify, is_stale: false });
        known
    }

    /// The thread is done, and knows `known`. With `is_settled` the file need not be verified any
    /// more; otherwise it waits on if it was queued meanwhile.
    pub(crate) fn end(&mut self, id: u64, known: Known, is_settled: bool) {
        let HashState::Hashing { verify, is_stale } = self.take(id) else { return };
        let known = match known {
            _ if is_stale => Known::Nothing,
            Known::Partial(hash) if hash.bytes() == 0 || self.partial >= MAX_PARTIAL => Known::Nothing,
            Known::Verified(_) if self.verified >= MAX_VERIFIED => Known::Nothing,
            known => known,
        };
        let state = if verify && !is_settled { HashState::Queued(known) } else { HashState::Idle(known) };
        self.put(id, state);
    }

    /// The file's prefix is staged, and no thread has seen it yet.
    pub(crate) fn resume(&mut self, id: u64, check: PrefixCheck) {
        self.put(id, HashState::Idle(Known::Prefix(Box::new(check))));
    }

    /// What is known of the files `ids` does not count any more.
    pub(crate) fn forget(&mut self, ids: &RangeSet) {
        self.forget_where(|id, _| ids.contains(id..id + 1));
    }

    /// Bytes of some files may be written again. What is known of `ids` does not count any more,
    /// nor that any file has its prefix: its bytes may be among them.
    pub(crate) fn invalidate(&mut self, ids: &RangeSet) {
        self.forget_where(|id, known| {
            ids.contains(id..id + 1) || matches!(known, Some(Known::Prefix(_)) | None)
        });
    }

    /// What a thread has in its hands is unknown here.
    fn forget_where(&mut self, is_lost: impl Fn(u64, Option<&Known>) -> bool) {
        let lost = |(id, state): (&u64, &HashState)| is_lost(*id, state.known()).then_some(*id);
        let lost: Vec<u64> = self.files.iter().filter_map(lost).collect();
        for id in lost {
            let state = match self.take(id) {
                HashState::Idle(_) => HashState::Idle(Known::Nothing),
                HashState::Queued(_) => HashState::Queued(Known::Nothing),
                HashState::Hashing { verify, .. } => HashState::Hashing { verify, is_stale: true },
            };
            self.put(id, state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u64>) -> RangeSet {
        std::iter::once(range).collect()
    }

    fn partial() -> Known {
        let mut hash = PartialHash::default();
        hash.update(b"abc");
        Known::Partial(Box::new(hash))
    }

    #[test]
    fn a_file_is_queued_once_until_it_is_verified() {
        let mut hashes = Hashes::default();
        assert!(hashes.queue(1) && !hashes.queue(1) && !hashes.are_idle());
        assert!(matches!(hashes.begin(1), Known::Nothing));
        assert!(hashes.is_hashing(1) && hashes.is_queued(1) && !hashes.queue(1));
        hashes.end(1, Known::Nothing, true);
        assert!(hashes.are_idle() && hashes.files.is_empty());
    }

    #[test]
    fn a_file_that_is_queued_while_it_is_hashed_waits_on_with_what_is_known() {
        let mut hashes = Hashes::default();
        hashes.begin(1);
        assert!(hashes.queue(1));
        hashes.end(1, partial(), false);
        assert!(hashes.is_queued(1) && !hashes.is_hashing(1));
        assert!(matches!(hashes.begin(1), Known::Partial(_)));
    }

    #[test]
    fn what_a_thread_knows_of_bytes_that_may_be_written_again_is_dropped() {
        let mut hashes = Hashes::default();
        hashes.begin(1);
        hashes.begin(2);
        hashes.end(2, partial(), true);
        hashes.invalidate(&ids(2..3));
        assert!(hashes.is_stale(1) && matches!(hashes.begin(2), Known::Nothing));
        hashes.end(1, partial(), true);
        assert!(matches!(hashes.begin(1), Known::Nothing));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut hashes = Hashes::default();
        for id in 0..MAX_PARTIAL as u64 + 1 {
            hashes.begin(id);
            hashes.end(id, partial(), true);
        }
        assert_eq!((hashes.files.len(), hashes.partial), (MAX_PARTIAL, MAX_PARTIAL));
        hashes.forget(&ids(0..10_000));
        assert_eq!((hashes.files.len(), hashes.partial, hashes.busy), (0, 0, 0));
    }
}
