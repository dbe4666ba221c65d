//! Faults of a backup, and of the runs that write it.

use super::{World, content};
use crate::support::Lab;
use crate::support::stress::Mount;
use std::path::Path;

fn no_partial_files(lab: &Lab) {
    for entry in std::fs::read_dir(lab.path(".")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().contains("partial"), "{name:?} is left");
    }
}

#[test]
fn a_torn_tail_costs_the_last_generation_only() {
    let mut world = World::new();
    world.save().code(0);
    world.run();
    world.save().code(0);
    let second = content(&world.db);
    let with_second = std::fs::metadata(&world.backup).unwrap().len();
    world.run();
    world.save().code(0);
    let third = content(&world.db);
    let whole = std::fs::read(&world.backup).unwrap();
    let restored = |expected: &str, code: i32| {
        let (db, output) = world.restore("restored.sqlite", vec![]);
        let output = output.code(code);
        assert_eq!(content(&db), expected);
        output
    };
    // Cut at some places of the last record, and flipped at others.
    for cut in [with_second, with_second + 1, with_second + 176, whole.len() as u64 - 1] {
        std::fs::write(&world.backup, &whole[..cut as usize]).unwrap();
        restored(&second, 3).says("is damaged from byte").says("went up to generation 3");
    }
    for at in [with_second as usize + 20, whole.len() - 5] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&world.backup, &bytes).unwrap();
        restored(&second, 3);
        world.restore("x.sqlite", args!["--generation", "3"]).1.code(1);
        // The index still exists: the lost records are added again.
        assert_eq!(world.save().code(0).summary()["added"], serde_json::json!([3]));
        restored(&third, 0);
    }
    // Bytes that an interrupted run has left behind the end never count.
    std::fs::write(&world.backup, [&whole[..], &whole[with_second as usize..whole.len() - 9]].concat())
        .unwrap();
    restored(&third, 0);
    world.save().code(0);
    // The snapshot itself.
    let mut bytes = whole;
    bytes[8192 + 300] ^= 1;
    std::fs::write(&world.backup, &bytes).unwrap();
    world.restore("x.sqlite", vec![]).1.code(1).says("no generation of it is whole");
    let before = std::fs::read(&world.backup).unwrap();
    world.lab.run(args!["history", "compact", world.backup]).code(1).says("is damaged");
    assert!(std::fs::read(&world.backup).unwrap() == before);
    no_partial_files(&world.lab);
}

#[test]
fn two_do_not_write_at_once() {
    let mut world = World::new();
    world.save().code(0);
    world.run();
    let before = std::fs::read(&world.backup).unwrap();
    let held = std::fs::File::open(&world.backup).unwrap();
    held.lock().unwrap();
    world.save().code(1).says("another run uses the backup").says("wait until it has ended");
    world.lab.run(args!["history", "compact", world.backup]).code(1).says("another run uses");
    world.restore("x.sqlite", vec![]).1.code(1).says("another run writes to the backup");
    held.unlock().unwrap();
    held.lock_shared().unwrap();
    world.save().code(1).says("another run uses the backup");
    world.restore("x.sqlite", vec![]).1.code(0);
    assert!(std::fs::read(&world.backup).unwrap() == before);
    drop(held);
    world.save().code(0);
}

#[test]
fn a_full_disk_leaves_the_backup_as_it_was() {
    let mut world = World::new();
    let Some(disk) = Mount::tmpfs(&world.lab.path("disk"), "size=1m") else { return };
    world.backup = disk.path.join("backup");
    world.save().code(0);
    // More bytes than are left of a page.
    (0..200).for_each(|number| std::fs::write(world.src.join(format!("many-{number}")), [number]).unwrap());
    world.run();
    let before = std::fs::read(&world.backup).unwrap();
    let ballast = disk.path.join("ballast");
    let fill = |leave: usize| {
        let free = rustix::fs::statvfs(&disk.path).map(|stat| stat.f_bavail * stat.f_frsize).unwrap();
        std::fs::write(&ballast, vec![1; free as usize - leave]).unwrap();
    };
    fill(0);
    world.save().code(1).says("No space left");
    assert!(std::fs::read(&world.backup).unwrap() == before);
    world.lab.run(args!["history", "compact", world.backup]).code(1).says("No space left");
    assert!(std::fs::read(&world.backup).unwrap() == before);
    let db = disk.path.join("restored.sqlite");
    world.lab.run(args!["history", "restore", world.backup, "-db", db]).code(1).says("No space left");
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(std::fs::read_dir(&disk.path).unwrap().count(), 1, "something is left");
    world.save().code(0);
    world.lab.run(args!["history", "restore", world.backup, "-db", db]).code(0);
    assert_eq!(content(&db), content(&world.db));
    disk.unmount();
}

/// Kills a command at every call of these kinds, until there are no more; checks after each that
/// all is well.
fn killed_at_every(
    world: &World,
    command: &[std::ffi::OsString],
    start: &[(&Path, &[u8])],
    mut well: impl FnMut(&str),
) {
    for call in ["pwrite64", "fsync", "ftruncate", "rename", "renameat2", "unlink", "linkat"] {
        for number in 1..200 {
            for (path, bytes) in start {
                std::fs::write(path, bytes).unwrap();
            }
            let rule = format!("{call}:signal=KILL:when={number}");
            let output = world.lab.cmd(command.to_vec()).inject(&[&rule], &[]).run();
            well(&format!("{command:?} killed at {call} {number}"));
            if output.code == 0 {
                break;
            }
            assert_eq!(output.code, 137, "{output:?}");
        }
    }
}

#[test]
fn a_killed_command_leaves_the_previous_state_or_the_new_one() {
    let mut world = World::new();
    world.save().code(0);
    let first = content(&world.db);
    world.run();
    world.save().code(0);
    let second = content(&world.db);
    let backup = std::fs::read(&world.backup).unwrap();
    world.run();
    let third = content(&world.db);
    let db = std::fs::read(&world.db).unwrap();
    let newest = |expected: &[&str], what: &str| {
        let (restored, output) = world.restore("restored.sqlite", vec![]);
        output.code(0);
        let found = content(&restored);
        assert!(expected.contains(&&*found), "{what}: {found}");
    };
    let save = args!["history", "backup", world.backup, "-db", world.db];
    killed_at_every(&world, &save, &[(&world.backup, &backup)], |what| {
        newest(&[&second, &third], what);
        world.save().code(0);
        newest(&[&third], what);
    });
    let whole = std::fs::read(&world.backup).unwrap();
    let compact = args!["history", "compact", world.backup];
    killed_at_every(&world, &compact, &[(&world.backup, &whole)], |what| newest(&[&third], what));
    let restored = world.lab.path("by-killed.sqlite");
    let restore = args!["history", "restore", world.backup, "-db", restored];
    killed_at_every(&world, &restore, &[], |what| {
        if restored.exists() {
            assert_eq!(content(&restored), third, "{what}");
            std::fs::remove_file(&restored).unwrap();
        }
    });
    let rewind = args!["rewind", "-db", world.db];
    killed_at_every(&world, &rewind, &[(&world.db, &db)], |what| {
        let found = content(&world.db);
        assert!(found == second || found == third, "{what}: {found}");
    });
    std::fs::write(&world.db, &db).unwrap();
    let compact = args!["compact", "-db", world.db];
    killed_at_every(&world, &compact, &[(&world.db, &db)], |what| {
        let generation = crate::support::index::meta(&world.db, "generation");
        assert!(generation == "4" || content(&world.db) == third, "{what}");
        world.check(&world.src, &world.db);
    });
    assert_ne!(first, second);
}
