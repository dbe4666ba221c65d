//! Backup of what a new index replaces: before the index is active, and so before any entry of it
//! gets its place, what has that place gets one more name in the backup folder. `finish` does the
//! same with what another program has changed since, before it is sent again, and moves there what
//! the index removes.
//!
//! An attempt that comes to nothing leaves these names. The next one finds them.

use super::super::context::Context;
use super::published::each_unpublished;
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::Result;
use crate::sink::disk::FolderCache;
use crate::sink::{Backup, Expected};
use std::ops::ControlFlow;
use std::path::Path;

/// Backs up what `index` is about to replace: what has the place of an entry and is not that entry,
/// as `published` says of files.
///
/// # Errors
/// The index cannot be read, or as [`ReplacedEntries::by_file`].
pub(crate) fn back_up_replaced(
    context: &Context,
    index: &IndexReader,
    published: &RangeSet,
    folder: &str,
) -> Result<()> {
    let mut replaced = ReplacedEntries::new(context, folder);
    each_unpublished(index, published, |file| replaced.by_file(&file))?;
    index.nodes(|node| replaced.by_node(&node).map(ControlFlow::Continue))
}

/// What is about to be replaced.
pub(crate) struct ReplacedEntries<'a> {
    context: &'a Context,
    folder: &'a str,
    /// The folder, once there is anything to put into it.
    backup: Option<Backup>,
    cache: FolderCache,
}

impl<'a> ReplacedEntries<'a> {
    /// `folder` is the backup folder, by its path below the base folder.
    pub(crate) fn new(context: &'a Context, folder: &'a str) -> Self {
        Self { context, folder, backup: None, cache: FolderCache::default() }
    }

    /// Backs up what `file` replaces.
    ///
    /// # Errors
    /// The backup folder cannot be used, or the entry cannot be put there: then it must not be
    /// replaced.
    pub(crate) fn by_file(&mut self, file: &FileEntry) -> Result<()> {
        // A file without content is made without regard to what was there.
        let same = (file.size == 0).then_some(Expected::File { size: 0, mtime_ns: None });
        self.by(&file.path, same)
    }

    /// Backs up what a folder or link replaces.
    ///
    /// # Errors
    /// As [`Self::by_file`].
    pub(crate) fn by_node(&mut self, node: &Node) -> Result<()> {
        match node.kind {
            NodeKind::Symlink => self.by(&node.path, Some(Expected::Link(&node.target))),
            NodeKind::Dir => self.by(&node.path, None),
            NodeKind::Hardlink if self.is_name_of_target(node)? => Ok(()),
            NodeKind::Hardlink => self.by(&node.path, None),
        }
    }

    fn by(&mut self, path: &EntryPath, same: Option<Expected<'_>>) -> Result<()> {
        let sink = &self.context.sink;
        let Some(found) = sink.in_the_way(path, same.as_ref(), &mut self.cache)? else { return Ok(()) };
        let backup = match self.backup.take() {
            Some(backup) => backup,
            None => sink.backup(Path::new(self.folder), false)?,
        };
        sink.back_up(self.backup.insert(backup), &found, &mut self.cache)
    }

    /// Whether a hard link is there already.
    fn is_name_of_target(&mut self, node: &Node) -> Result<bool> {
        let Ok(target) = EntryPath::new(node.target.clone()) else { return Ok(false) };
        let mut inode = |path| -> Result<_> {
            let stat = self.context.sink.stat(path, &mut self.cache)?;
            Ok(stat.map(|stat| (stat.st_dev, stat.st_ino)))
        };
        let there = inode(&node.path)?;
        Ok(there.is_some() && there == inode(&target)?)
    }
}
