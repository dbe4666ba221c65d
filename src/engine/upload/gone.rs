//! Empty files that the source does not have. Where nothing was read for an index, as for one of a
//! list, no block shows that such a file is gone, or is something else: the receiver would make it.

use super::super::tasks::blocking;
use super::job::Upload;
use crate::archive::entry::FileEntry;
use crate::archive::protocol::format_ids;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use std::ops::ControlFlow;

/// An empty file that the source does not have, and why.
pub(super) struct GoneFile {
    pub(super) file: FileEntry,
    pub(super) reason: String,
}

/// The receiver is told of so many.
const MAX_GONE: usize = 10_000;

impl Upload {
    /// Finds the empty files that the source does not have, and has each `finish` tell of them. A
    /// bucket is not asked: its inventory is its own.
    ///
    /// # Errors
    /// The index cannot be read, or there are too many.
    pub(super) async fn find_gone(&self) -> Result<Vec<GoneFile>> {
        let (database, source) = (self.options.database.clone(), self.source.clone());
        let gone = blocking(move || {
            let mut gone = Vec::new();
            IndexReader::open(&database)?.empty_files(|file| {
                // A row with either was made of the entry itself.
                if file.origin.is_none()
                    && file.object.is_none()
                    && let Err(reason) = source.read(&file, 0, &mut [])
                {
                    gone.push(GoneFile { file, reason });
                }
                Ok(if gone.len() > MAX_GONE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            Ok(gone)
        });
        let gone = gone.await?;
        if gone.len() > MAX_GONE {
            let what = format!("the source does not have more than {MAX_GONE} empty files of the index");
            return Err(Error::new(ErrorKind::Source, what)
                .with_hint("is it the source of this index? Make a new one with: tar-like index -c"));
        }
        let mut ids: Vec<u64> = gone.iter().map(|GoneFile { file, .. }| file.id).collect();
        ids.sort_unstable();
        *self.gone.lock() = format_ids(&ids);
        Ok(gone)
    }
}
