//! A previous generation as an index of its own, and an index that is put together out of its
//! backup.

use super::super::index_state::{self, failed};
use super::super::meta::{self, Key};
use super::super::{schema, sql_int};
use super::apply::apply;
use super::copy::copy_to;
use super::history::{Counters, Generation, History};
use crate::error::{Error, ErrorKind, Result};
use rusqlite::params;
use std::path::Path;

/// Makes the generation `number` of the index at `database` as an index in the folder `scratch`,
/// which goes when it is dropped.
///
/// # Errors
/// The index does not have this generation ([`ErrorKind::Usage`]), or it cannot be rebuilt.
pub fn rebuild(database: &Path, number: u64, scratch: &Path) -> Result<tempfile::TempPath> {
    let history = History::open(database)?;
    let active = history.active()?.number;
    let way = history.generation(number).and_then(|_| history.way(active, number));
    let Some(way) = way else {
        let what = format!("{} has no generation {number}", database.display());
        return Err(Error::new(ErrorKind::Usage, what)
            .with_hint("tar-like history lists those that it has; compact drops all but the newest"));
    };
    let copy = copy_to(database, scratch)?;
    for step in way {
        let created_s = history.generation(step.to).map_or(0, |generation| generation.created_s);
        apply(&copy, database, step.to, created_s, None, history.change_of(&step))?;
    }
    Ok(copy)
}

/// Adds a generation to the history of the index at `path`, a private copy: its line, and the
/// batches of its change and of what takes it back (`true`), each in their order. The index stays
/// at the generation that it is. `name` stands for it in messages.
///
/// # Errors
/// SQLite or `batches` fails.
pub fn add_generation(
    path: &Path,
    name: &Path,
    generation: &Generation,
    batches: impl IntoIterator<Item = Result<(bool, Vec<u8>)>>,
) -> Result<()> {
    // A fresh index has no line of itself.
    let active = History::open(path)?.active()?.clone();
    index_state::edit(path, name, |connection| {
        let begin = || -> rusqlite::Result<()> {
            connection.execute_batch(schema::HISTORY)?;
            active.insert(connection)?;
            let number = [sql_int(generation.number)];
            connection.execute("DELETE FROM tarlike_generation WHERE number=?", number)?;
            connection.execute("DELETE FROM tarlike_change WHERE generation=?", number)?;
            generation.insert(connection)
        };
        begin().map_err(|e| failed(name, e))?;
        let mut counts = [0u64; 2];
        for batch in batches {
            let (undo, batch) = batch?;
            let count = &mut counts[usize::from(undo)];
            connection
                .prepare_cached("INSERT INTO tarlike_change VALUES(?,?,?,?)")
                .and_then(|mut insert| {
                    insert.execute(params![sql_int(generation.number), undo, sql_int(*count), batch])
                })
                .map_err(|e| failed(name, e))?;
            *count += 1;
        }
        Ok(())
    })
}

/// Sees to it that the index at `path`, a private copy, uses nothing again that `counters` say was
/// used.
///
/// # Errors
/// SQLite fails.
pub fn set_counters(path: &Path, name: &Path, counters: &Counters) -> Result<()> {
    let Counters { log_end, next_id, last_generation } = *counters;
    let numbers =
        [(meta::LOG_END, log_end), (meta::NEXT_ID, next_id), (meta::LAST_GENERATION, last_generation)];
    index_state::edit(path, name, |connection| {
        let raise = |(key, number): &(Key<u64>, u64)| -> rusqlite::Result<()> {
            let there = key.get(connection)?;
            if there.unwrap_or(0) < *number { key.set(connection, number) } else { Ok(()) }
        };
        numbers.iter().try_for_each(raise).map_err(|e| failed(name, e))
    })
}
