//! Several hosts as the documents have it: the commands of README.md, and what OPERATIONS.md says
//! of a slice that was lost with its state folder.

use crate::support::stress::free_port;
use crate::support::{Cmd, Lab, Proxy, Tree, assert_same_tree, need_tool, wait_until};
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// The block of README.md that has these commands, each with what says who types it.
fn commands_of_readme() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let found: Vec<&str> = blocks.filter(|block| block.contains("--slice")).collect();
    assert_eq!(found.len(), 1, "the block is not found");
    found[0].lines().map(str::to_owned).collect()
}

/// What stands for a host of the README on this one.
fn on_this_host(lab: &Lab, line: &str, ports: &[u16; 3]) -> String {
    let [first, second, queue] = ports;
    let proxy_port = if line.contains("--slice 2/2") { second } else { first };
    let state = lab.path(&format!("state-{proxy_port}"));
    let mut line = line.to_owned();
    for (name, here) in [
        ("http://receiver:8000", format!("http://127.0.0.1:{first}")),
        ("http://receiver-2:8000", format!("http://127.0.0.1:{second}")),
        ("tar-like proxy", format!("tar-like proxy {proxy_port}")),
        ("/var/lib/tar-like", state.display().to_string()),
        ("/mnt/copy", lab.path("copy").display().to_string()),
        ("/srv/photos", lab.path("src").display().to_string()),
        (
            "redis-server",
            format!("redis-server --port {queue} --save '' --dir {}", lab.path("tmp").display()),
        ),
        ("redis://queue", format!("redis://127.0.0.1:{queue}")),
    ] {
        line = line.replace(name, &here);
    }
    line
}

/// A shell that has typed `exports` types `line`.
fn typed(lab: &Lab, exports: &str, line: &str) -> Cmd {
    let folder = Path::new(env!("CARGO_BIN_EXE_tar-like")).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(folder.to_path_buf())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let script = format!("{exports}\nexec {line}");
    lab.cmd(args!["-euc", script]).program(Path::new("bash")).env("PATH", path.unwrap())
}

#[test]
fn six_commands_bring_further_hosts_into_a_migration() {
    need_tool("redis-server", "apt-get install redis-server");
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("copy"));
    let mut tree = Tree::new(&src, 80);
    tree.rich(100_000);
    for number in 0..40 {
        tree.noise(format!("large/{number}"), 1 << 20);
    }
    let token = lab.file("home/token", "0123456789abcdef0123456789abcdef");
    let ports = [free_port(), free_port(), free_port()];
    let lines = commands_of_readme();
    let lines: Vec<String> = lines.iter().map(|line| on_this_host(&lab, line, &ports)).collect();
    let (exports, commands): (Vec<String>, Vec<String>) =
        lines.into_iter().partition(|line| line.starts_with("export "));
    let ([of_receivers, of_senders], [first, second, queue, sync, worker]) = (&*exports, &*commands) else {
        panic!("other commands: {exports:?} {commands:?}");
    };

    // What runs: one sender, one receiver. Both are stopped in the middle.
    let state = lab.path(&format!("state-{}", ports[0]));
    let proxy = lab.proxy_with(&dst, args!["--state", state, "--token-file", token]);
    let begun = args!["sync", src, format!("{}/tar", proxy.url), "--token-file", token, "--bwlimit", "4M"];
    let running = lab.cmd(begun).args(args!["-s", "500000"]).derived().spawn();
    wait_until("some blocks are there", PATIENCE, || {
        let bearer = [("authorization", "Bearer 0123456789abcdef0123456789abcdef")];
        let text = proxy.request("GET", "/metrics", &bearer, b"").text();
        text.lines().any(|l| l.strip_prefix("tarlike_blocks_accepted_total ").is_some_and(|n| n != "0"))
    });
    running.signal(rustix::process::Signal::INT);
    running.wait().code(130);
    proxy.term_and_wait().code(0);

    let receivers = [first, second].map(|line| typed(&lab, of_receivers, line).spawn());
    let queue = typed(&lab, of_senders, queue).spawn();
    for port in ports {
        wait_until("it listens", PATIENCE, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
    let slow = format!("{of_senders} TARLIKE_BWLIMIT=2M TARLIKE_BLOCK_SIZE=500000");
    let sync = typed(&lab, &slow, sync).derived().spawn();
    let listed = || typed(&lab, of_senders, "tar-like worker list").run().code(0).stdout;
    wait_until("the job is there, one for each slice", PATIENCE, || !listed().is_empty());
    let worker = typed(&lab, of_senders, worker).run().code(0);
    sync.wait().code(0);
    assert!(worker.stderr.contains("confirmed by the receiver"), "{worker:?}");
    assert_same_tree(&src, &dst);
    assert!(dst.join(".tar-like/slice-2-of-2").is_dir(), "the second receiver took part");
    drop((receivers, queue));
}

/// Slice `slice` of `dst`, with a state folder.
fn slice(lab: &Lab, dst: &Path, slice: &str, port: u16, urls: &str, state: &Path) -> Proxy {
    let args =
        args!["proxy", port.to_string(), "-b", dst, "--state", state, "--slice", slice, "--peers", urls];
    lab.cmd(args).args(args!["--stripe-size", "64K"]).serve()
}

#[test]
fn a_slice_that_was_lost_with_its_state_folder_begins_again() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 81);
    for number in 0..20 {
        tree.noise(number.to_string(), 50_000);
    }
    let ports = [free_port(), free_port()];
    let urls = ports.map(|port| format!("http://127.0.0.1:{port}/tar")).join(",");
    let first = slice(&lab, &dst, "1/2", ports[0], &urls, &lab.path("state-1"));
    let second = slice(&lab, &dst, "2/2", ports[1], &urls, &lab.path("state-2"));
    let db = lab.index(&src);
    let upload = |db: &Path| lab.upload(&src, db, &first.url, args!["--stall-timeout", "5"]);
    upload(&db).code(0);
    second.term_and_wait().code(0);
    std::fs::remove_dir_all(lab.path("state-2")).unwrap();
    let start = args!["proxy", "0", "-b", dst, "--slice", "2/2", "--state", lab.path("state-3")];
    lab.cmd(start).run().code(2).says("has not the journal of");
    std::fs::rename(dst.join(".tar-like/slice-2-of-2"), lab.path("aside")).unwrap();
    let _second = slice(&lab, &dst, "2/2", ports[1], &urls, &lab.path("state-4"));
    for number in 0..20 {
        tree.noise(number.to_string(), 50_000);
    }
    upload(&lab.index(&src)).code(0);
    assert_same_tree(&src, &dst);
}
