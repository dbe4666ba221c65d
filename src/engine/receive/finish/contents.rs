//! Reading published files: whether their contents still are what the index says. `finish` goes by
//! size and time, which a failing disk or another program can leave as they were. A file that is
//! another one is asked for again.
//!
//! A sender asks for it and asks again how far it is. The check ends itself when no sender asks any
//! more. It holds no lock while it reads, so it keeps no other request waiting; a file counts only
//! if it is still published when it was read.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::files::content::is_as_indexed_while;
use super::super::files::invalidate::invalidate;
use super::super::files::parts::in_parts;
use super::super::job::Job;
use super::super::open;
use super::collide::collisions;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::path::{EntryPath, unprintable};
use crate::archive::protocol::{STATUS_RANGES, VerifyAnswer, VerifyRequest};
use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A sender asks more often than this; the check of a sender that does not ends.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(30);
/// Senders that one check answers.
const MAX_NAMES: usize = 256;
/// Files of one part, which one thread reads.
const PART_FILES: u64 = 64;

/// A check that runs, or has ended.
pub struct ContentCheck {
    request: VerifyRequest,
    /// The names of the senders that asked for it.
    names: Mutex<Vec<u64>>,
    /// The index that it is about.
    index: IndexDigest,
    /// When a sender last asked for it.
    asked: Mutex<Instant>,
    cancelled: AtomicBool,
    tally: Mutex<VerifyAnswer>,
    /// Where the files are in the archive that differ, if that is only to be said.
    changed: Mutex<RangeSet>,
    job: Job<()>,
}

/// What reading a file has found.
enum Finding {
    Same,
    Different,
    /// There is no such file.
    Missing,
    Unreadable,
}

impl ContentCheck {
    fn new(request: VerifyRequest, index: IndexDigest) -> Self {
        let (cancelled, tally, changed, job) = Default::default();
        let names = Mutex::new(vec![request.name]);
        Self { request, names, index, asked: Mutex::new(Instant::now()), cancelled, tally, changed, job }
    }

    /// Whether this check answers `request`: a sender that wants the same joins one that runs.
    fn answers(&self, request: &VerifyRequest, index: &IndexDigest) -> bool {
        let is_same = (&self.request.paths, self.request.dry_run) == (&request.paths, request.dry_run);
        // What has failed may go well now.
        if !is_same || self.index != *index || self.job.has_failed() {
            return false;
        }
        let mut names = self.names.lock();
        if names.contains(&request.name) {
            return true;
        }
        let joins = !self.job.has_ended() && names.len() < MAX_NAMES;
        if joins {
            names.push(request.name);
        }
        joins
    }

    /// Waits until all is read, at most for `timeout`; gives whether it is, and how far the check
    /// is.
    ///
    /// # Errors
    /// The check's own.
    pub async fn wait(&self, timeout: Duration) -> Result<(bool, VerifyAnswer)> {
        *self.asked.lock() = Instant::now();
        self.job.wait(timeout).await;
        let has_ended = self.job.result(|()| ())?.is_some();
        let mut answer = self.tally.lock().clone();
        if has_ended {
            let changed = self.changed.lock();
            answer.changed =
                changed.iter().take(STATUS_RANGES).map(|range| (range.start, range.end)).collect();
        }
        Ok((has_ended, answer))
    }

    fn is_abandoned(&self) -> bool {
        self.asked.lock().elapsed() >= ABANDONED_TIMEOUT
    }

    fn check_wanted(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) || self.is_abandoned() {
            return Err(Error::new(
                ErrorKind::Busy,
                "no sender waits for this check of the contents any more",
            ));
        }
        Ok(())
    }

    fn run(&self, context: &Context, archive: &Archive) -> Result<()> {
        let ids = self.wanted(archive)?;
        // What shares its place with another file would be sent again in each run.
        let mut published = ids;
        for (id, _) in collisions(context, archive)? {
            id.into_iter().for_each(|id| published.remove(id..id + 1));
        }
        in_parts(&published, PART_FILES, |ids, _| {
            let mut different = Vec::new();
            for file in self.files(archive, ids)? {
                self.check_wanted()?;
                let finding = self.read(context, &file)?;
                let mut tally = self.tally.lock();
                tally.files += 1;
                match finding {
                    Finding::Same => {}
                    Finding::Unreadable => tally.unreadable += 1,
                    Finding::Different | Finding::Missing => {
                        tally.different += 1;
                        tally.different_bytes += file.size;
                        if matches!(finding, Finding::Missing) {
                            // The sender hears how many there are; another program has removed them.
                            tally.missing += 1;
                            tracing::debug!("\"{}\" is missing; it is asked for again", file.path);
                        } else {
                            let then = match self.request.dry_run {
                                true => "a run would ask for it again",
                                false => "it is asked for again",
                            };
                            tracing::warn!(
                                "the content of \"{}\" is not what the index says any more; {then}",
                                file.path
                            );
                        }
                        different.push(file);
                    }
                }
            }
            if self.request.dry_run {
                let pieces = different.iter().map(|file| archive.pieces_of(file));
                let pieces = pieces.collect::<Result<Vec<_>>>()?;
                let mut changed = self.changed.lock();
                pieces
                    .iter()
                    .flat_map(|pieces| pieces.iter())
                    .for_each(|range| changed.insert(range.clone()));
                return Ok(());
            }
            if different.is_empty() {
                return Ok(());
            }
            // Files that are gone together with their storage are not asked for again.
            context.check_storage(true).map_or(Ok(()), Err)?;
            let shared = archive.lock_shared()?;
            archive.check_active(&self.index)?;
            different.retain(|file| archive.progress.is_published(file.id));
            invalidate(context, archive, &shared, &different)
        })
    }

    /// The published files that are to be read.
    fn wanted(&self, archive: &Archive) -> Result<RangeSet> {
        let published = archive.progress.published();
        if self.request.paths.is_empty() {
            return Ok(published);
        }
        archive.with_index(|index| {
            let mut wanted = RangeSet::default();
            for path in &self.request.paths {
                let bytes = unprintable(path).ok_or_else(no_path)?;
                let path = EntryPath::new(bytes).map_err(|_| no_path())?;
                let file = index.hardlink_at(&path)?.unwrap_or(path);
                if let Some(id) = index.id_of(&file)?.filter(|&id| published.contains(id..id + 1)) {
                    wanted.insert(id..id + 1);
                }
            }
            Ok(wanted)
        })
    }

    fn files(&self, archive: &Archive, ids: &RangeSet) -> Result<Vec<FileEntry>> {
        let _shared = archive.lock_shared()?;
        archive.check_active(&self.index)?;
        let mut files = Vec::new();
        archive.with_index(|index| {
            index.files_of(ids, |file| {
                files.extend(file.is_verifiable().then_some(file));
                Ok(ControlFlow::Continue(()))
            })
        })?;
        Ok(files)
    }

    fn read(&self, context: &Context, file: &FileEntry) -> Result<Finding> {
        let opened = match context.sink.open_final(&file.path) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(Finding::Missing),
            Err(_) => return Ok(Finding::Unreadable),
        };
        let is_same = is_as_indexed_while(&opened, file, |bytes| {
            self.tally.lock().bytes += bytes;
            self.check_wanted()
        });
        match is_same {
            Ok(true) => Ok(Finding::Same),
            Ok(false) => Ok(Finding::Different),
            Err(e) if e.kind() == ErrorKind::Busy => Err(e),
            // A sector that cannot be read any more: the content is lost, unless storage is.
            Err(e) => {
                let e = context.judged(e);
                if e.kind().is_of_one_file() { Ok(Finding::Different) } else { Err(e) }
            }
        }
    }
}

fn no_path() -> Error {
    Error::new(ErrorKind::Malformed, "what is to be verified is no path of an entry")
}

/// The checks by their archives.
#[derive(Default)]
pub(crate) struct ContentChecks(Mutex<HashMap<u64, Arc<ContentCheck>>>);

impl ContentChecks {
    /// Starts to read what is published of `index`, or joins the same request that runs already, or
    /// has ended.
    ///
    /// # Errors
    /// There is no such archive, another index is active, another sender's check runs
    /// ([`ErrorKind::Busy`]), or storage failed earlier.
    pub(crate) fn start(
        &self,
        context: &Arc<Context>,
        tar_id: u64,
        index: &IndexDigest,
        request: VerifyRequest,
    ) -> Result<Arc<ContentCheck>> {
        context.committer.check()?;
        let archive = open::get(context, tar_id)?;
        archive.check_active(index)?;
        let mut checks = self.0.lock();
        if let Some(check) = checks.get(&tar_id) {
            if check.answers(&request, index) {
                return Ok(check.clone());
            }
            if !check.job.has_ended() && !check.is_abandoned() {
                let what = format!("the contents of archive {tar_id} are being read for another sender");
                return Err(Error::new(ErrorKind::Busy, what).with_hint("let it end, or stop it"));
            }
            check.cancelled.store(true, Ordering::Relaxed);
        }
        let check = Arc::new(ContentCheck::new(request, *index));
        let (context, theirs) = (context.clone(), check.clone());
        let work = move || theirs.job.run("the check of the contents", || theirs.run(&context, &archive));
        std::thread::Builder::new().name("contents".into()).spawn(work).map_err(Error::thread)?;
        checks.insert(tar_id, check.clone());
        Ok(check)
    }
}
