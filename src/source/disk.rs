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

/// A file that changes while it is read is read so many times in all.
const MAX_ATTEMPTS: usize = 3;

/// The attributes that must not change while a file is read.
fn identity(stat: &Stat) -> (u64, u64, i64, i64, i64) {
    (stat.st_dev, stat.st_ino, stat.st_size, mtime_ns(stat), ctime_ns(stat))
}

/// Calls `read` until the attributes before and after it show one file that at most grew; gives
/// those before.
///
/// A file system sets the time of a file that is appended to before it sets the size. Between the
/// two, growth looks like another change, which only a further read tells apart.
fn read_steadily(
    mut stat: impl FnMut() -> std::result::Result<Stat, String>,
    mut read: impl FnMut(&Stat) -> std::result::Result<(), String>,
) -> std::result::Result<Stat, String> {
    for _ in 0..MAX_ATTEMPTS {
        let before = stat()?;
        read(&before)?;
        let after = stat()?;
        let grew =
            after.st_size > before.st_size && (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino);
        if grew || identity(&before) == identity(&after) {
            return Ok(before);
        }
    }
    Err(format!("it changed each time it was read, {MAX_ATTEMPTS} times"))
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
        let before = read_steadily(stat, |before| {
            if !is_kind(before, FileType::RegularFile) {
                return Err("it is no regular file any more".to_string());
            }
            let size_bytes = u64::try_from(before.st_size).unwrap_or(0);
            // A file that has grown, as a log does while it is copied, is sent up to its indexed
            // size. The receiver verifies that part.
            if size_bytes < file.size {
                return Err(format!(
                    "it shrank from {} to {size_bytes} bytes after it was indexed",
                    file.size
                ));
            }
            opened.read_exact_at(buffer, file_offset).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => "it shrank while it was read".to_string(),
                _ => format!("it cannot be read: {e}"),
            })
        })?;
        // A new time alone does not make the file fail. If the buffer has all of it, its digest is
        // compared here; a larger file is verified by the receiver.
        let has_new_time = file.meta.is_some_and(|meta| meta.mtime_ns != mtime_ns(&before));
        if has_new_time && buffer.len() as u64 == file.size && !is_content_of(file, [&buffer[..]]) {
            return Err("its content changed after it was indexed".to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    /// How a file is read that `change` changes during each of the first `times` reads, and how often
    /// that was.
    fn read_while(times: usize, change: impl Fn(&File, usize)) -> (std::result::Result<i64, String>, usize) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let mut reads = 0;
        let outcome = read_steadily(
            || rustix::fs::fstat(&file).map_err(|e| e.to_string()),
            |_| {
                reads += 1;
                if reads <= times {
                    change(&file, reads);
                }
                Ok(())
            },
        );
        (outcome.map(|stat| stat.st_size), reads)
    }

    fn touch(file: &File, reads: usize) {
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(reads as u64)).unwrap();
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_again() {
        assert_eq!(read_while(0, touch), (Ok(100), 1));
        assert_eq!(read_while(1, touch), (Ok(100), 2));
        assert_eq!(read_while(MAX_ATTEMPTS - 1, touch), (Ok(100), MAX_ATTEMPTS));
        let (outcome, reads) = read_while(MAX_ATTEMPTS, touch);
        assert!(outcome.unwrap_err().contains("it changed each time"));
        assert_eq!(reads, MAX_ATTEMPTS);
    }

    /// An append that shows its time first, and its size only when the file is read again.
    #[test]
    fn an_append_that_shows_its_time_first_is_growth() {
        let append = |file: &File, reads: usize| {
            touch(file, reads);
            if reads == 2 {
                file.set_len(300).unwrap();
            }
        };
        assert_eq!(read_while(2, append), (Ok(100), 2));
        // Growth alone is no reason for another read.
        assert_eq!(read_while(1, |file, _| file.set_len(300).unwrap()), (Ok(100), 1));
    }
}
