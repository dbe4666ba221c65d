//! Both directions with the original program itself. It is no package and not part of this
//! repository: `TARLIKE_ORIGINAL` names a checkout, and `TARLIKE_ORIGINAL_PYTHON` a Python that has
//! its modules (py-lz4framed, requests, boto3, PyYAML), if `python3` has not. [`super::legacy`]
//! tests the same protocol on every machine, with our own programs that speak it.

use crate::support::stress::free_port;
use crate::support::{Cmd, Lab, Output, Rng, Running, Tree, assert_same_files, skip, wait_until};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SIZE: &str = "70000";

/// A checkout of the original, and the Python that runs it.
struct Original {
    checkout: PathBuf,
    python: PathBuf,
}

impl Original {
    /// `None`, with a printed reason, if there is none.
    fn get() -> Option<Self> {
        let Some(checkout) = std::env::var_os("TARLIKE_ORIGINAL") else {
            skip("TARLIKE_ORIGINAL names no checkout of the original program");
            return None;
        };
        let python = std::env::var_os("TARLIKE_ORIGINAL_PYTHON").unwrap_or_else(|| "python3".into());
        Some(Self { checkout: checkout.into(), python: python.into() })
    }

    fn cmd(&self, lab: &Lab, module: &str, more: Vec<OsString>) -> Cmd {
        let command = lab.cmd([args!["-m", format!("tar_like.{module}")], more].concat());
        command.program(&self.python).env("PYTHONPATH", &self.checkout).env("LOGLEVEL", "INFO")
    }

    fn run(&self, lab: &Lab, module: &str, more: Vec<OsString>) -> Output {
        self.cmd(lab, module, more).run().code(0)
    }

    /// The original's receiver, which listens when this returns.
    fn receiver(&self, lab: &Lab, base: &Path) -> (Running, String) {
        let port = free_port();
        let running = self.cmd(lab, "proxy", args![port.to_string(), "-b", base]).spawn();
        wait_until("the original listens", Duration::from_secs(30), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        (running, format!("http://127.0.0.1:{port}/tar"))
    }
}

/// Files that both programs can copy: no empty file on a border.
fn tree(lab: &Lab) -> PathBuf {
    let src = lab.path("src");
    let mut rng = Rng::new(91);
    let mut tree = Tree::new(&src, 91);
    tree.file("a/large", rng.text(400_000)).file("a/one-block", rng.noise(70_000)).file("inside", "");
    tree.file("b/small", "1").file("b/deep/er/file", rng.noise(69_000)).file("zeros", vec![0; 200_000]);
    src
}

fn uploads(src: &Path, db: &Path, url: &str) -> Vec<OsString> {
    args!["-b", src, "-db", db, "-u", url, "-s", SIZE, "-p", "2"]
}

#[test]
fn the_original_sends_to_us_with_either_index() {
    let Some(original) = Original::get() else { return };
    for ours in [false, true] {
        let lab = Lab::new();
        let (src, dst, db) = (tree(&lab), lab.dir("dst"), lab.path("index.sqlite"));
        if ours {
            lab.run(args!["index", "-b", src, "-db", db]).code(0);
        } else {
            original.run(&lab, "index", args!["-b", src, "-db", db]);
        }
        let proxy = lab.proxy_with(&dst, args!["--legacy"]);
        original.run(&lab, "upload", uploads(&src, &db, &proxy.url));
        wait_until("all files have their names", Duration::from_secs(30), || {
            lab.check(&dst, &db, args!["--no-metadata"]).code == 0
        });
        assert_same_files(&src, &dst);
    }
}

#[test]
fn we_send_to_the_original_with_either_index() {
    let Some(original) = Original::get() else { return };
    for ours in [false, true] {
        let lab = Lab::new();
        let (src, dst, db) = (tree(&lab), lab.dir("dst"), lab.path("index.sqlite"));
        if ours {
            lab.run(args!["index", "-b", src, "-db", db]).code(0);
        } else {
            original.run(&lab, "index", args!["-b", src, "-db", db]);
        }
        let (mut receiver, url) = original.receiver(&lab, &dst);
        let output = lab.upload(&src, &db, &url, args!["-s", SIZE]);
        assert!(matches!(output.code, 0 | 3), "{output:?}");
        lab.check(&dst, &db, args!["--no-metadata"]).code(0);
        let checked = original.run(&lab, "check", args!["-b", dst, "-db", db, "-s", SIZE]);
        assert!(checked.stdout.contains("Err: 0/0 B"), "{}", checked.stdout);
        receiver.kill9();
    }
}

/// The original's `index -c` replaces the rows of `tar` and leaves our tables beside them.
#[test]
fn the_original_indexes_into_a_database_of_ours() {
    let Some(original) = Original::get() else { return };
    let lab = Lab::new();
    let (src, db) = (tree(&lab), lab.path("index.sqlite"));
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    std::fs::write(src.join("aa-new"), "in front of all others").unwrap();
    original.run(&lab, "index", args!["-c", "-b", src, "-db", db]);
    lab.check(&src, &db, vec![]).code(0);
    let dst = lab.dir("dst");
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, args!["-s", SIZE]).code(0);
    assert_same_files(&src, &dst);
}

/// The original follows symbolic links to files: they are files of its index.
#[test]
fn an_index_of_the_original_with_links() {
    let Some(original) = Original::get() else { return };
    let lab = Lab::new();
    let (src, dst, db) = (tree(&lab), lab.dir("dst"), lab.path("index.sqlite"));
    std::os::unix::fs::symlink("a/large", src.join("link")).unwrap();
    original.run(&lab, "index", args!["-b", src, "-db", db]);
    lab.check(&src, &db, vec![]).code(0);
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, args!["-s", SIZE]).code(0);
    assert_eq!(std::fs::read(dst.join("link")).unwrap(), std::fs::read(src.join("a/large")).unwrap());
    assert!(!dst.join("link").is_symlink());
}
