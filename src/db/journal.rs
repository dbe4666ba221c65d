//! The receiver's journal: which archives there are, which bytes of them are on stable storage,
//! which files are published. It is the only truth about progress.

use super::{db_error, from_sql_int, is_corrupt, schema, sql_int};
use crate::archive::digest::IndexDigest;
use crate::archive::ranges::RangeSet;
use crate::archive::source::SourceIdentity;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

const FORMAT: i64 = 1;

/// What the journal knows of one archive.
#[derive(Debug, Clone)]
pub struct ArchiveState {
    /// Its number.
    pub tar_id: u64,
    /// The digest of its active index.
    pub digest: IndexDigest,
    /// Which state of the index that is, counted from 1.
    pub generation: u64,
    /// Directories, links, empty files and metadata were put in place.
    pub finished: bool,
    /// Its directories and links were made, or are about to be.
    pub made: bool,
    /// Bytes of the archive that are on stable storage.
    pub done: RangeSet,
    /// Ids of files that have their final name, also after a power loss.
    pub published: RangeSet,
    /// The source that the number is bound to.
    pub source: Option<SourceIdentity>,
}

/// One change, to be made durable together with others.
#[derive(Debug, Clone)]
pub struct Record {
    /// The archive.
    pub tar_id: u64,
    /// The state of its index that the change is about; when another one is active by then, the
    /// change means nothing.
    pub generation: u64,
    /// What changes.
    pub change: Change,
}

/// What changes in the state of an archive.
#[derive(Debug, Clone)]
pub enum Change {
    /// These bytes of the archive are on stable storage.
    Done(Range<u64>),
    /// These files have their final name on stable storage.
    Published(Range<u64>),
}

/// The open journal.
pub struct Journal {
    connection: Connection,
}

const DAMAGED_HINT: &str = "the receiver's journal is damaged: look for disk errors, then move the folder .tar-like out of the destination \
     and run the senders again; with --adopt they find what is in place. Only what was staged comes again, and what earlier runs have \
     put there and the source has no more is not known to --delete";

fn failed(what: impl std::fmt::Display, error: rusqlite::Error) -> Error {
    let error = db_error(what, error);
    if is_corrupt(&error) { error.with_hint(DAMAGED_HINT) } else { error }
}

impl Journal {
    /// Opens or makes the journal at `path`, which no symbolic link may be part of, and holds it
    /// against other receivers until dropped.
    ///
    /// # Errors
    /// It cannot be opened, another process holds it ([`ErrorKind::InUse`]), or a newer version
    /// wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("cannot use the journal {}", path.display());
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(path, flags).map_err(|e| failed(what(), e))?;
        // The caller knows whether to wait, and says so.
        connection.busy_timeout(Duration::ZERO).map_err(|e| failed(what(), e))?;
        // Exclusive: the journal's owner is the only receiver on its base folder. It also keeps the
        // WAL index in memory, so that no shared-memory file is needed.
        let run = || -> rusqlite::Result<i64> {
            connection.execute_batch(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-4000;
                 BEGIN EXCLUSIVE;",
            )?;
            let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if version <= FORMAT {
                connection.execute_batch(schema::JOURNAL)?;
            }
            if version == 0 {
                connection.pragma_update(None, "user_version", FORMAT)?;
            }
            connection.execute_batch("COMMIT;")?;
            Ok(version)
        };
        let version = run().map_err(|e| match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy) => Error::new(ErrorKind::InUse, what())
                .with_source("another tar-like receiver uses this base folder")
                .with_hint("stop the other one, or use another base folder"),
            _ => failed(what(), e),
        })?;
        if version != 0 && version != FORMAT {
            return Err(Error::new(
                ErrorKind::Database,
                format!("{}: it has format {version}, this program knows {FORMAT}", what()),
            )
            .with_hint("use the version of tar-like that wrote it"));
        }
        Ok(Self { connection })
    }

    fn error(error: rusqlite::Error) -> Error {
        failed("cannot write the journal", error)
    }

    /// The number that this journal got when it was made.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn receiver_id(&self) -> Result<String> {
        self.connection
            .query_row("SELECT id FROM receiver", [], |row| row.get(0))
            .map_err(|e| failed("cannot read the journal", e))
    }

    /// All archives.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn archives(&self) -> Result<Vec<ArchiveState>> {
        let run = || -> rusqlite::Result<Vec<ArchiveState>> {
            let mut archives = Vec::new();
            let mut statement =
                self.connection.prepare(
                    "SELECT a.tar_id, digest, a.generation, finished, finished OR coalesce(a.generation = m.generation, 0),
                            s.id, s.name
                     FROM archive a LEFT JOIN made m ON m.tar_id = a.tar_id LEFT JOIN source s ON s.tar_id = a.tar_id",
                )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let tar_id: i64 = row.get(0)?;
                let digest: String = row.get(1)?;
                let Ok(digest) = digest.parse() else { continue };
                archives.push(ArchiveState {
                    tar_id: from_sql_int(tar_id),
                    digest,
                    generation: from_sql_int(row.get(2)?),
                    finished: row.get(3)?,
                    made: row.get(4)?,
                    done: self.set("SELECT first, end FROM done WHERE tar_id=?", tar_id)?,
                    published: self.set("SELECT first, end FROM published WHERE tar_id=?", tar_id)?,
                    source: source_of(row)?,
                });
            }
            Ok(archives)
        };
        run().map_err(|e| failed("cannot read the journal", e))
    }

    fn set(&self, query: &str, tar_id: i64) -> rusqlite::Result<RangeSet> {
        self.connection
            .prepare(query)?
            .query_map([tar_id], |row| Ok(from_sql_int(row.get(0)?)..from_sql_int(row.get(1)?)))?
            .collect()
    }

    /// The number that the next index of `tar_id` gets.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn next_generation(&self, tar_id: u64) -> Result<u64> {
        let previous: Option<i64> = self
            .connection
            .query_row("SELECT generation FROM archive WHERE tar_id=?", [sql_int(tar_id)], |row| row.get(0))
            .optional()
            .map_err(|e| failed("cannot read the journal", e))?;
        Ok(from_sql_int(previous.unwrap_or(0)).saturating_add(1))
    }

    /// Makes `state` that of its archive, whatever was known of it before.
    ///
    /// # Errors
    /// SQLite fails; the previous state stands then.
    pub fn activate(&mut self, state: &ArchiveState) -> Result<()> {
        self.write(|tx| {
            set_ranges(tx, state)?;
            bind(tx, state.tar_id, state.source.as_ref())?;
            tx.execute(
                "INSERT OR REPLACE INTO archive VALUES(?,?,?,?)",
                params![
                    sql_int(state.tar_id),
                    state.digest.to_string(),
                    sql_int(state.generation),
                    state.finished
                ],
            )
            .map(drop)
        })
    }

    /// One transaction.
    fn write(&mut self, run: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<()> {
        let write = || -> rusqlite::Result<()> {
            let tx = self.connection.transaction()?;
            run(&tx)?;
            tx.commit()
        };
        write().map_err(Self::error)
    }

    /// Makes all of `records` durable, or none.
    ///
    /// # Errors
    /// SQLite fails, or the disk is full.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        self.write(|tx| {
            for record in records {
                let (table, range) = match &record.change {
                    Change::Done(range) => ("done", range),
                    Change::Published(range) => ("published", range),
                };
                let query = format!(
                    "INSERT INTO {table} SELECT ?1, ?3, ?4
                     WHERE EXISTS(SELECT 1 FROM archive WHERE tar_id=?1 AND generation=?2)"
                );
                let (id, generation) = (sql_int(record.tar_id), sql_int(record.generation));
                tx.prepare_cached(&query)?.execute([
                    id,
                    generation,
                    sql_int(range.start),
                    sql_int(range.end),
                ])?;
            }
            Ok(())
        })
    }

    /// Takes back that these bytes are done and these files published, in one transaction and one
    /// pass over what is there.
    ///
    /// # Errors
    /// SQLite fails; the previous state stands then.
    pub fn invalidate(&mut self, tar_id: u64, bytes: &RangeSet, files: &RangeSet) -> Result<()> {
        self.write(|tx| {
            let id = sql_int(tar_id);
            for (table, invalid) in [("done", bytes), ("published", files)] {
                let mut hits = Vec::new();
                let mut rows =
                    tx.prepare(&format!("SELECT rowid, first, end FROM {table} WHERE tar_id=?"))?;
                let mut rows = rows.query([id])?;
                while let Some(row) = rows.next()? {
                    let (rowid, range): (i64, Range<u64>) =
                        (row.get(0)?, from_sql_int(row.get(1)?)..from_sql_int(row.get(2)?));
                    let mut rest = invalid.missing(range.clone());
                    if rest.next().as_ref() != Some(&range) {
                        hits.push((rowid, range));
                    }
                }
                let mut delete = tx.prepare(&format!("DELETE FROM {table} WHERE rowid=?"))?;
                let mut insert = tx.prepare(&format!("INSERT INTO {table} VALUES(?,?,?)"))?;
                for (rowid, range) in hits {
                    delete.execute([rowid])?;
                    for rest in invalid.missing(range) {
                        insert.execute([id, sql_int(rest.start), sql_int(rest.end)])?;
                    }
                }
            }
            tx.execute("UPDATE archive SET finished=0 WHERE tar_id=?", [id])?;
            Ok(())
        })
    }

    /// Says that everything of an archive is in place, or not.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn set_finished(&mut self, tar_id: u64, finished: bool) -> Result<()> {
        self.connection
            .execute("UPDATE archive SET finished=? WHERE tar_id=?", params![finished, sql_int(tar_id)])
            .map(drop)
            .map_err(Self::error)
    }

    /// Says that the directories and links of an archive are being made. What is said once stays,
    /// until another index is active.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn set_made(&mut self, tar_id: u64) -> Result<()> {
        let query = "INSERT OR REPLACE INTO made SELECT tar_id, generation FROM archive WHERE tar_id=?";
        self.connection.execute(query, [sql_int(tar_id)]).map(drop).map_err(Self::error)
    }

    /// Says that the rows of an archive's index are about to be others: nothing is known to be in
    /// place but its published files.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn restart(&mut self, tar_id: u64) -> Result<()> {
        self.write(|tx| {
            let id = sql_int(tar_id);
            tx.execute("UPDATE archive SET finished=0 WHERE tar_id=?", [id])?;
            tx.execute("DELETE FROM made WHERE tar_id=?", [id])?;
            Ok(())
        })
    }

    /// Binds an archive number to a source.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn bind(&mut self, tar_id: u64, source: &SourceIdentity) -> Result<()> {
        self.write(|tx| bind(tx, tar_id, Some(source)))
    }

    /// Writes the merged ranges of `state` instead of the many rows that made them.
    ///
    /// # Errors
    /// SQLite fails; the previous rows stand then.
    pub fn compact(&mut self, state: &ArchiveState) -> Result<()> {
        self.write(|tx| set_ranges(tx, state))
    }
}

/// The source of a row of [`Journal::archives`].
fn source_of(row: &Row<'_>) -> rusqlite::Result<Option<SourceIdentity>> {
    let (id, name): (Option<String>, Option<String>) = (row.get(5)?, row.get(6)?);
    let id = id.and_then(|id| id.parse().ok());
    Ok(id.zip(name).map(|(id, name)| SourceIdentity { id, name }))
}

fn bind(connection: &Connection, tar_id: u64, source: Option<&SourceIdentity>) -> rusqlite::Result<()> {
    let tar_id = sql_int(tar_id);
    match source {
        Some(SourceIdentity { id, name }) => connection
            .execute("INSERT OR REPLACE INTO source VALUES(?,?,?)", params![tar_id, id.to_string(), name]),
        None => connection.execute("DELETE FROM source WHERE tar_id=?", [tar_id]),
    }
    .map(drop)
}

fn set_ranges(connection: &Connection, state: &ArchiveState) -> rusqlite::Result<()> {
    let id = sql_int(state.tar_id);
    for (table, set) in [("done", &state.done), ("published", &state.published)] {
        connection.execute(&format!("DELETE FROM {table} WHERE tar_id=?"), [id])?;
        let mut insert = connection.prepare(&format!("INSERT INTO {table} VALUES(?,?,?)"))?;
        for range in set.iter() {
            insert.execute([id, sql_int(range.start), sql_int(range.end)])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::Digest;

    /// Nothing is done.
    fn fresh(tar_id: u64, digest: IndexDigest, generation: u64) -> ArchiveState {
        let (done, published) = Default::default();
        ArchiveState {
            tar_id,
            digest,
            generation,
            finished: false,
            made: false,
            done,
            published,
            source: None,
        }
    }

    fn done(generation: u64, range: Range<u64>) -> Record {
        Record { tar_id: 7, generation, change: Change::Done(range) }
    }

    fn published(generation: u64, range: Range<u64>) -> Record {
        Record { tar_id: 7, generation, change: Change::Published(range) }
    }

    #[test]
    fn survives_reopening_and_a_new_index_starts_from_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("j");
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.next_generation(7).unwrap(), 1);
        journal.activate(&fresh(7, Digest::from([1; 32]), 1)).unwrap();
        journal.append(&[done(1, 0..10), done(1, 20..30), published(1, 0..2)]).unwrap();
        journal.append(&[done(1, 10..20)]).unwrap();
        drop(journal);
        let mut journal = Journal::open(&path).unwrap();
        let state = journal.archives().unwrap().remove(0);
        assert_eq!((state.tar_id, state.done.covered(), state.published.covered()), (7, 30, 2));
        assert_eq!(journal.next_generation(7).unwrap(), 2);
        journal.activate(&fresh(7, Digest::from([2; 32]), 2)).unwrap();
        // Late news of the previous index is no news of this one.
        journal.append(&[done(1, 0..5), published(1, 0..1)]).unwrap();
        let state = journal.archives().unwrap().remove(0);
        assert_eq!((state.digest, state.done.covered(), state.finished), (Digest::from([2; 32]), 0, false));
        assert_eq!(state.published.covered(), 0);
        journal.append(&[done(2, 0..10), done(2, 10..20), published(2, 0..9)]).unwrap();
        journal.set_finished(7, true).unwrap();
        assert!(journal.archives().unwrap()[0].finished);
        let set = |ranges: &[Range<u64>]| ranges.iter().cloned().collect::<RangeSet>();
        journal.invalidate(7, &set(&[5..12, 14..15, 19..99]), &std::iter::once(3..4).collect()).unwrap();
        let state = journal.archives().unwrap().remove(0);
        assert_eq!(state.done.iter().collect::<Vec<_>>(), [0..5, 12..14, 15..19]);
        assert_eq!(state.published.iter().collect::<Vec<_>>(), [0..3, 4..9]);
        assert!(!state.finished);
        journal.compact(&state).unwrap();
        assert_eq!(journal.archives().unwrap()[0].done, state.done);
    }

    #[test]
    fn a_second_receiver_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("j");
        let _held = Journal::open(&path).unwrap();
        let error = Journal::open(&path).err().unwrap();
        assert!(error.to_string().contains("another tar-like receiver"), "{error}");
    }
}
