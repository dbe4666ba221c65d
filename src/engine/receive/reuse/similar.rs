//! Ranges of files that were found below the base folder: a file with the same content under any
//! path, or the file at the same path, by their chunk maps.

use super::super::context::Context;
use super::super::files::published::open_unmodified;
use super::in_place::same_by_path;
use super::{Reusable, ReuseSource, Staged};
use crate::archive::chunk_map::{ChunkMap, MIN_CHUNK_MAP_BYTES, Run, diff};
use crate::archive::entry::FileEntry;
use crate::archive::protocol::Similarity;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::{ErrorKind, Result};
use crate::sink::disk::{FolderCache, Staging};
use std::ops::ControlFlow;
use std::path::Path;

/// What a file can be made of.
struct ContentMatch {
    source: FileEntry,
    /// They make up the file.
    runs: Vec<Run>,
}

impl ContentMatch {
    /// So many bytes of the file are there.
    fn same_bytes(&self) -> u64 {
        let bytes = self.runs.iter().map(|run| match run {
            Run::Same { length, .. } => *length,
            Run::New { .. } => 0,
        });
        bytes.sum()
    }
}

/// Finds for each file of an index what is there of its content.
pub(crate) struct ContentMatches<'a> {
    found: IndexReader,
    /// The index with its chunk maps.
    chunk_maps: &'a IndexReader,
}

impl<'a> ContentMatches<'a> {
    /// In what the index at `found` has; `chunk_maps` is the other index as it was made.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(crate) fn open(found: &Path, chunk_maps: &'a IndexReader) -> Result<Self> {
        Ok(Self { found: IndexReader::open(found)?, chunk_maps })
    }

    fn of(&self, file: &FileEntry) -> Result<Option<ContentMatch>> {
        if file.size > 0
            && let Some(source) = self.found.find_content_of(file)?
        {
            let runs = vec![Run::Same { old_offset: 0, length: file.size }];
            return Ok(Some(ContentMatch { source, runs }));
        }
        if file.size < MIN_CHUNK_MAP_BYTES {
            return Ok(None);
        }
        let Some(source) = self.found.file_at(&file.path)? else { return Ok(None) };
        let decode = |chunk_map: Option<Vec<u8>>| chunk_map.and_then(|bytes| ChunkMap::decode(&bytes).ok());
        let theirs = decode(self.found.chunk_map(source.id)?).filter(|map| map.size() == source.size);
        // What is wrong with a chunk map costs its sender the saving.
        let ours = decode(self.chunk_maps.chunk_map(file.id).unwrap_or(None));
        let (Some(theirs), Some(ours)) = (theirs, ours.filter(|map| map.size() == file.size)) else {
            return Ok(None);
        };
        let runs = diff(&theirs, &ours);
        let has_any = runs.iter().any(|run| matches!(run, Run::Same { .. }));
        Ok(has_any.then_some(ContentMatch { source, runs }))
    }
}

/// The files below the base folder.
pub(crate) struct SimilarFiles<'a> {
    pub(crate) context: &'a Context,
    pub(crate) matches: ContentMatches<'a>,
}

impl ReuseSource for SimilarFiles<'_> {
    /// Holes of the source take nothing.
    fn copied_bytes(&mut self, _: &IndexReader, file: &FileEntry) -> Result<Option<u64>> {
        let Some(found) = self.matches.of(file)? else { return Ok(None) };
        Ok(match self.context.sink.stat(&found.source.path, &mut FolderCache::default()) {
            Ok(Some(stat)) => {
                let disk_bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                Some(found.same_bytes().min(disk_bytes))
            }
            _ => None,
        })
    }

    fn stage(&mut self, _: &IndexReader, file: &FileEntry, staging: &Staging) -> Result<Staged> {
        let Some(found) = self.matches.of(file)? else { return Ok(Staged::Nothing) };
        let Some(content) = open_unmodified(&self.context.sink, &found.source) else {
            return Ok(Staged::Nothing);
        };
        let (mut here, mut at) = (RangeSet::default(), 0);
        for run in &found.runs {
            match *run {
                Run::New { length } => at += length,
                Run::Same { old_offset, length } => {
                    match staging.copy_from(file.id, &content, old_offset, length, at) {
                        Ok(()) => here.insert(at..at + length),
                        // It can still come from the sender.
                        Err(e) if e.kind() == ErrorKind::Source => tracing::warn!("{e}"),
                        Err(e) => return Err(e),
                    }
                    at += length;
                }
            }
        }
        Ok(Staged::Ranges(here))
    }
}

/// How much of the index at `index` there is in what the one at `found` says; `chunk_maps` is the
/// index as it was made. The folder `scratch` is for what is temporary.
///
/// # Errors
/// An index cannot be read.
pub(crate) fn similarity(
    scratch: &Path,
    found: Option<&Path>,
    chunk_maps: &IndexReader,
    index: &Path,
) -> Result<Similarity> {
    let index = IndexReader::open_growing(index)?;
    let mut similarity = Similarity::default();
    let same = found.map(|found| same_by_path(scratch, found, &index, |_| true, |_| true)).transpose()?;
    let same = same.unwrap_or_else(|| Reusable::new(scratch));
    (similarity.same_files, similarity.same_bytes) = (same.published.covered(), same.same_bytes);
    let matches = found.map(|found| ContentMatches::open(found, chunk_maps)).transpose()?;
    index.files(|file| {
        similarity.files += 1;
        similarity.total_bytes += file.size;
        if let Some(matches) = matches.as_ref().filter(|_| !same.published.contains(file.id..file.id + 1)) {
            let bytes = matches.of(&file)?.map_or(0, |found| found.same_bytes());
            similarity.same_bytes += bytes;
            similarity.known_files += u64::from(bytes == file.size && file.size > 0);
            similarity.similar_files += u64::from(bytes > 0 && bytes < file.size);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(similarity)
}
