//! Repairing a copy by what a check has found: the receiver of its folder, which is started for it,
//! asks for these files again, and an upload sends them. A folder that no receiver knows is adopted,
//! which reads all of it once more.

use super::archive_number::archive_of;
use super::destination::Destination;
use super::identity::identity_of_index;
use super::receive::archive_with;
use super::tasks::until_cancelled;
use super::upload::{ContentScope, UploadOptions, UploadReport, upload};
use crate::archive::digest::IndexDigest;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::protocol::AdoptRequest;
use crate::archive::source::SourceClaim;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::source::Source;
use crate::telemetry::{Monitor, Notice};
use rand::RngExt;
use std::path::Path;
use std::sync::Arc;

/// The number under which a receiver has taken the index at `database` into the folder `base`;
/// `None` if none has. `state` is the receiver's state folder, if it is known.
///
/// # Errors
/// The index cannot be read.
pub fn archive_number(base: &Path, state: Option<&Path>, database: &Path) -> Result<Option<u64>> {
    Ok(archive_with(base, state, &IndexReader::open(database)?.summary()?.digest))
}

/// Sends from `source` to the folder `destination` what `options.verify` names of the index at
/// `options.database`, if it is not there as the index says. `tar_id` is the number of the archive
/// there; `None` has it derived from the source.
///
/// # Errors
/// The folder has another index, or what stopped the run. Files that failed are in the report.
pub async fn repair(
    source: Arc<dyn Source>,
    destination: Destination,
    tar_id: Option<u64>,
    options: UploadOptions,
    monitor: Arc<dyn Monitor>,
) -> Result<UploadReport> {
    let source_id = identity_of_index(&options.database, true)?;
    let digest = IndexReader::open(&options.database)?.summary()?.digest;
    let folder = destination.folder().map(Path::to_path_buf);
    let work = async |client: Arc<dyn ReceiverClient>| {
        let (tar_id, client) = match source_id {
            Some(source_id) => archive_of(&client, tar_id, source_id, false, &options.database).await?,
            None => {
                let tar_id = tar_id.unwrap_or(0);
                (tar_id, client.for_archive(tar_id, SourceClaim::default()))
            }
        };
        let mut options = UploadOptions { folder, tar_id, ..options };
        if !has_index(&*client, &digest).await? {
            options.verify = ContentScope::Nothing;
            options.adopt = Some(until_cancelled(&*monitor, adopt(&*client, &*monitor)).await?);
        }
        upload(source, client, &options, monitor.clone()).await
    };
    destination.with_client(work).await.map_err(|e| match e.kind() {
        ErrorKind::OtherSource => e.with_hint("give the index of this copy with -db FILE or --source SOURCE"),
        _ => e,
    })
}

/// Whether the receiver has the index; false if it has none.
async fn has_index(client: &dyn ReceiverClient, digest: &IndexDigest) -> Result<bool> {
    let status = match client.status(DEFAULT_BLOCK_SIZE, 0).await {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    if status.is_some_and(|status| status.digest == digest.to_string()) {
        return Ok(true);
    }
    let what = "the copy is of another index, or of another generation of this one";
    Err(Error::new(ErrorKind::WrongIndex, what)
        .with_hint("give the index of the last run to this folder with -db, or run sync --checksum"))
}

/// Has the receiver read what is in its folder; gives the name of the adoption.
async fn adopt(client: &dyn ReceiverClient, monitor: &dyn Monitor) -> Result<u64> {
    monitor.notice(Notice::Phase("the receiver reads what it has"));
    let request = AdoptRequest { name: rand::rng().random(), ..AdoptRequest::default() };
    client.adopt(&request).await?;
    Ok(request.name)
}
