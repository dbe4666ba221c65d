//! The whole job against two independent servers.

use crate::support::index::{self, rows};
use crate::support::s3::{Maker, MotoServer, PythonServer, RcloneServer};
use crate::support::{Lab, Tree, assert_same_files, set_mtime};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn tree(lab: &Lab) -> PathBuf {
    let from = lab.path("from");
    let mut tree = Tree::new(&from, 7);
    tree.noise("large", 11_000_000).text("sub/text", 50_000).file("empty", "").file("sub/empty", "");
    tree.file("sub.d/x", "before the folder in a bucket").file("sub/\u{fc} + &<c.txt", "odd");
    tree.times();
    from
}

/// Many small files.
fn many(root: &Path, count: usize) {
    let mut tree = Tree::new(root, 8);
    for number in 0..count {
        tree.noise(format!("many/{}/f{number}", number % 7), 100 + number);
    }
    tree.times();
}

/// Files of 5 MB and more are uploaded in parts.
fn parts() -> Vec<OsString> {
    args!["--s3-upload-cutoff", "5M", "--s3-chunk-size", "5M"]
}

/// Three lines, and a fourth for the other side.
fn migrate(env: &[(String, String)], from: &Path, lab: &Lab, keeps_nanoseconds: bool) {
    let (db, dest) = (lab.path("index.sqlite"), lab.dir("dest"));
    let proxy = lab.proxy(&dest);
    let s3 = |args: Vec<OsString>| lab.cmd(args).envs(env.to_vec());
    s3(args!["index", "--use-s3", "--s3-prefix", "up", "-db", db]).run().code(0);
    let upload = args!["upload", "--use-s3", "--s3-prefix", "up", "-db", db, "-u", proxy.url, "-s", "1M"];
    s3(upload).args(args!["-dbp", lab.path("progress")]).run().code(0);
    s3(args!["check", "--use-s3", "--s3-prefix", "up/", "-db", db, "--extra"]).run().code(0);
    assert_same_files(from, &dest);
    lab.check(&dest, &db, args!["--extra"]).code(0);
    let (found, expected) = (dest.join("sub/text"), from.join("sub/text"));
    let [found, expected] = [found, expected].map(|path| std::fs::metadata(path).unwrap());
    assert_eq!(found.mtime(), expected.mtime());
    assert!(found.mtime_nsec() == expected.mtime_nsec() || !keeps_nanoseconds);
    drop(proxy);

    let synced = lab.path("synced");
    let sync = || s3(args!["sync", "s3://bkt/up", synced, "-db", lab.path("sync.sqlite"), "--json"]);
    sync().run().code(0);
    assert_same_files(from, &synced);
    lab.check(&synced, &db, args!["--extra"]).code(0);
    // A copy that exists already is adopted.
    let adopted = lab.path("adopted");
    let copied = std::process::Command::new("cp").arg("-aT").args([&dest, &adopted]).status().unwrap();
    assert!(copied.success());
    std::fs::remove_dir_all(adopted.join(".tar-like")).unwrap();
    std::fs::remove_file(adopted.join("sub/text")).unwrap();
    let adopt =
        s3(args!["sync", "s3://bkt/up", adopted, "-db", lab.path("adopt.sqlite"), "--json", "--adopt"]);
    assert_eq!(adopt.run().code(0).summary()["sent_bytes"], 50_000);
    assert_same_files(from, &adopted);
    // Nothing changed: no object is read, and nothing is sent.
    let again = sync().run().code(0);
    let summary: serde_json::Value = serde_json::from_str(again.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&summary["sent_bytes"], &summary["index"]["unchanged"]),
        (&0.into(), &true.into()),
        "{summary}"
    );
}

#[test]
fn a_bucket_of_rclone_arrives() {
    let lab = Lab::new();
    let server = RcloneServer::start();
    let from = tree(&lab);
    server.client().copy(&from, "bkt/up", parts());
    // Directly on its disk, and only a few: this server takes seconds for each file that is
    // uploaded into a folder with many files, and reads all folders for each requested file, which
    // took minutes for 300 files.
    many(&from, 90);
    many(&server.bucket_dir("bkt").join("up"), 90);
    migrate(&server.env("bkt"), &from, &lab, false);
}

#[test]
fn a_bucket_of_moto_arrives_with_etags_of_parts() {
    let lab = Lab::new();
    let server = MotoServer::start();
    server.create_bucket("bkt");
    server.keep_versions("bkt");
    let from = tree(&lab);
    many(&from, 300);
    server.client().copy(&from, "bkt/up", parts());
    migrate(&server.env("bkt"), &from, &lab, true);
    let db = lab.path("index.sqlite");
    let large = rows(&db).into_iter().find(|row| row.path == b"large").unwrap();
    assert_eq!(large.hash, index::md5_hex(&std::fs::read(from.join("large")).unwrap()));
    let (etag, version): (String, String) = index::open(&db)
        .query_row("SELECT etag, version FROM tarlike_object WHERE id = ?", [large.id], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert!(etag.ends_with("-3") && version.len() > 5, "{etag} {version}");
}

#[test]
fn buckets_of_smaller_servers_arrive() {
    for maker in [Maker::LocalBucket, Maker::MiniStack, Maker::Nanio] {
        let lab = Lab::new();
        let server = PythonServer::start(maker);
        let from = tree(&lab);
        many(&from, 20);
        server.client().copy(&from, "bkt/up", parts());
        // localbucket stores no metadata.
        if maker == Maker::LocalBucket {
            without_times(&server.env("bkt"), &from, &lab);
        } else {
            migrate(&server.env("bkt"), &from, &lab, true);
        }
    }
}

/// A store that keeps no times of files.
fn without_times(env: &[(String, String)], from: &Path, lab: &Lab) {
    let synced = lab.path("synced");
    let sync =
        || lab.cmd(args!["sync", "s3://bkt/up", synced, "-db", lab.path("sync.sqlite")]).envs(env.to_vec());
    sync().run().code(0);
    assert_same_files(from, &synced);
    let again = sync().args(args!["--json"]).run().code(0);
    assert_eq!(again.summary()["index"]["unchanged"], true);
    for list in [args!["--s3-prefix", "up"], args!["--s3-prefix", "up", "--s3-list-v1"]] {
        let check = args!["check", "--use-s3", "-db", lab.path("sync.sqlite"), "--extra"];
        lab.cmd(check).args(list).envs(env.to_vec()).run().code(0);
    }
}

#[test]
fn https_is_verified_unless_told_otherwise() {
    let lab = Lab::new();
    let server = RcloneServer::start_tls();
    let file = server.bucket_dir("bkt").join("file");
    std::fs::write(&file, "content").unwrap();
    set_mtime(&file, 1_000_000_000_000_000_000);
    let index =
        |name: &str| lab.cmd(args!["index", "--use-s3", "-db", lab.path(name)]).envs(server.env("bkt"));
    let refused = index("a").run().code(1).says("certificate").says("AWS_CA_BUNDLE");
    assert!(!refused.stderr.contains("NOT verified"), "{}", refused.stderr);
    index("b").env("AWS_CA_BUNDLE", server.ca_file()).run().code(0);
    index("c").args(args!["--s3-ca-file", server.ca_file()]).run().code(0);
    index("d").env("TARLIKE_S3_TLS_VERIFY", "no").run().code(0).says("NOT verified");
    index("e").args(args!["--s3-ignore-ca"]).run().code(0).says("NOT verified");
    assert_eq!(index::paths(&lab.path("d")), ["file"]);
    index("f").env("AWS_CA_BUNDLE", lab.file("no.pem", "none")).run().code(2).says("no.pem");
    index("g")
        .env("AWS_SECRET_ACCESS_KEY", "wrong")
        .args(args!["--s3-ignore-ca"])
        .run()
        .code(1)
        .says("SignatureDoesNotMatch");
}
