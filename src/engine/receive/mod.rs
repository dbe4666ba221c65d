//! The receiver: takes an index and blocks, and puts files in place. Free of HTTP, so that any server can drive it.

mod adopt;
mod archive;
mod beginning;
mod block;
mod carry;
mod change;
mod commit;
mod delete;
mod finish;
mod gc;
mod keep;
mod log;
mod look;
mod proof;
mod publish;

pub use adopt::{AdoptJob, compare_folder};
pub use block::BlockPut;
pub use finish::FinishJob;
pub use gc::{Garbage, collect_garbage};
pub use keep::ChangeOptions;

use super::buffers::Buffers;
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::{FinishRequest, IndexAnswer, Status};
use crate::db::generation::remember_gone;
use crate::db::growing::GrowingIndex;
use crate::db::import::import;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::journal::{ArchiveState, Journal};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::DiskSink;
use crate::telemetry::Counter;
use archive::{Archive, Extent, State};
use beginning::Begun;
use carry::Carried;
use commit::{Committer, lock};
use proof::{Proof, start_provers};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a receiver behaves.
#[derive(Debug, Clone, Copy)]
pub struct ReceiverOptions {
    /// Serve senders that know only FORMATS 1.3: they name neither index nor digest, and never say that they are done.
    pub legacy: bool,
    /// The largest index, in bytes as a SQLite file.
    pub max_index_bytes: u64,
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        Self { legacy: false, max_index_bytes: 16 << 30 }
    }
}

/// What a receiver did since it started.
#[derive(Debug, Default)]
pub struct ReceiverCounters {
    /// Blocks accepted.
    pub blocks: Counter,
    /// Bytes of content in them.
    pub block_bytes: Counter,
    /// Bytes of their bodies.
    pub wire_bytes: Counter,
    /// Files that got their final name.
    pub files_published: Counter,
    /// When the last block was accepted, in seconds since 1970; 0 if none was.
    pub last_block_s: Counter,
}

/// A base folder that takes in archives.
pub struct Receiver {
    sink: Arc<DiskSink>,
    committer: Committer,
    archives: RwLock<HashMap<u64, Arc<Archive>>>,
    finishing: Mutex<HashMap<u64, Arc<FinishJob>>>,
    /// What is found, or was, below the base folder.
    adopting: Mutex<HashMap<u64, Arc<AdoptJob>>>,
    proofs: mpsc::Sender<Proof>,
    /// Held, for each archive, while an index is put in place.
    replacing: Mutex<HashMap<u64, Arc<Mutex<()>>>>,
    options: ReceiverOptions,
    /// Bodies and contents of blocks.
    pub buffers: Arc<Buffers>,
    /// What it did since it started.
    pub counters: ReceiverCounters,
}

/// Two for each of a few blocks at once; more than that are made and dropped.
const KEPT_BUFFERS: usize = 16;

/// Free space that is left alone, in bytes, so that the journal can still be written when the disk is nearly full.
const RESERVE_BYTES: u64 = 4 << 20;

/// How long the answer to a legacy sender's index waits for empty files and folders to be made.
const LEGACY_PATIENCE: Duration = Duration::from_secs(20);

/// What can be made is made, although content is missing.
const PARTIAL: FinishRequest = FinishRequest { partial: true, looked: None, delete: None, keep: None };

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Receiver {
    /// Opens `base`, which must exist, and takes up what an earlier receiver left in it.
    ///
    /// # Errors
    /// The folder cannot be used, or another receiver uses it.
    pub fn open(base: &Path, options: ReceiverOptions) -> Result<Arc<Self>> {
        let sink = Arc::new(DiskSink::open(base)?);
        let mut journal = Journal::open(&sink.state_name().join("journal.sqlite"))?;
        let states = journal.archives()?;
        for state in &states {
            journal.compact(state)?;
        }
        let (proofs, work) = mpsc::channel();
        let receiver = Arc::new(Self {
            committer: Committer::new(sink.clone(), journal),
            sink,
            archives: RwLock::default(),
            finishing: Mutex::default(),
            adopting: Mutex::default(),
            proofs,
            replacing: Mutex::default(),
            options,
            buffers: Buffers::new(KEPT_BUFFERS),
            counters: ReceiverCounters::default(),
        });
        start_provers(&receiver, work)?;
        receiver.empty_state_folder("incoming", |_| false)?;
        receiver.remove_unknown_kept(&states)?;
        let named: Vec<String> =
            states.iter().map(|s| index_name(s.tar_id, &s.digest, s.generation)).collect();
        // SQLite's own files beside an index begin with its name.
        receiver
            .empty_state_folder("archives", |name| named.iter().any(|named| name.starts_with(&**named)))?;
        let keep: Vec<String> = states.iter().map(|s| staging_name(s.tar_id, s.generation)).collect();
        receiver.sink.remove_other_staging(|name| keep.iter().any(|kept| kept == name))?;
        for state in states {
            let tar_id = state.tar_id;
            match receiver.load(state) {
                Ok(archive) => {
                    let archives = &receiver.archives;
                    archives.write().unwrap_or_else(PoisonError::into_inner).insert(tar_id, archive.clone());
                    receiver.resume(&archive)?;
                    // A legacy sender puts its index once, and never says that it is done.
                    if options.legacy && archive.extent().sealed && !archive.state().finished {
                        receiver.finish(tar_id, None, PARTIAL)?;
                    }
                }
                // The sender puts the index again when it hears that there is none.
                Err(e) => tracing::error!("archive {tar_id} is dropped, its index cannot be read: {e}"),
            }
        }
        Ok(receiver)
    }

    /// Removes what a crash left in a folder of the receiver's state, but for what `keep` names.
    fn empty_state_folder(&self, name: &str, keep: impl Fn(&str) -> bool) -> Result<()> {
        let path = self.sink.state_path().join(name);
        let clean = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                if entry.file_name().to_str().is_some_and(&keep) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                } else {
                    std::fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        clean().map_err(|e| Error::io(format!("cannot clean {}", path.display()), e))
    }

    fn index_path(&self, tar_id: u64, name: &IndexDigest, generation: u64) -> PathBuf {
        self.sink.state_path().join("archives").join(index_name(tar_id, name, generation))
    }

    /// The lock for putting an index in place.
    fn replacing(&self, tar_id: u64) -> Arc<Mutex<()>> {
        lock(&self.replacing).entry(tar_id).or_default().clone()
    }

    fn next_generation(&self, tar_id: u64) -> Result<u64> {
        self.committer.rewrite(|journal| journal.next_generation(tar_id))
    }

    fn load(&self, state: ArchiveState) -> Result<Arc<Archive>> {
        let path = self.index_path(state.tar_id, &state.digest, state.generation);
        let log = GrowingIndex::open(&path, self.options.max_index_bytes)?;
        let (extent, pending) = match &log {
            Some(log) => (log::extent_of(log)?, log.pending()?.into_iter().collect()),
            None => (sealed_extent(&path, &state.digest)?, BTreeSet::new()),
        };
        let staging = self.sink.staging(&staging_name(state.tar_id, state.generation))?;
        let taken_back = IndexReader::open_growing(&path)?.taken_back()?;
        Ok(Arc::new(Archive::new(
            state.tar_id,
            path,
            extent,
            log,
            state.generation,
            staging,
            State {
                done: state.done,
                published: state.published,
                finished: state.finished,
                pending,
                taken_back,
                ..State::default()
            },
        )))
    }

    /// Files that were complete when an earlier process ended, but of which the journal does not know that they are named.
    fn resume(&self, archive: &Arc<Archive>) -> Result<()> {
        for file in archive.unpublished()? {
            archive.state().proving.insert(file.id);
            self.prove_later(archive, file.id);
        }
        Ok(())
    }

    fn archive(&self, tar_id: u64) -> Result<Arc<Archive>> {
        self.archives.read().unwrap_or_else(PoisonError::into_inner).get(&tar_id).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no index for archive {tar_id}"))
                .hint("put the index first: PUT …/{tar_id}/db")
        })
    }

    /// Whether storage failed, so that nothing is accepted.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.committer.is_degraded()
    }

    /// The folder in which a request body may be kept while it comes in; emptied at the start.
    #[must_use]
    pub fn incoming_path(&self) -> PathBuf {
        self.sink.state_path().join("incoming")
    }

    /// Checks that `needed_bytes` fit on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if they do not.
    pub fn check_space(&self, needed_bytes: u64) -> Result<()> {
        let free_bytes = self.sink.free_bytes()?;
        if free_bytes < needed_bytes.saturating_add(RESERVE_BYTES) {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("no space: {free_bytes} bytes free, {needed_bytes} and a reserve of {RESERVE_BYTES} needed"),
            )
            .hint("free space on the receiver's disk; the sender goes on by itself"));
        }
        Ok(())
    }

    /// The bytes that are free below the base folder.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn free_bytes(&self) -> Result<u64> {
        self.sink.free_bytes()
    }

    /// How many archives are complete, and how many are not.
    #[must_use]
    pub fn archives_by_state(&self) -> (u64, u64) {
        let archives = self.archives.read().unwrap_or_else(PoisonError::into_inner);
        let finished = archives.values().filter(|archive| archive.state().finished).count();
        (finished as u64, (archives.len() - finished) as u64)
    }

    /// What can be said of an index before its body is there.
    ///
    /// # Errors
    /// Storage failed earlier, or the sender names no digest and must.
    pub fn check_index(&self, expected: Option<&IndexDigest>) -> Result<()> {
        self.committer.check()?;
        if expected.is_none() && !self.options.legacy {
            return Err(Error::new(ErrorKind::NoIndexNamed, "the index comes without its digest")
                .hint("the sender is too old for this receiver; start the proxy with --legacy to serve it"));
        }
        Ok(())
    }

    /// Takes in an index for archive `tar_id`: validates it and makes it the active one. The same index again changes
    /// nothing; another one replaces what was there, files that are in place stay. `expected` is the digest that the sender
    /// names; a legacy sender names none. `adopt` names the adoption whose result counts as what there was.
    ///
    /// # Errors
    /// The index is refused, there is no such adoption ([`ErrorKind::NotFound`]), or our disk fails.
    pub fn put_index(
        self: &Arc<Self>,
        tar_id: u64,
        uploaded: &Path,
        expected: Option<&IndexDigest>,
        adopt: Option<u64>,
    ) -> Result<IndexAnswer> {
        self.check_index(expected)?;
        let adopted = adopt.map(|name| self.adopted(tar_id, name)).transpose()?;
        let folder = tempfile::tempdir_in(self.incoming_path())
            .map_err(|e| Error::io("cannot make a temporary folder", e))?;
        let imported = folder.path().join("index.sqlite");
        let written = import(uploaded, &imported, "the uploaded index", 1, now_s())?;
        if let Some(expected) = expected.filter(|&expected| *expected != written.digest) {
            return Err(Error::new(
                ErrorKind::BadIndex,
                format!("the uploaded index has digest {}, the sender says {expected}", written.digest),
            )
            .hint("it was changed on the way, or edited after it was made; make a new one with: tar-like index -c"));
        }
        let replacing = self.replacing(tar_id);
        let _one = lock(&replacing);
        let former = self.archives.read().unwrap_or_else(PoisonError::into_inner).get(&tar_id).cloned();
        let answer = |complete| IndexAnswer {
            rc: "ok".to_string(),
            digest: Some(written.digest.to_string()),
            complete,
        };
        let stands = |former: &Extent| former.sealed && former.digest == written.digest;
        if let Some(former) = former.as_ref().filter(|former| stands(&former.extent())) {
            self.finish_legacy(tar_id, expected)?;
            let finished = former.state().finished;
            return Ok(answer(finished));
        }
        let generation = self.next_generation(tar_id)?;
        let path = self.index_path(tar_id, &written.digest, generation);
        std::fs::rename(&imported, &path)
            .map_err(|e| Error::io(format!("cannot put {} in place", path.display()), e))?;
        // What vanishes with the former one may have to be deleted. What was adopted has its files as they are now.
        match (adopted.as_ref().and_then(|job| job.index()), &former) {
            (Some(found), _) => remember_gone(&path, &found)?,
            (None, Some(former)) if expected.is_some() => remember_gone(&path, &former.index_path)?,
            _ => {}
        }
        // The journal must never name an index that a power loss can take away.
        self.committer.sync()?;
        if let Some(former) = &former {
            former.retire();
        }
        let carry = || -> Result<(Arc<Archive>, Vec<carry::Touched>)> {
            // What an attempt left that met a full disk.
            let staged = staging_name(tar_id, generation);
            self.sink.remove_other_staging(|name| name != staged)?;
            let carried = match &former {
                _ if adopted.is_some() => {
                    self.committer.settle()?;
                    let found = adopted.as_ref().and_then(|job| job.index());
                    self.carry_found(found.as_deref(), uploaded, &path, &self.sink.staging(&staged)?)?
                }
                Some(former) if expected.is_some() => {
                    // What the last blocks renamed must have its name for good.
                    self.committer.settle()?;
                    carry::by_path(self, former, &path)?
                }
                _ => carry::nothing(&path)?,
            };
            let (digest, finished) = (written.digest, false);
            // The journal must not say of bytes that they are here that a power loss can take away.
            if adopted.is_some() {
                self.committer.sync()?;
            }
            let Carried { done, published, touched, .. } = carried;
            // What is kept is known by ids, which have other meanings from here on.
            self.keep_only(tar_id, 0)?;
            let state = ArchiveState { tar_id, digest, generation, finished, done, published };
            Ok((self.activate(state)?, touched))
        };
        let outcome = carry();
        let (archive, touched) = self.replaced(former, outcome)?;
        self.touch(&archive, &touched)?;
        tracing::info!(
            "archive {tar_id}: index {} with {} files, {} bytes",
            written.digest,
            written.files,
            written.total_bytes
        );
        if adopted.is_some() {
            lock(&self.adopting).remove(&tar_id);
            self.resume(&archive)?;
        }
        drop(archive);
        self.finish_legacy(tar_id, expected)?;
        Ok(answer(false))
    }

    /// Removes what belonged to the index that was replaced, or takes it up again if that failed.
    fn replaced<T>(&self, former: Option<Arc<Archive>>, outcome: Result<T>) -> Result<T> {
        match (&outcome, former) {
            (Ok(_), Some(former)) => {
                remove_index(&former.index_path);
                let gone = staging_name(former.tar_id, former.generation);
                self.sink.remove_other_staging(|name| name != gone)?;
            }
            (Err(_), Some(former)) => former.revive(),
            _ => {}
        }
        outcome
    }

    /// A legacy sender never says that it is done: what no block brings is made when it puts its index.
    fn finish_legacy(self: &Arc<Self>, tar_id: u64, expected: Option<&IndexDigest>) -> Result<()> {
        if expected.is_none() {
            // It runs on if it takes longer; such a sender waits for no answer but that it has one.
            self.finish(tar_id, None, PARTIAL)?.wait(LEGACY_PATIENCE)?;
        }
        Ok(())
    }

    /// Makes an index the active one of its archive, with what is done of it already.
    fn activate(&self, state: ArchiveState) -> Result<Arc<Archive>> {
        self.activate_begun(state, BTreeMap::new())
    }

    /// The same with files of which the beginning is staged.
    fn activate_begun(&self, state: ArchiveState, begun: BTreeMap<u64, Begun>) -> Result<Arc<Archive>> {
        // Everything that can fail comes before the journal says which index is active.
        let tar_id = state.tar_id;
        let archive = self.load(state.clone())?;
        archive.state().begun = begun;
        self.committer.rewrite(|journal| journal.activate(&state))?;
        self.archives.write().unwrap_or_else(PoisonError::into_inner).insert(tar_id, archive.clone());
        Ok(archive)
    }

    /// Whether `digest` is the active index of `tar_id`: the answer to putting it once more.
    #[must_use]
    pub fn has_index(&self, tar_id: u64, digest: &IndexDigest) -> Option<IndexAnswer> {
        let stands = |extent: Extent| extent.sealed && extent.digest == *digest;
        let archive = self.archive(tar_id).ok().filter(|archive| stands(archive.extent()))?;
        let complete = archive.state().finished;
        Some(IndexAnswer { rc: "ok".to_string(), digest: Some(digest.to_string()), complete })
    }

    /// How far archive `tar_id` is; see [`Status`].
    ///
    /// # Errors
    /// There is no such archive, or the block size is 0.
    pub fn status(&self, tar_id: u64, block_size: u64, from: u64) -> Result<Status> {
        self.archive(tar_id)?.status(block_size, from)
    }

    /// Makes everything so far durable and known to the journal: for a graceful stop.
    ///
    /// # Errors
    /// Storage fails.
    pub fn settle(&self) -> Result<()> {
        self.committer.settle()
    }
}

fn sealed_extent(path: &Path, name: &IndexDigest) -> Result<Extent> {
    let Summary { digest, files, total_bytes, .. } = IndexReader::open(path)?.summary()?;
    if digest != *name {
        return Err(Error::new(
            ErrorKind::BadIndex,
            format!("{} is another index than its name says", path.display()),
        ));
    }
    Ok(Extent { digest, files, total_bytes, sealed: true })
}

/// Never used twice: the rows of an index that came as a whole may have been replaced by those of a stream since.
fn index_name(tar_id: u64, name: &IndexDigest, generation: u64) -> String {
    format!("{tar_id}-{name}.{generation}.sqlite")
}

/// An index that grew has files of SQLite's beside it.
fn remove_index(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_os_string();
        name.push(suffix);
        // What stays is removed at the next start.
        let _ = std::fs::remove_file(PathBuf::from(name));
    }
}

fn staging_name(tar_id: u64, generation: u64) -> String {
    format!("{tar_id}.{generation}")
}
