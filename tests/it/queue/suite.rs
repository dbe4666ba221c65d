//! What every queue promises, whoever else has it: ranges of one process, parts of several hosts,
//! and leases in a real engine.

use crate::support::Lab;
use crate::support::redis::Redis;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tar_like::archive::ranges::RangeSet;
use tar_like::archive::shard::Shard;
use tar_like::queue::BlockQueue;
use tar_like::queue::lease::{Engine, EngineAddress, Job, JobParameters, LeaseOptions, LeaseQueue};
use tar_like::queue::range::RangeQueue;
use tar_like::telemetry::Silent;

/// Makes the queues of so many hosts for one job of these blocks.
type Make = dyn Fn(usize, &RangeSet) -> Vec<Arc<dyn BlockQueue>>;

const BLOCKS: u64 = 1000;

/// Blocks with gaps.
fn wanted() -> RangeSet {
    [3..40, 41..42, 100..700, 701..999].into_iter().collect()
}

fn parts(hosts: usize, wanted: &RangeSet) -> Vec<Arc<dyn BlockQueue>> {
    let part = |number: usize| {
        let part = format!("{number}/{hosts}").parse::<Shard>().unwrap().of_blocks(BLOCKS);
        let ranges: Vec<Range<u64>> =
            wanted.iter().map(|range| range.start.max(part.start)..range.end.min(part.end)).collect();
        Arc::new(RangeQueue::new(ranges)) as Arc<dyn BlockQueue>
    };
    (1..=hosts).map(part).collect()
}

fn leases(url: &str, job: u64, hosts: usize, wanted: &RangeSet) -> Vec<Arc<dyn BlockQueue>> {
    let host = |number: usize| {
        let address = EngineAddress { url: url.to_owned(), ..EngineAddress::default() };
        let missing = wanted.clone();
        let parameters = JobParameters {
            index: "0".repeat(64),
            tar_id: job,
            block_size: 1,
            blocks: BLOCKS,
            receiver: "suite".into(),
            lease_s: 5,
            limit: None,
            begun_s: 0,
        };
        let options = LeaseOptions {
            host: format!("host-{number}"),
            parameters,
            leaves: Arc::default(),
            workers: 4,
            missing: Box::new(move || {
                let missing = missing.clone();
                Box::pin(async move { Ok(missing) })
            }),
        };
        let job = Job::new(Engine::new(&address).unwrap(), &format!("suite-{job}"));
        let queue = LeaseQueue::new(job, options, Arc::new(Silent::default()));
        queue.begin_round(wanted.clone());
        queue as Arc<dyn BlockQueue>
    };
    (0..hosts).map(host).collect()
}

/// Runs `suite` with each kind of queue.
fn each<F: Future<Output = ()>>(suite: impl Fn(Arc<Make>) -> F) {
    let lab = Lab::new();
    let redis = Redis::start(&lab);
    let (url, jobs) = (redis.url(), AtomicU64::new(0));
    let lease = move |hosts: usize, wanted: &RangeSet| {
        leases(&url, jobs.fetch_add(1, Ordering::Relaxed), hosts, wanted)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        suite(Arc::new(parts)).await;
        suite(Arc::new(lease)).await;
    });
}

/// Claims and confirms until nothing is left; counts how often each block was claimed.
async fn drain(queue: Arc<dyn BlockQueue>) -> BTreeMap<u64, u64> {
    let mut claimed = BTreeMap::new();
    while let Some(ticket) = queue.claim().await.unwrap() {
        *claimed.entry(ticket.number).or_default() += 1;
        tokio::time::sleep(Duration::from_micros(300)).await;
        queue.confirm(ticket);
    }
    claimed
}

fn sum(all: Vec<BTreeMap<u64, u64>>) -> BTreeMap<u64, u64> {
    let mut sum = BTreeMap::new();
    for (block, count) in all.into_iter().flatten() {
        *sum.entry(block).or_default() += count;
    }
    sum
}

fn assert_all(claimed: &BTreeMap<u64, u64>, wanted: &RangeSet) {
    let blocks: RangeSet = claimed.keys().map(|block| *block..block + 1).collect();
    assert_eq!(blocks, *wanted);
}

#[test]
fn one_host_gets_every_block_once() {
    each(|make| async move {
        let queues = make(1, &wanted());
        let claimed = drain(queues[0].clone()).await;
        assert_all(&claimed, &wanted());
        assert!(claimed.values().all(|count| *count == 1), "{claimed:?}");
        assert!(queues[0].claim().await.unwrap().is_none(), "it stays at its end");
    });
}

#[test]
fn workers_of_one_host_get_every_block_once() {
    each(|make| async move {
        let queue = make(1, &wanted()).remove(0);
        let workers: Vec<_> = (0..4).map(|_| tokio::spawn(drain(queue.clone()))).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.push(worker.await.unwrap());
        }
        let claimed = sum(all);
        assert_all(&claimed, &wanted());
        assert!(claimed.values().all(|count| *count == 1), "{claimed:?}");
    });
}

#[test]
fn hosts_together_get_every_block() {
    each(|make| async move {
        let hosts: Vec<_> = make(3, &wanted()).into_iter().map(|queue| tokio::spawn(drain(queue))).collect();
        let mut all = Vec::new();
        for host in hosts {
            all.push(host.await.unwrap());
        }
        assert!(all.iter().all(|claimed| claimed.len() > 100), "each host has its part");
        let claimed = sum(all);
        assert_all(&claimed, &wanted());
        // At the end, one host may help another.
        let twice = claimed.values().filter(|count| **count > 1).count() as u64;
        assert!(twice <= wanted().covered() / 10, "{twice} blocks were sent twice");
    });
}

#[test]
fn nothing_is_claimed_of_nothing_or_after_the_end() {
    each(|make| async move {
        let queue = make(1, &RangeSet::default()).remove(0);
        assert!(queue.claim().await.unwrap().is_none());
        let queue = make(1, &wanted()).remove(0);
        let ticket = queue.claim().await.unwrap().unwrap();
        queue.confirm(ticket);
        queue.close().await.unwrap();
        assert!(queue.claim().await.unwrap().is_none());
        queue.close().await.unwrap();
    });
}

/// A block that cannot be sent ends, and hinders no other one.
#[test]
fn a_block_that_fails_ends() {
    each(|make| async move {
        let queue = make(1, &wanted()).remove(0);
        let mut claimed = BTreeMap::new();
        while let Some(ticket) = queue.claim().await.unwrap() {
            let count: &mut u64 = claimed.entry(ticket.number).or_default();
            *count += 1;
            assert!(*count <= 5, "block {} is claimed again and again", ticket.number);
            match ticket.number {
                200 => queue.fail(ticket).await.unwrap(),
                _ => queue.confirm(ticket),
            }
        }
        assert_all(&claimed, &wanted());
    });
}
