//! Sending a folder while it is still being indexed: every byte is read once.
//!
//! ```text
//! walk ─▶ read, hash (all cores) ─▶ lay out, in order ─▶ index here
//!                                     │       └────────▶ log batches ──▶ receiver's index
//! large files, two at a time ─▶ hash ─┤                       │ a block waits until the log that lays it out is there
//!                                     └─▶ assemble blocks ────┴──▶ PUT
//! ```
//!
//! What goes wrong with a block or a file here is not mended here: the upload that follows asks the receiver what it misses.

mod assemble;
mod layout;
mod send;

use super::index::{IndexOptions, IndexReport, record_top_of};
use super::upload::UploadOptions;
use crate::archive::digest::IndexDigest;
use crate::archive::log::LogDigest;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::telemetry::{Monitor, Notice};
use assemble::Block;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// A part of the log, and where the archive ends with it.
struct LogPart {
    records: Vec<u8>,
    end: u64,
    /// Rows of the whole index, if nothing follows.
    rows: Option<u64>,
}

/// Parts of the log that may wait to be sent, at most [`layout::PART_BYTES`] each.
const LOG_PARTS: usize = 16;

/// Indexes the folder and sends it to `client` at once. Afterwards the index is at its place, the receiver has it, too, and most
/// of what it lays out. `stream` is a number that nobody ever used.
///
/// # Errors
/// The folder cannot be read, the index cannot be written, or the receiver refuses or is away for too long.
pub async fn stream(
    index: IndexOptions,
    upload: &UploadOptions,
    stream: LogDigest,
    client: Arc<dyn ReceiverClient>,
    monitor: Arc<dyn Monitor>,
) -> Result<IndexReport> {
    if upload.block_size == 0 {
        return Err(Error::new(ErrorKind::Usage, "the block size must not be 0"));
    }
    monitor.notice(Notice::Phase("sending"));
    client.patience().start();
    let (log_in, log_out) = mpsc::channel::<LogPart>(LOG_PARTS);
    // Of the blocks that are under way at once, one is still being put together.
    let slots = upload.workers.saturating_sub(1).max(1);
    let (blocks_in, blocks_out) = mpsc::channel::<Block>(slots);
    let (log_taken_in, log_taken) = oneshot::channel();
    let plan = layout::Plan {
        index: index.clone(),
        block_size: upload.block_size,
        log: log_in,
        blocks: blocks_in,
        log_taken,
        slots,
        runtime: tokio::runtime::Handle::current(),
    };
    let theirs = monitor.clone();
    let laid_out = tokio::task::spawn_blocking(move || layout::run(plan, &*theirs));
    let sender = send::Sender::new(upload, stream, client, monitor);
    let sent = sender.run(log_out, log_taken_in, blocks_out).await;
    // When sending ends early, laying out finds its channels closed, and ends as well.
    let laid_out =
        laid_out.await.map_err(|e| Error::new(ErrorKind::Internal, "indexing crashed").with_source(e))?;
    sent?;
    let report = laid_out?;
    record_top_of(&index)?;
    Ok(report)
}

/// The index digest that a block names before the index has one.
type Prefix = IndexDigest;
