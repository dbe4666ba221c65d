//! A TCP relay between a sender and a receiver that cuts, delays, duplicates, drops and flips bits.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request or an answer: its head and its body.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// With the empty line at its end.
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// The first line, less the version.
    pub(crate) fn line(&self) -> String {
        let line = self.head.split(|&byte| byte == b'\r').next().unwrap();
        String::from_utf8_lossy(line).trim_end_matches(" HTTP/1.1").to_string()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.head[..], &self.body[..]].concat()
    }

    /// Whether it puts a block.
    pub(crate) fn is_block(&self) -> bool {
        self.head.starts_with(b"PUT ") && !self.line().ends_with("/db")
    }

    /// With a flipped bit in the head. Line ends and the length stay: with these flipped, the other
    /// side would only wait.
    pub(crate) fn with_head_flipped(&self, at: usize, bit: u8) -> Self {
        let mut changed = self.clone();
        let mut start = 0;
        let mut places = Vec::new();
        for line in self.head.split_inclusive(|&byte| byte == b'\n') {
            if !line.to_ascii_lowercase().starts_with(b"content-length") {
                places.extend(start..start + line.len().saturating_sub(2));
            }
            start += line.len();
        }
        changed.head[places[at % places.len()]] ^= 1 << (bit % 8);
        changed
    }

    /// With a flipped bit in the body, if it has one.
    pub(crate) fn with_body_flipped(&self, at: usize, bit: u8) -> Self {
        let mut changed = self.clone();
        if !self.body.is_empty() {
            changed.body[at % self.body.len()] ^= 1 << (bit % 8);
        }
        changed
    }
}

/// The fate of one request.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// It arrives, and so does its answer.
    Pass,
    /// Comes late.
    Delay(Duration),
    /// Only so many of its bytes arrive, then the connection is cut on both sides.
    Cut(usize),
    /// It arrives; only so many bytes of the answer come back, then the connection is cut.
    CutAnswer(usize),
    /// Arrives so many times; the last answer counts.
    Repeat(usize),
    /// Arrives changed.
    Changed(Message),
    /// Its answer arrives with this bit of this byte of its body (modulo the length) flipped.
    FlipAnswer(usize, u8),
    /// The same for the answer's head.
    FlipAnswerHead(usize, u8),
    /// It does not arrive: a gateway answers with these bytes.
    Answer(String),
    /// Its answer arrives with these bytes replaced by those.
    ReplaceInAnswer(&'static str, &'static str),
}

impl Fate {
    /// An answer of a gateway.
    pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Answer(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
    }
}

type Decide = dyn Fn(u64, &Message) -> Fate + Send + Sync;

/// A relay; ends when dropped.
pub(crate) struct Relay {
    pub(crate) url: String,
    stop: Arc<AtomicBool>,
    addr: SocketAddr,
    thread: Option<JoinHandle<()>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// Relays to `receiver`; `decide` gets the number of the request, from 0, and the request.
    pub(crate) fn start(
        receiver: SocketAddr,
        decide: impl Fn(u64, &Message) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, log) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let relay =
            Arc::new(Inner { receiver, decide: Box::new(decide), next: AtomicU64::new(0), log: log.clone() });
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), relay) = (stream, relay.clone()) else { continue };
                std::thread::spawn(move || relay.connection(stream));
            }
        });
        Self { url: format!("http://{addr}/tar"), stop, addr, thread: Some(thread), log }
    }

    /// The first lines of all requests so far, with their fates.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Inner {
    receiver: SocketAddr,
    decide: Box<Decide>,
    next: AtomicU64,
    log: Arc<Mutex<Vec<String>>>,
}

impl Inner {
    fn connection(&self, mut sender: TcpStream) {
        let patience = Some(Duration::from_secs(60));
        let _ = sender.set_read_timeout(patience);
        let Ok(mut receiver) = TcpStream::connect(self.receiver) else { return };
        let _ = receiver.set_read_timeout(patience);
        let _ = (sender.set_nodelay(true), receiver.set_nodelay(true));
        while let Some(request) = read_message(&mut sender) {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let fate = (self.decide)(number, &request);
            let shown: String = format!("{fate:?}").chars().take(40).collect();
            self.log.lock().unwrap().push(format!("{number} {} {shown}", request.line()));
            if let Fate::Answer(answer) = &fate {
                if sender.write_all(answer.as_bytes()).is_err() {
                    break;
                }
                continue;
            }
            let Some(answer) = relay(&mut receiver, &request, &fate) else { break };
            let answer = match fate {
                Fate::FlipAnswer(at, bit) => answer.with_body_flipped(at, bit).bytes(),
                Fate::FlipAnswerHead(at, bit) => answer.with_head_flipped(at, bit).bytes(),
                Fate::ReplaceInAnswer(what, with) => {
                    // Names in lower case, but for the version.
                    let head = String::from_utf8_lossy(&answer.head).to_ascii_lowercase();
                    let text = head.replacen("http", "HTTP", 1) + &String::from_utf8_lossy(&answer.body);
                    assert!(text.contains(what), "no {what} in {text}");
                    text.replace(what, with).into_bytes()
                }
                _ => answer.bytes(),
            };
            let cut = if let Fate::CutAnswer(length) = fate { Some(length) } else { None };
            let length = cut.unwrap_or(answer.len()).min(answer.len());
            if sender.write_all(&answer[..length]).is_err() || cut.is_some() {
                break;
            }
        }
        let _ = (sender.shutdown(Shutdown::Both), receiver.shutdown(Shutdown::Both));
    }
}

/// Returns the answer, if there is one.
fn relay(receiver: &mut TcpStream, request: &Message, fate: &Fate) -> Option<Message> {
    let bytes = if let Fate::Changed(changed) = fate { changed.bytes() } else { request.bytes() };
    let (length, times) = match fate {
        Fate::Cut(length) => ((*length).min(bytes.len()), 1),
        Fate::Repeat(times) => (bytes.len(), *times),
        _ => (bytes.len(), 1),
    };
    if let Fate::Delay(delay) = fate {
        std::thread::sleep(*delay);
    }
    let mut answer = None;
    for _ in 0..times {
        // A receiver that refuses early may close before it has everything: its answer still
        // counts.
        let _ = receiver.write_all(&bytes[..length]);
        if matches!(fate, Fate::Cut(_)) {
            return None;
        }
        answer = Some(read_message(receiver)?);
    }
    answer
}

/// One message, which must have a Content-Length if it has a body, or be chunked.
fn read_message(from: &mut TcpStream) -> Option<Message> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 64 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            let head = bytes;
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            return read_body(from, head, body, length.unwrap_or(0));
        }
        let count = read(from, &mut buffer)?;
        bytes.extend(&buffer[..count]);
    }
}

fn read_body(from: &mut TcpStream, head: Vec<u8>, mut body: Vec<u8>, length: usize) -> Option<Message> {
    let mut buffer = [0; 64 << 10];
    while body.len() < length {
        let count = read(from, &mut buffer)?;
        body.extend(&buffer[..count]);
    }
    Some(Message { head, body })
}

fn read(from: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match from.read(buffer) {
            Ok(0) => return None,
            Ok(count) => return Some(count),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}
