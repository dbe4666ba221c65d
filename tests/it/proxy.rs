//! The life of a receiver: start, one receiver for each folder, a given index, stop.

use crate::support::index::{self, blake3_hex, frame};
use crate::support::{Lab, Proxy, Tree, assert_same_tree};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn source(lab: &Lab) -> (PathBuf, PathBuf) {
    let src = lab.path("src");
    Tree::new(&src, 110).noise("a", 3000).text("b/c", 2000).file("empty", "");
    let db = lab.index(&src);
    (src, db)
}

#[test]
fn two_receivers_never_share_a_folder_or_a_port() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    let same_folder = lab.run(args!["proxy", "0", "-b", dst]).code(1);
    assert!(same_folder.stderr.contains("dst"), "{}", same_folder.stderr);
    let port = proxy.addr.port().to_string();
    let same_port = lab.run(args!["proxy", port, "-b", lab.path("other")]).code(1);
    assert!(same_port.stderr.contains(&port), "{}", same_port.stderr);
    // A local sync would be a second receiver.
    let (src, _) = source(&lab);
    let local = lab.sync(&src, &dst, vec![]);
    assert_ne!(local.code, 0, "{local:?}");
    assert!(!dst.join("a").exists());
    assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 200);
}

#[test]
fn a_folder_is_made_and_one_that_cannot_be_is_an_error() {
    let lab = Lab::new();
    let proxy = lab.proxy(&lab.path("new/deep/dst"));
    assert!(lab.path("new/deep/dst/.tar-like").is_dir());
    drop(proxy);
    let file = lab.file("file", "x");
    let output = lab.run(args!["proxy", "0", "-b", file]).code(1);
    assert!(output.stderr.contains("file"), "{}", output.stderr);
    let state = lab.dir("occupied");
    std::fs::write(state.join(".tar-like"), "not ours").unwrap();
    lab.run(args!["proxy", "0", "-b", state]).code(1);
    assert_eq!(std::fs::read(state.join(".tar-like")).unwrap(), b"not ours");
}

/// The base itself may be a symbolic link: the operator chose it.
#[test]
fn a_base_that_is_a_link() {
    let lab = Lab::new();
    let (src, db) = source(&lab);
    let (real, link) = (lab.dir("real"), lab.path("link"));
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let proxy = lab.proxy(&link);
    lab.upload(&src, &db, &proxy.url, vec![]).code(0);
    assert_same_tree(&src, &real);
    lab.check(&link, &db, args!["--extra"]).code(0);
}

/// An index that was brought by other means, so that blocks may arrive without a PUT.
#[test]
fn an_index_given_at_the_start() {
    let lab = Lab::new();
    let (src, db) = source(&lab);
    let dst = lab.dir("dst");
    let proxy = lab.proxy_with(&dst, args!["-db", db]);
    assert_eq!(proxy.status(0)["digest"], index::digest(&db));
    let digest = index::digest(&db);
    let body = frame(index::block(&index::archive(&src, &db), 1000, 0));
    assert_eq!(proxy.request("PUT", "/tar/0/1000/0", &[("x-tar-like-index", &digest)], &body).status, 200);
    let junk = lab.file("junk.sqlite", "junk");
    lab.run(args!["proxy", "0", "-b", lab.path("other"), "-db", junk]).code(1);
}

/// Sends the head and half of the body of a block; returns the connection and the rest of the body.
fn half_a_block(proxy: &Proxy, digest: &str, content: &[u8]) -> (TcpStream, Vec<u8>) {
    let body = frame(content);
    let mut stream = TcpStream::connect(proxy.addr).unwrap();
    let head = format!(
        "PUT /tar/0/5000/0 HTTP/1.1\r\nHost: x\r\nx-tar-like-index: {digest}\r\nx-tar-like-digest: {}\r\nContent-Length: {}\r\n\r\n",
        blake3_hex(content),
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..body.len() / 2]).unwrap();
    stream.flush().unwrap();
    (stream, body[body.len() / 2..].to_vec())
}

#[test]
fn a_stop_finishes_what_is_in_flight() {
    for signal in [Signal::TERM, Signal::INT] {
        let lab = Lab::new();
        let (src, db) = source(&lab);
        let dst = lab.dir("dst");
        let proxy = lab.proxy(&dst);
        let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
        proxy.request("PUT", "/tar/0/db", &[("x-tar-like-index", &digest)], &index::frame_of(&db));
        let (mut stream, rest) = half_a_block(&proxy, &digest, &archive);
        // Nothing tells that a body of this size has begun: it is read before it gets a permit.
        std::thread::sleep(Duration::from_secs(1));
        proxy.signal(signal);
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(&rest).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let start = Instant::now();
        proxy.wait().code(0);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        // The block was durable, and the next receiver finds it.
        let proxy = lab.proxy(&dst);
        assert_eq!(proxy.status(0)["done_bytes"], 5000);
        lab.upload(&src, &db, &proxy.url, vec![]).code(0);
        assert_eq!(proxy.blocks_accepted(), 0, "nothing was missing");
        assert_same_tree(&src, &dst);
    }
}

/// A connection that is open and idle keeps no receiver from stopping.
#[test]
fn a_stop_does_not_wait_for_idle_connections() {
    let lab = Lab::new();
    let proxy = lab.proxy(&lab.dir("dst"));
    let mut idle = TcpStream::connect(proxy.addr).unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut buffer = [0; 15];
    idle.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 200 OK");
    let _silent = TcpStream::connect(proxy.addr).unwrap();
    let start = Instant::now();
    proxy.term_and_wait().code(0);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// A sender that is interrupted says so, and the next run goes on.
#[test]
fn an_interrupted_upload_is_130_and_goes_on_later() {
    for signal in [Signal::INT, Signal::TERM] {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        Tree::new(&src, 111).noise("a", 400_000);
        let db = lab.index(&src);
        let proxy = lab.proxy(&dst);
        // Four seconds, unless it is stopped.
        let upload = lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "10000", "--bwlimit", "100K"]).spawn();
        crate::support::wait_until("some blocks are there", Duration::from_secs(20), || {
            proxy.blocks_accepted() > 2
        });
        upload.signal(signal);
        let start = Instant::now();
        let output = upload.wait().code(130);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert!(output.stderr.lines().count() <= 4, "{}", output.stderr);
        let before = proxy.blocks_accepted();
        assert!((3..40).contains(&before), "{before}");
        lab.upload(&src, &db, &proxy.url, args!["-s", "10000"]).code(0);
        // Requests in flight may have arrived or not.
        assert!((40 - before..=40 - before + 5).contains(&(proxy.blocks_accepted() - before)), "{before}");
        assert_same_tree(&src, &dst);
    }
}
