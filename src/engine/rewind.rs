//! Taking an index, and a receiver with it, back by one generation.
//!
//! The receiver goes back first, then the index gets its name with a mark in it, and the mark is
//! removed last. So a run that was cut off finds the index as it was, or the mark, and the same
//! command goes on. A run without a receiver leaves the mark, so that one can go back afterwards.
//! The run holds the lock of the index ([`IndexLock`]).

use super::archive_number::archive_of;
use super::destination::Destination;
use super::identity::identity_of_index;
use super::index_lock::IndexLock;
use super::tasks::{blocking, interrupted, until_cancelled};
use super::upload::change_body;
use crate::archive::change::ChangeEnd;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::protocol::{DeleteRequest, FinishAnswer, FinishRequest};
use crate::archive::shown::counted;
use crate::archive::skipped::{FilteredPaths, SkippedList};
use crate::archive::source::SourceClaim;
use crate::db::generation::Rewound;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{ChangeKind, ReceiverClient};
use crate::telemetry::{Monitor, Notice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What went back.
#[derive(Debug)]
pub struct RewindReport {
    /// The number of the generation that is abandoned.
    pub abandoned: u64,
    /// The number of the generation to which the index went back.
    pub generation: u64,
    /// What the index is now.
    pub index: ChangeEnd,
    /// What the receiver answered, if it went back, too.
    pub receiver: Option<RewoundReceiver>,
}

/// What a receiver did that went back.
#[derive(Debug)]
pub struct RewoundReceiver {
    /// What it answered at the end.
    pub answer: FinishAnswer,
    /// So many entries of the abandoned generation stay there, since nothing could be deleted.
    pub undeleted: u64,
    /// The number of the archive.
    pub tar_id: u64,
}

/// The receiver that goes back with the index.
pub struct RewindDestination {
    /// Where it is.
    pub destination: Destination,
    /// The number of the archive there; `None` has it derived from the source.
    pub tar_id: Option<u64>,
}

/// Takes the index at `database` back to the generation that its newest one was made of, and first
/// the receiver at `destination`, if one is given. `scratch` is a folder for temporary files. Ends
/// early when the monitor says that the run is cancelled.
///
/// # Errors
/// There is no generation before the newest one. Or the receiver has another generation, cannot go
/// back, or has not retained all of the previous content: then nothing has changed.
pub async fn rewind(
    database: PathBuf,
    destination: Option<RewindDestination>,
    scratch: PathBuf,
    monitor: Arc<dyn Monitor>,
) -> Result<RewindReport> {
    let _lock = IndexLock::take(&database)?;
    let path = database.clone();
    let has_copy = destination.is_some();
    let rewound = blocking(move || Rewound::prepare(&path, has_copy)).await?;
    if monitor.is_cancelled() {
        return Err(interrupted());
    }
    let receiver = match &destination {
        None => None,
        Some(RewindDestination { destination, tar_id }) => {
            if let Some(folder) = destination.unused_folder() {
                let what = format!("nothing was ever received into the folder {}", folder.display());
                return Err(
                    Error::new(ErrorKind::Usage, what).with_hint("name the destination of the earlier runs")
                );
            }
            let path = database.clone();
            let source = blocking(move || identity_of_index(&path, true)).await?;
            let work = async |client: Arc<dyn ReceiverClient>| {
                let work = async {
                    let (tar_id, client) = match source {
                        Some(source) => archive_of(&client, *tar_id, source, false, &database).await?,
                        None => {
                            let number = tar_id.unwrap_or(0);
                            (number, client.for_archive(number, SourceClaim::default()))
                        }
                    };
                    let (answer, undeleted) =
                        rewind_receiver(&*client, &rewound, &database, &scratch, &*monitor).await?;
                    Ok(RewoundReceiver { answer, undeleted, tar_id })
                };
                until_cancelled(&*monitor, work).await
            };
            Some(destination.with_client(work).await?)
        }
    };
    let (abandoned, generation) = (rewound.abandoned.number, rewound.parent.number);
    Ok(RewindReport { abandoned, generation, index: rewound.put_in_place()?, receiver })
}

/// Takes the receiver back from the generation that `rewound` abandons to its parent, and has it
/// delete what only the abandoned generation has. May be repeated after an interruption. `database`
/// is the index as it was. Gives the receiver's last answer, and how many entries of the abandoned
/// generation stay there.
async fn rewind_receiver(
    client: &dyn ReceiverClient,
    rewound: &Rewound,
    database: &Path,
    scratch: &Path,
    monitor: &dyn Monitor,
) -> Result<(FinishAnswer, u64)> {
    monitor.notice(Notice::Phase("asking"));
    client.budget().restart();
    let status = client.status(DEFAULT_BLOCK_SIZE, 0).await?.filter(|status| status.keeps);
    let status = status.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "the receiver cannot go back to an earlier generation")
            .with_hint("use the same version of tar-like on all hosts; or leave out the destination to take back the index alone")
    })?;
    let (abandoned, parent) = (&rewound.abandoned, &rewound.parent);
    if status.digest == abandoned.digest.to_string() {
        monitor.notice(Notice::Phase("sending the change of the index"));
        let (database, scratch, step) = (database.to_path_buf(), scratch.to_path_buf(), rewound.step);
        let body = blocking(move || change_body(&database, &scratch, &step, ChangeKind::Rewind)).await?;
        client.put_index(&body).await?;
    } else if status.digest != parent.digest.to_string() {
        let what = format!(
            "the receiver has index {}, which is neither generation {} nor generation {}",
            status.digest, abandoned.number, parent.number
        );
        return Err(Error::new(ErrorKind::WrongIndex, what).with_hint(
            "give the --tar-id and the index of the earlier runs; or leave out the destination to take back the index alone",
        ));
    }
    monitor.notice(Notice::Phase("verifying"));
    let spare = rewound.skipped.as_ref().and_then(SkippedList::spared);
    let filtered = rewound.skipped.as_ref().and_then(SkippedList::filtered).cloned();
    let can_spare = |(spare, filtered): &(Vec<String>, FilteredPaths)| {
        (spare.is_empty() || status.spares) && (filtered.is_empty() || status.filters)
    };
    let delete = spare.zip(filtered).filter(can_spare).map(|(spare, filtered)| DeleteRequest {
        most: u64::MAX,
        only_reverted: true,
        spare,
        filtered,
        ..DeleteRequest::default()
    });
    let undeleted = if delete.is_none() { rewound.added_entries()? } else { 0 };
    if undeleted > 0 {
        monitor.notice(Notice::Warning(format!(
            "not deleted at the receiver: {} that generation {} added. It is not known what was left out of \
             generation {}. The next sync or upload with --delete removes what the source does not have",
            counted(undeleted, "entry"),
            abandoned.number,
            parent.number
        )));
    }
    let request = FinishRequest { delete, top: rewound.top.map(Into::into), ..FinishRequest::default() };
    let answer = client.finish(&parent.digest, request).await?;
    Ok((answer, undeleted))
}
