//! The layers of docs/dev/ARCHITECTURE.md: imports go downward only, and a foreign crate is named
//! in its home only. Reads src/.

mod dependencies;
mod graph;

use graph::Graph;
use regex::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Top to bottom; a module may import lower layers, and itself. Modules of one layer do not import
/// each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["commands"],
    &["server"],
    &["engine"],
    &["remote", "queue", "source", "sink", "db"],
    &["folder"],
    &["archive"],
    &["telemetry"],
    &["error", "retry_budget", "unix_time"],
];

/// Foreign crates that may be named in these modules only.
const HOMES: &[(&str, &[&str])] = &[
    ("clap", &["commands"]),
    ("clap_complete", &["commands"]),
    ("clap_mangen", &["commands"]),
    ("jiff", &["commands", "unix_time"]),
    ("tracing_subscriber", &["commands"]),
    ("axum", &["server"]),
    ("hyper", &["server"]),
    ("hyper_util", &["server", "remote"]),
    ("http_body_util", &["server"]),
    ("subtle", &["server"]),
    ("ipnet", &["server"]),
    ("socket2", &["server"]),
    ("time", &["server", "commands"]),
    ("tokio_rustls", &["server"]),
    ("rustls", &["server", "remote"]),
    ("aws_config", &["source"]),
    ("aws_sdk_s3", &["source"]),
    ("aws_smithy_runtime_api", &["source"]),
    ("aws_smithy_types", &["source"]),
    ("reqwest", &["remote", "source"]),
    ("tokio_util", &["remote"]),
    ("yamux", &["remote"]),
    ("futures_util", &["engine", "remote", "server", "source"]),
    ("redis", &["queue"]),
    ("rusqlite", &["db"]),
    ("walkdir", &["source"]),
    ("rustix", &["commands", "error", "folder", "source", "sink", "engine"]),
    ("liblzma", &["archive"]),
    ("md5", &["archive"]),
    ("sha3", &["archive"]),
    ("blake3", &["archive"]),
    ("fastcdc", &["archive"]),
    ("lz4_flex", &["archive", "engine"]),
    ("zstd_safe", &["archive"]),
];

/// Parts of the standard library that one layer alone may use.
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

/// The text of every file of the program, by path below src/, without files that hold tests alone.
fn sources_of_program() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let is_of_tests = |path: &PathBuf| {
        path.strip_prefix(&root).unwrap().iter().any(|name| name == "tests" || name == "tests.rs")
    };
    files.retain(|path| !is_of_tests(path));
    let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let below = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (below(path), text(path))).collect()
}

/// The code of every file without comments and without its tests, by path below src/.
fn code() -> BTreeMap<String, String> {
    let files = sources_of_program();
    assert!(files.len() > 30, "only {} files found", files.len());
    files
        .into_iter()
        .map(|(path, text)| {
            let product = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let code: Vec<&str> =
                product.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            (path, code.join("\n"))
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
    // Not the middle of an option such as rsync's --copy-unsafe-links.
    let word = Regex::new(r"(^|[^-\w])unsafe\b").unwrap();
    let code = code();
    let users: Vec<&String> =
        code.iter().filter(|(_, text)| word.is_match(text)).map(|(file, _)| file).collect();
    assert_eq!(users, ["archive/md5/simd.rs", "archive/sha3/simd.rs"]);
}

/// How many lines a function may have.
const MAX_FUNCTION_LINES: usize = 60;

static PROGRAM: LazyLock<BTreeMap<String, String>> = LazyLock::new(sources_of_program);

static GRAPH: LazyLock<Graph> =
    LazyLock::new(|| Graph::of(PROGRAM.iter().map(|(path, text)| (path.as_str(), text.as_str()))));

#[test]
fn no_files_use_each_other() {
    assert_eq!(GRAPH.circles(), [] as [Vec<String>; 0]);
}

/// The parts of `engine/receive`, top to bottom; its `mod.rs` is above all of them.
const RECEIVER_LAYERS: &[&[&str]] = &[
    &["watch"],
    &["block", "finish", "gc", "index"],
    &["reuse"],
    &["open"],
    &["files", "retention"],
    &["context"],
    &["archives"],
    &["archive"],
    &["commit", "job", "names", "state_files"],
    &["reason"],
];

#[test]
fn arrows_within_the_receiver_go_downward_only() {
    let layer_of = |part: &str| RECEIVER_LAYERS.iter().position(|layer| layer.contains(&part));
    let is_of_receiver = |module: &[String]| module.starts_with(&["engine".into(), "receive".into()]);
    let mut wrong = Vec::new();
    for (module, targets) in GRAPH.arrows() {
        for target in targets.into_iter().filter(|target| is_of_receiver(module) && is_of_receiver(target)) {
            // The entry points may use every part.
            let Some(part) = module.get(2) else { continue };
            let layers = (layer_of(part), target.get(2).and_then(|part| layer_of(part)));
            let goes_down = matches!(layers, (Some(from), Some(to)) if from < to);
            if !goes_down && target.get(2) != Some(part) {
                wrong.push(format!("{} uses {}", module.join("/"), target.join("/")));
            }
        }
    }
    assert_eq!(wrong, [] as [String; 0]);
}

#[test]
fn functions_are_short_enough_to_read_at_once() {
    assert_eq!(GRAPH.functions_over(MAX_FUNCTION_LINES), [] as [String; 0]);
}

#[test]
fn the_graph_sees_circles_and_long_functions() {
    let long = format!("fn long() {{{}}}", "\n;".repeat(MAX_FUNCTION_LINES));
    let sources = [
        ("lib.rs", "mod a; mod b; mod c;"),
        // A name that a file hands on leads to the file that defines it.
        ("a/mod.rs", "mod inner; pub use inner::Inner; use crate::c::C;"),
        ("a/inner.rs", "pub struct Inner; mod within { use super::*; }"),
        ("b.rs", "use crate::a::Inner; fn f() { crate::c::g(); }"),
        ("c.rs", &format!("#[cfg(test)] mod tests {{ use crate::a::Inner; }} {long}")),
    ];
    let graph = Graph::of(sources.into_iter());
    assert_eq!(graph.circles(), [] as [Vec<String>; 0]);
    assert_eq!(graph.functions_over(MAX_FUNCTION_LINES), ["c::long has 61 lines"]);
    let arrows = graph.arrows();
    let of_b: Vec<String> = arrows[&vec!["b".to_owned()]].iter().map(|module| module.join("/")).collect();
    assert_eq!(of_b, ["a/inner", "c"]);
    let circle = ("a/inner.rs", "use super::super::b::B;");
    let graph = Graph::of(sources.into_iter().filter(|(path, _)| *path != circle.0).chain([circle]));
    assert_eq!(graph.circles(), [["a/inner", "b"]]);
}
