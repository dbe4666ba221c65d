//! Requests that two servers in a row may read in two ways, so that the second server finds a
//! request in the first one's body. Each hides a request that would leave a trace: an index for an
//! archive of its own. No such archive may exist in the end.

use super::Haproxy;
use crate::support::index;
use crate::support::{Lab, Proxy, Tree};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The values that every variant may use.
struct Parts {
    /// A request that is served when it is found.
    hidden: Vec<u8>,
    /// The same as one chunk, without the end of the body.
    chunk: Vec<u8>,
}

impl Parts {
    fn new(digest: &str, frame: &[u8], tar_id: u64) -> Self {
        let head = format!(
            "PUT /tar/{tar_id}/db HTTP/1.1\r\nHost: x\r\nx-tar-like-index: {digest}\r\nContent-Length: {}\r\n\r\n",
            frame.len()
        );
        let hidden = [head.as_bytes(), frame].concat();
        let chunk = [format!("{:x}\r\n", hidden.len()).as_bytes(), &hidden, b"\r\n"].concat();
        Self { hidden, chunk }
    }

    /// `LENGTH` stands for the length of the hidden request, which follows.
    fn behind(&self, head: &str) -> Vec<u8> {
        let head = head.replace("LENGTH", &self.hidden.len().to_string());
        [head.as_bytes(), &self.hidden].concat()
    }

    /// `ALL` stands for the length of an empty chunked body and the hidden request, which follow.
    fn behind_no_chunk(&self, head: &str) -> Vec<u8> {
        let body = [b"0\r\n\r\n", &self.hidden[..]].concat();
        [head.replace("ALL", &body.len().to_string()).as_bytes(), &body].concat()
    }

    fn in_a_chunk(&self, head: &str) -> Vec<u8> {
        [head.as_bytes(), &self.chunk, b"0\r\n\r\n"].concat()
    }
}

const POST: &str = "POST /tar/0/finish HTTP/1.1\r\nHost: x\r\n";
const PUT: &str = "PUT /tar/0/1000/0 HTTP/1.1\r\nHost: x\r\n";
const GET: &str = "GET /tar/0/status HTTP/1.1\r\nHost: x\r\n";

type Make = Box<dyn Fn(&Parts) -> Vec<u8> + Send + Sync>;
type Variant = (&'static str, Make);

fn variants() -> Vec<Variant> {
    let mut all: Vec<Variant> = Vec::new();
    let mut add = |name, make: Make| all.push((name, make));
    // A head and a body. Either the length that counts covers the hidden request, or the message is
    // refused.
    for (name, head) in [
        ("two lengths, the first is 0", "Content-Length: 0\r\nContent-Length: LENGTH\r\n"),
        ("two lengths, the last is 0", "Content-Length: LENGTH\r\nContent-Length: 0\r\n"),
        ("two lengths, one in capitals", "content-length: LENGTH\r\nCONTENT-LENGTH: 0\r\n"),
        ("a list of lengths", "Content-Length: 0, LENGTH\r\n"),
        ("a list of the same length", "Content-Length: LENGTH, LENGTH\r\n"),
        ("a length with a sign", "Content-Length: +0\r\n"),
        ("a negative length", "Content-Length: -0\r\n"),
        ("a length in hexadecimal", "Content-Length: 0x0\r\n"),
        ("a length with leading zeros", "Content-Length: 0000LENGTH\r\n"),
        ("a length of two words", "Content-Length: 0 LENGTH\r\n"),
        ("an empty length", "Content-Length:\r\n"),
        ("a length with an underscore", "Content-Length: 0_0\r\n"),
        ("a length that overflows", "Content-Length: 18446744073709551616\r\n"),
        ("a space before the colon of a length", "Content-Length : LENGTH\r\n"),
        ("a tab before the colon of a length", "Content-Length\t: LENGTH\r\n"),
        ("a folded length", "Content-Length:\r\n LENGTH\r\n"),
        ("a length behind a bare CR", "X: y\rContent-Length: LENGTH\r\n"),
        ("a length behind a NUL", "X: y\0\r\nContent-Length: LENGTH\r\n"),
        ("a NUL in the name of a length", "Content-Length\0: LENGTH\r\n"),
        (
            "a connection that lists the length",
            "Connection: keep-alive, Content-Length\r\nContent-Length: LENGTH\r\n",
        ),
        (
            "a connection that lists the token",
            "Connection: keep-alive, Authorization\r\nAuthorization: Bearer x\r\nContent-Length: LENGTH\r\n",
        ),
        ("two hosts", "Host: y\r\nContent-Length: LENGTH\r\n"),
        ("something expected", "Expect: 100-continue\r\nContent-Length: LENGTH\r\n"),
        ("something unknown expected", "Expect: 200-ok\r\nContent-Length: LENGTH\r\n"),
        ("another method in a header", "X-HTTP-Method-Override: PUT\r\nContent-Length: LENGTH\r\n"),
        (
            "an upgrade",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: LENGTH\r\n",
        ),
        ("an encoding that is none", "Transfer-Encoding: xchunked\r\n"),
        ("an encoding behind chunked", "Transfer-Encoding: chunked, identity\r\n"),
        ("no encoding by name", "Transfer-Encoding: identity\r\nContent-Length: LENGTH\r\n"),
        ("an encoding in quotes", "Transfer-Encoding: \"chunked\"\r\n"),
        ("a name without a colon", "Content-Length\r\n"),
        ("no name", ": x\r\nContent-Length: LENGTH\r\n"),
    ] {
        for (method, request) in [("POST", POST), ("PUT", PUT)] {
            let name = if method == "POST" { name } else { &*format!("{name}, PUT").leak() };
            add(name, Box::new(move |parts| parts.behind(&format!("{request}{head}\r\n"))));
        }
    }
    // Length and chunks at once: a server that believes the chunks finds a request behind them; to
    // one that believes the length that is the body.
    for (name, head) in [
        ("a length, and chunks", "Content-Length: ALL\r\nTransfer-Encoding: chunked\r\n"),
        ("chunks, and a length", "Transfer-Encoding: chunked\r\nContent-Length: ALL\r\n"),
        ("chunks in capitals, and a length", "Transfer-Encoding: CHUNKED\r\nContent-Length: ALL\r\n"),
        (
            "chunks twice, and a length",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\nContent-Length: ALL\r\n",
        ),
        (
            "chunks once more by another name",
            "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\nContent-Length: ALL\r\n",
        ),
        ("a space before the colon of chunks", "Transfer-Encoding : chunked\r\nContent-Length: ALL\r\n"),
        ("a tab before the colon of chunks", "Transfer-Encoding\t: chunked\r\nContent-Length: ALL\r\n"),
        ("a tab before chunks", "Transfer-Encoding:\tchunked\r\nContent-Length: ALL\r\n"),
        ("a vertical tab before chunks", "Transfer-Encoding: \x0bchunked\r\nContent-Length: ALL\r\n"),
        ("folded chunks", "Transfer-Encoding:\r\n chunked\r\nContent-Length: ALL\r\n"),
        ("chunks behind a bare CR", "X: y\rTransfer-Encoding: chunked\r\nContent-Length: ALL\r\n"),
        ("chunks behind a bare LF", "X: y\nTransfer-Encoding: chunked\r\nContent-Length: ALL\r\n"),
        ("chunks behind a comma", "Transfer-Encoding: , chunked\r\nContent-Length: ALL\r\n"),
        (
            "a connection that lists the chunks",
            "Connection: keep-alive, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: ALL\r\n",
        ),
    ] {
        add(name, Box::new(move |parts| parts.behind_no_chunk(&format!("{POST}{head}\r\n"))));
    }
    add(
        "chunks and a length of HTTP/1.0",
        Box::new(|parts| {
            let head = POST.replace("1.1", "1.0");
            let head = format!(
                "{head}Connection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: ALL\r\n\r\n"
            );
            parts.behind_no_chunk(&head)
        }),
    );
    add(
        "a request in a chunk, and a length of its first line",
        Box::new(|parts| {
            let line = format!("{:x}\r\n", parts.hidden.len()).len();
            parts.in_a_chunk(&format!("{POST}Content-Length: {line}\r\nTransfer-Encoding: chunked\r\n\r\n"))
        }),
    );
    // Chunks that are wrong; the hidden request is behind bytes that may pass for their end.
    for (name, chunks) in [
        ("a bare LF in a chunk's extension", "1;x\nx\r\n0\r\n\r\n"),
        ("a bare LF behind a chunk's size", "0\n\n"),
        ("a chunk's size with a sign", "+0\r\n\r\n"),
        ("a negative chunk", "-1\r\n\r\n0\r\n\r\n"),
        ("a chunk's size that overflows", "10000000000000000\r\n\r\n"),
        ("a chunk's size in hexadecimal by name", "0x0\r\n\r\n"),
        ("a chunk's size behind a space", " 0\r\n\r\n"),
        ("a chunk that is longer than its size", "1\r\nab\r\n0\r\n\r\n"),
        ("a length in the trailer", "0\r\nContent-Length: 5\r\n\r\n"),
        ("a chunk's extension in quotes", "0;a=\"\r\n\r\n"),
    ] {
        let head = format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}");
        add(name, Box::new(move |parts| parts.behind(&head)));
    }
    // A body where none is expected, or behind a request that is refused.
    for (name, head) in [
        ("a body of GET", format!("{GET}Content-Length: LENGTH\r\n\r\n")),
        ("a body of HEAD", format!("{}Content-Length: LENGTH\r\n\r\n", GET.replace("GET", "HEAD"))),
        ("a body of OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: x\r\nContent-Length: LENGTH\r\n\r\n".into()),
        (
            "a body of a method that is refused",
            format!("{}Content-Length: LENGTH\r\n\r\n", POST.replace("POST", "DELETE")),
        ),
        (
            "a body of a path that is refused",
            "PUT /nothing/here HTTP/1.1\r\nHost: x\r\nContent-Length: LENGTH\r\n\r\n".into(),
        ),
        (
            "a body of a doubled slash",
            "PUT //tar/0/1000/0 HTTP/1.1\r\nHost: x\r\nContent-Length: LENGTH\r\n\r\n".into(),
        ),
        (
            "a body of dots in escapes",
            "PUT /%2e%2e/tar/0/1000/0 HTTP/1.1\r\nHost: x\r\nContent-Length: LENGTH\r\n\r\n".into(),
        ),
        (
            "a body of a whole address",
            "POST http://other/tar/0/finish HTTP/1.1\r\nHost: x\r\nContent-Length: LENGTH\r\n\r\n".into(),
        ),
        (
            "a body of an address for another scheme",
            "POST file:///tar/0/finish HTTP/1.1\r\nHost: x\r\nContent-Length: LENGTH\r\n\r\n".into(),
        ),
        (
            "a body of CONNECT",
            "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\nContent-Length: LENGTH\r\n\r\n".into(),
        ),
        (
            "a request in the address",
            "GET /tar/0/status HTTP/1.1\r\nHost: x HTTP/1.1\r\nContent-Length: LENGTH\r\n\r\n".into(),
        ),
        ("a version twice", "GET /tar/0/status HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a version in small letters", "GET /tar/0/status http/1.1\r\nHost: x\r\n\r\n".into()),
        ("no version", "GET /tar/0/status\r\n".into()),
        ("HTTP/2 in the first line", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        ("a method that is none", "GE\0T /tar/0/status HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a NUL in the address", "GET /tar/0/status\0 HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a bare CR in the first line", "GET /tar/0/status HTTP/1.1\rHost: x\r\n\r\n".into()),
    ] {
        add(name, Box::new(move |parts| parts.behind(&head)));
    }
    all
}

/// Sends `bytes` and nothing more; returns the bytes of the answer until the other side closes or
/// stays silent.
fn exchange(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stream.write_all(bytes);
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 << 10]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => answer.extend(&buffer[..count]),
            _ => break,
        }
        // A second answer would come at once.
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    }
    let _ = stream.shutdown(Shutdown::Both);
    String::from_utf8_lossy(&answer).into_owned()
}

fn has_archive(proxy: &Proxy, tar_id: u64) -> bool {
    proxy.request("GET", &format!("/tar/{tar_id}/status"), &[], b"").status == 200
}

fn none_is_served(lab: &Lab, proxy: &Proxy, to: SocketAddr, way: &str) {
    let src = lab.path("src");
    if !src.exists() {
        Tree::new(&src, 90).noise("a", 3000);
        lab.index(&src);
    }
    let db = lab.path("src.sqlite");
    let (digest, frame) = (index::digest(&db), index::frame_of(&db));
    let parts = |tar_id: u64| Parts::new(&digest, &frame, tar_id);
    // The test can fail: the hidden request is served if it is sent openly, also as the second one
    // of a connection.
    let plain = exchange(to, &parts(0).hidden);
    assert!(plain.starts_with("HTTP/1.1 200"), "{way}: {plain}");
    exchange(to, &[format!("{GET}\r\n").as_bytes(), &parts(999).hidden].concat());
    assert!(has_archive(proxy, 999), "{way}: a second request of a connection is not found at all");
    let variants = variants();
    assert!(variants.len() > 80, "{}", variants.len());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let answers = std::sync::Mutex::new(vec![String::new(); variants.len()]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let Some((_, make)) = variants.get(number) else { return };
                    let answer = exchange(to, &make(&parts(1000 + number as u64)));
                    answers.lock().unwrap()[number] = answer;
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap();
    let mut wrong = Vec::new();
    for (number, ((name, _), answer)) in variants.iter().zip(&answers).enumerate() {
        let first = answer.lines().next().unwrap_or("no answer");
        let count = answer.matches("HTTP/1.1 ").count() - answer.matches("HTTP/1.1 100").count();
        println!("{way}: {name}: {count} answers, {first}");
        if has_archive(proxy, 1000 + number as u64) {
            wrong.push(format!("{name}: served; {answer}"));
        } else if count > 1 {
            wrong.push(format!("{name}: {count} answers; {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{way}: {} of {}:\n{}", wrong.len(), variants.len(), wrong.join("\n"));
    // An ordinary request is still answered.
    let after = exchange(to, format!("{GET}Connection: close\r\n\r\n").as_bytes());
    assert!(after.starts_with("HTTP/1.1 200") && after.contains(&digest), "{way}: {after}");
    assert_eq!(proxy.status(0)["done_bytes"], 0);
}

#[test]
fn no_hidden_request_is_served_by_a_receiver() {
    let lab = Lab::new();
    let proxy = lab.proxy(&lab.dir("dst"));
    none_is_served(&lab, &proxy, proxy.addr, "direct");
}

#[test]
fn no_hidden_request_is_served_through_haproxy() {
    let lab = Lab::new();
    let proxy = lab.proxy(&lab.dir("dst"));
    let haproxy = Haproxy::start_with(&lab, &[proxy.addr], &[("HAPROXY_SOURCE_ERRORS", "1000000")]).ready();
    none_is_served(&lab, &proxy, haproxy.plain, "through haproxy");
}
