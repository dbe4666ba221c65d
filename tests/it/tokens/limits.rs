//! Refusals: when they are sent, and how many of them.

use super::{Guarded, WRONG};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Before anything of the body is there.
#[test]
fn a_refusal_waits_for_no_body() {
    let guarded = Guarded::new(vec![]);
    let other = guarded.make("other", args!["--tar-id", "7"]);
    guarded.hangup();
    for (token, wanted) in [("", "401"), (WRONG, "401"), (&*other, "403")] {
        for more in ["", "Expect: 100-continue\r\n"] {
            let mut stream = TcpStream::connect(guarded.proxy.addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let head = format!(
                "PUT /tar/0/1000000000/0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}Content-Length: 1000000000\r\n\r\n"
            );
            let start = Instant::now();
            stream.write_all(head.as_bytes()).unwrap();
            // Until the end: the connection is closed.
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {wanted} ")), "{answer}");
            assert!(answer.contains("connection: close"), "{answer}");
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        }
    }
}

/// A sender in the middle of a body hears of it, too.
#[test]
fn a_token_that_is_taken_back_ends_the_upload() {
    let guarded = Guarded::new(vec![]);
    let secret = guarded.make("own", vec![]);
    guarded.hangup();
    let src = guarded.lab.path("src");
    crate::support::Tree::new(&src, 502).noise("a", 4_000_000);
    let db = guarded.lab.index(&src);
    let more = args!["-s", "100000", "--bwlimit", "200K", "--compress", "none"];
    let upload =
        guarded.lab.upload_cmd(&src, &db, &guarded.proxy.url, more).env("TARLIKE_TOKEN", &secret).spawn();
    let done = || guarded.request("GET", "/tar/0/status", &secret);
    let some = || done().status == 200 && done().json()["done_bytes"].as_u64().unwrap() > 200_000;
    crate::support::wait_until("blocks arrive", Duration::from_secs(30), some);
    let start = Instant::now();
    std::fs::write(&guarded.tokens, "# nobody\n").unwrap();
    upload.wait().code(1).says("401").says("token");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn too_many_failures_are_answered_by_429() {
    let guarded = Guarded::new(vec![]);
    let good = guarded.make("good", args!["--scope", "upload,metrics"]);
    let over = guarded.make("over", args!["--expires", "2999-01-01"]);
    let text = std::fs::read_to_string(&guarded.tokens).unwrap();
    std::fs::write(&guarded.tokens, text.replace("2999-01-01", "2001-01-01")).unwrap();
    guarded.hangup();
    let expired = guarded.request("GET", "/tar/0/status", &over);
    assert_eq!(expired.status, 401);
    assert!(expired.text().contains("the token over has expired"), "{}", expired.text());
    for count in 1..10 {
        assert_eq!(guarded.status(if count % 2 == 0 { WRONG } else { "" }), 401, "{count}");
    }
    // With any address that the client claims.
    for number in 0..20 {
        let from = format!("198.51.100.{number}");
        let headers = [("authorization", "Bearer wrong-0123456789abcdef"), ("x-forwarded-for", &*from)];
        let answer = guarded.proxy.request("PUT", "/tar/0/1000/0", &headers, b"x");
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("60"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(guarded.status(&good), 404, "a good token always passes");
    }
    assert_eq!(guarded.status(&over), 429);
    let metrics = guarded.request("GET", "/metrics", &good).text();
    for line in [
        "tarlike_auth_limited_total 21",
        "tarlike_auth_failures_total{reason=\"expired\"} 2",
        "tarlike_auth_failures_total{reason=\"missing\"} 5",
        "tarlike_auth_failures_total{reason=\"wrong\"} 24",
    ] {
        assert!(metrics.contains(&format!("{line}\n")), "{line}: {metrics}");
    }
    let said = guarded.proxy.stderr();
    assert_eq!(said.matches("refused ").count(), 11, "{said}");
    assert!(said.contains("refused 127.0.0.1: a wrong token") && !said.contains("198.51.100"), "{said}");
}

#[test]
fn a_trusted_proxy_says_whose_failures_they_are() {
    let guarded = Guarded::new(args!["--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "127.0.0.1"]);
    let from = |addresses: &str| {
        let headers = [("authorization", "Bearer wrong-0123456789abcdef"), ("x-forwarded-for", addresses)];
        guarded.proxy.request("GET", "/metrics", &headers, b"").status
    };
    for number in 0..10 {
        assert_eq!(from(&format!("203.0.113.{number}, 198.51.100.1")), 401);
    }
    assert_eq!(from("203.0.113.99, 198.51.100.1"), 429, "the last one counts");
    assert_eq!(from("198.51.100.1, 198.51.100.2"), 401);
    for low in 0..10 {
        assert_eq!(from(&format!("2001:db8::{low:x}:1")), 401);
    }
    assert_eq!(from("2001:db8::ffff"), 429);
    assert_eq!(from("2001:db8:0:1::ffff"), 401);
    assert!(guarded.proxy.stderr().contains("refused 198.51.100.2: "), "{}", guarded.proxy.stderr());
    guarded.lab.run(args!["proxy", "0", "-b", "x", "--trusted-proxy", "haproxy"]).code(2).says("10.1.2.0/24");
}
