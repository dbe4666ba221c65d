//! A cache of folders for long walks through an index.

use crate::sink::disk::FolderCache;

/// After so many entries the cache is renewed: a folder that was moved away meanwhile is not held
/// open for long.
const MAX_ENTRIES: u64 = 1024;

/// The cache.
#[derive(Default)]
pub(super) struct WalkCache {
    cache: FolderCache,
    seen: u64,
}

impl WalkCache {
    /// The cache for the next entry.
    pub(super) fn next(&mut self) -> &mut FolderCache {
        self.seen += 1;
        if self.seen.is_multiple_of(MAX_ENTRIES) {
            self.cache = FolderCache::default();
        }
        &mut self.cache
    }
}
