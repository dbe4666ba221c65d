//! Sending the log, one batch after the other, and blocks, several at once.

use super::super::buffers::Buffers;
use super::super::compression_policy::{Coding, CompressionPolicy};
use super::super::tasks::blocking;
use super::super::upload::UploadOptions;
use super::assemble::Block;
use super::layout::{Acknowledged, LogPart};
use crate::archive::block_digest::BlockDigest;
use crate::archive::codec::{self, Compression};
use crate::archive::frame::Frame;
use crate::archive::layout::intersect;
use crate::archive::log::{LogDigest, first_digest, next_digest};
use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{BlockBody, LogBatch, ReceiverClient};
use crate::telemetry::{InFlight, Monitor, Notice};
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// A batch takes more parts as long as it has fewer bytes.
const BATCH_BYTES: usize = 4 << 20;

/// Everything that the sending tasks share.
pub(super) struct StreamSender {
    client: Arc<dyn ReceiverClient>,
    monitor: Arc<dyn Monitor>,
    stream: LogDigest,
    block_size: u64,
    workers: usize,
    ignore_done: bool,
    compression: CompressionPolicy,
    /// One for each core: more blocks at once would only take memory.
    cores: Semaphore,
    /// What the receiver had already.
    held: Mutex<RangeSet>,
}

impl StreamSender {
    pub(super) fn new(
        options: &UploadOptions,
        stream: LogDigest,
        client: Arc<dyn ReceiverClient>,
        monitor: Arc<dyn Monitor>,
    ) -> Arc<Self> {
        let cores = options.cores.max(1);
        Arc::new(Self {
            compression: CompressionPolicy::new(
                options.compression,
                &*client,
                cores,
                Buffers::new(options.workers.max(1)),
            ),
            client,
            monitor,
            stream,
            block_size: options.block_size,
            workers: options.workers.max(1),
            ignore_done: options.ignore_done,
            cores: Semaphore::new(cores),
            held: Mutex::default(),
        })
    }

    /// Sends until both channels end; `tell` is told how far the log is. The first error stops
    /// everything.
    pub(super) async fn run(
        self: Arc<Self>,
        log: mpsc::Receiver<LogPart>,
        log_taken: oneshot::Sender<()>,
        tell: watch::Sender<Acknowledged>,
        blocks: mpsc::Receiver<Block>,
    ) -> Result<()> {
        let acknowledged = tell.subscribe();
        let blocks = Arc::new(tokio::sync::Mutex::new(blocks));
        let mut tasks: JoinSet<Result<()>> = JoinSet::new();
        for _ in 0..self.workers {
            let (this, blocks, acknowledged) = (self.clone(), blocks.clone(), acknowledged.clone());
            tasks.spawn(async move {
                loop {
                    let next = blocks.lock().await.recv().await;
                    let Some(block) = next else { return Ok(()) };
                    this.send_block(block, acknowledged.clone()).await?;
                }
            });
        }
        drop((blocks, acknowledged));
        tasks.spawn(async move { self.send_log(log, log_taken, tell).await });
        while let Some(outcome) = tasks.join_next().await {
            // Leaving drops the set, which stops the other tasks and closes the channels.
            outcome
                .map_err(|e| Error::new(ErrorKind::Internal, "a sending task crashed").with_source(e))??;
        }
        Ok(())
    }

    async fn send_log(
        self: Arc<Self>,
        mut log: mpsc::Receiver<LogPart>,
        taken: oneshot::Sender<()>,
        tell: watch::Sender<Acknowledged>,
    ) -> Result<()> {
        let mut before = first_digest(&self.stream);
        while let Some(LogPart { records: mut batch, mut end, mut rows }) = log.recv().await {
            while batch.len() < BATCH_BYTES
                && let Ok(more) = log.try_recv()
            {
                batch.extend(more.records);
                (end, rows) = (more.end, more.rows);
            }
            let after = next_digest(&before, &batch);
            let length = batch.len() as u64;
            let body = blocking(move || {
                let mut body = Vec::new();
                codec::encode(&batch, Compression::Auto, &mut body);
                Ok(Frame::from(Bytes::from(body)))
            })
            .await?;
            let batch = LogBatch { body, length, stream: self.stream, before, rows };
            let answer = match self.client.append_log(&batch).await {
                // It may have been damaged on the way.
                Err(e) if matches!(e.kind(), ErrorKind::BadBlock | ErrorKind::BadIndex) => {
                    self.client.append_log(&batch).await?
                }
                other => other?,
            };
            answer.held.iter().for_each(|(start, end)| self.held.lock().insert(*start..*end));
            before = after;
            // No task waits when the last block was sent.
            let _ = tell.send(Acknowledged { prefix: after, end });
        }
        // Fails only if laying out has failed.
        let _ = taken.send(());
        Ok(())
    }

    async fn send_block(
        self: &Arc<Self>,
        mut block: Block,
        mut acknowledged: watch::Receiver<Acknowledged>,
    ) -> Result<()> {
        let until = block.range.end;
        let covered = acknowledged.wait_for(|known| known.covers(until)).await;
        // The log's own task says why it ended.
        let Ok(Acknowledged { prefix, .. }) = covered.map(|known| *known) else { return Ok(()) };
        let counters = self.monitor.counters();
        let (number, good_bytes) = (block.number, block.good_bytes);
        let is_held = !self.ignore_done && self.held.lock().contains(block.range.clone());
        if is_held {
            counters.done_bytes.add(good_bytes);
            counters.resumed_bytes.add(good_bytes);
            return Ok(());
        }
        if good_bytes == 0 {
            return Ok(());
        }
        let slot = block.slot.take();
        let block = Arc::new(block);
        let mut at = block.range.start;
        while at < block.range.end {
            let claim = self.client.window().claim(block.range.end - at, true).await;
            let part = at..at + claim.bytes();
            let (this, whole) = (self.clone(), block.clone());
            let core = self.cores.acquire().await;
            let (body, coding) = blocking(move || Ok(this.encode(&whole, part))).await?;
            drop(core);
            match self.client.put_block(&body, &prefix, &claim).await {
                Ok(_) => {
                    body.in_flight.confirm();
                    if at == block.range.start {
                        coding.count(counters);
                    }
                }
                // It is missing then, and read and sent again afterwards.
                Err(e) if e.kind() == ErrorKind::BadBlock => {
                    self.monitor.notice(Notice::Warning(format!(
                        "block {number} was refused and is sent again ({e})"
                    )));
                    return Ok(());
                }
                // The link carries less than it seemed: in smaller parts.
                Err(e) if e.kind().is_transient() && claim.is_outdated() => continue,
                Err(e) => return Err(e),
            }
            at += claim.bytes();
        }
        drop((block, slot));
        counters.sent_blocks.add(1);
        counters.sent_bytes.add(good_bytes);
        Ok(())
    }

    /// What of `block` lies in `part`, which lies in it.
    fn encode(&self, block: &Block, part: Range<u64>) -> (BlockBody, Coding) {
        let mut at = block.range.start;
        let mut pieces = Vec::with_capacity(block.pieces.len());
        for piece in &block.pieces {
            let range = at..at + piece.len() as u64;
            at = range.end;
            let within = intersect(&range, &part);
            if within.start < within.end {
                pieces.push(
                    piece.slice((within.start - range.start) as usize..(within.end - range.start) as usize),
                );
            }
        }
        let digest = (!self.client.is_in_process()).then(|| BlockDigest::of(&pieces));
        let (body, coding) = self.compression.encode(pieces);
        let content_bytes = block.good_bytes_before(part.end) - block.good_bytes_before(part.start);
        let body = BlockBody {
            number: block.number,
            block_size: self.block_size,
            body,
            zstd: matches!(coding, Coding::Zstd(_)),
            part: (part != block.range).then_some(part),
            digest,
            failed: block.failed.clone(),
            staged: block.staged.clone(),
            in_flight: InFlight::new(self.monitor.clone(), content_bytes),
        };
        (body, coding)
    }
}
