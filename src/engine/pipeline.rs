//! Parallel work with bounded memory, whose results come out in the order of the work.
//!
//! Each piece of work carries the sender of its result; the receivers of the results queue in
//! order. Both queues are bounded. When one side ends, its channels close, and the other side ends,
//! too.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Takes pieces of work. It waits while too many are under way.
pub(super) struct Feed<T, R> {
    work: SyncSender<(T, SyncSender<R>)>,
    order: SyncSender<Receiver<R>>,
}

impl<T, R> Feed<T, R> {
    /// Adds the next piece; false if the consumer has ended.
    pub(super) fn push(&self, piece: T) -> bool {
        let (result, turn) = sync_channel(1);
        self.order.send(turn).is_ok() && self.work.send((piece, result)).is_ok()
    }
}

/// Runs `produce` on a thread of its own, `work` on `threads` threads and `consume` on this one. At
/// most about `window` pieces are under way or wait for their turn.
///
/// # Errors
/// The error of `consume`, else that of `produce`.
pub(super) fn ordered<T: Send, R: Send>(
    threads: usize,
    window: usize,
    produce: impl FnOnce(Feed<T, R>) -> Result<()> + Send,
    work: impl Fn(T) -> R + Sync,
    mut consume: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let (work_in, work_out) = sync_channel::<(T, SyncSender<R>)>(window);
    let (order_in, order_out) = sync_channel::<Receiver<R>>(window);
    let work_out = Mutex::new(work_out);
    std::thread::scope(|scope| {
        let worker = || {
            loop {
                let next = work_out.lock().recv();
                let Ok((piece, result)) = next else { return };
                // The consumer may have ended; then the few queued pieces are done for nothing.
                let _ = result.send(work(piece));
            }
        };
        // If the system gives no more threads, fewer do the work, but one is needed. The workers
        // end when `work_in` is dropped.
        for number in 0..threads.max(1) {
            match std::thread::Builder::new().spawn_scoped(scope, worker) {
                Err(e) if number == 0 => return Err(Error::thread(e)),
                Err(_) => break,
                Ok(_) => {}
            }
        }
        let feed = Feed { work: work_in, order: order_in };
        let producer =
            std::thread::Builder::new().spawn_scoped(scope, move || produce(feed)).map_err(Error::thread)?;
        let mut outcome = Ok(());
        for turn in &order_out {
            let Ok(result) = turn.recv() else { break };
            outcome = consume(result);
            if outcome.is_err() {
                break;
            }
        }
        // Ends a waiting producer.
        drop(order_out);
        let produced = producer.join().unwrap_or_else(|_| {
            Err(Error::new(crate::error::ErrorKind::Internal, "the producing thread crashed"))
        });
        outcome.and(produced)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn results_come_in_order() {
        let mut seen = Vec::new();
        let produce = |feed: Feed<u64, u64>| {
            for i in 0..5000 {
                assert!(feed.push(i));
            }
            Ok(())
        };
        let work = |i: u64| {
            if i.is_multiple_of(97) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            i * 2
        };
        ordered(4, 256, produce, work, |r| {
            seen.push(r);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, (0..5000).map(|i| i * 2).collect::<Vec<_>>());
    }

    #[test]
    fn an_error_of_the_consumer_stops_the_producer() {
        let produce = |feed: Feed<u64, u64>| {
            let mut pushed = 0;
            while feed.push(pushed) {
                pushed += 1;
            }
            assert!(pushed < 10_000, "the producer was not stopped");
            Ok(())
        };
        let stop = |r| if r == 10 { Err(Error::new(ErrorKind::Io, "stop")) } else { Ok(()) };
        assert_eq!(ordered(2, 256, produce, |i| i, stop).unwrap_err().to_string(), "stop");
    }
}
