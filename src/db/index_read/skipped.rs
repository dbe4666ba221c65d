//! What was left out of an index.

use super::super::meta;
use super::IndexReader;
use crate::archive::skipped::SkippedList;
use crate::error::Result;

impl IndexReader {
    /// What the last run over the source left out of the index. `None`: the index does not say, so
    /// an entry that it lacks may still be there.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn skipped(&self) -> Result<Option<SkippedList>> {
        if !self.is_ours() {
            return Ok(None);
        }
        self.skipped_of(self.meta(&meta::GENERATION)?.unwrap_or(1))
    }

    /// The same for another generation of the index: the previous one is known, too.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn skipped_of(&self, generation: u64) -> Result<Option<SkippedList>> {
        self.meta(&meta::skipped_of(generation))
    }
}
