//! The shared code of the integration tests. A test makes a [`Lab`] (its own temporary folder with
//! its own HOME and TMPDIR), builds folders with [`Tree`], runs the program with
//! `lab.run(args![...])` (captured, with a time limit, no environment but PATH), starts receivers
//! with `lab.proxy(&base)` (killed when dropped), and compares with [`assert_same_tree`], which
//! shares no code with the program. [`http`] speaks raw HTTP, [`index`] makes and reads index
//! databases by plain SQL and makes LZ4 frames as the original program does, [`s3`] serves buckets.
//! A tool that is missing fails the test with the command that installs it ([`need_tool`]);
//! [`skip`] reports what the machine cannot do at all.

#[macro_use]
pub(crate) mod run;
pub(crate) mod device;
pub(crate) mod folding;
pub(crate) mod http;
pub(crate) mod index;
pub(crate) mod link;
pub(crate) mod net;
pub(crate) mod original;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod relay;
pub(crate) mod s3;
pub(crate) mod same;
pub(crate) mod slices;
pub(crate) mod sshd;
pub(crate) mod stop;
pub(crate) mod stress;
pub(crate) mod terminal;
pub(crate) mod tls;
pub(crate) mod tree;

pub(crate) use proxy::Proxy;
pub(crate) use run::{Cmd, Lab, Output, Running};
pub(crate) use same::{assert_same_files, assert_same_tree, tree_diff};
pub(crate) use tree::{Rng, Tree, set_mtime};

use std::io::Write;
use std::time::{Duration, Instant};

/// Fails the test, with the command that installs `tool`, if it is not in PATH.
pub(crate) fn need_tool(tool: &str, install: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    assert!(
        std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()),
        "{tool} is missing; install it with: {install}"
    );
}

/// Reasons for skipping that are accepted where `CI` is set, by their beginnings.
const MAY_SKIP_IN_CI: [(&str, &str); 4] = [
    (
        "this file system has no immutable files",
        "a container may not make them; a folder and a mount in the way, and linkat that fails, are as real",
    ),
    (
        "TARLIKE_ORIGINAL",
        "the original programs are no packages; support::original and blockcopy/peer.py stand in for them",
    ),
    (
        "there is no systemd-analyze here",
        "a container has no systemd, which is a hundred megabytes for the sake of two tests",
    ),
    (
        "no package of the build is here in two releases",
        "it depends on Cargo.lock; headers_under_another_name is as real",
    ),
];

/// Prints past the capture of test output that the running test cannot run here, and why. Where
/// `CI` is set that is a failure, unless [`MAY_SKIP_IN_CI`] has the reason: otherwise every test
/// would succeed on a machine that can do less.
#[track_caller]
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "SKIP {}: {reason}", thread.name().unwrap_or("?"));
    let may = MAY_SKIP_IN_CI.iter().any(|(start, _)| reason.starts_with(start));
    assert!(may || std::env::var_os("CI").is_none(), "CI has to test this: {reason}");
}

/// Waits until `done`, for `patience` at most; then fails the test.
pub(crate) fn wait_until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < patience, "waited {patience:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the tests run as root: owners can be set then, and permissions do not stop reading.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
