//! Which journal belongs to which base folder, where the journal lies elsewhere (FORMAT.md 9.2).
//!
//! The receiver's folder in the base folder names the journal, by the number that the journal got
//! when it was made, and the state folder names the base folder. The former is on stable storage
//! before the latter is written, and both before anything is received. So a base folder is not
//! received into with a journal that knows nothing of it, and a journal is not believed about files
//! that are elsewhere.

use crate::archive::slice::Slice;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::Folder;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::Path;

/// The file in the receiver's folder in the base folder that says which journal is its own.
const POINTER: &str = "state.json";
/// The file in the state folder that says of which base folder it is.
const MARKER: &str = "base.json";
/// The largest of these files, in bytes: a path, and what is around it.
const MAX_BYTES: u64 = 64 << 10;
/// The journal, and SQLite's files beside it.
const JOURNAL: [&str; 3] = ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pointer {
    /// The number of the journal.
    receiver_id: String,
    /// Where it was, for people.
    host: String,
    folder: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    /// The number of the base folder.
    tree: String,
    /// Where it was, for people.
    folder: String,
}

/// A base folder and a state folder.
pub(super) struct Place<'a> {
    pub(super) base_path: &'a Path,
    /// The receiver's folder in the base folder.
    pub(super) state: &'a Folder,
    /// The state folder.
    pub(super) records: &'a Folder,
    pub(super) records_path: &'a Path,
}

impl Place<'_> {
    /// Looks whether both can belong together, before there is a journal. `tree` is the number of
    /// the base folder.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: they do not, with what to do.
    pub(super) fn check(&self, tree: &str, slice: Option<Slice>) -> Result<()> {
        let (base, folder) = (self.base_path.display(), self.records_path.display());
        let is_there = |folder: &Folder| folder.stat(JOURNAL[0].as_bytes()).map(|stat| stat.is_some());
        let failed = |e: Errno| Error::io(format!("cannot look into the state folder {folder}"), e);
        if is_there(self.state).map_err(failed)? {
            let what = format!("the journal of {base} is in its folder .tar-like, and not in {folder}");
            return Err(Error::new(ErrorKind::Usage, what).with_hint(format!(
                "start the receiver without --state; or stop it and move what is there of journal.sqlite, journal.sqlite-wal and \
                 archives from .tar-like to {folder}"
            )));
        }
        let marker: Option<Marker> = read(self.records, MARKER, self.records_path)?;
        match &marker {
            Some(marker) if marker.tree != tree => {
                let what =
                    format!("the state folder {folder} is that of another base folder: {}", marker.folder);
                return Err(Error::new(ErrorKind::Usage, what).with_hint(
                    "give each receiver a state folder of its own. If .tar-like was removed from the base folder on purpose, empty the \
                     state folder, too, and run the senders with --adopt",
                ));
            }
            Some(_) => {}
            None => self.check_unused()?,
        }
        match read::<Pointer>(self.state, POINTER, self.base_path)? {
            Some(pointer) if !is_there(self.records).map_err(failed)? => Err(self.lost(&pointer, slice)),
            // The first slice has removed what this one had, because there were other slices
            // meanwhile: the journal tells of what is gone.
            None if marker.is_some() && slice.is_some_and(|slice| !slice.is_first()) => {
                self.empty().map_err(|e| Error::io(format!("cannot empty the state folder {folder}"), e))
            }
            _ => Ok(()),
        }
    }

    /// Says in both folders that they belong together, if it is not said yet.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: the journal with the number `receiver_id` is that of another base
    /// folder. Or what is said cannot be written.
    pub(super) fn pair(&self, tree: &str, receiver_id: &str) -> Result<()> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let folder = self.records_path.to_string_lossy().into_owned();
        let pointer = Pointer { receiver_id: receiver_id.to_owned(), host, folder };
        match read::<Pointer>(self.state, POINTER, self.base_path)? {
            Some(there) if there.receiver_id != receiver_id => return Err(self.lost(&there, None)),
            Some(there) if there == pointer => {}
            _ => write(self.state, POINTER, &pointer, self.base_path)?,
        }
        if read::<Marker>(self.records, MARKER, self.records_path)?.is_none() {
            let folder = self.base_path.to_string_lossy().into_owned();
            write(self.records, MARKER, &Marker { tree: tree.to_owned(), folder }, self.records_path)?;
        }
        Ok(())
    }

    fn lost(&self, pointer: &Pointer, slice: Option<Slice>) -> Error {
        let (base, folder) = (self.base_path.display(), self.records_path.display());
        let what = format!(
            "{folder} has not the journal of {base}, which was in {} of the host {}",
            pointer.folder, pointer.host
        );
        let own = match slice.filter(|slice| !slice.is_first()) {
            Some(slice) => format!(
                "move .tar-like/{} out of the base folder: what it had not handed over is sent again",
                slice.folder_name()
            ),
            None => "move .tar-like out of the base folder and run the senders with --adopt, which finds what is in place".to_string(),
        };
        Error::new(ErrorKind::Usage, what).with_hint(format!(
            "give --state the folder with that journal. If it is lost: empty {folder}, and {own}"
        ))
    }

    /// Fails if the state folder, which never had a receiver, has files of others: what a receiver
    /// does not know there, it removes.
    fn check_unused(&self) -> Result<()> {
        let failed = |e: Errno| {
            Error::io(format!("cannot look into the state folder {}", self.records_path.display()), e)
        };
        let names = self.records.names().map_err(failed)?;
        let has_journal = names.iter().any(|name| name == JOURNAL[0].as_bytes());
        for name in names {
            let name = String::from_utf8_lossy(&name).into_owned();
            let is_ours = match &*name {
                "archives" | "incoming" => has_journal || self.is_empty_folder(&name).map_err(failed)?,
                name => {
                    JOURNAL.contains(&name)
                        || name.starts_with(MARKER)
                        || name.starts_with("slice-")
                        || name == "lost+found"
                }
            };
            if !is_ours {
                let what = format!(
                    "the state folder {} has something else in it: {name}",
                    self.records_path.display()
                );
                return Err(
                    Error::new(ErrorKind::Usage, what).with_hint("give --state a new or empty folder")
                );
            }
        }
        Ok(())
    }

    fn is_empty_folder(&self, name: &str) -> std::result::Result<bool, Errno> {
        Ok(self.records.open_folder(name.as_bytes())?.names()?.is_empty())
    }

    /// Removes a journal whose base folder has forgotten it, and what belongs to the journal.
    fn empty(&self) -> std::result::Result<(), Errno> {
        for name in JOURNAL {
            match rustix::fs::unlinkat(self.records, name, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                other => other?,
            }
        }
        // What is in `archives` and `incoming` goes at the start: no journal names it.
        rustix::fs::fsync(self.records)
    }
}

/// Refuses a base folder whose journal is in a state folder to a receiver that has none.
///
/// # Errors
/// [`ErrorKind::Usage`], with what to do.
pub(super) fn refuse_without_state(state: &Folder, base_path: &Path) -> Result<()> {
    let Some(pointer) = read::<Pointer>(state, POINTER, base_path)? else { return Ok(()) };
    let Pointer { host, folder, .. } = pointer;
    let what =
        format!("the journal of {} is in the state folder {folder} of the host {host}", base_path.display());
    Err(Error::new(ErrorKind::Usage, what).with_hint(format!(
        "start the proxy there, with --state {folder}; or stop it, move what is there of journal.sqlite, journal.sqlite-wal and \
         archives into .tar-like of the base folder, and remove {POINTER} there"
    )))
}

/// Whether `records` is the state folder of a receiver on the base folder with the number `tree`.
pub(super) fn is_of(records: &Folder, tree: &str) -> bool {
    matches!(read::<Marker>(records, MARKER, Path::new("")), Ok(Some(marker)) if marker.tree == tree)
}

/// Where the journal and the copies of indexes of a receiver on `base` are: in `state`, if that is
/// given, else as far as that is said there.
#[must_use]
pub fn records_of(base: &Path, state: Option<&Path>) -> std::path::PathBuf {
    if let Some(state) = state {
        return state.to_owned();
    }
    let own = base.join(crate::archive::path::STATE_DIR);
    let pointer = Folder::open(&own).ok().and_then(|state| read::<Pointer>(&state, POINTER, base).ok()?);
    pointer.map_or(own, |pointer| pointer.folder.into())
}

/// Refuses a base folder whose journal is in a state folder where none is given.
///
/// # Errors
/// [`ErrorKind::Usage`]: it is, and the error says where.
pub fn refuse_base_without_state(base: &Path) -> Result<()> {
    match Folder::open(&base.join(crate::archive::path::STATE_DIR)) {
        Ok(state) => refuse_without_state(&state, base),
        // No receiver has used it, or opening it says what is wrong.
        Err(_) => Ok(()),
    }
}

/// Whether a receiver has ever been opened on `base`.
#[must_use]
pub fn is_used(base: &Path) -> bool {
    let own = base.join(crate::archive::path::STATE_DIR);
    [JOURNAL[0], POINTER].iter().any(|name| own.join(name).is_file())
}

/// What the file `name` in `folder` says; `path` is for messages.
fn read<T: DeserializeOwned>(folder: &Folder, name: &str, path: &Path) -> Result<Option<T>> {
    let what = || format!("cannot read {name} of {}", path.display());
    let mut text = Vec::new();
    let file = match folder.open_file(name.as_bytes()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(|e| Error::io(what(), e))?,
    };
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(|e| Error::io(what(), e))?;
    serde_json::from_slice(&text).map(Some).map_err(|e| {
        Error::new(ErrorKind::Io, format!("{}: it is damaged", what()))
            .with_source(e)
            .with_hint("restore it, or see OPERATIONS.md on a state folder that was lost")
    })
}

/// Writes the file `name` in `folder`, whole and on stable storage.
fn write(folder: &Folder, name: &str, value: &impl Serialize, path: &Path) -> Result<()> {
    let what = || format!("cannot write {name} of {}", path.display());
    let text =
        serde_json::to_vec(value).map_err(|e| Error::new(ErrorKind::Internal, what()).with_source(e))?;
    let new = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::File::from(rustix::fs::openat(folder, &*new, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(&text)?;
        file.sync_all()?;
        rustix::fs::renameat(folder, &*new, folder, name)?;
        Ok(rustix::fs::fsync(folder)?)
    };
    write().map_err(|e| Error::io(what(), e))
}
