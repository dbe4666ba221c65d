//! How much of bodies is under way at once: what the link carries in a few seconds, whatever the
//! link. So no body is slower than a receiver bears, and what an interruption throws away is
//! little. It begins with little, and follows what bodies show of the link. What the user allows to
//! be sent ([`super::Bandwidth`]) is known before.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Before anything is known of the link, so much is under way, in bytes.
const INITIAL_BYTES: u64 = 256 << 10;
/// No part is smaller, in bytes, unless a block is.
const MIN_BYTES: u64 = 16 << 10;
/// Less than this, in bytes, does not say that a link is fast: it fits into buffers on the way.
const TELLING_BYTES: u64 = 256 << 10;
/// What the link carries in this time is under way.
const TARGET: Duration = Duration::from_secs(10);
/// A body that takes longer than this shows that less has to be under way.
const MAX_TIME: Duration = Duration::from_secs(20);
/// A body that was given up after so long may have been too large for the link; one that was given
/// up earlier failed for another reason.
const STANDSTILL: Duration = Duration::from_secs(5);
/// Each body should move as fast as this, in bytes a second: twice the lowest rate of receivers for
/// which others wait.
const MIN_RATE: u64 = 32 << 10;

/// A sender [claims](Window::claim) the bytes of a body before it sends them.
#[derive(Debug)]
pub struct Window {
    state: Mutex<WindowState>,
    freed: Notify,
    /// Whose claim is next: the first one that waits has it, so that small bodies do not pass a large
    /// one for ever.
    turn: tokio::sync::Mutex<()>,
    bodies: u64,
    /// The limit never becomes more than this.
    max_bytes: u64,
}

#[derive(Debug)]
struct WindowState {
    limit_bytes: u64,
    under_way_bytes: u64,
}

impl WindowState {
    /// How large a part is at most: as many side by side as may be, none of which is slower than
    /// [`MIN_RATE`].
    fn part_bytes(&self, bodies: u64) -> u64 {
        (self.limit_bytes / bodies).max(MIN_RATE * TARGET.as_secs()).min(self.limit_bytes)
    }
}

impl Window {
    /// For at most `bodies` at a time, and `bandwidth` bytes a second if that is limited.
    pub(crate) fn new(bodies: usize, bandwidth: Option<u64>) -> Arc<Self> {
        let carried = |rate: u64| rate.saturating_mul(TARGET.as_secs()).max(MIN_BYTES);
        let max_bytes = bandwidth.map_or(u64::MAX, carried);
        let state = WindowState { limit_bytes: max_bytes.min(INITIAL_BYTES), under_way_bytes: 0 };
        Arc::new(Self {
            state: Mutex::new(state),
            freed: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            bodies: bodies.max(1) as u64,
            max_bytes,
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut WindowState) -> T) -> T {
        work(&mut self.state.lock())
    }

    /// Waits until `bytes` may be sent, or some of them where they are too many for the link and
    /// `divisible`. Claims are granted in the order in which they were made.
    pub async fn claim(self: &Arc<Self>, bytes: u64, divisible: bool) -> Claim {
        let _turn = self.turn.lock().await;
        loop {
            // Before looking: what is freed in between is not missed.
            let freed = self.freed.notified();
            let granted = self.with(|state| {
                let wanted = if divisible { bytes.min(state.part_bytes(self.bodies)) } else { bytes };
                let under_way_bytes = state.under_way_bytes.saturating_add(wanted);
                // One is always under way, however large it is.
                if state.under_way_bytes > 0 && under_way_bytes > state.limit_bytes {
                    return None;
                }
                state.under_way_bytes = under_way_bytes;
                Some((wanted, under_way_bytes))
            });
            if let Some((bytes, under_way_bytes)) = granted {
                return Claim { window: self.clone(), bytes, divisible, under_way_bytes };
            }
            freed.await;
        }
    }
}

/// Bytes that may be sent, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    window: Arc<Window>,
    bytes: u64,
    divisible: bool,
    /// With what was under way before.
    under_way_bytes: u64,
}

impl Claim {
    /// How many.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the same bytes have to be claimed once more, because fewer of them are granted by
    /// now.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.divisible && self.bytes > self.window.with(|state| state.part_bytes(self.window.bodies))
    }

    /// Records that the receiver gave them up, because others waited and they came too slowly.
    pub(super) fn record_too_slow(&self) {
        let fewer = (self.under_way_bytes / 2).max(MIN_BYTES);
        self.window.with(|state| state.limit_bytes = state.limit_bytes.min(fewer));
        self.window.freed.notify_waiters();
    }

    /// Records that they took `time` on the link, or were still not over it when they were given
    /// up.
    pub(super) fn record(&self, time: Duration, arrived: bool) {
        self.window.with(|state| {
            // What came after it was on the same link.
            let under_way_bytes = self.under_way_bytes.max(state.under_way_bytes);
            let carried = under_way_bytes as f64 / time.as_secs_f64().max(0.001) * TARGET.as_secs_f64();
            let carried = (carried as u64).max(MIN_BYTES);
            if arrived && self.bytes >= TELLING_BYTES.min(self.window.max_bytes) && time <= TARGET {
                state.limit_bytes = state.limit_bytes.max(carried);
            } else if arrived && time <= TARGET && self.bytes >= under_way_bytes / 16 {
                // A short body tells of the link step by step only.
                let shown = carried.min(under_way_bytes.saturating_mul(2));
                state.limit_bytes = state.limit_bytes.max(shown);
            } else if time > MAX_TIME {
                state.limit_bytes = state.limit_bytes.min(carried);
            } else if !arrived && time >= STANDSTILL {
                // It may have moved unseen, in buffers on the way.
                state.limit_bytes = state.limit_bytes.min((under_way_bytes / 2).max(MIN_BYTES));
            }
            state.limit_bytes = state.limit_bytes.min(self.window.max_bytes);
        });
        self.window.freed.notify_waiters();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.window.with(|state| state.under_way_bytes -= self.bytes);
        self.window.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::super::limit::{Bandwidth, piece_bytes};
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::time::Instant;

    /// What a receiver bore first: half a minute and more for any body, and beyond that 16 KiB a
    /// second.
    fn is_borne(bytes: u64, time: Duration) -> bool {
        time.as_secs_f64() <= 30.0 + bytes as f64 / f64::from(16 << 10)
    }

    /// Sends `blocks` of `block_bytes` over a link of `rate` by `bodies` at a time; gives the time,
    /// the largest body, and how many were given up.
    fn transfer(
        rate: u64,
        limit: Option<u64>,
        bodies: usize,
        blocks: u64,
        block_bytes: u64,
    ) -> (f64, u64, u64) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let window = Window::new(bodies, limit);
            let link = Arc::new(Bandwidth::new(limit.unwrap_or(rate).min(rate)));
            let (next, largest, lost) =
                (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let start = Instant::now();
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..bodies {
                let (window, link, next, largest, lost) =
                    (window.clone(), link.clone(), next.clone(), largest.clone(), lost.clone());
                tasks.spawn(async move {
                    while next.fetch_add(1, Ordering::SeqCst) < blocks {
                        let mut left = block_bytes;
                        while left > 0 {
                            let claim = window.claim(left, true).await;
                            let (begin, mut body_left) = (Instant::now(), claim.bytes() as usize);
                            while body_left > 0 {
                                let piece = body_left.min(piece_bytes(Some(&link), claim.bytes()));
                                link.take(piece).await;
                                body_left -= piece;
                            }
                            let took = begin.elapsed();
                            let borne = is_borne(claim.bytes(), took);
                            claim.record(took, borne);
                            largest.fetch_max(claim.bytes(), Ordering::SeqCst);
                            if borne {
                                left -= claim.bytes()
                            } else {
                                lost.fetch_add(1, Ordering::SeqCst);
                            }
                        }
                    }
                });
            }
            while tasks.join_next().await.is_some() {}
            (start.elapsed().as_secs_f64(), largest.load(Ordering::SeqCst), lost.load(Ordering::SeqCst))
        })
    }

    #[test]
    fn whatever_the_link_carries_nothing_is_too_slow() {
        for rate in [2_000, 10_000, 40_000, 79_000, 150_000, 400_000] {
            for limit in [None, Some(rate)] {
                let (blocks, block_bytes) = (5, 1_500_000);
                let (time, _, lost) = transfer(rate, limit, 5, blocks, block_bytes);
                let ideal = (blocks * block_bytes) as f64 / rate as f64;
                // The first one, of a link that is slower than expected, may have to come again.
                let wasted =
                    if limit.is_none() && rate < 20_000 { INITIAL_BYTES as f64 / rate as f64 } else { 0.0 };
                assert!(
                    time <= ideal * 1.02 + wasted + 20.0,
                    "{rate} {limit:?}: {time} s instead of {ideal} s"
                );
                assert!(lost <= u64::from(wasted > 0.0), "{rate} {limit:?}: {lost}");
            }
        }
    }

    #[test]
    fn the_known_limit_makes_parts_that_take_seconds() {
        for (rate, largest) in [(1_000, MIN_BYTES), (20_000, 200_000), (40_000, 10 * MIN_RATE)] {
            assert_eq!(transfer(1_000_000_000, Some(rate), 5, 2, 3_000_000).1, largest, "{rate}");
        }
        // An interruption throws away seconds' worth.
        for rate in [1_000_000, 10_000_000] {
            let largest = transfer(1_000_000_000, Some(rate), 5, 20, 30_000_000).1;
            assert_eq!(largest, rate * 10 / 5, "{rate}");
        }
    }

    /// After the first part everything is as it would be without a window.
    #[test]
    fn a_fast_link_is_not_held_up() {
        let (time, largest, lost) = transfer(100_000_000, None, 5, 100, 30_000_000);
        assert!(time < 33.0 && largest == 30_000_000 && lost == 0, "{time} {largest}");
    }

    /// Where each connection carries little, but all of them much, all of them are used.
    #[test]
    fn many_slow_connections_are_used_side_by_side() {
        let window = Window::new(5, None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let claim = || {
            runtime.block_on(async {
                tokio::time::timeout(Duration::ZERO, window.claim(30_000_000, true)).await.ok()
            })
        };
        // A megabyte a second each.
        let carry = |claim: &Claim| claim.record(Duration::from_secs_f64(claim.bytes() as f64 / 1e6), true);
        let mut most = 0;
        for _ in 0..30 {
            let claims: Vec<Claim> = std::iter::from_fn(claim).take(5).collect();
            claims.iter().for_each(carry);
            most = claims.len();
        }
        assert_eq!(most, 5);
    }

    /// Small bodies leave no room for a large one, as long as they pass it.
    #[test]
    fn a_large_body_is_not_passed_for_ever() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let window = Window::new(5, Some(10_000));
            assert_eq!(window.claim(100_000, true).await.bytes(), 100_000);
            let mut small = tokio::task::JoinSet::new();
            for offset in 0..3 {
                let window = window.clone();
                small.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(offset * 300)).await;
                    loop {
                        let _claim = window.claim(30_000, false).await;
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                });
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
            let large = tokio::time::timeout(Duration::from_secs(5), window.claim(90_000, false)).await;
            assert_eq!(large.map(|claim| claim.bytes()).ok(), Some(90_000));
        });
    }

    /// A link that becomes slow in the middle, and recovers.
    #[test]
    fn the_window_follows_the_link() {
        let window = Window::new(5, None);
        let claim = |bytes| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(window.claim(bytes, true))
        };
        claim(1 << 20).record(Duration::from_millis(5), true);
        let large = claim(30_000_000);
        assert_eq!(large.bytes(), 30_000_000);
        large.record(Duration::from_secs(1200), false);
        assert!(large.is_outdated());
        drop(large);
        let small = claim(30_000_000);
        assert_eq!(small.bytes(), 250_000);
        small.record(Duration::from_secs(10), true);
        drop(small);
        assert_eq!(claim(30_000_000).bytes(), 250_000);
        // What was answered at once and is too little to tell lets it grow by steps.
        claim(30_000_000).record(Duration::from_millis(10), true);
        assert_eq!(claim(30_000_000).bytes(), 10 * MIN_RATE);
        claim(30_000_000).record(Duration::from_millis(10), true);
        assert_eq!(claim(30_000_000).bytes(), 30_000_000);
        // A receiver that gave it up wants fewer at a time, down to a size that any link carries.
        let refused = claim(30_000_000);
        assert!(!refused.is_outdated());
        refused.record_too_slow();
        assert!(refused.is_outdated());
        drop(refused);
        assert_eq!(claim(30_000_000).bytes(), 3_000_000);
        for _ in 0..20 {
            claim(30_000_000).record_too_slow();
        }
        let least = claim(30_000_000);
        assert!(least.bytes() == MIN_BYTES && !least.is_outdated());
        drop(least);
        for _ in 0..6 {
            claim(30_000_000).record(Duration::from_millis(10), true);
        }
        assert_eq!(claim(30_000_000).bytes(), 30_000_000);
        // Something that is always answered late for other reasons says nothing of the link.
        claim(1000).record(Duration::from_secs(9), true);
        assert_eq!(claim(30_000_000).bytes(), 30_000_000);
    }
}
