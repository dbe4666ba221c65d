//! `tar-like health`

use super::Site;
use crate::support::Lab;
use crate::support::tls::{self, Authority};
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn a_ready_receiver_is_told_from_other_servers() {
    let lab = Lab::new();
    let proxy = lab.proxy(&lab.dir("dst"));
    let origin = format!("http://{}", proxy.addr);
    // The environment's proxies are not used for addresses of this host.
    let health = |url: &str| {
        lab.cmd(args!["health", url])
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .env("ALL_PROXY", "http://127.0.0.1:1")
            .run()
    };
    for good in [&*origin, &format!("{origin}/"), &format!("{origin}/readyz"), &format!("{origin}/healthz")] {
        let output = health(good).code(0);
        assert_eq!((&*output.stdout, &*output.stderr), ("", ""));
    }
    health(&format!("http://localhost:{}", proxy.addr.port())).code(0);
    health(&format!("{origin}/tar/0/status")).code(1).says("404");
    health("no address").code(2);
    health("http://user:secret@127.0.0.1").code(2);
    let closed = origin.clone();
    proxy.term_and_wait().code(0);
    let output = health(&closed).code(1);
    assert!(output.stderr.lines().count() <= 2, "{}", output.stderr);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = Instant::now();
    let url = format!("http://{}", silent.local_addr().unwrap());
    lab.run(args!["health", url, "--timeout", "1"]).code(1).says("in time");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_receiver_with_tls() {
    let site = Site::new();
    let senders = Authority::new(&site.lab, "senders");
    let own = senders.issue_for("watch", tls::SENDER, 30);
    let proxy = site.serve(args!["--client-ca", senders.pem()]);
    let url = proxy.url.replace("/tar", "");
    let trusting = args!["health", url, "--ca-file", site.ca.pem()];
    let own = args!["--client-cert", own.cert, "--client-key", own.key];
    site.lab.cmd(trusting.clone()).args(own.clone()).run().code(0);
    site.lab.run(trusting).code(1).says("certificate");
    site.lab.cmd(args!["health", url]).args(own.clone()).run().code(1).says("--ca-file");
    site.lab.cmd(args!["health", url, "--ignore-ca"]).args(own).run().code(0).says("--ignore-ca");
    site.lab.run(args!["health", url.replace("https", "http")]).code(1).says("400");
}
