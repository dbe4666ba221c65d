//! How fast bytes move, and when the rest of them will have moved.

use std::time::Duration;

/// What was longer ago than about this, in seconds, counts for less and less.
const MEMORY_S: f64 = 15.0;
/// Before bytes have moved for so long there is no rate.
const MIN_TIME: Duration = Duration::from_secs(2);
/// When none has moved for so long, there is no time to name.
const STALL: Duration = Duration::from_secs(15);
/// A longer time left, in seconds, says nothing.
const MAX_ETA_S: f64 = 365.0 * 86_400.0;

/// Follows a number of bytes that grows, and sometimes shrinks, when bytes have to be sent again.
/// All times are since the same moment.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// The latest observation.
    at: Duration,
    bytes: u64,
    /// When bytes began to move, and how many there were.
    start: Option<(Duration, u64)>,
    /// When the number changed last.
    moved_at: Duration,
    /// Sums of bytes and seconds in which they moved, the older the smaller.
    recent_bytes: f64,
    recent_s: f64,
}

impl Meter {
    /// Forgets everything: another piece of work begins at `now` with `bytes`.
    pub(super) fn restart(&mut self, now: Duration, bytes: u64) {
        *self = Self { at: now, bytes, ..Self::default() };
    }

    /// There are `bytes` at `now`.
    pub(super) fn observe(&mut self, now: Duration, bytes: u64) {
        let passed_s = now.saturating_sub(self.at).as_secs_f64();
        if passed_s == 0.0 {
            return;
        }
        if bytes != self.bytes {
            self.moved_at = now;
            self.start.get_or_insert((self.at, self.bytes));
        }
        // The time before the first byte is not that of the link.
        if self.start.is_some() {
            let kept = (-passed_s / MEMORY_S).exp();
            self.recent_bytes = self.recent_bytes * kept + (bytes as f64 - self.bytes as f64);
            self.recent_s = self.recent_s * kept + passed_s;
        }
        (self.at, self.bytes) = (now, bytes);
    }

    /// Bytes a second, as of late; `None` before there is a rate.
    pub(super) fn rate(&self) -> Option<f64> {
        let (start, _) = self.start?;
        if self.at.saturating_sub(start) < MIN_TIME {
            return None;
        }
        let stalled = self.at.saturating_sub(self.moved_at) >= STALL;
        Some(if stalled { 0.0 } else { (self.recent_bytes / self.recent_s).max(0.0) })
    }

    /// Bytes a second since bytes began to move.
    pub(super) fn average(&self) -> Option<f64> {
        let (start, bytes) = self.start?;
        let passed_s = self.at.saturating_sub(start).as_secs_f64();
        (passed_s > 0.0).then(|| self.bytes.saturating_sub(bytes) as f64 / passed_s)
    }

    /// When `left_bytes` more will have moved; `None` without a rate.
    pub(super) fn eta(&self, left_bytes: u64) -> Option<Duration> {
        let rate = self.rate().filter(|rate| *rate > 0.0)?;
        let left_s = left_bytes as f64 / rate;
        (left_bytes > 0 && left_s < MAX_ETA_S).then(|| Duration::from_secs_f64(left_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Observes ten times a second until `end`, from where the meter is.
    fn run(meter: &mut Meter, end: f64, bytes_at: impl Fn(f64) -> f64) {
        let mut now = meter.at.as_secs_f64();
        while now + 0.05 < end {
            now += 0.1;
            meter.observe(seconds(now), bytes_at(now) as u64);
        }
    }

    fn assert_near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < wanted * 0.02, "{found} instead of {wanted}");
    }

    #[test]
    fn a_steady_rate_is_found_after_two_seconds() {
        let mut meter = Meter::default();
        meter.restart(seconds(100.0), 7_000_000);
        // Nothing moves at first, and that does not count.
        run(&mut meter, 110.0, |_| 7e6);
        assert_eq!((meter.rate(), meter.average(), meter.eta(1)), (None, None, None));
        let bytes = |now: f64| 7e6 + (now - 110.0).max(0.0) * 2e6;
        run(&mut meter, 111.5, bytes);
        assert_eq!(meter.rate(), None);
        for end in [113.0, 120.0, 300.0] {
            run(&mut meter, end, bytes);
            assert_near(meter.rate().unwrap(), 2e6);
            assert_near(meter.average().unwrap(), 2e6);
            assert_near(meter.eta(100_000_000).unwrap().as_secs_f64(), 50.0);
        }
        assert_eq!(meter.eta(0), None);
    }

    #[test]
    fn it_follows_the_link_within_about_fifteen_seconds() {
        let mut meter = Meter::default();
        let bytes = |now: f64| if now < 100.0 { now * 10e6 } else { 1e9 + (now - 100.0) * 1e6 };
        run(&mut meter, 100.0, bytes);
        assert_near(meter.rate().unwrap(), 10e6);
        run(&mut meter, 115.0, bytes);
        assert!((1e6..4.5e6).contains(&meter.rate().unwrap()));
        run(&mut meter, 160.0, bytes);
        assert!((1e6..1.3e6).contains(&meter.rate().unwrap()));
    }

    #[test]
    fn what_comes_in_jumps_is_smoothed() {
        let mut meter = Meter::default();
        // A megabyte every second.
        run(&mut meter, 20.0, |now| now.floor() * 1e6);
        for end in 21..60 {
            run(&mut meter, f64::from(end) + 0.55, |now| now.floor() * 1e6);
            assert!((0.9e6..1.1e6).contains(&meter.rate().unwrap()), "{:?}", meter.rate());
        }
    }

    #[test]
    fn what_is_taken_back_and_sent_again_is_no_progress() {
        let mut meter = Meter::default();
        run(&mut meter, 10.0, |now| now * 1e6);
        meter.observe(seconds(10.2), 0);
        assert!(meter.rate().unwrap() < 0.1e6);
        assert_eq!(meter.average(), Some(0.0));
        run(&mut meter, 60.0, |now| (now - 10.2) * 1e6);
        assert!((0.85e6..1.02e6).contains(&meter.rate().unwrap()), "{:?}", meter.rate());
    }

    #[test]
    fn a_link_that_stands_still_has_no_end() {
        let mut meter = Meter::default();
        run(&mut meter, 10.0, |now| now * 1e6);
        run(&mut meter, 20.0, |_| 10e6);
        let slower = meter.eta(10_000_000).unwrap().as_secs_f64();
        assert!((15.0..40.0).contains(&slower), "{slower}");
        run(&mut meter, 26.0, |_| 10e6);
        assert_eq!((meter.rate(), meter.eta(1)), (Some(0.0), None));
    }
}
