//! A receiver that knows only the original's protocol (FORMAT.md 5.1), as the original program's:
//! it stores what it is sent.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What it was answered.
    pub(crate) status: u16,
}

/// Returns the status for a request that is to fail: by its method, its path, and the number of
/// requests before it.
pub(crate) type Refuse = dyn Fn(&str, &str, usize) -> Option<u16> + Send + Sync;

/// The receiver; its threads end with the test program.
pub(crate) struct OriginalReceiver {
    pub(crate) addr: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl OriginalReceiver {
    /// Starts a receiver that answers `unknown` to every request but PUT, and fails where `refuse`
    /// gives a status.
    pub(crate) fn start(unknown: u16, refuse: Box<Refuse>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (log, refuse) = (requests.clone(), Arc::from(refuse));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, refuse): (_, Arc<Refuse>) = (log.clone(), Arc::clone(&refuse));
                std::thread::spawn(move || serve(stream, &log, unknown, &*refuse));
            }
        });
        Self { addr, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/tar", self.addr)
    }

    /// Takes what was requested since the last call.
    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// Takes the same, and leaves only the PUTs that were accepted.
    pub(crate) fn take_puts(&self) -> Vec<Request> {
        self.take().into_iter().filter(|request| request.method == "PUT" && request.status == 200).collect()
    }
}

/// The numbers of the accepted blocks in `puts`, with their contents.
pub(crate) fn blocks(puts: &[Request]) -> BTreeMap<u64, Vec<u8>> {
    let block = |put: &Request| {
        let number = put.path.rsplit('/').next()?.parse().ok()?;
        Some((number, super::index::unframe(&put.body)))
    };
    puts.iter().filter_map(block).collect()
}

/// One request, one answer, then the connection is closed: HTTP/1.0, as Python's `http.server`
/// speaks it.
fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, unknown: u16, refuse: &Refuse) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let length =
        headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let parts: Vec<&str> = path.split('/').collect();
    let answer = match (&*method, &parts[..]) {
        ("PUT", ["", "tar", _, "db"]) => r#"{"rc": "0"}"#.to_string(),
        ("PUT", ["", "tar", tar_id, size, number]) => format!(
            r#"{{"blk_no": {number}, "blk_size": {size}, "frags": 1, "path": [{tar_id}, {size}, {number}], "dur": 0.1, "in_len": {}}}"#,
            body.len()
        ),
        _ => String::new(),
    };
    let mut log = log.lock().unwrap();
    let status = refuse(&method, &path, log.len()).unwrap_or(if answer.is_empty() { unknown } else { 200 });
    log.push(Request { method, path, headers, body, status });
    drop(log);
    let answer = if status == 200 { answer } else { "<!DOCTYPE HTML><p>Error response</p>".to_string() };
    let mut stream = stream;
    let location = if (300..400).contains(&status) { "Location: /elsewhere\r\n" } else { "" };
    let length = answer.len();
    let head =
        format!("HTTP/1.0 {status} x\r\nServer: BaseHTTP/0.6\r\n{location}Content-Length: {length}\r\n\r\n");
    stream.write_all((head + &answer).as_bytes()).ok()
}
