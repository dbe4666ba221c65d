//! Slices: how the files of an archive are dealt out to several receivers on one folder, by the
//! index alone.
//!
//! The first receiver keeps the journal of the whole archive, and does all that is not the content
//! of a file: empty files, directories, links, what is deleted, retained, adopted or compared. The
//! others take in and publish files that are theirs, and hand them over to the first one. So a file that has its name is known in one place, and how many receivers there
//! are may change from run to run.

use super::entry::FileEntry;
use std::fmt;
use std::str::FromStr;

/// One of several receivers on one folder, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice {
    number: u64,
    count: u64,
}

/// How the name of each slice's folder below `.tar-like` begins.
pub const FOLDER_PREFIX: &str = "slice-";

/// The most slices.
pub const MAX_SLICES: u64 = 1_000;

impl Slice {
    /// The slice `number` of `count`, if that is one.
    #[must_use]
    pub fn new(number: u64, count: u64) -> Option<Self> {
        let is_slice = (1..=MAX_SLICES).contains(&count) && (1..=count).contains(&number);
        is_slice.then_some(Self { number, count })
    }

    /// Its number, from 1 on.
    #[must_use]
    pub fn number(self) -> u64 {
        self.number
    }

    /// How many slices there are.
    #[must_use]
    pub fn count(self) -> u64 {
        self.count
    }

    /// Whether it is the first one, whose receiver has the journal of the whole archive.
    #[must_use]
    pub fn is_first(self) -> bool {
        self.number == 1
    }

    /// The slice `number` of as many.
    #[must_use]
    pub fn sibling(self, number: u64) -> Option<Self> {
        Self::new(number, self.count)
    }

    /// All slices of as many.
    pub fn all(self) -> impl Iterator<Item = Self> {
        (1..=self.count).map(move |number| Self { number, ..self })
    }

    /// The name of its folder below `.tar-like`.
    #[must_use]
    pub fn folder_name(self) -> String {
        format!("{FOLDER_PREFIX}{}-of-{}", self.number, self.count)
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is no slice: give I/N, from 1/N to N/N, with N up to {MAX_SLICES}");
        let (number, count) = text.split_once('/').ok_or_else(wrong)?;
        let number_of = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u64>().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        Self::new(number_of(number)?, number_of(count)?).ok_or_else(wrong)
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
        for (text, number, count) in [("1/1", 1, 1), ("2/3", 2, 3), ("1000/1000", 1000, 1000)] {
            let slice: Slice = text.parse().unwrap();
            assert_eq!((slice.number(), slice.count(), slice.to_string()), (number, count, text.to_string()));
            assert_eq!(slice.is_first(), number == 1);
        }
        for bad in ["", "1", "0/2", "3/2", "1/0", "1/1001", "+1/2", "1/2/3", " 1/2", "1/ 2", "a/b", "-1/2"] {
            assert!(bad.parse::<Slice>().is_err(), "{bad}");
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
