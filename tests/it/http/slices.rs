//! What one of several receivers on a folder answers (FORMAT.md 8.8).

use super::{SIZE, Setting, refused};
use crate::support::http::Response;
use crate::support::index::{self, blake3_hex, frame};

const SLICE: &str = "x-tar-like-slice";

/// The slice `number` of two: the files `a` (0 to 1500) and `b` (to 1700) are of the first, `c` (to
/// 3500) is of the second.
fn slice(number: u64) -> Setting {
    Setting::new(args!["--slice", format!("{number}/2"), "--stripe-size", "1600"])
}

#[track_caller]
fn wrong_slice(answer: &Response) {
    refused(answer, 421);
    let json = answer.json();
    assert_eq!(json["kind"], "wrong_slice", "{json}");
    assert!(json["hint"].as_str().is_some_and(|hint| hint.len() > 5), "{json}");
}

impl Setting {
    /// Requests of every kind about an archive, as a sender of this slice makes them; or as one that
    /// knows of none.
    fn all(&self, slice: Option<&str>) -> Vec<(&'static str, Response)> {
        let mut headers = vec![("x-tar-like-index", &*self.digest)];
        headers.extend(slice.map(|slice| (SLICE, slice)));
        let content = index::block(&self.archive, SIZE, 2);
        let digest = blake3_hex(content);
        let mut block = headers.clone();
        block.extend([("x-tar-like-digest", &*digest)]);
        let request = |method, path, body: &[u8]| self.proxy.request(method, path, &headers, body);
        let mut answers = vec![
            ("status", request("GET", "/tar/0/status", b"")),
            ("db", request("PUT", "/tar/0/db", &index::frame_of(&self.db))),
            ("block", self.put("/tar/0/1000/2", &block, &frame(content))),
            ("finish", request("POST", "/tar/0/finish", b"{}")),
            ("get db", request("GET", "/tar/0/db", b"")),
        ];
        for (name, path) in [
            ("log", "/tar/0/log"),
            ("look", "/tar/0/look"),
            ("adopt", "/tar/0/adopt"),
            ("verify", "/tar/0/verify"),
            ("candidates", "/tar/0/candidates"),
        ] {
            answers.push((name, request("POST", path, br#"{"name": 1}"#)));
        }
        answers
    }
}

#[test]
fn each_slice_serves_its_own_requests() {
    for (number, asked, served) in [
        (1, None, &["status", "db", "finish", "get db", "look", "adopt", "verify", "candidates"][..]),
        (1, Some("1/2"), &["status", "db", "finish", "get db", "look", "adopt", "verify", "candidates"]),
        (1, Some("2/2"), &[]),
        (2, None, &[]),
        (2, Some("2/2"), &["status", "db", "block", "finish"]),
        (2, Some("2/3"), &[]),
    ] {
        let setting = slice(number);
        let own = format!("{number}/2");
        let index = [("x-tar-like-index", &*setting.digest), (SLICE, &*own)];
        let put = setting.proxy.request("PUT", "/tar/0/db", &index, &index::frame_of(&setting.db));
        assert_eq!(put.status, 200, "{}", put.text());
        for (name, answer) in setting.all(asked) {
            match served.contains(&name) {
                // How it is served is another matter.
                true => assert_ne!(answer.status, 421, "{number} {asked:?} {name}: {}", answer.text()),
                false => wrong_slice(&answer),
            }
        }
        assert_eq!(setting.proxy.request("GET", "/readyz", &[], b"").status, 200);
    }
    let alone = Setting::with_index(vec![]);
    alone.all(Some("1/2")).iter().for_each(|(_, answer)| wrong_slice(answer));
}

#[test]
fn a_status_is_of_the_archive_or_of_a_slice() {
    let first = slice(1);
    assert_eq!(first.put_index().status, 200);
    let status = |setting: &Setting, headers: &[(&str, &str)]| {
        setting.proxy.request("GET", "/tar/0/status?blk_size=1000", headers, b"").json()
    };
    let of_archive = status(&first, &[]);
    assert_eq!(of_archive["missing"], serde_json::json!([[0, 3500]]));
    assert_eq!(of_archive["slice"]["stripe_bytes"], 1600);
    assert_eq!(of_archive["slice"]["peers"], serde_json::Value::Null);
    assert_eq!(of_archive["slice"]["tree"].as_str().map(str::len), Some(32));
    let of_slice = status(&first, &[(SLICE, "1/2")]);
    assert_eq!(of_slice["missing"], serde_json::json!([[0, 1700]]));
    assert_eq!(of_slice["done_bytes"], 1800);
    let second = slice(2);
    let headers = [("x-tar-like-index", &*second.digest), (SLICE, "2/2")];
    second.proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(&second.db));
    assert_eq!(status(&second, &[(SLICE, "2/2")])["missing"], serde_json::json!([[1700, 3500]]));
    assert_ne!(status(&second, &[(SLICE, "2/2")])["slice"]["tree"], of_archive["slice"]["tree"]);
}

/// A part of a block goes to the slice that has it, and publishes its file there.
#[test]
fn a_part_with_bytes_of_another_slice_is_refused() {
    let second = slice(2);
    let index = [("x-tar-like-index", &*second.digest), (SLICE, "2/2")];
    second.proxy.request("PUT", "/tar/0/db", &index, &index::frame_of(&second.db));
    let put = |number: usize, start: usize, end: usize| {
        let content = &second.archive[start..end];
        let (digest, range) = (blake3_hex(content), format!("{start}-{end}"));
        let headers = [index[0], index[1], ("x-tar-like-digest", &*digest), ("x-tar-like-range", &*range)];
        second.put(&format!("/tar/0/{SIZE}/{number}"), &headers, &frame(content))
    };
    wrong_slice(&put(1, 1000, 2000));
    wrong_slice(&put(1, 1699, 2000));
    for (number, start, end) in [(1, 1700, 2000), (2, 2000, 3000), (3, 3000, 3500)] {
        let answer = put(number, start, end);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // The first slice has not got the index, so nothing of it has its place.
    let finish = || second.proxy.request("POST", "/tar/0/finish", &index, b"{}");
    assert_eq!(finish().json()["failed_total"], 1);
    assert!(!second.dst.join("c").exists());
    let said = second.dst.join(".tar-like/slice-1-of-2/active");
    std::fs::create_dir_all(&said).unwrap();
    std::fs::write(said.join("0"), format!("{}\n", second.digest)).unwrap();
    let finished = finish();
    assert_eq!(finished.json()["complete"], true, "{}", finished.text());
    assert_eq!(std::fs::read(second.dst.join("c")).unwrap(), &second.archive[1700..]);
    assert!(!second.dst.join("a").exists() && !second.dst.join("empty").exists());
    let handovers = second.dst.join(".tar-like/slice-2-of-2/handover").read_dir().unwrap().count();
    assert_eq!(handovers, 1);
}

#[test]
fn headers_and_flags_that_are_no_slice() {
    let setting = slice(1);
    for bad in ["", "1", "0/2", "3/2", "1/0", "+1/2", "1/2/3", "x", "1/99999", "01/2", "1/02", "1/+2", "1/ 2"]
    {
        refused(&setting.proxy.request("GET", "/tar/0/status", &[(SLICE, bad)], b""), 400);
    }
    refused(&setting.proxy.request("GET", "/tar/0/status", &[(SLICE, "1/2"), (SLICE, "1/2")], b""), 400);
    let metrics = setting.proxy.request("GET", "/metrics", &[], b"").text();
    assert!(metrics.contains("tarlike_slice_info{slice=\"1\",of=\"2\"} 1"), "{metrics}");
    let lab = &setting.lab;
    let proxy = |more| lab.cmd(args!["proxy", "0", "-b", lab.path("other")]).args(more).run().code(2);
    proxy(args!["--slice", "3/2"]).says("no slice");
    proxy(args!["--slice", "1/2", "--peers", "http://a:8000"]).says("--peers has 1 address");
    for (peers, why) in [
        ("http://a:8000,", "no address for slice 2/2"),
        (",http://a:8000", "no address for slice 1/2"),
        ("http://a:8000,ftp://b:8000", "is no http or https address"),
        ("http://a:8000,b", "is no address"),
        ("http://a:8000,http://b:8000/photos", "ends in /tar"),
        ("http://a:8000,http://a:8000", "http://a:8000/tar for slice 1/2 and slice 2/2"),
        ("http://a:80,http://A/tar/", "http://a/tar for slice 1/2 and slice 2/2"),
        ("http://a,http://b,http://c", "--peers has 3 addresses, and there are 2 slices"),
    ] {
        proxy(args!["--slice", "1/2", "--peers", peers]).says(why).says("--peers http://HOST:8000");
    }
    proxy(args!["--slice", "1/2", "--legacy"]);
    proxy(args!["--peers", "http://a:8000"]);
    assert!(!lab.path("other").exists());
}
