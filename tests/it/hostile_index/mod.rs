//! Index files that are made to do harm: each is refused, nothing is written, no archive is
//! activated, memory stays bounded, and the receiver goes on serving (P10, P11, FORMAT.md 13).

mod extents;
mod files;
mod rows;
mod schemas;

use crate::support::http::Response;
use crate::support::index;
use crate::support::stress::{fingerprint, peak_kib};
use crate::support::{Lab, Proxy, Tree, assert_same_tree};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// P11, with no block in flight; and 4 MiB for the code of a program that is hardly optimised, which
/// counts as its memory.
const MEMORY_KIB: u64 = (64 + 4) << 10;

struct Setting {
    lab: Lab,
    proxy: Proxy,
    src: PathBuf,
    dst: PathBuf,
    good: PathBuf,
    outside: PathBuf,
    before: Vec<String>,
    next: AtomicU64,
}

impl Setting {
    /// A receiver that asks for no digest, so only the content of the index decides.
    fn new(more: Vec<std::ffi::OsString>) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 230);
        tree.noise("a", 1500).noise("d/b", 200).file("empty", "").dir("e").noise("z", 300);
        tree.symlink("link", "a").hardlink("hard", "a").times();
        let good = lab.index(&src);
        let outside = lab.dir("outside");
        std::fs::write(outside.join("victim"), "untouched").unwrap();
        let before = fingerprint(&outside);
        let proxy = lab.proxy_with(&dst, [args!["--legacy"], more].concat());
        Self { lab, proxy, src, dst, good, outside, before, next: AtomicU64::new(1) }
    }

    /// A copy of the good index, changed by `sql`, in which `OUTSIDE` stands for a folder that must
    /// not be touched.
    fn changed(&self, sql: &str) -> PathBuf {
        let path = self.lab.path(&format!("bad-{}.sqlite", self.next.fetch_add(1, Ordering::Relaxed)));
        std::fs::copy(&self.good, &path).unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        let sql = sql.replace("OUTSIDE", self.outside.to_str().unwrap());
        connection.execute_batch("PRAGMA journal_mode=DELETE;").unwrap();
        // An attacker who edits rows also removes their digest.
        let _ = connection.execute_batch("DELETE FROM tarlike_meta WHERE key IN ('rows', 'counter')");
        connection.execute_batch(&sql).unwrap_or_else(|e| panic!("{e} in {sql}"));
        drop(connection);
        path
    }

    /// Puts the database at `path` as the index of a new archive.
    fn put(&self, path: &Path) -> (u64, Response) {
        self.put_body(&index::frame_of(path))
    }

    fn put_body(&self, body: &[u8]) -> (u64, Response) {
        let tar_id = self.next.fetch_add(1, Ordering::Relaxed);
        (tar_id, self.proxy.request("PUT", &format!("/tar/{tar_id}/db"), &[], body))
    }

    /// Fails unless the index was refused without any effect.
    #[track_caller]
    fn refused(&self, what: &str, (tar_id, answer): (u64, Response), status: u16) {
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let error = answer.json()["error"].to_string();
        assert!(error.len() > 10, "{what}: {error}");
        let known = self.proxy.request("GET", &format!("/tar/{tar_id}/status"), &[], b"");
        assert_eq!(known.status, 404, "{what} is active: {}", known.text());
        self.nothing_written(what);
    }

    #[track_caller]
    fn nothing_written(&self, what: &str) {
        let names = |path: &Path| -> Vec<_> {
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        assert_eq!(names(&self.dst), [".tar-like"], "{what}");
        for folder in ["incoming", "archives", "staging"] {
            assert!(names(&self.dst.join(".tar-like").join(folder)).is_empty(), "{what}: left in {folder}");
        }
        assert_eq!(fingerprint(&self.outside), self.before, "{what}: the outside was touched");
    }

    /// Memory stayed bounded, and a good transfer succeeds.
    #[track_caller]
    fn still_good(self) {
        let peak = peak_kib(self.proxy.pid());
        println!("{} of {MEMORY_KIB} KiB", peak);
        assert!(peak <= MEMORY_KIB, "{peak} KiB of memory");
        self.lab.upload(&self.src, &self.good, &self.proxy.url, args!["-s", "700"]).code(0);
        assert_same_tree(&self.src, &self.dst);
        assert_eq!(fingerprint(&self.outside), self.before);
    }

    #[track_caller]
    fn all_refused(self, cases: &[(&str, &str)]) {
        for (what, sql) in cases {
            let bad = self.changed(sql);
            self.refused(what, self.put(&bad), 422);
        }
        println!("{} indexes refused", cases.len());
        self.still_good();
    }
}
