//! Opening many files beneath one folder.

use crate::archive::path::EntryPath;
use crate::folder::Folder;
use rustix::io::Errno;
use std::fs::File;

/// Keeps the folder of the last file open, since most files share it with the next.
pub(super) struct Opener<'a> {
    base: &'a Folder,
    last: Option<(Vec<u8>, Folder)>,
}

impl<'a> Opener<'a> {
    pub(super) fn new(base: &'a Folder) -> Self {
        Self { base, last: None }
    }

    /// Opens the regular file `path` for reading; see [`Folder::open_file`].
    pub(super) fn open(&mut self, path: &EntryPath) -> Result<File, Errno> {
        let (parent, name) = path.split();
        if parent.is_empty() {
            return self.base.open_file(name);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            self.last = Some((parent.to_vec(), self.base.open_folder(parent)?));
        }
        match &self.last {
            Some((_, folder)) => folder.open_file(name),
            None => self.base.open_file(path.as_bytes()),
        }
    }
}
