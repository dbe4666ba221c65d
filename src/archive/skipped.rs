//! What a run left out of an index. An index records it, so that a later run knows what a receiver
//! must not delete.

use super::path::{EntryPath, printable, unprintable};
use super::path_rules::PathRules;
use super::shown::shown;
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Why an entry is not in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipKind {
    /// The entry could not be read, or changed all the time: the source still has it, and whatever
    /// lies below it.
    Unreadable,
    /// The entry has no content to copy (a FIFO, a socket, a device), or no path that an index can
    /// hold.
    Unsupported,
    /// A filter left it out for what only the source tells (size, time, file system, a file of
    /// rules): the source still has it, and whatever lies below it.
    Filtered,
}

/// The most bytes that the paths of a list may have on their way to a receiver: those that were
/// filtered, and all others.
pub const MAX_SPARED_BYTES: usize = 1 << 20;
/// What a path costs on that way beside its own characters.
const ENTRY_BYTES: usize = 8;

/// How many rules of a filter are shown to people.
const SHOWN_RULES: usize = 5;

/// The entries that a run left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedList {
    unreadable: u64,
    unsupported: u64,
    entries: Vec<(SkipKind, Box<[u8]>)>,
    /// Some entries are not named: they were too many, or the system did not say which they were.
    cut: bool,
    spared_bytes: usize,
    filtered: FilteredPaths,
    /// The filter has left out more than `filtered` says.
    filtered_cut: bool,
    filtered_bytes: usize,
}

/// What a filter left out of a source. It stays at the receiver, whether the source still has it or
/// not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilteredPaths {
    /// Rules that leave out paths ([`super::path_rules::PathRule::to_text`]), in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Other paths that were left out, each as [`printable`] text. A path with a `/` at its end
    /// includes all paths below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

impl FilteredPaths {
    /// Whether nothing was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.paths.is_empty()
    }
}

impl SkippedList {
    /// Adds an entry by its path in the source.
    pub fn add(&mut self, kind: SkipKind, path: &[u8]) {
        match kind {
            SkipKind::Unreadable => self.unreadable += 1,
            SkipKind::Unsupported => self.unsupported += 1,
            SkipKind::Filtered => return self.name_filtered(path),
        }
        if EntryPath::new(path).is_ok() {
            self.name(kind, path);
        } else if kind == SkipKind::Unreadable {
            // An illegal path cannot be at a receiver, but what the system did not name can be
            // anything.
            self.cut();
        }
    }

    /// The filter has these rules. With `cut`, it has left out more than they do and than was
    /// added.
    pub fn set_filter(&mut self, rules: Vec<String>, cut: bool) {
        self.filtered.rules = rules;
        if cut {
            self.cut_filtered();
        }
    }

    fn name_filtered(&mut self, path: &[u8]) {
        // An illegal path cannot be at a receiver.
        if EntryPath::new(path).is_err() {
            return;
        }
        let text = printable(path) + "/";
        self.filtered_bytes += sent_bytes(&text);
        if self.filtered_cut || self.filtered_bytes > MAX_SPARED_BYTES {
            self.cut_filtered();
        } else {
            self.filtered.paths.push(text);
        }
    }

    fn cut_filtered(&mut self) {
        (self.filtered_cut, self.filtered_bytes) = (true, 0);
        self.filtered.paths = Vec::new();
    }

    fn name(&mut self, kind: SkipKind, path: &[u8]) {
        self.spared_bytes += sent_bytes(&printable(path));
        if self.cut || self.spared_bytes > MAX_SPARED_BYTES {
            self.cut();
        } else {
            self.entries.push((kind, path.into()));
        }
    }

    fn cut(&mut self) {
        (self.cut, self.entries, self.spared_bytes) = (true, Vec::new(), 0);
    }

    /// How many entries were left out.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.unreadable.saturating_add(self.unsupported)
    }

    /// How many of these could not be read.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The paths that a receiver must not delete, each as [`printable`] text. A path with a `/` at
    /// its end includes all paths below it. `None`: the list does not name them
    /// all.
    #[must_use]
    pub fn spared(&self) -> Option<Vec<String>> {
        let text = |(kind, path): &(SkipKind, Box<[u8]>)| {
            let end = if *kind == SkipKind::Unreadable { "/" } else { "" };
            format!("{}{end}", printable(path))
        };
        (!self.cut).then(|| self.entries.iter().map(text).collect())
    }

    /// What a filter left out. `None`: the list does not say all of it.
    #[must_use]
    pub fn filtered(&self) -> Option<&FilteredPaths> {
        (!self.filtered_cut).then_some(&self.filtered)
    }

    /// What the filter was, for people: its first rules, and whether it was more than rules. `None`:
    /// it left out nothing.
    #[must_use]
    pub fn filter_text(&self) -> Option<String> {
        let FilteredPaths { rules, paths } = &self.filtered;
        let mut parts: Vec<String> = rules.iter().take(SHOWN_RULES).map(|rule| shown(rule)).collect();
        if rules.len() > SHOWN_RULES {
            parts.push(format!("{} more rules", rules.len() - SHOWN_RULES));
        }
        if self.filtered_cut || !paths.is_empty() {
            parts.push("limits, lists or files of rules".to_string());
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// The list as an index keeps it: `S1`, a byte (1: the paths that were not filtered are cut, 2:
    /// those that were), both counts (u64), then for each path or rule a letter (`u`, `k`, `f`, or
    /// `r` for a rule), its length (u32), and its bytes. Numbers are little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = b"S1".to_vec();
        bytes.push(u8::from(self.cut) | u8::from(self.filtered_cut) << 1);
        bytes.extend(self.unreadable.to_le_bytes());
        bytes.extend(self.unsupported.to_le_bytes());
        let mut add = |letter: u8, text: &[u8]| {
            bytes.push(letter);
            // A legal path is short, and so is a rule.
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text);
        };
        for (kind, path) in &self.entries {
            add(if *kind == SkipKind::Unreadable { b'u' } else { b'k' }, path);
        }
        self.filtered.rules.iter().for_each(|rule| add(b'r', rule.as_bytes()));
        self.filtered.paths.iter().for_each(|path| add(b'f', path.as_bytes()));
        bytes
    }

    /// Reads what [`SkippedList::to_bytes`] made; `None` if it is something else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(b"S1")?;
        let (&[cut], rest) = rest.split_first_chunk()?;
        let (unreadable, rest) = rest.split_first_chunk()?;
        let (unsupported, mut rest) = rest.split_first_chunk()?;
        let mut list = Self { cut: cut & 1 != 0, filtered_cut: cut & 2 != 0, ..Self::default() };
        while !rest.is_empty() {
            let (&[letter], behind) = rest.split_first_chunk()?;
            let (length, behind) = behind.split_first_chunk()?;
            let (path, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = behind;
            let kind = match letter {
                b'u' => SkipKind::Unreadable,
                b'k' => SkipKind::Unsupported,
                b'r' => {
                    list.filtered.rules.push(String::from_utf8(path.to_vec()).ok()?);
                    continue;
                }
                b'f' => {
                    let path = unprintable(std::str::from_utf8(path).ok()?.strip_suffix('/')?)?;
                    list.name_filtered(&path);
                    continue;
                }
                _ => return None,
            };
            EntryPath::new(path).ok()?;
            list.name(kind, path);
        }
        list.unreadable = u64::from_le_bytes(*unreadable);
        list.unsupported = u64::from_le_bytes(*unsupported);
        Some(list)
    }
}

/// What `text` takes on its way to a receiver: JSON doubles backslashes and quotes.
fn sent_bytes(text: &str) -> usize {
    let doubled = text.bytes().filter(|byte| matches!(byte, b'\\' | b'"')).count();
    text.len() + doubled + ENTRY_BYTES
}

/// The paths that a sender wants spared, as a receiver looks them up.
#[derive(Debug, Clone, Default)]
pub struct SparedPaths {
    alone: HashSet<Vec<u8>>,
    trees: HashSet<Vec<u8>>,
    rules: PathRules,
}

impl SparedPaths {
    /// Reads what [`SkippedList::spared`] and [`SkippedList::filtered`] gave.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`]: a text is no path, or no rule.
    pub fn parse(texts: &[String], filtered: &FilteredPaths) -> Result<Self> {
        let mut spared = Self { rules: PathRules::parse(&filtered.rules)?, ..Self::default() };
        for text in texts.iter().chain(&filtered.paths) {
            let path = unprintable(text)
                .ok_or_else(|| Error::new(ErrorKind::Malformed, "what is to be spared is no path"))?;
            match path.strip_suffix(b"/") {
                Some(tree) => spared.trees.insert(tree.to_vec()),
                None => spared.alone.insert(path),
            };
        }
        Ok(spared)
    }

    /// Whether `path` must not be deleted.
    #[must_use]
    pub fn has(&self, path: &EntryPath, is_dir: bool) -> bool {
        let path = path.as_bytes();
        let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        self.alone.contains(path)
            || self.rules.leave_out(path, is_dir)
            || (!self.trees.is_empty()
                && (self.trees.contains(path) || ends.any(|end| self.trees.contains(&path[..end]))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_and_says_what_is_spared() {
        let mut list = SkippedList::default();
        assert_eq!((list.total(), list.spared()), (0, Some(vec![])));
        list.add(SkipKind::Unreadable, b"e");
        list.add(SkipKind::Unsupported, b"e/a\xff\\");
        // Its path can be at no receiver.
        list.add(SkipKind::Unsupported, &[b'n'; 300]);
        assert_eq!((list.total(), list.unreadable()), (3, 1));
        assert_eq!(list.spared().unwrap(), ["e/", "e/a\\xff\\x5c"]);
        let bytes = list.to_bytes();
        assert_eq!(SkippedList::parse(&bytes), Some(list));
        for cut in 0..bytes.len() {
            assert!(SkippedList::parse(&bytes[..cut]).is_none_or(|list| list.to_bytes() == bytes[..cut]));
        }
        assert_eq!(SkippedList::parse(b"S2"), None);
    }

    #[test]
    fn a_tree_is_spared_with_all_below_it_and_a_path_alone() {
        let mut list = SkippedList::default();
        list.add(SkipKind::Unreadable, b"d/e\n");
        list.add(SkipKind::Unsupported, b"fifo\xff");
        let spared = SparedPaths::parse(&list.spared().unwrap(), &FilteredPaths::default()).unwrap();
        let has = |path: &[u8]| spared.has(&EntryPath::new(path).unwrap(), false);
        for path in [&b"d/e\n"[..], b"d/e\n/a", b"d/e\n/a/b", b"fifo\xff"] {
            assert!(has(path), "{}", printable(path));
        }
        for path in [&b"d"[..], b"d/e", b"d/e\n2", b"d/f", b"fifo\xff/a", b"fifo"] {
            assert!(!has(path), "{}", printable(path));
        }
        assert!(SparedPaths::parse(&["a\\xz1".to_string()], &FilteredPaths::default()).is_err());
    }

    #[test]
    fn what_a_filter_left_out_is_spared_on_its_own() {
        let mut list = SkippedList::default();
        list.add(SkipKind::Filtered, b"large\xff");
        list.add(SkipKind::Unsupported, b"fifo");
        list.set_filter(vec!["+ keep.tmp".to_string(), "- *.tmp".to_string(), "- d/".to_string()], false);
        assert_eq!((list.total(), list.spared()), (1, Some(vec!["fifo".to_string()])));
        let list = SkippedList::parse(&list.to_bytes()).unwrap();
        let spared = SparedPaths::parse(&[], list.filtered().unwrap()).unwrap();
        let has = |path: &[u8], is_dir| spared.has(&EntryPath::new(path).unwrap(), is_dir);
        for path in [&b"a.tmp"[..], b"e/a.tmp", b"d/keep.tmp", b"large\xff", b"large\xff/a"] {
            assert!(has(path, false), "{}", printable(path));
        }
        assert!(!has(b"d", false) && has(b"d", true) && !has(b"keep.tmp", false) && !has(b"fifo", false));
        let wrong = FilteredPaths { rules: vec!["? a".to_string()], paths: Vec::new() };
        assert!(SparedPaths::parse(&[], &wrong).is_err());
    }

    #[test]
    fn a_filter_that_left_out_too_much_hinders_nothing_else() {
        let mut list = SkippedList::default();
        list.add(SkipKind::Unsupported, b"fifo");
        for number in 0..MAX_SPARED_BYTES / 10 {
            list.add(SkipKind::Filtered, format!("old/{number}").as_bytes());
        }
        let list = SkippedList::parse(&list.to_bytes()).unwrap();
        assert!(list.filtered().is_none() && list.spared() == Some(vec!["fifo".to_string()]));
        let mut list = SkippedList::default();
        list.set_filter(Vec::new(), true);
        assert_eq!(list.filtered(), None);
    }

    #[test]
    fn a_list_that_does_not_name_all_spares_everything() {
        let mut list = SkippedList::default();
        list.add(SkipKind::Unreadable, b"");
        assert_eq!((list.total(), list.spared()), (1, None));
        let mut list = SkippedList::default();
        for number in 0..MAX_SPARED_BYTES / 40 {
            list.add(SkipKind::Unsupported, format!("sockets/{number}").as_bytes());
        }
        assert!(list.spared().is_some());
        for number in 0..MAX_SPARED_BYTES / 20 {
            list.add(SkipKind::Unsupported, format!("more/{number}").as_bytes());
        }
        assert!(list.spared().is_none());
        assert!(list.to_bytes().len() < 100);
        assert_eq!(SkippedList::parse(&list.to_bytes()).unwrap().spared(), None);
    }
}
