//! Whether compressing pays: not where the link takes more than the cores can compress.

use crate::archive::codec::Compression;
use crate::remote::Goodput;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What the thread has used of a core so far. Other threads that want the same core make compressing take longer, not cost more.
pub(super) fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// Decides for each block, from what the blocks before it took.
pub(super) struct Pace {
    wanted: Compression,
    goodput: Goodput,
    /// The receiver is on this host: there is no link worth speaking of.
    local: bool,
    cores: f64,
    compressed: Mutex<(u64, Duration)>,
}

/// What LZ4 does on one core, in bytes a second, before it was measured.
const USUAL_RATE: f64 = 400e6;
/// The part of what all cores could compress that may go into compressing: they have other things to do.
const SHARE: f64 = 0.3;

impl Pace {
    pub(super) fn new(wanted: Compression, goodput: Goodput, local: bool, cores: usize) -> Self {
        Self { wanted, goodput, local, cores: cores as f64, compressed: Mutex::default() }
    }

    /// How the next block becomes a frame. `Auto` still means: if it shrinks.
    pub(super) fn choose(&self) -> Compression {
        match self.wanted {
            Compression::Auto if self.link_is_faster() => Compression::None,
            wanted => wanted,
        }
    }

    fn link_is_faster(&self) -> bool {
        let Some(link) = self.goodput.bytes_per_second() else { return self.local };
        let (bytes, time) = *self.compressed.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = if time.is_zero() { USUAL_RATE } else { bytes as f64 / time.as_secs_f64() };
        tracing::debug!("the link takes {link:.0} bytes/s, a core compresses {rate:.0} bytes/s");
        link > rate * self.cores * SHARE
    }

    /// Takes note of what compressing a block took of a core.
    pub(super) fn compressed(&self, bytes: usize, time: Duration) {
        let mut compressed = self.compressed.lock().unwrap_or_else(PoisonError::into_inner);
        if compressed.1 > Duration::from_secs(5) {
            *compressed = (compressed.0 / 2, compressed.1 / 2);
        }
        compressed.0 += bytes as u64;
        compressed.1 += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_anything_is_measured_only_a_local_receiver_gets_stored_blocks() {
        let pace = |wanted, local| Pace::new(wanted, Goodput::default(), local, 2).choose();
        assert_eq!(pace(Compression::Auto, true), Compression::None);
        assert_eq!(pace(Compression::Auto, false), Compression::Auto);
        assert_eq!(pace(Compression::Lz4, true), Compression::Lz4);
        assert_eq!(pace(Compression::None, false), Compression::None);
    }
}
