use super::*;
use crate::archive::change::ChangeEnd;
use crate::archive::digest::{blake3, md5};
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind, Origin};
use crate::archive::extent::{Extents, Piece};
use crate::archive::path::EntryPath;
use crate::archive::skipped::SkippedList;
use crate::db::index_read::{IndexReader, WalkRows};
use crate::db::index_write::IndexWriter;
use crate::error::{ErrorKind, Result};
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::path::Path;

fn path(name: &str) -> EntryPath {
    EntryPath::new(name.as_bytes()).unwrap()
}

fn file(name: &str, content: &[u8]) -> FileEntry {
    FileEntry {
        id: 0,
        path: path(name),
        size: content.len() as u64,
        offset: 0,
        fragmented: false,
        md5: Some(md5(content)),
        blake3: Some(blake3(content)),
        meta: Some(Meta { mode: 0o644, mtime_ns: 5, uid: 0, gid: 0 }),
        origin: Some(Origin { dev: 1, ino: 2, ctime_ns: 3 }),
        object: None,
    }
}

fn dir(name: &str) -> Node {
    Node { kind: NodeKind::Dir, path: path(name), target: Box::default(), meta: None }
}

fn fresh(target: &Path, files: &[(&str, &[u8])], nodes: &[Node]) {
    let mut writer = IndexWriter::create(target).unwrap();
    for (name, content) in files {
        let (id, offset) = (writer.files(), writer.total_bytes());
        writer.file(&FileEntry { id, offset, ..file(name, content) }).unwrap();
    }
    nodes.iter().for_each(|node| writer.node(node).unwrap());
    writer.finish(b"/base", 1, 7).unwrap();
}

fn rows(database: &Path) -> Vec<(String, u64, Vec<Piece>)> {
    let reader = IndexReader::open(database).unwrap();
    let (mut rows, mut keys) = (Vec::new(), Vec::new());
    let mut walk = WalkRows::<FileEntry, _>::new(&reader).unwrap();
    while let Some((key, file)) = walk.pop().unwrap() {
        let mut pieces = Vec::new();
        reader
            .pieces_of(&file, |piece| {
                pieces.push(piece);
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        keys.push(key);
        rows.push((file.path.to_string(), file.id, pieces));
    }
    let mut walk = WalkRows::<Node, _>::new(&reader).unwrap();
    let nodes: Vec<Vec<u8>> = std::iter::from_fn(|| walk.pop().unwrap().map(|(key, _)| key)).collect();
    assert!(keys.is_sorted() && nodes.is_sorted());
    let summary = reader.summary().unwrap();
    assert_eq!((rows.len() as u64, nodes.len() as u64), (summary.files, summary.nodes));
    rows
}

/// Brings the index `theirs` from generation `from` of `ours` to `to`, as a receiver does.
fn bring(ours: &Path, theirs: &Path, from: u64, to: u64) -> crate::error::Result<()> {
    let history = History::open(ours).unwrap();
    for (number, step) in history.way(from, to).unwrap().into_iter().enumerate() {
        let mut batches = Vec::new();
        history.batches(&step, |batch| {
            batches.push(Ok(batch));
            Ok(())
        })?;
        apply(theirs, theirs, 100 + number as u64, 7, Some(&Placed::all()), batches)?;
    }
    Ok(())
}

fn rewind(database: &Path) -> Result<ChangeEnd> {
    Rewound::prepare(database, true)?.put_in_place()
}

fn digest(database: &Path) -> String {
    IndexReader::open(database).unwrap().summary().unwrap().digest.to_string()
}

#[test]
fn a_generation_keeps_what_did_not_change_and_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    fresh(&ours, &[("a", b"one"), ("b/c", b""), ("d", b"three")], &[dir("b"), dir("z")]);
    std::fs::copy(&ours, &theirs).unwrap();
    let first = digest(&ours);

    let mut next = NextGeneration::begin(&ours).unwrap();
    next.remove_file(0).unwrap();
    let renamed = next.find_content(&file("e", b"one")).unwrap().unwrap();
    let without_md5 = FileEntry { md5: None, ..file("e", b"one") };
    assert_eq!(next.find_content(&without_md5).unwrap().unwrap(), renamed);
    let mut extents = Extents::default();
    for piece in next.pieces_of(&renamed).unwrap() {
        extents.push(piece.range.start, piece.range.end - piece.range.start);
    }
    assert_eq!(next.add_fragmented(file("e", b"one"), &extents).unwrap(), 3);
    let end = next.log_end();
    assert_eq!((end, next.add_contiguous(file("b/x", b"new!")).unwrap()), (8, 4));
    let mut grown = Extents::default();
    grown.push(3, 5);
    grown.push(next.log_end(), 2);
    next.remove_file(2).unwrap();
    next.add_fragmented(file("d", b"three++"), &grown).unwrap();
    next.remove_node(&path("z")).unwrap();
    next.put_node(&dir("y")).unwrap();
    let written = next.finish(9, &SkippedList::default()).unwrap();
    assert_eq!((written.files, written.nodes, written.total_bytes), (4, 2, 14));
    let piece = |file_offset, range| Piece { file_offset, range };
    let second = vec![
        ("b/c".to_string(), 1, vec![]),
        ("b/x".to_string(), 4, vec![piece(0, 8..12)]),
        ("d".to_string(), 5, vec![piece(0, 3..8), piece(5, 12..14)]),
        ("e".to_string(), 3, vec![piece(0, 0..3)]),
    ];
    assert_eq!(rows(&ours), second);
    bring(&ours, &theirs, 1, 2).unwrap();
    assert_eq!(rows(&theirs), second);
    assert_eq!(digest(&theirs), digest(&ours));
    let mut gone = Vec::new();
    IndexReader::open(&theirs)
        .unwrap()
        .tombstone_pieces_in(&(0..100), |file, piece| {
            gone.push((file.path.to_string(), piece.range.clone()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(gone, [("a".to_string(), 0..3), ("d".to_string(), 3..8)]);
    let mut found = Vec::new();
    IndexReader::open(&ours)
        .unwrap()
        .pieces_in(&(2..13), |file, piece| {
            found.push((file.id, piece.range.clone()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(found, [(4, 8..12), (3, 0..3), (5, 3..8), (5, 12..14)]);

    let taken_back = rewind(&ours).unwrap();
    assert_eq!((digest(&ours), taken_back.format), (first.clone(), 1));
    assert_eq!(rewind(&ours).unwrap_err().kind(), ErrorKind::Usage);
    let mut next = NextGeneration::begin(&ours).unwrap();
    assert!(!next.is_changed());
    // Neither its number nor its ids nor its bytes are used again.
    assert_eq!((next.log_end(), next.add_contiguous(file("f", b"x")).unwrap()), (14, 6));
    next.finish(10, &SkippedList::default()).unwrap();
    let history = History::open(&ours).unwrap();
    let lines: Vec<_> =
        history.generations().iter().map(|g| (g.number, g.parent, g.abandoned, g.appended_bytes)).collect();
    assert_eq!(lines, [(1, None, false, 8), (2, Some(1), true, 6), (3, Some(1), false, 1)]);
    drop(history);
    bring(&ours, &theirs, 2, 3).unwrap();
    assert_eq!(digest(&theirs), digest(&ours));
    // Somebody makes another generation while one is taken back.
    let other = ours.with_extension("other");
    std::fs::copy(&ours, &other).unwrap();
    let rewound = Rewound::prepare(&other, true).unwrap();
    let mut next = NextGeneration::begin(&other).unwrap();
    next.add_contiguous(file("g", b"y")).unwrap();
    let written = next.finish(11, &SkippedList::default()).unwrap();
    assert_eq!(rewound.put_in_place().unwrap_err().kind(), ErrorKind::Source);
    assert_eq!(digest(&other), written.digest.to_string());
    rewind(&ours).unwrap();
    assert_eq!(digest(&ours), first);
    assert_eq!(rewind(&ours).unwrap_err().kind(), ErrorKind::Usage);
}

/// Readers of a fresh index, and the receiver that takes one in, go by the numbers of directories
/// and links.
#[test]
fn a_fresh_index_that_was_gone_back_to_is_numbered_like_one() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("ours");
    fresh(&ours, &[("d/a", b"one")], &[dir("b"), dir("b/c"), dir("d"), dir("e")]);
    let nodes = || {
        let (reader, mut nodes) = (IndexReader::open(&ours).unwrap(), Vec::new());
        for id in 0..6 {
            reader
                .nodes_with_ids(id..id + 1, |node| {
                    nodes.push((id, node.path.to_string()));
                    Ok(ControlFlow::Continue(()))
                })
                .unwrap();
        }
        nodes
    };
    let before = nodes();
    let mut next = NextGeneration::begin(&ours).unwrap();
    next.remove_node(&path("b/c")).unwrap();
    next.remove_node(&path("b")).unwrap();
    next.finish(9, &SkippedList::default()).unwrap();
    assert_eq!(rewind(&ours).unwrap().format, 1);
    assert_eq!(nodes(), before);
}

#[test]
fn what_does_not_fit_is_refused_and_the_previous_generation_stands() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("ours");
    fresh(&ours, &[("a", b"one"), ("d/c", b"two")], &[dir("d")]);
    let before = std::fs::read(&ours).unwrap();
    let refused = |change: &dyn Fn(&mut NextGeneration)| {
        let mut next = NextGeneration::begin(&ours).unwrap();
        change(&mut next);
        let error = next.finish(9, &SkippedList::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadIndex, "{error}");
        assert_eq!(std::fs::read(&ours).unwrap(), before);
    };
    refused(&|next| assert!(next.add_contiguous(file("a", b"x")).is_ok()));
    refused(&|next| assert!(next.add_contiguous(file("a/b", b"x")).is_ok()));
    refused(&|next| next.put_node(&dir("a")).unwrap());
    refused(&|next| {
        next.remove_node(&path("d")).unwrap();
        next.add_contiguous(file("d", b"x")).unwrap();
    });
    refused(&|next| {
        let (kind, target) = (NodeKind::Hardlink, b"a"[..].into());
        next.put_node(&Node { kind, path: path("h"), target, meta: None }).unwrap();
        next.remove_file(0).unwrap();
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_hostile_change_is_refused() {
    use crate::archive::change::{ChangeRecord, push};
    use crate::archive::chunk_map::{KnownPrefix, chunk_map_of};
    use crate::archive::extent::Extent;
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("ours");
    fresh(&ours, &[("a", b"one"), ("b", b"two")], &[]);
    let end = ChangeEnd { format: 2, digest: blake3(b""), files: 0, nodes: 0, total_bytes: 0 };
    let fragmented = FileEntry { id: 5, offset: 6, fragmented: true, ..file("s", b"12345") };
    let extents = |list: &[(u64, u64)]| {
        ChangeRecord::Extents(list.iter().map(|&(offset, length)| Extent { length, offset }).collect())
    };
    let add = |file: &FileEntry| ChangeRecord::AddFile(file.clone());
    let cases: Vec<Vec<ChangeRecord>> = vec![
        vec![],
        vec![ChangeRecord::RemoveFile(9)],
        vec![ChangeRecord::SetMeta(9, None)],
        vec![ChangeRecord::RemoveNode(path("a"))],
        vec![add(&FileEntry { id: 1, offset: 6, ..file("x", b"1") })],
        vec![add(&FileEntry { id: 7, offset: 5, ..file("x", b"1") })],
        vec![
            add(&FileEntry { id: 7, offset: 6, ..file("x", b"12") }),
            add(&FileEntry { id: 8, offset: 7, ..file("y", b"12") }),
        ],
        vec![add(&fragmented)],
        vec![add(&fragmented), extents(&[(0, 4)])],
        vec![add(&fragmented), extents(&[(0, 4), (0, 2)])],
        vec![add(&fragmented), extents(&[(u64::MAX - 1, 4)])],
        vec![extents(&[(0, 4)])],
        vec![add(&fragmented), extents(&[(0, 5)]), extents(&[(0, 5)])],
        // All of it is right, but for the digest.
        vec![add(&fragmented), extents(&[(0, 5)])],
        vec![ChangeRecord::End(end)],
    ];
    for (number, records) in cases.iter().enumerate() {
        for with_end in [true, false] {
            let copy = folder.path().join(format!("copy-{number}-{with_end}"));
            std::fs::copy(&ours, &copy).unwrap();
            let mut batch = Vec::new();
            records.iter().for_each(|record| push(&mut batch, record));
            if with_end {
                push(&mut batch, &ChangeRecord::End(end));
            }
            let error = apply(&copy, &copy, 2, 7, Some(&Placed::all()), [Ok(batch)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadIndex, "case {number}: {error}");
        }
    }
    // A beginning belongs directly behind the last extent of a fragmented file, and names one that
    // can be.
    let begins =
        |previous| ChangeRecord::Prefix(previous, KnownPrefix::of(&chunk_map_of(b"x", 1 << 16).1, 0, 0));
    for (number, (records, refused)) in [
        (vec![begins(0)], true),
        (vec![add(&FileEntry { id: 7, offset: 6, ..file("x", b"1") }), begins(0)], true),
        (vec![add(&fragmented), extents(&[(0, 5)]), ChangeRecord::SetMeta(0, None), begins(0)], true),
        (vec![add(&fragmented), extents(&[(0, 5)]), begins(0), begins(0)], true),
        (vec![add(&fragmented), extents(&[(0, 5)]), begins(u64::MAX)], true),
        (vec![add(&fragmented), extents(&[(0, 4)]), extents(&[(0, 1)]), begins(0)], false),
    ]
    .into_iter()
    .enumerate()
    {
        let copy = folder.path().join(format!("begins-{number}"));
        std::fs::copy(&ours, &copy).unwrap();
        let mut batch = Vec::new();
        records.iter().chain([&ChangeRecord::End(end)]).for_each(|record| push(&mut batch, record));
        let error = apply(&copy, &copy, 2, 7, Some(&Placed::all()), [Ok(batch)]).unwrap_err().to_string();
        // All of it is wrong by its digest at the latest.
        assert_eq!(error.contains("a beginning of no fragmented file"), refused, "case {number}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_generations_can_be_reached_from_any_other(
        seed in proptest::collection::vec(proptest::collection::vec((0u8..7, 0u8..9, any::<u8>()), 1..9), 1..6)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("ours");
        fresh(&ours, &[("d/a", b"one"), ("d/b", b"two"), ("x", b"")], &[dir("d")]);
        let mut kept = vec![(1, folder.path().join("g1"))];
        std::fs::copy(&ours, &kept[0].1).unwrap();
        for steps in seed {
            let mut next = NextGeneration::begin(&ours).unwrap();
            let mut touched = std::collections::BTreeSet::new();
            for (what, which, byte) in steps {
                // Each path at most once, as the walk does.
                if !touched.insert(which) { continue; }
                let name = format!("{}{which}", if what % 2 == 0 { "d/" } else { "" });
                let there = next.file_at(&path(&name)).unwrap();
                match (what, there) {
                    (0..=3, Some(there)) => {
                        // What was removed in this pass is still found.
                        next.remove_file(there.id).unwrap();
                        if what < 2 { next.add_contiguous(file(&name, &[byte; 5])).unwrap(); }
                    }
                    (0..=1, None) => { next.add_contiguous(file(&name, &[byte; 3])).unwrap(); }
                    (2..=3, None) => {
                        let mut extents = Extents::default();
                        extents.push(u64::from(byte % 6), 6);
                        extents.push(next.log_end(), 2);
                        next.add_fragmented(file(&name, &[byte; 8]), &extents).unwrap();
                    }
                    (4, Some(there)) => {
                        let meta = Some(Meta { mode: u32::from(byte), mtime_ns: 1, uid: 1, gid: 1 });
                        next.set_meta(&FileEntry { meta, ..there }).unwrap();
                    }
                    _ => next.put_node(&Node { kind: NodeKind::Symlink, target: vec![byte | 1].into(), ..dir(&format!("d/l{which}")) }).unwrap(),
                }
            }
            // Paths that came twice are refused; the previous generation stands then.
            let number = match next.finish(9, &SkippedList::default()) {
                Ok(_) => History::open(&ours).unwrap().active().unwrap().number,
                Err(_) => continue,
            };
            let copy = folder.path().join(format!("g{number}"));
            std::fs::copy(&ours, &copy).unwrap();
            kept.push((number, copy));
            if number % 3 == 0 { rewind(&ours).unwrap(); }
        }
        for (from, start) in &kept {
            for (to, goal) in &kept {
                let work = folder.path().join("work");
                std::fs::copy(start, &work).unwrap();
                bring(&ours, &work, *from, *to).unwrap();
                prop_assert_eq!(digest(&work), digest(goal));
                prop_assert_eq!(rows(&work), rows(goal));
            }
        }
    }
}
