//! Bits that flip on the way, in requests and answers: each flip is noticed.

use super::{Job, Message, SIZE, shared, wrong};
use crate::support::index::{self, blake3_hex, frame};
use crate::support::relay::{Fate, Relay};
use crate::support::stress::chance;
use crate::support::{Proxy, assert_same_files, assert_same_tree, tree_diff};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The content of a frame, if it is valid.
fn content(frame: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    std::io::copy(&mut lz4_flex::frame::FrameDecoder::new(frame), &mut content).ok()?;
    Some(content)
}

fn refusals(proxy: &Proxy) -> u64 {
    proxy.metric("tarlike_http_responses_total{class=\"4xx\"}") as u64
}

/// Every block comes damaged the first time: in its content or in the header of its frame. It is
/// refused and sent again.
#[test]
fn every_block_is_damaged_once() {
    let job = Job::new(60_000);
    let dst = job.lab.dir("dst");
    let proxy = job.lab.proxy(&dst);
    let (below, seen) = (shared(chance()), Mutex::new(BTreeSet::new()));
    let noticeable = Arc::new(Mutex::new(0));
    let count = noticeable.clone();
    let relay = Relay::start(proxy.addr, move |number, request| {
        if !request.is_block() || !seen.lock().unwrap().insert(request.line()) {
            return Fate::Pass;
        }
        let length = if number % 3 == 0 { 11 } else { request.body.len() as u64 };
        let changed = request.with_body_flipped(below(length) as usize, below(8) as u8);
        // Another encoding of the same content does no harm.
        *count.lock().unwrap() += u64::from(content(&changed.body) != content(&request.body));
        Fate::Changed(changed)
    });
    let before = refusals(&proxy);
    let output = job.upload(&relay.url).code(0);
    assert_same_tree(&job.src, &dst);
    // The first status request is answered 404: there is no index yet.
    let (noticed, noticeable) = (refusals(&proxy) - before - 1, *noticeable.lock().unwrap());
    println!("{noticed} of {noticeable} noticed, {} blocks", job.blocks);
    assert_eq!(noticed, noticeable, "{}\n{:#?}", output.stderr, relay.log());
    assert!(noticeable as usize > job.blocks * 9 / 10);
}

/// One block is always damaged: the rest arrives, and the exit code and the names say so.
#[test]
fn one_block_is_always_damaged() {
    let job = Job::new(60_000);
    let dst = job.lab.dir("dst");
    let proxy = job.lab.proxy(&dst);
    let victim = index::rows(&job.db).into_iter().find(|row| row.path == b"several-blocks").unwrap();
    let block = victim.offset as usize / SIZE + 1;
    let below = shared(chance());
    let relay = Relay::start(proxy.addr, move |_, request| match request.line() {
        line if line == format!("PUT /tar/0/{SIZE}/{block}") => {
            Fate::Changed(request.with_body_flipped(20 + below(1000) as usize, below(8) as u8))
        }
        _ => Fate::Pass,
    });
    let output = job.upload(&relay.url).code(3).says("several-blocks");
    assert!(!dst.join("several-blocks").exists(), "{}", output.stderr);
    assert!(wrong(&job.src, &dst).is_empty());
    let missing: Vec<String> = tree_diff(&job.src, &dst);
    let missing: Vec<&String> = missing.iter().filter(|line| line.starts_with("missing")).collect();
    assert_eq!(missing, ["missing: several-blocks"], "{}", output.stderr);
    job.upload(&proxy.url).code(0);
    assert_same_tree(&job.src, &dst);
}

/// A damaged index is refused like a damaged block: sent once more, then it is an error.
#[test]
fn the_index_is_damaged() {
    let job = Job::new(10_000);
    let below = Arc::new(shared(chance()));
    for round in 0..6 {
        let dst = job.lab.dir(&format!("dst-{round}"));
        let proxy = job.lab.proxy(&dst);
        let (below, hit) = (below.clone(), Mutex::new(false));
        let always = round % 2 == 0;
        let relay = Relay::start(proxy.addr, move |_, request| {
            let first =
                request.line() == "PUT /tar/0/db" && !std::mem::replace(&mut *hit.lock().unwrap(), true);
            if first || (always && request.line() == "PUT /tar/0/db") {
                let length = if round < 2 { 11 } else { request.body.len() as u64 };
                return Fate::Changed(request.with_body_flipped(below(length) as usize, below(8) as u8));
            }
            Fate::Pass
        });
        let output = job.upload(&relay.url);
        let harmless = output.code == 0 && always && relay.log().len() > 5;
        if always && !harmless {
            assert_eq!(output.code, 1, "{}", output.stderr);
            let mut left = std::fs::read_dir(&dst).unwrap().map(|entry| entry.unwrap().file_name());
            assert!(left.all(|name| name == ".tar-like"), "something was published");
            job.upload(&proxy.url).code(0);
        } else {
            assert_eq!(output.code, 0, "round {round}: {}\n{:#?}", output.stderr, relay.log());
        }
        assert_same_tree(&job.src, &dst);
    }
}

/// A number that was bound to a damaged source would be refused to its own one from then on.
#[test]
fn the_source_of_an_index_is_damaged() {
    let job = Job::new(4_000);
    for (round, name) in ["x-tar-like-source-id: ", "x-tar-like-source: "].iter().enumerate() {
        for always in [false, true] {
            let hit = Mutex::new(false);
            let decide = move |_, request: &Message| {
                let at = request.head.windows(name.len()).position(|window| window == name.as_bytes());
                let first = |at| (at, !std::mem::replace(&mut *hit.lock().unwrap(), true));
                match at.map(first) {
                    Some((at, first)) if first || always => {
                        let mut changed = request.clone();
                        // Another digit, and another letter.
                        let byte = &mut changed.head[at + name.len()];
                        *byte = if *byte == b'0' { b'1' } else { b'0' };
                        Fate::Changed(changed)
                    }
                    _ => Fate::Pass,
                }
            };
            let (code, _) = job.one_trouble(&format!("source-{round}-{always}"), decide);
            assert_eq!(code, i32::from(always), "{name}");
        }
    }
}

/// Every bit of the headers that guard a block, of a frame's header and end, and random bits of its
/// content, one by one.
#[test]
fn no_bit_of_a_block_is_unguarded() {
    let job = Job::new(20_000);
    let dst = job.lab.dir("dst");
    let proxy = job.lab.proxy(&dst);
    let digest = index::digest(&job.db);
    let put_index = [("x-tar-like-index", &*digest)];
    assert_eq!(proxy.request("PUT", "/tar/0/db", &put_index, &index::frame_of(&job.db)).status, 200);
    let archive = index::archive(&job.src, &job.db);
    let number = archive.len() / SIZE / 2;
    let content = index::block(&archive, SIZE, number);
    let (body, of_block, path) = (frame(content), blake3_hex(content), format!("/tar/0/{SIZE}/{number}"));
    let put = |index: &str, digest: &str, body: &[u8]| {
        let headers = [("x-tar-like-index", index), ("x-tar-like-digest", digest)];
        proxy.request("PUT", &path, &headers, body).status
    };
    let flip = |text: &str, bit: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        String::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| (32..127).contains(&byte)))
    };
    for bit in 0..of_block.len() * 8 {
        if let Some(flipped) = flip(&of_block, bit) {
            assert!([400, 422].contains(&put(&digest, &flipped, &body)), "bit {bit} of the block's digest");
        }
        if let Some(flipped) = flip(&digest, bit) {
            assert!([400, 409].contains(&put(&flipped, &of_block, &body)), "bit {bit} of the index digest");
        }
    }
    assert_eq!(proxy.status(0)["done_bytes"], 0);
    let mut rng = chance();
    let bits = body.len() * 8;
    let inside: Vec<usize> = (0..600).map(|_| rng.below(bits as u64) as usize).collect();
    let mut harmless = 0;
    for bit in (0..15 * 8).chain(bits - 64..bits).chain(inside) {
        let mut flipped = body.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match put(&digest, &of_block, &flipped) {
            422 => {}
            // Another encoding of the same content.
            200 if self::content(&flipped).as_deref() == Some(content) => harmless += 1,
            status => panic!("bit {bit} of the frame: {status}"),
        }
    }
    println!("{harmless} flips changed nothing");
    assert!(harmless < 100, "{harmless}");
    assert_eq!(put(&digest, &of_block, &body), 200);
    job.upload(&proxy.url).code(0);
    assert_same_tree(&job.src, &dst);
}

/// A bit of every request's head, method and address included.
#[test]
fn a_bit_of_a_request_head_is_flipped() {
    let job = Job::new(4_000);
    let below = Arc::new(shared(chance()));
    let (_, requests) = job.one_trouble("none", |_, _| Fate::Pass);
    let mut unharmed = 0;
    let rounds = 2 * requests;
    for round in 0..rounds {
        let (victim, below) = (round % requests, below.clone());
        let (code, _) = job.one_trouble(&format!("head-{round}"), move |number, request| {
            if number != victim {
                return Fate::Pass;
            }
            Fate::Changed(request.with_head_flipped(below(10_000) as usize, below(8) as u8))
        });
        unharmed += u32::from(code == 0);
    }
    println!("{unharmed} of {rounds} uploads ended with exit 0");
}

/// A bit of the head and two of the body of every answer.
#[test]
fn a_bit_of_an_answer_is_flipped() {
    let job = Job::new(4_000);
    let below = shared(chance());
    let (_, requests) = job.one_trouble("none", |_, _| Fate::Pass);
    let mut unharmed = 0;
    let rounds = 3 * requests;
    for round in 0..rounds {
        let victim = round / 3;
        let (at, bit) = (below(10_000) as usize, below(8) as u8);
        let (code, _) = job.one_trouble(&format!("answer-{round}"), move |number, _| match round % 3 {
            _ if number != victim => Fate::Pass,
            0 => Fate::FlipAnswerHead(at, bit),
            _ => Fate::FlipAnswer(at, bit),
        });
        unharmed += u32::from(code == 0);
    }
    println!("{unharmed} of {rounds} uploads ended with exit 0");
}

/// An answer lost the receiver's header: the sender does not take the receiver for the original
/// program, which verifies and finishes nothing.
#[test]
fn a_receiver_is_not_taken_for_the_original() {
    let job = Job::new(4_000);
    // Status, index, a block: each of these is one bit.
    let name = ("x-tar-like:", "y-tar-like:");
    for (victim, (what, with)) in [(0, name), (1, name), (1, ("\"digest\"", "\"ligest\"")), (2, name)] {
        job.one_trouble(&format!("disguised-{victim}"), move |number, _| {
            if number == victim { Fate::ReplaceInAnswer(what, with) } else { Fate::Pass }
        });
    }
}

/// The list of failed files is damaged, so it names a wrong file. The zeros of the failed file harm
/// no neighbour.
#[test]
fn the_list_of_failed_files_is_damaged() {
    let job = Job::new(9_000);
    for (round, name) in ["several-blocks", "many/0/f3", "many/2/f5"].iter().enumerate() {
        let (dst, gone) = (job.lab.dir(&format!("dst-{round}")), job.lab.path("gone"));
        let proxy = job.lab.proxy(&dst);
        std::fs::rename(job.src.join(name), &gone).unwrap();
        let relay = Relay::start(proxy.addr, |_, request| {
            let name = b"x-tar-like-failed: ";
            let mut changed = request.clone();
            let Some(at) = request.head.windows(name.len()).position(|window| window == name) else {
                return Fate::Pass;
            };
            // A digit of the id becomes its neighbour.
            changed.head[at + name.len()] ^= 1;
            Fate::Changed(changed)
        });
        let output = job.upload(&relay.url).code(3).says(name);
        assert!(relay.log().iter().any(|line| line.contains("Changed")), "no file was named as failed");
        assert!(!dst.join(name).exists() && wrong(&job.src, &dst).is_empty(), "{}", output.stderr);
        std::fs::rename(&gone, job.src.join(name)).unwrap();
        job.upload(&proxy.url).code(0);
        // The folder's time is another one, since the file was away.
        assert_same_files(&job.src, &dst);
    }
}

/// An answer claims a length that it does not have: the sender does not wait for ever.
#[test]
fn the_length_of_an_answer_is_damaged() {
    let job = Job::new(4_000);
    // One digit more, and nothing but a zero.
    for (round, with) in ["content-length: 1", "content-length: 0\r\nx: "].into_iter().enumerate() {
        let dst = job.lab.dir(&format!("dst-{round}"));
        let proxy = job.lab.proxy(&dst);
        let hits = Mutex::new(0);
        let relay = Relay::start(proxy.addr, move |_, request| {
            let mut hits = hits.lock().unwrap();
            *hits += u32::from(request.is_block());
            match *hits {
                1..=3 if request.is_block() => Fate::ReplaceInAnswer("content-length: ", with),
                _ => Fate::Pass,
            }
        });
        let args = args!["-s", SIZE.to_string(), "--block-timeout", "2"];
        let start = Instant::now();
        let output = job.lab.upload(&job.src, &job.db, &relay.url, args);
        assert!(start.elapsed() < Duration::from_secs(30), "it waited {:?}", start.elapsed());
        assert!(wrong(&job.src, &dst).is_empty(), "{}", output.stderr);
        if round == 0 {
            assert_eq!(output.code, 0, "{}", output.stderr);
        }
        if output.code != 0 {
            job.upload(&proxy.url).code(0);
        }
        assert_same_tree(&job.src, &dst);
    }
}
