//! The backup of what `save` overwrites, and `blockcopy undo`, which puts it back.

mod undo;

pub use undo::{UndoReport, undo};

use crate::archive::blockcopy::backup::{Start, push_batch, push_end, push_old, push_zeros};
use crate::archive::blockcopy::hasher::is_zero;
use crate::archive::blockcopy::head::Identity;
use crate::archive::digest::blake3;
use crate::error::{Error, ErrorKind, Result};
use crate::source::device::{Device, SparseExtent};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The longest record, in bytes.
const PIECE: u64 = 1 << 20;

/// Writes the backup of what is about to be overwritten.
pub(super) struct BackupWriter {
    file: File,
    name: String,
    bytes: u64,
    buffer: Vec<u8>,
    content: Vec<u8>,
}

impl BackupWriter {
    /// Makes the file, which must not be there, for a destination that is `old` now.
    pub(super) fn create(path: &Path, old: &Device) -> Result<Self> {
        let name = path.display().to_string();
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            // Its content may be unreadable to other users where it comes from.
            .mode(0o600)
            .open(path)
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    Error::new(ErrorKind::Usage, format!("{name} is there already, and may be needed for an undo"))
                        .with_hint("name another file, or remove it")
                }
                _ => Error::io(format!("cannot make {name}"), e),
            })?;
        let mut backup = Self { file, name, bytes: 0, buffer: Vec::new(), content: Vec::new() };
        let Identity { is_device, size, device, inode, .. } = old.identity();
        backup.buffer.extend(Start { size, is_device, device, inode }.to_bytes());
        backup.sync()?;
        // Its name must survive a crash, too.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Error::io(format!("cannot bring {} onto stable storage", backup.name), e))?;
        Ok(backup)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Brings what `old` has in these ranges onto stable storage.
    pub(super) fn back_up(&mut self, old: &Device, ranges: impl Iterator<Item = Range<u64>>) -> Result<()> {
        push_batch(&mut self.buffer, self.bytes);
        for range in ranges {
            let mut at = range.start;
            // An undo cuts off what lies behind the old end.
            let end = range.end.min(old.size());
            while at < end {
                match old.extent(at..end) {
                    SparseExtent::Hole(hole) => {
                        push_zeros(&mut self.buffer, at, hole.end - at);
                        at = hole.end;
                    }
                    SparseExtent::Data(data) => {
                        let piece_end = data.end.min(at + PIECE);
                        self.content.resize((piece_end - at) as usize, 0);
                        old.read(at, &mut self.content)?;
                        if is_zero(&self.content) {
                            push_zeros(&mut self.buffer, at, piece_end - at);
                        } else {
                            let length = self.content.len() as u32;
                            push_old(&mut self.buffer, at, length, &blake3(&self.content));
                            self.buffer.extend(&self.content);
                        }
                        at = piece_end;
                    }
                }
                if self.buffer.len() as u64 >= 4 * PIECE {
                    self.write()?;
                }
            }
        }
        self.sync()
    }

    /// Records that the copy is complete.
    pub(super) fn end(&mut self) -> Result<()> {
        push_end(&mut self.buffer, self.bytes);
        self.sync()
    }

    fn write(&mut self) -> Result<()> {
        self.file
            .write_all(&self.buffer)
            .map_err(|e| Error::io(format!("cannot write to the backup file {}", self.name), e))?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.write()?;
        self.file.sync_data().map_err(|e| {
            Error::io(format!("cannot bring the backup file {} onto stable storage", self.name), e)
        })
    }
}
