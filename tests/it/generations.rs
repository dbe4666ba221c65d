//! A folder that is copied again and again while it changes: the cost of a run, deletions, and
//! faults.

use crate::support::original::OriginalReceiver;
use crate::support::relay::{Fate, Relay};
use crate::support::{Lab, Proxy, Tree, assert_same_tree, index};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A source, a copy that a first run made, and the receiver of both.
struct Runs {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    tree: Tree,
    proxy: Proxy,
}

impl Runs {
    /// `fill` makes the source. `index` and `upload` make the first run, as the next run needs the
    /// chunk maps of large files.
    fn begin(seed: u64, fill: impl FnOnce(&mut Tree)) -> Self {
        let lab = Lab::new();
        let (src, dst, db) = (lab.path("src"), lab.dir("dst"), lab.path("index.sqlite"));
        let mut tree = Tree::new(&src, seed);
        fill(&mut tree);
        let proxy = lab.proxy(&dst);
        lab.run(args!["index", "-b", src, "-db", db]).code(0);
        lab.upload(&src, &db, &proxy.url, vec![]).code(0);
        assert_same_tree(&src, &dst);
        Self { lab, src, dst, db, tree, proxy }
    }

    fn run(&self, more: Vec<std::ffi::OsString>) -> crate::support::Output {
        let Self { lab, src, db, proxy, .. } = self;
        let dbp = lab.path("progress.sqlite");
        lab.sync(src, &proxy.url, [args!["-db", db, "-dbp", dbp, "--json"], more].concat())
    }

    /// A run with `--delete`, after which both sides are equal; returns how many bytes it sent.
    fn mirror(&self) -> u64 {
        let summary = self.run(args!["--delete"]).code(0).summary();
        assert_same_tree(&self.src, &self.dst);
        sent(&summary)
    }
}

fn sent(summary: &Value) -> u64 {
    summary["sent_bytes"].as_u64().unwrap()
}

/// The most bytes of a chunk of a large file and its neighbour: the most that one edit may cost.
const EDIT: u64 = 768 << 10;

#[test]
fn a_run_costs_what_changed() {
    let mut runs = Runs::begin(1, |tree| {
        tree.rich(100_000).noise("big", 12_000_000).noise("log", 5_000_000).noise("d/small", 3000);
    });
    let (big, log) = (runs.tree.path("big"), runs.tree.path("log"));
    assert_eq!(runs.mirror(), 0);
    let content = std::fs::read(&big).unwrap();
    runs.tree.file("big", [b"x", &content[..]].concat());
    assert!((1..EDIT).contains(&runs.mirror()), "a byte in front");
    let mut content = std::fs::read(&big).unwrap();
    content[6_000_000..6_000_100].fill(7);
    runs.tree.file("big", &content);
    assert!((100..EDIT).contains(&runs.mirror()), "a change in place");
    let grown = [std::fs::read(&log).unwrap(), runs.tree.rng.noise(200_000)].concat();
    runs.tree.file("log", grown);
    assert!((200_000..200_000 + EDIT).contains(&runs.mirror()), "growth");
    std::fs::rename(&log, runs.tree.path("log.1")).unwrap();
    std::fs::copy(&big, runs.tree.path("copy")).unwrap();
    runs.tree.file("log", "begins again");
    assert_eq!(runs.mirror(), 12, "a rotation and a copy");
    let (a, b) = (runs.tree.path("log.1"), runs.tree.path("copy"));
    std::fs::rename(&a, runs.tree.path("between")).unwrap();
    std::fs::rename(&b, &a).unwrap();
    std::fs::rename(runs.tree.path("between"), &b).unwrap();
    assert_eq!(runs.mirror(), 0, "two names that are swapped");
    runs.tree.mode("big", 0o600).mtime("d/small", 77);
    assert_eq!(runs.mirror(), 0, "metadata");
    let same = runs.tree.rng.noise(4000);
    runs.tree.file("same-1", &same).file("d/same-2", &same);
    assert_eq!(runs.mirror(), 4000, "the same twice in one run");
    runs.tree.file("copy", "").remove("d/small").dir("d/small").file("d/small/inside", "i");
    assert_eq!(runs.mirror(), 1, "cut to nothing, and a folder in place of a file");
    runs.tree.remove("d");
    runs.tree.file("d", "file");
    // It is sent once more when the folder is out of its way.
    assert!((4..=8).contains(&runs.mirror()), "a file in place of a folder");
    runs.lab.check(&runs.dst, &runs.db, args!["--extra"]).code(0);
}

/// The copy differs from the previous generation: the needed bytes come from the source.
#[test]
fn a_copy_changed_at_the_receiver_is_not_reused() {
    for (seed, damage) in [
        (2, (|path: &Path| std::fs::remove_file(path).unwrap()) as fn(&Path)),
        (3, |path| std::fs::write(path, "something else").unwrap()),
        // Neither size nor time shows it.
        (4, |path| {
            let time = path.metadata().unwrap().modified().unwrap();
            let mut content = std::fs::read(path).unwrap();
            content[1_000_000] ^= 1;
            std::fs::write(path, content).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }),
        (5, |path| std::fs::File::options().write(true).open(path).unwrap().set_len(10).unwrap()),
    ] {
        let mut runs = Runs::begin(seed, |tree| {
            tree.noise("big", 3_000_000).noise("other", 2_000_000);
        });
        let content = std::fs::read(runs.tree.path("big")).unwrap();
        runs.tree.file("big", [&content[..], b"end"].concat()).file("copy", &content);
        damage(&runs.dst.join("big"));
        let sent = runs.mirror();
        assert!(sent <= 2 * 3_000_003 + 1_000_000, "{sent}");
    }
}

/// Only metadata change at the source, of a file that another process wrote to at the receiver: the
/// new time must not hide that.
#[test]
fn a_copy_changed_at_the_receiver_gets_no_metadata_of_the_source() {
    for whole in [false, true] {
        let mut runs = Runs::begin(31, |tree| {
            tree.file("changed", "0123456789").file("right", "abcdef");
        });
        std::fs::write(runs.dst.join("changed"), "9876543210").unwrap();
        runs.tree.mtime("changed", 1_700_000_000).mode("changed", 0o600).mtime("right", 1_700_000_001);
        if whole {
            // An index that is unrelated to the previous one.
            runs.lab.run(args!["index", "-c", "-b", runs.src, "-db", runs.db]).code(0);
        }
        let summary = runs.run(vec![]).code(0).summary();
        assert_eq!(sent(&summary), 10, "{summary}");
        assert_same_tree(&runs.src, &runs.dst);
    }
}

/// A file with a new time gets it under all of its names, also if one of them is removed in the
/// same run.
#[test]
fn a_further_name_of_a_touched_file_goes() {
    let mut runs = Runs::begin(33, |tree| {
        tree.file("a", "content").hardlink("b", "a").file("stays", "");
    });
    runs.tree.mtime("a", 1_700_000_000_000_000_000).remove("b");
    assert_eq!(runs.mirror(), 0);
    // A file that was put there since does not get it.
    runs.tree.hardlink("b", "a");
    assert_eq!(runs.mirror(), 0);
    std::fs::remove_file(runs.dst.join("b")).unwrap();
    std::fs::write(runs.dst.join("b"), "another").unwrap();
    runs.tree.mtime("a", 1_600_000_000_000_000_000).remove("b");
    runs.run(args!["--delete"]).code(0);
    assert_eq!(std::fs::read(runs.dst.join("b")).unwrap(), b"another");
}

#[test]
fn nothing_is_deleted_without_being_asked() {
    let mut runs = Runs::begin(6, |tree| {
        tree.file("goes", "1")
            .file("stays", "2")
            .file("d/goes", "3")
            .symlink("link", "stays")
            .hardlink("hard", "stays");
    });
    std::fs::write(runs.dst.join("foreign"), "of somebody else").unwrap();
    runs.tree.remove("goes").remove("d").remove("link").remove("hard");
    runs.run(vec![]).code(0);
    for name in ["goes", "d/goes", "link", "hard", "foreign", "stays"] {
        assert!(runs.dst.join(name).symlink_metadata().is_ok(), "{name}");
    }
    // Later runs, too, know the entries of the earlier runs.
    std::fs::write(runs.dst.join("d/foreign"), "of somebody else").unwrap();
    let summary = runs.run(args!["--delete"]).code(0).summary();
    assert_eq!(summary["deleted"], 4, "{summary}");
    for (name, there) in [
        ("goes", false),
        ("d/goes", false),
        ("link", false),
        ("hard", false),
        ("foreign", true),
        ("d/foreign", true),
    ] {
        assert_eq!(runs.dst.join(name).symlink_metadata().is_ok(), there, "{name}");
    }
    assert_eq!(std::fs::read(runs.dst.join("stays")).unwrap(), b"2");
}

#[test]
fn files_changed_at_the_receiver_are_not_deleted() {
    let mut runs = Runs::begin(7, |tree| {
        tree.file("goes", "1").file("stays", "2");
    });
    std::fs::write(runs.dst.join("goes"), "is somebody's work now").unwrap();
    runs.tree.remove("goes");
    let summary = runs.run(args!["--delete"]).code(0).summary();
    assert_eq!(summary["deleted"], 0, "{summary}");
    assert!(runs.dst.join("goes").exists());
}

#[test]
fn no_more_is_deleted_than_allowed() {
    let mut runs = Runs::begin(8, |tree| {
        for n in 0..20 {
            tree.file(format!("f{n}"), "x");
        }
    });
    for n in 0..10 {
        runs.tree.remove(format!("f{n}"));
    }
    runs.tree.file("new", "y");
    for limit in ["9", "0", "49%"] {
        let output = runs.run(args!["--delete", "--max-delete", limit]).code(25);
        let summary = output.summary();
        assert_eq!(
            (&summary["too_many_to_delete"], &summary["complete"]),
            (&10.into(), &true.into()),
            "{summary}"
        );
        assert!(runs.dst.join("f0").exists() && runs.dst.join("new").exists());
    }
    assert_eq!(runs.run(args!["--max-delete", "9"]).code, 2);
    assert_eq!(runs.run(args!["--delete", "--max-delete", "101%"]).code, 2);
    runs.run(args!["--delete", "--max-delete", "10"]).code(0);
    assert_same_tree(&runs.src, &runs.dst);
}

#[test]
fn replaced_and_deleted_files_go_to_the_backup_folder() {
    let mut runs = Runs::begin(9, |tree| {
        tree.file("d/goes", "1").file("stays", "2").file("empty", "").symlink("link", "stays");
    });
    runs.tree.remove("d").file("stays", "3");
    // Without --delete, what left the source stays.
    let summary = runs.run(args!["--backup-dir", "replaced"]).code(0).summary();
    assert_eq!(summary["deleted"], 0, "{summary}");
    assert_eq!(std::fs::read(runs.dst.join("replaced/stays")).unwrap(), b"2");
    assert_eq!(std::fs::read_dir(runs.dst.join("replaced")).unwrap().count(), 1);
    assert_eq!(std::fs::read(runs.dst.join("d/goes")).unwrap(), b"1");
    for bad in ["../out", "/absolute", ".tar-like/held"] {
        assert_ne!(runs.run(args!["--delete", "--backup-dir", bad]).code, 0, "{bad}");
        assert!(runs.dst.join("d/goes").exists(), "{bad}");
    }
    runs.run(args!["--delete", "--backup-dir", "old"]).code(0);
    assert_eq!(std::fs::read(runs.dst.join("old/d/goes")).unwrap(), b"1");
    assert!(!runs.dst.join("d").exists());
    // What was changed in the copy goes there, too, although the source stays the same.
    let flags: [&[&str]; 3] = [&[], &["--delete"], &["--delete", "--checksum"]];
    for (folder, flags) in ["e1", "e2", "e3"].into_iter().zip(flags) {
        std::fs::write(runs.dst.join("stays"), folder).unwrap();
        std::fs::write(runs.dst.join("empty"), folder).unwrap();
        std::fs::remove_file(runs.dst.join("link")).unwrap();
        std::os::unix::fs::symlink(folder, runs.dst.join("link")).unwrap();
        let flags = flags.iter().map(Into::into).collect();
        runs.run([args!["--backup-dir", format!("old/{folder}")], flags].concat()).code(0);
        let old = runs.dst.join("old").join(folder);
        let read = |name| std::fs::read(old.join(name)).unwrap();
        assert_eq!((&*read("stays"), &*read("empty")), (folder.as_bytes(), folder.as_bytes()));
        assert_eq!(std::fs::read_link(old.join("link")).unwrap(), Path::new(folder));
        assert_eq!(std::fs::read_dir(&old).unwrap().count(), 3, "each once");
        assert_eq!(std::fs::read(runs.dst.join("stays")).unwrap(), b"3");
        runs.run(args!["--delete", "--backup-dir", "unused"]).code(0);
        assert!(!runs.dst.join("unused").exists());
    }
}

/// The source is empty, most likely not mounted.
#[test]
fn an_empty_source_deletes_nothing() {
    let mut runs = Runs::begin(10, |tree| {
        tree.file("a", "1").file("d/b", "2");
    });
    runs.tree.remove("a").remove("d");
    let warned = runs.run(vec![]).code(0);
    assert!(
        warned.stderr.contains("is it mounted?") || warned.stdout.contains("is it mounted?"),
        "{warned:?}"
    );
    let refused = runs.run(args!["--delete"]).code(1);
    assert!(refused.stderr.contains("empty") || refused.stdout.contains("empty"), "{refused:?}");
    assert!(runs.dst.join("a").exists() && runs.dst.join("d/b").exists());
}

/// A receiver with another index, or none, gets all of it; it keeps files of the same name and
/// content.
#[test]
fn an_index_made_again_sends_no_content_again() {
    let mut runs = Runs::begin(11, |tree| {
        tree.rich(50_000).noise("big", 2_000_000);
    });
    runs.tree.file("new", "n");
    runs.mirror();
    let again = runs.lab.path("again.sqlite");
    runs.tree.mode("big", 0o640).file("newer", "nn");
    runs.lab.run(args!["index", "-b", runs.src, "-db", again]).code(0);
    let upload = runs.lab.upload(&runs.src, &again, &runs.proxy.url, args!["--json"]).code(0).summary();
    assert_eq!(sent(&upload), 2, "{upload}");
    assert_same_tree(&runs.src, &runs.dst);
    // A later generation goes as a whole to a receiver that has nothing.
    let other = runs.lab.dir("other");
    let proxy = runs.lab.proxy(&other);
    runs.lab.upload(&runs.src, &runs.db, &proxy.url, vec![]);
    runs.mirror();
    runs.lab.upload(&runs.src, &runs.db, &proxy.url, vec![]).code(0);
    assert_same_tree(&runs.src, &other);
    runs.lab.check(&other, &runs.db, args!["--extra"]).code(0);
}

/// A receiver refuses a change that was damaged in the sender's index, and gets the whole index
/// once. So does an earlier one, which does not name the kind of its error.
#[test]
fn a_refused_change_is_followed_by_the_whole_index() {
    for (seed, is_earlier) in [(19, false), (20, true)] {
        let mut runs = Runs::begin(seed, |tree| {
            tree.noise("big", 1_500_000).noise("goes", 3000);
        });
        runs.tree.remove("goes").noise("comes", 4000);
        runs.lab.run(args!["index", "-b", runs.src, "-db", runs.db]).code(0);
        let damage = "UPDATE tarlike_change SET batch=x'3f' WHERE undo=0";
        assert_eq!(rusqlite::Connection::open(&runs.db).unwrap().execute(damage, []).unwrap(), 1);
        let relay = Relay::start(runs.proxy.addr, move |_, request| {
            let is_change = String::from_utf8_lossy(&request.head).contains("x-tar-like-from");
            match is_change && is_earlier {
                true => Fate::ReplaceInAnswer("\"kind\":\"bad_index\"", "\"none\":\"bad_index\""),
                false => Fate::Pass,
            }
        });
        let upload = runs.lab.upload(&runs.src, &runs.db, &relay.url, args!["--delete", "--json"]);
        assert_eq!(sent(&upload.code(0).summary()), 4000);
        assert_same_tree(&runs.src, &runs.dst);
        let mut indexes = relay.log();
        indexes.retain(|line| line.contains("/tar/0/db "));
        assert_eq!(indexes.len(), 2, "a change and a whole index: {indexes:?}");
    }
}

/// The name under which a large file was indexed is removed, and another of its names has the
/// content now.
#[test]
fn a_further_name_has_the_content_of_its_file() {
    let mut runs = Runs::begin(18, |tree| {
        tree.noise("b", 4_000_000).hardlink("c", "b");
    });
    let mut content = std::fs::read(runs.tree.path("b")).unwrap();
    content.splice(1_000_000..1_000_000, [1, 2, 3]);
    std::fs::write(runs.tree.path("b"), content).unwrap();
    runs.tree.remove("b");
    assert!((3..EDIT).contains(&runs.mirror()));
    // Once more, while another file gets the previous name.
    runs.tree.hardlink("d", "c").noise("e", 2_000_000);
    runs.mirror();
    let mut content = std::fs::read(runs.tree.path("d")).unwrap();
    content.splice(2_000_000..2_000_000, [4, 5, 6]);
    std::fs::write(runs.tree.path("d"), content).unwrap();
    std::fs::rename(runs.tree.path("e"), runs.tree.path("c")).unwrap();
    assert!((3..EDIT).contains(&runs.mirror()));
}

/// The index is made again more often than it is sent.
#[test]
fn several_generations_are_sent_at_once() {
    let mut runs = Runs::begin(14, |tree| {
        tree.noise("big", 3_000_000).noise("other", 1_500_000);
    });
    for byte in 1..4u8 {
        let content = std::fs::read(runs.tree.path("big")).unwrap();
        runs.tree.file("big", [&content[..], &[byte; 10]].concat());
        runs.lab.run(args!["index", "-b", runs.src, "-db", runs.db]).code(0);
    }
    std::fs::rename(runs.tree.path("other"), runs.tree.path("renamed")).unwrap();
    assert!(runs.mirror() < 3 * EDIT);
}

/// The archive ends in the tail of a log. A file that has arrived, but could not get its name, gets
/// it when the way is free.
#[test]
fn an_unpublished_file_is_published_later() {
    let mut runs = Runs::begin(15, |tree| {
        tree.noise("z.log", 2_000_000);
    });
    let grown = [std::fs::read(runs.tree.path("z.log")).unwrap(), runs.tree.rng.noise(5000)].concat();
    runs.tree.noise("m", 300_000).file("z.log", grown);
    std::fs::create_dir_all(runs.dst.join("m/in-the-way")).unwrap();
    let failed = runs.run(args!["-s", "100000"]).code(3).summary();
    assert_eq!((&failed["failed"][0]["path"], &failed["failed_total"]), (&"m".into(), &1.into()), "{failed}");
    std::fs::remove_dir_all(runs.dst.join("m")).unwrap();
    runs.proxy.kill9();
    runs.proxy.restart();
    let summary = runs.run(vec![]).code(0).summary();
    assert_eq!(sent(&summary), 0, "the receiver has the content already: {summary}");
    assert_same_tree(&runs.src, &runs.dst);
}

/// Entries of an index that another index replaced are deleted, however many files were added
/// since.
#[test]
fn tombstones_survive_the_replacement_of_an_index() {
    let mut runs = Runs::begin(16, |tree| {
        for n in 0..8 {
            tree.file(format!("old-{n}"), "o");
        }
        tree.file("stays", "s");
    });
    for n in 0..8 {
        runs.tree.remove(format!("old-{n}"));
    }
    std::fs::remove_file(&runs.db).unwrap();
    runs.lab.run(args!["index", "-b", runs.src, "-db", runs.db]).code(0);
    runs.lab.upload(&runs.src, &runs.db, &runs.proxy.url, vec![]).code(0);
    for n in 0..8 {
        runs.tree.file(format!("new-{n}"), "n");
        runs.run(vec![]).code(0);
    }
    runs.tree.remove("new-0").remove("new-7");
    let summary = runs.run(args!["--delete"]).code(0).summary();
    assert_eq!(summary["deleted"], 10, "{summary}");
    assert_same_tree(&runs.src, &runs.dst);
}

/// Tables that are of use only at the sender are not sent.
#[test]
fn a_whole_index_goes_without_private_tables() {
    let mut runs = Runs::begin(17, |tree| {
        tree.noise("large", 3_000_000);
    });
    runs.tree.noise("new", 5000);
    runs.mirror();
    let tables = |db: &Path| -> Vec<String> {
        let query = "SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name";
        let connection = index::open(db);
        let mut statement = connection.prepare(query).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert!(tables(&runs.db).iter().any(|name| name == "tarlike_sketch"));
    let seen = runs.lab.path("seen.sqlite");
    // A receiver that cannot read a later generation gets no block of it.
    let original = OriginalReceiver::start(404, Box::new(|_, _, _| None));
    runs.lab.upload(&runs.src, &runs.db, &original.url(), vec![]).code(1).says("compact");
    let puts = original.take_puts();
    let [put] = &puts[..] else { panic!("{} requests", puts.len()) };
    std::fs::write(&seen, index::unframe(&put.body)).unwrap();
    assert_eq!(tables(&seen), ["tar", "tarlike_extent", "tarlike_file", "tarlike_meta", "tarlike_node"]);
}

/// The file grows while it is copied: the indexed size arrives, and the next run sends the rest.
#[test]
fn a_log_that_is_written_to_meanwhile() {
    let runs = Runs::begin(12, |tree| {
        tree.noise("log", 2_000_000);
    });
    let (log, db) = (runs.tree.path("log"), &runs.db);
    let append = |bytes: &[u8]| {
        use std::io::Write;
        std::fs::File::options().append(true).open(&log).unwrap().write_all(bytes).unwrap();
    };
    append(&[1; 5000]);
    runs.lab.run(args!["index", "-b", runs.src, "-db", db]).code(0);
    let indexed = std::fs::read(&log).unwrap();
    append(&[2; 700]);
    runs.lab.upload(&runs.src, db, &runs.proxy.url, vec![]).code(0);
    assert_eq!(std::fs::read(runs.dst.join("log")).unwrap(), indexed);
    runs.mirror();
}

/// Unexpected and malformed changes: the previous index stays, and so does the copy.
#[test]
fn a_change_that_is_none_is_refused() {
    let runs = Runs::begin(13, |tree| {
        tree.file("a", "content");
    });
    let digest = index::digest(&runs.db);
    let put = |from: &str, to: &str, body: &[u8]| {
        let headers = [("x-tar-like-index", to), ("x-tar-like-from", from)];
        runs.proxy.request("PUT", "/tar/0/db", &headers, &index::frame(body)).status
    };
    let other = "1".repeat(64);
    let removal = [&10u32.to_le_bytes()[..], b"R\0\0\0\0\0\0\0\0", b"?"].concat();
    for body in [&b""[..], b"\x01", b"\xff\xff\xff\xff", b"\x02\0\0\0R", &removal] {
        assert_eq!(put(&digest, &other, body), 422, "{body:?}");
    }
    assert_eq!(put(&other, &digest, b""), 200, "the receiver has the content already");
    assert_eq!(put(&other, &"2".repeat(64), b""), 409);
    assert_eq!(put("rubbish", &other, b""), 400);
    assert_eq!(runs.proxy.status(0)["digest"], digest);
    assert_eq!(runs.mirror(), 0);
}
