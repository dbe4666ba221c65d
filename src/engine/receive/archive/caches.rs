//! What of all archives together is open, and in memory: an archive that is not used costs next to
//! nothing.

use super::log::Transition;
use super::progress::Pieces;
use crate::db::index_read::IndexReader;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// Readers of indexes that wait to be used again; each has a few MB, and some descriptors.
const MAX_READERS: usize = 8;
/// Logs that are open. A closed log is opened when it is needed.
const MAX_LOGS: usize = 4;
/// Pieces of fragmented files in memory.
const MAX_PIECES: usize = 1 << 18;

/// An archive's number, and that of its index: never used twice.
pub(crate) type Key = (u64, u64);

/// Shared by all archives; in each list, what was used last is at the end.
#[derive(Default)]
pub(crate) struct Caches {
    readers: Mutex<VecDeque<(Key, IndexReader)>>,
    /// Where the content of a file is, by index and file.
    pieces: Mutex<VecDeque<(Key, u64, Pieces)>>,
    logs: Mutex<VecDeque<Weak<Transition>>>,
}

impl Caches {
    /// A reader of this index, if one is cached.
    pub(crate) fn take_reader(&self, key: Key) -> Option<IndexReader> {
        let mut readers = self.readers.lock();
        let at = readers.iter().rposition(|(of, _)| *of == key)?;
        readers.remove(at).map(|(_, reader)| reader)
    }

    /// Caches a reader for the next thread that needs one.
    pub(crate) fn put_reader(&self, key: Key, reader: IndexReader) {
        let mut readers = self.readers.lock();
        readers.push_back((key, reader));
        let oldest = if readers.len() > MAX_READERS { readers.pop_front() } else { None };
        // Closing takes time: not under the lock.
        drop(readers);
        drop(oldest);
    }

    /// Where the content of file `id` is, if that was asked for lately.
    pub(crate) fn pieces(&self, key: Key, id: u64) -> Option<Pieces> {
        let pieces = self.pieces.lock();
        pieces.iter().find(|(of, file, _)| (*of, *file) == (key, id)).map(|(_, _, pieces)| pieces.clone())
    }

    /// Caches where the content of file `id` is, and drops what was cached first for it.
    pub(crate) fn put_pieces(&self, key: Key, id: u64, found: &Pieces) {
        let mut pieces = self.pieces.lock();
        if found.len() > MAX_PIECES || pieces.iter().any(|(of, file, _)| (*of, *file) == (key, id)) {
            return;
        }
        pieces.push_back((key, id, found.clone()));
        let mut total: usize = pieces.iter().map(|(_, _, pieces)| pieces.len()).sum();
        while total > MAX_PIECES {
            total -= pieces.pop_front().map_or(total, |(_, _, pieces)| pieces.len());
        }
    }

    /// Drops what belongs to an index that was replaced.
    pub(crate) fn forget(&self, key: Key) {
        let mut readers = self.readers.lock();
        let (theirs, others) = std::mem::take(&mut *readers).into_iter().partition(|(of, _)| *of == key);
        let theirs: VecDeque<_> = theirs;
        *readers = others;
        drop(readers);
        drop(theirs);
        self.pieces.lock().retain(|(of, ..)| *of != key);
    }

    /// The log that `used` guards was used: the one that was not for longest is closed. The caller
    /// may hold `used`, and no other one.
    pub(crate) fn use_log(&self, used: &Arc<Transition>) {
        let mut logs = self.logs.lock();
        logs.retain(|log| log.upgrade().is_some_and(|other| !Arc::ptr_eq(&other, used)));
        logs.push_back(Arc::downgrade(used));
        let oldest = if logs.len() > MAX_LOGS { logs.pop_front() } else { None };
        drop(logs);
        // One that is in use comes back to the list with its next batch.
        if let Some(oldest) = oldest.and_then(|oldest| oldest.upgrade())
            && let Some(mut log) = oldest.try_lock()
        {
            log.close();
        }
    }
}
