//! `rclone serve s3`, and rclone as a client of any server.

use super::{KEY, PATIENCE, REGION, SECRET, settings, tool};
use crate::support::need_tool;
use crate::support::run::{Cmd, Lab, Output, Running};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running `rclone serve s3`; killed when dropped.
pub(crate) struct RcloneServer {
    // Before the folder that it serves, so that it goes first.
    _running: Running,
    endpoint: String,
    ca_file: Option<PathBuf>,
    lab: Lab,
}

impl RcloneServer {
    /// Serves an empty folder of its own over HTTP, on a free port.
    pub(crate) fn start() -> Self {
        Self::serve(Lab::new(), None, vec![])
    }

    /// The same over HTTPS. Its certificate is for 127.0.0.1, by an authority of its own:
    /// [`RcloneServer::ca_file`].
    pub(crate) fn start_tls() -> Self {
        let lab = Lab::new();
        let (ca, cert, key) = certificate(&lab);
        Self::serve(lab, Some(ca), args!["--cert", cert, "--key", key])
    }

    fn serve(lab: Lab, ca_file: Option<PathBuf>, more: Vec<OsString>) -> Self {
        let root = lab.dir("buckets");
        let keys = format!("{KEY},{SECRET}");
        let args = args!["serve", "s3", "--config", "", "--addr", "127.0.0.1:0", "--auth-key", keys, root];
        let running = lab
            .cmd(args)
            // Without it rclone would not see what a test puts into the folder behind its back.
            .args(args!["--dir-cache-time", "0s"])
            .args(more)
            .program(&tool("rclone"))
            .spawn();
        let endpoint = running.stderr.wait_for(PATIENCE, |text| {
            let url = text.split("Starting s3 server on [").nth(1)?.split("/]").next()?;
            text.contains("/]").then(|| url.to_string())
        });
        let Some(endpoint) = endpoint else {
            panic!("rclone does not serve; stderr:\n{}", running.stderr_so_far())
        };
        Self { _running: running, endpoint, ca_file, lab }
    }

    /// `http://127.0.0.1:PORT`, or `https`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// PEM of the authority that has signed its certificate.
    pub(crate) fn ca_file(&self) -> &Path {
        self.ca_file.as_deref().unwrap()
    }

    /// The folder that is the bucket `name`, made if it is missing. All files in it are served.
    pub(crate) fn bucket_dir(&self, name: &str) -> PathBuf {
        self.lab.dir(&format!("buckets/{name}"))
    }

    /// The environment of a program that is to read `bucket`.
    pub(crate) fn env(&self, bucket: &str) -> Vec<(String, String)> {
        settings(&self.endpoint, bucket)
    }

    /// A client of it.
    pub(crate) fn client(&self) -> RcloneClient {
        let mut client = RcloneClient::new(&self.endpoint);
        if let Some(ca_file) = &self.ca_file {
            client.env.push(("RCLONE_CA_CERT".into(), ca_file.to_str().unwrap().into()));
        }
        client
    }
}

/// Makes an authority, and a certificate for 127.0.0.1 that it has signed: the paths of both and of
/// the private key.
fn certificate(lab: &Lab) -> (PathBuf, PathBuf, PathBuf) {
    need_tool("openssl", "apt-get install openssl");
    let [ca, ca_key, cert, key] = ["ca.pem", "ca.key", "cert.pem", "cert.key"].map(|name| lab.path(name));
    let openssl = |more: Vec<OsString>| {
        let new = args!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let output = Command::new("openssl").args(new).args(args!["-days", "2"]).args(more).output().unwrap();
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    };
    openssl(args!["-keyout", ca_key, "-out", ca, "-subj", "/CN=authority of the tests"]);
    // Two extensions, for what verifies by the rules: the name as an address, and that this is not
    // an authority too.
    let extensions =
        args!["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    let mut signed = args!["-CA", ca, "-CAkey", ca_key, "-keyout", key, "-out", cert, "-subj", "/CN=server"];
    signed.extend(extensions);
    openssl(signed);
    (ca, cert, key)
}

/// Options of [`RcloneClient::copy`] that upload everything in parts of 5 MiB: ETags are then no
/// md5s, but end in `-PARTS`.
pub(crate) fn multipart() -> Vec<OsString> {
    args!["--s3-upload-cutoff", "0", "--s3-chunk-size", "5M"]
}

/// rclone as a client, configured by environment alone, with a HOME of its own. Its remote is `x:`.
pub(crate) struct RcloneClient {
    lab: Lab,
    env: Vec<(String, String)>,
}

impl RcloneClient {
    /// A client that puts the bucket into the path.
    pub(crate) fn new(endpoint: &str) -> Self {
        let config = [
            ("TYPE", "s3"),
            ("PROVIDER", "Other"),
            ("ENDPOINT", endpoint),
            ("ACCESS_KEY_ID", KEY),
            ("SECRET_ACCESS_KEY", SECRET),
            ("REGION", REGION),
            ("FORCE_PATH_STYLE", "true"),
        ];
        let env = config.map(|(name, value)| (format!("RCLONE_CONFIG_X_{name}"), value.to_string())).to_vec();
        Self { lab: Lab::new(), env }
    }

    /// With more variables: `RCLONE_CONFIG_X_` and an option of the remote in capitals,
    /// `http_proxy`, ...
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// A client that puts the bucket before the host name.
    pub(crate) fn virtual_hosts(self) -> Self {
        self.env("RCLONE_CONFIG_X_FORCE_PATH_STYLE", "false")
    }

    /// Any command of rclone.
    pub(crate) fn cmd(&self, args: Vec<OsString>) -> Cmd {
        // One attempt: a test that expects an error need not wait for more.
        let once = args!["--config", "", "--retries", "1", "--low-level-retries", "1"];
        let cmd = self.lab.cmd(args).args(once);
        cmd.program(&tool("rclone")).envs(self.env.clone())
    }

    /// Uploads the files below `from` to `to`, which is BUCKET or BUCKET/PREFIX; the bucket is made
    /// if it is missing.
    #[track_caller]
    pub(crate) fn copy(&self, from: &Path, to: &str, more: Vec<OsString>) -> Output {
        self.cmd(args!["copy", from, format!("x:{to}")]).args(more).run().code(0)
    }

    /// Downloads all below `from` into the folder `to`.
    #[track_caller]
    pub(crate) fn fetch(&self, from: &str, to: &Path, more: Vec<OsString>) -> Output {
        // Without delimiters, which the stub does not know.
        self.cmd(args!["copy", "--fast-list", format!("x:{from}"), to]).args(more).run().code(0)
    }

    /// Names and sizes of all below BUCKET or BUCKET/PREFIX, sorted.
    #[track_caller]
    pub(crate) fn list(&self, at: &str) -> Vec<(String, u64)> {
        let lines = self.cmd(args!["lsjson", "-R", "--files-only", "--fast-list", format!("x:{at}")]);
        let found: serde_json::Value = serde_json::from_str(&lines.run().code(0).stdout).unwrap();
        let mut files: Vec<(String, u64)> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|file| (file["Path"].as_str().unwrap().to_string(), file["Size"].as_u64().unwrap()))
            .collect();
        files.sort();
        files
    }
}
