//! What the environment of the process says: the usual places of databases, the number of cores.

use crate::error::{Error, ErrorKind, Result};
use std::path::PathBuf;

/// The index that commands use unless they are told otherwise.
pub(super) fn default_database() -> Result<PathBuf> {
    home("-db FILE").map(|home| home.join(".tar_like.sqlite"))
}

/// The progress database that commands use unless they are told otherwise.
pub(super) fn default_progress() -> Result<PathBuf> {
    home("-dbp FILE").map(|home| home.join(".tar_like_progress.sqlite"))
}

fn home(instead: &str) -> Result<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).ok_or_else(|| {
        Error::new(ErrorKind::Usage, "HOME is not set, so there is no default place for databases")
            .with_hint(format!("give {instead}"))
    })
}

/// Threads for hashing: one for each core.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
