//! A remote store is fast by many requests at once, up to the limit, and by shared work.

use super::Job;
use crate::support::Rng;
use crate::support::s3::Object;
use std::time::{Duration, Instant};

#[test]
fn small_objects_are_read_side_by_side_within_bounds() {
    let job = Job::new();
    for number in 0..400 {
        job.stub.put(format!("k{number:03}"), Object::new(format!("content {number}")).in_parts(4));
    }
    job.stub.set(|settings| settings.delay = Duration::from_millis(100));
    let start = Instant::now();
    job.index(args!["--s3-requests", "16"]).code(0);
    let proxy = job.proxy();
    job.upload(&proxy, args!["--s3-requests", "16"]).code(0);
    // One after the other, 800 requests would take 80 s.
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    // The stub may still be ending an answer that was read completely.
    let most = job.stub.most_at_once();
    assert!((8..=24).contains(&most), "{most} at once");
    assert!(job.stub.connections() <= 64, "{} connections", job.stub.connections());
    assert_eq!(job.arrived("k399").unwrap(), b"content 399");
}

#[test]
fn a_large_range_is_read_in_parallel_parts_and_several_hosts_share_an_object() {
    let job = Job::new();
    let content = Rng::new(9).noise(24_000_000);
    job.stub.put("huge", Object::new(content.clone()));
    job.index(vec![]).code(0);
    let proxy = job.proxy();
    job.stub.take();
    job.stub.set(|settings| settings.delay = Duration::from_millis(50));
    let host = |range| job.upload(&proxy, [args!["-s", "12M"], range].concat());
    host(args!["-f", "1"]).code(0);
    assert_eq!(job.arrived("huge"), None);
    let theirs = job.stub.take();
    assert!(job.stub.most_at_once() >= 3, "{} at once", job.stub.most_at_once());
    host(args!["-f", "0", "-l", "0"]).code(0);
    assert!(job.arrived("huge").unwrap() == content);
    let start = |range: &str| -> u64 { range["bytes=".len()..].split('-').next().unwrap().parse().unwrap() };
    let starts = |log: &[crate::support::s3::stub::Request]| -> Vec<u64> {
        log.iter().filter(|r| r.key == b"huge").map(|r| start(r.header("range").unwrap())).collect()
    };
    let (first, second) = (starts(&job.stub.take()), starts(&theirs));
    let half = 12 << 20;
    assert!(first.len() >= 3 && first.iter().all(|&at| at < half), "{first:?}");
    assert!(second.len() >= 3 && second.iter().all(|&at| at >= half), "{second:?}");
}
