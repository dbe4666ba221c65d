//! The rows of an index that is made again: as long as they are the former ones, nothing is written.

use crate::archive::entry::{FileEntry, Node};
use crate::db::index_read::{IndexReader, Summary};
use crate::db::index_write::{IndexWriter, Written};
use crate::error::Result;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Where rows go.
pub(super) struct Rows {
    target: PathBuf,
    former: Option<Former>,
    writer: Option<IndexWriter>,
}

/// How far the former index was the same.
struct Former {
    reader: IndexReader,
    summary: Summary,
    files: u64,
    nodes: u64,
    /// Directories and links from `nodes` on.
    next: VecDeque<Node>,
}

const PAGE: u64 = 4096;

impl Former {
    fn has_next(&mut self, node: &Node) -> Result<bool> {
        if self.next.is_empty() {
            let next = &mut self.next;
            self.reader.nodes_with_ids(self.nodes..self.nodes + PAGE, |node| {
                next.push_back(node);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        if self.next.front() != Some(node) {
            return Ok(false);
        }
        self.next.pop_front();
        self.nodes += 1;
        Ok(true)
    }
}

impl Rows {
    pub(super) fn new(target: PathBuf, former: Option<(IndexReader, Summary)>) -> Self {
        let former = former.map(|(reader, summary)| Former {
            reader,
            summary,
            files: 0,
            nodes: 0,
            next: VecDeque::new(),
        });
        Self { target, former, writer: None }
    }

    /// Adds a file; `same` says that the former index has this very row, with the id of the entry.
    pub(super) fn file(&mut self, mut file: FileEntry, same: bool) -> Result<()> {
        if let (None, Some(former)) = (&self.writer, &mut self.former)
            && same
            && file.id == former.files
        {
            former.files += 1;
            return Ok(());
        }
        let writer = self.writer()?;
        (file.id, file.offset) = (writer.files(), writer.total_bytes());
        writer.file(&file)
    }

    /// Adds a directory or link.
    pub(super) fn node(&mut self, node: &Node) -> Result<()> {
        if let (None, Some(former)) = (&self.writer, &mut self.former)
            && former.has_next(node)?
        {
            return Ok(());
        }
        self.writer()?.node(node)
    }

    /// The new index; it begins with what was the same so far.
    fn writer(&mut self) -> Result<&mut IndexWriter> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.begin()?,
        };
        Ok(self.writer.insert(writer))
    }

    fn begin(&self) -> Result<IndexWriter> {
        let mut writer = IndexWriter::create(&self.target)?;
        if let Some(former) = &self.former {
            former.reader.files_with_ids(0..former.files, |file| {
                writer.file(&file)?;
                Ok(ControlFlow::Continue(()))
            })?;
            former.reader.nodes_with_ids(0..former.nodes, |node| {
                writer.node(&node)?;
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(writer)
    }

    /// The former index, if every row was the same, and no row is missing.
    pub(super) fn unchanged(&self) -> Option<&Summary> {
        let former = self.former.as_ref().filter(|_| self.writer.is_none())?;
        let summary = &former.summary;
        ((former.files, former.nodes) == (summary.files, summary.nodes)).then_some(summary)
    }

    /// Completes the new index. Also says whether it is the same as the former one: files that were read again although nothing
    /// changed have new inodes or times, which the next run wants to know.
    pub(super) fn finish(mut self, base: &[u8], started_s: u64) -> Result<(Written, bool)> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.begin()?,
        };
        let digest = writer.digest()?;
        let former = self.former.as_ref().map(|former| &former.summary);
        let unchanged = former.is_some_and(|former| former.digest == digest);
        let generation = former.map_or(1, |former| former.generation + u64::from(!unchanged));
        Ok((writer.finish(base, generation, started_s)?, unchanged))
    }
}
