//! Slow links, and servers between sender and receiver that answer in its place: requests that get
//! through work, and the message names what stands in the way of others.

use crate::support::relay::{Fate, Message, Relay};
use crate::support::{Lab, Output, Proxy, Tree, assert_same_tree};
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A folder with its index, and a receiver.
struct Site {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    db: PathBuf,
    proxy: Proxy,
}

impl Site {
    fn new(bytes: usize) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        Tree::new(&src, 700).noise("a", bytes).noise("b", 3000);
        let db = lab.index(&src);
        let proxy = lab.proxy(&dst);
        Self { lab, src, dst, db, proxy }
    }

    fn upload(&self, url: &str, more: Vec<OsString>) -> Output {
        let usual = if more.iter().any(|arg| arg == "-s") { vec![] } else { args!["-s", "5000", "-p", "2"] };
        self.lab.upload(&self.src, &self.db, url, [usual, more].concat())
    }

    fn relay(&self, decide: impl Fn(u64, &Message) -> Fate + Send + Sync + 'static) -> Relay {
        Relay::start(self.proxy.addr, decide)
    }
}

/// Runs to an end without repeating the request again and again.
#[track_caller]
fn at_once<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let outcome = work();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    outcome
}

/// A gateway answers one block in its own way: the sender sends that block again.
#[test]
fn unlisted_statuses() {
    for status in
        ["425 Too Early", "509 x", "520 x", "521 x", "524 x", "530 x", "599 x", "302 Found", "200 OK"]
    {
        let (site, seen) = (Site::new(40_000), AtomicUsize::new(0));
        let relay = site.relay(move |_, request| {
            match request.is_block() && seen.fetch_add(1, Ordering::SeqCst) == 2 {
                true => {
                    Fate::answer(status, "Server: cloudflare\r\nLocation: /sorry\r\n", "<html>sorry</html>")
                }
                false => Fate::Pass,
            }
        });
        let output = site.upload(&relay.url, vec![]).code(0).says(&status[..3]);
        assert!(
            output.stderr.contains("something between here and the receiver (cloudflare)"),
            "{}",
            output.stderr
        );
        assert_same_tree(&site.src, &site.dst);
    }
}

#[test]
fn a_redirect_says_where_it_leads() {
    let site = Site::new(1000);
    let relay = site.relay(|_, request| {
        let line = request.line();
        let path = line.split(' ').nth(1).unwrap().replace("/tar/", "/files/tar/");
        Fate::answer("301 Moved", &format!("Location: https://receiver.example.org{path}\r\n"), "")
    });
    let output = at_once(|| site.upload(&relay.url, vec![])).code(1).says("301");
    output.says("it leads to https://receiver.example.org/files/tar: give that address");
}

#[test]
fn bodies_that_are_too_large_for_something_between() {
    let (site, nginx) = (Site::new(40_000), "Server: nginx/1.27\r\n");
    let relay = site.relay(move |_, request| match request.is_block() && request.body.len() > 4000 {
        true => Fate::answer("413 Request Entity Too Large", nginx, "<html>413</html>"),
        false => Fate::Pass,
    });
    at_once(|| site.upload(&relay.url, vec![])).code(1).says("nginx/1.27").says("smaller blocks with -s");
    site.upload(&relay.url, args!["-s", "3000"]).code(0);
    let site = Site::new(1000);
    let relay = site.relay(move |_, request| match request.line().ends_with("/db") {
        true => Fate::answer("413 Request Entity Too Large", nginx, ""),
        false => Fate::Pass,
    });
    at_once(|| site.upload(&relay.url, vec![]))
        .code(1)
        .says("the index is too large")
        .says("client_max_body_size");
}

/// A web server accepts every PUT, and its page is not a receiver's answer.
#[test]
fn servers_that_are_no_receivers() {
    let cases: [(&str, &str, &str); 4] = [
        ("404 Not Found", "201 Created", "Created"),
        ("200 OK", "200 OK", "200 OK"),
        ("405 Method Not Allowed", "204 No Content", "No Content"),
        ("403 Forbidden", "403 Forbidden", "403 Forbidden"),
    ];
    for (get, put, says) in cases {
        let site = Site::new(1000);
        let relay = site.relay(move |_, request| match request.line().starts_with("GET ") {
            true => Fate::answer(get, "Server: dav\r\n", "<html></html>"),
            false => Fate::answer(put, "Server: dav\r\n", ""),
        });
        let output = at_once(|| site.upload(&relay.url, vec![])).code(1).says(says);
        output.says(&format!("what answers at {} (dav) does not say that it is a receiver", relay.url));
    }
}

#[test]
fn an_http_proxy_that_is_not_there_or_wants_a_password() {
    let site = Site::new(1000);
    let upload = |url: &str, proxy: &str| {
        let more = args!["--stall-timeout", "1"];
        let cmd = site
            .lab
            .upload_cmd(&site.src, &site.db, url, more)
            .env("http_proxy", proxy)
            .env("https_proxy", proxy);
        at_once(|| cmd.run())
    };
    let relay = site
        .relay(|_, _| Fate::answer("407 Proxy Authentication Required", "Proxy-Authenticate: Basic\r\n", ""));
    let asking = relay.url.trim_end_matches("/tar");
    for url in ["http://receiver.test:8000/tar", "https://receiver.test:8443/tar"] {
        upload(url, "http://127.0.0.1:1")
            .code(1)
            .says("cannot reach the HTTP proxy http://127.0.0.1:1")
            .says("NO_PROXY");
        upload(url, asking).code(1).says("http://name:password@proxy:port");
    }
    // `*` is every address, whether it is a name or not.
    let any = format!("http://0.0.0.0:{}/tar", site.proxy.addr.port());
    let cmd = site.lab.upload_cmd(&site.src, &site.db, &any, vec![]).env("http_proxy", "http://127.0.0.1:1");
    cmd.env("NO_PROXY", "*").run().code(0);
}

/// Text of a peer reaches a terminal only as printable text.
#[test]
fn text_of_a_peer_drives_no_terminal() {
    let site = Site::new(1000);
    let forged = "\u{1b}]0;title\u{7}\u{1b}[2J\ntar-like: all is well\r";
    let quoted = serde_json::to_string(forged).unwrap();
    let ours = "x-tar-like: 1\r\n";
    let answers = [
        Fate::answer("403 Forbidden", ours, &format!(r#"{{"error":{quoted},"hint":{quoted}}}"#)),
        Fate::answer("403 Forbidden", "Server: \x1b[31mred\r\n", ""),
        Fate::answer("301 Moved", "Location: https://x.example/\x1b[31m/tar/0/status\r\n", ""),
        Fate::answer("200 OK", ours, &format!(r#"{{"rc":"0","digest":{quoted}}}"#)),
    ];
    for answer in answers {
        let relay = site.relay(move |_, _| answer.clone());
        let output = site.upload(&relay.url, args!["--stall-timeout", "1"]).code(1);
        assert!(!output.stderr.contains('\u{1b}') && !output.stderr.contains('\r'), "{:?}", output.stderr);
        assert!(!output.stderr.lines().any(|line| line == "tar-like: all is well"), "{:?}", output.stderr);
    }
    // Nor do the reasons that it gives for files that it could not put in place.
    let relay = site.relay(move |_, request| match request.line().contains("/finish") {
        true => {
            let failed = format!(r#"[{{"id":0,"path":{quoted},"reason":{quoted}}}]"#);
            let answer = format!(
                r#"{{"complete":false,"missing_bytes":0,"files_published":1,"failed":{failed},"failed_total":1}}"#
            );
            Fate::answer("200 OK", ours, &answer)
        }
        false => Fate::Pass,
    });
    let output = site.upload(&relay.url, vec![]).code(3).says("all is well");
    assert!(!output.stderr.contains('\u{1b}'), "{:?}", output.stderr);
}

/// A server that accepts connections and stays silent: the sender gives up at the user's timeout.
#[test]
fn a_silent_receiver_is_given_up_when_patience_ends() {
    let site = Site::new(1000);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/tar", silent.local_addr().unwrap());
    let output = at_once(|| site.upload(&url, args!["--stall-timeout", "1"])).code(1);
    // Only the first request takes longer.
    output.says("gave up after").says("s without success");
}

/// No body takes more than seconds, however low the bandwidth limit is.
#[test]
fn a_low_limit_is_shared_by_fewer_and_smaller_bodies() {
    let bodies = |stream: bool| {
        let site = Site::new(17_000);
        let largest = std::sync::Arc::new(AtomicUsize::new(0));
        let seen = largest.clone();
        let relay = site.relay(move |_, request| {
            if request.is_block() {
                seen.fetch_max(request.body.len(), Ordering::SeqCst);
            }
            Fate::Pass
        });
        let more = args!["--bwlimit", "1800", "-s", "20000", "-p", "5", "--compress", "none"];
        match stream {
            true => site
                .lab
                .sync(&site.src, &relay.url, [more, args!["-db", site.lab.path("own.sqlite")]].concat())
                .code(0),
            false => site.upload(&relay.url, more).code(0),
        };
        assert_same_tree(&site.src, &site.dst);
        largest.load(Ordering::SeqCst)
    };
    let (upload, sync) = std::thread::scope(|scope| {
        let upload = scope.spawn(|| bodies(false));
        (upload.join().unwrap(), bodies(true))
    });
    assert!(upload < 18_200 && sync < 18_200, "{upload} {sync}");
}

/// The progress database is only a cache.
#[test]
fn a_progress_database_that_cannot_be_used() {
    let site = Site::new(20_000);
    let garbage = site.lab.file("garbage", [b"SQLite format 3\0".to_vec(), vec![7; 5000]].concat());
    let folder = site.lab.dir("folder");
    let locked = site.lab.path("locked");
    let connection = rusqlite::Connection::open(&locked).unwrap();
    connection.execute_batch("CREATE TABLE t(a); BEGIN EXCLUSIVE;").unwrap();
    for progress in [garbage, folder, locked, site.lab.path("no/such/folder")] {
        let more = args!["-dbp", progress, "--ignore-done"];
        site.upload(&site.proxy.url, more)
            .code(0)
            .says("warning: cannot use the progress database")
            .says("going on without it");
        assert_same_tree(&site.src, &site.dst);
    }
}

/// A sender whose index has changed since counts as the same sender.
#[test]
fn a_changed_index_is_no_other_sender() {
    let (one, other) = (Site::new(3000), Site::new(2000));
    let sync = |url: &str| one.lab.sync(&one.src, url, args!["-db", one.db]).code(0);
    sync(&one.proxy.url);
    Tree::new(&one.src, 701).noise("c", 500);
    sync(&other.proxy.url);
    Tree::new(&one.src, 702).noise("d", 500);
    sync(&one.proxy.url);
    for site in [&one, &other] {
        assert!(!site.proxy.stderr().contains("another sender"), "{}", site.proxy.stderr());
    }
    assert_same_tree(&one.src, &one.dst);
}

/// An index that was edited so that no receiver takes it is put once more, and then its user hears
/// what to do.
#[test]
fn an_index_that_is_refused_twice_is_not_put_again() {
    let site = Site::new(3000);
    let relay = site.relay(|_, _| Fate::Pass);
    let edit = "UPDATE tar SET path='b' WHERE path='a'";
    rusqlite::Connection::open(&site.db).unwrap().execute_batch(edit).unwrap();
    at_once(|| site.upload(&relay.url, vec![])).code(1).says("make a new one with: tar-like index -c");
    assert_eq!(relay.log().iter().filter(|line| line.contains("/tar/0/db ")).count(), 2, "{:?}", relay.log());
}
