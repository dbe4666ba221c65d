//! The index itself.

use super::differences::Differences;
use crate::archive::change::ChangeEnd;
use crate::archive::digest::{Digest, IndexDigest};
use crate::archive::entry::{FileEntry, Node};
use crate::archive::log::{self, FileRow, LogDigest, LogEnd, LogRecord, first_digest};
use crate::archive::path::printable;
use crate::db::file::open_to_read;
use crate::db::generation::{Placed, add_own_tombstones};
use crate::db::index_rows::{FileRead, Kind, PENDING_MD5, first_of, read_files, read_nodes};
use crate::db::index_write::{insert_file, insert_node, set_digests};
use crate::db::meta::{self, Md5s};
use crate::db::running::RunningDigest;
use crate::db::{INDEX_FORMAT, db_error, from_sql_int, index_state, schema, sql_int};
use crate::error::{Error, ErrorKind, Result};
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Files whose digests may be outstanding at once.
const MAX_PENDING: usize = 4096;

/// How far a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Names the log up to here.
    pub digest: LogDigest,
    pub(super) files: u64,
    pub(super) nodes: u64,
    pub(super) end: u64,
    pub(super) last_key: Vec<u8>,
    pub(super) last_is_folder: bool,
}

/// What a batch did.
#[derive(Debug, Default)]
pub struct Appended {
    /// The bytes of the archive that it lays out.
    pub range: Range<u64>,
    /// Files whose digests are still to come.
    pub pending: Vec<u64>,
    /// Files whose digests came now.
    pub digested: Vec<u64>,
    /// The log is at its end: this is the index.
    pub end: Option<LogEnd>,
}

/// The index of one archive, open for more.
pub struct GrowingIndex {
    connection: Connection,
    path: PathBuf,
    stream: LogDigest,
    pub(super) head: Head,
    /// Rows that are there, of this stream or of one before.
    pub(super) stored: (u64, u64),
    running: RunningDigest,
    limit_bytes: u64,
}

pub(super) fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadIndex, format!("the index is refused: {why}"))
}

impl GrowingIndex {
    /// Makes an empty index at `path`, of at most `limit_bytes` on disk.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn create(path: &Path, stream: &LogDigest, limit_bytes: u64) -> Result<Self> {
        let connection = Self::connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
        let run = || -> rusqlite::Result<()> {
            connection.execute_batch(schema::INDEX)?;
            meta::FORMAT.set(&connection, &INDEX_FORMAT)?;
            meta::HASH.set(&connection, &Md5s::All)
        };
        run().map_err(|e| Self::error_at(path, e))?;
        Self::begin(connection, path, stream, limit_bytes)
    }

    /// Opens the index at `path` for a new stream, with whose rows those that are there will be
    /// compared. What was put in place of them gets a tombstone, so that what the new stream does
    /// not have can be deleted.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn adopt(path: &Path, stream: &LogDigest, limit_bytes: u64, placed: &Placed) -> Result<Self> {
        let connection = Self::connect(path, OpenFlags::empty())?;
        add_own_tombstones(&connection, placed).map_err(|e| Self::error_at(path, e))?;
        Self::begin(connection, path, stream, limit_bytes)
    }

    /// Opens the index at `path` to go on with its stream; `None` if it never was one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn open(path: &Path, limit_bytes: u64) -> Result<Option<Self>> {
        let error = |e| Self::error_at(path, e);
        // An index that came as a whole must stay as it is.
        let stream =
            open_to_read(path).and_then(|connection| meta::STREAM.get(&connection)).map_err(error)?;
        let Some(stream) = stream else { return Ok(None) };
        let connection = Self::connect(path, OpenFlags::empty())?;
        let head = connection
            .query_row(
                "SELECT digest, files, nodes, end, last_key, last_is_folder FROM tarlike_log ORDER BY seq DESC LIMIT 1",
                [],
                |row| {
                    Ok(Head {
                        digest: Digest::from(row.get::<_, [u8; 32]>(0)?),
                        files: from_sql_int(row.get(1)?),
                        nodes: from_sql_int(row.get(2)?),
                        end: from_sql_int(row.get(3)?),
                        last_key: row.get(4)?,
                        last_is_folder: row.get(5)?,
                    })
                },
            )
            .map_err(error)?;
        Self::with(connection, path, &stream, head, limit_bytes).map(Some)
    }

    fn connect(path: &Path, more: OpenFlags) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(path, flags)?;
            // Not synced at each batch: the sync that comes before a block is acknowledged covers
            // the log, too.
            connection.execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-8000; PRAGMA temp_store=FILE;",
            )?;
            Ok(connection)
        };
        open().map_err(|e| Self::error_at(path, e))
    }

    fn begin(connection: Connection, path: &Path, stream: &LogDigest, limit_bytes: u64) -> Result<Self> {
        let head = Head {
            digest: first_digest(stream),
            files: 0,
            nodes: 0,
            end: 0,
            last_key: Vec::new(),
            last_is_folder: true,
        };
        let run = || -> rusqlite::Result<()> {
            let tx = connection.unchecked_transaction()?;
            tx.execute_batch(schema::LOG)?;
            tx.execute("DELETE FROM tarlike_log", [])?;
            meta::COMPLETE.remove(&tx)?;
            meta::DIGEST.remove(&tx)?;
            meta::STREAM.set(&tx, stream)?;
            insert_head(&tx, &head, 0)?;
            tx.commit()
        };
        run().map_err(|e| Self::error_at(path, e))?;
        Self::with(connection, path, stream, head, limit_bytes)
    }

    fn with(
        connection: Connection,
        path: &Path,
        stream: &LogDigest,
        head: Head,
        limit_bytes: u64,
    ) -> Result<Self> {
        let rows = |query| connection.query_row(query, [], |row| row.get(0).map(from_sql_int));
        let stored = rows("SELECT coalesce(max(rowid), 0) FROM tar")
            .and_then(|files| Ok((files, rows("SELECT coalesce(max(id) + 1, 0) FROM tarlike_node")?)))
            .map_err(|e| Self::error_at(path, e))?;
        let (path, stream, running) = (path.to_path_buf(), *stream, RunningDigest::default());
        Ok(Self { connection, path, stream, head, stored, running, limit_bytes })
    }

    fn error_at(path: &Path, error: rusqlite::Error) -> Error {
        db_error(format!("cannot write the index {}", path.display()), error)
    }

    fn error(&self, error: rusqlite::Error) -> Error {
        Self::error_at(&self.path, error)
    }

    /// Writes everything into the one file of the index, so that it can be copied.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn fold(self) -> Result<()> {
        let fold = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.connection.query_row(fold, [], |_| Ok(())).map_err(|e| self.error(e))
    }

    /// Which stream this is.
    #[must_use]
    pub fn stream(&self) -> &LogDigest {
        &self.stream
    }

    /// How far it is.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How many files and bytes the rows that are there lay out, of whatever stream.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn stored(&self) -> Result<(u64, u64)> {
        let end: Option<i64> = self
            .connection
            .query_row("SELECT offset_end FROM tar ORDER BY rowid DESC LIMIT 1", [], |row| row.get(0))
            .optional()
            .map_err(|e| self.error(e))?;
        Ok((self.stored.0, from_sql_int(end.unwrap_or(-1).saturating_add(1))))
    }

    /// The digest of the index, if it is complete.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn sealed(&self) -> Result<Option<IndexDigest>> {
        meta::DIGEST.get(&self.connection).map_err(|e| self.error(e))
    }

    /// The ids of the files whose digests are still to come.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn pending(&self) -> Result<Vec<u64>> {
        self.connection
            .prepare("SELECT id FROM tar WHERE hash IS NULL")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0).map(from_sql_int))?.collect())
            .map_err(|e| self.error(e))
    }

    /// What the batch that ended with `digest` laid out, if it was appended already.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn appended(&self, digest: &LogDigest) -> Result<Option<Range<u64>>> {
        self.connection
            .query_row("SELECT start, end FROM tarlike_log WHERE digest=?", [&digest.as_bytes()[..]], |row| {
                Ok(from_sql_int(row.get(0)?)..from_sql_int(row.get(1)?))
            })
            .optional()
            .map_err(|e| self.error(e))
    }

    /// Adds the records of `batch`, up to the prefix `digest`. Where they say something else than
    /// rows that are there, `settle` is called before anything changes, and what it gives lives
    /// until everything has.
    ///
    /// # Errors
    /// [`ErrorKind::BadIndex`]: no index can say this; nothing was added. Or `settle` or SQLite
    /// fails.
    pub fn append<G>(
        &mut self,
        batch: &[u8],
        digest: LogDigest,
        settle: impl FnOnce(&Differences) -> Result<G>,
    ) -> Result<Appended> {
        if self.sealed()?.is_some() {
            return Err(refused("it goes on after its end"));
        }
        let is_coming = |record: &std::result::Result<LogRecord, _>| {
            matches!(record, Ok(LogRecord::File(FileRow { digests: None, .. })))
        };
        let coming = log::records(batch).filter(is_coming).count();
        if coming > 0 && self.pending()?.len() + coming > MAX_PENDING {
            return Err(refused(format!("more than {MAX_PENDING} files at once have no digests yet")));
        }
        let (differences, mut head) = self.compare(batch)?;
        head.digest = digest;
        let _held = if differences == Differences::default() { None } else { Some(settle(&differences)?) };
        let mut stored = self.stored;
        if let Some((id, _)) = differences.files_from {
            stored.0 = id;
            self.running = RunningDigest::default();
        }
        if let Some(id) = differences.nodes_from {
            stored.1 = id;
            self.running = RunningDigest::default();
        }
        let tx = self.connection.unchecked_transaction().map_err(|e| self.error(e))?;
        if stored != self.stored {
            self.truncate(stored).map_err(|e| self.error(e))?;
        }
        let (mut at, mut running) = (self.head.clone(), std::mem::take(&mut self.running));
        let mut appended = Appended { range: self.head.end..head.end, ..Appended::default() };
        for record in log::records(batch) {
            self.apply(&record.map_err(refused)?, &mut at, &mut stored, &mut running, &mut appended)?;
        }
        insert_head(&tx, &head, appended.range.start).map_err(|e| self.error(e))?;
        self.check_size()?;
        tx.commit().map_err(|e| self.error(e))?;
        (self.head, self.stored, self.running) = (head, stored, running);
        Ok(appended)
    }

    fn check_size(&self) -> Result<()> {
        let size = |name: &str| self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
        let size = size("page_count").and_then(|pages: i64| Ok(pages * size("page_size")?));
        if from_sql_int(size.map_err(|e| self.error(e))?) > self.limit_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the index is larger than {} bytes", self.limit_bytes),
            )
            .with_hint("start the proxy with a larger --max-index-size"));
        }
        Ok(())
    }

    fn truncate(&self, stored: (u64, u64)) -> rusqlite::Result<()> {
        self.connection.execute("DELETE FROM tar WHERE rowid > ?", [sql_int(stored.0)])?;
        self.connection.execute("DELETE FROM tarlike_file WHERE id >= ?", [sql_int(stored.0)])?;
        self.connection.execute("DELETE FROM tarlike_node WHERE id >= ?", [sql_int(stored.1)])?;
        Ok(())
    }

    fn apply(
        &self,
        record: &LogRecord,
        at: &mut Head,
        stored: &mut (u64, u64),
        running: &mut RunningDigest,
        appended: &mut Appended,
    ) -> Result<()> {
        match record {
            LogRecord::File(row) => {
                let file = entry_of(row, at);
                if at.files >= stored.0 {
                    insert_file(&self.connection, &file, row.digests.is_some()).map_err(|e| self.error(e))?;
                    stored.0 += 1;
                    if row.digests.is_none() {
                        appended.pending.push(file.id);
                    }
                } else if let Some(digests) = &row.digests
                    && matches!(self.file(file.id)?, Some((_, false)))
                {
                    set_digests(&self.connection, file.id, digests).map_err(|e| self.error(e))?;
                    appended.digested.push(file.id);
                }
                running.file(&file, row.digests.is_some());
                at.files += 1;
                at.end += row.size;
            }
            LogRecord::Node(node) => {
                if at.nodes >= stored.1 {
                    insert_node(&self.connection, at.nodes, node).map_err(|e| self.error(e))?;
                    stored.1 += 1;
                }
                running.node(at.nodes, node);
                at.nodes += 1;
            }
            LogRecord::Digests(id, digests) => {
                set_digests(&self.connection, *id, digests).map_err(|e| self.error(e))?;
                running.digests(*id, digests);
                appended.digested.push(*id);
            }
            LogRecord::End(end) => {
                self.seal(end, running)?;
                appended.end = Some(*end);
            }
        }
        Ok(())
    }

    /// Proves that the rows are the index that the end names.
    fn seal(&self, end: &LogEnd, running: &mut RunningDigest) -> Result<()> {
        if let Some(id) = self.pending()?.first() {
            return Err(refused(format!("file {id} has no digests")));
        }
        running.catch_up(&self.connection, &self.path)?;
        if running.digest() != end.digest {
            return Err(refused(format!(
                "its rows have digest {}, its sender says {}",
                running.digest(),
                end.digest
            ))
            .with_hint("use the same version of tar-like on all hosts"));
        }
        let run = || -> rusqlite::Result<Option<Vec<u8>>> {
            // Hard links name their target, and what previous streams have left is known by its
            // path: nothing else asks for one.
            let links = "SELECT EXISTS(SELECT 1 FROM tarlike_node WHERE kind='h')";
            if schema::has_table(&self.connection, "main", "tarlike_gone")?
                || self.connection.query_row(links, [], |row| row.get(0))?
            {
                self.connection.execute_batch(schema::PATH_INDEXES)?;
            }
            let lost = self
                .connection
                .query_row(
                    "SELECT CAST(path AS BLOB) FROM tarlike_node n WHERE kind='h'
                     AND NOT EXISTS(SELECT 1 FROM tar WHERE tar.path = n.target) LIMIT 1",
                    [],
                    |row| row.get(0),
                )
                .optional()?;
            let LogEnd { digest, files, nodes, total_bytes } = *end;
            let end = ChangeEnd { format: 1, digest, files, nodes, total_bytes };
            index_state::seal(&self.connection, &end, total_bytes, 1)?;
            Ok(lost)
        };
        match run().map_err(|e| self.error(e))? {
            Some(path) => Err(refused(format!("hard link \"{}\" points to no file of it", printable(&path)))),
            None => Ok(()),
        }
    }

    /// A file that is there, and whether its digests are known.
    pub(super) fn file(&self, id: u64) -> Result<Option<(FileEntry, bool)>> {
        let read = FileRead { kind: Kind::Growing, name: &self.path };
        let id = [sql_int(id + 1)];
        let file = first_of(|each| read_files(&self.connection, read, "WHERE tar.rowid = ?", id, each))?;
        Ok(file.map(|file| {
            let known = file.blake3.is_some() || file.md5 != Some(PENDING_MD5);
            (file, known)
        }))
    }

    pub(super) fn node(&self, id: u64) -> Result<Option<Node>> {
        first_of(|each| read_nodes(&self.connection, &self.path, "WHERE id = ?", [sql_int(id)], each))
    }
}

fn entry_of(row: &FileRow, at: &Head) -> FileEntry {
    FileEntry {
        id: at.files,
        path: row.path.clone(),
        size: row.size,
        offset: at.end,
        fragmented: false,
        md5: row.digests.map_or(Some(PENDING_MD5), |(md5, _)| md5),
        blake3: row.digests.map(|(_, blake3)| blake3),
        meta: row.meta,
        origin: None,
        object: None,
    }
}

fn insert_head(connection: &Connection, head: &Head, start: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO tarlike_log(digest, files, nodes, start, end, last_key, last_is_folder) VALUES(?,?,?,?,?,?,?)")?
        .execute(params![
            &head.digest.as_bytes()[..],
            sql_int(head.files),
            sql_int(head.nodes),
            sql_int(start),
            sql_int(head.end),
            ToSqlOutput::Borrowed(rusqlite::types::ValueRef::Blob(&head.last_key)),
            head.last_is_folder
        ])
        .map(drop)
}

#[cfg(test)]
mod tests;
