//! Slices: how the files of an archive are dealt out to several receivers on one folder, by the
//! index alone.
//!
//! The first receiver keeps the journal of the whole archive, and does all that is not the content
//! of a file: empty files, directories, links, what is deleted, retained, adopted or compared. The
//! others take in and publish files that are theirs, and hand them over to the first one. So a file
//! that has its name is known in one place, and how many receivers there are may change from run to
//! run.

use super::entry::FileEntry;
use super::part::Part;
use std::fmt;
use std::str::FromStr;

/// One of several receivers on one folder, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice(Part<MAX_SLICES>);

/// How the name of each slice's folder below `.tar-like` begins.
pub const FOLDER_PREFIX: &str = "slice-";

/// The most slices.
pub const MAX_SLICES: u64 = 1_000;

impl Slice {
    /// The slice `number` of `count`, if that is one.
    #[must_use]
    pub fn new(number: u64, count: u64) -> Option<Self> {
        Part::new(number, count).map(Self)
    }

    /// Its number, from 1 on.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0.number()
    }

    /// How many slices there are.
    #[must_use]
    pub fn count(self) -> u64 {
        self.0.count()
    }

    /// Whether it is the first one, whose receiver has the journal of the whole archive.
    #[must_use]
    pub fn is_first(self) -> bool {
        self.number() == 1
    }

    /// The slice `number` of as many.
    #[must_use]
    pub fn sibling(self, number: u64) -> Option<Self> {
        Self::new(number, self.count())
    }

    /// All slices of as many.
    pub fn all(self) -> impl Iterator<Item = Self> {
        (1..=self.count()).filter_map(move |number| self.sibling(number))
    }

    /// The name of its folder below `.tar-like`.
    #[must_use]
    pub fn folder_name(self) -> String {
        format!("{FOLDER_PREFIX}{}-of-{}", self.number(), self.count())
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Part::parse(text).map(Self).ok_or_else(|| Part::<MAX_SLICES>::refusal(text, "slice"))
    }
}

/// Which files of an archive are of which slice: the archive is cut into stripes, which are dealt
/// out in turn, and a file is of the slice that has its first byte. Files that have no byte, or
/// whose content lies in extents, are of the first one: what they share is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripes {
    /// How many slices there are.
    pub slices: u64,
    /// The length of a stripe, in bytes.
    pub stripe_bytes: u64,
}

impl Stripes {
    /// The number of the slice that `file` is of.
    #[must_use]
    pub fn owner(&self, file: &FileEntry) -> u64 {
        match file.fragmented || file.size == 0 {
            true => 1,
            false => file.offset / self.stripe_bytes.max(1) % self.slices.max(1) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::EntryPath;
    use super::*;

    #[test]
    fn slices_are_written_as_parts_of_a_whole() {
        for (text, is_first) in [("1/1", true), ("1/3", true), ("2/3", false), ("1000/1000", false)] {
            let slice: Slice = text.parse().unwrap();
            assert_eq!((slice.is_first(), slice.to_string()), (is_first, text.to_string()));
        }
        for bad in ["", "0/2", "1/1001", "02/2", "1/02"] {
            assert_eq!(
                bad.parse::<Slice>().unwrap_err().split(':').next(),
                Some(&*format!("\"{bad}\" is no slice"))
            );
        }
        let slice: Slice = "2/3".parse().unwrap();
        let all: Vec<String> = slice.all().map(|slice| slice.to_string()).collect();
        assert_eq!(all, ["1/3", "2/3", "3/3"]);
        assert_eq!((slice.sibling(1), slice.sibling(4)), (Slice::new(1, 3), None));
        assert_eq!(slice.folder_name(), "slice-2-of-3");
    }

    /// Senders and receivers of all versions compute the same.
    #[test]
    fn a_file_is_of_the_slice_that_has_its_first_byte() {
        let stripes = Stripes { slices: 3, stripe_bytes: 100 };
        for (offset, size, fragmented, owner) in [
            (0, 1, false, 1),
            (99, 500, false, 1),
            (100, 1, false, 2),
            (299, 1, false, 3),
            (300, 1, false, 1),
            (400, u64::MAX / 4, false, 2),
            (100, 0, false, 1),
            (100, 50, true, 1),
        ] {
            let (id, path) = (0, EntryPath::new(b"a".to_vec()).unwrap());
            let (md5, blake3, meta, origin, object) = (None, None, None, None, None);
            let file = FileEntry { id, path, size, offset, fragmented, md5, blake3, meta, origin, object };
            assert_eq!(stripes.owner(&file), owner, "{offset} {size}");
        }
    }
}
