//! Opening a backup: its lock, and how much of it is whole.

use super::file::{BackupFile, Damage};
use crate::archive::backup::{
    HEAD_LEN, Kind, Lineage, NotASlot, RECORDS, RecordHead, SLOT_LEN, SLOTS, Slot, newest_slot,
};
use crate::error::{Error, ErrorKind, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much is searched at a time for records behind a damage, in bytes.
const SEARCH_BYTES: usize = 1 << 20;

/// How often a file that another run replaces is opened again.
const TRIES: usize = 10;

impl BackupFile {
    /// Opens the backup at `path` for reading.
    ///
    /// # Errors
    /// It cannot be read, is no backup ([`ErrorKind::BadIndex`]), or another run writes to it
    /// ([`ErrorKind::InUse`]).
    pub fn open(path: &Path) -> Result<Self> {
        Self::locked(path, false)
    }

    /// Opens the backup at `path` for appending. What is damaged at its end is cut off when
    /// something is appended.
    ///
    /// # Errors
    /// As [`BackupFile::open`], and another run that reads it is in the way, too.
    pub fn open_to_append(path: &Path) -> Result<Self> {
        Self::locked(path, true)
    }

    fn locked(path: &Path, write: bool) -> Result<Self> {
        // Links are resolved, so that a replacement does not replace a link to the file.
        let path = std::fs::canonicalize(path).map_err(|e| cannot_open(path, e))?;
        for _ in 0..TRIES {
            let file = OpenOptions::new()
                .read(true)
                .write(write)
                // Opening a pipe without a writer would block for ever.
                .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
                .open(&path)
                .map_err(|e| cannot_open(&path, e))?;
            if !file.metadata().map_err(|e| cannot_open(&path, e))?.is_file() {
                let what = format!("{} is no file", path.display());
                return Err(Error::new(ErrorKind::BadIndex, what)
                    .with_hint("name a file that history backup has made"));
            }
            lock(&file, &path, write)?;
            // A run that compacted the file may have replaced it between the two calls.
            if is_at(&file, &path) {
                return scan(file, path, write);
            }
        }
        Err(Error::new(ErrorKind::InUse, format!("{} is replaced again and again", path.display()))
            .with_hint("is another tar-like history at work on it?"))
    }
}

fn cannot_open(path: &Path, error: std::io::Error) -> Error {
    let is_absent = error.kind() == std::io::ErrorKind::NotFound;
    let error = Error::io(format!("cannot open the backup {}", path.display()), error);
    if is_absent { error.with_hint("history backup makes it") } else { error }
}

/// Takes the lock of a file, without waiting.
pub(super) fn lock(file: &File, path: &Path, write: bool) -> Result<()> {
    let locked = if write { file.try_lock() } else { file.try_lock_shared() };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let other = if write { "uses" } else { "writes to" };
            Err(Error::new(ErrorKind::InUse, format!("another run {other} the backup {}", path.display()))
                .with_hint("wait until it has ended"))
        }
        // A file system without locks: reading is safe nevertheless.
        Err(TryLockError::Error(_)) if !write => Ok(()),
        Err(TryLockError::Error(e)) => {
            Err(Error::io(format!("cannot lock the backup {}", path.display()), e)
                .with_hint("keep it on a file system that has locks"))
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let id = |meta: std::io::Result<std::fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
    id(file.metadata()).is_some_and(|open| Some(open) == id(std::fs::metadata(path)))
}

/// Finds the whole records. Records that a slot counts are accepted by their heads; their payloads
/// are verified when they are read.
fn scan(file: File, path: PathBuf, write: bool) -> Result<BackupFile> {
    let mut backup =
        BackupFile { file, path, lineage: Lineage::default(), slot: None, damage: None, rewound_to: None };
    let length = backup.file.metadata().map_err(|e| backup.io("read", e))?.len();
    let slots = [backup.slot_at(SLOTS[0])?, backup.slot_at(SLOTS[1])?];
    let slot = newest_slot(slots);
    if let Err(e @ NotASlot::Newer(_)) = slot {
        return Err(backup.bad(e).with_hint("use the newer version of the program"));
    }
    backup.slot = slot.ok();
    let counted = backup.slot.map_or(RECORDS, |(_, slot)| slot.end);
    while let Some(head) = backup.head_at(backup.end(), length)? {
        if backup.lineage.push(head, backup.end()).is_err() {
            break;
        }
        // A record that no slot counts has to be whole, and so has one behind which this run will
        // write.
        let must_be_whole = backup.end() > counted || (write && backup.end() == counted);
        if must_be_whole && !backup.is_last_whole()? {
            backup.lineage.pop();
            break;
        }
    }
    let end = backup.end();
    if backup.lineage.records().is_empty() {
        let foreign = slot == Err(NotASlot::Foreign);
        let why =
            if foreign { "it is no backup of an index" } else { "it is damaged, and has no whole snapshot" };
        return Err(backup.bad(why).with_hint("name another file; history backup makes a new one"));
    }
    backup.damage = match backup.slot {
        Some((_, slot)) if slot.end > end => Some(Damage::Lost { at: end, newest: slot.newest }),
        _ if length > end => Some(Damage::Unfinished { at: end }),
        _ => None,
    };
    if matches!(backup.damage, Some(Damage::Lost { .. })) {
        backup.rewound_to = backup.rewound_to(slots, length)?;
    }
    Ok(backup)
}

impl BackupFile {
    fn slot_at(&self, at: u64) -> Result<std::result::Result<Slot, NotASlot>> {
        let mut bytes = [0; SLOT_LEN];
        match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(Slot::parse(&bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Err(NotASlot::Foreign)),
            Err(e) => Err(self.io("read", e)),
        }
    }

    /// The head of a record at `at`, if all of the record lies before `length`.
    fn head_at(&self, at: u64, length: u64) -> Result<Option<RecordHead>> {
        let room = length.checked_sub(at.saturating_add(HEAD_LEN as u64));
        let Some(room) = room else { return Ok(None) };
        let mut bytes = [0; HEAD_LEN];
        self.file.read_exact_at(&mut bytes, at).map_err(|e| self.io("read", e))?;
        Ok(RecordHead::parse(&bytes).ok().filter(|head| head.length <= room))
    }

    /// The lowest version that was live while the lost records were written, if it is below the
    /// live version of the whole records. The slots say it, and so does the head of any record
    /// behind the damage.
    fn rewound_to(
        &self,
        slots: [std::result::Result<Slot, NotASlot>; 2],
        length: u64,
    ) -> Result<Option<u64>> {
        let Some(live) = self.lineage.live().map(|live| live.head.version) else { return Ok(None) };
        let end = self.end();
        let counted = slots.into_iter().flatten().filter(|slot| slot.end > end).map(|slot| slot.newest);
        let mut lowest = counted.min().unwrap_or(live);
        self.heads_behind(end, length, |head| {
            let back = (head.kind == Kind::Rewind).then_some(head.version);
            lowest = head.parent.into_iter().chain(back).fold(lowest, u64::min);
        })?;
        Ok(Some(lowest).filter(|&lowest| lowest < live))
    }

    /// Gives the heads of records that can be found in a damaged part of the file.
    fn heads_behind(&self, from: u64, length: u64, mut each: impl FnMut(&RecordHead)) -> Result<()> {
        let mut window = vec![0; SEARCH_BYTES + HEAD_LEN - 1];
        let mut at = from;
        while at < length {
            let size = usize::try_from(length - at).unwrap_or(usize::MAX).min(window.len());
            let found = window.get_mut(..size).unwrap_or_default();
            self.file.read_exact_at(found, at).map_err(|e| self.io("read", e))?;
            for bytes in found.windows(HEAD_LEN).filter(|bytes| RecordHead::may_be(bytes)) {
                let head = bytes.first_chunk().and_then(|bytes| RecordHead::parse(bytes).ok());
                head.iter().for_each(&mut each);
            }
            at += SEARCH_BYTES as u64;
        }
        Ok(())
    }

    fn is_last_whole(&self) -> Result<bool> {
        self.lineage.records().last().map_or(Ok(true), |last| self.is_whole(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_is_not_the_one_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("backup"), folder.path().join("other"));
        std::fs::write(&path, "old").unwrap();
        let file = File::open(&path).unwrap();
        assert!(is_at(&file, &path));
        std::fs::write(&other, "new").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(!is_at(&file, &path));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path));
    }
}
