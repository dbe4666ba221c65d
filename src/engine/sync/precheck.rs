//! The receiver checks what it has published while the source is indexed.

use crate::db::index_read::IndexReader;
use crate::remote::ReceiverClient;
use rand::RngExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A precheck that was asked for. If nothing has changed in the source, `finish` need not check
/// again. Ends when it is dropped.
pub(super) struct Precheck {
    /// What `finish` calls it by.
    pub(super) name: u64,
    task: JoinHandle<()>,
}

impl Precheck {
    /// Asks the receiver to check the files of the index at `previous`.
    pub(super) fn begin(previous: PathBuf, client: Arc<dyn ReceiverClient>) -> Self {
        let name = rand::rng().random();
        let digest = move || {
            let previous = IndexReader::open(&previous).ok().filter(IndexReader::is_ours)?;
            previous.summary().ok().map(|summary| summary.digest)
        };
        let task = tokio::spawn(async move {
            let Ok(Some(digest)) = tokio::task::spawn_blocking(digest).await else { return };
            if let Err(e) = client.precheck(&digest, name).await {
                tracing::debug!("the receiver did not precheck what it has: {e}");
            }
        });
        Self { name, task }
    }
}

impl Drop for Precheck {
    fn drop(&mut self) {
        self.task.abort();
    }
}
