//! A limit on the bytes that all connections together send.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Shares a rate among all who send.
#[derive(Debug)]
pub struct Bandwidth {
    bytes_per_second: u64,
    /// When everything that was granted so far is through.
    free_at: Mutex<Option<Instant>>,
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
        Self { bytes_per_second: bytes_per_second.max(1), free_at: Mutex::new(None) }
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
    }
}
