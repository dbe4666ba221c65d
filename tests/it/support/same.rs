//! Comparing two trees, without code of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many differences are printed.
const SHOWN: usize = 25;

/// Everything that has to be equal of an entry.
#[derive(Default)]
struct Entry(BTreeMap<&'static str, String>);

/// Fails the test unless both trees are equal: names, types, contents, modes, owners (as root),
/// times in nanoseconds of everything below the roots, link targets, and which names are one file.
/// The receiver's own folder at the top does not count.
#[track_caller]
pub(crate) fn assert_same_tree(expected: &Path, actual: &Path) {
    let differences = tree_diff(expected, actual);
    assert!(differences.is_empty(), "{}", report(expected, actual, &differences));
}

/// Fails the test unless both trees have the same regular files with the same contents. For
/// receivers without metadata.
#[track_caller]
pub(crate) fn assert_same_files(expected: &Path, actual: &Path) {
    let differences = diff(&scan(expected, false), &scan(actual, false));
    assert!(differences.is_empty(), "{}", report(expected, actual, &differences));
}

/// The differences, one line each.
pub(crate) fn tree_diff(expected: &Path, actual: &Path) -> Vec<String> {
    diff(&scan(expected, true), &scan(actual, true))
}

fn report(expected: &Path, actual: &Path, differences: &[String]) -> String {
    let shown: String = differences.iter().take(SHOWN).map(|line| format!("\n  {line}")).collect();
    format!(
        "{} differences of {} from {}:{shown}{}",
        differences.len(),
        actual.display(),
        expected.display(),
        if differences.len() > SHOWN { "\n  …" } else { "" }
    )
}

fn diff(expected: &BTreeMap<Vec<u8>, Entry>, actual: &BTreeMap<Vec<u8>, Entry>) -> Vec<String> {
    let names: BTreeSet<&Vec<u8>> = expected.keys().chain(actual.keys()).collect();
    let mut differences = Vec::new();
    for name in names {
        let shown = name.escape_ascii();
        match (expected.get(name), actual.get(name)) {
            (Some(_), None) => differences.push(format!("missing: {shown}")),
            (None, Some(entry)) => differences.push(format!("extra: {shown} ({})", entry.0["type"])),
            (Some(e), Some(a)) => {
                let keys: BTreeSet<&&str> = e.0.keys().chain(a.0.keys()).collect();
                for key in keys.into_iter().filter(|key| e.0.get(**key) != a.0.get(**key)) {
                    let value =
                        |entry: &Entry| entry.0.get(*key).cloned().unwrap_or_else(|| "nothing".into());
                    differences.push(format!("{shown}: {key} is {}, must be {}", value(a), value(e)));
                }
            }
            (None, None) => {}
        }
    }
    differences
}

/// Every entry below `root`, by its path relative to it. Without `all`, regular files and their
/// contents only.
fn scan(root: &Path, all: bool) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    let mut names_of: BTreeMap<(u64, u64), Vec<Vec<u8>>> = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for found in
            std::fs::read_dir(root.join(&folder)).unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        {
            let relative = folder.join(found.unwrap().file_name());
            if relative.as_os_str() == ".tar-like" {
                continue;
            }
            let path = root.join(&relative);
            let meta = path.symlink_metadata().unwrap();
            let name = relative.as_os_str().as_bytes().to_vec();
            if meta.is_dir() {
                folders.push(relative);
            }
            if meta.is_file() {
                names_of.entry((meta.dev(), meta.ino())).or_default().push(name.clone());
            }
            if all || meta.is_file() {
                entries.insert(name, entry(&path, &meta, all));
            }
        }
    }
    if all {
        for mut names in names_of.into_values().filter(|names| names.len() > 1) {
            names.sort();
            let group =
                names.iter().map(|name| name.escape_ascii().to_string()).collect::<Vec<_>>().join(" = ");
            for name in names {
                entries.get_mut(&name).unwrap().0.insert("hard links", group.clone());
            }
        }
    }
    entries
}

fn entry(path: &Path, meta: &std::fs::Metadata, all: bool) -> Entry {
    let kind = meta.file_type();
    let name = match () {
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_file() => "file",
        () => "special",
    };
    let mut entry = Entry::default();
    let mut put = |key, value| entry.0.insert(key, value);
    put("type", name.into());
    if kind.is_file() {
        put("size", meta.len().to_string());
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut std::fs::File::open(path).unwrap(), &mut hasher).unwrap();
        put("content", hasher.finalize().to_hex()[..16].to_string());
    }
    if !all {
        return entry;
    }
    if kind.is_symlink() {
        put("target", path.read_link().unwrap().as_os_str().as_bytes().escape_ascii().to_string());
    } else {
        put("mode", format!("{:o}", meta.mode() & 0o7777));
    }
    put("mtime", format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()));
    if super::is_root() {
        put("owner", format!("{}:{}", meta.uid(), meta.gid()));
    }
    entry
}
