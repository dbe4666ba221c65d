//! Names of what the receiver has in its state folder for each archive. A generation's number is
//! never used twice in an archive, so neither are these names.

use crate::archive::digest::IndexDigest;
use crate::db::file;
use crate::db::index_read::IndexReader;
use crate::db::journal::ArchiveState;
use crate::error::{Error, Result};
use crate::sink::records_of;
use std::path::{Path, PathBuf};

/// The name of an index in the folder `archives`.
pub(crate) fn index_name(tar_id: u64, digest: &IndexDigest, generation: u64) -> String {
    format!("{tar_id}-{digest}.{generation}.sqlite")
}

/// The number of the archive whose index in the folder `base` of a receiver has this digest; if none
/// has, that of the only archive there is, whose index may have come as a log. `state` is the
/// receiver's state folder, if it is known.
#[must_use]
pub fn archive_with(base: &Path, state: Option<&Path>, digest: &IndexDigest) -> Option<u64> {
    let names = std::fs::read_dir(records_of(base, state).join("archives")).ok()?;
    let names = names.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let archives: Vec<(u64, bool)> = names
        .filter(|name| name.ends_with(".sqlite"))
        .filter_map(|name| {
            let (number, rest) = name.split_once('-')?;
            Some((number.parse().ok()?, rest.starts_with(&digest.to_string())))
        })
        .collect();
    let named = archives.iter().find(|(_, is_named)| *is_named);
    named.or(archives.first().filter(|_| archives.len() == 1)).map(|(number, _)| *number)
}

/// The digests of the indexes that are complete in the folder `base` of a receiver, whose state
/// folder is `state`, if that is known.
#[must_use]
pub fn index_digests(base: &Path, state: Option<&Path>) -> Vec<IndexDigest> {
    let files = std::fs::read_dir(records_of(base, state).join("archives"));
    let paths = files.into_iter().flatten().flatten().map(|entry| entry.path());
    let indexes = paths.filter(|path| path.extension().is_some_and(|extension| extension == "sqlite"));
    let digest = |path: PathBuf| {
        let index = IndexReader::open(&path).ok().filter(IndexReader::is_ours)?;
        index.summary().ok().map(|summary| summary.digest)
    };
    indexes.filter_map(digest).collect()
}

/// The name of the active index of an archive in the journal.
pub(crate) fn active_index_name(state: &ArchiveState) -> String {
    index_name(state.tar_id, &state.digest, state.generation)
}

/// The name of a staging folder.
pub(crate) fn staging_name(tar_id: u64, generation: u64) -> String {
    format!("{tar_id}.{generation}")
}

/// The files of the index at `path`: SQLite's own beside it begin with its name.
pub(crate) fn index_files(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    std::iter::once(path.to_path_buf()).chain(file::beside(path))
}

/// Moves the index at `from`, which nothing is beside, to `to`.
///
/// # Errors
/// The system's error.
pub(crate) fn place_index(from: &Path, to: &Path) -> Result<()> {
    file::make_way(to)?;
    std::fs::rename(from, to).map_err(|e| Error::io(format!("cannot put {} in place", to.display()), e))
}

/// Removes the index at `path`. What cannot be removed is removed at the next start.
pub(crate) fn remove_index(path: &Path) {
    for file in index_files(path) {
        let _ = std::fs::remove_file(file);
    }
}
