//! Deleting what an earlier generation put in place, and nothing that another process has put there
//! since.
//!
//! Between a look at a name and its removal another file may get it. So what is to go is first
//! moved to where no other process comes, checked there, and put back if it is something else.
//! Folders are not held open from one entry to the next: one may be moved away.
//!
//! An entry is moved to `.tar-like/removed/SESSION/PATH`. `SESSION` is a random name that one
//! deletion has for itself, and `PATH` is the entry's own path: it says where an entry belongs that
//! a kill has left there. The next start puts it back ([`super::left`]).

use super::aside::{REMOVED, make_folders, place, prune};
use super::backup::Backup;
use super::disk::DiskSink;
use super::expected::Expected;
use crate::archive::path::EntryPath;
use crate::error::{Error, Result};
use crate::folder::Folder;
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

/// What came of removing something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was deleted, or moved to the backup folder.
    Removed,
    /// There was nothing.
    Absent,
    /// Something else stands there, or a folder with contents: it stays.
    Changed,
}

/// One deletion: what it removes goes to a backup folder if it has one. Dropping it removes its
/// empty folders; what a failure has left there stays for the next start.
pub struct Removal<'a> {
    sink: &'a DiskSink,
    backup: Option<&'a Backup>,
    session: Option<Session>,
}

/// Where a deletion moves entries to look at them.
struct Session {
    name: String,
    folder: Folder,
    /// The folder that was used last, by its path.
    last: Option<(Box<[u8]>, Folder)>,
}

impl DiskSink {
    /// Begins a deletion.
    pub fn removal<'a>(&'a self, backup: Option<&'a Backup>) -> Removal<'a> {
        Removal { sink: self, backup, session: None }
    }

    /// Removes the folder `path` if it is one, and empty.
    ///
    /// # Errors
    /// The system's error, as a sentence about this folder.
    pub fn remove_folder_if_empty(&self, path: &EntryPath) -> Result<Outcome> {
        let (parent, name) = path.split();
        let remove = || -> std::result::Result<Outcome, Errno> {
            let folder = match self.enter(parent) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Outcome::Absent),
                other => other?,
            };
            let mut outcome = rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR);
            if outcome == Err(Errno::ACCESS) && folder.make_writable()? {
                outcome = rustix::fs::unlinkat(&folder, name, AtFlags::REMOVEDIR);
            }
            match outcome {
                Ok(()) => Ok(Outcome::Removed),
                Err(Errno::NOENT) => Ok(Outcome::Absent),
                // With contents; no folder, a link included; where something is mounted.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::LOOP | Errno::BUSY) => {
                    Ok(Outcome::Changed)
                }
                Err(e) => Err(e),
            }
        };
        remove().map_err(|e| Error::io(format!("cannot remove the folder \"{path}\""), e))
    }
}

impl Removal<'_> {
    /// Removes the file or link `path` if it is as `expected`, or moves it to the backup folder.
    ///
    /// # Errors
    /// The system's error, as a sentence about this entry.
    pub fn remove(&mut self, path: &EntryPath, expected: &Expected<'_>) -> Result<Outcome> {
        let ((parent, name), backup) = (path.split(), self.backup);
        let failed = |e: Errno| {
            let error = Error::io(format!("cannot remove \"{path}\""), e);
            match e {
                Errno::XDEV => error.with_hint(
                    "it is on another file system than .tar-like; mount nothing below the base folder",
                ),
                _ => error,
            }
        };
        let folder = match self.sink.enter(parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Outcome::Absent),
            other => other.map_err(failed)?,
        };
        match expected.is_at(&folder, name).map_err(failed)? {
            None => return Ok(Outcome::Absent),
            Some(false) => return Ok(Outcome::Changed),
            Some(true) => {}
        }
        match self.move_aside(&folder, parent, name) {
            Err(Errno::NOENT) => return Ok(Outcome::Absent),
            other => other.map_err(failed)?,
        }
        let aside = self.aside(parent).map_err(failed)?;
        let put_back = || place(aside, name, &folder, name).map_err(failed);
        match expected.is_at(aside, name) {
            Ok(Some(true)) => {}
            Ok(_) => {
                put_back()?;
                return Ok(Outcome::Changed);
            }
            Err(e) => {
                put_back()?;
                return Err(failed(e));
            }
        }
        match backup {
            None => rustix::fs::unlinkat(aside, name, AtFlags::empty()).map_err(failed)?,
            Some(backup) => {
                let keep = || {
                    let folder = make_folders(&backup.folder, parent, true)?;
                    place(aside, name, &folder, name)
                };
                if let Err(e) = keep() {
                    put_back()?;
                    return Err(Error::io(
                        format!("cannot move \"{path}\" to the backup folder \"{}\"", backup.name),
                        e,
                    ));
                }
            }
        }
        Ok(Outcome::Removed)
    }

    /// Moves `name` from `folder`, which is `parent`, to the folder of the same path in the
    /// session.
    fn move_aside(&mut self, folder: &Folder, parent: &[u8], name: &[u8]) -> std::result::Result<(), Errno> {
        for attempt in 0..3 {
            let aside = match self.aside(parent) {
                // An earlier entry that could not be put back has the name of one of the folders.
                Err(Errno::NOTDIR | Errno::LOOP) if attempt == 0 => {
                    self.end_session();
                    continue;
                }
                other => other?,
            };
            // No other process comes there: what has the name is an earlier entry that could not be
            // put back.
            let is_taken = aside.stat(name)?.is_some();
            let moved = match is_taken {
                true => Err(Errno::EXIST),
                false => rustix::fs::renameat(folder, name, aside, name),
            };
            match moved {
                Err(Errno::ACCESS) if folder.make_writable()? => {}
                // It stays where it is, in a session of its own.
                Err(Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY | Errno::EXIST) => self.end_session(),
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The folder of the session that stands for the folder `parent`.
    fn aside(&mut self, parent: &[u8]) -> std::result::Result<&Folder, Errno> {
        let session = match self.session.take() {
            Some(session) => session,
            None => Session::begin(self.sink)?,
        };
        let session = self.session.insert(session);
        if session.last.as_ref().is_none_or(|(path, _)| **path != *parent) {
            let folder = match make_folders(&session.folder, parent, false) {
                // On a full disk: it loses its path if the receiver is killed at this moment, but
                // not its name.
                Err(Errno::NOSPC | Errno::DQUOT) => session.folder.open_folder(b"")?,
                other => other?,
            };
            session.last = Some((parent.into(), folder));
        }
        session.last.as_ref().map(|(_, folder)| folder).ok_or(Errno::NOENT)
    }

    fn end_session(&mut self) {
        if let Some(session) = self.session.take()
            && let Ok(removed) = self.sink.state.open_folder(REMOVED.as_bytes())
        {
            prune(&removed, session.name.as_bytes());
        }
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.end_session();
    }
}

impl Session {
    fn begin(sink: &DiskSink) -> std::result::Result<Self, Errno> {
        let removed = sink.state.make_folder(REMOVED, 0o700)?;
        // A name that was never used: as process 1 of a container, every receiver has the same
        // number.
        let name = format!("{:016x}", rand::random::<u64>());
        rustix::fs::mkdirat(&removed, &*name, Mode::from_raw_mode(0o700))?;
        let folder = removed.open_folder(name.as_bytes())?;
        Ok(Self { name, folder, last: None })
    }
}

#[cfg(test)]
mod tests;
