//! `sync --adopt`: a copy that somebody else made.

use super::output::{Outcome, Output, human_bytes, human_count};
use super::{interrupted, interruptible, stop_signal};
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::protocol::{AdoptAnswer, AdoptRequest, Similarity};
use crate::db::generation::History;
use crate::engine::receive::compare_folder;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Client;
use crate::telemetry::{Monitor, Notice};
use rand::RngExt;
use regex::bytes::Regex;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// The receiver reads what it has, while the source is indexed here. Ends when it is dropped.
pub(super) struct Adopting {
    name: u64,
    task: JoinHandle<Result<AdoptAnswer>>,
}

impl Drop for Adopting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Adopting {
    /// Begins, unless the receiver has this archive: then there is nothing to adopt. `kept` is the index of the former run, if there
    /// was one.
    pub(super) async fn begin(
        kept: &Path,
        request: AdoptRequest,
        client: Arc<Client>,
        output: &Arc<Output>,
    ) -> Result<Option<Self>> {
        output.notice(Notice::Phase("asking"));
        client.patience().start();
        let status = tokio::select! {
            status = client.status(DEFAULT_BLOCK_SIZE, 0) => status,
            () = stop_signal() => Err(interrupted()),
        };
        let status = match status {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Ok(None) => return Err(unknown()),
            status => status?,
        };
        let ours = |digest: &str| {
            let digest = digest.parse().ok()?;
            History::open(kept).ok()?.with_digest(&digest).map(drop)
        };
        if kept.exists() && status.is_some_and(|status| ours(&status.digest).is_some()) {
            output
                .notice(Notice::Info("the receiver has this archive already, so nothing is adopted".into()));
            return Ok(None);
        }
        let name = request.name;
        let task = tokio::spawn(async move { client.adopt(&request).await });
        Ok(Some(Self { name, task }))
    }

    /// Waits until the receiver knows what it has; gives the name of that.
    pub(super) async fn finish(mut self, output: &Arc<Output>) -> Result<u64> {
        output.notice(Notice::Phase("the receiver reads what it has"));
        let outcome = tokio::select! {
            outcome = &mut self.task => outcome,
            () = stop_signal() => return Err(interrupted()),
        };
        let outcome = outcome.map_err(|e| Error::new(ErrorKind::Internal, "a task crashed").because(e))?;
        let found = outcome.map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::MethodNotAllowed => unknown(),
            _ => e,
        })?;
        output.notice(Notice::Info(format!(
            "the receiver has read {} files, {}",
            human_count(found.files),
            human_bytes(found.bytes)
        )));
        Ok(self.name)
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::Usage, "the receiver does not know how to adopt a copy")
        .hint("use the same version of tar-like on all hosts, or leave out --adopt")
}

/// What is asked of the receiver: a source that is one file is compared with the file of its name, and what is left out here is left out
/// there.
pub(super) fn request(source: &Path, exclude: &[Regex]) -> Result<AdoptRequest> {
    let single = !source.is_dir() && !source.to_str().is_some_and(|text| text.contains("://"));
    let only = if single {
        let name = source.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            let what = format!("{} cannot be adopted: its name is no UTF-8", source.display());
            Error::new(ErrorKind::Usage, what).hint("leave out --adopt, or give its folder")
        })?;
        Some(name.to_owned())
    } else {
        None
    };
    let exclude = exclude.iter().map(|regex| regex.as_str().to_owned()).collect();
    Ok(AdoptRequest { name: rand::rng().random(), only, exclude })
}

/// How much of the index is in a folder of this host where nothing was ever received.
pub(super) async fn compare_here(
    folder: PathBuf,
    request: AdoptRequest,
    database: PathBuf,
    output: &Arc<Output>,
) -> Result<Similarity> {
    output.notice(Notice::Phase("comparing"));
    let monitor = output.clone();
    interruptible(output, move || {
        let scratch = tempfile::tempdir().map_err(|e| Error::io("cannot make a temporary folder", e))?;
        compare_folder(&folder, &request, &database, scratch.path(), &*monitor)
    })
    .await
}

/// Says it.
pub(super) fn add(mut outcome: Outcome, similarity: Similarity) -> Outcome {
    let Similarity { files, same_files, known_files, similar_files, total_bytes, same_bytes } = similarity;
    // Rounded down: 100 is all of it.
    let percent = match total_bytes {
        0 => 100.0,
        total => (same_bytes as f64 / total as f64 * 1000.0).floor() / 10.0,
    };
    if let Some(fields) = outcome.fields.as_object_mut() {
        let similarity = json!({
            "percent": percent, "files": files, "same_files": same_files, "known_files": known_files,
            "similar_files": similar_files, "total_bytes": total_bytes, "same_bytes": same_bytes,
        });
        fields.insert("similarity".to_string(), similarity);
    }
    outcome.text = format!(
        "{percent}% of {} is there already: {} of {} files as they are, {} elsewhere, {} in part; {} would be sent",
        human_bytes(total_bytes),
        human_count(same_files),
        human_count(files),
        human_count(known_files),
        human_count(similar_files),
        human_bytes(total_bytes.saturating_sub(same_bytes)),
    );
    outcome
}
