//! Bringing a receiver the whole index.

use super::super::index_body;
use super::super::tasks::{blocking, until_cancelled};
use super::job::Upload;
use super::options::UploadOptions;
use crate::archive::protocol::Similarity;
use crate::db::generation::without_private;
use crate::db::index_read::{IndexReader, Summary};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{IndexBody, IndexForm, ReceiverClient};
use crate::telemetry::{Monitor, Notice};
use std::sync::atomic::Ordering;

/// Copying that a receiver does in a second, in bytes, on a slow machine.
pub(super) const COPIED_BYTES_PER_S: u64 = 20 << 20;
/// Rows of an index that it goes through in a second.
pub(super) const ROWS_PER_S: u64 = 10_000;

/// What to do with an index that no receiver takes.
pub(super) const EDITED_INDEX: &str =
    "the index was edited or damaged after it was made; make a new one with: tar-like index -c";

impl Upload {
    /// Puts the index. False says that the receiver's answer is that of the original program.
    pub(super) async fn put_index(&self) -> Result<bool> {
        self.monitor.notice(Notice::Phase("sending the index"));
        let (options, summary) = (self.options.clone(), self.summary.clone());
        let made = blocking(move || index_body(&options, &summary, options.adopt));
        // All slices but the first get the same.
        let (own, body);
        let body = match self.whole {
            Some(_) => self.shared.index.get_or_try_init(|| made).await?,
            None => {
                own = made.await?;
                body = &own;
                body
            }
        };
        let answer = match self.client.put_index(body).await {
            // It may have been damaged on the way.
            Err(e) if matches!(e.kind(), ErrorKind::BadBlock | ErrorKind::BadIndex) => {
                self.monitor
                    .notice(Notice::Warning(format!("the index was refused and is sent again ({e})")));
                self.client.put_index(body).await.map_err(|e| match e.kind() {
                    ErrorKind::BadBlock | ErrorKind::BadIndex if e.hint().is_none() => {
                        e.with_hint(EDITED_INDEX)
                    }
                    _ => e,
                })?
            }
            other => other?,
        };
        self.has_index.store(true, Ordering::Relaxed);
        match answer.digest {
            None => Ok(false),
            Some(digest) if digest == self.summary.digest.to_string() => Ok(true),
            Some(digest) => Err(Error::new(
                ErrorKind::BadIndex,
                format!("the receiver read index {digest}, this is {}", self.summary.digest),
            )
            .with_hint(EDITED_INDEX)),
        }
    }
}

/// The whole index; `adopt` names what the receiver is to compare it with.
fn index_body(options: &UploadOptions, summary: &Summary, adopt: Option<u64>) -> Result<IndexBody> {
    let (database, scratch) = (&options.database, &options.scratch);
    let stripped = without_private(database, scratch, adopt.is_some())?;
    let (file, length) = index_body::pack(stripped.as_deref().unwrap_or(database), scratch)?;
    let work_s = adopt.map_or(0, |_| summary.files / ROWS_PER_S + summary.total_bytes / COPIED_BYTES_PER_S);
    Ok(IndexBody {
        file,
        length,
        digest: summary.digest,
        // A whole index ends what is retained: only that it has to go first needs to be said.
        form: IndexForm::Whole { adopt, prune: options.keep == Some(0) },
        backup: options.backup.clone(),
        work_s,
    })
}

/// How much of the index the receiver has, as the adoption says that `options` name.
///
/// # Errors
/// The index cannot be read, the receiver refuses, or the run is cancelled.
pub async fn compare(
    client: &dyn ReceiverClient,
    options: &UploadOptions,
    monitor: &dyn Monitor,
) -> Result<Similarity> {
    let theirs = options.clone();
    let body = blocking(move || {
        let summary = IndexReader::open(&theirs.database)?.summary()?;
        index_body(&theirs, &summary, theirs.adopt)
    })
    .await?;
    client.budget().restart();
    until_cancelled(monitor, client.compare(&body)).await
}
