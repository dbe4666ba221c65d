//! Where bytes come from.

pub mod base;
pub mod device;
pub mod disk;
pub mod s3;
pub mod walk;

use crate::archive::entry::FileEntry;

/// A piece of a file, and where its bytes go.
pub struct Piece<'b> {
    /// The file.
    pub file: FileEntry,
    /// Where in the file the piece begins.
    pub file_offset: u64,
    /// As long as the piece.
    pub buffer: &'b mut [u8],
}

/// Reads pieces of files. Called from several threads at once, each call blocking.
pub trait Source: Send + Sync {
    /// Fills `buffer` with the bytes of `file` from `file_offset` on.
    ///
    /// # Errors
    /// Why the file must count as failed: gone, unreadable, or not what was indexed. The buffer's content is undefined then.
    fn read(&self, file: &FileEntry, file_offset: u64, buffer: &mut [u8]) -> Result<(), String>;

    /// The same for many pieces, in their order. A source that is far away reads them at the same time.
    fn read_each(&self, pieces: Vec<Piece<'_>>) -> Vec<Result<(), String>> {
        pieces.into_iter().map(|piece| self.read(&piece.file, piece.file_offset, piece.buffer)).collect()
    }
}
