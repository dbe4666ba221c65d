//! `--delete` deletes everything that the archive has put in place and its source no longer has,
//! and nothing else.

use crate::support::{Lab, Tree, assert_same_tree};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Times that not every file system keeps, and one that all keep, in nanoseconds since 1970.
const DATES: [(&str, i64); 5] = [
    ("today", 1_750_000_000_123_456_789),
    ("before-1970", -1_500_000_001),
    ("before-1902", -2_140_000_000_000_000_000),
    ("from-2038-on", 2_147_483_648_000_000_000),
    ("in-2100", 4_102_444_800_500_000_000),
];

/// Gives everything below `folder` the same time.
fn date(folder: &Path, mtime_ns: i64) {
    for entry in walkdir::WalkDir::new(folder).contents_first(true) {
        crate::support::set_mtime(entry.unwrap().path(), mtime_ns);
    }
}

/// One of every kind of entry, for each date.
fn fill(tree: &mut Tree) {
    for (name, mtime_ns) in DATES {
        let at = |entry: &str| format!("{name}/{entry}");
        for file in ["gone", "sub/file", "h1", "c1", "t1", "renamed/x", "folder/y", "stays"] {
            tree.file(at(file), format!("{file} of {name}"));
        }
        tree.file(at("empty"), "").dir(at("dir")).dir(at("sub/dir")).symlink(at("link"), "gone");
        tree.hardlink(at("h2"), at("h1")).hardlink(at("c2"), at("c1")).hardlink(at("t2"), at("t1"));
        date(&tree.path(name), mtime_ns);
    }
}

/// Removes or changes most of it.
fn shrink(tree: &mut Tree) {
    for (name, mtime_ns) in DATES {
        let at = |entry: &str| format!("{name}/{entry}");
        for entry in ["gone", "sub", "empty", "dir", "link", "h2", "c2", "t2", "folder"] {
            tree.remove(at(entry));
        }
        tree.file(at("c1"), "changed").file(at("folder"), "a file now");
        std::fs::rename(tree.path(at("renamed")), tree.path(at("moved"))).unwrap();
        date(&tree.path(name), mtime_ns);
        tree.mtime(at("t1"), mtime_ns - 5_000_000_000).mtime(name, mtime_ns);
    }
}

/// A source, and a receiver with its copy.
struct World {
    lab: Lab,
    tree: Tree,
    src: PathBuf,
    db: PathBuf,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        let (src, db) = (lab.path("src"), lab.path("index.sqlite"));
        let tree = Tree::new(&src, 1);
        Self { lab, tree, src, db }
    }

    fn sync(&self, to: &Path, more: Vec<OsString>) {
        let flags = args!["-db", self.db, "-dbp", self.lab.path("dbp"), "--max-delete", "100%", "--delete"];
        self.lab.sync(&self.src, to, [flags, more].concat()).code(0);
    }

    fn index(&self, more: Vec<OsString>) {
        self.lab.cmd(args!["index", "-b", self.src, "-db", self.db]).args(more).run().code(0);
    }

    fn upload(&self, to: &Path) {
        let proxy = self.lab.proxy(to);
        self.lab.upload(&self.src, &self.db, &proxy.url, args!["--delete", "--max-delete", "100%"]).code(0);
        proxy.term_and_wait();
    }
}

/// Every kind of entry, every date, and every way in which an index replaces another one.
#[test]
fn every_published_entry_is_deleted_with_its_source() {
    type Way = (&'static str, fn(&World, &Path));
    let ways: [Way; 8] = [
        ("a change", |world, dst| world.sync(dst, vec![])),
        ("a stream that begins again", |world, dst| {
            std::fs::remove_file(&world.db).unwrap();
            world.sync(dst, vec![]);
        }),
        ("an adoption", |world, dst| {
            std::fs::remove_file(&world.db).unwrap();
            world.sync(dst, args!["--adopt"]);
        }),
        ("a clean index", |world, dst| {
            world.index(args!["-c"]);
            world.upload(dst);
        }),
        ("a compact one", |world, dst| {
            world.index(vec![]);
            world.lab.run(args!["compact", "-db", world.db]).code(0);
            world.upload(dst);
        }),
        ("a clean index without content, and another one", |world, dst| {
            world.index(args!["-c"]);
            let proxy = world.lab.proxy(dst);
            let put = crate::support::index::frame_of(&world.db);
            let digest = crate::support::index::digest(&world.db);
            assert_eq!(
                proxy.request("PUT", "/tar/0/db", &[("x-tar-like-index", &*digest)], &put).status,
                200
            );
            drop(proxy);
            std::fs::write(world.src.join("today/stays"), "another content").unwrap();
            world.index(args!["-c"]);
            world.upload(dst);
        }),
        ("a stream after a change", |world, dst| {
            std::fs::write(world.src.join("today/stays"), "another content").unwrap();
            world.sync(dst, vec![]);
            std::fs::remove_file(&world.db).unwrap();
            world.sync(dst, vec![]);
        }),
        ("another destination in between", |world, dst| {
            let other = world.lab.dir("other");
            world.sync(&other, vec![]);
            world.sync(dst, vec![]);
            assert_same_tree(&world.src, &other);
        }),
    ];
    for (way, run) in ways {
        println!("by {way}");
        let mut world = World::new();
        fill(&mut world.tree);
        let dst = world.lab.dir("dst");
        world.sync(&dst, vec![]);
        assert_same_tree(&world.src, &dst);
        shrink(&mut world.tree);
        run(&world, &dst);
        assert_same_tree(&world.src, &dst);
    }
}

/// Folders and links alone, by a stream each time.
#[test]
fn folders_and_links_alone_are_remembered() {
    let mut world = World::new();
    world.tree.dir("a/b").symlink("a/l", "b").dir("stays");
    let dst = world.lab.dir("dst");
    world.sync(&dst, vec![]);
    world.tree.remove("a");
    std::fs::remove_file(&world.db).unwrap();
    world.sync(&dst, vec![]);
    assert_same_tree(&world.src, &dst);
}

/// Foreign files, links and folders at names of the archive that were never published.
#[test]
fn a_file_that_was_never_sent_is_not_deleted() {
    let ways: [fn(&World, &Path); 3] = [
        |world, dst| world.sync(dst, vec![]),
        |world, dst| {
            world.index(args!["-c"]);
            world.upload(dst);
        },
        |world, dst| {
            std::fs::remove_file(&world.db).unwrap();
            world.sync(dst, vec![]);
        },
    ];
    for (number, run) in ways.into_iter().enumerate() {
        for (_, mtime_ns) in DATES {
            let mut world = World::new();
            let dst = world.lab.dir("dst");
            let mut own = Tree::new(&dst, 2);
            own.file("f", "of the receiver").mtime("f", mtime_ns);
            world.tree.file("f", "of the sender..").mtime("f", mtime_ns).file("x", "x").file("y", "y");
            world.index(vec![]);
            world.tree.remove("f");
            let proxy = world.lab.proxy(&dst);
            world.lab.upload(&world.src, &world.db, &proxy.url, vec![]).code(3);
            drop(proxy);
            run(&world, &dst);
            let content = std::fs::read_to_string(dst.join("f")).unwrap();
            assert_eq!(content, "of the receiver", "way {number}, {mtime_ns}");
            // Entries that the archive itself has put there are deleted.
            world.tree.remove("y");
            run(&world, &dst);
            assert!(!dst.join("y").exists() && dst.join("f").exists(), "way {number}, {mtime_ns}");
        }
    }
}

/// An index without content takes over no link and no folder.
#[test]
fn an_index_that_was_never_finished_takes_no_links_and_folders() {
    let mut world = World::new();
    let dst = world.lab.dir("dst");
    Tree::new(&dst, 2).symlink("l", "where").dir("d");
    world.tree.symlink("l", "where").dir("d").file("x", "x");
    world.index(vec![]);
    let proxy = world.lab.proxy(&dst);
    let put = crate::support::index::frame_of(&world.db);
    let digest = crate::support::index::digest(&world.db);
    assert_eq!(proxy.request("PUT", "/tar/0/db", &[("x-tar-like-index", &*digest)], &put).status, 200);
    drop(proxy);
    world.tree.remove("l").remove("d");
    world.sync(&dst, vec![]);
    assert!(dst.join("l").is_symlink() && dst.join("d").is_dir() && dst.join("x").exists());
}

/// Two archives in one folder, with the same path, size and time.
#[test]
fn files_of_another_archive_stay() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    let sync = |name: &str, tar_id: &str, more: Vec<OsString>| {
        let db = lab.path(&format!("{name}.sqlite"));
        let flags = args!["-db", db, "-dbp", lab.path(&format!("{name}.dbp")), "--tar-id", tar_id];
        lab.sync(&lab.path(name), &dst, [flags, more].concat()).code(0);
    };
    let time = 1_750_000_000_000_000_000;
    let fill = |name: &str| {
        let mut tree = Tree::new(&lab.path(name), 1);
        tree.file("f", format!("content {name}")).file("old", format!("content {name}"));
        tree.file(format!("own-{name}"), "x").symlink("l", "f").dir("d").file("e", "").hardlink("h", "f");
        date(&lab.path(name), time);
        tree
    };
    let (mut a, mut b) = (fill("a"), fill("b"));
    sync("a", "0", vec![]);
    for entry in ["f", "l", "d", "e", "h", "old"] {
        a.remove(entry);
    }
    sync("a", "0", vec![]);
    sync("b", "1", vec![]);
    // Both had it, and it belongs to b, which no longer has it and has not asked for its deletion.
    b.remove("old");
    sync("b", "1", vec![]);
    sync("a", "0", args!["--delete"]);
    assert_eq!(std::fs::read_to_string(dst.join("f")).unwrap(), "content b");
    assert_eq!(std::fs::read_to_string(dst.join("old")).unwrap(), "content b");
    assert!(["l", "d", "e", "h"].iter().all(|entry| dst.join(entry).symlink_metadata().is_ok()));
    // The other one deletes it.
    for entry in ["f", "l", "d", "e", "h"] {
        b.remove(entry);
    }
    sync("b", "1", args!["--delete"]);
    assert!(["f", "old", "l", "d", "e", "h"].iter().all(|entry| dst.join(entry).symlink_metadata().is_err()));
    assert!(dst.join("own-a").exists() && dst.join("own-b").exists());
}

/// Single files that are copied into one folder: none of them may delete another.
#[test]
fn single_files_do_not_delete_each_other() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    for _ in 0..2 {
        for name in ["a", "b", "c"] {
            let source = lab.file(name, format!("content {name}"));
            let more = args!["-db", lab.path(&format!("{name}.sqlite")), "--delete"];
            lab.cmd(args!["sync", source, dst]).args(more).derived().run().code(0);
        }
    }
    for name in ["a", "b", "c"] {
        assert_eq!(std::fs::read_to_string(dst.join(name)).unwrap(), format!("content {name}"));
    }
}
