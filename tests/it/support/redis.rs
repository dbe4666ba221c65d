//! A real Redis server.

use super::stress::free_port;
use super::tls::Identity;
use super::{Lab, need_tool, wait_until};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server that keeps nothing on disk unless it is told to; killed when dropped.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    folder: PathBuf,
    more: Vec<OsString>,
    password: Option<&'static str>,
}

impl Redis {
    pub(crate) fn start(lab: &Lab) -> Self {
        Self::with(lab, vec![], None)
    }

    /// With more arguments; `password` is that of the default user, which they set.
    pub(crate) fn with(lab: &Lab, more: Vec<OsString>, password: Option<&'static str>) -> Self {
        need_tool("redis-server", "apt-get install redis-server");
        let port = free_port();
        let folder = lab.dir(&format!("redis-{port}"));
        let child = spawn(port, &folder, &more);
        let redis = Self { child, port, folder, more, password };
        redis.wait();
        redis
    }

    /// That speaks TLS with `identity` at another port, which this gives.
    pub(crate) fn with_tls(lab: &Lab, identity: &Identity) -> (Self, u16) {
        let port = free_port();
        let more = args![
            "--tls-port",
            port.to_string(),
            "--tls-cert-file",
            identity.cert,
            "--tls-key-file",
            identity.key,
            "--tls-ca-cert-file",
            identity.cert,
            "--tls-auth-clients",
            "no"
        ];
        (Self::with(lab, more, None), port)
    }

    /// A sentinel that watches over `primary`, and alone decides that it is down.
    pub(crate) fn sentinel(lab: &Lab, primary: &Self) -> Self {
        let settings = format!(
            "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 1000\n\
             sentinel failover-timeout main 5000\n",
            primary.port
        );
        let file = lab.file("sentinel.conf", settings);
        need_tool("redis-server", "apt-get install redis-server");
        let port = free_port();
        let folder = lab.dir(&format!("sentinel-{port}"));
        let child = Command::new("redis-server")
            .args(args![
                file,
                "--sentinel",
                "--port",
                port.to_string(),
                "--bind",
                "127.0.0.1",
                "--dir",
                folder
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sentinel = Self { child, port, folder, more: vec![], password: None };
        sentinel.wait();
        sentinel
    }

    fn wait(&self) {
        wait_until("the Redis server answers", Duration::from_secs(20), || self.ask(&["PING"]).is_some());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends it at once, and all that it had is lost.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Removes what it has on disk, if it was started with `--appendonly yes`. It must have ended.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        std::fs::create_dir(&self.folder).unwrap();
    }

    /// Starts it again with what it has on disk: nothing, by default.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.more);
        self.wait();
    }

    /// All words of the answer to a command.
    pub(crate) fn words(&self, words: &[&str]) -> Vec<String> {
        let (mut stream, lines) = self.connect(Duration::from_millis(300)).unwrap();
        send(&mut stream, words).unwrap();
        let lines = lines.lines().map_while(Result::ok);
        lines.filter(|line| !line.starts_with(['*', '$'])).collect()
    }

    /// A connection that is let in, and its answers.
    fn connect(&self, patience: Duration) -> Option<(TcpStream, BufReader<TcpStream>)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        if let Some(password) = self.password {
            send(&mut stream, &["AUTH", password])?;
            lines.read_line(&mut String::new()).ok()?;
        }
        Some((stream, lines))
    }

    /// The first line of the answer to a command; `None` if there is none.
    pub(crate) fn ask(&self, words: &[&str]) -> Option<String> {
        let (mut stream, mut lines) = self.connect(Duration::from_secs(5))?;
        let mut line = String::new();
        send(&mut stream, words)?;
        lines.read_line(&mut line).ok()?;
        let line = line.trim_end().to_owned();
        (!line.is_empty() && !line.starts_with("-LOADING")).then_some(line)
    }
}

fn send(stream: &mut TcpStream, words: &[&str]) -> Option<()> {
    let mut request = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| request.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    stream.write_all(request.as_bytes()).ok()
}

fn spawn(port: u16, folder: &PathBuf, more: &[OsString]) -> Child {
    Command::new("redis-server")
        .args(args!["--port", port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(args!["--dir", folder])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
