//! Each transition to another index is stopped after each of its steps: a copy of the base folder at
//! that point is what a crash leaves, since nothing else of the receiver outlives its process.

use super::super::index::replace::{Step, crash};
use super::*;
use std::fs::{File, FileTimes};
use std::os::unix::fs::{MetadataExt, symlink};

/// Copies a folder with its links, hard links and times. No process does it: a child of this one
/// would hold the locks that other tests take, until it has started.
fn copy_tree(from: &Path, to: &Path) {
    let mut inodes = BTreeMap::new();
    let mut folders = Vec::new();
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let (meta, copy) = (entry.metadata().unwrap(), to.join(entry.path().strip_prefix(from).unwrap()));
        let times = FileTimes::new().set_modified(meta.modified().unwrap());
        if meta.is_dir() {
            std::fs::create_dir(&copy).unwrap();
            std::fs::set_permissions(&copy, meta.permissions()).unwrap();
            folders.push((copy, times));
        } else if meta.is_symlink() {
            symlink(std::fs::read_link(entry.path()).unwrap(), &copy).unwrap();
        } else if let Some(first) = inodes.get(&meta.ino()) {
            std::fs::hard_link::<&PathBuf, _>(first, &copy).unwrap();
        } else {
            std::fs::copy(entry.path(), &copy).unwrap();
            File::options().write(true).open(&copy).unwrap().set_times(times).unwrap();
            inodes.insert(meta.ino(), copy);
        }
    }
    for (folder, times) in folders.into_iter().rev() {
        File::open(folder).unwrap().set_times(times).unwrap();
    }
}

impl World {
    /// Copies the base folder the first time that this thread comes to each step.
    fn copy_at_each_step(&self) {
        let (base, target) = (self.path("base"), self.path("crash"));
        crash::at_each_step(move |step| {
            let copy = target.join(format!("{step:?}"));
            if !copy.exists() {
                copy_tree(&base, &copy);
            }
        });
    }

    /// The steps that were copied, and the copies.
    fn crashes(&self) -> Vec<(Step, String)> {
        use Step::{Activated, Closed, Pruned, Removed, Staged, Synced, Updated, Written};
        let all = [Closed, Written, Staged, Synced, Activated, Pruned, Removed, Updated];
        let named = all.map(|step| (step, format!("crash/{step:?}")));
        named.into_iter().filter(|(_, base)| self.path(base).exists()).collect()
    }
}

/// Whether the new index is active after a crash at this step.
fn is_after_activation(step: Step) -> bool {
    matches!(step, Step::Activated | Step::Pruned | Step::Removed | Step::Updated)
}

/// After a crash at any step the receiver has either index, and nothing else; the sender's next run
/// ends as it should.
fn check_crashes(
    world: &World,
    (old, new): (&IndexDigest, &IndexDigest),
    put: impl Fn(&Receiver),
    check: impl Fn(&Receiver, Step, &str),
) {
    let crashes = world.crashes();
    assert!(crashes.len() >= 4, "{crashes:?}");
    for (step, base) in crashes {
        let receiver = world.open(&base);
        let expected = if is_after_activation(step) { new } else { old };
        assert_eq!(active(&receiver), expected.to_string(), "{step:?}");
        let state = world.path(&base).join(".tar-like");
        let indexes = names_in(&state.join("archives")).into_iter().filter(|name| name.ends_with(".sqlite"));
        assert_eq!((indexes.count(), names_in(&state.join("staging")).len()), (1, 1), "{step:?}");
        check(&receiver, step, &base);
        put(&receiver);
        assert_eq!(active(&receiver), new.to_string(), "{step:?}");
        world.complete(&receiver, &base, new, Some(5));
    }
}

#[test]
fn a_crash_of_a_whole_index_leaves_either_index() {
    let (world, old, receiver) = first_index();
    change_source(&world);
    let new = world.fresh_index();
    world.copy_at_each_step();
    world.put_whole(&receiver, &new, None).unwrap();
    let put = |receiver: &Receiver| drop(world.put_whole(receiver, &new, None).unwrap());
    check_crashes(&world, (&old, &new), put, |_, _, _| {});
}

#[test]
fn a_crash_of_a_change_leaves_either_index_and_what_is_retained() {
    let (world, old, receiver) = first_index();
    change_source(&world);
    let new = world.index();
    world.copy_at_each_step();
    let options = &RETAINING;
    world.put_change(&receiver, 1, 2, options).unwrap();
    let put = |receiver: &Receiver| {
        if active(receiver) == old.to_string() {
            world.put_change(receiver, 1, 2, options).unwrap();
        }
    };
    check_crashes(&world, (&old, &new), put, |_, step, base| {
        let retained = world.retained(base);
        let expected = if is_after_activation(step) { vec![format!("{TAR_ID}.2")] } else { Vec::new() };
        assert_eq!(retained, expected, "{step:?}");
    });
    // The first generation comes back from what each of them retained.
    change_back(&world);
    for (step, base) in world.crashes() {
        let receiver = world.open(&base);
        let rewind = ChangeOptions { rewind: true, ..ChangeOptions::default() };
        world.put_change(&receiver, 2, 1, &rewind).unwrap_or_else(|e| panic!("{step:?}: {e}"));
        let answer = world.finish(&receiver, &old, None);
        assert!(answer.complete, "{step:?}: {answer:?}");
        let contents =
            |base: &Path| tree(base).into_iter().map(|(path, file)| (path, file.map(|(content, _)| content)));
        assert!(contents(&world.path(&base)).eq(contents(&world.path("source"))), "{step:?}");
    }
}

fn change_back(world: &World) {
    world.write("grows", "first");
    world.write("d/goes", "it goes");
    std::fs::remove_file(world.path("source/comes")).unwrap();
    std::fs::rename(world.path("source/d/here"), world.path("source/moved")).unwrap();
}

#[test]
fn what_a_rewind_needs_is_pruned_after_another_index_is_active() {
    let (world, old, receiver) = second_generation();
    world.write("comes", "other content");
    let new = world.fresh_index();
    world.copy_at_each_step();
    world.put_whole(&receiver, &new, None).unwrap();
    assert_eq!(world.retained("base"), [""; 0]);
    let put = |receiver: &Receiver| drop(world.put_whole(receiver, &new, None).unwrap());
    check_crashes(&world, (&old, &new), put, |_, step, base| {
        assert_eq!(world.retained(base).is_empty(), is_after_activation(step), "{step:?}");
    });
}

#[test]
fn a_crash_of_a_change_that_ends_retention_leaves_what_a_rewind_needs() {
    let (world, old, receiver) = second_generation();
    world.write("comes", "other content");
    let new = world.index();
    world.copy_at_each_step();
    world.put_change(&receiver, 2, 3, &PRUNING).unwrap();
    assert_eq!(world.retained("base"), [""; 0]);
    let put = |receiver: &Receiver| {
        if active(receiver) == old.to_string() {
            world.put_change(receiver, 2, 3, &PRUNING).unwrap();
        }
    };
    check_crashes(&world, (&old, &new), put, |_, step, base| {
        let is_pruned = matches!(step, Step::Pruned | Step::Removed | Step::Updated);
        assert_eq!(world.retained(base).is_empty(), is_pruned, "{step:?}");
    });
}

#[test]
fn a_crash_of_a_stream_leaves_an_index_that_its_sender_continues() {
    let (world, _, receiver) = first_index();
    change_source(&world);
    let new = world.fresh_index();
    world.copy_at_each_step();
    // The first index came as a whole and has no extents: it restarts in its place.
    world.put_stream(&receiver, &new, 1).unwrap();
    world.complete(&receiver, "base", &new, None);
    let crashes = world.crashes();
    assert_eq!(crashes.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [Step::Written, Step::Activated]);
    for (_, base) in crashes {
        let receiver = world.open(&base);
        world.put_stream(&receiver, &new, 2).unwrap();
        world.complete(&receiver, &base, &new, None);
    }
}

#[test]
fn a_crash_of_a_stream_beside_an_index_with_generations_leaves_either_index() {
    let (world, old, receiver) = second_generation();
    world.write("comes", "other content");
    let new = world.fresh_index();
    world.copy_at_each_step();
    world.put_stream(&receiver, &new, 1).unwrap();
    world.complete(&receiver, "base", &new, None);
    for (step, base) in world.crashes() {
        let receiver = world.open(&base);
        let is_old = active(&receiver) == old.to_string();
        assert_eq!(is_old, !is_after_activation(step), "{step:?}");
        assert_eq!(world.retained(&base).is_empty(), !is_old, "{step:?}");
        world.put_stream(&receiver, &new, 2).unwrap();
        world.complete(&receiver, &base, &new, None);
    }
}

#[test]
fn a_crash_of_an_adoption_leaves_what_was_found_in_place() {
    let world = World::new();
    world.write("same", "the same");
    world.write("d/moved", "moved from there".repeat(1000));
    copy_tree(&world.path("source"), &world.path("base/source"));
    std::fs::rename(world.path("base/source/same"), world.path("base/same")).unwrap();
    std::fs::rename(world.path("base/source/d/moved"), world.path("base/other")).unwrap();
    let digest = world.index();
    let adopt = |receiver: &Receiver| {
        let request = AdoptRequest { name: 7, ..AdoptRequest::default() };
        let job = receiver.adopt(TAR_ID, request).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert!(runtime.block_on(job.wait(PATIENCE)).unwrap().0);
        world.put_whole(receiver, &digest, Some(7)).unwrap();
    };
    let receiver = world.open("base");
    world.copy_at_each_step();
    adopt(&receiver);
    // Both contents were found: nothing is to be sent.
    assert_eq!(receiver.status(TAR_ID, BLOCK_SIZE, 0, false).unwrap().missing, []);
    world.complete(&receiver, "base", &digest, None);
    for (step, base) in world.crashes() {
        let receiver = world.open(&base);
        if !is_after_activation(step) {
            assert_eq!(
                receiver.status(TAR_ID, BLOCK_SIZE, 0, false).unwrap_err().kind(),
                ErrorKind::NotFound,
                "{step:?}"
            );
            adopt(&receiver);
        }
        world.complete(&receiver, &base, &digest, None);
    }
}
