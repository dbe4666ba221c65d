//! HTTP in: connections, TLS, routes, authentication, limits, metrics. The only place for axum and hyper's server.

mod auth;
mod body;
mod connection;
mod deadline;
mod failure;
mod handlers;
mod headers;
mod metrics;
mod permits;
mod reload;
mod route;
mod slots;
mod standby;
mod tls;

pub use auth::{
    Access, AccessOptions, Expiry, MIN_TOKEN_BYTES, Network, Scope, TOKENS_HEADER, TarIds, TokenEntry,
    parse_tokens,
};
pub use tls::{Tls, TlsFiles};

use crate::archive::codec::frame_bound;
use crate::engine::receive::Receiver;
use crate::error::{Error, Result};
use crate::telemetry::Counter;
use connection::Connection;
use hyper_util::rt::TokioTimer;
use hyper_util::server::graceful::GracefulShutdown;
use permits::{PerArchive, Permits};
use slots::Slots;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

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
    /// Stop when storage has failed, so that a standby takes over, rather than refuse until somebody has looked.
    pub stop_degraded: bool,
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
        }
    }
}

/// How many connections may be open at once, where the limit on descriptors allows it. Each may hold a head in memory.
pub const MAX_CONNECTIONS: usize = 768;
/// How many indexes may be worked on at once, one of each archive.
const INDEXES_AT_ONCE: usize = 4;
/// How many more of clients that have no index in work: a change may copy for minutes what stays as it is.
const SPARE_INDEXES: usize = 4;
/// How many bodies may be on their way to disk: of indexes, changes and batches of logs.
const SAVED_AT_ONCE: usize = 32;
/// How many batches of logs may be worked on at once.
const LOGS_AT_ONCE: usize = 4;
/// How many long lists of paths may be on their way.
const LISTS_AT_ONCE: usize = 4;
/// How long a stop waits for what is in flight.
pub const STOP_PATIENCE: Duration = Duration::from_secs(25);
/// A client must have sent its request's head by then, and, before that, be done with the TLS handshake.
const HEAD_PATIENCE: Duration = Duration::from_secs(15);
/// The longest head of a request, in bytes; beyond it the answer is 431. Every connection may hold as much.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How often a receiver is asked whether its storage has failed.
const DEGRADED_EVERY: Duration = Duration::from_millis(500);

struct Server {
    receiver: Arc<Receiver>,
    options: ServerOptions,
    /// One permit for each block that may be in memory.
    inflight: Arc<Permits>,
    /// One permit for each index that may be worked on.
    indexes: Arc<Permits>,
    /// One permit for each batch of a log.
    logs: Arc<Permits>,
    /// For requests with long lists.
    lists: Arc<Permits>,
    /// For bodies on their way to disk.
    saved: Arc<Permits>,
    /// Indexes that wait for a permit, or are worked on.
    index_work: Arc<PerArchive>,
    stopping: AtomicBool,
    requests: metrics::Requests,
    connections: Counter,
    failed_handshakes: Counter,
}

impl Server {
    fn new(receiver: Arc<Receiver>, options: ServerOptions) -> Arc<Self> {
        Arc::new(Self {
            inflight: Permits::new(options.max_inflight, 0),
            indexes: Permits::new(INDEXES_AT_ONCE, SPARE_INDEXES),
            logs: Permits::new(LOGS_AT_ONCE, 0),
            lists: Permits::new(LISTS_AT_ONCE, 0),
            saved: Permits::new(SAVED_AT_ONCE, 0),
            index_work: Arc::default(),
            receiver,
            stopping: AtomicBool::new(false),
            requests: metrics::Requests::default(),
            connections: Counter::default(),
            failed_handshakes: Counter::default(),
            options,
        })
    }

    fn largest_body(&self) -> u64 {
        frame_bound(self.options.max_block_bytes)
    }
}

/// Serves `receiver` on `listener` until `shutdown` is ready; then finishes what is in flight, at most [`STOP_PATIENCE`].
///
/// # Errors
/// The final sync failed: the last renames may not survive a power loss; the next start finds that out.
pub async fn run(
    listener: TcpListener,
    receiver: Arc<Receiver>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    run_when_open(listener, std::future::ready(Ok(receiver)), options, shutdown).await.map(drop)
}

/// The same for a receiver that is still to be opened: until then every request is told to come back. Gives the receiver, if there ever
/// was one.
///
/// # Errors
/// The receiver cannot be opened, or the final sync failed.
pub async fn run_when_open(
    listener: TcpListener,
    opening: impl Future<Output = Result<Arc<Receiver>>>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<Option<Arc<Receiver>>> {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(MAX_HEAD_BYTES);
    let graceful = GracefulShutdown::new();
    let slots = Slots::new(options.max_connections);
    let stopping = tokio::sync::watch::channel(false);
    let mut look = tokio::time::interval(DEGRADED_EVERY);
    let mut server: Option<Arc<Server>> = None;
    let mut router = standby::router();
    tokio::pin!(opening, shutdown);
    loop {
        let accepted = tokio::select! {
            // In this order: a receiver that is open must not have its first request refused.
            biased;
            opened = &mut opening, if server.is_none() => {
                let opened = Server::new(opened?, options.clone());
                router = handlers::router(opened.clone());
                server = Some(opened);
                continue;
            }
            () = &mut shutdown => break,
            _ = look.tick(), if options.stop_degraded => {
                if server.as_ref().is_some_and(|server| server.receiver.is_degraded()) {
                    break;
                }
                continue;
            }
            // A connection more than allowed waits in the kernel's queue until another one has ended.
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, peer)) = accepted else { continue };
        let slot = slots.take(peer.ip(), options.access.is_trusted_proxy(peer.ip()));
        // Answers are small and wait for nothing: the kernel must not hold them back.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            server: server.clone(),
            tls: options.tls.clone(),
            http: http.clone(),
            router: router.clone(),
            watcher: graceful.watcher(),
            stopping: stopping.1.clone(),
            peer,
            slot,
        };
        let server = server.clone();
        tokio::spawn(async move {
            let count = server.as_ref().map(|server| &server.connections);
            count.inspect(|count| count.add(1));
            connection.serve(stream).await;
            count.inspect(|count| count.sub(1));
        });
    }
    drop(listener);
    if let Some(server) = &server {
        server.stopping.store(true, Ordering::SeqCst);
    }
    let _ = stopping.0.send(true);
    tracing::info!("stopping: finishing what is in flight");
    if tokio::time::timeout(STOP_PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were still running after {} s and were cut", STOP_PATIENCE.as_secs());
    }
    let Some(server) = server else { return Ok(None) };
    let receiver = server.receiver.clone();
    tokio::task::spawn_blocking(move || receiver.settle()).await.map_err(|e| {
        Error::new(crate::error::ErrorKind::Internal, "the final sync crashed").with_source(e)
    })??;
    Ok(Some(server.receiver.clone()))
}

async fn accept(listener: &TcpListener, slots: &Slots) -> Option<(TcpStream, SocketAddr)> {
    slots.wait().await;
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(e) => {
            tracing::warn!("cannot accept a connection: {e}");
            // Out of descriptors, mostly: give others time to end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
