//! The receiver's answers to valid, wrong and hostile requests (FORMAT.md 5.1 and 8).

mod answers;
mod many;
mod refusals;
mod slices;
mod slow;

use crate::support::http::Response;
use crate::support::index::{self, blake3_hex, frame};
use crate::support::{Cmd, Lab, Proxy, Tree};
use std::ffi::OsString;
use std::path::PathBuf;

const SIZE: usize = 1000;

struct Setting {
    lab: Lab,
    proxy: Proxy,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    archive: Vec<u8>,
    digest: String,
}

impl Setting {
    /// A receiver without any index; the archive has 3500 bytes.
    fn new(more: Vec<OsString>) -> Self {
        Self::serving(|proxy| proxy.args(more))
    }

    /// The same with a receiver whose command `change` has changed.
    fn serving(change: impl FnOnce(Cmd) -> Cmd) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        Tree::new(&src, 80).noise("a", 1500).noise("b", 200).noise("c", 1800).file("empty", "");
        let db = lab.index(&src);
        let proxy = change(lab.cmd(args!["proxy", "0", "-b", dst])).serve();
        let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
        Self { lab, proxy, src, dst, db, archive, digest }
    }

    fn with_index(more: Vec<OsString>) -> Self {
        let setting = Self::new(more);
        let answer = setting.put_index();
        assert_eq!(answer.status, 200, "{}", answer.text());
        setting
    }

    fn put_index(&self) -> Response {
        self.proxy.request(
            "PUT",
            "/tar/0/db",
            &[("x-tar-like-index", &self.digest)],
            &index::frame_of(&self.db),
        )
    }

    fn put(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.proxy.request("PUT", path, headers, body)
    }

    /// Block `number` as a good sender sends it.
    fn put_block(&self, number: usize) -> Response {
        let content = index::block(&self.archive, SIZE, number);
        let headers = [("x-tar-like-index", &*self.digest), ("x-tar-like-digest", &*blake3_hex(content))];
        self.put(&format!("/tar/0/{SIZE}/{number}"), &headers, &frame(content))
    }
}

#[track_caller]
fn refused(answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("x-tar-like"), Some("1"));
    let json = answer.json();
    assert!(json["error"].as_str().is_some_and(|error| error.len() > 5), "{json}");
}
