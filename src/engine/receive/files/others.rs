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
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind};
use crate::archive::path::{EntryPath, unprintable};
use crate::archive::protocol::ProposedEntry;
use crate::db::index_read::{IndexReader, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::folder::is_kind;
use crate::sink::Expected;
use crate::sink::disk::FolderCache;
use rustix::fs::{FileType, Stat};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be put in place, by its path.
pub(crate) enum Leaf<'a> {
    File(&'a FileEntry),
    /// A folder, a symbolic link, or a further name of a file of the archive.
    Node(&'a Node, &'a Archive),
    /// What a sender would bring.
    Proposed(&'a Proposed),
}

/// An entry that a sender would bring.
pub(crate) struct Proposed {
    path: EntryPath,
    content: Content,
}

impl Proposed {
    /// The entry of a message; `None` if it is malformed.
    pub(crate) fn parse(entry: &ProposedEntry) -> Option<Self> {
        let path = EntryPath::new(unprintable(&entry.path)?).ok()?;
        let content = match &*entry.kind {
            "d" => Content::Folder,
            "l" => Content::Link(unprintable(entry.target.as_ref()?)?),
            "f" => Content::File {
                size: entry.size,
                md5: entry.md5.as_ref().map(|digest| digest.parse()).transpose().ok()?,
                blake3: entry.blake3.as_ref().map(|digest| digest.parse()).transpose().ok()?,
                meta: entry.meta.map(Meta::from),
                is_read: entry.md5.is_some() || entry.blake3.is_some(),
            },
            _ => return None,
        };
        Some(Self { path, content })
    }
}

/// What makes two leaves the same.
#[derive(Clone, PartialEq, Eq)]
enum Content {
    /// A file that was not read is taken for the same if all else is: a dry run knows no better.
    File {
        size: u64,
        md5: Option<Md5>,
        blake3: Option<Blake3>,
        meta: Option<Meta>,
        is_read: bool,
    },
    Link(Vec<u8>),
    Folder,
}

/// How two leaves differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Difference {
    Content,
    /// Only in what is set of mode, owner and time.
    Metadata,
}

impl Content {
    fn of_file(file: &FileEntry) -> Self {
        Self::File { size: file.size, md5: file.md5, blake3: file.blake3, meta: file.meta, is_read: true }
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

    /// How they differ, as far as both have digests and metadata. Folders are for all archives, and
    /// have the metadata of the last one. `has_owner` says that owners are set.
    fn difference(&self, other: &Self, has_owner: bool) -> Option<Difference> {
        let Self::File { size, md5, blake3, meta, is_read } = self else {
            return (self != other).then_some(Difference::Content);
        };
        let Self::File { size: other_size, md5: other_md5, blake3: other_blake3, meta: other_meta, .. } =
            other
        else {
            return Some(Difference::Content);
        };
        let same_md5 = md5.zip(*other_md5).map(|(one, other)| one == other);
        let same_blake3 = blake3.zip(*other_blake3).map(|(one, other)| one == other);
        if size != other_size || !same_blake3.or(same_md5).unwrap_or(*size == 0 || !is_read) {
            return Some(Difference::Content);
        }
        let set = |meta: Meta| {
            let owner = has_owner.then_some((meta.uid, meta.gid));
            (meta.mode & 0o7777, meta.mtime_ns, owner)
        };
        let differs = meta.zip(*other_meta).is_some_and(|(one, other)| set(one) != set(other));
        differs.then_some(Difference::Metadata)
    }
}

/// Gives the error of each leaf in whose place another archive has put something else, or the same
/// with other metadata: the two would take turns. Costs nothing where there is one archive, and a
/// look at each path where there is nothing yet. What an archive has put there whose index cannot be
/// read now is not known.
///
/// # Errors
/// [`ErrorKind::Busy`]: an archive is being opened. An index cannot be read, or a path cannot be
/// looked at for a reason that is not its own.
pub(crate) fn conflicts(
    context: &Context,
    tar_id: u64,
    leaves: &[Leaf<'_>],
    cache: &mut FolderCache,
) -> Result<BTreeMap<EntryPath, Error>> {
    let mut found = BTreeMap::new();
    context.archives.check_none_opens()?;
    let others: Vec<_> = context.archives.all().into_iter().filter(|other| other.tar_id != tar_id).collect();
    if others.is_empty() {
        return Ok(found);
    }
    let mut wanted = Wanted::new();
    let mut folders = BTreeSet::new();
    for leaf in leaves {
        if let Some((path, stat)) = in_the_way(context, leaf.path(), &mut folders, cache) {
            wanted.entry(path).or_insert_with(|| (Vec::new(), stat)).0.push(leaf);
        }
    }
    let paths: Vec<&EntryPath> = wanted.keys().collect();
    for other in others.iter().filter(|_| !paths.is_empty()) {
        let placed = placed_at(context, other, &paths, &wanted)?;
        for (path, theirs) in placed {
            for leaf in wanted.get(&path).map(|(leaves, _)| leaves).into_iter().flatten() {
                // Above a leaf, a folder is wanted.
                let is_above = path != *leaf.path();
                let ours = if is_above { Some(Content::Folder) } else { leaf.content()? };
                let difference = ours.map_or(Some(Difference::Content), |ours| {
                    ours.difference(&theirs, context.sink.sets_owners())
                });
                if let Some(difference) = difference {
                    let refused = || refused(context, other.tar_id, difference);
                    found.entry(leaf.path().clone()).or_insert_with(refused);
                }
            }
        }
    }
    Ok(found)
}

/// What stands in the way of a leaf, by its path: what wants the place, and its `stat`.
type Wanted<'a> = BTreeMap<EntryPath, (Vec<&'a Leaf<'a>>, Stat)>;

/// What archive `other` has put at `paths`, which are those of `wanted`.
fn placed_at(
    context: &Context,
    other: &Archive,
    paths: &[&EntryPath],
    wanted: &Wanted<'_>,
) -> Result<BTreeMap<EntryPath, Content>> {
    let mut placed = BTreeMap::new();
    // Of several receivers, none knows at once what the others put in place.
    let is_sliced = context.options.slice.is_some();
    let is_placed = other.progress.placed();
    other.with_index(|index| {
        let mut nodes = Vec::new();
        index.rows_at(paths, |row, is_live| {
            match row {
                Row::File(file)
                    if is_live
                        && (is_placed.files.contains(file.id..file.id + 1)
                            || is_sliced && looks_like(&file, wanted)) =>
                {
                    placed.insert(file.path.clone(), Content::of_file(&file));
                }
                Row::Node(node) if is_live && (is_placed.nodes || is_sliced) => nodes.push(node),
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
    Ok(placed)
}

/// Whether what has the path of `file` has its size and time.
fn looks_like(file: &FileEntry, found: &Wanted<'_>) -> bool {
    found.get(&file.path).is_some_and(|(_, stat)| Expected::of(file).is(stat))
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
    tar_id: u64,
    leaf: Leaf<'_>,
    cache: &mut FolderCache,
) -> Result<()> {
    conflicts(context, tar_id, &[leaf], cache)?.pop_first().map_or(Ok(()), |(_, conflict)| Err(conflict))
}

impl Leaf<'_> {
    fn path(&self) -> &EntryPath {
        match self {
            Self::File(file) => &file.path,
            Self::Node(node, _) => &node.path,
            Self::Proposed(proposed) => &proposed.path,
        }
    }

    fn content(&self) -> Result<Option<Content>> {
        match self {
            Self::File(file) => Ok(Some(Content::of_file(file))),
            Self::Node(node, archive) => archive.with_index(|index| Content::of_node(node, index)),
            Self::Proposed(proposed) => Ok(Some(proposed.content.clone())),
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

fn refused(context: &Context, other: u64, difference: Difference) -> Error {
    let source = context.archives.source_of(other);
    let (of, hint) = match &source {
        Some(source) => (format!(" of {}", source.name), String::new()),
        None => (
            String::new(),
            format!("; if that is an earlier copy of this source, go on with it by --tar-id {other}"),
        ),
    };
    let put = match difference {
        Difference::Content => "another content",
        Difference::Metadata => "the same content with another mode, owner or time",
    };
    let what = format!("archive {other}{of} has put {put} at this path");
    Error::new(ErrorKind::Source, what).with_hint(format!(
        "leave the path out of one of the sources, or give one of them a receiver with a folder of its own{hint}"
    ))
}
