//! A list of the paths to copy.

use crate::archive::path::printable;
use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// The paths to copy. A folder stands for everything in it.
#[derive(Debug, Default)]
pub struct ListedPaths {
    /// Without `.` and empty components, ascending. The empty path is the base itself.
    paths: Vec<Box<[u8]>>,
    /// Which of them the source has.
    met: Vec<AtomicBool>,
}

impl ListedPaths {
    /// Takes `paths`, relative to the base; a slash at the start or the end does not count.
    ///
    /// # Errors
    /// One leads out of the base.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p [u8]>) -> Result<Self> {
        let clean = |path: &[u8]| {
            let names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
            let names: Vec<&[u8]> = names.collect();
            if names.contains(&&b".."[..]) {
                let what = format!("the listed path {} has a \"..\" in it", printable(path));
                return Err(Error::new(ErrorKind::Usage, what));
            }
            Ok(names.join(&b'/').into_boxed_slice())
        };
        let mut paths = paths.into_iter().map(clean).collect::<Result<Vec<_>>>()?;
        paths.sort_unstable();
        paths.dedup();
        let met = paths.iter().map(|_| AtomicBool::default()).collect();
        Ok(Self { paths, met })
    }

    /// Whether `path` is listed, lies in a listed folder, or is a folder that a listed path lies
    /// in. The source has it.
    pub(super) fn meet(&self, path: &[u8]) -> bool {
        let listed = self.paths.binary_search_by(|listed| (**listed).cmp(path));
        if let Ok(number) = listed {
            self.met[number].store(true, Ordering::Relaxed);
        }
        listed.is_ok() || self.has_folder_of(path) || !self.below(path).is_empty()
    }

    fn has_folder_of(&self, path: &[u8]) -> bool {
        let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        let has = |path: &[u8]| self.paths.binary_search_by(|listed| (**listed).cmp(path)).is_ok();
        has(b"") || ends.any(|end| has(&path[..end]))
    }

    /// The numbers of the listed paths that lie in the folder `path`.
    fn below(&self, path: &[u8]) -> std::ops::Range<usize> {
        let folder = [path, b"/"].concat();
        let start = self.paths.partition_point(|listed| **listed < *folder);
        start..start + self.paths[start..].partition_point(|listed| listed.starts_with(&folder))
    }

    /// It was not looked for paths in `path`.
    pub(super) fn meet_below(&self, path: &[u8]) {
        self.meet(path);
        self.met[self.below(path)].iter().for_each(|met| met.store(true, Ordering::Relaxed));
    }

    /// Nothing was met yet.
    pub(super) fn restart(&self) {
        self.met.iter().for_each(|met| met.store(false, Ordering::Relaxed));
    }

    /// The paths that were not met, but for the base itself.
    pub(super) fn missing(&self) -> Vec<Vec<u8>> {
        let all = self.paths.iter().zip(&self.met);
        let missing = all.filter(|(path, met)| !path.is_empty() && !met.load(Ordering::Relaxed));
        missing.map(|(path, _)| path.to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_its_paths_what_is_in_them_and_the_folders_above() {
        let listed = ListedPaths::new([&b"/a/b/"[..], b"./c//d", b"e", b"gone/x", b"out/y"]).unwrap();
        for (path, expected) in [
            (&b"a"[..], true),
            (b"a/b", true),
            (b"a/b/c/d", true),
            (b"a/bc", false),
            (b"a/c", false),
            (b"c", true),
            (b"c/d", true),
            (b"e", true),
            (b"e/f", true),
            (b"f", false),
        ] {
            assert_eq!(listed.meet(path), expected, "{}", printable(path));
        }
        listed.meet_below(b"out");
        assert_eq!(listed.missing(), [b"gone/x".to_vec()]);
        assert!(ListedPaths::new([&b"a/../../b"[..]]).is_err());
        let all = ListedPaths::new([&b"."[..]]).unwrap();
        assert!(all.meet(b"any/thing") && all.missing().is_empty());
    }
}
