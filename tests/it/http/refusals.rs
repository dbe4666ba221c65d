//! Wrong or hostile requests: none is served, none does harm.

use super::{SIZE, Setting, refused};
use crate::support::Lab;
use crate::support::http;
use crate::support::index::{self, blake3_hex, frame};

#[test]
fn a_block_without_index_or_with_the_wrong_one() {
    let setting = Setting::new(vec![]);
    refused(&setting.put_block(0), 404);
    setting.put_index();
    assert_eq!(setting.put_block(0).status, 200);
    let content = index::block(&setting.archive, SIZE, 1).to_vec();
    let body = frame(&content);
    // FORMAT.md 13: an unknown tar_id was answered 200.
    refused(&setting.put("/tar/1/1000/1", &[("x-tar-like-index", &setting.digest)], &body), 404);
    refused(&setting.proxy.request("GET", "/tar/1/status", &[], b""), 404);
    refused(&setting.proxy.request("POST", "/tar/1/finish", &[], b"{}"), 404);
    refused(&setting.put("/tar/0/1000/1", &[("x-tar-like-index", &"0".repeat(64))], &body), 409);
    refused(&setting.put("/tar/0/1000/1", &[], &body), 412);
    refused(&setting.put("/tar/0/1000/1", &[("x-tar-like-index", "xyz")], &body), 400);
    refused(
        &setting.put("/tar/0/1000/1", &[("x-tar-like-index", &setting.digest.to_uppercase())], &body),
        400,
    );
    assert_eq!(setting.proxy.status(0)["done_bytes"], 1000);
}

#[test]
fn numbers_that_are_none() {
    let setting = Setting::with_index(vec![]);
    let body = frame(index::block(&setting.archive, SIZE, 0));
    let headers = [("x-tar-like-index", &*setting.digest)];
    for path in [
        "/tar/0/0/0",
        "/tar/0/1000/4",
        "/tar/0/1000/18446744073709551615",
        "/tar/0/1000/99999999999999999999999",
        "/tar/0/1000/-1",
        "/tar/0/-1/0",
        "/tar/0/+1000/0",
        "/tar/0/1e3/0",
        "/tar/0/0x10/0",
        "/tar/x/1000/0",
        "/tar/-1/1000/0",
        "/tar/0/1000/%30",
        "/tar/0/1000/ 0",
        "/tar//1000/0",
        "/tar/0/1000/",
        "/tar/0/9223372036854775808/0",
    ] {
        let answer = setting.put(path, &headers, &body);
        assert!(matches!(answer.status, 400 | 404), "{path}: {} {}", answer.status, answer.text());
        assert_ne!(answer.status, 200);
    }
    assert_eq!(setting.put("/tar/0/1000/4", &headers, &body).status, 400, "behind the end");
    let huge = setting.put("/tar/0/9223372036854775807/0", &headers, &body);
    assert!(matches!(huge.status, 400 | 413 | 422), "{}", huge.status);
    assert_eq!(setting.proxy.status(0)["done_bytes"], 0);
}

/// FORMAT.md 13: the GET of the original served the working directory.
#[test]
fn no_file_is_ever_served() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    std::fs::write(dst.join("secret.txt"), "do not tell").unwrap();
    std::fs::create_dir(dst.join("0")).unwrap();
    std::fs::write(dst.join("0/secret.txt"), "do not tell").unwrap();
    let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).cwd(&dst).serve();
    for method in ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "PATCH", "PROPFIND"] {
        for path in [
            "/",
            "/secret.txt",
            "/tar/secret.txt",
            "/0/secret.txt",
            "/tar/0/",
            "/tar/0/db",
            "/tar/0/1000/0",
            "/.tar-like/journal.sqlite",
            "/../../../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/tar/..%2f..%2fetc/passwd",
            "//etc/passwd",
            "/etc/passwd",
        ] {
            let answer = proxy.request(method, path, &[], b"");
            assert!(matches!(answer.status, 400 | 404 | 405), "{method} {path}: {}", answer.status);
            assert!(!answer.text().contains("do not tell") && !answer.text().contains("root:"));
        }
    }
    refused(&proxy.request("GET", "/secret.txt", &[], b""), 404);
    refused(&proxy.request("GET", "/tar/0/db", &[], b""), 400);
    refused(&proxy.request("PUT", "/tar/0/status", &[], b""), 405);
    refused(&proxy.request("GET", "/tar/0/finish", &[], b""), 405);
}

#[test]
fn nothing_without_the_token_but_the_health_checks() {
    let lab = Lab::new();
    let (dst, secret) = (lab.dir("dst"), "0123456789abcdef0123456789abcdef");
    let more = args!["--token-file", lab.file("token", secret), "--trusted-proxy", "127.0.0.1"];
    let proxy = lab.proxy_with(&dst, more);
    // Each from another address: too many from one address would get 429.
    let next = std::cell::Cell::new(0);
    let request = |method: &str, path: &str, header: Option<(&str, &str)>| {
        let from = format!("198.51.100.{}", next.replace(next.get() + 1));
        let headers: Vec<_> = header.into_iter().chain([("x-forwarded-for", &*from)]).collect();
        proxy.request(method, path, &headers, b"")
    };
    let bearer = format!("Bearer {secret}");
    let all = [
        ("GET", "/metrics"),
        ("GET", "/tar/0/status"),
        ("PUT", "/tar/0/db"),
        ("PUT", "/tar/0/1000/0"),
        ("POST", "/tar/0/finish"),
        ("GET", "/"),
        ("GET", "/nonsense"),
    ];
    for (method, path) in all {
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            &bearer[..bearer.len() - 1],
            &format!("{bearer}x"),
            &bearer.to_uppercase(),
            secret,
            &format!("Basic {secret}"),
            "Bearer 0123456789abcdef0123456789abcdeF",
        ] {
            refused(&request(method, path, Some(("authorization", wrong))), 401);
        }
        let none = request(method, path, None);
        refused(&none, 401);
        assert_eq!(none.header("www-authenticate"), Some("Bearer"));
        let good = request(method, path, Some(("authorization", &bearer)));
        assert_ne!(good.status, 401, "{method} {path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(proxy.request("GET", path, &[], b"").status, 200);
    }
}

#[test]
fn a_body_needs_a_length() {
    let setting = Setting::with_index(vec![]);
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    for path in ["/tar/0/1000/0", "/tar/0/db"] {
        let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nx-tar-like-index: {}\r\n", setting.digest);
        let chunked = format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{chunked}");
        refused(&http::raw(setting.proxy.addr, chunked.as_bytes()), 411);
        refused(&http::raw(setting.proxy.addr, format!("{head}Connection: close\r\n\r\n").as_bytes()), 411);
        for length in ["-1", "x", "99999999999999999999999", "1, 2", "0x10", "+5"] {
            let bytes = format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\nhello");
            let answer = http::try_raw(setting.proxy.addr, bytes.as_bytes());
            assert!(answer.is_none_or(|answer| matches!(answer.status, 400 | 411 | 413)), "{path} {length}");
        }
    }
    let content = index::block(&setting.archive, SIZE, 0);
    let body = frame(content);
    // Cut in the middle of the body.
    let head = format!(
        "PUT /tar/0/1000/0 HTTP/1.1\r\nHost: x\r\nx-tar-like-index: {}\r\nContent-Length: {}\r\n\r\n",
        setting.digest,
        body.len()
    );
    let cut = [head.as_bytes(), &body[..body.len() / 2]].concat();
    let answer = http::try_raw_cut(setting.proxy.addr, &cut);
    assert!(answer.is_none_or(|answer| answer.status >= 400));
    assert_eq!(setting.proxy.status(0)["done_bytes"], 0);
    assert_eq!(setting.put_block(0).status, 200);
}

#[test]
fn oversized_requests() {
    let setting = Setting::with_index(args!["--max-block-size", "1000"]);
    let headers = [("x-tar-like-index", &*setting.digest)];
    let over = setting.put("/tar/0/1001/0", &headers, &frame(index::block(&setting.archive, 1001, 0)));
    refused(&over, 413);
    assert!(over.text().contains("1000"), "the limit is named: {}", over.text());
    // A body that is too long for any block of this size.
    refused(&setting.put("/tar/0/1000/0", &headers, &vec![0; 100_000]), 413);
    assert_eq!(setting.put_block(0).status, 200);
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    assert!(
        http::try_raw(setting.proxy.addr, long.as_bytes())
            .is_none_or(|a| matches!(a.status, 404 | 414 | 431))
    );
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nx-long: {}\r\n\r\n", "x".repeat(2 << 20));
    assert!(http::try_raw(setting.proxy.addr, head.as_bytes()).is_none_or(|a| a.status == 431));
    assert_eq!(setting.proxy.request("GET", "/healthz", &[], b"").status, 200);
}

/// FORMAT.md 13: a wrong block length was answered 200.
#[test]
fn frames_that_are_wrong() {
    let setting = Setting::with_index(vec![]);
    let content = index::block(&setting.archive, SIZE, 3);
    assert_eq!(content.len(), 500, "the last block is short");
    let digest = blake3_hex(content);
    let headers = [("x-tar-like-index", &*setting.digest), ("x-tar-like-digest", &*digest)];
    let unnamed = &headers[..1];
    let put = |headers: &[(&str, &str)], body: &[u8]| setting.put("/tar/0/1000/3", headers, body);
    let longer = [content, &[0]].concat();
    for body in
        [frame(&longer), frame(&content[..499]), frame(b""), Vec::new(), content.to_vec(), b"hello".to_vec()]
    {
        refused(&put(unnamed, &body), 422);
        refused(&put(&headers, &body), 422);
    }
    let whole = frame(content);
    refused(&put(unnamed, &[&whole[..], &whole[..]].concat()), 422);
    refused(&put(unnamed, &[&whole[..], &[0]].concat()), 422);
    refused(&put(unnamed, &whole[..whole.len() - 1]), 422);
    let mut flipped = content.to_vec();
    flipped[17] ^= 1;
    refused(&put(&headers, &frame(&flipped)), 422);
    refused(&put(&[headers[0], ("x-tar-like-digest", "short")], &whole), 400);
    assert_eq!(setting.proxy.status(0)["done_bytes"], 0);
    assert_eq!(put(&headers, &whole).status, 200);
}

#[test]
fn an_index_that_is_none() {
    let setting = Setting::new(args!["--legacy"]);
    let put = |headers: &[(&str, &str)], body: &[u8]| setting.put("/tar/0/db", headers, body);
    let good = index::frame_of(&setting.db);
    for body in
        [&b""[..], b"hello", &frame(b""), &frame(b"hello"), &good[..good.len() - 4], &frame(&vec![0; 8192])]
    {
        refused(&put(&[], body), 422);
    }
    // Little on the wire, and never written.
    let bomb = put(&[], &frame(&vec![0; 100_000_000]));
    refused(&bomb, 422);
    assert!(bomb.text().contains("no SQLite database"), "{}", bomb.text());
    let trailing = [&good[..], b"x"].concat();
    refused(&put(&[], &trailing), 422);
    let other = put(&[("x-tar-like-index", &"1".repeat(64))], &good);
    assert!(matches!(other.status, 409 | 422), "another digest was expected: {}", other.text());
    refused(&setting.proxy.request("GET", "/tar/0/status", &[], b""), 404);
    assert_eq!(put(&[], &good).json()["digest"], setting.digest, "as from a client of the original");
    refused(&Setting::new(vec![]).put("/tar/0/db", &[], &good), 412);
}
