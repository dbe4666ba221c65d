//! The time of this host's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, as the time since 1970; 0 if the clock is before that.
fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now, in seconds since 1970.
#[must_use]
pub fn now_s() -> u64 {
    since_epoch().as_secs()
}

/// Now, in nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> i64 {
    i64::try_from(since_epoch().as_nanos()).unwrap_or(i64::MAX)
}
