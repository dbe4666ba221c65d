//! Laying out the archive in the order of the walk: rows for the index here, the same for the log,
//! contents for the blocks.

use super::super::buffers::Buffers;
use super::super::index::{
    BatchContent, CONTENT_BATCH_BYTES, ContentUse, HashedFile, HashedLarge, IndexOptions, IndexReport,
    LargeFile, LargeReader, SIDE_BY_SIDE, Scan, ScannedEntry,
};
use super::super::plan::{ChangeKind, EntrySink, PlannedChange};
use super::assemble::{Assembler, Block, Closed, Origin};
use crate::archive::digest::IndexDigest;
use crate::archive::entry::FileEntry;
use crate::archive::log::{self, FileRow, LogDigest, LogEnd, LogRecord, first_digest};
use crate::archive::skipped::SkippedList;
use crate::db::index_write::IndexWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::telemetry::Monitor;
use crate::unix_time::now_s;
use parking_lot::Mutex;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender as AsyncSender;
use tokio::sync::{oneshot, watch};

/// A part of the log.
pub(super) struct LogPart {
    pub(super) records: Vec<u8>,
    /// Where the archive ends with it.
    pub(super) end: u64,
    /// Rows of the whole index, if it is the last part.
    pub(super) rows: Option<u64>,
}

/// The log as far as the receiver has it: its name, and where the archive ends in it.
#[derive(Clone, Copy)]
pub(super) struct Acknowledged {
    pub(super) prefix: IndexDigest,
    pub(super) end: u64,
}

impl Acknowledged {
    /// Nothing of a stream.
    pub(super) fn nothing(stream: &LogDigest) -> Self {
        Self { prefix: first_digest(stream), end: 0 }
    }

    /// Whether the receiver knows what lies in the archive before `end`.
    pub(super) fn covers(&self, end: u64) -> bool {
        self.end >= end
    }
}

/// What to lay out, and where it goes.
pub(super) struct Plan {
    pub(super) index: IndexOptions,
    pub(super) block_size: u64,
    /// Gets each entry when it is laid out.
    pub(super) entries: Option<EntrySink>,
    pub(super) log: AsyncSender<LogPart>,
    /// Told when the receiver has all of the log.
    pub(super) log_taken: oneshot::Receiver<()>,
    pub(super) blocks: AsyncSender<Block>,
    /// How far the receiver has the log.
    pub(super) acknowledged: watch::Receiver<Acknowledged>,
    pub(super) client: Arc<dyn ReceiverClient>,
    /// Complete blocks that may exist at once.
    pub(super) slots: usize,
    pub(super) runtime: Handle,
}

/// A part of the log is sent when it has so many bytes, if nothing else asks for it earlier.
const PART_BYTES: usize = 1 << 20;
/// Threads that do so: as many as are worth the memory for what they have begun to put together.
const LARGE_THREADS: usize = 2;
/// As long as a batch of small files, so that no short piece holds a long buffer.
const PIECE_BYTES: usize = CONTENT_BATCH_BYTES as usize;
/// How many buffers for contents are pooled.
const KEPT_BUFFERS: usize = 128;

/// A large file with its place in the archive.
struct Job {
    id: u64,
    offset: u64,
    large: Box<LargeFile>,
}

/// A large file that was read to its end.
struct Done {
    id: u64,
    read: HashedLarge,
}

/// Does the work of one stream, but for sending.
pub(super) fn run(plan: Plan, monitor: &dyn Monitor) -> Result<IndexReport> {
    let started_s = now_s();
    let pool = Buffers::new(KEPT_BUFFERS);
    let writer = IndexWriter::create(&plan.index.database)?;
    writer.source(&plan.index.identity()?.id)?;
    let scan = Scan::new(&plan.index, None, ContentUse::Contents(pool.clone()))?;
    let assembler = Assembler::new(plan.block_size, plan.blocks, plan.slots, plan.runtime.clone());
    let (jobs_in, jobs_out) = sync_channel::<Job>(0);
    let (done_in, done_out) = channel::<Done>();
    let jobs_out = Arc::new(Mutex::new(jobs_out));
    let large = LargeFiles {
        pool: &pool,
        assembler: &assembler,
        parallel: plan.index.threads > 1,
        can_clone: AtomicBool::new(plan.client.is_in_process()),
        client: &*plan.client,
        acknowledged: plan.acknowledged,
        runtime: plan.runtime,
        monitor,
    };
    std::thread::scope(|scope| {
        // In here, so that it goes before the threads are waited for: they end when nobody has work
        // for them.
        let mut layout = Layout {
            writer,
            records: Vec::new(),
            block_size: plan.block_size,
            entries: plan.entries,
            log: plan.log,
            assembler: &assembler,
            jobs: jobs_in,
            done: done_out,
            outstanding: 0,
            held: None,
        };
        for _ in 0..LARGE_THREADS.min(plan.index.threads / SIDE_BY_SIDE).max(1) {
            let (done_in, jobs_out, large) = (done_in.clone(), jobs_out.clone(), &large);
            let read = move || large.read(&jobs_out, &done_in);
            std::thread::Builder::new().spawn_scoped(scope, read).map_err(Error::thread)?;
        }
        // Only they hold these from now on: when they have given up, laying out learns that.
        drop((done_in, jobs_out));
        let skipped = scan.run(plan.index.threads, monitor, |scanned| layout.take(scanned))?;
        layout.finish(&plan.index, plan.log_taken, started_s, &skipped)
    })
}

/// A large file that is being read.
struct Reading {
    id: u64,
    /// Where in the archive its next piece belongs.
    at: u64,
    reader: LargeReader,
    /// It is the receiver's own copy that is read.
    is_staged: bool,
}

/// What the threads that read large files have in common.
struct LargeFiles<'a> {
    pool: &'a Arc<Buffers>,
    assembler: &'a Assembler,
    parallel: bool,
    /// The receiver has not refused to make a clone so far.
    can_clone: AtomicBool,
    client: &'a dyn ReceiverClient,
    acknowledged: watch::Receiver<Acknowledged>,
    runtime: Handle,
    monitor: &'a dyn Monitor,
}

impl LargeFiles<'_> {
    /// Reads the files of `jobs` until there are no more.
    fn read(&self, jobs: &Mutex<Receiver<Job>>, done: &Sender<Done>) {
        let mut under_way: Vec<Reading> = Vec::new();
        loop {
            let more = match under_way.len() {
                0 => jobs.lock().recv().ok(),
                SIDE_BY_SIDE.. => None,
                // Another thread that has nothing to do may wait there.
                _ => jobs.try_lock().and_then(|jobs| jobs.try_recv().ok()),
            };
            under_way.extend(more.map(|job| self.begin(job)));
            if under_way.is_empty() {
                return;
            }
            // No task takes blocks any more. The thread that lays out learns it from its closed
            // channel.
            if self.monitor.is_cancelled() || self.read_on(&mut under_way, done).is_err() {
                return;
            }
        }
    }

    fn begin(&self, Job { id, offset, large }: Job) -> Reading {
        let end = offset + large.entry().size;
        let (large, is_staged) = large.snapshot(|source| self.clone_at_receiver(id, end, source));
        Reading { id, at: offset, reader: LargeReader::new(large, PIECE_BYTES), is_staged }
    }

    /// The copy of a file that ends at `end` in the archive, if the receiver can share its blocks.
    fn clone_at_receiver(&self, id: u64, end: u64, source: &File) -> Option<File> {
        if !self.can_clone.load(Ordering::Relaxed) {
            return None;
        }
        let mut acknowledged = self.acknowledged.clone();
        // It has to know the file first. If sending has ended, so does all of this.
        self.runtime.block_on(acknowledged.wait_for(|known| known.covers(end))).ok()?;
        let clone = self.client.clone_file(id, source);
        self.can_clone.store(clone.is_some(), Ordering::Relaxed);
        clone
    }

    /// Reads, hashes and hands over a piece of each file; tells of those that are at their end.
    fn read_on(&self, under_way: &mut Vec<Reading>, done: &Sender<Done>) -> std::result::Result<(), Closed> {
        let pieces: Vec<_> = under_way.iter_mut().map(|file| file.reader.piece(self.pool)).collect();
        let mut to_hash: Vec<(&mut LargeReader, &[u8])> = under_way
            .iter_mut()
            .zip(&pieces)
            .filter_map(|(file, piece)| Some((&mut file.reader, &*piece.as_ref()?.bytes)))
            .collect();
        LargeReader::hash(&mut to_hash, self.parallel);
        for (file, piece) in std::mem::take(under_way).into_iter().zip(pieces) {
            let Some(piece) = piece else {
                let read = file.reader.finish();
                done.send(Done { id: file.id, read }).map_err(|_| Closed)?;
                continue;
            };
            let length = piece.bytes.len() as u64;
            let origin = match (piece.failed, file.is_staged) {
                (true, _) => Origin::Failed(file.id),
                (false, true) => Origin::Staged(file.id),
                (false, false) => Origin::Source,
            };
            self.assembler.add(file.at, piece.bytes, origin)?;
            under_way.push(Reading { at: file.at + length, ..file });
        }
        Ok(())
    }
}

struct Layout<'a> {
    writer: IndexWriter,
    records: Vec<u8>,
    block_size: u64,
    entries: Option<EntrySink>,
    log: AsyncSender<LogPart>,
    assembler: &'a Assembler,
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
    outstanding: usize,
    /// Content with where it begins in the archive, before it goes on.
    held: Option<(u64, BatchContent)>,
}

/// The task that closed the channel knows the reason.
fn closed() -> Error {
    Error::new(ErrorKind::Internal, "sending has ended")
}

impl From<Closed> for Error {
    fn from(_: Closed) -> Self {
        closed()
    }
}

impl Layout<'_> {
    fn take(&mut self, scanned: ScannedEntry) -> Result<()> {
        while let Ok(done) = self.done.try_recv() {
            self.note_done(&done)?;
        }
        self.name(&scanned)?;
        match scanned {
            ScannedEntry::File(HashedFile { file, content, chunk_map, .. }) => {
                let id = self.writer.files();
                let offset = self.lay_out(file, true)?;
                if let Some(chunk_map) = chunk_map {
                    self.writer.chunk_map(id, &chunk_map)?;
                }
                if let Some(content) = content {
                    self.hold(offset, content)?;
                }
            }
            ScannedEntry::Large(large) => {
                self.release()?;
                let id = self.writer.files();
                let offset = self.lay_out(large.entry(), false)?;
                // Its digests must not overtake its row.
                self.flush()?;
                self.outstanding += 1;
                self.jobs.send(Job { id, offset, large }).map_err(|_| closed())?;
            }
            ScannedEntry::Node(node) => {
                self.writer.node(&node)?;
                log::push(&mut self.records, &LogRecord::Node(node));
            }
        }
        if self.records.len() >= PART_BYTES { self.flush() } else { Ok(()) }
    }

    fn name(&self, scanned: &ScannedEntry) -> Result<()> {
        let Some(sink) = &self.entries else { return Ok(()) };
        let name = |file: &FileEntry| sink.take(&PlannedChange::of_file(ChangeKind::New, file, file.size));
        match scanned {
            ScannedEntry::File(HashedFile { file, .. }) => name(file),
            ScannedEntry::Large(large) => name(&large.entry()),
            ScannedEntry::Node(node) => sink.take(&PlannedChange::of_node(ChangeKind::New, node)),
        }
    }

    /// Neighbours of one batch go on as one piece: a block may have room for a hundred thousand
    /// files.
    fn hold(&mut self, offset: u64, content: BatchContent) -> Result<()> {
        if let Some((start, held)) = &mut self.held
            && *start + held.range.len() as u64 == offset
            && held.range.end == content.range.start
            && held.batch.as_ptr() == content.batch.as_ptr()
        {
            held.range.end = content.range.end;
            return Ok(());
        }
        self.release()?;
        self.held = Some((offset, content));
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        if let Some((offset, BatchContent { batch, range })) = self.held.take() {
            self.assembler.add(offset, batch.slice(range), Origin::Source)?;
        }
        Ok(())
    }

    /// Gives a file its place; returns where it starts.
    fn lay_out(&mut self, mut file: FileEntry, known: bool) -> Result<u64> {
        (file.id, file.offset) = (self.writer.files(), self.writer.total_bytes());
        if known {
            self.writer.file(&file)?;
        } else {
            self.writer.file_without_digests(&file)?;
        }
        let digests = file.blake3.filter(|_| known).map(|blake3| (file.md5, blake3));
        let (offset, end) = (file.offset, file.range().end);
        let row = FileRow { path: file.path, size: file.size, meta: file.meta, digests };
        log::push(&mut self.records, &LogRecord::File(row));
        if offset / self.block_size != end / self.block_size {
            // A block is laid out: it must not wait for the log.
            self.flush()?;
        }
        Ok(offset)
    }

    fn note_done(&mut self, done: &Done) -> Result<()> {
        self.outstanding -= 1;
        let HashedLarge { digests, consistent, chunk_map, .. } = &done.read;
        self.writer.digests(done.id, digests, *consistent)?;
        if let Some(chunk_map) = chunk_map {
            self.writer.chunk_map(done.id, chunk_map)?;
        }
        log::push(&mut self.records, &LogRecord::Digests(done.id, *digests));
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.records.is_empty() { Ok(()) } else { self.send_part(None) }
    }

    fn send_part(&mut self, rows: Option<u64>) -> Result<()> {
        let end = self.writer.total_bytes();
        let part = LogPart { records: std::mem::take(&mut self.records), end, rows };
        self.log.blocking_send(part).map_err(|_| closed())
    }

    fn finish(
        mut self,
        options: &IndexOptions,
        log_taken: oneshot::Receiver<()>,
        started_s: u64,
        skipped: &SkippedList,
    ) -> Result<IndexReport> {
        self.flush()?;
        self.release()?;
        let total_bytes = self.writer.total_bytes();
        self.assembler.end(total_bytes)?;
        while self.outstanding > 0 {
            let done = self.done.recv().map_err(|_| closed())?;
            self.note_done(&done)?;
            self.flush()?;
        }
        let end = LogEnd {
            digest: self.writer.digest()?,
            files: self.writer.files(),
            nodes: self.writer.nodes(),
            total_bytes,
        };
        // Before the index here is sealed, so that the receiver verifies its own meanwhile.
        log::push(&mut self.records, &LogRecord::End(end));
        self.send_part(Some(end.files + end.nodes))?;
        drop(self.log);
        self.writer.skipped(1, skipped)?;
        let sealed = self.writer.seal(&options.source_bytes(), 1, started_s)?;
        // An index that is there goes to the receiver as a whole: it must not be, before the
        // receiver has it as well.
        log_taken.blocking_recv().map_err(|_| closed())?;
        let written = sealed.put_in_place()?;
        Ok(IndexReport {
            digest: written.digest,
            files: written.files,
            nodes: written.nodes,
            total_bytes: written.total_bytes,
            content_bytes: written.total_bytes,
            skipped: skipped.total(),
            excluded: options.filter.left_out(),
            unchanged: false,
            generation: 1,
            changes: None,
        })
    }
}
