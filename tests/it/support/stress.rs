//! Faults on demand: repeatable random numbers, system calls that fail or kill, small file systems,
//! watched memory.

use super::run::{Cmd, Lab};
use super::{Proxy, Rng, is_root, need_tool, skip};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Random numbers from a printed seed. `TARLIKE_TEST_SEED` repeats a test.
pub(crate) fn chance() -> Rng {
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let given = std::env::var("TARLIKE_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| now() & 0xFFFF_FFFF);
    println!("repeat with TARLIKE_TEST_SEED={seed}");
    Rng::new(seed)
}

/// Sleeps for a random time of at most `longest`.
pub(crate) fn sleep_some(rng: &mut Rng, longest: Duration) {
    std::thread::sleep(Duration::from_micros(rng.below(longest.as_micros() as u64)));
}

/// Below the ports that Linux gives to connections and to listeners without a port of their own:
/// none of these takes it, even while its listener is away.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A port that was free a moment ago, another one each time.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other test processes begin elsewhere.
    let start = std::process::id().wrapping_mul(7919);
    loop {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + number % (PORTS.end - PORTS.start)) as u16;
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

impl Lab {
    /// A receiver's command on a fixed port.
    pub(crate) fn proxy_cmd(&self, port: u16, base: &Path) -> Cmd {
        self.cmd(args!["proxy", port.to_string(), "-b", base])
    }
}

impl Cmd {
    /// Runs under strace, which applies `rules` to the system calls of every thread
    /// (`syncfs:error=EIO:when=2`; a thread counts its own calls), on the paths `only` or on all.
    /// The program itself stays the child, so signals reach it.
    pub(crate) fn inject(self, rules: &[&str], only: &[PathBuf]) -> Self {
        self.inject_until(rules, only).map_program(|strace| strace.insert(1, "--seccomp-bpf".into()))
    }

    /// The same, slower, until [`Proxy::release`] ends it.
    pub(crate) fn inject_until(self, rules: &[&str], only: &[PathBuf]) -> Self {
        need_tool("strace", "apt-get install strace");
        let mut strace = args!["strace", "-D", "-f", "-qqq", "-I2", "-o", "/dev/null"];
        let calls: Vec<&str> = rules.iter().map(|rule| rule.split(':').next().unwrap()).collect();
        strace.extend(args!["-e", format!("trace={}", calls.join(","))]);
        for rule in rules {
            strace.extend(args!["-e", format!("inject={rule}")]);
        }
        for path in only {
            strace.extend(args!["-P", path]);
        }
        self.wrap(strace)
    }
}

impl Proxy {
    /// Ends [`Cmd::inject_until`]: system calls work again.
    pub(crate) fn release(&self) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap();
        let tracer =
            rustix::process::Pid::from_raw(tracer.trim().parse().unwrap()).expect("nobody traces it");
        rustix::process::kill_process(tracer, rustix::process::Signal::TERM).unwrap();
        super::wait_until("strace is gone", Duration::from_secs(10), || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
            status.contains("TracerPid:\t0")
        });
    }
}

/// The most memory that a process ever had, in KiB.
pub(crate) fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// A mounted file system; unmounted when dropped.
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
}

impl Mount {
    /// Mounts a file system in memory at `path` with these options; `None`, with a printed reason,
    /// where that is not permitted.
    pub(crate) fn tmpfs(path: &Path, options: &str) -> Option<Self> {
        Self::mount_by(args!["-t", "tmpfs", "-o", options, "tmpfs", path], path)
    }

    /// Mounts the file system in the file `image`.
    pub(crate) fn image(image: &Path, path: &Path) -> Option<Self> {
        Self::mount_by(args!["-o", "loop", image, path], path)
    }

    fn mount_by(arguments: Vec<OsString>, path: &Path) -> Option<Self> {
        need_tool("mount", "apt-get install mount");
        if !is_root() {
            skip("only root may mount");
            return None;
        }
        std::fs::create_dir_all(path).unwrap();
        let output = Command::new("mount").args(&arguments).output().unwrap();
        if !output.status.success() {
            skip(&format!("cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        Some(Self { path: path.to_path_buf() })
    }

    /// Changes its options.
    pub(crate) fn remount(&self, options: &str) {
        let status =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.path).status();
        assert!(status.unwrap().success());
    }

    /// Unmounts it; no process may use it any more.
    pub(crate) fn unmount(self) {
        drop(self);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mounted = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if !mounted.contains(&format!(" {} ", self.path.display())) {
            // A test has unmounted it.
            return;
        }
        for _ in 0..50 {
            let output = Command::new("umount").arg(&self.path).output().unwrap();
            if output.status.success() {
                return;
            }
            // A killed process may need a moment to release it.
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Every entry below `root` with its type, mode, time and content: for "nothing was touched".
pub(crate) fn fingerprint(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let meta = entry.path().symlink_metadata().unwrap();
        let content = if meta.is_file() {
            blake3::hash(&std::fs::read(entry.path()).unwrap()).to_string()
        } else {
            std::fs::read_link(entry.path()).map(|target| target.display().to_string()).unwrap_or_default()
        };
        lines.push(format!(
            "{} {:o} {}:{} {}.{} {}.{} {} {content}",
            entry.path().display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
            meta.nlink()
        ));
    }
    lines
}
