//! Making what no block brings: empty files, directories, links, and the metadata of directories.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::files::others::{Leaf, refuse_conflict};
use super::super::files::publish::publish_one;
use super::cache::WalkCache;
use super::failures::Failures;
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::{DiskSink, FolderCache};
use std::ops::ControlFlow;

/// Directories that are remembered because only their metadata are wrong: what came into them has
/// changed their times.
const MAX_REMEMBERED: usize = 4096;

/// Makes empty files, but for those of the ids `failed`, then directories and links.
///
/// # Errors
/// What is not the fault of one entry.
pub(super) fn create(
    context: &Context,
    archive: &Archive,
    failed: &RangeSet,
    failures: &mut Failures<'_>,
) -> Result<()> {
    empty_files(context, archive, failed, failures)?;
    nodes(context, archive, failures)
}

fn empty_files(
    context: &Context,
    archive: &Archive,
    failed: &RangeSet,
    failures: &mut Failures<'_>,
) -> Result<()> {
    let mut cache = FolderCache::default();
    archive.with_index(|index| {
        index.empty_files(|file| {
            if archive.progress.is_published(file.id) {
                return Ok(ControlFlow::Continue(()));
            }
            let made = match failed.contains(file.id..file.id + 1) {
                true => Err(Error::new(ErrorKind::Source, "the sender could not read it")),
                false => empty_file(context, archive, &file, &mut cache),
            };
            if let Err(e) = made {
                failures.add(Some(file.id), &file.path, e)?;
            }
            Ok(ControlFlow::Continue(()))
        })
    })
}

fn empty_file(context: &Context, archive: &Archive, file: &FileEntry, cache: &mut FolderCache) -> Result<()> {
    archive.staging.write_whole(file, [])?;
    publish_one(context, archive, file, cache)
}

/// Directories, then links, then the directories' metadata, deepest first: making something in a
/// directory changes its time. Where nothing had to be made, only those are set that are wrong.
fn nodes(context: &Context, archive: &Archive, failures: &mut Failures<'_>) -> Result<()> {
    let sink = &context.sink;
    let (mut cache, mut has_changed) = (WalkCache::default(), false);
    let mut wrong = Vec::new();
    archive.with_index(|index| {
        index.nodes(|node| {
            match make_node(context, archive, index, &node, &mut wrong, cache.next()) {
                Ok(is_made) => has_changed |= is_made,
                Err(e) => {
                    has_changed = true;
                    fail_node(failures, &node, e)?;
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if !has_changed {
            wrong.iter().rev().try_for_each(|node| folder_metadata(sink, node, cache.next(), failures))?;
        }
        if has_changed || sink.take_opened_up() {
            return all_folder_metadata(sink, index, failures);
        }
        Ok(())
    })
}

/// Makes a directory or link if it is not there; gives whether it had to be made. A directory of
/// which only the metadata are wrong is added to `wrong`.
fn make_node(
    context: &Context,
    archive: &Archive,
    index: &IndexReader,
    node: &Node,
    wrong: &mut Vec<Node>,
    cache: &mut FolderCache,
) -> Result<bool> {
    let (sink, meta) = (&context.sink, node.meta.as_ref());
    let before = || {
        let leaf = Leaf::Node(node, archive);
        refuse_conflict(context, archive.tar_id, leaf, &mut FolderCache::default())
    };
    match node.kind {
        NodeKind::Dir => match sink.folder_stands(&node.path, meta, cache) {
            Ok(true) => Ok(false),
            Ok(false) if wrong.len() < MAX_REMEMBERED && sink.is_folder(&node.path, cache) => {
                wrong.push(node.clone());
                Ok(false)
            }
            // What hinders looking hinders making, too, and says it better.
            Ok(false) | Err(_) => {
                before()?;
                sink.make_folder(&node.path).map(|()| true)
            }
        },
        NodeKind::Symlink => sink.symlink(&archive.staging, &node.path, &node.target, meta, cache, before),
        NodeKind::Hardlink => hardlink(context, archive, index, node, cache, before),
    }
}

fn fail_node(failures: &mut Failures<'_>, node: &Node, error: Error) -> Result<()> {
    let has_reason = |target: EntryPath| failures.reasons.contains_key(&target.to_string());
    if node.kind == NodeKind::Hardlink && EntryPath::new(node.target.clone()).is_ok_and(has_reason) {
        failures.consequences += 1;
    }
    failures.add(None, &node.path, error)
}

fn hardlink(
    context: &Context,
    archive: &Archive,
    index: &IndexReader,
    node: &Node,
    cache: &mut FolderCache,
    before: impl FnOnce() -> Result<()>,
) -> Result<bool> {
    let target = EntryPath::new(node.target.clone()).map_err(|e| {
        Error::new(ErrorKind::BadIndex, format!("the target of hard link \"{}\" {e}", node.path))
    })?;
    // Whatever else has the target's name is no content that was verified.
    if !index.id_of(&target)?.is_some_and(|id| archive.progress.is_published(id)) {
        return Err(Error::new(
            ErrorKind::Source,
            format!("\"{target}\", of which it is another name, is not in place"),
        ));
    }
    context.sink.hardlink(&archive.staging, &node.path, &target, cache, before)
}

/// Sets the metadata of all directories again: something was made or removed in them, which has
/// changed their times.
///
/// # Errors
/// What is not the fault of one directory.
pub(super) fn reset_folder_metadata(
    context: &Context,
    archive: &Archive,
    failures: &mut Failures<'_>,
) -> Result<()> {
    archive.with_index(|index| all_folder_metadata(&context.sink, index, failures))
}

fn all_folder_metadata(sink: &DiskSink, index: &IndexReader, failures: &mut Failures<'_>) -> Result<()> {
    let mut cache = FolderCache::default();
    index.directories_deepest_first(|node| {
        folder_metadata(sink, &node, &mut cache, failures)?;
        Ok(ControlFlow::Continue(()))
    })?;
    // They are all as they must be, which opened some up on the way.
    sink.take_opened_up();
    Ok(())
}

fn folder_metadata(
    sink: &DiskSink,
    node: &Node,
    cache: &mut FolderCache,
    failures: &mut Failures<'_>,
) -> Result<()> {
    match node.meta.as_ref().map(|meta| sink.apply_folder_meta(&node.path, meta, cache)) {
        Some(Err(e)) => failures.add(None, &node.path, e),
        _ => Ok(()),
    }
}
