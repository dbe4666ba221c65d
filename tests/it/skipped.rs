//! Files that a run left out of an index still exist: `--delete` leaves them alone, however the
//! index was made, and deletes again as soon as it may.

use crate::support::{Lab, Output, Proxy, Tree, index};
use rustix::fs::{CWD, FileType, Mode};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A source that is read without root's rights, and its copy.
struct World {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    proxy: Proxy,
}

impl World {
    /// Both sides have `e/0` to `e/2`, `goes`, `stays`, and what `fill` adds.
    fn new(fill: impl FnOnce(&mut Tree)) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 170);
        tree.file("e/0", "0").file("e/1", "1").file("e/2", "2").file("goes", "g").file("stays", "s");
        fill(&mut tree);
        // A folder where a user without rights may write.
        let db = lab.path("home").join("i.sqlite");
        let proxy = lab.proxy(&dst);
        let world = Self { lab, src, dst, db, proxy };
        world.index(0);
        world.upload(&[]).code(0);
        world
    }

    fn run(&self, args: Vec<OsString>) -> Output {
        self.lab.unprivileged(self.lab.cmd(args)).run()
    }

    fn index(&self, code: i32) {
        self.run(args!["index", "-b", self.src, "-db", self.db]).code(code);
    }

    fn upload(&self, more: &[&str]) -> Output {
        let args = more.iter().map(OsString::from).collect();
        self.lab.unprivileged(self.lab.upload_cmd(&self.src, &self.db, &self.proxy.url, args)).run()
    }

    fn sync(&self, more: &[&str]) -> Output {
        let more: Vec<OsString> = more.iter().map(OsString::from).collect();
        let dbp = self.lab.path("home").join("p.sqlite");
        self.run([args!["sync", self.src, self.proxy.url, "-db", self.db, "-dbp", dbp], more].concat())
    }

    fn mode(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.src.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.src.join(name)).unwrap();
    }

    fn fifo(&self, name: &str) {
        rustix::fs::mknodat(CWD, self.src.join(name), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    }

    #[track_caller]
    fn has(&self, names: &[&str]) {
        for name in names {
            assert!(self.dst.join(name).exists(), "{name} was deleted");
        }
    }

    #[track_caller]
    fn lacks(&self, names: &[&str]) {
        for name in names {
            assert!(!self.dst.join(name).exists(), "{name} was not deleted");
        }
    }
}

/// Makes an index without `e/…`, which cannot be read, and `goes`, which was removed.
type Way = fn(&World);

const WAYS: [(&str, Way); 6] = [
    ("next generation", |world| world.index(3)),
    ("fresh", |world| {
        world.run(args!["index", "-c", "-b", world.src, "-db", world.db]).code(3);
    }),
    ("compact", |world| {
        world.index(3);
        world.run(args!["compact", "-db", world.db]).code(0);
    }),
    ("rewind", |world| {
        world.index(3);
        world.upload(&[]).code(0);
        world.mode("e", 0o755);
        world.index(0);
        world.upload(&[]).code(0);
        world.run(args!["rewind", "-db", world.db, world.proxy.url]).code(0);
        world.mode("e", 0);
    }),
    ("backup", |world| {
        let backup = world.lab.path("home").join("backup");
        world.run(args!["history", "backup", "--init", backup, "-db", world.db]).code(0);
        world.index(3);
        world.run(args!["history", "backup", backup, "-db", world.db]).code(0);
        world.run(args!["history", "restore", "-c", backup, "-db", world.db]).code(0);
    }),
    ("stream", |world| {
        world.sync(&["--clean", "--delete"]).code(3);
    }),
];

#[test]
fn unreadable_files_are_not_deleted_with_any_kind_of_index() {
    for (name, way) in WAYS {
        println!("{name}");
        let world = World::new(|_| {});
        world.remove("goes");
        world.mode("e", 0);
        way(&world);
        let all = ["e/0", "e/1", "e/2", "goes", "stays"];
        world.has(&all);
        // Nothing is deleted, and a warning says so.
        world.upload(&["--delete"]).code(0).says("nothing is deleted");
        world.has(&all);
        // Unless an option says otherwise; a restored index does not know what to spare.
        let knows = name != "backup";
        world.upload(&["--delete", "--ignore-errors"]).code(0);
        world.has(&["e/0", "e/1", "e/2", "stays"]);
        assert_eq!(world.dst.join("goes").exists(), !knows);
        // The next run that can read all of the source deletes.
        world.mode("e", 0o755);
        world.remove("e/1");
        world.index(0);
        world.upload(&["--delete"]).code(0);
        world.has(&["e/0", "e/2", "stays"]);
        world.lacks(&["e/1", "goes"]);
    }
}

/// The skipped list is that of the last run, also if that run recorded nothing else.
#[test]
fn an_unchanged_run_records_its_skipped_entries() {
    let world = World::new(|_| {});
    world.remove("goes");
    world.index(0);
    // Unreadable, and never indexed.
    std::fs::write(world.src.join("secret"), "x").unwrap();
    world.mode("secret", 0);
    world.index(3);
    let number = index::meta(&world.db, "generation");
    world.upload(&["--delete"]).code(0).says("nothing is deleted");
    world.has(&["goes"]);
    world.remove("secret");
    world.index(0);
    assert_eq!(index::meta(&world.db, "generation"), number, "nothing else changed");
    world.upload(&["--delete"]).code(0);
    world.lacks(&["goes"]);
    // By `sync` alone, too, in both directions.
    std::fs::write(world.src.join("secret"), "x").unwrap();
    world.mode("secret", 0);
    world.remove("e/0");
    world.sync(&["--delete"]).code(3).says("nothing is deleted");
    world.has(&["e/0"]);
    world.sync(&["--delete", "--ignore-errors"]).code(3);
    world.lacks(&["e/0"]);
    world.remove("e/1");
    world.sync(&["--delete"]).code(3);
    world.has(&["e/1"]);
    world.remove("secret");
    world.sync(&["--delete"]).code(0);
    world.lacks(&["e/1"]);
}

/// An entry without content to copy keeps nothing else from being deleted.
#[test]
fn a_fifo_protects_its_own_path_only() {
    let world = World::new(|tree| {
        tree.file("p", "file that becomes a FIFO")
            .file("q/x", "in a folder that becomes one")
            .file("q/y", "");
    });
    for name in ["goes", "p", "q/x", "q/y"] {
        world.remove(name);
    }
    std::fs::remove_dir(world.src.join("q")).unwrap();
    world.fifo("p");
    world.fifo("q");
    world.fifo("e/new");
    world.index(3);
    world.upload(&["--delete"]).code(0);
    world.has(&["p", "q", "e/0", "e/1", "e/2", "stays"]);
    world.lacks(&["goes", "q/x", "q/y"]);
    // Nor in later runs that find nothing else to do.
    world.remove("e/2");
    world.sync(&["--delete"]).code(3);
    world.lacks(&["e/2"]);
    world.sync(&["--delete"]).code(3);
    world.has(&["p", "q"]);
    for name in ["p", "q", "e/new"] {
        world.remove(name);
    }
    world.sync(&["--delete"]).code(0);
    world.lacks(&["p", "q"]);
    world.has(&["e/0", "e/1", "stays"]);
}

/// An index of an earlier version, or of the original program, has no skipped list.
#[test]
fn an_index_without_skipped_records_deletes_nothing() {
    let world = World::new(|_| {});
    world.remove("goes");
    world.index(0);
    let forget = "DELETE FROM tarlike_meta WHERE key LIKE 'skipped.%'";
    rusqlite::Connection::open(&world.db).unwrap().execute_batch(forget).unwrap();
    world.upload(&["--delete", "--ignore-errors"]).code(0).says("nothing is deleted");
    world.has(&["goes"]);
    // The next run over the source writes it.
    world.index(0);
    world.upload(&["--delete"]).code(0);
    world.lacks(&["goes"]);
}

/// Names of any bytes are sent to the receiver.
#[test]
fn odd_names_are_spared_too() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"odd\\x \"\xff\n\xe2\x80\xae");
    let world = World::new(|tree| {
        tree.file(odd, "odd");
    });
    std::fs::set_permissions(world.src.join(odd), std::fs::Permissions::from_mode(0o0)).unwrap();
    std::fs::write(world.src.join(odd), "changed").unwrap();
    world.remove("goes");
    world.index(3);
    let output = world.upload(&["--delete", "--ignore-errors"]).code(0);
    assert!(!output.stderr.contains('\u{202e}'), "{}", output.stderr);
    assert!(world.dst.join(odd).exists());
    world.lacks(&["goes"]);
}
