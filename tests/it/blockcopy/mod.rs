//! `blockcopy` with real processes and real pipes: all mixes with the original's streams, golden
//! streams, devices, killed processes.

mod devices;
mod faults;
mod golden;
mod mixes;

use crate::support::{Lab, need_tool, skip};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The time limit of every step.
const PATIENCE: Duration = Duration::from_secs(180);

/// A process of one of the three steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Ours,
    /// Our own program of the original's stream.
    Peer,
    /// The original itself, in the checkout that `TARLIKE_ORIGINAL_BLOCKCOPY` names.
    Original,
}

/// The programs that speak the original's stream here: [`Who::Peer`] everywhere, and the original
/// itself if there is a checkout.
fn originals() -> Vec<Who> {
    if std::env::var_os("TARLIKE_ORIGINAL_BLOCKCOPY").is_some() {
        return vec![Who::Peer, Who::Original];
    }
    skip("TARLIKE_ORIGINAL_BLOCKCOPY names no checkout of the original blockcopy");
    vec![Who::Peer]
}

/// A process of a pipeline.
fn command(who: Who, args: Vec<OsString>) -> Command {
    let mut command = match who {
        Who::Ours => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tar-like"));
            command.arg("blockcopy");
            command
        }
        Who::Peer | Who::Original => {
            need_tool("python3", "apt-get install python3");
            let mut command = Command::new("python3");
            command.arg(match std::env::var_os("TARLIKE_ORIGINAL_BLOCKCOPY") {
                Some(checkout) if who == Who::Original => Path::new(&checkout).join("blockcopy.py"),
                _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/blockcopy/peer.py"),
            });
            command
        }
    };
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// How a process ended.
#[derive(Debug)]
struct Ended {
    code: i32,
    stderr: String,
}

/// Waits for a process; kills it, and fails the test, when it takes too long.
fn wait(mut child: Child) -> Ended {
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("a process did not end");
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let mut stderr = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut stderr).unwrap();
    }
    Ended { code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap()), stderr }
}

/// A source and a destination, and the processes between them.
struct Copy {
    lab: Lab,
    source: PathBuf,
    destination: PathBuf,
}

impl Copy {
    fn new(source: &[u8], destination: &[u8]) -> Self {
        let lab = Lab::new();
        let (source, destination) = (lab.file("source", source), lab.file("destination", destination));
        Self { lab, source, destination }
    }

    fn start(&self, who: [Who; 3], more: [Vec<OsString>; 3]) -> [Child; 3] {
        let [more_checksum, more_retrieve, more_save] = more;
        let mut checksum = command(who[0], [args!["checksum", self.destination], more_checksum].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut retrieve = command(who[1], [args!["retrieve", self.source], more_retrieve].concat())
            .stdin(checksum.stdout.take().unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let save = command(who[2], [args!["save", self.destination], more_save].concat())
            .stdin(retrieve.stdout.take().unwrap())
            .spawn()
            .unwrap();
        [checksum, retrieve, save]
    }

    fn run(&self, who: [Who; 3], more: [Vec<OsString>; 3]) -> [Ended; 3] {
        self.start(who, more).map(wait)
    }

    /// Runs all three, and fails the test unless they succeed.
    fn succeed(&self, who: [Who; 3], more: [Vec<OsString>; 3]) {
        let ended = self.run(who, more);
        assert!(ended.iter().all(|ended| ended.code == 0), "{who:?}: {ended:#?}");
    }

    fn result(&self) -> Vec<u8> {
        std::fs::read(&self.destination).unwrap()
    }
}

/// One step, from a file to a file.
fn step(who: Who, args: Vec<OsString>, input: Option<&Path>, output: Option<&Path>) -> Ended {
    let mut command = command(who, args);
    if let Some(input) = input {
        command.stdin(File::open(input).unwrap());
    }
    if let Some(output) = output {
        command.stdout(File::create(output).unwrap());
    }
    wait(command.spawn().unwrap())
}

const NONE: [Vec<OsString>; 3] = [vec![], vec![], vec![]];
const OURS: [Who; 3] = [Who::Ours; 3];

/// Noise and zeros and text, and another version of it.
fn pair(length: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut rng = crate::support::Rng::new(seed);
    let mut old = rng.noise(length);
    old[length / 3..length / 2].fill(0);
    old[length / 2..length / 2 + length / 10].fill(b't');
    let mut new = old.clone();
    for _ in 0..5 {
        let at = rng.below(length as u64 - 1000) as usize;
        new[at..at + 1000].copy_from_slice(&rng.noise(1000));
    }
    new[length / 4..length / 3].fill(0);
    (new, old)
}
