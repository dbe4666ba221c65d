//! Parts of a source, for hosts that share it without knowing of each other: which files are of
//! which part follows from their paths alone.

use super::part::Part;
use std::fmt;
use std::str::FromStr;
use twox_hash::XxHash3_64;

/// One of several parts of a source, counted from 1. The files of a folder, without those of its
/// subfolders, are of one part: the XXH3 of the folder's path, 64 bits, modulo the number of parts.
/// Folders are of all parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard(Part<MAX_COUNT>);

/// The most parts.
const MAX_COUNT: u64 = 10_000;

/// Begins what follows the name of a source. A resolved path has no empty component, so no source
/// of another name is taken for a part.
const MARK: &str = "//shard-";

impl Shard {
    /// Whether the file or link at `path`, relative to the source, is of this part.
    #[must_use]
    pub fn has(self, path: &[u8]) -> bool {
        let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        XxHash3_64::oneshot(&path[..end]) % self.0.count() == self.0.number() - 1
    }

    /// The range of `blocks` that is this part, where the archive is cut, not the source.
    #[must_use]
    pub fn of_blocks(self, blocks: u64) -> std::ops::Range<u64> {
        let at = |number: u64| (u128::from(blocks) * u128::from(number) / u128::from(self.0.count())) as u64;
        at(self.0.number() - 1)..at(self.0.number())
    }

    /// The name of this part of the source `name`: it is a source of its own.
    #[must_use]
    pub fn name_of(self, name: Vec<u8>) -> Vec<u8> {
        [&name[..], format!("{MARK}{}-of-{}", self.0.number(), self.0.count()).as_bytes()].concat()
    }

    /// The source of which `name` is a part, or `name` itself.
    #[must_use]
    pub fn whole_of(name: &[u8]) -> &[u8] {
        let at = name.windows(MARK.len()).rposition(|part| part == MARK.as_bytes());
        at.map_or(name, |at| &name[..at])
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Part::parse(text).map(Self).ok_or_else(|| Part::<MAX_COUNT>::refusal(text, "part"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(count: u64) -> Vec<Shard> {
        (1..=count).map(|number| format!("{number}/{count}").parse().unwrap()).collect()
    }

    #[test]
    fn each_file_is_of_one_part_and_a_folder_is_not_divided() {
        for count in [1, 2, 3, 7] {
            let mut sizes = vec![0usize; count as usize];
            for folder in 0..1000 {
                let part = |name: &str| {
                    let path = format!("some/folder-{folder}/{name}");
                    let parts: Vec<usize> = all(count)
                        .iter()
                        .enumerate()
                        .filter(|(_, shard)| shard.has(path.as_bytes()))
                        .map(|(at, _)| at)
                        .collect();
                    assert_eq!(parts.len(), 1);
                    parts[0]
                };
                assert_eq!(part("a"), part("b"));
                sizes[part("a")] += 1;
            }
            let even = 1000 / count as usize;
            assert!(sizes.iter().all(|size| size.abs_diff(even) < even / 4 + 1), "{sizes:?}");
        }
        // Part of the formats: all versions have to agree.
        let parts =
            ["top", "a/x", "a/b/x"].map(|path| all(3).iter().position(|shard| shard.has(path.as_bytes())));
        assert_eq!(parts, [Some(1), Some(1), Some(2)]);
    }

    #[test]
    fn blocks_are_cut_without_gaps() {
        for (blocks, count) in [(0, 3), (1, 3), (10, 3), (3, 10), (u64::MAX / 2, 10_000)] {
            let mut end = 0;
            for shard in all(count) {
                let range = shard.of_blocks(blocks);
                assert_eq!(range.start, end);
                end = range.end;
            }
            assert_eq!(end, blocks);
        }
    }

    #[test]
    fn a_part_has_a_name_of_its_own() {
        let shard: Shard = "2/3".parse().unwrap();
        let name = shard.name_of(b"/srv/photos".to_vec());
        assert_eq!(name, b"/srv/photos//shard-2-of-3");
        assert_eq!(Shard::whole_of(&name), b"/srv/photos");
        assert_eq!(Shard::whole_of(b"/srv/photos"), b"/srv/photos");
        for wrong in ["", "0/3", "4/3", "1/10001", "01/3"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
