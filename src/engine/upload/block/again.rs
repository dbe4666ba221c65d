//! Reading whole files before their blocks are sent once more.
//!
//! Of a file that spans blocks, the receiver learns only at its end that some host had other bytes.
//! It cannot tell which one. So in a further round each host sends blocks only of files that are here
//! as the index says, and leaves the others to the other hosts.

use super::{BlockSender, CHANGED, FilePiece};
use crate::archive::entry::FileEntry;
use crate::archive::verify::Verifier;
use crate::error::Result;
use crate::source::Piece;
use std::ops::{ControlFlow, Range};

/// Bytes that are read at once.
const READ_BYTES: u64 = 4 << 20;

impl BlockSender {
    /// Reads the files that have a part of `block`, each once in this run. Of a file that lies in it
    /// as a whole, the receiver says at once whether it is right.
    pub(super) fn verify_files(&self, block: &Range<u64>) -> Result<()> {
        let mut files: Vec<FileEntry> = Vec::new();
        self.with_index(|index| {
            index.pieces_in(block, |file, piece| {
                let is_known = self.state.lock().verified.contains(file.id..file.id + 1);
                let is_whole = piece.range == file.range()
                    && piece.within(block).is_some_and(|part| part.range == piece.range);
                if !is_whole && !is_known && files.last().is_none_or(|last| last.id != file.id) {
                    files.push(file.clone());
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        for file in files {
            let is_right = self.is_as_indexed(&file)?;
            let mut state = self.state.lock();
            state.verified.insert(file.id..file.id + 1);
            if !is_right {
                state.unfit.insert(file.id..file.id + 1);
            }
        }
        Ok(())
    }

    fn is_as_indexed(&self, file: &FileEntry) -> Result<bool> {
        let (mut verifier, mut at) = (Verifier::of(file), 0);
        let mut buffer = vec![0; READ_BYTES.min(file.size) as usize];
        while at < file.size {
            let length = READ_BYTES.min(file.size - at) as usize;
            let part = &mut buffer[..length];
            let piece = Piece { file: file.clone(), file_offset: at, buffer: part };
            if self.source.read_each(vec![piece]).iter().any(std::result::Result::is_err) {
                return self.source.failure().map_or(Ok(false), Err);
            }
            verifier.update(&buffer[..length]);
            at += length as u64;
        }
        Ok(verifier.is_verified())
    }

    /// Whether the file was found to be another one.
    pub(super) fn is_unfit(&self, id: u64) -> bool {
        self.state.lock().unfit.contains(id..id + 1)
    }

    /// What is said of a piece of such a file.
    pub(super) fn lost(file: &FileEntry, piece: crate::archive::extent::Piece) -> (FilePiece, String) {
        (FilePiece { file: file.clone(), piece }, CHANGED.to_string())
    }
}
