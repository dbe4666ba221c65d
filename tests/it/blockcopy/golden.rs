//! Streams that were written down once: whoever speaks them today has to speak them tomorrow. Those of the original were made by
//! `peer.py` from the description, not by the program.

use super::{Who, step};
use crate::support::Lab;
use std::path::{Path, PathBuf};

const OLD: &[u8] = b"the destination\n";
const NEW: &[u8] = b"the source, which is longer\n";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/blockcopy/golden").join(name)
}

fn lab() -> (Lab, PathBuf, PathBuf) {
    let lab = Lab::new();
    let (old, new) = (lab.file("old", OLD), lab.file("new", NEW));
    (lab, old, new)
}

#[test]
fn checksum_writes_the_golden_stream() {
    let (lab, old, _) = lab();
    let out = lab.path("out");
    assert_eq!(step(Who::Ours, args!["checksum", old], None, Some(&out)).code, 0);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(golden("hashes")).unwrap());
    assert_eq!(step(Who::Ours, args!["checksum", "-"], Some(&old), Some(&out)).code, 0);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(golden("hashes")).unwrap());
}

#[test]
fn retrieve_answers_golden_streams_with_golden_streams() {
    let (lab, _, new) = lab();
    let out = lab.path("out");
    for hashes in ["hashes", "hashes-old-form"] {
        assert_eq!(step(Who::Ours, args!["retrieve", new], Some(&golden(hashes)), Some(&out)).code, 0);
        assert!(std::fs::read(&out).unwrap() == std::fs::read(golden("data")).unwrap(), "{hashes}");
    }
}

#[test]
fn save_takes_golden_streams() {
    for data in ["data", "data-xz"] {
        let (_lab, old, _) = lab();
        assert_eq!(step(Who::Ours, args!["save", old], Some(&golden(data)), None).code, 0);
        assert_eq!(std::fs::read(&old).unwrap(), NEW, "{data}");
    }
}

/// Our own: taken by every later version, and written byte for byte but for what names the file.
#[test]
fn our_own_golden_streams() {
    let (lab, old, new) = lab();
    let out = lab.path("out");
    assert_eq!(step(Who::Ours, args!["checksum", "--native", "-"], Some(&old), Some(&out)).code, 0);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(golden("native-hashes")).unwrap());
    let hashes = golden("native-hashes");
    assert_eq!(step(Who::Ours, args!["retrieve", new], Some(&hashes), Some(&out)).code, 0);
    assert!(std::fs::read(&out).unwrap() == std::fs::read(golden("native-data")).unwrap());
    assert_eq!(step(Who::Ours, args!["save", old, "--verify"], Some(&golden("native-data")), None).code, 0);
    assert_eq!(std::fs::read(&old).unwrap(), NEW);
}

/// The backup of a copy over OLD; an undo of it has to give OLD for ever.
#[test]
fn the_golden_backup() {
    let lab = Lab::new();
    let file = lab.file("file", NEW);
    assert_eq!(step(Who::Ours, args!["undo", "--backup", golden("backup"), file], None, None).code, 0);
    assert_eq!(std::fs::read(&file).unwrap(), OLD);
}
