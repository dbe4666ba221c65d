//! The retry driver: exponential backoff with jitter, until nothing has worked anywhere for too long.

use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use rand::RngExt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(20);
/// A receiver that was never reached may have been misspelt: nobody wants to wait a quarter of an hour to learn that.
const FIRST_CONTACT: Duration = Duration::from_secs(30);

/// When to give up: no request of this process has succeeded for so long.
#[derive(Debug)]
pub struct Patience {
    stall: Duration,
    last_success: Mutex<Instant>,
    /// Somebody has said that the receiver gives trouble, and nothing has worked since.
    told: AtomicBool,
    /// A receiver has answered at least once.
    met: AtomicBool,
}

impl Patience {
    /// Gives up after `stall` without any success.
    #[must_use]
    pub fn new(stall: Duration) -> Self {
        Self {
            stall,
            last_success: Mutex::new(Instant::now()),
            told: AtomicBool::new(false),
            met: AtomicBool::new(false),
        }
    }

    /// Takes note that something worked.
    pub fn succeeded(&self) {
        *self.last_success.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.told.store(false, Ordering::Relaxed);
        self.met.store(true, Ordering::Relaxed);
    }

    /// Takes note that a receiver is there, whatever it said.
    pub(super) fn reached(&self) {
        self.met.store(true, Ordering::Relaxed);
    }

    /// Starts to count now: whatever came before had nothing to do with the receiver.
    pub fn start(&self) {
        *self.last_success.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn stall(&self) -> Duration {
        if self.met.load(Ordering::Relaxed) { self.stall } else { self.stall.min(FIRST_CONTACT) }
    }

    fn left(&self) -> Duration {
        let last = *self.last_success.lock().unwrap_or_else(PoisonError::into_inner);
        self.stall().saturating_sub(last.elapsed())
    }
}

/// A failed attempt: the error, and when the receiver wants to be asked again.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) retry_after: Option<Duration>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

/// Runs `attempt` until it succeeds, fails for good, or patience is at its end.
pub(super) async fn retry<T, A>(
    patience: &Patience,
    monitor: &dyn Monitor,
    mut attempt: impl FnMut() -> A,
) -> Result<T>
where
    A: Future<Output = std::result::Result<T, Failed>>,
{
    let mut delay = FIRST_DELAY;
    loop {
        let Failed { error, retry_after } = match attempt().await {
            Ok(value) => {
                patience.succeeded();
                return Ok(value);
            }
            Err(failed) => failed,
        };
        if !error.kind().is_transient() {
            return Err(error);
        }
        let left = patience.left();
        if left.is_zero() {
            let hint = error.hint_text().map(str::to_owned);
            let gave_up = Error::new(
                error.kind(),
                format!("gave up after {} s without success: {error}", patience.stall().as_secs()),
            );
            return Err(gave_up.hint(hint.unwrap_or_else(|| {
                "look at the receiver, then run the same command again: it goes on where it was".to_string()
            })));
        }
        monitor.counters().retries.add(1);
        if !patience.told.swap(true, Ordering::Relaxed) {
            let what = match error.kind() {
                ErrorKind::NoSpace => "the receiver has no space left",
                ErrorKind::Degraded => "the receiver's storage failed",
                ErrorKind::Busy => "the receiver is busy",
                _ => "the receiver does not answer",
            };
            monitor
                .notice(Notice::Warning(format!("{what}; trying again for {} s ({error})", left.as_secs())));
        }
        // Half of the delay is fixed, half is chance: many senders that were cut at once do not come back at once.
        let jittered = delay.mul_f64(0.5 + rand::rng().random_range(0.0..0.5));
        let wait = jittered.max(retry_after.unwrap_or_default()).min(LONGEST_DELAY).min(left + FIRST_DELAY);
        tokio::time::sleep(wait).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Silent;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn transient_errors_are_tried_again_and_others_not() {
        run(async {
            let (patience, monitor) = (Patience::new(Duration::from_secs(900)), Silent::default());
            let left = std::cell::Cell::new(5);
            let outcome = retry(&patience, &monitor, || async {
                left.set(left.get() - 1);
                if left.get() > 0 { Err(Error::new(ErrorKind::Unreachable, "reset").into()) } else { Ok(7) }
            });
            assert_eq!(outcome.await.unwrap(), 7);
            assert_eq!(monitor.counters().retries.get(), 4);
            let calls = std::cell::Cell::new(0);
            let outcome: Result<()> = retry(&patience, &monitor, || async {
                calls.set(calls.get() + 1);
                Err(Error::new(ErrorKind::WrongIndex, "other").into())
            })
            .await;
            assert_eq!((outcome.unwrap_err().kind(), calls.get()), (ErrorKind::WrongIndex, 1));
        });
    }

    #[test]
    fn gives_up_after_the_stall_timeout_and_keeps_the_kind() {
        run(async {
            let (patience, monitor) = (Patience::new(Duration::from_secs(60)), Silent::default());
            let start = Instant::now();
            let outcome: Result<()> =
                retry(&patience, &monitor, || async { Err(Error::new(ErrorKind::Unreachable, "no").into()) })
                    .await;
            assert!(outcome.is_err() && start.elapsed().as_secs() <= 51, "{:?}", start.elapsed());
            patience.succeeded();
            let start = Instant::now();
            let outcome: Result<()> =
                retry(&patience, &monitor, || async { Err(Error::new(ErrorKind::NoSpace, "full").into()) })
                    .await;
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(error.hint_text().is_some());
            let took = start.elapsed().as_secs();
            assert!((60..=81).contains(&took), "{took}");
        });
    }
}
