//! Walking a folder in a stable order: names first, then their attributes.

use super::base::Base;
use super::filter::{Filter, IgnoreFiles, PathVerdict, Verdict};
use super::skipped::SkippedEntry;
use crate::archive::entry::Meta;
use crate::archive::path::{EntryPath, LOCK_SUFFIX, MAX_PATH_BYTES, PARTIAL_INFIX, PathError, printable};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Folder, meta_of, mtime_ns};
use rustix::fs::{Access, AtFlags, FileType, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// An entry of a folder of which only the name is known.
pub struct ListedName {
    /// Relative to the base folder.
    pub path: EntryPath,
    is_dir: bool,
    /// A folder that has database files of this program in it.
    has_own_files: bool,
}

/// An entry of a folder with its attributes.
pub struct StatEntry {
    /// Relative to the base folder.
    pub path: EntryPath,
    /// What it is.
    pub kind: StatKind,
    /// The attributes of the entry itself, links not followed.
    pub stat: Stat,
    /// When its content changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// A folder whose content this process may not read. The copy must not get its mode, since the
    /// copy may have content that the mode would close.
    pub is_closed: bool,
}

/// The kind of an entry that an index can hold.
pub enum StatKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
}

/// A name that a walk gives: an entry, or one that is left out.
pub type WalkedName = std::result::Result<ListedName, SkippedEntry>;

/// How messages name the limit to one file system.
const ONE_FILE_SYSTEM: &str = "--one-file-system";

/// What is decided about a name, and by what.
enum Decided {
    Kept(PathVerdict),
    /// By a rule of a file in a folder.
    KeptByFile(String),
    ByRule(PathVerdict),
    /// By a rule of a file in a folder.
    ByFile(String),
}

impl Decided {
    fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_) | Self::KeptByFile(_))
    }
}

/// Which entries of a base are walked.
pub struct Walk {
    base: PathBuf,
    /// The base is this single file.
    single: Option<EntryPath>,
    filter: Filter,
    /// Relative paths of database files of this program.
    own_files: HashSet<Vec<u8>>,
    /// The folders of `own_files`. Writing these files changes the folder's time, which is no
    /// change of the source.
    own_folders: HashSet<PathBuf>,
}

impl Walk {
    /// Walks `base`, which was opened at `path`. It leaves out what `filter` does, a directory with
    /// everything in it, and `own_files`: databases of this program that may lie in the folder.
    ///
    /// # Errors
    /// The base folder cannot be resolved, or a single file is one of `own_files`.
    pub fn new(base: &Base, path: &Path, filter: Filter, own_files: &[&Path]) -> Result<Self> {
        if let Some(single) = base.single() {
            if filter.options().shard.is_some() {
                let message = format!("{} is one file: it has no parts (--shard)", path.display());
                return Err(Error::new(ErrorKind::Usage, message));
            }
            if own_files.iter().any(|own| own.canonicalize().is_ok_and(|own| own == single.real_path())) {
                let message = format!("{} is a database that this command itself uses", path.display());
                return Err(
                    Error::new(ErrorKind::Usage, message).with_hint("give -db, or -dbp, another file")
                );
            }
            let (base, single) = (single.real_path().to_path_buf(), Some(single.path().clone()));
            let (own_files, own_folders) = (HashSet::new(), HashSet::new());
            return Ok(Self { base, single, filter, own_files, own_folders });
        }
        let resolved = path
            .canonicalize()
            .map_err(|e| Error::io(format!("cannot open the base folder {}", path.display()), e))?;
        let (mut own_paths, mut own_folders) = (HashSet::new(), HashSet::new());
        for file in own_files {
            let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let Ok(folder) = folder.canonicalize() else { continue };
            let Ok(inside) = folder.strip_prefix(&resolved) else { continue };
            let path = inside.join(file.file_name().unwrap_or_default()).into_os_string().into_vec();
            own_folders.insert(folder.clone());
            for suffix in ["-journal", "-wal", "-shm", LOCK_SUFFIX, ""] {
                own_paths.insert([&path, suffix.as_bytes()].concat());
            }
        }
        Ok(Self { base: resolved, single: None, filter, own_files: own_paths, own_folders })
    }

    /// Gives the name of every entry except the base itself to `each`, which returns false to stop.
    /// A directory comes before its content; the names of one directory come in byte order. An
    /// entry that cannot be walked, sent or named comes as skipped, with the reason.
    ///
    /// # Errors
    /// The base folder itself cannot be read.
    pub fn run(&self, mut each: impl FnMut(WalkedName) -> bool) -> Result<()> {
        self.filter.restart();
        if let Some(path) = &self.single {
            if self.decide(path.as_bytes(), false, &mut None, |_| {}).is_kept() {
                each(Ok(ListedName { path: path.clone(), is_dir: false, has_own_files: false }));
            } else {
                self.filter.count(path.as_bytes());
            }
            return Ok(());
        }
        let device = self.one_device();
        let mut rules = self.ignore_files();
        let mut entries = WalkDir::new(&self.base).min_depth(1).sort_by_file_name().into_iter();
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) => {
                    let is_entered = self.names_of(&entry, device, &mut rules, &mut names);
                    if !is_entered && entry.file_type().is_dir() {
                        entries.skip_current_dir();
                    }
                }
                Err(e) => {
                    let unreadable = self.unreadable(e)?;
                    self.filter.not_missing(&unreadable.path);
                    names.push(Err(unreadable));
                }
            }
            if !names.drain(..).all(&mut each) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Adds the name of an entry that the walk has met to `names`, unless it is left out on
    /// purpose. Gives whether the walk goes on into it.
    fn names_of(
        &self,
        entry: &DirEntry,
        device: Option<u64>,
        rules: &mut Option<IgnoreFiles<'_>>,
        names: &mut Vec<WalkedName>,
    ) -> bool {
        let (relative, is_dir) = (self.relative(entry.path()), entry.file_type().is_dir());
        if self.is_own(relative) || !self.filter.is_of_shard(relative, is_dir) {
            self.filter.not_missing(relative);
            return false;
        }
        match self.decide(relative, is_dir, rules, |failed| names.push(Err(failed))) {
            Decided::Kept(_) | Decided::KeptByFile(_) => {}
            Decided::ByRule(_) => {
                self.filter.count(relative);
                return false;
            }
            Decided::ByFile(rule) => {
                self.filter.count(relative);
                names.push(Err(SkippedEntry::filtered(relative, &rule)));
                return false;
            }
        }
        match EntryPath::new(relative) {
            Ok(path) => {
                let has_own_files = is_dir && self.own_folders.contains(entry.path());
                names.push(Ok(ListedName { path, is_dir, has_own_files }));
                if is_dir && is_elsewhere(entry.path(), device) {
                    // The folder is kept, as rsync does; what is mounted there is not.
                    self.filter.count(relative);
                    names.push(Err(SkippedEntry::filtered(relative, ONE_FILE_SYSTEM)));
                    return false;
                }
                true
            }
            // A receiver's state is no content. Any other entry without a legal path is reported.
            Err(PathError::Reserved) => {
                tracing::info!(
                    "left out {}: it is the state of a tar-like receiver",
                    printable(entry.path().as_os_str().as_bytes())
                );
                self.filter.not_missing(relative);
                false
            }
            Err(why) => {
                names.push(Err(SkippedEntry::unsupported(relative, format!("its path {why}"))));
                false
            }
        }
    }

    /// What the filter decides about `path` itself, by the path and the files of `rules`. A file
    /// of rules that cannot be used goes to `failed`.
    fn decide(
        &self,
        path: &[u8],
        is_dir: bool,
        rules: &mut Option<IgnoreFiles<'_>>,
        failed: impl FnOnce(SkippedEntry),
    ) -> Decided {
        let verdict = self.filter.of_path(path, is_dir);
        match (verdict, rules) {
            (PathVerdict::Kept, Some(rules)) => match rules.of_path(path, is_dir, failed) {
                None => Decided::Kept(verdict),
                Some(decision) if decision.leaves_out => Decided::ByFile(decision.rule),
                Some(decision) => Decided::KeptByFile(decision.rule),
            },
            (PathVerdict::Kept | PathVerdict::Included(_), _) => Decided::Kept(verdict),
            (PathVerdict::Excluded(_) | PathVerdict::Unlisted, _) => Decided::ByRule(verdict),
        }
    }

    /// What is left out.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    fn ignore_files(&self) -> Option<IgnoreFiles<'_>> {
        let name = self.filter.options().ignore_files.as_deref()?;
        self.single.is_none().then(|| IgnoreFiles::new(&self.base, name))
    }

    /// The device of the base, if the walk stays on it.
    fn one_device(&self) -> Option<u64> {
        let stays = self.filter.options().one_file_system;
        stays.then(|| self.base.metadata().ok().map(|metadata| metadata.dev())).flatten()
    }

    /// What is decided about `path`, relative to the base, and about which part of the path: itself
    /// or a folder above it. A path that the base does not have counts as that of a file.
    #[must_use]
    pub fn explain<'p>(&self, path: &'p [u8]) -> (Verdict, &'p [u8]) {
        let (mut rules, device) = (self.ignore_files(), self.one_device());
        let top = path.len();
        let metadata = self.base.join(OsStr::from_bytes(path)).symlink_metadata().ok();
        let is_dir = metadata.as_ref().is_some_and(std::fs::Metadata::is_dir);
        Filter::explain(path, is_dir, |part, is_dir| {
            let kept = match self.decide(part, is_dir, &mut rules, |_| {}) {
                Decided::ByRule(verdict) => return self.filter.verdict(verdict),
                Decided::ByFile(rule) => return Verdict::LeftOut(rule),
                Decided::KeptByFile(rule) => Verdict::Kept(Some(rule)),
                Decided::Kept(verdict) => self.filter.verdict(verdict),
            };
            let limit = match &metadata {
                Some(file) if part.len() == top && file.is_file() => {
                    self.filter.of_file(file.len(), mtime_of(file))
                }
                _ if part.len() < top => {
                    let folder = self.base.join(OsStr::from_bytes(part));
                    is_elsewhere(&folder, device).then_some(ONE_FILE_SYSTEM)
                }
                _ => None,
            };
            limit.map_or(kept, |limit| Verdict::LeftOut(limit.to_owned()))
        })
    }

    /// An entry that the walk could not read.
    fn unreadable(&self, e: walkdir::Error) -> Result<SkippedEntry> {
        if e.depth() == 0 {
            let message = format!("cannot read the base folder {}", self.base.display());
            return Err(Error::new(ErrorKind::Source, message).with_source(e));
        }
        let path = e.path().map(|path| self.relative(path)).unwrap_or_default();
        let reason = e.io_error().map_or_else(|| e.to_string(), ToString::to_string);
        Ok(SkippedEntry::unreadable(path, format!("it cannot be read: {reason}")))
    }

    /// Owner, permissions and time of the folder that is walked; `None` for a single file.
    #[must_use]
    pub fn top(&self, base: &Base) -> Option<Meta> {
        let Base::Folder(folder) = base else { return None };
        let stat = rustix::fs::fstat(folder).ok()?;
        let has_own_files = self.own_folders.contains(&self.base);
        let mtime_ns = if has_own_files { self.newest_inside(b"") } else { mtime_ns(&stat) };
        Some(Meta { mtime_ns, ..meta_of(&stat) })
    }

    /// The time of the newest entry of a folder, own files excluded; 0 for an empty folder.
    fn newest_inside(&self, folder: &[u8]) -> i64 {
        let folder = self.base.join(OsStr::from_bytes(folder));
        let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
        entries
            .flatten()
            .filter(|entry| !self.is_own(self.relative(&entry.path())))
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| mtime_of(&metadata))
            .max()
            .unwrap_or(0)
    }

    /// Whether it is a database file of this program, complete or partial.
    fn is_own(&self, relative: &[u8]) -> bool {
        self.own_files.contains(relative) || self.own_files.iter().any(|own| is_partial(relative, own))
    }

    /// The relative path of an entry. The walk makes its paths of the base, byte for byte.
    fn relative<'p>(&self, path: &'p Path) -> &'p [u8] {
        let path = path.as_os_str().as_bytes();
        let rest = path.strip_prefix(self.base.as_os_str().as_bytes()).unwrap_or(path);
        rest.strip_prefix(b"/").unwrap_or(rest)
    }
}

fn mtime_of(metadata: &std::fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

/// Whether the folder `path` is on another device than `device`.
fn is_elsewhere(path: &Path, device: Option<u64>) -> bool {
    let is_other = |device| path.symlink_metadata().is_ok_and(|metadata| metadata.dev() != device);
    device.is_some_and(is_other)
}

/// Whether `path` is a partial index that is being written to replace `database`, or that a killed
/// writer left.
fn is_partial(path: &[u8], database: &[u8]) -> bool {
    path.strip_prefix(database).is_some_and(|rest| rest.starts_with(PARTIAL_INFIX.as_bytes()))
}

impl ListedName {
    /// Whether it was a directory when its folder was read.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.is_dir
    }
}

/// Gets the attributes of walked entries. There is one for each thread: stat takes longer than
/// walking.
pub struct StatWorker<'a> {
    walk: &'a Walk,
    base: &'a Base,
    /// The last folder stays open: most entries share it with the next.
    last: Option<(Vec<u8>, Folder)>,
}

impl<'a> StatWorker<'a> {
    /// `base` is the base that `walk` walks.
    #[must_use]
    pub fn new(walk: &'a Walk, base: &'a Base) -> Self {
        Self { walk, base, last: None }
    }

    /// Gets the attributes of an entry.
    ///
    /// # Errors
    /// Why the entry is left out: it is gone, or has no content that could be sent.
    pub fn stat(&mut self, name: ListedName) -> std::result::Result<StatEntry, SkippedEntry> {
        let ListedName { path, has_own_files, is_dir } = name;
        match self.kind_of(&path) {
            // The walk has gone into the folder, or not: an index must not have a folder without
            // its content, nor the content without the folder.
            Ok((kind, _)) if is_dir != matches!(kind, StatKind::Dir) => {
                Err(SkippedEntry::unreadable(path.as_bytes(), "it was replaced while its folder was read"))
            }
            Ok((kind, stat)) => {
                let is_closed = is_dir && self.is_closed(&path);
                let has_own_files = has_own_files && matches!(kind, StatKind::Dir);
                let mtime_ns =
                    if has_own_files { self.walk.newest_inside(path.as_bytes()) } else { mtime_ns(&stat) };
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                if matches!(kind, StatKind::File)
                    && let Some(limit) = self.walk.filter.of_file(size, mtime_ns)
                {
                    self.walk.filter.count(path.as_bytes());
                    return Err(SkippedEntry::filtered(path.as_bytes(), limit));
                }
                Ok(StatEntry { path, kind, stat, mtime_ns, is_closed })
            }
            Err(skipped) => Err(skipped),
        }
    }

    /// Whether this process may not read the folder `path`, which lies in the last folder.
    fn is_closed(&self, path: &EntryPath) -> bool {
        let Base::Folder(base) = self.base else { return false };
        let folder = self.last.as_ref().map_or(base, |(_, folder)| folder);
        let wanted = Access::READ_OK | Access::EXEC_OK;
        rustix::fs::accessat(folder, path.split().1, wanted, AtFlags::EACCESS) == Err(Errno::ACCESS)
    }

    fn kind_of(&mut self, path: &EntryPath) -> std::result::Result<(StatKind, Stat), SkippedEntry> {
        let cannot = |e: Errno| {
            SkippedEntry::unreadable(path.as_bytes(), format!("stat failed: {}", std::io::Error::from(e)))
        };
        let (parent, name) = path.split();
        let base = match self.base {
            Base::Single(single) => return Ok((StatKind::File, single.stat().map_err(cannot)?)),
            Base::Folder(base) => base,
        };
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            self.last = Some((parent.to_vec(), base.open_folder(parent).map_err(cannot)?));
        }
        let folder = self.last.as_ref().map_or(base, |(_, folder)| folder);
        let stat = folder.stat(name).map_err(cannot)?.ok_or_else(|| cannot(Errno::NOENT))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => StatKind::File,
            FileType::Directory => StatKind::Dir,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new()).map_err(cannot)?.into_bytes();
                if target.len() > MAX_PATH_BYTES {
                    let reason = "the target of the symbolic link is too long";
                    return Err(SkippedEntry::unsupported(path.as_bytes(), reason));
                }
                StatKind::Symlink(target)
            }
            other => {
                let kind = match other {
                    FileType::Fifo => "a FIFO",
                    FileType::Socket => "a socket",
                    _ => "a device",
                };
                return Err(SkippedEntry::without_content(path.as_bytes(), kind));
            }
        };
        Ok((kind, stat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that becomes a link, or a file that becomes a folder, between walk and stat.
    #[test]
    fn leaves_out_an_entry_that_was_replaced_meanwhile() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for name in ["folder", "stays", "elsewhere"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("elsewhere/inside"), "").unwrap();
        std::fs::write(at("folder/inside"), "").unwrap();
        std::fs::write(at("file"), "").unwrap();
        let folder = Base::open(base.path()).unwrap();
        let walk = Walk::new(&folder, base.path(), Filter::default(), &[]).unwrap();
        let mut names = Vec::new();
        walk.run(|item| {
            names.extend(item.ok());
            true
        })
        .unwrap();
        assert_eq!(names.len(), 6);
        std::fs::rename(at("folder"), at("gone")).unwrap();
        std::os::unix::fs::symlink("elsewhere", at("folder")).unwrap();
        std::fs::remove_file(at("file")).unwrap();
        std::fs::create_dir(at("file")).unwrap();
        let mut worker = StatWorker::new(&walk, &folder);
        let (found, skipped): (Vec<_>, Vec<_>) =
            names.into_iter().map(|name| worker.stat(name)).partition(std::result::Result::is_ok);
        let found: Vec<String> = found.into_iter().flatten().map(|found| found.path.to_string()).collect();
        let skipped: Vec<String> =
            skipped.into_iter().filter_map(|skipped| Some(printable(&skipped.err()?.path))).collect();
        assert_eq!(found, ["elsewhere", "elsewhere/inside", "stays"]);
        assert_eq!(skipped, ["file", "folder", "folder/inside"]);
    }
}
