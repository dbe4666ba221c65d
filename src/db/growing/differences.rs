//! Where a batch differs from the rows that are there.

use std::collections::BTreeMap;
use std::ops::Range;

/// Where a batch says something else than the rows that are there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// From this file on, which starts at this byte of the archive, nothing that was received means
    /// anything any more.
    pub files_from: Option<(u64, u64)>,
    /// The same for these files alone: their digests are others.
    pub files: BTreeMap<u64, Range<u64>>,
    /// From this directory or link on.
    pub(super) nodes_from: Option<u64>,
}
