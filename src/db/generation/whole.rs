//! A later generation of an index that comes as a whole: to a receiver that has nothing to change.

use super::super::file::open_private;
use super::super::index_read::IndexReader;
use super::super::index_write::Written;
use super::super::meta::{self, Md5s};
use super::super::{db_error, schema};
use super::editor::Editor;
use super::tombstones::Placed;
use crate::archive::extent::Extent;
use crate::error::{Error, ErrorKind, Result};
use std::ops::ControlFlow;
use std::path::Path;

/// Copies the index that `reader` reads row by row into a new one at `target`, as generation
/// `generation`, with `created_s` in seconds since 1970. The reader's index may be anybody's.
///
/// # Errors
/// [`ErrorKind::BadIndex`] says what is wrong with it. Others: our own disk or database.
pub fn copy_rows(reader: &IndexReader, target: &Path, generation: u64, created_s: u64) -> Result<Written> {
    let error = |e| db_error(format!("cannot write the index {}", target.display()), e);
    let begin = || -> rusqlite::Result<()> {
        let connection = open_private(target)?;
        connection.execute_batch(schema::INDEX)?;
        meta::HASH.set(&connection, &Md5s::All)
    };
    begin().map_err(error)?;
    // Remembers nothing, but has the tables for it: a change may follow.
    let mut editor = Editor::open(target, target, Some((generation, &Placed::default())))?;
    reader.files(|file| {
        editor.add_file(&file)?;
        if file.fragmented {
            let mut at = 0u64;
            reader.pieces_of(&file, |piece| {
                let length = piece.range.end - piece.range.start;
                let valid = piece.file_offset == at
                    && length > 0
                    && length <= crate::archive::extent::MAX_EXTENT_BYTES
                    && i64::try_from(piece.range.end).is_ok();
                at = at.saturating_add(length);
                if !valid || at > file.size {
                    return Err(Error::new(
                        ErrorKind::BadIndex,
                        format!("the index is refused: extents of file {} do not fit it", file.id),
                    ));
                }
                let extent = Extent { length, offset: piece.range.start };
                editor.extent(file.id, piece.file_offset, &extent)?;
                Ok(ControlFlow::Continue(()))
            })?;
            if at != file.size {
                return Err(Error::new(
                    ErrorKind::BadIndex,
                    format!("the index is refused: extents of file {} are missing", file.id),
                ));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    reader.nodes(|node| {
        editor.put_node(&node)?;
        Ok(ControlFlow::Continue(()))
    })?;
    editor.check_paths()?;
    let (end, content_bytes) = editor.end(2)?;
    editor.close(target, (&end, content_bytes), generation, created_s)?;
    Ok(Written { digest: end.digest, files: end.files, nodes: end.nodes, total_bytes: end.total_bytes })
}
