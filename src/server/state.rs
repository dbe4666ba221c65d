//! What all connections of a server share, and the limits of a server.

use super::auth::Access;
use super::permits::{PerArchive, Permits};
use super::response_counters::ResponseCounters;
use super::tls::Tls;
use crate::archive::codec::frame_bound;
use crate::engine::receive::Receiver;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Counter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Limits and secrets of a server.
#[derive(Clone)]
pub struct ServerOptions {
    /// Whose requests are served; the health checks are always.
    pub access: Arc<Access>,
    /// How connections are encrypted; `None` speaks plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// The largest block, in bytes of content.
    pub max_block_bytes: u64,
    /// The largest index, in bytes as a SQLite file.
    pub max_index_bytes: u64,
    /// How many blocks may be in memory at once.
    pub max_inflight: usize,
    /// How many connections may be open at once.
    pub max_connections: usize,
    /// Stop when storage has failed, so that a standby takes over, rather than refuse until a
    /// restart.
    pub stop_degraded: bool,
    /// The addresses of all slices, in their order, if the receiver is one of several and senders are
    /// to reach each one by its own.
    pub peers: Vec<String>,
    /// The sender is in this process, and says itself why it was refused.
    pub in_process: bool,
}

impl ServerOptions {
    /// The usual limits.
    #[must_use]
    pub fn new(access: Arc<Access>) -> Self {
        Self {
            access,
            tls: None,
            max_block_bytes: 256 << 20,
            max_index_bytes: 16 << 30,
            max_inflight: 16,
            max_connections: MAX_CONNECTIONS,
            stop_degraded: false,
            peers: Vec::new(),
            in_process: false,
        }
    }
}

/// How many connections may be open at once, where the limit on descriptors allows it. Each may
/// hold a head in memory.
pub const MAX_CONNECTIONS: usize = 768;
/// How many indexes may be worked on at once, one of each archive.
const MAX_INDEXES: usize = 4;
/// How many more of clients that have no index in work: a change may copy for minutes what stays as
/// it is.
const MAX_SPARE_INDEXES: usize = 4;
/// How many bodies may be on their way to disk: of indexes, changes and batches of logs.
const MAX_SAVED_BODIES: usize = 32;
/// How many batches of logs may be worked on at once.
const MAX_BATCHES: usize = 4;
/// How many long lists of paths may be on their way.
const MAX_LISTS: usize = 4;
/// The receiver behind a server, and what its requests share.
pub(super) struct Server {
    pub(super) receiver: Arc<Receiver>,
    pub(super) options: ServerOptions,
    /// One permit for each block that may be in memory.
    pub(super) inflight: Arc<Permits>,
    /// One permit for each index that may be worked on.
    pub(super) indexes: Arc<Permits>,
    /// One permit for each batch of a log.
    pub(super) logs: Arc<Permits>,
    /// For requests with long lists.
    pub(super) lists: Arc<Permits>,
    /// For bodies on their way to disk.
    pub(super) saved: Arc<Permits>,
    /// Indexes that wait for a permit, or are worked on.
    pub(super) index_work: Arc<PerArchive>,
    stopping: AtomicBool,
    pub(super) responses: ResponseCounters,
    pub(super) connections: Counter,
    pub(super) failed_handshakes: Counter,
}

impl Server {
    pub(super) fn new(receiver: Arc<Receiver>, options: ServerOptions) -> Arc<Self> {
        Arc::new(Self {
            inflight: Permits::new(options.max_inflight, 0),
            indexes: Permits::new(MAX_INDEXES, MAX_SPARE_INDEXES),
            logs: Permits::new(MAX_BATCHES, 0),
            lists: Permits::new(MAX_LISTS, 0),
            saved: Permits::new(MAX_SAVED_BODIES, 0),
            index_work: Arc::default(),
            receiver,
            stopping: AtomicBool::new(false),
            responses: ResponseCounters::default(),
            connections: Counter::default(),
            failed_handshakes: Counter::default(),
            options,
        })
    }

    /// The longest body of a block, in bytes.
    pub(super) fn max_body_bytes(&self) -> u64 {
        frame_bound(self.options.max_block_bytes)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// # Errors
    /// [`ErrorKind::Busy`]: the receiver is stopping.
    pub(super) fn check_running(&self) -> Result<()> {
        if self.is_stopping() {
            return Err(Error::new(ErrorKind::Busy, "the receiver is stopping")
                .with_hint("it takes up where it was when it is back"));
        }
        Ok(())
    }
}
