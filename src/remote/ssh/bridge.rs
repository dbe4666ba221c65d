//! The Unix socket that stands for a remote receiver. Each connection to it becomes one of the
//! mux; where ssh has ended, it is started again.

use super::session::{Session, Shell};
use crate::error::{Error, Result};
use crate::telemetry::{Monitor, Notice};
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinHandle};

/// A receiver that ssh has started. It ends when this is dropped.
pub struct SshReceiver {
    folder: TempDir,
    bridge: Arc<Bridge>,
    accepting: JoinHandle<()>,
}

struct Bridge {
    shell: Shell,
    monitor: Arc<dyn Monitor>,
    session: tokio::sync::Mutex<Option<Session>>,
    /// What the last attempt to start it again has ended with.
    last_failure: Mutex<Option<String>>,
}

impl SshReceiver {
    /// Starts it.
    ///
    /// # Errors
    /// ssh fails, the receiver does not start, or this host has no temporary folder.
    pub async fn start(shell: Shell, monitor: Arc<dyn Monitor>) -> Result<Self> {
        // Made for this user alone: no other user reaches the socket in it.
        let folder = tempfile::Builder::new()
            .prefix("tar-like-ssh-")
            .tempdir()
            .map_err(|e| Error::io("cannot make a temporary folder", e))?;
        let listener = UnixListener::bind(folder.path().join(SOCKET))
            .map_err(|e| Error::io("cannot listen on a Unix socket", e))?;
        let session = Session::start(&shell, false, &monitor).await?;
        let (session, last_failure) = (tokio::sync::Mutex::new(Some(session)), Mutex::default());
        let bridge = Arc::new(Bridge { shell, monitor, session, last_failure });
        let accepting = tokio::spawn(accept(listener, bridge.clone()));
        Ok(Self { folder, bridge, accepting })
    }

    /// Where it is reached.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    /// Ends it, and waits until everything is on the remote host's stable storage.
    ///
    /// # Errors
    /// The receiver says that it is not.
    pub async fn end(self) -> Result<()> {
        self.accepting.abort();
        match self.bridge.session.lock().await.take() {
            // One that has ended was mended by another one, or the run has failed by that.
            Some(session) if !session.mux.has_ended() => session.end(&self.bridge.shell.place).await,
            _ => Ok(()),
        }
    }
}

impl Drop for SshReceiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The socket's name in its folder.
const SOCKET: &str = "receiver";

/// Ends tasks when it is dropped.
#[derive(Default)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn accept(listener: UnixListener, bridge: Arc<Bridge>) {
    let mut tasks = Tasks::default();
    loop {
        let Ok((local, _)) = listener.accept().await else { return };
        tasks.0.retain(|task| !task.is_finished());
        let bridge = bridge.clone();
        tasks.0.push(tokio::spawn(async move { bridge.carry(local).await }).abort_handle());
    }
}

impl Bridge {
    /// Carries a connection; one that cannot be is closed, and its sender tries again.
    async fn carry(&self, mut local: UnixStream) {
        let mut slot = self.session.lock().await;
        if let Some(ended) = slot.take_if(|session| session.mux.has_ended()) {
            // ssh is ended before the next one begins.
            drop(ended);
            self.monitor.notice(Notice::Warning(format!(
                "the connection to {} has ended; ssh is started again",
                self.shell.place
            )));
        }
        if slot.is_none() {
            match Session::start(&self.shell, true, &self.monitor).await {
                Ok(session) => *slot = Some(session),
                Err(e) => return self.record_failure(&e),
            }
            *self.last_failure.lock() = None;
        }
        let Some(mux) = slot.as_ref().map(|session| session.mux.clone()) else { return };
        drop(slot);
        match mux.open().await {
            Ok(mut stream) => drop(tokio::io::copy_bidirectional(&mut local, &mut stream).await),
            Err(e) => tracing::debug!("no connection over ssh: {e}"),
        }
    }

    /// Says why ssh could not be started again, once for each reason.
    fn record_failure(&self, error: &Error) {
        let reason = error.to_string();
        let mut last = self.last_failure.lock();
        if last.as_ref() != Some(&reason) {
            self.monitor.notice(Notice::Warning(reason.clone()));
            *last = Some(reason);
        }
    }
}
