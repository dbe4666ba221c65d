//! A Hitachi Content Platform, as the stub imitates it: the namespace before the host, no newer
//! checksums, keys of its own.

use super::Job;
use crate::support::Lab;
use crate::support::index::paths;
use crate::support::s3::{Object, Stub};

#[test]
fn an_hcp_is_read_by_its_own_addressing() {
    let job = Job { stub: Stub::start_hcp("name-space"), ..Job::new() };
    for number in 0..30 {
        job.stub.put(format!("d/{number:02}"), Object::new(format!("content {number}")));
    }
    job.stub.set(|settings| settings.page = 10);
    let index = |more| {
        let cmd = job.lab.cmd(args!["index", "--use-s3", "-c", "-db", job.db()]).args(more);
        cmd.envs(job.stub.as_proxy()).run()
    };
    index(vec![]).code(1).says("--s3-addressing virtual");
    index(args!["--s3-addressing", "virtual"]).code(0);
    assert_eq!(paths(&job.db()).len(), 30);
    let proxy = job.proxy();
    let upload = args!["upload", "--use-s3", "-db", job.db(), "-u", proxy.url, "--s3-addressing", "virtual"];
    let no_proxy = ("no_proxy".to_string(), "127.0.0.1".to_string());
    job.stub.take();
    job.lab.cmd(upload).envs(job.stub.as_proxy()).envs(vec![no_proxy]).run().code(0);
    assert_eq!(job.arrived("d/29").unwrap(), b"content 29");
    for request in job.stub.take() {
        assert!(request.is_virtual_host() && request.status == 206, "{request:?}");
        assert!(request.header("authorization").unwrap().starts_with("AWS4-HMAC-SHA256 "));
        assert!(!request.headers.iter().any(|(name, _)| name.contains("checksum")), "{request:?}");
    }
}

#[test]
fn names_are_resolved_where_there_is_no_proxy() {
    let job = Job { stub: Stub::start_hcp("name-space"), ..Job::new() };
    job.stub.put("k", Object::new("content"));
    let index = args!["index", "--use-s3", "-c", "-db", job.db()];
    let cmd = job.lab.cmd(index).env("TARLIKE_S3_ADDRESSING", "virtual");
    let Some(cmd) = job.stub.named(&job.lab, cmd) else { return };
    cmd.run().code(0);
    assert_eq!(paths(&job.db()), ["k"]);
}

#[test]
fn keys_are_derived_from_user_and_password() {
    let lab = Lab::new();
    let file = lab.file("secret.txt", "lgreen\np4ssw0rd '$\u{fc}\n");
    let output = lab.run(args!["hcp-credentials", file]).code(0);
    // printf %s "p4ssw0rd '$ü" | md5sum
    let secret = crate::support::index::md5_hex("p4ssw0rd '$\u{fc}".as_bytes());
    let expected = format!("export AWS_ACCESS_KEY_ID='bGdyZWVu'\nexport AWS_SECRET_ACCESS_KEY='{secret}'\n");
    assert_eq!(output.stdout, expected);
    assert!(!output.stderr.contains("p4ss"), "{}", output.stderr);
    lab.run(args!["hcp-credentials", lab.file("half", "lgreen\n")]).code(2).says("is empty");
    lab.run(args!["hcp-credentials", lab.path("none")]).code(2).says("none");
}

#[test]
fn the_terminal_is_asked_and_shows_no_password() {
    crate::support::need_tool("script", "apt-get install bsdutils");
    let lab = Lab::new();
    let program = env!("CARGO_BIN_EXE_tar-like");
    let answers = "sleep 0.5; echo lgreen; sleep 0.5; echo p4ssw0rd; sleep 0.5";
    let line = format!("({answers}) | script -qec '{program} hcp-credentials' /dev/null");
    let output =
        std::process::Command::new("sh").args(["-c", &line]).current_dir(lab.path("home")).output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    let secret = crate::support::index::md5_hex(b"p4ssw0rd");
    assert!(seen.contains("HCP user: ") && seen.contains("HCP password: "), "{seen}");
    assert!(seen.contains("bGdyZWVu") && seen.contains(&secret), "{seen}");
    assert!(seen.contains("lgreen") && !seen.contains("p4ssw0rd"), "{seen}");
}
