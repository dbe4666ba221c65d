//! Keys are opaque bytes; what cannot be a path is named and left out.

use super::Job;
use crate::support::index::{nodes, paths};
use crate::support::s3::{Lists, Object};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn odd_keys_arrive_as_they_are() {
    let job = Job::new();
    let keys: Vec<&[u8]> = vec![
        b" a b",
        b"a&<>\"'b",
        b"a+b",
        b"a/b/c",
        b"a=%2f?#",
        b"dir.d/x",
        b"dir/x",
        b"plain",
        b"z\xff\n",
        b"\x1b[31mred",
        b"tab\there",
        b"...",
        b"a/..b",
        b"%41",
        "\u{fc} \u{1f980}".as_bytes(),
        b"new\nline",
        b"-rf",
        b"back\\slash",
        b"~",
        b"a;b,c:d@e!f*g(h)i'j$k[l]m|n^o`p{q}r",
    ];
    for key in &keys {
        job.stub.put([b"p q+/", *key].concat(), Object::new(*key));
    }
    job.stub.put("p q", Object::new("the prefix is a folder"));
    job.stub.put("p q+", Object::new("the prefix is a folder"));
    for (lists, page) in [(Lists::Both, 3), (Lists::V2Refused, 7), (Lists::V2AsV1, 7)] {
        job.stub.set(|settings| (settings.lists, settings.page) = (lists, page));
        job.index(args!["--s3-prefix", "p q+"]).code(0);
        let mut found = paths(&job.db());
        found.sort();
        let mut expected: Vec<String> = keys.iter().map(|key| key.escape_ascii().to_string()).collect();
        expected.sort();
        assert_eq!(found, expected, "{lists:?}");
    }
    let proxy = job.proxy();
    job.upload(&proxy, args!["--s3-prefix", "p q+"]).code(0);
    for key in &keys {
        let content = std::fs::read(job.dest().join(OsStr::from_bytes(key)));
        assert_eq!(content.ok().as_deref(), Some(*key), "{}", key.escape_ascii());
    }
    job.check(args!["--s3-prefix", "p q+/", "--extra"]).code(0);
}

#[test]
fn keys_of_white_space_arrive() {
    let job = Job::new();
    // Also the placeholder that the SDK gets in place of a key.
    let keys =
        [" ", "\u{a0}", "\t\n", "\u{3000}\u{2003}", "d/ ", "tar-like-key", "tar-like-key./tar-like-key"];
    keys.iter().for_each(|key| job.stub.put(key, Object::new(*key)));
    job.index(vec![]).code(0);
    let proxy = job.proxy();
    job.upload(&proxy, vec![]).code(0);
    let synced = job.lab.path("synced");
    job.cmd(args!["sync", "s3://bkt", synced, "-db", job.lab.path("sync.sqlite")]).run().code(0);
    for key in keys {
        assert_eq!(job.arrived(key).as_deref(), Some(key.as_bytes()), "{key:?}");
        assert_eq!(std::fs::read(synced.join(key)).unwrap(), key.as_bytes(), "{key:?}");
    }
}

#[test]
fn keys_that_are_no_paths_are_named_and_their_neighbours_arrive() {
    let job = Job::new();
    let long = format!("deep/{}", "n".repeat(256));
    let bad = [
        "../up",
        "a/../b",
        "a//b",
        "/absolute",
        "a/.",
        ".",
        long.as_str(),
        "x",
        "y",
        "nul\0byte",
        "end//",
        "fat/",
    ];
    for key in bad {
        job.stub.put(key, Object::new("bad"));
    }
    for key in ["x/below", "x.d", "y/", "good", "a/good"] {
        job.stub.put(key, Object::new(if key.ends_with('/') { "" } else { "good" }));
    }
    job.stub.put(".tar-like/state", Object::new("a receiver's"));
    let output = job.index(vec![]).code(3);
    for key in bad {
        let printable = key.replace('\0', "\\x00");
        assert!(output.stderr.contains(&format!("failed: {printable}: ")), "{key:?}: {}", output.stderr);
    }
    assert!(output.stderr.contains("failed: x: other keys have it as their folder"), "{}", output.stderr);
    assert_eq!(output.stderr.matches("failed: ").count(), bad.len(), "{}", output.stderr);
    assert_eq!(paths(&job.db()), ["a/good", "good", "x/below", "x.d"]);
    let proxy = job.proxy();
    job.upload(&proxy, vec![]).code(0);
    assert_eq!(job.arrived("x/below").unwrap(), b"good");
    assert!(job.dest().join("y").is_dir());
    // The same with `sync`.
    let synced = job.lab.path("synced");
    job.cmd(args!["sync", "s3://bkt", synced, "-db", job.lab.path("sync.sqlite")])
        .run()
        .code(3)
        .says("failed: x: ");
    assert_eq!(std::fs::read(synced.join("a/good")).unwrap(), b"good");
}

#[test]
fn folders_and_order_are_those_of_a_folder() {
    let job = Job::new();
    for key in ["a", "b b/x", "b/", "b/c/d", "b/e/", "b.d/x", "c"] {
        job.stub.put(key, Object::new(if key.ends_with('/') { "" } else { "1" }));
    }
    job.index(vec![]).code(0);
    assert_eq!(paths(&job.db()), ["a", "b/c/d", "b b/x", "b.d/x", "c"]);
    let folders: Vec<String> = nodes(&job.db()).into_iter().map(|(kind, path, _)| kind + &path).collect();
    assert_eq!(folders, ["db", "db/c", "db/e", "db b", "db.d"]);
    job.sync(vec![]).code(0);
    assert!(job.dest().join("b/e").is_dir());
    job.lab.check(&job.dest(), &job.db(), args!["--extra"]).code(0);
}

#[test]
fn exclusion_sees_the_key_below_the_prefix() {
    let job = Job::new();
    for key in ["p/cache/x", "p/cache/y/z", "p/keep/cached", "p/n.tmp", "p/keep/n.tmp.x", "cache/x"] {
        job.stub.put(key, Object::new("1"));
    }
    job.index(args!["--s3-prefix", "p", "-x", "(^|/)cache$", "-x", r"\.tmp$"]).code(0);
    assert_eq!(paths(&job.db()), ["keep/cached", "keep/n.tmp.x"]);
    assert_eq!(nodes(&job.db()).len(), 1);
    // A prefix without keys is an empty, valid transfer.
    job.index(args!["--s3-prefix", "nothing"]).code(0).says("nothing lies below s3://bkt/nothing/");
    let proxy = job.proxy();
    job.upload(&proxy, args!["--s3-prefix", "nothing"]).code(0);
    job.index(args!["--s3-prefix", "a/../b"]).code(2).says("'.' or '..'");
}

#[test]
fn pages_that_go_wrong_do_not_go_on_for_ever() {
    use crate::support::s3::{Fault, On};
    let job = Job::new();
    for number in 0..2500 {
        job.stub.put(format!("k/{number:05}"), Object::new(""));
    }
    // So that the run asks for lists only: no heads of 2,500 objects in each case.
    for (name, fault) in [("always the first page", Fault::SamePage), ("always empty", Fault::EmptyPage)] {
        let output = {
            job.stub.set(|settings| settings.page = 1000);
            job.stub.clear_faults();
            job.stub.fault(On::List, usize::MAX, fault);
            job.index(vec![]).code(1)
        };
        assert!(output.stderr.contains("the list of s3://bkt/ is wrong"), "{name}: {}", output.stderr);
    }
    job.stub.clear_faults();
    job.stub.fault(On::List, 1, Fault::Pass);
    job.stub.fault(On::List, 1, Fault::EmptyPage);
    job.index(vec![]).code(0);
    assert_eq!(paths(&job.db()).len(), 2500);
    job.stub.take();
    job.index(args!["--s3-list-v1"]).code(0);
    assert!(job.stub.take().iter().all(|request| request.param("list-type").is_none()));
    assert_eq!(paths(&job.db()).len(), 2500);
}
