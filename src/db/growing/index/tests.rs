//! What a stream costs that takes the place of an earlier one, as SQLite counts it: a run that was
//! interrupted must not go through all rows for each of them.

use super::*;
use crate::archive::digest::{blake3, md5};
use crate::archive::entry::{Meta, NodeKind};
use crate::archive::index_digest::IndexDigester;
use crate::archive::log::next_digest;
use crate::archive::path::EntryPath;
use crate::db::index_read::{IndexReader, Row};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const LIMIT_BYTES: u64 = 1 << 30;

/// Counts the instructions of SQLite's machine on `connection`, in thousands.
fn count_steps(connection: &mut Connection) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    let count_one = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        false
    };
    connection.progress_handler(1000, Some(count_one)).unwrap();
    count
}

fn entry(path: String) -> EntryPath {
    EntryPath::new(path.into_bytes()).unwrap()
}

/// The log of an index with files and folders of these numbers, and its name.
fn log_of(stream: &LogDigest, numbers: impl Iterator<Item = u64> + Clone) -> (Vec<u8>, LogDigest) {
    let (mut batch, mut digester) = (Vec::new(), IndexDigester::of_format(1));
    let mut head = Head {
        digest: first_digest(stream),
        files: 0,
        nodes: 0,
        end: 0,
        last_key: Vec::new(),
        last_is_folder: true,
    };
    let digests = Some((Some(md5(b"x")), blake3(b"x")));
    let meta = Some(Meta { mode: 0o644, mtime_ns: 5, uid: 0, gid: 0 });
    for number in numbers.clone() {
        let row = FileRow { path: entry(format!("f{number:08}")), size: 1, meta, digests };
        digester.file(&entry_of(&row, &head));
        (head.files, head.end) = (head.files + 1, head.end + 1);
        log::push(&mut batch, &LogRecord::File(row));
    }
    for number in numbers {
        let path = entry(format!("n{number:08}"));
        let node = Node { kind: NodeKind::Dir, path, target: Box::default(), meta: None };
        digester.node(&node);
        head.nodes += 1;
        log::push(&mut batch, &LogRecord::Node(node));
    }
    let (files, nodes, total_bytes) = (head.files, head.nodes, head.end);
    log::push(&mut batch, &LogRecord::End(LogEnd { digest: digester.finish(), files, nodes, total_bytes }));
    let digest = next_digest(&head.digest, &batch);
    (batch, digest)
}

/// What it costs that an index of `count` files and folders, all of which are in place, is
/// restarted by a stream that has every second one, and to find what is gone then.
fn costs(count: u64) -> [(&'static str, u64); 4] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.sqlite");
    let (first, second) = (blake3(b"1"), blake3(b"2"));
    let (batch, digest) = log_of(&first, 0..count);
    let mut index = GrowingIndex::create(&path, &first, LIMIT_BYTES).unwrap();
    index.append(&batch, digest, |_| Ok(())).unwrap();
    let own = count_steps(&mut index.connection);
    add_own_tombstones(&index.connection, &Placed::all()).unwrap();
    drop(index);
    let mut index = GrowingIndex::adopt(&path, &second, LIMIT_BYTES, &Placed::all()).unwrap();
    let (batch, digest) = log_of(&second, (0..count).step_by(2));
    index.append(&batch, digest, |_| Ok(())).unwrap();
    drop(index);
    let mut reader = IndexReader::open_growing(&path).unwrap();
    let steps = count_steps(reader.connection());
    let mut gone: Vec<EntryPath> = Vec::new();
    let file = |file: FileEntry| {
        gone.push(file.path);
        Ok(ControlFlow::Continue(()))
    };
    reader.file_tombstones(0, file).unwrap();
    let files = steps.swap(0, Ordering::Relaxed);
    let node = |node: Node| {
        gone.push(node.path);
        Ok(ControlFlow::Continue(()))
    };
    reader.node_tombstones(0, node).unwrap();
    let nodes = steps.swap(0, Ordering::Relaxed);
    assert_eq!(gone.len() as u64, count);
    for path in &gone {
        assert!(!reader.is_leaf(path).unwrap() && reader.file_at(path).unwrap().is_none());
        assert_eq!(reader.hardlink_at(path).unwrap(), None);
        let row = |row: Row, lives: bool| {
            assert!(!lives && row.path() == path);
            Ok(())
        };
        reader.rows_at(&[path], row).unwrap();
    }
    let (own, paths) = (own.load(Ordering::Relaxed), steps.load(Ordering::Relaxed));
    [("remember", own), ("gone files", files), ("gone nodes", nodes), ("by path", paths)]
}

#[test]
fn a_stream_that_replaces_another_costs_as_much_as_it_has_rows() {
    let costs = costs(400).into_iter().zip(costs(4000));
    // In proportion to the rows, or a little more.
    let slow: Vec<_> = costs.filter(|((_, few), (_, many))| *many > 20 * (few + 1)).collect();
    assert!(slow.is_empty(), "thousands of steps for 400 and for 4000 rows: {slow:?}");
}
