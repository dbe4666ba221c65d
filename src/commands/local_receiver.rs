//! A receiver on a folder of this host, in the process that sends to it.

use super::connect::Connection;
use super::output::Output;
use crate::engine::destination::{StartReceiver, StartedReceiver};
use crate::engine::receive::{IN_USE_TIMEOUT, Receiver, ReceiverOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Answer;
use crate::server::{self, Access, AccessOptions, ServerOptions};
use crate::telemetry::{Monitor, Notice};
use rand::distr::{Alphanumeric, SampleString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;

/// The largest block that it takes, in bytes.
const MAX_BLOCK_BYTES: u64 = 1 << 32;

/// Starts receivers that listen on loopback, with a token that only this process knows.
pub(super) struct LocalReceiver {
    pub(super) connection: Connection,
    /// Its state folder, if it is not `.tar-like`.
    pub(super) state: Option<PathBuf>,
    /// What to do where another receiver uses the folder.
    pub(super) in_use_hint: &'static str,
}

impl StartReceiver for LocalReceiver {
    fn start(&self, folder: PathBuf) -> Answer<'_, StartedReceiver> {
        Box::pin(self.listen(folder))
    }
}

/// Says that this process waits for another receiver.
pub(super) fn tell_in_use(folder: &Path, output: &Output) {
    output.notice(Notice::Warning(format!(
        "another tar-like receiver uses {}; waiting up to {} seconds for its end",
        folder.display(),
        IN_USE_TIMEOUT.as_secs()
    )));
}

impl LocalReceiver {
    async fn listen(&self, folder: PathBuf) -> Result<StartedReceiver> {
        let output = self.connection.output.clone();
        let options = ReceiverOptions { state: self.state.clone(), ..ReceiverOptions::default() };
        let open = move || Receiver::open_when_free(&folder, options, || tell_in_use(&folder, &output));
        let receiver = tokio::task::spawn_blocking(open)
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "the receiver crashed").with_source(e))?
            .map_err(|e| if e.kind() == ErrorKind::InUse { e.with_hint(self.in_use_hint) } else { e })?;
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(|e| Error::io("cannot listen on loopback", e))?;
        let address = listener.local_addr().map_err(|e| Error::io("cannot ask for the address", e))?;
        let token = Alphanumeric.sample_string(&mut rand::rng(), 40);
        let access = Access::load(AccessOptions { token: Some(token.clone()), ..AccessOptions::default() })?;
        let options = ServerOptions {
            max_block_bytes: MAX_BLOCK_BYTES,
            in_process: true,
            ..ServerOptions::new(Arc::new(access))
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(server::run(listener, receiver.clone(), options, async {
            // An error says that the sender was dropped, which is a reason to stop, too.
            let _ = stopped.await;
        }));
        let client = self.connection.local_client(format!("http://{address}/tar"), token, receiver)?;
        let stop = Box::pin(async move {
            // An error says that the server has ended already; its own outcome says why.
            let _ = stop.send(());
            server
                .await
                .map_err(|e| Error::new(ErrorKind::Internal, "the receiver crashed").with_source(e))?
        });
        Ok(StartedReceiver { client, stop })
    }
}
