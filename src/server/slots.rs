//! Connections that may be open at once. A new one is always let in: where all slots are taken, the
//! one that matters least is ended.

use super::auth::network;
use parking_lot::{Mutex, MutexGuard};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What a connection is doing, from what matters least on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doing {
    /// None of its requests was entitled to anything so far.
    Unknown,
    /// It waits between two requests.
    Idle,
    /// The body of a request comes for which nothing is reserved.
    Receiving,
    /// A request is served. Such a connection is not ended.
    Serving,
}

impl Doing {
    const ALL: [Self; 4] = [Self::Unknown, Self::Idle, Self::Receiving, Self::Serving];
}

/// All connections.
pub(super) struct Slots {
    limit: usize,
    begun: Instant,
    table: Mutex<Table>,
    freed: Notify,
}

#[derive(Default)]
struct Table {
    slots: Vec<Arc<Slot>>,
    /// Connections by the network that they come from.
    counts: HashMap<IpAddr, usize>,
}

/// One connection.
pub(super) struct Slot {
    /// `None` for one of a trusted proxy, whose connections are those of many.
    network: Option<IpAddr>,
    doing: AtomicU8,
    /// Since when, in milliseconds.
    since_ms: AtomicU64,
    begun: Instant,
    is_evicted: AtomicBool,
    evicted: Notify,
}

impl Slot {
    /// Records what the connection does now.
    pub(super) fn set(&self, doing: Doing) {
        self.since_ms.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    pub(super) fn doing(&self) -> Doing {
        Doing::ALL[usize::from(self.doing.load(Ordering::Relaxed)) % Doing::ALL.len()]
    }

    /// Ready when the connection has to end.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Table {
    /// Connections of a network that has far more than its share end first, then those without a
    /// known requester, then those that wait; of these, those of the network that has the most, the
    /// oldest first.
    fn evict(&self, limit: usize) {
        if self.slots.iter().any(|slot| slot.is_evicted.load(Ordering::Relaxed)) {
            return;
        }
        let count =
            |slot: &Slot| slot.network.and_then(|network| self.counts.get(&network)).map_or(1, |n| *n);
        let evictable = self.slots.iter().filter(|slot| slot.doing() != Doing::Serving);
        let least = evictable.min_by_key(|slot| {
            let (count, since_ms) = (count(slot), slot.since_ms.load(Ordering::Relaxed));
            let is_in_its_share = count <= limit / 4;
            (is_in_its_share, slot.doing(), Reverse(count), since_ms)
        });
        if let Some(slot) = least {
            slot.is_evicted.store(true, Ordering::Relaxed);
            slot.evicted.notify_one();
        }
    }
}

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, begun: Instant::now(), table: Mutex::default(), freed: Notify::new() })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Waits until there is a free slot, and ends a connection where there is none.
    pub(super) async fn wait(&self) {
        loop {
            {
                let table = self.table();
                if table.slots.len() < self.limit {
                    return;
                }
                table.evict(self.limit);
            }
            let _ = tokio::time::timeout(Duration::from_millis(100), self.freed.notified()).await;
        }
    }

    /// Takes a slot for a connection from `peer`.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr, is_trusted: bool) -> TakenSlot {
        let slot = Arc::new(Slot {
            network: (!is_trusted).then(|| network(peer)),
            doing: AtomicU8::new(Doing::Unknown as u8),
            since_ms: AtomicU64::new(self.begun.elapsed().as_millis() as u64),
            begun: self.begun,
            is_evicted: AtomicBool::new(false),
            evicted: Notify::new(),
        });
        let mut table = self.table();
        table.slots.push(slot.clone());
        if let Some(network) = slot.network {
            *table.counts.entry(network).or_default() += 1;
        }
        TakenSlot { slots: self.clone(), slot }
    }
}

/// Given back when it is dropped.
pub(super) struct TakenSlot {
    slots: Arc<Slots>,
    pub(super) slot: Arc<Slot>,
}

impl Drop for TakenSlot {
    fn drop(&mut self) {
        {
            let mut table = self.slots.table();
            table.slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
            if let Some(network) = self.slot.network
                && let Some(count) = table.counts.get_mut(&network)
            {
                *count -= 1;
                if *count == 0 {
                    table.counts.remove(&network);
                }
            }
        }
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the connection that is ended.
    fn evicted(slots: &Slots, taken: &[TakenSlot]) -> Option<usize> {
        slots.table().evict(slots.limit);
        taken.iter().position(|taken| taken.slot.is_evicted.load(Ordering::Relaxed))
    }

    #[test]
    fn the_connection_that_matters_least_is_ended() {
        let slots = Slots::new(4);
        let peer = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut taken: Vec<TakenSlot> = [(1, false), (2, false), (1, false), (3, true)]
            .map(|(last, trusted)| slots.take(peer(last), trusted))
            .into();
        taken[1].slot.set(Doing::Serving);
        taken[0].slot.set(Doing::Idle);
        assert_eq!(evicted(&slots, &taken), Some(2), "it is unknown, and its network has another one");
        taken.remove(2);
        assert_eq!(evicted(&slots, &taken), Some(2), "the unknown one of the trusted proxy");
        taken.remove(2);
        assert_eq!(evicted(&slots, &taken), Some(0));
        taken.remove(0);
        assert_eq!(evicted(&slots, &taken), None, "the last one is being served");
        // Whatever they do: connections of a network that has too many go first.
        drop(taken);
        let slots = Slots::new(8);
        let taken: Vec<TakenSlot> = [1, 1, 1, 2, 3].map(|last| slots.take(peer(last), false)).into();
        taken[..3].iter().for_each(|taken| taken.slot.set(Doing::Receiving));
        assert_eq!(evicted(&slots, &taken), Some(0), "the others have just come");
        drop(taken);
        assert!(slots.table().counts.is_empty() && slots.table().slots.is_empty());
    }
}
