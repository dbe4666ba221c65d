//! Recorded streams: every later version has to read them. `peer.py` made the original's streams
//! from their description, not the original program.

use super::{Who, command, step, wait};
use crate::support::Lab;
use std::fs::File;
use std::os::fd::OwnedFd;
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

/// Other names of standard input, and named pipes.
#[test]
fn checksum_reads_pipes_by_their_names() {
    use std::io::Write;
    let (lab, _, _) = lab();
    let (out, fifo) = (lab.path("out"), lab.path("fifo"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    for name in ["/dev/stdin", "a pipe", "a socket"] {
        let path = if name == "a pipe" { fifo.clone() } else { PathBuf::from("/dev/stdin") };
        let mut command = command(Who::Ours, args!["checksum", path]);
        command.stdout(File::create(&out).unwrap());
        let (mut writer, reader): (Box<dyn Write>, Option<OwnedFd>) = match name {
            "a pipe" => (Box::new(std::io::empty()), None),
            "a socket" => {
                let (writer, reader) = std::os::unix::net::UnixStream::pair().unwrap();
                (Box::new(writer), Some(reader.into()))
            }
            _ => {
                let (reader, writer) = std::io::pipe().unwrap();
                (Box::new(writer), Some(reader.into()))
            }
        };
        if let Some(reader) = reader {
            command.stdin(reader);
        }
        let child = command.spawn().unwrap();
        drop(command);
        match name {
            "a pipe" => std::fs::write(&fifo, OLD).unwrap(),
            _ => writer.write_all(OLD).unwrap(),
        }
        drop(writer);
        let ended = wait(child);
        assert_eq!(ended.code, 0, "{name}: {ended:?}");
        assert!(std::fs::read(&out).unwrap() == std::fs::read(golden("hashes")).unwrap(), "{name}");
    }
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

/// Our own streams: every later version reads them, and writes the same bytes but for those that
/// name the file.
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

/// The backup of a copy over OLD: its undo has to give OLD in every later version. The backed up
/// file does not exist any more.
#[test]
fn the_golden_backup() {
    let lab = Lab::new();
    let file = lab.file("file", NEW);
    let refused = step(Who::Ours, args!["undo", "--backup", golden("backup"), file], None, None);
    assert!(refused.code == 2 && refused.stderr.contains("--moved"), "{refused:?}");
    assert_eq!(std::fs::read(&file).unwrap(), NEW);
    assert_eq!(
        step(Who::Ours, args!["undo", "--backup", golden("backup"), "--moved", file], None, None).code,
        0
    );
    assert_eq!(std::fs::read(&file).unwrap(), OLD);
}
