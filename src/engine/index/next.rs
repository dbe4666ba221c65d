//! What a walk finds, beside the former generation: what is the same is left alone, the rest makes the next one.

use super::append::{Append, Growth};
use super::former::Vanished;
use super::rows::FormerNodes;
use crate::archive::entry::{FileEntry, Node};
use crate::archive::extent::{Extents, Piece};
use crate::archive::sketch::{Run, Sketch, diff};
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
    /// A file with the same content has its former time.
    keeps_time: bool,
    append: Append,
}

impl NextRows {
    pub(super) fn new(
        target: PathBuf,
        summary: Summary,
        nodes: FormerNodes,
        keeps_time: bool,
        append: Append,
    ) -> Self {
        let (first_new_id, changes) = (u64::MAX, Changes::default());
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

    /// Takes a file; `same` says that its row would be the former one, `growth` whether the file begins with its content.
    pub(super) fn file(
        &mut self,
        file: FileEntry,
        same: bool,
        sketch: Option<&[u8]>,
        growth: Growth,
    ) -> Result<()> {
        if same {
            return Ok(());
        }
        self.next()?;
        let (first_new_id, keeps_time) = (self.first_new_id, self.keeps_time);
        let next = self.next()?;
        let former = next.file_at(&file.path)?.filter(|former| former.id < first_new_id);
        if let Some(former) = &former
            && (former.size, former.md5, former.blake3) == (file.size, file.md5, file.blake3)
            && file.is_provable()
        {
            let mut now = FileEntry { id: former.id, ..file };
            if let (true, Some(now), Some(former)) = (keeps_time, &mut now.meta, &former.meta) {
                now.mtime_ns = former.mtime_ns;
            }
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
        // One that was a further name of another file has that one's former content.
        let base = match former {
            Some(former) => Some(former),
            None if sketch.is_some() => self.next()?.file_linked_at(&file.path, first_new_id)?,
            None => None,
        };
        self.add(file, base.as_ref(), sketch, growth)
    }

    fn add(
        &mut self,
        file: FileEntry,
        former: Option<&FileEntry>,
        sketch: Option<&[u8]>,
        growth: Growth,
    ) -> Result<()> {
        let append = self.append;
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
            (None, Some(former), _) if growth != Growth::None => {
                extents = longer(&next.pieces_of(former)?, file.size, start);
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
        let is_believed = growth == Growth::Believed && known.is_none() && has_former;
        let id = if has_former || (known.is_some() && file.size > 0) {
            next.add_scattered(file, &extents)?
        } else {
            next.add_natural(file)?
        };
        if let Some(former) = former.filter(|_| is_believed)
            && let Some(beginning) = next.sketch(former.id)?.and_then(|sketch| append.beginning(&sketch))
        {
            next.begins_with(former.id, beginning)?;
        }
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
        for node in std::mem::take(&mut self.nodes.vanished) {
            self.next()?.remove_node(&node.path)?;
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

/// Shorter pieces on the average are not worth their rows: such a file is sent as a whole.
const SHORTEST_PIECE: u64 = 16 << 10;

/// So many short pieces a file that grows again and again may have at its end.
const MOST_SHORT: usize = 128;

/// The extents of a file of `size` bytes that begins with `pieces`, its former content; the rest is from `log_end` on. Pieces of several
/// passes lie apart where other files came between. Short ones at the end are sent once more, as one, when there are too many.
fn longer(pieces: &[Piece], size: u64, log_end: u64) -> Extents {
    let is_short = |piece: &&Piece| piece.range.end - piece.range.start < SHORTEST_PIECE;
    let short = pieces.iter().rev().take_while(is_short).count();
    let kept = if short < MOST_SHORT { pieces } else { &pieces[..pieces.len() - short] };
    let mut extents = Extents::default();
    for piece in kept {
        extents.push(piece.range.start, piece.range.end - piece.range.start);
    }
    extents.push(log_end, size.saturating_sub(extents.size()));
    extents
}

/// The extents of a file that changed: what its former content had where that is, the rest from `log_end` on. None if the sketches do not
/// tell, or too little is the same.
fn mixed(pieces: &[Piece], former: &[u8], sketch: &[u8], log_end: u64) -> Extents {
    let nothing = Extents::default();
    let (Ok(former), Ok(sketch)) = (Sketch::decode(former), Sketch::decode(sketch)) else { return nothing };
    let (mut extents, mut appended) = (Extents::default(), 0);
    for run in diff(&former, &sketch) {
        match run {
            Run::New { length } => {
                extents.push(log_end + appended, length);
                appended += length;
            }
            Run::Same { old_offset, length } => {
                let wanted = old_offset..old_offset + length;
                let mut at = wanted.start;
                let first = pieces.partition_point(|piece| end_in_file(piece) <= wanted.start);
                for piece in pieces[first..].iter().take_while(|piece| piece.file_offset < wanted.end) {
                    let end = end_in_file(piece).min(wanted.end);
                    extents.push(piece.range.start + (at - piece.file_offset), end - at);
                    at = end;
                }
                if at != wanted.end {
                    return nothing;
                }
            }
        }
    }
    let most = extents.size() / SHORTEST_PIECE + 64;
    if extents.list().len() as u64 > most { nothing } else { extents }
}

/// Where a piece ends in its file.
fn end_in_file(piece: &Piece) -> u64 {
    piece.file_offset + (piece.range.end - piece.range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::sketch::{average_for, sketch_of};

    fn noise(length: usize, mut state: u64) -> Vec<u8> {
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(step).collect()
    }

    #[test]
    fn an_insertion_costs_little_and_every_byte_is_where_the_extents_say() {
        let old = noise(6 << 20, 1);
        let mut new = old.clone();
        new.splice(3_000_000..3_000_000, noise(1000, 2));
        new.splice(0..0, [7]);
        new.extend(noise(5000, 3));
        let average = average_for(old.len() as u64, None);
        let (_, before) = sketch_of(&old, average);
        let (_, now) = sketch_of(&new, average);
        // The former content itself lies in two pieces, the second one first.
        let half = 2_500_000;
        let piece = |file_offset: u64, range| Piece { file_offset, range };
        let length = old.len() as u64;
        let pieces = [piece(0, length - half + 10..length + 10), piece(half, 10..length - half + 10)];
        let log_end = length + 10;
        let extents = mixed(&pieces, &before.encode(), &now.encode(), log_end);
        assert_eq!(extents.size(), new.len() as u64);
        let mut archive = vec![0; 10];
        archive.extend(&old[half as usize..]);
        archive.extend(&old[..half as usize]);
        let appended: u64 = extents.list().iter().filter(|e| e.offset >= log_end).map(|e| e.length).sum();
        assert!(appended < 1 << 20, "{appended}");
        let mut at = 0;
        for extent in extents.list() {
            let (start, length) = (extent.offset as usize, extent.length as usize);
            if extent.offset < log_end {
                assert!(archive[start..start + length] == new[at..at + length], "at {at}");
            }
            at += length;
        }
        assert_eq!(mixed(&pieces, b"no sketch", &now.encode(), log_end).size(), 0);
        assert_eq!(mixed(&pieces[..1], &before.encode(), &now.encode(), log_end).size(), 0);
    }
}
