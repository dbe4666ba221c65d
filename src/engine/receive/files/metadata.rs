//! Metadata updates: files of the new index that have their content and their names, and the
//! metadata of the previous index.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::reason::reason;
use super::fence::permit;
use super::invalidate::{MAX_INVALIDATED_AT_ONCE, invalidate};
use super::others::{Leaf, refuse_conflict};
use super::publish::record_published;
use super::published::mend;
use crate::archive::entry::{FileEntry, Meta};
use crate::archive::ranges::RangeSet;
use crate::engine::spill::Spill;
use crate::error::Result;
use crate::sink::Expected;
use crate::sink::disk::FolderCache;
use std::path::Path;

/// A file that has everything but its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetadataUpdate {
    pub(crate) id: u64,
    /// The metadata that it had, as far as they are known.
    pub(crate) previous: Option<Meta>,
}

/// Length of an update in the file of a list, in bytes.
const RECORD_BYTES: usize = 32;

impl MetadataUpdate {
    /// For the file `id`, of which the previous row is `old`.
    pub(crate) fn of(id: u64, old: &FileEntry) -> Self {
        Self { id, previous: old.meta }
    }

    fn encode(&self) -> [u8; RECORD_BYTES] {
        let meta = self.previous.unwrap_or(Meta { mode: u32::MAX, mtime_ns: 0, uid: 0, gid: 0 });
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&self.id.to_le_bytes());
        record[8..16].copy_from_slice(&meta.mtime_ns.to_le_bytes());
        record[16..20].copy_from_slice(&meta.mode.to_le_bytes());
        record[20..24].copy_from_slice(&meta.uid.to_le_bytes());
        record[24..28].copy_from_slice(&meta.gid.to_le_bytes());
        record
    }

    fn decode(record: &[u8; RECORD_BYTES]) -> Self {
        let long = |at: usize| std::array::from_fn(|i| record[at + i]);
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| record[at + i]));
        let (mode, uid, gid) = (short(16), short(20), short(24));
        let meta = Meta { mode, mtime_ns: i64::from_le_bytes(long(8)), uid, gid };
        // No mode has all bits.
        Self { id: u64::from_le_bytes(long(0)), previous: (mode != u32::MAX).then_some(meta) }
    }
}

/// Updates on disk.
pub(crate) struct UpdateList(Spill<RECORD_BYTES>);

impl UpdateList {
    /// No updates; the file of them will be in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self(Spill::new(folder))
    }

    /// Adds an update.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn push(&mut self, update: MetadataUpdate) -> Result<()> {
        self.0.push(update.encode())
    }

    /// Gives all updates in the order in which they came.
    ///
    /// # Errors
    /// The file cannot be read, or an error of `each`.
    pub(crate) fn each(&mut self, mut each: impl FnMut(MetadataUpdate) -> Result<()>) -> Result<()> {
        self.0.each(|record| each(MetadataUpdate::decode(&record)))
    }
}

/// Gives files their metadata that have everything else. What another program wrote since it was
/// published is asked for again.
///
/// # Errors
/// What is not the fault of one file.
pub(crate) fn apply_updates(context: &Context, archive: &Archive, updates: &mut UpdateList) -> Result<()> {
    let shared = archive.lock_shared()?;
    let (mut cache, mut done, mut lost) = (FolderCache::default(), RangeSet::default(), Vec::new());
    updates.each(|MetadataUpdate { id, previous }| {
        let Some(file) = archive.file(id)? else { return Ok(()) };
        // It was looked at before, but much may have been copied since.
        let expected = Expected::File { size: file.size, mtime_ns: previous.map(|meta| meta.mtime_ns) };
        let set = refuse_conflict(context, archive.tar_id, Leaf::File(&file), &mut cache).and_then(|()| {
            let _permit = permit(context, archive)?;
            let set = context.sink.apply_file_meta(&file, Some((expected, previous)), &mut cache)?;
            Ok(set || mend(&context.sink, &file, &mut cache)?)
        });
        match set {
            Ok(true) => done.insert(id..id + 1),
            // Something else has its name, or nothing.
            Ok(false) => lost.push(file),
            Err(e) => {
                let e = context.judged(e);
                if !e.kind().is_of_one_file() {
                    return Err(e);
                }
                archive.progress.fail(file.id, &file.path, reason(&e));
            }
        }
        if lost.len() >= MAX_INVALIDATED_AT_ONCE {
            invalidate(context, archive, &shared, &std::mem::take(&mut lost))?;
        }
        Ok(())
    })?;
    invalidate(context, archive, &shared, &lost)?;
    record_published(context, archive, &done, &context.archives.names.place());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_come_back_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut list = UpdateList::new(folder.path());
        list.each(|_| panic!("there is none")).unwrap();
        let meta = Meta { mode: 0o7777, mtime_ns: -5, uid: 1, gid: u32::MAX };
        let previous = |id: u64| id.is_multiple_of(2).then_some(meta);
        let updates: Vec<_> = (0..1000).map(|id| MetadataUpdate { id, previous: previous(id) }).collect();
        updates.iter().for_each(|update| list.push(*update).unwrap());
        for _ in 0..2 {
            let mut found = Vec::new();
            list.each(|update| {
                found.push(update);
                Ok(())
            })
            .unwrap();
            assert_eq!(found, updates);
        }
    }
}
