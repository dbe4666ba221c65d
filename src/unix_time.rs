//! The time of this host's clock.

use jiff::Timestamp;
use jiff::tz::TimeZone;
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

/// A time, in nanoseconds since 1970, as this host's date, time of day and offset from UTC, as
/// 2026-01-31T13:59:00.5+01:00.
#[must_use]
pub fn local_date(ns: i64) -> String {
    date_in(ns, TimeZone::system())
}

fn date_in(ns: i64, zone: TimeZone) -> String {
    let time = Timestamp::from_nanosecond(i128::from(ns)).map(|time| time.to_zoned(zone));
    time.map_or_else(|_| format!("{ns} ns"), |time| time.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_their_offset_and_the_part_of_a_second() {
        let zone = || TimeZone::fixed(jiff::tz::offset(-5));
        assert_eq!(date_in(1_700_000_000_000_000_000, zone()), "2023-11-14T17:13:20-05:00");
        assert_eq!(date_in(1_700_000_000_500_000_000, TimeZone::UTC), "2023-11-14T22:13:20.5+00:00");
        assert_eq!(date_in(-1, TimeZone::UTC), "1969-12-31T23:59:59.999999999+00:00");
        assert_eq!(date_in(i64::MAX, TimeZone::UTC), "2262-04-11T23:47:16.854775807+00:00");
    }
}
