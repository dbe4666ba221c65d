//! How much the receiver reads of files that grew, and what happens if its copy was changed.

use super::{Log, MODES, assert_is_growth};
use crate::support::{need_tool, set_mtime, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};
use std::time::Duration;

impl Log {
    /// How many bytes of staged files the receiver reads while `work` runs.
    fn read_by_receiver(&self, work: impl FnOnce()) -> u64 {
        need_tool("strace", "apt-get install strace");
        let trace = self.lab.path("trace");
        let _ = std::fs::remove_file(&trace);
        let pid = self.proxy.pid().to_string();
        let mut strace = Command::new("strace")
            .args(["-f", "-y", "-e", "trace=read,pread64", "-p", &pid, "-o"])
            .arg(&trace)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let status = format!("/proc/{pid}/status");
        let is_traced = || !std::fs::read_to_string(&status).unwrap().contains("TracerPid:\t0\n");
        wait_until("the receiver is traced", Duration::from_secs(20), is_traced);
        work();
        kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
        strace.wait().unwrap();
        let staged = format!("<{}/.tar-like/staging/", self.dst.display());
        let trace = std::fs::read_to_string(trace).unwrap();
        // strace shows a call that another thread interrupted on two lines: the file on the first,
        // the outcome on the second.
        let mut open = std::collections::HashMap::new();
        let mut bytes = 0;
        for line in trace.lines() {
            let thread = line.split_whitespace().next().unwrap();
            let is_staged = match line.contains(" resumed>") {
                true => open.remove(thread).unwrap_or(false),
                false => line.contains(&staged),
            };
            if line.ends_with("<unfinished ...>") {
                open.insert(thread, is_staged);
            } else if is_staged {
                bytes += line.rsplit_once("= ").unwrap().1.parse::<u64>().unwrap();
            }
        }
        bytes
    }

    /// Changes the receiver's copy in place.
    fn tamper(&self, range: std::ops::Range<u64>, in_secret: bool) {
        let path = self.dst.join("log");
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let before = file.metadata().unwrap();
        file.write_all_at(&vec![b'x'; (range.end - range.start) as usize], range.start).unwrap();
        let at = before.mtime() * 1_000_000_000 + before.mtime_nsec();
        set_mtime(&path, if in_secret { at } else { at + 1_000_000_000 });
    }
}

#[test]
fn no_more_is_read_than_the_sender_reads() {
    const SIZE: u64 = 30_000_000;
    // The last group, and the new bytes.
    const END: u64 = (1 << 20) + 1_000_000;
    let mut log = Log::new(21, SIZE as usize);
    let mut size = SIZE;
    for (mode, least, most) in [("full", SIZE, u64::MAX), ("trust", 1, END), ("spot", 64 * 16_384, SIZE / 2)]
    {
        let growth = log.append("log", 1_000_000);
        size += growth;
        let read = log.read_by_receiver(|| assert_is_growth(log.sync(&["--append", mode]), growth, mode));
        assert!((least..=most).contains(&read), "{mode}: {read} of {size}");
        log.mirror(&["--append", mode]);
    }
}

/// Another program wrote to the copy, which has a new time: the receiver asks for the whole file.
#[test]
fn a_copy_that_was_changed_is_not_believed() {
    for mode in MODES {
        let mut log = Log::new(22, 6_000_000);
        for range in [0..1, 2_000_000..2_100_000, 5_999_999..6_000_000] {
            log.tamper(range, false);
            let growth = log.append("log", 10_000);
            let sent = log.mirror(&["--append", mode]);
            assert!(sent >= 6_000_000 + growth, "{mode}: {sent}");
        }
        std::fs::remove_file(log.dst.join("log")).unwrap();
        log.append("log", 10_000);
        assert!(log.mirror(&["--append", mode]) > 6_000_000, "{mode}");
        let copy = std::fs::File::options().write(true).open(log.dst.join("log")).unwrap();
        copy.set_len(1_000_000).unwrap();
        log.append("log", 10_000);
        assert!(log.mirror(&["--append", mode]) > 6_000_000, "{mode}");
    }
}

/// Not every file system keeps such a time, so the receiver does not trust it.
#[test]
fn a_useless_time_is_not_trusted() {
    let mut log = Log::new(26, 6_000_000);
    let far = 3_000_000_000 * 1_000_000_000;
    set_mtime(&log.path, far);
    log.mirror(&[]);
    log.tamper(1_000_000..1_100_000, false);
    let growth = log.append("log", 10_000);
    set_mtime(&log.path, far + 1_000_000_000);
    assert!(log.mirror(&["--append", "trust"]) >= 6_000_000 + growth);
}

/// The last pieces of a log are sent once more, as one piece, for a copy of the log that waits for
/// all of them. The receiver writes these bytes to the log, too, and must not believe them unread.
#[test]
fn bytes_that_come_again_for_another_file_are_hashed() {
    let mut log = Log::new(27, 6_000_000);
    let index = args!["index", "-b", log.src, "-db", log.db, "--append", "trust"];
    for _ in 0..128 {
        log.append("log", 15_000);
        log.append("other", 1);
        log.lab.run(index.clone()).code(0);
    }
    assert_eq!(log.pieces("log"), 129);
    log.mirror(&["--append", "trust"]);
    let previous = log.content().len() as u64;
    log.append("log", 10_000);
    let believed = log.content();
    std::fs::write(log.src.join("log.copy"), &believed).unwrap();
    // Before the part that the sender reads, and in the part that is sent again.
    log.rewrite(previous - 1_500_000, 10);
    log.sync(&["--append", "trust"]);
    assert!(log.pieces("log") < 10);
    for name in ["log", "log.copy"] {
        assert!(std::fs::read(log.dst.join(name)).unwrap() == believed, "{name} is not as indexed");
    }
    log.lab.check(&log.dst, &log.db, args!["--extra"]).code(0);
}

/// Size and time are unchanged: only the content that the receiver reads shows the change.
#[test]
fn a_copy_changed_in_secret_is_found_where_it_is_read() {
    let found = [
        ("full", 2_000_000..2_000_001),
        ("spot", 0..5_000_000),
        // The receiver reads the end in any case.
        ("spot", 5_999_999..6_000_000),
        ("trust", 5_999_999..6_000_000),
    ];
    for (mode, range) in found {
        let mut log = Log::new(23, 6_000_000);
        log.tamper(range.clone(), true);
        log.append("log", 10_000);
        assert!(log.mirror(&["--append", mode]) > 6_000_000, "{mode} {range:?}");
    }
    let mut log = Log::new(24, 6_000_000);
    log.tamper(1_000_000..1_500_000, true);
    let growth = log.append("log", 10_000);
    assert_is_growth(log.sync(&["--append", "trust"]), growth, "trust");
    let copy = std::fs::read(log.dst.join("log")).unwrap();
    assert!(copy[1_000_000..1_500_000].iter().all(|&byte| byte == b'x'), "it is believed");
    assert!(copy.ends_with(&log.content()[1_500_000..]));
    let found = log.lab.check(&log.dst, &log.db, vec![]).code(1);
    assert!(found.stdout.contains("different\tlog"), "{found:?}");
    // The next run that reads all of the file mends it.
    log.append("log", 10_000);
    assert!(log.mirror(&["--append", "full"]) > 6_000_000);
}

/// After a crash the staged bytes are there, and their hash state is not, so the receiver reads
/// them.
#[test]
fn a_receiver_that_is_killed_in_between() {
    let mut log = Log::new(25, 8_000_000);
    for mode in ["spot", "trust"] {
        let growth = log.append("log", 300_000);
        let slow = ["--append", mode, "--bwlimit", "64K", "-s", "50000", "-p", "1"];
        let sync = log.lab.cmd(log.sync_args(&slow)).spawn();
        let has_some = || {
            let answer = log.proxy.request("GET", "/tar/0/status", &[], b"");
            answer.status == 200 && {
                let status = answer.json();
                status["done_bytes"] != status["total_bytes"] && status["generation"].as_u64() > Some(1)
            }
        };
        wait_until("it has the change", Duration::from_secs(60), has_some);
        log.proxy.kill9();
        drop(sync);
        log.proxy.restart();
        let sent = log.mirror(&["--append", mode]);
        assert!((1..=growth).contains(&sent), "{mode}: {sent} of {growth}");
    }
}
