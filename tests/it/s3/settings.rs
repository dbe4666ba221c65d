//! Flags and variables, and secrets that must never be shown.

use super::Job;
use crate::support::Lab;
use crate::support::index::paths;
use crate::support::s3::{KEY, Object, RcloneServer, SECRET, percent_encode};

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

/// Gives each connection this answer; without one, none is accepted. Ends with the process.
fn answering(answer: Option<&'static str>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Some(answer) = answer {
            use std::io::{Read, Write};
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = stream.read(&mut [0; 8192]);
            let _ = write!(stream, "{answer}");
        }
        std::thread::park();
        drop(listener);
    });
    format!("http://{address}")
}

fn answer(head: &str, body: &str) -> &'static str {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").leak()
}

/// The failure, the address of the store, the environment, and what the message has.
type StoreFailure<'a> = (&'a str, String, &'a [(&'a str, &'a str)], &'a [&'a str]);

/// Each failure names the store, the bucket, status and code where there was an answer, and what to
/// do. None shows how the SDK is made.
#[test]
fn every_failure_says_where_what_and_what_to_do() {
    let html = "<!DOCTYPE html><html><body>It works!</body></html>";
    let redirect = "<Error><Code>PermanentRedirect</Code><Message>Use the endpoint.</Message></Error>";
    let malformed = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong; \
                     expecting 'eu-west-1'</Message></Error>";
    let elsewhere = "301 Moved Permanently\r\nx-amz-bucket-region: eu-west-1";
    let (store, tls) = (RcloneServer::start(), RcloneServer::start_tls());
    let key = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let wrong_key = [("AWS_ACCESS_KEY_ID", "NOBODY"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let wrong_secret = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rclone = store.endpoint().to_owned();
    let cases: Vec<StoreFailure<'_>> = vec![
        ("no credentials", rclone.clone(), &[], &["there are no credentials", "AWS_ACCESS_KEY_ID"]),
        ("no credentials, AWS", String::new(), &[], &["there are no credentials", "AWS_ACCESS_KEY_ID"]),
        ("no profile", rclone.clone(), &[("AWS_PROFILE", "nobody")], &["there are no credentials"]),
        (
            "wrong key",
            rclone.clone(),
            &wrong_key,
            &["status 403", "InvalidAccessKeyId", "are the credentials right"],
        ),
        (
            "wrong secret",
            rclone.clone(),
            &wrong_secret,
            &["status 403", "SignatureDoesNotMatch", "are the credentials right"],
        ),
        ("no bucket", rclone, &key, &["status 404", "NoSuchBucket", "is the bucket's name right"]),
        (
            "redirect",
            answering(Some(answer(elsewhere, redirect))),
            &key,
            &["status 301, PermanentRedirect", "give --s3-region eu-west-1"],
        ),
        (
            "wrong region",
            answering(Some(answer("400 Bad Request", malformed))),
            &key,
            &["status 400", "expecting 'eu-west-1'", "--s3-region"],
        ),
        (
            "TLS",
            tls.endpoint().to_owned(),
            &key,
            &["the certificate of the store is refused: it", "AWS_CA_BUNDLE"],
        ),
        (
            "no TLS",
            answering(Some(answer("200 OK", html))).replace("http:", "https:"),
            &key,
            &["does not speak TLS", "is the endpoint right"],
        ),
        ("refused", format!("http://{refused}"), &key, &["Connection refused", "is the endpoint right"]),
        ("HTML", answering(Some(answer("200 OK", html))), &key, &["a web page", "is the endpoint right"]),
        (
            "HTML 404",
            answering(Some(answer("404 Not Found", html))),
            &key,
            &["status 404", "a web page", "is the endpoint right"],
        ),
        ("silence", answering(None), &key, &["timed out", "--s3-timeout"]),
    ];
    std::thread::scope(|scope| {
        let running: Vec<_> =
            cases.into_iter().map(|case| (case.0, scope.spawn(move || fails(case)))).collect();
        let faults: Vec<_> =
            running.into_iter().filter_map(|(name, thread)| Some((name, thread.join().unwrap()?))).collect();
        assert!(faults.is_empty(), "{faults:#?}");
    });
}

/// What is wrong with the error of a case.
fn fails((_, endpoint, env, words): StoreFailure<'_>) -> Option<String> {
    let lab = Lab::new();
    let mut cmd = lab.cmd(args!["index", "s3://nobodys-bucket", "-db", lab.path("i"), "--s3-timeout", "1"]);
    // No host answers for its role here.
    cmd = cmd.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", lab.path("none"));
    for (name, value) in env {
        cmd = cmd.env(name, value);
    }
    let place = if endpoint.is_empty() { "AWS, region us-east-1" } else { &endpoint };
    if !endpoint.is_empty() {
        cmd = cmd.env("TARLIKE_S3_ENDPOINT", &endpoint);
    }
    let output = cmd.run();
    let said = &output.stderr;
    let inside = [
        "DispatchFailure",
        "ServiceError",
        "Some(",
        "Error {",
        "OtherError",
        "IMDS",
        "error sending",
        "(Connect)",
    ];
    let always = ["s3://nobodys-bucket/", place, "hint:"];
    let lacks: Vec<_> = words.iter().chain(&always).filter(|word| !said.contains(**word)).collect();
    let shows: Vec<_> = inside.iter().filter(|word| said.contains(**word)).collect();
    let is_good = output.code == 1 && lacks.is_empty() && shows.is_empty();
    (!is_good).then(|| format!("exit {}, lacks {lacks:?}, shows {shows:?}: {said}", output.code))
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
    job.upload(&proxy, vec![]).code(3).says("failed: file: ");
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
