//! moto's S3 server: a second implementation, in Python, with ETags of uploads in parts, If-Match
//! and versions.

use super::{KEY, PATIENCE, REGION, RcloneClient, percent_encode, settings, tool};
use crate::support::http::{self, Response};
use crate::support::run::{Lab, Running};
use std::net::SocketAddr;

/// A running `moto_server`, with its objects in memory; killed when dropped. It checks no
/// signatures.
pub(crate) struct MotoServer {
    pub(crate) addr: SocketAddr,
    _running: Running,
    _lab: Lab,
}

impl MotoServer {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        let lab = Lab::new();
        let running = lab.cmd(args!["-H", "127.0.0.1", "-p", "0"]).program(&tool("moto_server")).spawn();
        let addr = running.stderr.wait_for(PATIENCE, |text| {
            let said = text.split("Running on http://").nth(1)?;
            let end = said.find(|c: char| !c.is_ascii_digit() && !".:".contains(c))?;
            said[..end].parse().ok()
        });
        let Some(addr) = addr else {
            panic!("moto_server does not listen; stderr:\n{}", running.stderr_so_far())
        };
        Self { addr, _running: running, _lab: lab }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The environment of a program that is to read `bucket`.
    pub(crate) fn env(&self, bucket: &str) -> Vec<(String, String)> {
        settings(&self.endpoint(), bucket)
    }

    /// A client of it.
    pub(crate) fn client(&self) -> RcloneClient {
        RcloneClient::new(&self.endpoint())
    }

    /// One request to it, with a signature that is none; `path` starts with `/BUCKET`.
    #[track_caller]
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let scope = format!("AWS4-HMAC-SHA256 Credential={KEY}/20260101/{REGION}/s3/aws4_request");
        let signature = format!("{scope}, SignedHeaders=host, Signature=0");
        let headers = [headers, &[("Authorization", &signature)]].concat();
        http::request(self.addr, method, path, &headers, body)
    }

    /// Makes a bucket.
    #[track_caller]
    pub(crate) fn create_bucket(&self, bucket: &str) {
        let answer = self.request("PUT", &format!("/{bucket}"), &[], b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Makes a bucket keep versions: every object has a version id from then on.
    #[track_caller]
    pub(crate) fn keep_versions(&self, bucket: &str) {
        let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let answer = self.request("PUT", &format!("/{bucket}?versioning"), &[], body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Puts an object.
    #[track_caller]
    pub(crate) fn put(&self, bucket: &str, key: &str, body: &[u8]) -> Response {
        let path = format!("/{bucket}/{}", percent_encode(key.as_bytes()));
        let answer = self.request("PUT", &path, &[], body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    /// The head of an object.
    #[track_caller]
    pub(crate) fn head(&self, bucket: &str, key: &str) -> Response {
        self.request("HEAD", &format!("/{bucket}/{}", percent_encode(key.as_bytes())), &[], b"")
    }
}
