//! How often an address may fail. Tokens are too long to be guessed; this keeps a flood of guesses
//! out of the log, and tells the one that sends it to slow down.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// So many failures within [`WINDOW`] are answered as what they are.
const FAILURES: u32 = 10;
/// Counted from the first failure on.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Of so many addresses failures are counted; of more, the oldest are forgotten.
const ADDRESSES: usize = 4096;

/// What a failure is to be taken for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One of a few.
    Failed,
    /// The first one that is too many.
    Limited,
    /// One more that is too many.
    StillLimited,
}

#[derive(Default)]
pub(super) struct Limiter {
    counts: HashMap<IpAddr, u32>,
    /// When counting began, for every address that is counted, oldest first.
    began: VecDeque<(Instant, IpAddr)>,
}

impl Limiter {
    /// Counts a failure.
    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) -> Verdict {
        let address = network(address);
        while let Some(&(began, oldest)) = self.began.front() {
            let full = self.began.len() >= ADDRESSES && !self.counts.contains_key(&address);
            if now.duration_since(began) < WINDOW && !full {
                break;
            }
            self.began.pop_front();
            self.counts.remove(&oldest);
        }
        let count = self.counts.entry(address).or_insert(0);
        if *count == 0 {
            self.began.push_back((now, address));
        }
        *count = count.saturating_add(1);
        match *count {
            ..=FAILURES => Verdict::Failed,
            count if count == FAILURES + 1 => Verdict::Limited,
            _ => Verdict::StillLimited,
        }
    }
}

/// Whom an address belongs to: with IPv6 one gets at least a /64.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_few_failures_a_minute() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        for _ in 0..FAILURES {
            assert_eq!(limiter.failed(ip("192.0.2.1"), start), Verdict::Failed);
        }
        assert_eq!(limiter.failed(ip("::ffff:192.0.2.1"), start), Verdict::Limited, "the same in IPv6");
        let later = start + Duration::from_secs(59);
        assert_eq!(limiter.failed(ip("192.0.2.1"), later), Verdict::StillLimited);
        assert_eq!(limiter.failed(ip("192.0.2.2"), later), Verdict::Failed);
        assert_eq!(limiter.failed(ip("192.0.2.1"), start + WINDOW), Verdict::Failed);
        assert_eq!((limiter.counts.len(), limiter.began.len()), (2, 2));
    }

    #[test]
    fn a_host_with_many_addresses_is_one() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for low in 0..=u64::from(FAILURES) {
            limiter.failed(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(low)).into(), now);
        }
        assert_eq!(limiter.failed(ip("2001:db8::ffff"), now), Verdict::StillLimited);
        assert_eq!(limiter.failed(ip("2001:db8:0:1::"), now), Verdict::Failed);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for low in 0..3 * ADDRESSES as u32 {
            for _ in 0..2 {
                limiter.failed(IpAddr::V4(low.into()), now);
            }
            assert!(limiter.counts.len() <= ADDRESSES && limiter.counts.len() == limiter.began.len());
        }
        assert_eq!(limiter.counts.len(), ADDRESSES);
        assert_eq!(limiter.counts[&IpAddr::V4((3 * ADDRESSES as u32 - 1).into())], 2);
    }
}
