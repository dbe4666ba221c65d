//! What a walk finds, beside the former generation: what is the same is left alone, the rest makes the next one.

use super::former::Vanished;
use super::rows::FormerNodes;
use crate::archive::entry::{FileEntry, Node};
use crate::archive::extent::{Extents, Piece};
use crate::db::generation::NextGeneration;
use crate::db::index_read::Summary;
use crate::db::index_write::Written;
use crate::error::Result;
use std::path::PathBuf;
use std::sync::PoisonError;

/// What the next generation is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that are new, or have another content.
    pub added: u64,
    /// Of these, files whose content was known already, as another file.
    pub known: u64,
    /// Files of which only metadata changed.
    pub touched: u64,
    /// Files that went, or have another content now.
    pub removed: u64,
    /// Bytes that the archive has grown by: what has to be sent.
    pub appended_bytes: u64,
}

/// The rows of the next generation; nothing is made as long as they are those of the former one.
pub(super) struct NextRows {
    target: PathBuf,
    summary: Summary,
    nodes: FormerNodes,
    next: Option<NextGeneration>,
    /// Rows from this id on are of this generation.
    first_new_id: u64,
    changes: Changes,
}

impl NextRows {
    pub(super) fn new(target: PathBuf, summary: Summary, nodes: FormerNodes) -> Self {
        Self { target, summary, nodes, next: None, first_new_id: u64::MAX, changes: Changes::default() }
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

    /// Takes a file; `same` says that its row would be the former one.
    pub(super) fn file(&mut self, file: FileEntry, same: bool, sketch: Option<&[u8]>) -> Result<()> {
        if same {
            return Ok(());
        }
        self.next()?;
        let first_new_id = self.first_new_id;
        let next = self.next()?;
        let former = next.file_at(&file.path)?.filter(|former| former.id < first_new_id);
        if let Some(former) = &former
            && (former.size, former.md5, former.blake3) == (file.size, file.md5, file.blake3)
            && file.is_provable()
        {
            let now = FileEntry { id: former.id, ..file };
            if former.meta == now.meta {
                next.set_origin(&now)?;
            } else {
                next.set_meta(&now)?;
                self.changes.touched += 1;
            }
            return self.sketch(now.id, sketch, true);
        }
        if let Some(former) = &former {
            next.remove_file(former.id)?;
            self.changes.removed += 1;
        }
        self.add(file, former.as_ref(), sketch)
    }

    fn add(&mut self, file: FileEntry, former: Option<&FileEntry>, sketch: Option<&[u8]>) -> Result<()> {
        let next = self.next()?;
        let start = next.log_end();
        let known = match (file.md5, file.blake3) {
            (Some(md5), Some(blake3)) if file.size > 0 => next.find_content(file.size, &md5, &blake3)?,
            _ => None,
        };
        let mut extents = Extents::default();
        match (&known, former, sketch) {
            (Some(known), ..) => {
                for piece in next.pieces_of(known)? {
                    extents.push(piece.range.start, piece.range.end - piece.range.start);
                }
            }
            (None, Some(former), Some(sketch)) => {
                if let Some(former_sketch) = next.sketch(former.id)? {
                    extents = mixed(&next.pieces_of(former)?, &former_sketch, sketch, start);
                }
            }
            _ => {}
        }
        // What has nothing of any former content is as good as new.
        let has_former = extents.size() == file.size && extents.list().iter().any(|e| e.offset < start);
        let id = if has_former || (known.is_some() && file.size > 0) {
            next.add_scattered(file, &extents)?
        } else {
            next.add_natural(file)?
        };
        let grown = next.log_end() - start;
        self.changes.added += 1;
        self.changes.known += u64::from(known.is_some());
        self.changes.appended_bytes += grown;
        self.sketch(id, sketch, false)
    }

    fn sketch(&mut self, id: u64, sketch: Option<&[u8]>, only_missing: bool) -> Result<()> {
        let (Some(sketch), Some(next)) = (sketch, &self.next) else { return Ok(()) };
        if only_missing && next.sketch(id)?.is_some() {
            return Ok(());
        }
        next.set_sketch(id, sketch)
    }

    /// Takes a directory or link.
    pub(super) fn node(&mut self, node: &Node) -> Result<()> {
        let same = self.nodes.is_same(node)?;
        self.remove_nodes()?;
        if same { Ok(()) } else { self.next()?.put_node(node) }
    }

    /// Takes out what the walk has gone past.
    fn remove_nodes(&mut self) -> Result<()> {
        for path in std::mem::take(&mut self.nodes.vanished) {
            self.next()?.remove_node(&path)?;
        }
        Ok(())
    }

    /// Completes the generation; gives `None` if it would be the former one.
    pub(super) fn finish(
        mut self,
        skipped: u64,
        vanished: &Vanished,
        started_s: u64,
    ) -> Result<(Option<Written>, Changes, Summary)> {
        self.nodes.end()?;
        self.remove_nodes()?;
        for id in std::mem::take(&mut *vanished.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.next()?.remove_file(id)?;
            self.changes.removed += 1;
        }
        let Some(next) = self.next.take() else { return Ok((None, self.changes, self.summary)) };
        if !next.is_changed() {
            // Files that were read although nothing changed have new inodes or times, which the next run wants to know.
            next.finish_unchanged(started_s)?;
            return Ok((None, self.changes, self.summary));
        }
        Ok((Some(next.finish(started_s, skipped)?), self.changes, self.summary))
    }
}

/// The extents of a file that changed: what its former content had where that is, the rest from `log_end` on.
fn mixed(_pieces: &[Piece], _former: &[u8], _sketch: &[u8], _log_end: u64) -> Extents {
    Extents::default()
}
