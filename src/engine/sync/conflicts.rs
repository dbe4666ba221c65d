//! What another archive of the receiver would keep out of its place, for a dry run. A run finds that
//! when it puts entries in place; a dry run asks for it.

use super::super::plan::{ChangeKind, PlannedChange};
use super::super::tasks::until_cancelled;
use super::super::upload::{Before, FailedEntry, UploadReport};
use crate::archive::digest::IndexDigest;
use crate::archive::entry::{FileEntry, Meta, NodeKind};
use crate::archive::path::{EntryPath, printable};
use crate::archive::protocol::{FAILED_NAMES, PrecheckAnswer, ProposedEntry, TopFolder};
use crate::db::index_read::{IndexReader, Row};
use crate::error::{ErrorKind, Result};
use crate::folder::meta_of;
use crate::remote::ReceiverClient;
use crate::telemetry::{Monitor, Notice};
use rustix::fs::{AtFlags, CWD, FileType, statat};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;

/// An answer names as many.
const MAX_WAITING: usize = FAILED_NAMES;
/// Bytes of paths that wait.
const MAX_WAITING_BYTES: usize = 128 << 10;
/// Bytes of the entries of a request: a receiver takes twice as many.
const MAX_REQUEST_BYTES: usize = 512 << 10;

/// Where the rows of the entries are of which a dry run tells.
#[derive(Clone)]
pub(super) struct EntryRows {
    /// The index that the run would send; or the previous one, if the dry run made none.
    pub(super) database: PathBuf,
    /// The folder or file that is compared with the previous index.
    pub(super) source: Option<PathBuf>,
}

/// An entry that waits for the answer.
pub(super) struct WaitingChange {
    kind: ChangeKind,
    node: Option<NodeKind>,
    path: EntryPath,
    from: Option<EntryPath>,
    bytes: u64,
    send_bytes: u64,
}

impl WaitingChange {
    fn new(change: &PlannedChange<'_>) -> Self {
        let PlannedChange { kind, node, path, from, bytes, send_bytes } = *change;
        Self { kind, node, path: path.clone(), from: from.cloned(), bytes, send_bytes }
    }

    pub(super) fn change(&self) -> PlannedChange<'_> {
        let Self { kind, node, path, from, bytes, send_bytes } = self;
        let (kind, node, bytes, send_bytes) = (*kind, *node, *bytes, *send_bytes);
        PlannedChange { kind, node, path, from: from.as_ref(), bytes, send_bytes }
    }
}

/// The question, for a receiver that has other archives.
pub(super) struct ConflictCheck {
    client: Arc<dyn ReceiverClient>,
    monitor: Arc<dyn Monitor>,
    runtime: Handle,
    index: IndexDigest,
    rows: EntryRows,
    waiting: Vec<WaitingChange>,
    waiting_bytes: usize,
    /// What the receiver has of an earlier run that was kept out, by path: the run tries again.
    standing: BTreeMap<String, String>,
    found: Vec<FailedEntry>,
    unnamed: u64,
}

impl ConflictCheck {
    /// Asks whether the receiver, which has `before` of the archive, has other archives: `None` if
    /// not, or if it cannot say it.
    ///
    /// # Errors
    /// The receiver refuses.
    pub(super) async fn begin(
        client: &Arc<dyn ReceiverClient>,
        block_size: u64,
        before: &Before,
        rows: EntryRows,
        monitor: &Arc<dyn Monitor>,
    ) -> Result<Option<Self>> {
        let index = match client.status(block_size, 0).await {
            Ok(Some(status)) => status.digest.parse().ok(),
            Err(e) if e.kind() == ErrorKind::NotFound => Some(IndexDigest::from([0; 32])),
            // A receiver of the original's kind has no other archives at its paths.
            Ok(None) => None,
            Err(e) => return Err(e),
        };
        let Some(index) = index else { return Ok(None) };
        let answer = match client.conflicts(&index, Vec::new()).await {
            Ok(answer) => answer,
            // A receiver of an earlier version.
            Err(e)
                if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::WrongIndex | ErrorKind::Malformed) =>
            {
                tracing::debug!("the receiver does not say what other archives keep out: {e}");
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let answer = match before {
            // All entries are new to it, and are asked for.
            Before::Other(_) => PrecheckAnswer { shared: answer.shared, ..PrecheckAnswer::default() },
            Before::Same(_) | Before::Generation(_) => answer,
        };
        let PrecheckAnswer { shared, conflicts, conflicts_total, .. } = answer;
        let unnamed = conflicts_total.saturating_sub(conflicts.len() as u64);
        let standing = conflicts.into_iter().map(|failed| (failed.path, failed.reason)).collect();
        Ok(shared.then(|| Self {
            client: client.clone(),
            monitor: monitor.clone(),
            runtime: Handle::current(),
            index,
            rows,
            waiting: Vec::new(),
            waiting_bytes: 0,
            standing,
            found: Vec::new(),
            unnamed,
        }))
    }

    /// Takes a change; gives those that go on, if enough of them have waited.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub(super) fn take(&mut self, change: &PlannedChange<'_>) -> Result<Vec<WaitingChange>> {
        self.forget(change.path);
        change.from.into_iter().for_each(|from| self.forget(from));
        self.waiting_bytes += change.path.as_bytes().len();
        self.waiting.push(WaitingChange::new(change));
        if self.waiting.len() < MAX_WAITING && self.waiting_bytes < MAX_WAITING_BYTES {
            return Ok(Vec::new());
        }
        self.flush()
    }

    /// `path` would not come any more.
    pub(super) fn forget(&mut self, path: &EntryPath) {
        self.standing.remove(&path.to_string());
    }

    /// Asks for all that wait, and gives those that no archive keeps out.
    ///
    /// # Errors
    /// The receiver refuses, the index cannot be read, or the run is cancelled.
    pub(super) fn flush(&mut self) -> Result<Vec<WaitingChange>> {
        self.waiting_bytes = 0;
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut conflicts = HashMap::new();
        for entries in in_requests(self.rows.proposals(&waiting)?) {
            let answer = until_cancelled(&*self.monitor, self.client.conflicts(&self.index, entries));
            let answer = self.runtime.block_on(answer)?;
            self.unnamed += answer.conflicts_total.saturating_sub(answer.conflicts.len() as u64);
            conflicts.extend(answer.conflicts.into_iter().map(|failed| (failed.path, failed.reason)));
        }
        waiting.retain(|change| match conflicts.get(&change.path.to_string()) {
            Some(reason) => {
                self.fail(change.path.to_string(), reason.clone());
                false
            }
            None => true,
        });
        Ok(waiting)
    }

    fn fail(&mut self, path: String, reason: String) {
        self.monitor.notice(Notice::Failed { path: path.clone(), reason: reason.clone() });
        match self.found.len() < FAILED_NAMES {
            true => self.found.push(FailedEntry { path, reason }),
            false => self.unnamed += 1,
        }
    }

    /// Adds what was found to the report. Nothing waits any more.
    pub(super) fn end(mut self, upload: &mut UploadReport) {
        for (path, reason) in std::mem::take(&mut self.standing) {
            self.fail(path, reason);
        }
        upload.failed_total += self.found.len() as u64 + self.unnamed;
        upload.complete &= upload.failed_total == 0;
        upload.failed.extend(self.found);
    }
}

impl EntryRows {
    /// What the receiver is asked of `waiting`. What is not known well enough is left out.
    fn proposals(&self, waiting: &[WaitingChange]) -> Result<Vec<ProposedEntry>> {
        let mut rows = HashMap::new();
        if self.database.exists() {
            let index = IndexReader::open(&self.database)?;
            let paths: Vec<&EntryPath> = waiting.iter().map(|change| &change.path).collect();
            index.rows_at(&paths, |row, is_live| {
                if is_live {
                    rows.insert(row.path().clone(), row);
                }
                Ok(())
            })?;
            if self.source.is_none() {
                return waiting
                    .iter()
                    .filter_map(|change| in_index(&index, rows.get(&change.path)?))
                    .collect();
            }
        }
        let Some(source) = &self.source else { return Ok(Vec::new()) };
        let of = |change: &WaitingChange| in_source(source, &change.path, rows.get(&change.path));
        Ok(waiting.iter().filter_map(of).collect())
    }
}

/// Entries in parts that a request has room for.
fn in_requests(entries: Vec<ProposedEntry>) -> Vec<Vec<ProposedEntry>> {
    let (mut requests, mut room): (Vec<Vec<ProposedEntry>>, usize) = (Vec::new(), 0);
    for entry in entries {
        let bytes = serde_json::to_string(&entry).map_or(MAX_REQUEST_BYTES, |text| text.len());
        match requests.last_mut().filter(|_| bytes <= room) {
            Some(request) => request.push(entry),
            None => {
                requests.push(vec![entry]);
                room = MAX_REQUEST_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    requests
}

/// An entry as the index has it. A further name of a file is one of that file.
fn in_index(index: &IndexReader, row: &Row) -> Option<Result<ProposedEntry>> {
    let node = match row {
        Row::File(file) => return Some(Ok(of_file(&file.path, file))),
        Row::Node(node) => node,
    };
    if node.kind != NodeKind::Hardlink {
        let target = (node.kind == NodeKind::Symlink).then(|| printable(&node.target));
        return Some(Ok(ProposedEntry { target, ..proposed(&node.path, node.kind.letter()) }));
    }
    let target = EntryPath::new(node.target.clone()).ok()?;
    index.file_at(&target).map(|file| file.map(|file| of_file(&node.path, &file))).transpose()
}

/// An entry as it is in the source now. If size and time are those of `row`, its content is, too.
fn in_source(source: &Path, path: &EntryPath, row: Option<&Row>) -> Option<ProposedEntry> {
    let place = if source.is_dir() { source.join(path.as_path()) } else { source.to_path_buf() };
    let flags = if source.is_dir() { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
    let stat = statat(CWD, &place, flags).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Some(proposed(path, NodeKind::Dir.letter())),
        FileType::Symlink => {
            let target = Some(printable(std::fs::read_link(&place).ok()?.as_os_str().as_bytes()));
            Some(ProposedEntry { target, ..proposed(path, NodeKind::Symlink.letter()) })
        }
        FileType::RegularFile => {
            let (size, meta) = (u64::try_from(stat.st_size).ok()?, meta_of(&stat));
            let known = match row {
                Some(Row::File(file)) if file.size == size && mtime_of(file) == Some(meta.mtime_ns) => file,
                _ => return Some(ProposedEntry { size, meta: Some(meta.into()), ..proposed(path, "f") }),
            };
            Some(ProposedEntry { meta: Some(meta.into()), ..of_file(path, known) })
        }
        _ => None,
    }
}

fn mtime_of(file: &FileEntry) -> Option<i64> {
    file.meta.map(|meta: Meta| meta.mtime_ns)
}

fn of_file(path: &EntryPath, file: &FileEntry) -> ProposedEntry {
    ProposedEntry {
        size: file.size,
        md5: file.md5.map(|digest| digest.to_string()),
        blake3: file.blake3.map(|digest| digest.to_string()),
        meta: file.meta.map(TopFolder::from),
        ..proposed(path, "f")
    }
}

fn proposed(path: &EntryPath, letter: &str) -> ProposedEntry {
    let (size, md5, blake3, meta, target) = Default::default();
    ProposedEntry {
        path: printable(path.as_bytes()),
        kind: letter.to_string(),
        size,
        md5,
        blake3,
        meta,
        target,
    }
}
