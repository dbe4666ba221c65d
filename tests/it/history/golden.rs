//! Indexes that an earlier version wrote, in the folder `golden`: one of two generations, and the
//! same compacted. Every later version reads them.

use crate::support::{Lab, assert_same_tree, index};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const FIRST: &str = "1a32d7f47b30458e36fe0ffdf6dd4a140dba32c9fb7c54fc8d9e5f4bc7d5f7e7";
const SECOND: &str = "01ebc5fc1b335c15d2fcbecfc7e12feff70edba8b8f72e775fa9e18f66d2d117";

fn noise(length: usize) -> Vec<u8> {
    let mut state = 5u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(step).collect()
}

fn touch(path: &Path, seconds: i64) {
    crate::support::set_mtime(path, seconds * 1_000_000_000);
}

/// The folder as it was when a generation was made.
fn folder(lab: &Lab, generation: u32) -> PathBuf {
    let base = lab.dir(&format!("generation-{generation}"));
    let file = |name: &[u8], content: &[u8], seconds| {
        let path = base.join(std::ffi::OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        touch(&path, seconds);
    };
    let mut data = noise(1_300_000);
    file(b"latin-\xe9", b"byte\n", 1_700_000_003);
    if generation == 1 {
        file(b"a.txt", b"alpha\n", 1_700_000_000);
        file(b"b/data", &data, 1_700_000_001);
        file(b"c", b"gone\n", 1_700_000_002);
    } else {
        data.splice(500_000..500_000, *b"inserted");
        file(b"z.txt", b"alpha\n", 1_700_000_000);
        file(b"b/data", &data, 1_700_000_010);
        file(b"n", b"new\n", 1_700_000_011);
    }
    std::os::unix::fs::symlink("a.txt", base.join("link")).unwrap();
    touch(&base.join("link"), 1_700_000_021);
    std::fs::set_permissions(base.join("b"), std::fs::Permissions::from_mode(0o755)).unwrap();
    touch(&base.join("b"), 1_700_000_020);
    base
}

/// A copy that the test may write to.
fn golden(lab: &Lab, name: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/history/golden").join(name);
    let to = lab.path(name);
    std::fs::copy(from, &to).unwrap();
    to
}

/// Id, path, size, offset, its end, and md5, as the original reads them.
type Row = (i64, String, i64, i64, i64, String);

fn row(id: i64, path: &str, size: i64, offset: i64, end: i64, hash: &str) -> Row {
    (id, path.into(), size, offset, end, hash.into())
}

fn rows(database: &Path) -> Vec<Row> {
    let row = |row: index::Row| {
        let path = row.path.escape_ascii().to_string();
        (row.id, path, row.size, row.offset, row.offset_end, row.hash)
    };
    index::rows(database).into_iter().map(row).collect()
}

const DATA: &str = "ee37a13c42d79fcdfa8e01b45eb6a0b0";
const BYTE: &str = "c9bb6ef03eeb2d87220e5250cb5cbccb";
const NEW: &str = "9cd599a3523898e6a12e13ec787da50a";
const ALPHA: &str = "9f9f90dbe3e5ee1218c86b8839db1995";

#[test]
fn an_index_of_two_generations() {
    let lab = Lab::new();
    let db = golden(&lab, "index-2.sqlite");
    assert_eq!(
        rows(&db),
        [
            row(3, "latin-\\xe9", 5, 1_300_011, 1_300_015, BYTE),
            row(4, "b/data", 1_300_008, 1_300_016, 1_300_015, DATA),
            row(5, "n", 4, 1_426_006, 1_426_009, NEW),
            row(6, "z.txt", 6, 1_426_010, 1_426_009, ALPHA),
        ]
    );
    let (first, second) = (folder(&lab, 1), folder(&lab, 2));
    let history = lab.run(args!["history", "-db", db, "--json"]).code(0).json();
    let digests: Vec<_> = history.iter().filter_map(|line| line["digest"].as_str()).collect();
    assert_eq!(digests, [FIRST, SECOND]);
    lab.check(&second, &db, args!["--extra"]).code(0);
    lab.check(&first, &db, args!["--extra", "--generation", "1"]).code(0);
    // A receiver gets it as a whole, and the next generation as a change, which costs only the
    // difference.
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    lab.upload(&second, &db, &proxy.url, vec![]).code(0);
    assert_same_tree(&second, &dst);
    let mut data = std::fs::read(second.join("b/data")).unwrap();
    data.extend(b"a tail");
    std::fs::write(second.join("b/data"), data).unwrap();
    lab.run(args!["index", "-b", second, "-db", db]).code(0);
    let output = lab.upload(&second, &db, &proxy.url, args!["--json"]).code(0);
    assert!(output.summary()["sent_bytes"].as_u64().unwrap() < 600_000);
    assert_same_tree(&second, &dst);
    lab.run(args!["rewind", "-db", db]).code(0);
    assert_eq!(index::digest(&db), SECOND);
    let db = golden(&lab, "index-2.sqlite");
    lab.run(args!["rewind", "-db", db]).code(0);
    assert_eq!(index::digest(&db), FIRST);
    lab.check(&first, &db, args!["--extra"]).code(0);
}

/// The present `compact` makes of the previous index what it made then.
#[test]
fn a_compacted_index() {
    let lab = Lab::new();
    let (then, now) = (golden(&lab, "compacted-1.sqlite"), golden(&lab, "index-2.sqlite"));
    lab.run(args!["compact", "-db", now]).code(0);
    let second = folder(&lab, 2);
    for db in [then, now] {
        assert_eq!(
            rows(&db),
            [
                row(0, "b/data", 1_300_008, 0, 1_300_007, DATA),
                row(1, "latin-\\xe9", 5, 1_300_008, 1_300_012, BYTE),
                row(2, "n", 4, 1_300_013, 1_300_016, NEW),
                row(3, "z.txt", 6, 1_300_017, 1_300_022, ALPHA),
            ]
        );
        lab.check(&second, &db, args!["--extra"]).code(0);
        assert_eq!((index::meta(&db, "format"), index::meta(&db, "generation")), ("1".into(), "3".into()));
    }
}
