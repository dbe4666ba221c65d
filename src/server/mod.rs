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
use crate::remote::ssh::Incoming;
use listener::{Listener, Source};
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

/// Serves `receiver` on connections that have no socket of their own, as those over standard input
/// and output, until `shutdown` is ready; then as [`run`].
///
/// # Errors
/// As [`run`].
pub async fn run_on_streams(
    incoming: Incoming,
    receiver: Arc<Receiver>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let listener = Listener::new(Source::Streams(tokio::sync::Mutex::new(incoming)), options);
    serve(listener, std::future::ready(Ok(receiver)), false, shutdown).await.map(drop)
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
    let stop_degraded = options.stop_degraded;
    serve(Listener::new(Source::Tcp(listener), options), opening, stop_degraded, shutdown).await
}

async fn serve(
    mut listener: Listener,
    opening: impl Future<Output = Result<Arc<Receiver>>>,
    stop_degraded: bool,
    shutdown: impl Future<Output = ()>,
) -> Result<Option<Arc<Receiver>>> {
    let mut degraded_check = tokio::time::interval(DEGRADED_INTERVAL);
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
                if let Some(accepted) = accepted {
                    listener.spawn(accepted);
                }
            }
        }
    }
    listener.stop().await
}
