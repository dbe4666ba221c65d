//! What a plan consists of.

use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::archive::skipped::SkippedList;
use crate::error::Result;
use std::sync::Arc;

/// How an entry differs from the generation that it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is equal.
    Unchanged,
    /// Its path is new.
    New,
    /// A file with another size, time or content; a directory or link that is another one.
    Changed,
    /// A file that is larger than before, and still the same file.
    Grown,
    /// A file that had another path.
    Renamed,
    /// A file of the same size and time with other metadata.
    Touched,
    /// Its path is gone.
    Removed,
    /// Its path is left out by the filter now. The receiver deletes it only if it is told to.
    Filtered,
    /// Its content is equal, but the receiver does not have all of it: an earlier run was
    /// interrupted, or went elsewhere.
    Missing,
}

impl ChangeKind {
    /// All that a plan counts, in the order of a report.
    pub const ALL: [Self; 9] = [
        Self::Unchanged,
        Self::New,
        Self::Changed,
        Self::Grown,
        Self::Renamed,
        Self::Touched,
        Self::Removed,
        Self::Filtered,
        Self::Missing,
    ];

    /// Whether the next generation does not have the entry.
    #[must_use]
    pub fn is_absent(self) -> bool {
        matches!(self, Self::Removed | Self::Filtered)
    }

    /// Its word in a report.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::New => "new",
            Self::Changed => "changed",
            Self::Grown => "grown",
            Self::Renamed => "renamed",
            Self::Touched => "touched",
            Self::Removed => "removed",
            Self::Filtered => "filtered",
            Self::Missing => "missing",
        }
    }

    /// Its letter in a list.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Unchanged => 'U',
            Self::New => 'N',
            Self::Changed => 'C',
            Self::Grown => 'G',
            Self::Renamed => 'R',
            Self::Touched => 'T',
            Self::Removed => 'D',
            Self::Filtered => 'F',
            Self::Missing => 'M',
        }
    }
}

/// An entry that differs.
#[derive(Debug, Clone, Copy)]
pub struct PlannedChange<'a> {
    /// How it differs.
    pub kind: ChangeKind,
    /// The kind of a node; `None` for a file.
    pub node: Option<NodeKind>,
    /// Its path; of a removed entry, the path that it had.
    pub path: &'a EntryPath,
    /// The path that a renamed file had.
    pub from: Option<&'a EntryPath>,
    /// Its size, or the growth of a grown file.
    pub bytes: u64,
    /// Bytes of it that have to be sent.
    pub send_bytes: u64,
}

impl<'a> PlannedChange<'a> {
    /// A file of a generation; `send_bytes` of it have to be sent.
    #[must_use]
    pub fn of_file(kind: ChangeKind, file: &'a FileEntry, send_bytes: u64) -> Self {
        Self { kind, node: None, path: &file.path, from: None, bytes: file.size, send_bytes }
    }

    /// A directory or link of a generation.
    #[must_use]
    pub fn of_node(kind: ChangeKind, node: &'a Node) -> Self {
        Self { kind, node: Some(node.kind), path: &node.path, from: None, bytes: 0, send_bytes: 0 }
    }
}

/// Where the entries go that a run brings to the receiver, or would bring.
#[derive(Clone)]
pub struct EntrySink(Arc<TakeEntry>);

type TakeEntry = dyn Fn(&PlannedChange<'_>) -> Result<()> + Send + Sync;

impl EntrySink {
    /// Gives each entry to `each`, from any thread.
    pub fn new(each: impl Fn(&PlannedChange<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(each))
    }

    /// Takes an entry.
    ///
    /// # Errors
    /// Whatever the function says that it was made of.
    pub fn take(&self, change: &PlannedChange<'_>) -> Result<()> {
        (self.0)(change)
    }
}

impl std::fmt::Debug for EntrySink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("EntrySink")
    }
}

/// The files of one kind of change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Their number.
    pub files: u64,
    /// The sum of their sizes, or of the growth of grown files.
    pub bytes: u64,
    /// Bytes of them that have to be sent.
    pub send_bytes: u64,
}

/// What the next run would find and send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The generation that everything is compared with; absent without an index.
    pub from: Option<u64>,
    /// The generation that is compared with it; absent if that is the source itself.
    pub to: Option<u64>,
    files: [Tally; ChangeKind::ALL.len()],
    nodes: [u64; ChangeKind::ALL.len()],
    /// Entries that were left out because their stat failed or they have no content to copy.
    pub skipped: Box<SkippedList>,
    /// Entries that the filter left out; a folder is one, with everything in it.
    pub excluded: u64,
    /// Files that exist now.
    pub total_files: u64,
    /// The sum of their sizes.
    pub total_bytes: u64,
    /// Bytes to send of what is not [missing](ChangeKind::Missing).
    pub send_bytes: u64,
    /// [`Plan::send_bytes`] is an upper bound: contents were not read.
    pub at_most: bool,
    /// Bytes of files that are assumed to be unmodified, and not in [`Plan::send_bytes`]. The next
    /// run reads them before it sends anything.
    pub assumed_bytes: u64,
    /// Blocks with any of the bytes to send.
    pub blocks: u64,
}

impl Plan {
    /// The files of this kind of change.
    #[must_use]
    pub fn files(&self, kind: ChangeKind) -> Tally {
        self.files[kind as usize]
    }

    /// The number of directories and links of this kind of change.
    #[must_use]
    pub fn nodes(&self, kind: ChangeKind) -> u64 {
        self.nodes[kind as usize]
    }

    /// Files, directories and links that exist now.
    #[must_use]
    pub fn total_entries(&self) -> u64 {
        let present = ChangeKind::ALL.iter().filter(|kind| !kind.is_absent());
        self.total_files + present.map(|&kind| self.nodes(kind)).sum::<u64>()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        ChangeKind::ALL[1..].iter().all(|&kind| self.files(kind).files + self.nodes(kind) == 0)
    }

    /// Counts a file.
    pub(super) fn add_file(&mut self, change: &PlannedChange<'_>) {
        let tally = &mut self.files[change.kind as usize];
        tally.files += 1;
        tally.bytes += change.bytes;
        tally.send_bytes += change.send_bytes;
        // What the receiver is missing of the newest generation is known without a plan.
        if change.kind != ChangeKind::Missing {
            self.send_bytes += change.send_bytes;
        }
    }

    /// Counts a directory or link.
    pub(super) fn add_node(&mut self, kind: ChangeKind) {
        self.nodes[kind as usize] += 1;
    }
}
