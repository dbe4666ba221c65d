//! The reader: opening an index, and rows in the order in which they were written.

use crate::archive::digest::IndexDigest;
use crate::archive::entry::{FileEntry, Node};
use crate::archive::index_digest::IndexDigester;
use crate::archive::log::LogDigest;
use crate::archive::path::EntryPath;
use crate::db::file::open_to_read;
use crate::db::index_rows::{Beside, FileRead, Kind, read_files, read_nodes};
use crate::db::meta::{self, Counts, Key, Md5s, Stored};
use crate::db::schema::has_table;
use crate::db::{
    INDEX_FORMAT, INDEX_FORMAT_FRAGMENTED, LOCKED_HINT, belonging, check_file, db_error, from_sql_int,
    is_damage, is_locked, keep_plans, sql_int, text_or_blob,
};
use crate::error::{Error, ErrorKind, Result};
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
    /// The sum of the sizes of all files, in bytes: less than the archive where that has holes, and
    /// more where files share content.
    pub content_bytes: u64,
    /// When the indexing began, in seconds since 1970; 0 if the index does not say.
    pub created_s: u64,
    /// The folder that was indexed, if the index says so.
    pub base: Option<PathBuf>,
}

/// An index, opened for reading. Not shared between threads: open one each.
pub struct IndexReader {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

const NEW_INDEX: &str = "make a new one with: tar-like index -c";

/// It is no index, as far as anyone can tell: no command overwrites it.
const OTHER_FILE: &str =
    "give -db the name of an index, or of a file that does not exist yet; move a damaged index away first";

/// What to do about a file that is no index.
fn no_index_hint(path: &Path) -> &'static str {
    if is_empty(path) { NEW_INDEX } else { OTHER_FILE }
}

fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.len() == 0)
}

/// Refuses to replace a file that is no index, neither one of ours nor one of the original's. An
/// empty file is replaced, and one that does not exist is made.
///
/// # Errors
/// The file is something else, or another program has locked it.
pub fn check_replaceable(path: &Path) -> Result<()> {
    check_file(path)?;
    if !path.exists() || is_empty(path) {
        return Ok(());
    }
    let columns = "SELECT id, path, size, offset, offset_end, hash FROM tar LIMIT 0";
    let has_columns = || open_to_read(path)?.prepare(columns).map(drop);
    has_columns().map_err(|e| no_index(path, e))
}

const OTHER_VERSION: &str =
    "use the same version of tar-like on all hosts, or make a new index with: tar-like index -c";

fn cannot_open(path: &Path, error: rusqlite::Error) -> Error {
    db_error(format!("cannot open the index {}", path.display()), error)
}

fn cannot_read(path: &Path, error: rusqlite::Error) -> Error {
    db_error(format!("cannot read the index {}", path.display()), error)
}

/// An error of the first look at a database that should be an index.
fn no_index(path: &Path, error: rusqlite::Error) -> Error {
    if error.sqlite_error_code().is_some_and(is_locked) {
        let what = format!("the index {} is locked by another program", path.display());
        return Error::new(ErrorKind::InUse, what).with_source(error).with_hint(LOCKED_HINT);
    }
    let error = db_error(format!("{} is no index", path.display()), error);
    match is_damage(&error) {
        true => error.with_kind(ErrorKind::BadIndex).with_hint(no_index_hint(path)),
        false => error,
    }
}

/// Readers are many: each has little memory.
fn tune(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA cache_size=-2000; PRAGMA temp_store=FILE;")?;
    keep_plans(connection)
}

/// Prepares a connection to read, and finds out what kind of index it is by its tables; `None` if
/// it is none.
fn kind_of(connection: &Connection) -> rusqlite::Result<Option<Kind>> {
    tune(connection)?;
    let table = |name: &str| has_table(connection, "main", name);
    if !table("tar")? {
        return Ok(None);
    }
    if !table("tarlike_meta")? {
        return Ok(Some(Kind::Original { is_overwritten: false }));
    }
    let beside = Beside {
        md5_is_optional: meta::HASH.get(connection)? == Some(Md5s::Optional),
        objects: table("tarlike_object")?,
        chunk_maps: table("tarlike_sketch")?,
    };
    Ok(Some(match meta::FORMAT.get(connection)? {
        Some(INDEX_FORMAT_FRAGMENTED) => Kind::Fragmented(beside),
        _ => Kind::Contiguous(beside),
    }))
}

impl IndexReader {
    /// Opens the index at `path`.
    ///
    /// # Errors
    /// There is none, it is no index, it was never completed, or a newer version wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        if let Err(e) = std::fs::metadata(path) {
            return Err(Error::io(format!("cannot open the index {}", path.display()), e).with_hint(
                "make it with: tar-like index -b FOLDER -db FILE; tar-like indexes lists those of sync",
            ));
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
        tune(&connection).map_err(|e| cannot_open(path, e))?;
        let read_kind = || -> rusqlite::Result<Kind> {
            let md5_is_optional = meta::HASH.get(&connection)? == Some(Md5s::Optional);
            let beside = Beside { md5_is_optional, ..Beside::default() };
            Ok(match meta::FORMAT.get(&connection)? {
                Some(INDEX_FORMAT_FRAGMENTED) => Kind::Fragmented(beside),
                _ if md5_is_optional => Kind::Contiguous(beside),
                // It is read in the same way when it has come to its end, and may begin again.
                _ => Kind::Growing,
            })
        };
        let kind = read_kind().map_err(|e| cannot_read(path, e))?;
        Ok(Self { connection, path: path.to_path_buf(), kind })
    }

    fn connect(path: &Path) -> Result<Connection> {
        open_to_read(path).map_err(|e| cannot_open(path, e))
    }

    /// For what only one kind of index has.
    pub(in crate::db) fn into_connection(self) -> Connection {
        self.connection
    }

    /// For tests of what reading costs.
    #[cfg(test)]
    pub(in crate::db) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The same on a connection that is open already; `path` is for messages.
    pub(in crate::db) fn on(connection: Connection, path: &Path) -> Result<Self> {
        let kind = kind_of(&connection).map_err(|e| no_index(path, e))?;
        let Some(kind) = kind else {
            let what = format!("{} is no index: it has no table 'tar'", path.display());
            return Err(Error::new(ErrorKind::BadIndex, what).with_hint(no_index_hint(path)));
        };
        let reader = Self { connection, path: path.to_path_buf(), kind };
        if !kind.is_ours() {
            return Ok(reader);
        }
        if !reader.has_our_rows()? {
            return Ok(Self { kind: Kind::Original { is_overwritten: true }, ..reader });
        }
        reader.check_completeness()?;
        Ok(reader)
    }

    /// Whether the rows are those that our tables are about. Earlier versions name no rows, and
    /// leave the name as it is when they make another generation: then the digest of the index
    /// decides.
    fn has_our_rows(&self) -> Result<bool> {
        if belonging::is_ours(&self.connection).map_err(|e| no_index(&self.path, e))? {
            return Ok(true);
        }
        match self.check_rows() {
            Ok(()) => Ok(true),
            Err(e) if is_damage(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Refuses an index of ours that another version wrote, or that never came to its end.
    fn check_completeness(&self) -> Result<()> {
        let format = self.meta(&meta::FORMAT)?;
        if !matches!(format, Some(INDEX_FORMAT | INDEX_FORMAT_FRAGMENTED)) {
            let format = format.map_or("of no number".to_string(), |format| format.to_string());
            let what = format!(
                "{} has index format {format}, this program knows {INDEX_FORMAT} and {INDEX_FORMAT_FRAGMENTED}",
                self.path.display()
            );
            // The index may be as good as new.
            return Err(Error::new(ErrorKind::Database, what).with_hint(OTHER_VERSION));
        }
        if self.meta(&meta::COMPLETE)? != Some(1) {
            let what = format!("{} was never completed", self.path.display());
            return Err(Error::new(ErrorKind::BadIndex, what).with_hint(NEW_INDEX));
        }
        Ok(())
    }

    /// As if the index did not say which state of an object each file is.
    pub(in crate::db) fn without_objects(self) -> Self {
        Self { kind: self.kind.without_objects(), ..self }
    }

    pub(in crate::db) fn error(&self, error: rusqlite::Error) -> Error {
        cannot_read(&self.path, error)
    }

    /// A value of `tarlike_meta`.
    pub(in crate::db) fn meta<T: Stored>(&self, key: &Key<T>) -> Result<Option<T>> {
        key.get(&self.connection).map_err(|e| self.error(e))
    }

    /// Whether the index has our tables beside `tar`.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.kind.is_ours()
    }

    /// Whether another program has replaced the rows of what was an index of ours: what our tables
    /// know is ignored then.
    #[must_use]
    pub fn is_overwritten(&self) -> bool {
        matches!(self.kind, Kind::Original { is_overwritten: true })
    }

    /// What is known of the index as a whole. The digest of an index that the original wrote is
    /// computed from its rows.
    ///
    /// # Errors
    /// SQLite fails, or a row is invalid.
    pub fn summary(&self) -> Result<Summary> {
        let mut summary = Summary {
            digest: IndexDigester::default().finish(),
            generation: 1,
            files: 0,
            nodes: 0,
            total_bytes: self.archive_bytes()?,
            content_bytes: 0,
            created_s: 0,
            base: None,
        };
        if !self.kind.is_ours() {
            let mut digester = IndexDigester::default();
            self.files(|file| {
                digester.file(&file);
                summary.files += 1;
                summary.content_bytes += file.size;
                Ok(ControlFlow::Continue(()))
            })?;
            summary.digest = digester.finish();
            return Ok(summary);
        }
        summary.digest = self.digest()?;
        let Counts { files, nodes, content_bytes, .. } = self.counts()?;
        (summary.files, summary.nodes, summary.content_bytes) = (files, nodes, content_bytes);
        summary.created_s = self.meta(&meta::CREATED)?.unwrap_or(0);
        summary.generation = self.meta(&meta::GENERATION)?.unwrap_or(1);
        summary.base = self.base()?;
        Ok(summary)
    }

    pub(super) fn digest(&self) -> Result<IndexDigest> {
        self.meta(&meta::DIGEST)?
            .ok_or_else(|| Error::new(ErrorKind::BadIndex, format!("{} has no digest", self.path.display())))
    }

    pub(super) fn read(&self) -> FileRead<'_> {
        FileRead { kind: self.kind, name: &self.path }
    }

    /// Whether files may be fragmented and ids have holes: so it is from the second generation on.
    #[must_use]
    pub fn is_fragmented(&self) -> bool {
        self.kind.is_fragmented()
    }

    pub(super) fn each_file(
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
                let path = text_or_blob(path.as_bytes());
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
        if !self.kind.is_ours() {
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
        if !self.kind.is_ours() {
            return Ok(());
        }
        read_nodes(&self.connection, &self.path, tail, [], each)
    }
}
