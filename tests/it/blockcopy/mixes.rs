//! Our processes beside those that speak the original's stream: all eight mixes.

use super::{Copy, NONE, OURS, Who, originals, pair};

/// Every mix makes the same copy, whichever side is longer.
#[test]
fn all_mixes_with_the_original_give_the_source() {
    for (longer_by, cut) in [(0, 0), (300_001, 0), (0, 300_001)] {
        let (mut new, mut old) = pair(1_400_000, 5);
        new.truncate(new.len() - cut);
        old.truncate(old.len() - longer_by);
        let mut wanted = new.clone();
        // The original leaves the tail of a destination that is longer.
        wanted.extend(old.get(new.len()..).unwrap_or_default());
        for original in originals() {
            for number in 0..8 {
                let who = [1, 2, 4].map(|bit| if number & bit == 0 { Who::Ours } else { original });
                let copy = Copy::new(&new, &old);
                copy.succeed(who, NONE);
                assert!(copy.result() == wanted, "{who:?}, source {} destination {}", new.len(), old.len());
            }
        }
    }
}

/// Whatever the destination has, the copy ends at the given offset.
#[test]
fn an_end_at_or_behind_the_destinations_end() {
    let (new, old) = pair(3_000_000, 9);
    for old_bytes in [0, 300_000, 1_000_000] {
        for end in [300_000, 1_000_000, 2_000_001, 20_000_000] {
            let old = &old[..old_bytes];
            let mut wanted = new[..new.len().min(end)].to_vec();
            wanted.extend(old.get(wanted.len()..).unwrap_or_default());
            let mixes =
                [(vec![], OURS), (args!["--native"], OURS), (vec![], [Who::Ours, Who::Peer, Who::Peer])];
            for (native, who) in mixes {
                let copy = Copy::new(&new, old);
                copy.succeed(who, [[native, args!["--end", end.to_string()]].concat(), vec![], vec![]]);
                assert!(
                    copy.result() == wanted,
                    "{who:?}: {old_bytes} bytes, up to {end}: {}",
                    copy.result().len()
                );
            }
        }
    }
}

#[test]
fn progress_and_debug_are_said_where_there_is_no_terminal() {
    let copy = Copy::new(b"", b"");
    let file = std::fs::File::create(&copy.destination).unwrap();
    file.set_len(3 << 40).unwrap();
    // Reading holes takes a while where each of them is a record of its own.
    let start = |args: Vec<std::ffi::OsString>| {
        let mut command = super::command(Who::Ours, args);
        command.env("DEBUG", "1").stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = start(args!["checksum", "--progress", copy.destination]);
    let mut stdout = child.stdout.take().unwrap();
    let begin = std::time::Instant::now();
    let mut buffer = vec![0; 1 << 20];
    while begin.elapsed() < std::time::Duration::from_millis(2500) {
        if std::io::Read::read(&mut stdout, &mut buffer).unwrap() == 0 {
            break;
        }
    }
    child.kill().unwrap();
    drop(stdout);
    let said = super::wait(child).stderr;
    assert!(said.contains("DEBUG"), "{said}");
    assert!(
        said.lines().any(|line| line.starts_with("checksum: ") && line.contains(" of 3.00 TiB")),
        "{said}"
    );
}

#[test]
fn xz_in_both_directions() {
    let (new, old) = pair(700_000, 6);
    let with = |original| [[Who::Ours, Who::Ours, original], [original, original, Who::Ours]];
    for who in originals().into_iter().flat_map(with).chain([OURS]) {
        let copy = Copy::new(&new, &old);
        copy.succeed(who, [vec![], args!["--lzma"], vec![]]);
        assert!(copy.result() == new, "{who:?}");
    }
}

#[test]
fn ours_alone_cut_a_longer_file_and_verify_it() {
    let (new, mut old) = pair(1_400_000, 7);
    old.extend(b"the tail of a longer destination");
    let copy = Copy::new(&new, &old);
    let ended = copy.run(OURS, [args!["--native"], args!["--json"], args!["--verify", "--json"]]);
    assert!(ended.iter().all(|ended| ended.code == 0), "{ended:#?}");
    assert!(copy.result() == new);
    // Lines of JSON are no part of the stream.
    assert!(ended[1].stderr.contains(r#""native":true"#), "{}", ended[1].stderr);
}

#[test]
fn a_dry_run_writes_nothing_and_counts() {
    let (new, old) = pair(900_000, 8);
    for native in [vec![], args!["--native"]] {
        let copy = Copy::new(&new, &old);
        copy.succeed(OURS, [native, vec![], args!["--dry-run"]]);
        assert!(copy.result() == old);
    }
}

/// Terabytes of holes take no time, and holes stay holes.
#[test]
fn a_sparse_file_of_ten_terabytes() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let copy = Copy::new(b"", b"");
    let size = 10_u64 << 40;
    let open = |path| std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let (source, destination) = (open(&copy.source), open(&copy.destination));
    if source.set_len(size).is_err() {
        return crate::support::skip("the file system has no files of 10 TiB");
    }
    destination.set_len(size / 2 + 12_345).unwrap();
    source.write_all_at(b"here", size / 3).unwrap();
    source.write_all_at(b"there", size - 5).unwrap();
    destination.write_all_at(b"zeros in the source", size / 4).unwrap();
    copy.succeed(OURS, [args!["--native"], vec![], args!["--sparse", "--verify"]]);
    let result = std::fs::File::open(&copy.destination).unwrap();
    let read = |at, length: usize| {
        let mut bytes = vec![0; length];
        result.read_exact_at(&mut bytes, at).unwrap();
        bytes
    };
    assert_eq!(result.metadata().unwrap().len(), size);
    assert_eq!((read(size / 3, 4), read(size - 5, 5)), (b"here".to_vec(), b"there".to_vec()));
    assert_eq!(read(size / 4, 19), [0; 19]);
    assert!(result.metadata().unwrap().blocks() < 10_000, "holes were filled");
}
