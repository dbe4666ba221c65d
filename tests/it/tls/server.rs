//! The certificates that the receiver presents and asks for, and what it refuses.

use super::{Site, fails_at_once};
use crate::support::tls::{self, Authority};
use crate::support::{http, wait_until};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_chain_that_is_trusted_and_some_that_are_not() {
    let site = Site::new();
    let between = site.ca.intermediate("between");
    let server = between.issue("chained");
    let chain = [std::fs::read(&server.cert).unwrap(), std::fs::read(between.pem()).unwrap()].concat();
    std::fs::write(&server.cert, chain).unwrap();
    let proxy = site.proxy_cmd(&server).serve();
    assert!(proxy.url.starts_with("https://"), "{}", proxy.url);
    fails_at_once(site.upload(&proxy.url, vec![]), "--ca-file");
    let other = Authority::new(&site.lab, "others");
    fails_at_once(site.upload(&proxy.url, args!["--ca-file", other.pem()]), "not valid");
    assert!(!site.dst.join("a").exists());
    site.trusting(&proxy.url, vec![]).run().code(0);
    site.assert_arrived();
    for _ in 0..2 {
        site.upload(&proxy.url, args!["--ignore-ca"]).run().code(0).says("warning: --ignore-ca");
    }
}

#[test]
fn certificates_that_have_expired_or_are_for_others() {
    let site = Site::new();
    let expired = site.ca.issue_for("expired", tls::NAMES, 0);
    let elsewhere = site.ca.issue_for("elsewhere", "subjectAltName=DNS:elsewhere.test", 30);
    std::thread::sleep(Duration::from_millis(1500));
    let proxy = site.proxy_cmd(&expired).serve();
    fails_at_once(site.trusting(&proxy.url, vec![]), "expired");
    proxy.term_and_wait().code(0);
    let proxy = site.proxy_cmd(&elsewhere).serve();
    fails_at_once(site.trusting(&proxy.url, vec![]), "other names");
}

/// `openssl req -x509` makes it, and --ca-file alone does not help.
#[test]
fn the_certificate_of_an_authority_says_what_to_do() {
    let site = Site::new();
    let proxy = site.proxy_cmd(site.ca.own()).serve();
    fails_at_once(site.trusting(&proxy.url, vec![]), "CA:FALSE");
}

#[test]
fn a_sender_needs_a_certificate_where_one_is_asked_for() {
    let site = Site::new();
    let (senders, others) = (Authority::new(&site.lab, "senders"), Authority::new(&site.lab, "others"));
    let expired = senders.issue_for("expired", tls::SENDER, 0);
    let (good, wrong) =
        (senders.issue_for("good", tls::SENDER, 30), others.issue_for("wrong", tls::SENDER, 30));
    std::thread::sleep(Duration::from_millis(1500));
    // That is enough for an address that everyone can reach.
    let proxy = site.serve(args!["--client-ca", senders.pem(), "--bind", "0.0.0.0"]);
    let refusal = "does not accept this sender's certificate";
    fails_at_once(site.trusting(&proxy.url, vec![]), refusal);
    for identity in [&wrong, &expired] {
        let more = args!["--client-cert", identity.cert, "--client-key", identity.key];
        fails_at_once(site.trusting(&proxy.url, more), refusal);
    }
    assert!(!site.dst.join("a").exists());
    let both = site.lab.path("both.pem");
    let pems = [&good.cert, &good.key].map(|path| std::fs::read(path).unwrap());
    std::fs::write(&both, pems.concat()).unwrap();
    site.trusting(&proxy.url, args!["--client-cert", both]).run().code(0);
    site.assert_arrived();
    site.trusting(&proxy.url, args!["--client-cert", good.cert, "--client-key", good.key]).run().code(0);
    // Health checks are no exception. The refusal is not lost, whatever was sent before.
    let long = format!("x-long: {}\r\n", "x".repeat(100_000));
    for _ in 0..20 {
        let refused = tls::get(proxy.addr, &site.ca, None, "/readyz", &long).unwrap_err();
        assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
    }
    let metrics = tls::get(proxy.addr, &site.ca, Some(&good), "/metrics", "").unwrap().text();
    let failures =
        metrics.lines().find_map(|line| line.strip_prefix("tarlike_tls_handshake_failures_total "));
    assert!(failures.unwrap().parse::<u64>().unwrap() >= 4, "{metrics}");
}

#[test]
fn a_certificate_does_not_stand_in_for_a_token() {
    let site = Site::new();
    let senders = Authority::new(&site.lab, "senders");
    let good = senders.issue_for("good", tls::SENDER, 30);
    let token = site.lab.file("token", "0123456789abcdef0123456789abcdef");
    let proxy = site.serve(args!["--client-ca", senders.pem(), "--token-file", token]);
    let own = args!["--client-cert", good.cert, "--client-key", good.key];
    fails_at_once(site.trusting(&proxy.url, own.clone()), "401");
    site.trusting(&proxy.url, own).args(args!["--token-file", token]).run().code(0);
    site.assert_arrived();
}

#[test]
fn files_are_replaced_while_an_upload_runs() {
    let site = Site::new();
    let senders = Authority::new(&site.lab, "senders");
    let (first, second) = (site.ca.issue("first"), site.ca.issue("second"));
    let good = senders.issue_for("good", tls::SENDER, 30);
    let client_ca = site.lab.path("client-ca.pem");
    std::fs::copy(senders.pem(), &client_ca).unwrap();
    let proxy = site.proxy_cmd(&first).args(args!["--client-ca", client_ca]).serve();
    let own = args!["--client-cert", good.cert, "--client-key", good.key, "--bwlimit", "50K"];
    let upload = site.trusting(&proxy.url, own).spawn();
    let shown = || tls::shown(proxy.addr, &site.ca, Some(&good));
    let metric = |name: &str| {
        let text = tls::get(proxy.addr, &site.ca, Some(&good), "/metrics", "").unwrap().text();
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    wait_until("blocks arrive", Duration::from_secs(20), || metric("tarlike_blocks_accepted_total") > 1);
    assert_eq!(shown(), tls::der(&first));
    // A certificate with the key of another one: the previous ones stay, and the log says so.
    std::fs::copy(&second.cert, &first.cert).unwrap();
    proxy.signal(Signal::HUP);
    wait_until("it says so", Duration::from_secs(20), || proxy.stderr().contains("certificate in use stays"));
    assert!(proxy.stderr().contains("is not that of the certificate"), "{}", proxy.stderr());
    assert_ne!(shown(), tls::der(&second));
    assert_eq!(metric("tarlike_reload_stale{what=\"tls\"}"), 1);
    std::fs::copy(&second.key, &first.key).unwrap();
    proxy.signal(Signal::HUP);
    wait_until("the new one is shown", Duration::from_secs(20), || shown() == tls::der(&second));
    assert_eq!(metric("tarlike_reload_stale{what=\"tls\"}"), 0);
    assert_eq!(metric("tarlike_reloads_total{what=\"tls\",result=\"failed\"}"), 1);
    upload.wait().code(0);
    site.assert_arrived();
    // From then on the other authority counts for senders.
    std::fs::copy(site.ca.pem(), &client_ca).unwrap();
    proxy.signal(Signal::HUP);
    let refused = || tls::get(proxy.addr, &site.ca, Some(&good), "/readyz", "").is_err();
    wait_until("old senders are refused", Duration::from_secs(20), refused);
}

/// Also if nothing can be read again: SIGHUP ends no receiver.
#[test]
fn a_hangup_ends_nothing() {
    let site = Site::new();
    let proxy = site.lab.proxy(&site.dst);
    proxy.signal(Signal::HUP);
    site.upload(&proxy.url, vec![]).run().code(0);
    proxy.term_and_wait().code(0);
}

#[test]
fn old_versions_are_refused() {
    let site = Site::new();
    let proxy = site.serve(vec![]);
    let talk = |version: &str| {
        let address = proxy.addr.to_string();
        let more = ["-cipher", "ALL:@SECLEVEL=0", "-alpn", "h2,http/1.1"];
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address, version])
            .args(more)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    };
    for old in ["-tls1", "-tls1_1"] {
        let said = talk(old);
        assert!(said.contains(":SSL alert number ") && said.contains("Cipher is (NONE)"), "{said}");
    }
    for new in ["-tls1_2", "-tls1_3"] {
        let said = talk(new);
        assert!(!said.contains("Cipher is (NONE)") && said.contains("ALPN protocol: http/1.1"), "{said}");
    }
}

#[test]
fn plain_http_and_tls_that_miss_each_other() {
    let site = Site::new();
    let proxy = site.serve(vec![]);
    let plain_url = proxy.url.replace("https://", "http://");
    fails_at_once(site.upload(&plain_url, vec![]), "use https://");
    // Also if there is a body, which is not read.
    let body = vec![b'x'; 200_000];
    let put = http::request(proxy.addr, "PUT", "/tar/0/1000/0", &[], &body);
    assert_eq!(put.status, 400, "{}", put.text());
    proxy.term_and_wait().code(0);
    let proxy = site.lab.proxy(&site.dst);
    let url = proxy.url.replace("http://", "https://");
    fails_at_once(site.trusting(&url, vec![]), "does not speak TLS");
}

#[test]
fn slow_handshakes_delay_no_other_connection() {
    let site = Site::new();
    let proxy = site.serve(vec![]);
    let slow: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = TcpStream::connect(proxy.addr).unwrap();
            if number % 2 == 0 {
                // The beginning of a handshake that never goes on.
                stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3]).unwrap();
            }
            stream
        })
        .collect();
    let start = Instant::now();
    site.trusting(&proxy.url, vec![]).run().code(0);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    site.assert_arrived();
    let open = tls::get(proxy.addr, &site.ca, None, "/metrics", "").unwrap().text();
    let open = open.lines().find_map(|line| line.strip_prefix("tarlike_connections ")).unwrap().to_string();
    assert!(open.parse::<u64>().unwrap() > 100, "they count as connections: {open}");
    // They are closed, and none of them before its time.
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    assert!(start.elapsed() > Duration::from_secs(8), "{:?}", start.elapsed());
    let _slow = TcpStream::connect(proxy.addr).unwrap();
    let start = Instant::now();
    proxy.term_and_wait().code(0);
    assert!(start.elapsed() < Duration::from_secs(8), "a stop waits for no handshake: {:?}", start.elapsed());
}

#[test]
fn files_that_cannot_be_used() {
    let site = Site::new();
    let (good, other) = (site.ca.issue("good"), site.ca.issue("other"));
    let junk = site.lab.file("junk", "-----BEGIN NOTHING-----\n");
    let proxy = |cert: &std::path::Path, key: &std::path::Path| {
        site.lab.cmd(args!["proxy", "0", "-b", site.dst, "--tls-cert", cert, "--tls-key", key])
    };
    let missing = site.lab.path("missing.pem");
    proxy(&missing, &good.key).run().code(2).says("missing.pem");
    proxy(&good.cert, &missing).run().code(2).says("missing.pem");
    proxy(&junk, &good.key).run().code(2).says("is no PEM file");
    proxy(&good.cert, &junk).run().code(2).says("no private key");
    proxy(&good.cert, &good.cert).run().code(2).says("no private key");
    proxy(&good.cert, &other.key).run().code(2).says("is not that of the certificate");
    proxy(&good.cert, &good.key).args(args!["--client-ca", junk]).run().code(2).says("junk");
    site.lab.run(args!["proxy", "0", "-b", site.dst, "--tls-cert", good.cert]).code(2).says("--tls-key");
    site.lab
        .run(args!["proxy", "0", "-b", site.dst, "--client-ca", site.ca.pem()])
        .code(2)
        .says("--tls-cert");
    // Encrypted is not protected.
    proxy(&good.cert, &good.key).args(args!["--bind", "0.0.0.0"]).run().code(2).says("--client-ca");
    let warned = |mode| {
        std::fs::set_permissions(&good.key, PermissionsExt::from_mode(mode)).unwrap();
        let proxy = proxy(&good.cert, &good.key).serve();
        proxy.stderr().contains("every user of this host can read the key")
    };
    assert!(!warned(0o600) && !warned(0o640) && warned(0o644));
    let upload = |more| site.upload("https://127.0.0.1:1/tar", more).run();
    upload(args!["--client-cert", missing]).code(2).says("missing.pem");
    upload(args!["--client-cert", good.cert]).code(2).says("no certificate with a key");
    upload(args!["--client-key", good.key]).code(2).says("--client-cert");
    upload(args!["--client-cert", good.cert, "--client-key", other.key]).code(2);
}
