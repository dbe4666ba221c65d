//! `history backup`: brings the backup of an index up to date.

use super::backup::{BackupFile, Damage, Record};
use super::payload::{Item, ItemWriter};
use crate::archive::backup::Place;
use crate::archive::codec::frame_info;
use crate::archive::digest::IndexDigest;
use crate::db::file::checkpoint;
use crate::db::generation::{Generation, History, Previous, Step};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use lz4_flex::frame::FrameEncoder;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a run of `history backup` has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaveReport {
    /// The file was made.
    pub created: bool,
    /// Generations that were added, in their order.
    pub added: Vec<u64>,
    /// The generation that the index, and now the backup, went back to before that.
    pub rewound_to: Option<u64>,
    /// The generation that a restore gives now.
    pub newest: u64,
    /// Length of the file, in bytes.
    pub file_bytes: u64,
    /// What was wrong with the file before.
    pub damage: Option<Damage>,
}

/// Brings the backup at `target` up to the generation of the index at `database`: makes it with a
/// snapshot if there is none, else appends the changes since. With `init`, there must be none.
///
/// # Errors
/// The index cannot be read, the backup is one of another index ([`ErrorKind::WrongIndex`]),
/// another run uses it, or the disk fails.
pub fn save(database: &Path, target: &Path, init: bool, monitor: &dyn Monitor) -> Result<SaveReport> {
    let source = Source::open(database, monitor)?;
    let active = source.history.active()?;
    let mut report = SaveReport {
        created: false,
        added: Vec::new(),
        rewound_to: None,
        newest: active.number,
        file_bytes: 0,
        damage: None,
    };
    let is_there = std::fs::symlink_metadata(target).is_ok();
    if !is_there || init {
        let backup = BackupFile::create(target, &record_of(active), |to| source.snapshot(to))?;
        report.created = true;
        report.added.push(active.number);
        report.file_bytes = backup.length()?;
        return Ok(report);
    }
    let mut backup = BackupFile::open_to_append(target)?;
    report.damage = backup.damage();
    source.append(&mut backup, &mut report)?;
    report.file_bytes = backup.length()?;
    Ok(report)
}

fn record_of(generation: &Generation) -> Record {
    let Generation { number, digest, created_s, .. } = *generation;
    Record { version: number, digest, created_s }
}

struct Source<'a> {
    file: File,
    history: History,
    previous: Vec<Previous>,
    database: &'a Path,
    monitor: &'a dyn Monitor,
}

impl<'a> Source<'a> {
    /// Opens the index. It is never written in place, so the open file does not change.
    fn open(database: &'a Path, monitor: &'a dyn Monitor) -> Result<Self> {
        let io = |e| Error::io(format!("cannot open the index {}", database.display()), e);
        checkpoint(database)?;
        let file = File::open(database).map_err(io)?;
        let history = History::open(database)?;
        if !history.is_ours() {
            let what =
                format!("{} was made by the original program, and has no generations", database.display());
            return Err(
                Error::new(ErrorKind::Usage, what).with_hint("make a new one with: tar-like index -c")
            );
        }
        // Opened one after the other: both have to be the same.
        let (held, named) = (file.metadata().map_err(io)?, std::fs::metadata(database).map_err(io)?);
        if (held.dev(), held.ino()) != (named.dev(), named.ino()) {
            let what = format!("the index {} is replaced just now", database.display());
            return Err(Error::new(ErrorKind::InUse, what).with_hint("run the same command again"));
        }
        let previous = history.previous()?;
        Ok(Self { file, history, previous, database, monitor })
    }

    fn go_on(&self) -> Result<()> {
        if self.monitor.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted").with_hint("nothing was written"));
        }
        Ok(())
    }

    fn snapshot(&self, to: &mut dyn Write) -> Result<()> {
        pack(&self.file, self.database, to, self.monitor)
    }

    /// The generation of that number, if the index was made of it.
    fn is_ancestor(&self, number: u64, digest: &IndexDigest) -> bool {
        let mut line = self.history.active().ok().map(|active| active.number);
        while let Some(generation) = line.and_then(|number| self.history.generation(number)) {
            if generation.number == number {
                return generation.digest == *digest;
            }
            line = generation.parent.filter(|&parent| parent < generation.number);
        }
        self.previous
            .iter()
            .any(|previous| (previous.number, &previous.digest) == (number, digest) && !previous.abandoned)
    }

    fn is_abandoned(&self, number: u64, digest: &IndexDigest) -> bool {
        let line = self.history.generation(number);
        line.is_some_and(|line| line.digest == *digest && line.abandoned)
            || self
                .previous
                .iter()
                .any(|previous| (previous.number, &previous.digest) == (number, digest) && previous.abandoned)
    }

    /// Adds to the backup what is missing there.
    fn append(&self, backup: &mut BackupFile, report: &mut SaveReport) -> Result<()> {
        let active = self.history.active()?;
        let is_ancestor = |place: &&Place| self.is_ancestor(place.head.version, &place.head.digest);
        let is_not = |place: &&Place| !is_ancestor(place);
        let behind: Vec<Place> = backup.lineage().live_line().take_while(is_not).copied().collect();
        let base = backup.lineage().live_line().nth(behind.len()).copied();
        let unknown = behind.iter().find(|place| !self.is_abandoned(place.head.version, &place.head.digest));
        let Some(base) = base.filter(|_| unknown.is_none()) else {
            let newest = backup.lineage().live().map_or(0, |live| live.head.version);
            let what = format!(
                "{} does not follow the backup {}, whose newest generation {newest} it does not know",
                self.database.display(),
                backup.path().display()
            );
            return Err(Error::new(ErrorKind::WrongIndex, what)
                .with_hint("name a new file for this index, or restore the backup"));
        };
        if !behind.is_empty() {
            let head = &base.head;
            let record = Record { version: head.version, digest: head.digest, created_s: head.created_s };
            backup.rewind(&record, |to| self.abandoned_since(head.version, to))?;
            report.rewound_to = Some(head.version);
        }
        let (mut parent, mut digest) = (base.head.version, base.head.digest);
        let way = self.history.generation(parent).and_then(|_| self.history.way(parent, active.number));
        match way {
            Some(way) => {
                for step in way {
                    self.go_on()?;
                    let Some(generation) = self.history.generation(step.to) else { continue };
                    let write = |to: &mut dyn Write| self.change(generation, to);
                    backup.append(&record_of(generation), (parent, &digest), write)?;
                    report.added.push(generation.number);
                    (parent, digest) = (generation.number, generation.digest);
                }
            }
            // The index was compacted since.
            None => {
                backup.append_snapshot(&record_of(active), (parent, &digest), |to| self.snapshot(to))?;
                report.added.push(active.number);
            }
        }
        Ok(())
    }

    /// The payload of a change.
    fn change(&self, generation: &Generation, to: &mut dyn Write) -> Result<()> {
        let mut items = ItemWriter::new(to);
        self.generation(generation, &mut items)?;
        items.item(&Item::Counters(self.history.counters()?))?;
        items.finish()
    }

    /// The payload of a rewind: the generations that were abandoned, which a receiver may still
    /// have.
    fn abandoned_since(&self, number: u64, to: &mut dyn Write) -> Result<()> {
        let mut items = ItemWriter::new(to);
        for line in self.history.generations().iter().filter(|line| line.abandoned && line.number > number) {
            self.generation(line, &mut items)?;
        }
        items.item(&Item::Counters(self.history.counters()?))?;
        items.finish()
    }

    fn generation(&self, generation: &Generation, items: &mut ItemWriter<'_>) -> Result<()> {
        items.item(&Item::Generation(generation.clone()))?;
        for undo in [false, true] {
            let step = Step { generation: generation.number, undo, to: generation.number, appended_bytes: 0 };
            let mut number = 0;
            while let Some(batch) = self.history.batch(&step, number)? {
                self.go_on()?;
                items.item(&Item::Batch(undo, batch))?;
                number += 1;
            }
        }
        Ok(())
    }
}

/// Writes the file of an index as an LZ4 frame.
pub(super) fn pack(file: &File, name: &Path, to: &mut dyn Write, monitor: &dyn Monitor) -> Result<()> {
    let mut frame = FrameEncoder::with_frame_info(frame_info(), to);
    let mut buffer = vec![0; 1 << 20];
    let (mut from, mut read_bytes) = (file, 0u64);
    loop {
        if monitor.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted").with_hint("nothing was written"));
        }
        let n = match from.read(&mut buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(|e| Error::io(format!("cannot read the index {}", name.display()), e))?,
        };
        if n == 0 {
            break;
        }
        read_bytes += n as u64;
        frame
            .write_all(buffer.get(..n).unwrap_or_default())
            .map_err(|e| Error::io("cannot write to the backup", e))?;
    }
    monitor.counters().done_bytes.set(read_bytes);
    frame.finish().map(drop).map_err(|e| match e {
        lz4_flex::frame::Error::IoError(e) => Error::io("cannot write to the backup", e),
        e => Error::new(ErrorKind::Internal, "cannot compress the index").with_source(e),
    })
}
