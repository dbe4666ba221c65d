//! Background work that several requests wait for. A waiting request holds no thread.

use super::reason::reason;
use crate::error::{Error, ErrorKind, Result};
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::sync::watch;

/// The outcome of a job: an error can be answered to several requests, so only its kind and its
/// text are stored.
type Outcome<T> = std::result::Result<T, (ErrorKind, String)>;

/// A job and, once it has ended, its outcome.
pub(crate) struct Job<T> {
    outcome: watch::Sender<Option<Outcome<T>>>,
}

impl<T> Default for Job<T> {
    fn default() -> Self {
        Self { outcome: watch::Sender::new(None) }
    }
}

impl<T> Job<T> {
    /// Does `work` on this thread and records its outcome. A panic counts as an error about `name`:
    /// a crash must not leave the waiting requests without an answer.
    pub(crate) fn run(&self, name: &str, work: impl FnOnce() -> Result<T>) {
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, format!("{name} crashed; this is a bug of tar-like")))
        });
        self.outcome.send_replace(Some(outcome.map_err(|e| (e.kind(), reason(&e)))));
    }

    /// Waits until the job has ended, at most for `timeout`.
    pub(crate) async fn wait(&self, timeout: Duration) {
        let mut outcome = self.outcome.subscribe();
        let _ = tokio::time::timeout(timeout, outcome.wait_for(Option::is_some)).await;
    }

    /// What `read` makes of the result; `None` while the job runs.
    ///
    /// # Errors
    /// The job's own.
    pub(crate) fn result<R>(&self, read: impl FnOnce(&T) -> R) -> Result<Option<R>> {
        match &*self.outcome.borrow() {
            None => Ok(None),
            Some(Ok(result)) => Ok(Some(read(result))),
            Some(Err((kind, message))) => Err(Error::new(*kind, message.clone())),
        }
    }

    /// Whether the job has an outcome.
    pub(crate) fn has_ended(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    /// Whether the outcome is an error.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(&*self.outcome.borrow(), Some(Err(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_thousand_requests_wait_on_one_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let job = Arc::new(Job::<u32>::default());
            let wait = |job: &Arc<Job<u32>>| {
                let job = job.clone();
                tokio::spawn(async move {
                    job.wait(Duration::from_secs(100)).await;
                    job.result(|number| *number)
                })
            };
            let waiting: Vec<_> = (0..1000).map(|_| wait(&job)).collect();
            tokio::task::yield_now().await;
            job.wait(Duration::from_millis(1)).await;
            assert_eq!((job.result(|_| ()).unwrap(), job.has_ended()), (None, false));
            job.run("the job", || Ok(7));
            for waiter in waiting {
                assert_eq!(waiter.await.unwrap().unwrap(), Some(7));
            }
        });
    }

    #[test]
    fn a_panic_is_an_error_of_the_job() {
        let job = Job::<u32>::default();
        job.run("the job", || panic!("on purpose"));
        let error = job.result(|_| ()).unwrap_err();
        assert_eq!((error.kind(), job.has_failed()), (ErrorKind::Internal, true));
        assert!(error.to_string().starts_with("the job crashed"), "{error}");
    }
}
