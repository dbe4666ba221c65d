//! What an index says of one file, directory or link.

use super::digest::{Blake3, Md5};
use super::path::{EntryPath, MAX_PATH_BYTES};
use std::ops::Range;

/// Owner, permissions and time of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, set-id and sticky bits included: `0..=0o7777`.
    pub mode: u32,
    /// Time of the last change of the content, in nanoseconds since 1970; negative before.
    pub mtime_ns: i64,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// Where the indexer saw a file; later runs see by it whether the file was modified. It is not part
/// of the index digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Time of the last change of the inode, in nanoseconds since 1970.
    pub ctime_ns: i64,
}

/// A regular file: one row of table `tar` and what we know beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Dense from 0 in a fresh index; never used twice in later generations.
    pub id: u64,
    /// Relative to the base folder.
    pub path: EntryPath,
    /// Length in bytes.
    pub size: u64,
    /// Where its content starts in the archive; for a fragmented file, where the archive ended when
    /// its row was made.
    pub offset: u64,
    /// Its content is not one range of the archive at [`FileEntry::offset`], but lies in extents
    /// that the index lists apart ([`super::extent`]).
    pub fragmented: bool,
    /// md5 of the content; absent where the user left it out. Without a BLAKE3 as well, the content
    /// cannot be verified.
    pub md5: Option<Md5>,
    /// BLAKE3 of the content; absent in an index that the original program wrote, and where the
    /// content is known by an object's ETag.
    pub blake3: Option<Blake3>,
    /// Absent in an index that the original program wrote.
    pub meta: Option<Meta>,
    /// Absent in an index that the original program wrote, or that came over the network.
    pub origin: Option<Origin>,
    /// Which state of an object in S3 this is; absent for everything else.
    pub object: Option<Box<ObjectId>>,
}

/// What tells one state of an object in S3 from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectId {
    /// The ETag, without quotes.
    pub etag: String,
    /// The version, where the bucket keeps versions.
    pub version: Option<String>,
    /// When a list said that it was written, in nanoseconds since 1970; absent where the next index
    /// has to ask the store again.
    pub modified_ns: Option<i64>,
}

impl FileEntry {
    /// The bytes of the archive that this file occupies alone: none for a fragmented one.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        if self.fragmented { self.offset..self.offset } else { self.offset..self.offset + self.size }
    }

    /// Whether both have the same content, by the digests that both have. Of an object in a bucket
    /// that may be its md5 alone.
    #[must_use]
    pub fn has_content_of(&self, other: &Self) -> bool {
        let md5 = self.md5.zip(other.md5).map(|(one, other)| one == other);
        let blake3 = self.blake3.zip(other.blake3).map(|(one, other)| one == other);
        let known = md5.is_some() || blake3.is_some() || self.size == 0;
        self.size == other.size && known && md5 != Some(false) && blake3 != Some(false)
    }

    /// Whether the index has something by which its content can be verified. There is one empty
    /// content only.
    #[must_use]
    pub fn is_verifiable(&self) -> bool {
        self.md5.is_some() || self.blake3.is_some() || self.size == 0
    }
}

/// What an entry without content of its own is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Dir,
    /// A symbolic link; its target is any text.
    Symlink,
    /// A further name of a file of the index; its target is that file's path.
    Hardlink,
}

impl NodeKind {
    /// Its letter in the index.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Dir => "d",
            Self::Symlink => "l",
            Self::Hardlink => "h",
        }
    }

    /// The kind with this letter.
    #[must_use]
    pub fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "d" => Some(Self::Dir),
            "l" => Some(Self::Symlink),
            "h" => Some(Self::Hardlink),
            _ => None,
        }
    }
}

/// A directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Relative to the base folder.
    pub path: EntryPath,
    /// Where a link points to; empty for a directory.
    pub target: Box<[u8]>,
    /// Owner, permissions and time.
    pub meta: Option<Meta>,
}

impl Node {
    /// Whether the target is one that the kind can have.
    #[must_use]
    pub fn has_good_target(&self) -> bool {
        match self.kind {
            NodeKind::Dir => self.target.is_empty(),
            NodeKind::Symlink => {
                !self.target.is_empty() && !self.target.contains(&0) && self.target.len() <= MAX_PATH_BYTES
            }
            NodeKind::Hardlink => EntryPath::new(self.target.clone()).is_ok(),
        }
    }
}
