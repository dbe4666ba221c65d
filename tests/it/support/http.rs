//! Raw HTTP, so that requests may be as wrong as a test needs.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.text()))
    }
}

/// Sends one request on a connection of its own. `Content-Length` is added for a body or a method
/// that has one, unless the headers say something of length themselves.
#[track_caller]
pub(crate) fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    let says = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !says("content-length")
        && !says("transfer-encoding")
        && (!body.is_empty() || matches!(method, "PUT" | "POST"))
    {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    // No source is said: as a sender that takes the number from whatever source has it.
    if matches!(method, "PUT" | "POST") && !says("x-tar-like-source-id") {
        head.push_str("x-tar-like-replace-source: 1\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend(body);
    raw(addr, &bytes)
}

/// Sends bytes as they are, nothing after them, and reads the answer.
#[track_caller]
pub(crate) fn raw(addr: SocketAddr, bytes: &[u8]) -> Response {
    try_raw(addr, bytes).unwrap_or_else(|| {
        panic!("no answer to {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]))
    })
}

/// The same; `None` if there is no answer.
pub(crate) fn try_raw(addr: SocketAddr, bytes: &[u8]) -> Option<Response> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    // A server may answer and close before it has read everything: its answer still counts.
    let _ = stream.write_all(bytes);
    read_response(&mut stream)
}

/// The same, but tells the server that nothing more will come.
pub(crate) fn try_raw_cut(addr: SocketAddr, bytes: &[u8]) -> Option<Response> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    read_response(&mut stream)
}

/// Reads one answer: head, then as much as `Content-Length` says, or to the end.
pub(crate) fn read_response(stream: &mut impl Read) -> Option<Response> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    let (head_end, length) = loop {
        let count = stream.read(&mut buffer).ok().filter(|&count| count > 0)?;
        bytes.extend(&buffer[..count]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            break (end, length);
        }
    };
    while length.is_none_or(|length| bytes.len() < head_end + 4 + length) {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend(&buffer[..count]),
            _ => break,
        }
    }
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
        .collect();
    Some(Response { status, headers, body: bytes[head_end + 4..].to_vec() })
}
