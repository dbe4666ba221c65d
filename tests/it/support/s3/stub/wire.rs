//! HTTP/1.1 of the stub: reads requests, and writes answers with or without faults.

use super::{Counters, State};
use crate::support::s3::percent_decode;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the port.
    pub(crate) host: String,
    /// Path and query as they were sent.
    pub(crate) target: String,
    /// Empty where none is named.
    pub(crate) bucket: String,
    /// Empty where the bucket itself is meant.
    pub(crate) key: Vec<u8>,
    /// Names and values, decoded.
    pub(crate) query: Vec<(String, Vec<u8>)>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// What it was answered; 0 if it was not.
    pub(crate) status: u16,
    /// The fault that it met, as written in the test, or `Pass`.
    pub(crate) fault: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn param(&self, name: &str) -> Option<&[u8]> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    /// Whether it asks for keys of the bucket: no key, and no other document of the bucket.
    pub(crate) fn is_list(&self) -> bool {
        let others = ["location", "versioning", "versions", "uploads", "acl"];
        self.method == "GET"
            && self.key.is_empty()
            && !self.bucket.is_empty()
            && !others.iter().any(|name| self.param(name).is_some())
    }

    /// Whether the bucket stands before the host name.
    pub(crate) fn is_virtual_host(&self) -> bool {
        !self.bucket.is_empty() && self.host.starts_with(&format!("{}.", self.bucket))
    }
}

/// An answer and the way in which it is sent. The body is a piece of an object, then zeros.
#[derive(Default)]
pub(super) struct Answer {
    /// 0 closes the connection instead.
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Arc<Vec<u8>>,
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) zeros: usize,
    pub(super) delay: Duration,
    pub(super) without_length: bool,
    /// Chunks of a document come until the client closes, or for [`ENDLESS_BYTES`].
    pub(super) endless: bool,
    pub(super) cut_after: Option<usize>,
    pub(super) stall_after: Option<(usize, Duration)>,
}

/// A client that takes so many bytes would take more.
const ENDLESS_BYTES: usize = 100 << 20;

impl Answer {
    /// With all of `body`.
    pub(super) fn new(status: u16, kind: &str, body: Vec<u8>) -> Self {
        let headers = vec![("Content-Type".to_string(), kind.to_string())];
        Self { status, headers, length: body.len(), body: Arc::new(body), ..Self::default() }
    }
}

/// Answers the requests of one connection until either side closes it.
pub(super) fn connection(stream: TcpStream, state: &Mutex<State>, counters: &Counters) {
    let _ = (stream.set_read_timeout(Some(Duration::from_secs(60))), stream.set_nodelay(true));
    let Ok(reader) = stream.try_clone() else { return };
    let mut reader = BufReader::new(reader);
    let bucket = || state.lock().unwrap().settings.bucket.clone();
    while let Some(mut request) = read_request(&mut reader, bucket) {
        let now = counters.now.fetch_add(1, Ordering::SeqCst) + 1;
        counters.most.fetch_max(now, Ordering::SeqCst);
        let answer = {
            let mut state = state.lock().unwrap();
            let answer = state.answer(&mut request);
            state.log.push(request.clone());
            answer
        };
        let done = write_answer(&stream, &request, &answer);
        counters.now.fetch_sub(1, Ordering::SeqCst);
        let last = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if done.is_none() || last {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut impl BufRead, bucket: impl Fn() -> String) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
    let length = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    // What is sent to a proxy has the host in the target, too.
    let (host, target) = match target.strip_prefix("http://") {
        Some(rest) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (host.to_string(), format!("/{}", path.strip_prefix('/').unwrap_or("")))
        }
        None => (header("host").unwrap_or_default(), target),
    };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.strip_prefix('/')?;
    let own = bucket();
    let (bucket, key) = if host.starts_with(&format!("{own}.")) {
        (own, percent_decode(path))
    } else {
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        (bucket.to_string(), percent_decode(key))
    };
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A plus that is meant as one is written %2B.
        (name.to_string(), percent_decode(&value.replace('+', " ")))
    });
    let query = query.collect();
    Some(Request { method, host, target, bucket, key, query, headers, status: 0, fault: String::new() })
}

/// `None` where the connection cannot go on.
fn write_answer(mut stream: &TcpStream, request: &Request, answer: &Answer) -> Option<()> {
    std::thread::sleep(answer.delay);
    if answer.status == 0 {
        return None;
    }
    let length = answer.length + answer.zeros;
    let mut head = format!("HTTP/1.1 {} Said by the stub\r\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        head.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    head.extend(b"x-amz-request-id: STUB\r\nServer: stub\r\n");
    if answer.endless {
        head.extend(b"Transfer-Encoding: chunked\r\n");
    } else if !answer.without_length {
        head.extend(format!("Content-Length: {length}\r\n").bytes());
    }
    head.extend(b"\r\n");
    stream.write_all(&head).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    if answer.endless {
        let text = b"<Error><Code>AccessDenied</Code>".repeat(2000);
        for _ in 0..ENDLESS_BYTES / text.len() {
            stream.write_all(format!("{:x}\r\n", text.len()).as_bytes()).ok()?;
            stream.write_all(&text).ok()?;
            stream.write_all(b"\r\n").ok()?;
        }
        return None;
    }
    let zeros = vec![0; answer.zeros];
    let body = [&answer.body[answer.start..answer.start + answer.length], &zeros[..]];
    let mut sent = 0;
    for part in body {
        let mut rest = part;
        while !rest.is_empty() {
            let stop = |after: usize| (after >= sent).then(|| after - sent).filter(|&left| left < rest.len());
            let cut = answer.cut_after.and_then(stop);
            let stall = answer.stall_after.and_then(|(after, time)| Some((stop(after)?, time)));
            let count = cut.or(stall.map(|(left, _)| left)).unwrap_or(rest.len());
            stream.write_all(&rest[..count]).ok()?;
            if cut.is_some() {
                return None;
            }
            (sent, rest) = (sent + count, &rest[count..]);
            let Some((_, time)) = stall else { continue };
            std::thread::sleep(time);
            // One byte beyond the place where it stopped, so that it does not stop there again.
            stream.write_all(&rest[..1]).ok()?;
            (sent, rest) = (sent + 1, &rest[1..]);
        }
    }
    Some(())
}
