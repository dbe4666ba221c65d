//! The same on a real file system: makes the steps there, and compares.

use super::steps::Step;
use super::tree::{Model, Node, noise};
use crate::support::set_mtime;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Makes one step below `root`. [`set_metadata`] sets modes and times.
pub(super) fn apply(root: &Path, step: &Step) {
    let at = |path: &str| root.join(path);
    match step {
        Step::Create { path, size, seed, .. } => fs::write(at(path), noise(*seed, *size)).unwrap(),
        Step::Folder { path, .. } => fs::create_dir(at(path)).unwrap(),
        Step::Link { path, target } => std::os::unix::fs::symlink(target, at(path)).unwrap(),
        Step::HardLink { path, of } => fs::hard_link(at(of), at(path)).unwrap(),
        Step::Change { path, at: from, length, seed, .. } => {
            let file = OpenOptions::new().write(true).open(at(path)).unwrap();
            file.write_all_at(&noise(*seed, *length), *from as u64).unwrap();
        }
        Step::Insert { path, at: from, length, seed, replace } => rewrite(&at(path), *replace, |bytes| {
            bytes.splice(from..from, noise(*seed, *length));
        }),
        Step::Cut { path, at: from, length, replace } => rewrite(&at(path), *replace, |bytes| {
            bytes.drain(*from..from + length);
        }),
        Step::Append { path, length, seed } => {
            let mut file = OpenOptions::new().append(true).open(at(path)).unwrap();
            std::io::Write::write_all(&mut file, &noise(*seed, *length)).unwrap();
        }
        Step::Truncate { path, to } => {
            OpenOptions::new().write(true).open(at(path)).unwrap().set_len(*to as u64).unwrap();
        }
        Step::Rename { from, to } => fs::rename(at(from), at(to)).unwrap(),
        Step::Copy { from, to } => {
            fs::copy(at(from), at(to)).unwrap();
        }
        Step::Swap { a, b } => {
            let aside = root.join("swapped-aside");
            fs::rename(at(a), &aside).unwrap();
            fs::rename(at(b), at(a)).unwrap();
            fs::rename(&aside, at(b)).unwrap();
        }
        Step::IntoFolder { path, seed } => {
            fs::remove_file(at(path)).unwrap();
            fs::create_dir(at(path)).unwrap();
            fs::write(at(path).join("inside"), noise(*seed, 900)).unwrap();
        }
        Step::IntoFile { path, seed } => {
            fs::remove_dir_all(at(path)).unwrap();
            fs::write(at(path), noise(*seed, 1200)).unwrap();
        }
        // `set_metadata` sets these.
        Step::Mode { .. } | Step::Touch { .. } | Step::Date { .. } => {}
        Step::Remove { path } => {
            let path = at(path);
            let is_folder = path.symlink_metadata().unwrap().is_dir();
            if is_folder { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }
}

fn rewrite(path: &Path, replace: bool, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    if replace {
        let beside = path.with_file_name("saved-by-an-editor");
        fs::write(&beside, bytes).unwrap();
        fs::rename(beside, path).unwrap();
    } else {
        fs::write(path, bytes).unwrap();
    }
}

fn mtime_of(meta: &fs::Metadata) -> i64 {
    meta.mtime() * 1_000_000_000 + meta.mtime_nsec()
}

/// Gives everything below `root` the modes and times of the model; entries that have them are not
/// touched.
pub(super) fn set_metadata(root: &Path, model: &Model) {
    for (name, node) in &model.names {
        let (path, (mode, mtime_ns)) = (root.join(name), metadata(model, node));
        let meta = path.symlink_metadata().unwrap_or_else(|e| panic!("{name:?} of the source: {e}"));
        if let Some(mode) = mode.filter(|mode| meta.mode() & 0o7777 != *mode) {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        if mtime_of(&meta) != mtime_ns {
            set_mtime(&path, mtime_ns);
        }
    }
}

fn metadata(model: &Model, node: &Node) -> (Option<u32>, i64) {
    match node {
        Node::File(inode) => (Some(model.files[inode].mode), model.files[inode].mtime_ns),
        Node::Folder { mode, mtime_ns } => (Some(*mode), *mtime_ns),
        Node::Link { mtime_ns, .. } => (None, *mtime_ns),
    }
}

/// The differences below `root` from the model, one line each: contents, modes, times, targets,
/// names of one file, and missing names. `exact`: surplus names, too. The receiver's own folder
/// does not count.
pub(super) fn differences(model: &Model, root: &Path, exact: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inodes: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    for (name, node) in &model.names {
        let path = root.join(name);
        let meta = match path.symlink_metadata() {
            Ok(meta) => meta,
            Err(e) => {
                lines.push(format!("{name:?} is missing: {e}"));
                continue;
            }
        };
        let kind = meta.file_type();
        let wrong = match node {
            Node::File(_) if !kind.is_file() => Some("is no file".into()),
            Node::File(inode) => {
                inodes.entry((meta.dev(), meta.ino())).or_default().push(name.clone());
                let wanted = &model.files[inode].content.bytes;
                (fs::read(&path).unwrap() != **wanted)
                    .then(|| format!("has other content, {} bytes, must have {}", meta.len(), wanted.len()))
            }
            Node::Folder { .. } => (!kind.is_dir()).then(|| "is no folder".into()),
            Node::Link { .. } if !kind.is_symlink() => Some("is no link".into()),
            Node::Link { target, .. } => {
                let found = fs::read_link(&path).unwrap();
                (found.as_os_str() != target.as_str()).then(|| format!("goes to {}", found.display()))
            }
        };
        lines.extend(wrong.map(|what| format!("{name:?} {what}")));
        let (mode, mtime_ns) = metadata(model, node);
        if mode.is_some_and(|mode| mode != meta.mode() & 0o7777) {
            lines.push(format!("{name:?} has mode {:o}, must be {:o}", meta.mode() & 0o7777, mode.unwrap()));
        }
        if mtime_of(&meta) != mtime_ns {
            lines.push(format!("{name:?} is of {}, must be of {mtime_ns}", mtime_of(&meta)));
        }
    }
    let found: BTreeSet<Vec<String>> = inodes.into_values().filter(|names| names.len() > 1).collect();
    let wanted = model.hard_links();
    lines.extend(wanted.difference(&found).map(|names| format!("{names:?} are not one file")));
    lines.extend(found.difference(&wanted).map(|names| format!("{names:?} are one file")));
    if exact {
        lines.extend(extra(model, root).into_iter().map(|name| format!("{name} is too much")));
    }
    lines
}

fn extra(model: &Model, root: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(root).min_depth(1).into_iter();
    let entries = entries.filter_entry(|entry| entry.depth() != 1 || entry.file_name() != ".tar-like");
    let paths = entries.map(|entry| entry.unwrap().path().strip_prefix(root).unwrap().to_path_buf());
    let known = |path: &PathBuf| path.to_str().is_some_and(|name| model.names.contains_key(name));
    paths.filter(|path| !known(path)).map(|path| format!("{path:?}")).collect()
}
