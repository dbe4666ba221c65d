//! Real folders instead of random ones: consecutive releases of packages, and the system's headers
//! under another name.

use super::switches::{DELETE, DELTA};
use crate::support::{Lab, is_root, skip, tree_diff};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How many packages are taken.
const PACKAGES: usize = 6;
/// Larger packages take too long.
const MAX_BYTES: u64 = 20 << 20;

/// A source that changes into another one, and its receiver.
struct Runs {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    block_bytes: u64,
    proxy: crate::support::Proxy,
}

impl Runs {
    fn new(block_bytes: u64) -> Self {
        let lab = Lab::in_memory(1 << 30);
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let proxy = lab.proxy(&dst);
        Self { lab, src, dst, block_bytes, proxy }
    }

    /// Makes the source a copy of `folder`.
    fn becomes(&self, folder: &Path) {
        let _ = std::fs::remove_dir_all(&self.src);
        assert!(Command::new("cp").arg("-a").arg(folder).arg(&self.src).status().unwrap().success());
    }

    /// A run; afterwards the copy equals the source. Returns how many bytes of content it sent.
    #[track_caller]
    fn run(&self) -> u64 {
        let db = self.lab.path("index.sqlite");
        let mut more = args!["-db", db, "-s", self.block_bytes.to_string(), "--json"];
        if DELETE {
            more.extend(args!["--delete", "--max-delete", "100%"]);
        }
        let summary = self.lab.sync(&self.src, &self.proxy.url, more).code(0).summary();
        let mut wrong = tree_diff(&self.src, &self.dst);
        // Nothing is deleted without the option.
        wrong.retain(|line| DELETE || !line.starts_with("extra: "));
        assert!(wrong.is_empty(), "{wrong:#?}");
        // Before compression.
        summary["sent_bytes"].as_u64().unwrap()
    }
}

/// Sizes of all contents below a folder.
fn contents(folder: &Path) -> BTreeMap<[u8; 32], u64> {
    let entries = walkdir::WalkDir::new(folder).into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().is_file());
    let content = files.map(|entry| std::fs::read(entry.path()).unwrap());
    content.map(|bytes| (*blake3::hash(&bytes).as_bytes(), bytes.len() as u64)).collect()
}

/// Folders of the packages that this program was built from and that have two releases, in the
/// order of their names.
fn releases() -> Vec<(PathBuf, PathBuf)> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let Some(cargo) = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home) else {
        return Vec::new();
    };
    let registries = std::fs::read_dir(cargo.join("registry/src")).into_iter().flatten();
    let mut by_name: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for package in registries.flat_map(|registry| std::fs::read_dir(registry.unwrap().path()).unwrap()) {
        let path = package.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let version = |(at, _): &(usize, &str)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        if let Some((at, _)) = name.match_indices('-').find(version) {
            by_name.entry(name[..at].to_string()).or_default().insert(path);
        }
    }
    let pairs = by_name.into_values().filter(|versions| versions.len() > 1);
    let pairs = pairs.map(|versions| {
        let mut versions = versions.into_iter();
        (versions.next().unwrap(), versions.next().unwrap())
    });
    let small = |folder: &Path| contents(folder).values().sum::<u64>() < MAX_BYTES;
    pairs.filter(|(old, new)| small(old) && small(new)).take(PACKAGES).collect()
}

#[test]
fn two_releases_of_packages() {
    let releases = releases();
    if releases.is_empty() {
        return skip("no package of the build is here in two releases");
    }
    for (old, new) in releases {
        let runs = Runs::new(2048);
        runs.becomes(&old);
        runs.run();
        runs.becomes(&new);
        let sent = runs.run();
        let (before, after) = (contents(&old), contents(&new));
        let whole: u64 = after.values().sum();
        let fresh: u64 =
            after.iter().filter(|(hash, _)| !before.contains_key(*hash)).map(|(_, size)| size).sum();
        println!("{} to {}: {sent} sent of {whole} bytes, {fresh} new", old.display(), new.display());
        if DELTA {
            assert!(sent <= fresh + 2 * runs.block_bytes, "{sent} sent, {fresh} are new");
        }
        // Nothing was left to send, and the way back is a change like any other.
        assert_eq!(runs.run(), 0);
        runs.becomes(&old);
        runs.run();
    }
}

/// A large part of a tree moves, and its contents stay.
#[test]
fn headers_under_another_name() {
    let headers = Path::new("/usr/include");
    if !headers.is_dir() {
        return skip("there are no headers in /usr/include");
    }
    if !is_root() {
        return skip("only root can keep the owners of /usr/include");
    }
    let runs = Runs::new(1 << 20);
    runs.becomes(headers);
    assert!(runs.run() > 1 << 20);
    let folders = std::fs::read_dir(&runs.src).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = folders.filter(|path| path.is_dir() && !path.is_symlink()).collect();
    folders.sort();
    for folder in &folders[..folders.len() / 2] {
        std::fs::rename(folder, folder.with_extension("moved")).unwrap();
    }
    let sent = runs.run();
    println!("{} of {} folders have another name: {sent} bytes sent", folders.len() / 2, folders.len());
    if DELTA {
        assert_eq!(sent, 0);
    }
}
