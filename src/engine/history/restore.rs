//! `history restore` makes an index of its backup. `history compact` makes a backup of fewer
//! records.

use super::backup::BackupFile;
use super::payload::{Item, Items};
use super::save::pack;
use crate::archive::backup::{Kind, Place};
use crate::archive::digest::IndexDigest;
use crate::archive::path::PARTIAL_INFIX;
use crate::db::file::make_way;
use crate::db::generation::{Counters, History, add_generation, apply, set_counters};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use lz4_flex::frame::FrameDecoder;
use std::fs::File;
use std::io::{BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// The generation of the index.
    pub generation: u64,
    /// Its digest.
    pub digest: IndexDigest,
    /// Regular files of it.
    pub files: u64,
    /// Newer generations that are lost, because the backup is damaged.
    pub lost: Vec<u64>,
    /// What was wrong with the backup.
    pub damage: Option<super::backup::Damage>,
}

/// Rebuilds the index from the backup at `source`, at `generation` or the newest one that is whole.
/// It gets the name `database` when it is complete. An index of that name is replaced only with
/// `replace`.
///
/// # Errors
/// There is an index, the backup does not have the generation or is damaged where that needs it, or
/// the disk fails.
pub fn restore(
    source: &Path,
    database: &Path,
    generation: Option<u64>,
    replace: bool,
    monitor: &dyn Monitor,
) -> Result<RestoreReport> {
    if !replace && std::fs::symlink_metadata(database).is_ok() {
        let what = format!("there is an index already at {}", database.display());
        return Err(Error::new(ErrorKind::Source, what)
            .with_hint("give -c to replace it, or -db to write another one"));
    }
    let backup = BackupFile::open(source)?;
    let (chain, lost) = match generation {
        Some(version) => (backup.intact_version(version)?, Vec::new()),
        None => {
            let intact = backup.intact()?;
            (intact.chain, intact.lost)
        }
    };
    // Through links: what replaces the index does not replace a link to it.
    let target = std::fs::canonicalize(database).unwrap_or_else(|_| database.to_path_buf());
    let rebuilt = Rebuilding { backup: &backup, name: database, monitor }.rebuild(&chain, &target)?;
    let history = History::open(&rebuilt)?;
    let active = history.active()?.clone();
    drop(history);
    let failed = |e| Error::io(format!("cannot put the index {} in place", database.display()), e);
    File::open(&rebuilt).and_then(|file| file.sync_all()).map_err(failed)?;
    make_way(&target)?;
    if replace {
        rebuilt.persist(&target).map_err(|e| failed(e.error))?;
    } else {
        rebuilt.persist_noclobber(&target).map_err(|e| failed(e.error))?;
    }
    super::backup::sync_folder(&target).map_err(failed)?;
    Ok(RestoreReport {
        generation: active.number,
        digest: active.digest,
        files: active.files,
        lost,
        damage: backup.damage(),
    })
}

/// Merges all but the last change of the backup at `path` into a snapshot. Gives its lengths in
/// bytes before and after.
///
/// # Errors
/// It is damaged, another run uses it, or the disk fails; it is unchanged then.
pub fn compact_backup(path: &Path, monitor: &dyn Monitor) -> Result<[u64; 2]> {
    let backup = BackupFile::open_to_append(path)?;
    let name = backup.path().to_path_buf();
    let snapshot = |backup: &BackupFile, chain: &[Place], to: &mut dyn Write| {
        let rebuilding = Rebuilding { backup, name: &name, monitor };
        let index = rebuilding.rebuild(chain, &name)?;
        let file = File::open(&index)
            .map_err(|e| Error::io(format!("cannot read the index of {}", name.display()), e))?;
        pack(&file, &name, to, monitor)
    };
    let (_, lengths) = backup.compact(snapshot)?;
    Ok(lengths)
}

struct Rebuilding<'a> {
    backup: &'a BackupFile,
    /// What is restored, for messages.
    name: &'a Path,
    monitor: &'a dyn Monitor,
}

impl Rebuilding<'_> {
    /// Makes the index of the last of these records in a file beside `target`.
    fn rebuild(&self, chain: &[Place], target: &Path) -> Result<tempfile::TempPath> {
        let [snapshot, changes @ ..] = chain else {
            return Err(Error::new(ErrorKind::Internal, "a version of no record"));
        };
        let index = self.unpack(snapshot, target)?;
        self.expect(&index, snapshot)?;
        let mut counters = Counters::default();
        for place in changes {
            if self.monitor.is_cancelled() {
                return Err(
                    Error::new(ErrorKind::Interrupted, "interrupted").with_hint("nothing was restored")
                );
            }
            self.add_all(place, &index, &mut counters)?;
            let batches = self.items(place).filter_map(|item| match item {
                Ok(Item::Batch(false, batch)) => Some(Ok(batch)),
                Ok(_) => None,
                Err(e) => Some(Err(e)),
            });
            apply(&index, self.name, place.head.version, place.head.created_s, None, batches)?;
            self.expect(&index, place)?;
        }
        // Numbers and ids of later and abandoned generations must not be used again.
        let lineage = self.backup.lineage();
        if let Some(last) = lineage.records().last()
            && last.head.kind != Kind::Snapshot
            && self.backup.is_whole(last)?
        {
            let is_live = chain.last().map(|place| place.start) == lineage.live().map(|live| live.start);
            if last.head.kind == Kind::Rewind && is_live {
                self.add_all(last, &index, &mut counters)?;
            } else {
                self.items(last).try_for_each(|item| raise(&item?, &mut counters))?;
            }
        }
        let highest = lineage.records().iter().map(|place| place.head.version).max().unwrap_or(0);
        counters.last_generation = counters.last_generation.max(highest);
        set_counters(&index, self.name, &counters)?;
        Ok(index)
    }

    fn items(&self, place: &Place) -> Items<super::backup::Payload<'_>> {
        Items::new(self.backup.payload(place))
    }

    /// Unpacks the snapshot.
    fn unpack(&self, place: &Place, target: &Path) -> Result<tempfile::TempPath> {
        let mut prefix = target.file_name().unwrap_or_default().to_os_string();
        prefix.push(PARTIAL_INFIX);
        let what = || format!("cannot write the index {}", self.name.display());
        let mut file = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(PermissionsExt::from_mode(0o666))
            .tempfile_in(super::backup::folder_of(target))
            .map_err(|e| Error::io(what(), e).with_hint("does the folder exist, and may you write there?"))?;
        let payload = BufReader::with_capacity(1 << 18, self.backup.payload(place));
        std::io::copy(&mut FrameDecoder::new(payload), file.as_file_mut())
            .map_err(|e| Error::io(what(), e))?;
        Ok(file.into_temp_path())
    }

    /// Adds the generations of a record to the history of the index.
    fn add_all(&self, place: &Place, index: &Path, counters: &mut Counters) -> Result<()> {
        let mut items = self.items(place).peekable();
        while let Some(item) = items.next() {
            match item? {
                Item::Generation(line) => {
                    let batches = std::iter::from_fn(|| match items.peek()? {
                        Ok(Item::Batch(..)) | Err(_) => items.next(),
                        Ok(_) => None,
                    });
                    let batches = batches.map(|item| match item? {
                        Item::Batch(undo, batch) => Ok((undo, batch)),
                        _ => Err(Error::new(ErrorKind::Internal, "no batch")),
                    });
                    add_generation(index, self.name, &line, batches)?;
                }
                other => raise(&other, counters)?,
            }
        }
        Ok(())
    }

    /// Checks that the index has the generation and digest of the record.
    fn expect(&self, index: &Path, place: &Place) -> Result<()> {
        let history = History::open(index)?;
        let active = history.active()?;
        if (active.number, active.digest) == (place.head.version, place.head.digest) {
            return Ok(());
        }
        let what = format!(
            "the record of generation {} of {} makes generation {} with digest {}",
            place.head.version,
            self.backup.path().display(),
            active.number,
            active.digest
        );
        Err(Error::new(ErrorKind::BadIndex, what).with_hint("restore an earlier one with --generation"))
    }
}

fn raise(item: &Item, counters: &mut Counters) -> Result<()> {
    if let Item::Counters(found) = item {
        counters.log_end = counters.log_end.max(found.log_end);
        counters.next_id = counters.next_id.max(found.next_id);
        counters.last_generation = counters.last_generation.max(found.last_generation);
    }
    Ok(())
}
