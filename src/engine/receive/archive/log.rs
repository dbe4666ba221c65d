//! The log by which an archive's index grows, or grew, while it is open for more.

use crate::db::growing::GrowingIndex;
use crate::error::Result;
use parking_lot::Mutex;
use std::path::Path;

/// The right to change the index of one archive number: held while another index takes the active
/// one's place, or a batch is added to it. It outlives the archives that have the number in turn.
/// First of all locks.
pub(crate) type Transition = Mutex<OpenLog>;

/// The open log of the archive that is active.
#[derive(Default)]
pub(crate) struct OpenLog {
    /// With the generation of the archive.
    log: Option<(u64, GrowingIndex)>,
}

impl OpenLog {
    /// The log of the index at `path`, of this generation, opened if it is not; `None` if the index
    /// came as a whole.
    ///
    /// # Errors
    /// The index cannot be opened.
    pub(crate) fn open(
        &mut self,
        generation: u64,
        path: &Path,
        limit_bytes: u64,
    ) -> Result<Option<&mut GrowingIndex>> {
        let is_open = self.log.as_ref().is_some_and(|(open, _)| *open == generation);
        if !is_open {
            let log = GrowingIndex::open(path, limit_bytes)?;
            self.log = log.map(|log| (generation, log));
        }
        Ok(self.log.as_mut().map(|(_, log)| log))
    }

    /// Goes on with a log that was opened for the index of this generation.
    pub(crate) fn set(&mut self, generation: u64, log: GrowingIndex) {
        self.log = Some((generation, log));
    }

    /// Closes the log; it is opened again when it is needed.
    pub(crate) fn close(&mut self) {
        self.log = None;
    }

    /// Closes the log with everything in the one file of the index, so that it can be copied.
    ///
    /// # Errors
    /// The index cannot be written.
    pub(crate) fn checkpoint(&mut self, generation: u64, path: &Path, limit_bytes: u64) -> Result<()> {
        self.open(generation, path, limit_bytes)?;
        self.log.take().map_or(Ok(()), |(_, log)| log.fold())
    }
}
