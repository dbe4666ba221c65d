//! TLS without a proxy between: certificates of both sides, their renewal, and the message to a
//! sender if they do not fit.

mod health;
mod sender;
mod server;

use crate::support::tls::{Authority, Identity};
use crate::support::{Cmd, Lab, Output, Proxy, Tree, assert_same_tree};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A tree with its index, and an authority for the receiver's certificate.
struct Site {
    lab: Lab,
    ca: Authority,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        Tree::new(&src, 500).noise("a", 200_000).text("b/c", 3000).file("empty", "");
        let db = lab.index(&src);
        let ca = Authority::new(&lab, "receivers");
        Self { lab, ca, src, dst, db }
    }

    fn proxy_cmd(&self, identity: &Identity) -> Cmd {
        self.lab.cmd(args![
            "proxy",
            "0",
            "-b",
            self.dst,
            "--tls-cert",
            identity.cert,
            "--tls-key",
            identity.key
        ])
    }

    /// A receiver with a good certificate.
    fn serve(&self, more: Vec<OsString>) -> Proxy {
        self.proxy_cmd(&self.ca.issue("server")).args(more).serve()
    }

    /// An upload of blocks of 10 kB that trusts the authority.
    fn trusting(&self, url: &str, more: Vec<OsString>) -> Cmd {
        self.upload(url, more).args(args!["--ca-file", self.ca.pem()])
    }

    fn upload(&self, url: &str, more: Vec<OsString>) -> Cmd {
        self.lab.upload_cmd(&self.src, &self.db, url, args!["-s", "10000"]).args(more)
    }

    fn assert_arrived(&self) {
        assert_same_tree(&self.src, &self.dst);
    }
}

/// Runs a command that cannot succeed: it must say why, and not try for half a minute.
#[track_caller]
fn fails_at_once(cmd: Cmd, why: &str) -> Output {
    let start = Instant::now();
    let output = cmd.run().code(1).says(why);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    // A connection may be closed before its alert was read: then once more.
    assert!(output.stderr.matches("trying again").count() <= 1, "{}", output.stderr);
    output
}
