//! The retry driver: exponential backoff with jitter, until nothing has worked anywhere for too
//! long.

use crate::error::{Error, ErrorKind, Result};
use crate::retry_budget::{Backoff, RetryBudget};
use crate::telemetry::{Monitor, Notice};
use std::time::Duration;
use tokio::time::Instant;

const INITIAL_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(20);
/// So long a busy receiver is nothing to tell of.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
/// A receiver that was never reached may have been misspelt: nobody wants to wait a quarter of an
/// hour to learn that.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(30);

/// The budget of all requests to a receiver: `stall_timeout` without any success or movement.
pub(super) fn budget(stall_timeout: Duration) -> RetryBudget {
    // An attempt begins at most one delay after another one has failed.
    RetryBudget::new(stall_timeout, FIRST_CONTACT_TIMEOUT, 2 * MAX_DELAY)
}

/// A failed attempt: the error, and when the receiver wants to be asked again.
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) retry_after: Option<Duration>,
    /// The receiver has answered, and not that the link is too slow.
    pub(super) answered: bool,
    /// The caller makes another request, even where the same one might succeed later.
    pub(super) is_final: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None, answered: false, is_final: false }
    }
}

/// Runs `attempt` until it succeeds, fails for good, or the budget is used up.
pub(super) async fn retry<T, A>(
    budget: &RetryBudget,
    monitor: &dyn Monitor,
    mut attempt: impl FnMut() -> A,
) -> Result<T>
where
    A: Future<Output = std::result::Result<T, Failed>>,
{
    let mut backoff = Backoff::new(INITIAL_DELAY, MAX_DELAY);
    loop {
        let start = Instant::now();
        let Failed { error, retry_after, answered, is_final } = match attempt().await {
            Ok(value) => {
                budget.record_success();
                return Ok(value);
            }
            Err(failed) => failed,
        };
        if is_final || !error.kind().is_transient() {
            return Err(error);
        }
        let is_first = budget.record_failure(start);
        let left = budget.left();
        if left.is_zero() {
            let again = "run the same command again: it goes on where it was";
            let hint = match error.hint().filter(|_| error.kind() != ErrorKind::Busy) {
                Some(hint) => format!("{hint}; then {again}"),
                None => format!("look at the receiver, then {again}"),
            };
            let stalled_s = budget.failing_for().as_secs();
            let gave_up = format!("gave up after {stalled_s} s without success: {error}");
            return Err(Error::new(error.kind(), gave_up).with_hint(hint));
        }
        monitor.counters().retries.add(1);
        let what = match error.kind() {
            ErrorKind::NoSpace => "the receiver has no space left",
            ErrorKind::Degraded => "the receiver's storage failed",
            ErrorKind::Busy => "the receiver is busy",
            _ if answered => "the receiver could not do it",
            _ => "the receiver does not answer",
        };
        // A receiver may be busy for a moment, as when two senders begin at the same time.
        let is_due = match error.kind() {
            ErrorKind::Busy => budget.failing_for() >= BUSY_PATIENCE,
            _ => is_first,
        };
        if is_due && budget.tells(what) {
            monitor
                .notice(Notice::Warning(format!("{what}; trying again for {} s ({error})", left.as_secs())));
        }
        let wait = backoff.delay().max(retry_after.unwrap_or_default()).min(MAX_DELAY);
        tokio::time::sleep(wait.min(left + INITIAL_DELAY)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::stall_timeout::StallTimeout;
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
            let (budget, monitor) = (budget(Duration::from_secs(900)), Silent::default());
            let left = std::cell::Cell::new(5);
            let outcome = retry(&budget, &monitor, || async {
                left.set(left.get() - 1);
                if left.get() > 0 { Err(Error::new(ErrorKind::Unreachable, "reset").into()) } else { Ok(7) }
            });
            assert_eq!(outcome.await.unwrap(), 7);
            assert_eq!(monitor.counters().retries.get(), 4);
            let calls = std::cell::Cell::new(0);
            let outcome: Result<()> = retry(&budget, &monitor, || async {
                calls.set(calls.get() + 1);
                Err(Error::new(ErrorKind::WrongIndex, "other").into())
            })
            .await;
            assert_eq!((outcome.unwrap_err().kind(), calls.get()), (ErrorKind::WrongIndex, 1));
        });
    }

    /// What was said, and answers that say so.
    #[test]
    fn who_has_answered_is_not_called_silent() {
        struct Told(Silent, std::sync::Mutex<Vec<String>>);
        impl Monitor for Told {
            fn notice(&self, notice: Notice) {
                if let Notice::Warning(text) = notice {
                    self.1.lock().unwrap().push(text);
                }
            }
            fn counters(&self) -> &crate::telemetry::Counters {
                self.0.counters()
            }
        }
        for (answered, expected) in
            [(true, "the receiver could not do it"), (false, "the receiver does not answer")]
        {
            let told = Told(Silent::default(), std::sync::Mutex::default());
            run(async {
                let budget = budget(Duration::from_secs(2));
                let attempt =
                    || async { Err(Failed { answered, ..Error::new(ErrorKind::Unreachable, "x").into() }) };
                assert!(retry::<(), _>(&budget, &told, attempt).await.is_err());
            });
            let told = told.1.into_inner().unwrap();
            assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}");
        }
    }

    /// What a receiver without space has taken is no progress, but what others move is.
    #[test]
    fn what_is_refused_after_all_of_it_came_is_in_vain() {
        for other_moves in [false, true] {
            run(async {
                let (budget, monitor) = (budget(Duration::from_secs(6)), Silent::default());
                budget.record_success();
                let other = budget.movement(1000);
                let (start, timeout) = (Instant::now(), StallTimeout::new(budget.movement(25)));
                let refused = || async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    timeout.record(25);
                    if other_moves && start.elapsed() < Duration::from_secs(20) {
                        other.record(1);
                    }
                    let error = Error::new(ErrorKind::NoSpace, "full");
                    Err(Failed { answered: true, retry_after: Some(Duration::from_secs(5)), ..error.into() })
                };
                let watched = || timeout.watch(Duration::from_secs(60), refused());
                let error = retry::<(), _>(&budget, &monitor, watched).await.unwrap_err();
                let took_s = start.elapsed().as_secs();
                assert!((6..=7).contains(&(took_s - if other_moves { 15 } else { 0 })), "{took_s}");
                assert!(error.to_string().starts_with("gave up after 6 s"), "{error}");
            });
        }
    }

    /// A body that takes longer than the budget, and is cut again and again.
    #[test]
    fn what_moves_is_progress_but_not_for_ever() {
        run(async {
            let (budget, monitor) = (budget(Duration::from_secs(20)), Silent::default());
            budget.record_success();
            for (cuts, arrives) in [(1, true), (3, true), (u32::MAX, false)] {
                let (movement, calls) = (budget.movement(25), std::cell::Cell::new(0));
                let outcome = retry(&budget, &monitor, || async {
                    calls.set(calls.get() + 1);
                    let cut = calls.get() <= cuts;
                    for _ in 0..if cut { 22 } else { 25 } {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        movement.record(1);
                    }
                    if cut { Err(Error::new(ErrorKind::Unreachable, "reset").into()) } else { Ok(()) }
                });
                assert_eq!(outcome.await.is_ok(), arrives, "{cuts}");
                assert!(calls.get() <= 7, "{} attempts", calls.get());
            }
        });
    }

    #[test]
    fn gives_up_after_the_stall_timeout_and_keeps_the_kind() {
        run(async {
            let (budget, monitor) = (budget(Duration::from_secs(60)), Silent::default());
            let start = Instant::now();
            let outcome: Result<()> =
                retry(&budget, &monitor, || async { Err(Error::new(ErrorKind::Unreachable, "no").into()) })
                    .await;
            assert!(outcome.is_err() && start.elapsed().as_secs() <= 51, "{:?}", start.elapsed());
            budget.record_success();
            let start = Instant::now();
            let outcome: Result<()> =
                retry(&budget, &monitor, || async { Err(Error::new(ErrorKind::NoSpace, "full").into()) })
                    .await;
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(error.hint().is_some());
            let took = start.elapsed().as_secs();
            assert!((60..=81).contains(&took), "{took}");
        });
    }
}
