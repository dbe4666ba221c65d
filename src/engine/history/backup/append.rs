//! Writing to a backup: a new one, and one more record.

use super::file::{BackupFile, Damage, folder_of, sync_folder};
use super::open::lock;
use crate::archive::backup::{HEAD_LEN, Kind, Lineage, NotNext, RECORDS, RecordHead, SLOTS, Slot};
use crate::archive::digest::{Blake3Hasher, Digest, IndexDigest};
use crate::archive::path::PARTIAL_INFIX;
use crate::error::{Error, ErrorKind, Result};
use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

/// A version to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The generation's number, from 1 on.
    pub version: u64,
    /// The digest of the index.
    pub digest: IndexDigest,
    /// When it was made, in seconds since 1970.
    pub created_s: u64,
}

/// A backup that is being made, without its name yet.
pub(super) struct NewBackup {
    partial: tempfile::TempPath,
    pub(super) backup: BackupFile,
}

impl NewBackup {
    /// Makes it in the folder of `target`.
    pub(super) fn create(target: &Path, permissions: Permissions) -> Result<Self> {
        let what = || format!("cannot make the backup {}", target.display());
        let mut prefix = target.file_name().unwrap_or_default().to_os_string();
        prefix.push(PARTIAL_INFIX);
        let (file, partial) = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(permissions)
            .tempfile_in(folder_of(target))
            .map_err(|e| Error::io(what(), e).with_hint("does the folder exist, and may you write there?"))?
            .into_parts();
        // Locked before it gets its name, so no other run writes to it before this one has ended.
        lock(&file, target, true)?;
        // Both slots are allocated now: they can still be written when the disk is full.
        file.write_all_at(&[0; RECORDS as usize], 0).map_err(|e| Error::io(what(), e))?;
        let path = target.to_path_buf();
        let backup = BackupFile {
            file,
            path,
            lineage: Lineage::default(),
            slot: None,
            damage: None,
            rewound_to: None,
        };
        Ok(Self { partial, backup })
    }

    /// Gives it its name; over a file that is there only if `replace`.
    pub(super) fn put_in_place(self, replace: bool) -> Result<BackupFile> {
        let target = &self.backup.path;
        let named =
            if replace { self.partial.persist(target) } else { self.partial.persist_noclobber(target) };
        named.map_err(|e| match e.error.kind() {
            std::io::ErrorKind::AlreadyExists => is_there(target),
            _ => Error::io(format!("cannot give the backup its name {}", target.display()), e.error),
        })?;
        sync_folder(target).map_err(|e| self.backup.io("bring onto stable storage the name of", e))?;
        Ok(self.backup)
    }
}

fn is_there(target: &Path) -> Error {
    Error::new(ErrorKind::Usage, format!("{} is there already", target.display()))
        .with_hint("name another file")
}

impl BackupFile {
    /// Makes a backup at `target`, where nothing must be, with a snapshot of the index that `write`
    /// gives. It appears when it is complete and on stable storage.
    ///
    /// # Errors
    /// Something is there, the folder cannot be written to, or `write` fails.
    pub fn create(
        target: &Path,
        record: &Record,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Self> {
        if std::fs::symlink_metadata(target).is_ok() {
            return Err(is_there(target));
        }
        // As readable as the index, whose names it has: as the umask says.
        let mut new = NewBackup::create(target, Permissions::from_mode(0o666))?;
        new.backup.add(Kind::Snapshot, None, record, write)?;
        new.put_in_place(false)
    }

    /// Appends a change that makes `record` of the version `parent`, which must be the newest one,
    /// of that very digest.
    ///
    /// # Errors
    /// It does not follow ([`ErrorKind::WrongIndex`]), or `write` or the disk fails; the file is as
    /// before then.
    pub fn append(
        &mut self,
        record: &Record,
        parent: (u64, &IndexDigest),
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        self.follows(parent)?;
        self.add(Kind::Change, Some(parent.0), record, write)
    }

    /// The same with a snapshot in place of a change. The records before stay, though it needs none
    /// of them.
    ///
    /// # Errors
    /// As [`BackupFile::append`].
    pub fn append_snapshot(
        &mut self,
        record: &Record,
        parent: (u64, &IndexDigest),
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        self.follows(parent)?;
        self.add(Kind::Snapshot, Some(parent.0), record, write)
    }

    /// Rewinds the backup to an earlier version, of that very digest, as the index was rewound.
    /// Later versions are abandoned and never restored; `write` gives what has to be known of them.
    ///
    /// # Errors
    /// The newest version was not made of that one ([`ErrorKind::WrongIndex`]), or `write` or the
    /// disk fails.
    pub fn rewind(
        &mut self,
        record: &Record,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let live = self.lineage.live().map(|live| live.head.version);
        self.add(Kind::Rewind, live, record, write)
    }

    fn follows(&self, (version, digest): (u64, &IndexDigest)) -> Result<()> {
        let Some(live) = self.lineage.live() else { return Ok(()) };
        if (live.head.version, &live.head.digest) == (version, digest) {
            return Ok(());
        }
        let what = match self.lineage.version(version) {
            Some(place) if place.head.digest != *digest => {
                format!("its generation {version} is that of another index")
            }
            _ => format!(
                "its newest generation is {}, the change is one of generation {version}",
                live.head.version
            ),
        };
        Err(self
            .bad(what)
            .with_kind(ErrorKind::WrongIndex)
            .with_hint("begin another backup: name a new file"))
    }

    /// Writes a record behind the last one, then the slot that counts it.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        parent: Option<u64>,
        record: &Record,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let start = self.end();
        let Record { version, digest, created_s } = *record;
        let (payload, before) = (Digest::ZERO, self.lineage.last_check());
        let head = RecordHead { kind, version, parent, created_s, length: 0, digest, payload, before };
        let mut lineage = self.lineage.clone();
        lineage.push(head, start).map_err(|e| self.not_next(e))?;
        let written = self.write_record(head, start, write);
        let head = match written {
            Ok(head) => head,
            Err(e) => {
                // Bytes that are left there would never count, but take room.
                let _ = self.file.set_len(start);
                return Err(e);
            }
        };
        self.lineage.push(head, start).map_err(|e| self.not_next(e))?;
        // The other slot may count lost records, which are overwritten now.
        let slots = if matches!(self.damage, Some(Damage::Lost { .. })) { 2 } else { 1 };
        for _ in 0..slots {
            self.write_slot(version, start)?;
        }
        (self.damage, self.rewound_to) = (None, None);
        Ok(())
    }

    fn not_next(&self, why: NotNext) -> Error {
        self.bad(format!("what is to be added does not follow: {why}"))
            .with_kind(ErrorKind::WrongIndex)
            .with_hint("begin another backup: name a new file")
    }

    /// Writes the payload, then the head before it, and brings both onto stable storage.
    fn write_record(
        &self,
        head: RecordHead,
        start: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<RecordHead> {
        self.file.set_len(start).map_err(|e| self.io("write to", e))?;
        let at = start + HEAD_LEN as u64;
        let writer = HashingWriter { file: &self.file, at, hasher: Blake3Hasher::default() };
        let mut buffered = BufWriter::with_capacity(1 << 18, writer);
        write(&mut buffered)?;
        let writer = buffered.into_inner().map_err(|e| self.io("write to", e.into_error()))?;
        let head = RecordHead { length: writer.at - at, payload: writer.hasher.finish(), ..head };
        self.file
            .write_all_at(&head.to_bytes(), start)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| self.io("write to", e))?;
        Ok(head)
    }

    /// Counts the last record, which begins at `start`: in the slot that does not count now.
    fn write_slot(&mut self, newest: u64, start: u64) -> Result<()> {
        let (which, sequence) =
            self.slot.map_or((0, 1), |(which, slot)| (1 - which, slot.sequence.saturating_add(1)));
        let slot = Slot { sequence, end: self.end(), newest };
        let at = SLOTS.get(which).copied().unwrap_or(0);
        if let Err(e) = self.file.write_all_at(&slot.to_bytes(), at) {
            // No slot counts the record, so it is cut off.
            let _ = self.file.set_len(start);
            self.lineage.pop();
            return Err(self.io("write to", e));
        }
        self.file.sync_all().map_err(|e| self.io("write to", e))?;
        self.slot = Some((which, slot));
        Ok(())
    }
}

/// Writes from an offset of the file on, and hashes.
struct HashingWriter<'a> {
    file: &'a File,
    at: u64,
    hasher: Blake3Hasher,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write_at(bytes, self.at)?;
        self.hasher.update(bytes.get(..n).unwrap_or_default());
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// The slots come before the first record, whose place is fixed.
const _: () = assert!(SLOTS[1] + 4096 <= RECORDS);
