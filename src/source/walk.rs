//! Walking a folder in a stable order.

use super::base::Base;
use crate::archive::path::{EntryPath, MAX_PATH_BYTES, PARTIAL_INFIX, PathError, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Folder, mtime_ns};
use regex::bytes::Regex;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// One entry of a folder, of which only the name was seen.
pub struct Seen {
    /// Relative to the base folder.
    pub path: EntryPath,
    is_dir: bool,
    /// A folder with files of ours in it.
    own: bool,
}

/// One entry of a folder.
pub struct Found {
    /// Relative to the base folder.
    pub path: EntryPath,
    /// What it is.
    pub kind: FoundKind,
    /// The entry itself, links not followed.
    pub stat: Stat,
    /// When its content changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// What a walk finds.
pub enum FoundKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
}

/// An entry that is left out: its printable path, and why.
pub struct Skipped {
    /// The path, printable.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// What is walked, and what is not.
pub struct Walk {
    base: PathBuf,
    /// There is nothing but this file.
    single: Option<EntryPath>,
    exclude: Vec<Regex>,
    own: HashSet<Vec<u8>>,
    /// Folders with files of ours in them: writing those changes the folder's time, which is no change of the source.
    own_folders: HashSet<PathBuf>,
}

impl Walk {
    /// Walks `base`, which `path` led to, but for what `exclude` matches in its relative path; a directory that matches is left out with all that
    /// it contains. `own_files` are databases of this program that may lie in the folder; they are left out, too.
    ///
    /// # Errors
    /// The base folder cannot be resolved, or a single file is one of `own_files`.
    pub fn new(base: &Base, path: &Path, exclude: Vec<Regex>, own_files: &[&Path]) -> Result<Self> {
        if let Some(single) = base.single() {
            if own_files.iter().any(|own| own.canonicalize().is_ok_and(|own| own == single.real())) {
                let message = format!("{} is a database that this command itself uses", path.display());
                return Err(Error::new(ErrorKind::Usage, message).hint("give -db, or -dbp, another file"));
            }
            let (base, single) = (single.real().to_path_buf(), Some(single.path().clone()));
            let (own, own_folders) = (HashSet::new(), HashSet::new());
            return Ok(Self { base, single, exclude, own, own_folders });
        }
        let resolved = path
            .canonicalize()
            .map_err(|e| Error::io(format!("cannot open the base folder {}", path.display()), e))?;
        let (mut own, mut own_folders) = (HashSet::new(), HashSet::new());
        for file in own_files {
            let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let Ok(folder) = folder.canonicalize() else { continue };
            let Ok(inside) = folder.strip_prefix(&resolved) else { continue };
            let path = inside.join(file.file_name().unwrap_or_default()).into_os_string().into_vec();
            own_folders.insert(folder.clone());
            for suffix in ["-journal", "-wal", "-shm", ""] {
                own.insert([&path, suffix.as_bytes()].concat());
            }
        }
        Ok(Self { base: resolved, single: None, exclude, own, own_folders })
    }

    /// Gives the name of every entry but the base itself, a directory before what it contains, the names of one directory in the order
    /// of their bytes. `each` returns false to stop. What cannot be walked, sent or named is skipped, with the reason.
    ///
    /// # Errors
    /// The base folder itself cannot be read.
    pub fn run(&self, mut each: impl FnMut(std::result::Result<Seen, Skipped>) -> bool) -> Result<()> {
        if let Some(path) = &self.single {
            if !self.exclude.iter().any(|regex| regex.is_match(path.as_bytes())) {
                each(Ok(Seen { path: path.clone(), is_dir: false, own: false }));
            }
            return Ok(());
        }
        let mut entries = WalkDir::new(&self.base).min_depth(1).sort_by_file_name().into_iter();
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) if e.depth() == 0 => {
                    return Err(Error::new(
                        ErrorKind::Source,
                        format!("cannot read the base folder {}", self.base.display()),
                    )
                    .because(e));
                }
                Err(e) => {
                    let path = e.path().map(|path| printable(self.relative(path))).unwrap_or_default();
                    let reason = e.io_error().map_or_else(|| e.to_string(), ToString::to_string);
                    if !each(Err(Skipped { path, reason: format!("it cannot be read: {reason}") })) {
                        return Ok(());
                    }
                    continue;
                }
            };
            let relative = self.relative(entry.path());
            if self.own.contains(relative)
                || self.own.iter().any(|own| is_partial(relative, own))
                || self.exclude.iter().any(|regex| regex.is_match(relative))
            {
                if entry.file_type().is_dir() {
                    entries.skip_current_dir();
                }
                continue;
            }
            let path = match EntryPath::new(relative) {
                Ok(path) => path,
                Err(why) => {
                    if entry.file_type().is_dir() {
                        entries.skip_current_dir();
                    }
                    // A receiver's state is no content; everything else that has no legal path is missed by somebody.
                    if why == PathError::Reserved {
                        tracing::info!(
                            "left out {}: it is the state of a tar-like receiver",
                            entry.path().display()
                        );
                    } else if !each(Err(Skipped {
                        path: printable(relative),
                        reason: format!("its path {why}"),
                    })) {
                        return Ok(());
                    }
                    continue;
                }
            };
            let is_dir = entry.file_type().is_dir();
            let item = Ok(Seen { path, is_dir, own: is_dir && self.own_folders.contains(entry.path()) });
            if !each(item) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The time of the newest entry of a folder that is not ours; 0 for an empty folder.
    fn newest_inside(&self, folder: &EntryPath) -> i64 {
        let folder = self.base.join(OsStr::from_bytes(folder.as_bytes()));
        let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
        entries
            .flatten()
            .filter(|entry| {
                let path = entry.path();
                let relative = self.relative(&path);
                !self.own.contains(relative) && !self.own.iter().any(|own| is_partial(relative, own))
            })
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| {
                metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
            })
            .max()
            .unwrap_or(0)
    }

    /// Of a path that a walk has made, which begins with the base, byte for byte.
    fn relative<'p>(&self, path: &'p Path) -> &'p [u8] {
        let path = path.as_os_str().as_bytes();
        let rest = path.strip_prefix(self.base.as_os_str().as_bytes()).unwrap_or(path);
        rest.strip_prefix(b"/").unwrap_or(rest)
    }
}

/// Whether `path` is an index that is being written, or was when its writer was killed.
fn is_partial(path: &[u8], database: &[u8]) -> bool {
    path.strip_prefix(database).is_some_and(|rest| rest.starts_with(PARTIAL_INFIX.as_bytes()))
}

impl Seen {
    /// Whether it is a directory, as far as its name tells.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.is_dir
    }
}

/// Looks at what a walk has seen. Several may do so at once: looking takes longer than walking.
pub struct Looker<'a> {
    walk: &'a Walk,
    base: &'a Base,
    /// Most entries share their folder with the next.
    last: Option<(Vec<u8>, Folder)>,
}

impl<'a> Looker<'a> {
    /// `base` is what `walk` walks.
    #[must_use]
    pub fn new(walk: &'a Walk, base: &'a Base) -> Self {
        Self { walk, base, last: None }
    }

    /// What the entry is. It is left out, with the reason, if it has no content that could be sent, or is gone.
    ///
    /// # Errors
    /// Why it is left out.
    pub fn look(&mut self, seen: Seen) -> std::result::Result<Found, Skipped> {
        let Seen { path, own, is_dir } = seen;
        match self.kind_of(&path) {
            // What lies in it comes by itself, or was not seen: an index must not have one without the other.
            Ok((kind, _)) if is_dir != matches!(kind, FoundKind::Dir) => Err(Skipped {
                path: path.to_string(),
                reason: "it was replaced while its folder was read".to_string(),
            }),
            Ok((kind, stat)) => {
                let own = own && matches!(kind, FoundKind::Dir);
                let mtime_ns = if own { self.walk.newest_inside(&path) } else { mtime_ns(&stat) };
                Ok(Found { path, kind, stat, mtime_ns })
            }
            Err(reason) => Err(Skipped { path: path.to_string(), reason }),
        }
    }

    fn kind_of(&mut self, path: &EntryPath) -> std::result::Result<(FoundKind, Stat), String> {
        let cannot = |e: Errno| format!("it cannot be looked at: {}", std::io::Error::from(e));
        let (parent, name) = path.split();
        let base = match self.base {
            Base::Single(single) => return Ok((FoundKind::File, single.stat().map_err(cannot)?)),
            Base::Folder(base) => base,
        };
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            self.last = Some((parent.to_vec(), base.open_folder(parent).map_err(cannot)?));
        }
        let folder = self.last.as_ref().map_or(base, |(_, folder)| folder);
        let stat = folder.stat(name).map_err(cannot)?.ok_or_else(|| cannot(Errno::NOENT))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FoundKind::File,
            FileType::Directory => FoundKind::Dir,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(cannot)?.into_bytes();
                if target.len() > MAX_PATH_BYTES {
                    return Err("the target of the symbolic link is too long".to_string());
                }
                FoundKind::Symlink(target)
            }
            other => {
                let what = match other {
                    FileType::Fifo => "a FIFO",
                    FileType::Socket => "a socket",
                    _ => "a device",
                };
                return Err(format!("it is {what}, which has no content to copy"));
            }
        };
        Ok((kind, stat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that becomes a link, or a file that becomes a folder, between the walk and the look.
    #[test]
    fn what_was_replaced_meanwhile_is_left_out() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for name in ["folder", "stays", "elsewhere"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("elsewhere/inside"), "").unwrap();
        std::fs::write(at("folder/inside"), "").unwrap();
        std::fs::write(at("file"), "").unwrap();
        let folder = Base::open(base.path()).unwrap();
        let walk = Walk::new(&folder, base.path(), Vec::new(), &[]).unwrap();
        let mut seen = Vec::new();
        walk.run(|item| {
            seen.extend(item.ok());
            true
        })
        .unwrap();
        assert_eq!(seen.len(), 6);
        std::fs::rename(at("folder"), at("gone")).unwrap();
        std::os::unix::fs::symlink("elsewhere", at("folder")).unwrap();
        std::fs::remove_file(at("file")).unwrap();
        std::fs::create_dir(at("file")).unwrap();
        let mut looker = Looker::new(&walk, &folder);
        let (found, skipped): (Vec<_>, Vec<_>) =
            seen.into_iter().map(|seen| looker.look(seen)).partition(std::result::Result::is_ok);
        let found: Vec<String> = found.into_iter().flatten().map(|found| found.path.to_string()).collect();
        let skipped: Vec<String> =
            skipped.into_iter().filter_map(|skipped| Some(skipped.err()?.path)).collect();
        assert_eq!(found, ["elsewhere", "elsewhere/inside", "stays"]);
        assert_eq!(skipped, ["file", "folder", "folder/inside"]);
    }
}
