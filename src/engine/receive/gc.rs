//! Removes files that no transfer needs: of receivers that were killed, of archives that were
//! replaced, and of files that left the index or have their names already. Only while no receiver
//! runs.

use super::commit::open_journal;
use super::retention::is_retained;
use super::state_files::{active_index_name, staging_name};
use crate::archive::path::STATE_DIR;
use crate::db::index_read::IndexReader;
use crate::db::journal::ArchiveState;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::{DiskSink, Places};
use crate::sink::{Sink, is_used};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file or folder that no transfer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Where it is, relative to the base folder; absolute in a state folder.
    pub path: PathBuf,
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
    /// A user's entry that was about to be deleted. It is not removed, but goes back to its place
    /// if that is known.
    pub is_entry: bool,
}

/// Finds what is left over below `base`, and removes it unless `keep`.
///
/// # Errors
/// No receiver ever used the folder ([`ErrorKind::Usage`]), one uses it now ([`ErrorKind::InUse`]),
/// its journal is elsewhere, or the disk fails.
pub fn collect_garbage(base: &Path, places: &Places, keep: bool) -> Result<Vec<Garbage>> {
    if !is_used(base) {
        let what = format!("{} is no folder that a receiver has used", base.display());
        return Err(Error::new(ErrorKind::Usage, what).with_hint("name the proxy's base folder with -b"));
    }
    let sink = DiskSink::open_with(base, places)?;
    // Held until the end: a receiver that starts meanwhile waits or is refused.
    let journal = open_journal(&sink)?;
    let states = journal.archives()?;
    let own = Path::new(STATE_DIR);
    let (state_path, records_path) = (sink.state_path(), sink.records_path());
    let records_name = if sink.has_state_folder() { sink.records_name() } else { own };
    let state = Root { path: &state_path, name: own };
    let records = Root { path: &records_path, name: records_name };
    let mut found = Vec::new();
    found.extend(state.all_but("incoming", |_| false)?);
    if sink.has_state_folder() {
        found.extend(records.all_but("incoming", |_| false)?);
    }
    let indexes: Vec<String> = states.iter().map(active_index_name).collect();
    // SQLite's own files beside an index begin with its name.
    found.extend(records.all_but("archives", |name| indexes.iter().any(|index| name.starts_with(&**index)))?);
    let staging: Vec<String> = states.iter().map(|s| staging_name(s.tar_id, s.generation)).collect();
    found.extend(state.all_but("staging", |name| staging.iter().any(|kept| kept == name))?);
    found.extend(state.all_but("kept", |name| is_retained(name, &states))?);
    for archive in &states {
        found.extend(staged(state, &records, archive)?);
    }
    let left = sink.left_overs();
    if !keep {
        sink.put_back(&left);
        for (path, _) in &found {
            remove(path)?;
        }
    }
    drop(journal);
    let left = left.into_iter().map(|left| Garbage {
        path: own.join(left.path),
        disk_bytes: left.disk_bytes,
        is_entry: true,
    });
    Ok(found.into_iter().map(|(_, garbage)| garbage).chain(left).collect())
}

/// A folder of the receiver's.
#[derive(Clone, Copy)]
struct Root<'a> {
    path: &'a Path,
    /// For people.
    name: &'a Path,
}

impl Root<'_> {
    /// What is in the folder `folder` of it, but for what `keep` names.
    fn all_but(&self, folder: &str, mut keep: impl FnMut(&str) -> bool) -> Result<Vec<(PathBuf, Garbage)>> {
        let path = self.path.join(folder);
        let mut look = || -> std::io::Result<Vec<(PathBuf, Garbage)>> {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                if !entry.file_name().to_str().is_some_and(&mut keep) {
                    let disk_bytes = disk_bytes(&entry.path())?;
                    let path = self.name.join(folder).join(entry.file_name());
                    found.push((entry.path(), Garbage { path, disk_bytes, is_entry: false }));
                }
            }
            Ok(found)
        };
        match look() {
            // Not every version of the receiver makes each of them.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(|e| Error::io(format!("cannot look at {}", path.display()), e)),
        }
    }
}

/// Partial files in `root` that an archive does not need, whose index is in `records`.
fn staged(root: Root, records: &Root, state: &ArchiveState) -> Result<Vec<(PathBuf, Garbage)>> {
    let index = records.path.join("archives").join(active_index_name(state));
    // An index that cannot be read, or still grows, says nothing of what is not needed.
    let Ok(reader) = IndexReader::open(&index) else { return Ok(Vec::new()) };
    let folder = Path::new("staging").join(staging_name(state.tar_id, state.generation));
    let ids = |name: &str| name.parse::<u64>().ok().filter(|&id| id < u64::MAX);
    let mut failed = None;
    let found = root.all_but(&folder.to_string_lossy(), |name| {
        let Some(id) = ids(name) else { return true };
        if state.published.contains(id..id + 1) {
            return false;
        }
        let mut there = false;
        let read = reader.files_with_ids(id..id + 1, |_| {
            there = true;
            Ok(ControlFlow::Break(()))
        });
        if let Err(e) = read {
            failed = Some(e);
            return true;
        }
        there
    })?;
    failed.map_or(Ok(found), Err)
}

fn disk_bytes(path: &Path) -> std::io::Result<u64> {
    let stat = std::fs::symlink_metadata(path)?;
    let mut bytes = stat.blocks() * 512;
    if stat.is_dir() {
        for entry in std::fs::read_dir(path)? {
            bytes += disk_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}

fn remove(path: &Path) -> Result<()> {
    let run = || match std::fs::symlink_metadata(path)?.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    run().map_err(|e| Error::io(format!("cannot remove {}", path.display()), e))
}
