//! The archives of the base folder by their numbers: those that are served, and those of the
//! journal whose index cannot be read now.

use super::archive::Archive;
use super::archive::log::Transition;
use super::names::Names;
use crate::archive::source::{SourceClaim, SourceIdentity};
use crate::db::journal::ArchiveState;
use crate::error::{Error, ErrorKind, Result};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// All archives.
#[derive(Default)]
pub(crate) struct Archives {
    served: RwLock<HashMap<u64, Arc<Archive>>>,
    unserved: Mutex<Unserved>,
    transitions: Mutex<HashMap<u64, Arc<Transition>>>,
    /// The sources that numbers are bound to.
    sources: Mutex<HashMap<u64, SourceIdentity>>,
    /// The lock over what all of them put in place.
    pub(crate) names: Names,
}

#[derive(Default)]
struct Unserved {
    unreadable: BTreeMap<u64, Unreadable>,
    /// What was lost with an index that was given up.
    lost: BTreeMap<u64, String>,
}

/// An archive of the journal that is not served.
struct Unreadable {
    state: ArchiveState,
    /// Why it is not served.
    reason: String,
    /// A thread is about to open it.
    is_opening: bool,
}

impl Unreadable {
    fn error(&self, tar_id: u64) -> Error {
        let what = format!("archive {tar_id} is not served now: {}", self.reason);
        Error::new(ErrorKind::Busy, what).with_hint(match self.is_opening {
            true => "its index is being read; the same request is answered afterwards",
            false => "look for disk errors and limits (open files) in the system's log of the receiver",
        })
    }
}

impl Archives {
    /// The lock for changing the index of an archive number.
    pub(crate) fn transition(&self, tar_id: u64) -> Arc<Transition> {
        self.transitions.lock().entry(tar_id).or_default().clone()
    }

    /// The source that a number is bound to.
    pub(crate) fn source_of(&self, tar_id: u64) -> Option<SourceIdentity> {
        self.sources.lock().get(&tar_id).cloned()
    }

    /// The source that a number is bound to is now what the journal says.
    pub(crate) fn set_source(&self, tar_id: u64, source: Option<SourceIdentity>) {
        let mut sources = self.sources.lock();
        match source {
            Some(source) => sources.insert(tar_id, source),
            None => sources.remove(&tar_id),
        };
    }

    /// Makes sure that a sender with this claim may send archive `tar_id`.
    ///
    /// # Errors
    /// [`ErrorKind::OtherSource`]: the number is bound to another source, or the sender does not
    /// say which one it sends.
    pub(crate) fn check_source(&self, tar_id: u64, claim: &SourceClaim) -> Result<()> {
        self.source_of(tar_id).map_or(Ok(()), |bound| claim.check(tar_id, &bound.id, &bound.name))
    }

    /// The served archive of this number.
    pub(crate) fn get(&self, tar_id: u64) -> Option<Arc<Archive>> {
        self.served.read().get(&tar_id).cloned()
    }

    /// All served archives.
    pub(crate) fn all(&self) -> Vec<Arc<Archive>> {
        self.served.read().values().cloned().collect()
    }

    /// Whether `archive` is the one that is served under its number.
    pub(crate) fn is_served(&self, archive: &Arc<Archive>) -> bool {
        self.served.read().get(&archive.tar_id).is_some_and(|served| Arc::ptr_eq(served, archive))
    }

    /// Serves `archive` instead of whatever has its number.
    pub(crate) fn serve(&self, archive: Arc<Archive>) {
        self.served.write().insert(archive.tar_id, archive);
    }

    /// All served archives but `tar_id`.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: the index of one cannot be read now, so nothing is known of it.
    pub(crate) fn others(&self, tar_id: u64) -> Result<Vec<Arc<Archive>>> {
        self.check_all_served()?;
        Ok(self.served.read().values().filter(|archive| archive.tar_id != tar_id).cloned().collect())
    }

    /// Makes sure that the base folder is for archive `tar_id` alone. What is found there can only
    /// be its own then. To be asked again before what was found counts: another archive may have
    /// begun meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::WrongIndex`]: another archive is received into the folder. Or as
    /// [`Self::others`].
    pub(crate) fn check_alone(&self, tar_id: u64) -> Result<()> {
        let Some(other) = self.others(tar_id)?.first().map(|other| other.tar_id) else { return Ok(()) };
        let what = format!("archive {other} is received into this folder, too: what is there may be its own");
        Err(Error::new(ErrorKind::WrongIndex, what).with_hint(
            "a copy can be adopted only where its folder is for one archive; use the same --tar-id",
        ))
    }

    /// Whether the base folder is for one archive alone: where it is not, no archive says how the
    /// folder itself is.
    pub(crate) fn has_one(&self) -> bool {
        // One that cannot be opened now is there all the same.
        self.check_all_served().is_ok() && self.served.read().len() == 1
    }

    /// Makes sure that all archives of the folder are served.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: the index of one cannot be read now.
    pub(crate) fn check_all_served(&self) -> Result<()> {
        let unserved = self.unserved.lock();
        let first = unserved.unreadable.iter().next();
        first.map_or(Ok(()), |(&tar_id, unreadable)| Err(unreadable.error(tar_id)))
    }

    /// Makes sure that no archive is being opened: what it has put in place will be known in a
    /// moment.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: the index of one is being read.
    pub(crate) fn check_none_opens(&self) -> Result<()> {
        let unserved = self.unserved.lock();
        let opening = unserved.unreadable.iter().find(|(_, unreadable)| unreadable.is_opening);
        opening.map_or(Ok(()), |(&tar_id, unreadable)| Err(unreadable.error(tar_id)))
    }

    /// Makes sure that archive `tar_id` is served, or new.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: its index cannot be read now.
    pub(crate) fn check_readable(&self, tar_id: u64) -> Result<()> {
        let unserved = self.unserved.lock();
        unserved.unreadable.get(&tar_id).map_or(Ok(()), |unreadable| Err(unreadable.error(tar_id)))
    }

    /// Adds an archive of the journal, which the caller is about to open.
    pub(crate) fn add_unserved(&self, state: ArchiveState) {
        let unreadable =
            Unreadable { reason: "its index is being checked".to_string(), is_opening: true, state };
        self.unserved.lock().unreadable.insert(unreadable.state.tar_id, unreadable);
    }

    /// The state of an archive that is not served, if no other thread is about to open it: the
    /// caller is now.
    pub(crate) fn begin_opening(&self, tar_id: u64) -> Option<ArchiveState> {
        let mut unserved = self.unserved.lock();
        let unreadable = unserved.unreadable.get_mut(&tar_id).filter(|unreadable| !unreadable.is_opening)?;
        unreadable.is_opening = true;
        Some(unreadable.state.clone())
    }

    /// The archive is served now.
    pub(crate) fn opened(&self, tar_id: u64) {
        self.unserved.lock().unreadable.remove(&tar_id);
    }

    /// The archive could not be opened for `reason`. The next request tries again.
    pub(crate) fn not_opened(&self, tar_id: u64, reason: String) {
        if let Some(unreadable) = self.unserved.lock().unreadable.get_mut(&tar_id) {
            (unreadable.reason, unreadable.is_opening) = (reason, false);
        }
    }

    /// The index of the archive is damaged, and given up; `loss` is what its sender has to hear.
    pub(crate) fn give_up(&self, tar_id: u64, loss: String) {
        let mut unserved = self.unserved.lock();
        unserved.unreadable.remove(&tar_id);
        unserved.lost.insert(tar_id, loss);
        self.served.write().remove(&tar_id);
    }

    /// What was lost with an index of the archive.
    pub(crate) fn lost(&self, tar_id: u64) -> Option<String> {
        self.unserved.lock().lost.get(&tar_id).cloned()
    }

    /// The sender of the archive has heard it.
    pub(crate) fn forget_lost(&self, tar_id: u64) {
        self.unserved.lock().lost.remove(&tar_id);
    }
}
