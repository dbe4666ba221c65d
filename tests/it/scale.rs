//! A million rows and tens of thousands of files, with bounded memory (P11).

use crate::support::index::{self, blake3_hex, frame};
use crate::support::stress::peak_kib;
use crate::support::{Cmd, Lab, Output, Proxy, Tree, assert_same_files, wait_until};
use md5::Digest;
use rusqlite::{Connection, params};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

const ROWS: u64 = 1_000_000;
const BLOCK: usize = 4 << 20;
const INFLIGHT: usize = 2;

/// P11, in KiB: 64 MiB, and so many blocks at once with their compressed bound.
fn bound_kib(blocks: usize) -> u64 {
    let frame = BLOCK + BLOCK / 255 + (BLOCK / 65_536 + 1) * 8 + 64;
    ((64 << 20) + blocks * (BLOCK + frame)) as u64 / 1024
}

/// The size of file `id`: few bytes at first, so that a block holds very many files, then more.
fn size(id: u64) -> u64 {
    if id < 60_000 { 70 } else { 400 + id % 200 }
}

fn content(id: u64) -> Vec<u8> {
    let mut content = id.to_le_bytes().repeat(size(id) as usize / 8 + 1);
    content.truncate(size(id) as usize);
    content
}

fn path(id: u64) -> String {
    format!("folder-{:03}/sub-{:02}/file-{id:07}", id / 10_000, id / 500 % 20)
}

fn meta(mode: u32, mtime_ns: i64) -> Vec<u8> {
    [&[1][..], &mode.to_le_bytes(), &mtime_ns.to_le_bytes(), &[0; 8]].concat()
}

/// The digest of an index of `rows` files, from that of its rows.
fn digest_of(files: &blake3::Hasher, rows: u64) -> blake3::Hash {
    let mut digest = blake3::Hasher::new();
    digest.update(b"tar-like index 1\n");
    digest.update(files.finalize().as_bytes()).update(&rows.to_le_bytes());
    digest.update(blake3::hash(b"").as_bytes()).update(&0_u64.to_le_bytes());
    digest.finalize()
}

/// Writes an index of files that need not exist, as the program does, but by plain SQL; returns its
/// digest and total size.
fn synthesize(db: &Path) -> (String, u64) {
    let mut connection = Connection::open(db).unwrap();
    let schema = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
        CREATE TABLE tar(id INT64, path TEXT, size INT64, offset INT64, offset_end INT64, hash TEXT);
        CREATE TABLE tarlike_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
        CREATE TABLE tarlike_file(id INTEGER PRIMARY KEY, blake3 BLOB, mode INT, mtime_ns INT, uid INT, gid INT,
                                  dev INT, ino INT, ctime_ns INT);
        CREATE TABLE tarlike_node(id INTEGER PRIMARY KEY, kind TEXT NOT NULL, path TEXT NOT NULL, target TEXT NOT NULL,
                                  mode INT, mtime_ns INT, uid INT, gid INT);";
    connection.execute_batch(schema).unwrap();
    let transaction = connection.transaction().unwrap();
    let mut files = blake3::Hasher::new();
    let mut offset = 0;
    {
        let mut tar = transaction.prepare("INSERT INTO tar VALUES(?,?,?,?,?,?)").unwrap();
        let mut file =
            transaction.prepare("INSERT INTO tarlike_file VALUES(?,?,420,?,0,0,NULL,NULL,NULL)").unwrap();
        for id in 0..ROWS {
            let (content, path) = (content(id), path(id));
            let (size, md5, blake3) = (size(id), md5::Md5::digest(&content), blake3::hash(&content));
            let hex = format!("{:032x}", u128::from_be_bytes(md5.into()));
            let mtime_ns = 1_500_000_000_000_000_000 + id as i64;
            let end = (offset + size) as i64 - 1;
            tar.execute(params![id as i64, path, size as i64, offset as i64, end, hex]).unwrap();
            file.execute(params![id as i64, blake3.as_bytes(), mtime_ns]).unwrap();
            let sized = |bytes: &[u8]| [&(bytes.len() as u64).to_le_bytes(), bytes].concat();
            files.update(&sized(path.as_bytes()));
            files.update(&size.to_le_bytes()).update(&offset.to_le_bytes());
            files.update(&md5);
            files.update(&sized(blake3.as_bytes()));
            files.update(&meta(420, mtime_ns));
            offset += size;
        }
    }
    let digest = digest_of(&files, ROWS).to_hex().to_string();
    for (key, value) in [("digest", &*digest), ("hash", "md5"), ("base", "/none")] {
        transaction.execute("INSERT INTO tarlike_meta VALUES(?,?)", [key, value]).unwrap();
    }
    for (key, value) in [("format", 1), ("generation", 1), ("created", 1), ("complete", 1)] {
        transaction.execute("INSERT INTO tarlike_meta VALUES(?,?)", params![key, value]).unwrap();
    }
    transaction
        .execute_batch(
            "CREATE INDEX idx_tar_path ON tar(path); CREATE INDEX idx_tar_hash ON tar(hash);
             CREATE INDEX idx_tar_offset ON tar(offset); CREATE INDEX idx_tar_offset_end ON tar(offset_end);
             CREATE INDEX idx_tar_offset_n_offset_end ON tar(offset, offset_end);",
        )
        .unwrap();
    transaction.commit().unwrap();
    (digest, offset)
}

/// Block `number`, and the first and last file with bytes in it.
fn block(number: usize, total: u64) -> (Vec<u8>, u64, u64) {
    let (start, end) = ((number * BLOCK) as u64, total.min(((number + 1) * BLOCK) as u64));
    let (mut bytes, mut offset, mut first, mut last) = (Vec::new(), 0, None, 0);
    for id in 0..ROWS {
        let (from, to) = (start.max(offset), end.min(offset + size(id)));
        if from < to {
            bytes.extend(&content(id)[(from - offset) as usize..(to - offset) as usize]);
            first.get_or_insert(id);
            last = id;
        }
        offset += size(id);
    }
    (bytes, first.unwrap(), last)
}

/// A request that may take longer than those of the harness; returns the whole answer as text.
fn patient(proxy: &Proxy, line: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    loop {
        // 202 tells how far a receiver is that takes long.
        let answer = once(proxy, line, headers, body);
        if !answer.starts_with("HTTP/1.1 202") {
            return answer;
        }
    }
}

fn once(proxy: &Proxy, line: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let mut stream = TcpStream::connect(proxy.addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_million_rows() {
    let lab = Lab::new();
    let (db, dst) = (lab.path("db"), lab.path("dst"));
    let start = Instant::now();
    let (digest, total) = synthesize(&db);
    let body = index::frame_of(&db);
    println!("index made after {:?}", start.elapsed());
    let cmd = lab.cmd(args!["proxy", "0", "-b", dst, "--max-inflight", INFLIGHT.to_string()]);
    let mut proxy = cmd.serve();
    let within = |proxy: &Proxy, what: &str| {
        let (peak, bound) = (peak_kib(proxy.pid()), bound_kib(INFLIGHT));
        println!("{what}: {peak} KiB of at most {bound}, after {:?}", start.elapsed());
        assert!(peak <= bound, "{what}: {peak} KiB of at most {bound}");
    };
    let answer = patient(&proxy, "PUT /tar/0/db", &[("x-tar-like-index", &digest)], &body);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&digest), "{answer}");
    drop(body);
    within(&proxy, "index put");
    assert_eq!(
        (proxy.status(0)["files_total"].as_u64(), proxy.status(0)["total_bytes"].as_u64()),
        (Some(ROWS), Some(total))
    );
    // More at once than may be in memory. The first holds sixty thousand files.
    let blocks = (total as usize).div_ceil(BLOCK);
    let numbers = [0, 5, blocks / 2, blocks - 1];
    let wanted: Vec<(Vec<u8>, u64, u64)> = numbers.iter().map(|&number| block(number, total)).collect();
    std::thread::scope(|scope| {
        for (number, (bytes, _, _)) in numbers.iter().zip(&wanted) {
            let (proxy, digest) = (&proxy, &digest);
            scope.spawn(move || {
                let headers = [("x-tar-like-index", &**digest), ("x-tar-like-digest", &*blake3_hex(bytes))];
                let answer = patient(proxy, &format!("PUT /tar/0/{BLOCK}/{number}"), &headers, &frame(bytes));
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            });
        }
    });
    within(&proxy, "blocks put");
    for (_, first, last) in &wanted {
        // The files at the edges go beyond the block.
        for id in [first + 1, (first + last) / 2, last - 1] {
            assert_eq!(std::fs::read(dst.join(path(id))).unwrap(), content(id), "{id}");
        }
    }
    let done: usize = wanted.iter().map(|(bytes, _, _)| bytes.len()).sum();
    let files = wanted.iter().map(|(_, first, last)| last - first - 1).sum::<u64>();
    assert!(files > 80_000, "{files}");
    let published = proxy.status(0)["files_published"].as_u64().unwrap();
    // An edge of the first or last block may be a file's own edge.
    assert!((files..=files + 8).contains(&published), "{published} of {files}");
    proxy.kill9();
    proxy.restart();
    // The receiver compares the rows of a large index with its digest before it uses them again.
    wait_until("the index was checked", Duration::from_secs(100), || {
        proxy.request("GET", "/tar/0/status", &[], b"").status == 200
    });
    assert_eq!(proxy.status(0)["done_bytes"].as_u64(), Some(done as u64));
    let finish = patient(&proxy, "POST /tar/0/finish", &[], b"{\"partial\":false}");
    assert!(finish.contains("\"complete\":false"), "{finish}");
    within(&proxy, "started again");
}

/// A change of the index of [`synthesize`] that leaves nothing of it: each file gets other
/// metadata, and then goes. Gives the digest that the index has then, too.
fn change_of_every_row() -> (String, Vec<u8>) {
    let (mut file, mut batch) = (Vec::new(), Vec::new());
    let mut add = |record: &[u8]| {
        batch.extend(record);
        if batch.len() > 1 << 20 || record[0] == b'E' {
            file.extend((batch.len() as u32).to_le_bytes());
            file.append(&mut batch);
        }
    };
    (0..ROWS).for_each(|id| add(&[&b"M"[..], &id.to_le_bytes(), &meta(384, 7)].concat()));
    (0..ROWS).for_each(|id| add(&[&b"R"[..], &id.to_le_bytes()].concat()));
    let digest = digest_of(&blake3::Hasher::new(), 0);
    add(&[&b"E\x01"[..], digest.as_bytes(), &[0; 24]].concat());
    (digest.to_hex().to_string(), file)
}

#[test]
fn two_million_changed_rows() {
    let lab = Lab::new();
    let (db, dst) = (lab.path("db"), lab.path("dst"));
    let start = Instant::now();
    let (from, _) = synthesize(&db);
    let proxy = lab.cmd(args!["proxy", "0", "-b", dst, "--max-inflight", INFLIGHT.to_string()]).serve();
    let answer = patient(&proxy, "PUT /tar/0/db", &[("x-tar-like-index", &from)], &index::frame_of(&db));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (to, change) = change_of_every_row();
    // From here on the peak is that of the change.
    std::fs::write(format!("/proc/{}/clear_refs", proxy.pid()), "5").unwrap();
    let before = peak_kib(proxy.pid());
    println!("the change begins after {:?} with {before} KiB", start.elapsed());
    let headers = [("x-tar-like-index", &*to), ("x-tar-like-from", &from), ("x-tar-like-keep", "1")];
    let answer = patient(&proxy, "PUT /tar/0/db", &headers, &frame(&change));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&to), "{answer}");
    let peak = peak_kib(proxy.pid());
    println!("{peak} KiB after {:?}", start.elapsed());
    assert_eq!(proxy.status(0)["files_total"].as_u64(), Some(0));
    assert!(peak < before + MAX_GROWTH_KIB, "{before} KiB before, {peak} KiB at the change");
}

/// A change takes 18 MiB: the page cache of the copy, and buffers. Lists of ids would take 16 more.
const MAX_GROWTH_KIB: u64 = 26 << 10;

/// Runs to the end; returns the peak of its memory, within a few milliseconds of its end, in KiB.
fn watched(cmd: Cmd) -> (Output, u64) {
    let mut running = cmd.spawn();
    let mut peak = 0;
    wait_until("the command ends", Duration::from_secs(120), || {
        // The process may end during the look.
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.map_or(peak, |line| line.split_whitespace().next().unwrap().parse().unwrap());
        running.has_ended()
    });
    (running.wait(), peak)
}

#[test]
fn fifty_thousand_tiny_files() {
    let lab = Lab::new();
    let (src, db, dst) = (lab.path("src"), lab.path("db"), lab.path("dst"));
    let mut tree = Tree::new(&src, 250);
    for folder in 0..100 {
        tree.dir(format!("{folder:02}"));
        for number in 0..500_u32 {
            let path =
                tree.path(format!("{folder:02}/{number}-{}", "long-name".repeat(number as usize % 20)));
            std::fs::write(path, &number.to_le_bytes()[..number as usize % 5]).unwrap();
        }
    }
    let (output, peak) = watched(lab.cmd(args!["index", "-b", src, "-db", db]));
    output.code(0);
    println!("index: {peak} KiB");
    assert!(peak > 1024 && peak <= bound_kib(0), "index: {peak} KiB of at most {}", bound_kib(0));
    let proxy = lab.proxy_with(&dst, args!["--max-inflight", INFLIGHT.to_string()]);
    let args = args!["-s", BLOCK.to_string(), "-p", INFLIGHT.to_string()];
    let (output, peak) = watched(lab.upload_cmd(&src, &db, &proxy.url, args));
    output.code(0);
    let receiver = peak_kib(proxy.pid());
    println!("upload: {peak} KiB, receiver: {receiver} KiB");
    let bound = bound_kib(INFLIGHT);
    assert!(peak > 1024 && peak <= bound, "upload: {peak} KiB of at most {bound}");
    assert!(receiver <= bound, "receiver: {receiver} KiB of at most {bound}");
    assert_same_files(&src, &dst);
    let (output, peak) = watched(lab.cmd(args!["check", "-b", dst, "-db", db, "--extra"]));
    output.code(0);
    assert!(peak > 1024 && peak <= bound_kib(0), "check: {peak} KiB");
}
