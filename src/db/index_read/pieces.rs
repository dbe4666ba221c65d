//! Which files have a piece in a range of the archive, and which pieces a file has.

use super::IndexReader;
use crate::archive::entry::{FileEntry, Node};
use crate::archive::extent::{Extent, MAX_EXTENT_BYTES, Piece};
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::db::index_rows::{FileRead, first_of, is_leaf, read_files, read_nodes, read_tombstones};
use crate::db::index_write::hash_column;
use crate::db::meta;
use crate::db::schema::has_table;
use crate::db::{db_error, from_sql_int, sql_int, text_or_blob};
use crate::error::Result;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params};
use std::ops::{ControlFlow, Range};

/// Where rows of files and extents are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Side {
    /// The files of the index.
    Live,
    /// Files of previous generations.
    Tombstone,
}

/// The first file that `accept` takes among those that may have the content of `sought`. Of one
/// without md5, rows that have one are not found.
pub(in super::super) fn find_content(
    connection: &Connection,
    read: FileRead<'_>,
    sought: &FileEntry,
    accept: impl Fn(&FileEntry) -> bool,
) -> Result<Option<FileEntry>> {
    let mut found = None;
    let tail = "WHERE tar.hash IN (?, ?) AND tar.size = ? ORDER BY tar.rowid";
    let [md5, blake3] = [hash_column(sought.md5, None), hash_column(None, sought.blake3)];
    read_files(connection, read, tail, params![md5, blake3, sql_int(sought.size)], |file| {
        if !accept(&file) {
            return Ok(ControlFlow::Continue(()));
        }
        found = Some(file);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

impl Side {
    fn extents(self) -> &'static str {
        match self {
            Self::Live => "tarlike_extent",
            Self::Tombstone => "tarlike_gone_extent",
        }
    }

    /// Gives the files that `tail` selects.
    pub(in super::super) fn files(
        self,
        connection: &Connection,
        read: FileRead<'_>,
        tail: &str,
        parameters: impl rusqlite::Params,
        each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        match self {
            Self::Live => read_files(connection, read, tail, parameters, each),
            Self::Tombstone => read_tombstones(connection, read, tail, parameters, each),
        }
    }

    /// The file with this id, if there is one.
    pub(in super::super) fn file(
        self,
        connection: &Connection,
        read: FileRead<'_>,
        id: u64,
    ) -> Result<Option<FileEntry>> {
        let (tail, row) = match self {
            Self::Live => ("WHERE tar.rowid = ?", sql_int(id).saturating_add(1)),
            Self::Tombstone => ("WHERE tar.id = ?", sql_int(id)),
        };
        first_of(|each| self.files(connection, read, tail, [row], each))
    }

    /// Gives every piece in `range`, contiguous files first and ascending, then fragmented ones,
    /// file by file.
    pub(in super::super) fn pieces_in(
        self,
        connection: &Connection,
        read: FileRead<'_>,
        range: &Range<u64>,
        mut each: impl FnMut(&FileEntry, &Piece) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (mut broken, tail) =
            (false, "WHERE tar.offset_end >= ? AND tar.size > 0 ORDER BY tar.offset_end");
        self.files(connection, read, tail, [sql_int(range.start)], |file| {
            if file.offset >= range.end {
                return Ok(ControlFlow::Break(()));
            }
            if file.fragmented {
                return Ok(ControlFlow::Continue(()));
            }
            let next = each(&file, &Piece::whole(&file))?;
            broken = next.is_break();
            Ok(next)
        })?;
        if broken || !read.kind.is_fragmented() {
            return Ok(());
        }
        let error = |e| db_error(format!("cannot read the index {}", read.name.display()), e);
        let query = format!(
            "SELECT file, file_offset, length, offset FROM {}
             WHERE offset > ?1 AND offset < ?2 AND offset + length > ?3 ORDER BY file, file_offset",
            self.extents()
        );
        let mut statement = connection.prepare_cached(&query).map_err(error)?;
        let from = sql_int(range.start) - sql_int(MAX_EXTENT_BYTES);
        let mut rows = statement.query([from, sql_int(range.end), sql_int(range.start)]).map_err(error)?;
        let mut file: Option<FileEntry> = None;
        while let Some(row) = rows.next().map_err(error)? {
            let number = |column| row.get(column).map(from_sql_int).map_err(error);
            let (id, file_offset, length, offset) = (number(0)?, number(1)?, number(2)?, number(3)?);
            if file.as_ref().is_none_or(|file| file.id != id) {
                file = self.file(connection, read, id)?;
            }
            let Some(file) = &file else { continue };
            let piece = Piece { file_offset, range: offset..offset.saturating_add(length) };
            if each(file, &piece)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Gives the pieces of `file`, in its order.
    pub(in super::super) fn pieces_of(
        self,
        connection: &Connection,
        read: FileRead<'_>,
        file: &FileEntry,
        mut each: impl FnMut(Piece) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if !file.fragmented {
            if file.size > 0 {
                let _last = each(Piece::whole(file))?;
            }
            return Ok(());
        }
        let error = |e| db_error(format!("cannot read the index {}", read.name.display()), e);
        let query = format!(
            "SELECT file_offset, length, offset FROM {} WHERE file=? ORDER BY file_offset",
            self.extents()
        );
        let mut statement = connection.prepare_cached(&query).map_err(error)?;
        let mut rows = statement.query([sql_int(file.id)]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            let number = |column| row.get(column).map(from_sql_int).map_err(error);
            let (file_offset, length, offset) = (number(0)?, number(1)?, number(2)?);
            let piece = Piece { file_offset, range: offset..offset.saturating_add(length) };
            if each(piece)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The extents of a fragmented file.
pub(in super::super) fn read_extents(
    side: Side,
    connection: &Connection,
    read: FileRead<'_>,
    file: &FileEntry,
) -> Result<Vec<Extent>> {
    let mut extents = Vec::new();
    if file.fragmented {
        side.pieces_of(connection, read, file, |piece| {
            extents.push(Extent { length: piece.range.end - piece.range.start, offset: piece.range.start });
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(extents)
}

impl IndexReader {
    /// Gives every piece of a file that has a byte in `range` of the archive: whole pieces, not cut
    /// to the range. Contiguous files come first, ascending, then fragmented ones, file by file.
    ///
    /// # Errors
    /// SQLite fails, a row is invalid, or `each` fails.
    pub fn pieces_in(
        &self,
        range: &Range<u64>,
        mut each: impl FnMut(&FileEntry, &Piece) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if self.is_fragmented() {
            return Side::Live.pieces_in(&self.connection, self.read(), range, each);
        }
        // The same with what only a fresh index has: rows of the original program, of buckets, and
        // that are still growing.
        self.files_in(range.clone(), |file| each(&file, &Piece::whole(&file)))
    }

    /// The same for files that are no part of the index any more, but were in previous generations.
    /// On a receiver only.
    ///
    /// # Errors
    /// As [`IndexReader::pieces_in`].
    pub fn tombstone_pieces_in(
        &self,
        range: &Range<u64>,
        each: impl FnMut(&FileEntry, &Piece) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if !self.is_fragmented() || !self.has_tombstones()? {
            return Ok(());
        }
        Side::Tombstone.pieces_in(&self.connection, self.read(), range, each)
    }

    /// Whether the index has tables of tombstones.
    pub(super) fn has_tombstones(&self) -> Result<bool> {
        has_table(&self.connection, "main", "tarlike_gone").map_err(|e| self.error(e))
    }

    /// The generation that the newest change took back, if it did. On a receiver only.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn reverted_generation(&self) -> Result<Option<u64>> {
        Ok(self.meta(&meta::REVERTED)?.filter(|&generation| generation > 0))
    }

    /// Gives the files of previous generations whose path no entry has any more, and that were
    /// there before generation `since` of the receiver. Those of the same path follow each other.
    /// On a receiver only.
    ///
    /// # Errors
    /// As [`IndexReader::files`].
    pub fn file_tombstones(
        &self,
        since: u64,
        each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if !self.has_tombstones()? {
            return Ok(());
        }
        let tail = "WHERE died >= ? AND NOT EXISTS(SELECT 1 FROM tar t WHERE t.path = tar.path)
                    AND NOT EXISTS(SELECT 1 FROM tarlike_node n WHERE n.path = tar.path) ORDER BY tar.path, tar.id";
        read_tombstones(&self.connection, self.read(), tail, [sql_int(since)], each)
    }

    /// Gives the files of previous generations that had this path and were there before generation
    /// `since`. On a receiver only.
    ///
    /// # Errors
    /// As [`IndexReader::files`].
    pub fn file_tombstones_at(
        &self,
        path: &EntryPath,
        since: u64,
        each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if !self.has_tombstones()? {
            return Ok(());
        }
        let path = text_or_blob(path.as_bytes());
        let tail = "WHERE tar.path = ? AND died >= ?";
        read_tombstones(&self.connection, self.read(), tail, params![path, sql_int(since)], each)
    }

    /// The file of which `path` is a further name, if it is one.
    ///
    /// # Errors
    /// As [`IndexReader::nodes`].
    pub fn hardlink_at(&self, path: &EntryPath) -> Result<Option<EntryPath>> {
        let path = text_or_blob(path.as_bytes());
        let tail = "WHERE path = ? AND kind = 'h'";
        let node = first_of(|each| read_nodes(&self.connection, &self.path, tail, [path], each))?;
        Ok(node.and_then(|node| EntryPath::new(node.target).ok()))
    }

    /// The same for directories and links; what is in a directory comes before it.
    ///
    /// # Errors
    /// As [`IndexReader::nodes`].
    pub fn node_tombstones(
        &self,
        since: u64,
        each: impl FnMut(Node) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if !self.has_tombstones()? {
            return Ok(());
        }
        let tail = "WHERE died >= ? AND NOT EXISTS(SELECT 1 FROM tar t WHERE t.path = g.path)
                    AND NOT EXISTS(SELECT 1 FROM tarlike_node n WHERE n.path = g.path) ORDER BY g.path DESC";
        self.each_node_tombstone(tail, [sql_int(since)], each)
    }

    /// The directory or link of a previous generation that had this path and was there before
    /// generation `since`. On a receiver only.
    ///
    /// # Errors
    /// As [`IndexReader::nodes`].
    pub fn node_tombstone_at(&self, path: &EntryPath, since: u64) -> Result<Option<Node>> {
        if !self.has_tombstones()? {
            return Ok(None);
        }
        let path = text_or_blob(path.as_bytes());
        first_of(|each| {
            self.each_node_tombstone("WHERE g.path = ? AND died >= ?", params![path, sql_int(since)], each)
        })
    }

    /// Whether the index has a file or link of this path.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn is_leaf(&self, path: &EntryPath) -> Result<bool> {
        is_leaf(&self.connection, path.as_bytes()).map_err(|e| self.error(e))
    }

    /// Whether any file lies below the folder `path`.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn has_files_below(&self, path: &EntryPath) -> Result<bool> {
        // As text and as bytes: a name that is no UTF-8 sorts behind all others.
        let bounds = [b'/', b'/' + 1].map(|end| [path.as_bytes(), &[end]].concat());
        let as_bytes = bounds.each_ref().map(|bound| ToSqlOutput::Borrowed(ValueRef::Blob(bound)));
        let as_text = bounds.each_ref().map(|bound| text_or_blob(bound));
        self.connection
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM tar WHERE path > ?1 AND path < ?2)
                 OR EXISTS(SELECT 1 FROM tar WHERE path > ?3 AND path < ?4)",
            )
            .and_then(|mut statement| {
                statement
                    .query_row(rusqlite::params_from_iter(as_text.iter().chain(&as_bytes)), |row| row.get(0))
            })
            .map_err(|e| self.error(e))
    }

    /// Whether a file, directory or link has this path.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn has_path(&self, path: &EntryPath) -> Result<bool> {
        self.connection
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM tar WHERE path = ?1)
                 OR EXISTS(SELECT 1 FROM tarlike_node WHERE path = ?1)",
            )
            .and_then(|mut statement| statement.query_row([text_or_blob(path.as_bytes())], |row| row.get(0)))
            .map_err(|e| self.error(e))
    }

    /// The file of this path, if there is one.
    ///
    /// # Errors
    /// As [`IndexReader::files`].
    pub fn file_at(&self, path: &EntryPath) -> Result<Option<FileEntry>> {
        let path = text_or_blob(path.as_bytes());
        first_of(|each| self.each_file("WHERE tar.path = ?", [path], each))
    }

    /// The first file that has the content of `file`, of another index. If that has no md5, no file
    /// with one is found.
    ///
    /// # Errors
    /// As [`IndexReader::files`].
    pub fn find_content_of(&self, file: &FileEntry) -> Result<Option<FileEntry>> {
        let accept = |other: &FileEntry| other.has_content_of(file);
        find_content(&self.connection, self.read(), file, accept)
    }

    /// Gives the fragmented files with ids from `from` on, ascending.
    ///
    /// # Errors
    /// As [`IndexReader::files`].
    pub fn fragmented_files(
        &self,
        from: u64,
        each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if !self.is_fragmented() {
            return Ok(());
        }
        // A row for each, however many pieces it has.
        let tail = "WHERE tar.rowid > ? AND tar.id IN (SELECT file FROM tarlike_extent WHERE file_offset = 0)
                    ORDER BY tar.rowid";
        self.each_file(tail, [sql_int(from)], each)
    }

    /// Gives the pieces of a file of this index, in its order; they are the whole file.
    ///
    /// # Errors
    /// SQLite fails, or `each` fails.
    pub fn pieces_of(
        &self,
        file: &FileEntry,
        each: impl FnMut(Piece) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        Side::Live.pieces_of(&self.connection, self.read(), file, each)
    }

    /// Which bytes of the archive any file has: after some generations there are holes between them.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn used_ranges(&self) -> Result<RangeSet> {
        let mut used = RangeSet::default();
        if !self.is_fragmented() {
            used.insert(0..self.archive_bytes()?);
            return Ok(used);
        }
        self.files(|file| {
            self.pieces_of(&file, |piece| {
                used.insert(piece.range);
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(used)
    }
}
