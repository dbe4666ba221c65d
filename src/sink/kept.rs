//! What a generation replaces or takes away, under one more name: `.tar-like/kept/<archive>.<generation>/<file id>`.

use super::Expected;
use super::disk::{DiskSink, FolderCache, Staging};
use crate::archive::entry::FileEntry;
use crate::error::{Error, Result};
use crate::folder::{Folder, is_kind};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

const FOLDER: &str = "kept";

/// What one generation has replaced or taken away.
pub struct Kept {
    folder: Folder,
}

impl DiskSink {
    /// The folder `name` of what is kept, made if missing.
    ///
    /// # Errors
    /// The system's error.
    pub fn kept(&self, name: &str) -> Result<Kept> {
        let open = || self.state.make_folder(FOLDER, 0o700)?.make_folder(name, 0o700);
        let folder = open().map_err(|e| Error::io(format!("cannot make the folder {FOLDER}/{name}"), e))?;
        Ok(Kept { folder })
    }

    /// The names of all folders of what is kept.
    ///
    /// # Errors
    /// The system's error.
    pub fn kept_names(&self) -> Result<Vec<String>> {
        let path = self.state_path().join(FOLDER);
        let list = || -> std::io::Result<Vec<String>> {
            let entries = match std::fs::read_dir(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        list().map_err(|e| Error::io(format!("cannot look at {}", path.display()), e))
    }

    /// Removes the folder `name` of what is kept, if it is there.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove_kept(&self, name: &str) -> Result<()> {
        let path = self.state_path().join(FOLDER).join(name);
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// Gives a published file its name in `kept`, too; false if something else, or nothing, has its final name.
    ///
    /// # Errors
    /// The system's error.
    pub fn keep(&self, kept: &Kept, file: &FileEntry, cache: &mut FolderCache) -> Result<bool> {
        let expected = Expected::of(file);
        let (name, own) = (file.path.split().1, Staging::name(file.id));
        let mut link = || -> std::result::Result<bool, Errno> {
            let Some(folder) = self.existing_folder_of(&file.path, cache)? else { return Ok(false) };
            if !folder.stat(name)?.is_some_and(|stat| expected.is(&stat)) {
                return Ok(false);
            }
            match rustix::fs::linkat(&*folder, name, &kept.folder, &*own, AtFlags::empty()) {
                Err(Errno::NOENT) => return Ok(false),
                other => other?,
            }
            // Somebody may have put something else there since it was looked at.
            if kept.folder.stat(own.as_bytes())?.is_some_and(|stat| expected.is(&stat)) {
                return Ok(true);
            }
            rustix::fs::unlinkat(&kept.folder, &*own, AtFlags::empty())?;
            Ok(false)
        };
        link().map_err(|e| {
            Error::io(format!("cannot keep \"{}\"", file.path), e)
                .hint("its file system or its owner allows no further name of a file; leave out --keep")
        })
    }
}

impl Kept {
    /// Whether the file with this id is here, with this size.
    ///
    /// # Errors
    /// The system's error.
    pub fn has(&self, file: &FileEntry) -> Result<bool> {
        let stat = self.folder.stat(Staging::name(file.id).as_bytes());
        let stat =
            stat.map_err(|e| Error::io(format!("cannot look for what is kept of \"{}\"", file.path), e))?;
        let is = |stat| is_kind(stat, FileType::RegularFile) && u64::try_from(stat.st_size) == Ok(file.size);
        Ok(stat.as_ref().is_some_and(is))
    }
}

impl Staging {
    /// Stages a file that is kept, whole, in place of whatever is staged of it.
    ///
    /// # Errors
    /// The system's error.
    pub fn take_kept(&self, kept: &Kept, id: u64) -> Result<()> {
        let name = Self::name(id);
        self.remove(id);
        rustix::fs::linkat(&kept.folder, &*name, &self.folder, &*name, AtFlags::empty())
            .map_err(|e| Error::io(format!("cannot stage the file {id} that is kept"), e))
    }
}
