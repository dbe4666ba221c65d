//! Compaction of the archive and of the backup.

use super::{World, content, generations};
use crate::support::{assert_same_tree, index};

#[test]
fn the_original_program_reads_a_compacted_archive() {
    let mut world = World::new();
    for _ in 0..4 {
        world.run();
    }
    let previous = index::meta(&world.db, "format");
    assert_eq!(previous, "2");
    let output = world.lab.run(args!["compact", "-db", world.db, "--json"]).code(0);
    let summary = output.summary();
    assert_eq!((&summary["dropped"], &summary["unchanged"]), (&5.into(), &false.into()));
    // Exactly the tables and rows of an index that is made from the folder now, but for the
    // generation.
    let fresh = world.lab.index(&world.src);
    assert_eq!(index::rows(&world.db), index::rows(&fresh));
    assert_eq!(index::nodes(&world.db), index::nodes(&fresh));
    assert_eq!(index::digest(&world.db), index::digest(&fresh));
    assert_eq!(
        (index::meta(&world.db, "format"), index::meta(&world.db, "generation")),
        ("1".into(), "6".into())
    );
    assert_eq!(index::meta(&world.db, "base"), index::meta(&fresh, "base"));
    world.check(&world.src, &world.db);
    let connection = index::open(&world.db);
    let schema = |connection: &rusqlite::Connection| -> Vec<String> {
        let query = "SELECT sql FROM sqlite_schema WHERE tbl_name = 'tar' ORDER BY name";
        let mut statement = connection.prepare(query).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(schema(&connection), schema(&index::open(&fresh)));
    drop(connection);
    // Times and inodes are still known: no file is read again.
    world.index();
    assert_eq!(index::meta(&world.db, "generation"), "6");
    let text = world.lab.run(args!["compact", "-db", world.db]).code(0).stderr;
    assert!(text.contains("generation 6 is compact already"), "{text}");
    assert_eq!(generations(&world, &world.db).len(), 1);
    world.rewind().code(2).says("has none before it");
    world.run();
    assert_eq!(index::meta(&world.db, "generation"), "7");
}

#[test]
fn a_receiver_takes_a_compacted_index() {
    let mut world = World::new();
    world.run();
    world.run();
    world.lab.run(args!["compact", "-db", world.db]).code(0);
    let dst = world.lab.dir("dst");
    let proxy = world.lab.proxy(&dst);
    world.lab.upload(&world.src, &world.db, &proxy.url, vec![]).code(0);
    assert_same_tree(&world.src, &dst);
    world.check(&dst, &world.db);
}

#[test]
fn a_backup_knows_its_index_after_a_fresh_layout() {
    let mut world = World::new();
    world.save().code(0);
    world.run();
    world.save().code(0);
    world.run();
    world.rewind().code(0);
    world.run();
    // Not in the backup: generation 3, which is abandoned, and 4.
    world.lab.run(args!["compact", "-db", world.db]).code(0);
    assert_eq!(world.save().code(0).summary()["added"], serde_json::json!([5]));
    let (db, output) = world.restore("newest.sqlite", vec![]);
    output.code(0);
    assert_eq!(content(&db), content(&world.db));
    world.run();
    world.lab.run(args!["compact", "-db", world.db]).code(0);
    world.run();
    world.save().code(0);
    let (db, output) = world.restore("newest.sqlite", vec![]);
    output.code(0);
    assert_eq!(content(&db), content(&world.db));
    world.restore("second.sqlite", args!["--generation", "2"]).1.code(0);
    // Abandoned, then compacted: the backup goes back as well.
    world.rewind().code(0);
    world.run();
    world.lab.run(args!["compact", "-db", world.db]).code(0);
    assert!(world.save().code(0).summary()["rewound_to"].is_u64());
    let (db, output) = world.restore("newest.sqlite", vec![]);
    output.code(0);
    assert_eq!(content(&db), content(&world.db));
}

#[test]
fn a_backup_in_fewer_records_says_the_same() {
    let mut world = World::new();
    world.save().code(0);
    let mut kept = vec![content(&world.db)];
    for _ in 0..4 {
        world.run();
        world.save().code(0);
        kept.push(content(&world.db));
    }
    let before = generations(&world, &world.db);
    let summary = world.lab.run(args!["history", "compact", world.backup, "--json"]).code(0).summary();
    let length = std::fs::metadata(&world.backup).unwrap().len();
    assert_eq!(summary["bytes_after"], length);
    // The snapshot holds all changes but the last.
    for (number, there) in [(3, false), (4, true), (5, true)] {
        let (db, output) = world.restore("then.sqlite", args!["--generation", number.to_string()]);
        let output = output.code(i32::from(!there));
        if there {
            assert_eq!(content(&db), kept[number - 1]);
        } else {
            output.says("has no generation 3");
        }
    }
    let (db, output) = world.restore("newest.sqlite", vec![]);
    output.code(0);
    assert_eq!(generations(&world, &db), before);
    world.run();
    assert_eq!(world.save().code(0).summary()["added"], serde_json::json!([6]));
    // After a rewind there is no last change.
    world.rewind().code(0);
    world.save().code(0);
    world.lab.run(args!["history", "compact", world.backup]).code(0);
    let (db, output) = world.restore("newest.sqlite", vec![]);
    output.code(0);
    assert_eq!(content(&db), content(&world.db));
    assert_eq!(generations(&world, &db), generations(&world, &world.db));
    world.index();
    assert_eq!(world.save().code(0).summary()["added"], serde_json::json!([7]));
}
