//! What requests carry.

use crate::archive::block_digest::BlockDigest;
use crate::archive::digest::IndexDigest;
use crate::archive::frame::Frame;
use crate::archive::log::LogDigest;
use crate::archive::protocol::{HEADER_BACKUP, HEADER_FROM, HEADER_KEEP, HEADER_REWIND};
use crate::archive::source::encode_header;
use crate::telemetry::InFlight;

/// A block, ready to be sent.
pub struct BlockBody {
    /// Its number.
    pub number: u64,
    /// The block size, in bytes.
    pub block_size: u64,
    /// One LZ4 frame; the content itself to a receiver [in this process](super::LocalReceiver) …
    pub body: Frame,
    /// … or, to a receiver that [takes](super::ReceiverClient::takes_zstd) it, one Zstandard frame.
    pub zstd: bool,
    /// The bytes of the archive that are sent, if they are not all of the block.
    pub part: Option<std::ops::Range<u64>>,
    /// The digest of the content; none is needed within this process.
    pub digest: Option<BlockDigest>,
    /// Ids, ascending, of files whose bytes are zeros because they could not be read.
    pub failed: Vec<u64>,
    /// Ids, ascending, of files whose bytes a receiver in this process has: they were read out of
    /// [its own copy](super::LocalReceiver::clone_file).
    pub staged: Vec<u64>,
    /// Its content that is not done yet: the client says what leaves, and the caller that it is
    /// confirmed.
    pub in_flight: InFlight,
}

/// A batch of a log, ready to be sent.
pub struct LogBatch {
    /// One LZ4 frame.
    pub body: Frame,
    /// Its length before compression, in bytes.
    pub length: u64,
    /// The stream that it belongs to.
    pub stream: LogDigest,
    /// The prefix of the log that it follows.
    pub before: LogDigest,
    /// Rows of the whole index, if the batch has its end: that is answered when all of them were
    /// verified.
    pub rows: Option<u64>,
}

/// An index, ready to be sent.
pub struct IndexBody {
    /// One LZ4 frame, in a file without a name.
    pub file: std::fs::File,
    /// Its length, in bytes.
    pub length: u64,
    /// The digest of the index.
    pub digest: IndexDigest,
    /// What the body is.
    pub form: IndexForm,
    /// The folder below the receiver's base folder that gets what is about to be replaced.
    pub backup: Option<String>,
    /// How long the receiver may have to work on it beside what its length says, in seconds.
    pub work_s: u64,
}

/// What brings a receiver to an index.
#[derive(Debug, Clone, Copy)]
pub enum IndexForm {
    /// The index itself.
    Whole {
        /// The [adoption](super::ReceiverClient::adopt) whose result counts as what the receiver
        /// had.
        adopt: Option<u64>,
        /// All that is retained is pruned before anything is stored.
        prune: bool,
    },
    /// A change of another index.
    Change {
        /// The index that the receiver has.
        from: IndexDigest,
        /// What the change does with what it replaces.
        kind: ChangeKind,
    },
}

/// What a change of an index does with the content that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is not retained. With `has_other_way` a receiver without space is not waited for: there
    /// is another way to bring it this index.
    Replace {
        /// Whether there is.
        has_other_way: bool,
    },
    /// It is retained, for rewind.
    Retain,
    /// It is not retained, and all that is retained is pruned before anything is stored.
    Prune,
    /// The change reverts the newest generation.
    Rewind,
}

impl IndexBody {
    /// The headers that say what the body is; `adopt` is the one that names an adoption.
    pub(super) fn headers(&self, adopt: &'static str) -> Vec<(&'static str, String)> {
        let mut headers: Vec<_> = match self.form {
            IndexForm::Whole { adopt: name, prune } => {
                let name = name.map(|name| (adopt, name.to_string()));
                name.into_iter().chain(prune.then(|| (HEADER_KEEP, "0".to_string()))).collect()
            }
            IndexForm::Change { from, kind } => {
                let option = match kind {
                    ChangeKind::Replace { .. } => None,
                    ChangeKind::Retain => Some((HEADER_KEEP, "1")),
                    ChangeKind::Prune => Some((HEADER_KEEP, "0")),
                    ChangeKind::Rewind => Some((HEADER_REWIND, "1")),
                };
                let option = option.map(|(name, value)| (name, value.to_string()));
                [(HEADER_FROM, from.to_string())].into_iter().chain(option).collect()
            }
        };
        headers.extend(self.backup.as_ref().map(|name| (HEADER_BACKUP, encode_header(name.as_bytes()))));
        headers
    }

    /// Whether a receiver without space is not waited for.
    #[must_use]
    pub fn has_other_way(&self) -> bool {
        let kind = ChangeKind::Replace { has_other_way: true };
        matches!(self.form, IndexForm::Change { kind: found, .. } if found == kind)
    }
}
