//! What to send, and how.

use super::deletion::DeletePolicy;
use crate::archive::codec::Compression;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::queue::lease::EngineAddress;
use crate::remote::Bandwidth;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

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

/// A queue that several hosts share.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The engine that keeps it.
    pub address: EngineAddress,
    /// The name of this process, which no other ever has.
    pub host: String,
    /// How long a host may be silent before others take over what it has.
    pub lease: Duration,
    /// The limit on what all hosts together send.
    pub limit: Option<TotalLimit>,
    /// Becomes true when this host is to send what is on its way, and then to leave.
    pub leaves: Arc<AtomicBool>,
}

/// A limit on what all hosts of a queue together send.
#[derive(Debug, Clone)]
pub struct TotalLimit {
    /// Their limit.
    pub bytes_per_second: u64,
    /// The limit of this host, which the client of the receiver has, too: it shares the other one.
    pub own: Arc<Bandwidth>,
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
    /// Bring the receiver the index, if it has another one.
    pub puts_index: bool,
    /// Only the blocks from this one on …
    pub first: u64,
    /// … to this one, inclusive; `None` means to the end.
    pub last: Option<u64>,
    /// Blocks that are read, compressed and sent at once.
    pub workers: usize,
    /// Compare what the receiver misses with what it has free before a byte is sent. A file system
    /// may hold more than it says.
    pub checks_space: bool,
    /// The receiver's folder, if it is one of this host: a run ends there when there is no room,
    /// and does not wait for space.
    pub folder: Option<PathBuf>,
    /// What the receiver reads: contents that are not what the index says are sent again.
    pub verify: ContentScope,
    /// Send what the receiver has already, too.
    pub ignore_done: bool,
    /// Only say what would be sent.
    pub dry_run: bool,
    /// The report has what the receiver had before.
    pub tells_before: bool,
    /// The report has what the receiver deleted, or could delete.
    pub lists_deleted: bool,
    /// The [precheck](crate::remote::ReceiverClient::precheck) that has just ended.
    pub precheck: Option<u64>,
    /// Have the receiver delete what previous generations put in place.
    pub delete: Option<DeletePolicy>,
    /// The folder below the receiver's base folder that gets what is replaced.
    pub backup: Option<String>,
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
    /// The queue from which this host and others take blocks; `None` sends all of them.
    pub queue: Option<QueueOptions>,
}

impl UploadOptions {
    /// Has the report tell what the naming of entries needs, and the figures of a dry run. `names`
    /// says whether entries are named.
    #[must_use]
    pub fn telling(self, names: bool) -> Self {
        let lists_deleted = self.delete.is_some() && (names || self.dry_run);
        Self { tells_before: names || self.dry_run, lists_deleted, ..self }
    }
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self {
            database: PathBuf::new(),
            progress: PathBuf::new(),
            tar_id: 0,
            block_size: DEFAULT_BLOCK_SIZE,
            puts_index: true,
            first: 0,
            last: None,
            workers: 5,
            checks_space: true,
            folder: None,
            verify: ContentScope::Nothing,
            ignore_done: false,
            dry_run: false,
            tells_before: false,
            lists_deleted: false,
            precheck: None,
            delete: None,
            backup: None,
            adopt: None,
            keep: None,
            compression: Compression::Auto,
            cores: 1,
            scratch: PathBuf::from("/tmp"),
            queue: None,
        }
    }
}
