//! Where bytes come from.

pub mod disk;
pub mod walk;

use crate::archive::entry::FileEntry;

/// Reads pieces of files. Called from several threads at once, each call blocking.
pub trait Source: Send + Sync {
    /// Fills `buffer` with the bytes of `file` from `file_offset` on.
    ///
    /// # Errors
    /// Why the file must count as failed: gone, unreadable, or not what was indexed. The buffer's content is undefined then.
    fn read(&self, file: &FileEntry, file_offset: u64, buffer: &mut [u8]) -> Result<(), String>;
}
