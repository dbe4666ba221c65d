//! A receiver on a folder of this host, in the process that sends to it.

use crate::engine::receive::{Receiver, ReceiverOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::server::{self, Access, AccessOptions, ServerOptions};
use rand::distr::{Alphanumeric, SampleString};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A receiver in this process, on loopback, that only this process has the token of.
pub(super) struct Embedded {
    pub(super) url: String,
    pub(super) token: String,
    stop: tokio::sync::oneshot::Sender<()>,
    server: tokio::task::JoinHandle<Result<()>>,
}

impl Embedded {
    /// Starts it on a folder.
    pub(super) async fn start(folder: &Path) -> Result<Self> {
        let folder = folder.to_path_buf();
        let receiver =
            tokio::task::spawn_blocking(move || Receiver::open(&folder, ReceiverOptions::default()))
                .await
                .map_err(|e| Error::new(ErrorKind::Internal, "the receiver crashed").because(e))??;
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(|e| Error::io("cannot listen on loopback", e))?;
        let address = listener.local_addr().map_err(|e| Error::io("cannot ask for the address", e))?;
        let token = Alphanumeric.sample_string(&mut rand::rng(), 40);
        let access = Access::load(AccessOptions { token: Some(token.clone()), ..AccessOptions::default() })?;
        let options = ServerOptions { max_block_bytes: 1 << 32, ..ServerOptions::new(Arc::new(access)) };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let server = tokio::spawn(server::run(listener, receiver, options, async {
            // An error says that the sender is gone, which is a reason to stop, too.
            let _ = stopped.await;
        }));
        Ok(Self { url: format!("http://{address}/tar"), token, stop, server })
    }

    /// Stops it, and waits until all is on stable storage.
    pub(super) async fn stop(self) -> Result<()> {
        // An error says that the server has ended already; it is the server's to say why.
        let _ = self.stop.send(());
        self.server.await.map_err(|e| Error::new(ErrorKind::Internal, "the receiver crashed").because(e))?
    }
}
