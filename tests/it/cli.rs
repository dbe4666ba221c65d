//! The command line: every spelling of the original, help, wrong usage, tokens, verbosity, JSON.

use crate::support::{Lab, Tree, assert_same_tree, index};
use std::path::PathBuf;

const COMMANDS: [&str; 5] = ["index", "proxy", "upload", "check", "sync"];

fn source(lab: &Lab) -> PathBuf {
    let src = lab.path("src");
    Tree::new(&src, 70).noise("a", 3000).text("b/c", 2000).file("empty", "");
    src
}

/// FORMAT.md 12.1, short and single-dash spellings.
#[test]
fn short_spellings_of_the_original() {
    let lab = Lab::new();
    let (src, dst, db, dbp) = (source(&lab), lab.dir("dst"), lab.path("i.sqlite"), lab.path("p.sqlite"));
    lab.run(args!["index", "-b", src, "-db", db, "-x", "zzz", "-x", "yyy", "-c"]).code(0);
    let proxy = lab.cmd(args!["proxy", "0", "-b", dst, "-db", lab.path("receiver.sqlite")]).serve();
    let all = args![
        "upload",
        "-b",
        src,
        "-db",
        db,
        "-dbp",
        dbp,
        "-u",
        proxy.url,
        "-p",
        "2",
        "-f",
        "0",
        "-l",
        "99",
        "-s",
        "1000",
        "--ignore-done",
        "--ignore-ca"
    ];
    lab.run(all).code(0);
    lab.run(args!["check", "-b", dst, "-db", db, "-f", "0", "-l", "99", "-s", "1000"]).code(0);
    assert_same_tree(&src, &dst);
    let columns =
        index::open(&dbp).prepare("SELECT tar_id, blk_size, blk_id FROM res").unwrap().column_count();
    assert_eq!(columns, 3);
}

/// FORMAT.md 12.1, long spellings; with `=` too.
#[test]
fn long_spellings_of_the_original() {
    let lab = Lab::new();
    let (src, dst, db, dbp) = (source(&lab), lab.dir("dst"), lab.path("i.sqlite"), lab.path("p.sqlite"));
    lab.run(args!["index", "--base-folder", src, "--database", db, "--exclude", "zzz", "--clean"]).code(0);
    let proxy =
        lab.cmd(args!["proxy", "0", "--base-folder", dst, "--database", lab.path("r.sqlite")]).serve();
    let all = args![
        "upload",
        "--base-folder",
        src,
        "--database",
        db,
        "--database-progress",
        dbp,
        "--upload-url",
        proxy.url,
        "--no-processes",
        "2",
        "--first-block",
        "0",
        "--last-block",
        "99",
        "--block-size",
        "1000",
        "--ignore-done"
    ];
    lab.run(all).code(0);
    lab.run(args![
        "check",
        "--base-folder",
        dst,
        "--database",
        db,
        "--first-block=0",
        "--last-block=99",
        "--block-size=1000"
    ])
    .code(0);
    assert_same_tree(&src, &dst);
}

/// `-db=FILE` and `-dbp=FILE`, which Python's argparse accepts.
#[test]
fn single_dash_spellings_with_an_equals_sign() {
    let lab = Lab::new();
    let (src, dst) = (source(&lab), lab.dir("dst"));
    let (db, dbp) = (lab.path("i.sqlite"), lab.path("p.sqlite"));
    lab.run(args!["index", "-b", src, format!("-db={}", db.display())]).code(0);
    let proxy = lab.proxy(&dst);
    let progress = format!("-dbp={}", dbp.display());
    lab.run(args!["upload", "-b", src, format!("-db={}", db.display()), progress, "-u", proxy.url]).code(0);
    assert!(dbp.exists());
    assert_same_tree(&src, &dst);
}

/// Without flags: this folder, `~/.tar_like.sqlite`, `~/.tar_like_progress.sqlite`, `tmp/recv`.
#[test]
fn defaults_are_those_of_the_original() {
    let lab = Lab::new();
    let src = source(&lab);
    lab.cmd(args!["index"]).cwd(&src).run().code(0);
    assert_eq!(index::paths(&lab.path("home/.tar_like.sqlite")), ["a", "b/c", "empty"]);
    let receiver = lab.dir("receiver");
    let proxy = lab.cmd(args!["proxy", "0"]).cwd(&receiver).serve();
    lab.cmd(args!["upload", "-u", proxy.url]).cwd(&src).run().code(0);
    assert!(lab.path("home/.tar_like_progress.sqlite").exists());
    assert_same_tree(&src, &receiver.join("tmp/recv"));
    lab.cmd(args!["check"]).cwd(&receiver).run().code(0);
}

#[test]
fn help_tells_defaults_and_examples() {
    let lab = Lab::new();
    let top = lab.run(args!["--help"]).code(0);
    for command in COMMANDS {
        assert!(top.stdout.contains(command), "{command} is not in\n{}", top.stdout);
        for flag in ["--help", "-h"] {
            lab.run(args![command, flag]).code(0);
        }
        let help = lab.run(args![command, "--help"]).code(0).stdout;
        for word in ["default", "xample", &format!("tar-like {command} "), "-v", "-q", "--json"] {
            assert!(help.contains(word), "help of {command} does not say {word:?}:\n{help}");
        }
    }
    let help = |command: &str| lab.run(args![command, "--help"]).stdout;
    for (command, words) in [
        ("index", &["-b", "-db", "-x", "-c", "--base-folder", "--database", "--exclude", "--clean"][..]),
        (
            "proxy",
            &["8000", "tmp/recv", "127.0.0.1", "--token-file", "--insecure", "--legacy", "TARLIKE_TOKEN"],
        ),
        (
            "upload",
            &[
                "-dbp",
                "30000000",
                "http://localhost:8000/tar",
                "--bwlimit",
                "--dry-run",
                "--ignore-ca",
                "900",
                "300",
            ],
        ),
        ("check", &["--extra", "--no-metadata", "tmp/recv", "inclusive"]),
    ] {
        for word in words {
            assert!(
                help(command).contains(word),
                "help of {command} does not say {word:?}:\n{}",
                help(command)
            );
        }
    }
    assert!(lab.run(args!["--version"]).code(0).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_2_and_says_why() {
    let lab = Lab::new();
    let (src, dst) = (source(&lab), lab.dir("dst"));
    let db = lab.index(&src);
    for bad in [
        args![],
        args!["nonsense"],
        args!["index", "--nonsense"],
        args!["index", "-b"],
        args!["upload", "-dbx", "x"],
        args!["sync", src],
        args!["proxy", "notaport", "-b", dst],
        args!["proxy", "99999", "-b", dst],
        args!["proxy", "0", "-b", dst, "--bind", "nowhere at all"],
        args!["upload", "-b", src, "-db", db, "-s", "0"],
        args!["upload", "-b", src, "-db", db, "-s", "-5"],
        args!["upload", "-b", src, "-db", db, "-p", "0"],
        args!["upload", "-b", src, "-db", db, "-f", "x"],
        args!["upload", "-b", src, "-db", db, "--bwlimit", "fast"],
        args!["upload", "-b", src, "-db", db, "--compress", "zip"],
        args!["check", "-b", dst, "-db", db, "-s", "0"],
        args!["upload", "-b", src, "-db", db, "-u", "not a url"],
        args!["upload", "-b", src, "-db", db, "-u", "ftp://localhost/tar"],
        args!["upload", "-b", src, "-db", db, "-u", "localhost:8000/tar"],
        args!["upload", "-b", src, "-db", db, "-u", "http://"],
        args!["upload", "-b", src, "-db", db, "-u", "http://user:secret@localhost:1/tar"],
    ] {
        let output = lab.run(bad).code(2);
        assert!(!output.stderr.trim().is_empty(), "{output:?}");
        assert!(!output.stderr.contains("panicked"), "{output:?}");
    }
}

/// Every user of the host sees a flag's value, and it lands in the shell's history.
#[test]
fn a_token_is_never_a_flag() {
    let lab = Lab::new();
    let (src, dst) = (source(&lab), lab.dir("dst"));
    let db = lab.index(&src);
    let secret = "0123456789abcdef0123456789abcdef";
    for args in [
        args!["proxy", "0", "-b", dst, "--token", secret],
        args!["upload", "-b", src, "-db", db, "--token", secret],
        args!["sync", src, dst, format!("--token={secret}")],
    ] {
        lab.run(args).code(2);
    }
}

#[test]
fn a_token_from_a_file_or_the_environment_opens_the_door() {
    let lab = Lab::new();
    let (src, dst) = (source(&lab), lab.dir("dst"));
    let db = lab.index(&src);
    let secret = "0123456789abcdef0123456789abcdef";
    let file = lab.file("token", format!("{secret}\n"));
    let proxy = lab.proxy_with(&dst, args!["--token-file", file]);
    let upload = |more| lab.upload_cmd(&src, &db, &proxy.url, more);
    let without = upload(args![]).run().code(1);
    assert!(without.stderr.contains("token"), "{}", without.stderr);
    upload(args![]).env("TARLIKE_TOKEN", "another-secret-of-some-length").run().code(1);
    assert!(!dst.join("a").exists());
    upload(args!["--token-file", file]).run().code(0);
    assert_same_tree(&src, &dst);
    let through =
        upload(args!["--ignore-done", "-v", "-v", "--json"]).env("TARLIKE_TOKEN", secret).run().code(0);
    assert!(
        !through.stderr.contains(secret) && !through.stdout.contains(secret),
        "the secret is in the output"
    );
    assert!(!proxy.stderr().contains(secret));
    drop(proxy);
    let proxy = lab.cmd(args!["proxy", "0", "-b", dst]).env("TARLIKE_TOKEN", secret).serve();
    assert_eq!(proxy.request("GET", "/metrics", &[], b"").status, 401);
    let missing = lab.run(args!["proxy", "0", "-b", dst, "--token-file", lab.path("nowhere")]);
    assert!(matches!(missing.code, 1 | 2), "{missing:?}");
    assert!(missing.stderr.contains("nowhere"), "{missing:?}");
    let short = lab.file("short", "short\n");
    lab.run(args!["proxy", "0", "-b", dst, "--token-file", short]).code(2);
}

#[test]
fn only_loopback_may_do_without_a_token() {
    let lab = Lab::new();
    let dst = lab.dir("dst");
    for address in ["0.0.0.0", "::"] {
        let refused = lab.run(args!["proxy", "0", "-b", dst, "--bind", address]).code(2);
        assert!(
            refused.stderr.contains("--insecure") && refused.stderr.contains("token"),
            "{}",
            refused.stderr
        );
    }
    let proxy = lab.proxy_with(&dst, args!["--bind", "0.0.0.0", "--insecure"]);
    assert_eq!(proxy.request("GET", "/healthz", &[], b"").status, 200);
    let secret = lab.file("token", "0123456789abcdef0123456789abcdef");
    let proxy = lab.proxy_with(&dst.join("../other"), args!["--bind", "0.0.0.0", "--token-file", secret]);
    assert_eq!(proxy.request("GET", "/metrics", &[], b"").status, 401);
}

#[test]
fn loglevel_is_honoured_in_all_spellings() {
    let lab = Lab::new();
    let (src, dst) = (source(&lab), lab.dir("dst"));
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    let run = |level: &str| {
        let more = args!["--ignore-done", "-s", "1000"];
        lab.upload_cmd(&src, &db, &proxy.url, more).env("LOGLEVEL", level).run().code(0).stderr.len()
    };
    for level in [
        "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "debug", "info", "warn", "warning", "error", "trace",
    ] {
        run(level);
    }
    assert!(run("DEBUG") > run("WARNING"), "DEBUG prints more");
    // An unknown setting must not stop a transfer.
    run("LOUD");
    run("");
}

/// No terminal: no progress, no colours, a few lines.
#[test]
fn quiet_where_there_is_no_terminal() {
    let lab = Lab::new();
    let (src, dst) = (source(&lab), lab.path("dst"));
    let normal = lab.sync(&src, &dst, vec![]).code(0);
    assert!(normal.stderr.lines().count() <= 15, "{}", normal.stderr);
    assert!(!normal.stderr.contains(['\r', '\x1b']), "{:?}", normal.stderr);
    assert!(!normal.stdout.contains(['\r', '\x1b']), "{:?}", normal.stdout);
    let quiet = lab.sync(&src, &dst, args!["-q"]).code(0);
    assert_eq!((quiet.stderr, quiet.stdout), (String::new(), String::new()));
    let verbose = lab.sync(&src, &dst, args!["-v"]).code(0);
    assert!(verbose.stderr.len() > normal.stderr.len() / 2);
    let failed = lab.sync(&lab.path("nowhere"), &dst, args!["-q"]);
    assert!(failed.code != 0 && failed.stderr.contains("nowhere"), "-q must not hide errors: {failed:?}");
}

#[test]
fn json_lines_parse_and_end_in_the_summary() {
    let lab = Lab::new();
    let (src, dst) = (source(&lab), lab.dir("dst"));
    let db = lab.path("i.sqlite");
    let indexed = lab.run(args!["index", "-b", src, "-db", db, "--json"]).code(0).summary();
    assert_eq!(indexed["digest"], index::digest(&db), "{indexed}");
    let proxy = lab.proxy_with(&dst, args!["--json"]);
    let uploaded = lab.upload(&src, &db, &proxy.url, args!["--json", "-s", "1000"]).code(0).summary();
    assert_eq!(uploaded["sent_blocks"], 5, "{uploaded}");
    lab.run(args!["check", "-b", dst, "-db", db, "--json"]).code(0).summary();
    lab.run(args!["sync", src, lab.path("other"), "--json"]).code(0).summary();
    // Errors, too, and those of the command line.
    lab.run(args!["check", "-b", lab.path("nowhere"), "-db", db, "--json"]).code(1).summary();
    lab.run(args!["upload", "-b", src, "-db", db, "-u", "rubbish", "--json"]).code(2).summary();
    lab.run(args!["index", "-b", lab.path("nowhere"), "-db", db, "--json"]).code(1).summary();
    let stopped = proxy.term_and_wait().code(0);
    let lines = stopped.json();
    assert_eq!(lines[0]["event"], "listening", "{lines:?}");
    assert!(lines[0]["url"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    stopped.summary();
}

#[test]
fn dry_run_tells_and_sends_nothing() {
    let lab = Lab::new();
    let (src, dst) = (source(&lab), lab.dir("dst"));
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    let dry = lab.upload(&src, &db, &proxy.url, args!["--dry-run", "-s", "1000", "--json"]).code(0).summary();
    assert_eq!(proxy.blocks_accepted(), 0, "{dry}");
    assert!(!dst.join("a").exists());
    let said = dry.to_string();
    assert!(said.contains("5000") && said.contains(":5"), "bytes and blocks: {said}");
    let text = lab.upload(&src, &db, &proxy.url, args!["--dry-run", "-s", "1000"]).code(0);
    assert!(format!("{}{}", text.stdout, text.stderr).contains('5'), "{text:?}");
}
