//! What could not be put in place.

use super::super::context::Context;
use super::super::reason::reason;
use crate::archive::failures::FailureList;
use crate::archive::path::EntryPath;
use crate::archive::protocol::FailedFile;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// Entries that failed, and why.
pub(super) struct Failures<'a> {
    context: &'a Context,
    pub(super) list: FailureList,
    /// Better reasons than the system's, by the path as it is shown.
    pub(super) reasons: BTreeMap<String, String>,
    /// Further names of what failed for one of these reasons.
    pub(super) consequences: u64,
}

impl<'a> Failures<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, list: FailureList::default(), reasons: BTreeMap::new(), consequences: 0 }
    }

    /// Adds an entry that failed with `error`.
    ///
    /// # Errors
    /// The error is not the fault of one entry.
    pub(super) fn add(&mut self, id: Option<u64>, path: &EntryPath, error: Error) -> Result<()> {
        let error = &self.context.judged(error);
        if !error.kind().is_of_one_file() {
            return Err(Error::new(error.kind(), reason(error)));
        }
        let path = path.to_string();
        let reason = self.reasons.get(&path).cloned().unwrap_or_else(|| reason(error));
        self.list.add(FailedFile { id, path, reason });
        Ok(())
    }
}
