//! Files that are no complete database, or far too large.

use super::{MEMORY_KIB, Setting};
use crate::support::Rng;
use crate::support::index::{self, frame};
use crate::support::stress::peak_kib;

#[test]
fn headers_and_lengths() {
    let setting = Setting::new(vec![]);
    let good = std::fs::read(&setting.good).unwrap();
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("nothing".into(), Vec::new()),
        ("one byte".into(), vec![0]),
        ("zeros".into(), vec![0; good.len()]),
        ("just a header".into(), good[..100].to_vec()),
        ("another magic".into(), [b"SQLite format 4\0", &good[16..]].concat()),
        ("a trailing byte".into(), [&good[..], &[0]].concat()),
        ("a trailing page".into(), [&good[..], &vec![0; 4096]].concat()),
        ("twice".into(), good.repeat(2)),
        ("an HTML page".into(), b"<html>502 Bad Gateway</html>".repeat(200)),
    ];
    for page in (1..good.len() / 4096).step_by(3) {
        cases.push((format!("cut at page {page}"), good[..page * 4096].to_vec()));
        cases.push((format!("cut within page {page}"), good[..page * 4096 + 77].to_vec()));
    }
    cases.push(("the last byte is missing".into(), good[..good.len() - 1].to_vec()));
    for (at, value) in
        [(16, 0), (17, 7), (21, 255), (22, 255), (23, 255), (28, 255), (29, 1), (47, 9), (59, 2)]
    {
        let mut bad = good.clone();
        bad[at] = value;
        cases.push((format!("byte {at} of the header is {value}"), bad));
    }
    for (what, bad) in cases {
        setting.refused(&what, setting.put_body(&frame(&bad)), 422);
    }
    let body = frame(&good);
    for cut in (0..body.len()).step_by(body.len() / 40) {
        setting.refused(&format!("body cut at {cut}"), setting.put_body(&body[..cut]), 422);
    }
    setting.refused("two frames", setting.put_body(&body.repeat(2)), 422);
    setting.refused("junk behind the frame", setting.put_body(&[&body[..], b"junk"].concat()), 422);
    setting.refused("not compressed", setting.put_body(&good), 422);
    setting.still_good();
}

/// Damage at any place is refused, or does not matter: then the rows, and so the digest, are
/// unchanged.
#[test]
fn flipped_bytes() {
    let setting = Setting::new(vec![]);
    let (good, digest) = (std::fs::read(&setting.good).unwrap(), index::digest(&setting.good));
    let mut rng = Rng::new(231);
    let mut refused = 0;
    for round in 0..400 {
        let mut bad = good.clone();
        let count = 1 + round % 3;
        for _ in 0..count {
            // Half of the places are in the structure of pages.
            let page = rng.below((bad.len() / 4096) as u64) as usize * 4096;
            let within = if round % 2 == 0 { rng.below(24) } else { rng.below(4096) } as usize;
            bad[page + within] ^= 1 << rng.below(8);
        }
        let headers = [("x-tar-like-index", &*digest)];
        // A new archive for each: an archive that has the index already would not read it again.
        let path = format!("/tar/{}/db", round + 100);
        let answer = setting.proxy.request("PUT", &path, &headers, &frame(&bad));
        match answer.status {
            422 => refused += 1,
            200 => assert_eq!(answer.json()["digest"], digest),
            other => panic!("round {round}: {other} {}", answer.text()),
        }
    }
    println!("{refused} of 400 refused");
    assert!(refused > 50);
    setting.still_good();
}

/// Small on the wire, and larger than the limit: 413 as soon as the limit is passed, and 422 if the
/// beginning is not that of a database.
#[test]
fn bombs() {
    let setting = Setting::new(args!["--max-index-size", "1M"]);
    let bomb = frame(&vec![0; 64 << 20]);
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    setting.refused("zeros", setting.put_body(&bomb), 422);
    let mut database = std::fs::read(&setting.good).unwrap();
    database.resize(64 << 20, 0);
    setting.refused("a database and zeros", setting.put_body(&frame(&database)), 413);
    setting.refused("a long body", setting.put_body(&vec![0; 2 << 20]), 413);
    let peak = peak_kib(setting.proxy.pid());
    assert!(peak <= MEMORY_KIB, "{peak} KiB");
    setting.still_good();
}

#[test]
fn huge_values() {
    Setting::new(vec![]).all_refused(&[
        ("a path of 10 MB", "UPDATE tar SET path=CAST(zeroblob(10000000) AS TEXT) WHERE path='empty'"),
        ("a hash of 30 MB", "UPDATE tar SET hash=zeroblob(30000000) WHERE path='empty'"),
        ("a size of 10 MB", "UPDATE tar SET size=zeroblob(10000000) WHERE path='empty'"),
        ("a word of 30 MB", "UPDATE tarlike_meta SET value=zeroblob(30000000) WHERE key='complete'"),
        ("a node of 30 MB", "UPDATE tarlike_node SET path=zeroblob(30000000) WHERE path='e'"),
        ("a table's name of 1 MB", "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE TABLE tar(id, \"'||replace(hex(zeroblob(500000)),'0','x')||'\")' WHERE name='tar'"),
        ("a thousand tables", &(0..1000).map(|n| format!("CREATE TABLE t{n}(x);")).collect::<String>()),
    ]);
}

/// Many valid rows, and then an invalid one.
#[test]
fn two_hundred_thousand_rows_and_a_bad_one() {
    let setting = Setting::new(vec![]);
    let rows = "DELETE FROM tar; DELETE FROM tarlike_node; DELETE FROM tarlike_file;
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<199999)
        INSERT INTO tar SELECT i, 'folder/'||i, 3, i*3, i*3+2, '900150983cd24fb0d6963f7d28e17f72' FROM n;";
    let bad = setting.changed(&format!("{rows} UPDATE tar SET path='../outside/evil' WHERE id=199999"));
    setting.refused("the last path", setting.put(&bad), 422);
    let bad = setting.changed(&format!("{rows} UPDATE tar SET path='folder' WHERE id=100000"));
    setting.refused("a file among its folder's files", setting.put(&bad), 422);
    let bad = setting.changed(&format!("{rows} UPDATE tar SET path='folder/7' WHERE id=199999"));
    setting.refused("the last path again", setting.put(&bad), 422);
    setting.still_good();
}
