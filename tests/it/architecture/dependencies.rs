//! Every dependency in Cargo.toml is used.

use super::sources;
use regex::Regex;
use std::path::{Path, PathBuf};

/// Dependencies that are there for their features: another one uses them.
const FOR_FEATURES: &[&str] = &["proc-macro2"];

fn text_of(folders: &[PathBuf]) -> String {
    let mut files = Vec::new();
    folders.iter().filter(|folder| folder.exists()).for_each(|folder| sources(folder, &mut files));
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

/// The dependencies that `product` does not name, and those of tests that `tests` do not name.
fn unused<'m>(manifest: &'m str, product: &str, tests: &str) -> Vec<&'m str> {
    let mut users = None;
    let mut unused = Vec::new();
    for line in manifest.lines() {
        match line {
            "[dependencies]" => users = Some(product),
            "[dev-dependencies]" => users = Some(tests),
            _ if line.starts_with('[') => users = None,
            _ => {}
        }
        let Some((users, (name, _))) = users.zip(line.split_once(" = ")) else { continue };
        // The package md-5 has the library md5.
        let library = if name == "md-5" { "md5" } else { &*name.replace('-', "_") };
        let word = Regex::new(&format!(r"(?m)(^|[^:\w]){library}(::|;| as )")).unwrap();
        if !FOR_FEATURES.contains(&name) && !word.is_match(users) {
            unused.push(name);
        }
    }
    unused
}

#[test]
fn every_dependency_is_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = root.join(file!()).ancestors().nth(3).unwrap().to_owned();
    let product = text_of(&[root.join("src")]);
    let others = product.clone() + &text_of(&[tests.with_file_name("benches"), tests]);
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert_eq!(unused(&manifest, &product, &others), [] as [&str; 0]);
}

#[test]
fn an_unused_dependency_is_seen() {
    let manifest =
        "[dependencies]\na-b = \"1\"\nc = \"1\"\n[dev-dependencies]\nd = \"1\"\n[lints]\ne = \"f\"";
    assert_eq!(unused(manifest, "use a_b::A; use x::c::C;", "d::new()"), ["c"]);
    assert_eq!(unused(manifest, "use a_b::A; use c::C;", ""), ["d"]);
}
