//! The shipped configuration of haproxy, with the real haproxy: before one and two real receivers,
//! and before a backend that only echoes its request.

mod failover;
mod limits;
mod slices;
mod slow;
mod smuggling;
mod transfer;

use crate::support::stress::free_port;
use crate::support::{Lab, http, is_root, need_tool, wait_until};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Certificates for `localhost`, made by the script that is shipped.
fn certificates(lab: &Lab) -> PathBuf {
    need_tool("openssl", "apt-get install openssl");
    let certs = lab.path("certs");
    if !certs.exists() {
        let output = make_certificate(args!["-o", certs, "localhost", "127.0.0.1"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    certs
}

fn make_certificate(args: Vec<OsString>) -> Output {
    Command::new(root().join("scripts/make-certificate")).args(args).output().unwrap()
}

/// The variables of the shipped configuration; no other variable of the environment reaches
/// haproxy.
fn environment(lab: &Lab, proxies: &[SocketAddr], more: &[(&str, &str)]) -> Vec<(String, OsString)> {
    let mut env: Vec<(String, OsString)> = vec![
        ("PATH".into(), std::env::var_os("PATH").unwrap_or_default()),
        ("HAPROXY_CERT".into(), certificates(lab).join("haproxy.pem").into()),
        ("HAPROXY_STATS_SOCKET".into(), lab.path("haproxy.sock").into()),
    ];
    if !is_root() {
        env.push(("HAPROXY_USER".into(), "".into()));
    }
    for (number, proxy) in (1..).zip(proxies) {
        env.push((format!("TARLIKE_PROXY_{number}"), proxy.to_string().into()));
    }
    env.extend(more.iter().map(|(name, value)| (name.to_string(), value.into())));
    env
}

fn command(env: &[(String, OsString)]) -> Command {
    // Debian installs haproxy where an ordinary user's PATH does not lead.
    let places = ["/usr/sbin", "/usr/local/sbin"].map(|place| Path::new(place).join("haproxy"));
    let program = places.into_iter().find(|place| place.is_file()).unwrap_or_else(|| {
        need_tool("haproxy", "apt-get install haproxy");
        "haproxy".into()
    });
    let mut command = Command::new(program);
    command.env_clear().envs(env.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
    command
}

/// A running haproxy, as a service manager runs it; stopped when dropped.
struct Haproxy {
    master: Child,
    /// The frontend that is shipped ...
    tls: SocketAddr,
    /// ... and the same without TLS, for raw requests.
    plain: SocketAddr,
    log: PathBuf,
}

impl Haproxy {
    fn start(lab: &Lab, proxies: &[SocketAddr]) -> Self {
        Self::start_with(lab, proxies, &[])
    }

    fn start_with(lab: &Lab, proxies: &[SocketAddr], more: &[(&str, &str)]) -> Self {
        // Another process may take the free port before haproxy does.
        (0..5).find_map(|_| Self::try_start(lab, proxies, more)).expect("haproxy does not start: see above")
    }

    fn try_start(lab: &Lab, proxies: &[SocketAddr], more: &[(&str, &str)]) -> Option<Self> {
        let [tls, plain] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let shipped = std::fs::read_to_string(root().join("haproxy/haproxy.cfg")).unwrap();
        let bind = shipped.lines().find(|line| line.trim_start().starts_with("bind ")).unwrap();
        let config = lab.file("haproxy.cfg", shipped.replace(bind, &format!("{bind}\n    bind {plain}")));
        let log = lab.path("haproxy.log");
        let out = std::fs::File::create(&log).unwrap();
        let mut env = environment(lab, proxies, more);
        env.push(("HAPROXY_BIND".into(), tls.to_string().into()));
        let mut master = command(&env)
            .args(["-W", "-f"])
            .arg(config)
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(tls).is_err() {
            let ended = master.try_wait().unwrap().is_some();
            if ended || begun.elapsed() > PATIENCE {
                let _ = master.kill();
                println!("{}", std::fs::read_to_string(&log).unwrap());
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self { master, tls, plain, log })
    }

    /// Waits until a request reaches a receiver that is ready.
    fn ready(self) -> Self {
        wait_until("haproxy has a receiver", PATIENCE, || {
            http::try_raw(self.plain, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                .is_some_and(|answer| answer.status == 200)
        });
        self
    }

    /// The address that senders use.
    fn url(&self) -> String {
        format!("https://localhost:{}/tar", self.tls.port())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.master.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The workers that run; more than one while a reload replaces one that is busy.
    fn workers(&self) -> Vec<u32> {
        let id = self.master.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Replaces the worker, as `systemctl reload` does, and waits until the new one serves.
    fn reload(&self) {
        let before = self.workers();
        let mut asked: Option<Instant> = None;
        wait_until("haproxy is reloaded", PATIENCE, || {
            // A master that is still about the previous reload may miss the signal.
            if asked.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
                self.signal(rustix::process::Signal::USR2);
                asked = Some(Instant::now());
            }
            self.workers().iter().any(|worker| !before.contains(worker))
        });
    }

    /// The log: a JSON object a line, except for haproxy's messages about itself.
    fn log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        // The last line may be on its way.
        let lines = text.split_inclusive('\n').filter(|line| line.starts_with('{') && line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("haproxy:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        // Workers end with their master.
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}
