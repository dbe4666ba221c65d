//! Folders that are held open while many files of them are placed.

use crate::folder::Folder;
use std::sync::Arc;

/// The folders that were used last, held open: the files of one block mostly share a few. Callers
/// drop it soon, since a folder may be moved away.
#[derive(Default)]
pub struct FolderCache {
    entries: Vec<(Box<[u8]>, Arc<Folder>)>,
}

const CACHED_FOLDERS: usize = 32;

impl FolderCache {
    pub(super) fn find(&self, path: &[u8]) -> Option<Arc<Folder>> {
        let found = self.entries.iter().rev().find(|(cached, _)| **cached == *path);
        found.map(|(_, folder)| folder.clone())
    }

    pub(super) fn insert(&mut self, path: &[u8], folder: &Arc<Folder>) {
        if self.entries.len() >= CACHED_FOLDERS {
            self.entries.remove(0);
        }
        self.entries.push((path.into(), folder.clone()));
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}
