//! The digest of an index while its rows are written.

use super::index_rows::{Beside, FileRead, Kind, read_files, read_nodes};
use super::sql_int;
use crate::archive::digest::IndexDigest;
use crate::archive::entry::{FileEntry, Node};
use crate::archive::index_digest::IndexDigester;
use crate::archive::log::Digests;
use crate::error::Result;
use rusqlite::Connection;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;

/// Rows enter in the order of their ids, but the digests of large files come late. What follows
/// such a row waits in memory, up to a limit; beyond that it is read again at the end.
#[derive(Default)]
pub(super) struct RunningDigest {
    digester: IndexDigester,
    files: u64,
    nodes: u64,
    /// Rows from `files` on, as far as nothing was lost.
    waiting: VecDeque<Row>,
    waiting_bytes: usize,
    lost: bool,
}

enum Row {
    Known(Vec<u8>),
    Pending(FileEntry),
}

/// What may wait, in bytes of rows.
const MAX_BYTES: usize = 8 << 20;
/// What a row costs beside its bytes, about.
const ROW_BYTES: usize = 80;

impl RunningDigest {
    /// Takes note of a row; `known` says whether it has its digests.
    pub(super) fn file(&mut self, file: &FileEntry, known: bool) {
        if self.lost || file.id != self.files + self.waiting.len() as u64 {
            self.lost = true;
            return;
        }
        if known && self.waiting.is_empty() {
            self.digester.file(file);
            self.files += 1;
            return;
        }
        let row = if known { Row::of(file) } else { Row::Pending(file.clone()) };
        self.waiting_bytes += row.bytes();
        self.waiting.push_back(row);
        if self.waiting_bytes > MAX_BYTES {
            (self.waiting, self.waiting_bytes, self.lost) = (VecDeque::new(), 0, true);
        }
    }

    /// Takes note of digests that came late.
    pub(super) fn digests(&mut self, id: u64, (md5, blake3): &Digests) {
        let at = id.checked_sub(self.files).and_then(|at| usize::try_from(at).ok());
        match at.and_then(|at| self.waiting.get_mut(at)) {
            Some(row) => match row {
                Row::Pending(file) => {
                    self.waiting_bytes = self.waiting_bytes.saturating_sub(ROW_BYTES + pending_bytes(file));
                    *row = Row::of(&FileEntry { md5: *md5, blake3: Some(*blake3), ..file.clone() });
                    self.waiting_bytes += row.bytes();
                }
                Row::Known(_) => return self.restart(),
            },
            // Still to be read, with what it has then.
            None if self.lost && id >= self.files => {}
            None => return self.restart(),
        }
        while let Some(Row::Known(bytes)) = self.waiting.front() {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes.len() + ROW_BYTES);
            self.digester.file_row(bytes);
            self.files += 1;
            self.waiting.pop_front();
        }
    }

    /// A row that was counted already has other digests now: all rows are read again at the end.
    fn restart(&mut self) {
        *self = Self { lost: true, ..Self::default() };
    }

    /// Takes note of row `id`.
    pub(super) fn node(&mut self, id: u64, node: &Node) {
        if id == self.nodes {
            self.digester.node(node);
            self.nodes += 1;
        }
    }

    /// Reads what is not in the digest yet.
    pub(super) fn catch_up(&mut self, connection: &Connection, name: &Path) -> Result<()> {
        let read = FileRead { kind: Kind::Contiguous(Beside::default()), name };
        let from = "WHERE tar.rowid > ? ORDER BY tar.rowid";
        (self.waiting, self.waiting_bytes) = (VecDeque::new(), 0);
        read_files(connection, read, from, [sql_int(self.files)], |file| {
            self.digester.file(&file);
            self.files += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        self.lost = false;
        read_nodes(connection, name, "WHERE id >= ? ORDER BY id", [sql_int(self.nodes)], |node| {
            self.node(self.nodes, &node);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// The digest of all rows so far, after [`RunningDigest::catch_up`].
    pub(super) fn digest(&self) -> IndexDigest {
        self.digester.finish()
    }
}

impl Row {
    fn of(file: &FileEntry) -> Self {
        let mut bytes = Vec::new();
        IndexDigester::push_file(&mut bytes, file);
        Self::Known(bytes)
    }

    fn bytes(&self) -> usize {
        ROW_BYTES
            + match self {
                Self::Known(bytes) => bytes.len(),
                Self::Pending(file) => pending_bytes(file),
            }
    }
}

fn pending_bytes(file: &FileEntry) -> usize {
    file.path.as_bytes().len() + size_of::<FileEntry>()
}
