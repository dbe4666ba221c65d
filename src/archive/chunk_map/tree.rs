//! BLAKE3 of a content by groups, so that it can be resumed where a group begins (section 2.1 of
//! the BLAKE3 paper: the tree over a content has a complete subtree for each group).

use crate::archive::digest::{Blake3, Digest};
use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// A group, in bytes: md5 and BLAKE3 can be resumed where one begins.
pub const GROUP_BYTES: u64 = 1 << 20;

/// How many groups lie before the last one of a content of `size` bytes.
pub(super) fn groups_before(size: u64) -> u64 {
    size.saturating_sub(1) / GROUP_BYTES
}

/// BLAKE3 of a subtree that is not the whole content.
pub(super) type ChainingValue = [u8; 32];

/// Takes the pieces.
#[derive(Clone)]
pub(super) struct Tree {
    /// The groups before the current one: the largest complete subtrees, left to right.
    subtrees: Vec<ChainingValue>,
    groups: u64,
    current: Hasher,
    /// Bytes in the current group. A full group is ended when another byte comes: without one it
    /// may be the whole content.
    current_bytes: u64,
    /// Length of the prefix whose BLAKE3 is wanted.
    prefix: Option<u64>,
    prefix_digest: Option<Blake3>,
}

impl Tree {
    /// For a whole content; with `prefix`, BLAKE3 of so many bytes at its start is computed, too.
    pub(super) fn new(prefix: Option<u64>) -> Self {
        Self::resume(0, Vec::new(), prefix)
    }

    /// Goes on behind the first `groups` groups of a content, which are `subtrees`: one for each
    /// bit set in that number. At least one byte has to follow.
    pub(super) fn resume(groups: u64, subtrees: Vec<ChainingValue>, prefix: Option<u64>) -> Self {
        let mut tree =
            Self { subtrees, groups, current: Hasher::new(), current_bytes: 0, prefix, prefix_digest: None };
        if groups > 0 {
            tree.current.set_input_offset(groups * GROUP_BYTES);
        }
        if prefix == Some(0) {
            tree.prefix_digest = Some(Digest::from(*blake3::hash(b"").as_bytes()));
        }
        tree
    }

    /// Bytes so far.
    pub(super) fn length(&self) -> u64 {
        self.groups * GROUP_BYTES + self.current_bytes
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let left = self.prefix.and_then(|prefix| prefix.checked_sub(self.length())).filter(|&left| left > 0);
        match left.and_then(|left| usize::try_from(left).ok()).and_then(|left| bytes.split_at_checked(left)) {
            Some((prefix, rest)) => {
                self.take(prefix);
                self.prefix_digest = self.digest();
                self.take(rest);
            }
            None => self.take(bytes),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.current_bytes == GROUP_BYTES {
                self.end_group();
            }
            let room = usize::try_from(GROUP_BYTES - self.current_bytes).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.current.update(now);
            self.current_bytes += now.len() as u64;
            bytes = later;
        }
    }

    /// Another byte follows, so neither the group nor any subtree that it completes is the root.
    fn end_group(&mut self) {
        let mut value = self.current.finalize_non_root();
        let mut below = self.groups;
        while below & 1 == 1
            && let Some(left) = self.subtrees.pop()
        {
            value = merge_subtrees_non_root(&left, &value, Mode::Hash);
            below >>= 1;
        }
        self.subtrees.push(value);
        self.groups += 1;
        // A reset would leave the offset in place, and a hasher with an offset takes no new one.
        self.current = Hasher::new();
        self.current.set_input_offset(self.groups * GROUP_BYTES);
        self.current_bytes = 0;
    }

    /// BLAKE3 of all bytes so far; `None` if no byte followed the subtrees.
    pub(super) fn digest(&self) -> Option<Blake3> {
        let Some((first, rest)) = self.subtrees.split_first() else {
            return Some(Digest::from(*self.current.finalize().as_bytes()));
        };
        if self.current_bytes == 0 {
            return None;
        }
        let last = self.current.finalize_non_root();
        let right =
            rest.iter().rev().fold(last, |right, left| merge_subtrees_non_root(left, &right, Mode::Hash));
        Some(Digest::from(*merge_subtrees_root(first, &right, Mode::Hash).as_bytes()))
    }

    /// BLAKE3 of the prefix that was asked for, if the content is that long.
    pub(super) fn prefix(&self) -> Option<Blake3> {
        self.prefix_digest
    }

    /// The groups before the last one.
    pub(super) fn into_subtrees(self) -> Vec<ChainingValue> {
        self.subtrees
    }
}
