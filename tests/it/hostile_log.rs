//! A log of an index that no honest sender sends: the receiver refuses it, writes nothing, and goes
//! on serving.

use crate::support::http::Response;
use crate::support::index::{blake3_hex, frame, md5_hex};
use crate::support::{Lab, Proxy};
use std::path::PathBuf;

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn text(batch: &mut Vec<u8>, text: &[u8]) {
    batch.extend((text.len() as u16).to_le_bytes());
    batch.extend(text);
}

/// A file with its digests, and without owner, permissions and time.
fn file(path: &str, content: &[u8]) -> Vec<u8> {
    let mut record = file_without(path, content.len() as u64);
    record.pop();
    record.push(1);
    record.extend(bytes_of(&md5_hex(content)));
    record.extend(bytes_of(&blake3_hex(content)));
    record
}

fn file_without(path: &str, size: u64) -> Vec<u8> {
    let mut record = vec![b'F'];
    text(&mut record, path.as_bytes());
    record.extend(size.to_le_bytes());
    record.extend([0, 0]);
    record
}

fn node(kind: u8, path: &str, target: &str) -> Vec<u8> {
    let mut record = vec![b'N', kind];
    text(&mut record, path.as_bytes());
    text(&mut record, target.as_bytes());
    record.push(0);
    record
}

fn digests(id: u64, content: &[u8]) -> Vec<u8> {
    let mut record = vec![b'H'];
    record.extend(id.to_le_bytes());
    record.extend(bytes_of(&md5_hex(content)));
    record.extend(bytes_of(&blake3_hex(content)));
    record
}

fn end(digest: &str, files: u64, nodes: u64, total: u64) -> Vec<u8> {
    let mut record = vec![b'E'];
    record.extend(bytes_of(digest));
    for number in [files, nodes, total] {
        record.extend(number.to_le_bytes());
    }
    record
}

/// A sender that can send anything.
struct Stream<'a> {
    proxy: &'a Proxy,
    name: String,
    head: String,
}

impl<'a> Stream<'a> {
    fn new(proxy: &'a Proxy, name: &str) -> Self {
        let name = blake3_hex(name.as_bytes());
        let head = blake3_hex(&[&b"tar-like log 1\n"[..], &bytes_of(&name)].concat());
        Self { proxy, name, head }
    }

    fn post(&self, before: &str, batch: &[u8]) -> Response {
        let length = batch.len().to_string();
        let headers = [
            ("x-tar-like-stream", &*self.name),
            ("x-tar-like-index", before),
            ("x-tar-like-length", &length),
        ];
        self.proxy.request("POST", "/tar/0/log", &headers, &frame(batch))
    }

    /// Sends records that the receiver must accept.
    fn say(&mut self, records: &[Vec<u8>]) -> Response {
        let batch = records.concat();
        let answer = self.post(&self.head.clone(), &batch);
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.head = blake3_hex(&[bytes_of(&self.head), batch].concat());
        assert_eq!(answer.json()["digest"], self.head);
        answer
    }

    fn refused(&self, records: &[Vec<u8>]) -> String {
        let answer = self.post(&self.head, &records.concat());
        assert_eq!(answer.status, 422, "{}", answer.text());
        answer.text()
    }

    fn put(&self, number: u64, size: u64, content: &[u8]) -> u16 {
        let digest = blake3_hex(content);
        let headers = [("x-tar-like-index", &*self.head), ("x-tar-like-digest", &*digest)];
        self.proxy.request("PUT", &format!("/tar/0/{size}/{number}"), &headers, &frame(content)).status
    }
}

fn lab() -> (Lab, PathBuf) {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    (lab, dst)
}

#[test]
fn an_honest_log_by_hand() {
    let (lab, dst) = lab();
    let proxy = lab.proxy(&dst);
    let mut stream = Stream::new(&proxy, "one");
    stream.say(&[node(b'd', "d", ""), file("d/a", b"abc"), file_without("d/b", 4)]);
    assert_eq!(stream.put(0, 5, b"abcde"), 200);
    // The block that the next batch lays out.
    assert_eq!(stream.put(1, 5, b"fgxy"), 422, "two bytes too many for what is laid out");
    stream.say(&[file("e", b"xy")]);
    assert_eq!(stream.put(1, 5, b"fgxy"), 200);
    assert!(dst.join("d/a").exists() && !dst.join("d/b").exists(), "no row says what d/b must be");
    stream.say(&[digests(1, b"defg")]);
    let index = lab.path("src");
    std::fs::create_dir_all(index.join("d")).unwrap();
    let answer = stream.post(&stream.head, &end(&"00".repeat(32), 3, 1, 9));
    assert_eq!(answer.status, 422, "{}", answer.text());
    // The receiver's answer has the digest that it computed.
    let text = answer.text();
    let digest = text.split("have digest ").nth(1).unwrap()[..64].to_string();
    let sealed = stream.say(&[end(&digest, 3, 1, 9)]);
    assert_eq!(sealed.json()["sealed"], true);
    let finished = proxy.request("POST", "/tar/0/finish", &[], b"");
    assert_eq!(finished.json()["complete"], true, "{}", finished.text());
    for (name, content) in [("d/a", "abc"), ("d/b", "defg"), ("e", "xy")] {
        assert_eq!(std::fs::read_to_string(dst.join(name)).unwrap(), content);
    }
}

#[test]
fn a_batch_that_is_sent_again_changes_nothing() {
    let (lab, dst) = lab();
    let mut proxy = lab.proxy(&dst);
    let (head, before, batch);
    {
        let mut stream = Stream::new(&proxy, "one");
        stream.say(&[file("a", b"abc")]);
        before = stream.head.clone();
        batch = file("b", b"def");
        stream.say(std::slice::from_ref(&batch));
        assert_eq!(stream.put(0, 6, b"abcdef"), 200);
        head = stream.head.clone();
    }
    for _ in 0..2 {
        let stream = Stream { proxy: &proxy, ..Stream::new(&proxy, "one") };
        let answer = stream.post(&before, &batch);
        assert_eq!(
            (answer.status, answer.json()["digest"].as_str()),
            (200, Some(&*head)),
            "{}",
            answer.text()
        );
        assert_eq!(answer.json()["held"], serde_json::json!([[3, 6]]));
        assert_eq!(proxy.status(0)["total_bytes"], 6);
        proxy.kill9();
        proxy.restart();
    }
    // Another batch at the same place is not the same batch.
    let stream = Stream::new(&proxy, "one");
    assert_eq!(stream.post(&before, &file("c", b"def")).status, 409);
}

#[test]
fn an_impossible_batch_is_refused_and_the_log_goes_on() {
    let (lab, dst) = lab();
    let proxy = lab.proxy(&dst);
    let mut stream = Stream::new(&proxy, "one");
    stream.say(&[node(b'd', "d", ""), file("d/b", b"abc")]);
    for (records, why) in [
        (vec![file("d/a", b"x")], "not in order"),
        (vec![file("d/b", b"x")], "comes twice"),
        (vec![node(b'd', "d", "")], "not in order"),
        (vec![file("d/b/c", b"x")], "no folder"),
        (vec![node(b'l', "e", "x"), file("e/f", b"x")], "no folder"),
        (vec![file("../e", b"x")], "'..'"),
        (vec![file("/e", b"x")], "absolute"),
        (vec![file(".tar-like/journal.sqlite", b"x")], ".tar-like"),
        (vec![file_without("e", u64::MAX)], "2^63"),
        (vec![file_without("e", i64::MAX as u64), file_without("f", 3)], "2^63"),
        (vec![file_without("e", 0)], "no digests"),
        (vec![digests(1, b"x")], "digests of file 1"),
        (vec![vec![b'X']], "malformed"),
        (vec![file("e", b"x")[..20].to_vec()], "malformed"),
        (vec![end(&"00".repeat(32), 2, 1, 3)], "does not fit"),
        (vec![end(&"00".repeat(32), 1, 1, 4)], "does not fit"),
        (vec![end(&"00".repeat(32), 1, 1, 3)], "its sender says"),
        (vec![end(&"00".repeat(32), 1, 1, 3), file("e", b"x")], "does not fit"),
        (vec![file_without("e", 3), end(&"00".repeat(32), 2, 1, 6)], "no digests"),
    ] {
        let said = stream.refused(&records);
        assert!(said.contains(why), "{said}: {why}");
        assert_eq!(proxy.status(0)["total_bytes"], 3, "{why}");
    }
    let many: Vec<Vec<u8>> = (0..5_000).map(|number| file_without(&format!("e{number:05}"), 1)).collect();
    assert!(stream.refused(&many).contains("have no digests yet"));
    stream.say(&[file("e", b"xy"), node(b'h', "f", "d/nothing")]);
    let answer = stream.post(&stream.head, &end(&"00".repeat(32), 2, 2, 5));
    let digest = answer.text().split("have digest ").nth(1).unwrap()[..64].to_string();
    assert!(stream.refused(&[end(&digest, 2, 2, 5)]).contains("hard link"));
    assert_eq!(stream.put(0, 5, b"abcxy"), 200);
    assert!(!lab.path("e").exists() && dst.join("e").exists());
}

#[test]
fn requests_that_are_none() {
    let (lab, dst) = lab();
    let proxy = lab.proxy(&dst);
    let stream = Stream::new(&proxy, "one");
    let batch = file("a", b"abc");
    let post =
        |headers: &[(&str, &str)], body: &[u8]| proxy.request("POST", "/tar/0/log", headers, body).status;
    let (name, head) = (("x-tar-like-stream", &*stream.name), ("x-tar-like-index", &*stream.head));
    let body = frame(&batch);
    let right = batch.len().to_string();
    let length = ("x-tar-like-length", &*right);
    assert_eq!(post(&[name, head], &body), 400, "no length");
    assert_eq!(post(&[name, length], &body), 400, "no prefix");
    assert_eq!(post(&[head, length], &body), 400, "no stream");
    assert_eq!(post(&[name, head, ("x-tar-like-length", "9000000")], &body), 413);
    assert_eq!(post(&[name, head, ("x-tar-like-length", "3")], &body), 422);
    assert_eq!(post(&[name, head, length], &body[..body.len() - 5]), 422);
    assert_eq!(post(&[name, head, length], &[0; 40]), 422);
    assert_eq!(
        post(&[name, ("x-tar-like-index", &"00".repeat(32)), length], &body),
        409,
        "not the beginning"
    );
    assert_eq!(proxy.request("GET", "/tar/0/log", &[], b"").status, 405);
    assert_eq!(
        proxy.request("GET", "/tar/0/status", &[], b"").status,
        404,
        "the refused batch had an effect"
    );
    assert_eq!(post(&[name, head, length], &body), 200);
    // Blocks that name something other than a prefix, and blocks behind the laid out range.
    let mut other = Stream::new(&proxy, "one");
    other.head = blake3_hex(b"nobody");
    assert_eq!(other.put(0, 3, b"abc"), 409);
    other.head.clone_from(&stream.head);
    assert_eq!(other.put(0, 3, b"abc"), 400, "the empty prefix lays out nothing");
    assert!(std::fs::read_dir(&dst).unwrap().all(|entry| entry.unwrap().file_name() == ".tar-like"));
}

/// The receiver invalidates bytes when no writer is left. A writer must not wait for the log then.
#[test]
fn blocks_come_while_streams_replace_each_other() {
    let (lab, dst) = lab();
    let proxy = lab.proxy(&dst);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let contents: Vec<Vec<u8>> = (0..4u8).map(|number| vec![number; 60_000]).collect();
    std::thread::scope(|scope| {
        let _end = crate::support::stop::StopAtEnd(&stop);
        for content in &contents {
            scope.spawn(|| {
                let mut stream = Stream::new(&proxy, &format!("writer {}", content[0]));
                let batch = [file("a", content), file("b", content)].concat();
                stream.head = blake3_hex(&[bytes_of(&stream.head), batch].concat());
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    for number in 0..12 {
                        let piece = &content[..10_000];
                        assert!([200, 404, 409].contains(&stream.put(number, 10_000, piece)));
                    }
                }
            });
        }
        for round in 0..60 {
            let content = &contents[round % contents.len()];
            let mut stream = Stream::new(&proxy, &format!("writer {}", content[0]));
            stream.say(&[file("a", content), file("b", content)]);
        }
    });
    assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 200);
}

/// The index always has the digest that it claims, whatever was sent in between.
#[test]
fn digests_that_were_known_do_not_change_in_secret() {
    let (lab, dst) = lab();
    let proxy = lab.proxy(&dst);
    let refusal = |stream: &Stream, digest: &str| stream.refused(&[end(digest, 3, 0, 9)]);
    let computed = |text: &str| text.split("have digest ").nth(1).unwrap()[..64].to_string();
    let mut honest = Stream::new(&proxy, "honest");
    honest.say(&[file("a", b"abc"), file("b", b"def"), file("c", b"ghi")]);
    let said = computed(&refusal(&honest, &"00".repeat(32)));
    // Also of a file behind one whose digests are still missing.
    for (name, first) in [("one", file("a", b"abc")), ("two", file_without("a", 3))] {
        let mut liar = Stream::new(&proxy, name);
        liar.say(&[first, file("b", b"def"), file("c", b"ghi")]);
        liar.say(&[digests(1, b"DEF")]);
        liar.say(&[digests(0, b"abc")]);
        let truth = computed(&refusal(&liar, &said));
        assert_ne!(truth, said);
        liar.say(&[end(&truth, 3, 0, 9)]);
        assert_eq!(proxy.status(0)["digest"], truth);
    }
}

#[test]
fn nothing_follows_the_end() {
    let (lab, dst) = lab();
    let mut proxy = lab.proxy(&dst);
    let name = "one";
    let (head, digest) = {
        let mut stream = Stream::new(&proxy, name);
        stream.say(&[file("a", b"abc")]);
        let text = stream.refused(&[end(&"00".repeat(32), 1, 0, 3)]);
        let digest = text.split("have digest ").nth(1).unwrap()[..64].to_string();
        stream.say(&[end(&digest, 1, 0, 3)]);
        assert!(stream.refused(&[file("b", b"def")]).contains("after its end"));
        (stream.head, digest)
    };
    proxy.kill9();
    proxy.restart();
    let mut stream = Stream::new(&proxy, name);
    stream.head = head;
    assert!(stream.refused(&[file("b", b"def")]).contains("after its end"));
    assert_eq!((&proxy.status(0)["digest"], &proxy.status(0)["files_total"]), (&digest.into(), &1.into()));
}

#[test]
fn the_token_is_wanted_for_a_log_too() {
    let (lab, dst) = lab();
    let token = lab.file("token", "0123456789abcdef0123456789");
    let proxy = lab.proxy_with(&dst, args!["--token-file", token]);
    let stream = Stream::new(&proxy, "one");
    assert_eq!(stream.post(&stream.head, &file("a", b"abc")).status, 401);
}
