//! What a failed request means, when it is made again, and when it is given up.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use rand::RngExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Why a request did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The object has another content than the one that was asked for.
    Changed,
    /// There is no such object (any more), or no such bucket.
    Gone(String),
    /// The same request will fail again; the number is the HTTP status, 0 where there was none.
    Refused(u16, String),
    /// It may succeed later.
    Passing(String),
}

impl Trouble {
    /// What is wrong with the object, for a person.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Changed => "it changed after it was listed".to_string(),
            Self::Gone(_) => "it is gone".to_string(),
            Self::Refused(403, why) => {
                format!("the store refuses access ({why})")
            }
            Self::Refused(_, why) | Self::Passing(why) => why,
        }
    }
}

/// Codes of the error document that mean "later" although their status does not.
const PASSING_CODES: [&str; 4] = ["RequestTimeout", "RequestTimeTooSkewed", "SlowDown", "InternalError"];

/// What the SDK's error means. Only its status, code and message are looked at: its details may hold headers with secrets.
pub(super) fn trouble<E>(error: &SdkError<E, HttpResponse>) -> Trouble
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    match error {
        SdkError::DispatchFailure(failure) => {
            let why = chain(failure.as_connector_error().map(|e| e as &dyn std::error::Error));
            // What a certificate lacks today, it lacks in a minute.
            if (failure.is_io() || failure.is_timeout()) && !why.contains("certificate") {
                Trouble::Passing(why)
            } else {
                Trouble::Refused(0, why)
            }
        }
        SdkError::TimeoutError(_) => Trouble::Passing("no answer in time".to_string()),
        SdkError::ResponseError(_) => {
            let why = format!("the answer ({status}) cannot be understood: {}", chain(Some(error)));
            if (400..500).contains(&status) { Trouble::Refused(status, why) } else { Trouble::Passing(why) }
        }
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or_default();
            let said = match (code, answer.err().message().unwrap_or_default()) {
                ("", "") => format!("status {status}"),
                (code, "") => format!("status {status}, {code}"),
                (code, message) => format!("status {status}, {code}: {message}"),
            };
            by_status(status, code, said)
        }
        other => Trouble::Refused(0, chain(Some(other))),
    }
}

fn by_status(status: u16, code: &str, said: String) -> Trouble {
    match status {
        _ if PASSING_CODES.contains(&code) => Trouble::Passing(said),
        404 => Trouble::Gone(said),
        // The range lies behind the end of what the key has now.
        412 | 416 => Trouble::Changed,
        501 => Trouble::Refused(status, said),
        408 | 429 | 500.. => Trouble::Passing(said),
        _ => Trouble::Refused(status, said),
    }
}

/// An error with all of its causes, each said once.
fn chain(error: Option<&dyn std::error::Error>) -> String {
    let (mut text, mut next) = (String::new(), error);
    while let Some(error) = next {
        let said = error.to_string();
        if !text.contains(&said) {
            let between = if text.is_empty() { "" } else { ": " };
            text.push_str(between);
            text.push_str(&said);
        }
        next = error.source();
    }
    if text.is_empty() { "the request failed".to_string() } else { text }
}

/// How long a store may do nothing right.
pub(super) struct Patience {
    start: Instant,
    limit: Duration,
    /// When anything succeeded last, in milliseconds from the start.
    success_ms: AtomicU64,
    /// Since when everything fails; 0 where the last thing has succeeded.
    failing_ms: AtomicU64,
}

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// So many attempts without progress are the end, where the store otherwise works.
const ATTEMPTS: u32 = 8;

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        let (success_ms, failing_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { start: Instant::now(), limit, success_ms, failing_ms }
    }

    pub(super) fn succeeded(&self) {
        self.success_ms.fetch_max(self.now_ms(), Ordering::Relaxed);
        self.failing_ms.store(0, Ordering::Relaxed);
    }

    /// From 1 on.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Takes note of a failure; gives how long there were only failures.
    fn failed(&self) -> Duration {
        let now_ms = self.now_ms();
        let since_ms = self.failing_ms.compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        Duration::from_millis(now_ms.saturating_sub(since_ms.map_or_else(|since_ms| since_ms, |_| now_ms)))
    }
}

/// The attempts to get one thing.
pub(super) struct Attempts<'a> {
    patience: &'a Patience,
    failed: u32,
    /// Of the first failure, in milliseconds from the start of everything.
    since_ms: u64,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(patience: &'a Patience) -> Self {
        Self { patience, failed: 0, since_ms: 0 }
    }

    /// Something came: whatever fails from now on is another failure.
    pub(super) fn progressed(&mut self) {
        self.failed = 0;
        self.patience.succeeded();
    }

    /// Waits until it is time for the next attempt; false says that there is none.
    pub(super) async fn again(&mut self) -> bool {
        let (down, now_ms) = (self.patience.failed(), self.patience.now_ms());
        if self.failed == 0 {
            self.since_ms = now_ms;
        }
        self.failed += 1;
        let limit = self.patience.limit;
        let others_work = self.patience.success_ms.load(Ordering::Relaxed) > self.since_ms;
        let long = Duration::from_millis(now_ms - self.since_ms) >= limit;
        // A store that is away altogether gets time to come back, once: not once for each object.
        let hopeless = self.failed >= 2 && down > limit + LONGEST_DELAY;
        if hopeless || self.failed >= ATTEMPTS && (others_work || long) {
            return false;
        }
        tokio::time::sleep(delay(self.failed)).await;
        true
    }
}

/// Doubles, with half of it random, so that senders that failed together do not come back together.
fn delay(failed: u32) -> Duration {
    let most = FIRST_DELAY.saturating_mul(1 << failed.saturating_sub(1).min(10)).min(LONGEST_DELAY);
    most.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_means() {
        let kind = |status, code: &str| by_status(status, code, String::new());
        assert_eq!(kind(404, "NoSuchKey"), Trouble::Gone(String::new()));
        assert_eq!((kind(412, ""), kind(416, "InvalidRange")), (Trouble::Changed, Trouble::Changed));
        for (status, code) in [(500, ""), (503, "SlowDown"), (429, ""), (400, "RequestTimeout"), (408, "")] {
            assert_eq!(kind(status, code), Trouble::Passing(String::new()), "{status} {code}");
        }
        for status in [400, 401, 403, 301, 501] {
            assert_eq!(kind(status, ""), Trouble::Refused(status, String::new()));
        }
    }

    #[test]
    fn delays_grow_to_their_limit() {
        for failed in 1..20 {
            let (most, delay) =
                (FIRST_DELAY.saturating_mul(1 << (failed - 1).min(10)).min(LONGEST_DELAY), delay(failed));
            assert!(delay <= most && delay >= most / 2, "{failed}: {delay:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end_where_others_succeed_and_go_on_where_nothing_does() {
        let patience = Patience::new(Duration::from_secs(3600));
        let mut attempts = Attempts::new(&patience);
        let mut made = 0;
        while attempts.again().await {
            made += 1;
            std::thread::sleep(Duration::from_millis(2));
            patience.succeeded();
        }
        assert_eq!(made, ATTEMPTS - 1);
        let patience = Patience::new(Duration::from_secs(3600));
        let mut attempts = Attempts::new(&patience);
        for _ in 0..3 * ATTEMPTS {
            assert!(attempts.again().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_is_waited_for_once() {
        let mut patience = Patience::new(Duration::from_millis(20));
        // Nothing was asked for a long time: that is no failure.
        patience.start -= Duration::from_secs(60);
        let mut attempts = Attempts::new(&patience);
        assert!(attempts.again().await && attempts.again().await && attempts.again().await);
        // Failing for a minute.
        patience.failing_ms.store(1, Ordering::Relaxed);
        let mut attempts = Attempts::new(&patience);
        assert!(attempts.again().await && !attempts.again().await);
        patience.succeeded();
        let mut attempts = Attempts::new(&patience);
        assert!(attempts.again().await && attempts.again().await && attempts.again().await);
    }
}
