//! Going back to the generation that the newest one was made of.

use super::super::index_read::IndexReader;
use super::super::index_state::{self, failed};
use super::super::{meta, sql_int};
use super::apply::{Applied, apply};
use super::copy::copy;
use super::history::{Generation, History, Step};
use crate::archive::skipped::SkippedList;
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use tempfile::TempPath;

/// An index that is taken back, but has not its name yet.
pub struct Rewound {
    partial: TempPath,
    target: PathBuf,
    applied: Applied,
    /// What is abandoned.
    pub abandoned: Generation,
    /// What the index goes back to.
    pub parent: Generation,
    /// The way from one to the other.
    pub step: Step,
    /// What was left out of the parent, if that is known.
    pub skipped: Option<SkippedList>,
}

impl Rewound {
    /// Takes a copy of the index at `database` back to the generation that its active one was made
    /// of. The abandoned one stays in the history, so that a receiver that has it can be taken
    /// back, too; it is never used again.
    ///
    /// # Errors
    /// There is none before it, or the index was taken back already since it was made.
    pub fn prepare(database: &Path) -> Result<Self> {
        let history = History::open(database)?;
        let abandoned = history.active()?.clone();
        let refuse = |why: String, hint: &'static str| Err(Error::new(ErrorKind::Usage, why).with_hint(hint));
        let Some(parent) = abandoned.parent.and_then(|parent| history.generation(parent)).cloned() else {
            return refuse(
                format!("generation {} of {} has none before it", abandoned.number, database.display()),
                "there is nothing to go back to: it is the first one, or the index was compacted since",
            );
        };
        let later = |other: &Generation| other.number > abandoned.number && other.abandoned;
        if history.generations().iter().any(later) {
            return refuse(
                format!("{} was taken back already, to generation {}", database.display(), abandoned.number),
                "only one generation in a row can be taken back; make a new one with: tar-like index",
            );
        }
        let skipped = IndexReader::open(database)?.skipped_of(parent.number)?;
        let step = Step { generation: abandoned.number, undo: true, to: parent.number, appended_bytes: 0 };
        let partial = copy(database)?;
        // Where the log ended and which ids were used stays as it is.
        let created_s = parent.created_s;
        let applied = apply(&partial, database, parent.number, created_s, None, history.change_of(&step))?;
        drop(history);
        index_state::edit(&partial, database, |connection| {
            let (query, number) =
                ("UPDATE tarlike_generation SET abandoned=1 WHERE number=?", abandoned.number);
            connection
                .execute(query, [sql_int(number)])
                .and_then(|_| meta::LAST_GENERATION.set(connection, &number))
                .map_err(|e| failed(database, e))
        })?;
        index_state::sync(&partial, database)?;
        Ok(Self { partial, target: database.to_path_buf(), applied, abandoned, parent, step, skipped })
    }

    /// Puts it in the place of the index that it was made of.
    ///
    /// # Errors
    /// That has become another one meanwhile, or the system's error; it stands as it is then.
    pub fn put_in_place(self) -> Result<Applied> {
        let Self { partial, target, applied, abandoned, .. } = self;
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
        Ok(applied)
    }
}
