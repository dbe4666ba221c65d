//! A receiver that runs beside the test.

use super::http::{self, Response};
use super::run::{Cmd, Output, Running};
use super::stress::free_port;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a receiver may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `tar-like proxy`; killed when dropped.
pub(crate) struct Proxy {
    running: Running,
    cmd: Cmd,
    /// `http://127.0.0.1:PORT/tar`, or https
    pub(crate) url: String,
    pub(crate) addr: SocketAddr,
}

impl Proxy {
    /// Starts it; port 0 stands for one that no other process takes while it is restarted.
    pub(crate) fn start(cmd: Cmd) -> Self {
        let cmd = cmd.map_args(|args| {
            let port = args.iter().position(|arg| arg == "proxy").and_then(|at| args.get_mut(at + 1));
            if let Some(port) = port.filter(|port| *port == "0") {
                *port = OsString::from(free_port().to_string());
            }
        });
        let running = cmd.clone().spawn();
        let origin = running.stderr.wait_for(PATIENCE, |text| {
            let line = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            line.filter_map(|line| line.split("listening on ").nth(1))
                .map(|url| url.trim().to_string())
                .next()
        });
        let Some(origin) = origin else {
            panic!("the proxy does not listen; stderr:\n{}", running.stderr_so_far())
        };
        let (scheme, addr) = origin.split_once("://").unwrap();
        let addr: SocketAddr = addr.parse().unwrap();
        let addr = SocketAddr::new([127, 0, 0, 1].into(), addr.port());
        Self { running, cmd, url: format!("{scheme}://{addr}/tar"), addr }
    }

    /// Starts it again as it was, on the same port. It must have ended.
    pub(crate) fn restart(&mut self) {
        assert!(self.running.has_ended(), "the proxy still runs");
        *self = Self::start(self.cmd.clone().with_port(self.addr.port()));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.running.has_ended()
    }

    /// Kills it at once and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        self.running.kill9();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.running.signal(signal);
    }

    /// Asks it to stop and waits for the end.
    pub(crate) fn term_and_wait(self) -> Output {
        self.running.signal(rustix::process::Signal::TERM);
        self.running.wait()
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> Output {
        self.running.wait()
    }

    /// Its stderr so far.
    pub(crate) fn stderr(&self) -> String {
        self.running.stderr_so_far()
    }

    /// One request to it; `path` starts with `/`.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        http::request(self.addr, method, path, headers, body)
    }

    /// Its status of an archive.
    pub(crate) fn status(&self, tar_id: u64) -> serde_json::Value {
        let answer = self.request("GET", &format!("/tar/{tar_id}/status"), &[], b"");
        assert_eq!(answer.status, 200, "status: {}", answer.text());
        answer.json()
    }

    /// The value of one of its metrics, with labels as they are printed.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let answer = self.request("GET", "/metrics", &[], b"");
        assert_eq!(answer.status, 200, "metrics: {}", answer.text());
        let text = answer.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }

    /// How many blocks it has put on stable storage since it started.
    pub(crate) fn blocks_accepted(&self) -> u64 {
        self.metric("tarlike_blocks_accepted_total") as u64
    }
}

impl Cmd {
    /// The same `proxy` command on a fixed port.
    fn with_port(self, port: u16) -> Self {
        self.map_args(|args| {
            let at = args.iter().position(|arg| arg == "proxy").unwrap() + 1;
            args[at] = OsString::from(port.to_string());
        })
    }
}
