//! Sending to a receiver that knows only the original's protocol (FORMAT.md 5.1), which can neither
//! be asked nor told.

use super::super::tasks::blocking;
use super::block::{BlockSender, MAX_NAMED};
use super::job::Upload;
use super::report::UploadReport;
use crate::archive::entry::NodeKind;
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::archive::shown::counted;
use crate::db::index_read::IndexReader;
use crate::db::progress::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Notice;
use std::ops::ControlFlow;
use std::sync::Arc;

impl Upload {
    /// Our own record of what it accepted is all there is.
    pub(super) async fn run_legacy(&self) -> Result<UploadReport> {
        let database = self.options.database.clone();
        let (is_fragmented, without_md5) = blocking(move || {
            let index = IndexReader::open(&database)?;
            Ok((index.is_fragmented(), index.without_md5()?))
        })
        .await?;
        let refuse = |why: String, hint| {
            let index = self.options.database.display();
            let what = format!("the receiver knows only the original protocol, and {index} {why}");
            Err(Error::new(ErrorKind::Source, what).with_hint(hint))
        };
        if is_fragmented {
            let why = "is a later generation, which that cannot read".to_string();
            return refuse(why, "compact the archive with: tar-like compact");
        }
        if without_md5 > 0 {
            let files = counted(without_md5, "file");
            let why = format!("has no md5 of {files}, by which the original program compares them");
            return refuse(why, "make a new index with: tar-like index -c --digest md5,blake3");
        }
        self.monitor.notice(Notice::Warning(
            "the receiver knows only the original protocol: it cannot say what it has, nor verify what it got; \
             run check on its side afterwards"
                .to_string(),
        ));
        let progress = self.open_progress(self.options.ignore_done).await;
        let accepted = progress.as_ref().map(Progress::blocks).transpose().unwrap_or_else(|e| {
            self.monitor.notice(Notice::Warning(format!("{e}; everything is sent")));
            None
        });
        let mut done = RangeSet::default();
        for block in accepted.unwrap_or_default() {
            if let Some(range) = self.block_layout.range(block) {
                done.insert(range);
            }
        }
        let missing: RangeSet = done.missing(0..self.summary.total_bytes).collect();
        let sender = Arc::new(BlockSender::new(self, progress));
        sender.record_present(self, &missing);
        let todo = self.blocks_of(Some(&missing));
        self.monitor.notice(Notice::Phase("sending"));
        sender.send_all(&self.queue(&todo, 1)?, self.options.workers).await?;
        let undeleted = self.delete.is_some();
        if undeleted {
            self.monitor.notice(Notice::Warning(
                "the receiver knows only the original protocol, which has no word for deleting: nothing is deleted there"
                    .to_string(),
            ));
        }
        let (named, total) = self.never_sent().await?;
        sender.fail_entries(named, total);
        let mut report = sender.report(&self.summary, false, 0);
        report.complete = report.failed_total == 0 && !undeleted;
        report.legacy = true;
        Ok(report)
    }

    /// What the index has and the original protocol does not carry: some of it by name, and how
    /// much there is.
    async fn never_sent(&self) -> Result<(Vec<(String, &'static str)>, u64)> {
        // It is no part of a range of blocks: the host that sends the last one says it.
        if self.window.end < self.summary.total_bytes {
            return Ok((Vec::new(), 0));
        }
        let (database, block_size) = (self.options.database.clone(), self.options.block_size);
        blocking(move || {
            let index = IndexReader::open(&database)?;
            let (mut named, mut total) = (Vec::new(), 0);
            let mut add = |path: &EntryPath, reason| {
                total += 1;
                if named.len() < MAX_NAMED {
                    named.push((path.to_string(), reason));
                }
            };
            index.empty_files(|file| {
                if file.offset.is_multiple_of(block_size) {
                    add(&file.path, "an empty file between two blocks is not made there");
                }
                Ok(ControlFlow::Continue(()))
            })?;
            index.nodes(|node| {
                let reason = match node.kind {
                    NodeKind::Symlink => "a symbolic link is not made there",
                    NodeKind::Hardlink => "a further name of a file is not made there",
                    NodeKind::Dir if !index.has_files_below(&node.path)? => {
                        "an empty folder is not made there"
                    }
                    NodeKind::Dir => return Ok(ControlFlow::Continue(())),
                };
                add(&node.path, reason);
                Ok(ControlFlow::Continue(()))
            })?;
            Ok((named, total))
        })
        .await
    }
}
