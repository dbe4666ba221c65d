//! Work in parallel whose results come out in the order in which it went in, with bounded memory.

use crate::error::{Error, Result};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Where the pieces of work go in. It waits while too many are under way.
pub(super) struct Feed<T, R> {
    work: SyncSender<(T, SyncSender<R>)>,
    order: SyncSender<Receiver<R>>,
}

impl<T, R> Feed<T, R> {
    /// Adds the next piece. False says that nobody wants results any more.
    pub(super) fn push(&self, piece: T) -> bool {
        let (result, turn) = sync_channel(1);
        self.order.send(turn).is_ok() && self.work.send((piece, result)).is_ok()
    }
}

/// Runs `produce` on a thread of its own, `work` on `threads` threads and `consume` on this one. At most about `window` pieces
/// are under way or wait for their turn to come out.
///
/// # Errors
/// Whatever `produce` or `consume` returns; `consume`'s comes first.
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
        let producer = scope.spawn(move || produce(Feed { work: work_in, order: order_in }));
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let next = work_out.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((piece, result)) = next else { return };
                    // Nobody may be waiting any more; then the pieces still queued are done for nothing, but few.
                    let _ = result.send(work(piece));
                }
            });
        }
        let mut outcome = Ok(());
        for turn in &order_out {
            let Ok(result) = turn.recv() else { break };
            outcome = consume(result);
            if outcome.is_err() {
                break;
            }
        }
        // Lets a waiting producer see that nobody wants results any more.
        drop(order_out);
        let produced = producer.join().unwrap_or_else(|_| {
            Err(Error::new(crate::error::ErrorKind::Internal, "the walking thread crashed"))
        });
        outcome.and(produced)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn order_is_kept_and_the_window_is_bounded() {
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
    fn an_error_stops_everything() {
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
