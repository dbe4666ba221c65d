//! What a run left out of an index. An index records it, so that a later run knows what a receiver
//! must not delete.

use super::path::{EntryPath, printable, unprintable};
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
}

/// The most bytes that the paths of a list may have on their way to a receiver.
pub const MAX_SPARED_BYTES: usize = 1 << 20;
/// What a path costs on that way beside its own characters.
const ENTRY_BYTES: usize = 8;

/// The entries that a run left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SkippedList {
    unreadable: u64,
    unsupported: u64,
    entries: Vec<(SkipKind, Box<[u8]>)>,
    /// Some entries are not named: they were too many, or the system did not say which they were.
    cut: bool,
    spared_bytes: usize,
}

impl SkippedList {
    /// Adds an entry by its path in the source.
    pub fn add(&mut self, kind: SkipKind, path: &[u8]) {
        match kind {
            SkipKind::Unreadable => self.unreadable += 1,
            SkipKind::Unsupported => self.unsupported += 1,
        }
        if EntryPath::new(path).is_ok() {
            self.name(kind, path);
        } else if kind == SkipKind::Unreadable {
            // An illegal path cannot be at a receiver, but what the system did not name can be
            // anything.
            self.cut();
        }
    }

    fn name(&mut self, kind: SkipKind, path: &[u8]) {
        let text = printable(path);
        // JSON doubles backslashes and quotes.
        let doubled = text.bytes().filter(|byte| matches!(byte, b'\\' | b'"')).count();
        self.spared_bytes += text.len() + doubled + ENTRY_BYTES;
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

    /// The list as an index keeps it: `S1`, whether it is cut (a byte), both counts (u64), then for
    /// each path a letter (`u` or `k`), its length (u32), and its bytes. Numbers are little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = b"S1".to_vec();
        bytes.push(u8::from(self.cut));
        bytes.extend(self.unreadable.to_le_bytes());
        bytes.extend(self.unsupported.to_le_bytes());
        for (kind, path) in &self.entries {
            bytes.push(if *kind == SkipKind::Unreadable { b'u' } else { b'k' });
            // A legal path is short.
            bytes.extend((path.len() as u32).to_le_bytes());
            bytes.extend(&**path);
        }
        bytes
    }

    /// Reads what [`SkippedList::to_bytes`] made; `None` if it is something else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(b"S1")?;
        let (&[cut], rest) = rest.split_first_chunk()?;
        let (unreadable, rest) = rest.split_first_chunk()?;
        let (unsupported, mut rest) = rest.split_first_chunk()?;
        let mut list = Self { cut: cut != 0, ..Self::default() };
        while !rest.is_empty() {
            let (&[letter], behind) = rest.split_first_chunk()?;
            let (length, behind) = behind.split_first_chunk()?;
            let (path, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let kind = match letter {
                b'u' => SkipKind::Unreadable,
                b'k' => SkipKind::Unsupported,
                _ => return None,
            };
            EntryPath::new(path).ok()?;
            list.name(kind, path);
            rest = behind;
        }
        list.unreadable = u64::from_le_bytes(*unreadable);
        list.unsupported = u64::from_le_bytes(*unsupported);
        Some(list)
    }
}

/// The paths that a sender wants spared, as a receiver looks them up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SparedPaths {
    alone: HashSet<Vec<u8>>,
    trees: HashSet<Vec<u8>>,
}

impl SparedPaths {
    /// Reads what [`SkippedList::spared`] gave; `None` if a text is no path.
    #[must_use]
    pub fn parse(texts: &[String]) -> Option<Self> {
        let mut spared = Self::default();
        for text in texts {
            let path = unprintable(text)?;
            match path.strip_suffix(b"/") {
                Some(tree) => spared.trees.insert(tree.to_vec()),
                None => spared.alone.insert(path),
            };
        }
        Some(spared)
    }

    /// Whether `path` must not be deleted.
    #[must_use]
    pub fn has(&self, path: &EntryPath) -> bool {
        let path = path.as_bytes();
        let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        self.alone.contains(path)
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
        let spared = SparedPaths::parse(&list.spared().unwrap()).unwrap();
        let has = |path: &[u8]| spared.has(&EntryPath::new(path).unwrap());
        for path in [&b"d/e\n"[..], b"d/e\n/a", b"d/e\n/a/b", b"fifo\xff"] {
            assert!(has(path), "{}", printable(path));
        }
        for path in [&b"d"[..], b"d/e", b"d/e\n2", b"d/f", b"fifo\xff/a", b"fifo"] {
            assert!(!has(path), "{}", printable(path));
        }
        assert_eq!(SparedPaths::parse(&["a\\xz1".to_string()]), None);
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
