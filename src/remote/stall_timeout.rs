//! A deadline for requests with large bodies: not for the whole, which depends on the link, but for
//! standing still.

use super::retry::Failed;
use crate::error::{Error, ErrorKind};
use crate::retry_budget::Movement;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// When a request moved last.
#[derive(Debug, Clone)]
pub(super) struct StallTimeout {
    last: Arc<Mutex<Instant>>,
    movement: Arc<Movement>,
}

impl StallTimeout {
    pub(super) fn new(movement: Arc<Movement>) -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())), movement }
    }

    /// Records that `bytes` of the request move.
    pub(super) fn record(&self, bytes: usize) {
        *self.last.lock() = Instant::now();
        self.movement.record(bytes as u64);
    }

    fn last(&self) -> Instant {
        *self.last.lock()
    }

    /// Runs `request`, and gives it up when it stands still for `limit`.
    pub(super) async fn watch<T>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        let stands_still = async {
            loop {
                let until = self.last() + limit;
                if until <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(until).await;
            }
        };
        tokio::select! {
            outcome = request => {
                if let Err(failed) = &outcome
                    && failed.answered
                    && matches!(failed.error.kind(), ErrorKind::NoSpace | ErrorKind::Degraded | ErrorKind::Unreachable)
                {
                    self.movement.was_in_vain();
                }
                outcome
            }
            () = stands_still => {
                let why = format!("the receiver took nothing and answered nothing for {} s", limit.as_secs());
                Err(Error::new(ErrorKind::Unreachable, why).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::retry::budget;
    use super::*;

    #[test]
    fn a_slow_request_lives_and_a_still_one_does_not() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let movement = budget(Duration::from_secs(900)).movement(1);
            let timeout = StallTimeout::new(movement.clone());
            let slow = async {
                for _ in 0..100 {
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    timeout.record(1);
                }
                Ok(7)
            };
            assert_eq!(timeout.watch(Duration::from_secs(10), slow).await.ok(), Some(7));
            let start = Instant::now();
            let still = std::future::pending::<Result<(), Failed>>();
            assert!(StallTimeout::new(movement).watch(Duration::from_secs(10), still).await.is_err());
            assert_eq!(start.elapsed().as_secs(), 10);
        });
    }
}
