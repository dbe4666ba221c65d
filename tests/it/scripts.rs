//! The container scripts: help, messages where there is no engine or image, and the calls that they
//! would make, with a `docker` that only records. tests/it/containers.rs runs the real engine.

use crate::support::{Lab, need_tool};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RUNNING: [&str; 7] = ["shell", "index", "proxy", "upload", "sync", "check", "upload-s3"];
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn script(name: &str) -> PathBuf {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    if matches!(name, "make-image" | "upload-s3-local") {
        scripts.join(name)
    } else {
        scripts.join("docker").join(name)
    }
}

/// A folder with programs of its own: those that a script needs, and perhaps a docker that records
/// its calls.
struct Bench {
    lab: Lab,
    env: Vec<(String, OsString)>,
}

impl Bench {
    fn new(docker: Option<&str>) -> Self {
        let lab = Lab::new();
        let bin = lab.dir("bin");
        for tool in [
            "bash", "env", "dirname", "basename", "realpath", "mkdir", "id", "timeout", "chown", "mktemp",
            "cp", "rm", "sed", "find", "openssl", "mv", "hostname", "cat", "date", "chmod", "stat",
        ] {
            let path = std::env::split_paths(&std::env::var_os("PATH").unwrap())
                .map(|dir| dir.join(tool))
                .find(|path| path.exists());
            if let Some(path) = path {
                std::os::unix::fs::symlink(path, bin.join(tool)).unwrap();
            }
        }
        let bench = Self { lab, env: Vec::new() };
        if let Some(answers) = docker {
            bench.program(
                "docker",
                &format!("printf '%s\\0' \"$@\" >\"$ASKED\"\ncase \"$1 ${{2:-}}\" in\n{answers}\nesac\n"),
            );
        }
        bench
    }

    /// A docker that succeeds.
    fn working() -> Self {
        Self::new(Some(
            "'network inspect') echo -172.17.0.0/16 ;;\n'compose version') exit 1 ;;\nrun*) env >\"$ASKED.env\"; exit 7 ;;\nbuild*) find \"${@: -1}\" >\"$ASKED.files\" ;;",
        ))
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.lab.file(&format!("bin/{name}"), format!("#!/usr/bin/env bash\n{text}"));
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn run(&self, name: &str, args: &[&str]) -> Output {
        need_tool("openssl", "apt-get install openssl");
        let src = self.lab.dir("src");
        Command::new(self.lab.path("bin/bash"))
            .arg(script(name))
            .args(args)
            .env_clear()
            .env("PATH", self.lab.path("bin"))
            .env("HOME", self.lab.path("home"))
            .env("ASKED", self.lab.path("asked"))
            .envs(self.env.iter().cloned())
            .current_dir(src)
            .output()
            .unwrap()
    }

    /// Runs a script that ends in a call of the engine, and returns that call.
    #[track_caller]
    fn asked(&self, name: &str, args: &[&str]) -> Vec<String> {
        let output = self.run(name, args);
        assert_eq!(output.status.code(), Some(7), "{name}: {output:?}");
        let asked = std::fs::read(self.lab.path("asked")).unwrap();
        asked.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
    }
}

#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

/// Whether the two words of `pair` follow each other in `args`.
fn has(args: &[String], pair: &[&str]) -> bool {
    args.windows(pair.len()).any(|window| window == pair)
}

#[test]
fn every_script_has_help_and_needs_no_docker_for_it() {
    let bench = Bench::new(None);
    for name in RUNNING.into_iter().chain(["proxy-with-haproxy", "make-image", "upload-s3-local"]) {
        for flag in ["--help", "-h"] {
            let output = bench.run(name, &[flag]);
            assert!(output.status.success() && output.stderr.is_empty(), "{name}: {output:?}");
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                text.starts_with("Usage: scripts/") && text.contains(name) && text.contains("ARGUMENT"),
                "{text}"
            );
        }
        assert!(script(name).metadata().unwrap().permissions().mode() & 0o111 != 0, "{name} cannot be run");
    }
}

#[test]
fn missing_tools_are_named() {
    for name in RUNNING.into_iter().chain(["proxy-with-haproxy", "make-image"]) {
        says(&Bench::new(None).run(name, &[]), 1, &["docker is not installed", "apt-get install"]);
        let podman = Bench::new(None).env("TARLIKE_ENGINE", "podman");
        says(&podman.run(name, &[]), 1, &["podman is not installed"]);
        let dead = Bench::new(Some("info*) echo 'Cannot connect to the Docker daemon' >&2; exit 1 ;;"));
        says(&dead.run(name, &[]), 1, &["does not answer", "Cannot connect"]);
        // Older clients print this, and exit with 0.
        let dead = Bench::new(Some("info*) echo 'ERROR: Cannot connect to the Docker daemon' >&2 ;;"));
        says(&dead.run(name, &[]), 1, &["does not answer"]);
    }
    let no_image = Bench::new(Some("'image inspect') exit 1 ;;\n'compose version') ;;"));
    for name in RUNNING.into_iter().chain(["proxy-with-haproxy"]) {
        says(&no_image.run(name, &[]), 1, &["no image tar-like", "scripts/make-image"]);
    }
    says(&Bench::working().run("proxy-with-haproxy", &[]), 1, &["docker-compose", "apt-get install"]);
    let not_built = Bench::new(None).env("CARGO_TARGET_DIR", "/nowhere");
    says(&not_built.run("upload-s3-local", &[]), 1, &["cargo build"]);
    says(&Bench::working().env("EX_PYCACERT", "/nowhere").run("upload", &[]), 1, &["EX_PYCACERT"]);
    says(&Bench::working().run("proxy", &[]), 1, &["token", "TARLIKE_TOKEN_FILE"]);
    says(&Bench::working().env("SDIR", "/nowhere").run("index", &[]), 1, &["SDIR", "/nowhere"]);
    let open = Bench::working();
    let rc = open.lab.file("home/.tar_like_rc", "SDIR=/\n");
    std::fs::set_permissions(rc, PermissionsExt::from_mode(0o666)).unwrap();
    says(&open.run("index", &[]), 1, &["everybody", "chmod o-w"]);
    says(&Bench::working().env("TARLIKE_RC", "/nowhere").run("index", &[]), 1, &["TARLIKE_RC", "/nowhere"]);
    says(&Bench::working().run("make-image", &["--binary", "/nowhere"]), 2, &["/nowhere"]);
}

#[test]
fn every_container_is_confined() {
    for name in RUNNING {
        let bench = Bench::working().env("TARLIKE_TOKEN", SECRET);
        let asked = bench.asked(name, &["--more", "a b"]);
        for pair in [
            &["run", "--rm", "--read-only"][..],
            &["--cap-drop", "ALL"],
            &["--security-opt", "no-new-privileges"],
            &["--volume", &format!("{}:/data/rw", bench.lab.path("src/tmp").display())],
            &["--volume", &format!("{}:/data/ro:ro", bench.lab.path("src").display())],
            &["--more", "a b"],
        ] {
            assert!(has(&asked, pair), "{name}: no {pair:?} in {asked:?}");
        }
        assert!(asked.iter().any(|arg| arg == "--user"), "{asked:?}");
        assert!(!asked.iter().any(|arg| arg.contains(SECRET) || arg == "--privileged"), "{name}: {asked:?}");
        let passed = std::fs::read_to_string(bench.lab.path("asked.env")).unwrap();
        assert!(has(&asked, &["--env", "TARLIKE_TOKEN"]) && passed.contains(SECRET), "{name}: {asked:?}");
    }
}

#[test]
fn the_default_commands_of_the_scripts() {
    let bench = Bench::working().env("TARLIKE_TOKEN", SECRET);
    let ends = |name: &str, args: &[&str], end: &[&str]| {
        let asked = bench.asked(name, args);
        assert!(has(&asked, &[end, &[""]].concat()), "{name}: {end:?} is not the end of {asked:?}");
        asked
    };
    ends("shell", &["-c", "x"], &["--entrypoint", "/bin/sh", "tar-like", "-c", "x"]);
    ends("index", &["-c"], &["tar-like", "index", "-b", "/data/ro", "-c"]);
    ends("check", &[], &["tar-like", "check", "-b", "/data/rw/recv-test"]);
    ends("upload", &[], &["tar-like", "upload", "-b", "/data/ro", "-u", "http://172.17.0.1:8000/tar"]);
    ends("upload", &["-u", "http://x/"], &["tar-like", "upload", "-b", "/data/ro", "-u", "http://x/"]);
    let url = "http://172.17.0.1:8000/tar";
    let db = "/data/rw/.tar_like.sqlite";
    ends("sync", &["--delete"], &["tar-like", "sync", "/data/ro", url, "-db", db, "--delete"]);
    ends("upload-s3", &[], &["tar-like", "upload", "--use-s3", "-u", "http://172.17.0.1:8000/tar"]);
    let end = ["tar-like", "proxy", "8000", "--bind", "0.0.0.0", "-b", "/data/rw/recv-test"];
    let asked = ends("proxy", &[], &end);
    assert!(has(&asked, &["--publish", "172.17.0.1:8000:8000"]), "reachable from outside: {asked:?}");
}

#[test]
fn the_originals_variables_count() {
    let lab = Lab::new();
    let (ddir, sdir, ca) = (lab.path("d"), lab.dir("s"), lab.file("ca.pem", "x"));
    let token = lab.file("token", format!("{SECRET}\n"));
    let bench = Bench::working()
        .env("DDIR", &ddir)
        .env("SDIR", &sdir)
        .env("UDIR", "/data/rw/here")
        .env("UPLOAD_URL", "https://receiver/tar")
        .env("LOCAL_BIND", "127.0.0.1:9000")
        .env("EX_PYCACERT", &ca)
        .env("IN_PYCACERT", "/data/rw/store.pem")
        .env("TARLIKE_TOKEN_FILE", &token)
        .env("TARLIKE_IMAGE", "mine:1")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("LOGLEVEL", "DEBUG");
    let upload = bench.asked("upload", &[]);
    for pair in [
        &["--volume", &format!("{}:/data/rw", ddir.display())][..],
        &["--volume", &format!("{}:/data/ro:ro", sdir.display())],
        &["--volume", &format!("{}:/run/receiver-ca.pem:ro", ca.display())],
        &["--ca-file", "/run/receiver-ca.pem"],
        &["mine:1", "upload"],
        &["-u", "https://receiver/tar"],
        &["--env", "LOGLEVEL"],
        &["--env", "TARLIKE_TOKEN"],
        &["--env", "AWS_SECRET_ACCESS_KEY"],
    ] {
        assert!(has(&upload, pair), "no {pair:?} in {upload:?}");
    }
    assert!(!upload.iter().any(|arg| arg.contains(SECRET) || arg == "TARLIKE_TOKEN_FILE"), "{upload:?}");
    assert!(!has(&bench.asked("upload", &["--ignore-ca"]), &["--ca-file"]));
    assert!(has(&bench.asked("upload-s3", &[]), &["--env", "AWS_CA_BUNDLE=/data/rw/store.pem"]));
    let proxy = bench.asked("proxy", &[]);
    assert!(
        has(&proxy, &["--publish", "127.0.0.1:9000:8000"]) && has(&proxy, &["-b", "/data/rw/here"]),
        "{proxy:?}"
    );
    assert!(ddir.join("here").is_dir());
    assert!(has(&bench.asked("check", &[]), &["-b", "/data/rw/here"]));
}

#[test]
fn the_file_of_settings_is_sourced_and_the_environment_wins() {
    let bench = Bench::working().env("UDIR", "/data/rw/env").env("TARLIKE_TOKEN", "").env("LOGLEVEL", "a\nb");
    bench.lab.file(
        "home/.tar_like_rc",
        format!("UDIR=/data/rw/rc\nexport UPLOAD_URL=http://rc/\nTARLIKE_TOKEN={SECRET}\nTARLIKE_IMAGE=$(echo rc:1)\nLOGLEVEL=INFO\n"),
    );
    assert!(has(&bench.asked("check", &[]), &["rc:1", "check", "-b", "/data/rw/env"]));
    assert!(has(&bench.asked("upload", &[]), &["-u", "http://rc/"]));
    let passed = std::fs::read_to_string(bench.lab.path("asked.env")).unwrap();
    assert!(!passed.contains(SECRET) && passed.contains("LOGLEVEL=a\nb"), "{passed}");
    // A token of the settings file does not overrule a token's file of the environment.
    let token = bench.lab.file("token", "another-secret-of-some-length");
    let group = Bench::working()
        .env("TARLIKE_RC", bench.lab.path("home/.tar_like_rc"))
        .env("TARLIKE_TOKEN_FILE", token);
    group.asked("upload", &[]);
    let passed = std::fs::read_to_string(group.lab.path("asked.env")).unwrap();
    assert!(!passed.contains(SECRET) && passed.contains("another-secret-of-some-length"), "{passed}");
    let other = Bench::working().env("TARLIKE_RC", bench.lab.path("home/.tar_like_rc"));
    assert!(has(&other.asked("check", &[]), &["-b", "/data/rw/rc"]));
    let none = Bench::working().env("TARLIKE_RC", "");
    none.lab.file("home/.tar_like_rc", "UDIR=/data/rw/rc\n");
    assert!(has(&none.asked("check", &[]), &["-b", "/data/rw/recv-test"]));
}

#[test]
fn an_image_of_a_binary_needs_nothing_else() {
    let bench = Bench::working();
    let binary = env!("CARGO_BIN_EXE_tar-like");
    let output =
        bench.run("make-image", &["--binary", binary, "--base", "base:1", "--tag", "mine", "--pull"]);
    assert!(output.status.success(), "{output:?}");
    let asked = String::from_utf8(std::fs::read(bench.lab.path("asked")).unwrap()).unwrap();
    let asked: Vec<String> = asked.split('\0').map(str::to_owned).collect();
    for pair in [
        &["build", "--tag", "mine"][..],
        &["--build-arg", "RUNTIME_IMAGE=base:1"],
        &["--build-arg", "BUILD_IMAGE=base:1"],
        &["--pull", "--file"],
    ] {
        assert!(has(&asked, pair), "no {pair:?} in {asked:?}");
    }
    let files = std::fs::read_to_string(bench.lab.path("asked.files")).unwrap();
    assert!(
        files.contains("docker/binary/tar-like") && !files.contains(".rs") && files.lines().count() < 12,
        "{files}"
    );
    assert!(!Path::new(files.lines().next().unwrap()).exists(), "left behind");
    let output = bench.run("make-image", &["--no-cache"]);
    assert!(output.status.success(), "{output:?}");
}

/// The binary of this machine, with the settings of the original.
#[test]
fn s3_without_a_container() {
    let bench = Bench::new(None).env("UPLOAD_URL", "http://x/");
    bench.program("tar-like", "printf '%s\\0' \"$@\" >\"$ASKED\"; exit 7");
    assert_eq!(
        bench.asked("upload-s3-local", &["-p", "2"]),
        ["upload", "--use-s3", "-u", "http://x/", "-p", "2", ""]
    );
}

#[test]
fn haproxy_gets_what_it_needs() {
    let bench = Bench::working();
    bench.program("docker-compose", "printf '%s\\0' \"$@\" >\"$ASKED\"; env >\"$ASKED.env\"; exit 7");
    let secrets = bench.lab.path("secrets");
    let bench = bench.env("TARLIKE_SECRETS", &secrets);
    let asked = bench.asked("proxy-with-haproxy", &["--host", "receiver.example.org"]);
    assert!(
        asked[..3] == ["--project-name", "tar-like", "--file"]
            && asked[3].ends_with("docker/compose.yaml")
            && has(&asked, &["up", "-d"]),
        "{asked:?}"
    );
    let mode = |name: &str| secrets.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("token"), mode("haproxy.pem")), (0o700, 0o600, 0o600));
    let token = std::fs::read_to_string(secrets.join("token")).unwrap();
    assert_eq!(token.trim().len(), 64);
    let passed = std::fs::read_to_string(bench.lab.path("asked.env")).unwrap();
    let base = bench.lab.path("src/tmp/recv-test");
    assert!(passed.contains(&format!("TARLIKE_BASE={}\n", base.display())) && base.is_dir(), "{passed}");
    assert!(!passed.contains(token.trim()));
    let certificate = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(secrets.join("haproxy.pem"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&certificate.stdout).into_owned();
    assert!(text.contains("DNS:receiver.example.org") && text.contains("DNS:localhost"), "{text}");
    // A second start changes nothing.
    let asked = bench.asked("proxy-with-haproxy", &["--profile", "two", "up", "-d"]);
    assert!(!asked.iter().any(|argument| argument.ends_with("scale.yaml")), "{asked:?}");
    for more in [&["--profile", "scale", "up", "-d"][..], &["--profile=scale", "run", "sync"]] {
        let asked = bench.asked("proxy-with-haproxy", more);
        assert!(asked[4] == "--file" && asked[5].ends_with("docker/scale.yaml"), "{asked:?}");
    }
    assert_eq!(std::fs::read_to_string(secrets.join("token")).unwrap(), token);
}

/// The scripts for certificates, with a server of openssl.
#[test]
fn certificates_are_fetched_and_checked() {
    need_tool("openssl", "apt-get install openssl");
    let lab = Lab::new();
    let at = |script: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let run = |script: &str, more: Vec<OsString>| lab.cmd(more).program(&at(script)).run();
    let certs = lab.path("certs");
    run("make-certificate", args!["-o", certs, "localhost", "127.0.0.1"]).code(0);
    let dst = lab.dir("dst");
    let tls = args![
        "--tls-cert",
        certs.join("server.pem"),
        "--tls-key",
        certs.join("server-key.pem"),
        "--insecure"
    ];
    // The receiver shows its own certificate alone, and with that of its authority.
    let alone = lab.proxy_with(&dst, tls.clone());
    run("ca-fetch", args![alone.url, lab.path("none.pem")]).code(1).says("ask its operator");
    let chain = ["server.pem", "ca.pem"].map(|name| std::fs::read_to_string(certs.join(name)).unwrap());
    let chain = lab.file("chain.pem", chain.concat());
    let mut whole = tls;
    whole[1] = chain.into();
    let proxy = lab.proxy_with(&lab.dir("other"), whole);
    let file = lab.path("fetched.pem");
    let fetched = run("ca-fetch", args![proxy.url, file]).code(0);
    assert!(fetched.stdout.contains("Fingerprint="), "{fetched:?}");
    let pem = |path: &Path| std::fs::read_to_string(path).unwrap().trim().to_owned();
    assert_eq!(pem(&file), pem(&certs.join("ca.pem")));
    run("ca-fetch", args![proxy.url, file]).code(1).says("exists");
    let checked = run("ca-check", args![proxy.url, file]).code(0).says("is accepted");
    assert!(checked.stdout.contains("DNS:localhost"), "{checked:?}");
    run("ca-check", args![proxy.url]).code(1).says("is refused");
    run("ca-check", args!["127.0.0.1:1", file]).code(1).says("shows no certificate");
    for wrong in [args!["ca-check"], args!["ca-check", "a b"], args!["ca-fetch", "x"]] {
        run(wrong[0].to_str().unwrap(), wrong[1..].to_vec()).code(2);
    }
    for script in ["ca-check", "ca-fetch"] {
        assert!(run(script, args!["--help"]).code(0).stdout.starts_with("Usage: scripts/ca-"));
    }
}
