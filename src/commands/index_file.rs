//! The flag of commands that work on an index alone, and a warning that concerns any index.

use super::environment::default_database;
use super::output::Output;
use crate::db::index_read::IndexReader;
use crate::error::Result;
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct IndexFile {
    /// The index, also -db [default: ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    database: Option<PathBuf>,
}

impl IndexFile {
    pub(super) fn path(self) -> Result<PathBuf> {
        self.database.map_or_else(default_database, Ok)
    }
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
