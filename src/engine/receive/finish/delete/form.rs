//! Whether what has a name is still what a previous generation put there.

use super::super::super::archive::Archive;
use super::super::super::context::Context;
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::db::index_read::Row;
use crate::error::Result;
use crate::folder::is_kind;
use crate::sink::{Expected, Scratch};
use rustix::fs::{FileType, Stat};
use std::ops::ControlFlow;

/// What is to go.
pub(super) enum Form<'a> {
    /// A file or link, as it was put in place.
    Leaf(Expected<'a>),
    Folder,
}

/// The file or link of the index that `folder` is, or that is a folder above it here.
pub(super) fn leaf_above(archive: &Archive, folder: &[u8]) -> Result<Option<EntryPath>> {
    let ends = folder.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for end in ends.chain([folder.len()]) {
        let Ok(above) = EntryPath::new(&folder[..end]) else { continue };
        if archive.with_index(|index| index.is_leaf(&above))? {
            return Ok(Some(above));
        }
    }
    Ok(None)
}

/// Whether `stat` may be of what `row` says.
pub(super) fn fits(row: &Row, stat: &Stat) -> bool {
    match row {
        Row::File(file) => Expected::of(file).is(stat),
        Row::Node(node) => is_kind(
            stat,
            match node.kind {
                NodeKind::Dir => FileType::Directory,
                NodeKind::Symlink => FileType::Symlink,
                NodeKind::Hardlink => FileType::RegularFile,
            },
        ),
    }
}

/// What `row` of a previous generation is, if `stat` is still of that.
pub(super) fn form_of<'r>(
    context: &Context,
    archive: &Archive,
    row: &'r Row,
    stat: &Stat,
    scratch: &mut Scratch,
) -> Result<Option<Form<'r>>> {
    Ok(match row {
        Row::File(file) => as_published(context, file, scratch)?.filter(|e| e.is(stat)).map(Form::Leaf),
        Row::Node(_) if !fits(row, stat) => None,
        Row::Node(node) => match node.kind {
            NodeKind::Dir => Some(Form::Folder),
            NodeKind::Symlink => Some(Form::Leaf(Expected::Link(&node.target))),
            NodeKind::Hardlink => further_name(context, archive, node, stat, scratch)?.map(Form::Leaf),
        },
    })
}

/// What a further name of a file is for: the file that the index, or a previous one, has under the
/// target. Its time may be that of any of them: a file that got other metadata got them under all
/// of its names.
fn further_name(
    context: &Context,
    archive: &Archive,
    node: &Node,
    stat: &Stat,
    scratch: &mut Scratch,
) -> Result<Option<Expected<'static>>> {
    let Ok(target) = EntryPath::new(node.target.clone()) else { return Ok(None) };
    let mut found = None;
    let mut take = |file: &FileEntry| -> Result<()> {
        found = as_published(context, file, scratch)?.filter(|expected| expected.is(stat)).or(found);
        Ok(())
    };
    let published = archive.progress.published();
    let is_published = |file: &FileEntry| published.contains(file.id..file.id + 1);
    archive.with_index(|index| {
        index.file_at(&target)?.iter().filter(|file| is_published(file)).try_for_each(&mut take)?;
        // The target itself may have become a further name of another one.
        if let Some(other) = index.hardlink_at(&target)? {
            index.file_at(&other)?.iter().filter(|file| is_published(file)).try_for_each(&mut take)?;
        }
        index.file_tombstones_at(&target, 0, |file| take(&file).map(ControlFlow::Continue))
    })?;
    Ok(found)
}

/// What `file` is expected to be where it was published, with its time as the file system stores
/// it. `None` without a time: then nothing tells whose file it is.
fn as_published(
    context: &Context,
    file: &FileEntry,
    scratch: &mut Scratch,
) -> Result<Option<Expected<'static>>> {
    let Some(meta) = file.meta else { return Ok(None) };
    let mtime_ns = context.sink.kept_time(meta.mtime_ns, scratch)?;
    Ok(Some(Expected::Kept { size: file.size, mtime_ns }))
}
