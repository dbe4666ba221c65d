//! The next generation of an index, which comes as a change of the one that is there. What a file has in common with what is published is
//! copied before anything is replaced.

use super::archive::Archive;
use super::beginning::{self, Beginnings};
use super::carry::{self, Carried, Touched};
use super::commit::lock;
use super::keep::{self, ChangeOptions};
use super::{Receiver, index_name, now_s, staging_name};
use crate::archive::change::MAX_BATCH_BYTES;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::extent::Piece;
use crate::archive::protocol::IndexAnswer;
use crate::archive::ranges::RangeSet;
use crate::db::generation::{Applied, apply, note_taken_back};
use crate::db::index_read::IndexReader;
use crate::db::journal::ArchiveState;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Expected;
use crate::sink::disk::{FolderCache, Staging};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The batches of a change in a file: each is its length as u32, little-endian, and so many bytes.
struct Batches {
    reader: BufReader<File>,
}

impl Batches {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("cannot read the uploaded change", e))?;
        Ok(Self { reader: BufReader::new(file) })
    }

    fn next_batch(&mut self) -> Result<Option<Vec<u8>>> {
        let cut = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::new(ErrorKind::BadIndex, "the uploaded change is cut")
            }
            _ => Error::io("cannot read the uploaded change", e),
        };
        let mut length = [0; 4];
        match self.reader.read(&mut length[..1]) {
            Ok(0) => return Ok(None),
            other => other.map_err(cut)?,
        };
        self.reader.read_exact(&mut length[1..]).map_err(cut)?;
        let length = u64::from(u32::from_le_bytes(length));
        if length > MAX_BATCH_BYTES {
            let what = format!("a batch of the uploaded change is longer than {MAX_BATCH_BYTES} bytes");
            return Err(Error::new(ErrorKind::BadIndex, what));
        }
        let mut batch = vec![0; length as usize];
        self.reader.read_exact(&mut batch).map_err(cut)?;
        Ok(Some(batch))
    }
}

impl Iterator for Batches {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose()
    }
}

impl Receiver {
    /// Makes the index that `expected` names of the one that `from` names, by the change in the file `uploaded`. If it is there already,
    /// nothing changes.
    ///
    /// # Errors
    /// [`ErrorKind::WrongIndex`]: another index is active, or what is to be taken back is not there any more. [`ErrorKind::BadIndex`]: the change is refused. Others: our own disk. The former
    /// index stands then.
    pub fn put_change(
        self: &Arc<Self>,
        tar_id: u64,
        uploaded: &Path,
        from: &IndexDigest,
        expected: &IndexDigest,
        options: ChangeOptions,
    ) -> Result<IndexAnswer> {
        self.committer.check()?;
        let replacing = self.replacing(tar_id);
        let _one = lock(&replacing);
        if let Some(answer) = self.has_index(tar_id, expected) {
            return Ok(answer);
        }
        let former = self.archive(tar_id)?;
        super::finish::check_active(&former, from)?;
        let mut log = lock(&former.log);
        let _finishing = lock(&former.finish);
        if let Some(log) = log.take() {
            log.fold()?;
        }
        // Everybody else is kept out from here on: what is published now is what there is to copy from.
        former.retire();
        let outcome = self.change(&former, uploaded, expected, options);
        let (archive, touched) = self.replaced(Some(former.clone()), outcome)?;
        drop(log);
        self.touch(&archive, &touched)?;
        let extent = archive.extent();
        tracing::info!(
            "archive {tar_id}: index {} with {} files, {} bytes, a generation of {from}",
            extent.digest,
            extent.files,
            extent.total_bytes
        );
        self.resume(&archive)?;
        Ok(IndexAnswer { rc: "ok".to_string(), digest: Some(extent.digest.to_string()), complete: false })
    }

    /// Gives the new archive, and the files of it that have everything but their metadata.
    fn change(
        &self,
        former: &Archive,
        uploaded: &Path,
        expected: &IndexDigest,
        options: ChangeOptions,
    ) -> Result<(Arc<Archive>, Vec<Touched>)> {
        let tar_id = former.tar_id;
        let folder = tempfile::tempdir_in(self.incoming_path())
            .map_err(|e| Error::io("cannot make a temporary folder", e))?;
        let index = folder.path().join("index.sqlite");
        std::fs::copy(&former.index_path, &index).map_err(|e| Error::io("cannot copy the index", e))?;
        let generation = self.next_generation(tar_id)?;
        let name = PathBuf::from(index_name(tar_id, expected, generation));
        let applied = apply(&index, &name, generation, now_s(), true, Batches::open(uploaded)?)?;
        if applied.end.digest != *expected {
            let what = format!("the change makes index {}, its sender says {expected}", applied.end.digest);
            return Err(Error::new(ErrorKind::BadIndex, what));
        }
        // As long as what is kept of it is there, whoever still has such a file open cannot write to what counts as hashed: it has another name.
        note_taken_back(&index, options.rewind.then_some(former.generation))?;
        let staged = staging_name(tar_id, generation);
        // What an attempt left that met a full disk.
        self.sink.remove_other_staging(|name| name != staged)?;
        let staging = self.sink.staging(&staged)?;
        let carried = self.carry_over(former, &index, &applied, &staging, options.rewind);
        if carried.is_err() && options.rewind {
            // It may never be asked for again.
            self.sink.remove_other_staging(|name| name != staged)?;
        }
        let Carried { done, published, touched, begun, .. } = carried?;
        if options.keep {
            self.keep_replaced(former, &applied.removed, generation)?;
        }
        let path = self.index_path(tar_id, expected, generation);
        std::fs::rename(&index, &path)
            .map_err(|e| Error::io(format!("cannot put {} in place", path.display()), e))?;
        // The journal must never name an index, or say of bytes that they are here, that a power loss can take away.
        self.committer.sync()?;
        let (digest, finished) = (*expected, false);
        let state = ArchiveState { tar_id, digest, generation, finished, done, published };
        Ok((self.activate_begun(state, begun)?, touched))
    }

    /// Finds out what is there of the new generation, and copies what its files have in common with those of the former one.
    fn carry_over(
        &self,
        former: &Archive,
        path: &Path,
        applied: &Applied,
        staging: &Staging,
        rewind: bool,
    ) -> Result<Carried> {
        // What was renamed by the last blocks must have its name for good: the journal will say so.
        self.committer.settle()?;
        let before = former.state().published.clone();
        let mut published = before.clone();
        applied.removed.iter().for_each(|&id| published.remove(id..id + 1));
        let index = IndexReader::open_growing(path)?;
        let (mut touched, mut cache) = (Vec::new(), FolderCache::default());
        for &id in &applied.changed {
            if !published.contains(id..id + 1) {
                continue;
            }
            // Its new time would hide from everybody who comes later that somebody else changed it.
            match former.file(id)?.filter(|old| self.may_stand(old, &mut cache)) {
                Some(old) => touched.push(Touched::of(id, &old)),
                None => published.remove(id..id + 1),
            }
        }
        let mut lacking = RangeSet::default();
        let mut copier = Copier { receiver: self, former, before: &before, staging, source: None };
        // What was there before comes back only where a generation is taken back.
        let mut kept = self.kept(former.tar_id)?;
        let new_from = former.with_index(IndexReader::archive_bytes)?;
        let list = &applied.beginnings;
        let (beginnings, mut begun) =
            (Beginnings { receiver: self, former, before: &before, staging, list }, BTreeMap::new());
        carry::unpublished(&index, &published, |file| {
            if kept.take(&file, staging)? {
                return Ok(());
            }
            if let Some(staged) = beginnings.stage(&file)? {
                staged.lack(&index, &file, &mut lacking)?;
                begun.insert(file.id, staged);
                return Ok(());
            }
            if !file.scattered && !rewind && file.offset >= new_from {
                return carry::lack(&index, &file, &mut lacking);
            }
            index.pieces_of(&file, |piece| {
                for gap in copier.copy(&file, &piece)?.iter() {
                    lacking.insert(gap);
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        if rewind {
            keep::check_all(&index, &published, staging)?;
        }
        let done = carry::complement(&lacking, applied.end.total_bytes);
        beginning::keep_staying(&mut begun, &index, &done)?;
        let mut carried = Carried { done, published, touched, begun, same_bytes: 0 };
        carried.hold_back_touched();
        Ok(carried)
    }
}

impl Receiver {
    /// Opens a file as it was published; `None` if it is not that any more.
    pub(super) fn open_published(&self, file: &FileEntry) -> Option<File> {
        // What cannot be looked at, or what its own mode forbids to read, can still come from the sender.
        let there = self.sink.stat(&file.path, &mut FolderCache::default()).unwrap_or(None);
        let stands = there.is_some_and(|stat| Expected::of(file).is(&stat));
        let open = if stands { self.sink.open_final(&file.path).unwrap_or(None) } else { None };
        if open.is_none() {
            tracing::info!("\"{}\" was changed or removed since it was received", file.path);
        }
        open
    }
}

/// Copies pieces of what is published into the staging folder.
struct Copier<'a> {
    receiver: &'a Receiver,
    former: &'a Archive,
    before: &'a RangeSet,
    staging: &'a Staging,
    /// What was copied from last, with its id; `None` inside says that it is not as it was published.
    source: Option<(u64, Option<File>)>,
}

impl Copier<'_> {
    /// Copies what there is of a piece; gives what there is not.
    fn copy(&mut self, file: &FileEntry, piece: &Piece) -> Result<RangeSet> {
        let mut left: RangeSet = std::iter::once(piece.range.clone()).collect();
        let mut sources = Vec::new();
        self.former.with_index(|index| {
            let mut take = |source: &FileEntry, theirs: &Piece| {
                sources.push((source.clone(), theirs.clone()));
                if sources.len() < MOST_SOURCES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            index.pieces_in(&piece.range, |source, theirs| {
                let published = self.before.contains(source.id..source.id + 1);
                Ok(if published { take(source, theirs) } else { ControlFlow::Continue(()) })
            })?;
            // Several generations may come at once: what the first of them replaces still has its name then.
            index.gone_pieces_in(&piece.range, |source, theirs| Ok(take(source, theirs)))
        })?;
        for (source, theirs) in sources {
            let Some(common) = theirs.within(&piece.range) else { continue };
            let wanted: Vec<_> = {
                let have: RangeSet = left.missing(common.range.clone()).collect();
                have.missing(common.range.clone()).collect()
            };
            for range in wanted {
                let length = range.end - range.start;
                self.open(&source)?;
                let Some(content) = self.source.as_ref().and_then(|(_, file)| file.as_ref()) else { break };
                let (from, to) = (theirs.file_offset_of(range.start), piece.file_offset_of(range.start));
                match self.staging.copy_from(file.id, content, from, length, to) {
                    Ok(()) => left.remove(range),
                    // It can still come from the sender.
                    Err(e) if e.kind() == ErrorKind::Source => tracing::warn!("{e}"),
                    Err(e) => return Err(e),
                }
            }
            if left.covered() == 0 {
                break;
            }
        }
        Ok(left)
    }

    fn open(&mut self, source: &FileEntry) -> Result<()> {
        if self.source.as_ref().is_none_or(|(id, _)| *id != source.id) {
            let file = self.receiver.open_published(source);
            self.source = Some((source.id, file));
        }
        Ok(())
    }
}

/// Files that are looked at for one piece: many may share it.
const MOST_SOURCES: usize = 64;
