//! Flags and protection, from end to end with several receivers.

use super::{HOST, Setting, many};
use crate::support::stress::free_port;
use crate::support::tls::Authority;
use crate::support::{Lab, Proxy, Tree, assert_same_files, assert_same_tree};

#[test]
fn ranges_of_blocks_go_to_all_slices() {
    let setting = Setting::new(410, 3);
    let (lab, db) = (&setting.lab, setting.lab.index(&setting.src));
    let upload = |more| lab.upload(&setting.src, &db, &setting.slices[0].url, more);
    let all = upload(args!["-s", "10000", "--dry-run", "--json"]).code(0).summary();
    let half = all["sent_blocks"].as_u64().unwrap() / 2;
    let first = upload(args!["-s", "10000", "-f", (half + 1).to_string(), "--json"]).code(0).summary();
    assert!(first["others_bytes"].as_u64() > Some(0), "{first}");
    assert!(setting.published().iter().all(|&files| files > 0), "{:?}", setting.published());
    let second = upload(args!["-s", "10000", "-l", half.to_string(), "--json"]).code(0).summary();
    assert_eq!(second["complete"], true, "{second}");
    let sent = |report: &serde_json::Value| report["sent_bytes"].as_u64().unwrap();
    assert_eq!(sent(&first) + sent(&second), all["total_bytes"].as_u64().unwrap());
    setting.is_same();
}

#[test]
fn ignore_done_sends_everything_to_each_slice_again() {
    let setting = Setting::new(420, 3);
    let (lab, db) = (&setting.lab, setting.lab.index(&setting.src));
    let upload = |more| lab.upload(&setting.src, &db, &setting.slices[0].url, more).code(0).summary();
    upload(args!["--json"]);
    let accepted =
        || setting.slices.iter().map(|proxy| proxy.metric("tarlike_block_bytes_total")).collect::<Vec<_>>();
    let before = accepted();
    let again = upload(args!["--ignore-done", "--json", "-s", "20000"]);
    assert_eq!((&again["sent_bytes"], &again["complete"]), (&again["total_bytes"], &true.into()), "{again}");
    for (before, after) in before.iter().zip(accepted()) {
        assert_eq!(after, 2.0 * before, "{again}");
    }
    setting.is_same();
}

#[test]
fn parts_of_a_source_go_to_all_slices() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 430);
    let slices = lab.slices(&dst, 2, HOST, &[]);
    for round in 0..2 {
        for folder in 0..12 {
            many(&mut tree, &format!("d{folder}/f"), round..round + 6, 3000);
        }
        for part in ["1/2", "2/2"] {
            let sync = args!["sync", src, slices[0].url, "--shard", part, "--delete"];
            lab.cmd(sync).derived().run().code(0);
        }
        for proxy in &slices {
            assert!(proxy.metric("tarlike_files_published_total") > 5.0);
        }
        // The time of a folder is that of the run that came last.
        assert_same_files(&src, &dst);
        tree.remove("d3/f02").remove("d4/f02");
    }
}

/// As in OPERATIONS.md: TLS at each receiver, and tokens with scopes.
#[test]
fn tls_and_tokens_of_each_slice() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    many(&mut Tree::new(&src, 440), "f", 0..40, 3000);
    let authority = Authority::new(&lab, "ca");
    let receiver = authority.issue(HOST);
    let secret = "0123456789abcdef0123456789abcdef";
    let token = lab.file("token", secret);
    let other = lab.file("other", "fedcba9876543210fedcba9876543210");
    let hash = crate::support::index::blake3_hex(secret.as_bytes());
    let tokens = |scope: &str| format!("name=sender hash=blake3:{hash} scope={scope} tar-id=*\n");
    let (good, narrow) = (lab.file("tokens", tokens("upload")), lab.file("narrow", tokens("status")));
    let ports = [free_port(), free_port()];
    let peers = ports.map(|port| format!("https://{HOST}:{port}/tar")).join(",");
    let slice = |number: usize, tokens| -> Proxy {
        let flags = args![
            "--slice",
            format!("{number}/2"),
            "--peers",
            peers,
            "--stripe-size",
            "20K",
            "--tls-cert",
            receiver.cert,
            "--tls-key",
            receiver.key,
            "--tokens",
            tokens
        ];
        lab.proxy_cmd(ports[number - 1], &dst).args(flags).serve()
    };
    let (first, second) = (slice(1, &good), slice(2, &narrow));
    let url = format!("https://{HOST}:{}/tar", ports[0]);
    let sync =
        |token| lab.sync(&src, &url, args!["--ca-file", authority.pem(), "--token-file", token, "--json"]);
    sync(&other).code(1);
    // The token of the second one does not allow it: its files fail.
    let report = sync(&token).code(3).summary();
    assert_eq!(report["failed_slices"][0]["slice"], "2/2", "{report}");
    drop(second);
    let _second = slice(2, &good);
    sync(&token).code(0);
    assert_same_tree(&src, &dst);
    // What is secret for the first one is not told to the second one in the clear.
    drop(first);
    let mixed = format!("https://{HOST}:{},http://{HOST}:{}", ports[0], ports[1]);
    let flags = args![
        "--slice",
        "1/2",
        "--peers",
        mixed,
        "--stripe-size",
        "20K",
        "--tls-cert",
        receiver.cert,
        "--tls-key",
        receiver.key,
        "--tokens",
        good
    ];
    let _first = lab.proxy_cmd(ports[0], &dst).args(flags).serve();
    many(&mut Tree::new(&src, 441), "g", 0..40, 3000);
    sync(&token).code(2).says("where everybody can read");
}
