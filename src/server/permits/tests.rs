use super::*;

fn requester(token: &str, tar_id: u64) -> Requester {
    Requester { token: Some(token.to_string()), network: [127, 0, 0, 1].into(), tar_id }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

const LONG: Duration = Duration::from_secs(100);

#[test]
fn who_holds_least_is_next() {
    run(async {
        let permits = Permits::new(2, 0);
        let held =
            [permits.acquire(requester("a", 0), LONG).await, permits.acquire(requester("a", 0), LONG).await];
        assert!(permits.acquire(requester("a", 0), Duration::from_millis(1)).await.is_none());
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = [("a", 0), ("a", 0), ("a", 1), ("b", 0)]
            .into_iter()
            .map(|(token, tar_id)| {
                let (permits, order) = (permits.clone(), order.clone());
                tokio::spawn(async move {
                    let permit = permits.acquire(requester(token, tar_id), LONG).await.unwrap();
                    order.lock().push((token, tar_id));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    drop(permit);
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let [first, second] = held;
        drop(first);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(*order.lock(), [("b", 0)], "the other token comes first");
        drop(second);
        tokio::time::sleep(Duration::from_millis(10)).await;
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(order.lock().len(), 4);
        assert_eq!(permits.held(), 0);
    });
}

#[test]
fn a_permit_goes_from_a_drip_to_whoever_waits_and_only_then() {
    run(async {
        let permits = Permits::new(2, 0);
        let slow = permits.acquire(requester("a", 0), LONG).await.unwrap();
        let fast = permits.acquire(requester("a", 0), LONG).await.unwrap();
        slow.begin_body();
        fast.begin_body();
        for _ in 0..100 {
            slow.record_bytes(1);
            fast.record_bytes(20_000);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // Nobody waits: it may go on for ever.
        assert!(tokio::time::timeout(Duration::from_millis(1), slow.preempted()).await.is_err());
        let begun = Instant::now();
        let theirs = permits.clone();
        let waiter = tokio::spawn(async move { theirs.acquire(requester("a", 0), LONG).await });
        slow.preempted().await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(tokio::time::timeout(Duration::from_millis(1), fast.preempted()).await.is_err());
        drop(slow);
        assert!(waiter.await.unwrap().is_some());
    });
}

#[test]
fn a_body_that_came_well_may_pause() {
    run(async {
        let permits = Permits::new(1, 0);
        let pausing = permits.acquire(requester("a", 0), LONG).await.unwrap();
        pausing.begin_body();
        tokio::time::sleep(Duration::from_secs(1)).await;
        pausing.record_bytes(1_000_000);
        let theirs = permits.clone();
        let waiting = tokio::spawn(async move { theirs.acquire(requester("b", 1), LONG).await });
        assert!(tokio::time::timeout(Duration::from_millis(1900), pausing.preempted()).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(200), pausing.preempted()).await.is_ok());
        drop(pausing);
        assert!(waiting.await.unwrap().is_some());
    });
}

/// 8 kB/s are enough where every client has its share, for as long as a body of a slow link takes.
#[test]
fn a_slow_link_keeps_its_share() {
    run(async {
        for (holder, waiter, seconds) in [("a", "b", 9), ("a", "a", 9)] {
            let permits = Permits::new(1, 0);
            let slow = permits.acquire(requester(holder, 0), LONG).await.unwrap();
            slow.begin_body();
            let theirs = permits.clone();
            let waiting = tokio::spawn(async move { theirs.acquire(requester(waiter, 1), LONG).await });
            for _ in 0..4 * seconds {
                tokio::time::sleep(Duration::from_millis(250)).await;
                slow.record_bytes(2000);
            }
            assert!(tokio::time::timeout(Duration::from_millis(1), slow.preempted()).await.is_err());
            tokio::time::sleep(Duration::from_millis(1500)).await;
            slow.preempted().await;
            drop(slow);
            assert!(waiting.await.unwrap().is_some());
        }
        // But not more than its share.
        let permits = Permits::new(2, 0);
        let held = [permits.acquire(requester("a", 0), LONG).await.unwrap(), {
            permits.acquire(requester("a", 0), LONG).await.unwrap()
        }];
        held.iter().for_each(Permit::begin_body);
        let theirs = permits.clone();
        let waiting = tokio::spawn(async move { theirs.acquire(requester("b", 0), LONG).await });
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            held[0].record_bytes(4000);
            held[1].record_bytes(3000);
        }
        assert!(tokio::time::timeout(Duration::from_millis(1), held[0].preempted()).await.is_err());
        held[1].preempted().await;
        drop(held);
        assert!(waiting.await.unwrap().is_some());
    });
}

#[test]
fn who_stops_waiting_leaves_its_turn_to_the_next() {
    run(async {
        let permits = Permits::new(1, 0);
        let held = permits.acquire(requester("a", 0), LONG).await;
        let theirs = permits.clone();
        let gone = tokio::spawn(async move { theirs.acquire(requester("b", 0), LONG).await });
        let theirs = permits.clone();
        let next = tokio::spawn(async move { theirs.acquire(requester("c", 0), LONG).await.is_some() });
        tokio::time::sleep(Duration::from_millis(10)).await;
        gone.abort();
        drop(held);
        assert!(next.await.unwrap());
        assert_eq!(permits.held(), 0);
    });
}

#[test]
fn whoever_holds_all_for_long_keeps_no_other_client_waiting() {
    run(async {
        let permits = Permits::new(2, 2);
        let now = Duration::from_millis(1);
        let greedy = [
            permits.acquire(requester("a", 0), now).await.unwrap(),
            permits.acquire(requester("a", 1), now).await.unwrap(),
        ];
        assert!(permits.acquire(requester("a", 2), now).await.is_none());
        let theirs = permits.clone();
        let waiting = tokio::spawn(async move { theirs.acquire(requester("a", 3), LONG).await.is_some() });
        tokio::time::sleep(now).await;
        let spare = permits.acquire(requester("b", 0), now).await;
        assert!(spare.is_some(), "another one waits, but of the client that has the most");
        assert!(permits.acquire(requester("b", 1), now).await.is_none(), "it holds one");
        assert!(permits.acquire(requester("c", 0), now).await.is_some(), "and gave it back");
        drop(spare);
        drop(greedy);
        assert!(waiting.await.unwrap());
        // Without tokens it is the network that counts.
        let from = |last, tar_id| Requester { token: None, network: [192, 0, 2, last].into(), tar_id };
        let greedy = [
            permits.acquire(from(1, 0), now).await.unwrap(),
            permits.acquire(from(1, 1), now).await.unwrap(),
        ];
        assert!(permits.acquire(from(1, 2), now).await.is_none());
        assert!(permits.acquire(from(2, 3), now).await.is_some());
        drop(greedy);
    });
}
