//! The retry driver: exponential backoff with jitter, until nothing has worked anywhere for too long.

use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use rand::RngExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

const INITIAL_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(20);
/// A receiver that was never reached may have been misspelt: nobody wants to wait a quarter of an hour to learn that.
const INITIAL_CONTACT_TIMEOUT: Duration = Duration::from_secs(30);

/// Whatever moves is progress, but not for ever: of what is sent again and again and never taken, so many times its length counts.
const COUNTED_TIMES: u64 = 4;

/// When to give up: no request of this process has succeeded, and nothing has moved, for so long.
#[derive(Debug, Clone)]
pub struct Patience(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stall: Duration,
    last_progress: Mutex<Instant>,
    /// Somebody has said that the receiver gives trouble, and nothing has worked since.
    told: AtomicBool,
    /// Requests whose bodies move.
    moving: Mutex<Vec<Weak<Movement>>>,
    /// A receiver has answered at least once.
    met: AtomicBool,
}

impl Patience {
    /// Gives up after `stall` without any success or movement.
    #[must_use]
    pub fn new(stall: Duration) -> Self {
        Self(Arc::new(Inner {
            stall,
            last_progress: Mutex::new(Instant::now()),
            told: AtomicBool::new(false),
            moving: Mutex::default(),
            met: AtomicBool::new(false),
        }))
    }

    /// Takes note that something worked.
    pub fn succeeded(&self) {
        self.start();
        self.0.told.store(false, Ordering::Relaxed);
        self.0.met.store(true, Ordering::Relaxed);
    }

    /// Takes note that a receiver is there, whatever it said.
    pub(super) fn reached(&self) {
        self.0.met.store(true, Ordering::Relaxed);
    }

    /// Starts to count now: whatever came before had nothing to do with the receiver.
    pub fn start(&self) {
        self.progressed(Instant::now());
    }

    fn progressed(&self, at: Instant) {
        let mut last = self.0.last_progress.lock().unwrap_or_else(PoisonError::into_inner);
        *last = at.max(*last);
    }

    /// Counts what moves of a request whose body has so many bytes, in all its attempts.
    pub(super) fn moves(&self, body_bytes: u64) -> Moves {
        let left = AtomicU64::new(body_bytes.saturating_mul(COUNTED_TIMES));
        let moves = Arc::new(Movement { patience: self.clone(), left, last: Mutex::default() });
        let mut moving = self.0.moving.lock().unwrap_or_else(PoisonError::into_inner);
        moving.retain(|other| other.strong_count() > 0);
        moving.push(Arc::downgrade(&moves));
        Moves(moves)
    }

    fn stall(&self) -> Duration {
        if self.0.met.load(Ordering::Relaxed) {
            self.0.stall
        } else {
            self.0.stall.min(INITIAL_CONTACT_TIMEOUT)
        }
    }

    /// How long nothing may succeed from now on.
    pub(super) fn left(&self) -> Duration {
        self.stall().saturating_sub(self.stalled())
    }

    /// How long nothing has succeeded or moved.
    fn stalled(&self) -> Duration {
        let moving = self.0.moving.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let moved = moving.iter().filter_map(|moves| moves.upgrade()?.last()).max();
        let last = *self.0.last_progress.lock().unwrap_or_else(PoisonError::into_inner);
        moved.unwrap_or(last).max(last).elapsed()
    }
}

/// What moves of one request.
#[derive(Debug, Clone)]
pub(super) struct Moves(Arc<Movement>);

#[derive(Debug)]
struct Movement {
    patience: Patience,
    /// So many bytes still count.
    left: AtomicU64,
    /// When it moved last, unless that was in vain.
    last: Mutex<Option<Instant>>,
}

impl Movement {
    fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Movement {
    fn drop(&mut self) {
        self.last().into_iter().for_each(|last| self.patience.progressed(last));
    }
}

impl Moves {
    /// Takes note that `bytes` of it move.
    pub(super) fn note(&self, bytes: u64) {
        let Self(moves) = self;
        let counts = |left: u64| left.checked_sub(bytes);
        if moves.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counts).is_ok() {
            *moves.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// What has moved was in vain: the receiver has no use for it as things are, however fast it comes.
    pub(super) fn was_in_vain(&self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
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

/// Runs `attempt` until it succeeds, fails for good, or patience is at its end.
pub(super) async fn retry<T, A>(
    patience: &Patience,
    monitor: &dyn Monitor,
    mut attempt: impl FnMut() -> A,
) -> Result<T>
where
    A: Future<Output = std::result::Result<T, Failed>>,
{
    let mut delay = INITIAL_DELAY;
    loop {
        let Failed { error, retry_after, answered, is_final } = match attempt().await {
            Ok(value) => {
                patience.succeeded();
                return Ok(value);
            }
            Err(failed) => failed,
        };
        if is_final || !error.kind().is_transient() {
            return Err(error);
        }
        let left = patience.left();
        if left.is_zero() {
            let again = "run the same command again: it goes on where it was";
            let hint = match error.hint().filter(|_| error.kind() != ErrorKind::Busy) {
                Some(hint) => format!("{hint}; then {again}"),
                None => format!("look at the receiver, then {again}"),
            };
            let stalled_s = patience.stalled().as_secs();
            let gave_up = format!("gave up after {stalled_s} s without success: {error}");
            return Err(Error::new(error.kind(), gave_up).with_hint(hint));
        }
        monitor.counters().retries.add(1);
        if !patience.0.told.swap(true, Ordering::Relaxed) {
            let what = match error.kind() {
                ErrorKind::NoSpace => "the receiver has no space left",
                ErrorKind::Degraded => "the receiver's storage failed",
                ErrorKind::Busy => "the receiver is busy",
                _ if answered => "the receiver could not do it",
                _ => "the receiver does not answer",
            };
            monitor
                .notice(Notice::Warning(format!("{what}; trying again for {} s ({error})", left.as_secs())));
        }
        // Half of the delay is fixed, half is chance: many senders that were cut at once do not come back at once.
        let jittered = delay.mul_f64(0.5 + rand::rng().random_range(0.0..0.5));
        let wait = jittered.max(retry_after.unwrap_or_default()).min(MAX_DELAY).min(left + INITIAL_DELAY);
        tokio::time::sleep(wait).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pulse::Pulse;
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

    /// What was said, and answers that say so.
    #[test]
    fn who_has_answered_is_not_called_silent() {
        struct Told(Silent, Mutex<Vec<String>>);
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
            let told = Told(Silent::default(), Mutex::default());
            run(async {
                let patience = Patience::new(Duration::from_secs(2));
                let attempt =
                    || async { Err(Failed { answered, ..Error::new(ErrorKind::Unreachable, "x").into() }) };
                assert!(retry::<(), _>(&patience, &told, attempt).await.is_err());
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
                let (patience, monitor) = (Patience::new(Duration::from_secs(6)), Silent::default());
                patience.succeeded();
                let other = patience.moves(1000);
                let (start, pulse) = (Instant::now(), Pulse::new(patience.moves(25)));
                let refused = || async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    pulse.beat(25);
                    if other_moves && start.elapsed() < Duration::from_secs(20) {
                        other.note(1);
                    }
                    let error = Error::new(ErrorKind::NoSpace, "full");
                    Err(Failed { answered: true, retry_after: Some(Duration::from_secs(5)), ..error.into() })
                };
                let watched = || pulse.watch(Duration::from_secs(60), refused());
                let error = retry::<(), _>(&patience, &monitor, watched).await.unwrap_err();
                let took_s = start.elapsed().as_secs();
                assert!((6..=7).contains(&(took_s - if other_moves { 15 } else { 0 })), "{took_s}");
                assert!(error.to_string().starts_with("gave up after 6 s"), "{error}");
            });
        }
    }

    /// A body that takes longer than the patience, and is cut again and again.
    #[test]
    fn what_moves_is_progress_but_not_for_ever() {
        run(async {
            let (patience, monitor) = (Patience::new(Duration::from_secs(20)), Silent::default());
            patience.succeeded();
            for (cuts, arrives) in [(1, true), (3, true), (u32::MAX, false)] {
                let (moves, calls) = (patience.moves(25), std::cell::Cell::new(0));
                let outcome = retry(&patience, &monitor, || async {
                    calls.set(calls.get() + 1);
                    let cut = calls.get() <= cuts;
                    for _ in 0..if cut { 22 } else { 25 } {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        moves.note(1);
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
            assert!(error.hint().is_some());
            let took = start.elapsed().as_secs();
            assert!((60..=81).contains(&took), "{took}");
        });
    }
}
