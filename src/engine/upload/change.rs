//! Bringing a receiver from a previous generation of the index to ours.

use super::super::index_body;
use super::super::tasks::blocking;
use super::job::Upload;
use super::whole::{COPIED_BYTES_PER_S, ROWS_PER_S};
use crate::db::generation::{History, Step};
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{ChangeKind, IndexBody, IndexForm};
use crate::telemetry::Notice;
use std::path::Path;

impl Upload {
    /// The generation that `digest` names and the way from it to ours, if our history knows it.
    pub(super) async fn steps_from(&self, digest: &str) -> Result<Option<(u64, Vec<Step>)>> {
        let Ok(digest) = digest.parse() else { return Ok(None) };
        let (database, to) = (self.options.database.clone(), self.summary.generation);
        blocking(move || {
            if !IndexReader::open(&database)?.is_ours() {
                return Ok(None);
            }
            let history = History::open(&database)?;
            let from = history.with_digest(&digest).map(|generation| generation.number);
            let way = from.and_then(|from| Some((from, history.way(from, to)?)));
            Ok(way.filter(|(_, steps)| !steps.is_empty()))
        })
        .await
    }

    /// Brings the receiver from a previous generation to ours; where that does not work, puts the
    /// whole index.
    pub(super) async fn put_changes(&self, steps: &[Step]) -> Result<()> {
        self.monitor.notice(Notice::Phase("sending the change of the index"));
        for (number, step) in steps.iter().enumerate() {
            let kind = match self.options.keep {
                // The newest generation alone may need less of the disk than one on the way to it.
                None => ChangeKind::Replace { has_other_way: number + 1 < steps.len() },
                Some(0) => ChangeKind::Prune,
                Some(_) => ChangeKind::Retain,
            };
            let (database, scratch, step) =
                (self.options.database.clone(), self.options.scratch.clone(), *step);
            let body = blocking(move || change_body(&database, &scratch, &step, kind)).await?;
            let body = IndexBody { backup: self.options.backup.clone(), ..body };
            match self.client.put_index(&body).await {
                Ok(answer) if answer.digest == Some(body.digest.to_string()) => {}
                Ok(_) => return self.put_index().await.map(drop),
                Err(e) if is_refusal(e.kind()) => {
                    self.monitor.notice(Notice::Warning(format!(
                        "the receiver does not take the change of the index ({e}); it gets all of it"
                    )));
                    return self.put_index().await.map(drop);
                }
                Err(e) if e.kind() == ErrorKind::NoSpace && body.has_other_way() => {
                    self.monitor.notice(Notice::Info(format!(
                        "the receiver has no space for generation {}, which is on the way ({e}); it gets the newest index as a whole",
                        step.to
                    )));
                    return self.put_index().await.map(drop);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Whether a receiver does not take a change that is refused so, and may take the whole index. An
/// earlier version does not tell a bad index from a bad block.
fn is_refusal(kind: ErrorKind) -> bool {
    use ErrorKind::{BadBlock, BadIndex, NotFound, WrongIndex};
    matches!(kind, BadBlock | BadIndex | NotFound | WrongIndex)
}

/// The change that a step of the history of the index at `database` is.
pub(in super::super) fn change_body(
    database: &Path,
    scratch: &Path,
    step: &Step,
    kind: ChangeKind,
) -> Result<IndexBody> {
    let history = History::open(database)?;
    let generation = |number| {
        history.generation(number).ok_or_else(|| {
            Error::new(
                ErrorKind::BadIndex,
                format!("{} does not know generation {number}", database.display()),
            )
        })
    };
    let to = generation(step.to)?;
    let from = if step.undo { generation(step.generation)? } else { generation(to.parent.unwrap_or(0))? };
    let (file, length) = index_body::pack_change(scratch, |each| history.batches(step, each))?;
    let work_s = to.files / ROWS_PER_S + to.bytes / COPIED_BYTES_PER_S;
    let form = IndexForm::Change { from: from.digest, kind };
    Ok(IndexBody { file, length, digest: to.digest, form, backup: None, work_s })
}
