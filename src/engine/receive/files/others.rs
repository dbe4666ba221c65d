//! Files and links that another archive of the base folder has put in place: none takes the place
//! of another one's with a different content. Otherwise two sources with the same path would
//! replace each other's content with every run, and neither of them would be told.
//!
//! Folders are shared. Where both archives have the same content, there is nothing to lose. Two
//! archives that put a path in place at the same moment may both succeed; the next `finish` of the
//! one whose content is not there finds that out and says it.

use super::super::archive::Archive;
use super::super::context::Context;
use crate::archive::digest::{Blake3, Md5};
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::db::index_read::{IndexReader, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::is_kind;
use crate::sink::disk::FolderCache;
use rustix::fs::{FileType, Stat};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be put in place, by its path.
pub(crate) enum Leaf<'a> {
    File(&'a FileEntry),
    /// A folder, a symbolic link, or a further name of a file.
    Node(&'a Node),
}

/// What makes two leaves the same.
#[derive(PartialEq, Eq)]
enum Content {
    File { size: u64, md5: Option<Md5>, blake3: Option<Blake3> },
    Link(Vec<u8>),
    Folder,
}

impl Content {
    fn of_file(file: &FileEntry) -> Self {
        Self::File { size: file.size, md5: file.md5, blake3: file.blake3 }
    }

    fn of_node(node: &Node, index: &IndexReader) -> Result<Option<Self>> {
        match node.kind {
            NodeKind::Dir => Ok(Some(Self::Folder)),
            NodeKind::Symlink => Ok(Some(Self::Link(node.target.to_vec()))),
            NodeKind::Hardlink => {
                let Ok(target) = EntryPath::new(node.target.clone()) else { return Ok(None) };
                Ok(index.file_at(&target)?.as_ref().map(Self::of_file))
            }
        }
    }

    /// Whether both are the same, as far as both have digests.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File { size, md5, blake3 },
                Self::File { size: other_size, md5: other_md5, blake3: other_blake3 },
            ) => {
                let same_md5 = md5.zip(*other_md5).map(|(one, other)| one == other);
                let same_blake3 = blake3.zip(*other_blake3).map(|(one, other)| one == other);
                size == other_size && same_blake3.or(same_md5).unwrap_or(*size == 0)
            }
            _ => self == other,
        }
    }
}

/// Gives the error of each leaf in whose place another archive has put something else. Costs
/// nothing where there is one archive, and a look at each path where there is nothing yet. What an
/// archive has put there whose index cannot be read now is not known.
///
/// # Errors
/// An index cannot be read, or a path cannot be looked at for a reason that is not its own.
pub(crate) fn conflicts(
    context: &Context,
    archive: &Archive,
    leaves: &[Leaf<'_>],
    cache: &mut FolderCache,
) -> Result<BTreeMap<EntryPath, Error>> {
    let mut found = BTreeMap::new();
    let others = context.archives.all();
    if others.len() < 2 {
        return Ok(found);
    }
    let mut wanted: BTreeMap<EntryPath, (Vec<&Leaf<'_>>, Stat)> = BTreeMap::new();
    let mut folders = BTreeSet::new();
    for leaf in leaves {
        if let Some((path, stat)) = in_the_way(context, leaf.path(), &mut folders, cache) {
            wanted.entry(path).or_insert_with(|| (Vec::new(), stat)).0.push(leaf);
        }
    }
    let paths: Vec<&EntryPath> = wanted.keys().collect();
    for other in others.iter().filter(|other| other.tar_id != archive.tar_id && !paths.is_empty()) {
        let mut placed: BTreeMap<EntryPath, Content> = BTreeMap::new();
        let is_placed = other.progress.placed();
        other.with_index(|index| {
            let mut nodes = Vec::new();
            index.rows_at(&paths, |row, is_live| {
                match row {
                    Row::File(file) if is_live && is_placed.files.contains(file.id..file.id + 1) => {
                        placed.insert(file.path.clone(), Content::of_file(&file));
                    }
                    Row::Node(node) if is_live && is_placed.nodes => nodes.push(node),
                    _ => {}
                }
                Ok(())
            })?;
            for node in nodes {
                let is_there = wanted.get(&node.path).is_some_and(|(_, stat)| may_be(&node, stat));
                if let Some(content) = Content::of_node(&node, index)?.filter(|_| is_there) {
                    placed.insert(node.path, content);
                }
            }
            Ok(())
        })?;
        for (path, theirs) in placed {
            for leaf in wanted.get(&path).map(|(leaves, _)| leaves).into_iter().flatten() {
                // Above a leaf, a folder is wanted.
                let is_above = path != *leaf.path();
                let ours = if is_above { Some(Content::Folder) } else { leaf.content(archive)? };
                if ours.is_none_or(|ours| !ours.is_same(&theirs)) {
                    found.entry(leaf.path().clone()).or_insert_with(|| refused(context, other.tar_id));
                }
            }
        }
    }
    Ok(found)
}

/// What has the name `path`, or the name of a folder above it and is no folder. What cannot be looked
/// at cannot be replaced either, and that says why. `folders` are paths that are known to be folders.
fn in_the_way(
    context: &Context,
    path: &EntryPath,
    folders: &mut BTreeSet<EntryPath>,
    cache: &mut FolderCache,
) -> Option<(EntryPath, Stat)> {
    let mut path = path.clone();
    if let Ok(Some(stat)) = context.sink.stat(&path, cache) {
        return Some((path, stat));
    }
    loop {
        path = EntryPath::new(path.split().0.to_vec()).ok()?;
        if folders.contains(&path) {
            return None;
        }
        if let Ok(Some(stat)) = context.sink.stat(&path, cache) {
            if !is_kind(&stat, FileType::Directory) {
                return Some((path, stat));
            }
            folders.insert(path);
            return None;
        }
    }
}

/// Refuses to put `leaf` where another archive has put something else.
///
/// # Errors
/// It has, or as [`conflicts`].
pub(crate) fn refuse_conflict(
    context: &Context,
    archive: &Archive,
    leaf: Leaf<'_>,
    cache: &mut FolderCache,
) -> Result<()> {
    conflicts(context, archive, &[leaf], cache)?.pop_first().map_or(Ok(()), |(_, conflict)| Err(conflict))
}

impl Leaf<'_> {
    fn path(&self) -> &EntryPath {
        match self {
            Self::File(file) => &file.path,
            Self::Node(node) => &node.path,
        }
    }

    fn content(&self, archive: &Archive) -> Result<Option<Content>> {
        match self {
            Self::File(file) => Ok(Some(Content::of_file(file))),
            Self::Node(node) => archive.with_index(|index| Content::of_node(node, index)),
        }
    }
}

/// Whether `stat` may be of the folder or link that `node` says.
fn may_be(node: &Node, stat: &Stat) -> bool {
    let kind = match node.kind {
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Hardlink => FileType::RegularFile,
    };
    is_kind(stat, kind)
}

fn refused(context: &Context, other: u64) -> Error {
    let source = context.archives.source_of(other);
    let (of, hint) = match &source {
        Some(source) => (format!(" of {}", source.name), String::new()),
        None => (
            String::new(),
            format!("; if that is an earlier copy of this source, go on with it by --tar-id {other}"),
        ),
    };
    let what = format!("archive {other}{of} has put another content at this path");
    Error::new(ErrorKind::Source, what).with_hint(format!(
        "leave the path out of one of the sources, or give one of them a receiver with a folder of its own{hint}"
    ))
}
