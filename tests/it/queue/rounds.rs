//! Rounds of faults: six hosts, each behind a link of its own, share a job for one receiver or for two
//! on one folder, and a seeded generator kills, stops, cuts and slows what there is. The copy is whole,
//! and the first host says so.
//!
//! `TARLIKE_TEST_ROUNDS=0..100` runs so many rounds, of more faults; without it one small round runs.
//! With `TARLIKE_TEST_SEED`, a round has the same faults again.

use crate::support::net::Network;
use crate::support::redis::Redis;
use crate::support::stress::chance;
use crate::support::{Cmd, Lab, Output, Proxy, Rng, Running, Tree, need_tool, tree_diff};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LEASE_S: u64 = 2;
/// The first one uploads, the others are workers, the last of them perhaps with other files.
const HOSTS: usize = 6;
/// How long a round may take after its last fault.
const PATIENCE: Duration = Duration::from_secs(90);

/// What goes wrong, and is mended some time later.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    /// A host is killed, and started again.
    Kill(usize),
    /// A host stands still, mostly for longer than a lease.
    Stop(usize),
    /// The link of a host is cut.
    Cut(usize),
    /// The link of a host has a tenth of its rate.
    Slow(usize),
    /// The clock of a host jumps to the past or the future, and back.
    Clock(usize),
    /// A receiver is killed, and started again.
    Receiver(usize),
    /// The engine is killed, and started again with what it had on disk.
    Engine,
    /// The same, and its disk is empty.
    EmptyEngine,
    /// The engine forgets everything.
    Flush,
}

impl Fault {
    fn any(rng: &mut Rng, receivers: usize) -> Self {
        let host = rng.below(HOSTS as u64) as usize;
        match rng.below(16) {
            0..=2 => Self::Kill(host),
            3..=4 => Self::Stop(host),
            5..=6 => Self::Cut(host),
            7..=8 => Self::Slow(host),
            9..=10 => Self::Receiver(rng.below(receivers as u64) as usize),
            11 => Self::Engine,
            12 => Self::EmptyEngine,
            13..=14 => Self::Clock(host),
            _ => Self::Flush,
        }
    }

    /// Whether both are faults of the same process.
    fn meets(self, other: Self) -> bool {
        let place = |fault| match fault {
            Self::Kill(host) | Self::Stop(host) | Self::Cut(host) | Self::Slow(host) | Self::Clock(host) => {
                host
            }
            Self::Engine | Self::EmptyEngine | Self::Flush => HOSTS,
            Self::Receiver(number) => HOSTS + 1 + number,
        };
        place(self) == place(other)
    }

    /// How long it lasts at most, in ms.
    fn longest_ms(self) -> u64 {
        match self {
            Self::Flush => 1,
            Self::Kill(_) | Self::Receiver(_) => 2000,
            Self::Slow(_) | Self::Clock(_) => 8000,
            Self::Stop(_) | Self::Cut(_) | Self::Engine | Self::EmptyEngine => LEASE_S * 2500,
        }
    }
}

struct Round {
    began: Instant,
    rng: Rng,
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    net: Network,
    /// The first one, and perhaps a second one on the same folder.
    receivers: Vec<Proxy>,
    redis: Redis,
    /// Of each host its command, and the process.
    hosts: Vec<(Cmd, Running)>,
    /// What is not mended yet, and when it is to be.
    faults: Vec<(Instant, Fault)>,
    /// What each host sends at most, in bytes a second.
    rate: u64,
}

impl Round {
    /// `None` where this machine has no network namespaces.
    fn start(seed: u64, is_small: bool) -> Option<Self> {
        let net = Network::enter(HOSTS)?;
        let mut rng = Rng::new(seed);
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let size = if is_small { 150_000 } else { 100_000 + rng.below(400_000) };
        Tree::new(&src, rng.next()).rich(size as usize);
        let db = lab.index(&src);
        // Six hosts without faults would need about five seconds.
        let rate = size * 2 / 30;
        let receivers = receivers(&lab, &dst, &net, 1 + rng.below(2), size / 6);
        let disk = args!["--appendonly", "yes", "--appendfsync", "always"];
        let redis =
            Redis::with(&lab, [args!["--bind", "0.0.0.0", "--protected-mode", "no"], disk].concat(), None);
        let queue = format!("redis://{}:{}", net.hub(), redis.port);
        let url = format!("http://{}:{}/tar", net.hub(), receivers[0].addr.port());
        let common = args!["--queue", queue, "-p", "2", "--bwlimit", rate.to_string(), "--compress", "none"];
        let (block, lease) = ((1000 + rng.below(6000)).to_string(), LEASE_S.to_string());
        let first = [args!["-s", block, "--queue-lease", lease], common.clone()].concat();
        let mut cmds = vec![lab.upload_cmd(&src, &db, &url, first)];
        let other = other_files(&lab, &src, &mut rng);
        for host in 1..HOSTS {
            let base = if host == HOSTS - 1 { &other } else { &src };
            let cmd = lab.cmd(args!["worker", "-b", base, "-u", url, "--follow"]).args(common.clone());
            cmds.push(cmd.env("XDG_CACHE_HOME", lab.path(&format!("cache-{host}"))));
        }
        let start = |(host, cmd): (usize, Cmd)| {
            let cmd = with_own_clock(&lab, host, cmd).wrap(net.inside(host));
            (cmd.clone(), cmd.spawn())
        };
        let hosts = cmds.into_iter().enumerate().map(start).collect();
        let began = Instant::now();
        Some(Self { began, rng, lab, src, dst, net, receivers, redis, hosts, faults: vec![], rate })
    }

    fn say(&self, what: &str) {
        println!("{:6.2} s  {what}", self.began.elapsed().as_secs_f64());
    }

    fn first_has_ended(&mut self) -> bool {
        !self.faults.iter().any(|(_, fault)| *fault == Fault::Kill(0)) && self.hosts[0].1.has_ended()
    }

    /// So many faults at random times, unless the job is done before.
    fn trouble(&mut self, count: u64) {
        for _ in 0..count {
            let until = Instant::now() + Duration::from_millis(self.rng.below(900));
            while Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
                self.mend(|at| at <= Instant::now());
            }
            if self.first_has_ended() {
                return;
            }
            let fault = Fault::any(&mut self.rng, self.receivers.len());
            if !self.faults.iter().any(|(_, other)| fault.meets(*other)) {
                let lasts = Duration::from_millis(self.rng.below(fault.longest_ms()));
                self.say(&format!("{fault:?} for {lasts:?}"));
                self.begin(fault);
                self.faults.push((Instant::now() + lasts, fault));
            }
        }
    }

    fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(host) => self.hosts[host].1.kill9(),
            Fault::Stop(host) => self.hosts[host].1.signal(Signal::STOP),
            Fault::Cut(host) => self.net.plug(host, false),
            Fault::Slow(host) => self.net.limit(host, Some(self.rate / 10)),
            Fault::Clock(host) => {
                let offset = 10u64.pow(self.rng.below(9) as u32);
                let sign = if self.rng.below(2) == 0 { '-' } else { '+' };
                set_clock(&self.lab, host, &format!("{sign}{offset}s"));
            }
            Fault::Receiver(number) => self.receivers[number].kill9(),
            Fault::Engine | Fault::EmptyEngine => self.redis.kill(),
            Fault::Flush => drop(self.redis.ask(&["FLUSHALL"]).unwrap()),
        }
    }

    /// Ends the faults whose time it is.
    fn mend(&mut self, is_time: impl Fn(Instant) -> bool) {
        let due: Vec<Fault> =
            self.faults.extract_if(.., |(at, _)| is_time(*at)).map(|(_, fault)| fault).collect();
        for fault in due {
            match fault {
                Fault::Kill(host) => self.hosts[host].1 = self.hosts[host].0.clone().spawn(),
                Fault::Stop(host) => self.hosts[host].1.signal(Signal::CONT),
                Fault::Cut(host) => self.net.plug(host, true),
                Fault::Slow(host) => self.net.limit(host, None),
                Fault::Clock(host) => set_clock(&self.lab, host, "+0s"),
                Fault::Receiver(number) => self.receivers[number].restart(),
                Fault::EmptyEngine => {
                    self.redis.wipe();
                    self.redis.restart();
                }
                Fault::Engine => self.redis.restart(),
                Fault::Flush => {}
            }
            self.say(&format!("mended: {fault:?}"));
        }
    }

    /// Waits for the first host, and then has the workers leave.
    fn end(mut self) {
        let last_fault = Instant::now();
        while !self.first_has_ended() && last_fault.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
            self.mend(|at| at <= Instant::now());
        }
        self.mend(|_| true);
        if !self.hosts[0].1.has_ended() {
            let said: Vec<String> = self.hosts.iter().map(|(_, host)| host.stderr_so_far()).collect();
            panic!(
                "the first host does not end; the hosts and the receivers said\n{}\n{}",
                said.join("\n--\n"),
                said_by(&self.receivers)
            );
        }
        self.say("the first host has ended");
        let mut outputs = vec![];
        let mut hosts = self.hosts.into_iter().map(|(_, host)| host);
        outputs.extend(hosts.next().map(Running::wait));
        self.lab.run(args!["worker", "drain", "--all", "--queue", self.redis.url()]).code(0);
        outputs.extend(hosts.map(Running::wait));
        for (host, output) in outputs.iter().enumerate() {
            println!("host {host}: exit code {}\n{}{}", output.code, output.stderr, output.stdout);
        }
        let problems = problems(&outputs, &self.src, &self.dst);
        println!("{:6.2} s  all hosts have ended", self.began.elapsed().as_secs_f64());
        assert!(problems.is_empty(), "{problems:#?}\n{}", said_by(&self.receivers));
        assert_eq!(self.receivers[0].status(0)["complete"], true);
    }
}

/// What is not as it must be at the end of a round.
fn problems(outputs: &[Output], src: &Path, dst: &Path) -> Vec<String> {
    let mut problems = tree_diff(src, dst);
    for (host, output) in outputs.iter().enumerate().filter(|(_, output)| output.code != 0) {
        problems.push(format!("exit code {} of host {host}", output.code));
    }
    // A second receiver may have a part of a file that a late block has brought once more, after it
    // was handed over.
    for folder in ["staging", "incoming", "slice-2-of-2/incoming"] {
        let left = walkdir::WalkDir::new(dst.join(".tar-like").join(folder)).into_iter().flatten();
        let files = left.filter(|entry| entry.file_type().is_file());
        problems.extend(files.map(|entry| format!("left: {}", entry.path().display())));
    }
    problems
}

/// So many receivers on one folder, at the hub.
fn receivers(lab: &Lab, dst: &Path, net: &Network, count: u64, stripe_bytes: u64) -> Vec<Proxy> {
    let open = args!["--bind", "0.0.0.0", "--insecure"];
    if count == 1 {
        return vec![lab.proxy_with(dst, open)];
    }
    let more = [open, args!["--stripe-size", stripe_bytes.to_string()]].concat();
    lab.slices(dst, count as usize, &net.hub().to_string(), &more)
}

fn said_by(receivers: &[Proxy]) -> String {
    receivers.iter().map(Proxy::stderr).collect::<Vec<_>>().join("\n--\n")
}

/// The same command on a host whose clock jumps.
fn with_own_clock(lab: &Lab, host: usize, cmd: Cmd) -> Cmd {
    need_tool("faketime", "apt-get install faketime");
    set_clock(lab, host, "+0s");
    let library = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let library = library.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    let library = library.into_iter().find(|path| path.exists()).expect("faketime without its library");
    // Intervals are those of a clock that does not jump, and files keep their times.
    cmd.env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", clock_of(lab, host))
        .env("FAKETIME_CACHE_DURATION", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("NO_FAKE_STAT", "1")
}

fn clock_of(lab: &Lab, host: usize) -> PathBuf {
    lab.path(&format!("clock-{host}"))
}

/// How far the clock of a host is from that of all others.
fn set_clock(lab: &Lab, host: usize, offset: &str) {
    std::fs::write(clock_of(lab, host), offset).unwrap();
}

/// A base folder for a host that should not be one: the right files, another tree, or files of which
/// some have other bytes, in part with the size and time of the right ones.
fn other_files(lab: &Lab, src: &Path, rng: &mut Rng) -> PathBuf {
    let kind = rng.below(3);
    if kind == 0 {
        return src.to_path_buf();
    }
    let other = lab.path("other");
    if kind == 1 {
        Tree::new(&other, rng.next()).rich(100_000);
        return other;
    }
    assert!(std::process::Command::new("cp").arg("-a").args([src, &other]).status().unwrap().success());
    for name in ["text/compressible.txt", "noise/random.bin", "many/0/f0", "sort/a.b"] {
        let path = other.join(name);
        let (mut content, meta) = (std::fs::read(&path).unwrap(), path.metadata().unwrap());
        content.iter_mut().step_by(97).for_each(|byte| *byte ^= 1);
        std::fs::write(&path, content).unwrap();
        if rng.below(2) == 0 {
            let times = std::fs::FileTimes::new().set_modified(meta.modified().unwrap());
            std::fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        }
    }
    other
}

#[test]
fn faults_in_any_order() {
    let rounds = std::env::var("TARLIKE_TEST_ROUNDS").ok();
    let (is_small, rounds) = (rounds.is_none(), rounds.unwrap_or("0..1".to_string()));
    let (first, end) = rounds.split_once("..").expect("a range of rounds");
    let (mut failed, seed) = (vec![], chance().next());
    for number in first.parse::<u64>().unwrap()..end.parse().unwrap() {
        let seed = seed.wrapping_add(number);
        // A thread that has entered a network ends there.
        let round = std::thread::spawn(move || {
            let Some(mut round) = Round::start(seed, is_small) else { return };
            println!("-- round {number}, receivers: {}", round.receivers.len());
            let faults = if is_small { 8 } else { 6 + round.rng.below(14) };
            round.trouble(faults);
            round.end();
        });
        if round.join().is_err() {
            println!("** round {number} has failed");
            failed.push(number);
        }
    }
    assert!(failed.is_empty(), "rounds {failed:?} of {rounds} have failed");
}
