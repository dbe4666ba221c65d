//! Bringing the destination to what the source was, and verifying it.

use super::super::backup::BackupWriter;
use super::super::scan::{Scanned, scan};
use super::super::wire::{Neighbour, Stop};
use super::options::{SaveOptions, SaveReport};
use super::parse::Part;
use crate::archive::blockcopy::hasher::{Algorithm, Hasher, is_zero};
use crate::archive::blockcopy::head::Head;
use crate::archive::blockcopy::root::Root;
use crate::archive::blockcopy::{BLOCK, BadRecord};
use crate::archive::digest::Blake3;
use crate::engine::buffers::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::device::Target;
use crate::source::device::{Device, SparseExtent};
use crate::telemetry::{Monitor, Notice};
use std::ops::Range;
use std::sync::Arc;

/// With a backup, how many bytes share one sync of that file. Unit tests have small batches, to
/// stop between them.
const BATCH: u64 = if cfg!(test) { 32 << 10 } else { 32 << 20 };

/// The unit in which `--sparse` finds zeros, in bytes.
const CHUNK: usize = BLOCK as usize;

/// What a change counts besides its content, in bytes: its place in memory, and its heads in the
/// backup.
const WEIGHT: u64 = 64;

enum Change {
    /// What `range` of the content is goes to `position`.
    Write {
        position: u64,
        content: Arc<Buffer>,
        range: Range<usize>,
    },
    Zero {
        position: u64,
        length: u64,
    },
}

pub(super) struct Writer<'w> {
    options: &'w SaveOptions,
    target: Target,
    /// The destination for reading, as it was.
    old: Device,
    backup: Option<BackupWriter>,
    batch: Vec<Change>,
    batch_bytes: u64,
    head: Option<Head>,
    has_begun: bool,
    /// Where our own stream goes on.
    next: u64,
    root: Option<Blake3>,
    is_done: bool,
    verifies: bool,
    stop: &'w Stop<'w>,
    monitor: &'w dyn Monitor,
    report: SaveReport,
}

impl<'w> Writer<'w> {
    pub(super) fn new(
        options: &'w SaveOptions,
        target: Target,
        stop: &'w Stop<'w>,
        monitor: &'w dyn Monitor,
    ) -> Result<Self> {
        let old = Device::of(target.reader()?, target.name().to_string())?;
        let backup = match &options.backup {
            Some(path) if !options.dry_run => Some(BackupWriter::create(path, &old)?),
            _ => None,
        };
        monitor.counters().total_bytes.set(target.size());
        Ok(Self {
            options,
            target,
            old,
            backup,
            batch: Vec::new(),
            batch_bytes: 0,
            head: None,
            has_begun: false,
            next: 0,
            root: None,
            is_done: false,
            verifies: options.verify,
            stop,
            monitor,
            report: SaveReport::default(),
        })
    }

    pub(super) fn take(&mut self, part: Part) -> Result<()> {
        let begun = std::mem::replace(&mut self.has_begun, true);
        let out_of_place = || Neighbour::RetrieveBefore.sent(BadRecord::Damaged);
        let is_ours = |part: &Part| !matches!(part, Part::Content { is_native: false, .. } | Part::Done);
        match (&self.head, &part) {
            (None, Part::Head(head)) if !begun => return self.begin(*head),
            (_, Part::Head(_)) => return Err(out_of_place()),
            (None, part) if is_ours(part) => return Err(out_of_place()),
            (Some(_), Part::Content { is_native: false, .. }) => return Err(out_of_place()),
            (None, _) if self.verifies && !begun => {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "--verify needs a checksum --native at the other end; nothing was written",
                ));
            }
            _ => {}
        }
        match part {
            Part::Content { position, content, .. } => {
                let length = content.len() as u64;
                self.advance(position, length)?;
                self.report.written_bytes += length;
                self.content(position, content)?;
            }
            Part::Equal { position, length } => {
                self.advance(position, length)?;
                self.report.equal_bytes += length;
                self.monitor.counters().equal_bytes.add(length);
            }
            Part::Zeros { position, length } => {
                self.advance(position, length)?;
                self.report.written_bytes += length;
                self.report.zero_bytes += length;
                self.zeros(position, length)?;
            }
            Part::Root { end, root } => {
                // A part that was left out on the way shows here.
                let wanted = self.head.as_ref().map(Head::copy_end);
                if self.root.is_some() || wanted != Some(end) || self.next != end {
                    return Err(out_of_place());
                }
                self.root = Some(root);
            }
            Part::Done => self.is_done = true,
            Part::Head(_) => {}
        }
        Ok(())
    }

    fn begin(&mut self, head: Head) -> Result<()> {
        let needed = head.copy_end();
        self.target.fits(needed, || format!("the copy needs {needed}; nothing was written there"))?;
        self.monitor.counters().total_bytes.set(head.copy_end() - head.start);
        (self.next, self.head) = (head.start, Some(head));
        self.report.is_native = true;
        let now = self.old.identity();
        let is_same = head.destination.is_some_and(|then| {
            (then.is_device, then.device, then.inode) == (now.is_device, now.device, now.inode)
        });
        // Several processes may copy parts at once, and all of them write there.
        let is_whole = head.start == 0 && head.end.is_none();
        match head.destination {
            Some(then) if is_whole && (then.size != now.size || (is_same && then != now)) => Err(Error::new(
                ErrorKind::Different,
                format!(
                    "{} has changed since checksum began to read it, or is another one; nothing was written",
                    self.target.name()
                ),
            )
            .with_hint("run all three again, by the same names, when no other process writes there")),
            _ if !is_same && !self.verifies && !self.options.dry_run => {
                self.verifies = true;
                self.monitor.notice(Notice::Warning(format!(
                    "checksum has read something else than {}, as far as can be told: all of it will be read and compared at \
                     the end",
                    self.target.name()
                )));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Counts what came. Our own stream has no gaps up to the copy's end; the original's is in any
    /// order.
    fn advance(&mut self, position: u64, length: u64) -> Result<()> {
        let end = position + length;
        let counters = self.monitor.counters();
        if let Some(head) = &self.head {
            if position != self.next || end > head.copy_end() || self.root.is_some() {
                return Err(Neighbour::RetrieveBefore.sent(BadRecord::Damaged));
            }
            self.next = end;
            counters.done_bytes.add(length);
        } else {
            // This stream does not say where the source ends.
            let (written, dry_run) = (self.report.written_bytes, self.options.dry_run);
            self.target.fits(end, || match (written, dry_run) {
                (0, _) => format!("the copy needs {end} at least; nothing was written there"),
                (_, true) => format!("the copy needs {end} at least"),
                _ => format!("the copy needs {end} at least; the first {written} bytes that differ were written already"),
            })?;
            counters.done_bytes.set(counters.done_bytes.get().max(end));
        }
        Ok(())
    }

    /// Takes content. With `--sparse`, its zeros become holes: small records of the original come
    /// joined.
    fn content(&mut self, position: u64, content: Buffer) -> Result<()> {
        let content = Arc::new(content);
        let zero = |at: usize| is_zero(&content[at..content.len().min(at + CHUNK)]);
        let mut at = 0;
        while at < content.len() {
            let is_hole = self.options.sparse && zero(at);
            let mut end = if self.options.sparse { at + CHUNK } else { content.len() };
            while end < content.len() && zero(end) == is_hole {
                end += CHUNK;
            }
            let range = at..end.min(content.len());
            let (position, length) = (position + at as u64, range.len() as u64);
            at = range.end;
            match is_hole {
                true => self.zeros(position, length)?,
                false => self.change(length, Change::Write { position, content: content.clone(), range })?,
            }
        }
        Ok(())
    }

    /// A run of zeros, which may be longer than a batch.
    fn zeros(&mut self, position: u64, length: u64) -> Result<()> {
        if self.backup.is_none() {
            return self.change(length, Change::Zero { position, length });
        }
        let (mut at, end) = (position, position + length);
        while at < end {
            self.stop.check()?;
            let old_end = self.old.size().min(end);
            // The backup of a hole, and of what lies behind the old end, is a length alone.
            let (piece_end, weight) = match (at < old_end).then(|| self.old.extent(at..old_end)) {
                Some(SparseExtent::Data(data)) => {
                    let piece_end = data.end.min(at + BATCH);
                    (piece_end, piece_end - at)
                }
                Some(SparseExtent::Hole(hole)) => (hole.end, 0),
                None => (end, 0),
            };
            self.change(weight, Change::Zero { position: at, length: piece_end - at })?;
            at = piece_end;
        }
        Ok(())
    }

    fn change(&mut self, weight: u64, change: Change) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        // Many small changes have more in heads than in content.
        let weight = weight + WEIGHT;
        // Before the change is added, since a batch of the backup is bounded.
        if self.batch_bytes + weight > BATCH {
            self.flush()?;
        }
        self.batch.push(change);
        self.batch_bytes += weight;
        if self.backup.is_none() { self.flush() } else { Ok(()) }
    }

    /// Backs up what will be overwritten, and overwrites it.
    fn flush(&mut self) -> Result<()> {
        if let Some(backup) = &mut self.backup {
            let ranges = self.batch.iter().map(|change| match change {
                Change::Write { position, range, .. } => *position..*position + range.len() as u64,
                Change::Zero { position, length } => *position..*position + *length,
            });
            backup.back_up(&self.old, ranges)?;
        }
        self.batch_bytes = 0;
        for change in std::mem::take(&mut self.batch) {
            match change {
                Change::Write { position, content, range } => {
                    self.target.write(position, &content[range])?;
                }
                Change::Zero { position, length } => self.target.zero(position, length)?,
            }
        }
        Ok(())
    }

    /// An error, with a hint to undo what was written.
    pub(super) fn stopped(&self, error: Error) -> Error {
        match (&self.backup, self.report.written_bytes) {
            (Some(backup), 1..) => {
                let name = self.target.name();
                let undo = format!("tar-like blockcopy undo --backup {} {name}", backup.name());
                let also = error.hint().map(|hint| format!("{hint}; or, to have {name} as it was: {undo}"));
                error.with_hint(also.unwrap_or(undo))
            }
            _ => error,
        }
    }

    pub(super) fn finish(mut self, wire_bytes: u64) -> Result<SaveReport> {
        let verified = self.complete().map_err(|e| self.stopped(e))?;
        let backup_bytes = self.backup.map_or(0, |backup| backup.bytes());
        Ok(SaveReport { wire_bytes, backup_bytes, verified, ..self.report })
    }

    fn complete(&mut self) -> Result<Option<Blake3>> {
        self.flush()?;
        if !self.is_done || (self.head.is_some() && self.root.is_none()) {
            return Err(Neighbour::RetrieveBefore.sent(BadRecord::Damaged));
        }
        if let Some(head) = self.head.filter(|head| head.end.is_none()) {
            self.cut(head.copy_end())?;
        }
        if self.options.dry_run {
            return Ok(None);
        }
        self.monitor.notice(Notice::Phase("syncing"));
        if !self.target.is_whole()? {
            return Err(Error::new(
                ErrorKind::Different,
                format!("{} was made shorter by another process meanwhile", self.target.name()),
            ));
        }
        self.target.sync()?;
        let verified = match (self.head, self.root) {
            (Some(head), Some(root)) if self.verifies => Some(self.verify(&head, root)?),
            _ => None,
        };
        if let Some(backup) = &mut self.backup {
            backup.end()?;
        }
        Ok(verified)
    }

    /// A file that is longer than the source becomes as long.
    fn cut(&mut self, end: u64) -> Result<()> {
        let size = self.target.size();
        if self.target.is_device() || size <= end {
            return Ok(());
        }
        self.report.cut_bytes = size - end;
        if self.options.dry_run {
            return Ok(());
        }
        if let Some(backup) = &mut self.backup {
            let mut at = end;
            while at < size {
                self.stop.check()?;
                let piece_end = match self.old.extent(at..size) {
                    SparseExtent::Data(data) => data.end.min(at + BATCH),
                    SparseExtent::Hole(hole) => hole.end,
                };
                backup.back_up(&self.old, std::iter::once(at..piece_end))?;
                at = piece_end;
            }
        }
        self.target.resize(end)
    }

    /// Reads the whole destination, from the medium where the system allows it, and compares the
    /// digest of all hashes with the source's.
    fn verify(&self, head: &Head, wanted: Blake3) -> Result<Blake3> {
        self.monitor.notice(Notice::Phase("verifying"));
        let device = Device::of(self.target.reader()?, self.target.name().to_string())?;
        device.drop_cache();
        let hasher = Hasher::new(Algorithm::Blake3, head.block);
        let mut root = Root::new(head, hasher.zero());
        let range = head.start..head.copy_end();
        let counters = self.monitor.counters();
        counters.done_bytes.set(0);
        scan(&device, &hasher, range, self.options.threads, self.stop, |scanned| {
            match scanned {
                Scanned::Span { length, hashes, .. } => {
                    root.push(&hashes);
                    counters.done_bytes.add(length.into());
                }
                Scanned::Zeros { length, .. } => {
                    root.push_zeros(length / u64::from(head.block));
                    counters.done_bytes.add(length);
                }
            }
            Ok(())
        })?;
        if root.finish() == wanted {
            return Ok(wanted);
        }
        Err(Error::new(
            ErrorKind::Different,
            format!(
                "{} is not what the source was: another process wrote there, or the medium failed",
                self.target.name()
            ),
        )
        .with_hint("run all three again, when no other process writes there"))
    }
}
