//! Many slow, idle or deaf clients, while a good sender works: none of the sender's requests waits
//! for long.

use super::Setting;
use crate::support::http;
use crate::support::index::{self, blake3_hex, frame};
use crate::support::{Lab, Proxy, Tree, wait_until};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The longest time that a good request may take.
const SOON: Duration = Duration::from_secs(2);

/// Connections that send a few bytes and then next to nothing; a closed connection is opened again.
/// Ends when dropped.
struct Attack {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Attack {
    /// Each of `count` connections sends `begin`, and then a byte every 700 ms. Unless `reads` is
    /// set, no answer is ever read.
    fn start(
        to: SocketAddr,
        count: usize,
        reads: bool,
        begin: impl Fn(usize) -> Vec<u8> + Send + 'static,
    ) -> Self {
        Self::from(Ipv4Addr::LOCALHOST, to, count, reads, begin)
    }

    /// The same from another address than that of the good sender.
    fn from(
        from: Ipv4Addr,
        to: SocketAddr,
        count: usize,
        reads: bool,
        begin: impl Fn(usize) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, opened) = (stop.clone(), open.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                for number in 0..count {
                    tokio::spawn(drip(from, to, begin(number), reads, opened.clone()));
                }
                while !stopped.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        });
        let attack = Self { stop, thread: Some(thread) };
        wait_until("the attack is under way", Duration::from_secs(30), || {
            open.load(Ordering::SeqCst) >= count.min(500)
        });
        attack
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A client that does not read has next to no receive buffer.
async fn connect(from: Ipv4Addr, to: SocketAddr, reads: bool) -> std::io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    if !reads {
        socket.set_recv_buffer_size(4096)?;
    }
    socket.connect(to).await
}

async fn drip(from: Ipv4Addr, to: SocketAddr, begin: Vec<u8>, reads: bool, opened: Arc<AtomicUsize>) {
    loop {
        let Ok(mut stream) = connect(from, to, reads).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        opened.fetch_add(1, Ordering::SeqCst);
        let mut rest = [0; 1024];
        let mut said = stream.write_all(&begin).await;
        while said.is_ok() {
            let pause = tokio::time::sleep(Duration::from_millis(700));
            tokio::select! {
                read = stream.read(&mut rest), if reads => if !matches!(read, Ok(count) if count > 0) { break },
                () = pause => said = stream.write_all(b"x").await,
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How often the time is taken at most: a busy machine may make anybody wait. Who has to wait for
/// slow clients does so each time.
const MAX_ROUNDS: usize = 4;

/// Fails unless an answer comes soon.
fn is_soon(limit: Duration, mut ask: impl FnMut()) {
    for round in 1..=MAX_ROUNDS {
        let begun = Instant::now();
        ask();
        if begun.elapsed() < limit {
            return;
        }
        assert!(round < MAX_ROUNDS, "{:?}", begun.elapsed());
    }
}

/// Sends the index and every block of an archive, many times. Each request must be answered soon,
/// except for the slowest one.
fn is_served(what: &str, proxy: &Proxy, tar_id: u64, setting: &Setting) {
    for round in 1..=MAX_ROUNDS {
        let took = times(what, proxy, tar_id, setting);
        println!("{what}: median {:?}, slowest {:?}", took[took.len() / 2], &took[took.len() - 3..]);
        if took[took.len() - 2] < SOON {
            return;
        }
        assert!(round < MAX_ROUNDS, "{what}: {:?}", &took[took.len() - 5..]);
    }
}

/// How long each of its requests took, ascending.
fn times(what: &str, proxy: &Proxy, tar_id: u64, setting: &Setting) -> Vec<Duration> {
    let mut took = Vec::new();
    let mut ask = |method: &str, path: String, headers: &[(&str, &str)], body: &[u8]| {
        let begun = Instant::now();
        let answer = proxy.request(method, &path, headers, body);
        assert_eq!(answer.status, 200, "{what}: {path}: {}", answer.text());
        took.push(begun.elapsed());
    };
    let index_header = ("x-tar-like-index", &*setting.digest);
    ask("PUT", format!("/tar/{tar_id}/db"), &[index_header], &index::frame_of(&setting.db));
    for number in 0..40 {
        let (size, number) = (super::SIZE, number % 3);
        let content = index::block(&setting.archive, size, number);
        let headers = [index_header, ("x-tar-like-digest", &*blake3_hex(content))];
        ask("PUT", format!("/tar/{tar_id}/{size}/{number}"), &headers, &frame(content));
        if number == 0 {
            ask("GET", "/healthz".to_string(), &[], b"");
            ask("GET", format!("/tar/{tar_id}/status"), &[], b"");
        }
    }
    took.sort();
    took
}

/// A receiver with a large archive 5, whose blocks have long bodies.
fn with_large() -> (Setting, Lab, String) {
    let setting = Setting::new(vec![]);
    let lab = Lab::new();
    let large = lab.path("large");
    Tree::new(&large, 81).noise("large", 2_000_000);
    let db = lab.index(&large);
    let digest = index::digest(&db);
    let headers = [("x-tar-like-index", &*digest)];
    let answer = setting.proxy.request("PUT", "/tar/5/db", &headers, &index::frame_of(&db));
    assert_eq!(answer.status, 200, "{}", answer.text());
    (setting, lab, digest)
}

fn head(request: &str, length: usize, digest: &str) -> Vec<u8> {
    format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nx-tar-like-index: {digest}\r\n\r\n")
        .into()
}

#[test]
fn bodies_that_drip() {
    let (setting, _lab, digest) = with_large();
    let proxy = &setting.proxy;
    let block = head("PUT /tar/5/2000000/0", 1_900_000, &digest);
    let begin = block.clone();
    let attack = Attack::start(proxy.addr, 64, true, move |_| begin.clone());
    is_served("blocks that drip from the start", proxy, 1, &setting);
    drop(attack);
    // These hold one permit each, as long as there are any.
    let begin = [block, vec![7; 40_000]].concat();
    let attack = Attack::start(proxy.addr, 32, true, move |_| begin.clone());
    is_served("blocks that drip after a good start", proxy, 2, &setting);
    drop(attack);
    let index = head("PUT /tar/6/db", 5_000_000, &digest);
    // More connections than there may be, of as many archives; all of them have begun well.
    let attack = Attack::from(Ipv4Addr::new(127, 0, 0, 9), proxy.addr, 800, true, move |number| {
        let path = format!("PUT /tar/{}/db", 6 + number % 400);
        let head = String::from_utf8_lossy(&index).replace("PUT /tar/6/db", &path);
        [head.into_bytes(), vec![7; 20_000]].concat()
    });
    is_served("indexes that drip", proxy, 3, &setting);
    drop(attack);
    let stream = blake3_hex(b"stream");
    let attack = Attack::start(proxy.addr, 32, true, move |number| {
        let more = format!("x-tar-like-stream: {stream}\r\nx-tar-like-length: 8000000\r\nHost:");
        let head = head(&format!("POST /tar/{}/log", 6 + number % 4), 1_000_000, &digest);
        String::from_utf8_lossy(&head).replacen("Host:", &more, 1).into_bytes()
    });
    is_served("logs that drip", proxy, 4, &setting);
    drop(attack);
}

#[test]
fn connections_that_do_nothing_or_drip_a_head() {
    let setting = Setting::new(vec![]);
    let proxy = &setting.proxy;
    let attack = Attack::start(proxy.addr, 1300, true, |number| match number % 2 {
        0 => Vec::new(),
        _ => b"GET /tar/0/status HTTP/1.1\r\nHost: x\r\nx-slow: ".to_vec(),
    });
    is_served("1300 connections that dial again", proxy, 1, &setting);
    drop(attack);
}

#[test]
fn clients_that_do_not_read() {
    let setting = Setting::new(vec![]);
    let proxy = &setting.proxy;
    // More connections than slots, but few enough that answering them does not take the time.
    let asks = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
    let attack = Attack::start(proxy.addr, 800, false, move |_| asks.clone());
    std::thread::sleep(Duration::from_secs(3));
    is_served("800 clients that do not read", proxy, 1, &setting);
    drop(attack);
}

/// No other client waits, so a link of a few kB/s gets its block across.
#[test]
fn a_slow_link_has_an_idle_receiver_for_itself() {
    let setting = Setting::with_index(vec![]);
    let content = index::block(&setting.archive, super::SIZE, 0);
    let body = frame(content);
    let (digest, block) = (&setting.digest, blake3_hex(content));
    let mut stream = TcpStream::connect(setting.proxy.addr).unwrap();
    let head = format!(
        "PUT /tar/0/1000/0 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nx-tar-like-index: {digest}\r\nx-tar-like-digest: {block}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    for piece in body.chunks(100) {
        std::thread::sleep(Duration::from_millis(400));
        stream.write_all(piece).unwrap();
    }
    assert_eq!(http::read_response(&mut stream).unwrap().status, 200);
}

/// An index of the same archive, too.
#[test]
fn indexes_that_drip_keep_no_other_one_out() {
    let setting = Setting::new(vec![]);
    let index = [head("PUT /tar/7/db", 5_000_000, &setting.digest), vec![7; 20_000]].concat();
    let attack = Attack::start(setting.proxy.addr, 64, true, move |_| index.clone());
    std::thread::sleep(Duration::from_secs(1));
    for tar_id in [7, 8, 7] {
        let headers = [("x-tar-like-index", &*setting.digest)];
        let path = format!("/tar/{tar_id}/db");
        is_soon(SOON, || {
            let answer = setting.proxy.request("PUT", &path, &headers, &index::frame_of(&setting.db));
            assert_eq!(answer.status, 200, "{}", answer.text());
        });
    }
    drop(attack);
}

/// A change that takes long, and the same once more, leave room for all others.
#[test]
fn a_slow_change_delays_no_other_archive() {
    let lab = Lab::new();
    let (src, dst, other) = (lab.path("src"), lab.dir("dst"), lab.path("other"));
    Tree::new(&src, 83).noise("image", 20_000_000);
    Tree::new(&other, 84).noise("a", 1000);
    let (db, other_db) = (lab.path("db"), lab.index(&other));
    let sync = |url: &str| lab.cmd(args!["sync", &src, url, "-db", &db, "-dbp", lab.path("dbp")]);
    let proxy = lab.proxy(&dst);
    sync(&proxy.url).run().code(0);
    proxy.term_and_wait().code(0);
    let port = crate::support::stress::free_port();
    let slow = lab.proxy_cmd(port, &dst).inject(&["copy_file_range:delay_enter=4000000"], &[]).serve();
    let file = std::fs::File::options().write(true).open(src.join("image")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 9_000_000).unwrap();
    drop(file);
    let change = sync(&slow.url).args(args!["--block-timeout", "2"]).spawn();
    let digest = index::digest(&other_db);
    let put = |tar_id: u64| {
        let headers = [("x-tar-like-index", &*digest)];
        slow.request("PUT", &format!("/tar/{tar_id}/db"), &headers, &index::frame_of(&other_db))
    };
    wait_until("the change is worked on", Duration::from_secs(60), || {
        // No index, so no index is worked on.
        let refused = slow.request("PUT", "/tar/0/db", &[("x-tar-like-index", &*digest)], b"x");
        refused.status == 503 && refused.text().contains("archive 0")
    });
    for tar_id in 1..4 {
        is_soon(SOON, || assert_eq!(put(tar_id).status, 200));
    }
    change.wait().code(0);
}

/// A file system that does not answer does not delay the answers to health checks.
#[test]
fn a_slow_disk_does_not_make_the_receiver_look_dead() {
    let lab = Lab::new();
    let port = crate::support::stress::free_port();
    let proxy = lab.proxy_cmd(port, &lab.dir("dst")).inject(&["fstatfs:delay_enter=4000000"], &[]).serve();
    let addr = proxy.addr;
    let digest = blake3_hex(b"x");
    let asked: Vec<_> = (0..12)
        .map(|number| {
            let digest = digest.clone();
            std::thread::spawn(move || match number % 3 {
                0 => http::request(addr, "GET", "/metrics", &[], b"").status,
                1 => http::request(addr, "PUT", "/tar/0/db", &[("x-tar-like-index", &*digest)], b"x").status,
                _ => {
                    let headers = [
                        ("x-tar-like-index", &*digest),
                        ("x-tar-like-stream", &*digest),
                        ("x-tar-like-length", "1"),
                    ];
                    http::request(addr, "POST", "/tar/1/log", &headers, b"x").status
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..5 {
        is_soon(Duration::from_secs(1), || {
            assert_eq!(proxy.request("GET", "/healthz", &[], b"").status, 200);
        });
    }
    for asked in asked {
        asked.join().unwrap();
    }
}
