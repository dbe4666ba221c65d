//! Deleting what a former generation of the archive put in place and the present one does not have.

use super::archive::Archive;
use super::{Receiver, publish};
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::archive::protocol::{DeleteRequest, FAILED_NAMES, FailedFile};
use crate::db::index_read::IndexReader;
use crate::error::{ErrorKind, Result};
use crate::folder::is_common_time;
use crate::sink::disk::FolderCache;
use crate::sink::{Backup, Expected, Outcome};
use rustix::fs::Stat;
use std::ops::ControlFlow;
use std::path::Path;

/// What of the former generations is still there, and may go.
#[derive(Default)]
pub(super) struct Doomed {
    files: Vec<(EntryPath, u64, Option<i64>)>,
    links: Vec<Node>,
    folders: Vec<EntryPath>,
    /// What could not be looked at.
    failed: Vec<FailedFile>,
    failed_total: u64,
}

/// What deleting came to.
#[derive(Default)]
pub(super) struct Deleted {
    /// Files, links and folders that are gone.
    pub(super) count: u64,
    /// So many would have had to go, which is more than was allowed: nothing went.
    pub(super) too_many: Option<u64>,
    pub(super) failed: Vec<FailedFile>,
    pub(super) failed_total: u64,
}

impl Doomed {
    /// Looks for what `request` is about.
    pub(super) fn find(receiver: &Receiver, archive: &Archive, request: &DeleteRequest) -> Result<Self> {
        let mut found = Self::default();
        let since = if request.taken_back { archive.generation } else { 0 };
        if request.taken_back && archive.with_index(IndexReader::taken_back)?.is_none() {
            return Ok(found);
        }
        let mut cache = FolderCache::default();
        archive.with_index(|index| {
            index.gone_files(since, |file| {
                // Where no time is known, or none that every file system keeps, nobody knows whose file it is.
                let known = file.meta.is_some_and(|meta| is_common_time(meta.mtime_ns));
                let there = found.look(receiver, &file.path, &mut cache);
                if known && there.is_some_and(|stat| Expected::of(&file).is(&stat)) {
                    found.files.push((file.path, file.size, file.meta.map(|meta| meta.mtime_ns)));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            index.gone_nodes(since, |node| {
                if found.look(receiver, &node.path, &mut cache).is_some() {
                    match node.kind {
                        NodeKind::Dir => found.folders.push(node.path),
                        NodeKind::Symlink | NodeKind::Hardlink => found.links.push(node),
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        // What is in a folder goes before it.
        found.folders.sort_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
        Ok(found)
    }

    /// What stands at `path`. One place that cannot be looked at keeps nobody from the others.
    fn look(&mut self, receiver: &Receiver, path: &EntryPath, cache: &mut FolderCache) -> Option<Stat> {
        match receiver.sink.stat(path, cache) {
            Ok(there) => there,
            Err(e) => {
                self.failed_total += 1;
                if self.failed.len() < FAILED_NAMES {
                    let (path, reason) = (path.to_string(), publish::reason(&e));
                    self.failed.push(FailedFile { id: None, path, reason });
                }
                None
            }
        }
    }

    fn len(&self) -> u64 {
        (self.files.len() + self.links.len() + self.folders.len()) as u64
    }
}

/// Deletes what `doomed` says, if that is no more than the request allows. With `in_the_way`, only what keeps a file or link of the index
/// from its place.
pub(super) fn delete(
    receiver: &Receiver,
    archive: &Archive,
    doomed: &Doomed,
    request: &DeleteRequest,
    in_the_way: bool,
) -> Result<Deleted> {
    let mut deleted = Deleted::default();
    if doomed.len() > request.most {
        deleted.too_many = Some(doomed.len());
        return Ok(deleted);
    }
    if !in_the_way {
        (deleted.failed, deleted.failed_total) = (doomed.failed.clone(), doomed.failed_total);
    }
    let sink = &receiver.sink;
    let backup: Option<Backup> =
        request.backup.as_deref().map(|name| sink.backup(Path::new(name), false)).transpose()?;
    let wanted = |path: &EntryPath| -> Result<bool> {
        if !in_the_way {
            return Ok(true);
        }
        let bytes = path.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends.chain([bytes.len()]) {
            let Ok(above) = EntryPath::new(&bytes[..end]) else { continue };
            if archive.with_index(|index| index.is_leaf(&above))? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut note = |path: &EntryPath, outcome: Result<Outcome>| match outcome {
        Ok(Outcome::Removed) => {
            deleted.count += 1;
            tracing::info!("deleted \"{path}\"");
            Ok(())
        }
        Ok(Outcome::Absent | Outcome::Changed) => Ok(()),
        Err(e) if matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::Degraded) => Err(e),
        Err(e) => {
            deleted.failed_total += 1;
            if deleted.failed.len() < FAILED_NAMES {
                let reason = publish::reason(&e);
                deleted.failed.push(FailedFile { id: None, path: path.to_string(), reason });
            }
            Ok(())
        }
    };
    for (path, size, mtime_ns) in &doomed.files {
        if wanted(path)? {
            let expected = Expected::File { size: *size, mtime_ns: *mtime_ns };
            note(path, sink.remove(path, &expected, backup.as_ref()))?;
        }
    }
    for node in &doomed.links {
        if !wanted(&node.path)? {
            continue;
        }
        let outcome = match node.kind {
            NodeKind::Symlink => sink.remove(&node.path, &Expected::Link(&node.target), backup.as_ref()),
            _ => remove_name(receiver, archive, node, backup.as_ref()),
        };
        note(&node.path, outcome)?;
    }
    for path in &doomed.folders {
        if wanted(path)? {
            note(path, sink.remove_folder_if_empty(path))?;
        }
    }
    Ok(deleted)
}

/// A further name of a file: it is that of the file that the index, or a former one, has under the target. Its time may be that of any of them:
/// a file that got other metadata got them under all of its names.
fn remove_name(
    receiver: &Receiver,
    archive: &Archive,
    node: &Node,
    backup: Option<&Backup>,
) -> Result<Outcome> {
    let Ok(target) = EntryPath::new(node.target.clone()) else { return Ok(Outcome::Changed) };
    let Some(stat) = receiver.sink.stat(&node.path, &mut FolderCache::default())? else {
        return Ok(Outcome::Absent);
    };
    let mut found = None;
    let mut take = |file: &FileEntry| {
        let mtime_ns = file.meta.map(|meta| meta.mtime_ns).filter(|&mtime_ns| is_common_time(mtime_ns));
        let expected = Expected::File { size: file.size, mtime_ns };
        if mtime_ns.is_some() && expected.is(&stat) {
            found = Some(expected);
        }
    };
    archive.with_index(|index| {
        index.file_at(&target)?.iter().for_each(&mut take);
        // The target itself may have become a further name of another one.
        if let Some(other) = index.hardlink_at(&target)? {
            index.file_at(&other)?.iter().for_each(&mut take);
        }
        index.gone_files_at(&target, |file| {
            take(&file);
            Ok(ControlFlow::Continue(()))
        })
    })?;
    let Some(expected) = found else { return Ok(Outcome::Changed) };
    receiver.sink.remove(&node.path, &expected, backup)
}
