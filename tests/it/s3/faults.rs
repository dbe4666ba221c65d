//! Faults of stores, one at a time: a file arrives as it was indexed or is named as failed, and its
//! neighbours arrive.

use super::Job;
use crate::support::index::{md5_hex, open};
use crate::support::s3::{Fault, Object, On};
use crate::support::{Rng, Running, wait_until};
use std::time::{Duration, Instant};

/// A bucket with one object for each fault of the list, and one before and behind each.
fn bucket() -> (Job, Vec<u8>) {
    let job = Job::new();
    let content = Rng::new(3).noise(300_000);
    job.stub.put("a before", Object::new("before"));
    job.stub.put("b", Object::new(content.clone()));
    job.stub.put("c behind", Object::new("behind"));
    (job, content)
}

/// Transient faults: the upload succeeds when they end.
fn passing() -> Vec<Fault> {
    vec![
        Fault::Status(500),
        Fault::Status(503),
        Fault::Hangup,
        Fault::CutAfter(1000),
        Fault::CutAfter(0),
        Fault::StallAfter(1000, Duration::from_secs(4)),
        Fault::Delay(Duration::from_secs(4)),
        Fault::WrongContentRange,
        Fault::Shorter(10),
        Fault::Longer(10),
        Fault::Answer(200, "<html>a proxy's page</html>".into()),
        Fault::Answer(503, String::new()),
    ]
}

#[test]
fn transient_errors_are_retried() {
    let (job, content) = bucket();
    job.index(vec![]).code(0);
    for (number, fault) in passing().into_iter().enumerate() {
        let name = format!("{fault:?}");
        let dest = job.lab.dir(&format!("dest-{number}"));
        let proxy = job.lab.proxy(&dest);
        job.stub.take();
        job.stub.fault(On::get("b"), 2, fault);
        let start = Instant::now();
        // Small blocks: every request is for a part of the object.
        job.upload(&proxy, args!["-s", "100000", "-p", "1"]).code(0);
        assert_eq!(std::fs::read(dest.join("b")).unwrap(), content, "{name}");
        assert_eq!(std::fs::read(dest.join("c behind")).unwrap(), b"behind", "{name}");
        assert!(start.elapsed() < Duration::from_secs(20), "{name} took {:?}", start.elapsed());
        let met = job.stub.take().iter().filter(|request| name.starts_with(&request.fault)).count();
        assert!(met >= 2, "{name} was met {met} times");
    }
}

#[test]
fn a_body_that_ends_early_is_taken_up_where_it_ended() {
    let (job, content) = bucket();
    job.index(vec![]).code(0);
    let proxy = job.proxy();
    job.stub.take();
    job.stub.fault(On::get("b"), 3, Fault::CutAfter(70_000));
    job.upload(&proxy, vec![]).code(0);
    assert_eq!(job.arrived("b").unwrap(), content);
    let asked = job.stub.take();
    let range = |request: &crate::support::s3::stub::Request| {
        let (start, end) = request.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse::<u64>().ok()?, end.parse::<u64>().ok()?))
    };
    let ranges: Vec<_> = asked.iter().filter(|r| r.key == b"b").map(|r| range(r).unwrap()).collect();
    // The first part of a block is small, since nothing is known of the link yet.
    let end = ranges[0].1;
    assert_eq!(ranges[..4], [(0, end), (70_000, end), (140_000, end), (210_000, end)], "{ranges:?}");
    assert!(end > 210_000 && ranges[4..].iter().all(|(start, _)| *start > end), "{ranges:?}");
    let etag = format!("\"{}\"", Object::new(content).etag);
    assert!(asked.iter().filter(|r| r.key == b"b").all(|request| request.header("if-match") == Some(&etag)));
}

#[test]
fn an_object_other_than_the_indexed_one_fails_alone() {
    let other = Object::new(Rng::new(4).noise(300_000));
    let cases: Vec<(&str, &str, Vec<Fault>)> = vec![
        ("it changed", "412", vec![Fault::Status(412)]),
        ("it is gone", "404", vec![Fault::Status(404)]),
        ("AccessDenied", "403", vec![Fault::Status(403)]),
        ("SlowDown", "503", vec![Fault::Status(503)]),
        ("it changed", "another ETag", vec![Fault::OtherEtag("0123".into())]),
        ("it changed", "replaced between two parts", vec![Fault::ThenReplace(other)]),
    ];
    for (reason, name, faults) in cases {
        let (job, _) = bucket();
        job.index(vec![]).code(0);
        let proxy = job.proxy();
        for fault in faults {
            let times = if matches!(fault, Fault::ThenReplace(_)) { 1 } else { usize::MAX };
            job.stub.fault(On::get("b"), times, fault);
        }
        let output = job.upload(&proxy, args!["-s", "100000", "-p", "1"]).code(3);
        assert!(
            output.stderr.contains(&format!("failed: b: {reason}")) || output.stderr.contains(reason),
            "{name}: {}",
            output.stderr
        );
        assert_eq!((job.arrived("b"), job.arrived("a before")), (None, Some(b"before".to_vec())), "{name}");
        assert_eq!(job.arrived("c behind").unwrap(), b"behind", "{name}");
    }
}

#[test]
fn if_match_that_is_ignored_is_noticed_by_the_etag() {
    let (job, content) = bucket();
    job.index(vec![]).code(0);
    let proxy = job.proxy();
    let mut other = content.clone();
    other[200_000] ^= 1;
    job.stub.put("b", Object::new(other));
    job.stub.fault(On::get("b"), usize::MAX, Fault::IgnoreIfMatch);
    job.upload(&proxy, vec![]).code(3).says("failed: b: it changed");
    assert_eq!((job.arrived("b"), job.arrived("c behind")), (None, Some(b"behind".to_vec())));
    // After the content is restored, the same command completes.
    job.stub.put("b", Object::new(content.clone()));
    job.upload(&proxy, vec![]).code(0);
    assert_eq!(job.arrived("b").unwrap(), content);
}

#[test]
fn content_under_the_same_etag_is_not_believed() {
    let (job, content) = bucket();
    job.index(vec![]).code(0);
    let proxy = job.proxy();
    let etag = Object::new(content.clone()).etag;
    let mut other = content;
    other[5] ^= 1;
    job.stub.put("b", Object::new(other).etag(&etag));
    job.upload(&proxy, vec![]).code(3).says("failed: b: its content is not what the index says");
    assert_eq!((job.arrived("b"), job.arrived("c behind")), (None, Some(b"behind".to_vec())));
}

/// As a damaging relay would do it: all that the answer says of itself is right.
#[test]
fn a_byte_that_is_damaged_on_the_way_is_noticed_by_the_etag() {
    for size in [9_000_000, 300_000] {
        let job = Job::new();
        let content = Rng::new(8).noise(size);
        job.stub.put("b", Object::new(content.clone()));
        let flip = |at| job.stub.fault(On::get("b"), 1, Fault::Flip(at));
        flip(5);
        job.sync(vec![]).code(0);
        assert!(job.arrived("b").unwrap() == content, "sync, {size}");
        job.check(vec![]).code(0);
        flip(5);
        job.index(args!["--checksum"]).code(0);
        assert_eq!(md5_of(&job), md5_hex(&content));
        let dest = job.lab.dir("uploaded");
        let proxy = job.lab.proxy(&dest);
        flip(5);
        job.upload(&proxy, vec![]).code(0);
        assert!(std::fs::read(dest.join("b")).unwrap() == content, "upload, {size}");
        // Two reads that are damaged in different ways: neither is trusted.
        let gets = size.div_ceil(4 << 20);
        for at in [5, 6] {
            flip(at);
            job.stub.fault(On::get("b"), gets - 1, Fault::Pass);
        }
        let (dest, db) = (job.lab.path("other"), job.lab.path("other.sqlite"));
        let sync = || job.cmd(args!["sync", "s3://bkt", dest, "-db", db]).run();
        sync().code(3).says("failed: b: ");
        assert!(!dest.join("b").exists());
        sync().code(0);
        assert!(std::fs::read(dest.join("b")).unwrap() == content, "the next run, {size}");
    }
}

#[test]
fn a_store_that_answers_ranges_wrongly_is_not_believed_because_it_does_so_twice() {
    let job = Job::new();
    let content = Rng::new(8).noise(9_000_000);
    job.stub.put("b", Object::new(content));
    job.stub.fault(On::get("b"), usize::MAX, Fault::FromBeginning);
    job.sync(vec![]).code(3).says("failed: b: ");
    assert_eq!(job.arrived("b"), None);
    job.index(args!["--checksum"]).code(3).says("failed: b: its content came differently");
}

#[test]
fn etags_that_only_look_like_md5s_are_not_recorded_as_such() {
    for size in [9_000_000, 300_000] {
        let job = Job::new();
        let content = Rng::new(8).noise(size);
        job.stub.put("b", Object::new(content.clone()).etag(&md5_hex(b"something else")));
        job.sync(vec![]).code(0);
        assert!(job.arrived("b").unwrap() == content);
        assert_eq!(md5_of(&job), md5_hex(&content));
        job.check(vec![]).code(0);
        job.lab.check(&job.dest(), &job.db(), vec![]).code(0);
    }
}

fn md5_of(job: &Job) -> String {
    open(&job.db()).query_row("SELECT hash FROM tar WHERE path = 'b'", [], |row| row.get(0)).unwrap()
}

#[test]
fn an_index_survives_transient_errors_and_names_lasting_ones() {
    for fault in
        [Fault::Status(503), Fault::Hangup, Fault::MalformedXml, Fault::Delay(Duration::from_secs(4))]
    {
        let name = format!("{fault:?}");
        let (job, _) = bucket();
        job.stub.fault(On::List, 2, fault.clone());
        job.stub.fault(On::head("b"), 2, fault);
        job.index(vec![]).code(0);
        assert_eq!(crate::support::index::paths(&job.db()), ["a before", "b", "c behind"], "{name}");
    }
    let (job, _) = bucket();
    job.stub.fault(On::head("b"), usize::MAX, Fault::Status(404));
    job.index(vec![]).code(3).says("failed: b: it is gone");
    assert_eq!(crate::support::index::paths(&job.db()), ["a before", "c behind"]);
    job.stub.fault(On::List, usize::MAX, Fault::Status(403));
    job.index(vec![]).code(1).says("cannot list s3://bkt/").says("AccessDenied").says("hint:");
}

#[test]
fn sync_reads_again_what_failed_on_the_way() {
    let (job, content) = bucket();
    // Larger than the buffer in memory: it is streamed.
    let large = Rng::new(5).noise(10_000_000);
    job.stub.put("large", Object::new(large.clone()).in_parts(5 << 20));
    job.stub.fault(On::get("b"), 2, Fault::CutAfter(1000));
    job.stub.fault(On::get("large"), 3, Fault::CutAfter(1_000_000));
    job.stub.fault(On::get("c behind"), 1, Fault::Status(500));
    job.sync(vec![]).code(0);
    assert_eq!((job.arrived("b").unwrap(), job.arrived("large").unwrap() == large), (content, true));
    // An object that cannot be read is named, and the next run copies it.
    let job = Job::new();
    job.stub.put("large", Object::new(large.clone()).in_parts(5 << 20));
    job.stub.put("small", Object::new("small"));
    job.stub.fault(On::get("large"), 2, Fault::Pass);
    job.stub.fault(On::get("large"), usize::MAX, Fault::Status(403));
    job.sync(vec![]).code(3).says("failed: large: ");
    assert_eq!((job.arrived("large"), job.arrived("small")), (None, Some(b"small".to_vec())));
    job.stub.clear_faults();
    job.sync(vec![]).code(0);
    assert!(job.arrived("large").unwrap() == large);
}

#[test]
fn a_wait_for_the_store_can_be_interrupted() {
    let stall = || Fault::StallAfter(10, Duration::from_secs(20));
    let (job, _) = bucket();
    let asked = |job: &Job, method: &str| {
        wait_until("the store is asked", Duration::from_secs(20), || {
            job.stub.take().iter().any(|request| request.method == method && request.key == b"b")
        });
    };
    let interrupt = |running: Running| {
        let start = Instant::now();
        running.signal(rustix::process::Signal::INT);
        let output = running.wait().code(130);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    };
    job.stub.fault(On::head("b"), 9, Fault::Delay(Duration::from_secs(20)));
    let args = args!["index", "--use-s3", "-c", "-db", job.db()];
    let index = job.lab.cmd(args).envs(job.stub.env()).spawn();
    asked(&job, "HEAD");
    interrupt(index);
    assert!(!job.db().exists());
    job.stub.clear_faults();
    job.index(vec![]).code(0);
    let proxy = job.proxy();
    job.stub.fault(On::get("b"), 9, stall());
    let args = args!["upload", "--use-s3", "-db", job.db(), "-u", proxy.url];
    let upload = job.lab.cmd(args).envs(job.stub.env()).spawn();
    asked(&job, "GET");
    interrupt(upload);
    let args = args!["sync", "s3://bkt", job.lab.path("synced"), "-db", job.lab.path("sync.sqlite")];
    let sync = job.lab.cmd(args).envs(job.stub.env()).spawn();
    asked(&job, "GET");
    interrupt(sync);
    job.stub.clear_faults();
    job.upload(&proxy, vec![]).code(0);
}
