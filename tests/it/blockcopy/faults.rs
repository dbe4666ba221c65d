//! Processes that are killed, streams that lie, terminals.

use super::{Copy, NONE, OURS, PATIENCE, Who, command, pair, step, wait};
use crate::support::{Lab, need_tool, wait_until};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::Instant;

/// When one of the three is killed, the others end soon and name it.
#[test]
fn a_neighbour_that_is_killed_ends_all_three() {
    for native in [vec![], args!["--native"]] {
        for victim in 0..3 {
            let copy = Copy::new(b"source", b"");
            // checksum waits for a pipe in which no bytes arrive, so all three wait.
            // A command keeps the ends of the pipes that it was given, so no command may live on.
            let mut checksum = command(Who::Ours, [args!["checksum", "-"], native.clone()].concat())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let stdin = checksum.stdin.take().unwrap();
            let mut retrieve = command(Who::Ours, args!["retrieve", copy.source])
                .stdin(checksum.stdout.take().unwrap())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let save = command(Who::Ours, args!["save", copy.destination])
                .stdin(retrieve.stdout.take().unwrap())
                .spawn()
                .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(150));
            let mut all = [checksum, retrieve, save];
            let start = Instant::now();
            all[victim].kill().unwrap();
            let ended = all.map(wait);
            assert!(start.elapsed() < PATIENCE / 6, "{victim}: {:?}", start.elapsed());
            drop(stdin);
            for (number, ended) in ended.iter().enumerate().filter(|(number, _)| *number != victim) {
                let missing = match (number, number < victim) {
                    (0, _) => "reads our hashes (retrieve)",
                    (1, false) => "sends us hashes (checksum)",
                    (1, true) => "reads our blocks (save)",
                    _ => "sends us blocks (retrieve)",
                };
                assert_eq!(ended.code, 1, "{victim} {number}: {ended:?}");
                assert!(ended.stderr.contains(missing), "{victim} {number}: {ended:?}");
            }
        }
    }
}

#[test]
fn an_interrupt_ends_with_130() {
    let mut checksum = command(Who::Ours, args!["checksum", "-"]);
    let mut checksum = checksum.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (_stdin, _stdout) = (checksum.stdin.take(), checksum.stdout.take());
    std::thread::sleep(std::time::Duration::from_millis(300));
    let pid = rustix::process::Pid::from_child(&checksum);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = wait(checksum);
    assert_eq!(ended.code, 130, "{ended:?}");
}

/// A copy was killed in the middle: its backup undoes it.
#[test]
fn a_killed_copy_is_undone() {
    // More than one batch of the backup, so that some content is overwritten by then.
    let mut rng = crate::support::Rng::new(21);
    let (new, old) = (rng.noise(70 << 20), rng.noise(68 << 20));
    for native in [vec![], args!["--native"]] {
        for cut in [100, 68 << 20] {
            let copy = Copy::new(&new, &old);
            let (hashes, data, backup) = (copy.lab.path("h"), copy.lab.path("d"), copy.lab.path("b"));
            step(
                Who::Ours,
                [args!["checksum", copy.destination], native.clone()].concat(),
                None,
                Some(&hashes),
            );
            step(Who::Ours, args!["retrieve", copy.source], Some(&hashes), Some(&data));
            let file = std::fs::OpenOptions::new().write(true).open(&data).unwrap();
            file.set_len(file.metadata().unwrap().len().min(cut)).unwrap();
            drop(file);
            // The stream begins and never goes on: the process is killed while it waits.
            let mut save = command(Who::Ours, args!["save", "--backup", backup, copy.destination]);
            let mut save = save.stdin(Stdio::piped()).spawn().unwrap();
            let mut stdin = save.stdin.take().unwrap();
            std::io::Write::write_all(&mut stdin, &std::fs::read(&data).unwrap()).unwrap();
            // The beginning of the backup is written in one go.
            wait_until("there is a backup", PATIENCE, || backup.metadata().is_ok_and(|file| file.len() > 0));
            if cut > 100 {
                wait_until("something is overwritten", PATIENCE, || copy.result() != old);
            }
            save.kill().unwrap();
            wait(save);
            let undone = step(Who::Ours, args!["undo", "--backup", backup, copy.destination], None, None);
            assert_eq!(undone.code, 0, "{}", undone.stderr);
            assert!(copy.result() == old, "{native:?} {cut}");
        }
    }
}

#[test]
fn lengths_and_bombs_are_bounded() {
    need_tool("python3", "apt-get install python3");
    let lab = Lab::new();
    let file = lab.file("file", b"as it was");
    let stream = lab.path("stream");
    let record = |tag: &[u8], position: u64, length: u32, body: &[u8]| {
        [tag, &position.to_be_bytes(), &length.to_be_bytes(), body].concat()
    };
    let bomb = std::process::Command::new("python3")
        .args(["-c", "import lzma,sys; sys.stdout.buffer.write(lzma.compress(bytes(200_000_000)))"])
        .output()
        .unwrap()
        .stdout;
    assert!(bomb.len() > 1000 && bomb.len() < 100_000);
    let bomb_length = u32::try_from(bomb.len()).unwrap();
    for (what, bytes) in [
        ("a length of 4 GB", record(b"data", 0, u32::MAX, b"x")),
        ("a position beyond all", record(b"data", u64::MAX - 5, 3, b"abc")),
        ("an xz stream of 200 MB", [record(b"dlzm", 0, bomb_length, &bomb), b"done".to_vec()].concat()),
        ("no xz stream", [record(b"dlzm", 0, 5, b"noise"), b"done".to_vec()].concat()),
        ("an unknown record", b"what".to_vec()),
        ("nothing", Vec::new()),
        ("our block without our head", b"tleq".iter().copied().chain([0; 24]).collect()),
    ] {
        std::fs::write(&stream, &bytes).unwrap();
        let mut save = command(Who::Ours, args!["save", file]);
        let save = save.stdin(std::fs::File::open(&stream).unwrap()).spawn().unwrap();
        let ended = wait(save);
        assert_eq!(ended.code, 1, "{what}: {ended:?}");
        assert_eq!(std::fs::read(&file).unwrap(), b"as it was", "{what}");
    }
    let hashes = record(b"Hash", 0, u32::MAX, &[0; 64]);
    std::fs::write(&stream, &hashes).unwrap();
    let ended = step(Who::Ours, args!["retrieve", file], Some(&stream), None);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("beyond the limit"), "{ended:?}");
}

#[test]
fn nothing_binary_goes_to_a_terminal() {
    need_tool("python3", "apt-get install python3");
    let lab = Lab::new();
    let file = lab.file("file", b"content");
    let code = "import os, pty, sys\n\
                status = pty.spawn(sys.argv[1:])\n\
                sys.exit(os.waitstatus_to_exitcode(status))\n";
    for arguments in [args!["checksum", file], args!["retrieve", file], args!["save", file]] {
        let output = std::process::Command::new("python3")
            .args(["-c", code, env!("CARGO_BIN_EXE_tar-like"), "blockcopy"])
            .args(&arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains("terminal"), "{said}");
    }
}

/// Another program wrote to the destination after it was hashed.
#[test]
fn a_destination_that_has_changed_is_refused_and_another_one_is_read_again() {
    let (new, old) = pair(600_000, 31);
    let copy = Copy::new(&new, &old);
    let (hashes, data) = (copy.lab.path("h"), copy.lab.path("d"));
    step(
        Who::Ours,
        args!["checksum", "--native", "--block-size", "4K", copy.destination],
        None,
        Some(&hashes),
    );
    step(Who::Ours, args!["retrieve", copy.source], Some(&hashes), Some(&data));
    let other = copy.lab.file("other", &old);
    let file = std::fs::OpenOptions::new().write(true).open(&copy.destination).unwrap();
    file.write_all_at(b"x", 400_000).unwrap();
    let changed = copy.result();
    let ended = step(Who::Ours, args!["save", copy.destination], Some(&data), None);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("has changed since checksum"), "{ended:?}");
    assert!(copy.result() == changed);
    // A faithful copy would do, but `save` does not believe that it is one.
    let ended = step(Who::Ours, args!["save", other], Some(&data), None);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("something else"), "{ended:?}");
    assert!(std::fs::read(&other).unwrap() == new);
    // The change is in a block that was found equal, so nothing is written there.
    let equal = (0..old.len()).step_by(4096).find(|&at| old[at..at + 4096] == new[at..at + 4096]).unwrap();
    let mut almost = old;
    almost[equal] ^= 1;
    let wrong = copy.lab.file("wrong", &almost);
    let ended = step(Who::Ours, args!["save", wrong], Some(&data), None);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("not what the source was"), "{ended:?}");
    let shorter = copy.lab.file("shorter", b"no copy of it");
    let ended = step(Who::Ours, args!["save", shorter], Some(&data), None);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains("nothing was written"), "{ended:?}");
    assert_eq!(std::fs::read(&shorter).unwrap(), b"no copy of it");
}

/// A program refuses a stream that it does not know; the destination stays as it is.
#[test]
fn our_stream_is_refused_by_the_original() {
    let (new, old) = pair(300_000, 32);
    let copy = Copy::new(&new, &old);
    let ended = copy.run([Who::Ours, Who::Peer, Who::Ours], [args!["--native"], vec![], vec![]]);
    assert!(ended[1].code != 0 && ended[2].code != 0, "{ended:?}");
    assert!(copy.result() == old);
    assert!(copy.run(OURS, NONE).iter().all(|ended| ended.code == 0));
}
