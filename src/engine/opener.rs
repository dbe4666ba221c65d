//! Opening many files below one base.

use crate::archive::path::EntryPath;
use crate::folder::Folder;
use crate::source::base::Base;
use rustix::io::Errno;
use std::fs::File;

/// Opens files; the folder of the last one stays open, since most files share it with the next.
pub(super) struct Opener<'a> {
    base: &'a Base,
    last: Option<(Vec<u8>, Folder)>,
}

impl<'a> Opener<'a> {
    pub(super) fn new(base: &'a Base) -> Self {
        Self { base, last: None }
    }

    /// Opens the regular file `path` for reading; see [`Folder::open_file`].
    pub(super) fn open(&mut self, path: &EntryPath) -> Result<File, Errno> {
        let (parent, name) = path.split();
        let Base::Folder(base) = self.base else { return self.base.open_file(path) };
        if parent.is_empty() {
            return base.open_file(name);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != parent) {
            self.last = Some((parent.to_vec(), base.open_folder(parent)?));
        }
        match &self.last {
            Some((_, folder)) => folder.open_file(name),
            None => base.open_file(path.as_bytes()),
        }
    }
}
