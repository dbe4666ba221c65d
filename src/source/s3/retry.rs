//! When a failed request is made again, and when it is given up.

use super::error::S3Error;
use crate::retry_budget::{Backoff, RetryBudget};
use std::time::Duration;
use tokio::time::Instant;

/// How long the store may fail until requests are given up: one budget for all requests of a
/// bucket.
pub(super) struct StoreBudget {
    limit: Duration,
    /// Of requests that fail for any reason.
    requests: RetryBudget,
    /// Of requests that are not answered, not even by a refusal.
    answers: RetryBudget,
}

const INITIAL_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// A store that was never reached is given up after this time: a wrong address is likelier than a
/// store that is down.
const FIRST_CONTACT_TIMEOUT: Duration = Duration::from_secs(25);
/// A request is given up after so many attempts without progress while the store otherwise works.
const MAX_ATTEMPTS: u32 = 8;

impl StoreBudget {
    pub(super) fn new(limit: Duration) -> Self {
        let all = limit + MAX_DELAY;
        let requests = RetryBudget::new(all, all, all);
        Self { limit, requests, answers: RetryBudget::new(all, FIRST_CONTACT_TIMEOUT, all) }
    }

    pub(super) fn record_success(&self) {
        self.requests.record_success();
        self.answers.record_success();
    }

    pub(super) fn has_ever_succeeded(&self) -> bool {
        self.requests.was_reached()
    }

    pub(super) fn was_ever_reached(&self) -> bool {
        self.answers.was_reached()
    }

    /// Whether the store has answered no request for longer than it may be silent.
    pub(super) fn is_unreachable(&self) -> bool {
        self.answers.left().is_zero()
    }

    fn record_failure(&self, error: &S3Error) {
        let now = Instant::now();
        self.requests.record_failure(now);
        match error {
            S3Error::Unreachable(_) => _ = self.answers.record_failure(now),
            _ => self.answers.record_success(),
        }
    }
}

/// The attempts to get one thing.
pub(super) struct Attempts<'a> {
    budget: &'a StoreBudget,
    failed: u32,
    /// Time of the first of these failures.
    since: Instant,
    backoff: Backoff,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(budget: &'a StoreBudget) -> Self {
        let backoff = Backoff::new(INITIAL_DELAY, MAX_DELAY);
        Self { budget, failed: 0, since: Instant::now(), backoff }
    }

    /// Records that bytes came: the next failure counts as the first one.
    pub(super) fn record_progress(&mut self) {
        self.budget.record_success();
        *self = Self::new(self.budget);
    }

    /// Waits until it is time for the next attempt after this failure; false if there is none.
    pub(super) async fn again(&mut self, error: &S3Error) -> bool {
        let budget = self.budget;
        if !error.is_transient() {
            if !matches!(error, S3Error::Rejected(0, _)) {
                budget.answers.record_success();
            }
            return false;
        }
        budget.record_failure(error);
        if self.failed == 0 {
            self.since = Instant::now();
        }
        self.failed += 1;
        let others_succeed = budget.requests.has_succeeded_since(self.since);
        let is_over_limit = self.since.elapsed() >= budget.limit;
        // A store that is down altogether gets time to come back once, not once for each object.
        let is_down = self.failed >= 2 && (budget.requests.left().is_zero() || budget.is_unreachable());
        if is_down || self.failed >= MAX_ATTEMPTS && (others_succeed || is_over_limit) {
            return false;
        }
        tokio::time::sleep(self.backoff.delay()).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient() -> S3Error {
        S3Error::Transient(String::new())
    }

    /// Has one request after the other fail for `time`.
    async fn fail_for(time: Duration, budget: &StoreBudget, error: &S3Error) {
        let start = Instant::now();
        while start.elapsed() < time {
            assert!(Attempts::new(budget).again(error).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_while_others_succeed_and_go_on_while_all_fail() {
        let budget = StoreBudget::new(Duration::from_secs(3600));
        let mut attempts = Attempts::new(&budget);
        let mut made = 0;
        while attempts.again(&transient()).await {
            made += 1;
            budget.record_success();
        }
        assert_eq!(made, MAX_ATTEMPTS - 1);
        let budget = StoreBudget::new(Duration::from_secs(3600));
        let mut attempts = Attempts::new(&budget);
        for _ in 0..3 * MAX_ATTEMPTS {
            assert!(attempts.again(&transient()).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_down_is_waited_for_once() {
        let budget = StoreBudget::new(Duration::from_millis(20));
        // A long time without requests counts as no failure.
        tokio::time::advance(Duration::from_secs(60)).await;
        let mut attempts = Attempts::new(&budget);
        for _ in 0..3 {
            assert!(attempts.again(&transient()).await);
        }
        fail_for(Duration::from_secs(6), &budget, &transient()).await;
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
        let budget = StoreBudget::new(Duration::from_secs(3600));
        let silent = S3Error::Unreachable(String::new());
        fail_for(Duration::from_secs(26), &budget, &silent).await;
        assert!(budget.is_unreachable(), "never reached for half a minute");
        let mut attempts = Attempts::new(&budget);
        assert!(attempts.again(&silent).await && !attempts.again(&silent).await);
        // A store that has answered before gets the whole budget.
        budget.answers.record_contact();
        assert!(!budget.is_unreachable());
        for refusal in [transient(), S3Error::Rejected(403, String::new())] {
            fail_for(Duration::from_secs(1), &budget, &silent).await;
            Attempts::new(&budget).again(&refusal).await;
            assert_eq!(budget.answers.failing_for(), Duration::ZERO, "{refusal:?}");
        }
    }
}
