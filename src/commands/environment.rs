//! What the environment of the process says: the usual places of databases, the number of cores.

use crate::error::{Error, ErrorKind, Result};
use std::path::PathBuf;

/// The index that commands use unless they are told otherwise.
pub(super) fn default_database() -> Result<PathBuf> {
    home("-db FILE").map(|home| home.join(".tar_like.sqlite"))
}

/// The folder in which `sync` keeps an index for each source.
pub(super) fn index_folder() -> Result<PathBuf> {
    // A relative path is to be ignored, as the XDG base directory specification says.
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = state.map_or_else(|| home("-db FILE").map(|home| home.join(".local/state")), Ok)?;
    Ok(state.join("tar-like"))
}

/// The folder in which a worker keeps the indexes that it has got from receivers.
pub(super) fn cache_folder() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.map_or_else(|| home("--index-cache FOLDER").map(|home| home.join(".cache")), Ok)?;
    Ok(cache.join("tar-like"))
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
