//! The active index on its way to another sender.

use super::super::context::Context;
use super::super::open;
use crate::archive::digest::IndexDigest;
use crate::db::export::export;
use crate::engine::index_body;
use crate::error::{Error, ErrorKind, Result};
use std::fs::File;

/// The index of archive `tar_id`, as a body that a sender could put, and its length.
///
/// # Errors
/// As [`Receiver::pack_index`](super::super::Receiver::pack_index).
pub(crate) fn pack(context: &Context, tar_id: u64, index: &IndexDigest) -> Result<(File, u64)> {
    let archive = open::get(context, tar_id)?;
    let folder = context.temporary_folder()?;
    let copy = folder.path().join("index.sqlite");
    {
        // Another index waits until the copy is made.
        let _shared = archive.lock_shared()?;
        archive.check_active(index)?;
        let bytes = archive.index_path.metadata().map_or(0, |metadata| metadata.len());
        // The copy, and the body that is made of it.
        context.check_space(bytes.saturating_mul(2))?;
        let written = export(&archive.index_path, &copy)?;
        if written.digest != *index {
            let what =
                format!("the index of archive {tar_id} is damaged: its rows are not those of its digest");
            return Err(Error::new(ErrorKind::Database, what));
        }
    }
    index_body::pack(&copy, folder.path())
}
