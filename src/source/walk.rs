//! Walking a folder in a stable order.

use crate::archive::path::{EntryPath, MAX_PATH_BYTES, PARTIAL_INFIX, PathError, printable};
use crate::error::{Error, ErrorKind, Result};
use regex::bytes::Regex;
use std::collections::HashSet;
use std::fs::{FileType, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// One entry of a folder.
pub struct Found {
    /// Relative to the base folder.
    pub path: EntryPath,
    /// What it is.
    pub kind: FoundKind,
    /// The entry itself, links not followed.
    pub metadata: Metadata,
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
    exclude: Vec<Regex>,
    own: HashSet<Vec<u8>>,
    /// Folders with files of ours in them: writing those changes the folder's time, which is no change of the source.
    own_folders: HashSet<PathBuf>,
}

impl Walk {
    /// Walks `base` but for what `exclude` matches in its relative path; a directory that matches is left out with all that
    /// it contains. `own_files` are databases of this program that may lie in the folder; they are left out, too.
    ///
    /// # Errors
    /// The base folder cannot be resolved.
    pub fn new(base: &Path, exclude: Vec<Regex>, own_files: &[&Path]) -> Result<Self> {
        let resolved = base
            .canonicalize()
            .map_err(|e| Error::io(format!("cannot open the base folder {}", base.display()), e))?;
        if !resolved.is_dir() {
            return Err(Error::new(ErrorKind::Source, format!("the base {} is no folder", base.display())));
        }
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
        Ok(Self { base: resolved, exclude, own, own_folders })
    }

    /// Gives every entry but the base itself, a directory before what it contains, the names of one directory in the order
    /// of their bytes. `each` returns false to stop. What cannot be walked, sent or named is skipped, with the reason.
    ///
    /// # Errors
    /// The base folder itself cannot be read.
    pub fn run(&self, mut each: impl FnMut(std::result::Result<Found, Skipped>) -> bool) -> Result<()> {
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
            let found =
                look_at(&entry, entry.file_type()).map(|(kind, metadata)| (path.clone(), kind, metadata));
            let item = match found {
                Ok((path, kind, metadata)) => {
                    let own = matches!(kind, FoundKind::Dir) && self.own_folders.contains(entry.path());
                    let mtime_ns = if own { self.newest_inside(entry.path()) } else { mtime_ns(&metadata) };
                    Ok(Found { path, kind, metadata, mtime_ns })
                }
                Err(reason) => Err(Skipped { path: path.to_string(), reason }),
            };
            if !each(item) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The time of the newest entry of a folder that is not ours; 0 for an empty folder.
    fn newest_inside(&self, folder: &Path) -> i64 {
        let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
        entries
            .flatten()
            .filter(|entry| {
                let path = entry.path();
                let relative = self.relative(&path);
                !self.own.contains(relative) && !self.own.iter().any(|own| is_partial(relative, own))
            })
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| mtime_ns(&metadata))
            .max()
            .unwrap_or(0)
    }

    fn relative<'p>(&self, path: &'p Path) -> &'p [u8] {
        path.strip_prefix(&self.base).unwrap_or(path).as_os_str().as_bytes()
    }
}

/// Whether `path` is an index that is being written, or was when its writer was killed.
fn is_partial(path: &[u8], database: &[u8]) -> bool {
    path.strip_prefix(database).is_some_and(|rest| rest.starts_with(PARTIAL_INFIX.as_bytes()))
}

fn mtime_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn look_at(entry: &walkdir::DirEntry, kind: FileType) -> std::result::Result<(FoundKind, Metadata), String> {
    let cannot = |e: &dyn std::fmt::Display| format!("it cannot be looked at: {e}");
    let metadata = entry.metadata().map_err(|e| match e.io_error() {
        Some(e) => cannot(e),
        None => cannot(&e),
    })?;
    let kind = if kind.is_file() {
        FoundKind::File
    } else if kind.is_dir() {
        FoundKind::Dir
    } else if kind.is_symlink() {
        let target = std::fs::read_link(entry.path()).map_err(|e| cannot(&e))?.into_os_string().into_vec();
        if target.len() > MAX_PATH_BYTES {
            return Err("the target of the symbolic link is too long".to_string());
        }
        FoundKind::Symlink(target)
    } else {
        let what = if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        return Err(format!("it is {what}, which has no content to copy"));
    };
    Ok((kind, metadata))
}
