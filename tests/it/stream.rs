//! The first `sync`: indexes and sends at once, and reads every byte once.

use crate::support::stress::{chance, peak_kib, sleep_some};
use crate::support::{Cmd, Lab, Proxy, Tree, assert_same_tree, index, need_tool, wait_until};
use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SIZE: u64 = 200_000;

/// Small files, and large ones among them: more than a run reads at once.
fn mixed(root: &Path, seed: u64) -> Tree {
    let mut tree = Tree::new(root, seed);
    tree.rich(60_000);
    for number in 0..300 {
        let length = tree.rng.below(9_000) as usize;
        tree.noise(format!("folder-{}/f{number}", number % 7), length);
    }
    for (name, length) in [
        ("a-large", 9_000_000),
        ("folder-2/large", 5_000_001),
        ("m-large", 4_194_305),
        ("z-large", 6_000_000),
    ] {
        tree.noise(name, length);
    }
    tree.times();
    tree
}

fn sync(lab: &Lab, src: &Path, db: &Path, url: &str, more: Vec<OsString>) -> Cmd {
    lab.cmd(args![
        "sync",
        src,
        url,
        "-db",
        db,
        "-dbp",
        lab.path("progress"),
        "-s",
        SIZE.to_string(),
        "--json"
    ])
    .args(more)
}

#[test]
fn the_index_is_what_index_makes() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    mixed(&src, 401);
    let proxy = lab.proxy(&dst);
    let streamed = lab.path("streamed.sqlite");
    let summary = sync(&lab, &src, &streamed, &proxy.url, vec![]).run().code(0).summary();
    assert_eq!(summary["complete"], true, "{summary}");
    assert_same_tree(&src, &dst);
    let made = lab.index(&src);
    assert_eq!(index::digest(&streamed), index::digest(&made));
    assert_eq!(index::rows(&streamed), index::rows(&made));
    assert_eq!(index::nodes(&streamed), index::nodes(&made));
    assert_eq!(proxy.status(0)["digest"], index::digest(&made));
    // Every command accepts this index: check, and the next sync, which reads and sends nothing.
    lab.check(&dst, &streamed, vec![]).code(0);
    let accepted = proxy.blocks_accepted();
    let again = sync(&lab, &src, &streamed, &proxy.url, vec![]).run().code(0).summary();
    assert_eq!(
        (again["sent_blocks"].as_u64(), &again["index"]["unchanged"]),
        (Some(0), &true.into()),
        "{again}"
    );
    assert_eq!(proxy.blocks_accepted(), accepted);
}

#[test]
fn every_byte_is_read_once() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 402);
    tree.noise("a", 30_000_000);
    for number in 0..400 {
        tree.noise(format!("b/{number}"), 50_000);
    }
    need_tool("strace", "apt-get install strace");
    let proxy = lab.proxy(&dst);
    let trace = lab.dir("trace");
    let wrapper = args!["strace", "-ff", "-qq", "-y", "-e", "trace=read,pread64", "-o", trace.join("t")];
    sync(&lab, &src, &lab.path("db"), &proxy.url, vec![]).wrap(wrapper).run().code(0);
    assert_same_tree(&src, &dst);
    // The bytes that the kernel returned of files in the source: `read(5</…/src/b/7>, …) = 50000`.
    let folder = format!("<{}/", src.display());
    let traces = std::fs::read_dir(trace)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap());
    let read_bytes: u64 = traces
        .collect::<String>()
        .lines()
        .filter(|line| line.contains(&folder))
        .filter_map(|line| line.rsplit_once("= ")?.1.parse::<u64>().ok())
        .sum();
    assert_eq!(read_bytes, 50_000_000);
}

#[test]
fn blocks_leave_before_the_source_was_read() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 403);
    for number in 0..3_000 {
        tree.noise(format!("d{}/{number}", number % 40), 5_000);
    }
    let proxy = lab.proxy(&dst);
    let db = lab.path("db");
    // A slow link, so that the end is far away.
    let mut sender = sync(&lab, &src, &db, &proxy.url, args!["--bwlimit", "2M"]).spawn();
    wait_until("a block to arrive", Duration::from_secs(20), || proxy.blocks_accepted() > 0);
    let status = proxy.status(0);
    assert!(!db.exists() && !sender.has_ended());
    assert!(status["total_bytes"].as_u64().unwrap() < 15_000_000, "all was laid out first: {status}");
    assert_eq!(status["complete"], false);
    // An open index cannot be finished.
    let answer = proxy.request("POST", "/tar/0/finish", &[], b"");
    assert_eq!(answer.status, 409, "{}", answer.text());
    sender.wait().code(0);
    assert_same_tree(&src, &dst);
}

/// Kills with `kill` until that returns false, then lets the sync end; returns the number of
/// accepted blocks.
fn killed(seed: u64, kills: usize, receiver_too: bool) {
    let mut rng = chance();
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("db"));
    mixed(&src, seed);
    let total: u64 = index::rows(&lab.index(&src)).iter().map(|row| row.size as u64).sum();
    let mut proxy = lab.proxy(&dst);
    let (mut accepted, mut killed) = (0, 0);
    for _ in 0..kills {
        let mut sender = sync(&lab, &src, &db, &proxy.url, args!["-p", "3", "--bwlimit", "3M"]).spawn();
        sleep_some(&mut rng, Duration::from_millis(1_500));
        if sender.has_ended() || db.exists() {
            break;
        }
        if receiver_too {
            accepted += proxy.blocks_accepted();
            proxy.kill9();
            if killed % 2 == 0 {
                sender.kill9();
            } else {
                sleep_some(&mut rng, Duration::from_millis(100));
            }
            proxy.restart();
            sleep_some(&mut rng, Duration::from_millis(500));
        }
        sender.kill9();
        killed += 1;
    }
    let summary = sync(&lab, &src, &db, &proxy.url, vec![]).run().code(0).summary();
    assert_eq!(summary["complete"], true, "{summary}");
    accepted += proxy.blocks_accepted();
    assert_same_tree(&src, &dst);
    let blocks = total.div_ceil(SIZE);
    println!("{killed} kills, {accepted} blocks accepted of {blocks}");
    // P6: at most the blocks in flight are sent again; a killed receiver forgets to count the last
    // accepted ones.
    assert!(accepted <= blocks + killed * 4 && killed > 3, "{accepted} of {blocks} after {killed} kills");
    lab.check(&dst, &lab.index(&src), vec![]).code(0);
}

#[test]
fn the_sender_is_killed_and_goes_on_where_it_was() {
    killed(404, 20, false);
}

#[test]
fn both_are_killed_and_go_on_where_they_were() {
    killed(405, 12, true);
}

#[test]
fn the_receiver_is_killed_and_the_sender_does_not_mind() {
    let mut rng = chance();
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    mixed(&src, 406);
    let mut proxy = lab.proxy(&dst);
    let mut sender = sync(&lab, &src, &lab.path("db"), &proxy.url, args!["--bwlimit", "6M"]).spawn();
    for _ in 0..6 {
        sleep_some(&mut rng, Duration::from_millis(700));
        if sender.has_ended() {
            break;
        }
        proxy.kill9();
        proxy.restart();
    }
    sender.wait().code(0);
    assert_same_tree(&src, &dst);
}

#[test]
fn a_source_that_changed_since_the_kill_is_what_arrives() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("db"));
    let mut tree = mixed(&src, 407);
    let proxy = lab.proxy(&dst);
    let stop_half_way = || {
        let before = proxy.blocks_accepted();
        let mut sender = sync(&lab, &src, &db, &proxy.url, args!["--bwlimit", "8M"]).spawn();
        wait_until("some blocks", Duration::from_secs(20), || proxy.blocks_accepted() > before + 40);
        sender.kill9();
        assert!(!db.exists());
    };
    stop_half_way();
    // In the middle of the received files: every file behind it has another place now.
    tree.noise("folder-0/f0-new", 3_333).remove("folder-1/f1").noise("folder-2/large", 4_800_000);
    stop_half_way();
    // The same length and time, another content; and a folder where a file was.
    let of = |name: &str| src.join(name);
    let time = of("folder-3/f3").metadata().unwrap().modified().unwrap();
    let length = of("folder-3/f3").metadata().unwrap().len() as usize;
    tree.noise("folder-3/f3", length).remove("m-large").file("m-large/inside", "x").symlink("n", "m-large");
    std::fs::File::options().write(true).open(of("folder-3/f3")).unwrap().set_modified(time).unwrap();
    let large = std::fs::File::options().write(true).open(of("a-large")).unwrap();
    let time = large.metadata().unwrap().modified().unwrap();
    (&large).seek(SeekFrom::Start(4_000_000)).unwrap();
    (&large).write_all(b"another content of the same length").unwrap();
    large.set_modified(time).unwrap();
    drop(large);
    sync(&lab, &src, &db, &proxy.url, vec![]).run().code(0);
    for gone in ["folder-1/f1", "folder-0"] {
        // Entries that an unfinished run has put in place stay, as with every sync: nothing is
        // deleted.
        if dst.join(gone).is_file() && !src.join(gone).exists() {
            std::fs::remove_file(dst.join(gone)).unwrap();
        }
    }
    let parent = src.join("folder-1").metadata().unwrap().modified().unwrap();
    std::fs::File::open(dst.join("folder-1")).unwrap().set_modified(parent).unwrap();
    assert_same_tree(&src, &dst);
    lab.check(&dst, &lab.index(&src), vec![]).code(0);
}

#[test]
fn a_large_file_that_changes_while_it_is_read_fails_alone() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("db"));
    let mut tree = mixed(&src, 408);
    tree.noise("large-log", 20_000_000);
    let proxy = lab.proxy(&dst);
    let mut sender = sync(&lab, &src, &db, &proxy.url, args!["--bwlimit", "4M", "-p", "2"]).spawn();
    // By then the file is laid out, and far from being read.
    wait_until("it to be on its way", Duration::from_secs(30), || {
        let status = proxy.request("GET", "/tar/0/status", &[], b"");
        status.status == 200 && status.json()["total_bytes"].as_u64() > Some(30_000_000)
    });
    // A file that grows would be sent up to its indexed size.
    let log = std::fs::File::options().write(true).open(src.join("large-log")).unwrap();
    log.set_len(19_000_000).unwrap();
    assert!(!sender.has_ended());
    let output = sender.wait().code(3);
    let summary = output.summary();
    let failed: Vec<&str> =
        summary["failed"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(failed, ["large-log"], "{summary}");
    assert!(!dst.join("large-log").exists(), "a content that the file never had for sure got its name");
    for name in ["a-large", "m-large", "z-large", "folder-2/large", "folder-2/f2"] {
        assert_eq!(std::fs::read(src.join(name)).unwrap(), std::fs::read(dst.join(name)).unwrap(), "{name}");
    }
    // The next run copies its present state.
    sync(&lab, &src, &db, &proxy.url, vec![]).run().code(0);
    assert_same_tree(&src, &dst);
}

#[test]
fn unreadable_files_are_left_out_as_by_index() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = mixed(&src, 409);
    tree.mode("z-large", 0).mode("folder-1/f1", 0);
    let proxy = lab.proxy(&dst);
    let db = lab.path("home/db");
    let command = lab.cmd(args!["sync", &src, &proxy.url, "-db", db, "-dbp", lab.path("home/p"), "--json"]);
    let output = lab.unprivileged(command).run().code(3);
    let left_out: Vec<String> =
        output.json().iter().filter(|e| e["event"] == "failed").map(|e| e["path"].to_string()).collect();
    assert!(
        ["z-large", "folder-1/f1"].iter().all(|name| left_out.contains(&format!("{name:?}"))),
        "{left_out:?}"
    );
    assert!(!dst.join("z-large").exists() && dst.join("m-large").exists());
}

#[test]
fn empty_trees_and_trees_of_nothing_but_names() {
    let lab = Lab::new();
    for (number, name) in ["nothing", "folders", "empty-files", "links"].into_iter().enumerate() {
        let (src, dst) = (lab.dir(&format!("src-{name}")), lab.dir(&format!("dst-{name}")));
        let mut tree = Tree::new(&src, 410);
        match name {
            "folders" => drop(tree.dir("a/b/c").dir("d")),
            "empty-files" => drop(tree.file("a/b", "").file("c", "").hardlink("d", "c")),
            "links" => drop(tree.symlink("a", "nowhere").dir("b")),
            _ => {}
        }
        let proxy = lab.proxy(&dst);
        let db = lab.path(&format!("db-{number}"));
        sync(&lab, &src, &db, &proxy.url, vec![]).run().code(0);
        assert_same_tree(&src, &dst);
        let made = lab.path(&format!("made-{number}"));
        lab.cmd(args!["index", "-b", &src, "-db", &made]).run().code(0);
        assert_eq!(index::digest(&db), index::digest(&made), "{name}");
    }
}

#[test]
fn a_stream_and_an_upload_take_turns() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("db"));
    let mut tree = mixed(&src, 411);
    let mut proxy = lab.proxy(&dst);
    // A stream that ends half-way, then an index put as a whole in its place.
    let mut sender = sync(&lab, &src, &db, &proxy.url, args!["--bwlimit", "8M"]).spawn();
    wait_until("some blocks", Duration::from_secs(20), || proxy.blocks_accepted() > 30);
    sender.kill9();
    let made = lab.index(&src);
    lab.upload(&src, &made, &proxy.url, args!["-s", SIZE.to_string()]).code(0);
    assert_same_tree(&src, &dst);
    assert_eq!(proxy.status(0)["complete"], true);
    // A stream in place of that index: it has the same rows, so nothing is sent.
    let accepted = proxy.blocks_accepted();
    let summary = sync(&lab, &src, &db, &proxy.url, vec![]).run().code(0).summary();
    assert_eq!(proxy.blocks_accepted(), accepted, "{summary}");
    // Another stream, after a restart and with a change at the end.
    tree.noise("zzz-new", 100);
    std::fs::remove_file(&db).unwrap();
    proxy.kill9();
    proxy.restart();
    let summary = sync(&lab, &src, &db, &proxy.url, vec![]).run().code(0).summary();
    assert!(summary["sent_blocks"].as_u64().unwrap() <= 1, "{summary}");
    assert_same_tree(&src, &dst);
}

/// Rows that an upload has put, and that a stream has changed since, are not mistaken for the
/// previous rows.
#[test]
fn an_index_comes_again_after_a_stream_replaced_it() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("db"));
    let mut tree = mixed(&src, 416);
    let mut proxy = lab.proxy(&dst);
    let made = lab.index(&src);
    let size = || args!["-s", SIZE.to_string(), "--json"];
    lab.upload(&src, &made, &proxy.url, size()).code(0);
    tree.noise("aaa-new", 100_000);
    sync(&lab, &src, &db, &proxy.url, vec![]).run().code(0);
    std::fs::remove_file(src.join("aaa-new")).unwrap();
    lab.upload(&src, &made, &proxy.url, size()).code(0);
    assert_eq!(proxy.status(0)["digest"], index::digest(&made));
    lab.check(&dst, &made, vec![]).code(0);
    proxy.kill9();
    proxy.restart();
    assert_eq!(proxy.status(0)["digest"], index::digest(&made));
    assert_eq!(lab.upload(&src, &made, &proxy.url, size()).code(0).summary()["sent_blocks"], 0);
}

/// An existing index goes to the receiver as a whole, which then drops its streamed blocks. So the
/// sender's index gets its name only when the receiver has all of it.
#[test]
fn a_receiver_that_falls_silent_leaves_no_index_here() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("db"));
    Tree::new(&src, 418).noise("a", 1000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/tar", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = [0; 16];
                stream.read_exact(&mut head).unwrap();
                if head.starts_with(b"GET") {
                    let answer = "HTTP/1.1 404 Not Found\r\nx-tar-like: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer.as_bytes()).unwrap();
                    return;
                }
                // Accepts everything, and answers nothing.
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
    let patience = args!["--stall-timeout", "3", "--block-timeout", "1"];
    sync(&lab, &src, &db, &url, patience).run().code(1).says("gave up");
    assert!(!db.exists());
}

#[test]
fn a_receiver_that_refuses_the_index_can_have_it_later() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("db"));
    mixed(&src, 417);
    {
        let proxy = lab.proxy_with(&dst, args!["--max-index-size", "60K"]);
        sync(&lab, &src, &db, &proxy.url, vec![]).run().code(1).says("--max-index-size");
        assert!(!db.exists());
        // Again, with the same end: no complete-looking index was left behind.
        sync(&lab, &src, &db, &proxy.url, vec![]).run().code(1).says("--max-index-size");
        assert!(!db.exists());
    }
    let proxy = lab.proxy(&dst);
    sync(&lab, &src, &db, &proxy.url, vec![]).run().code(0);
    assert_same_tree(&src, &dst);
}

#[test]
fn of_two_streams_one_wins_and_the_other_says_so() {
    let lab = Lab::new();
    let (one, dst) = (lab.path("one"), lab.dir("dst"));
    mixed(&one, 412);
    let proxy = lab.proxy(&dst);
    let mut first = sync(&lab, &one, &lab.path("db-1"), &proxy.url, args!["--bwlimit", "5M"]).spawn();
    wait_until("some blocks", Duration::from_secs(20), || proxy.blocks_accepted() > 10);
    assert!(!first.has_ended());
    sync(&lab, &one, &lab.path("db-2"), &proxy.url, vec![]).run().code(0);
    first.wait().code(1).says("another sender");
    lab.check(&dst, &lab.path("db-2"), vec![]).code(0);
}

#[test]
fn memory_stays_bounded() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 414);
    for number in 0..5 {
        tree.noise(format!("large-{number}"), 60_000_000);
    }
    for number in 0..4_000 {
        tree.noise(format!("small/{number}"), 300);
    }
    let proxy: Proxy = lab.proxy(&dst);
    let db: PathBuf = lab.path("db");
    let command = lab.cmd(args![
        "sync",
        &src,
        &proxy.url,
        "-db",
        &db,
        "-dbp",
        lab.path("p"),
        "-p",
        "2",
        "-s",
        "8000000"
    ]);
    let sender = command.args(args!["--bwlimit", "60M"]).spawn();
    let pid = sender.pid();
    let mut peak = 0;
    let watcher = std::thread::spawn(move || {
        while let Some(now) =
            std::fs::read_to_string(format!("/proc/{pid}/status")).ok().filter(|s| s.contains("VmHWM"))
        {
            drop(now);
            peak = peak.max(peak_kib(pid));
            std::thread::sleep(Duration::from_millis(50));
        }
        peak
    });
    sender.wait().code(0);
    let peak = watcher.join().unwrap();
    // P11 with two workers: 64 MiB, and twice a block and its frame; as many blocks are being
    // filled.
    assert!(peak < (64 << 10) + 4 * 2 * 8_000, "{peak} KiB");
    assert_same_tree(&src, &dst);
}
