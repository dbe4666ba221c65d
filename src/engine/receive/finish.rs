//! The end of a transfer: confirm what is published, publish what is left, make directories and links, set metadata.

use super::archive::Archive;
use super::commit::lock;
use super::delete::{Deleted, Doomed, delete};
use super::{Receiver, look, publish};
use crate::archive::digest::IndexDigest;
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::archive::protocol::{FAILED_NAMES, FailedFile, FinishAnswer, FinishRequest};
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::{DiskSink, FolderCache, Staging};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A `finish` that runs; several senders may wait for the same one.
pub struct FinishJob {
    outcome: Mutex<Option<std::result::Result<FinishAnswer, (ErrorKind, String)>>>,
    ended: Condvar,
    request: FinishRequest,
    generation: u64,
    /// The index that it is about.
    index: IndexDigest,
    /// How many bytes were done when it began.
    covered: u64,
}

impl FinishJob {
    /// Waits until the job ends, at most `patience`. `None` says that it still runs.
    ///
    /// # Errors
    /// The job's own.
    pub fn wait(&self, patience: Duration) -> Result<Option<FinishAnswer>> {
        let outcome = lock(&self.outcome);
        let (outcome, _) = self
            .ended
            .wait_timeout_while(outcome, patience, |o| o.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        match &*outcome {
            None => Ok(None),
            Some(Ok(answer)) => Ok(Some(answer.clone())),
            Some(Err((kind, message))) => Err(Error::new(*kind, message.clone())),
        }
    }
}

impl Receiver {
    /// Starts to finish an archive, or joins the same `finish` that runs already. `index` is what the sender has sent; a legacy
    /// sender names none.
    ///
    /// # Errors
    /// There is no such archive, another index is active, or storage failed earlier.
    pub fn finish(
        self: &Arc<Self>,
        tar_id: u64,
        index: Option<IndexDigest>,
        request: FinishRequest,
    ) -> Result<Arc<FinishJob>> {
        self.committer.check()?;
        let archive = self.archive(tar_id)?;
        let index = index.unwrap_or(archive.extent().digest);
        check_active(&archive, &index)?;
        let mut jobs = lock(&self.finishing);
        // A job that began before the last block came, or for another index, would answer for what was then.
        let covered = archive.state().done.covered();
        if let Some(job) = jobs.get(&tar_id)
            && lock(&job.outcome).is_none()
            && (&job.request, job.generation, job.index, job.covered)
                == (&request, archive.generation, index, covered)
        {
            return Ok(job.clone());
        }
        let job = Arc::new(FinishJob {
            outcome: Mutex::new(None),
            ended: Condvar::new(),
            request: request.clone(),
            generation: archive.generation,
            index,
            covered,
        });
        jobs.insert(tar_id, job.clone());
        drop(jobs);
        let (receiver, theirs) = (self.clone(), job.clone());
        let spawned = std::thread::Builder::new().name("finish".into()).spawn(move || {
            // One at a time for each archive: two would take back and make the same things at once.
            let work = || {
                let _one = lock(&archive.finish);
                run(&receiver, &archive, &index, &request)
            };
            // A crash must not leave those who wait for it without an answer.
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Internal, "finish crashed; this is a bug of tar-like"))
            });
            *lock(&theirs.outcome) = Some(outcome.map_err(|e| (e.kind(), publish::reason(&e))));
            theirs.ended.notify_all();
        });
        spawned.map_err(|e| Error::io("cannot start a thread", e))?;
        Ok(job)
    }
}

/// What could not be put in place, named up to a limit and counted beyond.
#[derive(Default)]
struct Failures {
    named: Vec<FailedFile>,
    total: u64,
}

impl Failures {
    fn add(&mut self, id: Option<u64>, path: &EntryPath, error: &Error) -> Result<()> {
        if matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Degraded) {
            return Err(Error::new(error.kind(), publish::reason(error)));
        }
        self.total += 1;
        if self.named.len() < FAILED_NAMES {
            self.named.push(FailedFile { id, path: path.to_string(), reason: publish::reason(error) });
        }
        Ok(())
    }
}

/// Whether `index` is what the archive has, and all of it.
pub(super) fn check_active(archive: &Archive, index: &IndexDigest) -> Result<()> {
    let (active, tar_id) = (archive.extent(), archive.tar_id);
    if !active.sealed {
        let what = format!(
            "the index of archive {tar_id} is not complete: its sender is still at work, or was interrupted"
        );
        return Err(Error::new(ErrorKind::WrongIndex, what)
            .hint("run the sender's command again; it goes on where it was"));
    }
    if active.digest != *index {
        let what = format!(
            "index {index} of archive {tar_id} was sent, but another sender has put index {} in place",
            active.digest
        );
        return Err(Error::new(ErrorKind::WrongIndex, what)
            .hint("let only one sender at a time use the same archive number, or give --tar-id"));
    }
    Ok(())
}

fn run(
    receiver: &Receiver,
    archive: &Archive,
    index: &IndexDigest,
    request: &FinishRequest,
) -> Result<FinishAnswer> {
    if let Some(count) = request.keep {
        // First of all: the disk may be full.
        receiver.keep_only(archive.tar_id, count)?;
    }
    let looked = look::take(archive, request.looked);
    archive.wait_for_provers();
    let _entered = archive.enter()?;
    // A stream that begins anew waits until `finish` has ended; one that began before has taken this index away.
    check_active(archive, index)?;
    confirm(receiver, archive, looked)?;
    let doomed = match &request.delete {
        Some(request) => {
            let doomed = Doomed::find(receiver, archive, request)?;
            // A file may have taken the place of a folder.
            delete(receiver, archive, &doomed, request, true)?;
            Some((request, doomed))
        }
        None => None,
    };
    publish_complete(receiver, archive)?;
    let extent = archive.extent();
    let missing_bytes = extent.total_bytes.saturating_sub(archive.state().done.covered());
    let mut failures = Failures::default();
    if missing_bytes == 0 || request.partial {
        empty_files(receiver, archive, &mut failures)?;
        nodes(receiver, archive, &mut failures)?;
    }
    let in_place = missing_bytes == 0
        && failures.total == 0
        && archive.state().failed.is_empty()
        && archive.state().published.covered() == extent.files;
    let mut deleted = Deleted::default();
    if let Some((request, doomed)) = doomed.filter(|_| in_place) {
        deleted = delete(receiver, archive, &doomed, request, false)?;
        failures.named.append(&mut deleted.failed);
        failures.total += deleted.failed_total;
        if deleted.count > 0 {
            folder_times(receiver, archive, &mut failures)?;
        }
    }
    receiver.committer.settle()?;
    let mut state = archive.state();
    // Content that is done but has no name is in nobody's list of missing bytes: its reason is.
    let unpublished = state.failed.len() as u64;
    let mut failed: Vec<FailedFile> = state.failed.values().cloned().collect();
    failed.extend(failures.named);
    failed.truncate(FAILED_NAMES);
    let complete = missing_bytes == 0
        && failures.total == 0
        && unpublished == 0
        && state.published.covered() == extent.files;
    let answer = FinishAnswer {
        complete,
        missing_bytes,
        files_published: state.published.covered(),
        failed,
        failed_total: failures.total + unpublished,
        deleted: deleted.count,
        too_many: deleted.too_many,
    };
    let changed = state.finished != complete;
    let taken_back = state.taken_back.take_if(|_| complete);
    drop(state);
    if let Some(generation) = taken_back {
        receiver.forget_kept(archive.tar_id, generation);
    }
    if changed {
        receiver.committer.rewrite(|journal| journal.set_finished(archive.tar_id, complete))?;
        archive.state().finished = complete;
    }
    Ok(answer)
}

/// Looks at every published file but `looked`: what was removed or changed since, by whomever, is asked for again.
fn confirm(receiver: &Receiver, archive: &Archive, looked: RangeSet) -> Result<()> {
    let mut published = archive.state().published.clone();
    looked.iter().for_each(|ids| published.remove(ids));
    look::in_parts(&published, |ids, cache| {
        archive.with_index(|index| {
            index.files_of(ids, |file| {
                let looked = publish::stands(receiver, &file, cache);
                if matches!(looked, Ok(true)) {
                    // It may have been out of sight the last time.
                    archive.state().failed.remove(&file.id);
                }
                let stands = looked.unwrap_or_else(|e| {
                    // Its folder forbids even to look: nobody can confirm it, and nobody can replace it.
                    archive.state().fail(file.id, &file.path, publish::reason(&e));
                    true
                });
                if !stands {
                    tracing::info!(
                        "\"{}\" was changed or removed since it was received; it is asked for again",
                        file.path
                    );
                    publish::take_back(receiver, archive, &file)?;
                }
                Ok(ControlFlow::Continue(()))
            })
        })
    })
}

/// Publishes files whose bytes are all done and which have no name yet: a full disk or a folder in the way prevented it.
fn publish_complete(receiver: &Receiver, archive: &Archive) -> Result<()> {
    for file in archive.unpublished()? {
        publish::prove(receiver, archive, &file, None)?;
    }
    Ok(())
}

fn empty_files(receiver: &Receiver, archive: &Archive, failures: &mut Failures) -> Result<()> {
    let mut cache = FolderCache::default();
    archive.with_index(|index| {
        index.empty_files(|file| {
            if !archive.state().published.contains(file.id..file.id + 1)
                && let Err(e) = empty_file(receiver, archive, &file, &mut cache)
            {
                failures.add(Some(file.id), &file.path, &e)?;
            }
            Ok(ControlFlow::Continue(()))
        })
    })
}

fn empty_file(
    receiver: &Receiver,
    archive: &Archive,
    file: &FileEntry,
    cache: &mut FolderCache,
) -> Result<()> {
    archive.staging.write_whole(file, &[])?;
    receiver.sink.publish(&archive.staging, &Staging::name(file.id), &file.path, cache)?;
    publish::note_published(receiver, archive, &std::iter::once(file.id..file.id + 1).collect());
    Ok(())
}

/// A folder that was moved away meanwhile is not held open for long.
const RENEW_CACHE: u64 = 1024;

/// Folders that are remembered because only their metadata are wrong: what came into them has changed their times.
const REMEMBERED: usize = 4096;

/// Directories, then links, then the directories' metadata, deepest first: making something in a directory changes its time.
/// Where nothing had to be made, only those are set that are wrong.
fn nodes(receiver: &Receiver, archive: &Archive, failures: &mut Failures) -> Result<()> {
    let sink = &receiver.sink;
    let (mut cache, mut changed, mut seen) = (FolderCache::default(), false, 0u64);
    let mut wrong = Vec::new();
    archive.with_index(|index| {
        index.nodes(|node| {
            seen += 1;
            if seen.is_multiple_of(RENEW_CACHE) {
                cache = FolderCache::default();
            }
            let meta = node.meta.as_ref();
            let made = match node.kind {
                NodeKind::Dir => match sink.folder_stands(&node.path, meta, &mut cache) {
                    Ok(true) => Ok(false),
                    Ok(false) if wrong.len() < REMEMBERED && sink.is_folder(&node.path, &mut cache) => {
                        wrong.push(node.clone());
                        Ok(false)
                    }
                    // What hinders looking hinders making, too, and says it better.
                    Ok(false) | Err(_) => sink.make_folder(&node.path).map(|()| true),
                },
                NodeKind::Symlink => {
                    sink.symlink(&archive.staging, &node.path, &node.target, meta, &mut cache)
                }
                NodeKind::Hardlink => hardlink(receiver, archive, index, &node, &mut cache),
            };
            match made {
                Ok(made) => changed |= made,
                Err(e) => {
                    changed = true;
                    failures.add(None, &node.path, &e)?;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if changed {
            return folder_times_of(sink, index, failures);
        }
        wrong.iter().rev().try_for_each(|node| folder_time(sink, node, failures))
    })
}

/// Something was made or removed in folders: that has changed their times.
fn folder_times(receiver: &Receiver, archive: &Archive, failures: &mut Failures) -> Result<()> {
    archive.with_index(|index| folder_times_of(&receiver.sink, index, failures))
}

fn folder_times_of(sink: &DiskSink, index: &IndexReader, failures: &mut Failures) -> Result<()> {
    index.directories_deepest_first(|node| {
        folder_time(sink, &node, failures)?;
        Ok(ControlFlow::Continue(()))
    })
}

fn folder_time(sink: &DiskSink, node: &Node, failures: &mut Failures) -> Result<()> {
    match node.meta.as_ref().map(|meta| sink.apply_folder_meta(&node.path, meta)) {
        Some(Err(e)) => failures.add(None, &node.path, &e),
        _ => Ok(()),
    }
}

fn hardlink(
    receiver: &Receiver,
    archive: &Archive,
    index: &IndexReader,
    node: &Node,
    cache: &mut FolderCache,
) -> Result<bool> {
    let target = EntryPath::new(node.target.clone()).map_err(|e| {
        Error::new(ErrorKind::BadIndex, format!("the target of hard link \"{}\" {e}", node.path))
    })?;
    // Whatever else has the target's name is no content that was proven.
    let published = index.id_of(&target)?.is_some_and(|id| archive.state().published.contains(id..id + 1));
    if !published {
        return Err(Error::new(
            ErrorKind::Source,
            format!("\"{target}\", of which it is another name, is not in place"),
        ));
    }
    receiver.sink.hardlink(&archive.staging, &node.path, &target, cache)
}
