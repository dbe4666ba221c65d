//! Running the program: hermetic, captured, with a time limit.

use super::proxy::Proxy;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Arguments of any string or path type as one list.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$(std::ffi::OsString::from(AsRef::<std::ffi::OsStr>::as_ref(&$arg))),*] };
}

/// How long a command may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// A temporary folder of one test, with its own HOME and TMPDIR in it.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// The same in memory, if the machine has enough to spare: some disks need milliseconds to
    /// remove a file.
    pub(crate) fn in_memory(needed_bytes: u64) -> Self {
        let memory = Path::new("/dev/shm");
        let free = rustix::fs::statvfs(memory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        if free > needed_bytes { Self::within(memory) } else { Self::new() }
    }

    fn within(folder: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("tar-like-it-").tempdir_in(folder).unwrap();
        for name in ["home", "tmp"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// The path of `name` in the folder; nothing is made.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes the folder `name` if it is missing.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Makes the file `name`.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A command of the program that can still be changed.
    pub(crate) fn cmd(&self, args: Vec<OsString>) -> Cmd {
        let home = self.path("home");
        let mut env = vec![
            ("PATH".into(), std::env::var_os("PATH").unwrap_or_default()),
            ("HOME".into(), home.clone().into()),
            ("TMPDIR".into(), self.path("tmp").into()),
            // The settings of this host, if it has any, are not for tests.
            ("TARLIKE_SYSTEM_CONF".into(), "".into()),
        ];
        // Tests look at the receiver's state by this number; those of the derived one unset it.
        if args.iter().any(|argument| argument == "sync" || argument == "rewind") {
            env.push(("TARLIKE_TAR_ID".into(), "0".into()));
        }
        Cmd { program: args!(env!("CARGO_BIN_EXE_tar-like")), args, env, cwd: home, patience: PATIENCE }
    }

    /// The same command as a user without rights, who may enter the lab and write to its folders
    /// HOME and TMPDIR. Root runs it as the user nobody.
    pub(crate) fn unprivileged(&self, cmd: Cmd) -> Cmd {
        if !super::is_root() {
            return cmd;
        }
        super::need_tool("setpriv", "apt-get install util-linux");
        for name in [".", "home", "tmp"] {
            std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o777)).unwrap();
        }
        // The built program may lie where no other user may go.
        let copy = self.path("tar-like");
        if !copy.exists() {
            // Copied by another process: a test that forks now would hold our copy open for
            // writing, and it could not be run.
            let status =
                std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_tar-like")).arg(&copy).status();
            assert!(status.unwrap().success());
        }
        cmd.program(&copy).wrap(args!["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: Vec<OsString>) -> Output {
        self.cmd(args).run()
    }

    /// Starts a receiver on `base`, on a free port.
    pub(crate) fn proxy(&self, base: &Path) -> Proxy {
        self.proxy_with(base, vec![])
    }

    /// The same with more arguments.
    pub(crate) fn proxy_with(&self, base: &Path, more: Vec<OsString>) -> Proxy {
        self.cmd(args!["proxy", "0", "-b", base]).args(more).serve()
    }

    /// Indexes `base` into a new database and gives its path.
    pub(crate) fn index(&self, base: &Path) -> PathBuf {
        let mut db = base.to_path_buf().into_os_string();
        db.push(".sqlite");
        let db = PathBuf::from(db);
        self.run(args!["index", "-c", "-b", base, "-db", db]).code(0);
        db
    }

    /// The upload of `base` as indexed in `db` to `url`, with more arguments. Its progress database
    /// is new unless they name one.
    pub(crate) fn upload(&self, base: &Path, db: &Path, url: &str, more: Vec<OsString>) -> Output {
        self.upload_cmd(base, db, url, more).run()
    }

    /// The same as a command that is not run yet.
    pub(crate) fn upload_cmd(&self, base: &Path, db: &Path, url: &str, more: Vec<OsString>) -> Cmd {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let mut cmd = self.cmd(args!["upload", "-b", base, "-db", db, "-u", url]);
        if !more.iter().any(|arg| arg == "-dbp" || arg == "--database-progress") {
            let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            cmd = cmd.args(args!["-dbp", self.path(&format!("progress-{number}.sqlite"))]);
        }
        cmd.args(more)
    }

    /// Compares `base` with the index `db` by the program's own `check`.
    pub(crate) fn check(&self, base: &Path, db: &Path, more: Vec<OsString>) -> Output {
        self.cmd(args!["check", "-b", base, "-db", db]).args(more).run()
    }

    /// `sync` of `base` to `dest`, an address or a folder.
    pub(crate) fn sync(&self, base: &Path, dest: impl AsRef<OsStr>, more: Vec<OsString>) -> Output {
        self.cmd(args!["sync", base, dest]).args(more).run()
    }
}

/// A command that is not started yet.
#[derive(Clone)]
pub(crate) struct Cmd {
    program: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: PathBuf,
    patience: Duration,
}

impl Cmd {
    pub(crate) fn args(mut self, more: Vec<OsString>) -> Self {
        self.args.extend(more);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().into()));
        self
    }

    pub(crate) fn cwd(mut self, dir: &Path) -> Self {
        self.cwd = dir.to_path_buf();
        self
    }

    /// Has `sync` and `rewind` derive the number of the archive from the source.
    pub(crate) fn derived(self) -> Self {
        self.env("TARLIKE_TAR_ID", "")
    }

    /// Runs another copy of the program.
    pub(crate) fn program(mut self, path: &Path) -> Self {
        self.program = args!(path);
        self
    }

    /// Runs under another program: `strace …`, `setpriv …`.
    pub(crate) fn wrap(mut self, mut wrapper: Vec<OsString>) -> Self {
        wrapper.append(&mut self.program);
        self.program = wrapper;
        self
    }

    pub(super) fn map_program(mut self, change: impl FnOnce(&mut Vec<OsString>)) -> Self {
        change(&mut self.program);
        self
    }

    pub(super) fn map_args(mut self, change: impl FnOnce(&mut Vec<OsString>)) -> Self {
        change(&mut self.args);
        self
    }

    /// Runs to the end.
    pub(crate) fn run(self) -> Output {
        self.spawn().wait()
    }

    /// Starts a receiver and waits until it listens; the arguments must be those of `proxy`.
    pub(crate) fn serve(self) -> Proxy {
        Proxy::start(self)
    }

    /// The same for the standard library.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command
            .args(&self.program[1..])
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.cwd);
        command
    }

    /// Starts without waiting.
    pub(crate) fn spawn(self) -> Running {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {:?}: {e}", self.program));
        let stdout = Pipe::collect(child.stdout.take().unwrap());
        let stderr = Pipe::collect(child.stderr.take().unwrap());
        Running { child, stdout, stderr, line: format!("{:?}", self.args), patience: self.patience }
    }
}

/// The bytes that came through a pipe, and whether it has ended.
type Seen = (Vec<u8>, bool);

/// The bytes that came through a pipe so far. A thread reads, so the child never blocks.
pub(super) struct Pipe {
    bytes: Arc<(Mutex<Seen>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Pipe {
    fn collect(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new((Mutex::new((Vec::new(), false)), Condvar::new()));
        let shared = bytes.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut state = shared.0.lock().unwrap();
                state.0.extend(&buffer[..count]);
                state.1 = count == 0;
                shared.1.notify_all();
                if count == 0 {
                    break;
                }
            }
        });
        Self { bytes, thread: Some(thread) }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.0.lock().unwrap().0).into_owned()
    }

    /// Waits until `find` finds something in the text so far; `None` at the pipe's end or after
    /// `patience`.
    pub(super) fn wait_for<T>(
        &self,
        patience: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + patience;
        let mut state = self.bytes.0.lock().unwrap();
        loop {
            if let Some(found) = find(&String::from_utf8_lossy(&state.0)) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return None;
            }
            state = self.bytes.1.wait_timeout(state, left).unwrap().0;
        }
    }

    fn into_bytes(mut self) -> Vec<u8> {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::mem::take(&mut self.bytes.0.lock().unwrap().0)
    }
}

/// A command that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Pipe,
    pub(super) stderr: Pipe,
    line: String,
    patience: Duration,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its stderr so far.
    pub(crate) fn stderr_so_far(&self) -> String {
        self.stderr.text()
    }

    /// Whether a SIGINT would not just kill it.
    pub(crate) fn catches_sigint(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask >> (rustix::process::Signal::INT.as_raw() - 1) & 1 == 1)
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it at once and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the end; fails the test when it takes too long.
    pub(crate) fn wait(mut self) -> Output {
        let end = Instant::now() + self.patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                self.kill9();
                let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
                panic!("{} took over {:?}\nstdout:\n{stdout}\nstderr:\n{stderr}", self.line, self.patience);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let empty = || Pipe::collect(std::io::empty());
        Output {
            // The code that a shell reports.
            code: status.code().or(signal.map(|number| 128 + number)).unwrap(),
            stdout: String::from_utf8_lossy(&std::mem::replace(&mut self.stdout, empty()).into_bytes())
                .into_owned(),
            stderr: String::from_utf8_lossy(&std::mem::replace(&mut self.stderr, empty()).into_bytes())
                .into_owned(),
            line: self.line.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    line: String,
}

impl Output {
    /// Fails the test, with all output, unless the exit code is `code`.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code of {}\nstdout:\n{}\nstderr:\n{}",
            self.line, self.stdout, self.stderr
        );
        self
    }

    /// Fails the test unless stderr has `text`.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.stderr.contains(text),
            "{} does not say {text:?} on stderr:\n{}",
            self.line,
            self.stderr
        );
        self
    }

    /// The lines of a run with `--json`.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e} in line {line:?}", self.line))
            })
            .collect()
    }

    /// The last line of a run with `--json`, which must be the summary.
    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        let last =
            self.json().pop().unwrap_or_else(|| panic!("{}: no JSON; stderr:\n{}", self.line, self.stderr));
        assert_eq!(last["event"], "summary", "{}: last line is {last}", self.line);
        assert_eq!(last["exit"], self.code, "{}: exit code in {last}", self.line);
        last
    }
}
