//! Several receivers on one folder behind one address: haproxy leads each request to the slice that
//! it names.

use super::{Haproxy, certificates};
use crate::support::{Lab, Proxy, Tree, assert_same_tree, http, wait_until};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Slice `slice` of the folder `base`, with short stripes.
fn slice(lab: &Lab, base: &Path, slice: &str, more: &[&str]) -> Proxy {
    let mut args = args!["proxy", "0", "-b", base, "--slice", slice, "--stripe-size", "64K"];
    args.extend(more.iter().map(Into::into));
    lab.cmd(args).serve()
}

/// What haproxy answers when slice `slice` is asked for its status; "" is the whole archive.
fn status_through(haproxy: &Haproxy, slice: &str) -> u16 {
    let header = match slice {
        "" => String::new(),
        slice => format!("x-tar-like-slice: {slice}\r\n"),
    };
    let request = format!("GET /tar/0/status HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    http::raw(haproxy.plain, request.as_bytes()).status
}

#[test]
fn three_slices_behind_one_address_and_one_that_dies() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 62);
    tree.rich(200_000);
    for number in 0..30 {
        tree.noise(format!("more/{number}"), 50_000);
    }
    let db = lab.index(&src);
    let [first, second, mut third] = ["1/3", "2/3", "3/3"].map(|number| slice(&lab, &dst, number, &[]));
    let fourth = slice(&lab, &dst, "3/3", &["--standby"]);
    let addresses = [&second, &third, &fourth].map(|proxy| proxy.addr.to_string());
    let more = ["TARLIKE_SLICE_2", "TARLIKE_SLICE_3", "TARLIKE_SLICE_3_STANDBY"];
    let more: Vec<(&str, &str)> = more.into_iter().zip(addresses.iter().map(String::as_str)).collect();
    let haproxy = Haproxy::start_with(&lab, &[first.addr], &more).ready();
    let ca = certificates(&lab).join("ca.pem");
    let upload = |db: &Path, more| {
        let args = [args!["--ca-file", ca, "-s", "200000", "--stall-timeout", "3"], more].concat();
        lab.upload(&src, db, &haproxy.url(), args)
    };
    for slice in ["2/3", "3/3"] {
        // 404: there is no index yet. 503: haproxy has not asked for its health yet.
        wait_until("all slices are reached", PATIENCE, || status_through(&haproxy, slice) == 404);
    }
    upload(&db, args![]).code(0);
    assert_same_tree(&src, &dst);
    lab.check(&dst, &db, args!["--extra"]).code(0);
    for proxy in [&first, &second, &third] {
        assert!(proxy.blocks_accepted() > 0, "each slice had a share");
    }
    // A request for a slice that is not there is for the first one to refuse.
    for (asked, answer) in [("", 200), ("1/3", 200), ("2/3", 200), ("3/3", 200), ("2/2", 421), ("9/9", 421)] {
        assert_eq!(status_through(&haproxy, asked), answer, "{asked}");
    }
    let log = haproxy.log();
    for server in ["proxy1", "slice2", "slice3"] {
        let is_block = |path: &serde_json::Value| path.as_str().is_some_and(|path| path.contains("/200000/"));
        assert!(log.iter().any(|l| l["server"] == server && is_block(&l["path"]) && l["status"] == 200));
    }

    // A slice that takes over where the previous one ended.
    for number in 0..30 {
        tree.noise(format!("more/{number}"), 50_000);
    }
    let db = lab.index(&src);
    third.kill9();
    wait_until("the other one takes over", PATIENCE, || status_through(&haproxy, "3/3") == 200);
    upload(&db, args![]).code(0);
    assert_same_tree(&src, &dst);
    assert!(fourth.blocks_accepted() > 0);

    // A slice that is gone: only what is for it gets 503.
    fourth.term_and_wait().code(0);
    wait_until("haproxy sees it", PATIENCE, || status_through(&haproxy, "3/3") == 503);
    for asked in ["", "1/3", "2/3"] {
        assert_eq!(status_through(&haproxy, asked), 200, "{asked}");
    }
    for number in 0..30 {
        tree.noise(format!("more/{number}"), 50_000);
    }
    let db = lab.index(&src);
    let output = upload(&db, args![]).code(3).says("slice 3/3");
    let same = |name: &str| std::fs::read(src.join(name)).ok() == std::fs::read(dst.join(name)).ok();
    let in_place = (0..30).filter(|number| same(&format!("more/{number}"))).count();
    assert!((10..30).contains(&in_place), "{in_place} of 30 files are in place: {output:?}");
}
