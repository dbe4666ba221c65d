//! Taking away what an earlier generation put in place, and only that: nothing that somebody else has put there since.
//!
//! Between a look at a name and its removal another file may get it. So what is to go is first moved to where nobody else comes, looked
//! at there, and put back if it is something else. Folders are not held open from one entry to the next: one may be moved away.

use super::disk::DiskSink;
use super::expected::Expected;
use crate::archive::path::{EntryPath, MAX_NAME_BYTES, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::Folder;
use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What came of removing something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is gone, or where it was to be kept.
    Removed,
    /// There was nothing.
    Absent,
    /// Something else stands there, or a folder with contents: it stays.
    Changed,
}

/// A folder that takes what is removed, by its path below the base.
pub struct Backup {
    folder: Folder,
    /// For messages.
    name: String,
}

/// Names tried for one entry, before the folder counts as full of backups.
const MOST_BACKUPS: u32 = 10_000;

impl DiskSink {
    /// Opens the folder that is to take what is removed; made if missing. A relative path is one below the base; an absolute one is
    /// refused unless `anywhere`, since whoever sends names it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: the path is none that can be used. Or the system's error.
    pub fn backup(&self, path: &Path, anywhere: bool) -> Result<Backup> {
        let name = printable(path.as_os_str().as_bytes());
        let refuse = |why: &str| {
            Error::new(ErrorKind::Usage, format!("\"{name}\" cannot be the backup folder: {why}"))
                .hint("name a folder below the receiver's base folder, by a relative path")
        };
        let failed = |e: std::io::Error| Error::io(format!("cannot use the backup folder \"{name}\""), e);
        let folder = if path.is_absolute() {
            if !anywhere {
                return Err(refuse(
                    "it is absolute, and the sender may choose only what lies below the base folder",
                ));
            }
            std::fs::create_dir_all(path).map_err(failed)?;
            if path.canonicalize().map_err(failed)?.starts_with(self.state_name()) {
                return Err(refuse("it lies in the receiver's own folder .tar-like"));
            }
            Folder::open(path).map_err(failed)?
        } else {
            let below = path.as_os_str().as_bytes();
            let below = below.strip_suffix(b"/").unwrap_or(below);
            let below = EntryPath::new(below).map_err(|why| refuse(&why.to_string()))?;
            make_folders(&self.base, below.as_bytes(), false).map_err(|e| match e {
                Errno::LOOP | Errno::NOTDIR => refuse("something that is no folder has its name"),
                e => failed(e.into()),
            })?
        };
        let device = |fd: &Folder| rustix::fs::fstat(fd).map(|stat| stat.st_dev);
        if device(&folder).map_err(|e| failed(e.into()))?
            != device(&self.state).map_err(|e| failed(e.into()))?
        {
            return Err(refuse("it is on another file system than .tar-like"));
        }
        Ok(Backup { folder, name })
    }

    /// Removes the file or link `path` if it is as `expected`, or moves it to `backup`.
    ///
    /// # Errors
    /// The system's error, as a sentence about this entry.
    pub fn remove(
        &self,
        path: &EntryPath,
        expected: &Expected<'_>,
        backup: Option<&Backup>,
    ) -> Result<Outcome> {
        let (parent, name) = path.split();
        let failed = |e: Errno| {
            let error = Error::io(format!("cannot remove \"{path}\""), e);
            match e {
                Errno::XDEV => error
                    .hint("it is on another file system than .tar-like; mount nothing below the base folder"),
                _ => error,
            }
        };
        let folder = match self.base.open_folder(parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Outcome::Absent),
            other => other.map_err(failed)?,
        };
        match is(&folder, name, expected).map_err(failed)? {
            None => return Ok(Outcome::Absent),
            Some(false) => return Ok(Outcome::Changed),
            Some(true) => {}
        }
        let private = self.state.make_folder("removed", 0o700).map_err(failed)?;
        let aside = private_name();
        let moved = || match rustix::fs::renameat(&folder, name, &private, &*aside) {
            Err(Errno::ACCESS) if folder.make_writable()? => {
                rustix::fs::renameat(&folder, name, &private, &*aside)
            }
            other => other,
        };
        match moved() {
            Err(Errno::NOENT) => return Ok(Outcome::Absent),
            other => other.map_err(failed)?,
        }
        let put_back = || place(&private, &aside, &folder, name).map(drop).map_err(failed);
        match is(&private, aside.as_bytes(), expected) {
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
            None => rustix::fs::unlinkat(&private, &*aside, AtFlags::empty()).map_err(failed)?,
            Some(backup) => {
                let keep = || {
                    let folder = make_folders(&backup.folder, parent, true)?;
                    place(&private, &aside, &folder, name)
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

    /// Removes the folder `path` if it is one, and empty.
    ///
    /// # Errors
    /// The system's error, as a sentence about this folder.
    pub fn remove_folder_if_empty(&self, path: &EntryPath) -> Result<Outcome> {
        let (parent, name) = path.split();
        let remove = || -> std::result::Result<Outcome, Errno> {
            let folder = match self.base.open_folder(parent) {
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

    /// Removes what a crash left between its place and its end.
    ///
    /// # Errors
    /// The system's error.
    pub fn empty_removed(&self) -> Result<()> {
        let path = self.state_path().join("removed");
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot clean {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }
}

fn private_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Whether `name` is as `expected`; `None` if nothing has that name.
fn is(folder: &Folder, name: &[u8], expected: &Expected<'_>) -> std::result::Result<Option<bool>, Errno> {
    let Some(stat) = folder.stat(name)? else { return Ok(None) };
    if !expected.is(&stat) {
        return Ok(Some(false));
    }
    let Expected::Link(target) = expected else { return Ok(Some(true)) };
    match rustix::fs::readlinkat(folder, name, Vec::new()) {
        Ok(now) => Ok(Some(now.as_bytes() == *target)),
        Err(Errno::INVAL) => Ok(Some(false)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Moves `from` to `name` in `to`, or to the first numbered name beside it that is free.
fn place(from: &Folder, aside: &str, to: &Folder, name: &[u8]) -> std::result::Result<(), Errno> {
    for number in 0..MOST_BACKUPS {
        match rename_new(from, aside, to, &numbered(name, number)) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR) => {}
            Err(Errno::ACCESS) if to.make_writable()? => {}
            other => return other,
        }
    }
    Err(Errno::EXIST)
}

/// Renames to a name that nothing has.
fn rename_new(from: &Folder, aside: &str, to: &Folder, name: &[u8]) -> std::result::Result<(), Errno> {
    match rustix::fs::renameat_with(from, aside, to, name, RenameFlags::NOREPLACE) {
        // A file system that cannot promise that: a hard link can.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(from, aside, to, name, AtFlags::empty())?;
            rustix::fs::unlinkat(from, aside, AtFlags::empty())
        }
        other => other,
    }
}

/// `name` for 0, then `name.~1~` and so on, as `cp` and `mv` number their backups.
fn numbered(name: &[u8], number: u32) -> Vec<u8> {
    if number == 0 {
        return name.to_vec();
    }
    let suffix = format!(".~{number}~");
    let mut numbered = name[..name.len().min(MAX_NAME_BYTES - suffix.len())].to_vec();
    numbered.extend(suffix.bytes());
    numbered
}

/// The folder `path` below `at`, made where missing. What is no folder, a symbolic link included, is never replaced: where `beside`, the
/// next numbered name is taken instead.
fn make_folders(at: &Folder, path: &[u8], beside: bool) -> std::result::Result<Folder, Errno> {
    let mut folder = at.open_folder(b"")?;
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        folder = make_folder(&folder, name, beside)?;
    }
    Ok(folder)
}

fn make_folder(at: &Folder, name: &[u8], beside: bool) -> std::result::Result<Folder, Errno> {
    for number in 0..MOST_BACKUPS {
        let name = numbered(name, number);
        match rustix::fs::mkdirat(at, &*name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        match at.open_folder(&name) {
            Err(Errno::NOTDIR | Errno::LOOP) if beside => {}
            other => return other,
        }
    }
    Err(Errno::EXIST)
}

#[cfg(test)]
mod tests;
