//! A bucket as a source of pieces of files.

use super::bucket::Bucket;
use super::object::ObjectState;
use crate::archive::entry::FileEntry;
use crate::error::Error;
use crate::source::read::{Piece, Source};
use std::sync::Arc;

/// A range is not cut into parts that are shorter, in bytes: each costs a request.
const MIN_PART_BYTES: usize = 4 << 20;

/// How many bytes the parts have into which a range of `length` bytes is cut.
fn part_bytes(length: usize, requests: usize) -> usize {
    length.div_ceil(requests.max(1)).max(MIN_PART_BYTES)
}

impl Source for Bucket {
    fn failure(&self) -> Option<Error> {
        self.outage()
    }

    fn read(&self, file: &FileEntry, file_offset: u64, buffer: &mut [u8]) -> Result<(), String> {
        let piece = Piece { file: file.clone(), file_offset, buffer };
        self.read_each(vec![piece]).pop().unwrap_or_else(|| Err("it was not read".to_string()))
    }

    /// Reads small objects side by side, and the parts of large ranges as well.
    fn read_each(&self, pieces: Vec<Piece<'_>>) -> Vec<Result<(), String>> {
        let mut outcomes: Vec<Result<(), String>> = pieces.iter().map(|_| Ok(())).collect();
        let parts = pieces.into_iter().enumerate().flat_map(|(number, piece)| {
            let Piece { file, file_offset, buffer } = piece;
            let part_bytes = part_bytes(buffer.len(), self.requests);
            let state = Arc::new(ObjectState::of_file(&file, self.key(file.path.as_bytes())));
            buffer
                .chunks_mut(part_bytes)
                .enumerate()
                .map(move |(at, part)| (number, state.clone(), file_offset + (at * part_bytes) as u64, part))
        });
        let read = self.each(parts, async |(number, state, offset, part)| {
            let outcome = match &*state {
                Ok(state) => self.get_into(state, offset, part).await.map(drop).map_err(|e| e.reason()),
                Err(why) => Err(why.clone()),
            };
            (number, outcome)
        });
        for (number, outcome) in read {
            if outcomes[number].is_ok() {
                outcomes[number] = outcome;
            }
        }
        outcomes
    }
}
