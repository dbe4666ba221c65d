//! Adopting a copy that another program made: the receiver reads it while the source is indexed
//! here.

use super::super::tasks::until_cancelled;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::protocol::{AdoptAnswer, AdoptRequest, Status};
use crate::db::generation::History;
use crate::engine::index::IndexOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::telemetry::{Monitor, Notice};
use rand::RngExt;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What the receiver is asked to adopt. A source that is one file is compared with the file of its
/// name; what is excluded here is excluded there.
///
/// # Errors
/// The source is one file whose name is not UTF-8.
pub(super) fn request(index: &IndexOptions) -> Result<AdoptRequest> {
    let only = if index.bucket.is_none() && !index.base.is_dir() {
        let name = index.base.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            let what = format!("{} cannot be adopted: its name is not UTF-8", index.base.display());
            Error::new(ErrorKind::Usage, what).with_hint("leave out --adopt, or give the folder of the file")
        })?;
        Some(name.to_owned())
    } else {
        None
    };
    Ok(AdoptRequest {
        name: rand::rng().random(),
        only,
        exclude: Vec::new(),
        rules: index.filter.rule_texts(),
        blake3: index.bucket.is_none(),
    })
}

/// An adoption under way. Ends when it is dropped.
pub(super) struct Adoption {
    name: u64,
    task: JoinHandle<Result<AdoptAnswer>>,
}

impl Drop for Adoption {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Adoption {
    /// Begins, unless the receiver has content of this archive: `None` then. `previous` is where
    /// the index of the previous run is, if there was one.
    pub(super) async fn begin(
        previous: &Path,
        request: AdoptRequest,
        client: Arc<dyn ReceiverClient>,
        monitor: &dyn Monitor,
    ) -> Result<Option<Self>> {
        monitor.notice(Notice::Phase("asking"));
        client.budget().restart();
        let status = match until_cancelled(monitor, client.status(DEFAULT_BLOCK_SIZE, 0)).await {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Ok(None) => return Err(unknown()),
            status => status?,
        };
        if let Some(status) = status.filter(|status| has_content_of(status, previous)) {
            monitor.notice(match status.complete {
                true => Notice::Info(
                    "the receiver has this archive already, so nothing is adopted: it reads what it has".into(),
                ),
                false => Notice::Warning(format!(
                    "the receiver has {} of {} bytes of this archive: it goes on with these, and adopts nothing",
                    status.done_bytes, status.total_bytes
                )),
            });
            return Ok(None);
        }
        let name = request.name;
        let task = tokio::spawn(async move { client.adopt(&request).await });
        Ok(Some(Self { name, task }))
    }

    /// Waits until the receiver has read its copy; gives the name of the adoption.
    pub(super) async fn finish(mut self, monitor: &dyn Monitor) -> Result<u64> {
        monitor.notice(Notice::Phase("the receiver reads what it has"));
        let outcome = until_cancelled(monitor, async {
            (&mut self.task)
                .await
                .map_err(|e| Error::new(ErrorKind::Internal, "a task crashed").with_source(e))?
        })
        .await;
        let found = outcome.map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::MethodNotAllowed => unknown(),
            _ => e,
        })?;
        monitor.notice(Notice::Info(format!(
            "the receiver has read {} files, {} bytes",
            found.files, found.bytes
        )));
        Ok(self.name)
    }
}

/// Whether the receiver has content of an index that the history at `previous` knows. An index of
/// which no byte has arrived is no copy to go on with.
fn has_content_of(status: &Status, previous: &Path) -> bool {
    let is_known = || {
        let digest = status.digest.parse().ok()?;
        History::open(previous).ok()?.with_digest(&digest).map(drop)
    };
    (status.done_bytes > 0 || status.complete) && previous.exists() && is_known().is_some()
}

fn unknown() -> Error {
    Error::new(ErrorKind::Usage, "the receiver cannot adopt a copy")
        .with_hint("use the same version of tar-like on all hosts, or leave out --adopt")
}
