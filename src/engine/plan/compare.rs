//! What there is now beside a former generation, both in the order of the walk, and what that comes to.

use super::{Change, FormerNodes, FormerRows, Plan, What};
use crate::archive::entry::{FileEntry, Node};
use crate::archive::path::EntryPath;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::moves::{Came, Moves};
use crate::engine::index::Vanished;
use crate::error::Result;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::PoisonError;

/// The generation that everything is compared with.
pub(super) struct Former {
    rows: FormerRows,
    nodes: FormerNodes,
    /// Ids of files that the walk has gone past.
    vanished: Vanished,
    /// To look these up.
    reader: IndexReader,
}

impl Former {
    /// `reader` reads the index at `database`.
    pub(super) fn new(database: &Path, reader: IndexReader, summary: &Summary) -> Result<Self> {
        let vanished = Vanished::default();
        Ok(Self {
            rows: FormerRows::new(reader, summary, vanished.clone(), false)?,
            nodes: FormerNodes::new(IndexReader::open(database)?),
            vanished,
            reader: IndexReader::open(database)?,
        })
    }
}

/// What became of a file that was there before.
pub(super) struct Verdict {
    pub(super) what: What,
    /// Its size, or what it has grown by.
    pub(super) bytes: u64,
    pub(super) send_bytes: u64,
    /// Bytes of it that are believed to be what they were.
    pub(super) believed_bytes: u64,
}

impl Verdict {
    /// Nothing of it is only believed.
    pub(super) fn of(what: What, bytes: u64, send_bytes: u64) -> Self {
        Self { what, bytes, send_bytes, believed_bytes: 0 }
    }

    /// A former content, as far as it can be told without reading it.
    pub(super) fn believed(what: What, bytes: u64) -> Self {
        Self { what, bytes, send_bytes: 0, believed_bytes: bytes }
    }
}

/// The comparison. Entries come in the order of the walk.
pub(super) struct Comparing<'a> {
    former: Option<Former>,
    /// Files at new paths, where it can be known that they were somewhere else before.
    moves: Option<Moves>,
    each: &'a mut dyn FnMut(&Change<'_>) -> Result<()>,
    /// What it has come to so far.
    pub(super) plan: Plan,
}

impl<'a> Comparing<'a> {
    /// `scratch` is a folder for files at new paths; without it, none of them is a former one.
    pub(super) fn new(
        former: Option<Former>,
        scratch: Option<&Path>,
        each: &'a mut dyn FnMut(&Change<'_>) -> Result<()>,
    ) -> Result<Self> {
        let moves = scratch.map(Moves::create).transpose()?;
        Ok(Self { former, moves, each, plan: Plan::default() })
    }

    pub(super) fn rows(&self) -> Option<&FormerRows> {
        self.former.as_ref().map(|former| &former.rows)
    }

    /// The file that was at `path`.
    pub(super) fn former_at(&mut self, path: &EntryPath) -> Result<Option<FileEntry>> {
        self.former.as_mut().map_or(Ok(None), |former| former.rows.find(path))
    }

    /// Takes a file that was there before.
    pub(super) fn found(&mut self, file: &FileEntry, verdict: Verdict) -> Result<()> {
        let Verdict { what, bytes, send_bytes, believed_bytes } = verdict;
        self.there(file.size);
        self.plan.believed_bytes += believed_bytes;
        self.file(&Change { what, kind: None, path: &file.path, from: None, bytes, send_bytes })
    }

    /// Takes a file at a new path; `mark` tells whether it was at another one.
    pub(super) fn came(&mut self, file: &FileEntry, mark: Option<&[u8]>, send_bytes: u64) -> Result<()> {
        self.there(file.size);
        if let (Some(moves), Some(mark)) = (&self.moves, mark) {
            return moves.add(mark, &Came { path: file.path.clone(), size: file.size, send_bytes });
        }
        let (path, bytes) = (&file.path, file.size);
        self.file(&Change { what: What::New, kind: None, path, from: None, bytes, send_bytes })
    }

    fn there(&mut self, size: u64) {
        self.plan.total_files += 1;
        self.plan.total_bytes += size;
    }

    fn file(&mut self, change: &Change<'_>) -> Result<()> {
        let tally = &mut self.plan.files[change.what as usize];
        tally.files += 1;
        tally.bytes += change.bytes;
        tally.send_bytes += change.send_bytes;
        self.plan.send_bytes += change.send_bytes;
        if change.what == What::Unchanged { Ok(()) } else { (self.each)(change) }
    }

    /// Takes a directory or link; `is_same` compares it with the former one.
    pub(super) fn node(&mut self, node: &Node, is_same: impl FnOnce(&Node) -> bool) -> Result<()> {
        let former = self.former.as_mut().map(|former| former.nodes.find(node)).transpose()?.flatten();
        self.vanished_nodes()?;
        self.one_node(
            node,
            match former {
                None => What::New,
                Some(former) if is_same(&former) => What::Unchanged,
                Some(_) => What::Changed,
            },
        )
    }

    fn one_node(&mut self, node: &Node, what: What) -> Result<()> {
        self.plan.nodes[what as usize] += 1;
        if what == What::Unchanged {
            return Ok(());
        }
        let (kind, path) = (Some(node.kind), &node.path);
        (self.each)(&Change { what, kind, path, from: None, bytes: 0, send_bytes: 0 })
    }

    fn vanished_nodes(&mut self) -> Result<()> {
        let Some(former) = &mut self.former else { return Ok(()) };
        for node in std::mem::take(&mut former.nodes.vanished) {
            self.one_node(&node, What::Removed)?;
        }
        Ok(())
    }

    /// Everything came. `mark` gives that of a former file.
    pub(super) fn finish(mut self, mark: impl Fn(&FileEntry) -> Option<Vec<u8>>) -> Result<Plan> {
        if let Some(former) = &mut self.former {
            former.rows.end()?;
            former.nodes.end()?;
        }
        self.vanished_nodes()?;
        let mut moves = self.moves.take();
        if let Some(Former { vanished, reader, .. }) = self.former.take() {
            let vanished = std::mem::take(&mut *vanished.lock().unwrap_or_else(PoisonError::into_inner));
            for id in vanished {
                reader.files_with_ids(id..id + 1, |file| {
                    self.gone(&file, mark(&file), moves.as_mut())?;
                    Ok(ControlFlow::Continue(()))
                })?;
            }
        }
        if let Some(moves) = moves {
            moves.rest(|Came { path, size: bytes, send_bytes }| {
                let (what, path) = (What::New, &path);
                self.file(&Change { what, kind: None, path, from: None, bytes, send_bytes })?;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(self.plan)
    }

    /// Takes a former file at whose path nothing, or no file, is.
    fn gone(&mut self, file: &FileEntry, mark: Option<Vec<u8>>, moves: Option<&mut Moves>) -> Result<()> {
        let came = match (moves, mark) {
            (Some(moves), Some(mark)) => moves.take(&mark)?,
            _ => None,
        };
        let (kind, bytes, send_bytes) = (None, file.size, 0);
        match came {
            None => {
                let (what, path) = (What::Removed, &file.path);
                self.file(&Change { what, kind, path, from: None, bytes, send_bytes })
            }
            Some(came) => {
                self.plan.believed_bytes += file.size;
                let (what, path, from) = (What::Renamed, &came.path, Some(&file.path));
                self.file(&Change { what, kind, path, from, bytes, send_bytes })
            }
        }
    }
}

/// What a file keeps when it gets another name: device, inode, size and time.
pub(super) fn moved_mark(file: &FileEntry) -> Option<Vec<u8>> {
    let (origin, meta) = (file.origin?, file.meta?);
    let numbers = [origin.dev, origin.ino, file.size, meta.mtime_ns.cast_unsigned()];
    Some(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
}

/// What makes a content the same: size and digests. There is one empty content only, which says nothing.
pub(super) fn content_mark(file: &FileEntry) -> Option<Vec<u8>> {
    let md5 = file.md5.filter(|_| file.size > 0)?;
    let blake3 = file.blake3.as_ref().map(|digest| &digest.as_bytes()[..]).unwrap_or_default();
    Some([&file.size.to_le_bytes()[..], md5.as_bytes(), blake3].concat())
}
