//! When a failed request is made again, and when it is given up.

use super::error::S3Error;
use rand::RngExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the store may fail until requests are given up: one budget for all requests of a
/// bucket.
pub(super) struct RetryBudget {
    start: Instant,
    limit: Duration,
    /// Time of the last success, in milliseconds from the start.
    success_ms: AtomicU64,
    /// Since when every request fails; 0 while the last one has succeeded.
    failing_ms: AtomicU64,
    /// Since when no request was answered, not even by a refusal; 0 while the last one was.
    silent_ms: AtomicU64,
    /// Time of the last failure; 0 before the first one.
    failed_ms: AtomicU64,
    /// Whether any request was ever answered.
    was_reached: AtomicBool,
}

const INITIAL_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// A store that was never reached is given up after this time: a wrong address is likelier than a
/// store that is down.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(25);
/// A request is given up after so many attempts without progress while the store otherwise works.
const MAX_ATTEMPTS: u32 = 8;

impl RetryBudget {
    pub(super) fn new(limit: Duration) -> Self {
        let [success_ms, failing_ms, silent_ms, failed_ms] = [0; 4].map(AtomicU64::new);
        let was_reached = AtomicBool::new(false);
        Self { start: Instant::now(), limit, success_ms, failing_ms, silent_ms, failed_ms, was_reached }
    }

    pub(super) fn record_success(&self) {
        self.success_ms.fetch_max(self.now_ms(), Ordering::Relaxed);
        self.failing_ms.store(0, Ordering::Relaxed);
        self.record_answer();
    }

    /// Records that the store has answered, with success or with a refusal.
    fn record_answer(&self) {
        self.silent_ms.store(0, Ordering::Relaxed);
        self.was_reached.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_ever_succeeded(&self) -> bool {
        self.success_ms.load(Ordering::Relaxed) != 0
    }

    pub(super) fn was_ever_reached(&self) -> bool {
        self.was_reached.load(Ordering::Relaxed)
    }

    /// How long the store may be silent.
    fn silence_limit(&self) -> Duration {
        let limit = self.limit + MAX_DELAY;
        if self.was_ever_reached() { limit } else { limit.min(FIRST_CONTACT_TIMEOUT) }
    }

    /// Whether the store has answered no request for longer than it may be silent.
    pub(super) fn is_unreachable(&self) -> bool {
        let since_ms = self.silent_ms.load(Ordering::Relaxed);
        since_ms != 0 && Duration::from_millis(self.now_ms().saturating_sub(since_ms)) > self.silence_limit()
    }

    /// Milliseconds from the start, at least 1.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Records a failure; gives for how long every request has failed.
    fn record_failure(&self, error: &S3Error) -> Duration {
        let now_ms = self.now_ms();
        let previous_ms = self.failed_ms.swap(now_ms, Ordering::Relaxed);
        if Duration::from_millis(now_ms.saturating_sub(previous_ms)) > self.limit + MAX_DELAY {
            // There was no request in between, so the earlier failure does not tell how long the
            // store has been failing now.
            self.failing_ms.store(0, Ordering::Relaxed);
            self.silent_ms.store(0, Ordering::Relaxed);
        }
        if matches!(error, S3Error::Unreachable(_)) {
            mark_start(&self.silent_ms, now_ms);
        } else {
            self.record_answer();
        }
        Duration::from_millis(now_ms.saturating_sub(mark_start(&self.failing_ms, now_ms)))
    }
}

/// The time in `mark`; a mark of 0 becomes `now_ms`.
fn mark_start(mark: &AtomicU64, now_ms: u64) -> u64 {
    mark.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed)
        .map_or_else(|since_ms| since_ms, |_| now_ms)
}

/// The attempts to get one thing.
pub(super) struct Attempts<'a> {
    budget: &'a RetryBudget,
    failed: u32,
    /// Time of the first of these failures, in milliseconds from the start of the budget.
    since_ms: u64,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(budget: &'a RetryBudget) -> Self {
        Self { budget, failed: 0, since_ms: 0 }
    }

    /// Records that bytes came: the next failure counts as the first one.
    pub(super) fn record_progress(&mut self) {
        self.failed = 0;
        self.budget.record_success();
    }

    /// Waits until it is time for the next attempt after this failure; false if there is none.
    pub(super) async fn again(&mut self, error: &S3Error) -> bool {
        if !error.is_transient() {
            if !matches!(error, S3Error::Rejected(0, _)) {
                self.budget.record_answer();
            }
            return false;
        }
        let (down, now_ms) = (self.budget.record_failure(error), self.budget.now_ms());
        if self.failed == 0 {
            self.since_ms = now_ms;
        }
        self.failed += 1;
        let limit = self.budget.limit;
        let others_succeed = self.budget.success_ms.load(Ordering::Relaxed) > self.since_ms;
        let is_over_limit = Duration::from_millis(now_ms - self.since_ms) >= limit;
        // A store that is down altogether gets time to come back once, not once for each object.
        let is_down = self.failed >= 2 && (down > limit + MAX_DELAY || self.budget.is_unreachable());
        if is_down || self.failed >= MAX_ATTEMPTS && (others_succeed || is_over_limit) {
            return false;
        }
        tokio::time::sleep(delay(self.failed)).await;
        true
    }
}

/// The delay doubles with each failure. Half of it is random, so that senders that failed together
/// do not come back together.
fn delay(failed: u32) -> Duration {
    let longest = INITIAL_DELAY.saturating_mul(1 << failed.saturating_sub(1).min(10)).min(MAX_DELAY);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient() -> S3Error {
        S3Error::Transient(String::new())
    }

    #[test]
    fn delays_grow_to_their_limit() {
        for failed in 1..20 {
            let (longest, delay) =
                (INITIAL_DELAY.saturating_mul(1 << (failed - 1).min(10)).min(MAX_DELAY), delay(failed));
            assert!(delay <= longest && delay >= longest / 2, "{failed}: {delay:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_while_others_succeed_and_go_on_while_all_fail() {
        let budget = RetryBudget::new(Duration::from_secs(3600));
        let mut attempts = Attempts::new(&budget);
        let mut made = 0;
        while attempts.again(&transient()).await {
            made += 1;
            std::thread::sleep(Duration::from_millis(2));
            budget.record_success();
        }
        assert_eq!(made, MAX_ATTEMPTS - 1);
        let budget = RetryBudget::new(Duration::from_secs(3600));
        let mut attempts = Attempts::new(&budget);
        for _ in 0..3 * MAX_ATTEMPTS {
            assert!(attempts.again(&transient()).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_down_is_waited_for_once() {
        let mut budget = RetryBudget::new(Duration::from_millis(20));
        // A long time without requests counts as no failure.
        budget.start -= Duration::from_secs(60);
        let mut attempts = Attempts::new(&budget);
        for _ in 0..3 {
            assert!(attempts.again(&transient()).await);
        }
        // Failing for a minute.
        budget.failing_ms.store(1, Ordering::Relaxed);
        let mut attempts = Attempts::new(&budget);
        assert!(attempts.again(&transient()).await && !attempts.again(&transient()).await);
        budget.record_success();
        let mut attempts = Attempts::new(&budget);
        for _ in 0..3 {
            assert!(attempts.again(&transient()).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_is_unreachable_if_it_never_answers_but_not_if_it_refuses() {
        let mut budget = RetryBudget::new(Duration::from_secs(3600));
        budget.start -= Duration::from_secs(60);
        let silent = S3Error::Unreachable(String::new());
        budget.silent_ms.store(1, Ordering::Relaxed);
        assert!(budget.is_unreachable(), "never reached for a minute");
        let mut attempts = Attempts::new(&budget);
        assert!(attempts.again(&silent).await && !attempts.again(&silent).await);
        // A store that has answered before gets the whole budget.
        budget.was_reached.store(true, Ordering::Relaxed);
        assert!(!budget.is_unreachable());
        for refusal in [transient(), S3Error::Rejected(403, String::new())] {
            budget.silent_ms.store(1, Ordering::Relaxed);
            Attempts::new(&budget).again(&refusal).await;
            assert_eq!(budget.silent_ms.load(Ordering::Relaxed), 0, "{refusal:?}");
        }
    }
}
