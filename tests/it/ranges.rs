//! Several senders of one archive: ranges of blocks, in any order and at the same time, and the
//! whole archive by several senders.

use crate::support::index;
use crate::support::{Lab, Output, Tree, assert_same_tree};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const SIZE: usize = 1000;

struct Setting {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    last: usize,
}

impl Setting {
    fn new(seed: u64) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        Tree::new(&src, seed).rich(20_000);
        let db = lab.index(&src);
        let last = index::archive(&src, &db).len().div_ceil(SIZE) - 1;
        Self { lab, src, dst, db, last }
    }

    fn range(&self, url: &str, more: Vec<OsString>) -> Output {
        self.lab.upload(&self.src, &self.db, url, [args!["-s", SIZE.to_string()], more].concat())
    }
}

/// The host that sends the last missing range confirms the whole archive; an earlier host confirms
/// its own range only.
fn in_order(ranges: &[(usize, usize)], setting: &Setting) {
    let proxy = setting.lab.proxy(&setting.dst);
    let mut sent = 0;
    for (number, (first, last)) in ranges.iter().enumerate() {
        let output = setting.range(&proxy.url, args!["-f", first.to_string(), "-l", last.to_string()]);
        sent += last - first + 1;
        assert_eq!(proxy.blocks_accepted(), sent as u64, "both ends count: {first} to {last}");
        if number == ranges.len() - 1 {
            output.code(0);
        } else {
            assert_eq!(proxy.status(0)["complete"], false);
            assert_eq!(output.code, 0, "the range itself is done: {output:?}");
        }
    }
    assert_eq!(proxy.status(0)["complete"], true);
    assert_same_tree(&setting.src, &setting.dst);
}

#[test]
fn two_ranges_one_after_the_other() {
    let setting = Setting::new(20);
    let middle = setting.last / 2;
    in_order(&[(0, middle), (middle + 1, setting.last)], &setting);
}

#[test]
fn two_ranges_the_second_first() {
    let setting = Setting::new(21);
    let middle = setting.last / 2;
    in_order(&[(middle + 1, setting.last), (0, middle)], &setting);
}

#[test]
fn single_blocks_from_the_end() {
    let setting = Setting::new(22);
    let last = setting.last;
    in_order(&[(last, last), (last - 1, last - 1), (1, last - 2), (0, 0)], &setting);
}

#[test]
fn two_ranges_side_by_side() {
    let setting = Setting::new(23);
    let proxy = setting.lab.proxy(&setting.dst);
    let middle = setting.last / 2;
    let start = |more: Vec<OsString>| {
        let more = [args!["-s", SIZE.to_string(), "-p", "3"], more].concat();
        setting.lab.upload_cmd(&setting.src, &setting.db, &proxy.url, more).spawn()
    };
    let (low, high) = (
        start(args!["-f", "0", "-l", middle.to_string()]),
        start(args!["--first-block", (middle + 1).to_string()]),
    );
    low.wait().code(0);
    high.wait().code(0);
    assert_eq!(proxy.blocks_accepted(), setting.last as u64 + 1);
    assert_eq!(proxy.status(0)["complete"], true);
    assert_same_tree(&setting.src, &setting.dst);
}

/// P7: any number and concurrency of the same blocks gives the same tree.
#[test]
fn the_whole_by_three_senders_at_once_in_different_blocks() {
    let setting = Setting::new(24);
    let proxy = setting.lab.proxy(&setting.dst);
    let running: Vec<_> = ["1000", "1000", "1777"]
        .iter()
        .map(|size| {
            let more = args!["-s", size, "-p", "4"];
            setting.lab.upload_cmd(&setting.src, &setting.db, &proxy.url, more).spawn()
        })
        .collect();
    for upload in running {
        upload.wait().code(0);
    }
    assert_same_tree(&setting.src, &setting.dst);
}

/// P7, with raw requests: every block in a random order, twice, by four connections at once, in
/// three block sizes.
#[test]
fn the_same_blocks_any_number_of_times_in_any_order() {
    let setting = Setting::new(25);
    let proxy = setting.lab.proxy(&setting.dst);
    let archive = index::archive(&setting.src, &setting.db);
    let digest = index::digest(&setting.db);
    let put =
        proxy.request("PUT", "/tar/0/db", &[("x-tar-like-index", &digest)], &index::frame_of(&setting.db));
    assert_eq!((put.status, put.json()["digest"].as_str()), (200, Some(digest.as_str())), "{}", put.text());
    let mut order: Vec<(usize, usize)> = [1000, 1500, 40_000]
        .iter()
        .flat_map(|&size| (0..archive.len().div_ceil(size)).map(move |n| (size, n)))
        .collect();
    order.extend(order.clone());
    let mut rng = crate::support::Rng::new(25);
    for at in (1..order.len()).rev() {
        order.swap(at, rng.below(at as u64 + 1) as usize);
    }
    let put = |&(size, number): &(usize, usize)| {
        let content = index::block(&archive, size, number);
        let headers = [("x-tar-like-index", &*digest), ("x-tar-like-digest", &*index::blake3_hex(content))];
        let answer =
            proxy.request("PUT", &format!("/tar/0/{size}/{number}"), &headers, &index::frame(content));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let put = &put;
    std::thread::scope(|scope| {
        for part in order.chunks(order.len().div_ceil(4)) {
            scope.spawn(move || part.iter().for_each(put));
        }
    });
    let finish = proxy.request("POST", "/tar/0/finish", &[], b"{\"partial\":false}");
    assert_eq!((finish.status, &finish.json()["complete"]), (200, &true.into()), "{}", finish.text());
    assert_same_tree(&setting.src, &setting.dst);
}

#[test]
fn a_range_behind_the_end_or_the_wrong_way_round_is_refused() {
    let setting = Setting::new(26);
    let proxy = setting.lab.proxy(&setting.dst);
    let behind = (setting.last + 1).to_string();
    setting.range(&proxy.url, args!["-f", "5", "-l", "4"]).code(2);
    assert!(matches!(setting.range(&proxy.url, args!["-f", behind]).code, 0 | 2));
    assert_eq!(proxy.blocks_accepted(), 0);
    // An inclusive last block that is too large means "to the end", as in the original.
    setting.range(&proxy.url, args!["-l", "999999999"]).code(0);
    assert_same_tree(Path::new(&setting.src), &setting.dst);
}

/// A file that another host could not send is no failure of this host: its own range is confirmed.
#[test]
fn a_file_that_fails_at_another_host_is_not_this_ones_failure() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 77);
    for number in 0..10 {
        tree.noise(format!("f{number}"), 500);
    }
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    std::fs::remove_file(src.join("f9")).unwrap();
    let output = lab.upload(&src, &db, &proxy.url, args!["-s", "1000", "-f", "3"]).code(3);
    assert!(output.stderr.contains("failed: f9"), "{}", output.stderr);
    let output = lab.upload(&src, &db, &proxy.url, args!["-s", "1000", "-l", "2"]).code(0);
    assert!(!output.stderr.contains("f9"), "{}", output.stderr);
}
