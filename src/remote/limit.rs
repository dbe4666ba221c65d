//! A limit on the bytes that all connections together send.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Shares a rate among all who send.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    /// When everything that was granted so far is through.
    free_at: Mutex<Option<Instant>>,
}

/// What is granted at once, in bytes: small enough that a slow limit does not send in bursts.
pub(super) const PIECE_BYTES: usize = 16 << 10;

impl Bandwidth {
    /// A limit of `bytes_per_second`, which must not be 0.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(None) }
    }

    /// Waits until `bytes` may be sent.
    pub(super) async fn take(&self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let start = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let start = free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
            *free_at = Some(start + cost);
            start
        };
        tokio::time::sleep_until(start).await;
    }
}
