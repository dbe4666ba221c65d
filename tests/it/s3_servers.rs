//! The S3 servers of the tests themselves: they behave as the tests of the program assume, and
//! faults are faults.

use crate::support::http::{self, Response};
use crate::support::index::md5_hex;
use crate::support::s3::{
    Fault, KEY, Lists, Maker, MotoServer, Object, On, PythonServer, RcloneClient, RcloneServer, Stub,
    multipart, percent_encode,
};
use crate::support::{Lab, Rng, Tree, assert_same_files, wait_until};
use std::time::{Duration, Instant};

/// Keys that are often damaged on the way, in the order of their bytes.
const ODD_KEYS: &[&str] =
    &[" a b", "a&<>\"'b", "a+b", "a/b/c", "a=%2f?#", "dir.d/x", "dir/x", "plain", "\u{fc} \u{1f980}"];

fn tree(lab: &Lab) -> std::path::PathBuf {
    let from = lab.path("from");
    Tree::new(&from, 1).noise("large", 11_000_000).text("sub/text", 5000).file("sub/ü + &<c.txt", "odd");
    from
}

/// A request to the stub; `path` starts with `/`, and the bucket's name stands in it.
fn get(stub: &Stub, path: &str, headers: &[(&str, &str)]) -> Response {
    http::request(stub.addr, "GET", path, headers, b"")
}

/// Whether the connection ended before the body.
fn is_cut(answer: &Response) -> bool {
    answer.header("content-length").unwrap().parse::<usize>().unwrap() > answer.body.len()
}

/// The texts of the elements of this name.
fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap()).collect()
}

#[test]
fn rclone_serves_the_files_of_its_folder() {
    let lab = Lab::new();
    let server = RcloneServer::start();
    std::fs::write(server.bucket_dir("bkt").join("by hand"), "before").unwrap();
    let client = server.client();
    assert_eq!(client.list("bkt"), [("by hand".to_string(), 6)]);
    // Directly on its disk, after it has listed the folder.
    std::fs::write(server.bucket_dir("bkt").join("later"), "x").unwrap();
    assert_eq!(client.list("bkt").len(), 2);

    let from = tree(&lab);
    client.copy(&from, "bkt/up", multipart());
    assert_same_files(&from, &server.bucket_dir("bkt").join("up"));
    client.fetch("bkt/up", &lab.path("to"), vec![]);
    assert_same_files(&from, &lab.path("to"));
    let part = client.cmd(args!["cat", "--offset", "2", "--count", "3", "x:bkt/by hand"]).run().code(0);
    assert_eq!(part.stdout, "for");

    let env = server.env("bkt");
    assert!(env.contains(&("TARLIKE_S3_ENDPOINT".into(), server.endpoint().into())), "{env:?}");
    let stranger = server.client().env("RCLONE_CONFIG_X_SECRET_ACCESS_KEY", "wrong");
    stranger.cmd(args!["lsf", "x:bkt"]).run().code(1).says("SignatureDoesNotMatch");
}

#[test]
fn rclone_serves_over_https_too() {
    let server = RcloneServer::start_tls();
    assert!(server.endpoint().starts_with("https://127.0.0.1:"), "{}", server.endpoint());
    assert!(server.ca_file().is_file());
    std::fs::write(server.bucket_dir("bkt").join("file"), "content").unwrap();
    assert_eq!(server.client().list("bkt"), [("file".to_string(), 7)]);
    let stranger = RcloneClient::new(server.endpoint());
    let output = stranger.cmd(args!["lsf", "x:bkt"]).run();
    assert!(output.code != 0 && output.stderr.contains("certificate"), "{}", output.stderr);
}

#[test]
fn moto_serves_parts_ranges_conditions_and_versions() {
    let lab = Lab::new();
    let server = MotoServer::start();
    server.create_bucket("bkt");
    let from = tree(&lab);
    server.client().copy(&from, "bkt/up", multipart());
    server.client().copy(&from, "new-bucket", vec![]);
    assert_eq!(server.client().list("new-bucket"), server.client().list("bkt/up"));
    server.client().fetch("bkt/up", &lab.path("to"), vec![]);
    assert_same_files(&from, &lab.path("to"));

    let large = std::fs::read(from.join("large")).unwrap();
    let in_parts = Object::new(large.clone()).in_parts(5 << 20);
    let head = server.head("bkt", "up/large");
    assert_eq!(head.header("etag").unwrap(), format!("\"{}\"", in_parts.etag));
    assert!(in_parts.etag.ends_with("-3"), "{}", in_parts.etag);

    let ask = |headers: &[(&str, &str)]| server.request("GET", "/bkt/up/large", headers, b"");
    let piece = ask(&[("Range", "bytes=10-19")]);
    assert_eq!((piece.status, &piece.body[..]), (206, &large[10..20]));
    assert_eq!(piece.header("content-range"), Some("bytes 10-19/11000000"));
    assert_eq!(ask(&[("If-Match", "\"0\"")]).status, 412);
    assert_eq!(ask(&[("If-Match", head.header("etag").unwrap())]).status, 200);

    server.keep_versions("bkt");
    let [one, two] = ["one", "two"].map(|body| server.put("bkt", "k ü", body.as_bytes()));
    let id = one.header("x-amz-version-id").unwrap();
    assert_ne!(Some(id), two.header("x-amz-version-id"));
    let path = format!("/bkt/{}?versionId={id}", percent_encode("k ü".as_bytes()));
    assert_eq!(server.request("GET", &path, &[], b"").body, b"one");

    for number in 0..5 {
        server.put("bkt", &format!("many/{number}"), b"x");
    }
    let page = server.request("GET", "/bkt?list-type=2&max-keys=2&prefix=many/", &[], b"").text();
    assert_eq!(
        (elements(&page, "Key"), elements(&page, "IsTruncated")),
        (vec!["many/0", "many/1"], vec!["true"])
    );
    let next = percent_encode(elements(&page, "NextContinuationToken")[0].as_bytes());
    let path = format!("/bkt?list-type=2&max-keys=3&prefix=many/&continuation-token={next}");
    let page = server.request("GET", &path, &[], b"").text();
    assert_eq!(elements(&page, "Key"), ["many/2", "many/3", "many/4"]);
    assert!(server.env("bkt").contains(&("AWS_ACCESS_KEY_ID".into(), KEY.into())));
}

#[test]
fn the_servers_in_python_serve_stored_objects() {
    let lab = Lab::new();
    let from = tree(&lab);
    for maker in [Maker::LocalBucket, Maker::MiniStack, Maker::Nanio] {
        let server = PythonServer::start(maker);
        server.client().copy(&from, "bkt/up", multipart());
        assert_eq!(server.client().list("bkt/up").len(), 3, "{maker:?}");
        let to = lab.path(&format!("to {maker:?}"));
        server.client().fetch("bkt/up", &to, vec![]);
        assert_same_files(&from, &to);
        let stranger = server.client().env("RCLONE_CONFIG_X_SECRET_ACCESS_KEY", "wrong");
        let listed = stranger.cmd(args!["lsf", "x:bkt"]).run();
        assert_eq!(listed.code == 0, maker != Maker::Nanio, "{maker:?}: {}", listed.stderr);
    }
}

#[test]
fn the_stub_serves_objects() {
    let stub = Stub::start("bkt");
    let content = Rng::new(1).noise(1000);
    let object = Object::new(content.clone()).header("x-amz-meta-mtime", "1.5").modified_ms(951_782_400_999);
    assert_eq!(object.etag, md5_hex(&content));
    stub.put("a/k", object);
    let whole = get(&stub, "/bkt/a/k", &[]);
    assert_eq!((whole.status, &whole.body), (200, &content));
    assert_eq!(whole.header("last-modified"), Some("Tue, 29 Feb 2000 00:00:00 GMT"));
    assert_eq!(whole.header("x-amz-meta-mtime"), Some("1.5"));
    let head = http::request(stub.addr, "HEAD", "/bkt/a/k", &[], b"");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("1000"), 0));

    let range = |range| get(&stub, "/bkt/a/k", &[("Range", range)]);
    for (asked, start, end) in
        [("bytes=0-0", 0, 1), ("bytes=990-2000", 990, 1000), ("bytes=7-", 7, 1000), ("bytes=-3", 997, 1000)]
    {
        let piece = range(asked);
        assert_eq!((piece.status, &piece.body[..]), (206, &content[start..end]), "{asked}");
        assert_eq!(
            piece.header("content-range"),
            Some(&*format!("bytes {start}-{}/1000", end - 1)),
            "{asked}"
        );
    }
    assert_eq!((range("bytes=1000-1001").status, range("lines=1-2").status), (416, 200));
    let etag = whole.header("etag").unwrap();
    assert_eq!(get(&stub, "/bkt/a/k", &[("If-Match", etag)]).status, 200);
    assert_eq!(get(&stub, "/bkt/a/k", &[("If-Match", "\"other\"")]).status, 412);
    assert_eq!(get(&stub, "/bkt/a/k", &[("If-None-Match", etag)]).status, 304);

    stub.put("v", Object::new("one").version("v1"));
    stub.put("v", Object::new("two").version("v2").etag("free"));
    assert_eq!(
        (get(&stub, "/bkt/v", &[]).text(), get(&stub, "/bkt/v?versionId=v1", &[]).text()),
        ("two".into(), "one".into())
    );
    stub.remove("v");
    let gone = get(&stub, "/bkt/v", &[]);
    assert_eq!((gone.status, elements(&gone.text(), "Code")), (404, vec!["NoSuchKey"]));
    assert_eq!(elements(&get(&stub, "/c/v", &[]).text(), "Code"), ["NoSuchBucket"]);
    assert_eq!(http::request(stub.addr, "PUT", "/bkt/new", &[], b"x").status, 501);
    let put = stub.take().pop().unwrap();
    assert_eq!(
        (&*put.method, &*put.key, put.status, put.is_virtual_host()),
        ("PUT", &b"new"[..], 501, false)
    );
    assert_eq!(
        (put.header("content-length"), put.target.as_str(), stub.take().len()),
        (Some("1"), "/bkt/new", 0)
    );
}

#[test]
fn the_stub_lists_in_pages() {
    let stub = Stub::start("bkt");
    for key in ODD_KEYS {
        stub.put(key, Object::new(*key));
    }
    stub.put(b"z\xff\n", Object::new(""));
    stub.set(|settings| settings.page = 4);
    let (mut keys, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let page = get(&stub, &format!("/bkt/?list-type=2&encoding-type=url{token}"), &[]).text();
        keys.extend(elements(&page, "Key").into_iter().map(str::to_string));
        pages += 1;
        let Some(next) = elements(&page, "NextContinuationToken").first().copied() else { break };
        token = format!("&continuation-token={}", percent_encode(next.replace("&amp;", "&").as_bytes()));
    }
    let expected = |key: &[u8]| percent_encode(key).replace("%20", "+");
    let mut odd: Vec<String> = ODD_KEYS.iter().map(|key| expected(key.as_bytes())).collect();
    // By bytes: behind all of ASCII.
    odd.insert(odd.len() - 1, expected(b"z\xff\n"));
    assert_eq!((pages, keys), (3, odd));

    let v1 = get(&stub, "/bkt?marker=a/b/c&prefix=a&max-keys=9", &[]);
    assert_eq!(elements(&v1.text(), "Key"), ["a=%2f?#"]);
    assert_eq!(elements(&v1.text(), "IsTruncated"), ["false"]);
    let v1 = get(&stub, "/bkt?marker=z", &[]);
    assert!(v1.body.windows(7).any(|window| window == b"z\xff&#xa;"), "{}", v1.text());
    let plain = get(&stub, "/bkt?list-type=2&start-after=a&max-keys=1", &[]).text();
    assert_eq!(elements(&plain, "Key"), ["a&amp;&lt;&gt;&quot;&#39;b"]);
    assert_eq!(elements(&plain, "LastModified"), ["2023-11-14T22:13:20.123Z"]);

    stub.set(|settings| settings.lists = Lists::V2Refused);
    assert_eq!(get(&stub, "/bkt?list-type=2", &[]).status, 501);
    stub.set(|settings| settings.lists = Lists::V2AsV1);
    let page = get(&stub, "/bkt?list-type=2&continuation-token=1", &[]).text();
    assert_eq!((elements(&page, "Key").len(), elements(&page, "KeyCount").len()), (4, 0));
    stub.set(|settings| settings.encodes = false);
    let page = get(&stub, "/bkt?encoding-type=url", &[]).text();
    assert_eq!(elements(&page, "Key")[0], " a b");
    let asked = stub.take();
    assert!(asked.iter().all(|request| request.is_list()));
    assert_eq!(asked.last().unwrap().param("encoding-type"), Some(&b"url"[..]));
}

#[test]
fn an_independent_client_reads_the_stub() {
    let lab = Lab::new();
    let stub = Stub::start("bkt");
    stub.set(|settings| settings.page = 3);
    let mut expected = Tree::new(&lab.path("expected"), 1);
    for (number, key) in ODD_KEYS.iter().enumerate() {
        let content = expected.rng.noise(100_000 * number);
        stub.put(format!("top/{key}"), Object::new(content.clone()).in_parts(50_000));
        expected.file(key, content);
    }
    let client = RcloneClient::new(&stub.endpoint());
    for version in ["1", "2"] {
        let client = RcloneClient::new(&stub.endpoint()).env("RCLONE_CONFIG_X_LIST_VERSION", version);
        let names: Vec<String> = client.list("bkt/top").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ODD_KEYS, "by version {version}");
    }
    client.fetch("bkt/top", &lab.path("to"), vec![]);
    assert_same_files(&lab.path("expected"), &lab.path("to"));
    let gets = stub.take().into_iter().filter(|request| request.method == "GET" && !request.key.is_empty());
    assert!(gets.count() >= ODD_KEYS.len());
    assert!(stub.connections() > 0 && stub.most_at_once() > 0);
    let env = stub.env();
    assert!(env.contains(&("TARLIKE_S3_ENDPOINT".into(), stub.endpoint())), "{env:?}");
}

#[test]
fn faults_of_objects_come_when_they_are_due_and_are_recorded() {
    let stub = Stub::start("bkt");
    let content = Rng::new(2).noise(1000);
    stub.put("k", Object::new(content.clone()));
    stub.put("other", Object::new("other"));
    let if_match = format!("\"{}\"", md5_hex(&content));
    let ask = |fault: Fault| {
        let name = format!("{fault:?}");
        stub.fault(On::get("k"), 1, fault);
        assert_eq!(get(&stub, "/bkt/other", &[]).text(), "other");
        let answer = get(&stub, "/bkt/k", &[("Range", "bytes=100-199"), ("If-Match", &if_match)]);
        let log = stub.take();
        assert_eq!((log.len(), &*log[0].fault, log[1].status), (2, "Pass", answer.status));
        assert!(name.starts_with(&log[1].fault), "{name} is not {}", log[1].fault);
        answer
    };
    for (status, code) in
        [(500, "InternalError"), (503, "SlowDown"), (404, "NoSuchKey"), (412, "PreconditionFailed")]
    {
        let answer = ask(Fault::Status(status));
        assert_eq!((answer.status, elements(&answer.text(), "Code")), (status, vec![code]));
    }
    let said = ask(Fault::Answer(200, "<html>".into()));
    assert_eq!((said.status, said.text()), (200, "<html>".into()));
    let cut = ask(Fault::CutAfter(30));
    assert_eq!((cut.status, &cut.body[..], is_cut(&cut)), (206, &content[100..130], true));
    let start = Instant::now();
    assert_eq!(ask(Fault::StallAfter(30, Duration::from_millis(300))).body, content[100..200]);
    assert_eq!(ask(Fault::Delay(Duration::from_millis(200))).body, content[100..200]);
    assert!(start.elapsed() >= Duration::from_millis(500));
    let whole = ask(Fault::WholeObject);
    assert_eq!((whole.status, &whole.body), (200, &content));
    let wrong = ask(Fault::WrongContentRange);
    assert_eq!((wrong.header("content-range"), wrong.body.len()), (Some("bytes 101-200/1000"), 100));
    let range = Some("bytes 100-199/1000");
    let short = ask(Fault::Shorter(1));
    assert_eq!((short.header("content-range"), short.body.len(), is_cut(&short)), (range, 99, false));
    let long = ask(Fault::Longer(5));
    assert_eq!((long.header("content-range"), long.body.len(), &long.body[100..]), (range, 105, &[0; 5][..]));
    assert_eq!(ask(Fault::OtherEtag("e".into())).header("etag"), Some("\"e\""));
    assert_eq!(ask(Fault::ThenReplace(Object::new("new"))).body, content[100..200]);
    assert_eq!(ask(Fault::Pass).status, 412);
    let ignored = ask(Fault::IgnoreIfMatch);
    assert_eq!(ignored.status, 416, "a range beyond what the key holds now");

    stub.fault(On::Gets, 2, Fault::Pass);
    stub.fault(On::Any, usize::MAX, Fault::Hangup);
    assert_eq!([get(&stub, "/bkt/k", &[]).text(), get(&stub, "/bkt/k", &[]).text()], ["new", "new"]);
    for _ in 0..3 {
        assert!(http::try_raw(stub.addr, b"GET /bkt/k HTTP/1.1\r\nHost: x\r\n\r\n").is_none());
    }
    let last = stub.take().pop().unwrap();
    assert_eq!((last.status, &*last.fault), (0, "Hangup"));
}

#[test]
fn faults_of_heads_lists_and_time() {
    let stub = Stub::start("bkt");
    for key in ["k1", "k2", "k3"] {
        stub.put(key, Object::new(key));
    }
    stub.fault(On::head("k1"), 1, Fault::Status(503));
    let head = || http::request(stub.addr, "HEAD", "/bkt/k1", &[], b"").status;
    assert_eq!([head(), head()], [503, 200]);

    let list = |more: &str| get(&stub, &format!("/bkt?list-type=2&max-keys=2{more}"), &[]).text();
    let after = |page: &str| {
        let token = elements(page, "NextContinuationToken")[0].replace("&amp;", "&");
        format!("&continuation-token={}", percent_encode(token.as_bytes()))
    };
    stub.fault(On::List, 1, Fault::EmptyPage);
    let empty = list("");
    assert_eq!((elements(&empty, "Key").len(), elements(&empty, "IsTruncated")), (0, vec!["true"]));
    assert_eq!(elements(&list(&after(&empty)), "Key"), ["k1", "k2"]);
    stub.fault(On::List, 3, Fault::SamePage);
    let mut pages = vec![list("")];
    for _ in 0..2 {
        pages.push(list(&after(pages.last().unwrap())));
    }
    assert!(
        pages.iter().all(|page| elements(page, "Key") == ["k1", "k2"] && after(page) == after(&pages[0]))
    );
    stub.fault(On::List, 1, Fault::MalformedXml);
    assert!(!list("").contains("</ListBucketResult>"));
    assert_eq!(elements(&list(&after(&pages[0])), "Key"), ["k1", "k2"]);

    stub.set(|settings| settings.delay = Duration::from_millis(100));
    let start = Instant::now();
    // Two requests on one connection.
    let connections = stub.connections();
    let two =
        "GET /bkt/k1 HTTP/1.1\r\nHost: x\r\n\r\nGET /bkt/k2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(http::raw(stub.addr, two.as_bytes()).text().starts_with("k1"));
    wait_until("the second one is there", Duration::from_secs(10), || {
        stub.take().iter().any(|request| request.key == b"k2")
    });
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(stub.connections(), connections + 1);
}

#[test]
fn the_stub_is_as_strict_as_an_hcp() {
    let lab = Lab::new();
    let stub = Stub::start_hcp("bkt");
    stub.put("a b", Object::new("x"));
    stub.put("k", Object::new("y"));
    let ask = |host: &str, more: &str| {
        http::raw(
            stub.addr,
            format!("GET /k HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n").as_bytes(),
        )
        .status
    };
    assert_eq!((ask("bkt.s3.test", ""), ask("s3.test", ""), ask("c.s3.test:80", "")), (200, 403, 403));
    assert_eq!(get(&stub, "/bkt/k", &[]).status, 403);
    for header in [
        "x-amz-checksum-mode: ENABLED",
        "x-amz-checksum-crc32: AAAAAA==",
        "x-amz-sdk-checksum-algorithm: CRC32",
        "content-encoding: aws-chunked",
        "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    ] {
        assert_eq!(ask("bkt.s3.test", &format!("{header}\r\n")), 400, "{header}");
    }
    stub.take();

    let client =
        || RcloneClient::new(&stub.named_endpoint()).virtual_hosts().env("RCLONE_CONFIG_X_LIST_VERSION", "1");
    let files = [("a b".to_string(), 1), ("k".to_string(), 1)];
    stub.set(|settings| settings.page = 1);
    let proxy = stub.as_proxy().pop().unwrap();
    assert_eq!(client().env(&proxy.0, &proxy.1).list("bkt"), files);
    if let Some(cmd) = stub.named(&lab, client().cmd(args!["cat", "--fast-list", "x:bkt"])) {
        assert_eq!(cmd.run().code(0).stdout, "xy");
    }
    let requests = stub.take();
    assert!(!requests.is_empty() && requests.iter().all(|request| request.is_virtual_host()));
    let host = format!("bkt.s3.test:{}", stub.addr.port());
    assert!(requests.iter().all(|request| request.host == host), "{requests:?}");
    let got = requests.iter().filter(|request| request.method == "GET" && !request.key.is_empty());
    assert!(got.map(|request| request.status).all(|status| status == 200), "{requests:?}");
}
