//! What the parts of one `retrieve` share, and its report.

use super::super::coder::Coder;
use super::super::wire::Stop;
use crate::archive::blockcopy::hasher::Hasher;
use crate::archive::blockcopy::head::Head;
use crate::engine::buffers::Buffers;
use crate::source::device::Device;
use crate::telemetry::Monitor;
use std::sync::Arc;

/// What all parts of a run share.
pub(super) struct Job<'j> {
    pub(super) device: &'j Device,
    pub(super) hasher: Hasher,
    pub(super) coder: Coder,
    pub(super) xz: bool,
    /// The head of our own stream; `None` for the original's.
    pub(super) head: Option<Head>,
    pub(super) stop: &'j Stop<'j>,
    pub(super) monitor: &'j dyn Monitor,
    pub(super) buffers: Arc<Buffers>,
}

/// What was compared and sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct RetrieveReport {
    /// The source's size.
    pub source_bytes: u64,
    /// Bytes that are equal.
    pub equal_bytes: u64,
    /// Bytes of blocks that were sent, zeros included.
    pub sent_bytes: u64,
    /// Bytes of them that were sent as runs of zeros.
    pub zero_bytes: u64,
    /// Bytes that went to `save`.
    pub wire_bytes: u64,
    /// Whether the stream was ours.
    pub is_native: bool,
}
