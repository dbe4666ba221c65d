//! What a sender takes from its environment, and its warnings.

use super::Site;
use crate::support::Proxy;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

/// An HTTP proxy that leads every request to one receiver, and records the requests.
struct Between {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Between {
    fn start(receiver: &Proxy) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, to) = (asked.clone(), receiver.addr);
        spawn(move || {
            for sender in listener.incoming() {
                let (sender, log) = (sender.unwrap(), log.clone());
                spawn(move || between(sender, TcpStream::connect(to).unwrap(), &log));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn between(sender: TcpStream, mut receiver: TcpStream, log: &Mutex<Vec<String>>) {
    let mut from = BufReader::new(sender.try_clone().unwrap());
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    log.lock().unwrap().push(line.trim().to_string());
    if line.starts_with("CONNECT ") {
        while line != "\r\n" {
            line.clear();
            from.read_line(&mut line).unwrap();
        }
        (&sender).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    } else {
        receiver.write_all(line.as_bytes()).unwrap();
    }
    let (mut back, mut to) = (receiver.try_clone().unwrap(), sender);
    spawn(move || {
        let _ = std::io::copy(&mut back, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut from, &mut receiver);
    let _ = receiver.shutdown(Shutdown::Write);
}

#[test]
fn authorities_of_the_environment() {
    let site = Site::new();
    let proxy = site.serve(vec![]);
    site.upload(&proxy.url, vec![]).env("SSL_CERT_FILE", site.ca.pem()).run().code(0);
    site.assert_arrived();
    let nowhere = site.upload(&proxy.url, vec![]).env("SSL_CERT_FILE", site.lab.path("missing.pem"));
    nowhere.run().code(2).says("SSL_CERT_FILE");
    // A file by flag needs no others.
    site.trusting(&proxy.url, vec![]).env("SSL_CERT_FILE", site.lab.path("missing.pem")).run().code(0);
}

#[test]
fn https_through_a_proxy_of_the_environment() {
    let site = Site::new();
    let proxy = site.serve(vec![]);
    let between = Between::start(&proxy);
    let url = format!("https://receiver.test:{}/tar", proxy.addr.port());
    let upload = |name: &str, more| site.trusting(&url, more).env(name, &between.url);
    upload("HTTPS_PROXY", vec![]).run().code(0);
    site.assert_arrived();
    let asked = between.asked();
    let connect = format!("CONNECT receiver.test:{} HTTP/1.1", proxy.addr.port());
    assert!(!asked.is_empty() && asked.iter().all(|line| *line == connect), "{asked:?}");
    upload("https_proxy", vec![]).run().code(0);
    assert!(!between.asked().is_empty());
    // Only the proxy knows that name.
    let stall = args!["--stall-timeout", "1"];
    upload("HTTPS_PROXY", stall.clone()).env("NO_PROXY", "other.test,receiver.test").run().code(1);
    upload("HTTP_PROXY", stall).run().code(1);
    assert_eq!(between.asked(), [""; 0]);
    // Names of this host itself are not looked up elsewhere.
    site.trusting(&proxy.url, vec![]).env("HTTPS_PROXY", "http://127.0.0.1:1").run().code(0);
}

#[test]
fn plain_http_through_a_proxy_of_the_environment() {
    let site = Site::new();
    let proxy = site.lab.proxy(&site.dst);
    let between = Between::start(&proxy);
    let url = format!("http://receiver.test:{}/tar", proxy.addr.port());
    site.upload(&url, vec![]).env("HTTP_PROXY", &between.url).run().code(0);
    site.assert_arrived();
    assert!(between.asked()[0].starts_with(&format!("GET {url}/0/status")));
    let port = proxy.addr.port();
    let any = format!("http://0.0.0.0:{port}/tar");
    let upload =
        |url: &str| site.upload(url, args!["--stall-timeout", "1"]).env("HTTP_PROXY", "http://127.0.0.1:1");
    upload(&any).run().code(1);
    upload(&any).env("NO_PROXY", "0.0.0.0").run().code(0);
    upload(&proxy.url).run().code(0);
}

#[test]
fn a_token_that_can_be_read_on_the_way_is_warned_of() {
    let site = Site::new();
    let secret = "0123456789abcdef0123456789abcdef";
    let token = site.lab.file("token", secret);
    let proxy = site.lab.proxy_with(&site.dst, args!["--bind", "0.0.0.0", "--token-file", token]);
    let warning = "everybody on the way can read the token";
    let any = proxy.url.replace("127.0.0.1", "0.0.0.0");
    for _ in 0..2 {
        site.upload(&any, args!["--token-file", token]).run().code(0).says(warning);
    }
    for url in [&proxy.url, &proxy.url.replace("127.0.0.1", "localhost")] {
        let output = site.upload(url, args!["--token-file", token]).run().code(0);
        assert!(!output.stderr.contains("warning"), "{}", output.stderr);
    }
}

/// In every log, and for every kind of transfer.
#[test]
fn no_secret_is_in_any_log() {
    let site = Site::new();
    let (wrong, password) = ("wr0ng-0123456789abcdef", "passw0rd");
    let tokens = site.lab.path("tokens");
    let made = site.lab.run(args!["token", "new", "--name", "a", "--tokens", tokens]).code(0);
    let made_secret = made.stdout.trim().to_string();
    let more = args!["--tokens", tokens];
    let proxy = site.proxy_cmd(&site.ca.issue("server")).args(more).env("LOGLEVEL", "TRACE").serve();
    let between = Between::start(&proxy);
    let environment = between.url.replace("http://", &format!("http://user:{password}@"));
    let url = format!("https://receiver.test:{}/tar", proxy.addr.port());
    let mut said = String::new();
    for (token, code) in [(wrong, 1), (&made_secret, 0)] {
        let upload = site.trusting(&url, args!["-vvvv", "--ignore-done"]).env("TARLIKE_TOKEN", token);
        let output = upload.env("HTTPS_PROXY", &environment).run().code(code);
        said += &(output.stderr + &output.stdout);
    }
    assert!(!between.asked().is_empty());
    said += &proxy.stderr();
    assert!(said.contains("TRACE") && said.contains("DEBUG") && said.contains("refused 127.0.0.1"), "{said}");
    for secret in [wrong, password, &made_secret, &made_secret[10..40]] {
        assert!(!said.contains(secret), "{said}");
    }
}
