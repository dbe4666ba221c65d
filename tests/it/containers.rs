//! docker/ and scripts/docker as they are shipped, run by a real engine: the image on a base that
//! debootstrap makes, and the compose file with haproxy, TLS and a token. It is one test, since an
//! engine is slow. It removes everything that it made, also after a failure.

use crate::support::stress::free_port;
use crate::support::{Lab, Tree, assert_same_files, is_root, need_tool, skip, wait_until};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The time limit for starting and becoming healthy.
const PATIENCE: Duration = Duration::from_secs(240);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn docker(args: &[&str]) -> Output {
    run(Command::new("docker").args(args))
}

#[track_caller]
fn docker_says(args: &[&str]) -> String {
    let output = docker(args);
    assert!(output.status.success(), "docker {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Why this machine has no containers, or `None`.
fn missing() -> Option<String> {
    let answers = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let info =
        Command::new("timeout").args(["20", "docker", "info", "--format", "{{.ServerVersion}}"]).output();
    match info {
        Ok(output) if output.status.success() && !output.stdout.trim_ascii().is_empty() => {}
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
            return Some(format!("docker does not answer: {said}"));
        }
        Err(_) => return Some("docker is not installed".into()),
    }
    if !answers(Command::new("docker").args(["compose", "version"]))
        && !answers(Command::new("docker-compose").arg("version"))
    {
        return Some("neither docker compose nor docker-compose is installed".into());
    }
    (!is_root()).then(|| "debootstrap needs root".into())
}

/// A Debian with haproxy and Redis as an archive, made once and stored with the other tools.
fn base_archive() -> PathBuf {
    let tools = root().join("target/tools/containers");
    let archive = tools.join("bookworm-haproxy-redis-1.tar");
    if archive.exists() {
        return archive;
    }
    need_tool("debootstrap", "apt-get install debootstrap");
    std::fs::create_dir_all(&tools).unwrap();
    let work = tempfile::Builder::new().prefix("debian-").tempdir_in(&tools).unwrap();
    let folder = work.path().join("root");
    let mut make = Command::new("debootstrap");
    make.args(["--variant=minbase", "--include=ca-certificates,haproxy,redis-server", "bookworm"])
        .arg(&folder);
    let output = run(&mut make);
    assert!(output.status.success(), "debootstrap failed:\n{}", String::from_utf8_lossy(&output.stdout));
    let unfinished = work.path().join("tar");
    let mut pack = Command::new("tar");
    for left_out in
        ["var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"]
    {
        pack.arg(format!("--exclude=./{left_out}/*"));
    }
    let output = run(pack.arg("-cf").arg(&unfinished).arg("-C").arg(&folder).arg("."));
    assert!(output.status.success(), "{output:?}");
    std::fs::rename(unfinished, &archive).unwrap();
    archive
}

/// Everything that belongs to one run of the test; removed when dropped.
struct Site {
    lab: Lab,
    /// The prefix of the names of all images, containers, networks and volumes.
    name: String,
    gateway: String,
    port: u16,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        let name = format!("tarlike-it-{}", std::process::id());
        clean_up_after_the_dead();
        let site = Self { lab, name, gateway: gateway(), port: free_port() };
        docker_says(&["import", base_archive().to_str().unwrap(), &site.image("base")]);
        let binary = env!("CARGO_BIN_EXE_tar-like");
        let made = site.script("make-image", &["--base", &site.image("base"), "--binary", binary]);
        assert!(made.status.success(), "{made:?}");
        site
    }

    fn image(&self, what: &str) -> String {
        format!("{}:{what}", self.name)
    }

    fn token(&self) -> PathBuf {
        self.lab.path("secrets/token")
    }

    fn url(&self) -> String {
        format!("https://{}:{}/tar", self.gateway, self.port)
    }

    /// A script of scripts/, with this site's settings.
    fn script(&self, name: &str, args: &[&str]) -> Output {
        self.script_into("recv-test", name, args)
    }

    /// The same, where the receivers have the folder `base` of the destination.
    fn script_into(&self, base: &str, name: &str, args: &[&str]) -> Output {
        let mut command = Command::new(root().join("scripts").join(name));
        command.args(args).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let env: [(&str, &OsStr); 18] = [
            ("HOME", self.lab.path("home").as_os_str()),
            ("COMPOSE_PROJECT_NAME", self.name.as_ref()),
            ("TARLIKE_IMAGE", self.image("proxy").as_ref()),
            ("TARLIKE_HAPROXY_IMAGE", self.image("base").as_ref()),
            ("TARLIKE_QUEUE_IMAGE", self.image("base").as_ref()),
            ("UDIR", format!("/data/rw/{base}").as_ref()),
            ("TARLIKE_SECRETS", self.lab.path("secrets").as_os_str()),
            ("TARLIKE_TOKEN_FILE", self.token().as_os_str()),
            ("TARLIKE_MEMORY", "96m".as_ref()),
            ("TARLIKE_MAX_INFLIGHT", "4".as_ref()),
            ("TARLIKE_NET", format!("10.213.{}", 100 + std::process::id() % 100).as_ref()),
            ("SDIR", self.lab.path("src").as_os_str()),
            ("DDIR", self.lab.path("d").as_os_str()),
            ("UPLOAD_URL", self.url().as_ref()),
            ("EX_PYCACERT", self.lab.path("secrets/ca.pem").as_os_str()),
            ("LOCAL_BIND_HTTPS", format!("{}:{}", self.gateway, self.port).as_ref()),
            ("TMPDIR", self.lab.path("tmp").as_os_str()),
            ("LC_ALL", "C".as_ref()),
        ]
        .map(|(name, value)| (name, Box::leak(value.to_owned().into_boxed_os_str()) as &OsStr));
        run(command.envs(env).current_dir(self.lab.path("home")))
    }

    #[track_caller]
    fn compose(&self, args: &[&str]) {
        let output = self.script("docker/proxy-with-haproxy", args);
        let logs = || docker(&["logs", &self.container("haproxy")]);
        assert!(output.status.success(), "{args:?}: {output:?}\n{:?}", logs());
    }

    /// The name of a service's container: versions of Compose differ.
    fn container(&self, service: &str) -> String {
        let filter = |label: &str, value: &str| format!("label=com.docker.compose.{label}={value}");
        let (project, service) = (filter("project", &self.name), filter("service", service));
        docker_says(&["ps", "-aq", "--filter", &project, "--filter", &service])
    }

    fn inspect(&self, service: &str, what: &str) -> String {
        docker_says(&["inspect", "--format", what, &self.container(service)])
    }

    fn wait_healthy(&self, service: &str) {
        wait_until(&format!("{service} is healthy"), PATIENCE, || {
            self.inspect(service, "{{.State.Health.Status}}") == "healthy"
        });
    }

    /// An upload from this machine, through haproxy.
    fn upload(&self, db: &Path, more: Vec<std::ffi::OsString>) -> crate::support::Cmd {
        let trust = args![
            "--token-file",
            self.token(),
            "--ca-file",
            self.lab.path("secrets/ca.pem"),
            "-s",
            "1M",
            "-p",
            "4"
        ];
        self.lab.upload_cmd(&self.lab.path("src"), db, &self.url(), trust).args(more)
    }

    /// Kills the first process of a container, as a fault would: a kill by the engine would count
    /// as a stop.
    fn kill9(&self, service: &str) {
        let pid = self.inspect(service, "{{.State.Pid}}");
        assert!(run(Command::new("kill").args(["-9", &pid])).status.success());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for service in ["proxy", "proxy-2", "slice-2", "queue", "worker", "haproxy"] {
                for id in self.container(service).lines() {
                    let output = docker(&["logs", "--tail", "30", id]);
                    let (out, err) =
                        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                    eprintln!("{service}:\n{out}{err}");
                }
            }
        }
        remove(&self.name);
    }
}

/// Removes everything whose name begins with `name`.
fn remove(name: &str) {
    let ids = |args: &[&str]| -> Vec<String> {
        let output = docker(args);
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    };
    let filter = format!("name={name}");
    for (list, remove) in [
        (&["ps", "-aq", "--filter", &filter][..], &["rm", "-f", "-v"][..]),
        (&["network", "ls", "-q", "--filter", &filter], &["network", "rm"]),
        (&["volume", "ls", "-q", "--filter", &filter], &["volume", "rm", "-f"]),
        (&["images", "-q", "--filter", &format!("reference={name}:proxy")], &["rmi", "-f"]),
        // The stage that only made the binary.
        (&["images", "-q", "--filter", "dangling=true", "--filter", &format!("since={name}:base")], &["rmi"]),
        (&["images", "-q", "--filter", &format!("reference={name}:*")], &["rmi", "-f"]),
    ] {
        let found = ids(list);
        if !found.is_empty() {
            let all: Vec<&str> = remove.iter().copied().chain(found.iter().map(String::as_str)).collect();
            docker(&all);
        }
    }
}

/// Removes the things of a killed test, whose process has ended.
fn clean_up_after_the_dead() {
    let images = docker_says(&["images", "--format", "{{.Repository}}"]);
    for name in images.lines().filter(|name| name.starts_with("tarlike-it-")) {
        let pid = name.trim_start_matches("tarlike-it-");
        if !Path::new("/proc").join(pid).exists() {
            remove(name);
        }
    }
}

/// The address of this machine that containers see, as the scripts find it.
fn gateway() -> String {
    let lib = root().join("scripts/docker/lib.sh");
    let output = run(Command::new("bash").args(["-euc", ". \"$1\"; engine=docker; gateway", "-"]).arg(lib));
    let address = String::from_utf8(output.stdout).unwrap();
    assert!(address != "127.0.0.1", "the engine does not tell the address of its network");
    address
}

/// A line of /proc/PID/status.
fn status(pid: &str, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
}

/// The container has no way out and no right beyond its work.
fn assert_confined(site: &Site, service: &str) {
    let pid = site.inspect(service, "{{.State.Pid}}");
    for (name, wanted) in [
        ("Uid", "10001\t10001\t10001\t10001"),
        ("Gid", "10001\t10001\t10001\t10001"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        assert_eq!(status(&pid, name), wanted, "{service}: {name}");
    }
    let id = site.container(service);
    let write = |path: &str| docker(&["exec", &id, "sh", "-c", &format!("echo x >{path}")]);
    for path in ["/x", "/usr/local/bin/x", "/etc/x", "/var/lib/x", "/run/secrets/x"] {
        let output = write(path);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && (said.contains("Read-only") || said.contains("Permission")),
            "{service} writes {path}: {output:?}"
        );
    }
    assert_eq!(
        site.inspect(service, "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.PidsLimit}}"),
        "true 256",
        "{service}"
    );
    assert!(write("/tmp/x").status.success());
}

#[test]
fn the_image_and_the_compose_file() {
    if let Some(why) = missing() {
        skip(&why);
        return;
    }
    let site = Site::new();
    let lab = &site.lab;
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 900);
    for number in 0..40 {
        tree.noise(format!("small/{number}"), 3000);
    }
    tree.noise("large", 60 << 20).text("text", 20 << 20).file("empty", "").symlink("link", "large");
    let received = lab.path("d/recv-test");

    // From nothing to a verified transfer by the scripts alone.
    site.compose(&[]);
    site.wait_healthy("proxy");
    site.wait_healthy("haproxy");
    for (script, args) in
        [("index", vec![]), ("upload", vec!["-s", "1M", "-p", "4"]), ("check", vec!["--extra"])]
    {
        let output = site.script(&format!("docker/{script}"), &args);
        assert!(output.status.success(), "{script}: {output:?}");
    }
    assert_same_files(&src, &received);
    std::fs::write(received.join("small/7"), "damage").unwrap();
    let output = site.script("docker/check", &[]);
    assert!(
        output.status.code() == Some(1)
            && String::from_utf8_lossy(&output.stdout).contains("different\tsmall/7"),
        "{output:?}"
    );

    for service in ["proxy", "haproxy"] {
        assert_confined(&site, service);
    }
    assert_eq!(site.inspect("proxy", "{{.HostConfig.Memory}}"), (96 << 20).to_string());
    assert_eq!(site.inspect("proxy", "{{.State.OOMKilled}} {{.RestartCount}}"), "false 0");
    assert_eq!(
        site.inspect("proxy", "{{json .HostConfig.PortBindings}}"),
        "{}",
        "only haproxy's port is published"
    );

    // From this machine.
    let db = lab.index(&src);
    site.upload(&db, vec![]).run().code(1).says("is the copy of");
    site.upload(&db, args!["--replace-source"]).run().code(0);
    assert_same_files(&src, &received);
    let elsewhere = format!("http://{}:{}/tar", site.gateway, site.port);
    let refused = |cmd: crate::support::Cmd| cmd.args(args!["--stall-timeout", "2"]).run().code(1);
    refused(lab.upload_cmd(&src, &db, &elsewhere, args!["--token-file", site.token()]));
    refused(lab.upload_cmd(&src, &db, &site.url(), args!["--token-file", site.token()]));
    let wrong = lab.file("wrong", "0123456789abcdef0123456789abcdef");
    refused(lab.upload_cmd(
        &src,
        &db,
        &site.url(),
        args!["--token-file", wrong, "--ca-file", lab.path("secrets/ca.pem")],
    ));

    // Killed in the middle: the engine starts it again, and the same run completes.
    tree.noise("large", 60 << 20);
    let db = lab.index(&src);
    let sending = site.upload(&db, args!["--bwlimit", "15M"]).spawn();
    wait_until("something of it has arrived", PATIENCE, || staged(&received) > 5 << 20);
    site.kill9("proxy");
    sending.wait().code(0);
    assert_same_files(&src, &received);
    assert_eq!(site.inspect("proxy", "{{.State.OOMKilled}} {{.RestartCount}}"), "false 1", "it was killed");

    // Stopped in time, and started again.
    for (service, code) in [("proxy", "0"), ("haproxy", "0")] {
        let began = Instant::now();
        docker_says(&["stop", "--time", "30", &site.container(service)]);
        assert!(began.elapsed() < Duration::from_secs(28), "{service} was killed");
        assert_eq!(site.inspect(service, "{{.State.ExitCode}}"), code, "{service}");
    }
    for service in ["haproxy", "proxy"] {
        docker_says(&["start", &site.container(service)]);
    }
    site.upload(&db, args!["--ignore-done"]).run().code(0);

    // A second proxy on the same volume takes over.
    site.compose(&["--profile", "two", "up", "-d"]);
    tree.noise("large", 60 << 20);
    let db = lab.index(&src);
    let sending = site.upload(&db, args!["--bwlimit", "15M"]).spawn();
    wait_until("something of it has arrived", PATIENCE, || staged(&received) > 5 << 20);
    docker_says(&["kill", &site.container("proxy")]);
    sending.wait().code(0);
    assert_same_files(&src, &received);
    assert_eq!(site.inspect("proxy", "{{.State.Running}}"), "false");
    site.compose(&["--profile", "two", "down", "--volumes"]);
    assert_eq!(site.container("haproxy"), "");

    two_slices_and_three_workers(&site, &mut tree);
}

/// The profile `scale`: a job that workers share, into one folder, by two receivers.
fn two_slices_and_three_workers(site: &Site, tree: &mut Tree) {
    let src = site.lab.path("src");
    for number in 0..60 {
        tree.noise(format!("many/{number}"), 1 << 20);
    }
    let received = site.lab.path("d/recv-scale");
    let compose = |args: &[&str]| {
        let all = [&["--profile", "scale"], args].concat();
        let output = site.script_into("recv-scale", "docker/proxy-with-haproxy", &all);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    compose(&["up", "-d", "--scale", "worker=3"]);
    for service in ["proxy", "slice-2", "haproxy", "queue"] {
        site.wait_healthy(service);
    }
    for service in ["proxy", "slice-2", "haproxy", "queue"] {
        assert_confined(site, service);
    }
    let workers = site.container("worker");
    assert_eq!(workers.lines().count(), 3);
    // The host that begins is slow; the workers do most. One receiver is killed meanwhile.
    let job = ["run", "-T", "--rm", "-e", "TARLIKE_BLOCK_SIZE=1M", "-e", "TARLIKE_BWLIMIT=1M", "sync"];
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| compose(&job));
        let slice = received.join(".tar-like/slice-2-of-2");
        wait_until("slice 2 has taken something in", PATIENCE, || slice.join("handover").exists());
        site.kill9("slice-2");
        sync.join().unwrap();
    });
    assert_same_files(&src, &received);
    assert_eq!(site.inspect("slice-2", "{{.State.OOMKilled}} {{.RestartCount}}"), "false 1", "it was killed");
    wait_until("each worker has sent something", PATIENCE, || {
        workers.lines().all(|id| {
            let output = docker(&["logs", id]);
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
                .contains("confirmed by the receiver")
        })
    });
    assert_eq!(compose(&["run", "-T", "--rm", "list"]).trim(), "", "the job is done");
    // The next run sends what has changed.
    tree.noise("many/7", 1 << 20);
    compose(&job);
    assert_same_files(&src, &received);
    for id in workers.lines() {
        let output = docker(&["logs", id]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // Each of them has had one job or two, and time to look for further ones.
        assert!(said.matches("waiting for a job").count() <= 3, "{said}");
    }
    compose(&["down", "--volumes"]);
    assert_eq!(site.container("slice-2"), "");
}

/// Bytes that lie in unfinished files of the archive.
fn staged(base: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = walkdir::WalkDir::new(base.join(".tar-like/staging")).into_iter().filter_map(Result::ok);
    files
        .filter_map(|entry| entry.metadata().ok())
        .filter(|meta| meta.is_file())
        .map(|meta| meta.blocks() * 512)
        .sum()
}
