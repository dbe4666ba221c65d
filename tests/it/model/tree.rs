//! A folder as it should be, in memory.

use super::steps::Step;
use crate::support::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Files from this size on have a chunk map, so that a change of them costs what was changed.
pub(super) const MIN_CHUNK_MAP_BYTES: usize = 1 << 20;
/// The most that an edit may cost beside its own bytes: the chunks in which it begins and ends, and
/// those until the cuts are as before.
const EDIT_SLACK_BYTES: u64 = 5 * 256 * 1024;

/// The bytes of a file, and their origin.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) hash: blake3::Hash,
    /// Contents of one lineage were edited one out of the other.
    lineage: u64,
    /// The most that all edits since the lineage began may cost.
    cost_bytes: u64,
}

/// An inode.
#[derive(Clone)]
pub(super) struct File {
    pub(super) content: Content,
    pub(super) mode: u32,
    pub(super) mtime_ns: i64,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Node {
    /// A name of the inode with this number.
    File(u64),
    Folder {
        mode: u32,
        mtime_ns: i64,
    },
    Link {
        target: String,
        mtime_ns: i64,
    },
}

/// Every name below the root, relative to it, and the inodes that they name. A clone shares the
/// contents.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) names: BTreeMap<String, Node>,
    pub(super) files: BTreeMap<u64, File>,
    next: u64,
    clock_ns: i64,
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The bytes that a step writes.
pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    Rng::new(seed).noise(length)
}

impl Model {
    pub(super) fn file(&self, path: &str) -> Option<&File> {
        match self.names.get(path)? {
            Node::File(inode) => self.files.get(inode),
            _ => None,
        }
    }

    pub(super) fn is_folder(&self, path: &str) -> bool {
        path.is_empty() || matches!(self.names.get(path), Some(Node::Folder { .. }))
    }

    /// `path` and everything below it.
    pub(super) fn subtree(&self, path: &str) -> Vec<String> {
        let below = format!("{path}/");
        let names = self.names.keys().filter(|name| *name == path || name.starts_with(&below));
        names.cloned().collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.content.bytes.len() as u64).sum()
    }

    /// The names of each inode that has several.
    pub(super) fn hard_links(&self) -> BTreeSet<Vec<String>> {
        let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (name, node) in &self.names {
            if let Node::File(inode) = node {
                groups.entry(*inode).or_default().push(name.clone());
            }
        }
        groups.into_values().filter(|group| group.len() > 1).collect()
    }

    /// Times of a clock of the model's own, each of them unique.
    fn tick(&mut self) -> i64 {
        self.clock_ns += 1_000_000_007;
        1_500_000_000_000_000_000 + self.clock_ns
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn content(&mut self, bytes: Vec<u8>) -> Content {
        let lineage = self.number();
        Content { hash: blake3::hash(&bytes), bytes: Arc::new(bytes), lineage, cost_bytes: 0 }
    }

    /// The names in the folder of `path` have changed.
    fn changed_in(&mut self, path: &str) {
        let now = self.tick();
        if let Some(Node::Folder { mtime_ns, .. }) = self.names.get_mut(parent(path)) {
            *mtime_ns = now;
        }
    }

    fn put(&mut self, path: &str, node: Node) {
        self.names.insert(path.to_string(), node);
        self.changed_in(path);
    }

    fn put_file(&mut self, path: &str, content: Content, mode: u32) {
        let (inode, mtime_ns) = (self.number(), self.tick());
        self.files.insert(inode, File { content, mode, mtime_ns });
        self.put(path, Node::File(inode));
    }

    fn remove(&mut self, path: &str) -> BTreeMap<String, Node> {
        let names = self.subtree(path);
        let taken = names.into_iter().map(|name| (name.clone(), self.names.remove(&name).unwrap()));
        let taken = taken.collect();
        self.changed_in(path);
        taken
    }

    fn put_at(&mut self, taken: BTreeMap<String, Node>, from: &str, to: &str) {
        for (name, node) in taken {
            self.names.insert(format!("{to}{}", &name[from.len()..]), node);
        }
        self.changed_in(to);
    }

    /// Changes content; as a new inode if `replace`, as editors do it, otherwise for all names of
    /// it.
    fn edit(
        &mut self,
        path: &str,
        replace: bool,
        quiet: bool,
        length: usize,
        change: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut file = self.file(path).unwrap().clone();
        let mut bytes = file.content.bytes.to_vec();
        change(&mut bytes);
        file.content = Content {
            hash: blake3::hash(&bytes),
            bytes: Arc::new(bytes),
            lineage: file.content.lineage,
            cost_bytes: file.content.cost_bytes + length as u64 + EDIT_SLACK_BYTES,
        };
        if !quiet {
            file.mtime_ns = self.tick();
        }
        let Some(Node::File(old)) = self.names.get(path) else { unreachable!() };
        let inode = if replace { self.number() } else { *old };
        self.files.insert(inode, file);
        if replace {
            self.put(path, Node::File(inode));
        }
    }

    fn set_time(&mut self, path: &str, to: i64) {
        match self.names.get_mut(path).unwrap() {
            Node::File(inode) => self.files.get_mut(inode).unwrap().mtime_ns = to,
            Node::Folder { mtime_ns, .. } | Node::Link { mtime_ns, .. } => *mtime_ns = to,
        }
    }

    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Create { path, size, seed, mode } => {
                let content = self.content(noise(*seed, *size));
                self.put_file(path, content, *mode);
            }
            Step::Folder { path, mode } => {
                let mtime_ns = self.tick();
                self.put(path, Node::Folder { mode: *mode, mtime_ns });
            }
            Step::Link { path, target } => {
                let mtime_ns = self.tick();
                self.put(path, Node::Link { target: target.clone(), mtime_ns });
            }
            Step::HardLink { path, of } => {
                let node = self.names[of].clone();
                self.put(path, node);
            }
            Step::Change { path, at, length, seed, quiet } => {
                self.edit(path, false, *quiet, *length, |bytes| {
                    bytes[*at..at + length].copy_from_slice(&noise(*seed, *length));
                });
            }
            Step::Insert { path, at, length, seed, replace } => {
                self.edit(path, *replace, false, *length, |bytes| {
                    bytes.splice(at..at, noise(*seed, *length));
                });
            }
            Step::Cut { path, at, length, replace } => {
                self.edit(path, *replace, false, 0, |bytes| {
                    bytes.drain(*at..at + length);
                });
            }
            Step::Append { path, length, seed } => {
                self.edit(path, false, false, *length, |bytes| bytes.extend(noise(*seed, *length)));
            }
            Step::Truncate { path, to } => self.edit(path, false, false, 0, |bytes| bytes.truncate(*to)),
            Step::Rename { from, to } => {
                let taken = self.remove(from);
                self.put_at(taken, from, to);
            }
            Step::Copy { from, to } => {
                let file = self.file(from).unwrap().clone();
                let lineage = self.number();
                let content = Content { lineage, cost_bytes: 0, ..file.content };
                self.put_file(to, content, file.mode);
            }
            Step::Swap { a, b } => {
                let (of_a, of_b) = (self.remove(a), self.remove(b));
                self.put_at(of_a, a, b);
                self.put_at(of_b, b, a);
            }
            Step::IntoFolder { path, seed } => {
                self.remove(path);
                self.apply(&Step::Folder { path: path.clone(), mode: 0o755 });
                let path = format!("{path}/inside");
                self.apply(&Step::Create { path, size: 900, seed: *seed, mode: 0o644 });
            }
            Step::IntoFile { path, seed } => {
                self.remove(path);
                self.apply(&Step::Create { path: path.clone(), size: 1200, seed: *seed, mode: 0o644 });
            }
            Step::Mode { path, mode: new } => match self.names.get_mut(path).unwrap() {
                Node::File(inode) => self.files.get_mut(inode).unwrap().mode = *new,
                Node::Folder { mode, .. } => *mode = *new,
                Node::Link { .. } => unreachable!("a link has no mode"),
            },
            Step::Touch { path } => {
                let now = self.tick();
                self.set_time(path, now);
            }
            Step::Date { path, mtime_ns } => self.set_time(path, *mtime_ns),
            Step::Remove { path } => {
                self.remove(path);
            }
        }
        let used: BTreeSet<u64> = self.names.values().filter_map(Node::inode).collect();
        self.files.retain(|inode, _| used.contains(inode));
    }

    /// The most bytes of content that a receiver with `previous` has to get, and how many names
    /// have changed.
    pub(super) fn cost_after(&self, previous: &Model) -> (u64, u64) {
        let known: BTreeSet<[u8; 32]> = previous.files.values().map(|f| *f.content.hash.as_bytes()).collect();
        // By hash: content under several names is sent once.
        let mut fresh: BTreeMap<[u8; 32], u64> = BTreeMap::new();
        for name in self.names.keys() {
            let Some(file) = self.file(name) else { continue };
            let hash = *file.content.hash.as_bytes();
            if !known.contains(&hash) {
                let most = fresh.entry(hash).or_default();
                *most = (*most).max(file.content.cost_after(previous.file(name)));
            }
        }
        (fresh.values().sum(), self.changed_names(previous))
    }

    fn changed_names(&self, previous: &Model) -> u64 {
        let all: BTreeSet<&String> = self.names.keys().chain(previous.names.keys()).collect();
        let same = |name: &&&String| {
            let file =
                |model: &Model| model.file(name).map(|file| (file.content.hash, file.mode, file.mtime_ns));
            self.names.get(**name) == previous.names.get(**name) && file(self) == file(previous)
        };
        (all.len() - all.iter().filter(same).count()) as u64
    }
}

impl Node {
    fn inode(&self) -> Option<u64> {
        match self {
            Self::File(inode) => Some(*inode),
            _ => None,
        }
    }
}

impl Content {
    /// The most that it may cost if `previous` was under the same name.
    fn cost_after(&self, previous: Option<&File>) -> u64 {
        let length = self.bytes.len() as u64;
        let related = previous.map(|file| &file.content).filter(|previous| {
            previous.lineage == self.lineage
                && previous.cost_bytes <= self.cost_bytes
                && previous.bytes.len().min(self.bytes.len()) >= MIN_CHUNK_MAP_BYTES
        });
        related.map_or(length, |previous| length.min(self.cost_bytes - previous.cost_bytes))
    }
}
