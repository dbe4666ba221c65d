//! A list of what failed that takes no more memory than an answer has room for.

use super::protocol::{FAILED_BYTES, FAILED_NAMES, FailedFile};
use std::collections::BTreeMap;

/// Entries that failed: named as far as an answer has room for them, and counted beyond. A file is
/// named once.
#[derive(Debug, Clone, Default)]
pub struct FailureList {
    /// By the id of the file; entries without id have numbers from [`NO_ID`] on.
    named: BTreeMap<u64, FailedFile>,
    named_bytes: usize,
    unnamed: u64,
}

/// No file has such a high id.
const NO_ID: u64 = 1 << 63;

impl FailureList {
    /// Adds an entry.
    pub fn add(&mut self, failed: FailedFile) {
        let next = || self.named.last_key_value().map_or(NO_ID, |(&last, _)| NO_ID.max(last + 1));
        let key = failed.id.unwrap_or_else(next);
        self.remove(key);
        if self.named.len() < FAILED_NAMES && self.named_bytes + failed.bytes() <= FAILED_BYTES {
            self.named_bytes += failed.bytes();
            self.named.insert(key, failed);
        } else {
            self.unnamed += 1;
        }
    }

    /// Adds all that is in `other`.
    pub fn append(&mut self, other: Self) {
        self.unnamed += other.unnamed;
        other.named.into_values().for_each(|failed| self.add(failed));
    }

    /// Takes the file with this id out, if it is named.
    pub fn remove(&mut self, id: u64) {
        self.named_bytes -= self.named.remove(&id).map_or(0, |failed| failed.bytes());
    }

    /// Takes named entries out for which `stays` is false.
    pub fn retain(&mut self, mut stays: impl FnMut(&FailedFile) -> bool) {
        self.named.retain(|_, failed| stays(failed));
        self.named_bytes = self.named.values().map(FailedFile::bytes).sum();
    }

    /// How many entries failed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.named.len() as u64 + self.unnamed
    }

    /// How many of these are named.
    #[must_use]
    pub fn named(&self) -> usize {
        self.named.len()
    }

    /// Whether the file with this id is named.
    #[must_use]
    pub fn names(&self, id: u64) -> bool {
        self.named.contains_key(&id)
    }

    /// The named entries, files in the order of their ids first.
    #[must_use]
    pub fn into_named(self) -> Vec<FailedFile> {
        self.named.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(id: impl Into<Option<u64>>, reason: &str) -> FailedFile {
        FailedFile { id: id.into(), path: "path".to_string(), reason: reason.to_string() }
    }

    #[test]
    fn names_are_bounded_and_all_are_counted() {
        let mut list = FailureList::default();
        (0..FAILED_NAMES as u64 + 5).for_each(|id| list.add(failed(id, "why")));
        list.add(failed(7, "another reason"));
        list.add(failed(None, "why"));
        assert_eq!((list.named(), list.total()), (FAILED_NAMES, FAILED_NAMES as u64 + 6));
        list.remove(3);
        list.add(failed(None, "why"));
        assert!(list.names(7) && !list.names(3));
        list.retain(|failed| failed.reason != "why");
        assert_eq!(list.into_named(), [failed(7, "another reason")]);
        let mut list = FailureList::default();
        (0..5).for_each(|id| list.add(failed(id, &"long".repeat(FAILED_BYTES / 16))));
        assert_eq!((list.named(), list.total()), (3, 5));
        let mut other = FailureList::default();
        (0..2).for_each(|_| other.add(failed(None, "why")));
        other.append(list);
        assert_eq!((other.named(), other.total()), (5, 7));
    }
}
