//! `tar-like index`: the content of the database, excluded paths, and the traces of an interrupted
//! run.

use crate::support::index::{self, Row};
use crate::support::{Lab, Tree, is_root, set_mtime};
use rustix::fs::{CWD, FileType, Mode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// FORMAT.md 2, every column of every row.
#[test]
fn table_tar_is_exactly_as_the_original_writes_it() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 40).rich(70_000);
    let db = lab.index(&src);
    let rows = index::rows(&db);
    let mut offset = 0;
    for (id, row) in rows.iter().enumerate() {
        let content = std::fs::read(src.join(OsStr::from_bytes(&row.path))).unwrap();
        let expected = Row {
            id: id as i64,
            path: row.path.clone(),
            path_type: if std::str::from_utf8(&row.path).is_ok() { "text" } else { "blob" },
            size: content.len() as i64,
            offset,
            offset_end: offset + content.len() as i64 - 1,
            hash: index::md5_hex(&content),
        };
        assert_eq!(*row, expected);
        offset += expected.size;
    }
    assert!(rows.iter().any(|row| row.path_type == "blob") && rows.iter().any(|row| row.size == 0));
    let files =
        walkdir::WalkDir::new(&src).into_iter().filter(|e| e.as_ref().unwrap().file_type().is_file()).count();
    let hard_links = index::nodes(&db).iter().filter(|(kind, ..)| kind == "h").count();
    assert_eq!(rows.len() + hard_links, files);
    assert_eq!(hard_links, 4);
}

/// The original's own queries, word for word, on our database.
#[test]
fn the_original_can_read_it() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 41);
    tree.file("a", "0123456789").file("b", "").file("c", "abcdef");
    let db = lab.index(&src);
    let connection = index::open(&db);
    let columns: Vec<(String, String)> = connection
        .prepare("SELECT name, type FROM pragma_table_info('tar') ORDER BY cid")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let expected = [
        ("id", "INT64"),
        ("path", "TEXT"),
        ("size", "INT64"),
        ("offset", "INT64"),
        ("offset_end", "INT64"),
        ("hash", "TEXT"),
    ];
    assert_eq!(columns, expected.map(|(name, kind)| (name.to_string(), kind.to_string())));
    let indexes: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'tar' ORDER BY name")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let expected = [
        "idx_tar_hash",
        "idx_tar_offset",
        "idx_tar_offset_end",
        "idx_tar_offset_n_offset_end",
        "idx_tar_path",
    ];
    assert_eq!(indexes, expected);
    let touching = |start: i64, end: i64| -> Vec<String> {
        let query = "SELECT path FROM tar WHERE offset <= ? AND offset_end >= ? ORDER BY offset, id";
        let mut statement = connection.prepare(query).unwrap();
        statement.query_map([end, start], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(touching(0, 8), ["a"]);
    // The empty file lies on the border.
    assert_eq!(touching(9, 10), ["a", "b", "c"]);
    assert_eq!(touching(12, 20), ["c"]);
    let total: i64 =
        connection.query_row("SELECT max(offset_end) + 1 FROM tar", [], |row| row.get(0)).unwrap();
    assert_eq!(total, 16);
}

#[test]
fn the_order_is_stable_and_the_digest_is_that_of_the_tree() {
    let lab = Lab::new();
    let (src, copy) = (lab.path("src"), lab.path("copy"));
    Tree::new(&src, 42).rich(10_000);
    let first = lab.index(&src);
    let (rows, nodes, digest) = (index::rows(&first), index::nodes(&first), index::digest(&first));
    let again = lab.index(&src);
    assert_eq!(
        (index::rows(&again), index::nodes(&again), index::digest(&again)),
        (rows.clone(), nodes, digest.clone())
    );
    // A copy has other inodes and another order on disk, but it is the same tree.
    assert!(std::process::Command::new("cp").arg("-a").arg(&src).arg(&copy).status().unwrap().success());
    assert_eq!(index::digest(&lab.index(&copy)), digest);
    set_mtime(&copy.join("one-byte"), 1);
    assert_ne!(index::digest(&lab.index(&copy)), digest, "another time is another state");
    // A folder directly before its contents, names in the order of their bytes.
    let sorted: Vec<Vec<u8>> = rows.iter().map(|row| row.path.clone()).collect();
    let key =
        |path: &Vec<u8>| path.iter().map(|&byte| if byte == b'/' { 0 } else { byte }).collect::<Vec<u8>>();
    assert!(sorted.is_sorted_by_key(key));
}

/// Without that, every file of the index would be named as failed.
#[test]
fn an_upload_from_another_source_is_refused_or_warned_of() {
    let lab = Lab::new();
    let (src, other, moved) = (lab.path("src"), lab.dir("other"), lab.path("moved"));
    Tree::new(&src, 46).noise("a", 1000).noise("b", 1000);
    let db = lab.path("i.sqlite");
    lab.run(args!["index", src, "-db", db]).code(0);
    std::fs::write(other.join("x"), "x").unwrap();
    let proxy = lab.proxy(&lab.dir("dst"));
    let refused = lab.upload(&other, &db, &proxy.url, vec![]).code(1).says("has none of the first files");
    assert!(refused.stderr.contains(&format!("-b {}", src.display())), "{}", refused.stderr);
    assert!(!refused.stderr.contains("failed"), "{}", refused.stderr);
    std::fs::rename(&src, &moved).unwrap();
    lab.upload(&moved, &db, &proxy.url, vec![]).code(0).says("is the index of");
    lab.run(args!["check", lab.path("dst"), "-db", db]).code(0);
}

#[test]
fn metadata_and_nodes_are_beside_it() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 43);
    tree.file("file", "content")
        .mode("file", 0o751)
        .mtime("file", -1_500_000_001)
        .dir("dir")
        .mode("dir", 0o1750);
    tree.mtime("dir", 7).symlink("link", "no/where").mtime("link", 1_234_567_890).hardlink("name2", "file");
    let db = lab.index(&src);
    let one = |query: &str| -> (i64, i64) {
        index::open(&db).query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    assert_eq!(one("SELECT mode, mtime_ns FROM tarlike_file WHERE id = 0"), (0o751, -1_500_000_001));
    assert_eq!(one("SELECT mode, mtime_ns FROM tarlike_node WHERE path = 'dir'"), (0o1750, 7));
    assert_eq!(one("SELECT length(path), mtime_ns FROM tarlike_node WHERE path = 'link'").1, 1_234_567_890);
    let hash: Vec<u8> = index::open(&db)
        .query_row("SELECT blake3 FROM tarlike_file WHERE id = 0", [], |row| row.get(0))
        .unwrap();
    assert_eq!(hash, blake3::hash(b"content").as_bytes());
    let text = |s: &str| s.to_string();
    assert_eq!(
        index::nodes(&db),
        [
            (text("d"), text("dir"), text("")),
            (text("l"), text("link"), text("no/where")),
            (text("h"), text("name2"), text("file"))
        ]
    );
    assert_eq!(
        (index::meta(&db, "complete"), index::meta(&db, "generation"), index::meta(&db, "hash")),
        (text("1"), text("1"), text("md5"))
    );
    assert_eq!(index::digest(&db).len(), 64);
}

/// FORMAT.md 13: the exclude regex was matched against base + path.
#[test]
fn exclude_looks_at_the_relative_path_only() {
    let lab = Lab::new();
    let src = lab.path("word/src");
    let mut tree = Tree::new(&src, 44);
    tree.file("a.txt", "1")
        .file("word.txt", "2")
        .file("sub/word/b", "3")
        .file("sub/c.log", "4")
        .file("sub/c.log.txt", "5");
    let indexed = |more: Vec<std::ffi::OsString>| {
        let db = lab.path("x.sqlite");
        lab.cmd(args!["index", "-c", "-b", src, "-db", db]).args(more).run().code(0);
        index::paths(&db)
    };
    assert_eq!(indexed(args!["-x", "word"]), ["a.txt", "sub/c.log", "sub/c.log.txt"]);
    assert_eq!(indexed(args!["-x", "word", "--exclude", r"\.log$"]), ["a.txt", "sub/c.log.txt"]);
    assert_eq!(indexed(args!["-x", "^sub/"]), ["a.txt", "word.txt"]);
    assert_eq!(indexed(args!["-x", "^/"]), ["a.txt", "sub/c.log", "sub/c.log.txt", "sub/word/b", "word.txt"]);
    assert_eq!(
        indexed(args!["-x", "tar-like-it"]).len(),
        5,
        "the folder of the test itself has this in its name"
    );
    let bad = lab.run(args!["index", "-c", "-b", src, "-db", lab.path("y.sqlite"), "-x", "("]).code(2);
    assert!(bad.stderr.contains('('), "{}", bad.stderr);
    assert!(!lab.path("y.sqlite").exists());
}

/// FORMAT.md 13: an index without `-c` twice.
#[test]
fn an_index_that_is_there_gets_a_next_generation() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 45).file("a", "1");
    let db = lab.index(&src);
    let before = index::digest(&db);
    let again = lab.run(args!["index", "-b", src, "-db", db, "--json"]).code(0).summary();
    assert_eq!((&again["unchanged"], &again["generation"]), (&true.into(), &1.into()));
    assert_eq!(index::digest(&db), before);
    Tree::new(&src, 45).file("0", "2");
    let next = lab.run(args!["index", "-b", src, "-db", db, "--json"]).code(0).summary();
    assert_eq!((&next["generation"], &next["changes"]["appended_bytes"]), (&2.into(), &1.into()), "{next}");
    // New rows stand behind the previous ones.
    assert_eq!(index::paths(&db), ["a", "0"]);
    lab.run(args!["index", "-b", src, "-db", db, "--clean"]).code(0);
    assert_eq!(index::paths(&db), ["0", "a"]);
}

#[test]
fn entries_without_content_are_skipped_and_named() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 46);
    tree.file("a", "1").file("z", "2").symlink("broken", "no/where").dir("sub");
    rustix::fs::mknodat(CWD, src.join("sub/the-fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0)
        .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(src.join("the-socket")).unwrap();
    let db = lab.path("x.sqlite");
    let output = lab.run(args!["index", "-b", src, "-db", db]).code(3);
    for name in ["sub/the-fifo", "the-socket"] {
        assert!(output.stderr.contains(name), "{name} is not named:\n{}", output.stderr);
    }
    assert_eq!(index::paths(&db), ["a", "z"]);
    assert_eq!(index::nodes(&db)[0].1, "broken");
    let json = lab.run(args!["index", "-c", "-b", src, "-db", db, "--json"]).code(3);
    assert_eq!(json.summary()["exit"], 3);
    assert!(json.stdout.contains("sub/the-fifo"), "{}", json.stdout);
}

/// Both kinds of device; in a test of its own, since only root can make one.
#[test]
fn devices_are_skipped_and_named() {
    if !is_root() {
        return crate::support::skip("only root can make devices");
    }
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 48).file("a", "1");
    for (name, kind) in [("of-bytes", FileType::CharacterDevice), ("of-blocks", FileType::BlockDevice)] {
        // 1:3 is /dev/null; a block device of this number is a RAM disk, which is not opened.
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, src.join(name), kind, Mode::from_raw_mode(0o644), device).unwrap();
    }
    let db = lab.path("x.sqlite");
    let output = lab.run(args!["index", "-b", src, "-db", db]).code(3);
    for name in ["of-bytes", "of-blocks"] {
        assert!(output.stderr.contains(name), "{name} is not named:\n{}", output.stderr);
    }
    assert_eq!(index::paths(&db), ["a"]);
}

#[test]
fn unreadable_files_are_skipped_and_named() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 47);
    tree.file("a", "1")
        .file("closed", "2")
        .mode("closed", 0)
        .file("sub/x", "3")
        .mode("sub", 0)
        .file("z", "4");
    let out = lab.dir("out");
    let db = out.join("x.sqlite");
    Tree::new(&out, 0).mode("", 0o777);
    let output = lab.unprivileged(lab.cmd(args!["index", "-b", src, "-db", db])).run();
    tree.mode("sub", 0o755);
    let output = output.code(3);
    for name in ["closed", "sub"] {
        assert!(output.stderr.contains(name), "{name} is not named:\n{}", output.stderr);
    }
    assert_eq!(index::paths(&db), ["a", "z"]);
}

#[test]
fn names_that_are_not_utf8_are_kept_byte_for_byte() {
    let lab = Lab::new();
    let src = lab.path("src");
    let odd = OsStr::from_bytes(b"d\xff/\xfe\n\x80");
    Tree::new(&src, 48).file(odd, "x").file("\u{fffd}", "y");
    let db = lab.index(&src);
    let rows = index::rows(&db);
    let found: Vec<(&[u8], &str)> = rows.iter().map(|row| (&row.path[..], row.path_type)).collect();
    assert_eq!(found, [(odd.as_bytes(), "blob"), ("\u{fffd}".as_bytes(), "text")]);
    let (kind, bytes): (String, Vec<u8>) = index::open(&db)
        .query_row("SELECT typeof(path), CAST(path AS BLOB) FROM tarlike_node WHERE kind = 'd'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((&*kind, &bytes[..]), ("blob", &b"d\xff"[..]));
}

#[test]
fn files_of_the_program_are_not_indexed() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 49);
    tree.file("file", "1").file(".tar-like/journal.sqlite", "state").file("sub/.tar-like/kept", "2");
    let db = src.join("index.sqlite");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    assert_eq!(index::paths(&db), ["file", "sub/.tar-like/kept"]);
    let digest = index::digest(&db);
    lab.run(args!["index", "-c", "-b", src, "-db", src.join("../src/./index.sqlite")]).code(0);
    assert_eq!(index::paths(&db), ["file", "sub/.tar-like/kept"]);
    lab.cmd(args!["index", "-c", "-b", ".", "-db", "index.sqlite"]).cwd(&src).run().code(0);
    assert_eq!(
        (index::paths(&db), index::digest(&db)),
        (vec!["file".to_string(), "sub/.tar-like/kept".into()], digest)
    );
}

/// SIGKILL at any moment: the database is the previous one, the new one, or absent.
#[test]
fn a_killed_run_leaves_no_database_and_no_wrong_one() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 50);
    for number in 0..300 {
        tree.noise(format!("d{}/f{number}", number % 10), 100_000);
    }
    let (db, old) = (lab.path("x.sqlite"), lab.index(&src));
    let (rows, old_bytes) = (index::rows(&old), std::fs::read(&old).unwrap());
    let mut killed = 0;
    for round in 0..12 {
        let target = if round % 2 == 0 { &db } else { &old };
        let mut running = lab.cmd(args!["index", "-c", "-b", src, "-db", target]).spawn();
        std::thread::sleep(Duration::from_millis(3 + 4 * round));
        killed += u32::from(!running.has_ended());
        running.kill9();
        if target.exists() {
            assert_eq!(index::rows(target), rows);
            assert_eq!(index::meta(target, "complete"), "1");
        }
    }
    assert!(killed >= 3, "the runs ended before they could be killed");
    let same_rows = index::rows(&old) == rows;
    assert!(std::fs::read(&old).unwrap() == old_bytes || same_rows);
    lab.run(args!["index", "-c", "-b", src, "-db", db]).code(0);
    assert_eq!(index::rows(&db), rows);
}

#[test]
fn a_base_that_is_not_there_is_an_error() {
    let lab = Lab::new();
    let db = lab.path("x.sqlite");
    let output = lab.run(args!["index", "-b", lab.path("nowhere"), "-db", db]);
    assert!(matches!(output.code, 1 | 2), "{output:?}");
    assert!(output.stderr.contains("nowhere"), "{}", output.stderr);
    assert!(!db.exists());
}

/// The names of one file are one row; the others are links to the first name that is not left out.
#[test]
fn hard_links_to_what_is_left_out() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 51);
    tree.file("a", "x").hardlink("b", "a").hardlink("c", "a").hardlink("sub-d", "a").file("outside/e", "y");
    std::fs::hard_link(src.join("outside/e"), lab.path("not-in-the-base")).unwrap();
    let db = lab.path("x.sqlite");
    lab.run(args!["index", "-b", src, "-db", db, "-x", "^a$", "-x", "^c$"]).code(0);
    assert_eq!(index::paths(&db), ["b", "outside/e"]);
    let links: Vec<_> = index::nodes(&db).into_iter().filter(|(kind, ..)| kind == "h").collect();
    assert_eq!(links, [("h".to_string(), "sub-d".to_string(), "b".to_string())]);
}

/// A folder whose absolute path no system call takes, and one just short of it.
#[test]
fn paths_at_the_limit_of_the_system() {
    use rustix::fs::OFlags;
    let lab = Lab::new();
    let src = lab.dir("s");
    let name = "n".repeat(200);
    let mut folder = rustix::fs::open(&src, OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut depths = 0;
    // 25 folders of 201 bytes: the last 5 or so cannot be reached by an absolute path.
    for _ in 0..25 {
        rustix::fs::mkdirat(&folder, &*name, Mode::from_raw_mode(0o755)).unwrap();
        folder = rustix::fs::openat(&folder, &*name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        let flags = OFlags::CREATE | OFlags::WRONLY;
        drop(rustix::fs::openat(&folder, "f", flags, Mode::from_raw_mode(0o644)).unwrap());
        depths += 1;
    }
    assert_eq!(depths, 25);
    let db = lab.path("x.sqlite");
    let output = lab.run(args!["index", "-b", src, "-db", db]).code(3);
    assert!(output.stderr.contains("nnn"), "{}", output.stderr);
    let rows = index::rows(&db).len();
    assert!((18..=20).contains(&rows), "{rows} files");
    // A receiver in a folder with a longer name can keep everything that the index has.
    let dst = lab.dir(&"longer".repeat(20));
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, vec![]).code(0);
    lab.check(&dst, &db, vec![]).code(0);
}
