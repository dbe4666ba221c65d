//! Who may work for an index. Writers share the gate; a thread that changes the index locks it
//! exclusively, or closes it for good. Writers that share it claim byte ranges of the archive, so
//! that no byte is written twice at once.
//!
//! The order of locks is in the types: a [`Claim`] needs a [`Shared`] lock, and no lock of the gate
//! can be upgraded. All guards act when they are dropped, also when their thread panics, so a
//! failed attempt never leaves a gate closed.

use parking_lot::{Condvar, Mutex};
use std::ops::Range;
use std::time::Duration;

/// The gate of one archive's active index.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    claims: Mutex<Claims>,
    released: Condvar,
}

#[derive(Default)]
struct GateState {
    /// How many threads share the gate.
    shared: usize,
    /// A thread holds the gate exclusively, or waits until the others have left.
    exclusive: bool,
    /// Another index is about to take this one's place.
    closing: bool,
    /// Another index has taken this one's place.
    closed: bool,
}

#[derive(Default)]
struct Claims {
    next: u64,
    /// The claimed ranges in the order of the claims, granted or waiting.
    ranges: Vec<(u64, Range<u64>)>,
}

/// Why the gate cannot be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It may be possible a little later.
    Busy,
    /// Another index has taken this one's place.
    Replaced,
}

/// The right to write for the index.
pub(crate) struct Shared<'a>(&'a Gate);

/// No other thread holds the gate as long as this lives.
pub(crate) struct Exclusive<'a>(&'a Gate);

/// No other thread holds the gate as long as this lives; it reopens when this is dropped, unless
/// [`Closing::for_good`] was called.
pub(crate) struct Closing<'a>(&'a Gate);

/// The right to write a byte range of the archive: no other claim has any byte of it.
pub(crate) struct Claim<'a> {
    gate: &'a Gate,
    number: u64,
}

impl Gate {
    /// Locks the gate together with other writers, after waiting at most `timeout` for a thread
    /// that holds it exclusively.
    pub(crate) fn lock_shared(&self, timeout: Duration) -> Result<Shared<'_>, Refusal> {
        let mut state = self.state.lock();
        let waits = |state: &mut GateState| state.exclusive && !state.closing;
        self.changed.wait_while_for(&mut state, waits, timeout);
        match *state {
            GateState { closed: true, .. } => Err(Refusal::Replaced),
            GateState { exclusive: true, .. } | GateState { closing: true, .. } => Err(Refusal::Busy),
            _ => {
                state.shared += 1;
                Ok(Shared(self))
            }
        }
    }

    /// Why the gate cannot be locked now, if that will take longer than a moment.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let state = self.state.lock();
        match (state.closed, state.closing) {
            (true, _) => Some(Refusal::Replaced),
            (_, true) => Some(Refusal::Busy),
            _ => None,
        }
    }

    /// Locks the gate alone, after all others have left; `None` if another index has taken this
    /// one's place.
    pub(crate) fn lock_exclusive(&self) -> Option<Exclusive<'_>> {
        self.take(false).then_some(Exclusive(self))
    }

    /// Locks the gate alone for a thread that is about to replace the index; writers that come
    /// meanwhile are refused at once.
    pub(crate) fn close(&self) -> Option<Closing<'_>> {
        self.take(true).then_some(Closing(self))
    }

    fn take(&self, closing: bool) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.exclusive && !state.closed);
        if state.closed {
            return false;
        }
        (state.exclusive, state.closing) = (true, closing);
        // Writers that wait for the gate need not wait for those that are to leave.
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| state.shared > 0);
        true
    }

    fn reopen(&self) {
        let mut state = self.state.lock();
        (state.exclusive, state.closing) = (false, false);
        self.changed.notify_all();
    }
}

impl Shared<'_> {
    /// Claims `range` of the archive, after waiting for all earlier claims that have a byte of it,
    /// granted or waiting themselves: so a claim of a large range is granted, also where others
    /// claim small parts of it again and again. A thread holds one claim at a time.
    pub(crate) fn claim(&self, range: Range<u64>) -> Claim<'_> {
        let gate = self.0;
        let mut claims = gate.claims.lock();
        let number = claims.next;
        claims.next += 1;
        claims.ranges.push((number, range.clone()));
        let claim = Claim { gate, number };
        let has_to_wait = |claims: &mut Claims| {
            let mut earlier = claims.ranges.iter().take_while(|(other, _)| *other < number);
            earlier.any(|(_, other)| other.start < range.end && range.start < other.end)
        };
        gate.released.wait_while(&mut claims, has_to_wait);
        claim
    }
}

impl Closing<'_> {
    /// The other index is in place: no thread locks this gate again.
    pub(crate) fn for_good(self) {
        self.0.state.lock().closed = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.gate.claims.lock().ranges.retain(|(number, _)| *number != self.number);
        self.gate.released.notify_all();
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        self.0.state.lock().shared -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.0.reopen();
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.reopen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Instant;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_refused_writer_is_told_the_reason_in_time() {
        let gate = Gate::default();
        let (first, second) = (gate.lock_shared(SHORT).ok().unwrap(), gate.lock_shared(SHORT).ok().unwrap());
        std::thread::scope(|scope| {
            // The closing thread waits for the two writers; meanwhile no third one is let in, and
            // none waits for long.
            let replacing = scope.spawn(|| {
                let closing = gate.close().unwrap();
                assert_eq!(gate.lock_shared(LONG).err(), Some(Refusal::Busy));
                drop(closing);
            });
            while gate.refusal().is_none() {
                std::thread::yield_now();
            }
            let start = Instant::now();
            assert_eq!(gate.lock_shared(LONG).err(), Some(Refusal::Busy));
            assert!(start.elapsed() < LONG / 2);
            drop((first, second));
            replacing.join().unwrap();
        });
        // The replacement came to nothing, so the gate is open again.
        drop(gate.lock_shared(SHORT).ok().unwrap());
        let exclusive = gate.lock_exclusive().unwrap();
        assert_eq!((gate.lock_shared(SHORT).err(), gate.refusal()), (Some(Refusal::Busy), None));
        drop(exclusive);
        gate.close().unwrap().for_good();
        assert_eq!(
            (gate.lock_shared(SHORT).err(), gate.refusal()),
            (Some(Refusal::Replaced), Some(Refusal::Replaced))
        );
        assert!(gate.lock_exclusive().is_none() && gate.close().is_none());
    }

    #[test]
    fn a_panic_reopens_the_gate() {
        let gate = Gate::default();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _closing = gate.close();
            panic!("on purpose");
        }));
        assert!(outcome.is_err() && gate.lock_shared(SHORT).is_ok());
    }

    #[test]
    fn writers_never_meet_an_exclusive_lock() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (gate, inside, turns) = (Gate::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (gate, inside, turns) = (&gate, &inside, &turns);
                scope.spawn(move || {
                    for _ in 0..300 {
                        if number == 0 {
                            let _exclusive = gate.lock_exclusive().unwrap();
                            assert_eq!(inside.load(Ordering::SeqCst), 0);
                        } else {
                            let _shared = gate.lock_shared(LONG).ok().unwrap();
                            inside.fetch_add(1, Ordering::SeqCst);
                            turns.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 900);
    }

    #[test]
    fn a_large_claim_is_granted_before_later_small_ones() {
        let gate = Gate::default();
        let wait_for = |claims| {
            let start = Instant::now();
            while gate.claims.lock().next < claims {
                assert!(start.elapsed() < LONG);
                std::thread::yield_now();
            }
        };
        let (order, granted) = mpsc::channel();
        std::thread::scope(|scope| {
            let shared = gate.lock_shared(LONG).ok().unwrap();
            let first = shared.claim(0..10);
            for (claims, range) in [(2, 0..100), (3, 50..60), (4, 200..300)] {
                let (gate, order) = (&gate, order.clone());
                scope.spawn(move || {
                    let shared = gate.lock_shared(LONG).ok().unwrap();
                    let _claim = shared.claim(range.clone());
                    order.send(range.start..range.end).unwrap();
                });
                wait_for(claims);
            }
            // The last range overlaps none of the others.
            assert_eq!(granted.recv_timeout(LONG), Ok(200..300));
            assert!(granted.recv_timeout(Duration::from_millis(50)).is_err());
            drop(first);
        });
        assert_eq!([granted.recv(), granted.recv()], [Ok(0..100), Ok(50..60)]);
        assert!(gate.claims.lock().ranges.is_empty());
    }
}
