//! What a kill has left between its place and its end: entries in `.tar-like/removed` that were
//! about to be deleted ([`super::remove`]). Whether they were to go was not certain yet, so they go
//! back to where they were. Nothing of anybody is lost by that: the next deletion takes them again.

use super::aside::{REMOVED, each_below, make_folders, place, prune};
use crate::archive::path::printable;
use crate::folder::Folder;
use rustix::fs::Stat;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// An entry that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOver {
    /// Where it is, below the state folder.
    pub path: PathBuf,
    /// Its place, below the base folder; `None` where an earlier version has not said it.
    pub place: Option<PathBuf>,
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
}

/// What was left in the folder `removed` of `state`; see [`super::Sink::left_overs`].
pub(super) fn left_overs(state: &Folder) -> Vec<LeftOver> {
    let mut found = Vec::new();
    if let Some(removed) = removed(state) {
        each_below(&removed, b"", |path, stat| found.extend(stat.map(|stat| LeftOver::of(path, stat))));
    }
    found
}

/// The folder of what is about to be deleted, if there is one.
fn removed(state: &Folder) -> Option<Folder> {
    match state.open_folder(REMOVED.as_bytes()) {
        Ok(removed) => Some(removed),
        Err(Errno::NOENT) => None,
        Err(e) => {
            tracing::warn!("what a deletion has left in .tar-like/{REMOVED} cannot be looked at: {e}");
            None
        }
    }
}

/// Puts what was left in `state` back to its place below `base`; see [`super::Sink::put_back`].
pub(super) fn put_back(base: &Folder, state: &Folder, left: &[LeftOver]) {
    for LeftOver { path, place: wanted, .. } in left {
        let shown = printable(path.as_os_str().as_bytes());
        let Some(wanted) = wanted else {
            tracing::warn!(
                "{shown} below .tar-like was left by a receiver that was killed while it deleted; nobody knows its place: move it to \
                 where it belongs, or remove it"
            );
            continue;
        };
        match put_back_one(base, state, path, wanted) {
            Ok(()) => tracing::warn!(
                "put \"{}\" back: a receiver was killed while it deleted",
                printable(wanted.as_os_str().as_bytes())
            ),
            Err(e) => tracing::warn!("{shown} below .tar-like cannot be put back: {e}"),
        }
    }
    let Some(removed) = removed(state) else { return };
    for session in removed.names().unwrap_or_default().iter().filter(|name| is_session(name)) {
        prune(&removed, session);
    }
}

fn put_back_one(base: &Folder, state: &Folder, path: &Path, wanted: &Path) -> std::io::Result<()> {
    let parent =
        |path: &Path| path.parent().map_or(Vec::new(), |parent| parent.as_os_str().as_bytes().to_vec());
    let name = wanted.file_name().unwrap_or_default().as_bytes();
    let from = state.open_folder(&parent(path))?;
    let to = make_folders(base, &parent(wanted), true)?;
    Ok(place(&from, name, &to, name)?)
}

impl LeftOver {
    /// What is at `path` in the folder of what is removed.
    fn of(path: &[u8], stat: &Stat) -> Self {
        let cut = path.iter().position(|&b| b == b'/');
        let place = cut.filter(|&cut| is_session(&path[..cut])).map(|cut| &path[cut + 1..]);
        Self {
            path: Path::new(REMOVED).join(OsStr::from_bytes(path)),
            place: place.map(|place| OsStr::from_bytes(place).into()),
            disk_bytes: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        }
    }
}

/// Whether a folder of this name was made by a deletion, and the paths in it are those of entries.
fn is_session(name: &[u8]) -> bool {
    name.len() == 16 && name.iter().all(u8::is_ascii_hexdigit)
}
