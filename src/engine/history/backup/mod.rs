//! The backup of an index as a file ([`crate::archive::backup`] has the format): opening, reading,
//! appending, and compacting it.

mod append;
mod compact;
mod file;
mod open;
mod read;
#[cfg(test)]
mod tests;

pub use append::Record;
pub use file::{BackupFile, Damage};
pub(super) use file::{folder_of, sync_folder};
pub use read::{Intact, Payload};
