//! Going back to the generation that the newest one was made of.
//!
//! The index gets its name with a mark in it that a copy may still have to go back; the end of a
//! rewind of a copy removes the mark. A rewind that was cut off in between, or that took back the
//! index alone, is found by it, and a rewind of a copy goes on to its end. The next generation of
//! the index begins without the mark.

use super::super::file::open_shared;
use super::super::index_read::IndexReader;
use super::super::index_state::{self, failed};
use super::super::{belonging, meta, sql_int};
use super::apply::{apply, each_record};
use super::copy::copy;
use super::history::{Generation, History, Step};
use crate::archive::change::{ChangeEnd, ChangeRecord};
use crate::archive::entry::Meta;
use crate::archive::skipped::SkippedList;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempPath;

/// How long other programs may use the index at the end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// An index that is taken back, but has not its name yet.
pub struct Rewound {
    /// The index that went back; `None` if it got its name before the rewind was cut off.
    partial: Option<TempPath>,
    target: PathBuf,
    end: ChangeEnd,
    has_copy: bool,
    /// What is abandoned.
    pub abandoned: Generation,
    /// What the index goes back to.
    pub parent: Generation,
    /// The way from one to the other.
    pub step: Step,
    /// What was left out of the parent, if that is known.
    pub skipped: Option<SkippedList>,
    /// How the top folder was then, if that is known.
    pub top: Option<Meta>,
}

impl Rewound {
    /// Takes a copy of the index at `database` back to the generation that its active one was made
    /// of. The abandoned one stays in the history, so that a receiver that has it can be taken
    /// back, too; it is never used again. With `has_copy` a copy goes back, too: that goes on with
    /// a rewind that was cut off, or that took back the index alone.
    ///
    /// # Errors
    /// There is none before it, or the index was taken back already since it was made.
    pub fn prepare(database: &Path, has_copy: bool) -> Result<Self> {
        let history = History::open(database)?;
        let active = history.active()?.clone();
        let of = |abandoned: Generation, parent: Generation, partial, end| -> Result<Self> {
            let reader = IndexReader::open(database)?;
            let skipped = reader.skipped_of(parent.number)?;
            let top = match partial {
                Some(_) => reader.top_of(parent.number)?,
                None => reader.top()?,
            };
            let step =
                Step { generation: abandoned.number, undo: true, to: parent.number, appended_bytes: 0 };
            let target = database.to_path_buf();
            Ok(Self { partial, target, end, has_copy, abandoned, parent, step, skipped, top })
        };
        let cut_off = cut_off(database, &history, &active)?;
        if let Some(abandoned) = cut_off.clone().filter(|_| has_copy) {
            let end = active.end();
            return of(abandoned, active, None, end);
        }
        let parent = parent_of(&active, &history, database).map_err(|e| match cut_off {
            None => e,
            Some(Generation { number, .. }) => e.with_hint(format!(
                "generation {number} was taken back already; to take a copy back that has it, give its DESTINATION"
            )),
        })?;
        let top = IndexReader::open(database)?.top_of(parent.number)?;
        let partial = copy(database)?;
        // Where the log ended and which ids were used stays as it is.
        let step = Step { generation: active.number, undo: true, to: parent.number, appended_bytes: 0 };
        let (number, created_s) = (parent.number, parent.created_s);
        let applied = apply(&partial, database, number, created_s, None, history.change_of(&step))?;
        drop(history);
        index_state::edit(&partial, database, |connection| {
            let (query, number) = ("UPDATE tarlike_generation SET abandoned=1 WHERE number=?", active.number);
            connection
                .execute(query, [sql_int(number)])
                .and_then(|_| meta::LAST_GENERATION.set(connection, &number))
                .and_then(|()| meta::REWINDING.set(connection, &number))
                .and_then(|()| top.map_or(Ok(()), |top| meta::TOP.set(connection, &top)))
                .map_err(|e| failed(database, e))
        })?;
        index_state::sync(&partial, database)?;
        of(active, parent, Some(partial), applied.end)
    }

    /// How many entries the abandoned generation has added: paths that its parent does not have.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn added_entries(&self) -> Result<u64> {
        let history = History::open(&self.target)?;
        let parent = IndexReader::open(self.partial.as_deref().unwrap_or(&self.target))?;
        let number = self.abandoned.number;
        let step = Step { generation: number, undo: false, to: number, appended_bytes: 0 };
        let mut added = 0;
        each_record(history.change_of(&step), |record| {
            let path = match &record {
                ChangeRecord::AddFile(file) => &file.path,
                ChangeRecord::PutNode(node) => &node.path,
                _ => return Ok(()),
            };
            added += u64::from(!parent.has_path(path)?);
            Ok(())
        })?;
        Ok(added)
    }

    /// Puts it in the place of the index that it was made of. That ends the rewind if a copy went
    /// back, too; otherwise the mark stays, by which one can follow.
    ///
    /// # Errors
    /// That has become another one meanwhile, or the system's error; it stands as it is then.
    pub fn put_in_place(self) -> Result<ChangeEnd> {
        let Self { partial, target, end, abandoned, has_copy, .. } = self;
        if let Some(partial) = partial {
            let now = History::open(&target)?;
            if now.active()? != &abandoned {
                let what = format!(
                    "{} was changed while generation {} was taken back",
                    target.display(),
                    abandoned.number
                );
                return Err(Error::new(ErrorKind::Source, what)
                    .with_hint("let only one command at a time change an index; the next pass brings the receiver to what it is now"));
            }
            drop(now);
            index_state::put_in_place(partial, &target)?;
        }
        if has_copy {
            remove_mark(&target)?;
        }
        Ok(end)
    }
}

/// The generation that a rewind abandoned which was cut off after the index had got its name, or
/// which took back the index alone.
fn cut_off(database: &Path, history: &History, active: &Generation) -> Result<Option<Generation>> {
    let Some(number) = IndexReader::open(database)?.rewinding()? else { return Ok(None) };
    let newest = history.generations().last();
    let is_it = |newest: &&Generation| {
        newest.number == number && newest.abandoned && newest.parent == Some(active.number)
    };
    Ok(newest.filter(is_it).cloned())
}

/// The generation that `active` was made of.
fn parent_of(active: &Generation, history: &History, database: &Path) -> Result<Generation> {
    let refuse = |why: String, hint: &'static str| Err(Error::new(ErrorKind::Usage, why).with_hint(hint));
    let Some(parent) = active.parent.and_then(|parent| history.generation(parent)).cloned() else {
        return refuse(
            format!("generation {} of {} has none before it", active.number, database.display()),
            "there is nothing to go back to: it is the first one, or the index was compacted since",
        );
    };
    let later = |other: &Generation| other.number > active.number && other.abandoned;
    if history.generations().iter().any(later) {
        return refuse(
            format!("{} was taken back already, to generation {}", database.display(), active.number),
            "only one generation in a row can be taken back; make a new one with: tar-like index",
        );
    }
    Ok(parent)
}

/// Says in the index at `path` that its rewind has ended.
fn remove_mark(path: &Path) -> Result<()> {
    let begin = || -> rusqlite::Result<Connection> {
        let connection = open_shared(path, LOCK_TIMEOUT)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        meta::REWINDING.remove(&connection)?;
        belonging::expect_write(&connection)?;
        Ok(connection)
    };
    index_state::close(begin().map_err(|e| failed(path, e))?, path)
}

impl IndexReader {
    /// The generation that a rewind abandons which has not ended.
    fn rewinding(&self) -> Result<Option<u64>> {
        if self.is_ours() { self.meta(&meta::REWINDING) } else { Ok(None) }
    }
}
