//! Blocking work in async code, and async work of a run that may be cancelled.

use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use std::time::Duration;

/// Does blocking work on a thread for such work.
///
/// # Errors
/// The error of the work, or [`ErrorKind::Internal`] if it panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        Error::new(ErrorKind::Internal, "a task crashed; this is a bug of tar-like").with_source(e)
    })?
}

/// How often a job that waits for a receiver looks whether the run was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(100);

/// Waits for `work`, but not longer than until the run is cancelled.
pub(super) async fn until_cancelled<T>(
    monitor: &dyn Monitor,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let cancelled = async {
        while !monitor.is_cancelled() {
            tokio::time::sleep(CANCEL_INTERVAL).await;
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = cancelled => Err(interrupted()),
    }
}

/// The error of a cancelled run.
pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
        .with_hint("run the same command again: it goes on where it was")
}
