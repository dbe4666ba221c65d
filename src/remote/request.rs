//! What requests carry.

use crate::archive::block_digest::BlockDigest;
use crate::archive::digest::IndexDigest;
use crate::archive::frame::Frame;
use crate::archive::log::LogDigest;

/// A block, ready to be sent.
pub struct BlockBody {
    /// Its number.
    pub number: u64,
    /// The block size, in bytes.
    pub block_size: u64,
    /// One LZ4 frame …
    pub body: Frame,
    /// … or, to a receiver that [takes](super::Client::takes_zstd) it, one Zstandard frame.
    pub zstd: bool,
    /// The bytes of the archive that are sent, if they are not all of the block.
    pub part: Option<std::ops::Range<u64>>,
    /// The digest of the content.
    pub digest: BlockDigest,
    /// Ids, ascending, of files whose bytes are zeros because they could not be read.
    pub failed: Vec<u64>,
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
    /// Rows of the whole index, if the batch has its end: that is answered when all of them were proven.
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
    /// It is not the index, but a change of this one into it.
    pub from: Option<IndexDigest>,
    /// The [adoption](super::Client::adopt) whose result counts as what the receiver had.
    pub adopt: Option<u64>,
    /// 1: what it replaces is retained; only where it is a change. 0: what was retained is let go of before anything is stored.
    pub keep: Option<u64>,
    /// The change takes the newest generation back.
    pub rewind: bool,
    /// A receiver without space for it is not waited for: there is another way to bring it this index.
    pub has_other_way: bool,
    /// How long the receiver may have to work on it beside what its length says, in seconds.
    pub work_s: u64,
}
