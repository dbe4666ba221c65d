//! What a slice that fails costs: its own files, and no time or word more than that.

use super::{HOST, PATIENCE, Setting, many};
use crate::support::relay::{Fate, Relay};
use crate::support::stress::{Mount, free_port};
use crate::support::{Lab, Proxy, Tree, assert_same_tree, wait_until};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Slice `slice` of `dst` at this port, with short stripes.
fn slice(lab: &Lab, dst: &Path, slice: &str, port: u16, peers: &str) -> Proxy {
    let flags = args!["--slice", slice, "--peers", peers, "--stripe-size", "20K"];
    lab.proxy_cmd(port, dst).args(flags).serve()
}

fn address(port: u16) -> String {
    format!("http://{HOST}:{port}")
}

/// A slice that failed once, and has put everything in place all the same, is not what a run ends
/// with.
#[test]
fn a_failure_that_is_over_is_not_told_of() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 310);
    many(&mut tree, "f", 0..30, 3000);
    let db = lab.index(&src);
    // What fails for another reason: it is not in the source any more.
    tree.remove("f00");
    let ports = [free_port(), free_port()];
    let handover = dst.join(".tar-like/slice-2-of-2/handover");
    let is_refused = AtomicBool::new(false);
    let relay = Relay::start(([127, 0, 0, 1], ports[1]).into(), move |_, request| {
        if !request.line().contains("/finish") || is_refused.swap(true, Ordering::SeqCst) {
            return Fate::Pass;
        }
        // The slice hands over by itself.
        let is_there = || handover.read_dir().is_ok_and(|mut names| names.next().is_some());
        wait_until("it is handed over", PATIENCE, is_there);
        let body = r#"{"error": "this receiver is slice 1/3", "kind": "wrong_slice"}"#;
        Fate::answer("421 Misdirected Request", "x-tar-like: 1\r\n", body)
    });
    let peers = [address(ports[0]), relay.url.clone()].join(",");
    let slices = [slice(&lab, &dst, "1/2", ports[0], &peers), slice(&lab, &dst, "2/2", ports[1], &peers)];
    let report = lab.upload(&src, &db, &slices[0].url, args!["--json"]).code(3).summary();
    assert_eq!(
        (&report["failed_total"], &report["failed"][0]["path"]),
        (&1.into(), &"f00".into()),
        "{report}"
    );
    assert_eq!(report["failed_slices"], serde_json::json!([]), "{report}");
}

/// An address that does not answer holds up no slice that is at another one.
#[test]
fn a_slice_is_found_beside_an_address_that_is_dead() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    many(&mut Tree::new(&src, 320), "f", 0..60, 3000);
    let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
    // The fourth one does not run. Slice 2 is at the last address, slice 3 at the second one.
    let peers = [0, 2, 3, 1].map(|at| address(ports[at])).join(",");
    let start = |number: usize| slice(&lab, &dst, &format!("{number}/4"), ports[number - 1], &peers);
    let mut slices: Vec<Proxy> = (1..=3).map(start).collect();
    let failed = lab.sync(&src, &slices[0].url, args!["--stall-timeout", "4", "--json"]).code(3).summary();
    let lost: Vec<&str> =
        failed["failed_slices"].as_array().unwrap().iter().map(|s| s["slice"].as_str().unwrap()).collect();
    assert_eq!(lost, ["4/4"], "{failed}");
    for proxy in &slices {
        assert!(proxy.metric("tarlike_files_published_total") > 5.0);
    }
    slices.push(start(4));
    lab.sync(&src, &slices[0].url, args![]).code(0);
    assert_same_tree(&src, &dst);
}

/// Slices that come back as each other in the middle of a run are asked again where they are.
#[test]
fn slices_that_change_places_in_a_run() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    many(&mut Tree::new(&src, 330), "f", 0..60, 20_000);
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let peers = ports.iter().map(|port| address(*port)).collect::<Vec<_>>().join(",");
    let [first, second, third] =
        [1, 2, 3].map(|number: usize| slice(&lab, &dst, &format!("{number}/3"), ports[number - 1], &peers));
    let more = args!["-s", "20000", "--bwlimit", "200K", "--compress", "none", "--json"];
    let running = lab.cmd(args!["sync", src, first.url]).args(more).derived().spawn();
    wait_until("both have some", PATIENCE, || {
        [&second, &third].iter().all(|proxy| proxy.blocks_accepted() > 0)
    });
    drop((second, third));
    let _swapped = [slice(&lab, &dst, "3/3", ports[1], &peers), slice(&lab, &dst, "2/3", ports[2], &peers)];
    running.wait().code(0);
    assert_same_tree(&src, &dst);
}

/// What a slice has of a file that is not complete is no work that is left.
#[test]
fn progress_counts_what_other_slices_have() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 340).noise("a", 1_000_000).noise("b", 12_000_000);
    let db = lab.index(&src);
    let stripes = args!["--stripe-size", "1000000"];
    let slices = lab.slices(&dst, 2, HOST, &stripes);
    let url = &slices[0].url;
    lab.upload(&src, &db, url, args!["-s", "1000000", "-l", "8"]).code(0);
    let more = args!["-s", "1000000", "--json", "--bwlimit", "1M", "--compress", "none"];
    let output = lab.upload(&src, &db, url, more).code(0);
    let lines: Vec<_> = output.json().into_iter().filter(|line| line["event"] == "progress").collect();
    // All but what is seen before the second slice was asked.
    let sending: Vec<_> =
        lines.iter().filter(|line| line["phase"] == "sending" && line["sent_bytes"] != 0).collect();
    assert!(!sending.is_empty(), "{lines:?}");
    for line in sending {
        assert_eq!(line["resumed_bytes"], 9_000_000, "{line}");
        let done = line["done_bytes"].as_u64().unwrap();
        assert!((9_000_000..=13_000_000).contains(&done) && line["total_bytes"] == 13_000_000, "{line}");
    }
    let summary = output.summary();
    assert_eq!(
        (&summary["sent_bytes"], &summary["complete"]),
        (&4_000_000.into(), &true.into()),
        "{summary}"
    );
    assert_same_tree(&src, &dst);
}

/// Other slices than those that run are refused, and the new ones start when all of them have ended.
#[test]
fn slices_of_another_number_do_not_run_side_by_side() {
    let mut setting = Setting::new(350, 2);
    let [first, second] = <[Proxy; 2]>::try_from(std::mem::take(&mut setting.slices)).ok().unwrap();
    let start = |slice: &str| {
        let more = if slice.is_empty() { args![] } else { args!["--slice", slice] };
        setting.lab.cmd(args!["proxy", "0", "-b", setting.dst]).args(more)
    };
    start("2/3").run().code(1).says("other slices run: 1/2, 2/2").says("stop");
    start("3/4").run().code(1).says("other slices run: 1/2, 2/2");
    first.term_and_wait().code(0);
    start("1/3").run().code(1).says("other slices run: 2/2");
    start("").run().code(1).says("other slices run: 2/2");
    second.term_and_wait().code(0);
    setting.restart(3);
    setting.sync(args![]).code(0);
    setting.is_same();
}

/// A state folder without room is what readiness and the sender name.
#[test]
fn a_slice_with_a_full_state_disk_says_so() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let Some(disk) = Mount::tmpfs(&lab.path("state"), "size=3m,mode=700") else { return };
    many(&mut Tree::new(&src, 360), "f", 0..40, 3000);
    let ports = [free_port(), free_port()];
    let peers = ports.map(address).join(",");
    let first = slice(&lab, &dst, "1/2", ports[0], &peers);
    let flags = args!["--slice", "2/2", "--peers", peers, "--stripe-size", "20K", "--state", disk.path];
    let second = lab.proxy_cmd(ports[1], &dst).args(flags).serve();
    let ready = |proxy: &Proxy| {
        let answer = proxy.request("GET", "/readyz", &[], b"");
        (answer.status, answer.text().trim().to_string())
    };
    assert_eq!(ready(&second), (200, "ready".to_string()));
    assert!(second.metric("tarlike_state_free_bytes") > 0.0);
    let ballast = disk.path.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    wait_until("it is full", PATIENCE, || ready(&second) == (200, "full".to_string()));
    assert_eq!(ready(&first).1, "ready");
    lab.run(args!["health", second.url]).code(0).says("it takes no block in");
    let folder = disk.path.to_str().unwrap();
    assert!(second.stderr().contains(&format!("the state folder {folder}")), "{}", second.stderr());
    let report = lab.sync(&src, &first.url, args!["--stall-timeout", "2", "--json"]).code(3).summary();
    let hint = report["failed_slices"][0]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("free space") && hint.contains(folder), "{report}");
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    wait_until("there is space again", PATIENCE, || ready(&second).1 == "ready");
    lab.sync(&src, &first.url, args![]).code(0);
    assert_same_tree(&src, &dst);
    drop((first, second));
    disk.unmount();
}

/// Of a run that two slices take part in, a user sees one line, of all of it.
#[test]
fn a_slow_run_shows_one_progress_of_all_slices() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    many(&mut Tree::new(&src, 370), "f", 0..30, 100_000);
    let stripes = args!["--stripe-size", "200K"];
    let slices = lab.slices(&dst, 3, HOST, &stripes);
    let more = args!["-s", "100000", "--json", "--bwlimit", "1M", "--compress", "none"];
    let output = lab.sync(&src, &slices[0].url, more).code(0);
    let lines: Vec<_> = output.json().into_iter().filter(|line| line["event"] == "progress").collect();
    let mut before = 0;
    for line in lines.iter().filter(|line| line["phase"] == "sending") {
        let done = line["done_bytes"].as_u64().unwrap();
        assert!(done >= before && done <= 3_000_000, "{lines:?}");
        before = done;
    }
    assert!(before > 0, "{lines:?}");
    assert!(Duration::from_secs_f64(output.summary()["seconds"].as_f64().unwrap()) > Duration::from_secs(2));
}
