//! What an index knows of its generations, and the way from one to another.

use super::super::index_read::{IndexReader, Summary};
use super::super::meta::{self, Key};
use super::super::schema::has_table;
use super::super::{db_error, from_sql_int, sql_int};
use crate::archive::change::ChangeEnd;
use crate::archive::digest::IndexDigest;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension};
use std::path::{Path, PathBuf};

/// One generation of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Counted from 1, never used twice.
    pub number: u64,
    /// The generation that it was made of; absent for a fresh index.
    pub parent: Option<u64>,
    /// 1 if it is compact, else 2.
    pub format: u8,
    /// Names it.
    pub digest: IndexDigest,
    /// When it was made, in seconds since 1970.
    pub created_s: u64,
    /// Regular files.
    pub files: u64,
    /// Directories and links.
    pub nodes: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
    /// Bytes that it added to the archive: what had to be sent for it.
    pub appended_bytes: u64,
    /// The index went back behind it: it is never used again.
    pub abandoned: bool,
}

/// One step on the way from one generation to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The generation whose change this is.
    pub generation: u64,
    /// The change is taken back: the step leads to the generation's parent.
    pub undo: bool,
    /// The number of the generation that the step leads to.
    pub to: u64,
    /// Bytes that it adds to the archive.
    pub appended_bytes: u64,
}

/// A generation that a fresh layout of the archive made an end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previous {
    /// Its number.
    pub number: u64,
    /// Its digest.
    pub digest: IndexDigest,
    /// The index went back behind it.
    pub abandoned: bool,
}

/// What must not be used twice, whatever generation an index goes back to. 0 where nothing is
/// known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Where the next new byte goes in the archive.
    pub log_end: u64,
    /// The id of the next file.
    pub next_id: u64,
    /// The highest number of a generation.
    pub last_generation: u64,
}

/// The generations of an index.
pub struct History {
    connection: Connection,
    path: PathBuf,
    generations: Vec<Generation>,
    active: u64,
    ours: bool,
}

impl History {
    /// Reads the history of the index at `path`. A fresh index has one generation.
    ///
    /// # Errors
    /// It is no index, or SQLite fails.
    pub fn open(path: &Path) -> Result<Self> {
        let reader = IndexReader::open(path)?;
        let summary = reader.summary()?;
        let bytes = reader.content_bytes()?;
        let ours = reader.is_ours();
        let connection = reader.into_connection();
        let generations = if ours { generations(&connection) } else { Ok(Vec::new()) };
        let generations = generations
            .map_err(|e| db_error(format!("cannot read the history of the index {}", path.display()), e))?;
        let generations =
            if generations.is_empty() { vec![Generation::first(&summary, bytes)] } else { generations };
        Ok(Self { connection, path: path.to_path_buf(), generations, active: summary.generation, ours })
    }

    /// All of them, in the order of their numbers.
    #[must_use]
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// The one that the index is now.
    ///
    /// # Errors
    /// The history does not name it: the index was edited.
    pub fn active(&self) -> Result<&Generation> {
        self.generation(self.active).ok_or_else(|| {
            let what = format!("{} does not know its own generation {}", self.path.display(), self.active);
            Error::new(ErrorKind::BadIndex, what).with_hint("make a new index with: tar-like index -c")
        })
    }

    /// The generation with this number.
    #[must_use]
    pub fn generation(&self, number: u64) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.number == number)
    }

    /// The newest generation with this digest.
    #[must_use]
    pub fn with_digest(&self, digest: &IndexDigest) -> Option<&Generation> {
        self.generations.iter().rev().find(|generation| generation.digest == *digest)
    }

    /// The steps from generation `from` to generation `to`: back to where both come from, then
    /// forward. `None` if there is no way: one of them is older than the last fresh index.
    #[must_use]
    pub fn way(&self, from: u64, to: u64) -> Option<Vec<Step>> {
        let line = |mut number: u64| {
            let mut line = vec![number];
            while let Some(parent) = self.generation(number)?.parent {
                // A parent always has a lower number: no line goes on for ever.
                if parent >= number {
                    return None;
                }
                line.push(parent);
                number = parent;
            }
            Some(line)
        };
        let (back, forward) = (line(from)?, line(to)?);
        let common = back.iter().find(|number| forward.contains(number))?;
        let undo = back.iter().zip(back.iter().skip(1)).take_while(|(number, _)| *number != common);
        let undo = undo.map(|(&generation, &to)| Step { generation, undo: true, to, appended_bytes: 0 });
        let mut redo: Vec<Step> = forward
            .iter()
            .take_while(|number| *number != common)
            .map(|&generation| {
                let appended_bytes = self.generation(generation).map_or(0, |g| g.appended_bytes);
                Step { generation, undo: false, to: generation, appended_bytes }
            })
            .collect();
        redo.reverse();
        Some(undo.chain(redo).collect())
    }

    /// Gives the batches of the change that a step is, one after the other.
    ///
    /// # Errors
    /// SQLite fails, or `each` fails.
    pub fn batches(&self, step: &Step, mut each: impl FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        let error = |e| db_error(format!("cannot read the history of the index {}", self.path.display()), e);
        let query = "SELECT batch FROM tarlike_change WHERE generation=? AND undo=? ORDER BY seq";
        let mut statement = self.connection.prepare(query).map_err(error)?;
        let mut rows = statement.query([sql_int(step.generation), i64::from(step.undo)]).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            each(row.get(0).map_err(error)?)?;
        }
        Ok(())
    }
}

impl History {
    /// One batch of the change that a step is; they count from 0.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn batch(&self, step: &Step, number: u64) -> Result<Option<Vec<u8>>> {
        let query = "SELECT batch FROM tarlike_change WHERE generation=? AND undo=? AND seq=?";
        let key = [sql_int(step.generation), i64::from(step.undo), sql_int(number)];
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_row(key, |row| row.get(0)).optional())
            .map_err(|e| self.error(e))
    }

    /// The batches of the change that a step is, one after another.
    pub(super) fn change_of<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = Result<Vec<u8>>> + 'a {
        (0..).map_while(|number| self.batch(step, number).transpose())
    }

    /// The generations that a compaction ended, in the order of their
    /// numbers.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn previous(&self) -> Result<Vec<Previous>> {
        let read = || -> rusqlite::Result<Vec<Previous>> {
            if !self.ours || !has_table(&self.connection, "main", "tarlike_former")? {
                return Ok(Vec::new());
            }
            let query = "SELECT number, digest, abandoned FROM tarlike_former ORDER BY number";
            let mut statement = self.connection.prepare(query)?;
            let mut rows = statement.query([])?;
            let mut previous = Vec::new();
            while let Some(row) = rows.next()? {
                let Ok(digest) = row.get::<_, String>(1)?.parse() else { continue };
                previous.push(Previous { number: from_sql_int(row.get(0)?), digest, abandoned: row.get(2)? });
            }
            Ok(previous)
        };
        read().map_err(|e| self.error(e))
    }

    /// What must not be used twice.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn counters(&self) -> Result<Counters> {
        if !self.ours {
            return Ok(Counters::default());
        }
        let number = |key: Key<u64>| {
            key.get(&self.connection).map(|number| number.unwrap_or(0)).map_err(|e| self.error(e))
        };
        let last = self.generations.last().map_or(0, |last| last.number);
        Ok(Counters {
            log_end: number(meta::LOG_END)?,
            next_id: number(meta::NEXT_ID)?,
            last_generation: number(meta::LAST_GENERATION)?.max(last),
        })
    }

    /// Whether the index has our tables: one that the original program wrote has no generations.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    fn error(&self, error: rusqlite::Error) -> Error {
        db_error(format!("cannot read the history of the index {}", self.path.display()), error)
    }
}

impl Generation {
    /// The only generation of an index without a history.
    pub(super) fn first(summary: &Summary, bytes: u64) -> Self {
        Self {
            number: summary.generation,
            parent: None,
            format: 1,
            digest: summary.digest,
            created_s: summary.created_s,
            files: summary.files,
            nodes: summary.nodes,
            bytes,
            total_bytes: summary.total_bytes,
            appended_bytes: summary.total_bytes,
            abandoned: false,
        }
    }

    /// What its index comes to.
    pub(super) fn end(&self) -> ChangeEnd {
        let Self { format, digest, files, nodes, total_bytes, .. } = *self;
        ChangeEnd { format, digest, files, nodes, total_bytes }
    }

    /// Adds a line for it.
    pub(super) fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT OR IGNORE INTO tarlike_generation VALUES(?,?,?,?,?,?,?,?,?,?,?)")?
            .execute(rusqlite::params![
                sql_int(self.number),
                self.parent.map(sql_int),
                self.format,
                self.digest.to_string(),
                sql_int(self.created_s),
                sql_int(self.files),
                sql_int(self.nodes),
                sql_int(self.bytes),
                sql_int(self.total_bytes),
                sql_int(self.appended_bytes),
                self.abandoned
            ])
            .map(drop)
    }
}

fn generations(connection: &Connection) -> rusqlite::Result<Vec<Generation>> {
    if !has_table(connection, "main", "tarlike_generation")? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(
        "SELECT number, parent, format, digest, created, files, nodes, bytes, total, appended, abandoned
         FROM tarlike_generation ORDER BY number",
    )?;
    let mut rows = statement.query([])?;
    let mut generations = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |column| row.get::<_, Option<i64>>(column).map(|n| from_sql_int(n.unwrap_or(0)));
        // A line that was edited is no generation that anything can be done with.
        let Ok(digest) = row.get::<_, String>(3)?.parse() else { continue };
        generations.push(Generation {
            number: number(0)?,
            parent: row.get::<_, Option<i64>>(1)?.map(from_sql_int),
            format: if number(2)? == 1 { 1 } else { 2 },
            digest,
            created_s: number(4)?,
            files: number(5)?,
            nodes: number(6)?,
            bytes: number(7)?,
            total_bytes: number(8)?,
            appended_bytes: number(9)?,
            abandoned: row.get(10)?,
        });
    }
    Ok(generations)
}
