//! The index of a bucket, and where its values come from.

use super::Job;
use crate::support::Rng;
use crate::support::index::{md5_hex, meta, open, rows};
use crate::support::s3::{Fault, Object, On};
use std::os::unix::fs::MetadataExt;

fn hash(job: &Job, path: &str) -> Option<String> {
    open(&job.db()).query_row("SELECT hash FROM tar WHERE path = ?", [path], |row| row.get(0)).unwrap()
}

#[test]
fn md5_comes_from_the_etag_only_where_it_is_one() {
    let job = Job::new();
    let content = Rng::new(1).noise(9_000_000);
    let small = b"small".to_vec();
    job.stub.put("plain", Object::new(small.clone()));
    job.stub.put("parts", Object::new(small.clone()).in_parts(2));
    job.stub.put("parts large", Object::new(content.clone()).in_parts(5 << 20));
    // ETags with the form of an md5.
    let wrong = md5_hex(b"ciphertext");
    job.stub.put(
        "kms",
        Object::new(small.clone()).etag(&wrong).header("x-amz-server-side-encryption", "aws:kms"),
    );
    job.stub.put(
        "customer",
        Object::new(small.clone())
            .etag(&wrong)
            .header("x-amz-server-side-encryption-customer-algorithm", "AES256"),
    );
    job.stub.put("sse-s3", Object::new(small.clone()).header("x-amz-server-side-encryption", "AES256"));
    job.stub.put("strange", Object::new(small.clone()).etag("0x8DC0FFEE"));
    job.stub.put("empty", Object::new("").etag("whatever-1"));
    job.index(vec![]).code(0);
    for (path, content) in [
        ("plain", &small),
        ("parts", &small),
        ("parts large", &content),
        ("kms", &small),
        ("customer", &small),
        ("sse-s3", &small),
        ("strange", &small),
        ("empty", &vec![]),
    ] {
        assert_eq!(hash(&job, path), Some(md5_hex(content)), "{path}");
    }
    // Only objects that need it are read, each once, and no empty one.
    let asked = job.stub.take();
    let gets = |key: &str| asked.iter().filter(|r| r.method == "GET" && r.key == key.as_bytes()).count();
    assert_eq!(
        ["plain", "sse-s3", "empty", "parts", "kms", "customer", "strange"].map(gets),
        [0, 0, 0, 1, 1, 1, 1]
    );
    assert_eq!(meta(&job.db(), "base"), "s3://bkt/");
    let proxy = job.proxy();
    job.stub.take();
    job.upload(&proxy, vec![]).code(0);
    assert!(!job.stub.take().iter().any(|request| request.key == b"empty"), "size 0 needs no GET");
    assert_eq!(job.arrived("parts large").unwrap(), content);
    job.lab.check(&job.dest(), &job.db(), args!["--extra"]).code(0);
    job.check(args!["--extra"]).code(0);
}

#[test]
fn a_list_without_etags_has_each_object_asked_for_its_head() {
    let job = Job::new();
    job.stub.set(|settings| settings.lists_etags = false);
    job.stub.put("plain", Object::new("plain"));
    job.stub.put("parts", Object::new("content").in_parts(4));
    job.stub.put("empty", Object::new(""));
    job.index(vec![]).code(0);
    for (path, content) in [("plain", "plain"), ("parts", "content"), ("empty", "")] {
        assert_eq!(hash(&job, path), Some(md5_hex(content.as_bytes())), "{path}");
    }
    let heads = job.stub.take().iter().filter(|request| request.method == "HEAD").count();
    assert!(heads >= 3, "{heads}");
    // The ETag that a GET has to match comes from HEAD, in a sync as well.
    job.sync(vec![]).code(0);
    assert_eq!(job.arrived("plain").unwrap(), b"plain");
    assert_eq!(job.arrived("parts").unwrap(), b"content");
    let asked = job.stub.take();
    let gets = asked.iter().filter(|request| request.method == "GET" && !request.key.is_empty());
    let without =
        gets.filter(|request| request.header("if-match").is_none_or(|etag| etag.len() < 10)).count();
    assert_eq!(without, 0);
    // No object counts as unchanged without an ETag.
    job.stub.put("plain", Object::new("other"));
    job.sync(vec![]).code(0);
    assert_eq!(job.arrived("plain").unwrap(), b"other");
}

#[test]
fn left_out_md5s_are_unverified_and_never_ok() {
    let job = Job::new();
    job.stub.put("parts", Object::new("content").in_parts(4));
    job.stub.put("plain", Object::new("plain"));
    job.index(args!["--s3-no-md5"]).code(0);
    assert!(!job.stub.take().iter().any(|request| request.method == "GET" && !request.key.is_empty()));
    assert_eq!((hash(&job, "parts"), hash(&job, "plain")), (None, Some(md5_hex(b"plain"))));
    let proxy = job.proxy();
    let uploaded = job.upload(&proxy, vec![]).code(0).says("no digest of 1 file:").says("cannot be verified");
    assert!(uploaded.stderr.contains("warning"), "{}", uploaded.stderr);
    assert_eq!(job.arrived("parts").unwrap(), b"content");
    let local = job.lab.check(&job.dest(), &job.db(), vec![]).code(1).says("UNVERIFIED");
    assert_eq!(local.stdout, "unverified\tparts\n");
    let remote = job.check(vec![]).code(1).says("UNVERIFIED");
    assert_eq!(remote.stdout, "unverified\tparts\n");
    // Differences that a list shows are still found.
    job.stub.put("parts", Object::new("CONTENT").in_parts(4));
    assert!(job.check(vec![]).code(1).stdout.starts_with("different\tparts\tits ETag is "));
    std::fs::write(job.dest().join("parts"), "longer content").unwrap();
    assert!(
        job.lab
            .check(&job.dest(), &job.db(), vec![])
            .code(1)
            .stdout
            .starts_with("different\tparts\tits size")
    );
    // After it was read, it has an md5.
    job.index(vec![]).code(0);
    assert_eq!(hash(&job, "parts"), Some(md5_hex(b"CONTENT")));
}

#[test]
fn check_reads_the_bucket() {
    let job = Job::new();
    let large = Rng::new(2).noise(5_000_000);
    job.stub.put("gone", Object::new("gone"));
    job.stub.put("changed", Object::new("before"));
    job.stub.put("same etag", Object::new("before").etag("e-1"));
    job.stub.put("size", Object::new("before"));
    job.stub.put("rewritten", Object::new("same").in_parts(1));
    job.stub.put("large", Object::new(large.clone()).in_parts(5 << 20));
    job.stub.put("time", Object::new("time"));
    job.index(vec![]).code(0);
    job.check(vec![]).code(0).says("7 ok, 0 different");
    job.stub.remove("gone");
    job.stub.put("changed", Object::new("behind"));
    job.stub.put("same etag", Object::new("behind").etag("e-1"));
    job.stub.put("size", Object::new("longer than before"));
    job.stub.put("rewritten", Object::new("same"));
    let mut other = large;
    other[4_999_999] ^= 1;
    job.stub.put("large", Object::new(other).in_parts(5 << 20));
    job.stub.put("time", Object::new("time").modified_ms(1));
    job.stub.put("new", Object::new("new"));
    let found = job.check(args!["--extra"]).code(1).says("1 ok, 5 different, 1 missing, 1 extra");
    let md5 = |what: &[u8]| md5_hex(what);
    for line in [
        format!("different\tchanged\tits md5 is {}, not {}", md5(b"behind"), md5(b"before")),
        format!("different\tsame etag\tits md5 is {}, not {}", md5(b"behind"), md5(b"before")),
        "different\tsize\tits size is 18, not 6".to_string(),
        "different\tlarge\tits md5 is".to_string(),
        "different\ttime\tits time is".to_string(),
        "missing\tgone".to_string(),
        "extra\tnew".to_string(),
    ] {
        assert!(found.stdout.contains(&line), "{line} is not in\n{}", found.stdout);
    }
    job.stub.fault(On::get("rewritten"), usize::MAX, Fault::Status(403));
    assert!(job.check(vec![]).code(1).stdout.contains("different\trewritten\tit cannot be read"));
}

#[test]
fn metadata_of_other_programs_becomes_the_files() {
    let job = Job::new();
    let s3cmd = "atime:1/ctime:1/gid:0/gname:root/md5:0/mode:33184/mtime:1600000000/uid:0/uname:root";
    job.stub.put(
        "rclone",
        Object::new("1")
            .header("x-amz-meta-mtime", "1354040105.123456789")
            .header("x-amz-meta-mode", "100600"),
    );
    job.stub.put("s3cmd", Object::new("1").header("x-amz-meta-s3cmd-attrs", s3cmd));
    job.stub.put("none", Object::new("1").modified_ms(1_500_000_000_000));
    job.stub.put("parts", Object::new("12").in_parts(1).header("x-amz-meta-mtime", "-1.5"));
    job.stub.put("empty", Object::new("").header("x-amz-meta-mtime", "7"));
    job.stub.put("dir/", Object::new("").header("x-amz-meta-mtime", "1000000000"));
    let see = |dest: &std::path::Path| {
        ["rclone", "s3cmd", "none", "parts", "empty", "dir"].map(|name| {
            let meta = std::fs::metadata(dest.join(name)).unwrap();
            (meta.mtime(), meta.mtime_nsec(), meta.mode() & 0o7777)
        })
    };
    let expected = [
        (1_354_040_105, 123_456_789, 0o600),
        (1_600_000_000, 0, 0o640),
        (1_500_000_000, 0, 0o644),
        (-2, 500_000_000, 0o644),
        (7, 0, 0o644),
        (1_000_000_000, 0, 0o755),
    ];
    job.index(vec![]).code(0);
    let proxy = job.proxy();
    job.upload(&proxy, vec![]).code(0);
    assert_eq!(see(&job.dest()), expected, "by index and upload");
    let synced = job.lab.path("synced");
    job.cmd(args!["sync", "s3://bkt", synced, "-db", job.lab.path("sync.sqlite")]).run().code(0);
    assert_eq!(see(&synced), expected, "by sync");
}

#[test]
fn sync_reads_each_object_once_and_later_only_what_changed() {
    let job = Job::new();
    for number in 0..200 {
        job.stub.put(format!("d{}/f{number}", number % 5), Object::new(format!("content {number}")));
    }
    let large = Rng::new(6).noise(9_000_000);
    job.stub.put("large", Object::new(large.clone()).in_parts(5 << 20));
    job.sync(vec![]).code(0);
    let asked = job.stub.take();
    let small = |method: &str| asked.iter().filter(|r| r.method == method && r.key.starts_with(b"d")).count();
    assert_eq!((small("GET"), small("HEAD")), (200, 0), "one request an object");
    let ranges: Vec<_> = asked
        .iter()
        .filter(|r| r.method == "GET" && r.key == b"large")
        .filter_map(|r| r.header("range"))
        .collect();
    let distinct: std::collections::BTreeSet<_> = ranges.iter().collect();
    assert_eq!((ranges.len(), distinct.len()), (3, 3), "{ranges:?}");
    assert!(job.arrived("large").unwrap() == large);

    job.stub.put("d0/f5", Object::new("changed"));
    job.stub.put("d9/new", Object::new("new"));
    job.stub.take();
    job.sync(vec![]).code(0);
    let asked = job.stub.take();
    let mut keys: Vec<String> =
        asked.iter().filter(|r| !r.key.is_empty()).map(|r| r.key.escape_ascii().to_string()).collect();
    keys.dedup();
    keys.sort();
    keys.dedup();
    assert_eq!(job.arrived("d0/f5").unwrap(), b"changed");
    assert_eq!(rows(&job.db()).len(), 202);
    assert!(keys.contains(&"d0/f5".to_string()) && keys.contains(&"d9/new".to_string()), "{keys:?}");
    // The index of another source is not replaced by accident.
    job.cmd(args!["sync", "s3://bkt/d1", job.dest(), "-db", job.db()])
        .run()
        .code(1)
        .says("is the index of s3://bkt/");
}

/// Rules, lists and limits hold for keys as for paths.
#[test]
fn a_filter_holds_for_keys() {
    let job = Job::new();
    for key in ["a.tmp", "keep.tmp", "cache/x", "d/cache/y", "d/b.tmp", "d/c", "only/"] {
        job.stub.put(key, Object::new(""));
    }
    job.stub.put("large", Object::new("0123456789"));
    let indexed = |flags: &str, excluded: u64| {
        let flags = flags.split(' ').map(Into::into).chain(args!["--json"]).collect();
        let summary = job.index(flags).code(0).summary();
        assert_eq!(summary["excluded"], excluded, "{summary}");
        crate::support::index::paths(&job.db()).join(" ")
    };
    assert_eq!(
        indexed("--include-glob keep.tmp --exclude-glob *.tmp --exclude-glob cache/", 4),
        "d/c keep.tmp large"
    );
    assert_eq!(indexed("--exclude-glob /cache --max-size 9", 2), "a.tmp d/b.tmp d/c d/cache/y keep.tmp");
    let list = job.lab.file("list", "d/c\nlarge\n");
    assert_eq!(indexed(&format!("--files-from {}", list.display()), 6), "d/c large");
    job.index(args!["--filter-file", ".gitignore"]).code(2).says("not for a bucket");
    let explained = job.cmd(args!["plan", "--use-s3", "--exclude", "cache/", "--explain", "d/cache/y"]).run();
    assert_eq!(explained.code(0).stdout, "d/cache/y is left out: --exclude 'cache/' leaves out d/cache\n");
}
