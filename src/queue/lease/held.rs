//! A lease at the host that has it: which of its blocks are handed out, and which are confirmed.

use super::super::Ticket;
use crate::archive::ranges::RangeSet;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// The blocks of a range that this host sends: the owner from the first one on, its helper from the
/// last one back. They meet somewhere.
#[derive(Debug)]
pub(super) struct Held {
    /// The number of the lease; none where no engine gave it.
    pub(super) id: Option<String>,
    /// How often the range was given out before.
    pub(super) attempts: u64,
    /// Its blocks were sent before, in vain.
    again: bool,
    from_end: bool,
    /// What neither owner nor helper have confirmed, as far as is known here.
    open: Range<u64>,
    /// What was not handed out yet.
    rest: Range<u64>,
    confirmed: RangeSet,
    /// When the engine was told last how far it is.
    pub(super) told: Instant,
    gone: Arc<watch::Sender<bool>>,
}

impl Held {
    /// A lease on `range`, as its owner, or with `from_end` as its helper.
    pub(super) fn new(id: Option<String>, range: Range<u64>, from_end: bool) -> Self {
        Self {
            id,
            attempts: 0,
            again: false,
            from_end,
            open: range.clone(),
            rest: range,
            confirmed: RangeSet::default(),
            told: Instant::now(),
            gone: Arc::new(watch::Sender::new(false)),
        }
    }

    /// The same range, which was given out `attempts` times before; with `again`, all of it was sent
    /// in vain.
    pub(super) fn tried(self, attempts: u64, again: bool) -> Self {
        Self { attempts, again, ..self }
    }

    /// The next block to send.
    pub(super) fn next(&mut self) -> Option<u64> {
        if !self.has_next() {
            return None;
        }
        if self.from_end {
            self.rest.end -= 1;
            return Some(self.rest.end);
        }
        self.rest.start += 1;
        Some(self.rest.start - 1)
    }

    /// Whether there is one.
    pub(super) fn has_next(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The receiver has acknowledged block `number`.
    pub(super) fn confirm(&mut self, number: u64) {
        self.confirmed.insert(number..number + 1);
        let edge = match self.from_end {
            true => self.confirmed.iter().find(|range| range.end >= self.open.end),
            false => self.confirmed.iter().find(|range| range.start <= self.open.start),
        };
        match edge {
            Some(range) if self.from_end && range.start < self.open.end => self.open.end = range.start,
            Some(range) if !self.from_end && range.end > self.open.start => self.open.start = range.end,
            _ => {}
        }
    }

    /// How far it is: where what is open begins, for a helper where it ends.
    pub(super) fn reached(&self) -> u64 {
        if self.from_end { self.open.end } else { self.open.start }
    }

    /// What the engine says is still open: the other host is so far.
    pub(super) fn learn(&mut self, open: Range<u64>) {
        self.open = self.open.start.max(open.start)..self.open.end.min(open.end);
        self.rest = self.rest.start.max(open.start)..self.rest.end.min(open.end);
    }

    /// Whether all of it is confirmed.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Another host has it, or has sent it: senders of its blocks stop.
    pub(super) fn lose(&self) {
        self.gone.send_replace(true);
    }

    /// The ticket of one of its blocks.
    pub(super) fn ticket(&self, number: u64) -> Ticket {
        Ticket { number, again: self.again, lease: Some(self.gone.clone()) }
    }

    /// Whether `ticket` is that of one of its blocks.
    pub(super) fn has(&self, ticket: &Ticket) -> bool {
        ticket.lease.as_ref().is_some_and(|lease| Arc::ptr_eq(lease, &self.gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_helper_meet() {
        let mut owner = Held::new(None, 10..20, false);
        let mut helper = Held::new(None, 10..20, true);
        assert_eq!([owner.next(), owner.next(), helper.next(), helper.next()], [10, 11, 19, 18].map(Some));
        // Out of order: only what is confirmed without a gap counts.
        owner.confirm(11);
        helper.confirm(18);
        assert_eq!((owner.reached(), helper.reached()), (10, 20));
        owner.confirm(10);
        helper.confirm(19);
        assert_eq!((owner.reached(), helper.reached()), (12, 18));
        owner.learn(12..18);
        helper.learn(12..18);
        let rest = |held: &mut Held| std::iter::from_fn(|| held.next()).collect::<Vec<_>>();
        assert_eq!(rest(&mut owner), [12, 13, 14, 15, 16, 17]);
        assert_eq!(rest(&mut helper), [17, 16, 15, 14, 13, 12]);
        (12..18).for_each(|number| owner.confirm(number));
        assert!(owner.is_done() && !helper.is_done());
        helper.learn(18..18);
        assert!(helper.is_done());
    }

    #[test]
    fn a_lost_lease_stops_who_sends_of_it() {
        let held = Held::new(None, 0..1, false);
        let gone = held.gone.subscribe();
        assert!(!*gone.borrow());
        held.lose();
        assert!(*gone.borrow());
    }
}
