//! Rows and tombstones of an index by their paths.

use super::pieces::{Side, read_extents};
use super::{IndexReader, WALK_ORDER};
use crate::archive::entry::{FileEntry, Node};
use crate::archive::index_digest::IndexDigester;
use crate::archive::path::EntryPath;
use crate::db::index_rows::{read_node_tombstones, read_nodes, read_tombstones};
use crate::db::{meta, scratch, text_or_blob};
use crate::error::{Error, ErrorKind, Result};
use std::ops::ControlFlow;

/// A row of an index.
#[derive(Debug, Clone)]
pub enum Row {
    /// A regular file.
    File(FileEntry),
    /// A directory or link.
    Node(Node),
}

impl Row {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &EntryPath {
        match self {
            Self::File(file) => &file.path,
            Self::Node(node) => &node.path,
        }
    }
}

impl IndexReader {
    /// Gives the rows that have one of `paths`: those of the index (`true`), and its tombstones
    /// (`false`). On a receiver only.
    ///
    /// # Errors
    /// As [`IndexReader::files`].
    pub fn rows_at(&self, paths: &[&EntryPath], mut each: impl FnMut(Row, bool) -> Result<()>) -> Result<()> {
        // All at once: an index that came as a log has no index of its paths.
        let wanted = || -> rusqlite::Result<()> {
            scratch::table(&self.connection, "wanted", "(path PRIMARY KEY) WITHOUT ROWID")?;
            self.connection.execute_batch("BEGIN")?;
            let mut insert = self.connection.prepare_cached("INSERT OR IGNORE INTO temp.wanted VALUES(?)")?;
            for path in paths {
                insert.execute([text_or_blob(path.as_bytes())])?;
            }
            self.connection.execute_batch("COMMIT")
        };
        wanted().map_err(|e| self.error(e))?;
        let go_on = |outcome: Result<()>| outcome.map(ControlFlow::Continue);
        let files = "WHERE tar.path IN (SELECT path FROM temp.wanted)";
        self.each_file(files, [], |file| go_on(each(Row::File(file), true)))?;
        let nodes = "WHERE path IN (SELECT path FROM temp.wanted)";
        read_nodes(&self.connection, &self.path, nodes, [], |node| go_on(each(Row::Node(node), true)))?;
        if !self.has_tombstones()? {
            return Ok(());
        }
        read_tombstones(&self.connection, self.read(), files, [], |file| {
            go_on(each(Row::File(file), false))
        })?;
        self.each_node_tombstone(nodes, [], |node| go_on(each(Row::Node(node), false)))
    }

    /// Gives the directories and links of previous generations that `tail` selects.
    pub(super) fn each_node_tombstone(
        &self,
        tail: &str,
        parameters: impl rusqlite::Params,
        each: impl FnMut(Node) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        read_node_tombstones(&self.connection, self.read(), tail, parameters, each)
    }

    /// Makes sure that the rows are what the digest of the index says.
    ///
    /// # Errors
    /// [`ErrorKind::BadIndex`]: they are not. Or SQLite fails.
    pub fn check_rows(&self) -> Result<()> {
        let mut digester = IndexDigester::of_format(if self.is_fragmented() { 2 } else { 1 });
        self.files(|file| {
            digester.file(&file);
            for extent in read_extents(Side::Live, &self.connection, self.read(), &file)? {
                digester.extent(&extent);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let order =
            if self.is_fragmented() { format!("ORDER BY {WALK_ORDER}") } else { "ORDER BY id".to_string() };
        read_nodes(&self.connection, &self.path, &order, [], |node| {
            digester.node(&node);
            Ok(ControlFlow::Continue(()))
        })?;
        if digester.finish() == self.digest()? {
            return Ok(());
        }
        let what = format!("the rows of the index {} are not what its digest says", self.path.display());
        Err(Error::new(ErrorKind::BadIndex, what))
    }

    /// Whether every tombstone is of an entry that was put in place: earlier versions made them of
    /// all that an index had.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn tombstones_are_placed(&self) -> Result<bool> {
        Ok(self.meta(&meta::TOMBSTONES_ARE_PLACED)?.is_some())
    }
}
