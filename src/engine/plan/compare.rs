//! Comparison entries with a previous generation, both in the order of the walk.

use super::changes::{ChangeKind, Plan, PlannedChange};
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::new_paths::{NewPath, NewPaths};
use crate::engine::index::{PreviousFiles, PreviousNodes};
use crate::engine::spill::{IdSpill, PathSpill};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use std::ops::ControlFlow;
use std::path::Path;

/// The generation that everything is compared with.
pub(super) struct PreviousGeneration {
    files: PreviousFiles,
    nodes: PreviousNodes,
    /// Those that the walk has passed without finding them. Only its end tells what the filter
    /// leaves out.
    vanished_nodes: PathSpill,
    /// Ids of files that the walk has passed without finding them.
    vanished: IdSpill,
    /// Reads the rows of these.
    reader: IndexReader,
}

impl PreviousGeneration {
    /// `reader` reads the index at `database`; the folder `scratch` is for what must not be in
    /// memory.
    pub(super) fn new(
        database: &Path,
        reader: IndexReader,
        summary: &Summary,
        scratch: &Path,
    ) -> Result<Self> {
        let vanished = IdSpill::new(scratch);
        Ok(Self {
            files: PreviousFiles::new(reader, summary, vanished.clone(), false)?,
            nodes: PreviousNodes::new(IndexReader::open(database)?)?,
            vanished_nodes: PathSpill::new(scratch),
            vanished,
            reader: IndexReader::open(database)?,
        })
    }
}

/// How a file at a path of the previous generation differs.
pub(super) struct FileChange {
    pub(super) kind: ChangeKind,
    /// Its size, or its growth.
    pub(super) bytes: u64,
    pub(super) send_bytes: u64,
    /// Bytes of it that are assumed to be unmodified.
    pub(super) assumed_bytes: u64,
}

impl FileChange {
    /// Without assumptions.
    pub(super) fn of(kind: ChangeKind, bytes: u64, send_bytes: u64) -> Self {
        Self { kind, bytes, send_bytes, assumed_bytes: 0 }
    }

    /// The whole content is assumed to be the previous one.
    pub(super) fn assumed(kind: ChangeKind, bytes: u64) -> Self {
        Self { kind, bytes, send_bytes: 0, assumed_bytes: bytes }
    }
}

/// The comparison. Entries come in the order of the walk.
pub(super) struct Comparison<'a> {
    previous: Option<PreviousGeneration>,
    /// Files at new paths, if renamed files can be found.
    new_paths: Option<NewPaths>,
    each: &'a mut dyn FnMut(&PlannedChange<'_>) -> Result<()>,
    /// What the receiver is missing of the archive of the previous generation.
    pub(super) missing: RangeSet,
    /// The result so far.
    pub(super) plan: Plan,
}

impl<'a> Comparison<'a> {
    /// `scratch` is a folder for the table of files at new paths; without it, no file counts as
    /// renamed.
    pub(super) fn new(
        previous: Option<PreviousGeneration>,
        scratch: Option<&Path>,
        each: &'a mut dyn FnMut(&PlannedChange<'_>) -> Result<()>,
    ) -> Result<Self> {
        let new_paths = scratch.map(NewPaths::create).transpose()?;
        let (missing, plan) = <(RangeSet, Plan)>::default();
        Ok(Self { previous, new_paths, each, missing, plan })
    }

    pub(super) fn previous_files(&self) -> Option<&PreviousFiles> {
        self.previous.as_ref().map(|previous| &previous.files)
    }

    /// The previous file at `path`.
    pub(super) fn previous_at(&mut self, path: &EntryPath) -> Result<Option<FileEntry>> {
        self.previous.as_mut().map_or(Ok(None), |previous| previous.files.find(path))
    }

    /// Takes a file at a path at which the previous generation has the file `previous`. A file that
    /// is as before, and is missing at the receiver, is named for that.
    pub(super) fn same_path(
        &mut self,
        file: &FileEntry,
        previous: &FileEntry,
        change: FileChange,
    ) -> Result<()> {
        let FileChange { kind, bytes, send_bytes, assumed_bytes } = change;
        self.count(file.size);
        self.plan.assumed_bytes += assumed_bytes;
        let change = PlannedChange { kind, node: None, path: &file.path, from: None, bytes, send_bytes };
        if let (ChangeKind::Unchanged | ChangeKind::Touched, Some(generation)) = (kind, &self.previous) {
            let missing_bytes = missing_bytes(&generation.reader, previous, &self.missing)?;
            if missing_bytes > 0 {
                return self.file(&PlannedChange::of_file(ChangeKind::Missing, file, missing_bytes));
            }
        }
        self.file(&change)
    }

    /// Takes a file at a new path; `key` finds the path that it had before.
    pub(super) fn new_path(&mut self, file: &FileEntry, key: Option<&[u8]>, send_bytes: u64) -> Result<()> {
        self.count(file.size);
        if let (Some(new_paths), Some(key)) = (&self.new_paths, key) {
            return new_paths.add(key, &NewPath { path: file.path.clone(), size: file.size, send_bytes });
        }
        let (path, bytes) = (&file.path, file.size);
        self.file(&PlannedChange { kind: ChangeKind::New, node: None, path, from: None, bytes, send_bytes })
    }

    fn count(&mut self, size: u64) {
        self.plan.total_files += 1;
        self.plan.total_bytes += size;
    }

    fn file(&mut self, change: &PlannedChange<'_>) -> Result<()> {
        self.plan.add_file(change);
        if change.kind == ChangeKind::Unchanged { Ok(()) } else { (self.each)(change) }
    }

    /// Takes a directory or link; `is_same` compares it with the previous one.
    pub(super) fn node(&mut self, node: &Node, is_same: impl FnOnce(&Node) -> bool) -> Result<()> {
        let previous =
            self.previous.as_mut().map(|previous| previous.nodes.find(node)).transpose()?.flatten();
        self.spill_vanished_nodes()?;
        let kind = match previous {
            None => ChangeKind::New,
            Some(previous) if is_same(&previous) => ChangeKind::Unchanged,
            Some(_) => ChangeKind::Changed,
        };
        self.one_node(Some(node.kind), &node.path, kind)
    }

    fn one_node(&mut self, node: Option<NodeKind>, path: &EntryPath, kind: ChangeKind) -> Result<()> {
        self.plan.add_node(kind);
        if kind == ChangeKind::Unchanged {
            return Ok(());
        }
        (self.each)(&PlannedChange { kind, node, path, from: None, bytes: 0, send_bytes: 0 })
    }

    fn spill_vanished_nodes(&mut self) -> Result<()> {
        let Some(previous) = &mut self.previous else { return Ok(()) };
        for node in std::mem::take(&mut previous.nodes.vanished) {
            previous.vanished_nodes.push(Some(node.kind), 0, &node.path)?;
        }
        Ok(())
    }

    /// All entries were taken. `key` gives the key of a previous file by which a renamed one is
    /// found; `is_filtered` says which path the filter leaves out.
    pub(super) fn finish(
        mut self,
        key: impl Fn(&FileEntry) -> Option<Vec<u8>>,
        is_filtered: impl Fn(&EntryPath, bool) -> bool,
    ) -> Result<Plan> {
        let absent = |path: &EntryPath, is_dir| match is_filtered(path, is_dir) {
            true => ChangeKind::Filtered,
            false => ChangeKind::Removed,
        };
        self.spill_vanished_nodes()?;
        let mut new_paths = self.new_paths.take();
        if let Some(mut previous) = self.previous.take() {
            previous.files.end()?;
            while let Some(node) = previous.nodes.pop()? {
                previous.vanished_nodes.push(Some(node.kind), 0, &node.path)?;
            }
            previous
                .vanished_nodes
                .each(|node, _, path| self.one_node(node, path, absent(path, node == Some(NodeKind::Dir))))?;
            let PreviousGeneration { vanished, reader, .. } = previous;
            vanished.each(|id| {
                reader.files_with_ids(id..id + 1, |file| {
                    self.vanished_file(&file, key(&file), absent(&file.path, false), new_paths.as_mut())?;
                    Ok(ControlFlow::Continue(()))
                })
            })?;
        }
        if let Some(new_paths) = new_paths {
            new_paths.rest(|NewPath { path, size: bytes, send_bytes }| {
                let (kind, path) = (ChangeKind::New, &path);
                self.file(&PlannedChange { kind, node: None, path, from: None, bytes, send_bytes })?;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(self.plan)
    }

    /// Takes a previous file whose path is gone, or is no file any more. It is `absent`, if it was
    /// not renamed.
    fn vanished_file(
        &mut self,
        file: &FileEntry,
        key: Option<Vec<u8>>,
        absent: ChangeKind,
        new_paths: Option<&mut NewPaths>,
    ) -> Result<()> {
        let new = match (new_paths, key) {
            (Some(new_paths), Some(key)) => new_paths.take(&key)?,
            _ => None,
        };
        let (node, bytes, send_bytes) = (None, file.size, 0);
        match new {
            None => {
                let (kind, path) = (absent, &file.path);
                self.file(&PlannedChange { kind, node, path, from: None, bytes, send_bytes })
            }
            Some(new) => {
                self.plan.assumed_bytes += file.size;
                let (kind, path, from) = (ChangeKind::Renamed, &new.path, Some(&file.path));
                self.file(&PlannedChange { kind, node, path, from, bytes, send_bytes })
            }
        }
    }
}

/// The key of a file that a rename does not change: device, inode, size and time.
pub(super) fn moved_key(file: &FileEntry) -> Option<Vec<u8>> {
    let (origin, meta) = (file.origin?, file.meta?);
    let numbers = [origin.dev, origin.ino, file.size, meta.mtime_ns.cast_unsigned()];
    Some(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
}

/// The key of a content: size and BLAKE3, or md5 where there is no other. All empty files are equal, so that they have none.
pub(super) fn content_key(file: &FileEntry) -> Option<Vec<u8>> {
    let blake3 = file.blake3.as_ref().map(|digest| &digest.as_bytes()[..]);
    let digest =
        blake3.or(file.md5.as_ref().map(|digest| &digest.as_bytes()[..])).filter(|_| file.size > 0)?;
    Some([&file.size.to_le_bytes()[..], digest].concat())
}

/// How many bytes of `file` lie in `missing` ranges of the archive.
pub(in super::super) fn missing_bytes(
    reader: &IndexReader,
    file: &FileEntry,
    missing: &RangeSet,
) -> Result<u64> {
    let mut bytes = 0;
    if missing.covered() > 0 {
        reader.pieces_of(file, |piece| {
            let present = missing.missing(piece.range.clone());
            bytes += piece.range.end - piece.range.start;
            bytes -= present.map(|range| range.end - range.start).sum::<u64>();
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(bytes)
}

/// Counts a file as progress; fails if the user has interrupted the run.
pub(super) fn count_file(file: &FileEntry, monitor: &dyn Monitor) -> Result<()> {
    let counters = monitor.counters();
    counters.files_total.add(1);
    counters.files_done.add(1);
    counters.total_bytes.add(file.size);
    counters.done_bytes.add(file.size);
    check_cancelled(monitor)
}

/// Fails if the user has interrupted the run.
pub(in super::super) fn check_cancelled(monitor: &dyn Monitor) -> Result<()> {
    if monitor.is_cancelled() { Err(Error::new(ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
}

pub(super) fn no_block_size() -> Error {
    Error::new(ErrorKind::Usage, "the block size must not be 0")
}
