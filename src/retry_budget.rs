//! How long nothing may succeed before requests are given up, and how long to wait before the next
//! attempt: for a receiver (`remote`) and for a store (`source/s3`).

use parking_lot::Mutex;
use rand::RngExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Delays between the attempts of one request: each is twice as long as the previous one.
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays from `initial` to `max`.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { next: initial, max }
    }

    /// The next delay. Half of it is chance: senders that failed together do not come back
    /// together.
    pub fn delay(&mut self) -> Duration {
        let longest = self.next;
        self.next = (longest * 2).min(self.max);
        longest.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

/// The same failure is told of again after this time.
const REPEAT_TIMEOUT: Duration = Duration::from_secs(60);

/// For how long every request may fail: one budget for all requests to the same address.
#[derive(Debug, Clone)]
pub struct RetryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: Duration,
    first_contact_limit: Duration,
    max_pause: Duration,
    state: Mutex<State>,
    /// Requests whose bodies move.
    moving: Mutex<Vec<Weak<Movement>>>,
    was_reached: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// When something succeeded or moved last.
    progress: Option<Instant>,
    /// Since when requests fail.
    failing: Option<Instant>,
    failed: Option<Instant>,
    /// What was last said of failures, and when.
    told: Option<(&'static str, Instant)>,
}

impl RetryBudget {
    /// A budget of `limit`; of `first_contact_limit`, if that is less, as long as nothing has
    /// answered: a wrong address is likelier then than one that is down. A failure more than
    /// `max_pause` after the previous one says nothing of the time between them.
    #[must_use]
    pub fn new(limit: Duration, first_contact_limit: Duration, max_pause: Duration) -> Self {
        Self(Arc::new(Inner {
            limit,
            first_contact_limit,
            max_pause,
            state: Mutex::default(),
            moving: Mutex::default(),
            was_reached: AtomicBool::new(false),
        }))
    }

    /// A full budget of the same length, for requests to another address.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(self.0.limit, self.0.first_contact_limit, self.0.max_pause)
    }

    /// Records a success.
    pub fn record_success(&self) {
        self.record_contact();
        self.record_progress(Instant::now());
        self.restart();
    }

    /// Records an answer, whatever it says.
    pub fn record_contact(&self) {
        self.0.was_reached.store(true, Ordering::Relaxed);
    }

    /// Starts with a full budget: earlier failures no longer count.
    pub fn restart(&self) {
        self.0.state.lock().failing = None;
    }

    fn record_progress(&self, at: Instant) {
        let progress = &mut self.0.state.lock().progress;
        *progress = (*progress).max(Some(at));
    }

    /// Records the failure of an attempt that began to fail at `since`. True for the first failure
    /// after a success.
    pub fn record_failure(&self, since: Instant) -> bool {
        let mut state = self.0.state.lock();
        if state.failed.is_some_and(|failed| since > failed + self.0.max_pause) {
            state.failing = None;
        }
        state.failed = Some(Instant::now());
        let is_first = state.failing.is_none();
        state.failing.get_or_insert(since);
        is_first
    }

    /// Whether to tell people of a failure: not where the same was said less than a minute ago,
    /// since now and then a request may succeed in between.
    pub fn tells(&self, what: &'static str) -> bool {
        let mut state = self.0.state.lock();
        if state.told.is_some_and(|(told, at)| told == what && at.elapsed() < REPEAT_TIMEOUT) {
            return false;
        }
        state.told = Some((what, Instant::now()));
        true
    }

    /// For how long every request has failed and nothing has moved.
    #[must_use]
    pub fn failing_for(&self) -> Duration {
        let moving = self.0.moving.lock().clone();
        let moved = moving.iter().filter_map(|movement| *movement.upgrade()?.last.lock()).max();
        let State { progress, failing, .. } = *self.0.state.lock();
        failing
            .and_then(|since| moved.max(progress).max(Some(since)))
            .map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// How long every request may fail from now on.
    #[must_use]
    pub fn left(&self) -> Duration {
        let Inner { limit, first_contact_limit, .. } = *self.0;
        let limit = if self.was_reached() { limit } else { limit.min(first_contact_limit) };
        limit.saturating_sub(self.failing_for())
    }

    /// Whether anything has ever answered.
    #[must_use]
    pub fn was_reached(&self) -> bool {
        self.0.was_reached.load(Ordering::Relaxed)
    }

    /// Whether anything has succeeded after `at`.
    #[must_use]
    pub fn has_succeeded_since(&self, at: Instant) -> bool {
        self.0.state.lock().progress > Some(at)
    }

    /// Counts what moves of a request whose body has so many bytes, in all its attempts.
    #[must_use]
    pub fn movement(&self, body_bytes: u64) -> Arc<Movement> {
        let left_bytes = AtomicU64::new(body_bytes.saturating_mul(COUNTED_TIMES));
        let movement = Arc::new(Movement { budget: self.clone(), left_bytes, last: Mutex::default() });
        let mut moving = self.0.moving.lock();
        moving.retain(|other| other.strong_count() > 0);
        moving.push(Arc::downgrade(&movement));
        movement
    }
}

/// Whatever moves is progress, but not for ever: of what is sent again and again and never taken,
/// so many times its length counts.
const COUNTED_TIMES: u64 = 4;

/// What moves of one request.
#[derive(Debug)]
pub struct Movement {
    budget: RetryBudget,
    /// So many bytes still count.
    left_bytes: AtomicU64,
    /// When it moved last, unless that was in vain.
    last: Mutex<Option<Instant>>,
}

impl Movement {
    /// Records that `bytes` of it move.
    pub fn record(&self, bytes: u64) {
        let counts = |left: u64| left.checked_sub(bytes);
        if self.left_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counts).is_ok() {
            *self.last.lock() = Some(Instant::now());
        }
    }

    /// What has moved was in vain: the receiver has no use for it as things are, however fast it
    /// comes.
    pub fn was_in_vain(&self) {
        *self.last.lock() = None;
    }
}

impl Drop for Movement {
    fn drop(&mut self) {
        if let Some(last) = *self.last.lock() {
            self.budget.record_progress(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_grow_to_their_limit() {
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        for longest in [1, 2, 4, 5, 5].map(|longest| longest * SECOND) {
            let delay = backoff.delay();
            assert!(delay <= longest && delay >= longest / 2, "{delay:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_failure_is_told_once_a_minute() {
        let budget = RetryBudget::new(60 * SECOND, 30 * SECOND, 20 * SECOND);
        assert!(budget.tells("full"));
        budget.record_success();
        tokio::time::advance(59 * SECOND).await;
        assert!(!budget.tells("full") && budget.tells("busy"));
        assert!(budget.tells("full"));
        tokio::time::advance(60 * SECOND).await;
        assert!(budget.tells("full"));
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_in_which_requests_fail_counts() {
        let budget = RetryBudget::new(60 * SECOND, 30 * SECOND, 20 * SECOND);
        tokio::time::advance(100 * SECOND).await;
        assert_eq!(budget.left(), 30 * SECOND);
        let since = Instant::now();
        tokio::time::advance(10 * SECOND).await;
        assert!(budget.record_failure(since) && !budget.record_failure(since));
        assert_eq!(budget.left(), 20 * SECOND);
        budget.record_contact();
        assert_eq!(budget.left(), 50 * SECOND);
        let movement = budget.movement(1);
        movement.record(1);
        assert_eq!(budget.left(), 60 * SECOND);
        movement.was_in_vain();
        assert_eq!(budget.left(), 50 * SECOND);
        // Nothing was asked for between these failures.
        tokio::time::advance(21 * SECOND).await;
        assert!(budget.record_failure(Instant::now()));
        assert_eq!(budget.left(), 60 * SECOND);
        tokio::time::advance(61 * SECOND).await;
        assert_eq!(budget.left(), Duration::ZERO);
        assert!(!budget.has_succeeded_since(since));
        budget.record_success();
        assert!(budget.left() == 60 * SECOND && budget.has_succeeded_since(since));
    }
}
