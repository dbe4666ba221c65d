//! One huge file or block device that is written in place. The caller's backup makes that safe.

use crate::error::{Error, ErrorKind, Result};
use crate::folder::is_kind;
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, SeekFrom, fallocate, fstat, open, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file or device that is written.
pub struct Target {
    file: File,
    name: String,
    is_device: bool,
    size: u64,
    sparse: bool,
}

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

impl Target {
    /// Opens the file or block device at `path`, which has to exist; with `read_only` for reading
    /// alone. With `sparse`, zeros become holes.
    ///
    /// # Errors
    /// It is missing, may not be written, or is something else.
    pub fn open(path: &Path, read_only: bool, sparse: bool) -> Result<Self> {
        let name = path.display().to_string();
        let failed = |e: std::io::Error| {
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            let error = Error::io(format!("cannot open {name}"), e);
            if missing {
                error.with_hint(format!("to begin with an empty file: touch {name}"))
            } else {
                error
            }
        };
        let stat = rustix::fs::stat(path).map_err(|e| failed(e.into()))?;
        let is_device = is_kind(&stat, FileType::BlockDevice);
        if !is_device && !is_kind(&stat, FileType::RegularFile) {
            return Err(Error::new(ErrorKind::Usage, format!("{name} is no file and no block device")));
        }
        let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(failed)?;
        let size = seek(&file, SeekFrom::End(0))
            .map_err(|e| Error::io(format!("cannot find the size of {name}"), e))?;
        Ok(Self { file, name, is_device, size, sparse })
    }

    /// Whether the system uses this device, for instance by a mount.
    #[must_use]
    pub fn is_in_use(&self, path: &Path) -> bool {
        // On a block device, O_EXCL means just that.
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        self.is_device && open(path, flags, Mode::empty()).err() == Some(Errno::BUSY)
    }

    /// The same file or device for reading.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn reader(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(format!("cannot open {}", self.name), e))
    }

    /// Whether it is a block device, whose size cannot change.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.is_device
    }

    /// Its size now.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fails if `end` lies behind the end of a device. `what` says what needs the space, and what
    /// was done so far.
    ///
    /// # Errors
    /// It is a device that ends before.
    pub fn fits(&self, end: u64, what: impl FnOnce() -> String) -> Result<()> {
        if !self.is_device || end <= self.size {
            return Ok(());
        }
        let (name, size) = (&self.name, self.size);
        Err(Error::new(ErrorKind::Usage, format!("{name} has {size} bytes, and {}", what())).with_hint(
            "the destination must be at least as large as the source; checksum --end copies a part",
        ))
    }

    /// Writes `bytes` to `position`.
    ///
    /// # Errors
    /// That does not fit, the disk is full, or the medium failed.
    pub fn write(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        let end = position + bytes.len() as u64;
        self.fits(end, || format!("something is to be written up to {end}"))?;
        self.file.write_all_at(bytes, position).map_err(|e| self.failed("write to", position, e))?;
        self.size = self.size.max(end);
        Ok(())
    }

    /// Makes `length` bytes from `position` on zeros.
    ///
    /// # Errors
    /// As [`Target::write`].
    pub fn zero(&mut self, position: u64, length: u64) -> Result<()> {
        let end = position + length;
        self.fits(end, || format!("something is to be written up to {end}"))?;
        if length == 0 {
            return Ok(());
        }
        // Behind the end there is nothing to punch. The file only gets longer.
        let behind = self.sparse && position >= self.size;
        let flags = match self.sparse {
            true => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            false => FallocateFlags::ZERO_RANGE,
        };
        if !behind {
            match fallocate(&self.file, flags, position, length) {
                Ok(()) => {}
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => {
                    return Err(self.failed("write zeros to", position, e.into()));
                }
                // Not every file system and device supports it.
                Err(_) => {
                    let mut at = position;
                    while at < end {
                        let now = (end - at).min(ZEROS.len() as u64);
                        self.write(at, &ZEROS[..now as usize])?;
                        at += now;
                    }
                }
            }
        }
        // A byte at the end, since `set_len` would cut off what another process has written behind
        // it.
        if end > self.size { self.write(end - 1, &ZEROS[..1]) } else { Ok(()) }
    }

    /// Gives a file another size; a device keeps its own.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn resize(&mut self, size: u64) -> Result<()> {
        if self.is_device || size == self.size {
            return Ok(());
        }
        self.file.set_len(size).map_err(|e| self.failed("change the size of", size, e))?;
        self.size = size;
        Ok(())
    }

    /// Waits until everything written is on stable storage.
    ///
    /// # Errors
    /// The medium failed. What was written may be lost then, even if a second attempt succeeds.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| {
            Error::io(format!("cannot bring {} onto stable storage", self.name), e)
                .with_hint("copy it again, from checksum on")
        })
    }

    /// Whether no other process has truncated it.
    ///
    /// # Errors
    /// The system's error.
    pub fn is_whole(&self) -> Result<bool> {
        let stat = fstat(&self.file).map_err(|e| Error::io(format!("cannot look at {}", self.name), e))?;
        Ok(self.is_device || u64::try_from(stat.st_size).is_ok_and(|size| size >= self.size))
    }

    fn failed(&self, what: &str, position: u64, error: std::io::Error) -> Error {
        Error::io(format!("cannot {what} {} at {position}", self.name), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(content: &[u8], sparse: bool) -> (tempfile::NamedTempFile, Target) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let target = Target::open(file.path(), false, sparse).unwrap();
        (file, target)
    }

    #[test]
    fn zeros_inside_over_and_behind_the_end() {
        for sparse in [false, true] {
            for (position, length) in [(0, 10), (3, 4), (8, 20), (30, 5), (4000, 3_000_000)] {
                let (file, mut target) = target(&[7; 10_000], sparse);
                target.zero(position, length).unwrap();
                let mut wanted = vec![7; 10_000.max((position + length) as usize)];
                wanted.get_mut(10_000..).unwrap_or_default().fill(0);
                wanted[position as usize..(position + length) as usize].fill(0);
                assert!(std::fs::read(file.path()).unwrap() == wanted, "{sparse} {position} {length}");
                assert_eq!(target.size(), wanted.len() as u64);
            }
        }
    }

    #[test]
    fn a_part_does_not_cut_off_what_another_one_wrote_behind_it() {
        for sparse in [false, true] {
            let (file, mut first) = target(&[7; 10], sparse);
            let mut second = Target::open(file.path(), false, sparse).unwrap();
            second.write(2 << 20, &[9; 100]).unwrap();
            first.zero(1 << 20, 1 << 20).unwrap();
            first.zero(5, 10).unwrap();
            let content = std::fs::read(file.path()).unwrap();
            assert_eq!(content.len(), (2 << 20) + 100, "{sparse}");
            assert!(content[2 << 20..] == [9; 100] && is_zeros(&content[5..2 << 20]), "{sparse}");
        }
    }

    fn is_zeros(bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| byte == 0)
    }

    #[test]
    fn a_missing_destination_has_a_hint() {
        let error = Target::open(Path::new("/nowhere/x"), false, false).err().unwrap();
        assert!(error.hint().unwrap().contains("touch"));
    }
}
