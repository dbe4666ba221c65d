//! The file of an index: locked, replaced by another program, in use, or no file at all.

use crate::support::index::{rows, rows_of};
use crate::support::{Lab, Tree, assert_same_tree, index, need_tool, wait_until};
use rusqlite::Connection;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the original's `index -c` does to a database: it makes its own table and indexes again, and
/// nothing else.
fn original_clean(db: &Path, files: &[(&[u8], &[u8])]) {
    let connection = Connection::open(db).unwrap();
    connection.execute_batch("DROP TABLE tar").unwrap();
    drop(connection);
    index::write_original(db, &rows_of(files));
}

#[test]
fn an_index_replaced_by_the_original_is_an_original_index() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    let mut tree = Tree::new(&src, 180);
    tree.file("a", "one").file("d/b", "two").symlink("l", "a");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    tree.file("a", "eins").file("d/c", "three").remove("l");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let files: [(&[u8], &[u8]); 3] = [(b"a", b"eins"), (b"d/b", b"zwei"), (b"d/c", b"three")];
    tree.file("d/b", "zwei");
    original_clean(&db, &files);
    let word = "was replaced by the original program";
    lab.check(&src, &db, vec![]).code(0).says(word);
    let list = lab.run(args!["history", "-db", db]).code(0).says(word);
    assert_eq!(list.stdout.lines().count(), 2, "{}", list.stdout);
    lab.run(args!["index", "-b", src, "-db", db]).code(1).says("original program");
    // A receiver gets it as an index of the original, and nothing is deleted by it.
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, args!["--delete"]).code(0).says(word);
    for (name, content) in files {
        let path = dst.join(std::str::from_utf8(name).unwrap());
        assert_eq!(std::fs::read(path).unwrap(), content);
    }
    // A new index of ours in its place is ours.
    lab.run(args!["index", "-c", "-b", src, "-db", db]).code(0);
    let list = lab.run(args!["history", "-db", db]).code(0);
    assert!(!list.stderr.contains(word), "{}", list.stderr);
}

/// A program that only opens the file for writing, or writes the same rows, has replaced nothing.
#[test]
fn the_same_rows_are_ours_with_any_writer() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    Tree::new(&src, 181).file("a", "one").file("d/b", "two").dir("empty");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    Connection::open(&db).unwrap().execute_batch("ANALYZE; VACUUM;").unwrap();
    let before = rows(&db);
    original_clean(&db, &[(b"a", b"one"), (b"d/b", b"two")]);
    assert_eq!(rows(&db), before);
    let output = lab.check(&src, &db, args!["--extra"]).code(0);
    assert!(!output.stderr.contains("replaced"), "{}", output.stderr);
    // The same for every kind of index of ours: rewound, restored, compacted.
    std::fs::write(src.join("a"), "eins").unwrap();
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let backup = lab.path("backup");
    lab.run(args!["history", "backup", "--init", backup, "-db", db]).code(0);
    for command in [
        args!["compact", "-db", db],
        args!["history", "restore", "-c", backup, "-db", db],
        args!["rewind", "-db", db],
    ] {
        lab.run(command).code(0);
        let list = lab.run(args!["history", "-db", db]).code(0);
        assert!(!list.stderr.contains("replaced"), "{}", list.stderr);
        let counter = std::fs::read(&db).unwrap()[24..28].try_into().map(u32::from_be_bytes).unwrap();
        assert_eq!(index::meta(&db, "counter"), counter.to_string(), "without reading all rows");
    }
}

/// An earlier version makes a generation and leaves the name of the rows as it is: the digest of the
/// index says that they are ours.
#[test]
fn an_index_that_an_earlier_version_went_on_with_is_ours() {
    let lab = Lab::new();
    let (src, db, dst) = (lab.path("src"), lab.path("i.sqlite"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 183);
    tree.file("a", "one").file("d/b", "two").symlink("l", "a").dir("hollow").mode("a", 0o600);
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let [name, counter] = ["rows", "counter"].map(|key| index::meta(&db, key));
    tree.file("d/c", "three").remove("d/b").symlink("d/l", "c");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let stale = format!(
        "UPDATE tarlike_meta SET value='{name}' WHERE key='rows';
         UPDATE tarlike_meta SET value={counter} WHERE key='counter';"
    );
    let connection = Connection::open(&db).unwrap();
    connection.execute_batch(&stale).unwrap();
    let proxy = lab.proxy(&dst);
    let output = lab.upload(&src, &db, &proxy.url, vec![]).code(0);
    assert!(!output.stderr.contains("replaced"), "{}", output.stderr);
    assert_same_tree(&src, &dst);
    // Rows that do not fit the digest either are those of another program.
    connection.execute_batch("UPDATE tar SET path = 'e' WHERE path = 'a'").unwrap();
    lab.run(args!["history", "-db", db]).code(0).says("was replaced by the original program");
}

/// No digest covers the size of the archive: with another one, no bytes are left out, and no run
/// that is not confirmed ends with 0.
#[test]
fn an_index_with_another_size_of_the_archive_is_not_sent() {
    let lab = Lab::new();
    let (src, db, dst) = (lab.path("src"), lab.path("i.sqlite"), lab.dir("dst"));
    let mut tree = Tree::new(&src, 184);
    tree.noise("a", 3000).noise("b", 70_000);
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    tree.noise("a", 4000).remove("b");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let proxy = lab.proxy(&dst);
    let of_index = "UPDATE tarlike_meta SET value = value + ? WHERE key = 'total'";
    let of_history = "UPDATE tarlike_generation SET total = total + ? WHERE number = 2";
    for query in [of_index, of_history] {
        for by in [-2000, 2000, 100_000_000] {
            let copy = lab.path("edited.sqlite");
            std::fs::copy(&db, &copy).unwrap();
            assert_eq!(Connection::open(&copy).unwrap().execute(query, [by]).unwrap(), 1);
            let word = "says that its archive has";
            lab.upload(&src, &copy, &proxy.url, args!["-s", "1000"]).code(1).says(word);
            // A run over the source may have mended it.
            let output = lab.sync(&src, lab.path("other"), args!["-db", copy, "--json"]);
            let summary = output.summary();
            assert!(output.code != 0 || summary["complete"] == true, "{summary}");
        }
    }
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000"]).code(0);
    assert_same_tree(&src, &dst);
}

/// The original follows symbolic links to files: their contents are in its index under the links'
/// names.
#[test]
fn links_to_files_in_an_index_of_the_original() {
    let lab = Lab::new();
    let (src, db, dst) = (lab.path("src"), lab.path("o.sqlite"), lab.dir("dst"));
    let outside = lab.file("outside", "beyond the base");
    let mut tree = Tree::new(&src, 182);
    tree.noise("d/file", 5000).symlink("d/link", "file").symlink("up", "d/file");
    symlink(&outside, src.join("out")).unwrap();
    let file = std::fs::read(src.join("d/file")).unwrap();
    let files: [(&[u8], &[u8]); 4] =
        [(b"d/file", &file), (b"d/link", &file), (b"out", b"beyond the base"), (b"up", &file)];
    index::write_original(&db, &rows_of(&files));
    lab.check(&src, &db, vec![]).code(0);
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, args!["-s", "2000"]).code(0);
    for (name, content) in files {
        let path = dst.join(std::str::from_utf8(name).unwrap());
        assert_eq!((std::fs::read(&path).unwrap(), path.is_symlink()), (content.to_vec(), false));
    }
    lab.check(&dst, &db, vec![]).code(0);
    // It does not follow links to folders, and neither do we; a dangling link is missing.
    std::fs::rename(src.join("d"), src.join("e")).unwrap();
    symlink("e", src.join("d")).unwrap();
    lab.check(&src, &db, vec![]).code(1).says("different");
    // In an index of ours, a link in the place of a file stays a difference.
    let ours = lab.index(&lab.dir("ours"));
    let one = lab.path("ours").join("one");
    std::fs::write(&one, "x").unwrap();
    lab.run(args!["index", "-b", lab.path("ours"), "-db", ours]).code(0);
    std::fs::rename(&one, lab.path("elsewhere")).unwrap();
    symlink(lab.path("elsewhere"), &one).unwrap();
    lab.check(&lab.path("ours"), &ours, vec![]).code(1);
}

#[test]
fn a_locked_index_is_still_an_index() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    Tree::new(&src, 183).file("a", "one");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let holder = Connection::open(&db).unwrap();
    holder.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE;").unwrap();
    for command in [
        args!["index", "-b", src, "-db", db],
        args!["check", "-b", src, "-db", db],
        args!["history", "-db", db],
    ] {
        let output = lab.run(command).code(1).says("locked");
        assert!(!output.stderr.contains("index -c"), "{}", output.stderr);
    }
    drop(holder);
    lab.check(&src, &db, vec![]).code(0);
}

#[test]
fn two_runs_with_one_index_at_a_time() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    Tree::new(&src, 184).noise("a", 400_000);
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    let args = args!["-db", db, "-dbp", lab.path("p"), "--bwlimit", "100K", "-s", "50K", "-p", "1"];
    let mut first = lab.cmd([args!["sync", src, proxy.url], args].concat()).spawn();
    wait_until("the first one is at work", Duration::from_secs(60), || proxy.blocks_accepted() > 0);
    for command in [
        args!["sync", src, proxy.url, "-db", db],
        args!["index", "-b", src, "-db", db],
        args!["index", "-c", "-b", src, "-db", lab.path("link")],
    ] {
        let _ = symlink(&db, lab.path("link"));
        lab.run(command).code(1).says("another run uses the index").says("-db FILE");
    }
    first.kill9();
    let _ = first.wait();
    // The lock ended with its holder, and nothing is left in the temporary folder.
    assert_eq!(std::fs::read_dir(lab.path("tmp")).unwrap().count(), 0);
    lab.sync(&src, &proxy.url, args!["-db", db, "-dbp", lab.path("p")]).code(0);
    let left: Vec<_> =
        std::fs::read_dir(lab.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with("-lock")), "{left:?}");
}

#[test]
fn a_folder_is_no_index() {
    let lab = Lab::new();
    let (src, folder) = (lab.path("src"), lab.dir("folder"));
    Tree::new(&src, 185).file("a", "one");
    for command in [
        args!["index", "-b", src, "-db", folder],
        args!["sync", src, lab.path("dst"), "-db", folder],
        args!["sync", src, lab.path("dst"), "-db", folder, "--dry-run"],
        args!["check", "-b", src, "-db", folder],
        args!["upload", "-b", src, "-db", folder],
        args!["plan", "-b", src, "-db", folder],
        args!["history", "-db", folder],
        args!["compact", "-db", folder],
    ] {
        lab.run(command).code(2).says("is a folder").says("-db");
    }
    assert!(!lab.path("dst").exists());
}

/// A full disk below our output, or our own full disk, is not the receiver's: exit code 1.
#[test]
fn a_full_output_or_disk_of_the_sender_is_no_full_receiver() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("i.sqlite"));
    Tree::new(&src, 186).file("a", "one");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    std::fs::write(src.join("a"), "changed").unwrap();
    std::fs::write(src.join("b"), "new").unwrap();
    for command in [
        args!["check", "-b", src, "-db", db],
        args!["history", "-db", db],
        args!["plan", "-b", src, "-db", db],
    ] {
        let shell = args!["sh", "-c", "exec \"$@\" > /dev/full", "sh"];
        lab.cmd(command).wrap(shell).run().code(1).says("standard output");
    }
    if !crate::support::is_root() {
        return crate::support::skip("a full file system of our own takes root");
    }
    let small = lab.dir("small");
    let mount =
        |args: Vec<std::ffi::OsString>| std::process::Command::new("mount").args(args).status().unwrap();
    if !mount(args!["-t", "tmpfs", "-o", "size=64k", "none", small]).success() {
        return crate::support::skip("no tmpfs can be mounted here");
    }
    let mut many = Tree::new(&lab.path("many"), 187);
    for number in 0..500 {
        many.file(format!("a-file-with-a-name-of-some-length-{number}"), "x");
    }
    let (full, dst) = (small.join("i.sqlite"), lab.dir("dst"));
    let proxy = lab.proxy(&dst);
    let index = lab.run(args!["index", "-b", lab.path("many"), "-db", full]);
    let sync = lab.sync(&lab.path("many"), &proxy.url, args!["-db", full]);
    let _ = std::process::Command::new("umount").arg(&small).status();
    for output in [index, sync] {
        output.code(1).says(small.to_str().unwrap());
    }
}

#[test]
fn a_run_that_cannot_start_leaves_no_destination() {
    let lab = Lab::new();
    let dst = lab.path("dst");
    // No endpoint answers, and there are no keys.
    let flags = args!["--s3-endpoint", "http://127.0.0.1:1", "-db", lab.path("i.sqlite")];
    let output = lab.sync(Path::new("s3://nowhere/prefix"), &dst, flags);
    assert_ne!(output.code, 0);
    assert!(!dst.exists() || std::fs::read_dir(&dst).unwrap().count() > 0, "an empty folder was left");
}

/// A run that is killed while it writes to the index in place leaves a journal beside it. The next
/// run rolls it back, and no journal is applied to another index.
#[test]
fn a_killed_write_does_not_cost_the_index() {
    let lab = Lab::new();
    let (src, db, dst) = (lab.path("src"), lab.path("i.sqlite"), lab.path("dst"));
    let mut tree = Tree::new(&src, 188);
    for number in 0..300 {
        tree.file(format!("f{number}"), number.to_string());
    }
    let journal = lab.path("i.sqlite-journal");
    // A process without write permission cannot read the index then.
    let is_hot = || {
        let connection =
            Connection::open_with_flags(&db, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        connection.query_row("SELECT count(*) FROM tar", [], |row| row.get::<_, i64>(0)).is_err()
    };
    let mut number = 300;
    let mut cut = |tree: &mut Tree| {
        for call in [5, 4, 6, 7, 3] {
            number += 1;
            // The folder has another time then, which the run records in place.
            tree.file(format!("f{number}"), "new");
            let args = args!["index", "-b", src, "-db", db];
            lab.cmd(args).inject_until(&[&format!("fsync,fdatasync:signal=KILL:when={call}")], &[]).run();
            if is_hot() {
                return;
            }
        }
        panic!("no kill left a hot journal");
    };
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    for command in [
        args!["history", "-db", db],
        args!["check", "-b", src, "-db", db],
        args!["plan", "-b", src, "-db", db],
        args!["history", "backup", "--init", lab.path("backup"), "-db", db],
        args!["sync", src, dst, "-db", db],
        args!["index", "-b", src, "-db", db],
        args!["index", "-c", "-b", src, "-db", db],
        args!["compact", "-db", db],
    ] {
        cut(&mut tree);
        lab.run(command).code(0);
        assert!(!journal.exists());
        lab.check(&src, &db, args!["--extra"]).code(0);
    }
    // Nor to an index that is made where the previous one was removed.
    cut(&mut tree);
    std::fs::remove_file(&db).unwrap();
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    lab.check(&src, &db, args!["--extra"]).code(0);
    let whole: String =
        Connection::open(&db).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
}

#[test]
fn an_empty_file_says_how_to_make_an_index() {
    let lab = Lab::new();
    let db = lab.path("i.sqlite");
    std::fs::write(&db, "").unwrap();
    lab.run(args!["history", "-db", db]).code(1).says("it has no table 'tar'").says("index -c");
}

/// Files that are no index, with their contents: of text, and of a database of another program.
fn other_files(lab: &Lab) -> Vec<(PathBuf, Vec<u8>)> {
    let (text, database) = (lab.file("notes", "not to be lost"), lab.path("mail.sqlite"));
    Connection::open(&database).unwrap().execute_batch("CREATE TABLE mail(id, path, size, hash)").unwrap();
    [text, database].into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn no_command_overwrites_a_file_that_is_no_index() {
    let lab = Lab::new();
    let (src, dst, db, backup) = (lab.path("src"), lab.path("dst"), lab.path("i.sqlite"), lab.path("backup"));
    Tree::new(&src, 184).file("a", "one");
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    lab.run(args!["history", "backup", "--init", backup, "-db", db]).code(0);
    for (file, content) in other_files(&lab) {
        for command in [
            args!["index", "-c", "-b", src, "-db", file],
            args!["index", "-b", src, "-db", file],
            args!["sync", "--clean", src, dst, "-db", file],
            args!["sync", "--clean", "--dry-run", src, dst, "-db", file],
            args!["sync", src, dst, "-db", file],
            args!["history", "restore", "-c", backup, "-db", file],
            args!["plan", "-b", src, "-db", file],
            args!["check", "-b", src, "-db", file],
        ] {
            let output = lab.run(command).code(1).says("is no index").says("give -db the name of an index");
            for overwriting in ["index -c", "--clean"] {
                assert!(!output.stderr.contains(overwriting), "{}", output.stderr);
            }
            assert!(std::fs::read(&file).unwrap() == content, "{}", output.stderr);
        }
    }
    assert!(!dst.exists());
    // An empty file is no loss.
    let empty = lab.file("empty", "");
    lab.run(args!["index", "-c", "-b", src, "-db", empty]).code(0);
    lab.check(&src, &empty, vec![]).code(0);
}

#[test]
fn clean_says_what_it_drops() {
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("i.sqlite"));
    let mut tree = Tree::new(&src, 185);
    for content in ["one", "two, and longer"] {
        tree.file("a", content);
        lab.sync(&src, &dst, args!["-db", db]).code(0);
    }
    let what = format!("the index {} of {}, 2 generations", db.display(), src.display());
    lab.sync(&src, &dst, args!["-db", db, "--clean", "-n"]).code(0).says(&format!("would drop {what}"));
    // Without a terminal, the question cannot be asked.
    lab.sync(&src, &dst, args!["-db", db, "--clean"]).code(0).says(&format!("--clean drops {what}"));
    lab.sync(&src, &dst, args!["-db", db, "--clean"]).code(0).says("1 generation");
}

/// `script` gives the command a terminal, and types what is written to it.
#[test]
fn on_a_terminal_clean_asks_before_generations_are_lost() {
    need_tool("script", "apt-get install bsdutils");
    let lab = Lab::new();
    let (src, dst, db) = (lab.path("src"), lab.path("dst"), lab.path("i.sqlite"));
    let mut tree = Tree::new(&src, 186);
    for content in ["one", "two, and longer"] {
        tree.file("a", content);
        lab.sync(&src, &dst, args!["-db", db]).code(0);
    }
    let typed = |answer: &str, more: &str| {
        let program = env!("CARGO_BIN_EXE_tar-like");
        let command =
            format!("{program} sync {} {} -db {} --clean {more}", src.display(), dst.display(), db.display());
        let script = format!("printf '{answer}' | script -qec '{command}' /dev/null");
        let output = lab.cmd(args!["-c", script]).program(Path::new("sh")).run();
        (output.stdout.contains("Go on? [y/N]"), output.code)
    };
    let generations = || lab.run(args!["history", "-db", db]).stdout.lines().count();
    let before = generations();
    assert_eq!(typed("n\\n", ""), (true, 130));
    assert_eq!(generations(), before);
    assert_eq!(typed("", "--yes"), (false, 0));
    assert_eq!(typed("n\\n", ""), (false, 0), "one generation is no loss");
}
