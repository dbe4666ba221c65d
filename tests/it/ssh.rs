//! A folder of another host: `sync SRC host:/folder`. A real sshd, and where only the shell over there
//! matters, a command in the place of ssh.

use crate::support::sshd::{Sshd, rsh};
use crate::support::{Cmd, Lab, Output, Tree, assert_same_tree, wait_until};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_tar-like");

/// A source, and a shell of another host.
struct Setting {
    lab: Lab,
    src: PathBuf,
    there: PathBuf,
    rsh: PathBuf,
}

impl Setting {
    /// The shell over there runs `before` first.
    fn new(before: &str) -> Self {
        let lab = Lab::new();
        let src = lab.path("src");
        Tree::new(&src, 500).rich(200_000).noise("large", 300_000);
        let rsh = rsh(&lab, before);
        let there = lab.path("there");
        Self { lab, src, there, rsh }
    }

    fn cmd(&self, place: &str, more: Vec<OsString>) -> Cmd {
        let sync = args!["sync", self.src, place, "--rsh", self.rsh, "--remote-path", PROGRAM];
        self.lab.cmd([sync, more].concat())
    }

    fn sync(&self, place: &str, more: Vec<OsString>) -> Output {
        self.cmd(place, more).run()
    }

    /// The processes that were started over there, in their order.
    fn pids(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.lab.path("pid")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Nothing is left running over there.
    fn is_over(&self) {
        for pid in self.pids() {
            let process = PathBuf::from(format!("/proc/{pid}"));
            wait_until("the receiver over there ends", PATIENCE, || !process.exists());
        }
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_copy_lives_on_another_host() {
    let setting = Setting::new("");
    let place = "host:a folder/with 'quotes\" and ü";
    let dst = setting.there.join("a folder/with 'quotes\" and ü");
    let first = setting.sync(place, args!["--json"]).code(0).summary();
    assert_same_tree(&setting.src, &dst);
    assert_eq!(first["sent_bytes"], first["total_bytes"], "{first}");
    assert_eq!(setting.sync(place, args!["--json"]).code(0).summary()["sent_bytes"], 0);
    Tree::new(&setting.src, 501).remove("large").noise("new", 70_000);
    setting.sync(place, args!["--delete", "--keep", "2"]).code(0);
    assert_same_tree(&setting.src, &dst);
    let url = args!["--rsh", setting.rsh, "--remote-path", PROGRAM, "--source", setting.src];
    setting.lab.run([args!["rewind", place], url].concat()).code(0);
    assert!(dst.join("large").exists() && !dst.join("new").exists());
    setting.is_over();
}

/// A relative path is below the home folder, and so is one after a tilde.
#[test]
fn paths_are_read_as_rsync_reads_them() {
    let setting = Setting::new("");
    for (place, dst) in [("me@host:x/y", "x/y"), ("host:~/z", "z"), ("ssh://host:2222/~/w", "w")] {
        setting.sync(place, args![]).code(0);
        assert_same_tree(&setting.src, &setting.there.join(dst));
    }
    let absolute = setting.lab.path("absolute");
    setting.sync(&format!("host:{}", absolute.display()), args![]).code(0);
    assert_same_tree(&setting.src, &absolute);
}

#[test]
fn a_dry_run_makes_nothing_there() {
    let setting = Setting::new("");
    let plan = setting.sync("host:new", args!["-n", "--json"]).code(0).summary();
    assert_eq!(plan["sent_bytes"], plan["total_bytes"], "{plan}");
    assert_eq!(std::fs::read_dir(&setting.there).unwrap().count(), 0);
    setting.sync("host:new", args![]).code(0);
    Tree::new(&setting.src, 502).noise("more", 5000);
    setting.sync("host:new", args!["-n", "-v"]).code(0);
    assert!(!setting.there.join("new/more").exists());
}

/// Where a run is refused, it leaves no new folder behind.
#[test]
fn a_refused_run_leaves_nothing_there() {
    let setting = Setting::new("");
    setting.sync("host:new", args!["--max-index-size", "1"]).code(2);
    setting.is_over();
    assert_eq!(std::fs::read_dir(&setting.there).unwrap().count(), 0);
}

#[test]
fn what_keeps_a_receiver_from_starting_is_said() {
    let setting = Setting::new("");
    let sync = |place: &str, rsh: &str, program: &str| {
        let sync = args!["sync", setting.src, place, "--rsh", rsh, "--remote-path", program];
        setting.lab.run(sync)
    };
    let rsh = setting.rsh.to_str().unwrap();
    sync("host:x", "/nowhere/ssh", PROGRAM).code(2).says("cannot start /nowhere/ssh");
    sync("host:x", rsh, "/nowhere/tar-like").code(2).says("--remote-path");
    sync("host:x", "'", PROGRAM).code(2).says("quote");
    // Another program in its place, and one that says something else.
    sync("host:x", rsh, "true").code(1).says("no receiver greets at host");
    sync("host:x", rsh, "echo what;").code(1).says("wrote \"what\"");
    for place in ["host::module", ":x", "me@-oProxyCommand=x:y", "ssh://host:port/x"] {
        sync(place, rsh, PROGRAM).code(2).says("is no place on another host");
    }
    // What the receiver itself says.
    std::fs::write(setting.there.join("file"), "").unwrap();
    sync("host:file", rsh, PROGRAM).code(1).says("host:file");
    let failing = Setting::new("echo 'Permission denied (publickey).' >&2; exit 255");
    failing.sync("host:x", args![]).code(1).says("Permission denied");
}

/// Shells that greet everybody on standard output.
#[test]
fn what_a_shell_writes_is_passed_over() {
    let setting = Setting::new("echo Welcome; echo; printf 'no newline yet '; echo trouble >&2");
    setting.sync("host:x", args![]).code(0).says("Welcome");
    assert_same_tree(&setting.src, &setting.there.join("x"));
}

/// Another receiver has the folder.
#[test]
fn a_folder_in_use_is_refused() {
    let setting = Setting::new("");
    let dst = setting.lab.dir("there/x");
    let _proxy = setting.lab.proxy(&dst);
    setting.sync("host:x", args![]).code(1).says("uses");
}

#[test]
fn a_connection_that_is_cut_is_made_again() {
    let setting = Setting::new("");
    let more = args!["--bwlimit", "200K", "-s", "20000", "--compress", "none", "--json"];
    let running = setting.cmd("host:x", more).spawn();
    for round in 1..=3 {
        wait_until("another receiver runs over there", PATIENCE, || setting.pids().len() == round);
        let dst = setting.there.join("x");
        let count = |folder: &Path| std::fs::read_dir(folder).map_or(0, Iterator::count);
        wait_until("something arrives", PATIENCE, || count(&dst) > 1);
        kill(setting.pids()[round - 1]);
    }
    let report = running.wait().code(0).summary();
    assert_same_tree(&setting.src, &setting.there.join("x"));
    assert!(report["sent_bytes"].as_u64() < report["total_bytes"].as_u64().map(|all| 2 * all), "{report}");
    setting.is_over();
}

/// The receiver ends with its sender, however that one ends.
#[test]
fn nothing_is_left_running_there() {
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::INT] {
        let setting = Setting::new("");
        let mut running = setting.cmd("host:x", args!["--bwlimit", "100K", "-s", "20000"]).spawn();
        wait_until("a receiver runs over there", PATIENCE, || {
            setting.there.join("x/.tar-like/archives").exists()
        });
        running.signal(signal);
        wait_until("the sender ends", PATIENCE, || running.has_ended());
        setting.is_over();
        setting.sync("host:x", args![]).code(0);
        assert_same_tree(&setting.src, &setting.there.join("x"));
    }
}

/// No path, no name and no secret is on a command line, here or there.
#[test]
fn a_real_sshd() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 510).rich(300_000);
    for (number, config) in
        ["", "DisableForwarding yes", "AllowStreamLocalForwarding no"].into_iter().enumerate()
    {
        let folder = format!("sshd-{number}");
        let sshd = Sshd::start(&lab, config);
        let (dst, log) = (lab.path(&folder), lab.path("args"));
        // Over there, the command line is looked at while the receiver runs.
        let program = lab.file(
            "program",
            format!("#!/bin/sh\necho \"$@\" >> '{}'\nexec '{PROGRAM}' \"$@\"\n", log.display()),
        );
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let flags = args!["--rsh", sshd.rsh, "--remote-path", program];
        lab.sync(&src, sshd.place(&dst), flags.clone()).code(0);
        assert_same_tree(&src, &dst);
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.lines().all(|line| line == "proxy --stdio"), "{text}");
        drop(sshd);
        lab.sync(&src, format!("ssh://127.0.0.1:1{}", dst.display()), flags)
            .code(1)
            .says("ssh does not reach 127.0.0.1");
        for name in ["host-key", "user-key"] {
            std::fs::remove_file(lab.path(name)).unwrap();
        }
        std::fs::remove_file(lab.path("known_hosts")).unwrap();
    }
}

/// A server that lets a key do nothing but receive.
#[test]
fn a_forced_command() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    Tree::new(&src, 520).rich(50_000);
    let sshd = Sshd::start(&lab, &format!("ForceCommand {PROGRAM} proxy --stdio"));
    lab.sync(&src, sshd.place(&dst), args!["--rsh", sshd.rsh]).code(0);
    assert_same_tree(&src, &dst);
}
