//! Tests that drive a [`Receiver`] in a temporary folder, without HTTP.

mod crashes;
mod slices;

use super::*;
use crate::archive::intake::Taken;
use crate::archive::log::{FileRow, LogEnd, LogRecord, first_digest, push};
use crate::archive::protocol::{DeleteRequest, FinishAnswer};
use crate::archive::ranges::RangeSet;
use crate::db::generation::{History, without_private};
use crate::db::index_read::IndexReader;
use crate::engine::index::{IndexOptions, index};
use crate::telemetry::Silent;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::time::Duration;

const TAR_ID: u64 = 3;
const BLOCK_SIZE: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

const RETAINING: ChangeOptions = ChangeOptions { keep: true, prune: false, rewind: false, backup: None };
/// As with `--keep 0`.
const PRUNING: ChangeOptions = ChangeOptions { keep: false, prune: true, rewind: false, backup: None };

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
        let options = IndexOptions::of_folder(self.path("source"), self.path("index.sqlite"));
        index(&options, &Silent::default()).unwrap().digest
    }

    /// Makes an index without a history.
    fn fresh_index(&self) -> IndexDigest {
        std::fs::remove_file(self.path("index.sqlite")).unwrap();
        self.index()
    }

    /// Threads of a receiver that was just dropped may hold its journal for a moment.
    fn open(&self, base: &str) -> Arc<Receiver> {
        self.open_with(base, &ReceiverOptions::default())
    }

    fn open_with(&self, base: &str, options: &ReceiverOptions) -> Arc<Receiver> {
        let start = std::time::Instant::now();
        loop {
            match Receiver::open(&self.path(base), options.clone()) {
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
        receiver.put_index(
            TAR_ID,
            &uploaded,
            Some(digest),
            &WholeOptions { adopt, backup: None },
            &SourceClaim::default(),
        )
    }

    /// Puts the last step from generation `from` to `to` as a change.
    fn put_change(
        &self,
        receiver: &Receiver,
        from: u64,
        to: u64,
        options: &ChangeOptions,
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
        options: &ChangeOptions,
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
                let digests = file.blake3.map(|blake3| (file.md5, blake3));
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
        self.try_send(receiver, digest).unwrap();
    }

    fn try_send(&self, receiver: &Receiver, digest: &IndexDigest) -> Result<()> {
        for (start, end) in receiver.status(TAR_ID, BLOCK_SIZE, 0, false).unwrap().missing {
            self.try_send_range(receiver, digest, start..end)?;
        }
        Ok(())
    }

    fn try_send_range(&self, receiver: &Receiver, digest: &IndexDigest, range: Range<u64>) -> Result<()> {
        self.try_send_to(receiver, TAR_ID, digest, range)
    }

    fn try_send_to(
        &self,
        receiver: &Receiver,
        tar_id: u64,
        digest: &IndexDigest,
        Range { start, end }: Range<u64>,
    ) -> Result<()> {
        let reader = IndexReader::open(&self.path("index.sqlite")).unwrap();
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
            tar_id,
            block_size: BLOCK_SIZE,
            number: 0,
            wire_bytes: end - start,
            content: BlockContent::Body(body, Taken::Content),
            part: Some(start..end),
            index: Some(*digest),
            digest: None,
            failed: RangeSet::default(),
            staged: RangeSet::default(),
        };
        assert!(receiver.put_block(put)?.rejected.is_empty());
        Ok(())
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
    receiver.status(TAR_ID, BLOCK_SIZE, 0, false).unwrap().digest
}

/// What an archive has put in place is not known before its index was read: the block of another one
/// could take its place.
#[test]
fn a_block_waits_until_all_archives_are_open() {
    let world = World::new();
    world.write("a", "content");
    let receiver = world.open("base");
    let digest = world.index();
    world.put_whole(&receiver, &digest, None).unwrap();
    let other = ArchiveState {
        tar_id: TAR_ID + 1,
        digest,
        generation: 1,
        finished: false,
        made: false,
        done: RangeSet::default(),
        published: RangeSet::default(),
        source: None,
    };
    receiver.context.archives.add_unserved(other);
    let refused = world.try_send(&receiver, &digest).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
    assert!(!world.path("base/a").exists());
    receiver.context.archives.opened(TAR_ID + 1);
    world.complete(&receiver, "base", &digest, None);
}

/// A world with a second generation, the first of which is retained.
fn second_generation() -> (World, IndexDigest, Arc<Receiver>) {
    let (world, _, receiver) = first_index();
    change_source(&world);
    let digest = world.index();
    world.put_change(&receiver, 1, 2, &RETAINING).unwrap();
    world.complete(&receiver, "base", &digest, Some(5));
    assert_eq!(world.retained("base"), [format!("{TAR_ID}.2")]);
    (world, digest, receiver)
}

#[test]
fn a_refused_change_that_would_end_retention_prunes_nothing() {
    let (world, old, receiver) = second_generation();
    world.write("comes", "other content");
    let new = world.index();
    let refused = world.put_cut_change(&receiver, 2, (&old, &new), &PRUNING).unwrap_err();
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
    let refused = world.put_cut_change(&receiver, 1, (&old, &new), &RETAINING).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::BadIndex, "{refused}");
    let state = world.path("base/.tar-like");
    assert_eq!((names_in(&state.join("kept")).len(), names_in(&state.join("staging")).len()), (0, 1));
    world.put_change(&receiver, 1, 2, &RETAINING).unwrap();
    world.complete(&receiver, "base", &new, Some(1));
}
