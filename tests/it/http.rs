//! The receiver's answers to requests that are right, wrong and hostile (FORMATS 1.3 and 2.3).

use crate::support::http::{self, Response};
use crate::support::index::{self, blake3_hex, frame};
use crate::support::{Lab, Proxy, Tree};
use std::ffi::OsString;
use std::path::PathBuf;

const SIZE: usize = 1000;

struct Setting {
    lab: Lab,
    proxy: Proxy,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    archive: Vec<u8>,
    digest: String,
}

impl Setting {
    /// A receiver without any index; the archive has 3500 bytes.
    fn new(more: Vec<OsString>) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        Tree::new(&src, 80).noise("a", 1500).noise("b", 200).noise("c", 1800).file("empty", "");
        let db = lab.index(&src);
        let proxy = lab.proxy_with(&dst, more);
        let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
        Self { lab, proxy, src, dst, db, archive, digest }
    }

    fn with_index(more: Vec<OsString>) -> Self {
        let setting = Self::new(more);
        let answer = setting.put_index();
        assert_eq!(answer.status, 200, "{}", answer.text());
        setting
    }

    fn put_index(&self) -> Response {
        self.proxy.request("PUT", "/tar/0/db", &[("x-tar-like-index", &self.digest)], &index::frame_of(&self.db))
    }

    fn put(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.proxy.request("PUT", path, headers, body)
    }

    /// Block `number` as a good sender sends it.
    fn put_block(&self, number: usize) -> Response {
        let content = index::block(&self.archive, SIZE, number);
        let headers = [("x-tar-like-index", &*self.digest), ("x-tar-like-digest", &*blake3_hex(content))];
        self.put(&format!("/tar/0/{SIZE}/{number}"), &headers, &frame(content))
    }
}

#[track_caller]
fn refused(answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("x-tar-like"), Some("1"));
    let json = answer.json();
    assert!(json["error"].as_str().is_some_and(|error| error.len() > 5), "{json}");
}

/// The keys and values of FORMATS 1.3.
#[test]
fn answers_have_the_original_keys() {
    let setting = Setting::new(vec![]);
    let answer = setting.put_index();
    let json = answer.json();
    assert_eq!((answer.status, &json["rc"], &json["digest"]), (200, &"ok".into(), &setting.digest.clone().into()));
    assert_eq!(json["complete"], false);
    let answer = setting.put_block(1);
    assert_eq!((answer.status, answer.header("x-tar-like")), (200, Some("1")));
    let json = answer.json();
    assert_eq!((&json["blk_no"], &json["blk_size"], &json["frags"]), (&1.into(), &1000.into(), &3.into()), "{json}");
    let in_len = frame(index::block(&setting.archive, SIZE, 1)).len();
    assert_eq!((&json["in_len"], &json["path"].as_array().unwrap().len()), (&in_len.into(), &3));
    assert!(json["dur"].is_f64());
    assert_eq!(json["path"].as_array().unwrap().iter().map(|v| v.to_string().replace('"', "")).collect::<Vec<_>>(), ["0", "1000", "1"]);
}

#[test]
fn a_block_without_index_or_with_the_wrong_one() {
    let setting = Setting::new(vec![]);
    refused(&setting.put_block(0), 404);
    setting.put_index();
    assert_eq!(setting.put_block(0).status, 200);
    let content = index::block(&setting.archive, SIZE, 1).to_vec();
    let body = frame(&content);
    // FORMATS 1.5: an unknown tar_id was answered 200.
    refused(&setting.put("/tar/1/1000/1", &[("x-tar-like-index", &setting.digest)], &body), 404);
    refused(&setting.proxy.request("GET", "/tar/1/status", &[], b""), 404);
    refused(&setting.proxy.request("POST", "/tar/1/finish", &[], b"{}"), 404);
    refused(&setting.put("/tar/0/1000/1", &[("x-tar-like-index", &"0".repeat(64))], &body), 409);
    refused(&setting.put("/tar/0/1000/1", &[], &body), 412);
    refused(&setting.put("/tar/0/1000/1", &[("x-tar-like-index", "xyz")], &body), 400);
    refused(&setting.put("/tar/0/1000/1", &[("x-tar-like-index", &setting.digest.to_uppercase())], &body), 400);
    assert_eq!(setting.proxy.status(0)["done_bytes"], 1000);
}

#[test]
fn numbers_that_are_none() {
    let setting = Setting::with_index(vec![]);
    let body = frame(index::block(&setting.archive, SIZE, 0));
    let headers = [("x-tar-like-index", &*setting.digest)];
    for path in [
        "/tar/0/0/0", "/tar/0/1000/4", "/tar/0/1000/18446744073709551615", "/tar/0/1000/99999999999999999999999",
        "/tar/0/1000/-1", "/tar/0/-1/0", "/tar/0/+1000/0", "/tar/0/1e3/0", "/tar/0/0x10/0", "/tar/x/1000/0", "/tar/-1/1000/0",
        "/tar/0/1000/%30", "/tar/0/1000/ 0", "/tar//1000/0", "/tar/0/1000/", "/tar/0/9223372036854775808/0",
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

/// FORMATS 1.5: the GET of the original served the working directory.
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
            "/", "/secret.txt", "/tar/secret.txt", "/0/secret.txt", "/tar/0/", "/tar/0/db", "/tar/0/1000/0", "/.tar-like/journal.sqlite",
            "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/tar/..%2f..%2fetc/passwd", "//etc/passwd", "/etc/passwd",
        ] {
            let answer = proxy.request(method, path, &[], b"");
            assert!(matches!(answer.status, 400 | 404 | 405), "{method} {path}: {}", answer.status);
            assert!(!answer.text().contains("do not tell") && !answer.text().contains("root:"));
        }
    }
    refused(&proxy.request("GET", "/secret.txt", &[], b""), 404);
    refused(&proxy.request("GET", "/tar/0/db", &[], b""), 405);
    refused(&proxy.request("PUT", "/tar/0/status", &[], b""), 405);
    refused(&proxy.request("GET", "/tar/0/finish", &[], b""), 405);
}

#[test]
fn health_and_metrics() {
    let setting = Setting::with_index(vec![]);
    for path in ["/healthz", "/readyz"] {
        let answer = setting.proxy.request("GET", path, &[], b"");
        assert_eq!((answer.status, answer.header("x-tar-like")), (200, Some("1")), "{path}");
        let head = setting.proxy.request("HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    setting.put_block(0);
    setting.put_block(0);
    let metrics = setting.proxy.request("GET", "/metrics", &[], b"");
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain"));
    let text = metrics.text();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let name = name.split('{').next().unwrap();
        assert!(value.parse::<f64>().is_ok() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line:?}");
        assert!(text.contains(&format!("# TYPE {name} ")) && text.contains(&format!("# HELP {name} ")), "{line:?}");
    }
    assert_eq!(setting.proxy.blocks_accepted(), 2);
}

#[test]
fn nothing_without_the_token_but_the_health_checks() {
    let lab = Lab::new();
    let (dst, secret) = (lab.dir("dst"), "0123456789abcdef0123456789abcdef");
    let proxy = lab.proxy_with(&dst, args!["--token-file", lab.file("token", secret)]);
    let bearer = format!("Bearer {secret}");
    let all = [
        ("GET", "/metrics"), ("GET", "/tar/0/status"), ("PUT", "/tar/0/db"), ("PUT", "/tar/0/1000/0"),
        ("POST", "/tar/0/finish"), ("GET", "/"), ("GET", "/nonsense"),
    ];
    for (method, path) in all {
        for wrong in [
            "", "Bearer", "Bearer ", &bearer[..bearer.len() - 1], &format!("{bearer}x"), &bearer.to_uppercase(),
            secret, &format!("Basic {secret}"), "Bearer 0123456789abcdef0123456789abcdeF",
        ] {
            refused(&proxy.request(method, path, &[("authorization", wrong)], b""), 401);
        }
        let none = proxy.request(method, path, &[], b"");
        refused(&none, 401);
        assert_eq!(none.header("www-authenticate"), Some("Bearer"));
        assert_ne!(proxy.request(method, path, &[("authorization", &bearer)], b"").status, 401, "{method} {path}");
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
fn what_is_too_large() {
    let setting = Setting::with_index(args!["--max-block-size", "1000"]);
    let headers = [("x-tar-like-index", &*setting.digest)];
    let over = setting.put("/tar/0/1001/0", &headers, &frame(index::block(&setting.archive, 1001, 0)));
    refused(&over, 413);
    assert!(over.text().contains("1000"), "the limit is named: {}", over.text());
    // A body that no block of this size can have.
    refused(&setting.put("/tar/0/1000/0", &headers, &vec![0; 100_000]), 413);
    assert_eq!(setting.put_block(0).status, 200);
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    assert!(http::try_raw(setting.proxy.addr, long.as_bytes()).is_none_or(|a| matches!(a.status, 404 | 414 | 431)));
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nx-long: {}\r\n\r\n", "x".repeat(2 << 20));
    assert!(http::try_raw(setting.proxy.addr, head.as_bytes()).is_none_or(|a| a.status == 431));
    assert_eq!(setting.proxy.request("GET", "/healthz", &[], b"").status, 200);
}

/// FORMATS 1.5: a wrong block length was answered 200.
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
    for body in [frame(&longer), frame(&content[..499]), frame(b""), Vec::new(), content.to_vec(), b"hello".to_vec()] {
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
    let setting = Setting::new(vec![]);
    let put = |headers: &[(&str, &str)], body: &[u8]| setting.put("/tar/0/db", headers, body);
    let good = index::frame_of(&setting.db);
    for body in [&b""[..], b"hello", &frame(b""), &frame(b"hello"), &good[..good.len() - 4], &frame(&vec![0; 8192])] {
        refused(&put(&[], body), 422);
    }
    let trailing = [&good[..], b"x"].concat();
    refused(&put(&[], &trailing), 422);
    let other = put(&[("x-tar-like-index", &"1".repeat(64))], &good);
    assert!(matches!(other.status, 409 | 422), "another digest was expected: {}", other.text());
    refused(&setting.proxy.request("GET", "/tar/0/status", &[], b""), 404);
    // Without the header it is taken all the same, as from an original client.
    assert_eq!(put(&[], &good).json()["digest"], setting.digest);
}

#[test]
fn the_same_index_again_keeps_what_is_there_and_another_one_replaces_it() {
    let setting = Setting::with_index(vec![]);
    assert_eq!(setting.put_block(0).status, 200);
    assert_eq!(setting.put_block(1).status, 200);
    assert_eq!(setting.put_index().json()["complete"], false);
    assert_eq!(setting.proxy.status(0)["done_bytes"], 2000, "the same index again forgets nothing");
    let generation = setting.proxy.status(0)["generation"].as_u64().unwrap();
    Tree::new(&setting.src, 81).noise("d", 100);
    let other = setting.lab.index(&setting.src);
    let digest = index::digest(&other);
    assert_ne!(digest, setting.digest);
    let answer = setting.put("/tar/0/db", &[("x-tar-like-index", &digest)], &index::frame_of(&other));
    assert_eq!((answer.status, answer.json()["digest"].as_str()), (200, Some(&*digest)), "{}", answer.text());
    refused(&setting.put_block(2), 409);
    let status = setting.proxy.status(0);
    assert_eq!(status["digest"], digest);
    assert!(status["generation"].as_u64().unwrap() > generation, "{status}");
}

#[test]
fn status_pages() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 82).noise("a", 2500);
    let db = lab.index(&src);
    let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
    let proxy = lab.proxy(&dst);
    proxy.request("PUT", "/tar/0/db", &[], &index::frame_of(&db));
    for number in [0, 2, 4] {
        let body = frame(index::block(&archive, 500, number));
        let answer = proxy.request("PUT", &format!("/tar/0/500/{number}"), &[("x-tar-like-index", &digest)], &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let get = |query: &str| proxy.request("GET", &format!("/tar/0/status{query}"), &[], b"");
    let status = get("?blk_size=500").json();
    for (key, value) in [
        ("tar_id", 0), ("total_bytes", 2500), ("done_bytes", 1500), ("blk_size", 500), ("blocks_total", 5),
        ("blocks_done", 3), ("files_total", 1), ("files_published", 0),
    ] {
        assert_eq!(status[key], value, "{key} in {status}");
    }
    assert_eq!(status["missing"], serde_json::json!([[500, 1000], [1500, 2000]]));
    assert_eq!((&status["complete"], &status["next"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!((&status["failed"], &status["digest"]), (&serde_json::json!([]), &digest.into()));
    assert_eq!(get("?blk_size=500&from=700").json()["missing"], serde_json::json!([[700, 1000], [1500, 2000]]));
    assert_eq!(get("?from=1000").json()["missing"], serde_json::json!([[1500, 2000]]));
    assert_eq!(get("?from=99999").json()["missing"], serde_json::json!([]));
    assert_eq!(get("?blk_size=1000").json()["blocks_done"], 1, "only the short last one is whole");
    assert_eq!((get("").json()["blk_size"].as_u64(), get("").json()["blocks_total"].as_u64()), (Some(30_000_000), Some(1)));
    for bad in ["?blk_size=0", "?blk_size=x", "?from=-1", "?from=1e9"] {
        refused(&get(bad), 400);
    }
}

#[test]
fn finish_says_what_is_missing() {
    let setting = Setting::with_index(vec![]);
    let finish = |body: &[u8]| setting.proxy.request("POST", "/tar/0/finish", &[], body);
    setting.put_block(0);
    for body in [&b"{\"partial\":false}"[..], b"{}", b""] {
        let answer = finish(body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        assert_eq!((&json["complete"], &json["missing_bytes"]), (&false.into(), &2500.into()), "{json}");
    }
    assert!(!setting.dst.join("empty").exists(), "nothing is made of what is not whole");
    refused(&finish(b"nonsense"), 400);
    refused(&finish(b"[1]"), 400);
    refused(&finish(&vec![b' '; 100_000]), 413);
    assert_eq!(finish(b"{\"partial\":true}").json()["complete"], false);
    assert!(setting.dst.join("empty").exists(), "partial makes what can be made");
    for number in 1..4 {
        assert_eq!(setting.put_block(number).status, 200);
    }
    assert_eq!(finish(b"{}").json()["complete"], true);
    assert_eq!(finish(b"{}").json()["complete"], true, "again");
    assert_eq!(setting.put_index().json()["complete"], true);
    crate::support::assert_same_tree(&setting.src, &setting.dst);
}

/// A sender that could not read a file sends zeros for it and says so; a lie about the others is found.
#[test]
fn failed_files_and_wrong_bytes_are_not_published() {
    let setting = Setting::with_index(vec![]);
    let ends = [0..1500, 1500..1700, 1700..3500];
    let mut archive = setting.archive.clone();
    archive[ends[1].clone()].fill(0);
    let put = |failed: Option<&str>, archive: &[u8]| {
        let digest = blake3_hex(archive);
        let mut headers = vec![("x-tar-like-index", &*setting.digest), ("x-tar-like-digest", &*digest)];
        headers.extend(failed.map(|ids| ("x-tar-like-failed", ids)));
        setting.put("/tar/0/3500/0", &headers, &frame(archive))
    };
    refused(&put(Some("x"), &archive), 400);
    let answer = put(Some("1"), &archive);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(setting.dst.join("a").exists() && setting.dst.join("c").exists() && !setting.dst.join("b").exists());
    let status = setting.proxy.status(0);
    assert_eq!(status["missing"], serde_json::json!([[1500, 1700]]));
    assert_eq!((&status["failed"][0]["id"], &status["failed"][0]["path"]), (&1.into(), &"b".into()), "{status}");
    // Without saying so.
    let answer = put(None, &archive);
    assert_eq!((answer.status, &answer.json()["rejected"]), (200, &serde_json::json!([1])), "{}", answer.text());
    assert!(!setting.dst.join("b").exists());
    assert_eq!(setting.proxy.status(0)["done_bytes"], 3300);
    // The right bytes heal it.
    assert_eq!(put(None, &setting.archive).status, 200);
    let finish = setting.proxy.request("POST", "/tar/0/finish", &[], b"{}").json();
    assert_eq!((&finish["complete"], &finish["failed"]), (&true.into(), &serde_json::json!([])), "{finish}");
}
