//! One connection, from its first byte to its last.

use super::deadline::WriteDeadline;
use super::slots::{Slot, TakenSlot};
use super::state::Server;
use super::tls::Tls;
use crate::archive::protocol::{ErrorAnswer, HEADER_SERVER, VERSION};
use crate::error::{Error, ErrorKind};
use crate::remote::ssh::MuxStream;
use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A client must have sent its request's head by then, and, before that, be done with the TLS
/// handshake.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an answer that ends a connection may take to get across, in which what still comes is
/// thrown away: bytes that are unread when a socket is closed make the kernel reset the connection,
/// and then the answer is lost.
const LINGER: Duration = Duration::from_secs(1);
/// And no more than so much of it, where nothing large can come.
const LINGER_BYTES: u64 = 256 << 10;

/// So long an answer may wait for the other end to read on.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Whom a request came from: the other end of its connection.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) slot: Arc<Slot>,
}

/// What a new connection needs.
pub(super) struct Connection {
    /// `None` while another receiver has the base folder.
    pub(super) server: Option<Arc<Server>>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) http: Builder,
    pub(super) router: Router,
    pub(super) watcher: Watcher,
    /// Changes when the server stops.
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) peer: SocketAddr,
    /// Of all connections that may be open.
    pub(super) slot: TakenSlot,
}

impl Connection {
    pub(super) async fn serve(self, stream: TcpStream) {
        // Answers are small and wait for nothing: the kernel must not hold them back.
        let _ = stream.set_nodelay(true);
        // The kernel, too, gives up a peer that reads nothing, or is no longer there.
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(2 * WRITE_TIMEOUT));
        let slot = self.slot.slot.clone();
        tokio::select! {
            () = self.serve_on(WriteDeadline::new(stream, WRITE_TIMEOUT)) => {}
            () = slot.evicted() => tracing::debug!("connection ended: its slot goes to another one"),
        }
    }

    /// Serves one that has no socket of its own, nor needs TLS.
    pub(super) async fn serve_stream(self, stream: MuxStream) {
        let slot = self.slot.slot.clone();
        tokio::select! {
            () = self.speak(WriteDeadline::new(stream, WRITE_TIMEOUT)) => {}
            () = slot.evicted() => tracing::debug!("connection ended: its slot goes to another one"),
        }
    }

    async fn serve_on(mut self, stream: WriteDeadline<TcpStream>) {
        let Some(tls) = self.tls.clone() else { return self.speak(stream).await };
        let config = tls.config();
        let stream = tokio::select! {
            stream = tokio::time::timeout(HEAD_TIMEOUT, handshake(stream, TlsAcceptor::from(config))) => stream,
            _ = self.stopping.changed() => return,
        };
        let why = match stream {
            Ok(Ok(stream)) => return self.speak(stream).await,
            Ok(Err(why)) => why,
            Err(_) => "it took too long".to_string(),
        };
        if let Some(server) = &self.server {
            server.failed_handshakes.add(1);
        }
        tracing::info!("no TLS with {}: {why}", self.peer.ip());
    }

    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (service, peer) = (
            TowerToHyperService::new(self.router),
            Peer { address: self.peer.ip(), slot: self.slot.slot.clone() },
        );
        let service = hyper::service::service_fn(move |mut request: hyper::Request<_>| {
            request.extensions_mut().insert(peer.clone());
            service.call(request)
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        if let Err(e) = self.watcher.watch(connection).await {
            tracing::debug!("connection ended: {e}");
        }
    }
}

async fn handshake(
    stream: WriteDeadline<TcpStream>,
    acceptor: TlsAcceptor,
) -> Result<TlsStream<WriteDeadline<TcpStream>>, String> {
    let mut first = [0];
    match stream.get_ref().peek(&mut first).await {
        Ok(0) => return Err("it was closed".to_string()),
        // A handshake begins with 22, a method with a letter.
        Ok(_) if first[0].is_ascii_alphabetic() => {
            linger(stream, &plain_answer()).await;
            return Err("plain HTTP came".to_string());
        }
        Ok(_) => {}
        Err(e) => return Err(e.to_string()),
    }
    match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((e, stream)) => {
            // The alert that tells why is on its way.
            linger(stream, b"").await;
            Err(e.to_string())
        }
    }
}

/// The answer to plain HTTP at a port with TLS.
fn plain_answer() -> Vec<u8> {
    let what = "this port speaks HTTPS, and the request came as plain HTTP";
    let error = Error::new(ErrorKind::Malformed, what).with_hint("use https:// in the address");
    let body = serde_json::to_string(&ErrorAnswer::from(&error)).unwrap_or_default();
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{HEADER_SERVER}: {VERSION}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn linger(mut stream: WriteDeadline<TcpStream>, last: &[u8]) {
    let across = async {
        stream.write_all(last).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER, across).await;
}
