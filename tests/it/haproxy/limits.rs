//! Requests that haproxy refuses, and requests that it passes on unchanged.

use super::Haproxy;
use crate::support::http::{self, Response};
use crate::support::index::{self, blake3_hex, frame};
use crate::support::{Lab, Tree};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn head(request: &str, headers: &str) -> Vec<u8> {
    format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

fn ask(haproxy: &Haproxy, request: &str, headers: &str) -> Response {
    http::raw(haproxy.plain, &head(request, headers))
}

#[test]
fn only_the_requests_of_the_protocol_pass() {
    let lab = Lab::new();
    let proxy = lab.proxy(&lab.dir("dst"));
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    // An answer of the receiver carries its header: haproxy passes these requests on, whatever the
    // receiver answers.
    for request in [
        "GET /tar/0/status?blk_size=1000&from=0",
        "GET /0/status",
        "GET /a/b.c/tar/12345/status",
        "HEAD /tar/0/status",
        "PUT /tar/0/db",
        "PUT /tar/0/30000000/7",
        "PUT /0/1/2",
        "POST /tar/0/log",
        "POST /tar/0/look",
        "POST /tar/0/candidates",
        "POST /tar/0/finish",
        "GET /healthz",
        "GET /readyz",
    ] {
        let length = if request.starts_with("GET") || request.starts_with("HEAD") {
            ""
        } else {
            "Content-Length: 0\r\n"
        };
        let answer = ask(&haproxy, request, length);
        let passed =
            answer.header("x-tar-like").is_some() || matches!(request, "GET /healthz" | "GET /readyz");
        assert!(passed && answer.status != 405, "{request}: {} {}", answer.status, answer.text());
    }
    for (status, request) in [
        (404, "GET /"),
        (404, "GET /tar"),
        (404, "GET /tar/0/"),
        (404, "GET /tar/x/status"),
        (404, "GET //tar/0/status"),
        (404, "GET /tar//0/status"),
        (404, "GET /../tar/0/status"),
        (404, "GET /tar/./0/status"),
        (404, "GET /%2e%2e/tar/0/status"),
        (404, "GET /tar/0/status/"),
        (404, "GET /tar/0/status;x"),
        (404, "GET /tar/0/status%00"),
        (404, "PUT /tar/0/-1/0"),
        (404, "PUT /tar/0/+1/0"),
        (404, "GET /.tar-like/journal.sqlite"),
        (404, "OPTIONS *"),
        (404, "GET /metrics"),
        (404, "GET /haproxy?stats"),
        (405, "DELETE /tar/0/db"),
        (405, "GET /tar/0/1000/0"),
        (405, "POST /tar/0/db"),
        (405, "PUT /tar/0/finish"),
        (405, "PUT /healthz"),
        (405, "TRACE /tar/0/status"),
        (405, "PATCH /tar/0/30000000/7"),
    ] {
        let answer = ask(&haproxy, request, "");
        assert_eq!(answer.status, status, "{request}: {}", answer.text());
        assert_eq!(answer.header("x-tar-like"), None, "{request} reached the receiver");
    }
    // A request with any token reaches the receiver, which decides.
    // With a token, too: Prometheus asks the proxies.
    let counts = ask(&haproxy, "GET /metrics", "Authorization: Bearer 0123456789abcdef\r\n");
    assert_eq!((counts.status, counts.header("x-tar-like")), (404, None));
    assert_ne!(ask(&haproxy, "CONNECT 127.0.0.1:22", "").status, 200);
}

#[test]
fn heads_addresses_and_bodies_have_limits() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 70).noise("a", 3000);
    let db = lab.index(&src);
    let proxy = lab.proxy_with(&lab.dir("dst"), args!["--max-block-size", "1000"]);
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    let digest = index::digest(&db);
    let index_header = format!("x-tar-like-index: {digest}\r\n");
    let put = |path: &str, headers: &str, body: &[u8]| {
        let headers = format!("{index_header}Content-Length: {}\r\n{headers}", body.len());
        http::raw(haproxy.plain, &[&head(&format!("PUT {path}"), &headers)[..], body].concat())
    };
    assert_eq!(put("/tar/0/db", "", &index::frame_of(&db)).status, 200);
    let content = index::block(&index::archive(&src, &db), 1000, 0).to_vec();
    // A head may be long, as after many failed files; beyond the limit haproxy or the receiver
    // refuses it.
    let digest_header = format!("x-tar-like-digest: {}\r\n", blake3_hex(&content));
    let long = |length: usize| format!("{digest_header}x-long: {}\r\n", "x".repeat(length));
    assert_eq!(put("/tar/0/1000/0", &long(50_000), &frame(&content)).status, 200);
    let over = http::raw(haproxy.plain, &head("GET /tar/0/status", &long(62_000)));
    assert_eq!(over.status, 431, "{}", over.text());
    let far_over = http::try_raw(haproxy.plain, &head("GET /tar/0/status", &long(500_000)));
    assert!(far_over.is_none_or(|answer| matches!(answer.status, 400 | 431)));
    let address = ask(&haproxy, &format!("GET /{}/0/status", "x".repeat(3000)), "");
    assert_eq!(address.status, 414, "{}", address.text());
    // The receiver's own limit, in its own words.
    let block = put("/tar/0/1001/0", "", &frame(&content));
    assert_eq!((block.status, block.header("x-tar-like")), (413, Some("1")), "{}", block.text());
    assert!(block.text().contains("--block-size 1000"), "{}", block.text());
    // A body needs a length, and only requests that have one have a body.
    assert_eq!(ask(&haproxy, "PUT /tar/0/1000/1", &index_header).status, 411);
    let chunked = "Transfer-Encoding: chunked\r\n";
    let answer = [&head("PUT /tar/0/1000/1", chunked)[..], b"5\r\nhello\r\n0\r\n\r\n"].concat();
    assert_eq!(http::raw(haproxy.plain, &answer).status, 411);
    let answer = [&head("GET /tar/0/status", "Content-Length: 5\r\n")[..], b"hello"].concat();
    assert_eq!(http::raw(haproxy.plain, &answer).status, 400);
    assert_eq!(ask(&haproxy, "GET /tar/0/status", "Upgrade: h2c\r\n").status, 400);
    assert_eq!(proxy.status(0)["done_bytes"], 1000, "nothing but block 0");
}

/// The answer comes before the body is sent, so a client without a token cannot fill the link.
#[test]
fn no_token_is_told_at_once() {
    let lab = Lab::new();
    let secret = "0123456789abcdef0123456789abcdef";
    let proxy = lab.proxy_with(&lab.dir("dst"), args!["--token-file", lab.file("token", secret)]);
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    for address in [haproxy.plain, proxy.addr] {
        for token in
            ["", "Authorization: Bearer 0123456789abcdef0123456789abcdeF\r\n", "Authorization: Basic x\r\n"]
        {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let begun = Instant::now();
            let headers = format!("Content-Length: 200000000\r\n{token}");
            let request =
                format!("PUT /tar/0/200000000/0 HTTP/1.1\r\nHost: x\r\n{headers}\r\nonly a few bytes");
            stream.write_all(request.as_bytes()).unwrap();
            let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
            while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
                let count = stream.read(&mut buffer).expect("the answer waits for the body");
                assert!(count > 0, "closed without an answer");
                answer.extend(&buffer[..count]);
            }
            let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            assert!(answer.starts_with("http/1.1 401 "), "{answer}");
            assert!(
                answer.contains("www-authenticate: bearer") && answer.contains("x-tar-like: 1"),
                "{answer}"
            );
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        }
    }
    let good = format!("Authorization: Bearer {secret}\r\n");
    assert_eq!(
        ask(&haproxy, "GET /tar/0/status", &good).status,
        404,
        "with the token, there is no such archive"
    );
}

/// A client that guesses tokens gets 429, and no other client does.
#[test]
fn many_refusals_of_one_address_are_too_many() {
    let lab = Lab::new();
    let proxy = lab.proxy(&lab.dir("dst"));
    let limits = [("HAPROXY_SOURCE_ERRORS", "10"), ("HAPROXY_SOURCE_CONNS", "20")];
    let haproxy = Haproxy::start_with(&lab, &[proxy.addr], &limits).ready();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let from = |address: &str| {
        let stream = runtime.block_on(super::slow::connect_from(address.parse().unwrap(), haproxy.plain));
        // haproxy refuses a connection after a moment, or at once.
        let Ok(stream) = stream else { return "none".to_string() };
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut answer = String::new();
        let _ = stream.write_all(&head("GET /tar/0/status", ""));
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).unwrap_or("none").to_string()
    };
    let guesses: Vec<String> = (0..30).map(|_| from("127.0.0.9")).collect();
    // Eleven failures are more than ten; each one counts when it has been answered.
    let limited = guesses.iter().position(|status| status == "429");
    assert!(matches!(limited, Some(10..=12)), "{guesses:?}");
    let (before, after) = guesses.split_at(limited.unwrap());
    assert!(before.iter().all(|status| status == "404"), "{guesses:?}");
    assert!(after.iter().all(|status| status == "429"), "{guesses:?}");
    assert_eq!(from("127.0.0.10"), "404");
    // Idle connections from one address: other clients are served.
    let held = runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..15 {
            held.extend(super::slow::connect_from([127, 0, 0, 11].into(), haproxy.plain).await);
        }
        held
    });
    assert_eq!(from("127.0.0.11"), "404", "15 of 20 leave some");
    let more = runtime.block_on(async {
        let mut held = Vec::new();
        for _ in 0..25 {
            held.extend(super::slow::connect_from([127, 0, 0, 11].into(), haproxy.plain).await);
        }
        held
    });
    let held = [held, more];
    assert_eq!(from("127.0.0.11"), "none", "its connections are used up");
    assert_eq!(from("127.0.0.12"), "404");
    drop(held);
}

/// The original's sender makes a connection for each block, and small blocks follow fast.
#[test]
fn a_connection_for_each_small_block_is_not_too_many() {
    let lab = Lab::new();
    let proxy = lab.proxy(&lab.dir("dst"));
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    let begun = Instant::now();
    let asks = head("GET /healthz", "");
    for number in 0..800 {
        let answer = http::try_raw(haproxy.plain, &asks);
        assert_eq!(answer.map(|answer| answer.status), Some(200), "connection {number}");
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}: too slow to prove anything", begun.elapsed());
}
