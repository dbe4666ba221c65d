//! The folder `.tar-like/removed`, and moving entries to names that nothing has.

use super::expected::Expected;
use crate::archive::path::{MAX_NAME_BYTES, printable};
use crate::folder::{Folder, is_kind, meta_of, timestamps};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use std::fs::File;

/// The folder in the state folder through which deleted entries leave.
pub(super) const REMOVED: &str = "removed";

/// How many names are tried for one entry.
pub(super) const MAX_NUMBERED: u32 = 10_000;

/// Moves `from` to `name` in `to`, or to the first numbered name beside it that is free.
pub(super) fn place(from: &Folder, aside: &[u8], to: &Folder, name: &[u8]) -> std::result::Result<(), Errno> {
    for number in 0..MAX_NUMBERED {
        match rename_new(from, aside, to, &numbered(name, number)) {
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR) => {}
            Err(Errno::ACCESS) if to.make_writable()? => {}
            other => return other,
        }
    }
    Err(Errno::EXIST)
}

/// Renames to a name that nothing has.
pub(super) fn rename_new(
    from: &Folder,
    aside: &[u8],
    to: &Folder,
    name: &[u8],
) -> std::result::Result<(), Errno> {
    match rustix::fs::renameat_with(from, aside, to, name, RenameFlags::NOREPLACE) {
        // A file system that cannot promise that: a hard link can.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        other => return other,
    }
    match rustix::fs::linkat(from, aside, to, name, AtFlags::empty()) {
        Ok(()) => rustix::fs::unlinkat(from, aside, AtFlags::empty()),
        // One that has no hard links either: looking first is all there is.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) if to.stat(name)?.is_none() => {
            rustix::fs::renameat(from, aside, to, name)
        }
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => Err(Errno::EXIST),
        Err(e) => Err(e),
    }
}

/// Copies the file `name` of `folder`, if it is as `expected`, to `own` in `to`, with its time.
pub(super) fn copy(
    folder: &Folder,
    name: &[u8],
    expected: &Expected<'_>,
    to: &Folder,
    own: &[u8],
) -> std::result::Result<(), Errno> {
    let source = folder.open_file(name)?;
    let stat = rustix::fs::fstat(&source)?;
    if !expected.is(&stat) {
        return Err(Errno::NOENT);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = File::from(rustix::fs::openat(to, own, flags, Mode::from_raw_mode(0o600))?);
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    std::io::copy(&mut &source, &mut &target).map_err(io)?;
    rustix::fs::futimens(&target, &timestamps(&meta_of(&stat)))
}

/// `name` for 0, then `name.~1~` and so on, as `cp` and `mv` number their backups.
pub(super) fn numbered(name: &[u8], number: u32) -> Vec<u8> {
    if number == 0 {
        return name.to_vec();
    }
    let suffix = format!(".~{number}~");
    let mut numbered = name[..name.len().min(MAX_NAME_BYTES - suffix.len())].to_vec();
    numbered.extend(suffix.bytes());
    numbered
}

/// The folder `path` below `at`, made where missing. What is no folder, a symbolic link included,
/// is never replaced: where `beside`, the next numbered name is taken instead.
pub(super) fn make_folders(at: &Folder, path: &[u8], beside: bool) -> std::result::Result<Folder, Errno> {
    let mut folder = at.open_folder(b"")?;
    for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
        folder = make_folder(&folder, name, beside)?;
    }
    Ok(folder)
}

fn make_folder(at: &Folder, name: &[u8], beside: bool) -> std::result::Result<Folder, Errno> {
    for number in 0..MAX_NUMBERED {
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

/// Removes the folder of the session `name` in `removed`, and all folders below it, as far as they
/// are empty. What cannot be removed stays.
pub(super) fn prune(removed: &Folder, name: &[u8]) {
    each_below(removed, name, |path, stat| {
        let cut = path.iter().rposition(|&b| b == b'/');
        let (parent, name) = cut.map_or((&[][..], path), |cut| (&path[..cut], &path[cut + 1..]));
        if stat.is_none()
            && let Ok(parent) = removed.open_folder(parent)
        {
            let _ = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR);
        }
    });
}

/// Gives what is in the folder `from` below `top`, by its path below `top`: what is no folder with
/// its `Stat`, and each folder, `from` included, after all that is in it. Folders are opened from
/// `top`: held open, they could be more than a process may have, and by a path from the root they
/// could not be opened at all, as the path of an entry may be as long as the system takes.
pub(super) fn each_below(top: &Folder, from: &[u8], mut each: impl FnMut(&[u8], Option<&Stat>)) {
    let mut waiting = vec![(from.to_vec(), false)];
    while let Some((path, is_seen)) = waiting.pop() {
        if is_seen {
            each(&path, None);
            continue;
        }
        let mut folders = Vec::new();
        let mut look = || -> Result<(), Errno> {
            let folder = top.open_folder(&path)?;
            for name in folder.names()? {
                let Some(stat) = folder.stat(&name)? else { continue };
                let path = if path.is_empty() { name } else { [&path, &b"/"[..], &name].concat() };
                match is_kind(&stat, FileType::Directory) {
                    true => folders.push((path, false)),
                    false => each(&path, Some(&stat)),
                }
            }
            Ok(())
        };
        match look() {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => tracing::warn!(
                "what a deletion has left in .tar-like/{REMOVED}/{} cannot be looked at: {e}",
                printable(&path)
            ),
        }
        waiting.push((path, true));
        waiting.append(&mut folders);
    }
}
