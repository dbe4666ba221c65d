//! A limit on the bytes that all connections together send.

use parking_lot::Mutex;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// What an answer of a [`SharedLimit`] ends with.
pub type Grant<'a> = Pin<Box<dyn Future<Output = Duration> + Send + 'a>>;

/// A limit on what several hosts send together.
pub trait SharedLimit: Send + Sync {
    /// After which time this host may send `bytes`.
    fn grant(&self, bytes: u64) -> Grant<'_>;
    /// How many bytes are best asked for at once by a host that sends at most `rate` bytes a second.
    fn portion(&self, rate: u64) -> u64;
}

/// Shares a rate among all who send.
pub struct Bandwidth {
    bytes_per_second: u64,
    /// When everything that was granted so far is through.
    free_at: Mutex<Option<Instant>>,
    shared: OnceLock<Arc<dyn SharedLimit>>,
    /// Bytes that the shared limit has granted, and that were not sent yet.
    granted: tokio::sync::Mutex<u64>,
}

impl fmt::Debug for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bandwidth").field("bytes_per_second", &self.bytes_per_second).finish_non_exhaustive()
    }
}

/// What is granted at once at most, in bytes ...
const MAX_LIMITED_PIECE_BYTES: u64 = 16 << 10;
/// ... and at least. Of a slow limit a part of a second's bytes is granted, so that several bodies
/// all move within any second: a receiver for which others wait takes a body that brings nothing
/// for a second for one that stands still.
const MIN_PIECE_BYTES: u64 = 512;
const PIECES_PER_S: u64 = 16;
/// A body on a slow link is short, and shows that it moves by every piece that the link takes: it
/// has so many, of these sizes in bytes.
const PIECES: u64 = 16;
const PIECE_BYTES: std::ops::RangeInclusive<u64> = (16 << 10)..=(256 << 10);

/// In what pieces, in bytes, a body of `length` bytes is given to the link.
pub(super) fn piece_bytes(bandwidth: Option<&Bandwidth>, length: u64) -> usize {
    let of_body = (length / PIECES).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end());
    let granted = bandwidth.map_or(u64::MAX, |bandwidth| {
        (bandwidth.rate() / PIECES_PER_S).clamp(MIN_PIECE_BYTES, MAX_LIMITED_PIECE_BYTES)
    });
    of_body.min(granted) as usize
}

impl Bandwidth {
    /// A limit of `bytes_per_second`, which must not be 0.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            free_at: Mutex::default(),
            shared: OnceLock::new(),
            granted: tokio::sync::Mutex::default(),
        }
    }

    /// From now on, what is sent needs the grant of `limit`, too.
    pub fn share(&self, limit: Arc<dyn SharedLimit>) {
        let _ = self.shared.set(limit);
    }

    /// Bytes a second.
    pub(super) fn rate(&self) -> u64 {
        self.bytes_per_second
    }

    /// Waits until `bytes` may be sent.
    pub(super) async fn take(&self, bytes: usize) {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let start = {
            let mut free_at = self.free_at.lock();
            let start = free_at.map_or_else(Instant::now, |at| at.max(Instant::now()));
            *free_at = Some(start + cost);
            start
        };
        tokio::time::sleep_until(start).await;
        if let Some(shared) = self.shared.get() {
            // The next sender waits behind this one.
            let mut granted = self.granted.lock().await;
            if *granted < bytes as u64 {
                let more = shared.portion(self.bytes_per_second).max(bytes as u64);
                tokio::time::sleep(shared.grant(more).await).await;
                *granted += more;
            }
            *granted -= bytes as u64;
        }
    }
}
