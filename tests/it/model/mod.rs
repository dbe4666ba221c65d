//! Folders that change, against a model of them in memory: random steps, a run of `sync`, and the
//! copy equals the model. No more is sent than the steps can cost. In between a process is killed,
//! the copy is changed, the source changes while it is read. `TARLIKE_TEST_SEED` repeats a test,
//! `TARLIKE_TEST_STEPS` makes it longer.

mod disk;
mod real;
mod sees;
mod steps;
mod switches;
mod tree;
mod world;

use crate::support::stress::chance;
use world::{Fault, World};

/// How many steps a test takes.
fn steps(usual: usize) -> usize {
    let given = std::env::var("TARLIKE_TEST_STEPS").ok();
    given.map_or(usual, |text| text.parse().expect("TARLIKE_TEST_STEPS is a number"))
}

/// So many steps in batches, a run after each; a fault in every `trouble`th batch.
fn run(large: bool, steps: usize, trouble: Option<u64>) {
    let mut rng = chance();
    let block_bytes =
        if large { [100_000, 262_144, 1_000_000][rng.below(3) as usize] } else { 1 << (12 + rng.below(4)) };
    let mut world = World::new(rng.next(), large, block_bytes);
    // Files that were changed at the receiver, and files of an unfinished first run, are not
    // deleted.
    world.chooser.mirrors &= trouble.is_none();
    world.fill(30, if large { 3 } else { 0 });
    world.run(Fault::Nothing);
    let mut left = steps;
    while left > 0 {
        let batch = (1 + rng.below(6) as usize).min(left);
        left -= batch;
        world.live(batch);
        let fault = match trouble {
            Some(every) if rng.below(every) == 0 => world.fault(),
            _ => Fault::Nothing,
        };
        world.run(fault);
        world.between_passes();
    }
    // Nothing has changed since.
    world.run(Fault::Nothing);
}

#[test]
fn small_files() {
    run(false, steps(300), None);
}

#[test]
fn large_files() {
    run(true, steps(160), None);
}

#[test]
fn small_files_in_trouble() {
    run(false, steps(250), Some(2));
}

#[test]
fn large_files_in_trouble() {
    run(true, steps(120), Some(2));
}
