//! The attributes of everything in a folder, in the order of the walk.

use super::file_stat::entry_of;
use super::options::IndexOptions;
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind};
use crate::archive::path::EntryPath;
use crate::db::top::set_top;
use crate::engine::pipeline::{Feed, ordered};
use crate::error::Result;
use crate::folder::meta_of;
use crate::source::SkippedEntry;
use crate::source::base::Base;
use crate::source::walk::{ListedName, StatEntry, StatKind, StatWorker, Walk};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The base of `options`, and its walk.
pub(in crate::engine) fn walk_of(options: &IndexOptions) -> Result<(Base, Walk)> {
    let mut own_files: Vec<&Path> = options.own_files.iter().map(PathBuf::as_path).collect();
    own_files.push(&options.database);
    let base = Base::open(&options.base)?;
    let walk = Walk::new(&base, &options.base, options.filter.clone(), &own_files)?;
    Ok((base, walk))
}

/// Records in the index of `options` the metadata of the base folder, which has no row. A bucket
/// and a single file have none.
///
/// # Errors
/// The folder is gone.
pub(in crate::engine) fn record_top_of(options: &IndexOptions) -> Result<()> {
    if options.bucket.is_some() {
        return Ok(());
    }
    let (base, walk) = walk_of(options)?;
    if let Some(Err(e)) = walk.top(&base).map(|top| set_top(&options.database, &top)) {
        // The index is complete without it, and may be read-only.
        tracing::warn!("the folder's own mode, owner and time are not in the index: {e}");
    }
    Ok(())
}

/// Entries that one thread takes at a time.
const STAT_BATCH: usize = 256;
/// Batches of names that may be under way.
const STAT_WINDOW: usize = 8;

/// Gives everything that `walk` finds in `base` to `each`, in its order; several threads stat the
/// entries.
pub(in crate::engine) fn stat_all(
    walk: &Walk,
    base: &Base,
    threads: usize,
    mut each: impl FnMut(std::result::Result<StatEntry, SkippedEntry>) -> Result<()>,
) -> Result<()> {
    ordered(
        threads,
        STAT_WINDOW,
        |batches| feed_names(walk, &batches),
        |names: Names| {
            let mut worker = StatWorker::new(walk, base);
            let stat = |name: std::result::Result<ListedName, SkippedEntry>| worker.stat(name?);
            names.into_iter().map(stat).collect::<Vec<_>>()
        },
        |entries| entries.into_iter().try_for_each(&mut each),
    )
}

type Names = Vec<std::result::Result<ListedName, SkippedEntry>>;

fn feed_names<R>(walk: &Walk, batches: &Feed<Names, R>) -> Result<()> {
    let mut names = Names::with_capacity(STAT_BATCH);
    walk.run(|name| {
        names.push(name);
        names.len() < STAT_BATCH
            || batches.push(std::mem::replace(&mut names, Names::with_capacity(STAT_BATCH)))
    })?;
    batches.push(names);
    Ok(())
}

/// An entry of a folder as a row, as far as its attributes tell.
pub(in crate::engine) enum StatRow {
    /// A file without digests.
    File {
        file: FileEntry,
        /// Device and inode, if it has several names.
        shared_inode: Option<(u64, u64)>,
    },
    /// A directory, a link, or a further name of a file.
    Node(Node),
}

/// Files with several names, by device and inode, with the number of names that are still to come.
/// A file is remembered only until all of its names were met.
#[derive(Default)]
pub(in crate::engine) struct HardLinks(HashMap<(u64, u64), (EntryPath, u64)>);

impl HardLinks {
    /// How many files have names that were not met.
    pub(in crate::engine) fn unmet(&self) -> u64 {
        self.0.len() as u64
    }

    /// The row of an entry. Entries come in the order of the walk.
    pub(in crate::engine) fn row_of(&mut self, entry: StatEntry) -> StatRow {
        let StatEntry { path, kind, stat, mtime_ns, is_closed } = entry;
        let meta = Some(Meta { mtime_ns, ..meta_of(&stat) }).filter(|_| !is_closed);
        let node =
            |kind, path, target: &[u8]| StatRow::Node(Node { kind, path, target: target.into(), meta });
        match kind {
            StatKind::Dir => return node(NodeKind::Dir, path, b""),
            StatKind::Symlink(target) => return node(NodeKind::Symlink, path, &target),
            StatKind::File => {}
        }
        let inode = (stat.st_dev, stat.st_ino);
        let is_shared = stat.st_nlink > 1;
        if is_shared && let Some((first, left)) = self.0.get_mut(&inode) {
            let first_path = first.clone();
            *left -= 1;
            if *left == 0 {
                self.0.remove(&inode);
            }
            return node(NodeKind::Hardlink, path, first_path.as_bytes());
        }
        if is_shared {
            self.0.insert(inode, (path.clone(), stat.st_nlink - 1));
        }
        let file = FileEntry { meta, ..entry_of(&path, &stat, None) };
        StatRow::File { file, shared_inode: is_shared.then_some(inode) }
    }
}
