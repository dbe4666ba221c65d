//! Where settings come from: flag, environment, `~/.tar_like_rc`, default; and what a settings file
//! cannot do.

use crate::support::{Lab, Tree, assert_same_tree, is_root};
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn rc(lab: &Lab, text: impl AsRef<[u8]>) -> PathBuf {
    let path = lab.file("home/.tar_like_rc", text);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// The setting `name` as `config --json` shows it.
#[track_caller]
fn setting(lines: &[Value], name: &str) -> Value {
    lines
        .iter()
        .find(|line| line["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {lines:#?}"))
        .clone()
}

/// The database that the command really writes shows which setting counted.
#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 800).noise("a", 100);
    rc(&lab, format!("# mine\nexport TARLIKE_DATABASE='{}'\n", lab.path("rc.sqlite").display()));
    let made = |name: &str| lab.path(name).exists();
    let index = || lab.cmd(args!["index", "-b", src]);
    index().env("TARLIKE_RC", "").run().code(0);
    assert!(made("home/.tar_like.sqlite") && !made("rc.sqlite"), "the default");
    index().run().code(0);
    assert!(made("rc.sqlite") && !made("env.sqlite"), "the file");
    index().env("TARLIKE_DATABASE", lab.path("env.sqlite")).run().code(0);
    assert!(made("env.sqlite"), "the environment");
    let flag =
        index().env("TARLIKE_DATABASE", lab.path("env.sqlite")).args(args!["-db", lab.path("flag.sqlite")]);
    flag.run().code(0);
    assert!(made("flag.sqlite"), "the flag");
    // An empty variable counts as not set, but hides the file's value.
    std::fs::remove_file(lab.path("home/.tar_like.sqlite")).unwrap();
    index().env("TARLIKE_DATABASE", "").run().code(0);
    assert!(made("home/.tar_like.sqlite"));
}

/// A line that may have been a token must not be ignored silently: without a token, every client
/// would be served.
#[test]
fn a_receiver_does_not_start_without_a_token_that_may_be_in_its_file() {
    let lab = Lab::new();
    let dst = lab.path("dst");
    let start = |more: Vec<std::ffi::OsString>| lab.cmd(args!["proxy", "0", "-b", dst]).args(more);
    rc(&lab, format!("true; if true; then\nA=1\nfi\nTARLIKE_TOKEN={SECRET}\n"));
    start(vec![]).run().code(2).says("no token is given").says("line 1");
    assert!(!dst.exists());
    let token = lab.file("token", SECRET);
    drop(lab.proxy_with(&dst, args!["--token-file", token]));
    drop(lab.proxy_with(&dst, args!["--insecure"]));
    rc(&lab, "A=1\n");
    drop(lab.proxy(&dst));
}

/// If the home is the base folder, or a link in it leads there, a sender could make settings for
/// the next start.
#[test]
fn a_settings_file_in_the_base_folder_is_refused() {
    let lab = Lab::new();
    let dst = lab.dir("home/copy");
    let rc = |at: &Path| {
        std::fs::write(at, format!("TARLIKE_TOKEN={SECRET}\n")).unwrap();
        std::fs::set_permissions(at, PermissionsExt::from_mode(0o600)).unwrap();
    };
    rc(&dst.join(".tar_like_rc"));
    let start = |dst: &Path, home: &Path| lab.cmd(args!["proxy", "0", "-b", dst]).env("HOME", home).run();
    start(&dst, &dst).code(2).says("a sender may have written it");
    let token = lab.file("token", "another-0123456789abcdef");
    let other = lab.cmd(args!["proxy", "0", "-b", dst, "--token-file", token]).env("HOME", &dst);
    other.run().code(2).says("TARLIKE_RC=");
    std::fs::rename(dst.join(".tar_like_rc"), lab.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(lab.path("elsewhere"), dst.join(".tar_like_rc")).unwrap();
    start(&dst, &dst).code(2).says("a sender may have written it");
}

#[test]
fn the_template_has_the_settings_of_a_transfer() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 801).rich(20_000);
    let token = lab.file("token", SECRET);
    let proxy = lab.proxy_with(&dst, args!["--token-file", token]);
    rc(&lab, format!("TARLIKE_TOKEN={SECRET}\nTARLIKE_UPLOAD_URL={}\nLOGLEVEL=DEBUG\n", proxy.url));
    let db = lab.index(&src);
    let sent = lab.run(args!["upload", "-b", src, "-db", db]).code(0);
    assert_same_tree(&src, &dst);
    assert!(sent.stderr.contains("DEBUG"), "{}", sent.stderr);
    assert!(!sent.stderr.contains(SECRET), "{}", sent.stderr);
    // A token of the environment is another source than the file's, so it counts alone.
    let wrong = lab.file("wrong", "another-secret-of-some-length");
    let again = |cmd: crate::support::Cmd| cmd.args(args!["-b", src, "-db", db, "--ignore-done"]).run();
    again(lab.cmd(args!["upload"]).env("TARLIKE_TOKEN_FILE", wrong)).code(1);
    let right = lab.file("right", SECRET);
    rc(&lab, format!("TARLIKE_TOKEN_FILE={}\n", lab.path("wrong").display()));
    again(lab.cmd(args!["upload", "-u", proxy.url]).env("TARLIKE_TOKEN", SECRET)).code(0);
    again(lab.cmd(args!["upload", "-u", proxy.url, "--token-file", right])).code(0);
    again(lab.cmd(args!["upload", "-u", proxy.url])).code(1);
}

/// Settings that libraries read instead of clap: the HTTP client its proxy, the TLS library its
/// certificates, the SDK its keys.
#[test]
fn libraries_see_the_file_too() {
    let lab = Lab::new();
    let src = lab.path("src");
    Tree::new(&src, 802).noise("a", 100);
    let db = lab.index(&src);
    let upload = || {
        lab.cmd(args![
            "upload",
            "-b",
            src,
            "-db",
            db,
            "-u",
            "http://receiver.invalid/tar",
            "--stall-timeout",
            "1"
        ])
    };
    // A proxy on the way that is none, and answers: the error quotes the answer.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).unwrap();
        stream
            .write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    });
    rc(&lab, format!("http_proxy=http://{address}\n"));
    upload().run().code(1);
    let request = asked.join().unwrap();
    assert!(request.starts_with("GET http://receiver.invalid/tar/0/status"), "{request}");
    rc(&lab, format!("SSL_CERT_FILE={}\n", lab.path("no-such-ca.pem").display()));
    let lines = lab.run(args!["config", "--json"]).code(0).json();
    assert_eq!(setting(&lines, "SSL_CERT_FILE")["line"], 1);
}

#[test]
fn config_tells_values_and_where_they_are_from() {
    let lab = Lab::new();
    let path = rc(
        &lab,
        format!(
            "TARLIKE_WORKERS=7\n\nTARLIKE_BWLIMIT=10M\nexport TARLIKE_TOKEN={SECRET}\nAWS_SECRET_ACCESS_KEY={SECRET}\n\
             TARLIKE_S3_ENDPOINT=https://me:{SECRET}@s3.example.org/\nhttps_proxy=http://me:{SECRET}@proxy:1\nDDIR=$HOME/x\nMINE=1\n"
        ),
    );
    let config =
        || lab.cmd(args!["config", "--json"]).env("TARLIKE_BWLIMIT", "5M").env("AWS_SESSION_TOKEN", "");
    let output = config().run().code(0);
    assert!(!output.stdout.contains(SECRET) && !output.stderr.contains(SECRET), "{output:?}");
    assert_eq!(output.stderr, "");
    let lines = output.json();
    let is = |name: &str, value: Value, from: &str, line: Value| {
        let found = setting(&lines, name);
        assert_eq!(
            (&found["value"], &found["from"], &found["line"]),
            (&value, &from.into(), &line),
            "{found}"
        );
        let file = if from == "rc_file" { path.display().to_string().into() } else { Value::Null };
        assert_eq!(found["file"], file, "{found}");
    };
    is("TARLIKE_WORKERS", "7".into(), "rc_file", 1.into());
    is("TARLIKE_BWLIMIT", "5M".into(), "environment", Value::Null);
    is("TARLIKE_TOKEN", "set (hidden)".into(), "rc_file", 4.into());
    is("TARLIKE_S3_ENDPOINT", "https://(hidden)@s3.example.org/".into(), "rc_file", 6.into());
    is("https_proxy", "http://(hidden)@proxy:1".into(), "rc_file", 7.into());
    is("TARLIKE_DATABASE", "~/.tar_like.sqlite".into(), "default", Value::Null);
    is("TARLIKE_UPLOAD_URL", "http://localhost:8000/tar".into(), "default", Value::Null);
    is("TARLIKE_S3_BUCKET", Value::Null, "default", Value::Null);
    is("LOGLEVEL", "WARNING".into(), "default", Value::Null);
    // The environment has one of the keys, so none is taken from the file.
    is("AWS_SECRET_ACCESS_KEY", Value::Null, "default", Value::Null);
    assert!(!lines.iter().any(|line| line["name"] == "MINE" || line["name"] == "DDIR"), "{lines:#?}");
    assert_eq!(output.summary()["rc_file"], path.display().to_string());

    let text = lab.run(args!["config"]).code(0);
    assert!(
        text.stdout.contains(&format!("TARLIKE_WORKERS\t7\t{}, line 1\n", path.display())),
        "{}",
        text.stdout
    );
    assert!(text.stdout.contains("AWS_SECRET_ACCESS_KEY\tset (hidden)\t"), "{}", text.stdout);
    assert!(!text.stdout.contains(SECRET));

    // The settings of a command line.
    let lines = config().args(args!["upload", "-p", "3", "--dry-run"]).run().code(0).json();
    let from = |name: &str| {
        let found = setting(&lines, name);
        (
            found["value"].as_str().unwrap_or("nothing").to_string(),
            found["from"].as_str().unwrap().to_string(),
        )
    };
    assert_eq!(from("TARLIKE_WORKERS"), ("3".into(), "flag".into()));
    assert_eq!(from("TARLIKE_BWLIMIT"), ("5M".into(), "environment".into()));
    assert_eq!(from("TARLIKE_DRY_RUN"), ("yes".into(), "flag".into()));
    assert_eq!(from("TARLIKE_IGNORE_DONE"), ("no".into(), "default".into()));
    assert_eq!(from("TARLIKE_BLOCK_SIZE"), ("30000000".into(), "default".into()));
    assert_eq!(from("--ignore-ca"), ("no".into(), "default".into()));
    assert_eq!(setting(&lines, "TARLIKE_WORKERS")["flag"], "--no-processes");
    assert_eq!(from("TARLIKE_TAR_ID"), ("0".into(), "default".into()));
    let text = lab.run(args!["config", "sync", "--tar-id", "5", "DIR"]).code(0).stdout;
    assert!(text.contains("\nSOURCE\tDIR\tflag\n") && !text.contains("DESTINATION"), "{text}");
    assert!(text.contains("TARLIKE_TAR_ID\t5\t") && text.contains("TARLIKE_TOKEN\t"), "{text}");
    assert!(!lab.run(args!["config", "check"]).code(0).stdout.contains("TARLIKE_TOKEN"));
    lab.run(args!["config", "upload", "--nonsense"]).code(2).says("--nonsense");
    lab.run(args!["config", "nonsense"]).code(2).says("nonsense");
}

/// For any content of the file: no command runs, and lines that are not understood are named and
/// not taken.
#[test]
fn a_hostile_file_runs_nothing() {
    let lab = Lab::new();
    let mark = lab.path("mark");
    let touch = format!("touch {}", mark.display());
    rc(
        &lab,
        format!(
            "TARLIKE_BWLIMIT=$({touch})\nTARLIKE_DATABASE=`{touch}`\n{touch}\nTARLIKE_S3_PFX=x; {touch}\n. /dev/null\nTARLIKE_S3_BUCKET=\"$({touch})\"\n\
             PATH=/nowhere\nLD_PRELOAD=/nowhere.so\nTARLIKE_RC=/nowhere\nTARLIKE_RC_READ='{{}}'\nTARLIKE_BANDWIDTH=1\nTARLIKE_WORKERS=9\n\
             if true; then\nTARLIKE_UPLOAD_URL=http://wrong/\nfi\n"
        ),
    );
    let output = lab.run(args!["config", "--json"]).code(0);
    let lines = output.json();
    assert_eq!(setting(&lines, "TARLIKE_WORKERS")["value"], "9", "the good line counts");
    for name in
        ["TARLIKE_BWLIMIT", "TARLIKE_S3_PFX", "TARLIKE_S3_BUCKET", "TARLIKE_UPLOAD_URL", "TARLIKE_DATABASE"]
    {
        assert_eq!(setting(&lines, name)["from"], "default", "{name}");
    }
    for (line, why) in [
        (1, "command"),
        (2, "command"),
        (3, "NAME=value"),
        (4, "; outside"),
        (5, "NAME=value"),
        (6, "command"),
        (9, "TARLIKE_RC has an effect"),
        (10, "no setting TARLIKE_RC_READ"),
        (11, "no setting TARLIKE_BANDWIDTH"),
        (13, "the lines after it are ignored"),
    ] {
        let said = output.stderr.lines().find(|text| text.contains(&format!(", line {line}:")));
        assert!(said.is_some_and(|text| text.contains(why)), "line {line}: {why} in\n{}", output.stderr);
    }
    assert_eq!(output.stderr.lines().count(), 10, "{}", output.stderr);
    assert!(!mark.exists(), "something was run");
    // -q hides warnings, and a command that needs no setting of the file works.
    assert_eq!(lab.run(args!["config", "-q"]).code(0).stderr, "");
}

#[test]
fn a_file_that_others_may_touch() {
    let lab = Lab::new();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let path = rc(&lab, "TARLIKE_WORKERS=9\n");
    let workers = |cmd: crate::support::Cmd| {
        let output = cmd.args(args!["config", "--json"]).run().code(0);
        (setting(&output.json(), "TARLIKE_WORKERS")["value"].as_str().unwrap().to_string(), output.stderr)
    };
    let plain = || workers(lab.cmd(vec![]));
    mode(&path, 0o644);
    assert_eq!(plain(), ("9".to_string(), String::new()), "no secret, no warning");
    std::fs::write(&path, format!("TARLIKE_WORKERS=9\nTARLIKE_TOKEN={SECRET}\n")).unwrap();
    let (value, said) = plain();
    assert!(value == "9" && said.contains("chmod 600") && said.lines().count() == 1, "{said}");
    mode(&path, 0o640);
    assert_eq!(plain().1, "");
    mode(&path, 0o666);
    let (value, said) = plain();
    assert!(value == "5" && said.contains("written by every user"), "{value} {said}");
    lab.run(args!["config", "--rc-file", path]).code(2).says("written by every user");
    mode(&path, 0o600);
    if is_root() {
        chown(&path, Some(12345), None).unwrap();
        let (value, said) = plain();
        assert!(value == "5" && said.contains("another user"), "{value} {said}");
        assert_eq!(workers(lab.cmd(args!["--rc-file", path])).0, "9", "asked for by name");
        chown(&path, Some(0), None).unwrap();
        mode(&path, 0o000);
        let (value, said) = workers(lab.unprivileged(lab.cmd(vec![])));
        assert!(value == "5" && said.contains("cannot read"), "{value} {said}");
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(plain(), ("5".to_string(), String::new()));
    std::fs::create_dir(&path).unwrap();
    assert!(plain().1.contains("is not a settings file"));
    std::fs::remove_dir(&path).unwrap();
    // A FIFO must not make every command wait.
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(plain().1.contains("is not a settings file"));
}

#[test]
fn another_file_or_none() {
    let lab = Lab::new();
    rc(&lab, "TARLIKE_WORKERS=9\n");
    let other = lab.file("other", "TARLIKE_WORKERS=8\n");
    let workers = |cmd: crate::support::Cmd| {
        setting(&cmd.args(args!["config", "--json"]).run().code(0).json(), "TARLIKE_WORKERS")["value"].clone()
    };
    assert_eq!(workers(lab.cmd(args!["--rc-file", other])), "8");
    assert_eq!(workers(lab.cmd(args![format!("--rc-file={}", other.display())])), "8");
    assert_eq!(workers(lab.cmd(vec![]).env("TARLIKE_RC", &other)), "8");
    assert_eq!(workers(lab.cmd(args!["--rc-file", ""]).env("TARLIKE_RC", &other)), "5");
    assert_eq!(workers(lab.cmd(args!["--rc-file="])), "5");
    assert_eq!(workers(lab.cmd(vec![]).env("TARLIKE_RC", "")), "5");
    assert_eq!(workers(lab.cmd(vec![])), "9");
    for missing in [args!["--rc-file", lab.path("nowhere")], args!["--rc-file", lab.path("home")]] {
        lab.cmd(missing).args(args!["config", "--json"]).run().code(2).summary();
    }
    lab.cmd(args!["config"]).env("TARLIKE_RC", lab.path("nowhere")).run().code(2).says("nowhere");
    // What comes through a pipe can be read once only.
    let piped = "exec \"$0\" config --json --rc-file <(echo TARLIKE_WORKERS=6)";
    let output = lab.cmd(vec![]).wrap(args!["bash", "-c", piped]).run().code(0);
    assert_eq!(setting(&output.json(), "TARLIKE_WORKERS")["value"], "6");
}

/// The program restarts as the same process under its own name, and programs that it starts do not
/// believe the passed settings.
#[test]
fn the_second_start_is_the_same_process() {
    let lab = Lab::new();
    rc(&lab, "TARLIKE_WORKERS=9\nTARLIKE_NONSENSE=1\n");
    let proxy = lab.cmd(args!["proxy", "0", "-b", lab.dir("dst")]).serve();
    let name = std::fs::read_to_string(format!("/proc/{}/comm", proxy.pid())).unwrap();
    assert_eq!(name.trim(), "tar-like");
    assert_eq!(proxy.stderr().matches("TARLIKE_NONSENSE").count(), 1, "{}", proxy.stderr());
    let environment = std::fs::read(format!("/proc/{}/environ", proxy.pid())).unwrap();
    let note = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(b"TARLIKE_RC_READ=")).unwrap();
    let note = String::from_utf8(note.to_vec()).unwrap();
    drop(proxy);
    // Inherited by another process: the file is read again, and its settings count as the
    // environment's.
    let output = lab
        .cmd(args!["config", "--json"])
        .env("TARLIKE_RC_READ", note)
        .env("TARLIKE_WORKERS", "9")
        .run()
        .code(0);
    assert_eq!(setting(&output.json(), "TARLIKE_WORKERS")["from"], "environment");
    // A signal stops the process as before.
    rc(&lab, "TARLIKE_WORKERS=9\n");
    lab.cmd(args!["proxy", "0", "-b", lab.dir("dst")]).serve().term_and_wait().code(0);
}

/// The variable that the rule gives a flag.
fn variable_of(flag: &str) -> String {
    format!("TARLIKE_{}", flag.trim_start_matches('-').to_uppercase().replace('-', "_"))
}

/// Values of which each flag takes one.
const VALUES: &[&str] = &[
    "3",
    "/x",
    "10%",
    "4096",
    "auto",
    "path",
    "127.0.0.1",
    "upload",
    "2099-01-31",
    "http://x/tar",
    "1/3",
    "x",
];

/// `config COMMAND` lists the flags of the command without its positional arguments, and takes each
/// variable.
#[test]
fn every_variable_of_every_command_counts() {
    let lab = Lab::new();
    let commands = crate::generated::commands(&lab);
    let mut seen = 0;
    for command in commands.iter().filter(|command| *command != &["config"]) {
        let config = || lab.cmd(args!["--json", "config"]).args(command.iter().map(Into::into).collect());
        let output = config().run();
        if ["blockcopy", "token"].contains(&&*command[0]) && command.len() == 1 {
            output.code(2);
            continue;
        }
        let lines = output.code(0).json();
        for line in lines.iter().filter(|line| line["flag"].is_string()) {
            let name = line["name"].as_str().unwrap();
            if name.starts_with("--") || ["TARLIKE_RC", "TARLIKE_JSON"].contains(&name) {
                continue;
            }
            seen += 1;
            let try_value = |value: &str| config().env(name, value).run();
            if line["value"] == "no" && line["flag"] != "--verbose" {
                // It adds to --use-s3, and is not looked at without.
                let (on, from) =
                    (try_value("Yes").code(0).json(), setting(&try_value("off").code(0).json(), name));
                assert_eq!(from["from"], "default");
                if name == "TARLIKE_S3_NO_MD5" {
                    assert_eq!(setting(&on, name)["from"], "default");
                    continue;
                }
                assert_eq!(setting(&on, name)["from"], "environment", "{command:?}");
                let maybe = try_value("maybe").code(2);
                assert!(maybe.stdout.contains(name) || maybe.stderr.contains(name), "{command:?} {maybe:?}");
                continue;
            }
            let default = line["value"].as_str().filter(|value| !value.contains(' '));
            let mut values = VALUES.iter().copied().chain(default);
            let found = values.find_map(|value| {
                let output = try_value(value);
                (output.code == 0).then(|| setting(&output.json(), name))
            });
            let found = found.unwrap_or_else(|| panic!("{command:?}: no value for {name}"));
            let alone = [
                "TARLIKE_MAX_DELETE",
                "TARLIKE_TO",
                "TARLIKE_BLOCKCOPY_BLOCK_SIZE",
                "TARLIKE_BWLIMIT_TOTAL",
                "TARLIKE_QUEUE_PASSWORD_FILE",
                "TARLIKE_QUEUE_CA_FILE",
                "TARLIKE_PEERS",
            ];
            let from = if alone.contains(&name) { "default" } else { "environment" };
            assert_eq!(found["from"], from, "{command:?} {found}");
        }
    }
    assert!(seen > 100, "{seen}");
}

/// A switch that is on, off or neither, values on several lines, and what a flag of the command
/// line does to variables.
#[test]
fn variables_of_flags() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.path("dst"));
    Tree::new(&src, 803).noise("a", 100).noise("b", 100).noise("c", 100);
    let sync = || lab.cmd(args!["sync", src, dst]);
    let planned = sync().env("TARLIKE_DRY_RUN", "1").run().code(0);
    assert!(planned.stdout.contains("would send"), "{planned:?}");
    assert!(!dst.exists());
    // A setting that stands for every run does not hinder a run without --delete, and an excluded
    // flag does not hinder the one that is typed.
    sync().env("TARLIKE_MAX_DELETE", "5").env("TARLIKE_QUIET", "1").args(args!["-v"]).run().code(0);
    assert!(dst.join("c").exists());
    rc(&lab, "TARLIKE_EXCLUDE_REGEX=$'^a$\\n^b$'\nTARLIKE_DELETE=yes\n");
    let config = lab.run(args!["--json", "config", "sync"]).code(0).json();
    assert_eq!(setting(&config, "TARLIKE_DELETE")["value"], "yes");
    sync().args(args!["--delete-excluded"]).run().code(0);
    let there = |name: &str| dst.join(name).exists();
    assert!(!there("a") && !there("b") && there("c"), "both are left out, and deleted");
    // The environment switches off what the file switches on, and a flag replaces all values.
    sync().env("TARLIKE_DELETE", "no").args(args!["-x", "^c$"]).run().code(0);
    assert!(there("a") && there("b") && there("c"));
    let wrong = sync().env("TARLIKE_WORKERS", "many").run().code(2);
    assert!(wrong.stderr.contains("the variable TARLIKE_WORKERS"), "{}", wrong.stderr);
    let wrong = sync().env("TARLIKE_JSON", "1").args(args!["--nonsense"]).run().code(2);
    assert!(wrong.summary()["error"].as_str().unwrap().contains("--nonsense"));
    // An empty line would leave out every path.
    sync().env("TARLIKE_EXCLUDE_REGEX", "^a$\n").run().code(2).says("matches every path");
    let index = lab.cmd(args!["index", src, "-db", lab.path("i.sqlite")]);
    index.env("TARLIKE_BASE_FOLDER", "/nowhere").run().code(0);
    // These are asked for in the command line, or not at all.
    sync().env("TARLIKE_CLEAN", "1").env("TARLIKE_INSECURE", "1").run().code(0);
    rc(&lab, "TARLIKE_CLEAN=1\n");
    sync().run().code(0).says("there is no setting TARLIKE_CLEAN");
}

/// The settings of all users count least.
#[test]
fn the_settings_of_the_host() {
    let lab = Lab::new();
    let system = lab.file("tar-like.conf", "TARLIKE_WORKERS=7\nTARLIKE_BWLIMIT=1M\nTARLIKE_KEEP=2\n");
    let own = rc(&lab, "TARLIKE_BWLIMIT=2M\n");
    let config = || lab.cmd(args!["--json", "config", "sync"]).env("TARLIKE_SYSTEM_CONF", &system);
    let output = config().env("TARLIKE_KEEP", "3").run().code(0);
    let lines = output.json();
    let is = |name: &str, value: &str, from: &str, file: Option<&Path>| {
        let line = setting(&lines, name);
        let file = file.map_or(Value::Null, |file| file.display().to_string().into());
        assert_eq!((&line["value"], &line["from"], &line["file"]), (&value.into(), &from.into(), &file));
    };
    is("TARLIKE_WORKERS", "7", "system_file", Some(&system));
    is("TARLIKE_BWLIMIT", "2M", "rc_file", Some(&own));
    is("TARLIKE_KEEP", "3", "environment", None);
    assert_eq!(output.summary()["system_file"], system.display().to_string());
    let none = config().env("TARLIKE_RC", "").run().code(0).json();
    assert_eq!(setting(&none, "TARLIKE_WORKERS")["from"], "default");
    let text = lab.cmd(args!["config"]).env("TARLIKE_SYSTEM_CONF", &system).run().code(0).stdout;
    assert!(text.contains(&format!("TARLIKE_WORKERS\t7\t{}, line 1\n", system.display())), "{text}");
    // A receiver whose senders may have written its settings does not start.
    let base = lab.dir("base");
    std::fs::copy(&system, base.join("conf")).unwrap();
    let start = lab.cmd(args!["proxy", "0", "-b", base]).env("TARLIKE_SYSTEM_CONF", base.join("conf"));
    start.run().code(2).says("a sender may have written it");
}

/// The template, `config` and the program have the same settings.
#[test]
fn every_variable_is_in_the_template_and_in_config() {
    let lab = Lab::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let template = std::fs::read_to_string(root.join(".tar_like_rc.example")).unwrap();
    let assignment = Regex::new(r"(?m)^#?([A-Za-z_0-9]+)=").unwrap();
    let described: BTreeSet<String> = assignment.captures_iter(&template).map(|c| c[1].to_string()).collect();
    let lines = lab.run(args!["config", "--json"]).code(0).json();
    let shown: BTreeSet<String> = lines
        .iter()
        .filter(|line| line["event"] == "setting")
        .map(|line| line["name"].as_str().unwrap().to_string())
        .filter(|name| !["TARLIKE_RC", "TARLIKE_SYSTEM_CONF", "TMPDIR"].contains(&&**name))
        .collect();
    // The template says the rule that gives the others their names.
    let regular = |name: &str| {
        let line = setting(&lines, name);
        line["flag"].as_str().is_some_and(|flag| name == variable_of(flag))
    };
    let missing: Vec<_> = shown.difference(&described).filter(|name| !regular(name)).collect();
    assert!(
        missing.is_empty() && shown.len() > 20,
        "not in .tar_like_rc.example: {missing:?}; shown: {shown:?}"
    );
    // Uncommented, each line is understood and known.
    let all = Regex::new(r"(?m)^#([A-Za-z_0-9]+=)").unwrap().replace_all(&template, "$1");
    rc(&lab, all.as_bytes());
    let output = lab.cmd(args!["config"]).env("PWD", "/x").run().code(0);
    assert_eq!(output.stderr, "");
    // A shell can source it, too.
    let sourced = std::process::Command::new("bash")
        .args(["-euc", ". \"$1\"", "-"])
        .arg(lab.path("home/.tar_like_rc"))
        .output()
        .unwrap();
    assert!(sourced.status.success() && sourced.stderr.is_empty(), "{sourced:?}");
    // `config` knows every variable that the program reads; HOME, PATH and NOTIFY_SOCKET are set by
    // others.
    let read = Regex::new(r#"env::var(?:_os)?\(\s*"([A-Za-z_0-9]+)""#).unwrap();
    for entry in walkdir::WalkDir::new(root.join("src")) {
        let entry = entry.unwrap();
        if entry.path().extension().is_some_and(|e| e == "rs") {
            for found in read.captures_iter(&std::fs::read_to_string(entry.path()).unwrap()) {
                let others = ["HOME", "PATH", "NOTIFY_SOCKET", "TARLIKE_RC"];
                let known = shown.contains(&found[1]) || others.contains(&&found[1]);
                assert!(known, "{} reads {}, which config does not show", entry.path().display(), &found[1]);
            }
        }
    }
}
