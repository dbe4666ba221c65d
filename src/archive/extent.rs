//! Extents: where in the archive the pieces of a file are (FORMAT.md 3.1).

use super::entry::FileEntry;
use std::ops::Range;

/// The longest extent, in bytes. So a look-up by a range of the archive need not go back further
/// than this; whatever is longer is several extents.
pub const MAX_EXTENT_BYTES: u64 = 64 << 20;

/// One piece of a fragmented file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, from 1 to [`MAX_EXTENT_BYTES`].
    pub length: u64,
    /// Where it starts in the archive.
    pub offset: u64,
}

/// One piece of any file: where it is in the file, and in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts in the file.
    pub file_offset: u64,
    /// The bytes of the archive that it is.
    pub range: Range<u64>,
}

impl Piece {
    /// All of a contiguous file.
    #[must_use]
    pub fn whole(file: &FileEntry) -> Self {
        Self { file_offset: 0, range: file.range() }
    }

    /// What of it lies in `window` of the archive; `None` if nothing does.
    #[must_use]
    pub fn within(&self, window: &Range<u64>) -> Option<Self> {
        let start = self.range.start.max(window.start);
        let end = self.range.end.min(window.end);
        (start < end)
            .then(|| Self { file_offset: self.file_offset + (start - self.range.start), range: start..end })
    }

    /// Where an archive offset that lies in it is in the file.
    #[must_use]
    pub fn file_offset_of(&self, offset: u64) -> u64 {
        self.file_offset + (offset - self.range.start)
    }
}

/// The extents of a file as they are put together, piece by piece: neighbours become one, long ones
/// several.
#[derive(Debug, Default, Clone)]
pub struct Extents {
    list: Vec<Extent>,
    size: u64,
}

impl Extents {
    /// Adds the archive range that starts at `offset` as the file's next `length` bytes.
    pub fn push(&mut self, mut offset: u64, mut length: u64) {
        self.size += length;
        if let Some(last) = self.list.last_mut()
            && last.offset + last.length == offset
        {
            let more = length.min(MAX_EXTENT_BYTES - last.length);
            last.length += more;
            offset += more;
            length -= more;
        }
        while length > 0 {
            let part = length.min(MAX_EXTENT_BYTES);
            self.list.push(Extent { length: part, offset });
            offset += part;
            length -= part;
        }
    }

    /// Length of the file so far, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The extents, in the order of the file.
    #[must_use]
    pub fn list(&self) -> &[Extent] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_become_one_and_long_ones_several() {
        let mut extents = Extents::default();
        extents.push(10, 5);
        extents.push(15, 5);
        extents.push(0, MAX_EXTENT_BYTES + 1);
        let at = |offset, length| Extent { length, offset };
        assert_eq!(extents.list(), [at(10, 10), at(0, MAX_EXTENT_BYTES), at(MAX_EXTENT_BYTES, 1)]);
        assert_eq!(extents.size(), 11 + MAX_EXTENT_BYTES);
    }

    proptest! {
        #[test]
        fn pushed_ranges_stay_what_they_are(ranges in proptest::collection::vec((0u64..100, 1u64..50), 0..30)) {
            let mut extents = Extents::default();
            let mut expected = Vec::new();
            for (offset, length) in ranges {
                extents.push(offset, length);
                expected.extend(offset..offset + length);
            }
            let found: Vec<u64> = extents.list().iter().flat_map(|e| e.offset..e.offset + e.length).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
