//! Blocks that are made to do harm, or were damaged: each is refused, no byte is written, and
//! memory stays bounded (P2, P8, P11).

use crate::support::http::{self, Response};
use crate::support::index::{self, blake3_hex, frame, unframe};
use crate::support::stress::peak_kib;
use crate::support::{Lab, Proxy, Rng, Tree, assert_same_tree};
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
    fn new(more: Vec<std::ffi::OsString>) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        // Text, so that a flipped bit in a compressed block changes the content.
        Tree::new(&src, 240).text("a", 1500).text("b", 200).text("c", 1800).file("empty", "");
        let db = lab.index(&src);
        let proxy = lab.proxy_with(&dst, more);
        let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
        let headers = [("x-tar-like-index", &*digest)];
        assert_eq!(proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(&db)).status, 200);
        Self { lab, proxy, src, dst, db, archive, digest }
    }

    fn content(&self, number: usize) -> &[u8] {
        index::block(&self.archive, SIZE, number)
    }

    /// Puts `body` as block 1, with the digest of the right content or without a digest.
    fn put(&self, body: &[u8], with_digest: bool) -> Response {
        let digest = blake3_hex(self.content(1));
        let mut headers = vec![("x-tar-like-index", &*self.digest)];
        if with_digest {
            headers.push(("x-tar-like-digest", &*digest));
        }
        self.proxy.request("PUT", &format!("/tar/0/{SIZE}/1"), &headers, body)
    }

    #[track_caller]
    fn refused(&self, what: &str, body: &[u8]) {
        for with_digest in [true, false] {
            let answer = self.put(body, with_digest);
            assert!(matches!(answer.status, 422 | 413), "{what}: {} {}", answer.status, answer.text());
            assert!(answer.json()["error"].is_string());
        }
        self.nothing_written(what);
    }

    #[track_caller]
    fn nothing_written(&self, what: &str) {
        let status = self.proxy.status(0);
        assert_eq!((&status["done_bytes"], &status["files_published"]), (&0.into(), &0.into()), "{what}");
        let names: Vec<_> = std::fs::read_dir(&self.dst).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [".tar-like"], "{what}");
        let staged = walkdir::WalkDir::new(self.dst.join(".tar-like/staging")).min_depth(2).into_iter();
        assert_eq!(staged.count(), 0, "{what}: staged");
    }

    #[track_caller]
    fn still_good(self, bound_kib: u64) {
        let peak = peak_kib(self.proxy.pid());
        println!("{peak} of {bound_kib} KiB");
        assert!(peak <= bound_kib, "{peak} KiB of memory, {bound_kib} allowed");
        self.lab.upload(&self.src, &self.db, &self.proxy.url, args!["-s", SIZE.to_string()]).code(0);
        assert_same_tree(&self.src, &self.dst);
    }
}

/// The header of a frame with these flags and sizes, its checksum right.
fn header(flags: u8, sizes: u8, more: &[u8]) -> Vec<u8> {
    let described = [&[flags, sizes], more].concat();
    let sum = (twox(&described) >> 8) as u8;
    [&[0x04, 0x22, 0x4d, 0x18], &described[..], &[sum]].concat()
}

/// XXH32 of fewer than 16 bytes, seed 0.
fn twox(bytes: &[u8]) -> u32 {
    const PRIMES: [u32; 5] = [2_654_435_761, 2_246_822_519, 3_266_489_917, 668_265_263, 374_761_393];
    let mut hash = PRIMES[4].wrapping_add(bytes.len() as u32);
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let word = u32::from_le_bytes(word.try_into().unwrap());
        hash = hash.wrapping_add(word.wrapping_mul(PRIMES[2])).rotate_left(17).wrapping_mul(PRIMES[3]);
    }
    for &byte in words.remainder() {
        let byte = u32::from(byte).wrapping_mul(PRIMES[4]);
        hash = hash.wrapping_add(byte).rotate_left(11).wrapping_mul(PRIMES[0]);
    }
    hash = (hash ^ (hash >> 15)).wrapping_mul(PRIMES[1]);
    hash = (hash ^ (hash >> 13)).wrapping_mul(PRIMES[2]);
    hash ^ (hash >> 16)
}

/// A frame of stored blocks.
fn stored(flags: u8, more: &[u8], content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32 | 0x8000_0000).to_le_bytes();
    [&header(flags, 0x40, more)[..], &length, content, &[0; 4]].concat()
}

#[test]
fn frames_by_hand_are_right() {
    let setting = Setting::new(vec![]);
    let content = setting.content(1);
    for body in [stored(0x60, &[], content), stored(0x68, &(content.len() as u64).to_le_bytes(), content)] {
        assert_eq!(unframe(&body), content);
        assert_eq!(setting.put(&body, true).status, 200);
    }
}

#[test]
fn every_cut_of_a_frame() {
    let setting = Setting::new(vec![]);
    for body in [frame(setting.content(1)), stored(0x60, &[], setting.content(1))] {
        for cut in 0..body.len() {
            let with_digest = cut % 2 == 0;
            let answer = setting.put(&body[..cut], with_digest);
            assert_eq!(answer.status, 422, "cut at {cut}: {}", answer.text());
        }
        setting.nothing_written("cuts");
    }
    setting.still_good(64 << 10);
}

#[test]
fn lengths_and_frames_that_are_wrong() {
    let setting = Setting::new(vec![]);
    let content = setting.content(1).to_vec();
    let good = frame(&content);
    setting.refused("a trailing byte", &[&good[..], &[0]].concat());
    setting.refused("trailing zeros", &[&good[..], &[0; 64]].concat());
    setting.refused("two frames", &good.repeat(2));
    setting.refused("two halves", &[frame(&content[..500]), frame(&content[500..])].concat());
    setting.refused("an empty frame before", &[frame(b""), good.clone()].concat());
    setting
        .refused("a skippable frame before", &[&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7], &good[..]].concat());
    setting
        .refused("a skippable frame behind", &[&good[..], &[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7]].concat());
    setting.refused("a byte too few", &frame(&content[..999]));
    setting.refused("a byte too many", &frame(&[&content[..], &[0]].concat()));
    setting.refused("nothing", &[]);
    setting.refused("an empty frame", &frame(b""));
    setting.refused("not compressed", &content);
    setting.refused("gzip", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    setting.refused("zstd", &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0]);
    setting.refused("a dictionary", &stored(0x61, &[1, 2, 3, 4], &content));
    setting.refused("a reserved flag", &stored(0x62, &[], &content));
    setting.refused("version 2", &stored(0xa0, &[], &content));
    setting.refused("a content size that lies", &stored(0x68, &999_u64.to_le_bytes(), &content));
    setting.refused("a content size of 2^63", &stored(0x68, &(1_u64 << 63).to_le_bytes(), &content));
    setting.refused("a block checksum that is wrong", &{
        let length = (content.len() as u32 | 0x8000_0000).to_le_bytes();
        [&header(0x70, 0x40, &[])[..], &length, &content, &[1, 2, 3, 4], &[0; 4]].concat()
    });
    setting.refused("a content checksum that is wrong", &{
        [&stored(0x64, &[], &content)[..], &[1, 2, 3, 4]].concat()
    });
    setting.refused("a header checksum that is wrong", &{
        let mut body = good.clone();
        body[6] ^= 1;
        body
    });
    setting.refused("a block behind the end", &{
        let mut body = stored(0x60, &[], &content);
        body[7..11].copy_from_slice(&0xffff_ffff_u32.to_le_bytes());
        body
    });
    setting.refused("a block larger than its maximum", &{
        [&header(0x60, 0x40, &[])[..], &70_000_u32.to_le_bytes(), &vec![0; 70_000], &[0; 4]].concat()
    });
    setting.refused("a match before the start", &{
        // One literal, then a match 5 bytes back.
        let block = [0x10, b'x', 5, 0, 0x50, 1, 2, 3, 4, 5];
        [&header(0x60, 0x40, &[])[..], &(block.len() as u32).to_le_bytes(), &block, &[0; 4]].concat()
    });
    setting.refused("an offset of 0", &{
        let block = [0x1f, b'x', 0, 0, 255, 255, 255, 200, 0x50, 1, 2, 3, 4, 5];
        [&header(0x60, 0x40, &[])[..], &(block.len() as u32).to_le_bytes(), &block, &[0; 4]].concat()
    });
    setting.still_good(64 << 10);
}

/// With the digest every flip is noticed. Without it (a client of the original) the digests in the
/// index are the guard: wrong content is never published.
#[test]
fn flipped_bits() {
    let setting = Setting::new(vec![]);
    let good = frame(setting.content(1));
    for at in 0..good.len() {
        for bit in 0..8 {
            if (at * 8 + bit) % 3 != 0 && at > 20 {
                continue;
            }
            let mut body = good.clone();
            body[at] ^= 1 << bit;
            let answer = setting.put(&body, true);
            // Some bits of the header do not affect the content: then the content must be right.
            let harmless = answer.status == 200 && unframe(&body) == setting.content(1);
            assert!(answer.status == 422 || harmless, "bit {bit} of byte {at}: {}", answer.text());
        }
    }
    setting.still_good(64 << 10);
}

#[test]
fn garbage() {
    let setting = Setting::new(vec![]);
    let mut rng = Rng::new(241);
    for round in 0..300 {
        let length = rng.below(1200) as usize;
        let mut body = rng.noise(length);
        if round % 2 == 0 && length > 7 {
            body[..7].copy_from_slice(&frame(b"x")[..7]);
        }
        let answer = setting.put(&body, round % 4 < 2);
        assert!(matches!(answer.status, 422 | 413), "round {round}: {}", answer.text());
    }
    setting.nothing_written("garbage");
    setting.still_good(64 << 10);
}

/// Small on the wire, huge when decompressed: the receiver never makes more bytes than the block
/// has.
#[test]
fn bombs() {
    let setting = Setting::new(args!["--max-block-size", "2000"]);
    // Any body as long as a block of 1000 bytes may be.
    let block = [&[0x1f, 0, 1, 0][..], &[255; 900], &[0, 0x50, 0, 0, 0, 0, 0]].concat();
    let mut bomb = header(0x60, 0x70, &[]);
    bomb.extend((block.len() as u32).to_le_bytes());
    bomb.extend(&block);
    bomb.extend([0; 4]);
    assert!(unframe(&bomb).len() > 200_000, "it is one");
    setting.refused("a bomb", &bomb);
    let huge = frame(&vec![0; 64 << 20]);
    setting.refused("64 MiB of zeros", &huge);
    for _ in 0..50 {
        setting.put(&bomb, false);
    }
    setting.still_good(64 << 10);
}

/// As many bodies as the receiver takes at once; all of them declare a wrong length.
#[test]
fn memory_for_bodies_that_never_come() {
    let setting = Setting::new(args!["--max-inflight", "4"]);
    let head = |length: u64| {
        format!(
            "PUT /tar/0/200000000/0 HTTP/1.1\r\nHost: x\r\nx-tar-like-index: {}\r\nContent-Length: {length}\r\n\r\n",
            setting.digest
        )
    };
    let streams: Vec<_> = (0..60)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(setting.proxy.addr).unwrap();
            let _ = std::io::Write::write_all(&mut stream, head(190_000_000).as_bytes());
            stream
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(setting.proxy.request("GET", "/healthz", &[], b"").status, 200);
    let peak = peak_kib(setting.proxy.pid());
    assert!(peak <= 64 << 10, "{peak} KiB for bodies of which no byte came");
    drop(streams);
    setting.still_good(64 << 10);
}

/// As many connections as there may be, each with the endless head of a request. A head arrives
/// before any token.
#[test]
fn memory_for_heads_that_never_end() {
    let setting = Setting::new(vec![]);
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nx-long: {}", "x".repeat(400 << 10));
    let streams: Vec<_> = (0..500)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(setting.proxy.addr).unwrap();
            stream.set_write_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
            let _ = std::io::Write::write_all(&mut stream, head.as_bytes());
            stream
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let peak = peak_kib(setting.proxy.pid());
    assert!(peak <= 64 << 10, "{peak} KiB for heads that never end");
    drop(streams);
    setting.still_good(64 << 10);
}

#[test]
fn digests_and_failed_lists_that_are_wrong() {
    let setting = Setting::new(vec![]);
    let (content, path) = (setting.content(1), format!("/tar/0/{SIZE}/1"));
    let (body, digest) = (frame(content), blake3_hex(content));
    let put = |headers: &[(&str, &str)]| {
        let all = [&[("x-tar-like-index", &*setting.digest)], headers].concat();
        setting.proxy.request("PUT", &path, &all, &body)
    };
    assert_eq!(put(&[("x-tar-like-digest", &blake3_hex(b"other"))]).status, 422);
    for wrong in ["", "x", &digest[1..], &format!("{digest}0"), &digest.to_uppercase(), &"g".repeat(64)] {
        let answer = put(&[("x-tar-like-digest", wrong)]);
        assert_eq!(answer.status, 400, "{wrong:?}: {}", answer.text());
    }
    let many = (0..200_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    for wrong in [
        "x",
        "-1",
        "1;2",
        "1 2",
        "0x1",
        "1e3",
        "+1",
        "18446744073709551616",
        "1-",
        "-",
        "2-1-3",
        "99999999999999999999999999",
        "1.0",
        "\u{e9}",
        &many,
    ] {
        let headers = [("x-tar-like-digest", &*digest), ("x-tar-like-failed", wrong)];
        let answer = http::try_raw(setting.proxy.addr, &request(&setting, &path, &headers, &body));
        let status = answer.map(|answer| answer.status);
        assert!(status.is_none_or(|status| matches!(status, 400 | 413 | 431)), "{wrong:?}: {status:?}");
    }
    setting.nothing_written("headers");
    // Unknown ids do no harm.
    let answer = put(&[("x-tar-like-digest", &digest), ("x-tar-like-failed", "9,18446744073709551615")]);
    assert!(matches!(answer.status, 200 | 400), "{}", answer.text());
    setting.still_good(64 << 10);
}

fn request(setting: &Setting, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head =
        format!("PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    head.push_str(&format!("x-tar-like-index: {}\r\n", setting.digest));
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// P2: a block with the right digest, and content that differs from the index. Nothing of it is
/// published.
#[test]
fn content_that_is_not_what_the_index_says() {
    let setting = Setting::new(vec![]);
    let mut rng = Rng::new(242);
    for round in 0..3 {
        for number in 0..4 {
            let content = rng.text(setting.content(number).len());
            let headers =
                [("x-tar-like-index", &*setting.digest), ("x-tar-like-digest", &*blake3_hex(&content))];
            let answer =
                setting.proxy.request("PUT", &format!("/tar/0/{SIZE}/{number}"), &headers, &frame(&content));
            assert_eq!(answer.status, 200, "{}", answer.text());
            // File b lies whole in block 1.
            let rejected = answer.json()["rejected"].as_array().cloned().unwrap_or_default();
            assert_eq!(rejected, if number == 1 { vec![serde_json::json!(1)] } else { vec![] });
        }
        let finish = setting.proxy.request("POST", "/tar/0/finish", &[], b"{}");
        assert_eq!((finish.status, &finish.json()["complete"]), (200, &false.into()), "round {round}");
        for name in ["a", "b", "c"] {
            assert!(!setting.dst.join(name).exists(), "{name} is published, and wrong");
        }
    }
    setting.still_good(64 << 10);
}
