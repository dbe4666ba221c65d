//! The time by which requests are signed.

use super::tolerant::time_of;
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// The time of this host until a store refuses it, then that of the store.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    ahead_s: Arc<AtomicI64>,
}

/// A refusal by a store whose clock differs by less has another reason. AWS accepts 15 minutes.
const MIN_SKEW_S: u64 = 240;

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        let ahead_s = self.ahead_s.load(Ordering::Relaxed);
        let ahead = Duration::from_secs(ahead_s.unsigned_abs());
        let now = SystemTime::now();
        if ahead_s < 0 { now.checked_sub(ahead) } else { now.checked_add(ahead) }.unwrap_or(now)
    }
}

impl Clock {
    /// Adopts the time of an answer if it differs from this clock; gives by how many seconds it is
    /// ahead of the host's clock.
    pub(super) fn follow_answer(&self, answer: &HttpResponse) -> Option<i64> {
        self.follow(answer.headers().get("date").and_then(time_of)?.secs())
    }

    fn follow(&self, store_s: i64) -> Option<i64> {
        let host_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let ahead_s = store_s.checked_sub(i64::try_from(host_s).ok()?)?;
        let previous_s = self.ahead_s.load(Ordering::Relaxed);
        if ahead_s.abs_diff(previous_s) < MIN_SKEW_S {
            return None;
        }
        self.ahead_s.store(ahead_s, Ordering::Relaxed);
        Some(ahead_s)
    }

    /// Whether the clock follows a store's.
    pub(super) fn was_corrected(&self) -> bool {
        self.ahead_s.load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_follows_a_store_once() {
        let clock = Clock::default();
        let host_s = || {
            i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs())
                .unwrap()
        };
        assert_eq!(clock.follow(host_s() + 100), None, "close enough");
        for ahead_s in [3600, -7200] {
            assert!(clock.follow(host_s() + ahead_s).unwrap().abs_diff(ahead_s) < 60);
            assert_eq!(clock.follow(host_s() + ahead_s), None);
            let now_s = clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            assert!(i64::try_from(now_s).unwrap().abs_diff(host_s() + ahead_s) < 60);
        }
        assert_eq!(clock.follow(i64::MAX).map(|_| ()), Some(()));
        let _ = clock.now();
    }
}
