//! Filling a staged file with what is on this disk already.
//!
//! `copy_file_range` shares blocks where the file system can (XFS, btrfs, bcachefs, NFS 4.2) and
//! both offsets are aligned, and copies within the kernel elsewhere; so there is no need to ask for
//! a clone apart. Where it cannot, bytes are read and written.

use super::disk::Staging;
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Blocks that can be shared are aligned to this, in bytes; where they are larger, less is shared.
const ALIGNMENT: u64 = 4096;
const BUFFER_BYTES: usize = 1 << 20;
/// What one call of the system copies at most, in bytes.
const MAX_BYTES: u64 = 1 << 30;

impl Staging {
    /// Whether a copy takes no room, because it shares the blocks of what it is made of.
    #[must_use]
    pub fn shares_blocks(&self) -> bool {
        const NAMES: [&str; 2] = ["shared", "sharing"];
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |name: &str| rustix::fs::openat(&self.folder, name, flags, Mode::from_raw_mode(0o600));
        let shares = || -> std::io::Result<()> {
            let (source, target) = (File::from(open(NAMES[0])?), open(NAMES[1])?);
            source.write_all_at(&[1; ALIGNMENT as usize], 0)?;
            Ok(rustix::fs::ioctl_ficlone(&target, &source)?)
        };
        let outcome = shares();
        for name in NAMES {
            let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
        outcome.is_ok()
    }

    /// Makes the staged file `id` a clone of `source`, which shares its blocks, whatever was staged of
    /// it before; opened for reading. `None` where the file system cannot do that, or `source` does not
    /// have `length` bytes: nothing is staged then.
    #[must_use]
    pub fn clone_from(&self, id: u64, source: &File, length: u64) -> Option<File> {
        // Never written through: it may be linked elsewhere.
        self.remove(id);
        let clone = || -> std::io::Result<bool> {
            let target = File::from(self.open_for_writing(id)?);
            rustix::fs::ioctl_ficlone(&target, source)?;
            self.sync_one(&target)?;
            Ok(target.metadata()?.len() == length)
        };
        let is_cloned = clone().unwrap_or(false);
        let cloned = self.open(id).ok().flatten().filter(|_| is_cloned);
        if cloned.is_none() {
            self.remove(id);
        }
        cloned
    }

    /// Copies `length` bytes of `source` from `source_offset` on into the staged file `id`, to
    /// `target_offset`. Holes stay holes.
    ///
    /// # Errors
    /// [`ErrorKind::Source`]: the source cannot be read, or ends before. Others: the disk is full,
    /// or the system's error. Some bytes may have been copied then.
    pub fn copy_from(
        &self,
        id: u64,
        source: &File,
        source_offset: u64,
        length: u64,
        target_offset: u64,
    ) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let target = self
            .open_for_writing(id)
            .map(File::from)
            .map_err(|e| Error::io(format!("cannot open the staged file {id}"), e))?;
        let copy = Copy { source, target: &target, id };
        copy.run(source_offset, length, target_offset)?;
        self.sync_one(&target).map_err(|e| copy.unwritable(e))
    }
}

struct Copy<'a> {
    source: &'a File,
    target: &'a File,
    id: u64,
}

impl Copy<'_> {
    fn run(&self, source_offset: u64, length: u64, target_offset: u64) -> Result<()> {
        let end = source_offset + length;
        let to_target = |at: u64| target_offset + (at - source_offset);
        // What is known of holes may change while it is used, and is only a saving: so it is asked
        // for piece by piece.
        let metadata = self.source.metadata().map_err(|e| self.unreadable(e))?;
        if metadata.len() < end {
            return Err(self.short(metadata.len(), end));
        }
        // A file that takes as much room as it is long has none: to look for them takes as long as
        // the rest of the file is, on tmpfs at least, and a file that changed comes in thousands of
        // pieces.
        if metadata.blocks().saturating_mul(512) >= metadata.len() {
            return self.copy(source_offset, length, target_offset);
        }
        let mut at = source_offset;
        while at < end {
            let data = match rustix::fs::seek(self.source, SeekFrom::Data(at)) {
                Ok(data) => data.clamp(at, end),
                Err(Errno::NXIO) => end,
                Err(_) => at,
            };
            self.zero(to_target(at), data - at)?;
            at = data;
            if at < end {
                let hole = rustix::fs::seek(self.source, SeekFrom::Hole(at)).unwrap_or(end);
                let hole = if hole <= at { end } else { hole.min(end) };
                self.copy(at, hole - at, to_target(at))?;
                at = hole;
            }
        }
        Ok(())
    }

    fn copy(&self, mut from: u64, mut left: u64, mut to: u64) -> Result<()> {
        while left > 0 {
            // Up to the next boundary first, if both offsets meet it at once: what follows can be
            // shared.
            let odd = from % ALIGNMENT;
            let head = if odd > 0 && to % ALIGNMENT == odd { ALIGNMENT - odd } else { MAX_BYTES };
            let wanted = left.min(head);
            let (mut source_at, mut target_at) = (from, to);
            let copied = rustix::fs::copy_file_range(
                self.source,
                Some(&mut source_at),
                self.target,
                Some(&mut target_at),
                usize::try_from(wanted).unwrap_or(usize::MAX),
            );
            let copied = match copied {
                Ok(0) => return self.read_and_write(from, left, to),
                Ok(copied) => copied as u64,
                Err(Errno::INTR) => continue,
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(self.unwritable(e.into())),
                // Not between these two files, not on this system, or not just now: what is wrong
                // shows when they are read and written.
                Err(_) => return self.read_and_write(from, left, to),
            };
            let copied = copied.min(left);
            (from, to, left) = (from + copied, to + copied, left - copied);
        }
        Ok(())
    }

    fn read_and_write(&self, mut from: u64, mut left: u64, mut to: u64) -> Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(left).unwrap_or(BUFFER_BYTES))];
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            let count = match self.source.read_at(&mut buffer[..wanted], from) {
                Ok(0) => return Err(self.short(from, from + left)),
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.unreadable(e)),
            };
            self.target.write_all_at(&buffer[..count], to).map_err(|e| self.unwritable(e))?;
            let count = count as u64;
            (from, to, left) = (from + count, to + count, left - count);
        }
        Ok(())
    }

    /// Makes `length` bytes of the target zeros. Others may write to other parts of it meanwhile,
    /// so it is never cut.
    fn zero(&self, position: u64, length: u64) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let end = position + length;
        let size = self.target.metadata().map_err(|e| self.unwritable(e))?.len();
        if position < size {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(self.target, flags, position, length) {
                Ok(()) => {}
                Err(Errno::NOTSUP | Errno::NOSYS) => {
                    let zeros = [0; 64 << 10];
                    let mut at = position;
                    while at < end {
                        let piece = &zeros[..(end - at).min(zeros.len() as u64) as usize];
                        self.target.write_all_at(piece, at).map_err(|e| self.unwritable(e))?;
                        at += piece.len() as u64;
                    }
                }
                Err(e) => return Err(self.unwritable(e.into())),
            }
        }
        if end > size {
            // The file gets its length by its last byte.
            self.target.write_all_at(&[0], end - 1).map_err(|e| self.unwritable(e))?;
        }
        Ok(())
    }

    fn short(&self, found: u64, wanted: u64) -> Error {
        let id = self.id;
        Error::new(
            ErrorKind::Source,
            format!("what file {id} is to be copied from ends at {found}, before {wanted} bytes"),
        )
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        Error::io(format!("cannot read what file {} is to be copied from", self.id), error)
            .with_kind(ErrorKind::Source)
    }

    fn unwritable(&self, error: std::io::Error) -> Error {
        Error::io(format!("cannot write the staged file {}", self.id), error)
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::DiskSink;
    use super::*;
    use crate::archive::digest::Blake3;
    use crate::archive::entry::FileEntry;
    use crate::archive::path::EntryPath;
    use crate::sink::Sink;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(step).collect()
    }

    fn with_staging(work: impl Fn(&Path, &Staging)) {
        let base = tempfile::tempdir().unwrap();
        let staging = DiskSink::open(base.path()).unwrap().staging("0.1").unwrap();
        work(base.path(), &staging);
    }

    fn copied(base: &Path) -> Vec<u8> {
        std::fs::read(base.join(".tar-like/staging/0.1/1")).unwrap()
    }

    #[test]
    fn any_offsets_and_lengths() {
        let content = noise(300_000);
        with_staging(|base, staging| {
            std::fs::write(base.join("source"), &content).unwrap();
            let source = File::open(base.join("source")).unwrap();
            let mut expected = Vec::new();
            // Aligned, alike from a boundary, and neither.
            for (from, length, to) in [
                (0, 8192, 0),
                (5000, 20_000, 9096),
                (100_000, 50_000, 70_001),
                (299_999, 1, 65_000),
                (0, 0, 0),
            ] {
                staging.copy_from(1, &source, from, length, to).unwrap();
                let (from, length, to) = (from as usize, length as usize, to as usize);
                expected.resize(expected.len().max(to + length), 0);
                expected[to..to + length].copy_from_slice(&content[from..from + length]);
                assert!(copied(base) == expected, "{from} {length} {to}");
            }
            let copy = Copy { source: &source, target: &File::create(base.join("t")).unwrap(), id: 1 };
            copy.read_and_write(17, 250_000, 3).unwrap();
            assert!(std::fs::read(base.join("t")).unwrap()[3..] == content[17..250_017]);
        });
    }

    #[test]
    fn a_source_that_ends_before_is_an_error() {
        with_staging(|base, staging| {
            std::fs::write(base.join("source"), noise(10_000)).unwrap();
            let source = File::open(base.join("source")).unwrap();
            for (from, length) in [(0, 10_001), (10_000, 1), (20_000, 5)] {
                let error = staging.copy_from(1, &source, from, length, 0).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Source, "{error}");
            }
            let target = File::create(base.join("t")).unwrap();
            let error = Copy { source: &source, target: &target, id: 1 }.copy(5000, 6000, 0).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Source, "{error}");
            let folder = File::open(base).unwrap();
            assert_eq!(staging.copy_from(1, &folder, 0, 1, 0).unwrap_err().kind(), ErrorKind::Source);
        });
    }

    #[test]
    fn holes_stay_holes_and_cover_what_was_there() {
        with_staging(|base, staging| {
            let source = File::create_new(base.join("source")).unwrap();
            source.set_len(64 << 20).unwrap();
            source.write_all_at(&noise(9000), 20 << 20).unwrap();
            let source = File::open(base.join("source")).unwrap();
            // From an attempt that was cut.
            let file = FileEntry {
                id: 1,
                path: EntryPath::new(&b"f"[..]).unwrap(),
                size: 64 << 20,
                offset: 0,
                fragmented: false,
                md5: None,
                blake3: Some(Blake3::ZERO),
                meta: None,
                origin: None,
                object: None,
            };
            staging.write_at(&file, 1 << 20, [&noise(100_000)[..]]).unwrap();
            staging.copy_from(1, &source, 0, 64 << 20, 0).unwrap();
            assert!(copied(base) == std::fs::read(base.join("source")).unwrap());
            let blocks = std::fs::metadata(base.join(".tar-like/staging/0.1/1")).unwrap().blocks();
            assert!(blocks * 512 < 2 << 20, "{blocks}");
        });
    }

    #[test]
    fn what_has_another_name_is_not_written_to() {
        with_staging(|base, staging| {
            std::fs::write(base.join("published"), "as it is").unwrap();
            std::fs::hard_link(base.join("published"), base.join(".tar-like/staging/0.1/1")).unwrap();
            let mut source = tempfile::tempfile().unwrap();
            source.write_all(b"new").unwrap();
            staging.copy_from(1, &source, 0, 3, 0).unwrap();
            assert_eq!(
                (copied(base), std::fs::read(base.join("published")).unwrap()),
                (b"new".to_vec(), b"as it is".to_vec())
            );
        });
    }
}
