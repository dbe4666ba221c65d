//! Which archive of a receiver is that of a source, where the user gives no number. It is derived
//! from the identity of the source, so that two sources never meet. Copies of earlier versions are
//! archive 0, and stay that.

use super::tasks::blocking;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::protocol::Status;
use crate::archive::source::{SourceClaim, SourceIdentity, archive_number};
use crate::db::generation::History;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use std::path::Path;
use std::sync::Arc;

/// The number of the archive of `source`, and a client for it: `given`, or what the receiver has of
/// the index at `database`, or the derived number. The client says whose archive it is.
///
/// # Errors
/// The receiver cannot be asked, or the sender's token is not for the archive.
pub(super) async fn archive_of(
    client: &Arc<dyn ReceiverClient>,
    given: Option<u64>,
    source: SourceIdentity,
    replaces: bool,
    database: &Path,
) -> Result<(u64, Arc<dyn ReceiverClient>)> {
    let number = match given {
        Some(number) => number,
        None => find(client, &source, database).await?,
    };
    Ok((number, client.for_archive(number, SourceClaim { source: Some(source), replaces })))
}

async fn find(client: &Arc<dyn ReceiverClient>, source: &SourceIdentity, database: &Path) -> Result<u64> {
    let derived = archive_number(&source.id);
    client.budget().restart();
    let ask =
        async |number| client.for_archive(number, SourceClaim::default()).status(DEFAULT_BLOCK_SIZE, 0).await;
    let refused = match ask(derived).await {
        Ok(Some(_)) => return Ok(derived),
        // The original program, or something that does not know its state.
        Ok(None) => return Ok(0),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) if e.kind() == ErrorKind::Forbidden => Some(e),
        Err(e) => return Err(e),
    };
    match ask(0).await {
        Ok(Some(status)) if is_copy_of(&status, source, database).await? => return Ok(0),
        Ok(_) => {}
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Forbidden) => {}
        Err(e) => return Err(e),
    }
    refused.map_or(Ok(derived), |e| Err(not_allowed(e, derived)))
}

fn not_allowed(refused: Error, derived: u64) -> Error {
    refused.with_hint(format!(
        "the archive of this source has the number {derived}. Add tar-id={derived} to the line of this token \
         in the receiver's tokens file, or give --tar-id with a number that the token allows; another source \
         must not have that number"
    ))
}

/// Whether archive 0 of the receiver is the copy of `source`.
async fn is_copy_of(status: &Status, source: &SourceIdentity, database: &Path) -> Result<bool> {
    if let Some(bound) = &status.source_id {
        return Ok(*bound == source.id.to_string());
    }
    let (Ok(digest), database) = (status.digest.parse(), database.to_path_buf()) else { return Ok(false) };
    blocking(move || {
        // Where there is no index of ours yet, the receiver has nothing of it.
        let Ok(history) = History::open(&database) else { return Ok(false) };
        if !history.is_ours() {
            return Ok(false);
        }
        let is_ended = history.previous()?.iter().any(|previous| previous.digest == digest);
        Ok(is_ended || history.with_digest(&digest).is_some())
    })
    .await
}
