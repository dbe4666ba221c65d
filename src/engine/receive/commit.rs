//! Group commit: many blocks share one sync of the file system and one transaction of the journal.

use crate::db::journal::{Journal, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::DiskSink;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

/// Records of one block, and where their outcome is waited for.
type Waiting = (Vec<Record>, mpsc::Sender<std::result::Result<(), ErrorKind>>);

/// Makes blocks durable. After the first failed sync or journal write (a full disk apart) nothing is acknowledged any more:
/// the kernel may have dropped the dirty pages, so trying again would succeed without the data being there.
pub(super) struct Committer {
    sink: Arc<DiskSink>,
    degraded: AtomicBool,
    requested: AtomicU64,
    /// The highest request that a finished sync covers.
    synced: Mutex<u64>,
    journal: Mutex<Journal>,
    waiting: Mutex<Vec<Waiting>>,
    /// Files with their final name, which the next sync makes safe against a power loss.
    renamed: Mutex<Vec<Record>>,
    /// Files whose final name is safe, which the next transaction says.
    settled: Mutex<Vec<Record>>,
}

/// A poisoned lock means that another thread panicked between two statements, none of which leaves half a state.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Committer {
    pub(super) fn new(sink: Arc<DiskSink>, journal: Journal) -> Self {
        Self {
            sink,
            degraded: AtomicBool::new(false),
            requested: AtomicU64::new(0),
            synced: Mutex::new(0),
            journal: Mutex::new(journal),
            waiting: Mutex::default(),
            renamed: Mutex::default(),
            settled: Mutex::default(),
        }
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::SeqCst)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.is_degraded() {
            return Err(Error::new(
                ErrorKind::Degraded,
                "the receiver's storage failed earlier; nothing is accepted any more",
            )
            .hint("look for disk errors in the system's log of the receiver, then restart the proxy"));
        }
        Ok(())
    }

    fn degrade(&self, error: Error) -> Error {
        if !self.degraded.swap(true, Ordering::SeqCst) {
            tracing::error!("storage failed, nothing is accepted until a restart: {error}");
        }
        error.with_kind(ErrorKind::Degraded)
    }

    /// Returns when all that this thread wrote before is on stable storage. Whoever holds the lock syncs for everybody
    /// who asked before the sync began.
    pub(super) fn sync(&self) -> Result<()> {
        let mine = self.requested.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = lock(&self.synced);
        self.check()?;
        if *synced >= mine {
            return Ok(());
        }
        let covered = self.requested.load(Ordering::SeqCst);
        let renamed = std::mem::take(&mut *lock(&self.renamed));
        self.sink.sync().map_err(|e| self.degrade(e))?;
        *synced = covered;
        lock(&self.settled).extend(renamed);
        Ok(())
    }

    /// Returns when `records` are in the journal on stable storage.
    pub(super) fn record(&self, records: Vec<Record>) -> Result<()> {
        let (sender, outcome) = mpsc::channel();
        lock(&self.waiting).push((records, sender));
        {
            let mut journal = lock(&self.journal);
            let batch = std::mem::take(&mut *lock(&self.waiting));
            if !batch.is_empty() {
                self.append(&mut journal, batch);
            }
        }
        match outcome.recv() {
            // A sync that failed meanwhile may have hidden the failure from the journal's own.
            Ok(Ok(())) => self.check(),
            Ok(Err(ErrorKind::NoSpace)) => Err(Error::new(ErrorKind::NoSpace, "no space for the journal")
                .hint("free space on the receiver's disk")),
            Ok(Err(kind)) => Err(Error::new(kind, "cannot write the journal")),
            Err(_) => Err(Error::new(ErrorKind::Internal, "the journal's writer gave no answer")),
        }
    }

    fn append(&self, journal: &mut Journal, batch: Vec<Waiting>) {
        let settled = std::mem::take(&mut *lock(&self.settled));
        let mut records = settled.clone();
        for (wanted, _) in &batch {
            records.extend(wanted.iter().cloned());
        }
        let outcome = self.check().and_then(|()| {
            if records.is_empty() {
                return Ok(());
            }
            journal.append(&records).map_err(|e| match e.kind() {
                ErrorKind::NoSpace => e,
                _ => self.degrade(e),
            })
        });
        if outcome.is_err() {
            lock(&self.settled).extend(settled);
        }
        let outcome = outcome.map_err(|e| e.kind());
        for (_, sender) in batch {
            // The only way to fail is that nobody waits any more.
            let _ = sender.send(outcome);
        }
    }

    /// Takes note of files that have just got their final name.
    pub(super) fn renamed(&self, records: impl IntoIterator<Item = Record>) {
        lock(&self.renamed).extend(records);
    }

    /// Makes all renames so far durable and known to the journal.
    pub(super) fn settle(&self) -> Result<()> {
        self.sync()?;
        self.record(Vec::new())
    }

    /// Runs `change` on the journal, with nobody else writing.
    pub(super) fn rewrite<T>(&self, change: impl FnOnce(&mut Journal) -> Result<T>) -> Result<T> {
        self.check()?;
        change(&mut lock(&self.journal)).map_err(|e| match e.kind() {
            ErrorKind::NoSpace => e,
            _ => self.degrade(e),
        })
    }
}
