//! Whether a block is worth compressing: only where all threads wait for the pipe.

use crate::archive::blockcopy::xz;
use crate::archive::zstd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// With Zstandard, where the pipe is slower than the compressor.
    #[default]
    Auto,
    /// With Zstandard, always.
    Zstd,
    /// Not at all.
    None,
}

/// A pipe faster than this takes more bytes than a core can compress, in bytes a second.
const FAST_PIPE: u64 = 200_000_000;
/// On a pipe slower than this, there is time for a better level.
const SLOW_PIPE: u64 = 30_000_000;
/// A block that gets smaller by less than this part of its bytes, a sixteenth, goes as it is.
const MIN_SAVING: usize = 16;
/// Of blocks that do not get smaller, one of so many is tried.
const RETRY: u64 = 16;

/// Decides for all threads of one process.
pub(super) struct Coder {
    compress: Compress,
    /// Bytes a second that the pipe took lately while a thread waited for it; 0 before the first
    /// wait.
    pipe_rate: AtomicU64,
    /// Blocks to send before the next attempt to compress one.
    pause: AtomicU64,
}

impl Coder {
    pub(super) fn new(compress: Compress) -> Self {
        Self { compress, pipe_rate: AtomicU64::new(0), pause: AtomicU64::new(0) }
    }

    /// Records that writing so many bytes took so long.
    pub(super) fn record_write(&self, bytes: u64, took: Duration) {
        // What fits into the pipe's buffer says nothing of its rate.
        if bytes < 65_536 {
            return;
        }
        let rate = (bytes as f64 / took.as_secs_f64().max(1e-9)) as u64;
        let before = self.pipe_rate.load(Ordering::Relaxed);
        let smooth = if before == 0 { rate } else { (before.saturating_mul(7).saturating_add(rate)) / 8 };
        self.pipe_rate.store(smooth, Ordering::Relaxed);
    }

    fn level(&self) -> Option<i32> {
        match self.compress {
            Compress::None => None,
            Compress::Zstd => Some(3),
            Compress::Auto => match self.pipe_rate.load(Ordering::Relaxed) {
                0 => None,
                rate if rate < SLOW_PIPE => Some(3),
                rate if rate < FAST_PIPE => Some(1),
                _ => None,
            },
        }
    }

    /// The block as a Zstandard frame, if that is worth it.
    pub(super) fn zstd(&self, content: &[u8]) -> Option<Vec<u8>> {
        let level = self.level()?;
        let pausing = |pause: u64| pause.checked_sub(1);
        if self.compress == Compress::Auto
            && self.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pausing).is_ok()
        {
            return None;
        }
        let mut frame = Vec::new();
        if zstd::encode(content, level, &mut frame)
            && frame.len() < content.len() - content.len() / MIN_SAVING
        {
            frame.shrink_to_fit();
            return Some(frame);
        }
        self.pause.store(RETRY, Ordering::Relaxed);
        None
    }

    /// The block as an xz stream, if that is smaller.
    pub(super) fn xz(&self, content: &[u8]) -> Option<Vec<u8>> {
        let mut stream = Vec::new();
        xz::encode(content, &mut stream).then_some(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_pipe_gets_blocks_as_they_are_and_a_slow_one_small_ones() {
        let text = b"again and again ".repeat(10_000);
        let coder = Coder::new(Compress::Auto);
        assert_eq!(coder.zstd(&text), None);
        coder.record_write(100, Duration::from_secs(100));
        assert_eq!(coder.zstd(&text), None);
        coder.record_write(1 << 20, Duration::from_millis(1));
        assert_eq!(coder.zstd(&text), None);
        for _ in 0..100 {
            coder.record_write(1 << 20, Duration::from_millis(10));
        }
        assert!(coder.zstd(&text).unwrap().len() < 1000);
        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(coder.zstd(&noise), None);
        assert_eq!(coder.zstd(&text), None, "the next ones are not tried");
        assert!((0..RETRY).any(|_| coder.zstd(&text).is_some()));
    }
}
