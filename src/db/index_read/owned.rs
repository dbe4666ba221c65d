//! Which bytes of the archive the files of a slice have.

use super::IndexReader;
use crate::archive::ranges::RangeSet;
use crate::archive::slice::Stripes;
use crate::error::Result;
use std::ops::ControlFlow;

impl IndexReader {
    /// The bytes that the files of slice `number` have.
    ///
    /// # Errors
    /// SQLite fails, or a row is invalid.
    pub fn owned_bytes(&self, stripes: &Stripes, number: u64) -> Result<RangeSet> {
        let mut owned = RangeSet::default();
        self.files(|file| {
            if stripes.owner(&file) == number {
                self.pieces_of(&file, |piece| {
                    owned.insert(piece.range);
                    Ok(ControlFlow::Continue(()))
                })?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(owned)
    }
}
