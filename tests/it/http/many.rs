//! The cost of many archives, and how much memory one request may take.

use super::Setting;
use crate::support::index::{self, blake3_hex, frame};
use crate::support::stress::peak_kib;
use crate::support::{Lab, Proxy, Tree};

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// An index of one file that grows as a log: its end never comes.
fn begin_log(proxy: &Proxy, tar_id: usize) {
    let stream = blake3_hex(format!("stream {tar_id}").as_bytes());
    let name = blake3::Hash::from_hex(&stream).unwrap();
    let head = blake3_hex(&[&b"tar-like log 1\n"[..], name.as_bytes()].concat());
    let path = format!("log-{tar_id}");
    let record =
        [&b"F"[..], &(path.len() as u16).to_le_bytes(), path.as_bytes(), &1u64.to_le_bytes(), &[0, 0]]
            .concat();
    let length = record.len().to_string();
    let headers =
        [("x-tar-like-stream", &*stream), ("x-tar-like-index", &*head), ("x-tar-like-length", &*length)];
    let answer = proxy.request("POST", &format!("/tar/{tar_id}/log"), &headers, &frame(&record));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// An archive by hand: index, blocks at the same time, finish.
fn put_archive(setting: &Setting, tar_id: usize) {
    let headers = [("x-tar-like-index", &*setting.digest)];
    let path = |tail: &str| format!("/tar/{tar_id}/{tail}");
    let answer = setting.put(&path("db"), &headers, &index::frame_of(&setting.db));
    assert_eq!(answer.status, 200, "{}", answer.text());
    std::thread::scope(|scope| {
        for number in 0..4 {
            let path = path(&format!("1000/{number}"));
            scope.spawn(move || {
                let content = index::block(&setting.archive, 1000, number);
                let digest = blake3_hex(content);
                let headers = [("x-tar-like-index", &*setting.digest), ("x-tar-like-digest", &*digest)];
                assert_eq!(setting.put(&path, &headers, &frame(content)).status, 200);
            });
        }
    });
    assert_eq!(setting.proxy.request("POST", &path("finish"), &headers, b"").json()["complete"], true);
}

/// An archive that is not in use has at most its staging folder open, and no memory to speak of.
#[test]
fn fifty_archives_cost_no_more_than_ten() {
    // By default each thread has a heap of its own, and keeps what it frees: then the number of
    // threads that happen to run decides, by up to 20 MB.
    let setting = Setting::serving(|proxy| proxy.env("MALLOC_ARENA_MAX", "1"));
    let pid = setting.proxy.pid();
    let mut before = None;
    for tar_id in 0..50 {
        if tar_id == 10 {
            // All caches are full by now.
            before = Some((descriptors(pid), resident_kib(pid)));
        }
        match tar_id % 5 {
            0 => {
                let (lab, db) = (&setting.lab, setting.lab.path(&format!("stream-{tar_id}")));
                let more = args!["-db", db, "-dbp", lab.path("dbp"), "--tar-id", tar_id.to_string()];
                lab.cmd(args!["sync", &setting.src, &setting.proxy.url]).args(more).run().code(0);
            }
            1 | 2 => begin_log(&setting.proxy, tar_id),
            _ => put_archive(&setting, tar_id),
        }
    }
    let (descriptors_before, kib_before) = before.unwrap();
    let (descriptors, kib) = (descriptors(pid), resident_kib(pid));
    println!("{descriptors_before} descriptors, {kib_before} KiB after 10; {descriptors}, {kib} after 50");
    assert!(descriptors <= descriptors_before + 40 + 20, "{descriptors_before}, then {descriptors}");
    assert!(kib < kib_before + 4_000, "{kib_before} KiB, then {kib}");
}

/// Short requests do not become large in memory.
#[test]
fn patterns_and_batches_have_limits() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 85).noise("a", 100);
    let proxy = lab.proxy(&lab.dir("dst"));
    let before = peak_kib(proxy.pid());
    let adopt = |exclude: Vec<String>| {
        let body = serde_json::json!({"name": exclude.len(), "exclude": exclude}).to_string();
        proxy.request("POST", "/tar/0/adopt", &[], body.as_bytes())
    };
    let large = |count: usize| (0..count).map(|number| format!("\\w{{{}}}", 150 + number % 40)).collect();
    for exclude in [large(20), large(100), vec!["(a{999}){999}".to_string()], vec!["a".to_string(); 10_001]] {
        let refused = adopt(exclude);
        assert_eq!(refused.status, 400, "{}", refused.text());
    }
    // Patterns that people write.
    for exclude in [vec![r"\w+\.tmp$".to_string(); 20], vec!["(^|/)[.]cache/".to_string(); 100]] {
        let answer = adopt(exclude);
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    }
    // 8 MB of the shortest records, as 36 KB of frame.
    let record = [&b"F\x01\0a"[..], &1u64.to_le_bytes(), &[0, 0]].concat();
    let batch = record.repeat((8 << 20) / record.len());
    let (stream, body) = (blake3_hex(b"stream"), frame(&batch));
    let head = blake3_hex(&[&b"tar-like log 1\n"[..], blake3::hash(b"stream").as_bytes()].concat());
    let length = batch.len().to_string();
    let headers =
        [("x-tar-like-stream", &*stream), ("x-tar-like-index", &*head), ("x-tar-like-length", &*length)];
    std::thread::scope(|scope| {
        for tar_id in 0..4 {
            let (proxy, body) = (&proxy, &body);
            scope.spawn(move || {
                let refused = proxy.request("POST", &format!("/tar/{tar_id}/log"), &headers, body);
                assert_eq!(refused.status, 422, "{}", refused.text());
            });
        }
    });
    let after = peak_kib(proxy.pid());
    println!("{before} KiB, then {after}");
    assert!(after < before + (96 << 10), "{before} KiB, then {after}");
}
