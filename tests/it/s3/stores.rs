//! Stores that list, answer and refuse otherwise than AWS, as many makes do.

use super::Job;
use crate::support::Rng;
use crate::support::index::{md5_hex, paths};
use crate::support::s3::{Fault, Lists, NextMarker, Object, On, made_up};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Keys that change when they are decoded once more. A list that continues behind such a key would
/// skip others.
const MISREAD: [&[&str]; 3] = [
    &["a0", "a1", "b!", "b%7A", "bb", "bc", "zz"],
    &["a%7A", "ab", "ac", "zz"],
    &["100%.csv", "a b", "a%2Bd", "a&b=c", "a++c", "a+b", "root !'/x", "zz"],
];

#[test]
fn no_key_is_skipped_wherever_a_store_says_that_it_goes_on() {
    for keys in MISREAD {
        let job = Job::new();
        keys.iter().for_each(|key| job.stub.put(key, Object::new("")));
        for lists in [Lists::V2AsV1, Lists::V2Refused] {
            use NextMarker::{Encoded, None, Raw, Token};
            for next_marker in [None, Encoded, Raw, Token] {
                job.stub.set(|settings| {
                    (settings.lists, settings.next_marker, settings.page) = (lists, next_marker, 2);
                });
                // Only a store with ListObjects continues its list with a token of its own.
                let more = if next_marker == Token { args!["--s3-list-v1"] } else { vec![] };
                job.index(more).code(0);
                let mut found = paths(&job.db());
                found.sort();
                let expected: Vec<String> =
                    keys.iter().map(|key| key.as_bytes().escape_ascii().to_string()).collect();
                assert_eq!(found, expected, "{lists:?}, {next_marker:?}");
            }
        }
        job.stub.take();
        job.index(args!["--s3-list-plain"]).code(0);
        let asked = job.stub.take();
        assert!(asked.iter().all(|request| request.param("encoding-type").is_none()));
        assert_eq!(paths(&job.db()).len(), keys.len());
    }
}

#[test]
fn nothing_is_deleted_because_pages_end_elsewhere() {
    let job = Job::new();
    job.stub.set(|settings| (settings.lists, settings.next_marker) = (Lists::V2AsV1, NextMarker::Raw));
    MISREAD[0].iter().for_each(|key| job.stub.put(key, Object::new(*key)));
    job.sync(args!["--delete"]).code(0);
    job.stub.set(|settings| settings.page = 2);
    job.sync(args!["--delete"]).code(0);
    for key in MISREAD[0] {
        assert_eq!(job.arrived(key).as_deref(), Some(key.as_bytes()));
    }
}

#[test]
fn a_list_that_says_where_it_goes_on_has_more() {
    for v1 in [false, true] {
        let job = Job::new();
        MISREAD[0].iter().for_each(|key| job.stub.put(key, Object::new("")));
        job.stub.set(|settings| {
            (settings.says_truncated, settings.page) = (false, 2);
            settings.next_marker = NextMarker::Raw;
        });
        job.index(if v1 { args!["--s3-list-v1"] } else { vec![] }).code(0);
        assert_eq!(paths(&job.db()).len(), MISREAD[0].len(), "{v1}");
    }
}

/// An answer that would end the list if it were believed.
const SAYS_NOTHING: &str = "<?xml version=\"1.0\"?><ListBucketResult></ListBucketResult>";

#[test]
fn a_page_that_does_not_say_whether_more_follows_is_asked_for_again() {
    for (v1, says_truncated) in [(false, true), (true, true), (false, false), (true, false)] {
        let job = Job::new();
        MISREAD[0].iter().for_each(|key| job.stub.put(key, Object::new("")));
        job.stub.set(|settings| {
            (settings.says_truncated, settings.page) = (says_truncated, 2);
            settings.next_marker = NextMarker::Raw;
        });
        let fault = |times| {
            job.stub.fault(On::List, 1, Fault::Pass);
            job.stub.fault(On::List, times, Fault::Answer(200, SAYS_NOTHING.into()));
        };
        let more = || if v1 { args!["--s3-list-v1"] } else { vec![] };
        fault(2);
        job.index(more()).code(0);
        assert_eq!(paths(&job.db()).len(), MISREAD[0].len(), "{v1}, {says_truncated}");
        fault(usize::MAX);
        job.index(more()).code(1).says("does not say whether more follows");
        // A first page may be the whole list.
        job.stub.clear_faults();
        job.stub.fault(On::List, usize::MAX, Fault::Answer(200, SAYS_NOTHING.into()));
        job.index(more()).code(0).says("nothing lies below");
    }
}

#[test]
fn an_answer_without_an_end_is_not_read_to_its_end() {
    let job = Job::patient();
    job.stub.put("a", Object::new("a").in_parts(1));
    job.stub.fault(On::List, usize::MAX, Fault::Endless(200));
    job.index(vec![]).code(1).says("the answer has more than").says("and goes on");
    for status in [403, 404] {
        job.stub.clear_faults();
        job.stub.fault(On::List, usize::MAX, Fault::Endless(status));
        job.index(vec![])
            .code(1)
            .says("cannot list s3://bkt/ at http://")
            .says(&format!(": status {status}"));
        job.stub.clear_faults();
        job.stub.fault(On::get("a"), usize::MAX, Fault::Endless(status));
        job.index(vec![]).code(3).says("failed: a: ");
    }
    job.stub.clear_faults();
    job.stub.fault(On::Any, 2, Fault::Endless(503));
    job.index(vec![]).code(0);
}

#[test]
fn a_list_may_write_its_elements_as_others_do() {
    // The prefix of names stands where @ is.
    let page = |key: &str, more: &str| {
        let object = format!("<@Contents><@Key>{key}</@Key><@Size>{}</@Size></@Contents>", key.len());
        format!("<@ListBucketResult xmlns=\"x\">{more}{object}</@ListBucketResult>")
    };
    for (yes, no) in [("1", "0"), ("yes", "no"), ("True", "False")] {
        for prefix in ["s3:", ""] {
            let job = Job::new();
            ["a", "bb"].iter().for_each(|key| job.stub.put(key, Object::new(*key)));
            let token = "<@NextContinuationToken>2</@NextContinuationToken>";
            let first = page("a", &format!("<@IsTruncated>{yes}</@IsTruncated>{token}"));
            for text in [first, page("bb", &format!("<@IsTruncated>{no}</@IsTruncated>"))] {
                job.stub.fault(On::List, 1, Fault::Answer(200, text.replace('@', prefix)));
            }
            // Requested again, the list would be as usual.
            job.stub.fault(On::List, usize::MAX, Fault::Status(403));
            job.index(vec![]).code(0);
            assert_eq!(paths(&job.db()), ["a", "bb"], "{yes} {prefix}");
        }
    }
}

#[test]
fn an_object_that_is_empty_only_by_its_head_is_left_out_where_nothing_proves_its_size() {
    let job = Job::new();
    job.stub.put("a", Object::new("content").in_parts(3));
    job.stub.set(|settings| (settings.heads_empty, settings.lists_etags) = (true, false));
    let output = job.index(vec![]);
    // Either the object is read all the same, or an error names it.
    assert!(output.code == 3 && output.stderr.contains("it is empty now"), "{}", output.stderr);
}

#[test]
fn objects_that_come_one_after_the_other_delete_nothing_of_each_other() {
    let job = Job::new();
    for key in ["in/a.txt", "in/b.txt"] {
        job.stub.put(key, Object::new(key));
        let db = job.lab.path("each.sqlite");
        job.cmd(args!["sync", format!("s3://bkt/{key}"), job.dest(), "--delete", "--clean", "-db", db])
            .derived()
            .run()
            .code(0);
    }
    assert_eq!(job.arrived("a.txt").unwrap(), b"in/a.txt");
    assert_eq!(job.arrived("b.txt").unwrap(), b"in/b.txt");
}

#[test]
fn a_key_is_found_wherever_a_list_has_it() {
    let job = Job::new();
    for key in ["report", "report-1", "report-2", "report-3"] {
        job.stub.put(key, Object::new(key));
    }
    job.stub.set(|settings| {
        settings.order = |key| key.iter().rev().copied().collect();
        settings.page = 2;
    });
    for (number, key) in ["report", "report-1", "report-3"].into_iter().enumerate() {
        let (dest, db) = (job.lab.dir(&format!("dest {number}")), job.lab.path(&format!("{number}.sqlite")));
        job.cmd(args!["sync", format!("s3://bkt/{key}"), dest, "-db", db]).run().code(0);
        assert_eq!(std::fs::read(dest.join(key)).unwrap(), key.as_bytes());
    }
}

#[test]
fn keys_that_are_one_when_they_are_decoded_are_named() {
    let job = Job::new();
    for key in ["a b", "a+b", "a%20b", "c"] {
        job.stub.put(key, Object::new(if key == "c" { "c" } else { "the same" }));
    }
    job.stub.set(|settings| (settings.encodes, settings.says_encoded) = (false, true));
    let plain = || job.sync(args!["--s3-list-plain", "--delete"]).code(0);
    plain();
    // A key that was not seen does not count as removed.
    let output = job.sync(args!["--delete"]).code(3).says("failed: a b: ").says("--s3-list-plain");
    assert_eq!(output.stderr.matches("failed: a b: ").count(), 1, "{}", output.stderr);
    for key in ["a b", "a+b", "a%20b", "c"] {
        assert!(job.arrived(key).is_some(), "{key}");
    }
    job.index(vec![]).code(3).says("failed: a b: ");
    plain();
}

#[test]
fn a_key_that_is_listed_as_two_objects_is_named() {
    let job = Job::new();
    let pages = |second: &str| {
        ["<ETag>1</ETag><Size>1</Size>", second]
            .map(|what| format!("<Contents><Key>a</Key>{what}</Contents>"))
    };
    for second in ["<ETag>1</ETag><Size>2</Size>", "<ETag>2</ETag><Size>1</Size>"] {
        let contents = pages(second).concat();
        let list = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>");
        job.stub.fault(On::List, 1, Fault::Answer(200, list));
        job.index(vec![]).code(3).says("failed: a: the list has it more than once");
    }
}

/// The order of keys in a store that is written in Java or JavaScript.
fn utf16(key: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(key).encode_utf16().flat_map(u16::to_be_bytes).collect()
}

#[test]
fn any_order_keys_that_come_twice_and_empty_pages_are_a_list() {
    let job = Job::new();
    let mut keys: Vec<String> = (0..60).map(|number| format!("d{}/f{number:02}", number % 7)).collect();
    keys.extend(["\u{1f600}", "\u{ff01}", "\u{fffd}", "z", "marker/file", "marker.d/x"].map(str::to_string));
    keys.iter().for_each(|key| job.stub.put(key, Object::new("")));
    job.stub.put("marker/", Object::new(""));
    keys.sort();
    let expect = |name: &str| {
        let mut found = paths(&job.db());
        found.sort();
        let mut expected: Vec<String> =
            keys.iter().map(|key| key.as_bytes().escape_ascii().to_string()).collect();
        expected.sort();
        assert_eq!(found, expected, "{name}");
    };
    type Order = (&'static str, fn(&[u8]) -> Vec<u8>);
    let orders: [Order; 3] = [
        ("UTF-16", utf16),
        ("none", |key| md5_hex(key).into_bytes()),
        ("backwards", |key| key.iter().map(|byte| !byte).chain([255]).collect()),
    ];
    for (name, order) in orders {
        for lists in [Lists::Both, Lists::V2AsV1] {
            job.stub.set(|settings| (settings.order, settings.lists, settings.page) = (order, lists, 9));
            job.index(vec![]).code(0);
            expect(name);
        }
    }
    job.stub.set(|settings| {
        (settings.order, settings.lists, settings.twice, settings.empty_pages) =
            (<[u8]>::to_vec, Lists::Both, true, 150);
    });
    job.index(vec![]).code(0);
    expect("twice, behind 150 empty pages");
    job.sync(vec![]).code(0);
    job.check(args!["--extra"]).code(0);
}

#[test]
fn missing_and_wrong_fields_of_an_answer_are_not_needed() {
    let large = Rng::new(11).noise(9_000_000);
    type Change = fn(&mut crate::support::s3::stub::Settings);
    let cases: [(&str, Change); 6] = [
        ("no length of heads", |settings| settings.heads_length = false),
        ("heads that say that all is empty", |settings| settings.heads_empty = true),
        ("times that are none", |settings| settings.date = Some("the day before yesterday".into())),
        ("times in another form", |settings| settings.date = Some("2023-11-14T22:13:20+00:00".into())),
        ("other headers", |settings| {
            for (name, value) in [
                ("Expires", "never"),
                ("x-amz-missing-meta", "some"),
                ("x-amz-mp-parts-count", "two"),
                ("x-amz-delete-marker", "no"),
                ("x-amz-object-lock-retain-until-date", "soon"),
                ("x-amz-tagging-count", "-"),
                ("ETag", "\"another\""),
                ("x-amz-server-side-encryption-bucket-key-enabled", "maybe"),
            ] {
                settings.headers.push((name.into(), value.into()));
            }
        }),
        ("no ETag anywhere", |settings| (settings.lists_etags, settings.has_etags) = (false, false)),
    ];
    for (name, change) in cases {
        let job = Job::new();
        job.stub.set(change);
        job.stub.put("large", Object::new(large.clone()).in_parts(5 << 20));
        job.stub.put("small", Object::new("small"));
        job.stub.put("empty", Object::new(""));
        job.stub.put("folder/", Object::new(""));
        job.index(vec![]).code(0);
        let proxy = job.proxy();
        job.upload(&proxy, vec![]).code(0);
        assert!(job.arrived("large").unwrap() == large, "{name}");
        assert_eq!(
            (job.arrived("small"), job.arrived("empty")),
            (Some(b"small".to_vec()), Some(vec![])),
            "{name}"
        );
        job.check(vec![]).code(0);
        let synced = job.lab.path("synced");
        let sync =
            || job.cmd(args!["sync", "s3://bkt", synced, "-db", job.lab.path("sync.sqlite")]).run().code(0);
        sync();
        assert!(std::fs::read(synced.join("large")).unwrap() == large, "{name}");
        // Another content of the same size, written a minute later.
        job.stub.put("small", Object::new("SMALL").modified_ms(1_700_000_060_000));
        sync();
        assert_eq!(std::fs::read(synced.join("small")).unwrap(), b"SMALL", "{name}");
    }
}

#[test]
fn objects_of_a_store_without_ranges_are_streamed_once() {
    let job = Job::new();
    let contents: Vec<Vec<u8>> = (0..3).map(|seed| Rng::new(seed).noise(24_000_000)).collect();
    for (number, content) in contents.iter().enumerate() {
        job.stub.put(format!("large {number}"), Object::new(content.clone()).in_parts(5 << 20));
    }
    job.stub.set(|settings| settings.ranges = false);
    // The first object shows that the store ignores ranges: its parts are requested side by side.
    let most_gets = 12 + contents.len();
    let gets = || job.stub.take().iter().filter(|r| r.method == "GET" && !r.key.is_empty()).count();
    let expect = |name: &str, dest: &std::path::Path| {
        for (number, content) in contents.iter().enumerate() {
            assert!(
                std::fs::read(dest.join(format!("large {number}"))).unwrap() == *content,
                "{name}: {number}"
            );
        }
        let gets = gets();
        assert!(gets <= most_gets, "{name}: {gets} GETs");
    };
    job.sync(vec![]).code(0);
    expect("sync", &job.dest());
    job.index(vec![]).code(0);
    gets();
    let dest = job.lab.dir("uploaded");
    let proxy = job.lab.proxy(&dest);
    // An interrupted stream begins again.
    job.stub.fault(On::get("large 1"), 2, Fault::CutAfter(10_000_000));
    job.upload(&proxy, args!["-s", "5000000"]).code(0);
    expect("upload", &dest);
    job.check(vec![]).code(0);
}

#[test]
fn an_endpoint_may_have_a_path() {
    let job = Job::new();
    for (path, addressing, expected) in [
        ("/storage/v1/s3", "path", "/storage/v1/s3/bkt"),
        ("/storage/v1/s3/", "path", "/storage/v1/s3/bkt"),
        ("/", "path", "/bkt"),
        ("/v1", "virtual", "/v1/?"),
    ] {
        for variable in ["TARLIKE_S3_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
            let host = if addressing == "virtual" { job.stub.named_endpoint() } else { job.stub.endpoint() };
            let cmd =
                job.cmd(args!["index", "--use-s3", "-c", "-db", job.db(), "--s3-addressing", addressing]);
            let cmd =
                cmd.envs(job.stub.as_proxy()).env("TARLIKE_S3_ENDPOINT", "").env(variable, &(host + path));
            cmd.run();
            let target = job.stub.take().pop().unwrap().target;
            assert!(target.starts_with(expected), "{path} in {variable}: {target}");
        }
    }
}

/// The answer of a store after a session's token has expired.
fn expired() -> Fault {
    let text = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
    Fault::Answer(400, text.into())
}

#[test]
fn expired_credentials_end_the_run_at_once_and_it_goes_on_when_they_are_renewed() {
    let job = Job::new();
    for number in 0..700 {
        job.stub.put(format!("f{number:03}"), Object::new(format!("content {number}")));
    }
    let expire_after = |requests| {
        job.stub.fault(On::Any, requests, Fault::Pass);
        job.stub.fault(On::Any, usize::MAX, expired());
    };
    let stopped = |name: &str, output: crate::support::Output| {
        let output = output.code(1).says("renew the credentials").says("ExpiredToken");
        assert!(output.stderr.lines().count() < 8, "{name}: {}", output.stderr);
        let asked = job.stub.take().iter().filter(|request| request.fault.starts_with("Answer")).count();
        assert!(asked < 200, "{name}: {asked} requests");
        job.stub.clear_faults();
    };
    let text =
        "<Error><Code>RequestExpired</Code><Message>Request has expired (ExpiredToken).</Message></Error>";
    job.stub.fault(On::Any, 100, Fault::Pass);
    job.stub.fault(On::Any, usize::MAX, Fault::Answer(403, text.into()));
    stopped("another word for it", job.index(vec![]));
    expire_after(0);
    stopped("list", job.index(vec![]));
    expire_after(100);
    stopped("heads, which say no reason", job.index(vec![]));
    expire_after(100);
    stopped("sync", job.sync(vec![]));
    job.sync(vec![]).code(0);
    job.lab.check(&job.dest(), &job.db(), args!["--extra"]).code(0);
    let dest = job.lab.dir("uploaded");
    let proxy = job.lab.proxy(&dest);
    expire_after(100);
    stopped("upload", job.upload(&proxy, args!["-s", "1000"]));
    job.upload(&proxy, args!["-s", "1000"]).code(0);
    job.lab.check(&dest, &job.db(), args!["--extra"]).code(0);
    expire_after(100);
    stopped("check", job.check(vec![]));
}

/// A run without any content leaves nothing behind.
#[test]
fn a_list_that_fails_leaves_no_destination_folder() {
    let job = Job::new();
    job.stub.put("a", Object::new("a"));
    job.stub.fault(On::List, usize::MAX, Fault::Status(403));
    let (dest, db) = (job.lab.path("made"), job.lab.path("sync.sqlite"));
    let sync = || job.cmd(args!["sync", "s3://bkt", dest, "-db", db]).run();
    sync().code(1).says("cannot list");
    assert!(!dest.exists());
    // The previous content stays.
    std::fs::create_dir(&dest).unwrap();
    sync().code(1);
    assert!(dest.exists());
    job.stub.clear_faults();
    sync().code(0);
    assert_eq!(std::fs::read(dest.join("a")).unwrap(), b"a");
}

#[test]
fn a_store_that_refuses_every_object_ends_the_run_and_one_that_refuses_some_does_not() {
    let job = Job::new();
    for number in 0..700 {
        job.stub.put(format!("f{number:03}"), Object::new(format!("content {number}")));
    }
    let refuse = |answered| {
        job.stub.clear_faults();
        job.stub.fault(On::List, usize::MAX, Fault::Pass);
        job.stub.fault(On::Any, answered, Fault::Pass);
        job.stub.fault(On::Any, usize::MAX, Fault::Status(403));
    };
    let stopped = |name: &str, output: crate::support::Output| {
        let output = output.code(1).says("cannot read s3://bkt/").says("the store refuses every object");
        assert!(output.says("AccessDenied").stderr.lines().count() < 8, "{name}");
    };
    job.index(vec![]).code(0);
    refuse(0);
    let proxy = job.proxy();
    stopped("upload", job.upload(&proxy, args!["-s", "1000"]));
    stopped("index", job.index(vec![]));
    let (dest, db) = (job.lab.path("synced"), job.lab.path("sync.sqlite"));
    stopped("sync", job.cmd(args!["sync", "s3://bkt", dest, "-db", db]).run());
    refuse(1);
    let output = job.index(vec![]).code(3);
    assert_eq!(output.stderr.matches("the store refuses access").count(), 699);
}

#[test]
fn a_sender_that_was_never_let_in_is_not_told_to_come_back() {
    let job = Job::new();
    job.stub.put("k", Object::new("content"));
    let text = "<Error><Code>InvalidAccessKeyId</Code><Message>Unknown.</Message></Error>";
    job.stub.fault(On::Any, usize::MAX, Fault::Answer(403, text.into()));
    let output =
        job.index(vec![]).code(1).says("the store does not accept the credentials").says("of this store?");
    assert!(!output.stderr.contains("goes on"), "{}", output.stderr);
    job.stub.clear_faults();
    let none = job.cmd(args!["index", "--use-s3", "-c", "-db", job.db()]);
    let none = none.env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "");
    let none = none.env("AWS_EC2_METADATA_DISABLED", "false");
    let none = none.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", job.stub.endpoint());
    let output = none.run().code(1).says("hint: credentials come from");
    assert!(
        output.stderr.lines().count() < 4 && !output.stderr.contains("ProviderError"),
        "{}",
        output.stderr
    );
}

#[test]
fn a_store_that_is_overloaded_is_asked_again_without_a_word() {
    let job = Job::new();
    for number in 0..20 {
        job.stub.put(format!("f{number:02}"), Object::new("content"));
    }
    job.stub.fault(On::List, usize::MAX, Fault::Pass);
    job.stub.fault(On::Any, 40, Fault::Status(503));
    let output = job.index(vec![]).code(0);
    assert!(output.stderr.lines().count() < 3, "{}", output.stderr);
}

#[test]
fn a_store_that_cannot_be_reached_is_waited_for_once() {
    let job = Job::new();
    for number in 0..300 {
        job.stub.put(format!("f{number:03}"), Object::new("content"));
    }
    job.index(vec![]).code(0);
    let proxy = job.proxy();
    for endpoint in ["http://127.0.0.1:1", "http://nosuch.invalid"] {
        let start = Instant::now();
        let upload = job.upload_cmd(&proxy, args!["-s", "100"]).env("TARLIKE_S3_ENDPOINT", endpoint);
        let output = upload.run().code(1).says("cannot read s3://bkt/");
        assert!(output.stderr.lines().count() < 8, "{endpoint}: {}", output.stderr);
        assert!(start.elapsed() < Duration::from_secs(60), "{endpoint}: {:?}", start.elapsed());
    }
    job.upload(&proxy, vec![]).code(0);
}

#[test]
fn requests_follow_the_clock_of_the_store() {
    for ahead_s in [3600, -7200] {
        let job = Job::new();
        job.stub.put("a", Object::new("content"));
        job.stub.put("b", Object::new("content").in_parts(3));
        job.stub.set(|settings| settings.clock_ahead_s = Some(ahead_s));
        let output = job.index(vec![]).code(0).says("the clock of this host");
        assert_eq!(output.stderr.matches("warning").count(), 1, "{}", output.stderr);
        let proxy = job.proxy();
        job.upload(&proxy, vec![]).code(0);
        assert_eq!(job.arrived("b").unwrap(), b"content");
    }
}

#[test]
fn modes_that_are_no_permissions_of_a_file_are_left_out() {
    let job = Job::new();
    let modes = [
        ("link", "41471", 0o644),
        ("fifo", "4516", 0o644),
        ("socket", "49645", 0o644),
        ("regular", "33188", 0o644),
        ("program", "33261", 0o755),
        ("set-user-id", "35309", 0o755),
        ("set-user-id of rclone", "104755", 0o755),
        ("folder", "16832", 0o700),
    ];
    for (name, mode, _) in modes {
        job.stub.put(name, Object::new("content").header("x-amz-meta-mode", mode));
    }
    job.sync(vec![]).code(0);
    for (name, _, expected) in modes {
        let mode = std::fs::metadata(job.dest().join(name)).unwrap().mode() & 0o7777;
        assert_eq!(mode, expected, "{name}: {mode:o}");
    }
    job.check(vec![]).code(0);
}

#[test]
fn a_key_is_copied_as_a_file_and_a_prefix_as_a_folder() {
    let job = Job::new();
    for (key, content) in
        [("dir/one.bin", "x"), ("dir/one.bin2", "y"), ("top", "t"), ("both", "b"), ("both/in", "i")]
    {
        job.stub.put(key, Object::new(content));
    }
    for (number, (source, expected)) in [
        ("s3://bkt/dir/one.bin", &["one.bin"][..]),
        ("S3://bkt/top", &["top"]),
        ("s3://bkt/dir", &["one.bin", "one.bin2"]),
        ("s3://bkt/both", &["in"]),
        ("s3://bkt/dir/one", &[]),
        ("s3://bkt/dir/one.bin/", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let dest = job.lab.dir(&format!("dest {number}"));
        let db = job.lab.path(&format!("{number}.sqlite"));
        let sync = || job.cmd(args!["sync", source, dest, "-db", db]).run().code(0);
        let output = sync();
        assert_eq!(paths(&db), expected, "{source}");
        assert!(expected.iter().all(|name| dest.join(name).is_file()), "{source}");
        assert_eq!(output.stderr.contains("nothing lies below"), expected.is_empty(), "{}", output.stderr);
        sync();
    }
    // Step by step, also with the flag that was the prefix in the original program.
    for prefix in [args!["--s3-prefix", "dir/one.bin"], args!["-b", "dir/one.bin"]] {
        job.index(prefix.clone()).code(0);
        assert_eq!(paths(&job.db()), ["one.bin"]);
        let proxy = job.proxy();
        job.upload(&proxy, prefix.clone()).code(0);
        assert_eq!(job.arrived("one.bin").unwrap(), b"x");
        job.check([prefix, args!["--extra"]].concat()).code(0);
        std::fs::remove_dir_all(job.dest()).unwrap();
    }
    job.index(args!["-b", "dir"]).code(0);
    assert_eq!(paths(&job.db()), ["one.bin", "one.bin2"]);
    let proxy = job.proxy();
    job.upload(&proxy, args!["-b", "dir/"]).code(0);
    job.index(args!["-b", "dir", "--s3-prefix", "dir/"]).code(0);
    job.index(args!["-b", "dir", "--s3-prefix", "other"]).code(2).says("give only one of them");
}

#[test]
fn checksum_reads_what_an_etag_only_looks_like() {
    let job = Job::new();
    let large = Rng::new(12).noise(9_000_000);
    for (key, content) in [("small", b"small".to_vec()), ("large", large)] {
        job.stub.put(key, Object::new(content).etag(&md5_hex(b"something else")));
    }
    let proxy = job.proxy();
    job.index(vec![]).code(0);
    job.upload(&proxy, vec![]).code(3);
    // Over an existing index, and from nothing.
    for more in [args!["--checksum"], args!["--checksum", "--clean"]] {
        job.cmd(args!["index", "--use-s3", "-db", job.db()]).args(more).run().code(0);
        job.upload(&proxy, vec![]).code(0);
        job.check(vec![]).code(0);
    }
}

#[test]
fn hints_name_only_what_was_not_given() {
    let job = Job::new();
    job.stub.put("k", Object::new("content"));
    let hint = |fault: Fault, more: Vec<std::ffi::OsString>| {
        job.stub.clear_faults();
        job.stub.fault(On::List, usize::MAX, fault);
        job.index(more).code(1).stderr
    };
    let region = || {
        let text = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'a' is wrong; expecting 'b'</Message></Error>";
        Fault::Answer(400, text.into())
    };
    let said = hint(region(), vec![]);
    assert!(said.contains("--s3-region") && said.contains("expecting 'b'"), "{said}");
    let said = hint(region(), args!["--s3-region", "mars-1"]);
    assert!(!said.contains("--s3-region") && said.contains("mars-1"), "{said}");
    job.stub.set(|settings| settings.page = 1);
    job.stub.put("l", Object::new("content"));
    assert!(hint(Fault::SamePage, vec![]).contains("--s3-list-v1"));
    assert!(!hint(Fault::SamePage, args!["--s3-list-v1"]).contains("--s3-list-v1"));
    let said = hint(Fault::Delay(Duration::from_secs(3)), vec![]);
    assert!(said.contains("--s3-timeout SECONDS (now 1)"), "{said}");
}

#[test]
fn ranges_beyond_four_gib_are_those_of_the_object() {
    const BLOCK: usize = 4_000_000;
    let job = Job::new();
    let size = (1 << 32) + 3 * BLOCK + 5;
    job.stub.put("huge", Object::made_up(size));
    job.stub.put("z", Object::new("z"));
    job.index(args!["--s3-no-md5"]).code(0);
    let proxy = job.proxy();
    // The block with the border, the last one, and the last but one.
    let blocks = (size + 1).div_ceil(BLOCK);
    for block in [(1 << 32) / BLOCK, blocks - 2, blocks - 1] {
        let number = block.to_string();
        job.upload(&proxy, args!["-s", BLOCK.to_string(), "-f", number, "-l", number]).code(0);
    }
    let staging = job.dest().join(".tar-like/staging");
    let mut entries = walkdir::WalkDir::new(&staging).into_iter().map(Result::unwrap);
    let huge = entries.find(|entry| entry.metadata().unwrap().len() > 1 << 32).unwrap();
    let file = std::fs::File::open(huge.path()).unwrap();
    for block in [(1 << 32) / BLOCK, blocks - 2, blocks - 1] {
        let range = block * BLOCK..size.min((block + 1) * BLOCK);
        let mut found = vec![0; range.len()];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, range.start as u64).unwrap();
        assert!(found == made_up(range), "block {block}");
    }
}
