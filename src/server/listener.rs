//! The listening socket: a task for each connection, and the end of all of them.

use super::connection::{Connection, HEAD_TIMEOUT};
use super::slots::Slots;
use super::state::{Server, ServerOptions};
use super::{handlers, standby};
use crate::engine::receive::Receiver;
use crate::engine::tasks::blocking;
use crate::error::Result;
use crate::remote::ssh::{Incoming, MuxStream};
use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioTimer;
use hyper_util::server::graceful::GracefulShutdown;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How long a stop waits for what is in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);
/// The longest head of a request, in bytes; beyond it the answer is 431. Every connection may hold
/// as much.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long no connection is accepted after one could not be: the process is out of descriptors,
/// mostly.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// Where connections come from.
pub(super) enum Source {
    Tcp(TcpListener),
    Streams(tokio::sync::Mutex<Incoming>),
}

/// A new connection, and where it comes from.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Stream(MuxStream),
}

impl Accepted {
    fn peer(&self) -> SocketAddr {
        match self {
            Self::Tcp(_, peer) => *peer,
            // It comes from a process that this host's sshd, or its user, has started.
            Self::Stream(_) => (Ipv4Addr::LOCALHOST, 0).into(),
        }
    }
}

pub(super) struct Listener {
    source: Source,
    options: ServerOptions,
    http: Builder,
    graceful: GracefulShutdown,
    slots: Arc<Slots>,
    stopping: watch::Sender<bool>,
    /// `None` until the receiver is open.
    server: Option<Arc<Server>>,
    router: Router,
}

impl Listener {
    /// A listener whose receiver is still to be opened: every request is told to come back.
    pub(super) fn new(source: Source, options: ServerOptions) -> Self {
        let mut http = Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
        let slots = Slots::new(options.max_connections);
        let (graceful, stopping) = (GracefulShutdown::new(), watch::Sender::new(false));
        Self { source, options, http, graceful, slots, stopping, server: None, router: standby::router() }
    }

    /// Serves `receiver` on new connections.
    pub(super) fn open(&mut self, receiver: Arc<Receiver>) {
        let server = Server::new(receiver, self.options.clone());
        self.router = handlers::router(server.clone());
        self.server = Some(server);
    }

    pub(super) fn is_open(&self) -> bool {
        self.server.is_some()
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.receiver.is_degraded())
    }

    /// The next connection. One more than allowed waits in the kernel's queue until another one has
    /// ended.
    pub(super) async fn accept(&self) -> Option<Accepted> {
        self.slots.wait().await;
        let listener = match &self.source {
            Source::Tcp(listener) => listener,
            Source::Streams(incoming) => match incoming.lock().await.next().await {
                Some(stream) => return Some(Accepted::Stream(stream)),
                // No more come; the server is about to be stopped.
                None => return std::future::pending().await,
            },
        };
        match listener.accept().await {
            Ok((stream, peer)) => Some(Accepted::Tcp(stream, peer)),
            Err(e) => {
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_DELAY).await;
                None
            }
        }
    }

    /// Serves a connection in a task of its own.
    pub(super) fn spawn(&self, accepted: Accepted) {
        let peer = accepted.peer();
        let slot = self.slots.take(peer.ip(), self.options.access.is_trusted_proxy(peer.ip()));
        let server = self.server.clone();
        let connection = Connection {
            server: server.clone(),
            tls: self.options.tls.clone(),
            http: self.http.clone(),
            router: self.router.clone(),
            watcher: self.graceful.watcher(),
            stopping: self.stopping.subscribe(),
            peer,
            slot,
        };
        tokio::spawn(async move {
            let count = server.as_ref().map(|server| &server.connections);
            count.inspect(|count| count.add(1));
            match accepted {
                Accepted::Tcp(stream, _) => connection.serve(stream).await,
                Accepted::Stream(stream) => connection.serve_stream(stream).await,
            }
            count.inspect(|count| count.sub(1));
        });
    }

    /// Finishes what is in flight, at most [`STOP_TIMEOUT`], and makes it durable. Gives the
    /// receiver, if it was opened.
    pub(super) async fn stop(self) -> Result<Option<Arc<Receiver>>> {
        drop(self.source);
        if let Some(server) = &self.server {
            server.stop();
        }
        self.stopping.send_replace(true);
        if tokio::time::timeout(STOP_TIMEOUT, self.graceful.shutdown()).await.is_err() {
            tracing::warn!(
                "some requests were still running after {} s and were cut",
                STOP_TIMEOUT.as_secs()
            );
        }
        let Some(server) = self.server else { return Ok(None) };
        let receiver = server.receiver.clone();
        blocking(move || receiver.flush()).await?;
        Ok(Some(server.receiver.clone()))
    }
}
