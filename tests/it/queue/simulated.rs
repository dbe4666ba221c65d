//! A thousand hosts that exist only as tasks, and the scripts on a real server.

use crate::support::Lab;
use crate::support::redis::Redis;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tar_like::queue::lease::{ATTEMPTS, Engine, EngineAddress, Grant, Job, Renewal, Wish};

fn job(redis: &Redis) -> Job {
    let address = EngineAddress { url: redis.url(), ..EngineAddress::default() };
    Job::new(Engine::new(&address).unwrap(), "simulated")
}

fn wish(host: &str, blocks: u64, lease: Duration) -> Wish<'_> {
    Wish { host, about: "{}", blocks, all_blocks: u64::MAX >> 12, lease, attempts: ATTEMPTS, done: None }
}

/// How often each block was sent.
struct Sent(Vec<AtomicU64>);

impl Sent {
    fn add(&self, blocks: Range<u64>) {
        self.0[blocks.start as usize..blocks.end as usize].iter().for_each(|count| {
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
}

/// One host: claims, sends, renews, until nothing is left. Some die on the way.
async fn host(
    redis_job: Arc<Job>,
    number: u64,
    sent: Arc<Sent>,
    calls: Arc<AtomicU64>,
    own: Arc<Mutex<Vec<u64>>>,
) {
    let (name, lease) = (format!("host-{number}"), Duration::from_secs(3));
    let (mut done, mut mine) = (None::<String>, 0);
    loop {
        calls.fetch_add(1, Ordering::Relaxed);
        let asked = Wish { done: done.as_deref(), ..wish(&name, 64, lease) };
        let grant = redis_job.claim(&asked).await.unwrap();
        done = None;
        match grant {
            Grant::Range { id, blocks, .. } => {
                if number % 10 == 7 && mine > 100 {
                    // It dies with what it has.
                    break;
                }
                calls.fetch_add(1, Ordering::Relaxed);
                let half = blocks.start + (blocks.end - blocks.start) / 2;
                sent.add(blocks.start..half);
                let renewed = redis_job.renew(&wish(&name, 0, lease), &id, half, lease * 10).await;
                let (renewal, state) = renewed.unwrap();
                assert_eq!(state.unwrap().round, 1);
                if let Renewal::Held { .. } = renewal {
                    sent.add(half..blocks.end);
                    mine += blocks.end - blocks.start;
                    done = Some(id);
                }
            }
            Grant::Wait => tokio::time::sleep(Duration::from_millis(300)).await,
            Grant::Drained { parked, .. } => {
                assert_eq!(parked, 0);
                break;
            }
            Grant::Nothing => panic!("the job was begun"),
        }
    }
    own.lock().unwrap().push(mine);
}

#[test]
fn a_thousand_hosts_lose_no_block() {
    const BLOCKS: u64 = 400_000;
    let lab = Lab::new();
    let redis = Redis::start(&lab);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let sent = Arc::new(Sent((0..BLOCKS).map(|_| AtomicU64::new(0)).collect()));
    let (calls, own) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let start = Instant::now();
    runtime.block_on(async {
        let job = Arc::new(job(&redis));
        let all = [0..BLOCKS / 2, BLOCKS / 2..BLOCKS];
        assert_eq!(job.seed(0, &all, false).await.unwrap(), 1);
        // Whoever comes later joins the round.
        assert_eq!(job.seed(0, &all, true).await.unwrap(), 1);
        let hosts: Vec<_> = (0..1000)
            .map(|number| tokio::spawn(host(job.clone(), number, sent.clone(), calls.clone(), own.clone())))
            .collect();
        for host in hosts {
            host.await.unwrap();
        }
        let state = job.state(Duration::from_secs(3)).await.unwrap().unwrap();
        assert_eq!((state.left, state.leases, state.parked), (0, 0, 0), "{state:?}");
    });
    let (calls, seconds) = (calls.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
    let counts: Vec<u64> = sent.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert!(counts.iter().all(|count| *count > 0), "a block was lost");
    let twice = counts.iter().filter(|count| **count > 1).count();
    let own = own.lock().unwrap();
    let (least, most) = (own.iter().min().unwrap(), own.iter().max().unwrap());
    println!(
        "{calls} calls in {seconds:.1} s, {twice} of {BLOCKS} blocks twice, {least} to {most} blocks a host"
    );
    // What a host had that died, and where a helper met an owner.
    assert!(twice as u64 <= BLOCKS / 10, "{twice} blocks were sent twice");
}

/// Where nothing is free, a host takes half of what the busiest one has, and the next one half of
/// what is the most then: a slow host holds up no other, however many have nothing to do.
#[test]
fn hosts_without_blocks_divide_the_largest_lease() {
    let lab = Lab::new();
    let redis = Redis::start(&lab);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job(&redis);
        job.seed(0, &[0..50, 50..100], false).await.unwrap();
        let mut given = Vec::new();
        for host in ["slow", "slow", "b", "c", "d", "e", "f"] {
            match job.claim(&wish(host, 50, Duration::from_secs(60))).await.unwrap() {
                Grant::Range { blocks, helps: false, .. } => given.push(blocks),
                other => panic!("{host}: {other:?}"),
            }
        }
        let lengths: Vec<u64> = given.iter().map(|blocks| blocks.end - blocks.start).collect();
        assert_eq!(lengths, [50, 50, 25, 25, 12, 12, 12]);
        let state = job.state(Duration::from_secs(60)).await.unwrap().unwrap();
        assert_eq!((state.left, state.leases), (100, 7));
    });
}

/// Ten million missing blocks take little of the engine, however they lie.
#[test]
fn ten_million_missing_blocks_are_small() {
    let lab = Lab::new();
    let redis = Redis::start(&lab);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let job = job(&redis);
        let ranges: Vec<Range<u64>> = (0..4096).map(|n| n * 2441..n * 2441 + 2440).collect();
        job.seed(0, &ranges, false).await.unwrap();
        for number in 0..100u64 {
            let name = format!("a-host-with-a-long-name-{number}/12345/abcdef01");
            job.claim(&wish(&name, 16, Duration::from_secs(60))).await.unwrap();
        }
    });
    let mut bytes = 0;
    for key in ["job", "free", "lease", "owner", "host", "about"] {
        let key = format!("tl:{{simulated}}:{key}");
        let answer = redis.ask(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).unwrap();
        bytes += answer.trim_start_matches(':').parse::<u64>().unwrap_or(0);
    }
    println!("{bytes} bytes");
    assert!((1..1 << 20).contains(&bytes), "{bytes} bytes");
}
