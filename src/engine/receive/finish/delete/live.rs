//! Deletion candidates whose names lead to live entries: the file system may take names that are
//! spelled in different ways for one.

use crate::archive::path::EntryPath;
use crate::error::Result;
use crate::folder::{Folder, is_kind};
use crate::sink::NameKey;
use crate::sink::disk::{DiskSink, FolderCache};
use rustix::fs::{FileType, Stat};
use std::collections::HashMap;

/// The live entries that some candidates may lead to.
pub(super) struct Live {
    /// The inodes of the candidates, ascending.
    inodes: Vec<u64>,
    /// Which of these were free already: several candidates may lead to one entry, which goes once.
    gone: Vec<bool>,
    /// What leads to one of them and is to stay, by inode; the folder is 0 for what must not go
    /// under any name.
    keys: Vec<NameKey>,
    /// The folder of which the list was read last, and how many names it has for each inode in
    /// `keys`.
    listed: Option<Listed>,
}

/// A folder, and its names by inode.
type Listed = (Box<[u8]>, HashMap<u64, usize>);

impl Live {
    pub(super) fn new(mut inodes: Vec<u64>) -> Self {
        inodes.sort_unstable();
        inodes.dedup();
        let gone = vec![false; inodes.len()];
        Self { inodes, gone, keys: Vec::new(), listed: None }
    }

    /// Adds what is to stay.
    pub(super) fn add(
        &mut self,
        sink: &DiskSink,
        path: &EntryPath,
        stat: &Stat,
        folder: &Folder,
    ) -> Result<()> {
        if self.inodes.binary_search(&stat.st_ino).is_ok() {
            let key = sink.name_key(path, stat, folder)?;
            // A folder has one name only, however it is spelled.
            let is_folder = is_kind(stat, FileType::Directory);
            self.keys.push(if is_folder { NameKey { folder: 0, ..key } } else { key });
        }
        Ok(())
    }

    /// Everything was added.
    pub(super) fn seal(&mut self) {
        self.keys.sort_unstable();
    }

    /// Whether `path` leads to nothing that is to stay. If so, it counts as gone. Another name of a
    /// live file may go, but not another spelling of its name.
    pub(super) fn is_free(&mut self, sink: &DiskSink, path: &EntryPath, stat: &Stat) -> Result<bool> {
        // An entry that came later is not among the inodes, so it may be live.
        let Ok(place) = self.inodes.binary_search(&stat.st_ino) else { return Ok(false) };
        let has_one_name = stat.st_nlink == 1 || is_kind(stat, FileType::Directory);
        if has_one_name && self.gone[place] {
            return Ok(false);
        }
        let free = self.leads_nowhere(sink, path, stat)?;
        self.gone[place] |= free;
        match &mut self.listed {
            Some((folder, counts)) if free && **folder == *path.split().0 => {
                counts.entry(stat.st_ino).and_modify(|count| *count = count.saturating_sub(1));
            }
            _ if !free => {
                tracing::info!("\"{path}\" leads to what is to stay under another name, and stays");
            }
            _ => {}
        }
        Ok(free)
    }

    fn leads_nowhere(&mut self, sink: &DiskSink, path: &EntryPath, stat: &Stat) -> Result<bool> {
        let of = |keys: &[NameKey], ino: u64| {
            let start = keys.partition_point(|key| key.ino < ino);
            start..start + keys[start..].partition_point(|key| key.ino == ino)
        };
        let same = &self.keys[of(&self.keys, stat.st_ino)];
        if same.is_empty() {
            return Ok(true);
        }
        let Some((stat, folder)) = sink.stat_in(path, &mut FolderCache::default()) else { return Ok(false) };
        let key = sink.name_key(path, &stat, &folder)?;
        if same.iter().any(|live| live.folder == 0) {
            return Ok(false);
        }
        if !same.iter().any(|live| live.may_be(&key)) {
            return Ok(true);
        }
        let beside = same.iter().filter(|live| live.folder == key.folder).count();
        let parent = path.split().0;
        let counts = match self.listed.take() {
            Some((folder, counts)) if *folder == *parent => counts,
            _ => sink.names_by_inode(path, |ino| !of(&self.keys, ino).is_empty())?,
        };
        let names = counts.get(&key.ino).copied().unwrap_or(0);
        self.listed = Some((parent.into(), counts));
        Ok(names > beside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with files in it, and what is known of them.
    struct Setting {
        folder: tempfile::TempDir,
        sink: DiskSink,
    }

    impl Setting {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let sink = DiskSink::open(folder.path()).unwrap();
            Self { folder, sink }
        }

        fn file(&self, name: &str) {
            std::fs::write(self.folder.path().join(name), name).unwrap();
        }

        fn stat(&self, name: &str) -> (EntryPath, Stat) {
            let path = EntryPath::new(name.as_bytes()).unwrap();
            let stat = self.sink.stat(&path, &mut FolderCache::default()).unwrap().unwrap();
            (path, stat)
        }

        fn live(&self, candidates: &[&str], stays: &[&str]) -> Live {
            let mut live = Live::new(candidates.iter().map(|name| self.stat(name).1.st_ino).collect());
            for name in stays {
                let path = EntryPath::new(name.as_bytes()).unwrap();
                let (stat, folder) = self.sink.stat_in(&path, &mut FolderCache::default()).unwrap();
                live.add(&self.sink, &path, &stat, &folder).unwrap();
            }
            live.seal();
            live
        }

        fn is_free(&self, live: &mut Live, name: &str) -> bool {
            let (path, stat) = self.stat(name);
            live.is_free(&self.sink, &path, &stat).unwrap()
        }
    }

    #[test]
    fn hard_links_go_as_long_as_the_live_name_is_beside_them() {
        let setting = Setting::new();
        setting.file("live");
        // Each of them may be another spelling of any name.
        for name in ["\u{e9}1", "\u{e9}2"] {
            std::fs::hard_link(setting.folder.path().join("live"), setting.folder.path().join(name)).unwrap();
        }
        let mut live = setting.live(&["\u{e9}1", "\u{e9}2"], &["live"]);
        assert!(setting.is_free(&mut live, "\u{e9}1") && setting.is_free(&mut live, "\u{e9}2"));
        // Both count as gone: what is left is the name that stays.
        assert!(!setting.is_free(&mut live, "\u{e9}1"));
    }

    #[test]
    fn one_entry_goes_once_and_what_came_later_stays() {
        let setting = Setting::new();
        std::fs::create_dir(setting.folder.path().join("d")).unwrap();
        ["a", "b", "d/c"].iter().for_each(|name| setting.file(name));
        let mut live = setting.live(&["a", "d", "d/c"], &[]);
        for name in ["a", "d/c", "d"] {
            assert!(setting.is_free(&mut live, name), "{name}");
            assert!(!setting.is_free(&mut live, name), "{name} a second time");
        }
        assert!(!setting.is_free(&mut live, "b"));
        let mut live = setting.live(&["a", "d"], &["a", "d"]);
        assert!(!setting.is_free(&mut live, "a") && !setting.is_free(&mut live, "d"));
    }
}
