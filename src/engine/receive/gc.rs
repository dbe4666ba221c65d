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
use crate::sink::Sink;
use crate::sink::disk::DiskSink;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file or folder that no transfer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Where it is, relative to the base folder.
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
/// or the disk fails.
pub fn collect_garbage(base: &Path, keep: bool) -> Result<Vec<Garbage>> {
    if !base.join(STATE_DIR).join("journal.sqlite").is_file() {
        let what = format!("{} is no folder that a receiver has used", base.display());
        return Err(Error::new(ErrorKind::Usage, what).with_hint("name the proxy's base folder with -b"));
    }
    let sink = DiskSink::open(base)?;
    // Held until the end: a receiver that starts meanwhile waits or is refused.
    let journal = open_journal(&sink)?;
    let states = journal.archives()?;
    let state_path = sink.state_path();
    let mut finder = Finder { state_path: &state_path, found: Vec::new() };
    finder.all_but("incoming", |_| false)?;
    let indexes: Vec<String> = states.iter().map(active_index_name).collect();
    // SQLite's own files beside an index begin with its name.
    finder.all_but("archives", |name| indexes.iter().any(|index| name.starts_with(&**index)))?;
    let staging: Vec<String> = states.iter().map(|s| staging_name(s.tar_id, s.generation)).collect();
    finder.all_but("staging", |name| staging.iter().any(|kept| kept == name))?;
    finder.all_but("kept", |name| is_retained(name, &states))?;
    for state in &states {
        finder.staged(state)?;
    }
    let mut found = finder.found;
    let left = sink.left_overs();
    found.extend(left.iter().map(|left| Garbage {
        path: left.path.clone(),
        disk_bytes: left.disk_bytes,
        is_entry: true,
    }));
    if !keep {
        sink.put_back(&left);
        for garbage in found.iter().filter(|garbage| !garbage.is_entry) {
            remove(&state_path.join(&garbage.path))?;
        }
    }
    drop(journal);
    Ok(found
        .into_iter()
        .map(|garbage| Garbage { path: Path::new(STATE_DIR).join(garbage.path), ..garbage })
        .collect())
}

struct Finder<'a> {
    state_path: &'a Path,
    /// Relative to the state folder.
    found: Vec<Garbage>,
}

impl Finder<'_> {
    /// What is in a folder of the receiver's, but for what `keep` names.
    fn all_but(&mut self, folder: &str, mut keep: impl FnMut(&str) -> bool) -> Result<()> {
        let path = self.state_path.join(folder);
        let mut look = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                if !entry.file_name().to_str().is_some_and(&mut keep) {
                    let disk_bytes = disk_bytes(&entry.path())?;
                    let path = Path::new(folder).join(entry.file_name());
                    self.found.push(Garbage { path, disk_bytes, is_entry: false });
                }
            }
            Ok(())
        };
        match look() {
            // Not every version of the receiver makes each of them.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| Error::io(format!("cannot look at {}", path.display()), e)),
        }
    }

    /// Partial files that an archive does not need.
    fn staged(&mut self, state: &ArchiveState) -> Result<()> {
        let index = active_index_name(state);
        let index = self.state_path.join("archives").join(index);
        // An index that cannot be read, or still grows, says nothing of what is not needed.
        let Ok(reader) = IndexReader::open(&index) else { return Ok(()) };
        let folder = Path::new("staging").join(staging_name(state.tar_id, state.generation));
        let ids = |name: &str| name.parse::<u64>().ok().filter(|&id| id < u64::MAX);
        let mut failed = None;
        self.all_but(&folder.to_string_lossy(), |name| {
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
        failed.map_or(Ok(()), Err)
    }
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
