//! The lock over all names below the base folder. Archives are received into the same folder: what
//! one of them has put in place, another one must not delete.
//!
//! A file gets its name before its archive records that. A thread that gives names holds
//! [`Placing`] from before the first of them until the archive has recorded them; so does a thread
//! that makes another index active, or begins to make folders and links. A thread that deletes asks
//! the other archives, and removes, while it holds [`Deleting`]: it sees whatever they have put in
//! place in what they have recorded, or that comes after the removal. Both are held for a moment
//! only, and a thread that holds one never waits for the other.

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The lock.
#[derive(Default)]
pub(crate) struct Names(RwLock<()>);

/// The right to give files their names, and to record that.
pub(crate) struct Placing<'a>(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'a, ()>);

/// No archive puts anything in place as long as this lives.
pub(crate) struct Deleting<'a>(#[expect(dead_code, reason = "it is held")] RwLockWriteGuard<'a, ()>);

impl Names {
    /// Waits until no thread deletes anything that another archive may be about to put in place.
    pub(crate) fn place(&self) -> Placing<'_> {
        Placing(self.0.read())
    }

    /// Waits until every archive has recorded what it has put in place, and keeps all of them from
    /// placing more.
    pub(crate) fn delete(&self) -> Deleting<'_> {
        Deleting(self.0.write())
    }
}
