//! Group commit: many blocks share one sync of the file system and one transaction of the journal.
//!
//! A writer takes a [`Mark`] before its first byte. A sync that finds no space (NFS, thin pools and
//! quotas say so only then) may have lost the bytes of all writers that were not synced yet. Those
//! writers have older marks, and are never told that their bytes are there.

use crate::archive::ranges::RangeSet;
use crate::db::journal::{Change, Journal, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Storage;
use crate::sink::disk::DiskSink;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

/// Records of one block, and where their outcome is waited for.
type Waiting = (Vec<Record>, mpsc::Sender<std::result::Result<(), ErrorKind>>);

/// How many syncs had lost something when its owner began to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

/// Makes blocks durable. After the first failed sync or journal write (a full disk apart) nothing
/// is acknowledged any more: the kernel may have dropped the dirty pages, so trying again would
/// succeed without the data being there.
pub(crate) struct Committer {
    storage: Arc<dyn Storage>,
    degraded: AtomicBool,
    /// Syncs that found no space.
    losses: AtomicU64,
    requested: AtomicU64,
    /// The highest request that a finished sync covers.
    synced: Mutex<u64>,
    journal: Mutex<Journal>,
    waiting: Mutex<Vec<Waiting>>,
    /// Files with their final name, which the next sync makes safe against a power loss.
    renamed: Mutex<Vec<Record>>,
    /// Files whose final name is safe, which the next transaction says.
    named: Mutex<Vec<Record>>,
}

/// Opens the journal of `sink`, which says that they belong together if each is new to the other.
pub(crate) fn open_journal(sink: &DiskSink) -> Result<Journal> {
    let open = || Journal::open(&sink.records_name().join(JOURNAL));
    let journal = match open() {
        Err(e) if e.kind() == ErrorKind::NoSpace && sink.release() => open()?,
        other => other?,
    };
    for name in [JOURNAL, "journal.sqlite-wal"] {
        sink.check_opened(name)?;
    }
    sink.pair(&journal.receiver_id()?)?;
    Ok(journal)
}

/// What a few transactions of the journal may take, in bytes.
pub(crate) const JOURNAL_BYTES: u64 = 1 << 20;

const JOURNAL: &str = "journal.sqlite";

impl Committer {
    pub(crate) fn new(storage: Arc<dyn Storage>, journal: Journal) -> Self {
        Self {
            storage,
            degraded: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            requested: AtomicU64::new(0),
            synced: Mutex::new(0),
            journal: Mutex::new(journal),
            waiting: Mutex::default(),
            renamed: Mutex::default(),
            named: Mutex::default(),
        }
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::SeqCst)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_degraded() {
            return Err(Error::new(
                ErrorKind::Degraded,
                "the receiver's storage failed earlier; nothing is accepted any more",
            )
            .with_hint("look for disk errors in the system's log of the receiver, then restart the proxy"));
        }
        Ok(())
    }

    pub(crate) fn degrade(&self, error: Error) -> Error {
        if !self.degraded.swap(true, Ordering::SeqCst) {
            tracing::error!("storage failed, nothing is accepted until a restart: {error}");
        }
        error.with_kind(ErrorKind::Degraded)
    }

    /// Taken before anything is written that is to be synced.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.losses.load(Ordering::SeqCst))
    }

    /// Returns when all that was written since `mark` was taken is on stable storage. The
    /// thread that holds the lock syncs for all threads that asked before the sync began.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`]: a sync since then found no space, and what was written before counts
    /// as lost.
    pub(crate) fn sync(&self, mark: Mark) -> Result<()> {
        let mine = self.requested.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = self.synced.lock();
        self.check()?;
        if self.mark() != mark {
            let what =
                "no space: the file system could not store what was written, which is to be sent again";
            return Err(Error::new(ErrorKind::NoSpace, what)
                .with_hint("free space on the receiver's disk, or raise its quota"));
        }
        if *synced >= mine {
            return Ok(());
        }
        let covered = self.requested.load(Ordering::SeqCst);
        let renamed = std::mem::take(&mut *self.renamed.lock());
        match self.storage.sync() {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                self.losses.fetch_add(1, Ordering::SeqCst);
                tracing::warn!("nothing that is not stored yet is acknowledged: {e}");
                // Their content was stored before they got their names, and names are not what
                // finds no space so late.
                self.renamed.lock().extend(renamed);
                return Err(e.with_hint("free space on the receiver's disk, or raise its quota"));
            }
            Err(e) => return Err(self.degrade(e)),
        }
        *synced = covered;
        self.named.lock().extend(renamed);
        Ok(())
    }

    /// Returns when `records` are in the journal on stable storage.
    pub(crate) fn record(&self, records: Vec<Record>) -> Result<()> {
        let (sender, outcome) = mpsc::channel();
        self.waiting.lock().push((records, sender));
        {
            let mut journal = self.journal.lock();
            let batch = std::mem::take(&mut *self.waiting.lock());
            if !batch.is_empty() {
                self.append(&mut journal, batch);
            }
        }
        match outcome.recv() {
            // A sync that failed meanwhile may have hidden the failure from the journal's own.
            Ok(Ok(())) => self.check(),
            Ok(Err(ErrorKind::NoSpace)) => Err(Error::new(ErrorKind::NoSpace, "no space for the journal")
                .with_hint("free space on the receiver's disk")),
            Ok(Err(kind)) => Err(Error::new(kind, "cannot write the journal")),
            Err(_) => Err(Error::new(ErrorKind::Internal, "the journal's writer gave no answer")),
        }
    }

    fn append(&self, journal: &mut Journal, batch: Vec<Waiting>) {
        let named = std::mem::take(&mut *self.named.lock());
        let mut records = named.clone();
        for (wanted, _) in &batch {
            records.extend(wanted.iter().cloned());
        }
        let outcome = self.check().and_then(|()| {
            if records.is_empty() {
                return Ok(());
            }
            self.make_room();
            journal.append(&records).map_err(|e| match e.kind() {
                ErrorKind::NoSpace => e,
                _ => self.degrade(e),
            })
        });
        if outcome.is_err() {
            self.named.lock().extend(named);
        }
        let outcome = outcome.map_err(|e| e.kind());
        for (_, sender) in batch {
            // Fails only if the thread waits no more.
            let _ = sender.send(outcome);
        }
    }

    /// Sees to it that the journal can be written: what it says is what may be freed.
    fn make_room(&self) {
        if self.storage.free_bytes().is_ok_and(|free| free < JOURNAL_BYTES) {
            self.storage.release();
        }
    }

    /// Takes note of files that have just got their final name.
    pub(crate) fn renamed(&self, records: impl IntoIterator<Item = Record>) {
        self.renamed.lock().extend(records);
    }

    /// Makes all renames so far, and what was written since `mark`, durable, and the renames known
    /// to the journal.
    pub(crate) fn flush(&self, mark: Mark) -> Result<()> {
        self.sync(mark)?;
        self.record(Vec::new())
    }

    /// Runs `change` on the journal, which forgets that the files `ids` of archive `tar_id` are
    /// published. What says so and has not reached the journal yet must not reach it later.
    pub(crate) fn invalidate<T>(
        &self,
        tar_id: u64,
        ids: &RangeSet,
        change: impl FnOnce(&mut Journal) -> Result<T>,
    ) -> Result<T> {
        // Taken before the journal: a sync that runs has taken records from one list, and will add
        // them to the other.
        let _synced = self.synced.lock();
        self.rewrite(|journal| {
            for list in [&self.renamed, &self.named] {
                let mut list = list.lock();
                let records = std::mem::take(&mut *list);
                list.extend(records.into_iter().flat_map(|record| without(record, tar_id, ids)));
            }
            change(journal)
        })
    }

    /// Runs `change` on the journal while no other thread writes to it.
    pub(crate) fn rewrite<T>(&self, change: impl FnOnce(&mut Journal) -> Result<T>) -> Result<T> {
        self.check()?;
        self.make_room();
        change(&mut self.journal.lock()).map_err(|e| match e.kind() {
            ErrorKind::NoSpace => e,
            _ => self.degrade(e),
        })
    }
}

/// What `record` says of other files than `ids` of archive `tar_id`.
fn without(record: Record, tar_id: u64, ids: &RangeSet) -> Vec<Record> {
    match &record.change {
        Change::Published(range) if record.tar_id == tar_id => {
            let others = ids.missing(range.clone());
            others.map(|range| Record { change: Change::Published(range), ..record.clone() }).collect()
        }
        _ => vec![record],
    }
}

#[cfg(test)]
mod invalidate_tests {
    use super::*;
    use crate::archive::digest::Digest;
    use crate::db::journal::ArchiveState;
    use std::ops::Range;

    #[test]
    fn what_was_invalidated_does_not_reach_the_journal_later() {
        let base = tempfile::tempdir().unwrap();
        let sink = Arc::new(DiskSink::open(base.path()).unwrap());
        let mut journal = open_journal(&sink).unwrap();
        let (done, published) = Default::default();
        let digest = Digest::from([1; 32]);
        let (tar_id, generation, finished, made) = (0, 1, false, false);
        let state =
            ArchiveState { tar_id, digest, generation, finished, made, done, published, source: None };
        journal.activate(&state).unwrap();
        let committer = Committer::new(sink, journal);
        let record = |ids: Range<u64>| Record { tar_id: 0, generation: 1, change: Change::Published(ids) };
        let ids = |ids: Range<u64>| std::iter::once(ids).collect::<RangeSet>();
        let forget = |range: Range<u64>| {
            let ids = ids(range);
            move |journal: &mut Journal| journal.invalidate(0, &RangeSet::default(), &ids)
        };
        let published = || {
            let archives = committer.rewrite(|journal| journal.archives()).unwrap();
            archives[0].published.iter().collect::<Vec<_>>()
        };
        committer.renamed([record(0..10), record(20..22)]);
        // Renamed only, then also synced, then in the journal.
        committer.invalidate(0, &ids(2..3), forget(2..3)).unwrap();
        committer.sync(committer.mark()).unwrap();
        committer.invalidate(0, &ids(5..6), forget(5..6)).unwrap();
        committer.invalidate(1, &ids(8..9), |_| Ok(())).unwrap();
        committer.flush(committer.mark()).unwrap();
        assert_eq!(published(), [0..2, 3..5, 6..10, 20..22]);
        committer.invalidate(0, &ids(20..22), forget(20..22)).unwrap();
        committer.flush(committer.mark()).unwrap();
        assert_eq!(published(), [0..2, 3..5, 6..10]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::Digest;
    use crate::db::journal::{ArchiveState, Change};

    /// Storage whose next sync ends as the test says.
    #[derive(Default)]
    struct FakeStorage(Mutex<Option<ErrorKind>>);

    impl Storage for FakeStorage {
        fn sync(&self) -> Result<()> {
            self.0.lock().take().map_or(Ok(()), |kind| Err(Error::new(kind, "as the test says")))
        }

        fn free_bytes(&self) -> Result<u64> {
            Ok(u64::MAX)
        }

        fn held_bytes(&self) -> u64 {
            0
        }

        fn hold(&self, _: u64, _: u64) {}

        fn release(&self) -> bool {
            false
        }
    }

    fn committer(folder: &std::path::Path, storage: Arc<FakeStorage>) -> Committer {
        let mut journal = Journal::open(&folder.join("journal.sqlite")).unwrap();
        let (done, published) = Default::default();
        let state = ArchiveState {
            tar_id: 0,
            digest: Digest::from([1; 32]),
            generation: 1,
            finished: false,
            made: false,
            done,
            published,
            source: None,
        };
        journal.activate(&state).unwrap();
        Committer::new(storage, journal)
    }

    /// P1: the sync after the one that failed succeeds, and says nothing of what was written
    /// before.
    #[test]
    fn what_a_failed_sync_may_have_lost_is_never_acknowledged() {
        let (folder, storage) = (tempfile::tempdir().unwrap(), Arc::<FakeStorage>::default());
        let committer = committer(folder.path(), storage.clone());
        let (mine, other) = (committer.mark(), committer.mark());
        committer.renamed([Record { tar_id: 0, generation: 1, change: Change::Published(3..4) }]);
        let kind = |outcome: Result<()>| outcome.map_err(|e| e.kind());
        *storage.0.lock() = Some(ErrorKind::NoSpace);
        assert_eq!(kind(committer.sync(mine)), Err(ErrorKind::NoSpace));
        for mark in [mine, other] {
            assert_eq!(kind(committer.sync(mark)), Err(ErrorKind::NoSpace), "{mark:?}");
            assert_eq!(kind(committer.flush(mark)), Err(ErrorKind::NoSpace), "{mark:?}");
        }
        assert!(!committer.is_degraded());
        // What is written after that is.
        committer.flush(committer.mark()).unwrap();
        let published = committer.rewrite(|journal| Ok(journal.archives()?.remove(0).published)).unwrap();
        assert_eq!(published, std::iter::once(3..4).collect());
        let mark = committer.mark();
        *storage.0.lock() = Some(ErrorKind::Io);
        assert_eq!(kind(committer.sync(mark)), Err(ErrorKind::Degraded));
        assert_eq!(kind(committer.sync(committer.mark())), Err(ErrorKind::Degraded));
    }
}
