//! SIGINT and SIGTERM: the user or the system wants the program to end.

use super::output::Output;
use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;

/// Runs `work` on a thread of its own. A signal cancels the run; `work` notices that, cleans up and
/// ends.
pub(super) async fn interruptible<T: Send + 'static>(
    output: &Arc<Output>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    cancelled_by_signal(output, async {
        let ended = tokio::task::spawn_blocking(work).await;
        ended.map_err(|e| {
            Error::new(ErrorKind::Internal, "the work crashed; this is a bug of tar-like").with_source(e)
        })?
    })
    .await
}

/// Waits for `job`. A signal cancels the run; `job` notices that, cleans up and ends.
pub(super) async fn cancelled_by_signal<T>(
    output: &Arc<Output>,
    job: impl Future<Output = Result<T>>,
) -> Result<T> {
    let stop = stop_signal();
    let mut job = std::pin::pin!(job);
    tokio::select! {
        ended = &mut job => ended,
        () = stop => {
            output.cancel();
            job.await
        }
    }
}

/// Ends at the first signal. Signals count from this call on, not from the first poll.
pub(super) fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
}
