//! The thread that watches over the receiver. It notices when storage is gone: the receiver is
//! degraded then, so that a standby takes over, and senders hear of it. It says when there is no
//! space, holds the reserve of free space, has damaged indexes given up, and drops results that no sender asks for.

use super::context::{Context, RESERVE_BYTES, WatchRequest};
use super::finish::jobs::FinishJobs;
use super::index::adopt::Adoptions;
use super::index::replace::give_up;
use crate::db::{file, is_damage};
use crate::error::{Error, Result};
use crate::sink::Storage;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the thread looks without being asked.
const INTERVAL: Duration = Duration::from_secs(2);

/// Requests that may wait for the thread.
pub(crate) const MAX_REQUESTS: usize = 16;

/// What the thread works with.
pub(crate) struct Watch {
    pub(crate) context: Weak<Context>,
    pub(crate) finishing: Arc<FinishJobs>,
    pub(crate) adoptions: Arc<Adoptions>,
    /// Reads all pages of all indexes.
    pub(crate) damage_check: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts the thread, which ends with the context.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(mut self, requests: mpsc::Receiver<WatchRequest>) -> Result<()> {
        let watch = move || {
            loop {
                let asked = match requests.recv_timeout(INTERVAL) {
                    Ok(request) => Some(request),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let Some(context) = self.context.upgrade() else { return };
                // Equal requests that came meanwhile are one.
                let mut asked: Vec<WatchRequest> = asked.into_iter().chain(requests.try_iter()).collect();
                asked.dedup();
                self.turn(&context, &asked);
            }
        };
        std::thread::Builder::new().name("watch".into()).spawn(watch).map(drop).map_err(Error::thread)
    }

    fn turn(&mut self, context: &Arc<Context>, asked: &[WatchRequest]) {
        context.check_storage(!asked.is_empty());
        hold_reserve(context);
        context.watch_space();
        self.adoptions.drop_forgotten();
        for request in asked {
            match *request {
                WatchRequest::CheckStorage => {}
                WatchRequest::CheckIndexes => self.check_indexes(context),
                WatchRequest::FinishLegacy(tar_id) => {
                    if let Err(e) = self.finishing.start_legacy(context, tar_id) {
                        tracing::error!("archive {tar_id} of a legacy sender is not finished: {e}");
                    }
                }
            }
        }
    }

    /// Has a thread look for damage, unless one does: reading takes long, and storage is watched
    /// meanwhile.
    fn check_indexes(&mut self, context: &Arc<Context>) {
        if self.damage_check.as_ref().is_some_and(|check| !check.is_finished()) {
            return;
        }
        let context = context.clone();
        let work = move || give_up_damaged(&context);
        match std::thread::Builder::new().name("damage".into()).spawn(work) {
            Ok(thread) => self.damage_check = Some(thread),
            Err(e) => tracing::error!("the indexes are not checked for damage: {e}"),
        }
    }
}

/// Holds the reserve, and enough for a change of the largest index, if there is room.
pub(crate) fn hold_reserve(context: &Context) {
    if context.committer.is_degraded() {
        return;
    }
    let index_bytes = |path: &std::path::Path| path.metadata().map_or(0, |metadata| metadata.len());
    let archives = context.archives.all();
    let largest = archives.iter().map(|archive| index_bytes(&archive.index_path)).max().unwrap_or(0);
    context.sink.hold(RESERVE_BYTES.saturating_add(largest), RESERVE_BYTES);
}

/// Reads all pages of all indexes, and gives up those that are damaged.
fn give_up_damaged(context: &Context) {
    for archive in context.archives.all() {
        match file::check_pages(&archive.index_path) {
            Err(e) if is_damage(&e) => give_up(context, &archive, &e),
            _ => {}
        }
    }
}
