//! Hundreds of clients that send next to nothing, while a good sender works.

use super::{Haproxy, certificates};
use crate::support::{Lab, Tree, assert_same_files};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const ATTACKERS: usize = 500;

/// A connection from one of the many loopback addresses.
pub(super) async fn connect_from(source: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(to).await
}

/// Keeps [`ATTACKERS`] connections busy with next to nothing until told to stop, half of them with
/// slow heads, half with slow bodies. A connection that is closed is opened again.
struct Attack {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Attack {
    fn start(to: SocketAddr, body_headers: &str) -> Self {
        let body_headers: Arc<str> = body_headers.into();
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(AtomicUsize::new(0));
        let (stopped, opened) = (stop.clone(), open.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                for number in 0..ATTACKERS {
                    // Twenty-five addresses, so that no limit of one address helps.
                    let source = IpAddr::from([127, 0, 1, (number % 25) as u8 + 1]);
                    tokio::spawn(drip(number, source, to, opened.clone(), body_headers.clone()));
                }
                while !stopped.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        });
        let attack = Self { stop, open, thread: Some(thread) };
        crate::support::wait_until("the attack is under way", Duration::from_secs(30), || {
            // The slow heads stay. A body without token is refused at once, and its connection is
            // opened again.
            attack.open.load(Ordering::SeqCst) >= ATTACKERS / 2
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

async fn drip(number: usize, source: IpAddr, to: SocketAddr, open: Arc<AtomicUsize>, body_headers: Arc<str>) {
    let body = format!(
        "PUT /tar/0/30000000/0 HTTP/1.1\r\nHost: x\r\n{body_headers}Content-Length: 20000000\r\n\r\n"
    );
    // With headers that let bodies in, all connections are slow bodies.
    let begin = if number.is_multiple_of(2) && body_headers.is_empty() {
        "GET /tar/0/status HTTP/1.1\r\nHost: x\r\nx-slow: "
    } else {
        &*body
    };
    loop {
        let Ok(mut stream) = connect_from(source, to).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        open.fetch_add(1, Ordering::SeqCst);
        let mut rest = [0; 1024];
        let mut said = stream.write_all(begin.as_bytes()).await;
        while said.is_ok() {
            tokio::select! {
                read = stream.read(&mut rest) => if !matches!(read, Ok(count) if count > 0) { break },
                () = tokio::time::sleep(Duration::from_millis(700)) => said = stream.write_all(b"x").await,
            }
        }
        open.fetch_sub(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The time of an upload without attack and under attack.
fn under_attack(
    lab: &Lab,
    upload: impl Fn(&Path, &Path, &str),
    to: SocketAddr,
    body_headers: impl Fn(&Path) -> String,
    mut enough: impl FnMut() -> bool,
) {
    let src = lab.path("src");
    Tree::new(&src, 80).noise("large", 6_000_000).rich(100_000);
    let db = lab.index(&src);
    let timed = |tar_id: &str| {
        let begun = Instant::now();
        upload(&src, &db, tar_id);
        begun.elapsed()
    };
    let quiet = timed("0");
    let attack = Attack::start(to, &body_headers(&db));
    let attacked = timed("1");
    let open = attack.open.load(Ordering::SeqCst);
    crate::support::wait_until("slow clients are ended", Duration::from_secs(60), &mut enough);
    drop(attack);
    println!("{quiet:?} in quiet, {attacked:?} with {open} slow connections at the end");
    assert!(attacked < 3 * quiet + Duration::from_secs(5), "{attacked:?} instead of {quiet:?}");
}

#[test]
fn five_hundred_slow_clients_before_haproxy() {
    let lab = Lab::new();
    let (dst, token) = (lab.dir("dst"), lab.file("token", "0123456789abcdef0123456789abcdef"));
    let proxy = lab.proxy_with(&dst, args!["--token-file", token]);
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    let ca = certificates(&lab).join("ca.pem");
    let upload = |src: &Path, db: &Path, tar_id: &str| {
        let more = args![
            "--ca-file",
            ca,
            "--token-file",
            token,
            "-s",
            "1000000",
            "--tar-id",
            tar_id,
            "--ignore-done"
        ];
        lab.upload(src, db, &haproxy.url(), more).code(0);
    };
    // Slow heads are ended, and the log says why.
    let ended = || haproxy.log().iter().filter(|line| line["status"] == 408).count() >= 100;
    under_attack(&lab, upload, haproxy.plain, |_| String::new(), ended);
    assert_same_files(&lab.path("src"), &dst);
}

/// A receiver on its own ends slow connections when it has no room for more.
#[test]
fn five_hundred_slow_clients_before_a_receiver() {
    let lab = Lab::new();
    let (dst, token) = (lab.dir("dst"), lab.file("token", "0123456789abcdef0123456789abcdef"));
    let proxy = lab.proxy_with(&dst, args!["--token-file", token]);
    let upload = |src: &Path, db: &Path, tar_id: &str| {
        let more = args!["--token-file", token, "-s", "1000000", "--tar-id", tar_id, "--ignore-done"];
        lab.upload(src, db, &proxy.url, more).code(0);
    };
    under_attack(&lab, upload, proxy.addr, |_| String::new(), || true);
    assert_same_files(&lab.path("src"), &dst);
}

/// These clients have a token, and send bodies that never end.
#[test]
fn five_hundred_slow_bodies_with_a_token() {
    let lab = Lab::new();
    let secret = "0123456789abcdef0123456789abcdef";
    let (dst, token) = (lab.dir("dst"), lab.file("token", secret));
    let proxy = lab.proxy_with(&dst, args!["--token-file", token]);
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    let ca = certificates(&lab).join("ca.pem");
    let upload = |src: &Path, db: &Path, tar_id: &str| {
        let more = args![
            "--ca-file",
            ca,
            "--token-file",
            token,
            "-s",
            "1000000",
            "--tar-id",
            tar_id,
            "--ignore-done"
        ];
        lab.upload(src, db, &haproxy.url(), more).code(0);
    };
    let headers = |db: &Path| {
        let digest = crate::support::index::digest(db);
        format!("Authorization: Bearer {secret}\r\nx-tar-like-index: {digest}\r\n")
    };
    under_attack(&lab, upload, haproxy.plain, headers, || true);
    assert_same_files(&lab.path("src"), &dst);
}
