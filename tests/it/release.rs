//! scripts/release, with the tested program in place of a release build.

use crate::support::{Lab, need_tool};
use std::path::Path;

fn script(lab: &Lab, args: Vec<std::ffi::OsString>) -> crate::support::run::Cmd {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cmd = lab.cmd(args).program(&root.join("scripts/release"));
    // cargo and rustup need parts of the real home, but must not write to it.
    let home = |name: &str, folder: &str| {
        std::env::var_os(name)
            .unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(folder).into())
    };
    cmd.env("CARGO_HOME", home("CARGO_HOME", ".cargo")).env("RUSTUP_HOME", home("RUSTUP_HOME", ".rustup"))
}

#[test]
fn a_release_has_everything_twice_the_same_and_a_program_that_runs() {
    need_tool("readelf", "apt-get install binutils");
    let lab = Lab::new();
    let binary = env!("CARGO_BIN_EXE_tar-like");
    // Whichever glibc this machine has.
    let pack = |out: &Path| args!["--binary", binary, "--out", out, "--no-deb", "--max-glibc", "99"];
    let outs = [lab.path("one"), lab.path("two")];
    let sums = outs.each_ref().map(|out| {
        script(&lab, pack(out)).env("SOURCE_DATE_EPOCH", "1750000000").run().code(0);
        std::fs::read_to_string(out.join("SHA256SUMS")).unwrap()
    });
    assert_eq!(sums[0], sums[1], "two runs differ");
    let name = sums[0].split_whitespace().nth(1).unwrap();
    assert!(name.starts_with(&format!("tar-like-{}-", env!("CARGO_PKG_VERSION"))), "{name}");
    assert_eq!(std::fs::read_dir(&outs[0]).unwrap().count(), 3, "nothing but these and their sums");
    let shell =
        |line: &str| lab.cmd(args!["-euc", line, outs[0]]).program(Path::new("sh")).run().code(0).stdout;
    shell("cd \"$0\"; sha256sum -c --quiet SHA256SUMS; tar -xf *.tar.gz");
    let root = outs[0].join(name.trim_end_matches(".tar.gz"));
    for file in [
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        ".tar_like_rc.example",
        "man/tar-like.1",
        "man/tar-like-upload.1",
        "completions/tar-like.bash",
        "completions/_tar-like",
        "completions/tar-like.fish",
        "docs/OPERATIONS.md",
        "docs/cli.md",
        "docs/guide/first-copy.md",
        "docs/systemd/tar-like-proxy.service",
        "docs/systemd/tar-like-sync@.service",
        "docs/systemd/tar-like-sync@.timer",
        "scripts/docker/sync",
        "scripts/ca-fetch",
        "scripts/ca-check",
        "docs/monitoring/alerts.yaml",
    ] {
        assert!(std::fs::metadata(root.join(file)).is_ok_and(|m| m.len() > 0), "{file} is not there");
    }
    // Stripped, and still working.
    let packed = root.join("tar-like");
    assert!(std::fs::metadata(&packed).unwrap().len() < std::fs::metadata(binary).unwrap().len());
    // What was stripped is beside it, under the name that the program has for it.
    let debug = name.replace(".tar.gz", ".debug");
    assert!(std::fs::metadata(outs[0].join(&debug)).unwrap().len() > 0);
    let link = lab.cmd(args!["-p", ".gnu_debuglink", packed]).program(Path::new("readelf")).run().code(0);
    assert!(link.stdout.contains(&debug), "{}", link.stdout);
    assert_eq!(
        lab.cmd(args!["--version"]).program(&packed).run().code(0).stdout,
        lab.run(args!["--version"]).stdout
    );
    // The owner is root, and the time is that of the release.
    let list = shell("cd \"$0\"; TZ=UTC tar -tvf *.tar.gz");
    assert!(list.lines().all(|line| line.contains(" 0/0 ") && line.contains(" 2025-06-15 ")), "{list}");
}

#[test]
fn a_program_that_runs_on_few_machines_is_no_release() {
    need_tool("readelf", "apt-get install binutils");
    let lab = Lab::new();
    let out = lab.path("out");
    let pack = |binary: &str, glibc: &str| {
        let args = args!["--binary", binary, "--out", out, "--no-deb", "--max-glibc", glibc];
        script(&lab, args).run()
    };
    pack(env!("CARGO_BIN_EXE_tar-like"), "2.5").code(1).says("glibc");
    // Bash needs a library for its terminal.
    pack("/bin/bash", "99").code(1).says("the program needs libtinfo");
    pack("/nowhere", "99").code(2);
    script(&lab, args!["--nonsense"]).run().code(2);
    assert!(!out.join("SHA256SUMS").exists());
}
