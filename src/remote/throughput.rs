//! How fast the link takes what is sent, as far as it was ever kept busy.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Counts the bytes of all bodies and the time during which any body was on its way.
#[derive(Debug, Clone, Default)]
pub struct Throughput(Arc<Mutex<Meter>>);

#[derive(Debug, Default)]
struct Meter {
    active: u32,
    since: Option<Instant>,
    busy: Duration,
    bytes: u64,
}

/// Less than this, in bytes, may just have filled buffers.
const MIN_BYTES: u64 = 16 << 20;
/// What was longer ago than about this counts for less and less.
const MEMORY: Duration = Duration::from_secs(20);

impl Throughput {
    fn with<T>(&self, work: impl FnOnce(&mut Meter) -> T) -> T {
        work(&mut self.0.lock())
    }

    /// A body begins; it ends when the guard is dropped.
    pub(super) fn begin(&self) -> Sending {
        self.with(|meter| {
            meter.active += 1;
            meter.since.get_or_insert_with(Instant::now);
        });
        Sending(self.clone())
    }

    /// Bytes a second while anything was on its way; `None` before enough was.
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.with(|meter| {
            let busy = meter.busy + meter.since.map_or(Duration::ZERO, |since| since.elapsed());
            (meter.bytes >= MIN_BYTES && busy > Duration::ZERO)
                .then(|| meter.bytes as f64 / busy.as_secs_f64())
        })
    }
}

/// A body that is on its way.
pub(super) struct Sending(Throughput);

impl Sending {
    /// The link takes `bytes` more.
    pub(super) fn record(&self, bytes: usize) {
        self.0.with(|meter| meter.bytes += bytes as u64);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.with(|meter| {
            meter.active -= 1;
            let now = Instant::now();
            if let Some(since) = meter.since {
                meter.busy += now - since;
                meter.since = (meter.active > 0).then_some(now);
            }
            if meter.busy > MEMORY {
                meter.busy /= 2;
                meter.bytes /= 2;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_bodies_count_their_time_once() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let throughput = Throughput::default();
            let (a, b) = (throughput.begin(), throughput.begin());
            a.record(10 << 20);
            assert!(throughput.bytes_per_second().is_none());
            tokio::time::sleep(Duration::from_secs(1)).await;
            b.record(10 << 20);
            drop(a);
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(b);
            // Nothing is on its way: this time does not count.
            tokio::time::sleep(Duration::from_secs(7)).await;
            let rate = throughput.bytes_per_second().unwrap();
            assert!((rate - f64::from(10 << 20)).abs() < 1000.0, "{rate}");
        });
    }
}
