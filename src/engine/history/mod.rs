//! What an index knows of its past: the backup of its generations.

pub mod backup;
mod partial;
mod payload;
mod restore;
mod save;

pub use partial::collect_partial;
pub use restore::{RestoreReport, compact_backup, restore};
pub use save::{SaveReport, save};
