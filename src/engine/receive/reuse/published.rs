//! Ranges of published files with which a file shares extents: they are copied before the published
//! files are replaced.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::files::published::open_unmodified;
use super::{ReuseSource, Staged};
use crate::archive::entry::FileEntry;
use crate::archive::extent::Piece;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::{ErrorKind, Result};
use crate::sink::disk::{FolderCache, Staging};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;

/// Files that are looked at for one piece: many may share it.
const MAX_SOURCES: usize = 64;

/// The published files of the previous generation.
pub(crate) struct PublishedFiles<'a> {
    context: &'a Context,
    previous: &'a Archive,
    published: &'a RangeSet,
    /// Contiguous files from this byte of the archive on are new, and share nothing.
    new_from: u64,
    /// What was copied from last, with its id; `None` inside says that it was modified since it was
    /// published.
    source: Option<(u64, Option<File>)>,
}

impl<'a> PublishedFiles<'a> {
    /// Of `previous`, what is `published`. With `rewind`, older content may be asked for, too,
    /// wherever it is.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(crate) fn new(
        context: &'a Context,
        previous: &'a Archive,
        published: &'a RangeSet,
        rewind: bool,
    ) -> Result<Self> {
        let new_from = if rewind { u64::MAX } else { previous.with_index(IndexReader::archive_bytes)? };
        Ok(Self { context, previous, published, new_from, source: None })
    }

    fn may_share(&self, file: &FileEntry) -> bool {
        file.fragmented || file.offset < self.new_from
    }

    /// Published files that have bytes of `piece`, with where they have them.
    fn sources_of(&self, piece: &Piece) -> Result<Vec<(FileEntry, Piece)>> {
        let mut sources = Vec::new();
        self.previous.with_index(|index| {
            let mut take = |source: &FileEntry, theirs: &Piece| {
                sources.push((source.clone(), theirs.clone()));
                if sources.len() < MAX_SOURCES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            index.pieces_in(&piece.range, |source, theirs| {
                let is_published = self.published.contains(source.id..source.id + 1);
                Ok(if is_published { take(source, theirs) } else { ControlFlow::Continue(()) })
            })?;
            // Several generations may come at once: what the first of them replaces still has its
            // name then.
            index.tombstone_pieces_in(&piece.range, |source, theirs| Ok(take(source, theirs)))
        })?;
        Ok(sources)
    }

    /// Copies what there is of a piece, and adds it to `here`, in bytes of the file.
    fn copy(
        &mut self,
        file: &FileEntry,
        piece: &Piece,
        staging: &Staging,
        here: &mut RangeSet,
    ) -> Result<()> {
        let whole = piece.file_offset..piece.file_offset + (piece.range.end - piece.range.start);
        for (source, theirs) in self.sources_of(piece)? {
            let Some(common) = theirs.within(&piece.range) else { continue };
            let to = piece.file_offset_of(common.range.start)..piece.file_offset_of(common.range.end);
            let missing: RangeSet = here.missing(to.clone()).collect();
            for range in missing.iter() {
                let Some(content) = self.open(&source) else { break };
                let from = theirs.file_offset_of(common.range.start) + (range.start - to.start);
                match staging.copy_from(file.id, content, from, range.end - range.start, range.start) {
                    Ok(()) => here.insert(range),
                    // It can still come from the sender.
                    Err(e) if e.kind() == ErrorKind::Source => tracing::warn!("{e}"),
                    Err(e) => return Err(e),
                }
            }
            if here.contains(whole.clone()) {
                break;
            }
        }
        Ok(())
    }

    fn open(&mut self, source: &FileEntry) -> Option<&File> {
        if self.source.as_ref().is_none_or(|(id, _)| *id != source.id) {
            self.source = Some((source.id, open_unmodified(&self.context.sink, source)));
        }
        self.source.as_ref().and_then(|(_, file)| file.as_ref())
    }
}

impl ReuseSource for PublishedFiles<'_> {
    /// Holes of a source take nothing.
    fn copied_bytes(&mut self, index: &IndexReader, file: &FileEntry) -> Result<Option<u64>> {
        if !self.may_share(file) {
            return Ok(None);
        }
        let (mut copied_bytes, mut on_disk) = (0u64, BTreeMap::new());
        let mut cache = FolderCache::default();
        index.pieces_of(file, |piece| {
            let mut common = RangeSet::default();
            for (source, theirs) in self.sources_of(&piece)? {
                let Some(shared) = theirs.within(&piece.range) else { continue };
                // What cannot be looked at is not copied either.
                let disk_bytes = || match self.context.sink.stat(&source.path, &mut cache) {
                    Ok(Some(stat)) => u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
                    _ => 0,
                };
                if *on_disk.entry(source.id).or_insert_with(disk_bytes) > 0 {
                    common.insert(shared.range);
                }
            }
            copied_bytes += common.covered();
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Some(copied_bytes.min(on_disk.values().sum())))
    }

    fn stage(&mut self, index: &IndexReader, file: &FileEntry, staging: &Staging) -> Result<Staged> {
        if !self.may_share(file) {
            return Ok(Staged::Nothing);
        }
        let mut here = RangeSet::default();
        index.pieces_of(file, |piece| {
            self.copy(file, &piece, staging, &mut here)?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Staged::Ranges(here))
    }
}
