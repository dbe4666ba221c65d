//! A folder, file or device on this host as a source.

use super::Source;
use super::base::Base;
use crate::archive::digest::proves;
use crate::archive::entry::FileEntry;
use crate::error::Result;
use crate::folder::{ctime_ns, is_kind, mtime_ns};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A base whose files are read.
pub struct DiskSource {
    base: Base,
}

impl DiskSource {
    /// Opens `base`.
    ///
    /// # Errors
    /// It is no folder, file or block device, or not readable.
    pub fn open(base: &Path) -> Result<Self> {
        Ok(Self { base: Base::open(base)? })
    }
}

/// What must not change while a file is read.
fn identity(stat: &Stat) -> (u64, u64, i64, i64, i64) {
    (stat.st_dev, stat.st_ino, stat.st_size, mtime_ns(stat), ctime_ns(stat))
}

impl Source for DiskSource {
    fn read(&self, file: &FileEntry, file_offset: u64, buffer: &mut [u8]) -> std::result::Result<(), String> {
        let opened = self.base.open_file(&file.path).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => "it is gone".to_string(),
            Errno::LOOP => "it, or a folder above it, became a symbolic link".to_string(),
            e => format!("it cannot be opened: {}", std::io::Error::from(e)),
        })?;
        let stat = || self.base.look(&opened).map_err(|e| format!("it cannot be looked at: {e}"));
        let before = stat()?;
        if !is_kind(&before, FileType::RegularFile) {
            return Err("it is no regular file any more".to_string());
        }
        let size_bytes = u64::try_from(before.st_size).unwrap_or(0);
        // One that has grown is sent up to the size that was indexed: a log is written to while it is copied. Whoever receives it
        // proves that this part is what it was.
        if size_bytes < file.size {
            return Err(format!("it shrank from {} to {size_bytes} bytes after it was indexed", file.size));
        }
        opened.read_exact_at(buffer, file_offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => "it shrank while it was read".to_string(),
            _ => format!("it cannot be read: {e}"),
        })?;
        let after = stat()?;
        let grew =
            after.st_size > before.st_size && (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino);
        if !grew && identity(&before) != identity(&after) {
            return Err("it changed while it was read".to_string());
        }
        // A new time alone is no reason to refuse the file: a whole one is compared here, and of a larger one the receiver
        // proves the whole.
        let touched = file.meta.is_some_and(|meta| meta.mtime_ns != mtime_ns(&before));
        if touched && buffer.len() as u64 == file.size && !proves(file, buffer) {
            return Err("its content changed after it was indexed".to_string());
        }
        Ok(())
    }
}
