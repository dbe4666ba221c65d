//! Reading pieces of indexed files.

use crate::archive::entry::FileEntry;
use crate::error::Error;

/// A piece of a file, and the buffer for its bytes.
pub struct Piece<'b> {
    /// The file.
    pub file: FileEntry,
    /// Where in the file the piece begins.
    pub file_offset: u64,
    /// As long as the piece.
    pub buffer: &'b mut [u8],
}

/// Reads pieces of files. Called from several threads at once; each call blocks.
pub trait Source: Send + Sync {
    /// Fills `buffer` with the bytes of `file` from `file_offset` on.
    ///
    /// # Errors
    /// Why the file must count as failed: it is gone, unreadable, or not as it was indexed. The
    /// content of the buffer is undefined then.
    fn read(&self, file: &FileEntry, file_offset: u64, buffer: &mut [u8]) -> Result<(), String>;

    /// Reads many pieces; gives the outcomes in their order. A remote source reads them in
    /// parallel.
    fn read_each(&self, pieces: Vec<Piece<'_>>) -> Vec<Result<(), String>> {
        pieces.into_iter().map(|piece| self.read(&piece.file, piece.file_offset, piece.buffer)).collect()
    }

    /// Why nothing can be read any more, once that is so: a failure from then on is not that of its
    /// file.
    fn failure(&self) -> Option<Error> {
        None
    }
}
