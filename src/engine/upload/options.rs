//! What to send, and how.

use super::deletion::DeletePolicy;
use crate::archive::codec::Compression;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use std::path::PathBuf;

/// Which files the receiver reads before it says what it misses. It goes by size and time
/// otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ContentScope {
    /// None.
    #[default]
    Nothing,
    /// All that it has published.
    All,
    /// Those of these paths, as printable text.
    Paths(Vec<String>),
}

/// What to do before a byte is sent for which the receiver seems to have no room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SpacePolicy {
    /// Say so, and go on: space may be freed meanwhile.
    #[default]
    Warn,
    /// Say so, and stop: it is this folder of this host, where no sender waits for space.
    Refuse(PathBuf),
    /// Nothing: the file system may hold more than it says.
    Ignore,
}

/// What to send, and how.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    /// The index.
    pub database: PathBuf,
    /// The progress database.
    pub progress: PathBuf,
    /// Which archive.
    pub tar_id: u64,
    /// In bytes.
    pub block_size: u64,
    /// Only the blocks from this one on …
    pub first: u64,
    /// … to this one, inclusive; `None` means to the end.
    pub last: Option<u64>,
    /// Blocks that are read, compressed and sent at once.
    pub workers: usize,
    /// What to do where the receiver has no room for what it misses.
    pub space: SpacePolicy,
    /// What the receiver reads: contents that are not what the index says are sent again.
    pub verify: ContentScope,
    /// Send what the receiver has already, too.
    pub ignore_done: bool,
    /// Only say what would be sent.
    pub dry_run: bool,
    /// The report has what the receiver had before.
    pub tells_before: bool,
    /// The [precheck](crate::remote::ReceiverClient::precheck) that has just ended.
    pub precheck: Option<u64>,
    /// Have the receiver delete what previous generations put in place.
    pub delete: Option<DeletePolicy>,
    /// The [adoption](crate::remote::ReceiverClient::adopt) that the receiver goes by when it gets
    /// the index as a whole.
    pub adopt: Option<u64>,
    /// Have the receiver retain what so many generations replace; `None` leaves what it retains as
    /// it is.
    pub keep: Option<u64>,
    /// How blocks become frames.
    pub compression: Compression,
    /// Cores that this program may use.
    pub cores: usize,
    /// A folder for temporary files.
    pub scratch: PathBuf,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self {
            database: PathBuf::new(),
            progress: PathBuf::new(),
            tar_id: 0,
            block_size: DEFAULT_BLOCK_SIZE,
            first: 0,
            last: None,
            workers: 5,
            space: SpacePolicy::Warn,
            verify: ContentScope::Nothing,
            ignore_done: false,
            dry_run: false,
            tells_before: false,
            precheck: None,
            delete: None,
            adopt: None,
            keep: None,
            compression: Compression::Auto,
            cores: 1,
            scratch: PathBuf::from("/tmp"),
        }
    }
}
