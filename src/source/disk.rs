//! A folder, file or device on this host as a source.

use super::base::Base;
use super::read::Source;
use crate::archive::entry::FileEntry;
use crate::archive::verify::is_content_of;
use crate::error::Result;
use crate::folder::{ctime_ns, is_kind, mtime_ns};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Reads the files of a base.
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

/// The attributes that must not change while a file is read.
fn identity(stat: &Stat) -> (u64, u64, i64, i64, i64) {
    (stat.st_dev, stat.st_ino, stat.st_size, mtime_ns(stat), ctime_ns(stat))
}

impl Source for DiskSource {
    fn read(&self, file: &FileEntry, file_offset: u64, buffer: &mut [u8]) -> std::result::Result<(), String> {
        let opened = match self.base.open_file(&file.path) {
            // A row without metadata comes from the original program, which follows links to files.
            Err(Errno::LOOP) if file.meta.is_none() => self.base.open_linked(&file.path),
            other => other,
        };
        let opened = opened.map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => "it is gone".to_string(),
            Errno::LOOP => "it, or a folder above it, became a symbolic link".to_string(),
            e => format!("it cannot be opened: {}", std::io::Error::from(e)),
        })?;
        let stat = || self.base.stat(&opened).map_err(|e| format!("stat failed: {e}"));
        let before = stat()?;
        if !is_kind(&before, FileType::RegularFile) {
            return Err("it is no regular file any more".to_string());
        }
        let size_bytes = u64::try_from(before.st_size).unwrap_or(0);
        // A file that has grown, as a log does while it is copied, is sent up to its indexed size.
        // The receiver verifies that part.
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
        // A new time alone does not make the file fail. If the buffer has all of it, its digest is
        // compared here; a larger file is verified by the receiver.
        let has_new_time = file.meta.is_some_and(|meta| meta.mtime_ns != mtime_ns(&before));
        if has_new_time && buffer.len() as u64 == file.size && !is_content_of(file, buffer) {
            return Err("its content changed after it was indexed".to_string());
        }
        Ok(())
    }
}
