//! The next generation of an index: scanned entries are compared with the previous generation, and
//! the differences are written.

use super::append::Append;
use super::entry::{Growth, HashedFile};
use super::previous::PreviousNodes;
use super::report::GenerationChanges;
use super::shared_extents;
use crate::archive::entry::{FileEntry, Node};
use crate::archive::extent::Extents;
use crate::archive::skipped::SkippedList;
use crate::db::generation::NextGeneration;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::index_write::Written;
use crate::engine::spill::IdSpill;
use crate::error::Result;
use std::path::PathBuf;

/// The rows of the next generation. Nothing is written as long as they are equal to those of the
/// previous one.
pub(super) struct NextRows {
    target: PathBuf,
    summary: Summary,
    nodes: PreviousNodes,
    next: Option<NextGeneration>,
    /// Rows from this id on are of the next generation.
    first_new_id: u64,
    changes: GenerationChanges,
    /// A file with the same content keeps its previous time.
    keeps_time: bool,
    append: Append,
}

impl NextRows {
    pub(super) fn new(
        target: PathBuf,
        summary: Summary,
        nodes: PreviousNodes,
        keeps_time: bool,
        append: Append,
    ) -> Self {
        let (first_new_id, changes) = (u64::MAX, GenerationChanges::default());
        Self { target, summary, nodes, next: None, first_new_id, changes, keeps_time, append }
    }

    fn next(&mut self) -> Result<&mut NextGeneration> {
        let next = match self.next.take() {
            Some(next) => next,
            None => {
                let next = NextGeneration::begin(&self.target)?;
                self.first_new_id = next.next_id();
                next
            }
        };
        Ok(self.next.insert(next))
    }

    /// Takes a file.
    pub(super) fn file(&mut self, hashed: HashedFile) -> Result<()> {
        let HashedFile { file, is_same_row, chunk_map, growth, .. } = hashed;
        if is_same_row {
            return Ok(());
        }
        self.next()?;
        let (first_new_id, keeps_time) = (self.first_new_id, self.keeps_time);
        let next = self.next()?;
        let previous = next.file_at(&file.path)?.filter(|previous| previous.id < first_new_id);
        if let Some(previous) = &previous
            && is_same_content(previous, &file)
        {
            // Digests that the row has are still right: it keeps them.
            let mut now = FileEntry { id: previous.id, md5: previous.md5, ..file };
            if let (true, Some(now), Some(previous)) = (keeps_time, &mut now.meta, &previous.meta) {
                now.mtime_ns = previous.mtime_ns;
            }
            if previous.meta == now.meta {
                next.set_origin(&now)?;
            } else {
                next.set_meta(&now)?;
                self.changes.touched += 1;
            }
            return self.chunk_map(now.id, chunk_map.as_deref(), true);
        }
        if let Some(previous) = &previous {
            next.remove_file(previous.id)?;
            self.changes.changed += 1;
        }
        // A path that was a further name of another file has the previous content of that file.
        let previous = match previous {
            Some(previous) => Some(previous),
            None if chunk_map.is_some() => self.next()?.file_linked_at(&file.path, first_new_id)?,
            None => None,
        };
        self.add(file, previous.as_ref(), chunk_map.as_deref(), growth)
    }

    /// Adds a file that is new or has a new content.
    fn add(
        &mut self,
        file: FileEntry,
        previous: Option<&FileEntry>,
        chunk_map: Option<&[u8]>,
        growth: Growth,
    ) -> Result<()> {
        let append = self.append;
        let next = self.next()?;
        let start = next.log_end();
        let known = if file.size > 0 { next.find_content(&file)? } else { None };
        let mut extents = Extents::default();
        match (&known, previous, chunk_map) {
            (Some(known), ..) => {
                for piece in next.pieces_of(known)? {
                    extents.push(piece.range.start, piece.range.end - piece.range.start);
                }
            }
            (None, Some(previous), _) if growth != Growth::None => {
                extents = shared_extents::grown(&next.pieces_of(previous)?, file.size, start);
            }
            (None, Some(previous), Some(chunk_map)) => {
                if let Some(previous_map) = next.chunk_map(previous.id)? {
                    let pieces = next.pieces_of(previous)?;
                    extents = shared_extents::changed(&pieces, &previous_map, chunk_map, start);
                }
            }
            _ => {}
        }
        // Without a range of a previous content, the file is laid out as a new one.
        let shares = extents.size() == file.size && extents.list().iter().any(|e| e.offset < start);
        let is_resumed = growth == Growth::Resumed && known.is_none() && shares;
        let id = if shares || (known.is_some() && file.size > 0) {
            next.add_fragmented(file, &extents)?
        } else {
            next.add_contiguous(file)?
        };
        if let Some(previous) = previous.filter(|_| is_resumed)
            && let Some(prefix_check) =
                next.chunk_map(previous.id)?.and_then(|chunk_map| append.beginning(&chunk_map))
        {
            next.set_prefix(previous.id, prefix_check)?;
        }
        let appended_bytes = next.log_end() - start;
        self.changes.added += 1;
        self.changes.known += u64::from(known.is_some());
        self.changes.appended_bytes += appended_bytes;
        self.chunk_map(id, chunk_map, false)
    }

    /// Stores the chunk map of a file; with `only_missing`, it replaces none.
    fn chunk_map(&mut self, id: u64, chunk_map: Option<&[u8]>, only_missing: bool) -> Result<()> {
        let (Some(chunk_map), Some(next)) = (chunk_map, &self.next) else { return Ok(()) };
        if only_missing && next.chunk_map(id)?.is_some() {
            return Ok(());
        }
        next.set_chunk_map(id, chunk_map)
    }

    /// Takes a directory or link.
    pub(super) fn node(&mut self, node: &Node) -> Result<()> {
        let is_same_row = self.nodes.has(node)?;
        self.remove_nodes()?;
        if is_same_row {
            return Ok(());
        }
        self.changes.nodes += 1;
        self.next()?.put_node(node)
    }

    /// Removes the nodes that the walk has passed without finding them.
    fn remove_nodes(&mut self) -> Result<()> {
        for node in std::mem::take(&mut self.nodes.vanished) {
            self.changes.nodes += 1;
            self.next()?.remove_node(&node.path)?;
        }
        Ok(())
    }

    /// Completes the generation. Gives `None` if it would be equal to the previous one, which then
    /// gets the list of entries that this run has `skipped`.
    pub(super) fn finish(
        mut self,
        skipped: &SkippedList,
        vanished: &IdSpill,
        started_s: u64,
    ) -> Result<(Option<Written>, GenerationChanges, Summary)> {
        self.remove_nodes()?;
        while let Some(node) = self.nodes.pop()? {
            self.changes.nodes += 1;
            self.next()?.remove_node(&node.path)?;
        }
        vanished.each(|id| {
            self.changes.removed += 1;
            self.next()?.remove_file(id)
        })?;
        if self.next.is_none() {
            let previous = IndexReader::open(&self.target)?.skipped()?;
            if previous.as_ref() == Some(skipped) {
                return Ok((None, self.changes, self.summary));
            }
        }
        self.next()?;
        let Some(next) = self.next.take() else { return Ok((None, self.changes, self.summary)) };
        if !next.is_changed() {
            // A file that was read although its content is the same has a new inode or time, which
            // the next run compares.
            next.finish_unchanged(started_s, skipped)?;
            return Ok((None, self.changes, self.summary));
        }
        Ok((Some(next.finish(started_s, skipped)?), self.changes, self.summary))
    }
}

/// Whether a previous row says the same of a content as `file`, or more.
fn is_same_content(previous: &FileEntry, file: &FileEntry) -> bool {
    // Where both have the BLAKE3, one of the runs may have been without md5.
    (previous.size, previous.blake3) == (file.size, file.blake3)
        && (file.blake3.is_some() || previous.md5 == file.md5)
        && file.is_verifiable()
}
