//! Generations of an index, by the program: list, backup, restore, rewind, compact.

mod broken;
mod compact;
mod gc;
mod golden;

use crate::support::{Lab, Output, Tree, index, set_mtime};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder, its index, and the backup of the index.
pub(super) struct World {
    pub(super) lab: Lab,
    pub(super) src: PathBuf,
    pub(super) db: PathBuf,
    pub(super) backup: PathBuf,
    runs: i64,
}

impl World {
    /// Generation 1.
    pub(super) fn new() -> Self {
        let lab = Lab::new();
        let (src, db, backup) = (lab.path("src"), lab.path("index.sqlite"), lab.path("backup"));
        let mut tree = Tree::new(&src, 61);
        tree.file("a", "one").file("d/b", "two").noise("d/c", 5000).file("empty", "").symlink("l", "a");
        tree.hardlink("d/h", "a").dir("e/f").times();
        let world = Self { lab, src, db, backup, runs: 0 };
        world.index();
        world
    }

    pub(super) fn index(&self) {
        self.lab.run(args!["index", "-b", self.src, "-db", self.db]).code(0);
    }

    /// The next generation: every kind of change.
    pub(super) fn run(&mut self) {
        self.runs += 1;
        let number = self.runs;
        let path = |name: &str| self.src.join(name);
        let write = |name: &str, content: String| {
            std::fs::write(path(name), content).unwrap();
            set_mtime(&path(name), 1_600_000_000_000_000_000 + number * 1_000_000_000);
        };
        write("d/b", format!("two, pass {number}"));
        write(&format!("new-{number}"), format!("new of pass {number}"));
        std::fs::create_dir_all(path(&format!("folder-{number}"))).unwrap();
        if number > 1 {
            let (old, new) = (format!("new-{}", number - 1), format!("moved-{}", number - 1));
            std::fs::rename(path(&old), path(&new)).unwrap();
            std::fs::remove_dir(path(&format!("folder-{}", number - 1))).unwrap();
        }
        let mode = std::fs::Permissions::from_mode(if number % 2 == 0 { 0o644 } else { 0o600 });
        std::fs::set_permissions(path("d/c"), mode).unwrap();
        self.index();
    }

    pub(super) fn save(&self) -> Output {
        self.lab.run(args!["history", "backup", self.backup, "-db", self.db, "--json"])
    }

    pub(super) fn rewind(&self) -> Output {
        self.lab.run(args!["rewind", "-db", self.db, "--json"])
    }

    /// Restores into a new file.
    pub(super) fn restore(&self, name: &str, more: Vec<std::ffi::OsString>) -> (PathBuf, Output) {
        let db = self.lab.path(name);
        let _ = std::fs::remove_file(&db);
        let args = args!["history", "restore", self.backup, "-db", db, "--json"];
        let output = self.lab.cmd(args).args(more).run();
        (db, output)
    }

    pub(super) fn check(&self, base: &Path, db: &Path) {
        self.lab.check(base, db, args!["--extra"]).code(0);
    }
}

/// The generations of an index: number, digest, active, abandoned.
pub(super) fn generations(world: &World, db: &Path) -> Vec<(u64, String, bool, bool)> {
    let output = world.lab.run(args!["history", "-db", db, "--json"]).code(0);
    let lines = output.json().into_iter().filter(|line| line["event"] == "generation");
    lines
        .map(|line| {
            let flag = |name: &str| line[name].as_bool().unwrap();
            let digest = line["digest"].as_str().unwrap().to_string();
            (line["number"].as_u64().unwrap(), digest, flag("active"), flag("abandoned"))
        })
        .collect()
}

/// All rows of an index that make its generation, as one text.
pub(super) fn content(db: &Path) -> String {
    let connection = index::open(db);
    let mut text = String::new();
    for query in [
        "SELECT t.id, hex(path), size, offset, offset_end, hash, hex(blake3), mode, mtime_ns, uid, gid
         FROM tar t LEFT JOIN tarlike_file f ON f.id = t.id ORDER BY 1",
        "SELECT kind, hex(path), hex(target), mode, mtime_ns, uid, gid FROM tarlike_node ORDER BY 2",
        "SELECT value FROM tarlike_meta WHERE key IN ('generation', 'digest', 'format', 'base') ORDER BY key",
    ] {
        let mut statement = connection.prepare(query).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                text.push_str(&format!("{:?} ", row.get_ref(column).unwrap()));
            }
            text.push('\n');
        }
    }
    text
}

#[test]
fn generations_are_listed_for_people_and_programs() {
    let mut world = World::new();
    world.run();
    world.run();
    world.rewind().code(0);
    let digest = index::digest(&world.db);
    let list = generations(&world, &world.db);
    let marks: Vec<_> =
        list.iter().map(|(number, _, active, abandoned)| (*number, *active, *abandoned)).collect();
    assert_eq!(marks, [(1, false, false), (2, true, false), (3, false, true)]);
    assert_eq!(list[1].1, digest);
    let text = world.lab.run(args!["history", "-db", world.db]).code(0).stdout;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["generation", "date", "files", "bytes", "added", "digest"]);
    assert_eq!((lines[1][0], lines[2].last(), lines[3].last()), ("1", Some(&"*"), Some(&"-")));
    assert!(lines[2].contains(&&digest[..12]), "{text}");
    let widths: Vec<usize> = text.lines().map(|line| line.find("  ").map_or(0, |_| line.len())).collect();
    assert!(widths.iter().all(|&width| width < 110), "{text}");
}

#[test]
fn a_backup_gives_back_every_generation() {
    let mut world = World::new();
    let mut kept = vec![(1, content(&world.db))];
    assert_eq!(world.save().code(0).summary()["created"], true);
    for number in 2..6 {
        world.run();
        kept.push((number, content(&world.db)));
        // Some generations are saved later, together with others.
        if number != 3 {
            let summary = world.save().code(0).summary();
            let added: Vec<u64> =
                summary["added"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
            assert_eq!(added, if number == 4 { vec![3, 4] } else { vec![number] });
        }
    }
    let length = std::fs::metadata(&world.backup).unwrap().len();
    assert_eq!(world.save().code(0).summary()["added"], serde_json::json!([]));
    assert_eq!(std::fs::metadata(&world.backup).unwrap().len(), length);
    let (newest, output) = world.restore("newest.sqlite", vec![]);
    assert_eq!(output.code(0).summary()["generation"], 5);
    assert_eq!(content(&newest), kept[4].1);
    world.check(&world.src, &newest);
    // The way between any two generations is known as before.
    assert_eq!(generations(&world, &newest), generations(&world, &world.db));
    for (number, expected) in &kept {
        let (db, output) = world.restore("then.sqlite", args!["--generation", number.to_string()]);
        output.code(0);
        assert_eq!(content(&db), *expected, "generation {number}");
    }
    let (db, output) = world.restore("never.sqlite", args!["--generation", "9"]);
    output.code(1).says("has no generation 9").says("its newest generation is 5");
    assert!(!db.exists());
    // An index that exists is not replaced unless that is asked for.
    world.lab.run(args!["history", "restore", world.backup, "-db", newest]).code(1).says("index already");
    world.lab.run(args!["history", "restore", world.backup, "-db", newest, "-c"]).code(0);
    let left: Vec<_> =
        std::fs::read_dir(world.lab.path(".")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");
}

/// A fault of the plug-in that gave the idea: there, changes after a rewind were appended to the
/// abandoned ones.
#[test]
fn an_abandoned_generation_is_never_restored() {
    let mut world = World::new();
    world.save().code(0);
    world.run();
    let second = content(&world.db);
    world.save().code(0);
    world.run();
    let (third, digest) = (content(&world.db), index::digest(&world.db));
    world.save().code(0);
    assert_eq!(world.rewind().code(0).summary()["abandoned"], 3);
    assert_eq!(content(&world.db), second);
    // The rewind alone counts as a record.
    let summary = world.save().code(0).summary();
    assert_eq!((&summary["rewound_to"], &summary["newest"]), (&2.into(), &2.into()));
    let (db, output) = world.restore("back.sqlite", vec![]);
    output.code(0);
    assert_eq!(content(&db), second);
    // A receiver at the abandoned generation can still be brought back, and only once.
    assert_eq!(generations(&world, &db), generations(&world, &world.db));
    assert_eq!(generations(&world, &db)[2], (3, digest, false, true));
    world.lab.run(args!["rewind", "-db", db]).code(2).says("was taken back already");
    world.index();
    let fourth = content(&world.db);
    assert!(fourth != third && fourth.contains("Integer(4)"));
    let summary = world.save().code(0).summary();
    assert_eq!((&summary["rewound_to"], &summary["added"]), (&Value::Null, &serde_json::json!([4])));
    let (db, output) = world.restore("newest.sqlite", vec![]);
    output.code(0);
    assert_eq!(content(&db), fourth);
    world.check(&world.src, &db);
    world.restore("third.sqlite", args!["--generation", "3"]).1.code(1).says("abandoned by a rewind");
    // Both steps at once; afterwards the backup still belongs to this index.
    world.rewind().code(0);
    world.run();
    let summary = world.save().code(0).summary();
    assert_eq!((&summary["rewound_to"], &summary["added"]), (&2.into(), &serde_json::json!([5])));
    let (db, output) = world.restore("newest.sqlite", vec![]);
    output.code(0);
    assert_eq!(content(&db), content(&world.db));
}

#[test]
fn a_restored_index_goes_on_where_the_lost_one_was() {
    let mut world = World::new();
    world.run();
    world.save().code(0);
    world.run();
    world.save().code(0);
    let connection = index::open(&world.db);
    let meta = |connection: &rusqlite::Connection, key: &str| -> i64 {
        connection.query_row("SELECT value FROM tarlike_meta WHERE key=?", [key], |row| row.get(0)).unwrap()
    };
    let (log_end, next_id) = (meta(&connection, "log_end"), meta(&connection, "next_id"));
    drop(connection);
    std::fs::remove_file(&world.db).unwrap();
    world.lab.run(args!["history", "restore", world.backup, "-db", world.db]).code(0);
    let connection = index::open(&world.db);
    assert_eq!((meta(&connection, "log_end"), meta(&connection, "next_id")), (log_end, next_id));
    drop(connection);
    let before = content(&world.db);
    // Nothing changed, and `backup` notices that.
    world.index();
    assert_eq!(content(&world.db), before);
    world.run();
    assert_eq!(world.save().code(0).summary()["added"], serde_json::json!([4]));
    let (db, output) = world.restore("again.sqlite", vec![]);
    output.code(0);
    assert_eq!(content(&db), content(&world.db));
    // An index that is restored at an earlier generation reuses neither numbers nor bytes of the
    // backup.
    let (db, output) = world.restore("earlier.sqlite", args!["--generation", "2"]);
    output.code(0);
    let connection = index::open(&db);
    assert_eq!(meta(&connection, "last_generation"), 4);
    assert!(meta(&connection, "log_end") > log_end && meta(&connection, "next_id") > next_id);
    drop(connection);
    world.lab.run(args!["index", "-b", world.src, "-db", db]).code(0);
    assert_eq!(index::meta(&db, "generation"), "5");
    // The index has no generation of the backup.
    let (before, refused) =
        (std::fs::read(&world.backup).unwrap(), args!["history", "backup", world.backup, "-db", db]);
    world.lab.run(refused).code(1).says("does not follow the backup");
    assert!(std::fs::read(&world.backup).unwrap() == before);
}

#[test]
fn a_backup_belongs_to_one_index() {
    let mut world = World::new();
    world.run();
    world.save().code(0);
    let before = std::fs::read(&world.backup).unwrap();
    world.lab.run(args!["index", "-c", "-b", world.src, "-db", world.db]).code(0);
    world.save().code(1).says("does not follow the backup").says("name a new file for this index");
    let other = world.lab.path("other");
    Tree::new(&other, 5).file("x", "y");
    let db = world.lab.index(&other);
    world.lab.run(args!["history", "backup", world.backup, "-db", db]).code(1).says("does not follow");
    assert!(std::fs::read(&world.backup).unwrap() == before);
    // A file that is no backup is left alone.
    let foreign = world.lab.file("foreign", "my diary");
    for args in [
        args!["history", "backup", foreign, "-db", world.db],
        args!["history", "restore", foreign, "-db", world.lab.path("x")],
        args!["history", "compact", foreign],
    ] {
        world.lab.run(args).code(1).says("it is no backup of an index");
    }
    assert_eq!(std::fs::read(&foreign).unwrap(), b"my diary");
    let absent = world.lab.path("absent");
    world.lab.run(args!["history", "compact", absent]).code(1).says("No such file");
    world
        .lab
        .run(args!["history", "backup", world.backup, "-db", absent])
        .code(1)
        .says("cannot open the index");
    let original = world.lab.path("original.sqlite");
    index::write_original(&original, &index::rows_of(&[(b"a", b"one")]));
    for args in [args!["history", "backup", absent, "-db", original], args!["compact", "-db", original]] {
        world.lab.run(args).code(2).says("original program");
    }
    assert!(!absent.exists());
}

#[test]
fn a_copy_is_compared_with_a_previous_generation() {
    let mut world = World::new();
    let then = world.lab.path("then");
    let copy = |to: &Path| {
        let status = std::process::Command::new("cp").arg("-a").arg(&world.src).arg(to).status();
        assert!(status.unwrap().success());
    };
    copy(&then);
    world.run();
    world.run();
    let at = |generation: &str| args!["--extra", "--generation", generation];
    world.lab.check(&then, &world.db, at("1")).code(0);
    let differences = world.lab.check(&then, &world.db, at("3")).code(1);
    assert!(differences.stdout.contains("missing\tnew-2"), "{}", differences.stdout);
    world.lab.check(&world.src, &world.db, at("3")).code(0);
    assert!(world.lab.check(&world.src, &world.db, at("2")).code(1).stdout.contains("extra\tnew-2"));
    world.lab.check(&then, &world.db, at("4")).code(2).says("has no generation 4");
    // Forward again, after a rewind.
    world.rewind().code(0);
    world.lab.check(&world.src, &world.db, at("3")).code(0);
    world.lab.check(&then, &world.db, at("1")).code(0);
    assert_eq!(std::fs::read_dir(world.lab.path("tmp")).unwrap().count(), 0);
}

#[test]
fn going_back_is_one_step_and_the_index_is_as_it_was() {
    let mut world = World::new();
    world.rewind().code(2).says("has none before it");
    let first = content(&world.db);
    world.run();
    let second = content(&world.db);
    let summary = world.rewind().code(0).summary();
    assert_eq!((&summary["generation"], &summary["abandoned"]), (&1.into(), &2.into()));
    assert_eq!(content(&world.db), first);
    let before = std::fs::read(&world.db).unwrap();
    world.rewind().code(2).says("has none before it");
    assert!(std::fs::read(&world.db).unwrap() == before);
    world.index();
    assert_eq!(index::meta(&world.db, "generation"), "3");
    assert_ne!(content(&world.db), second);
    world.run();
    world.rewind().code(0);
    let before = std::fs::read(&world.db).unwrap();
    world.rewind().code(2).says("was taken back already, to generation 3");
    assert!(std::fs::read(&world.db).unwrap() == before);
}
