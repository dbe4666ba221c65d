//! Valid requests: their answers and their effects.

use super::{SIZE, Setting, refused};
use crate::support::index::{self, blake3_hex, frame};
use crate::support::{Lab, Tree, assert_same_tree, http};

/// The keys and values of FORMAT.md 5.1.
#[test]
fn answers_have_the_original_keys() {
    let setting = Setting::new(vec![]);
    let answer = setting.put_index();
    let json = answer.json();
    assert_eq!(
        (answer.status, &json["rc"], &json["digest"]),
        (200, &"ok".into(), &setting.digest.clone().into())
    );
    assert_eq!(json["complete"], false);
    let answer = setting.put_block(1);
    assert_eq!((answer.status, answer.header("x-tar-like")), (200, Some("1")));
    let json = answer.json();
    assert_eq!(
        (&json["blk_no"], &json["blk_size"], &json["frags"]),
        (&1.into(), &1000.into(), &3.into()),
        "{json}"
    );
    let in_len = frame(index::block(&setting.archive, SIZE, 1)).len();
    assert_eq!((&json["in_len"], &json["path"].as_array().unwrap().len()), (&in_len.into(), &3));
    assert!(json["dur"].is_f64());
    assert_eq!(json["path"], serde_json::json!([0, 1000, 1]));
}

/// As nginx asks its backend by default.
#[test]
fn a_request_in_http_1_0_is_answered_and_its_connection_closed() {
    let setting = Setting::new(vec![]);
    let ask = |request: &str, headers: &[(&str, &str)], body: &[u8]| {
        let mut head = format!("{request} HTTP/1.0\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        let answer = http::raw(setting.proxy.addr, &[head.as_bytes(), body].concat());
        assert_eq!(answer.status, 200, "{request}: {}", answer.text());
    };
    let index_header = ("x-tar-like-index", &*setting.digest);
    ask("PUT /tar/0/db", &[index_header], &index::frame_of(&setting.db));
    for number in 0..4 {
        let content = index::block(&setting.archive, SIZE, number);
        let headers = [index_header, ("x-tar-like-digest", &*blake3_hex(content))];
        ask(&format!("PUT /tar/0/{SIZE}/{number}"), &headers, &frame(content));
    }
    ask("POST /tar/0/finish", &[index_header], b"");
    ask("GET /readyz", &[], b"");
    assert_same_tree(&setting.src, &setting.dst);
}

#[test]
fn health_and_metrics() {
    let setting = Setting::with_index(vec![]);
    for path in ["/healthz", "/readyz"] {
        let answer = setting.proxy.request("GET", path, &[], b"");
        assert_eq!((answer.status, answer.header("x-tar-like")), (200, Some("1")), "{path}");
        let head = setting.proxy.request("HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    setting.put_block(0);
    setting.put_block(0);
    let metrics = setting.proxy.request("GET", "/metrics", &[], b"");
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain"));
    let text = metrics.text();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let name = name.split('{').next().unwrap();
        assert!(
            value.parse::<f64>().is_ok() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
            "{line:?}"
        );
        assert!(
            text.contains(&format!("# TYPE {name} ")) && text.contains(&format!("# HELP {name} ")),
            "{line:?}"
        );
    }
    assert_eq!(setting.proxy.blocks_accepted(), 2);
}

#[test]
fn the_same_index_changes_nothing_and_another_one_replaces_it() {
    let setting = Setting::with_index(vec![]);
    assert_eq!(setting.put_block(0).status, 200);
    assert_eq!(setting.put_block(1).status, 200);
    assert_eq!(setting.put_index().json()["complete"], false);
    assert_eq!(setting.proxy.status(0)["done_bytes"], 2000, "the same index again keeps the received bytes");
    let generation = setting.proxy.status(0)["generation"].as_u64().unwrap();
    Tree::new(&setting.src, 81).noise("d", 100);
    let other = setting.lab.index(&setting.src);
    let digest = index::digest(&other);
    assert_ne!(digest, setting.digest);
    let answer = setting.put("/tar/0/db", &[("x-tar-like-index", &digest)], &index::frame_of(&other));
    assert_eq!((answer.status, answer.json()["digest"].as_str()), (200, Some(&*digest)), "{}", answer.text());
    refused(&setting.put_block(2), 409);
    let status = setting.proxy.status(0);
    assert_eq!(status["digest"], digest);
    assert!(status["generation"].as_u64().unwrap() > generation, "{status}");
}

#[test]
fn status_pages() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 82).noise("a", 2500);
    let db = lab.index(&src);
    let (archive, digest) = (index::archive(&src, &db), index::digest(&db));
    let proxy = lab.proxy(&dst);
    proxy.request("PUT", "/tar/0/db", &[("x-tar-like-index", &digest)], &index::frame_of(&db));
    for number in [0, 2, 4] {
        let body = frame(index::block(&archive, 500, number));
        let answer =
            proxy.request("PUT", &format!("/tar/0/500/{number}"), &[("x-tar-like-index", &*digest)], &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let get = |query: &str| proxy.request("GET", &format!("/tar/0/status{query}"), &[], b"");
    let status = get("?blk_size=500").json();
    for (key, value) in [
        ("tar_id", 0),
        ("total_bytes", 2500),
        ("done_bytes", 1500),
        ("blk_size", 500),
        ("blocks_total", 5),
        ("blocks_done", 3),
        ("files_total", 1),
        ("files_published", 0),
    ] {
        assert_eq!(status[key], value, "{key} in {status}");
    }
    assert_eq!(status["missing"], serde_json::json!([[500, 1000], [1500, 2000]]));
    assert_eq!((&status["complete"], &status["next"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!((&status["failed"], &status["digest"]), (&serde_json::json!([]), &digest.into()));
    assert_eq!(
        get("?blk_size=500&from=700").json()["missing"],
        serde_json::json!([[700, 1000], [1500, 2000]])
    );
    assert_eq!(get("?from=1000").json()["missing"], serde_json::json!([[1500, 2000]]));
    assert_eq!(get("?from=99999").json()["missing"], serde_json::json!([]));
    assert_eq!(get("?blk_size=1000").json()["blocks_done"], 1, "only the short last block is complete");
    assert_eq!(
        (get("").json()["blk_size"].as_u64(), get("").json()["blocks_total"].as_u64()),
        (Some(30_000_000), Some(1))
    );
    for bad in ["?blk_size=0", "?blk_size=x", "?from=-1", "?from=1e9"] {
        refused(&get(bad), 400);
    }
}

#[test]
fn finish_says_what_is_missing() {
    let setting = Setting::with_index(vec![]);
    let finish = |body: &[u8]| setting.proxy.request("POST", "/tar/0/finish", &[], body);
    setting.put_block(0);
    for body in [&b"{\"partial\":false}"[..], b"{}", b""] {
        let answer = finish(body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        assert_eq!((&json["complete"], &json["missing_bytes"]), (&false.into(), &2500.into()), "{json}");
    }
    assert!(!setting.dst.join("empty").exists(), "an incomplete archive gets no empty files");
    refused(&finish(b"nonsense"), 400);
    refused(&finish(b"[1]"), 400);
    refused(&finish(&vec![b' '; 3_000_000]), 413);
    // A sender of another index must not get the answer that the transfer is complete.
    let named =
        |digest: &str| setting.proxy.request("POST", "/tar/0/finish", &[("x-tar-like-index", digest)], b"{}");
    assert_eq!(named(&crate::support::index::digest(&setting.db)).status, 200);
    refused(&named(&"ab".repeat(32)), 409);
    refused(&named("nonsense"), 400);
    assert_eq!(finish(b"{\"partial\":true}").json()["complete"], false);
    assert!(setting.dst.join("empty").exists(), "partial makes what can be made");
    for number in 1..4 {
        assert_eq!(setting.put_block(number).status, 200);
    }
    assert_eq!(finish(b"{}").json()["complete"], true);
    assert_eq!(finish(b"{}").json()["complete"], true, "again");
    assert_eq!(setting.put_index().json()["complete"], true);
    crate::support::assert_same_tree(&setting.src, &setting.dst);
}

/// A sender that could not read a file sends zeros for it and says so; if it does not say so, the
/// receiver notices.
#[test]
fn failed_files_and_wrong_bytes_are_not_published() {
    let setting = Setting::with_index(vec![]);
    let ends = [0..1500, 1500..1700, 1700..3500];
    let mut archive = setting.archive.clone();
    archive[ends[1].clone()].fill(0);
    let put = |failed: Option<&str>, archive: &[u8]| {
        let digest = blake3_hex(archive);
        let mut headers = vec![("x-tar-like-index", &*setting.digest), ("x-tar-like-digest", &*digest)];
        headers.extend(failed.map(|ids| ("x-tar-like-failed", ids)));
        setting.put("/tar/0/3500/0", &headers, &frame(archive))
    };
    refused(&put(Some("x"), &archive), 400);
    let answer = put(Some("1"), &archive);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        setting.dst.join("a").exists() && setting.dst.join("c").exists() && !setting.dst.join("b").exists()
    );
    let status = setting.proxy.status(0);
    assert_eq!(status["missing"], serde_json::json!([[1500, 1700]]));
    assert_eq!(
        (&status["failed"][0]["id"], &status["failed"][0]["path"]),
        (&1.into(), &"b".into()),
        "{status}"
    );
    // Without declaring it.
    let answer = put(None, &archive);
    assert_eq!(
        (answer.status, &answer.json()["rejected"]),
        (200, &serde_json::json!([1])),
        "{}",
        answer.text()
    );
    assert!(!setting.dst.join("b").exists());
    assert_eq!(setting.proxy.status(0)["done_bytes"], 3300);
    // The right bytes repair it.
    assert_eq!(put(None, &setting.archive).status, 200);
    let finish = setting.proxy.request("POST", "/tar/0/finish", &[], b"{}").json();
    assert_eq!((&finish["complete"], &finish["failed"]), (&true.into(), &serde_json::json!([])), "{finish}");
}

/// `finish` need not repeat the precheck that it names: once, and only by that precheck's name.
#[test]
fn a_precheck_counts_once_and_for_its_requester() {
    let mut setting = Setting::new(vec![]);
    let upload =
        |setting: &Setting| setting.lab.upload(&setting.src, &setting.db, &setting.proxy.url, vec![]).code(0);
    upload(&setting);
    let name = setting.dst.join("a");
    let finish = |setting: &Setting, body: &str| {
        setting.proxy.request("POST", "/tar/0/finish", &[], body.as_bytes()).json()["complete"]
            .as_bool()
            .unwrap()
    };
    // Gives how many ranges of the archive it found to be gone or changed.
    let precheck = |setting: &Setting| {
        let named = [("x-tar-like-index", &*setting.digest)];
        let answer = setting.proxy.request("POST", "/tar/0/look", &named, br#"{"name":7}"#);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["changed"].as_array().unwrap().len()
    };
    // With another name than that of the precheck, or none, `finish` compares the files again.
    for other in [r#"{"looked":8}"#, "{}"] {
        assert_eq!(precheck(&setting), 0);
        std::fs::remove_file(&name).unwrap();
        assert!(!finish(&setting, other), "{other}");
        upload(&setting);
    }
    precheck(&setting);
    std::fs::remove_file(&name).unwrap();
    assert!(finish(&setting, r#"{"looked":7}"#), "it was there at the precheck");
    assert!(!finish(&setting, r#"{"looked":7}"#), "a precheck counts once");
    upload(&setting);
    // A precheck that finds a missing file changes nothing, and `finish` compares that file again.
    std::fs::remove_file(&name).unwrap();
    assert_eq!(precheck(&setting), 1);
    assert_eq!(setting.proxy.status(0)["complete"], true);
    assert!(!name.exists() && !finish(&setting, r#"{"looked":7}"#));
    upload(&setting);
    // A restarted receiver has no precheck.
    precheck(&setting);
    setting.proxy.kill9();
    setting.proxy.restart();
    std::fs::remove_file(&name).unwrap();
    assert!(!finish(&setting, r#"{"looked":7}"#));
}

#[test]
fn refused_prechecks() {
    let setting = Setting::new(vec![]);
    let named = [("x-tar-like-index", &*setting.digest)];
    let look =
        |headers: &[(&str, &str)], body: &[u8]| setting.proxy.request("POST", "/tar/0/look", headers, body);
    refused(&look(&named, br#"{"name":7}"#), 404);
    setting.put_index();
    refused(&look(&[], br#"{"name":7}"#), 400);
    refused(&look(&[("x-tar-like-index", &"ab".repeat(32))], br#"{"name":7}"#), 409);
    for body in [&b""[..], b"{}", br#"{"name":-1}"#, b"7", &[b' '; 100_000]] {
        assert!(matches!(look(&named, body).status, 400 | 413));
    }
    assert_eq!(look(&named, br#"{"name":7}"#).status, 200);
    let entries = |entry: &str| format!(r#"{{"name":7,"entries":[{entry}]}}"#);
    let alone = serde_json::json!({"changed": [], "conflicts_total": 0});
    assert_eq!(look(&named, entries("").as_bytes()).json(), alone);
    // Another archive: what it is asked of need not exist.
    let of_two =
        |entry: &str| setting.proxy.request("POST", "/tar/1/look", &named, entries(entry).as_bytes());
    for (entry, status) in [
        (r#"{"path":"a","kind":"f"}"#, 200),
        (r#"{"path":"../a","kind":"f"}"#, 400),
        (r#"{"path":"a","kind":"x"}"#, 400),
        (r#"{"path":"a","kind":"l"}"#, 400),
        (r#"{"path":"a","kind":"f","md5":"z"}"#, 400),
    ] {
        assert_eq!(of_two(entry).status, status, "{entry}");
    }
    refused(&setting.proxy.request("GET", "/tar/0/look", &[], b""), 405);
}

#[test]
fn refused_lists_of_candidates() {
    let setting = Setting::new(vec![]);
    let named = [("x-tar-like-index", &*setting.digest)];
    let ask = |headers: &[(&str, &str)], body: &[u8]| {
        setting.proxy.request("POST", "/tar/0/candidates", headers, body)
    };
    refused(&ask(&named, br#"{"name":7}"#), 404);
    setting.lab.upload(&setting.src, &setting.db, &setting.proxy.url, vec![]).code(0);
    refused(&ask(&[], br#"{"name":7}"#), 400);
    refused(&ask(&[("x-tar-like-index", &"ab".repeat(32))], br#"{"name":7}"#), 409);
    for body in [&b""[..], b"{}", br#"{"name":-1}"#, b"7", &[b' '; 100_000]] {
        assert!(matches!(ask(&named, body).status, 400 | 413));
    }
    refused(&ask(&named, br#"{"name":7,"page":1}"#), 404);
    refused(&setting.proxy.request("GET", "/tar/0/candidates", &[], b""), 405);
    // Nothing could be deleted but for another index.
    let list = ask(&named, br#"{"name":7}"#);
    assert_eq!((list.status, list.json()), (200, serde_json::json!({"entries": [], "more": false})));
    let all = ask(&named, br#"{"name":8,"all":true}"#).json();
    let files = [("a", 1500), ("b", 200), ("c", 1800), ("empty", 0)];
    let files: Vec<_> = files.iter().map(|(path, size)| serde_json::json!(["f", size, path])).collect();
    assert_eq!(all, serde_json::json!({"entries": files, "more": false}));
    for page in ["1", "18446744073709551615"] {
        let body = format!(r#"{{"name":8,"all":true,"page":{page}}}"#);
        assert_eq!(ask(&named, body.as_bytes()).json()["entries"], serde_json::json!([]));
    }
    // A list for each of a few senders.
    for name in 9..20 {
        let status = ask(&named, format!(r#"{{"name":{name}}}"#).as_bytes()).status;
        assert_eq!(status, if name < 15 { 200 } else { 503 }, "{name}");
    }
}

/// A sender names the folder, and it is one below the base folder, or nothing is taken in.
#[test]
fn refused_backup_folders() {
    let setting = Setting::new(vec![]);
    std::fs::write(setting.dst.join("a"), "of somebody").unwrap();
    let put = |folder: &str| {
        let headers = [("x-tar-like-index", &*setting.digest), ("x-tar-like-backup", folder)];
        setting.put("/tar/0/db", &headers, &index::frame_of(&setting.db))
    };
    for folder in ["../out", "%2e%2e/out", "/tmp/out", "%2Ftmp", ".tar-like/held", "a", "%zz", "%ff"] {
        refused(&put(folder), 400);
    }
    assert_eq!(setting.proxy.request("GET", "/tar/0/status", &[], b"").status, 404);
    assert_eq!(put("b%20ak").status, 200);
    assert_eq!(std::fs::read(setting.dst.join("b ak/a")).unwrap(), b"of somebody");
}
