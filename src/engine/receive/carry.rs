//! What of a former index still counts when another one takes its place.

use super::archive::Archive;
use super::beginning::Begun;
use super::{Receiver, publish};
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::{IndexReader, WalkRows};
use crate::error::Result;
use crate::sink::Expected;
use crate::sink::disk::FolderCache;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// What is there already for an index that nobody has sent anything for.
#[derive(Default)]
pub(super) struct Carried {
    /// Bytes of its archive that need not come.
    pub(super) done: RangeSet,
    /// Files that have their names.
    pub(super) published: RangeSet,
    /// Files that have their content and their names, but whose metadata are still those of the former index.
    pub(super) touched: Vec<Touched>,
    /// Files that are staged as far as they begin with former ones.
    pub(super) begun: BTreeMap<u64, Begun>,
    /// Size of the files that were found under their path, in bytes.
    pub(super) same_bytes: u64,
}

impl Carried {
    /// Files without their metadata are not published.
    pub(super) fn hold_back_touched(&mut self) {
        self.touched.iter().for_each(|&Touched { id, .. }| self.published.remove(id..id + 1));
    }
}

/// A file that has everything but its metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Touched {
    pub(super) id: u64,
    /// When its content changed, as far as was known, in nanoseconds since 1970.
    pub(super) former_mtime_ns: Option<i64>,
}

impl Touched {
    /// The file `id`, of which the former row is `old`.
    pub(super) fn of(id: u64, old: &FileEntry) -> Self {
        Self { id, former_mtime_ns: old.meta.map(|meta| meta.mtime_ns) }
    }
}

/// The files of the index at `path` that the former one had under the same path, with the same content, and that are published.
pub(super) fn by_path(receiver: &Receiver, former: &Archive, path: &Path) -> Result<Carried> {
    let (before, extent) = (former.state().published.clone(), former.extent());
    if before.covered() == 0 || !extent.sealed {
        return nothing(path);
    }
    let index = IndexReader::open_growing(path)?;
    let there = |id| before.contains(id..id + 1);
    let mut cache = FolderCache::default();
    let stands = |old: &FileEntry| receiver.may_stand(old, &mut cache);
    let mut carried = same_by_path(&former.index_path, &index, there, stands)?;
    let mut lacking = RangeSet::default();
    unpublished(&index, &carried.published, |file| lack(&index, &file, &mut lacking))?;
    carried.done = complement(&lacking, index.archive_bytes()?);
    carried.hold_back_touched();
    Ok(carried)
}

/// The files of `index` that the one at `former` has under the same path, with the same content, if `there` says so of their former ids.
/// Those whose metadata differ are both in what is published and what is touched, if `stands` says of the former row that the file is
/// still what it says: its new time will hide it from everybody who comes later. What is done is left open.
pub(super) fn same_by_path(
    former: &Path,
    index: &IndexReader,
    there: impl Fn(u64) -> bool,
    mut stands: impl FnMut(&FileEntry) -> bool,
) -> Result<Carried> {
    let mut carried = Carried::default();
    // Both in the order of the walk, so that none of them needs to be looked up. Of an index that was not written in that order, some are
    // not found: they are sent.
    let mut rows = WalkRows::new(IndexReader::open_growing(former)?)?;
    let mut next = rows.pop()?;
    let mut from = 0;
    loop {
        let mut page = Vec::new();
        index.files_in_walk_order(from, PAGE, |file| {
            page.push((file.path.sort_key(), file));
            Ok(ControlFlow::Continue(()))
        })?;
        if page.is_empty() {
            return Ok(carried);
        }
        from += page.len() as u64;
        for (key, file) in page {
            while next.as_ref().is_some_and(|(other, _)| *other < key) {
                next = rows.pop()?;
            }
            let Some((_, old)) = next.as_ref().filter(|(other, _)| *other == key) else { continue };
            // What has no time could have been changed by anybody.
            let same = old.has_content_of(&file) && old.meta.is_some();
            if !same || !there(old.id) {
                continue;
            }
            if old.meta != file.meta {
                if !stands(old) {
                    continue;
                }
                carried.touched.push(Touched::of(file.id, old));
            }
            carried.published.insert(file.id..file.id + 1);
            carried.same_bytes += file.size;
        }
    }
}

/// Nothing is there of the index at `path`. What no file of it asks for is done all the same.
pub(super) fn nothing(path: &Path) -> Result<Carried> {
    let index = IndexReader::open_growing(path)?;
    let mut carried = Carried::default();
    if index.is_scattered() {
        let mut lacking = RangeSet::default();
        unpublished(&index, &carried.published, |file| lack(&index, &file, &mut lacking))?;
        carried.done = complement(&lacking, index.archive_bytes()?);
    }
    Ok(carried)
}

const PAGE: u64 = 4096;

/// Gives the files of `index` that are not in `published`.
pub(super) fn unpublished(
    index: &IndexReader,
    published: &RangeSet,
    mut each: impl FnMut(FileEntry) -> Result<()>,
) -> Result<()> {
    let ids: RangeSet = published.missing(0..index.next_id()?).collect();
    index.files_of(&ids, |file| {
        each(file)?;
        Ok(ControlFlow::Continue(()))
    })
}

/// Adds where the content of `file` is in the archive.
pub(super) fn lack(index: &IndexReader, file: &FileEntry, lacking: &mut RangeSet) -> Result<()> {
    index.pieces_of(file, |piece| {
        lacking.insert(piece.range);
        Ok(ControlFlow::Continue(()))
    })
}

/// All of an archive but `lacking`. What no file asks for is nothing that anybody waits for.
pub(super) fn complement(lacking: &RangeSet, total_bytes: u64) -> RangeSet {
    lacking.missing(0..total_bytes).collect()
}

impl Receiver {
    /// Whether a published file is what its row says, as far as size and time tell. What cannot be looked at fails where it is changed.
    pub(super) fn may_stand(&self, file: &FileEntry, cache: &mut FolderCache) -> bool {
        publish::stands(self, file, cache).unwrap_or(true)
    }

    /// Gives files their metadata that have everything else.
    pub(super) fn touch(&self, archive: &Archive, touched: &[Touched]) -> Result<()> {
        let (mut cache, mut done) = (FolderCache::default(), RangeSet::default());
        for &Touched { id, former_mtime_ns } in touched {
            let Some(file) = archive.file(id)? else { continue };
            // It was looked at before, but much may have been copied since.
            let former = Expected::File { size: file.size, mtime_ns: former_mtime_ns };
            match self.sink.apply_file_meta(&file, Some(former), &mut cache) {
                Ok(true) => done.insert(id..id + 1),
                // Something else stands there, or nothing: it is asked for.
                Ok(false) => publish::take_back(self, archive, &file)?,
                Err(e) => {
                    archive.state().fail(file.id, &file.path, publish::reason(&e));
                }
            }
        }
        publish::note_published(self, archive, &done);
        Ok(())
    }
}
