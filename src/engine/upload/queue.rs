//! The queue that an upload shares with those of other hosts.

use super::job::Upload;
use super::missing::missing_of;
use super::options::QueueOptions;
use crate::archive::layout::BlockLayout;
use crate::archive::protocol::job_name;
use crate::archive::ranges::RangeSet;
use crate::error::Result;
use crate::queue::BlockQueue;
use crate::queue::lease::{Engine, Job, JobParameters, LeaseOptions, LeaseQueue};
use crate::queue::range::RangeQueue;
use crate::remote::{Grant, SharedLimit};
use crate::telemetry::Notice;
use crate::unix_time::now_s;
use futures_util::future::try_join_all;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often what is missing after all was sent is sent again, before the files that it belongs to
/// count as failed.
const ROUNDS: usize = 3;
/// How long a host that stops waits for the engine that gets its leases back.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// The blocks that have anything of `missing`.
fn blocks_with(layout: BlockLayout, missing: &RangeSet) -> RangeSet {
    missing.iter().map(|range| layout.blocks_of(range)).collect()
}

/// A limit, in bytes a second, on what the hosts of a queue send together.
struct OfAllHosts(Weak<LeaseQueue>, u64);

/// So often in a second a host asks for more at most ...
const GRANTS_PER_S: u64 = 8;
/// ... and all hosts together.
const ALL_GRANTS_PER_S: u64 = 500;

/// How many bytes a host asks for at once that sends at most `rate` bytes a second, where `hosts`
/// send `total` together: its share of the time between two questions.
fn portion(rate: u64, total: u64, hosts: u64) -> u64 {
    let hosts = hosts.max(1);
    let seconds = f64::max(1.0 / GRANTS_PER_S as f64, hosts as f64 / ALL_GRANTS_PER_S as f64);
    (rate.min(total / hosts) as f64 * seconds) as u64
}

impl SharedLimit for OfAllHosts {
    fn grant(&self, bytes: u64) -> Grant<'_> {
        Box::pin(async move {
            match self.0.upgrade() {
                Some(queue) => queue.grant(bytes, self.1).await,
                None => Duration::ZERO,
            }
        })
    }

    fn portion(&self, rate: u64) -> u64 {
        portion(rate, self.1, self.0.upgrade().map_or(1, |queue| queue.hosts()))
    }
}

impl Upload {
    /// So many rounds make sense. What hosts together have sent in vain, each sends once more alone:
    /// another one may have sent other bytes.
    pub(super) fn rounds(&self) -> usize {
        ROUNDS + usize::from(self.options.queue.is_some())
    }

    /// The queue that gives out the blocks `todo` of this round.
    pub(super) fn queue(&self, todo: &[Range<u64>], round: usize) -> Result<Arc<dyn BlockQueue>> {
        if round > ROUNDS {
            return Ok(Arc::new(RangeQueue::again(todo.iter().cloned())));
        }
        let Some(options) = &self.options.queue else {
            return Ok(Arc::new(RangeQueue::new(todo.iter().cloned())));
        };
        let queue = self.shared_queue(options)?;
        queue.begin_round(todo.iter().cloned().collect());
        Ok(queue)
    }

    /// Takes part in the queue of this receiver, so that the limit of all hosts counts from now on.
    pub(super) fn join_queue(&self) -> Result<()> {
        self.options.queue.as_ref().map_or(Ok(()), |options| self.shared_queue(options).map(drop))
    }

    fn shared_queue(&self, options: &QueueOptions) -> Result<Arc<LeaseQueue>> {
        let name = self.job_name();
        let mut queues = self.shared.queues.lock();
        if let Some(queue) = queues.get(&name) {
            return Ok(queue.clone());
        }
        let engine = Engine::new(&options.address)?;
        let queue =
            LeaseQueue::new(Job::new(engine, &name), self.lease_options(options), self.monitor.clone());
        // One job has the limit for all slices. Without it, hosts would have one each.
        if let Some(limit) = options.limit.as_ref().filter(|_| self.has_all_archive()) {
            limit.own.share(Arc::new(OfAllHosts(Arc::downgrade(&queue), limit.bytes_per_second)));
        }
        queues.insert(name, queue.clone());
        Ok(queue)
    }

    /// Whether the receiver has the journal of the whole archive.
    fn has_all_archive(&self) -> bool {
        self.slice.lock().as_ref().is_none_or(|slice| slice.number == 1)
    }

    /// All hosts that send these blocks of this index to this receiver have the same.
    fn job_name(&self) -> String {
        job_name(&self.summary.digest, self.options.tar_id, self.options.block_size, &self.receiver())
    }

    /// What stands for the receiver, whatever its address.
    fn receiver(&self) -> String {
        self.receiver_id.lock().clone().unwrap_or_else(|| self.client.address().to_owned())
    }

    fn lease_options(&self, options: &QueueOptions) -> LeaseOptions {
        let (client, whole, digest) = (self.client.clone(), self.whole.clone(), self.summary.digest);
        let (layout, block_size) = (self.block_layout, self.options.block_size);
        let missing = move || {
            let (client, whole) = (client.clone(), whole.clone());
            let missing = async move {
                let missing = missing_of(&*client, block_size, &digest).await?;
                // What a slice has handed over, it does not know of any more.
                let missing = match &whole {
                    Some(whole) => missing.in_common(&missing_of(&**whole, block_size, &digest).await?),
                    None => missing,
                };
                Ok(blocks_with(layout, &missing))
            };
            Box::pin(missing) as crate::queue::Answer<'static, RangeSet>
        };
        let parameters = JobParameters {
            index: digest.to_string(),
            tar_id: self.options.tar_id,
            block_size,
            blocks: layout.blocks(),
            receiver: self.receiver(),
            lease_s: options.lease.as_secs(),
            limit: options.limit.as_ref().map(|limit| limit.bytes_per_second),
            begun_s: now_s(),
        };
        LeaseOptions {
            host: options.host.clone(),
            parameters,
            leaves: options.leaves.clone(),
            workers: self.options.workers,
            missing: Box::new(missing),
        }
    }

    /// Whether this host has stopped although something is left to be sent.
    pub(super) fn has_stopped(&self) -> bool {
        self.shared.queues.lock().values().any(|queue| queue.has_stopped())
    }

    /// Gives back what this host has not sent. With `is_over`, the receiver has everything.
    pub(super) async fn leave_queue(&self, is_over: bool) {
        let queues = std::mem::take(&mut *self.shared.queues.lock());
        if queues.is_empty() {
            return;
        }
        let close = try_join_all(queues.into_values().map(|queue| async move {
            queue.close().await?;
            if is_over { queue.forget().await } else { Ok(()) }
        }));
        let closed = tokio::time::timeout(CLOSE_DEADLINE, close).await;
        if is_over {
            // Whatever is left of the job there expires.
            return;
        }
        if !matches!(closed, Ok(Ok(_))) {
            let lease = self.options.queue.as_ref().map_or(0, |options| options.lease.as_secs());
            self.monitor.notice(Notice::Warning(format!(
                "the queue does not answer: other hosts take over what this one has left after {lease} s"
            )));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_hosts_ask_for_their_share_of_a_longer_time() {
        const MIB: u64 = 1 << 20;
        assert_eq!(portion(800 * MIB, 800 * MIB, 1), 100 * MIB);
        assert_eq!(portion(800 * MIB, 800 * MIB, 0), 100 * MIB, "no other host is known yet");
        assert_eq!(portion(8 * MIB, 800 * MIB, 1), MIB, "its own limit");
        assert_eq!(portion(800 * MIB, 800 * MIB, 10), 10 * MIB);
        // Each every two seconds, which are 500 in a second.
        assert_eq!(portion(1000 * MIB, 1000 * MIB, 1000), 2 * MIB);
    }
}
