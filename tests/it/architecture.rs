//! The layers of docs/ARCHITECTURE.md: imports go downward only, and a foreign crate is named in its home only. Reads src/.

use regex::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Top to bottom; a module may use those of lower layers, and itself. Modules of one layer do not know each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["commands"],
    &["server"],
    &["engine"],
    &["remote", "queue", "source", "sink", "db"],
    &["folder"],
    &["archive"],
    &["telemetry"],
    &["error"],
];

/// Foreign crates that may be named in these modules only.
const HOMES: &[(&str, &[&str])] = &[
    ("clap", &["commands"]),
    ("clap_complete", &["commands"]),
    ("clap_mangen", &["commands"]),
    ("indicatif", &["commands"]),
    ("tracing_subscriber", &["commands"]),
    ("axum", &["server"]),
    ("hyper", &["server"]),
    ("hyper_util", &["server"]),
    ("http_body_util", &["server"]),
    ("subtle", &["server"]),
    ("ipnet", &["server"]),
    ("time", &["server", "commands"]),
    ("tokio_rustls", &["server"]),
    ("rustls", &["server", "remote"]),
    ("aws_config", &["source"]),
    ("aws_sdk_s3", &["source"]),
    ("aws_smithy_runtime_api", &["source"]),
    ("aws_smithy_types", &["source"]),
    ("reqwest", &["remote", "source"]),
    ("futures_util", &["remote", "source"]),
    ("rusqlite", &["db"]),
    ("walkdir", &["source"]),
    ("rustix", &["commands", "folder", "source", "sink", "engine"]),
    ("liblzma", &["archive"]),
    ("md5", &["archive"]),
    ("sha3", &["archive"]),
    ("blake3", &["archive"]),
    ("fastcdc", &["archive"]),
    ("lz4_flex", &["archive", "engine"]),
    ("zstd_safe", &["archive"]),
];

/// Words of the standard library that are somebody's task alone.
const STD_HOMES: &[(&str, &[&str])] = &[
    ("std::env", &["main", "commands"]),
    ("std::io::stdout", &["commands"]),
    ("std::io::stderr", &["commands"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The code of every file without comments and without its tests, by path below src/.
fn code() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "only {} files found in {}", files.len(), root.display());
    files
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code: Vec<&str> =
                product.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            (path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), code.join("\n"))
        })
        .collect()
}

fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn upward_imports(code: &BTreeMap<String, String>) -> Vec<String> {
    let import = Regex::new(r"\bcrate::([a-z_0-9]+)").unwrap();
    let mut wrong = Vec::new();
    for (file, text) in code.iter().filter(|(file, _)| *file != "lib.rs") {
        let module = module_of(file);
        let Some(layer) = layer_of(module) else {
            wrong.push(format!("{file}: module {module} has no layer"));
            continue;
        };
        for found in import.captures_iter(text).map(|c| c[1].to_owned()) {
            let below = layer_of(&found).is_some_and(|other| other > layer);
            if found != module && !below {
                wrong.push(format!("{file} uses crate::{found}"));
            }
        }
    }
    wrong
}

fn strays(code: &BTreeMap<String, String>, homes: &[(&str, &[&str])], tail: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, modules) in homes {
        let word = Regex::new(&format!(r"(^|[^:\w]){name}{tail}")).unwrap();
        let users: Vec<&String> =
            code.iter().filter(|(_, text)| word.is_match(text)).map(|(file, _)| file).collect();
        assert!(!users.is_empty(), "{name} is used nowhere: take it out of the table");
        wrong.extend(
            users
                .iter()
                .filter(|file| !modules.contains(&module_of(file)))
                .map(|file| format!("{file} uses {name}")),
        );
    }
    wrong
}

#[test]
fn imports_go_downward_only() {
    assert_eq!(upward_imports(&code()), [] as [String; 0]);
}

#[test]
fn foreign_crates_stay_in_their_homes() {
    assert_eq!(strays(&code(), HOMES, "(::|;| as )"), [] as [String; 0]);
    assert_eq!(strays(&code(), STD_HOMES, r"\b"), [] as [String; 0]);
}

#[test]
fn the_checks_themselves_can_fail() {
    let mut code = code();
    code.insert(
        "archive/bad.rs".into(),
        "use crate::db::index_read::IndexReader;\nlet x = rusqlite::params![];".into(),
    );
    assert_eq!(upward_imports(&code), ["archive/bad.rs uses crate::db"]);
    assert_eq!(strays(&code, HOMES, "(::|;| as )"), ["archive/bad.rs uses rusqlite"]);
}

#[test]
fn unsafe_code_stays_in_its_two_files() {
    let word = Regex::new(r"\bunsafe\b").unwrap();
    let code = code();
    let users: Vec<&String> =
        code.iter().filter(|(_, text)| word.is_match(text)).map(|(file, _)| file).collect();
    assert_eq!(users, ["archive/md5/simd.rs", "archive/sha3/simd.rs"]);
}

#[test]
fn files_stay_short_enough_to_read_in_one_sitting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let long: Vec<String> = files
        .iter()
        .map(|path| (path, std::fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 500)
        .map(|(path, lines)| format!("{} has {lines} lines", path.display()))
        .collect();
    assert_eq!(long, [] as [String; 0]);
}
