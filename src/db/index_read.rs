//! Reading an index, ours or the original program's.

mod at;
mod chunk_maps;
mod ids;
mod pieces;
mod skipped;
mod totals;
mod walk;

pub use at::Row;
pub(super) use pieces::{Side, find_content, read_extents};
pub use walk::WalkRows;
pub(super) use walk::{IN_ORDER, WALK_ORDER};

use super::belonging;
use super::file::open_to_read;
use super::index_rows::{file_of, node_of};
use super::schema::has_table;
use super::{
    HASH_OPTIONAL, INDEX_FORMAT, INDEX_FORMAT_FRAGMENTED, LOCKED_HINT, check_file, db_error, from_sql_int,
    is_damage, is_locked, keep_plans, sql_int, text_or_blob,
};
use crate::archive::digest::{Digest, IndexDigest, Md5};
use crate::archive::entry::{FileEntry, Node};
use crate::archive::index_digest::IndexDigester;
use crate::archive::log::LogDigest;
use crate::archive::path::EntryPath;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

/// What is known of an index as a whole.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Names this state of the index.
    pub digest: IndexDigest,
    /// Which state this is, counted from 1.
    pub generation: u64,
    /// Rows of table `tar`.
    pub files: u64,
    /// Directories and links.
    pub nodes: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
    /// When the indexing began, in seconds since 1970; 0 if the index does not say.
    pub created_s: u64,
    /// The folder that was indexed, if the index says so.
    pub base: Option<PathBuf>,
}

/// An index, opened for reading. Not shared between threads: open one each.
pub struct IndexReader {
    connection: Connection,
    path: PathBuf,
    ours: bool,
    /// Our tables are there, but another program has replaced the rows that they are about.
    is_overwritten: bool,
    growing: bool,
    optional: bool,
    objects: bool,
    /// Files may be fragmented.
    fragmented: bool,
    /// Large files may have chunk maps.
    chunk_maps: bool,
}

const NEW_INDEX: &str = "make a new one with: tar-like index -c";

/// What the md5 reads as that is still to come: that of no content.
pub(super) const PENDING_MD5: Md5 = Digest::ZERO;

/// How rows are read.
#[derive(Clone, Copy)]
pub(super) struct FileRead<'a> {
    /// The index has our tables beside `tar`.
    pub(super) ours: bool,
    /// Digests may still be to come; they read as [`PENDING_MD5`] and no BLAKE3 then.
    pub(super) growing: bool,
    /// Digests may have been left out.
    pub(super) optional: bool,
    /// It says which state of an object each file is.
    pub(super) objects: bool,
    /// Files may be fragmented.
    pub(super) fragmented: bool,
    /// The index, for messages.
    pub(super) name: &'a Path,
}

impl<'a> FileRead<'a> {
    /// An index with our tables, complete, of a folder.
    pub(super) fn ours(name: &'a Path) -> Self {
        Self { ours: true, growing: false, optional: false, objects: false, fragmented: false, name }
    }
}

/// Gives the files that `tail` selects.
pub(super) fn read_files(
    connection: &Connection,
    read: FileRead<'_>,
    tail: &str,
    parameters: impl rusqlite::Params,
    mut each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let error = |e| db_error(format!("cannot read the index {}", read.name.display()), e);
    let query = match (read.ours, read.objects) {
        (true, true) => format!(
            "SELECT {FILE_COLUMNS}, {OUR_COLUMNS}, {OBJECT_COLUMNS} {OUR_TABLES} {OBJECT_TABLE} {tail}"
        ),
        (true, false) => format!("SELECT {FILE_COLUMNS}, {OUR_COLUMNS} {OUR_TABLES} {tail}"),
        (false, _) => format!("SELECT {FILE_COLUMNS} FROM tar {tail}"),
    };
    let mut statement = connection.prepare_cached(&query).map_err(error)?;
    let mut rows = statement.query(parameters).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let file = file_of(row, read)
            .map_err(|why| Error::new(ErrorKind::BadIndex, format!("{}: {why}", read.name.display())))?;
        if each(file)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Gives the directories and links that `tail` selects.
pub(super) fn read_nodes(
    connection: &Connection,
    name: &Path,
    tail: &str,
    parameters: impl rusqlite::Params,
    mut each: impl FnMut(Node) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let error = |e| db_error(format!("cannot read the index {}", name.display()), e);
    let query = format!("SELECT kind, path, target, mode, mtime_ns, uid, gid FROM tarlike_node {tail}");
    let mut statement = connection.prepare_cached(&query).map_err(error)?;
    let mut rows = statement.query(parameters).map_err(error)?;
    while let Some(row) = rows.next().map_err(error)? {
        let node = node_of(row)
            .map_err(|why| Error::new(ErrorKind::BadIndex, format!("{}: {why}", name.display())))?;
        if each(node)?.is_break() {
            break;
        }
    }
    Ok(())
}

const FILE_COLUMNS: &str = "tar.id, tar.path, tar.size, tar.offset, tar.offset_end, tar.hash";
const OUR_COLUMNS: &str = "f.blake3, f.mode, f.mtime_ns, f.uid, f.gid, f.dev, f.ino, f.ctime_ns";
const OBJECT_COLUMNS: &str = "o.etag, o.version, o.modified_ns";
const OUR_TABLES: &str = "FROM tar LEFT JOIN tarlike_file f ON f.id = tar.id";
const OBJECT_TABLE: &str = "LEFT JOIN tarlike_object o ON o.id = tar.id";

impl IndexReader {
    /// Opens the index at `path`.
    ///
    /// # Errors
    /// There is none, it is no index, it was never completed, or a newer version wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        if let Err(e) = std::fs::metadata(path) {
            return Err(Error::io(format!("cannot open the index {}", path.display()), e)
                .with_hint("make it with: tar-like index -b FOLDER -db FILE"));
        }
        check_file(path)?;
        Self::on(Self::connect(path)?, path)
    }

    /// The same for an index that may still be growing.
    ///
    /// # Errors
    /// There is none, or it is no index of ours.
    pub fn open_growing(path: &Path) -> Result<Self> {
        let connection = Self::connect(path)?;
        connection
            .execute_batch("PRAGMA cache_size=-2000; PRAGMA temp_store=FILE;")
            .and_then(|()| keep_plans(&connection))
            .map_err(|e| db_error(format!("cannot open the index {}", path.display()), e))?;
        let mut reader = Self {
            connection,
            path: path.to_path_buf(),
            ours: true,
            is_overwritten: false,
            growing: true,
            optional: false,
            objects: false,
            fragmented: false,
            chunk_maps: false,
        };
        reader.optional = reader.leaves_out_digests()?;
        reader.fragmented = reader.meta_int("format")? == Some(INDEX_FORMAT_FRAGMENTED);
        Ok(reader)
    }

    fn connect(path: &Path) -> Result<Connection> {
        open_to_read(path).map_err(|e| db_error(format!("cannot open the index {}", path.display()), e))
    }

    /// For tests of what reading costs.
    #[cfg(test)]
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The same on a connection that is open already; `path` is for messages.
    pub(super) fn on(connection: Connection, path: &Path) -> Result<Self> {
        let what = || format!("{} is no index", path.display());
        let bad = |e: rusqlite::Error| {
            if e.sqlite_error_code().is_some_and(is_locked) {
                let what = format!("the index {} is locked by another program", path.display());
                return Error::new(ErrorKind::InUse, what).with_source(e).with_hint(LOCKED_HINT);
            }
            let error = db_error(what(), e);
            match is_damage(&error) {
                true => error.with_kind(ErrorKind::BadIndex).with_hint(NEW_INDEX),
                false => error,
            }
        };
        connection.execute_batch("PRAGMA cache_size=-2000; PRAGMA temp_store=FILE;").map_err(bad)?;
        keep_plans(&connection).map_err(bad)?;
        let table = |name: &str| has_table(&connection, "main", name);
        if !table("tar").map_err(bad)? {
            return Err(Error::new(ErrorKind::BadIndex, format!("{}: it has no table 'tar'", what()))
                .with_hint(NEW_INDEX));
        }
        let has_meta = table("tarlike_meta").map_err(bad)?;
        let ours = has_meta && belonging::is_ours(&connection).map_err(bad)?;
        let objects = ours && table("tarlike_object").map_err(bad)?;
        let chunk_maps = ours && table("tarlike_sketch").map_err(bad)?;
        let path_buf = path.to_path_buf();
        let (growing, optional, fragmented) = (false, false, false);
        let is_overwritten = has_meta && !ours;
        let mut reader = Self {
            connection,
            path: path_buf,
            ours,
            is_overwritten,
            growing,
            optional,
            objects,
            fragmented,
            chunk_maps,
        };
        if ours {
            reader.optional = reader.leaves_out_digests()?;
            let format = reader.meta_int("format")?;
            reader.fragmented = format == Some(INDEX_FORMAT_FRAGMENTED);
            if format != Some(INDEX_FORMAT) && !reader.fragmented {
                return Err(Error::new(
                    // It may be as good as new.
                    ErrorKind::Database,
                    format!(
                        "{} has index format {}, this program knows {INDEX_FORMAT} and {INDEX_FORMAT_FRAGMENTED}",
                        path.display(),
                        format.map_or("of no number".to_string(), |format| format.to_string())
                    ),
                )
                .with_hint("use the same version of tar-like on all hosts, or make a new index with: tar-like index -c"));
            }
            if reader.meta_int("complete")? != Some(1) {
                return Err(Error::new(
                    ErrorKind::BadIndex,
                    format!("{} was never completed", path.display()),
                )
                .with_hint(NEW_INDEX));
            }
        }
        Ok(reader)
    }

    /// As if the index did not say which state of an object each file is.
    pub(super) fn without_objects(self) -> Self {
        Self { objects: false, ..self }
    }

    fn error(&self, error: rusqlite::Error) -> Error {
        db_error(format!("cannot read the index {}", self.path.display()), error)
    }

    fn meta_int(&self, key: &str) -> Result<Option<i64>> {
        self.connection
            .query_row("SELECT value FROM tarlike_meta WHERE key=?", [key], |row| row.get(0))
            .optional()
            .map_err(|e| self.error(e))
    }

    fn leaves_out_digests(&self) -> Result<bool> {
        Ok(self.meta_bytes("hash")?.as_deref() == Some(HASH_OPTIONAL.as_bytes()))
    }

    pub(super) fn meta_bytes(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.connection
            .query_row("SELECT value FROM tarlike_meta WHERE key=?", [key], |row| {
                Ok(row.get_ref(0)?.as_bytes_or_null()?.map(<[u8]>::to_vec))
            })
            .optional()
            .map(Option::flatten)
            .map_err(|e| self.error(e))
    }

    /// Whether the index has our tables beside `tar`.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// Whether another program has replaced the rows of what was an index of ours: what our tables
    /// know is ignored then.
    #[must_use]
    pub fn is_overwritten(&self) -> bool {
        self.is_overwritten
    }

    /// What is known of the index as a whole. The digest of an index that the original wrote is
    /// computed from its rows.
    ///
    /// # Errors
    /// SQLite fails, or a row is invalid.
    pub fn summary(&self) -> Result<Summary> {
        let files: i64 = self
            .connection
            .query_row("SELECT count(*) FROM tar", [], |row| row.get(0))
            .map_err(|e| self.error(e))?;
        let mut summary = Summary {
            digest: IndexDigester::default().finish(),
            generation: 1,
            files: from_sql_int(files),
            nodes: 0,
            total_bytes: self.archive_bytes()?,
            created_s: 0,
            base: None,
        };
        if !self.ours {
            let mut digester = IndexDigester::default();
            self.files(|file| {
                digester.file(&file);
                Ok(ControlFlow::Continue(()))
            })?;
            summary.digest = digester.finish();
            return Ok(summary);
        }
        let nodes: i64 = self
            .connection
            .query_row("SELECT count(*) FROM tarlike_node", [], |row| row.get(0))
            .map_err(|e| self.error(e))?;
        summary.nodes = from_sql_int(nodes);
        summary.created_s = from_sql_int(self.meta_int("created")?.unwrap_or(0));
        summary.generation = from_sql_int(self.meta_int("generation")?.unwrap_or(1));
        summary.base = self.meta_bytes("base")?.filter(|base| !base.is_empty()).map(|base| {
            PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(base))
        });
        summary.digest = self
            .meta_bytes("digest")?
            .and_then(|text| String::from_utf8(text).ok()?.parse().ok())
            .ok_or_else(|| {
                Error::new(ErrorKind::BadIndex, format!("{} has no digest", self.path.display()))
            })?;
        Ok(summary)
    }

    fn read(&self) -> FileRead<'_> {
        let Self { ours, growing, optional, objects, fragmented, .. } = *self;
        FileRead { ours, growing, optional, objects, fragmented, name: &self.path }
    }

    /// Whether files may be fragmented and ids have holes: so it is from the second generation on.
    #[must_use]
    pub fn is_fragmented(&self) -> bool {
        self.fragmented
    }

    fn each_file(
        &self,
        tail: &str,
        parameters: impl rusqlite::Params,
        each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        read_files(&self.connection, self.read(), tail, parameters, each)
    }

    /// Where the archive ended when the log of this index had come to the prefix `digest`; `None`
    /// if it has none of that name.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn prefix_end(&self, digest: &LogDigest) -> Result<Option<u64>> {
        self.connection
            .prepare_cached("SELECT end FROM tarlike_log WHERE digest=?")
            .and_then(|mut statement| {
                statement.query_row([&digest.as_bytes()[..]], |row| row.get(0).map(from_sql_int)).optional()
            })
            .map_err(|e| self.error(e))
    }

    /// Gives every file, in the order in which they were written.
    ///
    /// # Errors
    /// SQLite fails, a row is invalid, or `each` fails.
    pub fn files(&self, each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        self.each_file("ORDER BY tar.rowid", [], each)
    }

    /// Gives every non-empty file that has a byte in `range` of the archive, ascending.
    ///
    /// One index look-up and a scan of the hits: the two-sided comparison of the original program
    /// reads the whole table.
    ///
    /// # Errors
    /// SQLite fails, a row is invalid, or `each` fails.
    pub fn files_in(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        self.each_file(
            "WHERE tar.offset_end >= ? AND tar.size > 0 ORDER BY tar.offset_end",
            [sql_int(range.start)],
            |file| if file.offset >= range.end { Ok(ControlFlow::Break(())) } else { each(file) },
        )
    }

    /// The id of the file with this path, if there is one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn id_of(&self, path: &EntryPath) -> Result<Option<u64>> {
        self.connection
            .prepare_cached("SELECT id FROM tar WHERE path=?")
            .and_then(|mut statement| {
                let path = ToSqlOutput::Borrowed(text_or_blob(path.as_bytes()));
                statement.query_row([path], |row| row.get(0).map(from_sql_int)).optional()
            })
            .map_err(|e| self.error(e))
    }

    /// Gives the empty files.
    ///
    /// # Errors
    /// As [`IndexReader::files`].
    pub fn empty_files(&self, each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        self.each_file("WHERE tar.size = 0 ORDER BY tar.rowid", [], each)
    }

    /// Gives every directory and link, in the order in which they were written: a directory before
    /// what it contains.
    ///
    /// # Errors
    /// SQLite fails, a row is invalid, or `each` fails.
    pub fn nodes(&self, each: impl FnMut(Node) -> Result<ControlFlow<()>>) -> Result<()> {
        self.each_node("ORDER BY id", each)
    }

    /// Gives the directories and links with ids in `ids`, which count from 0 in the order in which
    /// they were written.
    ///
    /// # Errors
    /// As [`IndexReader::nodes`].
    pub fn nodes_with_ids(
        &self,
        ids: Range<u64>,
        each: impl FnMut(Node) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if !self.ours {
            return Ok(());
        }
        let tail = "WHERE id >= ? AND id < ? ORDER BY id";
        read_nodes(&self.connection, &self.path, tail, [sql_int(ids.start), sql_int(ids.end)], each)
    }

    /// Gives every directory, in the reverse order.
    ///
    /// # Errors
    /// As [`IndexReader::nodes`].
    pub fn directories_deepest_first(&self, each: impl FnMut(Node) -> Result<ControlFlow<()>>) -> Result<()> {
        self.each_node("WHERE kind='d' ORDER BY id DESC", each)
    }

    fn each_node(&self, tail: &str, each: impl FnMut(Node) -> Result<ControlFlow<()>>) -> Result<()> {
        if !self.ours {
            return Ok(());
        }
        read_nodes(&self.connection, &self.path, tail, [], each)
    }
}
