//! What a deletion would take away, listed for a dry run, or for a run that names what is deleted.
//! The list comes from the code by which `finish` deletes.
//!
//! A sender asks for the list, and asks again until it is there; then it takes page after page. The
//! list is a file without a name, so that its length does not matter. It goes when no sender asks
//! for it any more.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::job::Job;
use super::super::open;
use super::delete::{Listed, Unlisted, list};
use crate::archive::digest::IndexDigest;
use crate::archive::entry::NodeKind;
use crate::archive::path::{EntryPath, printable};
use crate::archive::protocol::{CandidatesAnswer, CandidatesRequest, PAGE_BYTES};
use crate::engine::spill::PathSpill;
use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A sender asks more often than this.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(60);
/// Lists that there are at once.
const MAX_LISTS: usize = 8;

/// A list that is made, or is there.
pub struct CandidateList {
    tar_id: u64,
    request: CandidatesRequest,
    /// When a sender last asked for it.
    asked: Mutex<Instant>,
    entries: Mutex<Entries>,
    job: Job<Unlisted>,
}

/// The entries of a list.
struct Entries {
    spill: PathSpill,
    /// Where each page begins.
    pages: Vec<u64>,
}

impl Entries {
    fn push(&mut self, entry: &Listed<'_>) -> Result<()> {
        let end = self.spill.end();
        if self.pages.last().is_none_or(|start| end - start >= PAGE_BYTES) {
            self.pages.push(end);
        }
        self.spill.push(entry.node, entry.bytes, entry.path)
    }
}

impl CandidateList {
    fn new(tar_id: u64, request: CandidatesRequest, folder: &Path) -> Self {
        let entries = Mutex::new(Entries { spill: PathSpill::new(folder), pages: Vec::new() });
        Self { tar_id, request, asked: Mutex::new(Instant::now()), entries, job: Job::default() }
    }

    /// Waits until the list is there, at most for `timeout`; gives whether it is.
    ///
    /// # Errors
    /// What the receiver failed by when it made the list.
    pub async fn wait(&self, timeout: Duration) -> Result<bool> {
        *self.asked.lock() = Instant::now();
        self.job.wait(timeout).await;
        Ok(self.job.result(|_| ())?.is_some())
    }

    /// A page of the list, which is there. The first one is 0; a page behind the last one is empty.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn page(&self, number: u64) -> Result<CandidatesAnswer> {
        let Unlisted { refused, changed, absent } = self.job.result(Clone::clone)?.unwrap_or_default();
        let Entries { spill, pages } = &mut *self.entries.lock();
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let start = pages.get(number).copied().unwrap_or(spill.end());
        let next = pages.get(number.saturating_add(1)).copied();
        let mut entries = Vec::new();
        spill.each_in(start..next.unwrap_or(spill.end()), |node, bytes, path| {
            let letter = node.map_or("f", NodeKind::letter).to_string();
            entries.push((letter, bytes, printable(path.as_bytes())));
            Ok(())
        })?;
        Ok(CandidatesAnswer { entries, more: next.is_some(), refused, changed, absent })
    }

    fn is_abandoned(&self) -> bool {
        self.asked.lock().elapsed() >= ABANDONED_TIMEOUT
    }

    fn make(&self, context: &Context, origin: Origin, index: &IndexDigest) -> Result<Unlisted> {
        let archive = match origin {
            Origin::Archive(archive) => archive,
            Origin::Adoption(each_found) => {
                each_found(&mut |node, bytes, path| self.push(&Listed { path, node, bytes }))?;
                return Ok(Unlisted::default());
            }
        };
        // Another index waits until the list is made.
        let _shared = archive.lock_shared()?;
        archive.check_active(index)?;
        list(context, &archive, self.request, |entry| self.push(&entry))
    }

    fn push(&self, entry: &Listed<'_>) -> Result<()> {
        if self.is_abandoned() {
            let what = "no sender waits for this list of what could be deleted any more";
            return Err(Error::new(ErrorKind::Busy, what));
        }
        self.entries.lock().push(entry)
    }
}

/// Where the entries of a list come from.
enum Origin {
    Archive(Arc<Archive>),
    Adoption(EachFound),
}

/// Gives each entry that an adoption has found: the kind of a directory or link, the size of a file,
/// and the path.
pub(crate) type EachFound =
    Box<dyn FnOnce(&mut dyn FnMut(Option<NodeKind>, u64, &EntryPath) -> Result<()>) -> Result<()> + Send>;

/// The lists that there are.
#[derive(Default)]
pub(crate) struct CandidateLists(Mutex<Vec<Arc<CandidateList>>>);

impl CandidateLists {
    /// Starts to make a list of what could be deleted of archive `tar_id`, or of what was `adopted`
    /// for it; or gives the one that the request names.
    ///
    /// # Errors
    /// There is no such archive, another index is active, the list is not here any more
    /// ([`ErrorKind::NotFound`]), or too many other senders want one ([`ErrorKind::Busy`]).
    pub(crate) fn start(
        &self,
        context: &Arc<Context>,
        tar_id: u64,
        index: &IndexDigest,
        request: CandidatesRequest,
        adopted: Option<EachFound>,
    ) -> Result<Arc<CandidateList>> {
        let origin = match adopted {
            Some(found) => Origin::Adoption(found),
            None => Origin::Archive(open::get(context, tar_id)?),
        };
        if let Origin::Archive(archive) = &origin {
            archive.check_active(index)?;
        }
        let mut lists = self.0.lock();
        lists.retain(|list| !list.is_abandoned());
        if let Some(list) =
            lists.iter().find(|list| (list.tar_id, list.request.name) == (tar_id, request.name))
        {
            return Ok(list.clone());
        }
        if request.page > 0 {
            let what = "the list of what could be deleted is not here any more";
            return Err(Error::new(ErrorKind::NotFound, what).with_hint("run the same command again"));
        }
        if lists.len() >= MAX_LISTS {
            let what = "too many senders ask what could be deleted";
            return Err(Error::new(ErrorKind::Busy, what).with_hint("let them end"));
        }
        let list = Arc::new(CandidateList::new(tar_id, request, &context.incoming_path()));
        let (context, theirs, index) = (context.clone(), list.clone(), *index);
        let work = move || {
            theirs.job.run("the list of what could be deleted", || theirs.make(&context, origin, &index));
        };
        std::thread::Builder::new().name("candidates".into()).spawn(work).map_err(Error::thread)?;
        lists.push(list.clone());
        Ok(list)
    }
}
