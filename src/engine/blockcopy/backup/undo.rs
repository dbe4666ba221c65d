//! `blockcopy undo`: the destination as it was before the copy.

use crate::archive::blockcopy::backup::{BackupRecord, MAX_BATCH, START_LEN, Start};
use crate::archive::digest::blake3;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::device::Target;
use crate::source::device::Device;
use crate::telemetry::{Monitor, Notice};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What was put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UndoReport {
    /// Bytes that were put back.
    pub restored_bytes: u64,
    /// The size that the destination has again.
    pub size_bytes: u64,
    /// Bytes at the end of the backup file that were not complete.
    pub torn_bytes: u64,
}

/// Something to put back; its bytes are at `body` in the file.
enum Old {
    Bytes { position: u64, length: u32, body: u64 },
    Zeros { position: u64, length: u64 },
}

struct Backup {
    file: File,
    name: String,
    size: u64,
}

/// Puts what the file `backup` has back into the destination at `path`. It can be repeated. With
/// `moved`, the destination may be another file than the one that was overwritten.
///
/// # Errors
/// The backup is damaged or not that of this destination: nothing is written then. The destination
/// cannot be written.
pub fn undo(backup: &Path, path: &Path, moved: bool, monitor: &dyn Monitor) -> Result<UndoReport> {
    let name = backup.display().to_string();
    let failed = |e| Error::io(format!("cannot open {name}"), e);
    let file = File::open(backup).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let backup = Backup { file, name, size };
    let start = backup.start()?;
    // The whole backup is checked before anything is written.
    monitor.notice(Notice::Phase("reading the backup"));
    let (olds, torn_bytes) = backup.read(monitor)?;
    let mut target = Target::open(path, false, true)?;
    if target.is_device() != start.is_device || (start.is_device && target.size() != start.size) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{} is of another sort or size than what {} was made of", target.name(), backup.name),
        ));
    }
    let now = Device::of(target.reader()?, target.name().to_string())?.identity();
    if !moved && (now.device, now.inode) != (start.device, start.inode) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{} is another file than the one {} was made of", target.name(), backup.name),
        )
        .with_hint("name that one; if it was moved or copied, or its disk has another number since a restart: undo --moved"));
    }
    if torn_bytes > 0 {
        monitor.notice(Notice::Warning(format!(
            "the last {torn_bytes} bytes of {} are not complete: the destination had not been overwritten there yet",
            backup.name
        )));
    }
    monitor.notice(Notice::Phase("undoing"));
    let mut content = Vec::new();
    let mut restored_bytes = 0;
    // The first backup of a place has what was there before the copy.
    for old in olds.iter().rev() {
        if monitor.is_cancelled() {
            return Err(
                Error::new(ErrorKind::Interrupted, "interrupted").with_hint("run the same command again")
            );
        }
        match *old {
            Old::Bytes { position, length, body } => {
                content.resize(length as usize, 0);
                backup.exact(&mut content, body)?;
                target.write(position, &content)?;
                restored_bytes += u64::from(length);
            }
            Old::Zeros { position, length } => {
                target.zero(position, length)?;
                restored_bytes += length;
            }
        }
        monitor.counters().done_bytes.set(restored_bytes);
    }
    target.resize(start.size)?;
    target.sync()?;
    Ok(UndoReport { restored_bytes, size_bytes: start.size, torn_bytes })
}

impl Backup {
    fn exact(&self, to: &mut [u8], at: u64) -> Result<()> {
        self.file
            .read_exact_at(to, at)
            .map_err(|e| Error::io(format!("cannot read {} at {at}", self.name), e))
    }

    fn start(&self) -> Result<Start> {
        let mut bytes = [0; START_LEN];
        let refused = |why: &str| {
            Error::new(ErrorKind::Malformed, format!("{} {why}", self.name))
                .with_hint("if the copy was stopped at its very beginning, the destination is as it was")
        };
        if self.size < START_LEN as u64 {
            return Err(refused("is too short for a backup of blockcopy"));
        }
        self.exact(&mut bytes, 0)?;
        Start::parse(&bytes).map_err(|_| refused("is no backup of blockcopy, or its beginning is damaged"))
    }

    /// All that it has, and how many bytes at its end are not complete.
    fn read(&self, monitor: &dyn Monitor) -> Result<(Vec<Old>, u64)> {
        let mut olds = Vec::new();
        let (mut at, mut is_ended) = (START_LEN as u64, false);
        let mut content = Vec::new();
        while at < self.size && !is_ended {
            if monitor.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
            }
            let Some((record, next)) = self.record(at, &mut content)? else { break };
            match record {
                BackupRecord::Old { position, length, .. } => {
                    olds.push(Old::Bytes { position, length, body: next - u64::from(length) });
                }
                BackupRecord::Zeros { position, length } => olds.push(Old::Zeros { position, length }),
                BackupRecord::Batch { offset } if offset == at => {}
                BackupRecord::End { offset } if offset == at => is_ended = true,
                _ => break,
            }
            at = next;
        }
        let torn = self.size - at;
        // Only the last batch may be torn: those before it were on stable storage when the
        // destination was changed. Its mark may be missing, too, so its length counts from here.
        if torn > 0 && (is_ended || self.has_mark_behind(at)?) {
            return Err(Error::new(ErrorKind::Malformed, format!("{} is damaged at {at}", self.name))
                .with_hint("nothing was written; take it from another copy of that file"));
        }
        Ok((olds, torn))
    }

    /// The record at `at` and where the next one begins; `None` if it is not complete, or damaged.
    fn record(&self, at: u64, content: &mut Vec<u8>) -> Result<Option<(BackupRecord, u64)>> {
        let mut tag = [0; 4];
        if self.size - at < 4 {
            return Ok(None);
        }
        self.exact(&mut tag, at)?;
        let Ok(length) = BackupRecord::length(tag) else { return Ok(None) };
        let body = at + 4 + length as u64;
        if body > self.size {
            return Ok(None);
        }
        content.resize(length, 0);
        self.exact(content, at + 4)?;
        let Ok(record) = BackupRecord::parse(tag, content) else { return Ok(None) };
        let BackupRecord::Old { length, hash, .. } = record else { return Ok(Some((record, body))) };
        let next = body + u64::from(length);
        if next > self.size {
            return Ok(None);
        }
        content.resize(length as usize, 0);
        self.exact(content, body)?;
        Ok((blake3(content) == hash).then_some((record, next)))
    }

    /// Whether a mark follows behind `at`: then no interrupted write made the damage at `at`.
    fn has_mark_behind(&self, at: u64) -> Result<bool> {
        if self.size - at > MAX_BATCH {
            return Ok(true);
        }
        let mut rest = vec![0; (self.size - at) as usize];
        self.exact(&mut rest, at)?;
        for (offset, window) in rest.windows(BackupRecord::MARK_LEN).enumerate().skip(1) {
            let Some((tag, head)) = window.split_first_chunk() else { continue };
            let here = at + offset as u64;
            let mark = |record| matches!(record, Ok(BackupRecord::Batch { offset } | BackupRecord::End { offset }) if offset == here);
            if BackupRecord::is_mark(*tag) && mark(BackupRecord::parse(*tag, head)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
