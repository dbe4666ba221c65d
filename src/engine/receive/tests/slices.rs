//! Several receivers on one folder.

use super::*;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// A stripe that a few small files fill.
const STRIPE_BYTES: u64 = 40;

impl World {
    fn open_slices(&self, count: u64) -> Vec<Arc<Receiver>> {
        self.open_slices_with(count, STRIPE_BYTES)
    }

    fn open_slices_with(&self, count: u64, stripe_bytes: u64) -> Vec<Arc<Receiver>> {
        let options = |number| {
            let slice = Slice::new(number, count).unwrap();
            let slice = Some(SliceOptions { slice, stripe_bytes });
            ReceiverOptions { slice, ..ReceiverOptions::default() }
        };
        (1..=count).map(|number| self.open_with("base", &options(number))).collect()
    }

    /// Puts the index at all of them.
    fn put_at_all(&self, slices: &[Arc<Receiver>], digest: &IndexDigest) {
        slices.iter().for_each(|slice| drop(self.put_whole(slice, digest, None).unwrap()));
    }

    /// Sends each slice what it misses, as far as the first one knows.
    fn send_to_slice(&self, slices: &[Arc<Receiver>], number: usize, digest: &IndexDigest) {
        let missing = |receiver: &Receiver, as_slice| -> RangeSet {
            let status = receiver.status(TAR_ID, BLOCK_SIZE, 0, as_slice).unwrap();
            status.missing.into_iter().map(|(start, end)| start..end).collect()
        };
        let (all, own) = (missing(&slices[0], false), missing(&slices[number], true));
        for range in own.iter().flat_map(|range| all.common(range).collect::<Vec<_>>()) {
            self.try_send_range(&slices[number], digest, range).unwrap();
        }
    }

    /// Gives what the first one answers, if no other one names a failure.
    fn finish_at_all(&self, slices: &[Arc<Receiver>], digest: &IndexDigest) -> FinishAnswer {
        let others: Vec<_> = slices[1..].iter().map(|slice| self.finish(slice, digest, None)).collect();
        let answer = self.finish(&slices[0], digest, Some(5));
        // What waits for a folder to leave its place is named until the first one has emptied it.
        let failed = others.into_iter().find(|answer| !answer.complete || !answer.failed.is_empty());
        failed.unwrap_or(answer)
    }

    fn complete_slices(&self, slices: &[Arc<Receiver>], digest: &IndexDigest) {
        let mut answer = FinishAnswer::default();
        for _ in 0..3 {
            (0..slices.len()).for_each(|number| self.send_to_slice(slices, number, digest));
            answer = self.finish_at_all(slices, digest);
            if answer.complete {
                break;
            }
        }
        assert!(answer.complete, "{answer:?}");
        assert_eq!(tree(&self.path("base")), tree(&self.path("source")));
    }
}

fn published(receiver: &Receiver) -> u64 {
    receiver.status(TAR_ID, BLOCK_SIZE, 0, true).unwrap().files_published
}

/// A source of files that all slices have some of, and its index.
fn many_files() -> (World, IndexDigest) {
    let world = World::new();
    (0..30).for_each(|number| world.write(&format!("f{number:02}"), format!("content of file {number}")));
    world.write("empty", "");
    world.write("large", vec![b'x'; 500]);
    std::os::unix::fs::symlink("f01", world.path("source/link")).unwrap();
    std::fs::hard_link(world.path("source/f29"), world.path("source/second")).unwrap();
    let digest = world.index();
    (world, digest)
}

#[test]
fn slices_make_one_tree_and_the_first_one_knows_it() {
    for count in 1..=4 {
        let (world, digest) = many_files();
        let slices = world.open_slices(count);
        world.put_at_all(&slices, &digest);
        world.complete_slices(&slices, &digest);
        // The others know nothing any more, and the first one all.
        assert_eq!(published(&slices[0]), 32);
        assert!(slices[1..].iter().all(|slice| published(slice) == 0));
        assert!(slices[1..].iter().all(|slice| slice.counters.files_published.get() > 0), "{count}");
    }
}

#[test]
fn a_file_of_another_slice_is_refused() {
    let (world, digest) = many_files();
    let slices = world.open_slices(2);
    world.put_at_all(&slices, &digest);
    for slice in &slices {
        let own: Vec<_> = slice.status(TAR_ID, BLOCK_SIZE, 0, true).unwrap().missing;
        let (start, end) = own[0];
        let kind = |range| world.try_send_range(slice, &digest, range).unwrap_err().kind();
        assert_eq!(kind(start..end + 1), ErrorKind::WrongSlice);
        assert_eq!(kind(end..end + 1), ErrorKind::WrongSlice);
        world.try_send_range(slice, &digest, start..end).unwrap();
    }
}

/// What was taken over is in the journal of the first slice, and what was not stays with the others.
#[test]
fn restarts_lose_nothing_of_what_was_handed_over() {
    let (world, digest) = many_files();
    let mut slices = world.open_slices(3);
    let restart = |slices: &mut Vec<Arc<Receiver>>| {
        slices.clear();
        *slices = world.open_slices(3);
    };
    world.put_at_all(&slices, &digest);
    world.send_to_slice(&slices, 1, &digest);
    restart(&mut slices);
    let theirs = published(&slices[1]);
    assert!(theirs > 0);
    assert!(world.finish(&slices[1], &digest, None).complete);
    restart(&mut slices);
    // Handed over, and not taken yet.
    assert_eq!((published(&slices[1]), published(&slices[0])), (theirs, 0));
    assert!(!world.finish(&slices[0], &digest, None).complete);
    restart(&mut slices);
    assert_eq!((published(&slices[1]), published(&slices[0])), (0, theirs));
    world.complete_slices(&slices, &digest);
}

#[test]
fn how_many_slices_there_are_may_change() {
    let (world, digest) = many_files();
    let mut in_place = 0;
    for (count, sent) in [(3, 2), (1, 0), (2, 1), (4, 3)] {
        let slices = world.open_slices(count);
        world.put_at_all(&slices, &digest);
        assert!(published(&slices[0]) >= in_place);
        world.send_to_slice(&slices, sent, &digest);
        world.finish_at_all(&slices, &digest);
        in_place = published(&slices[0]);
        assert!(in_place > 0);
    }
    // Parts that one receiver had of a file of another one are no use.
    let slices = world.open_slices(2);
    world.put_at_all(&slices, &digest);
    world.complete_slices(&slices, &digest);
}

#[test]
fn a_part_of_a_file_that_another_slice_gets_is_asked_for_again() {
    let (world, digest) = many_files();
    {
        let alone = world.open("base");
        world.put_whole(&alone, &digest, None).unwrap();
        let total = alone.status(TAR_ID, BLOCK_SIZE, 0, false).unwrap().total_bytes;
        (0..total - 1).step_by(100).for_each(|start| {
            let range = start..(start + 50).min(total);
            world.try_send_range(&alone, &digest, range).unwrap();
        });
    }
    let slices = world.open_slices(3);
    world.put_at_all(&slices, &digest);
    world.complete_slices(&slices, &digest);
}

#[test]
fn generations_are_deleted_renamed_and_taken_back_across_slices() {
    let (world, first) = many_files();
    let slices = world.open_slices(3);
    world.put_at_all(&slices, &first);
    world.complete_slices(&slices, &first);
    let before = tree(&world.path("source"));
    std::fs::remove_file(world.path("source/f03")).unwrap();
    std::fs::rename(world.path("source/f17"), world.path("source/d/renamed")).unwrap();
    std::fs::rename(world.path("source/large"), world.path("source/d/larger")).unwrap();
    (5..25).for_each(|number| world.write(&format!("f{number:02}"), format!("other content {number}")));
    (0..20).for_each(|number| world.write(&format!("d/new{number:02}"), format!("quite new {number}")));
    let second = world.index();
    for slice in &slices {
        world.put_change(slice, 1, 2, &RETAINING).unwrap();
    }
    world.complete_slices(&slices, &second);
    assert!(slices[1..].iter().all(|slice| slice.counters.files_published.get() > 5));
    assert_ne!(tree(&world.path("base")), before);
}

/// An interrupted run leaves files that a later one has to delete, whether its slice has handed them
/// over, is just about to, or does not come to it any more.
#[test]
fn what_a_slice_has_put_in_place_is_known_to_the_next_generation() {
    for (hands_over, is_lost) in [(true, false), (false, false), (false, true)] {
        an_interrupted_run_is_cleaned_up(hands_over, is_lost);
    }
}

fn an_interrupted_run_is_cleaned_up(hands_over: bool, is_lost: bool) {
    let (world, first) = many_files();
    let mut slices = world.open_slices(2);
    world.put_at_all(&slices, &first);
    world.send_to_slice(&slices, 1, &first);
    assert!(published(&slices[1]) > 0);
    (0..30).for_each(|number| std::fs::remove_file(world.path(&format!("source/f{number:02}"))).unwrap());
    std::fs::remove_file(world.path("source/second")).unwrap();
    let second = world.index();
    let handover = world.path("base/.tar-like/slice-2-of-2/handover");
    let start = std::time::Instant::now();
    while hands_over && names_in(&handover).is_empty() {
        assert!(start.elapsed() < PATIENCE, "nothing is handed over");
        std::thread::sleep(Duration::from_millis(50));
    }
    if is_lost {
        slices.truncate(1);
        if !names_in(&handover).is_empty() {
            // On a busy machine it had the time to hand over, and nothing is lost.
            return an_interrupted_run_is_cleaned_up(hands_over, is_lost);
        }
    }
    world.put_change(&slices[0], 1, 2, &RETAINING).unwrap();
    if is_lost {
        drop(slices.drain(..));
        slices = world.open_slices(2);
    }
    world.put_change(&slices[1], 1, 2, &RETAINING).unwrap();
    world.complete_slices(&slices, &second);
}

/// Slice 2 does not know yet that slice 1 has another index: what it gets for the one before has its
/// place nowhere.
#[test]
fn a_slice_puts_nothing_in_place_of_an_index_that_the_first_one_has_replaced() {
    let (world, first) = many_files();
    let slices = world.open_slices(2);
    world.put_at_all(&slices, &first);
    let missing = slices[1].status(TAR_ID, BLOCK_SIZE, 0, true).unwrap().missing;
    let (late, early) = missing.split_last().unwrap();
    for &(start, end) in early {
        world.try_send_range(&slices[1], &first, start..end).unwrap();
    }
    let has = published(&slices[1]);
    assert!(has > 0);
    let before = tree(&world.path("base"));
    // The index of the first one is kept, to send by.
    std::fs::copy(world.path("index.sqlite"), world.path("first.sqlite")).unwrap();
    let content = std::fs::read(world.path("source/f07")).unwrap();
    world.write("f07", "another one");
    let second = world.index();
    world.put_change(&slices[0], 1, 2, &RETAINING).unwrap();
    world.write("f07", content);
    std::fs::rename(world.path("index.sqlite"), world.path("second.sqlite")).unwrap();
    std::fs::rename(world.path("first.sqlite"), world.path("index.sqlite")).unwrap();
    world.try_send_range(&slices[1], &first, late.0..late.1).unwrap();
    let answer = world.finish(&slices[1], &first, None);
    assert!(!answer.complete, "{answer:?}");
    assert!(
        answer.failed.iter().all(|failed| failed.reason.contains("slice 1/2 has another index")),
        "{answer:?}"
    );
    assert_eq!((published(&slices[1]), tree(&world.path("base"))), (has, before));
    std::fs::rename(world.path("second.sqlite"), world.path("index.sqlite")).unwrap();
    world.write("f07", "another one");
    let path = world.path("source/f07");
    let entry = IndexReader::open(&world.path("index.sqlite")).unwrap();
    let file =
        entry.file_at(&crate::archive::path::EntryPath::new(b"f07".to_vec()).unwrap()).unwrap().unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_nanos(file.meta.unwrap().mtime_ns as u64);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    world.put_change(&slices[1], 1, 2, &RETAINING).unwrap();
    world.complete_slices(&slices, &second);
}

/// A change that is refused leaves the index active for all slices.
#[test]
fn slices_go_on_after_a_refused_change() {
    let (world, first) = many_files();
    let slices = world.open_slices(2);
    world.put_at_all(&slices, &first);
    let is_active = || {
        let said = std::fs::read_to_string(world.path("base/.tar-like/slice-1-of-2/active/3")).unwrap();
        said.trim_end() == first.to_string()
    };
    assert!(is_active());
    world.send_to_slice(&slices, 1, &first);
    std::fs::copy(world.path("index.sqlite"), world.path("first.sqlite")).unwrap();
    world.write("d/more", "more");
    let second = world.index();
    world.put_cut_change(&slices[0], 1, (&first, &second), &RETAINING).unwrap_err();
    assert!(is_active());
    // The names were recorded, and the bytes with them: nothing waits for what slice 2 has.
    std::fs::rename(world.path("first.sqlite"), world.path("index.sqlite")).unwrap();
    std::fs::remove_file(world.path("source/d/more")).unwrap();
    let answer = {
        world.send_to_slice(&slices, 0, &first);
        world.finish_at_all(&slices, &first)
    };
    assert!(answer.complete, "{answer:?}");
}

/// Content that is damaged behind the receivers' backs comes again, whichever slice had it.
#[test]
fn damage_that_the_first_slice_finds_is_mended_by_another_one() {
    let (world, digest) = many_files();
    let slices = world.open_slices(3);
    world.put_at_all(&slices, &digest);
    world.complete_slices(&slices, &digest);
    for number in 0..30 {
        let path = world.path(&format!("base/f{number:02}"));
        let time = path.metadata().unwrap().modified().unwrap();
        let content = std::fs::read(&path).unwrap().to_ascii_uppercase();
        std::fs::write(&path, content).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    let request = VerifyRequest { name: 1, ..VerifyRequest::default() };
    let check = slices[0].verify(TAR_ID, &digest, request).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (ready, answer) = runtime.block_on(check.wait(PATIENCE)).unwrap();
    assert!(ready, "{answer:?}");
    world.complete_slices(&slices, &digest);
}

/// A path that another archive has put there stays, whichever slices the two files are of.
#[test]
fn archives_do_not_take_the_place_of_each_other() {
    let (world, first) = many_files();
    let slices = world.open_slices(3);
    world.put_at_all(&slices, &first);
    world.complete_slices(&slices, &first);
    let before = tree(&world.path("base"));
    for number in 0..30 {
        world.write(&format!("f{number:02}"), format!("another source {number}"));
    }
    let second = world.fresh_index();
    let claim = SourceClaim::default();
    for slice in &slices {
        slice
            .put_index(
                TAR_ID + 1,
                &world.path("index.sqlite"),
                Some(&second),
                &WholeOptions::default(),
                &claim,
            )
            .unwrap();
    }
    for slice in &slices {
        for (start, end) in slice.status(TAR_ID + 1, BLOCK_SIZE, 0, true).unwrap().missing {
            world.try_send_to(slice, TAR_ID + 1, &second, start..end).unwrap();
        }
    }
    assert_eq!(tree(&world.path("base")), before);
}

/// What the property says of one run: how many slices there are, how long a stripe is, what orders
/// of parts come of a seed, and whether it comes to its end.
#[derive(Debug, Clone)]
struct SliceRun {
    count: u64,
    stripe_bytes: u64,
    seed: u64,
    /// The receivers of the run before go on, instead.
    goes_on: bool,
    /// The run ends when so many parts were sent, and no slice is told to finish.
    ends_after: Option<usize>,
}

fn slice_run() -> impl Strategy<Value = SliceRun> {
    let ends_after = proptest::option::of(0usize..40);
    let run = (1u64..5, 1u64..300, any::<u64>(), any::<bool>(), ends_after);
    run.prop_map(|(count, stripe_bytes, seed, goes_on, ends_after)| SliceRun {
        count,
        stripe_bytes,
        seed,
        goes_on,
        ends_after,
    })
}

impl World {
    /// Sends what is missing in parts of random lengths, in a random order, some of them twice, to the
    /// slices that take them in, with a `finish` now and then, until the end of the run.
    fn send_shuffled(
        &self,
        slices: &[Arc<Receiver>],
        digest: &IndexDigest,
        ends_after: Option<usize>,
        rng: &mut StdRng,
    ) {
        let mut parts = Vec::new();
        for (number, slice) in slices.iter().enumerate() {
            for (start, end) in slice.status(TAR_ID, BLOCK_SIZE, 0, true).unwrap().missing {
                let mut at = start;
                while at < end {
                    let next = end.min(at + rng.random_range(1..200));
                    parts.extend(std::iter::repeat_n((number, at..next), rng.random_range(1..3)));
                    at = next;
                }
            }
        }
        parts.shuffle(rng);
        parts.truncate(ends_after.unwrap_or(usize::MAX));
        for (number, range) in parts {
            self.try_send_range(&slices[number], digest, range).unwrap();
            if rng.random_range(0..20) == 0 {
                let slice = rng.random_range(0..slices.len());
                self.finish(&slices[slice], digest, None);
            }
        }
    }

    /// A source of random files, and what it is after random changes.
    fn shuffle_source(&self, rng: &mut StdRng) {
        for number in 0..12 {
            let path = self.path(&format!("source/f{number:02}"));
            let remove = || drop(std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path)));
            let mut content = || -> Vec<u8> { (0..rng.random_range(0..400)).map(|_| rng.random()).collect() };
            let (one, other) = (content(), content());
            match rng.random_range(0..6) {
                0 => remove(),
                1 if path.is_file() => {
                    std::fs::rename(&path, self.path(&format!("source/d/r{number:02}"))).unwrap();
                }
                2 | 3 => {
                    remove();
                    self.write(&format!("f{number:02}"), one);
                }
                4 => {
                    remove();
                    std::fs::create_dir_all(path.join("below")).unwrap();
                    self.write(&format!("f{number:02}/in"), one);
                    self.write(&format!("f{number:02}/below/in"), other);
                }
                _ => {}
            }
        }
        self.write("always", rng.random::<u64>().to_string());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any layout, any number of slices, another one in each run, any order of parts, and an end at
    /// any time: the tree is that of the source.
    #[test]
    fn any_slices_make_the_tree(runs in proptest::collection::vec(slice_run(), 1..5)) {
        let world = World::new();
        let (mut last, mut slices) = (None, Vec::new());
        let end = runs.len() as u64;
        for (generation, run) in (1..).zip(runs) {
            let mut rng = StdRng::seed_from_u64(run.seed);
            world.shuffle_source(&mut rng);
            let digest = world.index();
            if !run.goes_on || slices.is_empty() {
                slices.clear();
                slices = world.open_slices_with(run.count, run.stripe_bytes);
            }
            for slice in &slices {
                // A slice that is new has not the previous index.
                let has_previous = last.is_some_and(|last: IndexDigest| {
                    slice.status(TAR_ID, BLOCK_SIZE, 0, true).is_ok_and(|status| status.digest == last.to_string())
                });
                match has_previous {
                    true => drop(world.put_change(slice, generation - 1, generation, &RETAINING).unwrap()),
                    false => drop(world.put_whole(slice, &digest, None).unwrap()),
                }
            }
            let ends_after = run.ends_after.filter(|_| generation < end);
            world.send_shuffled(&slices, &digest, ends_after, &mut rng);
            if ends_after.is_none() {
                world.complete_slices(&slices, &digest);
            }
            last = Some(digest);
        }
    }
}
