//! The tokens file: how it is made, and when its changes take effect.

use super::{Guarded, WRONG, make};
use crate::support::{Lab, Proxy, is_root, wait_until};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_running_receiver_follows_its_file() {
    let guarded = Guarded::new(vec![]);
    let old = guarded.make("old", vec![]);
    wait_until("a new token is good", SOON, || guarded.status(&old) == 404);
    let new = guarded.make("new", args!["--scope", "upload,metrics"]);
    wait_until("another one is good", SOON, || guarded.status(&new) == 404);
    let text = std::fs::read_to_string(&guarded.tokens).unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("name=old ")).collect();
    std::fs::write(&guarded.tokens, without.join("\n")).unwrap();
    wait_until("the old token is good no more", SOON, || guarded.is_refused(&old));
    assert_eq!(guarded.status(&new), 404);
    // Any fault of the file: the previous tokens stay valid, and the log says so.
    let metric = |name: &str| {
        let text = guarded.request("GET", "/metrics", &new).text();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok()).unwrap()
    };
    let stale = || metric("tarlike_reload_stale{what=\"tokens\"}");
    let said = |text: &str| guarded.proxy.stderr().matches(text).count();
    std::fs::write(&guarded.tokens, "# a comment\nname=x\n").unwrap();
    wait_until("it says so", SOON, || said("line 2: there is no hash=") == 1);
    assert_eq!((guarded.status(&new), stale(), said("the tokens in use stay: ")), (404, 1, 1));
    std::fs::write(&guarded.tokens, "").unwrap();
    wait_until("it says so", SOON, || said("it is empty") == 1);
    std::fs::remove_file(&guarded.tokens).unwrap();
    wait_until("it says so", SOON, || said("cannot read the tokens file") == 1);
    assert_eq!((guarded.status(&new), stale()), (404, 1));
    std::fs::write(&guarded.tokens, &text).unwrap();
    wait_until("all is well", SOON, || stale() == 0);
    assert_eq!((guarded.status(&old), guarded.status(&new)), (404, 404));
    assert!(metric("tarlike_reloads_total{what=\"tokens\",result=\"failed\"}") >= 3);
    std::fs::write(&guarded.tokens, "# nobody\n").unwrap();
    wait_until("the new token is refused", SOON, || guarded.is_refused(&new));
}

/// A sender's token in the environment of the same user would be valid for everything.
#[test]
fn a_token_of_the_environment_is_none_beside_the_file() {
    let lab = Lab::new();
    let (tokens, dst) = (lab.path("tokens"), lab.dir("dst"));
    let good = make(&lab, &tokens, "good", vec![]);
    let all = "everything-0123456789abcdef";
    let file = lab.file("token", all);
    let cmds = [
        lab.cmd(args!["proxy", "0", "-b", dst, "--tokens", tokens]).env("TARLIKE_TOKEN", all),
        lab.cmd(args!["proxy", "0", "-b", dst, "--tokens", tokens]).env("TARLIKE_TOKEN_FILE", &file),
    ];
    for cmd in cmds {
        let proxy = Proxy::start(cmd);
        let status = |token: &str| {
            let header = format!("Bearer {token}");
            proxy.request("GET", "/tar/0/status", &[("authorization", &header)], b"").status
        };
        assert_eq!((status(all), status(&good)), (401, 404));
        assert!(proxy.stderr().contains("only the tokens of that file"), "{}", proxy.stderr());
    }
}

#[test]
fn a_file_with_one_token_is_followed_too() {
    let lab = Lab::new();
    let token = lab.file("token", "first-0123456789abcdef\n");
    let proxy = lab.proxy_with(&lab.dir("dst"), args!["--token-file", token]);
    let status = |token: &str| {
        proxy.request("GET", "/metrics", &[("authorization", &format!("Bearer {token}"))], b"").status
    };
    assert_eq!((status("first-0123456789abcdef"), status("second-0123456789abcdef")), (200, 401));
    std::fs::write(&token, "second-0123456789abcdef\n").unwrap();
    wait_until("the second one is good", SOON, || status("second-0123456789abcdef") == 200);
    assert!(matches!(status("first-0123456789abcdef"), 401 | 429));
}

#[test]
fn receivers_that_do_not_start() {
    let lab = Lab::new();
    let proxy =
        |tokens: &std::path::Path| lab.run(args!["proxy", "0", "-b", lab.path("dst"), "--tokens", tokens]);
    proxy(&lab.path("missing")).code(2).says("missing");
    proxy(&lab.file("empty", "")).code(2).says("tar-like token new");
    let output = proxy(&lab.file("clear", format!("# comment\n\n{WRONG}\n"))).code(2).says("line 3");
    assert!(!output.stderr.contains(WRONG), "perhaps a secret: {}", output.stderr);
    proxy(&lab.file("binary", [0xff, 0xfe])).code(2);
    assert!(!lab.path("dst").exists());
    // A file without tokens refuses every client; it does not admit every client.
    let nobody = lab.file("nobody", "# nobody yet\n");
    let proxy = lab.proxy_with(&lab.dir("dst"), args!["--tokens", nobody, "--bind", "0.0.0.0"]);
    assert_eq!(proxy.request("GET", "/metrics", &[], b"").status, 401);
    assert!(proxy.stderr().contains("every request is refused"), "{}", proxy.stderr());
}

#[test]
fn a_new_token_goes_to_its_places() {
    let lab = Lab::new();
    let tokens = lab.path("tokens");
    let secret = make(
        &lab,
        &tokens,
        "a",
        args!["--scope", "upload,status", "--tar-id", "0,1", "--expires", "2999-01-31"],
    );
    assert!(secret.len() >= 64 && secret.starts_with("tarlike_"), "{secret}");
    let text = std::fs::read_to_string(&tokens).unwrap();
    assert!(text.starts_with("# ") && !text.contains(&secret[8..]));
    let line = text.lines().last().unwrap();
    assert!(line.starts_with("name=a hash=blake3:"), "{line}");
    assert!(line.ends_with(" scope=upload,status tar-id=0,1 expires=2999-01-31"), "{line}");
    assert_eq!(std::fs::metadata(&tokens).unwrap().mode() & 0o777, 0o600);
    // Its readers stay the same.
    std::fs::set_permissions(&tokens, PermissionsExt::from_mode(0o640)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&tokens, Some(10001), Some(10002)).unwrap();
    }
    assert_ne!(make(&lab, &tokens, "b", vec![]), secret);
    let metadata = std::fs::metadata(&tokens).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o640);
    assert!(!is_root() || (metadata.uid(), metadata.gid()) == (10001, 10002));
    let new = |more| lab.cmd(args!["token", "new"]).args(more).run();
    new(args!["--name", "a", "--tokens", tokens]).code(2).says("called a");
    new(args!["--name", "a b"]).code(2);
    new(args!["--name", "c", "--scope", "everything"]).code(2).says("no scope");
    new(args!["--name", "c", "--tar-id", "x"]).code(2);
    new(args!["--name", "c", "--expires", "2001-01-31"]).code(2).says("expired");
    new(args!["--name", "c", "--expires", "soon"]).code(2);
    new(args!["--name", "c", "--tokens", lab.path("no/folder")]).code(1).says("no/folder");
    assert_eq!(std::fs::read_to_string(&tokens).unwrap().matches("name=").count() - 1, 2);
    // Without a file the line goes to standard error, as the file has it.
    let output = new(args!["--name", "c"]).code(0);
    assert_eq!(output.stdout.lines().count(), 1);
    let file = lab.file("by-hand", &output.stderr);
    let proxy = lab.proxy_with(&lab.dir("dst"), args!["--tokens", file]);
    let bearer = format!("Bearer {}", output.stdout.trim());
    assert_eq!(proxy.request("GET", "/tar/0/status", &[("authorization", &bearer)], b"").status, 404);
    let json = new(args!["--name", "d", "--json"]).code(0);
    assert_eq!(json.json()[0]["event"], "token");
    assert!(json.json()[0]["line"].as_str().unwrap().starts_with("name=d hash="));
}

#[test]
fn tokens_that_are_made_at_once_are_all_there() {
    let lab = Lab::new();
    let tokens = lab.path("tokens");
    let running: Vec<_> = (0..20)
        .map(|n| lab.cmd(args!["token", "new", "--name", format!("n{n}"), "--tokens", tokens]).spawn())
        .collect();
    for one in running {
        one.wait().code(0);
    }
    let text = std::fs::read_to_string(&tokens).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("name=")).count(), 20, "{text}");
    assert_eq!(std::fs::read_dir(tokens.parent().unwrap()).unwrap().count(), 3, "home, tmp, tokens");
}
