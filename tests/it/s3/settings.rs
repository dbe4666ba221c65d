//! Flags and variables, and secrets that must never be shown.

use super::Job;
use crate::support::index::paths;
use crate::support::s3::{KEY, Object, SECRET, percent_encode};

const TOKEN: &str = "session/token+of-the-test";

#[test]
fn secrets_are_in_no_output_however_much_is_said() {
    let job = Job::new();
    job.stub.put("k", Object::new("content"));
    let index = |more: Vec<std::ffi::OsString>| {
        job.cmd(args!["index", "--use-s3", "-c", "-db", job.db(), "-vvv"])
            .args(more)
            .env("AWS_SESSION_TOKEN", TOKEN)
    };
    let good = index(vec![]).run().code(0);
    let json = index(args!["--json"]).run().code(0);
    let bad = index(vec![]).env("TARLIKE_S3_BUCKET", "other").run().code(1);
    let nowhere = index(vec![]).env("TARLIKE_S3_ENDPOINT", "http://127.0.0.1:1").run().code(1);
    let user = index(vec![]).env("TARLIKE_S3_ENDPOINT", "http://user:test%2Fsecret@127.0.0.1:1");
    let user = user.run().code(2).says("no user and no password");
    let help = job.cmd(args!["index", "--help"]).run().code(0);
    for output in [good, json, bad, nowhere, user, help] {
        let said = output.stdout.clone() + &output.stderr;
        for secret in [SECRET, TOKEN, &percent_encode(TOKEN.as_bytes()), "Signature="] {
            assert!(!said.contains(secret), "{secret} is in\n{said}");
        }
    }
    // The secrets were in use.
    let asked = job.stub.take();
    assert!(asked.iter().any(|request| request.header("x-amz-security-token") == Some(TOKEN)));
}

#[test]
fn credentials_come_from_variables_profiles_or_nowhere() {
    let job = Job::new();
    job.stub.put("k", Object::new("content"));
    let plain = |more: Vec<std::ffi::OsString>| {
        let cmd = job.lab.cmd(args!["index", "--use-s3", "-c", "-db", job.db(), "--s3-bucket", "bkt"]);
        cmd.args(args!["--s3-endpoint", job.stub.endpoint()]).args(more)
    };
    let signer = || {
        let asked = job.stub.take();
        asked.last().unwrap().header("authorization").map(str::to_owned)
    };
    plain(args!["--no-sign-request"]).run().code(0);
    assert_eq!(signer(), None);
    plain(vec![])
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .run()
        .code(1)
        .says("AWS_ACCESS_KEY_ID")
        .says("--no-sign-request");
    assert_eq!(job.stub.take().len(), 0);
    let home = job.lab.dir("home/.aws");
    std::fs::write(
        home.join("credentials"),
        "[default]\naws_access_key_id=DEFAULT\naws_secret_access_key=a\n[other]\naws_access_key_id=OTHER\naws_secret_access_key=b\n",
    )
    .unwrap();
    std::fs::write(home.join("config"), "[profile other]\nregion=eu-somewhere-7\n").unwrap();
    plain(vec![]).run().code(0);
    assert!(signer().unwrap().contains("Credential=DEFAULT/"));
    plain(args!["--s3-profile", "other"]).run().code(0);
    let signed = signer().unwrap();
    assert!(signed.contains("Credential=OTHER/") && signed.contains("/eu-somewhere-7/s3/"), "{signed}");
    plain(args!["--s3-profile", "other", "--s3-region", "mars-1"]).run().code(0);
    assert!(signer().unwrap().contains("/mars-1/s3/"));
    plain(vec![]).envs(job.stub.env()).run().code(0);
    let signed = signer().unwrap();
    assert!(signed.contains(&format!("Credential={KEY}/")) && signed.contains("/us-east-1/s3/"), "{signed}");
    // A profile named by a flag wins over keys of the environment.
    plain(args!["--s3-profile", "other"]).envs(job.stub.env()).run().code(0);
    let signed = signer().unwrap();
    assert!(signed.contains("Credential=OTHER/"), "{signed}");
    assert_eq!(paths(&job.db()), ["k"]);
}

#[test]
fn missing_and_wrong_settings_are_named() {
    let job = Job::new();
    let index = |more| job.lab.cmd(args!["index", "--use-s3", "-db", job.db()]).args(more).run();
    index(vec![]).code(2).says("TARLIKE_S3_BUCKET");
    index(args!["--s3-bucket", "a/b"]).code(2).says("is no name of a bucket");
    index(args!["--s3-bucket", "bkt", "--s3-endpoint", "s3.example.org"])
        .code(2)
        .says("https://s3.example.org");
    job.lab.run(args!["index", "--s3-no-md5", "-db", job.db()]).code(2).says("--use-s3");
    // An index of a folder has no objects.
    let folder = job.lab.dir("folder");
    std::fs::write(folder.join("file"), "content").unwrap();
    job.lab.run(args!["index", "-b", folder, "-db", job.db()]).code(0);
    let proxy = job.proxy();
    job.upload(&proxy, vec![]).code(3).says("it is no index of a bucket");
    // Another user's bucket.
    job.cmd(args!["sync", "s3://other/x", job.lab.path("elsewhere"), "-db", job.lab.path("o.sqlite")])
        .run()
        .code(1)
        .says("NoSuchBucket");
    // A copy into a folder needs no local source folder.
    job.stub.put("x/k", Object::new("content"));
    let copy = job.lab.path("copy");
    job.cmd(args!["sync", "s3://bkt/x/", copy, "-db", job.lab.path("s.sqlite"), "--dry-run"]).run().code(0);
    assert!(!copy.exists());
    job.cmd(args!["sync", "s3://bkt/x/", copy, "-db", job.lab.path("s.sqlite")]).run().code(0);
    assert_eq!(std::fs::read(copy.join("k")).unwrap(), b"content");
}
