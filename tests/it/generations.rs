//! A folder that is copied again and again while it lives: what a pass costs, what is deleted, and what goes wrong.

use crate::support::original::OriginalReceiver;
use crate::support::{Lab, Proxy, Tree, assert_same_tree, index};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A source, a copy that a first pass made, and the receiver of both.
struct Passes {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    tree: Tree,
    proxy: Proxy,
}

impl Passes {
    /// `fill` makes the source. The first pass is made by `index` and `upload`, as chunk maps of large files are made by the previous.
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

    fn pass(&self, more: Vec<std::ffi::OsString>) -> crate::support::Output {
        let Self { lab, src, db, proxy, .. } = self;
        let dbp = lab.path("progress.sqlite");
        lab.sync(src, &proxy.url, [args!["-db", db, "-dbp", dbp, "--json"], more].concat())
    }

    /// A pass with `--delete`, after which both are the same; gives the bytes that were sent.
    fn mirror(&self) -> u64 {
        let summary = self.pass(args!["--delete"]).code(0).summary();
        assert_same_tree(&self.src, &self.dst);
        sent(&summary)
    }
}

fn sent(summary: &Value) -> u64 {
    summary["sent_bytes"].as_u64().unwrap()
}

/// Bytes that a chunk of a large file may have, at most, and its neighbour: what one edit may cost.
const EDIT: u64 = 768 << 10;

#[test]
fn a_run_costs_what_changed() {
    let mut passes = Passes::begin(1, |tree| {
        tree.rich(100_000).noise("big", 12_000_000).noise("log", 5_000_000).noise("d/small", 3000);
    });
    let (big, log) = (passes.tree.path("big"), passes.tree.path("log"));
    assert_eq!(passes.mirror(), 0);
    let content = std::fs::read(&big).unwrap();
    passes.tree.file("big", [b"x", &content[..]].concat());
    assert!((1..EDIT).contains(&passes.mirror()), "a byte in front");
    let mut content = std::fs::read(&big).unwrap();
    content[6_000_000..6_000_100].fill(7);
    passes.tree.file("big", &content);
    assert!((100..EDIT).contains(&passes.mirror()), "a change in place");
    let grown = [std::fs::read(&log).unwrap(), passes.tree.rng.noise(200_000)].concat();
    passes.tree.file("log", grown);
    assert!((200_000..200_000 + EDIT).contains(&passes.mirror()), "growth");
    std::fs::rename(&log, passes.tree.path("log.1")).unwrap();
    std::fs::copy(&big, passes.tree.path("copy")).unwrap();
    passes.tree.file("log", "begins again");
    assert_eq!(passes.mirror(), 12, "a rotation and a copy");
    let (a, b) = (passes.tree.path("log.1"), passes.tree.path("copy"));
    std::fs::rename(&a, passes.tree.path("between")).unwrap();
    std::fs::rename(&b, &a).unwrap();
    std::fs::rename(passes.tree.path("between"), &b).unwrap();
    assert_eq!(passes.mirror(), 0, "two names that are swapped");
    passes.tree.mode("big", 0o600).mtime("d/small", 77);
    assert_eq!(passes.mirror(), 0, "metadata");
    let same = passes.tree.rng.noise(4000);
    passes.tree.file("same-1", &same).file("d/same-2", &same);
    assert_eq!(passes.mirror(), 4000, "the same twice in one pass");
    passes.tree.file("copy", "").remove("d/small").dir("d/small").file("d/small/inside", "i");
    assert_eq!(passes.mirror(), 1, "cut to nothing, and a folder in place of a file");
    passes.tree.remove("d");
    passes.tree.file("d", "file");
    // It comes once more when the folder is out of its way.
    assert!((4..=8).contains(&passes.mirror()), "a file in place of a folder");
    passes.lab.check(&passes.dst, &passes.db, args!["--extra"]).code(0);
}

/// The copy is not what the previous generation says: what is needed of it comes from the source.
#[test]
fn a_copy_changed_at_the_receiver_is_not_reused() {
    for (seed, damage) in [
        (2, (|path: &Path| std::fs::remove_file(path).unwrap()) as fn(&Path)),
        (3, |path| std::fs::write(path, "something else").unwrap()),
        // Neither size nor time tell.
        (4, |path| {
            let time = path.metadata().unwrap().modified().unwrap();
            let mut content = std::fs::read(path).unwrap();
            content[1_000_000] ^= 1;
            std::fs::write(path, content).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }),
        (5, |path| std::fs::File::options().write(true).open(path).unwrap().set_len(10).unwrap()),
    ] {
        let mut passes = Passes::begin(seed, |tree| {
            tree.noise("big", 3_000_000).noise("other", 2_000_000);
        });
        let content = std::fs::read(passes.tree.path("big")).unwrap();
        passes.tree.file("big", [&content[..], b"end"].concat()).file("copy", &content);
        damage(&passes.dst.join("big"));
        let sent = passes.mirror();
        assert!(sent <= 2 * 3_000_003 + 1_000_000, "{sent}");
    }
}

/// Only metadata change at the source, of a file that another process wrote to at the receiver: with the new time it would pass for right.
#[test]
fn a_copy_changed_at_the_receiver_gets_no_metadata_of_the_source() {
    for whole in [false, true] {
        let mut passes = Passes::begin(31, |tree| {
            tree.file("changed", "0123456789").file("right", "abcdef");
        });
        std::fs::write(passes.dst.join("changed"), "9876543210").unwrap();
        passes.tree.mtime("changed", 1_700_000_000).mode("changed", 0o600).mtime("right", 1_700_000_001);
        if whole {
            // An index that has nothing to do with the previous one.
            passes.lab.run(args!["index", "-c", "-b", passes.src, "-db", passes.db]).code(0);
        }
        let summary = passes.pass(vec![]).code(0).summary();
        assert_eq!(sent(&summary), 10, "{summary}");
        assert_same_tree(&passes.src, &passes.dst);
    }
}

/// A file that gets another time gets it under all of its names, also under one that goes in the same pass.
#[test]
fn a_further_name_of_a_touched_file_goes() {
    let mut passes = Passes::begin(33, |tree| {
        tree.file("a", "content").hardlink("b", "a").file("stays", "");
    });
    passes.tree.mtime("a", 1_700_000_000_000_000_000).remove("b");
    assert_eq!(passes.mirror(), 0);
    // And not one that was put there since.
    passes.tree.hardlink("b", "a");
    assert_eq!(passes.mirror(), 0);
    std::fs::remove_file(passes.dst.join("b")).unwrap();
    std::fs::write(passes.dst.join("b"), "another").unwrap();
    passes.tree.mtime("a", 1_600_000_000_000_000_000).remove("b");
    passes.pass(args!["--delete"]).code(0);
    assert_eq!(std::fs::read(passes.dst.join("b")).unwrap(), b"another");
}

#[test]
fn nothing_is_deleted_without_being_asked() {
    let mut passes = Passes::begin(6, |tree| {
        tree.file("goes", "1")
            .file("stays", "2")
            .file("d/goes", "3")
            .symlink("link", "stays")
            .hardlink("hard", "stays");
    });
    std::fs::write(passes.dst.join("foreign"), "of somebody else").unwrap();
    passes.tree.remove("goes").remove("d").remove("link").remove("hard");
    passes.pass(vec![]).code(0);
    for name in ["goes", "d/goes", "link", "hard", "foreign", "stays"] {
        assert!(passes.dst.join(name).symlink_metadata().is_ok(), "{name}");
    }
    // Later passes know, too, what the previous ones left.
    std::fs::write(passes.dst.join("d/foreign"), "of somebody else").unwrap();
    let summary = passes.pass(args!["--delete"]).code(0).summary();
    assert_eq!(summary["deleted"], 4, "{summary}");
    for (name, there) in [
        ("goes", false),
        ("d/goes", false),
        ("link", false),
        ("hard", false),
        ("foreign", true),
        ("d/foreign", true),
    ] {
        assert_eq!(passes.dst.join(name).symlink_metadata().is_ok(), there, "{name}");
    }
    assert_eq!(std::fs::read(passes.dst.join("stays")).unwrap(), b"2");
}

#[test]
fn files_changed_at_the_receiver_are_not_deleted() {
    let mut passes = Passes::begin(7, |tree| {
        tree.file("goes", "1").file("stays", "2");
    });
    std::fs::write(passes.dst.join("goes"), "is somebody's work now").unwrap();
    passes.tree.remove("goes");
    let summary = passes.pass(args!["--delete"]).code(0).summary();
    assert_eq!(summary["deleted"], 0, "{summary}");
    assert!(passes.dst.join("goes").exists());
}

#[test]
fn no_more_is_deleted_than_allowed() {
    let mut passes = Passes::begin(8, |tree| {
        for n in 0..20 {
            tree.file(format!("f{n}"), "x");
        }
    });
    for n in 0..10 {
        passes.tree.remove(format!("f{n}"));
    }
    passes.tree.file("new", "y");
    for limit in ["9", "0", "49%"] {
        let output = passes.pass(args!["--delete", "--max-delete", limit]).code(25);
        let summary = output.summary();
        assert_eq!(
            (&summary["too_many_to_delete"], &summary["complete"]),
            (&10.into(), &true.into()),
            "{summary}"
        );
        assert!(passes.dst.join("f0").exists() && passes.dst.join("new").exists());
    }
    assert_eq!(passes.pass(args!["--max-delete", "9"]).code, 2);
    assert_eq!(passes.pass(args!["--delete", "--max-delete", "101%"]).code, 2);
    passes.pass(args!["--delete", "--max-delete", "10"]).code(0);
    assert_same_tree(&passes.src, &passes.dst);
}

#[test]
fn deleted_files_go_to_the_backup_folder() {
    let mut passes = Passes::begin(9, |tree| {
        tree.file("d/goes", "1").file("stays", "2");
    });
    passes.tree.remove("d");
    for bad in ["../out", "/absolute", ".tar-like/held"] {
        assert_ne!(passes.pass(args!["--delete", "--backup-dir", bad]).code, 0, "{bad}");
        assert!(passes.dst.join("d/goes").exists(), "{bad}");
    }
    passes.pass(args!["--delete", "--backup-dir", "old"]).code(0);
    assert_eq!(std::fs::read(passes.dst.join("old/d/goes")).unwrap(), b"1");
    assert!(!passes.dst.join("d").exists());
}

/// Nothing mounted, most likely.
#[test]
fn an_empty_source_deletes_nothing() {
    let mut passes = Passes::begin(10, |tree| {
        tree.file("a", "1").file("d/b", "2");
    });
    passes.tree.remove("a").remove("d");
    let refused = passes.pass(args!["--delete"]).code(1);
    assert!(refused.stderr.contains("empty") || refused.stdout.contains("empty"), "{refused:?}");
    assert!(passes.dst.join("a").exists() && passes.dst.join("d/b").exists());
}

/// A receiver that has another index, or none, gets all of it; what it has under the same name with the same content, it keeps.
#[test]
fn an_index_made_again_sends_no_content_again() {
    let mut passes = Passes::begin(11, |tree| {
        tree.rich(50_000).noise("big", 2_000_000);
    });
    passes.tree.file("new", "n");
    passes.mirror();
    let again = passes.lab.path("again.sqlite");
    passes.tree.mode("big", 0o640).file("newer", "nn");
    passes.lab.run(args!["index", "-b", passes.src, "-db", again]).code(0);
    let upload = passes.lab.upload(&passes.src, &again, &passes.proxy.url, args!["--json"]).code(0).summary();
    assert_eq!(sent(&upload), 2, "{upload}");
    assert_same_tree(&passes.src, &passes.dst);
    // And a later generation as a whole, to one that has nothing.
    let other = passes.lab.dir("other");
    let proxy = passes.lab.proxy(&other);
    passes.lab.upload(&passes.src, &passes.db, &proxy.url, vec![]);
    passes.mirror();
    passes.lab.upload(&passes.src, &passes.db, &proxy.url, vec![]).code(0);
    assert_same_tree(&passes.src, &other);
    passes.lab.check(&other, &passes.db, args!["--extra"]).code(0);
}

/// The name under which a large file was known goes, and one of its others has the content now.
#[test]
fn a_further_name_has_the_content_of_its_file() {
    let mut passes = Passes::begin(18, |tree| {
        tree.noise("b", 4_000_000).hardlink("c", "b");
    });
    let mut content = std::fs::read(passes.tree.path("b")).unwrap();
    content.splice(1_000_000..1_000_000, [1, 2, 3]);
    std::fs::write(passes.tree.path("b"), content).unwrap();
    passes.tree.remove("b");
    assert!((3..EDIT).contains(&passes.mirror()));
    // And once more, while something else gets the name before.
    passes.tree.hardlink("d", "c").noise("e", 2_000_000);
    passes.mirror();
    let mut content = std::fs::read(passes.tree.path("d")).unwrap();
    content.splice(2_000_000..2_000_000, [4, 5, 6]);
    std::fs::write(passes.tree.path("d"), content).unwrap();
    std::fs::rename(passes.tree.path("e"), passes.tree.path("c")).unwrap();
    assert!((3..EDIT).contains(&passes.mirror()));
}

/// The index is made again more often than anything is sent.
#[test]
fn several_generations_are_sent_at_once() {
    let mut passes = Passes::begin(14, |tree| {
        tree.noise("big", 3_000_000).noise("other", 1_500_000);
    });
    for byte in 1..4u8 {
        let content = std::fs::read(passes.tree.path("big")).unwrap();
        passes.tree.file("big", [&content[..], &[byte; 10]].concat());
        passes.lab.run(args!["index", "-b", passes.src, "-db", passes.db]).code(0);
    }
    std::fs::rename(passes.tree.path("other"), passes.tree.path("renamed")).unwrap();
    assert!(passes.mirror() < 3 * EDIT);
}

/// The archive ends in the tail of a log. A file that is there, but could not get its name, gets it when the way is free.
#[test]
fn an_unpublished_file_is_published_later() {
    let mut passes = Passes::begin(15, |tree| {
        tree.noise("z.log", 2_000_000);
    });
    let grown = [std::fs::read(passes.tree.path("z.log")).unwrap(), passes.tree.rng.noise(5000)].concat();
    passes.tree.noise("m", 300_000).file("z.log", grown);
    std::fs::create_dir_all(passes.dst.join("m/in-the-way")).unwrap();
    let failed = passes.pass(args!["-s", "100000"]).code(3).summary();
    assert_eq!((&failed["failed"][0]["path"], &failed["failed_total"]), (&"m".into(), &1.into()), "{failed}");
    std::fs::remove_dir_all(passes.dst.join("m")).unwrap();
    passes.proxy.kill9();
    passes.proxy.restart();
    let summary = passes.pass(vec![]).code(0).summary();
    assert_eq!(sent(&summary), 0, "it is there already: {summary}");
    assert_same_tree(&passes.src, &passes.dst);
}

/// What an index had that another one took the place of is deleted, however many files came since.
#[test]
fn tombstones_survive_the_replacement_of_an_index() {
    let mut passes = Passes::begin(16, |tree| {
        for n in 0..8 {
            tree.file(format!("old-{n}"), "o");
        }
        tree.file("stays", "s");
    });
    for n in 0..8 {
        passes.tree.remove(format!("old-{n}"));
    }
    std::fs::remove_file(&passes.db).unwrap();
    passes.lab.run(args!["index", "-b", passes.src, "-db", passes.db]).code(0);
    passes.lab.upload(&passes.src, &passes.db, &passes.proxy.url, vec![]).code(0);
    for n in 0..8 {
        passes.tree.file(format!("new-{n}"), "n");
        passes.pass(vec![]).code(0);
    }
    passes.tree.remove("new-0").remove("new-7");
    let summary = passes.pass(args!["--delete"]).code(0).summary();
    assert_eq!(summary["deleted"], 10, "{summary}");
    assert_same_tree(&passes.src, &passes.dst);
}

/// Tables that are of use only here do not go over the wire.
#[test]
fn a_whole_index_goes_without_private_tables() {
    let mut passes = Passes::begin(17, |tree| {
        tree.noise("large", 3_000_000);
    });
    passes.tree.noise("new", 5000);
    passes.mirror();
    let tables = |db: &Path| -> Vec<String> {
        let query = "SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name";
        let connection = index::open(db);
        let mut statement = connection.prepare(query).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert!(tables(&passes.db).iter().any(|name| name == "tarlike_sketch"));
    let seen = passes.lab.path("seen.sqlite");
    // One that cannot read a later generation gets no block of it.
    let original = OriginalReceiver::start(404, Box::new(|_, _, _| None));
    passes.lab.upload(&passes.src, &passes.db, &original.url(), vec![]).code(1).says("compact");
    let puts = original.take_puts();
    let [put] = &puts[..] else { panic!("{} requests", puts.len()) };
    std::fs::write(&seen, index::unframe(&put.body)).unwrap();
    assert_eq!(tables(&seen), ["tar", "tarlike_extent", "tarlike_file", "tarlike_meta", "tarlike_node"]);
}

/// It grows while it is copied: what was indexed arrives, the rest comes with the next pass.
#[test]
fn a_log_that_is_written_to_meanwhile() {
    let passes = Passes::begin(12, |tree| {
        tree.noise("log", 2_000_000);
    });
    let (log, db) = (passes.tree.path("log"), &passes.db);
    let append = |bytes: &[u8]| {
        use std::io::Write;
        std::fs::File::options().append(true).open(&log).unwrap().write_all(bytes).unwrap();
    };
    append(&[1; 5000]);
    passes.lab.run(args!["index", "-b", passes.src, "-db", db]).code(0);
    let indexed = std::fs::read(&log).unwrap();
    append(&[2; 700]);
    passes.lab.upload(&passes.src, db, &passes.proxy.url, vec![]).code(0);
    assert_eq!(std::fs::read(passes.dst.join("log")).unwrap(), indexed);
    passes.mirror();
}

/// Unexpected and malformed changes: the previous index stays, and so does the copy.
#[test]
fn a_change_that_is_none_is_refused() {
    let passes = Passes::begin(13, |tree| {
        tree.file("a", "content");
    });
    let digest = index::digest(&passes.db);
    let put = |from: &str, to: &str, body: &[u8]| {
        let headers = [("x-tar-like-index", to), ("x-tar-like-from", from)];
        passes.proxy.request("PUT", "/tar/0/db", &headers, &index::frame(body)).status
    };
    let other = "1".repeat(64);
    let removal = [&10u32.to_le_bytes()[..], b"R\0\0\0\0\0\0\0\0", b"?"].concat();
    for body in [&b""[..], b"\x01", b"\xff\xff\xff\xff", b"\x02\0\0\0R", &removal] {
        assert_eq!(put(&digest, &other, body), 422, "{body:?}");
    }
    assert_eq!(put(&other, &digest, b""), 200, "it is there already");
    assert_eq!(put(&other, &"2".repeat(64), b""), 409);
    assert_eq!(put("rubbish", &other, b""), 400);
    assert_eq!(passes.proxy.status(0)["digest"], digest);
    assert_eq!(passes.mirror(), 0);
}
