//! Tokens: their scopes, their changes while the receiver runs, and the limit on failures of an
//! address.

mod file;
mod limits;

use crate::support::http::Response;
use crate::support::{Lab, Proxy};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A receiver with a tokens file.
struct Guarded {
    lab: Lab,
    proxy: Proxy,
    tokens: PathBuf,
}

impl Guarded {
    fn new(more: Vec<OsString>) -> Self {
        let lab = Lab::new();
        let tokens = lab.path("tokens");
        // So that the file exists.
        make(&lab, &tokens, "first", vec![]);
        let proxy = lab.proxy_with(&lab.dir("dst"), args!["--tokens", tokens]);
        drop(proxy);
        let proxy = lab.proxy_with(&lab.dir("dst"), [args!["--tokens", tokens], more].concat());
        Self { lab, proxy, tokens }
    }

    fn make(&self, name: &str, more: Vec<OsString>) -> String {
        make(&self.lab, &self.tokens, name, more)
    }

    fn request(&self, method: &str, path: &str, token: &str) -> Response {
        self.proxy.request(method, path, &[("authorization", &format!("Bearer {token}"))], b"")
    }

    fn status(&self, token: &str) -> u16 {
        self.request("GET", "/tar/0/status", token).status
    }

    /// A client that repeats a wrong token gets 429 in the end.
    fn is_refused(&self, token: &str) -> bool {
        matches!(self.status(token), 401 | 429)
    }

    /// Makes the receiver read the file now.
    fn hangup(&self) {
        let read = || self.proxy.stderr().matches("tokens read again").count();
        let before = read();
        self.proxy.signal(rustix::process::Signal::HUP);
        crate::support::wait_until("tokens are read", std::time::Duration::from_secs(20), || read() > before);
    }
}

/// The secret of a new token.
fn make(lab: &Lab, tokens: &Path, name: &str, more: Vec<OsString>) -> String {
    let made = lab.cmd(args!["token", "new", "--name", name, "--tokens", tokens]).args(more).run().code(0);
    assert_eq!(made.stderr, "");
    made.stdout.trim().to_string()
}

const WRONG: &str = "wrong-0123456789abcdef";

#[test]
fn a_token_is_good_for_what_it_is_for() {
    let guarded = Guarded::new(vec![]);
    let make = |name, scope: &str, ids: &str| guarded.make(name, args!["--scope", scope, "--tar-id", ids]);
    let upload = make("upload", "upload", "0,2");
    let status = make("status", "status", "0");
    let metrics = make("metrics", "metrics", "*");
    let all = make("all", "upload,status,metrics", "*");
    guarded.hangup();
    // 404: the archive does not exist yet, which only clients with the right scope learn.
    let table: [(&str, &str, [u16; 4]); 9] = [
        ("GET", "/tar/0/status", [404, 404, 403, 404]),
        ("GET", "/tar/1/status", [403, 403, 403, 404]),
        ("GET", "/any/tar/2/status", [404, 403, 403, 404]),
        ("PUT", "/tar/0/1000/0", [404, 403, 403, 404]),
        ("PUT", "/tar/1/db", [403, 403, 403, 412]),
        ("POST", "/tar/2/finish", [404, 403, 403, 404]),
        ("POST", "/tar/1/log", [403, 403, 403, 400]),
        ("GET", "/metrics", [403, 403, 200, 200]),
        ("GET", "/nonsense", [404, 404, 404, 404]),
    ];
    for (method, path, wanted) in table {
        let tokens = [&upload, &status, &metrics, &all];
        let answers = tokens.map(|token| guarded.request(method, path, token));
        assert_eq!(answers.each_ref().map(|answer| answer.status), wanted, "{method} {path}");
        for answer in answers.iter().filter(|answer| answer.status == 403) {
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(answer.text().contains("is not for"), "{}", answer.text());
        }
        assert_eq!(guarded.proxy.request(method, path, &[], b"").status, 401, "{method} {path}");
    }
    let metrics = guarded.request("GET", "/metrics", &all).text();
    assert!(metrics.contains("tarlike_auth_failures_total{reason=\"forbidden\"} 18\n"), "{metrics}");
    assert!(metrics.contains("tarlike_auth_failures_total{reason=\"missing\"} 9\n"), "{metrics}");
    assert!(guarded.proxy.stderr().contains("refused 127.0.0.1: the token metrics is not for"));
    for secret in [upload, status, all] {
        assert!(!guarded.proxy.stderr().contains(&secret));
    }
}

/// A sender reports at once that its token is refused.
#[test]
fn senders_hear_why() {
    let guarded = Guarded::new(vec![]);
    let own = guarded.make("own", args!["--tar-id", "3"]);
    guarded.hangup();
    let src = guarded.lab.path("src");
    crate::support::Tree::new(&src, 501).noise("a", 100_000);
    let db = guarded.lab.index(&src);
    let upload = |token: &str, id: &str| {
        guarded
            .lab
            .upload_cmd(&src, &db, &guarded.proxy.url, args!["--tar-id", id])
            .env("TARLIKE_TOKEN", token)
            .run()
    };
    upload(&own, "0").code(1).says("the token own is not for archive 0").says("hint:");
    upload(WRONG, "3").code(1).says("401").says("--token-file");
    upload("", "3").code(1).says("401");
    upload(&own, "3").code(0);
    crate::support::assert_same_tree(&src, &guarded.lab.path("dst"));
    let metrics = guarded.request("GET", "/metrics", &own);
    assert_eq!(metrics.status, 403);
}
