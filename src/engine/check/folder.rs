//! Comparing a folder, or a file or block device alone, with an index.

use super::model::{
    BATCH_BYTES, CheckOptions, Difference, Entry, Finding, digest_difference, needs_md5, unreadable,
};
use crate::archive::digest::{Blake3, ContentHasher, Md5, blake3, md5_of_each};
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind};
use crate::archive::path::{EntryPath, printable};
use crate::db::index_read::IndexReader;
use crate::db::paths::PathTable;
use crate::engine::opener::Opener;
use crate::error::Result;
use crate::folder::{is_kept_time, is_kind, meta_of};
use crate::source::base::Base;
use crate::source::filter::Filter;
use crate::source::walk::Walk;
use crate::telemetry::Monitor;
use crate::unix_time::local_date;
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::ops::{ControlFlow, Range};

/// Bytes of a large file that are read at once.
const READ_BYTES: usize = 256 << 10;

pub(super) struct FolderComparer<'a> {
    base: Base,
    metadata: bool,
    /// Compare md5 also where the index has a BLAKE3.
    md5: bool,
    /// The process may read and set any owner.
    is_root: bool,
    monitor: &'a dyn Monitor,
}

/// A file once it was read.
enum FileContent {
    /// A difference shows without the content.
    Differs(String),
    /// The content is in this range of the buffer.
    Small(Stat, Range<usize>),
    Hashed(Stat, (Option<Md5>, Blake3)),
    /// The index has no digest of it, so it was not read.
    Unverifiable,
    /// The user has cancelled the run.
    Cancelled,
}

impl<'a> FolderComparer<'a> {
    pub(super) fn new(options: &CheckOptions, monitor: &'a dyn Monitor) -> Result<Self> {
        Ok(Self {
            base: Base::open(&options.base)?,
            metadata: options.metadata,
            md5: options.md5,
            is_root: rustix::process::geteuid().is_root(),
            monitor,
        })
    }

    /// Compares a batch. Its small files are hashed side by side, several in one thread.
    pub(super) fn compare(&self, entries: &[Entry]) -> Vec<Option<Finding>> {
        let (mut opener, mut buffer) = (Opener::new(&self.base), Vec::new());
        let (mut outcomes, mut small) = (Vec::with_capacity(entries.len()), Vec::new());
        for (position, entry) in entries.iter().enumerate() {
            outcomes.push(match entry {
                Entry::Node(node) => self.node(node),
                Entry::File(file) => {
                    self.monitor.counters().files_done.add(1);
                    match self.file(file, &mut opener, &mut buffer) {
                        Ok(FileContent::Differs(why)) => Ok(Some(why)),
                        Ok(FileContent::Small(stat, range)) => {
                            small.push((position, file, stat, range));
                            Ok(None)
                        }
                        Ok(FileContent::Hashed(stat, digests)) => Ok(self.verdict(file, &stat, digests)),
                        Ok(FileContent::Unverifiable | FileContent::Cancelled) => Ok(None),
                        Err(e) => Err(e),
                    }
                }
            });
        }
        let with_md5 = small.iter().filter(|(_, file, ..)| needs_md5(file, self.md5));
        let contents: Vec<&[u8]> = with_md5.map(|(.., range)| &buffer[range.clone()]).collect();
        let mut md5s = md5_of_each(&contents).into_iter();
        for (position, file, stat, range) in &small {
            let md5 = if needs_md5(file, self.md5) { md5s.next() } else { None };
            let digests = (md5, blake3(&buffer[range.clone()]));
            outcomes[*position] = Ok(self.verdict(file, stat, digests));
        }
        entries.iter().zip(outcomes).map(|(entry, outcome)| finding(entry, outcome)).collect()
    }

    fn stat(&self, path: &EntryPath) -> std::result::Result<Stat, Errno> {
        match &self.base {
            Base::Single(single) if single.path() == path => single.stat(),
            Base::Single(_) => Err(Errno::NOENT),
            Base::Folder(base) => {
                let (parent, name) = path.split();
                base.open_folder(parent)?.stat(name)?.ok_or(Errno::NOENT)
            }
        }
    }

    fn file(
        &self,
        file: &FileEntry,
        opener: &mut Opener<'_>,
        buffer: &mut Vec<u8>,
    ) -> std::result::Result<FileContent, Errno> {
        let opened = match opener.open(&file.path) {
            // The original program, whose rows have no metadata, has followed the link.
            Err(Errno::LOOP) if file.meta.is_none() => self.base.open_linked(&file.path),
            other => other,
        };
        let not_regular = || FileContent::Differs("it is not a regular file".to_string());
        let opened = match opened {
            // A link in the place of the file is a difference; a link in the place of its folder
            // makes the file missing.
            Err(Errno::LOOP | Errno::NXIO) => return self.stat(&file.path).map(|_| not_regular()),
            other => other?,
        };
        let stat = self.base.stat(&opened)?;
        if !is_kind(&stat, FileType::RegularFile) {
            return Ok(not_regular());
        }
        if u64::try_from(stat.st_size) != Ok(file.size) {
            return Ok(FileContent::Differs(format!("its size is {}, not {}", stat.st_size, file.size)));
        }
        if !file.is_verifiable() {
            let difference = self.meta(&stat, file.meta.as_ref(), true);
            return Ok(difference.map_or(FileContent::Unverifiable, FileContent::Differs));
        }
        let content = match file.size <= BATCH_BYTES {
            true => self.read_small(file, &opened, stat, buffer),
            false => self.hash_large(file, &opened, stat),
        };
        Ok(content.unwrap_or_else(|e| FileContent::Differs(format!("it cannot be read: {e}"))))
    }

    /// Reads a file to the end of `buffer`. One byte more than expected shows that the file has
    /// grown.
    fn read_small(
        &self,
        file: &FileEntry,
        opened: &File,
        stat: Stat,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<FileContent> {
        let start = buffer.len();
        buffer.reserve(file.size as usize + 1);
        match opened.take(file.size + 1).read_to_end(buffer) {
            Ok(length) => {
                self.monitor.counters().done_bytes.add(length as u64);
                Ok(FileContent::Small(stat, start..buffer.len()))
            }
            Err(e) => {
                buffer.truncate(start);
                Err(e)
            }
        }
    }

    fn hash_large(&self, file: &FileEntry, opened: &File, stat: Stat) -> std::io::Result<FileContent> {
        let mut reader = opened.take(file.size.saturating_add(1));
        let (mut hasher, mut piece) = (ContentHasher::new(needs_md5(file, self.md5)), vec![0; READ_BYTES]);
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok(FileContent::Hashed(stat, hasher.finish())),
                Ok(_) if self.monitor.is_cancelled() => return Ok(FileContent::Cancelled),
                Ok(n) => {
                    hasher.update(&piece[..n]);
                    self.monitor.counters().done_bytes.add(n as u64);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn verdict(&self, file: &FileEntry, stat: &Stat, digests: (Option<Md5>, Blake3)) -> Difference {
        digest_difference(file, digests).or_else(|| self.meta(stat, file.meta.as_ref(), true))
    }

    fn node(&self, node: &Node) -> std::result::Result<Difference, Errno> {
        let stat = self.stat(&node.path)?;
        let wrong = |kind: &str| Ok(Some(format!("it is not a {kind}")));
        match node.kind {
            NodeKind::Dir if !is_kind(&stat, FileType::Directory) => wrong("folder"),
            NodeKind::Dir => Ok(self.meta(&stat, node.meta.as_ref(), true)),
            NodeKind::Symlink if !is_kind(&stat, FileType::Symlink) => wrong("symbolic link"),
            NodeKind::Symlink => {
                let Base::Folder(base) = &self.base else { return Err(Errno::NOENT) };
                let (parent, name) = node.path.split();
                let target = rustix::fs::readlinkat(base.open_folder(parent)?, name, Vec::new())?;
                if target.as_bytes() != &*node.target {
                    return Ok(Some("it points to another target".to_string()));
                }
                Ok(self.meta(&stat, node.meta.as_ref(), false))
            }
            NodeKind::Hardlink => {
                let Ok(target) = EntryPath::new(node.target.clone()) else { return wrong("hard link") };
                let same =
                    self.stat(&target).is_ok_and(|t| (t.st_dev, t.st_ino) == (stat.st_dev, stat.st_ino));
                Ok((!same).then(|| format!("it is not the same file as \"{target}\"")))
            }
        }
    }

    /// How the folder itself differs from the row `expected`. Its time is ignored, because entries
    /// beside the copy change it.
    pub(super) fn top(&self, expected: Option<&Meta>) -> Difference {
        let Base::Folder(base) = &self.base else { return None };
        match rustix::fs::fstat(base) {
            Ok(stat) => {
                let expected = expected.map(|meta| Meta { mtime_ns: meta_of(&stat).mtime_ns, ..*meta });
                self.meta(&stat, expected.as_ref(), true)
            }
            Err(e) => unreadable(std::io::Error::from(e)),
        }
    }

    /// How the metadata differs. `has_mode` is false for symbolic links, which have no permissions
    /// of their own. Owners and set-id bits are compared as root only, because no other user could
    /// have set them.
    fn meta(&self, stat: &Stat, expected: Option<&Meta>, has_mode: bool) -> Difference {
        let expected = expected.filter(|_| self.metadata)?;
        let found = meta_of(stat);
        let bits = if self.is_root { 0o7777 } else { 0o1777 };
        if has_mode && found.mode & bits != expected.mode & bits {
            return Some(format!("its mode is {:04o}, not {:04o}", found.mode & bits, expected.mode & bits));
        }
        // A device does not tell when its content changed.
        if !self.base.is_device() && !is_kept_time(found.mtime_ns, expected.mtime_ns) {
            return Some(format!(
                "its time is {}, not {}",
                local_date(found.mtime_ns),
                local_date(expected.mtime_ns)
            ));
        }
        if self.is_root && (found.uid, found.gid) != (expected.uid, expected.gid) {
            return Some(format!(
                "its owner is {}:{}, not {}:{}",
                found.uid, found.gid, expected.uid, expected.gid
            ));
        }
        None
    }
}

fn finding(entry: &Entry, outcome: std::result::Result<Difference, Errno>) -> Option<Finding> {
    match outcome {
        Ok(difference) => entry.finding(difference),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Some(Finding::Missing(entry.path())),
        Err(e) => entry.finding(unreadable(std::io::Error::from(e))),
    }
}

/// Reports entries of the folder that the index does not have; returns their number.
pub(super) fn report_extra(
    options: &CheckOptions,
    report: &mut impl FnMut(&Finding) -> Result<()>,
) -> Result<u64> {
    let known = PathTable::create(&options.scratch)?;
    let index = IndexReader::open(&options.database)?;
    index.files(|file| known.add(&file.path, "f").map(|_| ControlFlow::Continue(())))?;
    index.nodes(|node| known.add(&node.path, node.kind.letter()).map(|_| ControlFlow::Continue(())))?;
    let (mut count, mut outcome) = (0, Ok(()));
    let is_original = !index.is_ours();
    Walk::new(&Base::open(&options.base)?, &options.base, Filter::default(), &[&options.database])?.run(
        |found| {
            let path = match found {
                // An index of the original program has no directories, so they are not extra.
                Ok(found) if is_original && found.is_dir() => return true,
                Ok(found) => match known.kind_of(found.path.as_bytes()) {
                    Ok(Some(_)) => return true,
                    Ok(None) => found.path.to_string(),
                    Err(e) => {
                        outcome = Err(e);
                        return false;
                    }
                },
                // An index cannot name the entry, or the entry has no content to copy.
                Err(skipped) => printable(&skipped.path),
            };
            count += 1;
            outcome = report(&Finding::Extra(path));
            outcome.is_ok()
        },
    )?;
    outcome.map(|()| count)
}
