//! An entry of a source that is left out of an index.

use crate::archive::path::printable;
use crate::archive::skipped::SkipKind;
use crate::telemetry::{Monitor, Notice};

/// An entry that is left out, and why.
pub struct SkippedEntry {
    /// Its path, relative to the base folder; empty if the system did not name it.
    pub path: Vec<u8>,
    /// Whether the source may have more of it than was seen.
    pub kind: SkipKind,
    /// Why, for people.
    pub reason: String,
    /// Whether content is missing in the copy because of it.
    pub has_content: bool,
}

impl SkippedEntry {
    /// An entry that could not be read.
    pub fn unreadable(path: &[u8], reason: impl Into<String>) -> Self {
        Self { path: path.to_vec(), kind: SkipKind::Unreadable, reason: reason.into(), has_content: true }
    }

    /// An entry that no index can hold, whatever it contains.
    pub fn unsupported(path: &[u8], reason: impl Into<String>) -> Self {
        Self { path: path.to_vec(), kind: SkipKind::Unsupported, reason: reason.into(), has_content: true }
    }

    /// A FIFO, a socket or a device, as `kind` calls it.
    pub fn without_content(path: &[u8], kind: &str) -> Self {
        let reason = format!("it is {kind}, which has no content to copy");
        Self { has_content: false, ..Self::unsupported(path, reason) }
    }

    /// An entry that a filter left out by `limit`.
    pub fn filtered(path: &[u8], limit: &str) -> Self {
        let reason = format!("{limit} leaves it out");
        Self { path: path.to_vec(), kind: SkipKind::Filtered, reason, has_content: true }
    }

    /// Reports it to `monitor`, and counts it as failed. What was left out on purpose is neither.
    pub fn report(&self, monitor: &dyn Monitor) {
        if self.kind == SkipKind::Filtered {
            return;
        }
        let (path, reason) = (printable(&self.path), self.reason.clone());
        monitor.counters().files_failed.add(1);
        monitor.notice(match self.has_content {
            true => Notice::Failed { path, reason },
            false => Notice::Skipped { path, reason },
        });
    }
}
