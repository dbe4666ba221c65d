//! One huge file or block device as a source of blocks: its size, its holes, and reads at any
//! position by any thread.

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
    /// Whether it may have holes.
    sparse: bool,
}

/// A range of a file that is data or a hole as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SparseExtent {
    /// Its content has to be read.
    Data(Range<u64>),
    /// It is zeros, and has no blocks on the disk.
    Hole(Range<u64>),
}

/// Opens `path` if it is a pipe, or another name of a standard input that is a pipe or socket.
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
    // A socket cannot be opened by its name.
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
        // stat comes before open: opening a FIFO waits for its other end.
        let stat = rustix::fs::stat(path).map_err(|e| Error::io(format!("cannot open {name}"), e))?;
        if !is_kind(&stat, FileType::RegularFile) && !is_kind(&stat, FileType::BlockDevice) {
            return Err(Error::new(ErrorKind::Usage, format!("{name} is no file and no block device"))
                .with_hint("checksum reads from a pipe by the name - (standard input)"));
        }
        let file = File::open(path).map_err(|e| Error::io(format!("cannot open {name}"), e))?;
        Self::of(file, name)
    }

    /// Takes an open file; `name` is for messages.
    ///
    /// # Errors
    /// Its size cannot be found.
    pub fn of(file: File, name: String) -> Result<Self> {
        let failed = |e: rustix::io::Errno| Error::io(format!("cannot find the size of {name}"), e);
        let stat = fstat(&file).map_err(failed)?;
        let is_device = is_kind(&stat, FileType::BlockDevice);
        // stat gives a device size 0; its size is the position of its end.
        let size = seek(&file, SeekFrom::End(0)).map_err(failed)?;
        let identity = Identity {
            is_device,
            size,
            device: if is_device { stat.st_rdev } else { stat.st_dev },
            inode: if is_device { 0 } else { stat.st_ino },
            modified_ns: if is_device { 0 } else { mtime_ns(&stat) },
        };
        // Looking for holes costs a system call for every extent: only if the file has fewer blocks
        // than its size needs.
        let sparse = !is_device && u64::try_from(stat.st_blocks).unwrap_or(0) < size / 512;
        // Enlarges the read-ahead. It is a hint, so that its failure does not matter.
        let _ = fadvise(&file, 0, None, Advice::Sequential);
        Ok(Self { file, name, identity, sparse })
    }

    /// Distinguishes it from other files and devices.
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

    /// Whether it is still as long as when it was opened. A device keeps its size.
    fn has_full_size(&self) -> bool {
        self.identity.is_device
            || fstat(&self.file)
                .is_ok_and(|stat| u64::try_from(stat.st_size).is_ok_and(|size| size >= self.identity.size))
    }

    /// Checks that it is still as long as when it was opened. A hole is not read, so that no read
    /// would have failed.
    ///
    /// # Errors
    /// It is shorter.
    pub fn check_size(&self) -> Result<()> {
        if self.has_full_size() { Ok(()) } else { Err(self.became_shorter("its end is nearer now")) }
    }

    fn became_shorter(&self, how: &str) -> Error {
        Error::new(ErrorKind::Source, format!("{} became shorter while it was read: {how}", self.name))
            .with_hint("copy a snapshot, or run this again when nobody changes it")
    }

    /// Fills `buffer` with the content from `position` on.
    ///
    /// # Errors
    /// It cannot be read, or has become shorter.
    pub fn read(&self, position: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, position).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.became_shorter(&format!("nothing at {position}")),
            _ => Error::io(format!("cannot read {} at {position}", self.name), e)
                .with_hint("the medium may be damaged: its blocks before this one were read"),
        })
    }

    /// The extent at the start of `range`, which is not empty, up to the end of `range`.
    #[must_use]
    pub fn extent(&self, range: Range<u64>) -> SparseExtent {
        if !self.sparse {
            return SparseExtent::Data(range);
        }
        let (start, end) = (range.start, range.end);
        match seek(&self.file, SeekFrom::Data(start)) {
            Ok(data) if data > start => SparseExtent::Hole(start..data.min(end)),
            Ok(_) => match seek(&self.file, SeekFrom::Hole(start)) {
                Ok(hole) if hole > start => SparseExtent::Data(start..hole.min(end)),
                _ => SparseExtent::Data(range),
            },
            // No data up to the end of the file. The end may have come nearer, and the system
            // answers the same behind it: then the range is read, which fails.
            Err(rustix::io::Errno::NXIO) if end <= self.identity.size && self.has_full_size() => {
                SparseExtent::Hole(range)
            }
            Err(_) => SparseExtent::Data(range),
        }
    }

    /// Drops its cached pages, so that the next read comes from the medium.
    pub fn drop_cache(&self) {
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn finds_holes_and_size() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.seek(std::io::SeekFrom::Start(4 << 20)).unwrap();
        file.write_all(&[1; 1 << 20]).unwrap();
        let device = Device::of(file, "x".into()).unwrap();
        assert_eq!(device.size(), 10 << 20);
        assert_eq!(device.extent(0..10 << 20), SparseExtent::Hole(0..4 << 20));
        assert_eq!(device.extent(4 << 20..10 << 20), SparseExtent::Data(4 << 20..5 << 20));
        assert_eq!(device.extent(5 << 20..10 << 20), SparseExtent::Hole(5 << 20..10 << 20));
        assert_eq!(device.extent(5 << 20..6 << 20), SparseExtent::Hole(5 << 20..6 << 20));
        assert!(device.read((10 << 20) - 1, &mut [0; 2]).unwrap_err().to_string().contains("became shorter"));
    }

    #[test]
    fn a_range_behind_a_nearer_end_is_no_hole() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        let device = Device::of(file.try_clone().unwrap(), "x".into()).unwrap();
        assert_eq!(device.extent(2 << 20..10 << 20), SparseExtent::Hole(2 << 20..10 << 20));
        device.check_size().unwrap();
        file.set_len(1 << 20).unwrap();
        assert_eq!(device.extent(2 << 20..10 << 20), SparseExtent::Data(2 << 20..10 << 20));
        assert!(device.check_size().unwrap_err().to_string().contains("became shorter"));
    }

    #[test]
    fn refuses_a_path_that_is_neither_file_nor_device() {
        for path in ["/", "/dev/null"] {
            assert_eq!(Device::open(Path::new(path)).err().unwrap().kind(), ErrorKind::Usage);
        }
    }
}
