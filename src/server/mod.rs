//! HTTP in: connections, TLS, routes, authentication, limits, metrics. The only place for axum and
//! hyper's server.

mod auth;
mod body;
mod call;
mod connection;
mod deadline;
mod failure;
mod handlers;
mod headers;
mod listener;
mod metrics;
mod permits;
mod reload;
mod response_counters;
mod route;
mod slots;
mod standby;
mod state;
mod tls;

pub use auth::{
    Access, AccessOptions, Expiry, MIN_TOKEN_BYTES, Network, Scope, TOKENS_HEADER, TarIds, TokenEntry,
    parse_tokens,
};
pub use state::{MAX_CONNECTIONS, ServerOptions};
pub use tls::{Tls, TlsFiles};

use crate::engine::receive::Receiver;
use crate::error::Result;
use listener::Listener;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How often a receiver is asked whether its storage has failed.
const DEGRADED_INTERVAL: Duration = Duration::from_millis(500);

/// Serves `receiver` on `listener` until `shutdown` is ready; then finishes what is in flight,
/// within 25 s.
///
/// # Errors
/// The final sync failed: the last renames may not survive a power loss; the next start finds that
/// out.
pub async fn run(
    listener: TcpListener,
    receiver: Arc<Receiver>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    run_when_open(listener, std::future::ready(Ok(receiver)), options, shutdown).await.map(drop)
}

/// The same for a receiver that is still to be opened: until then every request is told to come
/// back. Gives the receiver, if there ever was one.
///
/// # Errors
/// The receiver cannot be opened, or the final sync failed.
pub async fn run_when_open(
    listener: TcpListener,
    opening: impl Future<Output = Result<Arc<Receiver>>>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<Option<Arc<Receiver>>> {
    let mut degraded_check = tokio::time::interval(DEGRADED_INTERVAL);
    let stop_degraded = options.stop_degraded;
    let mut listener = Listener::new(listener, options);
    tokio::pin!(opening, shutdown);
    loop {
        tokio::select! {
            // In this order: a receiver that is open must not have its first request refused.
            biased;
            opened = &mut opening, if !listener.is_open() => listener.open(opened?),
            () = &mut shutdown => break,
            _ = degraded_check.tick(), if stop_degraded => {
                if listener.is_degraded() {
                    break;
                }
            }
            accepted = listener.accept() => {
                if let Some((stream, peer)) = accepted {
                    listener.spawn(stream, peer);
                }
            }
        }
    }
    listener.stop().await
}
