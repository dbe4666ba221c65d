//! The configuration itself, certificates, and a transfer through it.

use super::{Haproxy, certificates, command, environment, make_certificate, root};
use crate::support::{Lab, Tree, assert_same_tree, is_root, need_tool};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// haproxy itself finds nothing to complain about, however many proxies there are.
#[test]
fn the_configuration_is_valid_without_warnings() {
    let lab = Lab::new();
    let addresses: Vec<_> = (1..=4).map(|port| ([192, 0, 2, 1], 8000 + port).into()).collect();
    let no_socket = [("HAPROXY_STATS_SOCKET", ""), ("HAPROXY_USER", ""), ("HAPROXY_LOG", "127.0.0.1:514")];
    let slices: Vec<(String, &str)> = (2..=8)
        .flat_map(|n| [format!("TARLIKE_SLICE_{n}"), format!("TARLIKE_SLICE_{n}_STANDBY")])
        .map(|name| (name, "192.0.2.2:8000"))
        .collect();
    let slices: Vec<(&str, &str)> = slices.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    for (proxies, more) in [
        (0, &[][..]),
        (1, &[]),
        (2, &no_socket),
        (4, &[("HAPROXY_BIND", "127.0.0.1:18443")]),
        (1, &slices[..1]),
        (2, &slices),
    ] {
        let env = environment(&lab, &addresses[..proxies], more);
        let output =
            command(&env).args(["-c", "-V", "-f"]).arg(root().join("haproxy/haproxy.cfg")).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && !said.contains("WARNING") && !said.contains("ALERT"), "{said}");
    }
}

#[test]
fn certificates_for_trials() {
    need_tool("openssl", "apt-get install openssl");
    let lab = Lab::new();
    let certs = lab.path("made/certs");
    let make = |more: &[&str]| {
        let mut args = args!["-o", certs];
        args.extend(more.iter().map(Into::into));
        make_certificate(args)
    };
    assert!(make(&["--days", "30", "receiver.example.org", "192.0.2.7", "2001:db8::7"]).status.success());
    let read = |name: &str| std::fs::read_to_string(certs.join(name)).unwrap();
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(&certs).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for name in ["ca-key.pem", "server-key.pem", "haproxy.pem"] {
        assert_eq!(certs.join(name).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(read("haproxy.pem"), read("server.pem") + &read("server-key.pem"));
    for name in ["-verify_hostname receiver.example.org", "-verify_ip 192.0.2.7", "-verify_ip 2001:db8::7"] {
        let (option, name) = name.split_once(' ').unwrap();
        let said = openssl(&["verify", "-CAfile", "ca.pem", option, name, "server.pem"]);
        assert!(said.contains("OK"), "{said}");
    }
    let (authority, server) = (read("ca.pem"), read("server.pem"));
    // Directories that exist are not lost by accident.
    assert_eq!(make(&["other.example.org"]).status.code(), Some(1));
    assert_eq!(read("server.pem"), server);
    assert!(make(&["--force", "other.example.org"]).status.success());
    assert_eq!(read("ca.pem"), authority, "senders need not be told");
    assert!(openssl(&["verify", "-CAfile", "ca.pem", "server.pem"]).contains("OK"));
    for wrong in [&[][..], &["a b"], &["a/b"], &["--days", "x", "a"], &["--nonsense", "a"], &["--days"]] {
        assert_eq!(make(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(std::fs::read_dir(&certs).unwrap().count(), 5, "nothing else is left");
}

#[test]
fn a_whole_transfer_with_tls_and_token() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 50).rich(400_000);
    let db = lab.index(&src);
    let token = lab.file("token", "0123456789abcdef0123456789abcdef");
    let proxy = lab.proxy_with(&dst, args!["--token-file", token]);
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    let ca = certificates(&lab).join("ca.pem");
    // A sender that does not know the authority sends nothing, and neither does one without a
    // token.
    let stranger =
        lab.upload(&src, &db, &haproxy.url(), args!["--token-file", token, "--stall-timeout", "2"]);
    assert_eq!(stranger.code, 1, "{stranger:?}");
    lab.upload(&src, &db, &haproxy.url(), args!["--ca-file", ca]).code(1).says("token");
    let secured = args!["--ca-file", ca, "--token-file", token, "-s", "50000"];
    lab.upload(&src, &db, &haproxy.url(), secured.clone()).code(0);
    assert_same_tree(&src, &dst);
    lab.check(&dst, &db, args!["--extra"]).code(0);
    // A sync streams its index through haproxy, too, with POST.
    let again = lab.path("again");
    // Below a folder of its own: the paths of the first archive are the first archive's.
    Tree::new(&again.join("again"), 51).rich(50_000);
    let mut more = args!["--tar-id", "1"];
    more.extend(secured);
    lab.sync(&again, haproxy.url(), more.clone()).code(0);
    // The receiver reads its copy on request of a sender, also through haproxy.
    more.push("--checksum".into());
    lab.sync(&again, haproxy.url(), more).code(0);
    // One line a request, with what is needed to find it again.
    let log = haproxy.log();
    let block = log.iter().find(|line| line["path"].as_str().is_some_and(|p| p.starts_with("/tar/0/50000/")));
    let block = block.unwrap_or_else(|| panic!("no block in {log:?}"));
    assert_eq!(
        (&block["status"], &block["server"], &block["method"]),
        (&200.into(), &"proxy1".into(), &"PUT".into())
    );
    assert!(block["id"].as_str().unwrap().len() > 30 && block["tls"].as_str().unwrap().starts_with("TLSv1."));
    if is_root() {
        for worker in haproxy.workers() {
            let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
            let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
            assert!(!uid.split_whitespace().any(|id| id == "0"), "the worker is root: {uid}");
        }
    }
}

/// A copy is adopted, updated by runs, and rewound, all of it through haproxy.
#[test]
fn passes_with_tls_and_token() {
    let lab = Lab::new();
    let (src, dst, before) = (lab.path("src"), lab.dir("dst"), lab.path("before"));
    let mut tree = Tree::new(&src, 52);
    tree.rich(50_000).noise("log", 2_000_000).file("goes", "goes");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(Command::new("cp").arg("-aT").args([from, to]).status().unwrap().success());
    };
    copy(&src, &dst);
    let token = lab.file("token", "0123456789abcdef0123456789abcdef");
    let proxy = lab.proxy_with(&dst, args!["--token-file", token]);
    let haproxy = Haproxy::start(&lab, &[proxy.addr]).ready();
    let ca = certificates(&lab).join("ca.pem");
    let secured = args!["-db", lab.path("index"), "--ca-file", ca, "--token-file", token, "--json"];
    let run = |more| {
        let output = lab.sync(&src, haproxy.url(), [secured.clone(), more].concat()).code(0);
        output.summary()["sent_bytes"].as_u64().unwrap()
    };
    assert_eq!(run(args!["--adopt", "--delete"]), 0);
    assert_same_tree(&src, &dst);
    copy(&src, &before);
    let grown = [std::fs::read(tree.path("log")).unwrap(), tree.rng.noise(50_000)].concat();
    tree.file("log", grown).remove("goes").file("new", "new");
    assert_eq!(run(args!["--keep", "1", "--delete", "--append", "spot"]), 50_003);
    assert_same_tree(&src, &dst);
    lab.run([args!["rewind", haproxy.url()], secured.clone()].concat()).code(0);
    assert_same_tree(&before, &dst);
}

/// The receiver gets the address of the connection, whatever the request claims.
#[test]
fn addresses_are_not_believed() {
    use std::io::{Read, Write};
    let lab = Lab::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut buffer) {
                        Ok(count) if count > 0 => head.extend(&buffer[..count]),
                        _ => return,
                    }
                }
                let length = head.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&head));
            });
        }
    });
    let haproxy = Haproxy::start(&lab, &[address]).ready();
    let spoofed = "GET /tar/0/status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\
         X-Forwarded-For: 203.0.113.66\r\nx-forwarded-for: 203.0.113.67, 203.0.113.68\r\nX-Real-IP: 203.0.113.69\r\n\
         Forwarded: for=203.0.113.70\r\nX-Forwarded-Host: 203.0.113.71\r\nX-Forwarded-Port: 203\r\n\
         X-Forwarded-Proto: 203.0.113.72\r\nX-Request-ID: 203.0.113.73\r\n\r\n";
    let answer = crate::support::http::raw(haproxy.plain, spoofed.as_bytes());
    let seen = answer.text().to_ascii_lowercase();
    assert_eq!(answer.status, 200, "{seen}");
    // A number of haproxy's own may have the same digits.
    let mut told = seen.lines().filter(|line| !line.starts_with("x-request-id: ") || line.contains("203.0"));
    assert!(!told.any(|line| line.contains("203")), "{seen}");
    assert!(seen.contains("authorization: bearer secret"), "{seen}");
    for (name, values) in
        [("x-forwarded-for", vec!["127.0.0.1"]), ("x-forwarded-proto", vec!["https"]), ("x-real-ip", vec![])]
    {
        let prefix = format!("{name}: ");
        let found: Vec<&str> = seen.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        assert_eq!(found, values, "{name} in {seen}");
    }
}
