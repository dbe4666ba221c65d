//! A deadline for requests with large bodies: not for the whole, which depends on the link, but for standing still.

use super::retry::{Failed, Moves};
use crate::error::{Error, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// When a request moved last.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    last: Arc<Mutex<Instant>>,
    moves: Moves,
}

impl Pulse {
    pub(super) fn new(moves: Moves) -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())), moves }
    }

    /// Takes note that `bytes` of the request move.
    pub(super) fn beat(&self, bytes: usize) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.moves.note(bytes as u64);
    }

    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `request`, and gives it up when it stands still for `patience`.
    pub(super) async fn watch<T>(
        &self,
        patience: Duration,
        request: impl Future<Output = Result<T, Failed>>,
    ) -> Result<T, Failed> {
        let stands_still = async {
            loop {
                let until = self.last() + patience;
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
                    self.moves.was_in_vain();
                }
                outcome
            }
            () = stands_still => {
                let why = format!("the receiver took nothing and answered nothing for {} s", patience.as_secs());
                Err(Error::new(ErrorKind::Unreachable, why).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::retry::Patience;
    use super::*;

    #[test]
    fn a_slow_request_lives_and_a_still_one_does_not() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let moves = Patience::new(Duration::from_secs(900)).moves(1);
            let pulse = Pulse::new(moves.clone());
            let slow = async {
                for _ in 0..100 {
                    tokio::time::sleep(Duration::from_secs(9)).await;
                    pulse.beat(1);
                }
                Ok(7)
            };
            assert_eq!(pulse.watch(Duration::from_secs(10), slow).await.ok(), Some(7));
            let start = Instant::now();
            let still = std::future::pending::<Result<(), Failed>>();
            assert!(Pulse::new(moves).watch(Duration::from_secs(10), still).await.is_err());
            assert_eq!(start.elapsed().as_secs(), 10);
        });
    }
}
