//! Sending a folder while it is still being indexed: every byte is read once.
//!
//! ```text
//! walk ─▶ read, hash (all cores) ─▶ lay out, in order ─▶ index here
//!                                     │       └────────▶ log batches ──▶ receiver's index
//! large files, two at a time ─▶ hash ─┤                       │ a block waits until the log that
//! lays it out is there
//!                                     └─▶ assemble blocks ────┴──▶ PUT
//! ```
//!
//! A receiver in this process may share the blocks of a large file's content instead
//! (`clone_file`): this copy is read then, which cannot change any more, and is not written again.
//!
//! A block or file that fails here stays missing at the receiver. The upload that follows asks what
//! is missing, and sends it.

mod assemble;
mod layout;
mod send;

use super::index::{IndexOptions, IndexReport, record_top_of};
use super::plan::EntrySink;
use super::tasks::{blocking, interrupted};
use super::upload::UploadOptions;
use crate::archive::log::LogDigest;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::telemetry::{Monitor, Notice};
use assemble::Block;
use layout::{Acknowledged, LogPart};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Parts of the log that may wait to be sent, at most [`layout::PART_BYTES`] each.
const LOG_PARTS: usize = 16;

/// Indexes the folder and sends it to `client` at the same time. Afterwards the index is in place
/// here and at the receiver, and the receiver has most of the contents. `stream` is a number that
/// was never used; `entries` gets each entry when it is laid out.
///
/// # Errors
/// The folder cannot be read, the index cannot be written, or the receiver refuses or is
/// unreachable for too long.
pub async fn stream(
    index: IndexOptions,
    upload: &UploadOptions,
    stream: LogDigest,
    entries: Option<EntrySink>,
    client: Arc<dyn ReceiverClient>,
    monitor: Arc<dyn Monitor>,
) -> Result<IndexReport> {
    if upload.block_size == 0 {
        return Err(Error::new(ErrorKind::Usage, "the block size must not be 0"));
    }
    monitor.notice(Notice::Phase("sending"));
    client.budget().restart();
    let (log_in, log_out) = mpsc::channel::<LogPart>(LOG_PARTS);
    // Of the blocks that exist at once, one is still being assembled.
    let slots = upload.workers.saturating_sub(1).max(1);
    let (blocks_in, blocks_out) = mpsc::channel::<Block>(slots);
    let (log_taken_in, log_taken) = oneshot::channel();
    let (tell, acknowledged) = watch::channel(Acknowledged::nothing(&stream));
    let plan = layout::Plan {
        index: index.clone(),
        block_size: upload.block_size,
        entries,
        log: log_in,
        blocks: blocks_in,
        log_taken,
        acknowledged,
        client: client.clone(),
        slots,
        runtime: tokio::runtime::Handle::current(),
    };
    let (theirs, ours) = (monitor.clone(), monitor.clone());
    let sender = send::StreamSender::new(upload, stream, client, monitor);
    // When sending ends early, the thread that lays out finds its channels closed, and ends as
    // well.
    let (laid_out, sent) = tokio::join!(
        blocking(move || layout::run(plan, &*theirs)),
        sender.run(log_out, log_taken_in, tell, blocks_out)
    );
    sent?;
    // A sender that was cancelled may have closed the channels before the other thread saw it.
    let report = laid_out.map_err(|e| if ours.is_cancelled() { interrupted() } else { e })?;
    record_top_of(&index)?;
    Ok(report)
}
