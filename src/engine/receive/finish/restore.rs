//! What earlier runs had left comes back when the generation is reverted whose run deleted or replaced
//! it. The previous generation has no row of it: it is retained by its path ([`retention`]).
//!
//! An entry of the previous generation may have waited for the place until the reverted run freed
//! it: a file where earlier runs had left a folder with contents. It loses the place again, stays
//! staged, and counts as failed, as it did before that run. What cannot be brought back is named,
//! and stays where it is retained.
//!
//! A crash leaves each entry in one of both places. The next `finish` goes on.
//!
//! [`retention`]: super::super::retention

use super::super::archive::Archive;
use super::super::archive::gate::Shared;
use super::super::context::Context;
use super::super::reason::reason;
use super::super::retention::retained_name;
use super::delete::withdraw;
use super::failures::Failures;
use crate::archive::entry::{Meta, NodeKind};
use crate::archive::path::EntryPath;
use crate::db::index_read::Row;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::meta_of;
use crate::sink::disk::{DiskSink, FolderCache};

/// Why an entry of the index is not in place.
const HAS_ITS_PLACE: &str = "a folder that earlier runs had left has its place again; it goes, and the entry comes, with the next \
     run that deletes";

/// Brings back what the reverted `generation` had deleted or replaced of what earlier runs had left.
/// Gives whether anything has changed.
///
/// # Errors
/// The index cannot be read, or storage fails.
pub(super) fn restore_left(
    context: &Context,
    archive: &Archive,
    shared: &Shared<'_>,
    generation: u64,
    failures: &mut Failures<'_>,
) -> Result<bool> {
    let name = retained_name(archive.tar_id, generation);
    let mut restorer = Restorer { context, archive, shared, failures, name: &name, has_changed: false };
    context.sink.each_kept_left(&name, |path, is_folder| {
        let outcome = if is_folder { restorer.folder(path) } else { restorer.leaf(path) };
        let error = match outcome.map_err(|e| context.judged(e)) {
            Ok(true) => return Ok(()),
            Ok(false) => Error::new(ErrorKind::Source, "something else has its place"),
            Err(e) => e,
        };
        let lies = format!(
            "{}; what an earlier run had left there lies in \"{}/{path}\" below the base folder: move it from there before \
             another run with --keep",
            reason(&error),
            DiskSink::kept_left_path(&name)
        );
        restorer.failures.add(None, path, Error::new(error.kind(), lies))
    })?;
    Ok(restorer.has_changed)
}

struct Restorer<'a, 'f> {
    context: &'a Context,
    archive: &'a Archive,
    shared: &'a Shared<'a>,
    failures: &'a mut Failures<'f>,
    /// The folder of what is retained.
    name: &'a str,
    has_changed: bool,
}

impl Restorer<'_, '_> {
    /// Brings the file or link `path` back; false if something else has its place.
    fn leaf(&mut self, path: &EntryPath) -> Result<bool> {
        self.make_way(path)?;
        let _placing = self.context.archives.names.place();
        let is_back = self.context.sink.restore_kept_left(self.name, path)?;
        self.has_changed |= is_back;
        Ok(is_back)
    }

    /// Brings the folder `path` back, of which all has come back that was in it; false as of
    /// [`Self::leaf`].
    fn folder(&mut self, path: &EntryPath) -> Result<bool> {
        let (sink, mut cache) = (&self.context.sink, FolderCache::default());
        let (is_leaf, is_of_index, former) = self.archive.with_index(|index| {
            let is_leaf = index.is_leaf(path)?;
            Ok((is_leaf, !is_leaf && index.has_path(path)?, index.node_tombstone_at(path, 0)?))
        })?;
        if !is_of_index && sink.has_kept_in(self.name, path)? {
            // What is in it has its own reasons.
            return Ok(true);
        }
        if !is_of_index {
            self.make_way(path)?;
            let _placing = self.context.archives.names.place();
            if !sink.restore_kept_folder(path)? {
                return Ok(false);
            }
            self.has_changed = true;
            let former = former.filter(|node| node.kind == NodeKind::Dir).and_then(|folder| folder.meta);
            let stat = if is_leaf { sink.stat(path, &mut cache)? } else { None };
            // A link of the index has the tombstone of its path to itself: nothing says any more who
            // could enter the folder, so no other can.
            let meta = former.or_else(|| stat.map(|stat| Meta { mode: 0o700, ..meta_of(&stat) }));
            if let Some(meta) = meta {
                sink.apply_folder_meta(path, &meta, &mut cache)?;
            }
        }
        // The next `finish` need not look at it.
        sink.prune_kept_folder(self.name, path);
        Ok(true)
    }

    /// Withdraws the entry of the index that has the place of `path`, or of a folder above it.
    fn make_way(&mut self, path: &EntryPath) -> Result<()> {
        let (context, archive) = (self.context, self.archive);
        let found = context.sink.in_the_way(path, None, &mut FolderCache::default())?;
        let Some(found) = found else { return Ok(()) };
        let Some(row) = withdraw(context, archive, self.shared, &found)? else { return Ok(()) };
        self.has_changed = true;
        match row {
            Row::File(file) if file.size > 0 => archive.progress.fail(file.id, &file.path, HAS_ITS_PLACE),
            row => {
                let id = if let Row::File(file) = &row { Some(file.id) } else { None };
                self.failures.add(id, row.path(), Error::new(ErrorKind::Source, HAS_ITS_PLACE))?;
            }
        }
        Ok(())
    }
}
