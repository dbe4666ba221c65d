//! One huge file or block device as a source of blocks: its size, its holes, and reading from any place by any thread.

use crate::archive::blockcopy::head::Identity;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{is_kind, mtime_ns};
use rustix::fs::{Advice, FileType, SeekFrom, fadvise, fstat, seek};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file or device that is read.
pub struct Device {
    file: File,
    name: String,
    identity: Identity,
    /// Whether it may have holes that are worth looking for.
    sparse: bool,
}

/// A part of a file that is all of one sort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// It has to be read.
    Data(Range<u64>),
    /// It is zeros, and takes no room on the disk.
    Hole(Range<u64>),
}

/// Opens `path` if it is a pipe, or another name of standard input that is a pipe or socket.
///
/// # Errors
/// It cannot be opened.
pub fn open_pipe(path: &Path) -> Result<Option<File>> {
    let failed = |e: std::io::Error| Error::io(format!("cannot open {}", path.display()), e);
    let Ok(stat) = rustix::fs::stat(path) else { return Ok(None) };
    let is_fifo = is_kind(&stat, FileType::Fifo);
    if !is_fifo && !is_kind(&stat, FileType::Socket) {
        return Ok(None);
    }
    let stdin = std::io::stdin();
    // A socket cannot be opened by a name.
    if fstat(&stdin).is_ok_and(|input| (input.st_dev, input.st_ino) == (stat.st_dev, stat.st_ino)) {
        return stdin.as_fd().try_clone_to_owned().map(|fd| Some(fd.into())).map_err(failed);
    }
    if is_fifo { File::open(path).map(Some).map_err(failed) } else { Ok(None) }
}

impl Device {
    /// Opens the file or block device at `path`.
    ///
    /// # Errors
    /// It is missing, may not be read, or is something else.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        // A FIFO would wait for its other end before it can be seen what it is.
        let stat = rustix::fs::stat(path).map_err(|e| Error::io(format!("cannot open {name}"), e))?;
        if !is_kind(&stat, FileType::RegularFile) && !is_kind(&stat, FileType::BlockDevice) {
            return Err(Error::new(ErrorKind::Usage, format!("{name} is no file and no block device"))
                .hint("checksum reads from a pipe by the name - (standard input)"));
        }
        let file = File::open(path).map_err(|e| Error::io(format!("cannot open {name}"), e))?;
        Self::of(file, name)
    }

    /// The same of a file that is open.
    ///
    /// # Errors
    /// It cannot be asked for its size.
    pub fn of(file: File, name: String) -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::io(format!("cannot find the size of {name}"), e);
        let stat = fstat(&file).map_err(failed)?;
        let is_device = is_kind(&stat, FileType::BlockDevice);
        // A device says 0 to stat; its end is where seeking leads.
        let size = seek(&file, SeekFrom::End(0)).map_err(failed)?;
        let identity = Identity {
            is_device,
            size,
            device: if is_device { stat.st_rdev } else { stat.st_dev },
            inode: if is_device { 0 } else { stat.st_ino },
            modified_ns: if is_device { 0 } else { mtime_ns(&stat) },
        };
        // Asking costs a system call for every extent: only where there is less on the disk than the size says.
        let sparse = !is_device && u64::try_from(stat.st_blocks).unwrap_or(0) < size / 512;
        // Larger reads ahead; whoever cannot be told does without.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { file, name, identity, sparse })
    }

    /// What tells it from another one.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Its size when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is still as long as when it was opened; a device always is.
    fn is_whole(&self) -> bool {
        self.identity.is_device
            || fstat(&self.file)
                .is_ok_and(|stat| u64::try_from(stat.st_size).is_ok_and(|size| size >= self.identity.size))
    }

    /// Says whether it is still as long as when it was opened: of a hole, nothing was read that would have told.
    ///
    /// # Errors
    /// It is shorter.
    pub fn check_size(&self) -> Result<()> {
        if self.is_whole() { Ok(()) } else { Err(self.shorter("its end is nearer now")) }
    }

    fn shorter(&self, how: &str) -> Error {
        Error::new(ErrorKind::Source, format!("{} became shorter while it was read: {how}", self.name))
            .hint("copy a snapshot, or run this again when nobody changes it")
    }

    /// Fills `buffer` with what is at `position`.
    ///
    /// # Errors
    /// It cannot be read, or has become shorter.
    pub fn read(&self, position: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, position).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.shorter(&format!("nothing at {position}")),
            _ => Error::io(format!("cannot read {} at {position}", self.name), e)
                .hint("the medium may be damaged: its blocks before this one were read"),
        })
    }

    /// What is at the beginning of `range`, which is not empty, as far as it goes in there.
    #[must_use]
    pub fn extent(&self, range: Range<u64>) -> Extent {
        if !self.sparse {
            return Extent::Data(range);
        }
        let (start, end) = (range.start, range.end);
        match seek(&self.file, SeekFrom::Data(start)) {
            Ok(data) if data > start => Extent::Hole(start..data.min(end)),
            Ok(_) => match seek(&self.file, SeekFrom::Hole(start)) {
                Ok(hole) if hole > start => Extent::Data(start..hole.min(end)),
                _ => Extent::Data(range),
            },
            // No data any more. It says so behind its end, too, which may have come nearer: reading tells that then.
            Err(rustix::io::Errno::NXIO) if end <= self.identity.size && self.is_whole() => {
                Extent::Hole(range)
            }
            Err(_) => Extent::Data(range),
        }
    }

    /// Lets go of what is in memory of it, so that the next read comes from the medium.
    pub fn forget(&self) {
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn holes_are_seen_and_sizes_found() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.seek(std::io::SeekFrom::Start(4 << 20)).unwrap();
        file.write_all(&[1; 1 << 20]).unwrap();
        let device = Device::of(file, "x".into()).unwrap();
        assert_eq!(device.size(), 10 << 20);
        assert_eq!(device.extent(0..10 << 20), Extent::Hole(0..4 << 20));
        assert_eq!(device.extent(4 << 20..10 << 20), Extent::Data(4 << 20..5 << 20));
        assert_eq!(device.extent(5 << 20..10 << 20), Extent::Hole(5 << 20..10 << 20));
        assert_eq!(device.extent(5 << 20..6 << 20), Extent::Hole(5 << 20..6 << 20));
        assert!(device.read((10 << 20) - 1, &mut [0; 2]).unwrap_err().to_string().contains("became shorter"));
    }

    #[test]
    fn what_became_shorter_is_no_hole() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        let device = Device::of(file.try_clone().unwrap(), "x".into()).unwrap();
        assert_eq!(device.extent(2 << 20..10 << 20), Extent::Hole(2 << 20..10 << 20));
        device.check_size().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(device.extent(2 << 20..10 << 20), Extent::Data(2 << 20..10 << 20));
        assert!(device.check_size().unwrap_err().to_string().contains("became shorter"));
    }

    #[test]
    fn what_is_neither_file_nor_device_is_refused() {
        for path in ["/", "/dev/null"] {
            assert_eq!(Device::open(Path::new(path)).err().unwrap().kind(), ErrorKind::Usage);
        }
    }
}
