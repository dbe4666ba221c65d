//! The options of `save`, and its report.

use crate::archive::digest::Blake3;
use std::path::PathBuf;

/// Where to write, and how.
pub struct SaveOptions {
    /// The destination of the copy, which is there.
    pub destination: PathBuf,
    /// A new file for what is overwritten.
    pub backup: Option<PathBuf>,
    /// Zeros become holes.
    pub sparse: bool,
    /// Count, and write nothing.
    pub dry_run: bool,
    /// Read the whole destination at the end, and compare it with what the source was.
    pub verify: bool,
    /// Threads for decompressing and comparing.
    pub threads: usize,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveReport {
    /// Bytes that were equal already; known only if all three processes are ours.
    pub equal_bytes: u64,
    /// Bytes of blocks that were written, zeros included.
    pub written_bytes: u64,
    /// Bytes of them that came as runs of zeros.
    pub zero_bytes: u64,
    /// Bytes by which the file became shorter.
    pub cut_bytes: u64,
    /// Bytes that came from `retrieve`.
    pub wire_bytes: u64,
    /// Bytes of the backup file.
    pub backup_bytes: u64,
    /// Whether the stream was ours.
    pub is_native: bool,
    /// The digest of the whole, if the destination was read again.
    pub verified: Option<Blake3>,
}
