//! The rest of `hostile_block`: frames of several pieces and with checksums, numbers at their
//! limits, clients that name no digest, bombs as large as a body may be, and hostile blocks beside
//! a good transfer (P2, P7, P8, P11).

use crate::support::http::Response;
use crate::support::index::{self, blake3_hex, frame};
use crate::support::stop::StopAtEnd;
use crate::support::stress::peak_kib;
use crate::support::{Lab, Proxy, Rng, Tree, assert_same_files, assert_same_tree};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

const SIZE: usize = 700;

struct Setting {
    lab: Lab,
    proxy: Proxy,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    archive: Vec<u8>,
    digest: String,
    named: bool,
}

impl Setting {
    fn new(more: Vec<OsString>, named: bool) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        Tree::new(&src, 250).text("a", 900).noise("b", 200).text("c", 1500);
        let db = lab.index(&src);
        let proxy = lab.proxy_with(&dst, more);
        let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
        let setting = Self { lab, proxy, src, dst, db, archive, digest, named };
        let index = index::frame_of(&setting.db);
        let answer = setting.proxy.request("PUT", "/tar/0/db", &setting.names(), &index);
        assert_eq!(answer.status, 200, "{}", answer.text());
        setting
    }

    /// Our sender names the index; the original's does not.
    fn names(&self) -> Vec<(&str, &str)> {
        if self.named { vec![("x-tar-like-index", &self.digest)] } else { vec![] }
    }

    /// Block 1: the end of `a`, all of `b`, the start of `c`.
    fn content(&self) -> &[u8] {
        index::block(&self.archive, SIZE, 1)
    }

    fn put(&self, more: &[(&str, &str)], body: &[u8]) -> Response {
        self.put_at(&format!("/tar/0/{SIZE}/1"), more, body)
    }

    fn put_at(&self, path: &str, more: &[(&str, &str)], body: &[u8]) -> Response {
        self.proxy.request("PUT", path, &[&self.names(), more].concat(), body)
    }

    #[track_caller]
    fn nothing_written(&self) {
        let status = self.proxy.status(0);
        assert_eq!((&status["done_bytes"], &status["files_published"]), (&0.into(), &0.into()), "{status}");
        let names: Vec<_> = std::fs::read_dir(&self.dst).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [".tar-like"]);
        for folder in ["staging", "incoming"] {
            let files = walkdir::WalkDir::new(self.dst.join(".tar-like").join(folder)).into_iter();
            let files: Vec<_> = files.map(Result::unwrap).filter(|e| !e.file_type().is_dir()).collect();
            assert!(files.is_empty(), "{files:?}");
        }
        assert_eq!(self.proxy.blocks_accepted(), 0);
    }

    #[track_caller]
    fn serves_a_good_one(&self) {
        self.lab.upload(&self.src, &self.db, &self.proxy.url, args!["-s", SIZE.to_string()]).code(0);
        assert_same_tree(&self.src, &self.dst);
    }
}

/// Frames of the same content in every variant, each of several pieces.
fn variants(content: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut variants = Vec::new();
    for mode in [BlockMode::Independent, BlockMode::Linked] {
        for (block, sum, size) in
            [(false, false, false), (true, false, false), (false, true, true), (true, true, true)]
        {
            let info = FrameInfo::new()
                .block_mode(mode)
                .block_size(BlockSize::Max64KB)
                .block_checksums(block)
                .content_checksum(sum)
                .content_size(size.then_some(content.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            for piece in content.chunks(300) {
                encoder.write_all(piece).unwrap();
                encoder.flush().unwrap();
            }
            let what = format!("{mode:?}, block sums {block}, content sum {sum}, size {size}");
            variants.push((what, encoder.finish().unwrap()));
        }
    }
    variants
}

/// A frame of stored pieces by hand, its header as our own sender's.
fn stored(pieces: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73];
    for piece in pieces {
        body.extend((piece.len() as u32 | 0x8000_0000).to_le_bytes());
        body.extend(*piece);
    }
    body.extend([0; 4]);
    body
}

/// With our headers, and as a client of the original, which sends no digest.
fn both_kinds(test: impl Fn(&Setting)) {
    test(&Setting::new(vec![], true));
    test(&Setting::new(args!["--legacy"], false));
}

#[test]
fn every_cut_of_every_variant() {
    both_kinds(|setting| {
        let digest = blake3_hex(setting.content());
        let headers = [("x-tar-like-digest", &*digest)];
        let headers = if setting.named { &headers[..] } else { &[] };
        let mut variants = variants(setting.content());
        variants.push(("stored".into(), stored(&[&setting.content()[..400], &setting.content()[400..]])));
        for (what, body) in &variants {
            for cut in 0..body.len() {
                let answer = setting.put(headers, &body[..cut]);
                assert_eq!(answer.status, 422, "{what}, cut at {cut}: {}", answer.text());
            }
            assert_eq!(
                setting.put(headers, &[&body[..], &body[..4]].concat()).status,
                422,
                "{what}, and more"
            );
        }
        setting.nothing_written();
        for (what, body) in &variants {
            let answer = setting.put(headers, body);
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        }
        setting.lab.upload(&setting.src, &setting.db, &setting.proxy.url, args![]).code(0);
        assert_same_files(&setting.src, &setting.dst);
    });
}

/// A bit of every byte of every variant. Only a match of equal bytes elsewhere may go unnoticed,
/// where the piece has no checksum.
#[test]
fn every_flipped_bit() {
    let setting = Setting::new(vec![], true);
    let digest = blake3_hex(setting.content());
    let mut bodies = variants(setting.content());
    bodies.push(("stored".into(), stored(&[setting.content()])));
    let (mut refused, mut harmless) = (0, 0);
    for (what, body) in bodies {
        for at in 0..body.len() {
            let mut body = body.clone();
            body[at] ^= 1 << (at % 8);
            let answer = setting.put(&[("x-tar-like-digest", &digest)], &body);
            if answer.status == 200 && !what.contains("block sums true") && at > 15 {
                assert_eq!(index::unframe(&body), setting.content(), "{what}, byte {at}");
                harmless += 1;
                continue;
            }
            assert_eq!(answer.status, 422, "{what}, bit {} of byte {at}: {}", at % 8, answer.text());
            if harmless == 0 {
                assert_eq!(setting.proxy.status(0)["done_bytes"], 0);
            }
            refused += 1;
        }
    }
    assert!(refused > 50 * harmless, "{refused} refused, {harmless} let through");
    setting.serves_a_good_one();
}

/// A client of the original sends no digest: a damaged file that arrives completely does not get
/// its name, since the index has its digest.
#[test]
fn flipped_bits_of_a_client_without_digest() {
    let setting = Setting::new(args!["--legacy"], false);
    let expected = |name: &str| std::fs::read(setting.src.join(name)).unwrap();
    let mut rng = Rng::new(251);
    let blocks = setting.archive.len().div_ceil(SIZE);
    for _ in 0..150 {
        for number in 0..blocks {
            let mut body = stored(&[index::block(&setting.archive, SIZE, number)]);
            let at = 11 + rng.below(body.len() as u64 - 15) as usize;
            body[at] ^= 1 << rng.below(8);
            let answer = setting.put_at(&format!("/tar/0/{SIZE}/{number}"), &[], &body);
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        for name in ["a", "b", "c"] {
            if let Ok(content) = std::fs::read(setting.dst.join(name)) {
                assert!(content == expected(name), "{name} is published, and wrong");
            }
        }
    }
    assert_ne!(setting.proxy.status(0)["complete"], true);
    for _ in 0..3 {
        for number in 0..blocks {
            let body = frame(index::block(&setting.archive, SIZE, number));
            assert_eq!(setting.put_at(&format!("/tar/0/{SIZE}/{number}"), &[], &body).status, 200);
        }
        setting.proxy.request("POST", "/tar/0/finish", &[], b"");
    }
    assert_same_files(&setting.src, &setting.dst);
}

/// Pieces of no length, which a reader may take for the end: the bytes behind them are not ignored.
#[test]
fn pieces_of_no_length() {
    both_kinds(|setting| {
        let content = setting.content();
        let fine = |answer: Response| assert!(matches!(answer.status, 200 | 422), "{}", answer.text());
        let too_long = stored(&[content, &[], &[1, 2, 3]]);
        assert_eq!(setting.put(&[], &too_long).status, 422, "there is more behind an empty piece");
        assert_eq!(setting.put(&[], &stored(&[&content[..300], &[]])).status, 422, "too short");
        assert_eq!(setting.put(&[], &stored(&[&[][..]; 100])).status, 422, "nothing but empty pieces");
        setting.nothing_written();
        fine(setting.put(&[], &stored(&[&[], content])));
        fine(setting.put(&[], &stored(&[&content[..300], &[], &content[300..]])));
        fine(setting.put(&[], &stored(&[content, &[]])));
        setting.lab.upload(&setting.src, &setting.db, &setting.proxy.url, args![]).code(0);
        assert_same_files(&setting.src, &setting.dst);
    });
}

/// As large as a body of the default block size may be, and a thousand times that when
/// decompressed.
#[test]
fn the_largest_bomb() {
    let setting = Setting::new(vec![], true);
    // One piece of 4 MiB of zeros is 16 KiB of LZ4.
    let piece = lz4_flex::block::compress(&vec![0; 4 << 20]);
    let mut bomb = stored(&[])[..7].to_vec();
    while bomb.len() + piece.len() + 8 < 30_000_000 {
        bomb.extend((piece.len() as u32).to_le_bytes());
        bomb.extend(&piece);
    }
    bomb.extend([0; 4]);
    let before = peak_kib(setting.proxy.pid());
    for _ in 0..3 {
        let start = std::time::Instant::now();
        let answer = setting.put_at("/tar/0/30000000/0", &[], &bomb);
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }
    let more_kib = peak_kib(setting.proxy.pid()) - before;
    let one = bomb.len() as u64 * 257 / 256 / 1024;
    assert!(more_kib < (32 << 10) + one, "{more_kib} KiB more for bodies of {one} KiB, one at a time");
    setting.nothing_written();
    setting.serves_a_good_one();
}

#[test]
fn numbers_at_their_limits() {
    let setting = Setting::new(args!["--max-block-size", "5000"], true);
    let total = setting.archive.len();
    let (whole, last) = (frame(&setting.archive), frame(&setting.archive[total - 1..]));
    let big =
        [i64::MAX as u64 - 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 1, u64::MAX, 1 << 32, 1 << 31];
    for number in big {
        for path in [
            format!("/tar/0/{SIZE}/{number}"),
            format!("/tar/0/1/{number}"),
            format!("/tar/{number}/{SIZE}/0"),
            format!("/tar/0/{number}/0"),
            format!("/tar/0/{number}/1"),
            format!("/tar/0/{number}/{number}"),
        ] {
            let answer = setting.put_at(&path, &[], &last);
            assert!(matches!(answer.status, 400 | 404 | 413), "{path}: {} {}", answer.status, answer.text());
        }
        let status =
            setting.proxy.request("GET", &format!("/tar/0/status?blk_size={number}&from={number}"), &[], b"");
        assert!(matches!(status.status, 200 | 400), "{number}: {}", status.text());
    }
    for (path, status) in [
        ("/tar/0/5001/0".to_string(), 413),
        ("/tar/0/0/0".to_string(), 400),
        (format!("/tar/0/1/{total}"), 400),
        (format!("/tar/0/{total}/1"), 400),
        ("/tar/0/5000/1".to_string(), 400),
    ] {
        assert_eq!(setting.put_at(&path, &[], &last).status, status, "{path}");
    }
    setting.nothing_written();
    assert_eq!(setting.put_at(&format!("/tar/0/1/{}", total - 1), &[], &last).status, 200, "the last byte");
    assert_eq!(setting.proxy.status(0)["done_bytes"], 1);
    assert_eq!(setting.put_at("/tar/0/5000/0", &[], &whole).status, 200, "all in a block that is larger");
    setting.serves_a_good_one();
}

/// A sender may declare any file as failed: such content is not taken in, and nothing else changes.
#[test]
fn failed_lists_that_lie() {
    for list in
        ["0-18446744073709551615", "1-9223372036854775807", "18446744073709551615", "3-4,17,99-100", ""]
    {
        let setting = Setting::new(vec![], true);
        let digest = blake3_hex(setting.content());
        let headers = [("x-tar-like-digest", &*digest), ("x-tar-like-failed", list)];
        let answer = setting.put(&headers, &frame(setting.content()));
        assert!(matches!(answer.status, 200 | 400), "{list}: {}", answer.text());
        let done = setting.proxy.status(0)["done_bytes"].as_u64().unwrap();
        let expected = match list {
            "0-18446744073709551615" => 0,
            // All but `a`.
            "1-9223372036854775807" => 200,
            _ => SIZE as u64,
        };
        assert_eq!(done, if answer.status == 400 { 0 } else { expected }, "{list}");
        setting.serves_a_good_one();
        assert_eq!(setting.proxy.status(0)["failed"], serde_json::json!([]), "{list}");
    }
    // As many ranges of ids as a header holds, over many files.
    let setting = Setting::new(vec![], true);
    let many = (100..6000).map(|n| format!("{}-{}", n * 2, n * 2)).collect::<Vec<_>>().join(",");
    let answer = setting.put(&[("x-tar-like-failed", &many)], &frame(setting.content()));
    assert!(matches!(answer.status, 200 | 400 | 431), "{}", answer.text());
    setting.serves_a_good_one();
}

/// The attacks run beside a good transfer, all the time.
#[test]
fn a_good_transfer_beside_hostile_blocks() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 252).rich(150_000);
    let (db, proxy) = (lab.index(&src), lab.proxy(&dst));
    let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
    let blocks = archive.len().div_ceil(SIZE);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (proxy, stop, archive, digest) = (&proxy, &stop, &archive, &digest);
            scope.spawn(move || {
                let mut rng = Rng::new(253 + thread);
                while !stop.load(Ordering::SeqCst) {
                    let number = rng.below(blocks as u64) as usize;
                    let content = index::block(archive, SIZE, number);
                    let mut body = frame(content);
                    match rng.below(3) {
                        0 => body.truncate(rng.below(body.len() as u64) as usize),
                        1 => body.push(0),
                        _ => {
                            let at = rng.below(body.len() as u64) as usize;
                            body[at] ^= 1 << rng.below(8);
                        }
                    }
                    let headers =
                        [("x-tar-like-index", &**digest), ("x-tar-like-digest", &*blake3_hex(content))];
                    let answer = proxy.request("PUT", &format!("/tar/0/{SIZE}/{number}"), &headers, &body);
                    // Before the index has arrived: 404. After a flip without effect: 200.
                    assert!(matches!(answer.status, 200 | 404 | 422 | 503), "{}", answer.text());
                }
            });
        }
        let _stop = StopAtEnd(&stop);
        for _ in 0..3 {
            let more = args!["-s", SIZE.to_string(), "--ignore-done", "-p", "2"];
            lab.upload(&src, &db, &proxy.url, more).code(0);
            assert_same_tree(&src, &dst);
        }
    });
    let peak = peak_kib(proxy.pid());
    assert!(peak < 64 << 10, "{peak} KiB");
}

fn zstandard(content: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(content.len() + 1000);
    zstd_safe::compress(&mut body, content, 3).unwrap();
    body
}

const ZSTD: (&str, &str) = ("content-encoding", "zstd");

/// A Zstandard frame counts as one only if the request says so, and must be as whole and single as
/// an LZ4 frame.
#[test]
fn zstandard_frames() {
    let setting = Setting::new(vec![], true);
    let content = setting.content().to_vec();
    let (good, digest) = (zstandard(&content), blake3_hex(&content));
    let digest = ("x-tar-like-digest", &*digest);
    let refused = |what: &str, status: u16, headers: &[(&str, &str)], body: &[u8]| {
        let answer = setting.put(&[&[digest], headers].concat(), body);
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
    };
    for cut in 0..good.len() {
        refused("cut", 422, &[ZSTD], &good[..cut]);
    }
    for at in 0..good.len() {
        let mut flipped = good.clone();
        // Except the one bit of the header that has no meaning.
        flipped[at] ^= 1 << (at % 4);
        refused(&format!("flipped at {at}"), 422, &[ZSTD], &flipped);
    }
    refused("a second frame", 422, &[ZSTD], &[&good[..], &zstandard(b"x")].concat());
    refused("an empty second frame", 422, &[ZSTD], &[&good[..], &zstandard(b"")].concat());
    refused("a skippable frame", 422, &[ZSTD], &[&good[..], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]].concat());
    refused("too short", 422, &[ZSTD], &zstandard(&content[1..]));
    refused("too long", 422, &[ZSTD], &zstandard(&[&content[..], b"x"].concat()));
    refused("other content", 422, &[ZSTD], &zstandard(&vec![b'x'; content.len()]));
    refused("LZ4", 422, &[ZSTD], &frame(&content));
    refused("nothing said", 422, &[], &good);
    refused("another coding", 400, &[("content-encoding", "gzip")], &good);
    refused("two codings", 400, &[("content-encoding", "zstd, zstd")], &good);
    refused("said twice", 400, &[ZSTD, ZSTD], &good);
    setting.nothing_written();
    for coding in ["zstd", "ZSTD"] {
        let answer = setting.put(&[digest, ("content-encoding", coding)], &good);
        assert_eq!(
            (answer.status, answer.header("accept-encoding")),
            (200, Some("zstd")),
            "{}",
            answer.text()
        );
    }
    assert_eq!(setting.put(&[digest, ("content-encoding", "identity")], &frame(&content)).status, 200);
    setting.serves_a_good_one();
}

/// A small body that expands as far as zstd can: the receiver takes memory for the block's length
/// only.
#[test]
fn a_zstandard_bomb() {
    let setting = Setting::new(args!["--max-block-size", "1M"], true);
    let before = peak_kib(setting.proxy.pid());
    let bomb = zstandard(&vec![0; 1 << 30]);
    assert!(bomb.len() < 100_000);
    for _ in 0..20 {
        let answer = setting.put_at("/tar/0/1000000/0", &[ZSTD], &bomb);
        assert_eq!(answer.status, 422, "{}", answer.text());
    }
    let grown = peak_kib(setting.proxy.pid()) - before;
    assert!(grown < 30_000, "{grown} KiB more");
    setting.nothing_written();
    setting.serves_a_good_one();
}
