//! What may happen to a folder, and the random choice of it.

use super::tree::{MIN_CHUNK_MAP_BYTES, Model, Node};
use crate::support::{Rng, is_root};
use std::collections::BTreeSet;

/// One thing that happens. Paths are relative; `seed` gives the bytes that are written.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Create {
        path: String,
        size: usize,
        seed: u64,
        mode: u32,
    },
    Folder {
        path: String,
        mode: u32,
    },
    Link {
        path: String,
        target: String,
    },
    HardLink {
        path: String,
        of: String,
    },
    /// Changes some bytes in place; `quiet`: sets the time back afterwards.
    Change {
        path: String,
        at: usize,
        length: usize,
        seed: u64,
        quiet: bool,
    },
    /// `replace`: renames a new file over the previous one, as editors do.
    Insert {
        path: String,
        at: usize,
        length: usize,
        seed: u64,
        replace: bool,
    },
    Cut {
        path: String,
        at: usize,
        length: usize,
        replace: bool,
    },
    Append {
        path: String,
        length: usize,
        seed: u64,
    },
    Truncate {
        path: String,
        to: usize,
    },
    /// Of anything; a file may replace another one.
    Rename {
        from: String,
        to: String,
    },
    Copy {
        from: String,
        to: String,
    },
    Swap {
        a: String,
        b: String,
    },
    IntoFolder {
        path: String,
        seed: u64,
    },
    IntoFile {
        path: String,
        seed: u64,
    },
    Mode {
        path: String,
        mode: u32,
    },
    Touch {
        path: String,
    },
    /// A time far from the present.
    Date {
        path: String,
        mtime_ns: i64,
    },
    Remove {
        path: String,
    },
}

/// Few names, so that a name returns as another entry.
const NAMES: [&str; 14] =
    ["a", "b", "c", "d", "a.b", "a-b", "ab", "A", "deep", "x\ny", " ", "-rf", "ünï 🦀", ".hidden"];
/// Before 1970 and after 2038-01-19, the epoch, whole seconds, and the limits of 64 bits of
/// nanoseconds.
const ODD_TIMES: [i64; 8] = [
    -1,
    0,
    -2_000_000_000_500_000_000,
    2_147_483_648_000_000_000,
    4_000_000_000_123_456_789,
    1_234_567_890_000_000_000,
    i64::MAX - 1_000_000_000,
    i64::MIN + 1_000_000_000,
];
const MAX_NAMES: usize = 90;
const MAX_LARGE: usize = 5;
const LARGEST: usize = 20 << 20;

/// Chooses steps that are possible.
pub(super) struct Chooser {
    pub(super) rng: Rng,
    /// Whether there may be files of 1 to 20 MiB.
    pub(super) large: bool,
    /// Entries that vanish from the source vanish from the copy.
    pub(super) mirrors: bool,
    /// Paths that are or were folders, at the receiver too: without deletions no other entry can
    /// take their place.
    pub(super) folders: BTreeSet<String>,
}

impl Chooser {
    /// A step that is possible in the present state of the model.
    pub(super) fn step(&mut self, model: &Model) -> Step {
        loop {
            let Some(step) = self.candidate(model) else { continue };
            let mut after = model.clone();
            after.apply(&step);
            if self.mirrors || !after.names.iter().any(|(name, node)| self.is_in_the_way(name, node)) {
                return step;
            }
        }
    }

    /// A new file of 1 to 20 MiB.
    pub(super) fn large_file(&mut self, model: &Model) -> Option<Step> {
        let most = if self.below(4) == 0 { LARGEST - MIN_CHUNK_MAP_BYTES } else { 4 << 20 };
        let size = MIN_CHUNK_MAP_BYTES + self.below(most);
        Some(Step::Create { path: self.free_name(model)?, size, seed: self.rng.next(), mode: 0o644 })
    }

    fn is_in_the_way(&self, name: &str, node: &Node) -> bool {
        !matches!(node, Node::Folder { .. }) && self.folders.contains(name)
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.below(end as u64) as usize
    }

    fn any(&mut self, model: &Model, wanted: impl Fn(&str, &Node) -> bool) -> Option<String> {
        let names = model.names.iter().filter(|(name, node)| wanted(name, node));
        let names: Vec<&String> = names.map(|(name, _)| name).collect();
        (!names.is_empty()).then(|| names[self.below(names.len())].clone())
    }

    /// A file; a large one with a higher chance than its share.
    fn file(&mut self, model: &Model) -> Option<String> {
        let of_at_least = |size: usize| {
            move |name: &str, _: &Node| model.file(name).is_some_and(|f| f.content.bytes.len() >= size)
        };
        let wanted = if self.large && self.below(5) < 3 { MIN_CHUNK_MAP_BYTES } else { 0 };
        self.any(model, of_at_least(wanted))
    }

    /// A file that is not empty, and its size.
    fn filled(&mut self, model: &Model) -> Option<(String, usize)> {
        let path = self.file(model)?;
        let size = model.file(&path)?.content.bytes.len();
        (size > 0).then_some((path, size))
    }

    /// A free path in a folder that exists.
    fn free_name(&mut self, model: &Model) -> Option<String> {
        let deep = self.below(3) > 0;
        let folder = if deep {
            self.any(model, |_, node| matches!(node, Node::Folder { .. }))?
        } else {
            String::new()
        };
        let name = NAMES[self.below(NAMES.len())];
        let path = if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
        (!model.names.contains_key(&path) && path.matches('/').count() < 5).then_some(path)
    }

    fn length(&mut self, most: usize) -> usize {
        let most = most.max(1);
        let length = if self.below(2) == 0 { self.below(64) } else { self.below(200_000) };
        length.clamp(1, most)
    }

    fn candidate(&mut self, model: &Model) -> Option<Step> {
        let (seed, chance) = (self.rng.next(), self.below(2) == 0);
        let few = model.names.len() < 12;
        let many = model.names.len() > MAX_NAMES;
        let kind = self.below(100);
        Some(match kind {
            0..12 if !many => {
                let size = [0, 1, 100, 4000, 20_000, 150_000][self.below(6)];
                // Only root can set the permissions of another user's file.
                let mode =
                    [0o644, 0o600, 0o755, 0o444, if is_root() { 0o4755 } else { 0o700 }][self.below(5)];
                Step::Create { path: self.free_name(model)?, size: size + self.below(size + 1), seed, mode }
            }
            12..15 if self.large && self.large_files(model) < MAX_LARGE => self.large_file(model)?,
            15..19 if !many => {
                Step::Folder { path: self.free_name(model)?, mode: [0o755, 0o700, 0o1777][self.below(3)] }
            }
            19..22 if !many => {
                let target = ["a", "../b", "no/such", "/etc/hostname", "."][self.below(5)].to_string();
                Step::Link { path: self.free_name(model)?, target }
            }
            22..26 if !many => Step::HardLink { path: self.free_name(model)?, of: self.file(model)? },
            26..40 => {
                let (path, size) = self.filled(model)?;
                let length = self.length(size);
                Step::Change {
                    path,
                    at: self.below(size - length + 1),
                    length,
                    seed,
                    quiet: self.below(4) == 0,
                }
            }
            40..48 => {
                let path = self.file(model)?;
                let size = model.file(&path)?.content.bytes.len();
                let at = if self.below(3) == 0 { 0 } else { self.below(size + 1) };
                Step::Insert { path, at, length: self.length(100_000), seed, replace: chance }
            }
            48..52 => {
                let (path, size) = self.filled(model)?;
                let length = self.length(size);
                Step::Cut { path, at: self.below(size - length + 1), length, replace: chance }
            }
            52..59 => Step::Append { path: self.file(model)?, length: self.length(300_000), seed },
            59..63 => {
                let (path, size) = self.filled(model)?;
                Step::Truncate { path, to: if self.below(3) == 0 { 0 } else { self.below(size) } }
            }
            63..73 => self.rename(model)?,
            73..78 if !many => {
                let from = self.file(model)?;
                let large = model.file(&from)?.content.bytes.len() >= MIN_CHUNK_MAP_BYTES;
                if large && self.large_files(model) >= MAX_LARGE {
                    return None;
                }
                Step::Copy { from, to: self.free_name(model)? }
            }
            78..82 => {
                let (a, b) = (self.any(model, |_, _| true)?, self.any(model, |_, _| true)?);
                let apart = |a: &str, b: &str| a != b && !b.starts_with(&format!("{a}/"));
                if !apart(&a, &b) || !apart(&b, &a) {
                    return None;
                }
                Step::Swap { a, b }
            }
            82..84 => Step::IntoFolder {
                path: self.any(model, |_, node| !matches!(node, Node::Folder { .. }))?,
                seed,
            },
            84..86 => {
                Step::IntoFile { path: self.any(model, |_, node| matches!(node, Node::Folder { .. }))?, seed }
            }
            86..90 => {
                let path = self.any(model, |_, node| !matches!(node, Node::Link { .. }))?;
                let modes: [u32; 3] =
                    if model.is_folder(&path) { [0o755, 0o750, 0o711] } else { [0o640, 0o555, 0o711] };
                Step::Mode { path, mode: modes[self.below(3)] }
            }
            90..92 => Step::Touch { path: self.any(model, |_, _| true)? },
            92..94 => {
                let mtime_ns = ODD_TIMES[self.below(ODD_TIMES.len())];
                Step::Date { path: self.any(model, |_, _| true)?, mtime_ns }
            }
            94.. if !few => {
                let path = self.any(model, |_, _| true)?;
                // A subtree now and then, but not nearly everything.
                if model.subtree(&path).len() * 2 > model.names.len() {
                    return None;
                }
                Step::Remove { path }
            }
            _ => return None,
        })
    }

    fn rename(&mut self, model: &Model) -> Option<Step> {
        let from = self.any(model, |_, _| true)?;
        let over = !model.is_folder(&from) && self.below(3) == 0;
        let to = if over { self.file(model)? } else { self.free_name(model)? };
        // The kernel does nothing if both names are one file.
        if model.names.get(&from) == model.names.get(&to) || to.starts_with(&format!("{from}/")) {
            return None;
        }
        Some(Step::Rename { from, to })
    }

    fn large_files(&self, model: &Model) -> usize {
        model.files.values().filter(|file| file.content.bytes.len() >= MIN_CHUNK_MAP_BYTES).count()
    }
}
