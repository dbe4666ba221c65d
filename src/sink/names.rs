//! Names that are one: some file systems do not tell upper from lower case, or one way to write an
//! accent from another (ext4 with casefold, CIFS, many by FUSE). There, two paths of an index lead
//! to one entry.

use super::disk::{DiskSink, FolderCache};
use super::folding::says_whether_it_folds;
use crate::archive::path::EntryPath;
use crate::error::{Error, Result};
use crate::folder::Folder;
use rustix::fs::Stat;
use rustix::io::Errno;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An entry of a folder, with what is needed to tell whether another name leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameKey {
    /// The inode that the name leads to.
    pub ino: u64,
    /// The inode of the folder.
    pub folder: u64,
    /// Equal for names that may be one; 0 for a name that may be one with any other.
    pub spelling: u64,
}

impl NameKey {
    /// Whether `other` may be the same entry under another name, or the same.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        (self.ino, self.folder) == (other.ino, other.folder)
            && (self.spelling == other.spelling || self.spelling == 0 || other.spelling == 0)
    }
}

fn spelling(name: &[u8]) -> u64 {
    // Beyond ASCII every file system has rules of its own, and `~` is in the short names of some.
    if !name.is_ascii() || name.contains(&b'~') {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    name.to_ascii_lowercase().hash(&mut hasher);
    hasher.finish().max(1)
}

impl DiskSink {
    /// Whether the file system takes names for one that are spelled in different ways, in any
    /// folder that was opened so far.
    #[must_use]
    pub fn folds_names(&self) -> bool {
        self.folds.load(Ordering::Relaxed)
    }

    /// Whether names in the folder `path` are such, where they are not everywhere: ext4 and others
    /// say that of a folder.
    #[must_use]
    pub fn folds_names_in(&self, path: &[u8]) -> bool {
        self.enter(path).is_ok_and(|folder| says_whether_it_folds(&folder) == Some(true))
    }

    /// What has the final name `path`, and the folder that it is in; `None` if there is nothing, or
    /// it cannot be looked at.
    pub fn stat_in(&self, path: &EntryPath, cache: &mut FolderCache) -> Option<(Stat, Arc<Folder>)> {
        let folder = self.existing_folder_of(path, cache).ok()??;
        let stat = folder.stat(path.split().1).ok()??;
        Some((stat, folder))
    }

    /// Which entry `path` is, of which `stat` and `folder` are known.
    ///
    /// # Errors
    /// The system's error.
    pub fn name_key(&self, path: &EntryPath, stat: &Stat, folder: &Folder) -> Result<NameKey> {
        let there = rustix::fs::fstat(folder)
            .map_err(|e| Error::io(format!("cannot look at the folder of \"{path}\""), e))?;
        Ok(NameKey { ino: stat.st_ino, folder: there.st_ino, spelling: spelling(path.split().1) })
    }

    /// The names in the folder `path`.
    ///
    /// # Errors
    /// The system's error.
    pub fn names_in(&self, path: &EntryPath) -> Result<Vec<Vec<u8>>> {
        let names = self.enter(path.as_bytes()).and_then(|folder| folder.names());
        names.map_err(|e| Error::io(format!("cannot list the folder \"{path}\""), e))
    }

    /// How many names in the folder of `path` lead to the inode `ino`, by its list: this tells two
    /// hard links from two spellings.
    ///
    /// # Errors
    /// The system's error.
    pub fn names_of(&self, path: &EntryPath, ino: u64) -> Result<usize> {
        Ok(self.names_by_inode(path, |found| found == ino)?.get(&ino).copied().unwrap_or(0))
    }

    /// The same for all inodes that are `wanted`, by one look at the list.
    ///
    /// # Errors
    /// The system's error.
    pub fn names_by_inode(
        &self,
        path: &EntryPath,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<HashMap<u64, usize>> {
        let count = || -> std::result::Result<HashMap<u64, usize>, Errno> {
            let folder = self.enter(path.split().0)?;
            let mut counts = HashMap::new();
            for entry in rustix::fs::Dir::read_from(&folder)? {
                let entry = entry?;
                if wanted(entry.ino()) && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    *counts.entry(entry.ino()).or_default() += 1;
                }
            }
            Ok(counts)
        };
        count().map_err(|e| Error::io(format!("cannot list the folder of \"{path}\""), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, folder: u64) -> NameKey {
        NameKey { ino: 1, folder, spelling: spelling(name.as_bytes()) }
    }

    #[test]
    fn names_that_may_be_one() {
        for (a, b, one) in [
            ("name", "NAME", true),
            ("name", "name", true),
            ("name", "nam", false),
            ("caf\u{e9}", "cafe\u{301}", true),
            ("stra\u{df}e", "STRASSE", true),
            ("progra~1", "program files", true),
        ] {
            assert_eq!(key(a, 7).may_be(&key(b, 7)), one, "{a} {b}");
            assert!(!key(a, 7).may_be(&key(b, 8)), "{a} {b} in other folders");
        }
    }

    #[test]
    fn hard_links_are_counted_by_the_list() {
        let base = tempfile::tempdir().unwrap();
        let sink = DiskSink::open(base.path()).unwrap();
        std::fs::write(base.path().join("a"), "").unwrap();
        std::fs::hard_link(base.path().join("a"), base.path().join("A")).unwrap();
        let path = EntryPath::new(&b"a"[..]).unwrap();
        let (stat, folder) = sink.stat_in(&path, &mut FolderCache::default()).unwrap();
        let key = sink.name_key(&path, &stat, &folder).unwrap();
        assert_eq!(sink.names_of(&path, key.ino).unwrap(), 2);
    }
}
