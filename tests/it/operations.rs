//! What operators are given: systemd units, and the names of metrics in alerts, dashboard and page.

use crate::support::redis::Redis;
use crate::support::stress::Mount;
use crate::support::{Lab, Tree, need_tool, skip, wait_until};
use regex::Regex;
use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

fn read(name: &str) -> String {
    let path = docs().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn names(text: &str, pattern: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.find_iter(text).map(|name| name.as_str().to_owned()).collect()
}

const UNITS: [&str; 4] = [
    "tar-like-proxy.service",
    "tar-like-upload@.service",
    "tar-like-sync@.service",
    "tar-like-worker@.service",
];
const TIMERS: [&str; 2] = ["tar-like-upload@.timer", "tar-like-sync@.timer"];

/// The units in a folder of the lab, with the built program in place of the installed one.
fn units(lab: &Lab) -> PathBuf {
    let folder = lab.dir("units");
    for unit in UNITS.into_iter().chain(TIMERS) {
        let text = read(&format!("systemd/{unit}"));
        // A manual page that is not installed here would count as a fault, too.
        let text: String =
            text.lines().filter(|l| !l.starts_with("Documentation=")).map(|l| format!("{l}\n")).collect();
        std::fs::write(folder.join(unit), built(&text)).unwrap();
    }
    folder
}

fn built(unit: &str) -> String {
    unit.replace("/usr/bin/tar-like", env!("CARGO_BIN_EXE_tar-like"))
}

/// Drop-ins of the receiver's unit.
const DROP_INS: [&str; 2] = ["tar-like-proxy-root.conf", "tar-like-proxy-slice.conf"];

fn have_systemd_analyze() -> bool {
    // A container has no systemd, which would be a hundred megabytes for these tests.
    let have = Path::new("/usr/bin/systemd-analyze").is_file();
    if !have {
        skip("there is no systemd-analyze here (Debian package systemd)");
    }
    have
}

fn analyze(lab: &Lab, args: Vec<std::ffi::OsString>) -> crate::support::Output {
    lab.cmd(args).program(Path::new("systemd-analyze")).env("SYSTEMD_PAGER", "").run()
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    if !have_systemd_analyze() {
        return;
    }
    let lab = Lab::new();
    let folder = units(&lab);
    for unit in UNITS.into_iter().chain(TIMERS).map(|unit| unit.replace('@', "@x")) {
        let path = folder.join(&unit);
        if let Some((name, rest)) = unit.split_once("@x") {
            std::fs::copy(folder.join(format!("{name}@{rest}")), &path).unwrap();
        }
        let output = analyze(&lab, args!["verify", "--recursive-errors=no", path]);
        // Other units of this machine may have faults of their own.
        let ours: Vec<&str> = output.stderr.lines().filter(|line| line.contains("tar-like")).collect();
        assert!(ours.is_empty() && output.code == 0, "{unit}: {output:?}");
    }
    // A drop-in counts as if it stood at the end of the unit.
    for drop_in in DROP_INS {
        let whole = std::fs::read_to_string(folder.join(UNITS[0])).unwrap()
            + &built(&read(&format!("systemd/{drop_in}")));
        let path = lab.dir(drop_in).join(UNITS[0]);
        std::fs::write(&path, whole).unwrap();
        let output = analyze(&lab, args!["verify", "--recursive-errors=no", path]);
        let ours: Vec<&str> = output.stderr.lines().filter(|line| line.contains("tar-like")).collect();
        assert!(ours.is_empty() && output.code == 0, "{drop_in}: {output:?}");
    }
    // In tenths: 0 is a service that may do nothing, 100 one that may do everything.
    for (unit, most) in UNITS.into_iter().zip(["20", "25", "25", "25"]) {
        let path = folder.join(unit);
        analyze(&lab, args!["security", "--offline=yes", format!("--threshold={most}"), path]).code(0);
    }
}

/// The options in the units are options of the program.
#[test]
fn the_units_know_the_program() {
    let lab = Lab::new();
    for unit in UNITS.into_iter().chain(["tar-like-proxy-slice.conf"]) {
        let text = read(&format!("systemd/{unit}"));
        let start = text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart=/").map(|rest| format!("/{rest}")))
            .unwrap();
        let words: Vec<&str> = start.split(' ').collect();
        assert_eq!(words[0], "/usr/bin/tar-like", "{unit}");
        let help = lab.run(args![words[1], "--help"]).code(0).stdout;
        for option in words.iter().filter(|word| word.starts_with('-')) {
            assert!(help.contains(option), "{unit}: {option} is not in\n{help}");
        }
        let is_unit = !unit.ends_with(".conf");
        let ends = text.contains("\nRestartPreventExitStatus=2");
        assert_eq!(ends, is_unit, "{unit}: wrong usage does not mend itself");
    }
}

/// The system calls that a unit's filter allows, by systemd's own lists.
fn allowed_calls(lab: &Lab, unit: &str) -> BTreeSet<String> {
    fn expand(lab: &Lab, set: &str, into: &mut BTreeSet<String>) {
        if !set.starts_with('@') {
            into.insert(set.to_owned());
            return;
        }
        let list = analyze(lab, args!["syscall-filter", set]).code(0).stdout;
        for name in list.lines().skip(1).map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            expand(lab, name, into);
        }
    }
    // Always there, whatever the filter says.
    let mut allowed = BTreeSet::new();
    expand(lab, "@default", &mut allowed);
    for line in read(&format!("systemd/{unit}")).lines().filter_map(|l| l.strip_prefix("SystemCallFilter=")) {
        let mut sets = BTreeSet::new();
        for set in line.trim_start_matches('~').split(' ') {
            expand(lab, set, &mut sets);
        }
        match line.starts_with('~') {
            true => allowed.retain(|call| !sets.contains(call)),
            false => allowed.extend(sets),
        }
    }
    allowed
}

#[test]
fn the_filters_of_the_units_let_our_system_calls_pass() {
    if !have_systemd_analyze() {
        return;
    }
    need_tool("strace", "apt-get install strace");
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    // Small and large files, a folder, links, incompressible content: every way through the
    // receiver.
    Tree::new(&src, 71).noise("a", 300_000).text("b/c", 200_000).file("empty", "");
    std::os::unix::fs::symlink("a", src.join("link")).unwrap();
    std::fs::hard_link(src.join("a"), src.join("hard")).unwrap();
    let db = lab.index(&src);
    // With -D the program itself stays the child, so signals reach it.
    let traced = |file: &str| args!["strace", "-D", "-f", "-q", "-e", "signal=none", "-o", lab.path(file)];
    let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).wrap(traced("proxy")).serve();
    lab.upload_cmd(&src, &db, &proxy.url, args!["-s", "20000", "--compress", "zstd"])
        .wrap(traced("upload"))
        .run()
        .code(0);
    let sync = args!["sync", src, proxy.url, "--tar-id", "1", "--compress", "zstd"];
    lab.cmd(sync).wrap(traced("sync")).run().code(0);
    let redis = Redis::start(&lab);
    let queue = args!["-s", "20000", "--queue", redis.url(), "--tar-id", "2", "--bwlimit", "200K"];
    let host = lab.upload_cmd(&src, &db, &proxy.url, queue).spawn();
    wait_until("a job is there", Duration::from_secs(20), || redis.words(&["HKEYS", "tl:jobs"]).len() == 1);
    let worker = args!["worker", "--queue", redis.url(), "-u", proxy.url, "-b", src];
    lab.cmd(worker).wrap(traced("worker")).run().code(0);
    host.wait().code(0);
    assert_eq!(proxy.request("GET", "/metrics", &[], b"").status, 200);
    let pid = proxy.pid();
    proxy.term_and_wait().code(0);
    wait_until("the trace is written", Duration::from_secs(30), || {
        let trace = std::fs::read_to_string(lab.path("proxy")).unwrap();
        trace.lines().any(|line| line.starts_with(&format!("{pid} ")) && line.contains("+++ exited"))
    });
    let call = Regex::new(r"(?m)^\d+ +(?:<\.\.\. )?([a-z_0-9]+)(?:\(| resumed)").unwrap();
    for (file, unit) in ["proxy", "upload", "sync", "worker"].into_iter().zip(UNITS) {
        let trace = std::fs::read_to_string(lab.path(file)).unwrap();
        let made: BTreeSet<String> = call.captures_iter(&trace).map(|found| found[1].to_owned()).collect();
        assert!(made.len() > 25 && made.contains("openat"), "the trace is not understood: {made:?}");
        let allowed = allowed_calls(&lab, unit);
        let refused: Vec<&String> = made.iter().filter(|call| !allowed.contains(*call)).collect();
        // On the way to main, before any filter could matter: systemd allows these calls to itself.
        assert!(refused.is_empty(), "{unit} refuses {refused:?}");
    }
}

#[test]
fn a_service_manager_is_told_when_the_receiver_listens() {
    let lab = Lab::new();
    let path = lab.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut buffer = [0; 64];
    let mut told = || {
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let _proxy = lab.cmd(args!["proxy", "0", "-b", lab.dir("dst")]).env("NOTIFY_SOCKET", &path).serve();
    assert_eq!(told(), "READY=1");
    // A service manager that does not listen keeps no receiver from serving.
    let other = lab.cmd(args!["proxy", "0", "-b", lab.dir("other")]).env("NOTIFY_SOCKET", lab.path("nobody"));
    assert_eq!(other.serve().request("GET", "/readyz", &[], b"").status, 200);
}

/// Alerts and dashboard must not name a metric that does not exist: they would stay silent for
/// ever.
#[test]
fn every_documented_metric_exists_and_the_page_names_all() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 72).noise("a", 3000);
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    let before = proxy.request("GET", "/metrics", &[], b"").text();
    lab.upload(&src, &db, &proxy.url, vec![]).code(0);
    let text = proxy.request("GET", "/metrics", &[], b"").text();
    let sample = Regex::new(r"(?m)^(tarlike_[a-z_]+)(\{[^}]*\})? ").unwrap();
    let shown: BTreeSet<String> = sample.captures_iter(&text).map(|found| found[1].to_owned()).collect();
    assert!(shown.len() > 10, "{text}");
    // One of several receivers says which one it is.
    // It has a state folder on a disk of its own.
    let disk = Mount::tmpfs(&lab.path("state"), "size=3m,mode=700");
    let state = disk.as_ref().map_or(vec![], |disk| args!["--state", disk.path]);
    let slice = lab.proxy_with(&lab.dir("slices"), [args!["--slice", "1/2"], state].concat());
    let of_slice = slice.request("GET", "/metrics", &[], b"").text();
    let shown_by_slices: BTreeSet<String> =
        sample.captures_iter(&of_slice).map(|found| found[1].to_owned()).collect();
    assert!(of_slice.contains("\ntarlike_slice_info{slice=\"1\",of=\"2\"} 1\n"), "{of_slice}");
    // From the start on: a counter that appears with its first event hides that event from rate().
    let at_start: BTreeSet<String> = sample.captures_iter(&before).map(|found| found[1].to_owned()).collect();
    assert_eq!(at_start, shown);
    let mut shown: BTreeSet<String> = shown.union(&shown_by_slices).cloned().collect();
    if disk.is_none() {
        shown.insert("tarlike_state_free_bytes".to_string());
    }
    drop(slice);
    disk.into_iter().for_each(Mount::unmount);
    for name in ["monitoring/alerts.yaml", "monitoring/grafana.json", "OPERATIONS.md"] {
        let named = names(&read(name), r"\btarlike_[a-z_]+\b");
        assert!(!named.is_empty(), "{name} names no metric");
        let unknown: Vec<&String> = named.difference(&shown).collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}, and there are {shown:?}");
    }
    let page = names(&read("OPERATIONS.md"), r"\btarlike_[a-z_]+\b");
    let missing: Vec<&String> = shown.difference(&page).collect();
    assert!(missing.is_empty(), "docs/OPERATIONS.md does not explain {missing:?}");
    // Labels in alerts and dashboard have values that occur.
    let labels = Regex::new(r#"\b(class|status|state)=~?\\?"([^"\\]+)"#).unwrap();
    for name in ["monitoring/alerts.yaml", "monitoring/grafana.json"] {
        for found in labels.captures_iter(&read(name)) {
            for value in found[2].split('|') {
                let label = format!("{}=\"{value}\"", &found[1]);
                assert!(text.contains(&label), "{name} asks for {label}");
            }
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("monitoring/grafana.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
}

/// The values of the metrics, on a receiver that has been used.
#[test]
fn the_metrics_tell_of_refusals_age_and_space() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 73).noise("a", 3000).noise("b", 3000);
    let db = lab.index(&src);
    let token = lab.file("token", "0123456789abcdef0123456789abcdef");
    let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).serve();
    assert_eq!(proxy.metric("tarlike_last_block_timestamp_seconds"), 0.0);
    assert_eq!(proxy.metric("tarlike_archives{state=\"unfinished\"}"), 0.0);
    assert!(proxy.metric("tarlike_free_bytes") > 0.0);
    assert_eq!(proxy.metric("tarlike_max_inflight_blocks"), 16.0);
    lab.upload(&src, &db, &proxy.url, args!["-s", "3000", "-f", "1", "-l", "1"]).code(0);
    assert_eq!(proxy.metric("tarlike_archives{state=\"unfinished\"}"), 1.0);
    assert_eq!(proxy.metric("tarlike_missing_bytes"), 3000.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - proxy.metric("tarlike_last_block_timestamp_seconds");
    assert!((-1.0..60.0).contains(&age), "{age}");
    lab.upload(&src, &db, &proxy.url, args!["-s", "3000"]).code(0);
    assert_eq!(proxy.metric("tarlike_archives{state=\"unfinished\"}"), 0.0);
    assert_eq!(proxy.metric("tarlike_archives{state=\"finished\"}"), 1.0);
    assert_eq!(proxy.metric("tarlike_missing_bytes"), 0.0);
    assert_eq!(proxy.request("GET", "/tar/7/status", &[], b"").status, 404);
    // The 404 before the first index counts, too.
    assert!(proxy.metric("tarlike_http_refusals_total{status=\"404\"}") >= 1.0);
    assert_eq!(proxy.metric("tarlike_http_refusals_total{status=\"401\"}"), 0.0);
    drop(proxy);
    let proxy = lab.cmd(args!["proxy", "0", "-b", dst, "--token-file", token]).serve();
    lab.upload(&src, &db, &proxy.url, vec![]).code(1);
    let bearer = [("authorization", "Bearer 0123456789abcdef0123456789abcdef")];
    let text = proxy.request("GET", "/metrics", &bearer, b"").text();
    let refused = text.lines().find_map(|l| l.strip_prefix("tarlike_http_refusals_total{status=\"401\"} "));
    assert!(refused.unwrap().parse::<u64>().unwrap() >= 1, "{text}");
}

/// A system limit that a file exceeds is a failure of that file.
#[test]
fn a_file_beyond_the_limit_of_the_system_is_named() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 73).noise("large", 9_000_000).noise("small", 3000);
    let db = lab.index(&src);
    let limits = |limit: &str| args!["sh", "-c", format!("ulimit {limit}; exec \"$@\""), "sh"];
    // In blocks of 512 bytes.
    let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).wrap(limits("-f 8000")).serve();
    let output = lab.upload(&src, &db, &proxy.url, args!["-s", "1000000", "--stall-timeout", "20"]).code(3);
    assert!(output.stderr.contains("large") && output.stderr.contains("ulimit -f"), "{}", output.stderr);
    assert_eq!(std::fs::read(dst.join("small")).unwrap(), std::fs::read(src.join("small")).unwrap());
    assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 200);
    // A receiver is not run with the soft limit of open files.
    let proxy = lab.cmd(args!["proxy", "0", "-b", lab.dir("other")]).wrap(limits("-Sn 40")).serve();
    let text = std::fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limits: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(limits[0], limits[1], "{line}");
}
