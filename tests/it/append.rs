//! Files that only grow: what each `--append` reads and sends, and what happens to files that
//! changed otherwise.

mod receiver;

use crate::support::stop::StopAtEnd;
use crate::support::{Lab, Proxy, Rng, Tree, assert_same_tree, index, need_tool};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const MODES: [&str; 3] = ["full", "spot", "trust"];

/// A log in a folder, and a copy of it that a first run made.
struct Log {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    path: PathBuf,
    rng: Rng,
    proxy: Proxy,
}

impl Log {
    fn new(seed: u64, size: usize) -> Self {
        let lab = Lab::new();
        let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("index.sqlite"));
        Tree::new(&src, seed).noise("log", size).noise("other", 5000);
        let (path, proxy) = (src.join("log"), lab.proxy(&dst));
        let log = Self { lab, src, dst, db, path, rng: Rng::new(!seed), proxy };
        log.sync(&[]);
        assert_same_tree(&log.src, &log.dst);
        log
    }

    fn append(&mut self, name: &str, bytes: usize) -> u64 {
        let noise = self.rng.noise(bytes);
        File::options().append(true).open(self.src.join(name)).unwrap().write_all(&noise).unwrap();
        bytes as u64
    }

    /// Overwrites bytes of the log in place.
    fn rewrite(&mut self, offset: u64, bytes: usize) {
        let file = File::options().write(true).open(&self.path).unwrap();
        file.write_all_at(&self.rng.noise(bytes), offset).unwrap();
    }

    fn sync_args(&self, more: &[&str]) -> Vec<OsString> {
        let progress = self.lab.path("progress.sqlite");
        let args = args!["sync", self.src, self.proxy.url, "-db", self.db, "-dbp", progress, "--json"];
        [args, more.iter().map(Into::into).collect()].concat()
    }

    /// An incremental run; returns how many bytes it sent.
    #[track_caller]
    fn sync(&self, more: &[&str]) -> u64 {
        self.lab.run(self.sync_args(more)).code(0).summary()["sent_bytes"].as_u64().unwrap()
    }

    /// As above; afterwards both sides are equal, and the index is right.
    #[track_caller]
    fn mirror(&self, more: &[&str]) -> u64 {
        let sent = self.sync(more);
        assert_same_tree(&self.src, &self.dst);
        self.lab.check(&self.src, &self.db, args!["--extra"]).code(0);
        sent
    }

    /// How many bytes of the log the next generation of the index reads.
    fn read_by_index(&self, more: &[&str]) -> u64 {
        need_tool("strace", "apt-get install strace");
        let trace = self.lab.path("trace");
        let _ = std::fs::remove_dir_all(&trace);
        std::fs::create_dir(&trace).unwrap();
        let strace = args!["strace", "-ff", "-qq", "-y", "-e", "trace=read,pread64", "-o", trace.join("t")];
        let args = [args!["index", "-b", self.src, "-db", self.db], more.iter().map(Into::into).collect()];
        self.lab.cmd(args.concat()).wrap(strace).run().code(0);
        let log = format!("<{}>", self.path.display());
        let traces = std::fs::read_dir(trace).unwrap().map(|entry| entry.unwrap().path());
        let lines: String = traces.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let of_log = lines.lines().filter(|line| line.contains(&log));
        of_log.filter_map(|line| line.rsplit_once("= ")?.1.parse::<u64>().ok()).sum()
    }

    /// The number of a file's extents.
    fn pieces(&self, name: &str) -> i64 {
        let query = "SELECT count(*) FROM tarlike_extent e JOIN tar ON tar.id = e.file WHERE tar.path = ?";
        index::open(&self.db).query_row(query, [name], |row| row.get(0)).unwrap()
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

/// At most 2 % above the growth; less only if the receiver has some of the content.
#[track_caller]
fn assert_is_growth(sent: u64, growth: u64, what: &str) {
    assert!((growth..=growth + growth / 50).contains(&sent), "{what}: {sent} of {growth}");
}

#[test]
fn only_the_growth_is_sent() {
    for mode in MODES {
        let mut log = Log::new(1, 9_000_000);
        // One file that is read whole in any case, one that is too small, and one that needs no
        // read.
        Tree::new(&log.src, 2).noise("d/medium", 1_500_000).noise("small", 10_000);
        assert_eq!(log.mirror(&["--append", mode]), 1_510_000);
        for growth in [300_000, 1, 70_000, 2 << 20, 5_000] {
            let growth = log.append("log", growth) + log.append("d/medium", growth / 2 + 1);
            let sent = log.mirror(&["--append", mode]);
            assert_is_growth(sent, growth, mode);
        }
        assert_eq!(log.mirror(&["--append", mode]), 0, "{mode}");
        log.lab.check(&log.dst, &log.db, args!["--extra"]).code(0);
    }
}

#[test]
fn only_the_end_is_read() {
    const SIZE: u64 = 40_000_000;
    // The last group, and the part of the last chunk that lies before it.
    const END: u64 = (1 << 20) + (256 << 10);
    let mut log = Log::new(3, SIZE as usize);
    let mut size = SIZE;
    for (more, least, most) in [
        (&["--append", "full"][..], SIZE, u64::MAX),
        (&["--append", "trust"], 0, END),
        (&["--append", "spot"], 64 * 16_384, SIZE / 3),
        (&["--append", "trust", "--checksum"], SIZE, u64::MAX),
        (&["--append", "spot", "--checksum"], SIZE, u64::MAX),
        (&["--append", "trust"], 0, END),
        (&[], SIZE, u64::MAX),
    ] {
        let growth = log.append("log", 1_000_000);
        size += growth;
        let read = log.read_by_index(more);
        assert!((least + growth..=most.saturating_add(growth)).contains(&read), "{more:?}: {read} of {size}");
    }
    let sent = log.mirror(&["--append", "spot"]);
    assert_is_growth(sent, size - SIZE, "all runs at once");
}

#[test]
fn a_start_that_was_rewritten_is_found() {
    for (mode, offset, length) in [("full", 3_000_000, 1), ("spot", 0, 8_000_000)] {
        let mut log = Log::new(4, 10_000_000);
        log.rewrite(offset, length);
        let growth = log.append("log", 100_000);
        let sent = log.mirror(&["--append", mode]);
        assert!(sent > growth && sent < growth + length as u64 + (1 << 20), "{mode}: {sent}");
    }
}

/// The help says what becomes of the copy; any check finds it.
#[test]
fn an_unread_prefix_is_as_it_was() {
    let mut log = Log::new(5, 10_000_000);
    let previous = log.content();
    log.rewrite(1_000_000, 500_000);
    let growth = log.append("log", 100_000);
    assert_is_growth(log.sync(&["--append", "trust"]), growth, "trust");
    let copy = std::fs::read(log.dst.join("log")).unwrap();
    assert!(copy[..previous.len()] == previous && copy[previous.len()..] == log.content()[previous.len()..]);
    let found = log.lab.check(&log.src, &log.db, vec![]).code(1);
    assert!(found.stdout.contains("different\tlog"), "{found:?}");
    let sent = log.mirror(&["--append", "trust", "--checksum"]);
    assert!((500_000..1_500_000).contains(&sent), "{sent}");
    // Without the copy, the believed content would have to come from the source, which does not
    // have it. No other content gets the name.
    log.rewrite(1_000_000, 500_000);
    log.append("log", 100_000);
    std::fs::remove_file(log.dst.join("log")).unwrap();
    let failed = log.lab.run(log.sync_args(&["--append", "trust"])).code(3).summary();
    assert_eq!(
        (&failed["failed"][0]["path"], &failed["failed_total"]),
        (&"log".into(), &1.into()),
        "{failed}"
    );
    assert!(!log.dst.join("log").exists());
    log.mirror(&["--append", "trust", "--checksum"]);
}

/// Whether a log was truncated and grew again, or is another file, shows at its end or in its
/// inode.
#[test]
fn a_file_that_did_not_only_grow_is_read_as_a_whole() {
    for mode in ["spot", "trust"] {
        let mut log = Log::new(6, 6_000_000);
        log.rewrite(5_900_000, 10);
        log.append("log", 10_000);
        log.mirror(&["--append", mode]);
        // Truncated: longer than before, shorter, and empty.
        for size in [6_500_000, 5_000_000, 0, 7_000_000] {
            std::fs::write(&log.path, log.rng.noise(size)).unwrap();
            log.mirror(&["--append", mode]);
        }
        File::options().write(true).open(&log.path).unwrap().set_len(6_000_000).unwrap();
        assert_eq!(log.append("log", 1_000_000), 1_000_000);
        log.mirror(&["--append", mode]);
        File::options().write(true).open(&log.path).unwrap().set_len(6_000_000).unwrap();
        log.append("log", 1_000_001);
        log.mirror(&["--append", mode]);
        // Another file, with the same end.
        let mut content = log.content();
        content[3_000_000..3_100_000].fill(7);
        content.extend(log.rng.noise(10_000));
        let rotated = log.lab.file("rotated", content);
        std::fs::rename(rotated, &log.path).unwrap();
        log.mirror(&["--append", mode]);
        let growth = log.append("log", 10_000);
        assert_is_growth(log.mirror(&["--append", mode]), growth, mode);
    }
}

#[test]
fn an_index_without_chunk_maps_has_every_byte_read() {
    let mut log = Log::new(7, 6_000_000);
    // As after a restore of later generations from a backup.
    rusqlite::Connection::open(&log.db).unwrap().execute("DELETE FROM tarlike_sketch", []).unwrap();
    log.rewrite(1_000_000, 10);
    log.append("log", 10_000);
    log.mirror(&["--append", "trust"]);
    // From then on the file has a chunk map.
    let growth = log.append("log", 10_000);
    assert!(log.read_by_index(&["--append", "trust"]) < 3_000_000);
    assert_is_growth(log.mirror(&["--append", "trust"]), growth, "trust");
}

/// A damaged chunk map never leads to a wrong index, whichever bit is damaged.
#[test]
fn a_damaged_chunk_map_does_no_harm() {
    let mut log = Log::new(8, 6_000_000);
    // Its version, the state of md5, a value of BLAKE3, all of it.
    for at in [0, 12, 40, usize::MAX] {
        let connection = rusqlite::Connection::open(&log.db).unwrap();
        let query =
            "SELECT s.id, s.data FROM tarlike_sketch s JOIN tar ON tar.id = s.id WHERE tar.path = 'log'";
        let (id, mut chunk_map): (i64, Vec<u8>) =
            connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        match chunk_map.get_mut(at) {
            Some(byte) => *byte ^= 1,
            None => chunk_map.clear(),
        }
        connection.execute("UPDATE tarlike_sketch SET data = ? WHERE id = ?", (chunk_map, id)).unwrap();
        drop(connection);
        let growth = log.append("log", 10_000);
        assert_is_growth(log.mirror(&["--append", "trust"]), growth, "the content is what it was");
        log.lab.check(&log.dst, &log.db, vec![]).code(0);
    }
}

/// The size that the run saw first arrives; the next run sends the rest. That holds for the first
/// run, too.
#[test]
fn a_log_that_never_stands_still() {
    let log = Log::new(9, 5_000_000);
    let stop = AtomicBool::new(false);
    let write = |path: &Path| {
        let mut file = File::options().append(true).open(path).unwrap();
        let mut rng = Rng::new(10);
        while !stop.load(Ordering::Relaxed) {
            file.write_all(&rng.noise(300)).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    };
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| write(&log.path));
        for (run, mode) in ["spot", "trust", "spot", "trust"].into_iter().enumerate() {
            if run == 2 {
                // The copy starts again: it is indexed and sent at once.
                std::fs::remove_file(&log.db).unwrap();
            }
            let before = log.path.metadata().unwrap().len();
            log.sync(&["--append", mode]);
            let copy = std::fs::read(log.dst.join("log")).unwrap();
            assert!(copy.len() as u64 >= before, "run {run}: {} of {before}", copy.len());
            assert!(log.content().starts_with(&copy), "run {run}");
        }
    });
    log.mirror(&["--append", "spot"]);
}

/// Hundreds of runs: adjacent pieces become one, and the number of other pieces stays small.
#[test]
fn a_log_that_grows_all_the_time_does_not_fall_to_pieces() {
    let mut log = Log::new(11, 5_000_000);
    let index = args!["index", "-b", log.src, "-db", log.db, "--append", "trust"];
    for _ in 0..50 {
        log.append("log", 1000);
        log.lab.run(index.clone()).code(0);
    }
    assert!((1..=3).contains(&log.pieces("log")), "{}", log.pieces("log"));
    log.mirror(&["--append", "trust"]);
    // Another file is written between the pieces each time.
    let before = log.path.metadata().unwrap().len();
    for run in 0..200 {
        log.append("log", 1000);
        log.append("other", 1);
        log.lab.run(index.clone()).code(0);
        assert!(log.pieces("log") <= 140, "{run}: {}", log.pieces("log"));
    }
    let sent = log.mirror(&["--append", "trust"]);
    let growth =
        log.path.metadata().unwrap().len() - before + log.src.join("other").metadata().unwrap().len();
    assert_is_growth(sent, growth, "content that was written again in between is sent once");
    log.lab.check(&log.dst, &log.db, args!["--extra"]).code(0);
}

#[test]
fn help_names_the_append_modes() {
    let lab = Lab::new();
    for command in ["index", "sync"] {
        let help = lab.run(args![command, "--help"]).code(0).stdout;
        let help: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("full, spot, trust") && help.contains("64 samples"), "{help}");
    }
    lab.run(args!["index", "--append", "half"]).code(2).says("full, spot, trust");
}
