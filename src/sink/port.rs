//! The ports through which a receiver reaches its destination. [`super::disk::DiskSink`] is a
//! folder; every other sink keeps the same promises, which `tests.rs` states.

use super::cache::FolderCache;
use super::left::LeftOver;
use super::staging::Staging;
use crate::archive::path::EntryPath;
use crate::error::Result;

/// The storage below a receiver: what is durable, and how much room there is.
pub trait Storage: Send + Sync {
    /// Waits until everything that was written so far, by any process, is on stable storage.
    ///
    /// # Errors
    /// [`NoSpace`](crate::error::ErrorKind::NoSpace), or storage failed. What was written since the
    /// last success must count as lost.
    fn sync(&self) -> Result<()>;

    /// The bytes that are free for the receiver's user.
    ///
    /// # Errors
    /// The system's error.
    fn free_bytes(&self) -> Result<u64>;

    /// Bytes of the reserve that is held.
    fn held_bytes(&self) -> u64;

    /// Raises the reserve to `bytes`, if more than `left_bytes` are free besides. The reserve is a
    /// precaution: without room for it, nothing is held.
    fn hold(&self, bytes: u64, left_bytes: u64);

    /// Gives the reserve back; false if nothing was held.
    fn release(&self) -> bool;
}

/// Where files get their final names. Content is staged first, on a disk of the receiver, where
/// nothing but the receiver sees it.
pub trait Sink: Storage {
    /// The staging folder `name`, made if missing.
    ///
    /// # Errors
    /// The system's error.
    fn staging(&self, name: &str) -> Result<Staging>;

    /// Removes the staging folder `name`, if it is there.
    ///
    /// # Errors
    /// The system's error.
    fn remove_staging(&self, name: &str) -> Result<()>;

    /// Removes all staging folders but those that `keep` names.
    ///
    /// # Errors
    /// The system's error.
    fn remove_other_staging(&self, keep: &dyn Fn(&str) -> bool) -> Result<()>;

    /// Gives the staged file `id` its final name. It replaces a file or link of that name in one
    /// step, and an empty folder. It never replaces a folder with contents, and follows no link.
    ///
    /// # Errors
    /// The system's error, as a sentence about this file, which stays staged.
    fn publish(&self, staging: &Staging, id: u64, path: &EntryPath, cache: &mut FolderCache) -> Result<()>;

    /// The entries that a kill in the middle of a deletion has left. No deletion may run meanwhile.
    /// An entry that cannot be looked at stays where it is, and is named in a warning.
    fn left_overs(&self) -> Vec<LeftOver>;

    /// Puts these entries back where their place is known; if something else has the name, beside
    /// it under a numbered name. Entries that stay are named in warnings.
    fn put_back(&self, left: &[LeftOver]);
}
