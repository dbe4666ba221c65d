//! Archives that are received into one folder: one of them puts entries in place while another one
//! deletes or adopts.

use crate::support::folding::Folding;
use crate::support::stress::free_port;
use crate::support::{Lab, Tree, index, wait_until};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

const TIME: i64 = 1_750_000_000_000_000_000;

fn sync(lab: &Lab, name: &str, to: impl AsRef<OsStr>, tar_id: &str, more: &[&str]) -> crate::support::Cmd {
    let (db, dbp) = (lab.path(&format!("{name}.sqlite")), lab.path(&format!("{name}.dbp")));
    let flags = args!["sync", lab.path(name), to, "-db", db, "-dbp", dbp, "--tar-id", tar_id, "--json"];
    lab.cmd(flags).args(more.iter().map(std::ffi::OsString::from).collect())
}

fn content(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| format!("{}: {e}", path.display()))
}

/// One archive begins, and another one gets a new index, while a third one deletes: their entries
/// stay.
#[test]
fn files_published_by_others_during_a_deletion_stay() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    let mut a = Tree::new(&lab.path("a"), 1);
    for number in 0..300 {
        a.file(format!("gone/{number:03}"), "gone");
    }
    for name in ["yy", "zz"] {
        a.file(name, "content").mtime(name, TIME);
    }
    a.file("stays", "stays").symlink("zl", "stays").file("ze", "").mtime("ze", TIME);
    Tree::new(&lab.path("b"), 2).file("first", "first");
    // The receiver starts without strace, which would delay each of its renames.
    let url = {
        let proxy = lab.proxy(&dst);
        sync(&lab, "a", &proxy.url, "0", &[]).run().code(0);
        sync(&lab, "b", &proxy.url, "1", &[]).run().code(0);
        let port = free_port();
        drop(proxy);
        port
    };
    let proxy = lab.proxy_cmd(url, &dst).inject(&["renameat:delay_enter=20000"], &[]).serve();
    for name in ["gone", "yy", "zz", "zl", "ze"] {
        a.remove(name);
    }
    let deleting = sync(&lab, "a", &proxy.url, "0", &["--delete"]).spawn();
    let left = || std::fs::read_dir(dst.join("gone")).map_or(0, Iterator::count);
    wait_until("it deletes", Duration::from_secs(60), || left() < 300);
    assert!(left() > 200, "too late");
    // One archive that was there before, and one that begins.
    Tree::new(&lab.path("b"), 2).file("yy", "content").mtime("yy", TIME);
    let mut c = Tree::new(&lab.path("c"), 3);
    c.file("zz", "content").mtime("zz", TIME).file("ze", "").mtime("ze", TIME).symlink("zl", "stays");
    let others = [("b", "1"), ("c", "2")].map(|(name, id)| sync(&lab, name, &proxy.url, id, &[]).spawn());
    others.into_iter().for_each(|other| drop(other.wait().code(0)));
    deleting.wait().code(0);
    assert_eq!(left(), 0);
    for (name, expected) in [("yy", "content"), ("zz", "content"), ("ze", "")] {
        assert_eq!(content(&dst.join(name)), expected, "{name}\n{}", proxy.stderr());
    }
    assert!(dst.join("zl").is_symlink());
    drop(proxy);
}

/// Where names that differ in case only are the same: the other archive has the same file under
/// another spelling.
#[test]
fn files_of_another_archive_stay_under_another_spelling() {
    let lab = Lab::new();
    let Some(disk) = Folding::mount(&lab, "dst") else { return };
    let mut a = Tree::new(&lab.path("a"), 1);
    a.file("Same", "content").mtime("Same", TIME).file("D/F", "in d").mtime("D/F", TIME);
    a.file("goes", "goes").file("stays", "stays").symlink("Link", "stays");
    let mut b = Tree::new(&lab.path("b"), 2);
    b.file("same", "content").mtime("same", TIME).file("d/f", "in d").mtime("d/f", TIME);
    b.symlink("link", "stays").file("other", "other");
    let proxy = lab.proxy(&disk.path);
    let run = |name: &str, id: &str, more: &[&str]| sync(&lab, name, &proxy.url, id, more).run().code(0);
    run("a", "0", &[]);
    run("b", "1", &[]);
    a.remove("Same").remove("D").remove("goes").remove("Link");
    for round in 0..2 {
        run("a", "0", &["--delete"]);
        assert_eq!(content(&disk.path.join("same")), "content", "{round}\n{}", proxy.stderr());
        assert_eq!(content(&disk.path.join("d/f")), "in d", "{round}");
        assert!(disk.path.join("link").is_symlink(), "{round}");
        assert!(!disk.path.join("goes").exists(), "{round}");
    }
    // The archive's own deletion removes it.
    b.remove("same").remove("d").remove("link");
    run("b", "1", &["--delete"]);
    for name in ["same", "d", "link"] {
        assert!(disk.path.join(name).symlink_metadata().is_err(), "{name}");
    }
    drop(proxy);
}

/// An archive begins between an adoption and the index that is to use the adopted files.
#[test]
fn an_archive_that_begins_ends_an_adoption() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("a"), lab.dir("dst"));
    Tree::new(&src, 1).file("f", "content").mtime("f", TIME);
    Tree::new(&dst, 2).file("f", "content").mtime("f", TIME).file("old", "old").mtime("old", TIME);
    Tree::new(&lab.path("b"), 3).file("old", "old").mtime("old", TIME);
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    wait_until("the receiver has read what is there", Duration::from_secs(60), || {
        proxy.request("POST", "/tar/0/adopt", &[], br#"{"name":7}"#).status == 200
    });
    sync(&lab, "b", &proxy.url, "1", &[]).run().code(0);
    let digest = index::digest(&db);
    let put = |more: &[(&str, &str)]| {
        let headers = [&[("x-tar-like-index", &*digest)][..], more].concat();
        proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(&db))
    };
    let refused = put(&[("x-tar-like-adopt", "7")]);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("archive 1 is received into this folder, too"), "{}", refused.text());
    assert_eq!(put(&[]).status, 200);
}
