//! What runs that were killed have left beside an index or a backup.

use crate::archive::path::PARTIAL_INFIX;
use crate::error::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file that is still being made was written to more recently than this.
const MAX_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// Finds unfinished files beside `database` that were not written to for a day, and removes them
/// unless `keep`. Gives each with the bytes that it takes on the disk.
///
/// # Errors
/// The folder cannot be read, or a file cannot be removed.
pub fn collect_partial(database: &Path, keep: bool) -> Result<Vec<(PathBuf, u64)>> {
    let folder = super::backup::folder_of(database);
    let io = |e| Error::io(format!("cannot look at {}", folder.display()), e);
    let mut prefix = database.file_name().unwrap_or_default().to_os_string();
    prefix.push(PARTIAL_INFIX);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        let meta = entry.metadata().map_err(io)?;
        let age = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if meta.is_file() && age.is_some_and(|age| age > MAX_IDLE) {
            found.push((entry.path(), meta.blocks() * 512));
        }
    }
    if !keep {
        for (path, _) in &found {
            std::fs::remove_file(path)
                .map_err(|e| Error::io(format!("cannot remove {}", path.display()), e))?;
        }
    }
    Ok(found)
}
