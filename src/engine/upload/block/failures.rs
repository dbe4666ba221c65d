//! What failed, and what a report says of it.

use super::super::report::{FailedEntry, UploadReport};
use super::{BlockSender, CHANGED, MAX_NAMED};
use crate::archive::entry::FileEntry;
use crate::archive::protocol::FinishAnswer;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::Summary;
use crate::engine::tasks::blocking;
use crate::error::Result;
use crate::telemetry::Notice;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

impl BlockSender {
    pub(in super::super) fn fail(&self, file: &FileEntry, reason: String) {
        // What it shares with others may still come from them, but is not asked for again on its
        // account.
        let pieces = if file.fragmented { self.pieces_of(file) } else { Vec::new() };
        let path = file.path.to_string();
        {
            let mut state = self.state.lock();
            if file.size > 0 && !file.fragmented {
                if state.failed.contains(file.range()) {
                    return;
                }
                state.failed.insert(file.range());
            }
            pieces.iter().for_each(|piece| state.failed.insert(piece.clone()));
            if state.named.contains_key(&path) {
                return;
            }
            state.failed_total += 1;
            if state.named.len() < MAX_NAMED {
                state.named.insert(path.clone(), reason.clone());
            }
        }
        self.monitor.counters().files_failed.add(1);
        self.monitor.notice(Notice::Failed { path, reason });
    }

    pub(super) async fn fail_range(self: &Arc<Self>, range: Range<u64>, reason: String) -> Result<()> {
        let this = self.clone();
        blocking(move || {
            this.with_index(|index| {
                let mut files: Vec<FileEntry> = Vec::new();
                index.pieces_in(&range, |file, _| {
                    if files.last().is_none_or(|last| last.id != file.id) {
                        files.push(file.clone());
                    }
                    Ok(ControlFlow::Continue(()))
                })?;
                Ok(files)
            })?
            .iter()
            .for_each(|file| this.fail(file, reason.clone()));
            Ok(())
        })
        .await
    }

    /// Entries that are not sent at all: some of them by name, and how many there are.
    pub(in super::super) fn fail_entries(&self, named: Vec<(String, &str)>, total: u64) {
        let counters = self.monitor.counters();
        counters.files_failed.add(total);
        self.state.lock().failed_total += total;
        for (path, reason) in named {
            let reason = reason.to_string();
            self.state.lock().named.insert(path.clone(), reason.clone());
            self.monitor.notice(Notice::Failed { path, reason });
        }
    }

    fn pieces_of(&self, file: &FileEntry) -> Vec<Range<u64>> {
        let mut pieces = Vec::new();
        let read = self.with_index(|index| {
            index.pieces_of(file, |piece| {
                pieces.push(piece.range);
                Ok(ControlFlow::Continue(()))
            })
        });
        // The file counts as failed all the same.
        if let Err(e) = read {
            tracing::warn!("{e}");
        }
        pieces
    }

    /// The files that `missing` belongs to count as failed: the receiver does not take them.
    pub(in super::super) async fn give_up(self: &Arc<Self>, missing: &RangeSet) -> Result<()> {
        for range in missing.iter() {
            self.fail_range(range, CHANGED.to_string()).await?;
        }
        Ok(())
    }

    /// The receiver confirmed everything: nothing failed after all.
    pub(in super::super) fn forgive(&self) {
        let mut state = self.state.lock();
        state.named.clear();
        state.failed_total = 0;
    }

    /// Where the content of failed files lies in the archive.
    pub(in super::super) fn failed_ranges(&self) -> Vec<Range<u64>> {
        self.state.lock().failed.iter().collect()
    }

    /// What the receiver could not put in place.
    pub(in super::super) fn record_receiver_failures(&self, answer: &FinishAnswer) {
        let mut unnamed = answer.failed_total;
        for failed in &answer.failed {
            unnamed = unnamed.saturating_sub(1);
            {
                let mut state = self.state.lock();
                if state.named.contains_key(&failed.path) {
                    continue;
                }
                state.failed_total += 1;
                if state.named.len() < MAX_NAMED {
                    state.named.insert(failed.path.clone(), failed.reason.clone());
                }
            }
            self.monitor.counters().files_failed.add(1);
            self.monitor.notice(Notice::Failed { path: failed.path.clone(), reason: failed.reason.clone() });
        }
        self.state.lock().failed_total += unnamed;
    }

    pub(in super::super) fn report(
        &self,
        summary: &Summary,
        complete: bool,
        others_bytes: u64,
    ) -> UploadReport {
        let (state, counters) = (self.state.lock(), self.monitor.counters());
        UploadReport {
            files: summary.files,
            total_bytes: summary.total_bytes,
            content_bytes: summary.content_bytes,
            sent_blocks: counters.sent_blocks.get(),
            sent_bytes: counters.sent_bytes.get(),
            wire_bytes: counters.wire_bytes.get(),
            stored_blocks: counters.stored_blocks.get(),
            zstd_blocks: counters.zstd_blocks.get(),
            retries: counters.retries.get(),
            failed: state
                .named
                .iter()
                .map(|(path, reason)| FailedEntry { path: path.clone(), reason: reason.clone() })
                .collect(),
            failed_total: state.failed_total,
            complete,
            others_bytes,
            ..UploadReport::default()
        }
    }
}
