//! Migrations out of S3: real servers for right behaviour, the stub for faults.

mod faults;
mod hcp;
mod index;
mod keys;
mod migrate;
mod settings;
mod speed;
mod stores;

use crate::support::s3::Stub;
use crate::support::{Cmd, Lab, Output, Proxy};
use std::ffi::OsString;
use std::path::PathBuf;

/// A bucket in the stub, a receiver, and a short timeout.
struct Job {
    lab: Lab,
    stub: Stub,
    /// How long the store may be silent, in seconds.
    timeout_s: u64,
}

impl Job {
    fn new() -> Self {
        Self { lab: Lab::new(), stub: Stub::start("bkt"), timeout_s: 1 }
    }

    /// For long answers, which take a busy machine a while.
    fn patient() -> Self {
        Self { timeout_s: 10, ..Self::new() }
    }

    fn db(&self) -> PathBuf {
        self.lab.path("index.sqlite")
    }

    fn dest(&self) -> PathBuf {
        self.lab.dir("dest")
    }

    fn proxy(&self) -> Proxy {
        self.lab.proxy(&self.dest())
    }

    /// A command that reads the bucket.
    fn cmd(&self, args: Vec<OsString>) -> Cmd {
        self.lab.cmd(args).args(args!["--s3-timeout", self.timeout_s.to_string()]).envs(self.stub.env())
    }

    fn index(&self, more: Vec<OsString>) -> Output {
        self.cmd(args!["index", "--use-s3", "-c", "-db", self.db()]).args(more).run()
    }

    fn upload_cmd(&self, proxy: &Proxy, more: Vec<OsString>) -> Cmd {
        let cmd = self.cmd(args!["upload", "--use-s3", "-db", self.db(), "-u", proxy.url]);
        cmd.args(args!["-dbp", self.lab.path("progress.sqlite")]).args(more)
    }

    fn upload(&self, proxy: &Proxy, more: Vec<OsString>) -> Output {
        self.upload_cmd(proxy, more).run()
    }

    fn check(&self, more: Vec<OsString>) -> Output {
        self.cmd(args!["check", "--use-s3", "-db", self.db()]).args(more).run()
    }

    fn sync(&self, more: Vec<OsString>) -> Output {
        self.cmd(args!["sync", "s3://bkt", self.dest(), "-db", self.db()]).args(more).run()
    }

    /// The content that arrived under this name.
    fn arrived(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dest().join(name)).ok()
    }
}
