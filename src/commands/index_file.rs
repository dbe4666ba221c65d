//! The flag of commands that work on an index alone, and what is said before an index is dropped or
//! ignored.

use super::environment::{default_database, index_folder};
use super::output::Output;
use crate::db::generation::History;
use crate::db::index_read::IndexReader;
use crate::engine::indexes::{index_of_source, kept_index};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct IndexFile {
    /// The index, also -db [default: ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    pub(super) database: Option<PathBuf>,
    /// Take the index that sync keeps for this source; tar-like indexes lists them
    #[arg(long, value_name = "SOURCE")]
    pub(super) source: Option<PathBuf>,
}

impl IndexFile {
    /// The index that is named; `copied` is the source of a copy, whose index `sync` may have kept.
    pub(super) fn path_of(self, copied: Option<&Path>) -> Result<PathBuf> {
        if let (None, None, Some(copied)) = (&self.source, &self.database, copied) {
            let kept = index_of_source(&index_folder()?, default_database().ok().as_deref(), copied);
            if kept.is_ok() {
                return kept;
            }
        }
        self.path()
    }

    pub(super) fn path(self) -> Result<PathBuf> {
        match self.source {
            Some(source) => index_of_source(&index_folder()?, default_database().ok().as_deref(), &source),
            None => self.database.map_or_else(default_database, Ok),
        }
    }
}

/// Where `sync` keeps the index of `source`, as an index records it.
pub(super) fn database_of_source(source: &Path) -> Result<PathBuf> {
    Ok(kept_index(&index_folder()?, default_database().ok().as_deref(), source))
}

/// The index with which `source` is compared: that of `sync`, or the one of all other commands.
pub(super) fn database_to_plan(source: &Path) -> Result<PathBuf> {
    let kept = database_of_source(source)?;
    if kept.exists() { Ok(kept) } else { default_database() }
}

/// Warns where the tables of this program in an index are ignored, because the original program has
/// replaced its rows.
pub(super) fn warn_of_overwritten(database: &Path, output: &Output) -> Result<()> {
    if database.exists() && IndexReader::open(database)?.is_overwritten() {
        output.notice(Notice::Warning(format!(
            "{} was replaced by the original program: its older generations, metadata and folders are ignored",
            database.display()
        )));
    }
    Ok(())
}

/// Says what a fresh index in the place of the one at `database` drops. Where a person can answer
/// and has not done so in advance (`yes`), asks before more than one generation is lost.
///
/// # Errors
/// The answer is no.
pub(super) fn confirm_clean(database: &Path, yes: bool, dry_run: bool, output: &Output) -> Result<()> {
    // What is no index, or cannot be read, has no generations; the run says so itself.
    let Ok(history) = History::open(database) else { return Ok(()) };
    let base = IndexReader::open(database)?.summary()?.base;
    let source = base.map_or_else(|| "an unknown source".to_string(), |base| base.display().to_string());
    let count = history.generations().len();
    let generations = if count == 1 { "1 generation".to_string() } else { format!("{count} generations") };
    let what = format!("the index {} of {source}, {generations}", database.display());
    output.notice(Notice::Warning(match dry_run {
        true => format!("--clean would drop {what}"),
        false => format!("--clean drops {what}"),
    }));
    let can_answer = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if count < 2 || yes || dry_run || !can_answer {
        return Ok(());
    }
    let question = b"Neither rewind nor check --generation can use them after that. Go on? [y/N] ";
    let (mut terminal, mut answer) = (std::io::stderr(), String::new());
    terminal
        .write_all(question)
        .and_then(|()| terminal.flush())
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer))
        .map_err(|e| Error::io("cannot read the answer", e))?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::new(ErrorKind::Interrupted, "nothing was changed")
            .with_hint("--checksum reads every file and keeps the index; --yes answers in advance")),
    }
}
