//! Rows of an index that lead to one place, where the file system takes different names for one.
//! Only one of them can be there: the content that was put there last. The others are lost, so all
//! of them are named.

use super::super::archive::Archive;
use super::super::context::Context;
use super::cache::WalkCache;
use crate::archive::path::EntryPath;
use crate::archive::protocol::FAILED_NAMES;
use crate::db::index_read::Row;
use crate::error::Result;
use crate::folder::Folder;
use rustix::fs::Stat;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Why a row counts as failed.
pub(super) const COLLIDES: &str = "the receiver's file system takes its name and that of another entry of the index for one, and only one of \
     them can be there (rename one of them at the source, or receive into a file system that tells upper from lower case)";

/// Gives every row of the index that is in place, what is there, and the folder that it is in.
pub(super) fn each_live(
    context: &Context,
    archive: &Archive,
    mut each: impl FnMut(&Row, &Stat, &Folder) -> Result<()>,
) -> Result<()> {
    let published = archive.progress.published();
    let mut cache = WalkCache::default();
    let mut look = |row: Row| {
        if let Some((stat, folder)) = context.sink.stat_in(row.path(), cache.next()) {
            each(&row, &stat, &folder)?;
        }
        Ok(ControlFlow::Continue(()))
    };
    archive.with_index(|index| {
        index.files_of(&published, |file| look(Row::File(file)))?;
        index.nodes(|node| look(Row::Node(node)))
    })
}

/// Rows that lead to the place of another row, at most as many as an answer names: the id of a
/// file, and the path.
pub(super) fn collisions(context: &Context, archive: &Archive) -> Result<Vec<(Option<u64>, EntryPath)>> {
    let sink = &context.sink;
    if !sink.folds_names() {
        return Ok(Vec::new());
    }
    // Eight bytes a row are too many for the largest indexes: those are gone through in several
    // parts.
    let rows = archive.with_index(crate::db::index_read::IndexReader::next_id)?;
    let parts = rows / PART_ROWS + 1;
    let mut found = Vec::new();
    for part in 0..parts {
        let (mut places, mut shared) = (Vec::new(), BTreeMap::<u64, (u64, Option<bool>)>::new());
        each_live(context, archive, |row, stat, folder| {
            let key = sink.name_key(row.path(), stat, folder)?;
            if key.ino % parts == part {
                places.push(place(key.ino, key.folder));
            }
            Ok(())
        })?;
        places.sort_unstable();
        for places in places.chunk_by(|a, b| a == b).filter(|places| places.len() > 1) {
            shared.insert(places[0], (places.len() as u64, None));
        }
        if shared.is_empty() {
            continue;
        }
        each_live(context, archive, |row, stat, folder| {
            let (path, key) = (row.path(), sink.name_key(row.path(), stat, folder)?);
            if let Some((rows, judged)) = shared.get_mut(&place(key.ino, key.folder)) {
                let collides = match *judged {
                    Some(collides) => collides,
                    // Hard links have a name each.
                    None => *rows > sink.names_of(path, key.ino)?.max(1) as u64,
                };
                *judged = Some(collides);
                if collides && found.len() < FAILED_NAMES {
                    let id = if let Row::File(file) = row { Some(file.id) } else { None };
                    found.push((id, path.clone()));
                }
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Rows that are compared at once.
const PART_ROWS: u64 = 2 << 20;

fn place(ino: u64, folder: u64) -> u64 {
    // Which of two places that fall together is the right one, the folder's list tells.
    ino ^ folder.rotate_left(32)
}
