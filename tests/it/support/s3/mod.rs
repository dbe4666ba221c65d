//! Sources in S3: [`RcloneServer`], [`MotoServer`] and [`PythonServer`] are programs of other
//! projects, which agree with each other where S3 is clear. [`Stub`] is ours, and is as wrong as a
//! test needs, or behaves like an HCP. [`RcloneClient`] puts objects there and reads them back, and
//! shares no code with the program under test.
//!
//! Where the two servers differ from AWS, so that a test of the program must not expect AWS's
//! behaviour:
//!
//! - rclone answers a range with 200 (and the right Content-Range and length), ignores If-Match,
//!   gives every object the md5 of its contents as ETag, also one that was uploaded in parts,
//!   writes ETags in lists without quotes, has no folder markers (`d/` becomes a file-less folder,
//!   listed as `d`), and no versions.
//! - moto checks no signatures, and its NextMarker is a token, which must be sent back as it is. It
//!   writes a space in keys as `%20` where the stub, as AWS, writes `+`.

pub(crate) mod moto;
pub(crate) mod python;
pub(crate) mod rclone;
pub(crate) mod stub;

pub(crate) use moto::MotoServer;
pub(crate) use python::{Maker, PythonServer};
pub(crate) use rclone::{RcloneClient, RcloneServer, multipart};
pub(crate) use stub::{Fault, Lists, NextMarker, Object, On, Stub, made_up};

use super::run::{Cmd, Lab};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The access key that all servers know.
pub(crate) const KEY: &str = "TESTACCESSKEY";
/// The secret key that belongs to it.
pub(crate) const SECRET: &str = "test/secret+key";
const REGION: &str = "us-east-1";

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The environment that names a bucket behind `endpoint` to the program under test.
fn settings(endpoint: &str, bucket: &str) -> Vec<(String, String)> {
    [
        ("TARLIKE_S3_BUCKET", bucket),
        ("TARLIKE_S3_ENDPOINT", endpoint),
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", REGION),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .to_vec()
}

/// Where scripts/setup has put `name`. Not from PATH: the `rclone` of a distribution may be too old
/// to serve S3.
fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/s3/bin").join(name);
    assert!(path.is_file(), "{} is missing; install it with: scripts/setup test", path.display());
    path
}

/// `bytes` as a path of a URL: all but the unreserved characters and `/` as `%XX`.
pub(crate) fn percent_encode(bytes: &[u8]) -> String {
    let mut encoded = String::new();
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The reverse; anything that is not `%XX` stays.
fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let value = escaped
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    decoded
}

/// `cmd` where `names` are 127.0.0.1. Such a name, `bucket.localhost` included, resolves on some
/// machines only; here the command gets an /etc/hosts of its own. `None` where the test may not
/// mount.
pub(crate) fn with_hosts(lab: &Lab, cmd: Cmd, names: &[&str]) -> Option<Cmd> {
    super::need_tool("unshare", "apt-get install util-linux");
    super::need_tool("mount", "apt-get install mount");
    let hosts = lab.file("hosts", format!("127.0.0.1 localhost {}\n", names.join(" ")));
    let mut wrapper = args!["unshare", "--mount"];
    if !super::is_root() {
        wrapper.extend(args!["--user", "--map-root-user"]);
    }
    wrapper.extend(args!["sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\"", hosts]);
    let mut probe: Vec<OsString> = wrapper.clone();
    probe.extend(args!["true"]);
    let output = Command::new(&probe[0]).args(&probe[1..]).output().unwrap();
    if !output.status.success() {
        super::skip(&format!("cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
        return None;
    }
    Some(cmd.wrap(wrapper))
}

impl Cmd {
    /// With all of these variables.
    pub(crate) fn envs(self, variables: Vec<(String, String)>) -> Self {
        variables.into_iter().fold(self, |cmd, (name, value)| cmd.env(&name, value))
    }
}
