//! How a block becomes a body: what the link takes longest to carry is made smaller, as far as the cores have time for it.

use super::buffers::Buffers;
use crate::archive::codec::{self, Compression};
use crate::archive::frame::Frame;
use crate::archive::zstd;
use crate::remote::{Client, Goodput};
use crate::telemetry::Counters;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What the thread has used of a core so far. Other threads that want the same core make compressing take longer, not cost more.
fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// What a block becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// An LZ4 frame of what it is.
    Stored,
    /// A compressed LZ4 frame.
    Lz4,
    /// A Zstandard frame of this level.
    Zstd(i32),
}

impl Coding {
    /// Takes note of a block that was sent like this.
    pub(super) fn count(self, counters: &Counters) {
        counters.stored_blocks.add(u64::from(self == Self::Stored));
        counters.zstd_blocks.add(u64::from(matches!(self, Self::Zstd(_))));
    }
}

/// What a coding does, on the average of files: bytes of content a second on one core, and content by body. Only where the choice
/// begins: what was done is measured.
const USUAL: [(Coding, f64, f64); 4] = [
    (Coding::Lz4, 450e6, 1.9),
    (Coding::Zstd(1), 330e6, 2.4),
    (Coding::Zstd(3), 180e6, 2.75),
    (Coding::Zstd(6), 70e6, 2.9),
];
/// Before the link is known, if it is one.
const FIRST: Coding = Coding::Zstd(3);
/// The part of what all cores could compress that may go into compressing: they have other things to do.
const SHARE: f64 = 0.3;
/// Another coding must promise so much more before it is tried: what is measured varies.
const BETTER: f64 = 1.05;
/// One block of so many is compressed although it does not seem to pay.
const PROBE: u64 = 16;
/// What is older than about so much core time counts for less and less.
const MEMORY: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Clone, Copy)]
struct Measured {
    content_bytes: u64,
    body_bytes: u64,
    time: Duration,
}

/// Decides for each block, from what the blocks before it took.
pub(super) struct Pace {
    wanted: Compression,
    goodput: Goodput,
    /// The receiver is on this host: there is no link worth speaking of.
    local: bool,
    takes_zstd: Arc<AtomicBool>,
    cores: f64,
    buffers: Arc<Buffers>,
    /// In the order of [`USUAL`].
    measured: Mutex<[Measured; USUAL.len()]>,
    /// Blocks that were stored because that promised most.
    stored: AtomicU64,
    /// How many may still begin to compress.
    free: Mutex<usize>,
    freed: Condvar,
}

impl Pace {
    /// `buffers` are where bodies and contents are kept meanwhile.
    pub(super) fn new(wanted: Compression, client: &Client, cores: usize, buffers: Arc<Buffers>) -> Self {
        Self {
            wanted,
            goodput: client.goodput().clone(),
            local: client.is_local(),
            takes_zstd: client.takes_zstd(),
            cores: cores as f64,
            buffers,
            measured: Mutex::default(),
            stored: AtomicU64::new(0),
            free: Mutex::new(cores.max(1)),
            freed: Condvar::new(),
        }
    }

    /// Makes a body of the content of a block, which comes in pieces; tells what it became.
    pub(super) fn encode(&self, mut pieces: Vec<Bytes>) -> (Frame, Coding) {
        let coding = self.choose(self.goodput.bytes_per_second());
        if coding == Coding::Stored {
            return (Frame::stored(&pieces), coding);
        }
        let content = match &pieces[..] {
            [whole] => whole.clone(),
            _ => {
                let mut whole = self.buffers.take();
                whole.clear();
                pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
                Bytes::from_owner(whole)
            }
        };
        pieces.clear();
        if self.wanted != Compression::Lz4 && !codec::shrinks(&content) {
            return (Frame::stored(&[content]), Coding::Stored);
        }
        let _turn = self.turn();
        let (mut body, start) = (self.buffers.take(), thread_time());
        let encoded = match coding {
            Coding::Zstd(level) => zstd::encode(&content, level, &mut body),
            _ => codec::encode(&content, Compression::Lz4, &mut body),
        };
        if !encoded {
            return (Frame::stored(&[content]), Coding::Stored);
        }
        self.note(coding, content.len(), body.len(), thread_time().saturating_sub(start));
        (Frame::from(Bytes::from_owner(body)), coding)
    }

    /// Waits for a core to compress on: a compressor takes memory, and more of them than cores take it for nothing.
    fn turn(&self) -> Turn<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Turn(self)
    }

    /// The coding for the next block on a link of `link` bytes a second, if that is known.
    fn choose(&self, link: Option<f64>) -> Coding {
        let takes_zstd = self.takes_zstd.load(Ordering::Relaxed);
        match self.wanted {
            Compression::None => return Coding::Stored,
            Compression::Lz4 => return Coding::Lz4,
            Compression::Auto if link.is_none() && self.local => return Coding::Stored,
            Compression::Auto | Compression::Zstd => {}
        }
        let Some(link) = link else { return if takes_zstd { FIRST } else { Coding::Lz4 } };
        let possible = |coding| match coding {
            Coding::Zstd(_) => takes_zstd,
            _ => !takes_zstd || self.wanted == Compression::Auto,
        };
        let start = match self.wanted {
            Compression::Zstd if takes_zstd => (FIRST, 0.0),
            Compression::Zstd => (Coding::Lz4, 0.0),
            _ => (Coding::Stored, link),
        };
        let promises = self.promises(link);
        let (best, promise) = promises
            .into_iter()
            .filter(|(coding, _)| possible(*coding))
            .fold(start, |best, next| if next.1 > best.1 * BETTER { next } else { best });
        tracing::debug!("the link takes {link:.0} bytes/s: {best:?} promises {promise:.0} bytes/s");
        if best != Coding::Stored || self.local {
            return best;
        }
        // What was measured is of other content by now, perhaps: only trying tells.
        let probe = self.stored.fetch_add(1, Ordering::Relaxed) % PROBE == PROBE - 1;
        match (probe, takes_zstd) {
            (false, _) => best,
            (true, true) => Coding::Zstd(1),
            (true, false) => Coding::Lz4,
        }
    }

    /// Bytes of content a second that link and cores let each coding do.
    fn promises(&self, link: f64) -> [(Coding, f64); USUAL.len()] {
        let measured = *self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        // How this machine and this content differ from the average, by what was done most.
        let (speed, gain) = measured
            .iter()
            .zip(&USUAL)
            .max_by_key(|(measured, _)| measured.content_bytes)
            .and_then(|(measured, (_, rate, ratio))| {
                let (now, shrunk) = figures(measured)?;
                Some((now / rate, (shrunk - 1.0) / (ratio - 1.0)))
            })
            .unwrap_or((1.0, 1.0));
        let mut promises = USUAL.map(|(coding, _, _)| (coding, 0.0));
        for ((promise, measured), (_, rate, ratio)) in promises.iter_mut().zip(&measured).zip(&USUAL) {
            let (rate, ratio) = figures(measured).unwrap_or((rate * speed, 1.0 + (ratio - 1.0) * gain));
            promise.1 = (link * ratio).min(rate * self.cores * SHARE);
        }
        promises
    }

    fn note(&self, coding: Coding, content_bytes: usize, body_bytes: usize, took: Duration) {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = USUAL.iter().position(|(known, _, _)| *known == coding) else { return };
        let measured = &mut measured[at];
        if measured.time > MEMORY {
            measured.content_bytes /= 2;
            measured.body_bytes /= 2;
            measured.time /= 2;
        }
        measured.content_bytes += content_bytes as u64;
        measured.body_bytes += body_bytes as u64;
        measured.time += took;
    }
}

struct Turn<'a>(&'a Pace);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

/// Bytes of content a second on one core, and content by body; nothing if nothing was measured.
fn figures(measured: &Measured) -> Option<(f64, f64)> {
    let Measured { content_bytes, body_bytes, time } = *measured;
    let known = body_bytes > 0 && !time.is_zero();
    known.then(|| (content_bytes as f64 / time.as_secs_f64(), content_bytes as f64 / body_bytes as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(wanted: Compression, local: bool, takes_zstd: bool) -> Pace {
        Pace {
            wanted,
            goodput: Goodput::default(),
            local,
            takes_zstd: Arc::new(AtomicBool::new(takes_zstd)),
            cores: 2.0,
            buffers: Buffers::new(1),
            measured: Mutex::default(),
            stored: AtomicU64::new(0),
            free: Mutex::new(2),
            freed: Condvar::new(),
        }
    }

    const MBIT: f64 = 1e6 / 8.0;

    #[test]
    fn before_anything_is_measured_only_a_local_receiver_gets_stored_blocks() {
        let first = |wanted, local, zstd| pace(wanted, local, zstd).choose(None);
        assert_eq!(first(Compression::Auto, true, true), Coding::Stored);
        assert_eq!(first(Compression::Auto, false, true), FIRST);
        assert_eq!(first(Compression::Auto, false, false), Coding::Lz4);
        assert_eq!(first(Compression::Lz4, true, true), Coding::Lz4);
        assert_eq!(first(Compression::Zstd, true, true), FIRST);
        assert_eq!(first(Compression::Zstd, true, false), Coding::Lz4);
        assert_eq!(first(Compression::None, false, true), Coding::Stored);
    }

    #[test]
    fn the_slower_the_link_the_more_is_done() {
        let pace = pace(Compression::Auto, false, true);
        let choices = [10.0, 200.0, 1000.0, 10_000.0].map(|rate| pace.choose(Some(rate * MBIT)));
        assert_eq!(choices, [Coding::Zstd(6), Coding::Zstd(3), Coding::Lz4, Coding::Stored]);
    }

    #[test]
    fn a_receiver_that_does_not_take_it_gets_none() {
        for wanted in [Compression::Auto, Compression::Zstd] {
            assert_eq!(pace(wanted, false, false).choose(Some(10.0 * MBIT)), Coding::Lz4);
        }
        assert_eq!(pace(Compression::Zstd, false, true).choose(Some(1e10)), Coding::Zstd(1));
    }

    #[test]
    fn what_is_measured_counts() {
        let pace = pace(Compression::Auto, false, true);
        // A slow core, and content that hardly shrinks: a link of 1 Gbit/s is faster.
        pace.note(FIRST, 10_000_000, 9_500_000, Duration::from_secs(1));
        assert_eq!(pace.choose(Some(1000.0 * MBIT)), Coding::Stored);
        assert_ne!(pace.choose(Some(1.0 * MBIT)), Coding::Stored);
    }

    /// Photos first, then logs: what the photos taught does not stand for ever.
    #[test]
    fn what_does_not_pay_is_tried_again() {
        let pace = pace(Compression::Auto, false, true);
        pace.note(FIRST, 100_000_000, 97_000_000, Duration::from_secs(1));
        let link = Some(1000.0 * MBIT);
        let mut stored = 0;
        while pace.choose(link) == Coding::Stored {
            stored += 1;
            assert!(stored < 100, "never tried again");
        }
        pace.note(Coding::Zstd(1), 3_000_000_000, 1_000_000_000, Duration::from_secs(9));
        assert_ne!(pace.choose(link), Coding::Stored);
    }

    #[test]
    fn pieces_or_a_whole_make_the_same_body() {
        let content = Bytes::from(b"all work and no play ".repeat(40_000));
        let pieces = vec![content.slice(..1000), content.slice(1000..)];
        for wanted in [Compression::Lz4, Compression::Zstd, Compression::None] {
            let pace = pace(wanted, false, true);
            let (body, coding) = pace.encode(pieces.clone());
            let body = body.pieces().concat();
            assert_eq!(body, pace.encode(vec![content.clone()]).0.pieces().concat());
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
