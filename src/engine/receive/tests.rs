//! Tests that drive a [`Receiver`] in a temporary folder, without HTTP. Each transition to another
//! index is stopped after each of its steps: a copy of the base folder at that point is what a
//! crash leaves, since nothing else of the receiver outlives its process.

use super::index::replace::{Step, crash};
use super::*;
use crate::archive::intake::Taken;
use crate::archive::log::{FileRow, LogEnd, LogRecord, first_digest, push};
use crate::archive::protocol::{DeleteRequest, FinishAnswer};
use crate::archive::ranges::RangeSet;
use crate::db::generation::{History, without_private};
use crate::db::index_read::IndexReader;
use crate::engine::index::{Append, IndexOptions, index};
use crate::source::filter::Filter;
use crate::telemetry::Silent;
use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::Duration;

const TAR_ID: u64 = 3;
const BLOCK_SIZE: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

const RETAINING: ChangeOptions = ChangeOptions { keep: true, prune: false, rewind: false };
/// As with `--keep 0`.
const PRUNING: ChangeOptions = ChangeOptions { keep: false, prune: true, rewind: false };

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

/// A source folder with its index, and a base folder.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        ["source/d", "base", "scratch", "crash"]
            .iter()
            .for_each(|name| std::fs::create_dir_all(world.path(name)).unwrap());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// Writes a file of the source with another time than any before it.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path("source").join(name), content).unwrap();
    }

    /// Makes the index, or its next generation.
    fn index(&self) -> IndexDigest {
        let options = IndexOptions {
            base: self.path("source"),
            bucket: None,
            read_contents: true,
            database: self.path("index.sqlite"),
            filter: Filter::default(),
            own_files: Vec::new(),
            reuse: true,
            checksum: false,
            append: Append::Full,
            threads: 1,
        };
        index(&options, &Silent::default()).unwrap().digest
    }

    /// Makes an index without a history.
    fn fresh_index(&self) -> IndexDigest {
        std::fs::remove_file(self.path("index.sqlite")).unwrap();
        self.index()
    }

    /// Threads of a receiver that was just dropped may hold its journal for a moment.
    fn open(&self, base: &str) -> Arc<Receiver> {
        let start = std::time::Instant::now();
        loop {
            match Receiver::open(&self.path(base), ReceiverOptions::default()) {
                Err(e) if e.kind() == ErrorKind::InUse && start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => return other.unwrap(),
            }
        }
    }

    fn put_whole(
        &self,
        receiver: &Receiver,
        digest: &IndexDigest,
        adopt: Option<u64>,
    ) -> Result<IndexAnswer> {
        let copy =
            without_private(&self.path("index.sqlite"), &self.path("scratch"), adopt.is_some()).unwrap();
        let uploaded = copy.as_ref().map_or_else(|| self.path("index.sqlite"), |copy| copy.to_path_buf());
        receiver.put_index(TAR_ID, &uploaded, Some(digest), adopt, &SourceClaim::default())
    }

    /// Puts the last step from generation `from` to `to` as a change.
    fn put_change(
        &self,
        receiver: &Receiver,
        from: u64,
        to: u64,
        options: ChangeOptions,
    ) -> Result<IndexAnswer> {
        let history = History::open(&self.path("index.sqlite")).unwrap();
        let step = history.way(from, to).unwrap().pop().unwrap();
        let mut file = Vec::new();
        let add = |batch: Vec<u8>| {
            file.extend((batch.len() as u32).to_le_bytes());
            file.extend(batch);
            Ok(())
        };
        history.batches(&step, add).unwrap();
        std::fs::write(self.path("scratch/change"), file).unwrap();
        let digest = |number| history.generation(number).unwrap().digest;
        receiver.put_change(
            TAR_ID,
            &self.path("scratch/change"),
            &digest(from),
            &digest(to),
            options,
            &SourceClaim::default(),
        )
    }

    /// Puts the change of generation `from` to the next one without its last byte.
    fn put_cut_change(
        &self,
        receiver: &Receiver,
        from: u64,
        (old, new): (&IndexDigest, &IndexDigest),
        options: ChangeOptions,
    ) -> Result<IndexAnswer> {
        let history = History::open(&self.path("index.sqlite")).unwrap();
        let change = history.batch(&history.way(from, from + 1).unwrap()[0], 0).unwrap().unwrap();
        let end = change.len() - 1;
        let file = [&(end as u32).to_le_bytes()[..], &change[..end]].concat();
        std::fs::write(self.path("scratch/change"), file).unwrap();
        receiver.put_change(TAR_ID, &self.path("scratch/change"), old, new, options, &SourceClaim::default())
    }

    /// The folders of what is retained.
    fn retained(&self, base: &str) -> Vec<String> {
        names_in(&self.path(base).join(".tar-like/kept"))
    }

    /// The index as a log of one batch.
    fn batch(&self, digest: &IndexDigest) -> Vec<u8> {
        let reader = IndexReader::open(&self.path("index.sqlite")).unwrap();
        let mut records = BTreeMap::new();
        let mut end =
            LogEnd { digest: *digest, files: 0, nodes: 0, total_bytes: reader.archive_bytes().unwrap() };
        reader
            .files(|file| {
                let digests = file.md5.zip(file.blake3);
                let row = FileRow { path: file.path.clone(), size: file.size, meta: file.meta, digests };
                records.insert(file.path.sort_key(), LogRecord::File(row));
                end.files += 1;
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        reader
            .nodes(|node| {
                records.insert(node.path.sort_key(), LogRecord::Node(node));
                end.nodes += 1;
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        let mut batch = Vec::new();
        records.values().chain([&LogRecord::End(end)]).for_each(|record| push(&mut batch, record));
        batch
    }

    /// Puts the index as the stream of this number.
    fn put_stream(&self, receiver: &Receiver, digest: &IndexDigest, number: u8) -> Result<LogAnswer> {
        let stream = LogDigest::from([number; 32]);
        receiver.append_log(
            TAR_ID,
            &stream,
            &first_digest(&stream),
            &self.batch(digest),
            &SourceClaim::default(),
        )
    }

    /// Sends what is missing of the index.
    fn send(&self, receiver: &Receiver, digest: &IndexDigest) {
        let reader = IndexReader::open(&self.path("index.sqlite")).unwrap();
        for (start, end) in receiver.status(TAR_ID, BLOCK_SIZE, 0).unwrap().missing {
            assert!(end <= BLOCK_SIZE, "tests have one block");
            let mut body = receiver.buffers.take();
            body.clear();
            body.resize((end - start) as usize, 0);
            reader
                .pieces_in(&(start..end), |file, piece| {
                    let Some(piece) = piece.within(&(start..end)) else {
                        return Ok(ControlFlow::Continue(()));
                    };
                    let content = std::fs::read(self.path("source").join(file.path.as_path())).unwrap();
                    let to = (piece.range.start - start) as usize..(piece.range.end - start) as usize;
                    let from = piece.file_offset as usize;
                    body[to.clone()].copy_from_slice(&content[from..from + to.len()]);
                    Ok(ControlFlow::Continue(()))
                })
                .unwrap();
            let put = BlockPut {
                tar_id: TAR_ID,
                block_size: BLOCK_SIZE,
                number: 0,
                wire_bytes: end - start,
                body,
                taken: Taken::Content,
                part: Some(start..end),
                index: Some(*digest),
                digest: None,
                failed: RangeSet::default(),
            };
            assert!(receiver.put_block(put).unwrap().rejected.is_empty());
        }
    }

    fn finish(&self, receiver: &Receiver, digest: &IndexDigest, keep: Option<u64>) -> FinishAnswer {
        let delete = Some(DeleteRequest { most: 100, ..DeleteRequest::default() });
        let request = FinishRequest { delete, keep, ..FinishRequest::default() };
        let job = receiver.finish(TAR_ID, Some(*digest), request).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(job.wait(PATIENCE)).unwrap().unwrap()
    }

    /// Sends the active index to its end; everything is as in the source then.
    fn complete(&self, receiver: &Receiver, base: &str, digest: &IndexDigest, keep: Option<u64>) {
        let mut answer = FinishAnswer::default();
        for _ in 0..3 {
            self.send(receiver, digest);
            answer = self.finish(receiver, digest, keep);
            if answer.complete {
                break;
            }
        }
        assert!(answer.complete, "{answer:?}");
        assert_eq!(tree(&self.path(base)), tree(&self.path("source")));
    }

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

/// Files with their contents and times; the receiver's own folder is left out.
fn tree(base: &Path) -> BTreeMap<PathBuf, Option<(Vec<u8>, std::time::SystemTime)>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![base.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let relative = path.strip_prefix(base).unwrap().to_path_buf();
            if relative == Path::new(".tar-like") {
                continue;
            }
            let content =
                metadata.is_file().then(|| (std::fs::read(&path).unwrap(), metadata.modified().unwrap()));
            found.insert(relative, content);
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.collect::<Vec<_>>()).unwrap_or_default();
    let mut names: Vec<String> =
        entries.into_iter().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A world whose first index is complete in `base`.
fn first_index() -> (World, IndexDigest, Arc<Receiver>) {
    let world = World::new();
    [("same", "the same"), ("grows", "first"), ("d/goes", "it goes"), ("moved", "moved from here")]
        .iter()
        .for_each(|(name, content)| world.write(name, content));
    let (digest, receiver) = (world.index(), world.open("base"));
    world.put_whole(&receiver, &digest, None).unwrap();
    world.complete(&receiver, "base", &digest, None);
    (world, digest, receiver)
}

fn change_source(world: &World) {
    world.write("grows", "first and second");
    world.write("comes", "it comes");
    std::fs::remove_file(world.path("source/d/goes")).unwrap();
    std::fs::rename(world.path("source/moved"), world.path("source/d/here")).unwrap();
}

/// The digest of the active index.
fn active(receiver: &Receiver) -> String {
    receiver.status(TAR_ID, BLOCK_SIZE, 0).unwrap().digest
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
    let options = RETAINING;
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
        world.put_change(&receiver, 2, 1, rewind).unwrap_or_else(|e| panic!("{step:?}: {e}"));
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

/// A world with a second generation, the first of which is retained.
fn second_generation() -> (World, IndexDigest, Arc<Receiver>) {
    let (world, _, receiver) = first_index();
    change_source(&world);
    let digest = world.index();
    world.put_change(&receiver, 1, 2, RETAINING).unwrap();
    world.complete(&receiver, "base", &digest, Some(5));
    assert_eq!(world.retained("base"), [format!("{TAR_ID}.2")]);
    (world, digest, receiver)
}

#[test]
fn a_crash_of_a_change_that_ends_retention_leaves_what_a_rewind_needs() {
    let (world, old, receiver) = second_generation();
    world.write("comes", "other content");
    let new = world.index();
    world.copy_at_each_step();
    world.put_change(&receiver, 2, 3, PRUNING).unwrap();
    assert_eq!(world.retained("base"), [""; 0]);
    let put = |receiver: &Receiver| {
        if active(receiver) == old.to_string() {
            world.put_change(receiver, 2, 3, PRUNING).unwrap();
        }
    };
    check_crashes(&world, (&old, &new), put, |_, step, base| {
        let is_pruned = matches!(step, Step::Pruned | Step::Removed | Step::Updated);
        assert_eq!(world.retained(base).is_empty(), is_pruned, "{step:?}");
    });
}

#[test]
fn a_refused_change_that_would_end_retention_prunes_nothing() {
    let (world, old, receiver) = second_generation();
    world.write("comes", "other content");
    let new = world.index();
    let refused = world.put_cut_change(&receiver, 2, (&old, &new), PRUNING).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::BadIndex, "{refused}");
    assert_eq!(world.retained("base"), [format!("{TAR_ID}.2")]);
    // Where there is no space, what is retained goes for the index that is active only.
    receiver.make_room(TAR_ID, Some(&new));
    assert_eq!(world.retained("base"), [format!("{TAR_ID}.2")]);
    receiver.make_room(TAR_ID, Some(&old));
    assert_eq!(world.retained("base"), [""; 0]);
}

#[test]
fn a_refused_change_leaves_nothing_and_reopens_the_archive() {
    let (world, old, receiver) = first_index();
    change_source(&world);
    let new = world.index();
    let refused = world.put_cut_change(&receiver, 1, (&old, &new), RETAINING).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::BadIndex, "{refused}");
    let state = world.path("base/.tar-like");
    assert_eq!((names_in(&state.join("kept")).len(), names_in(&state.join("staging")).len()), (0, 1));
    world.put_change(&receiver, 1, 2, RETAINING).unwrap();
    world.complete(&receiver, "base", &new, Some(1));
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
    assert_eq!(receiver.status(TAR_ID, BLOCK_SIZE, 0).unwrap().missing, []);
    world.complete(&receiver, "base", &digest, None);
    for (step, base) in world.crashes() {
        let receiver = world.open(&base);
        if !is_after_activation(step) {
            assert_eq!(
                receiver.status(TAR_ID, BLOCK_SIZE, 0).unwrap_err().kind(),
                ErrorKind::NotFound,
                "{step:?}"
            );
            adopt(&receiver);
        }
        world.complete(&receiver, &base, &digest, None);
    }
}
