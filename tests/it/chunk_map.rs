//! The chunk maps of large files in an index, read as FORMAT.md 3.9 says.

use crate::support::index;
use crate::support::{Lab, Tree, assert_same_tree};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// All chunk maps of an index by path.
fn chunk_maps(db: &Path) -> BTreeMap<String, Vec<u8>> {
    let connection = index::open(db);
    let query = "SELECT path, data FROM tarlike_sketch s JOIN tar ON tar.id = s.id";
    let mut statement = connection.prepare(query).unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

/// Fails unless `chunk_map` is of `content`, chunk by chunk; returns the number of chunks.
fn assert_is_of(chunk_map: &[u8], content: &[u8]) -> usize {
    let [1, 16, has_state @ (0 | 1), rest @ ..] = chunk_map else { panic!("{:?}", &chunk_map[..3]) };
    let (size, rest) = rest.split_at(8);
    assert_eq!(size, (content.len() as u64).to_le_bytes());
    let subtrees = ((content.len() as u64 - 1) >> 20).count_ones() as usize;
    let chunks = &rest[16 * usize::from(*has_state) + 32 * subtrees..];
    let mut left = content;
    for chunk in chunks.chunks(20) {
        let length = u32::from_le_bytes(chunk[..4].try_into().unwrap()) as usize;
        let (here, behind) = left.split_at(length);
        let hash: String = chunk[4..].iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(index::blake3_hex(here).starts_with(&hash) && hash.len() == 32);
        left = behind;
    }
    assert_eq!(left, b"");
    assert!(chunk_map.len() < content.len() / 1000, "more than 0.1 %");
    chunks.len() / 20
}

const SIZES: [(&str, usize); 8] = [
    ("a-none", (1 << 20) - 1),
    ("b-least", 1 << 20),
    ("c/most-whole", 4 << 20),
    ("c/whole", 3_000_000),
    ("d-large", (4 << 20) + 1),
    ("e-large", 9_000_000),
    ("f-large", 12_345_678),
    ("g-small", 100),
];

fn tree(root: &Path, seed: u64) -> Tree {
    let mut tree = Tree::new(root, seed);
    for (name, size) in SIZES {
        tree.noise(name, size);
    }
    tree
}

#[test]
fn large_files_have_chunk_maps_from_every_reader() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    tree(&src, 601);
    let db = lab.index(&src);
    let of_index = chunk_maps(&db);
    let expected: Vec<&str> =
        SIZES.iter().filter(|(_, size)| *size >= 1 << 20).map(|(name, _)| *name).collect();
    assert_eq!(of_index.keys().collect::<Vec<_>>(), expected);
    for (path, chunk_map) in &of_index {
        let content = std::fs::read(src.join(path)).unwrap();
        assert!(assert_is_of(chunk_map, &content) > content.len() / 200_000, "{path}");
    }
    // The chunks are in no digest, and no receiver looks at them.
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, vec![]).code(0);
    assert_same_tree(&src, &dst);
    // A single thread makes the same map.
    let alone = lab.path("alone.sqlite");
    lab.cmd(args!["index", "-b", &src, "-db", &alone]).wrap(args!["taskset", "-c", "0"]).run().code(0);
    assert_eq!(chunk_maps(&alone), of_index);
    // So does a sync that streams.
    let streamed = lab.path("streamed.sqlite");
    let dst = lab.dir("streamed");
    lab.run(args!["sync", &src, &dst, "-db", &streamed, "-dbp", lab.path("progress")]).code(0);
    assert_same_tree(&src, &dst);
    assert_eq!(chunk_maps(&streamed), of_index);
    assert_eq!(index::digest(&streamed), index::digest(&db));
}

#[test]
fn no_file_is_large_no_table() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 602).noise("a", 1_000_000);
    let db = lab.index(&src);
    let query = "SELECT count(*) FROM sqlite_schema WHERE name = 'tarlike_sketch'";
    assert_eq!(index::open(&db).query_row(query, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

/// Two files are hashed side by side: a fault of one does not affect the other.
#[test]
fn a_large_file_that_changes_all_the_time_is_left_out_alone() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 603);
    tree.noise("a-still", 20_000_000).noise("b-busy", 20_000_000).noise("c-still", 5_000_000);
    let stop = AtomicBool::new(false);
    let db = lab.path("db");
    let output = std::thread::scope(|scope| {
        let busy = src.join("b-busy");
        let stop = &stop;
        scope.spawn(move || {
            let mut file = std::fs::OpenOptions::new().append(true).open(busy).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        let output = lab.run(args!["index", "-b", &src, "-db", &db]);
        stop.store(true, Ordering::Relaxed);
        output
    });
    let said = output.code(3).stderr;
    assert!(said.contains("b-busy") && said.contains("it changed each time it was read, 3 times"), "{said}");
    assert_eq!(index::paths(&db), ["a-still", "c-still"]);
    for (path, chunk_map) in chunk_maps(&db) {
        assert_is_of(&chunk_map, &std::fs::read(src.join(path)).unwrap());
    }
    for row in index::rows(&db) {
        let content = std::fs::read(src.join(String::from_utf8(row.path).unwrap())).unwrap();
        assert_eq!(row.hash, index::md5_hex(&content));
    }
}

#[test]
fn a_large_file_that_was_short_once_is_read_again_and_one_that_fails_is_named() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 604);
    tree.noise("a", 6_000_000).noise("b", 7_000_000);
    let whole = lab.index(&src);
    let (once, never) = (lab.path("once"), lab.path("never"));
    let only = [src.join("a")];
    lab.cmd(args!["index", "-b", &src, "-db", &once]).inject(&["read:retval=0:when=2"], &only).run().code(0);
    assert_eq!((index::rows(&once), chunk_maps(&once)), (index::rows(&whole), chunk_maps(&whole)));
    let failed =
        lab.cmd(args!["index", "-b", &src, "-db", &never]).inject(&["read:error=EIO"], &only).run().code(3);
    assert!(failed.stderr.contains("a: it cannot be read: Input/output error"), "{}", failed.stderr);
    assert_eq!(index::paths(&never), ["b"]);
}
