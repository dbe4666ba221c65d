//! Chooses the compression of each block, so that most bytes of content arrive per second: a slower
//! link is worth more core time. The choice begins with usual figures and goes on with measured
//! ones.

use super::buffers::Buffers;
use crate::archive::codec::{self, Compression};
use crate::archive::frame::Frame;
use crate::archive::zstd;
use crate::remote::{ReceiverClient, Throughput};
use crate::telemetry::Counters;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The core time that this thread has used. It excludes the time in which other threads had the
/// core.
fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// The form in which a block is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// An LZ4 frame that is not compressed.
    Stored,
    /// A compressed LZ4 frame.
    Lz4,
    /// A Zstandard frame of this level.
    Zstd(i32),
}

impl Coding {
    /// Counts a block that was sent in this form.
    pub(super) fn count(self, counters: &Counters) {
        counters.stored_blocks.add(u64::from(self == Self::Stored));
        counters.zstd_blocks.add(u64::from(matches!(self, Self::Zstd(_))));
    }
}

/// The codings with their usual figures for a mean file: bytes of content per second on one core,
/// and the ratio of content to body. They count until a coding is measured.
const CODINGS: [(Coding, f64, f64); 4] = [
    (Coding::Lz4, 450e6, 1.9),
    (Coding::Zstd(1), 330e6, 2.4),
    (Coding::Zstd(3), 180e6, 2.75),
    (Coding::Zstd(6), 70e6, 2.9),
];
/// The coding before the rate of the link is known.
const INITIAL_CODING: Coding = Coding::Zstd(3);
/// The share of all cores that compression may take: they have other work, too.
const CORE_SHARE: f64 = 0.3;
/// Another coding must promise so many times more before it is chosen: measured figures vary.
const MIN_GAIN: f64 = 1.05;
/// One stored block of so many is compressed nevertheless, to measure it.
const PROBE_INTERVAL: u64 = 16;
/// The core time, per coding, after which older measurements count half.
const HALF_LIFE: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Clone, Copy)]
struct Measured {
    content_bytes: u64,
    body_bytes: u64,
    time: Duration,
}

/// Chooses the coding of each block by the measurements of earlier ones.
pub(super) struct CompressionPolicy {
    option: Compression,
    throughput: Throughput,
    /// The receiver is on this host: there is no link between.
    is_local: bool,
    /// The receiver shares the memory of this process.
    is_in_process: bool,
    takes_zstd: Arc<AtomicBool>,
    cores: f64,
    buffers: Arc<Buffers>,
    /// In the order of [`CODINGS`].
    measured: Mutex<[Measured; CODINGS.len()]>,
    /// Blocks that were stored because that promised most.
    stored_blocks: AtomicU64,
    /// Threads that may still begin to compress.
    free_cores: Mutex<usize>,
    core_freed: Condvar,
}

impl CompressionPolicy {
    /// Bodies and contents are made in buffers of `buffers`.
    pub(super) fn new(
        option: Compression,
        client: &dyn ReceiverClient,
        cores: usize,
        buffers: Arc<Buffers>,
    ) -> Self {
        Self {
            option,
            throughput: client.throughput().clone(),
            is_local: client.is_local(),
            is_in_process: client.is_in_process(),
            takes_zstd: client.takes_zstd(),
            cores: cores as f64,
            buffers,
            measured: Mutex::default(),
            stored_blocks: AtomicU64::new(0),
            free_cores: Mutex::new(cores.max(1)),
            core_freed: Condvar::new(),
        }
    }

    /// Makes the body of a block, whose content comes in pieces; gives the coding that it has.
    pub(super) fn encode(&self, mut pieces: Vec<Bytes>) -> (Frame, Coding) {
        if self.is_in_process {
            return (Frame::bare(pieces), Coding::Stored);
        }
        let coding = self.choose(self.throughput.bytes_per_second());
        if coding == Coding::Stored {
            return (Frame::stored(&pieces), coding);
        }
        let content = match &pieces[..] {
            [content] => content.clone(),
            _ => {
                let mut content = self.buffers.take();
                content.clear();
                pieces.iter().for_each(|piece| content.extend_from_slice(piece));
                Bytes::from_owner(content)
            }
        };
        pieces.clear();
        if self.option != Compression::Lz4 && !codec::shrinks(&content) {
            return (Frame::stored(&[content]), Coding::Stored);
        }
        let _core = self.take_core();
        let (mut body, start) = (self.buffers.take(), thread_time());
        let encoded = match coding {
            Coding::Zstd(level) => zstd::encode(&content, level, &mut body),
            _ => codec::encode(&content, Compression::Lz4, &mut body),
        };
        if !encoded {
            return (Frame::stored(&[content]), Coding::Stored);
        }
        self.record(coding, content.len(), body.len(), thread_time().saturating_sub(start));
        (Frame::from(Bytes::from_owner(body)), coding)
    }

    /// Waits for a core: a compressor takes memory, and more compressors than cores would not be
    /// faster.
    fn take_core(&self) -> CoreGuard<'_> {
        let mut free = self.free_cores.lock();
        self.core_freed.wait_while(&mut free, |free| *free == 0);
        *free -= 1;
        CoreGuard(self)
    }

    /// The coding for the next block; `link` is the rate of the link in bytes per second, if known.
    fn choose(&self, link: Option<f64>) -> Coding {
        let takes_zstd = self.takes_zstd.load(Ordering::Relaxed);
        match self.option {
            Compression::None => return Coding::Stored,
            Compression::Lz4 => return Coding::Lz4,
            Compression::Auto if link.is_none() && self.is_local => return Coding::Stored,
            Compression::Auto | Compression::Zstd => {}
        }
        let Some(link) = link else { return if takes_zstd { INITIAL_CODING } else { Coding::Lz4 } };
        let possible = |coding| match coding {
            Coding::Zstd(_) => takes_zstd,
            _ => !takes_zstd || self.option == Compression::Auto,
        };
        let start = match self.option {
            Compression::Zstd if takes_zstd => (INITIAL_CODING, 0.0),
            Compression::Zstd => (Coding::Lz4, 0.0),
            _ => (Coding::Stored, link),
        };
        let promises = self.promises(link);
        let (best, promise) = promises
            .into_iter()
            .filter(|(coding, _)| possible(*coding))
            .fold(start, |best, next| if next.1 > best.1 * MIN_GAIN { next } else { best });
        tracing::debug!("the link takes {link:.0} bytes/s: {best:?} promises {promise:.0} bytes/s");
        if best != Coding::Stored || self.is_local {
            return best;
        }
        // The content may be another kind by now, which only another measurement shows.
        let is_probe =
            self.stored_blocks.fetch_add(1, Ordering::Relaxed) % PROBE_INTERVAL == PROBE_INTERVAL - 1;
        match (is_probe, takes_zstd) {
            (false, _) => best,
            (true, true) => Coding::Zstd(1),
            (true, false) => Coding::Lz4,
        }
    }

    /// For each coding, the bytes of content per second that link and cores allow.
    fn promises(&self, link: f64) -> [(Coding, f64); CODINGS.len()] {
        let measured = *self.measured.lock();
        // How this machine and this content differ from the usual figures, by the coding that was
        // used most.
        let (speed, gain) = measured
            .iter()
            .zip(&CODINGS)
            .max_by_key(|(measured, _)| measured.content_bytes)
            .and_then(|(measured, (_, rate, ratio))| {
                let (measured_rate, measured_ratio) = figures(measured)?;
                Some((measured_rate / rate, (measured_ratio - 1.0) / (ratio - 1.0)))
            })
            .unwrap_or((1.0, 1.0));
        let mut promises = CODINGS.map(|(coding, _, _)| (coding, 0.0));
        for ((promise, measured), (_, rate, ratio)) in promises.iter_mut().zip(&measured).zip(&CODINGS) {
            let (rate, ratio) = figures(measured).unwrap_or((rate * speed, 1.0 + (ratio - 1.0) * gain));
            promise.1 = (link * ratio).min(rate * self.cores * CORE_SHARE);
        }
        promises
    }

    fn record(&self, coding: Coding, content_bytes: usize, body_bytes: usize, took: Duration) {
        let mut measured = self.measured.lock();
        let Some(at) = CODINGS.iter().position(|(other, _, _)| *other == coding) else { return };
        let measured = &mut measured[at];
        if measured.time > HALF_LIFE {
            measured.content_bytes /= 2;
            measured.body_bytes /= 2;
            measured.time /= 2;
        }
        measured.content_bytes += content_bytes as u64;
        measured.body_bytes += body_bytes as u64;
        measured.time += took;
    }
}

/// The right to compress on one core; it ends when this is dropped.
struct CoreGuard<'a>(&'a CompressionPolicy);

impl Drop for CoreGuard<'_> {
    fn drop(&mut self) {
        *self.0.free_cores.lock() += 1;
        self.0.core_freed.notify_one();
    }
}

/// Bytes of content per second on one core, and the ratio of content to body; `None` before the
/// first measurement.
fn figures(measured: &Measured) -> Option<(f64, f64)> {
    let Measured { content_bytes, body_bytes, time } = *measured;
    let is_measured = body_bytes > 0 && !time.is_zero();
    is_measured.then(|| (content_bytes as f64 / time.as_secs_f64(), content_bytes as f64 / body_bytes as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(option: Compression, is_local: bool, takes_zstd: bool) -> CompressionPolicy {
        CompressionPolicy {
            option,
            throughput: Throughput::default(),
            is_local,
            is_in_process: false,
            takes_zstd: Arc::new(AtomicBool::new(takes_zstd)),
            cores: 2.0,
            buffers: Buffers::new(1),
            measured: Mutex::default(),
            stored_blocks: AtomicU64::new(0),
            free_cores: Mutex::new(2),
            core_freed: Condvar::new(),
        }
    }

    const MBIT: f64 = 1e6 / 8.0;

    #[test]
    fn only_a_local_receiver_gets_stored_blocks_before_a_measurement() {
        let first = |option, is_local, zstd| policy(option, is_local, zstd).choose(None);
        assert_eq!(first(Compression::Auto, true, true), Coding::Stored);
        assert_eq!(first(Compression::Auto, false, true), INITIAL_CODING);
        assert_eq!(first(Compression::Auto, false, false), Coding::Lz4);
        assert_eq!(first(Compression::Lz4, true, true), Coding::Lz4);
        assert_eq!(first(Compression::Zstd, true, true), INITIAL_CODING);
        assert_eq!(first(Compression::Zstd, true, false), Coding::Lz4);
        assert_eq!(first(Compression::None, false, true), Coding::Stored);
    }

    #[test]
    fn a_slower_link_gets_more_compression() {
        let policy = policy(Compression::Auto, false, true);
        let choices = [10.0, 200.0, 1000.0, 10_000.0].map(|rate| policy.choose(Some(rate * MBIT)));
        assert_eq!(choices, [Coding::Zstd(6), Coding::Zstd(3), Coding::Lz4, Coding::Stored]);
    }

    #[test]
    fn a_receiver_without_zstandard_gets_lz4() {
        for option in [Compression::Auto, Compression::Zstd] {
            assert_eq!(policy(option, false, false).choose(Some(10.0 * MBIT)), Coding::Lz4);
        }
        assert_eq!(policy(Compression::Zstd, false, true).choose(Some(1e10)), Coding::Zstd(1));
    }

    #[test]
    fn measurements_replace_usual_figures() {
        let policy = policy(Compression::Auto, false, true);
        // A slow core, and content that hardly shrinks: a link of 1 Gbit/s is faster.
        policy.record(INITIAL_CODING, 10_000_000, 9_500_000, Duration::from_secs(1));
        assert_eq!(policy.choose(Some(1000.0 * MBIT)), Coding::Stored);
        assert_ne!(policy.choose(Some(1.0 * MBIT)), Coding::Stored);
    }

    /// Photos first, then logs: the measurement of the photos must not hold for ever.
    #[test]
    fn compression_that_did_not_pay_is_tried_again() {
        let policy = policy(Compression::Auto, false, true);
        policy.record(INITIAL_CODING, 100_000_000, 97_000_000, Duration::from_secs(1));
        let link = Some(1000.0 * MBIT);
        let mut stored = 0;
        while policy.choose(link) == Coding::Stored {
            stored += 1;
            assert!(stored < 100, "never tried again");
        }
        policy.record(Coding::Zstd(1), 3_000_000_000, 1_000_000_000, Duration::from_secs(9));
        assert_ne!(policy.choose(link), Coding::Stored);
    }

    #[test]
    fn pieces_and_one_content_make_the_same_body() {
        let content = Bytes::from(b"all work and no play ".repeat(40_000));
        let pieces = vec![content.slice(..1000), content.slice(1000..)];
        for option in [Compression::Lz4, Compression::Zstd, Compression::None] {
            let policy = policy(option, false, true);
            let (body, coding) = policy.encode(pieces.clone());
            let body = body.pieces().concat();
            assert_eq!(body, policy.encode(vec![content.clone()]).0.pieces().concat());
            let mut back = Vec::new();
            match coding {
                Coding::Zstd(_) => zstd::decode(&body, content.len(), &mut back),
                _ => codec::decode(&body, content.len(), &mut back),
            }
            .unwrap();
            assert!(back == content);
        }
    }
}
