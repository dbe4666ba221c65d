//! Making an index of a folder: walk, hash in parallel, write in order.

use super::pipeline::{Feed, ordered};
use crate::archive::digest::{Blake3, ContentHasher, IndexDigest, Md5};
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind, Origin};
use crate::archive::path::EntryPath;
use crate::db::index_read::{IndexReader, Summary};
use crate::db::index_write::IndexWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Folder, ctime_ns, is_kind, meta_of};
use crate::source::walk::{Found, FoundKind, Skipped, Walk};
use crate::telemetry::{Monitor, Notice};
use regex::bytes::Regex;
use rustix::fs::FileType;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// What to index.
pub struct IndexOptions {
    /// The folder.
    pub base: PathBuf,
    /// Where the index goes.
    pub database: PathBuf,
    /// Relative paths that match are left out.
    pub exclude: Vec<Regex>,
    /// Other files of ours that may lie in the folder and are left out.
    pub own_files: Vec<PathBuf>,
    /// Take the digests of files that did not change since `database` was made from there, and keep that index if nothing
    /// changed at all.
    pub reuse: bool,
    /// Hashing threads.
    pub threads: usize,
}

/// What was indexed.
#[derive(Debug, Clone)]
pub struct IndexReport {
    /// Names this state of the index.
    pub digest: IndexDigest,
    /// Regular files.
    pub files: u64,
    /// Directories and links.
    pub nodes: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
    /// Entries that were left out because they could not be read or have no content to copy.
    pub skipped: u64,
    /// Nothing changed: the former index stands.
    pub unchanged: bool,
}

/// Files that are hashed by one thread in one go: so many …
const BATCH_FILES: usize = 64;
/// … or so many bytes, whichever comes first.
const BATCH_BYTES: u64 = 8 << 20;
const READ_BYTES: usize = 256 << 10;
/// A file that changes while it is read is read again, so many times in all.
const ATTEMPTS: usize = 3;

/// A file that is to be hashed, or whose digests are known from the former index.
struct Candidate {
    path: EntryPath,
    /// Device and inode of a file that has other names, too.
    linked: Option<(u64, u64)>,
    known: Option<FileEntry>,
}

enum Item {
    File(Candidate),
    Node(Node),
    Skipped(Skipped),
}

enum Outcome {
    /// A file, and whether it was read.
    File(FileEntry, bool),
    Node(Node),
    Skipped {
        skipped: Skipped,
        linked: Option<EntryPath>,
    },
}

/// Makes the index.
///
/// # Errors
/// The base folder cannot be read, or the database cannot be written.
pub fn index(options: &IndexOptions, monitor: &dyn Monitor) -> Result<IndexReport> {
    let started_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut own: Vec<&std::path::Path> = options.own_files.iter().map(PathBuf::as_path).collect();
    let mut writer = IndexWriter::create(&options.database)?;
    let partial = writer.partial_path().to_path_buf();
    own.extend([options.database.as_path(), partial.as_path()]);
    let walk = Walk::new(&options.base, options.exclude.clone(), &own)?;
    let base = Folder::open(&options.base)
        .map_err(|e| Error::io(format!("cannot open the base folder {}", options.base.display()), e))?;
    let former = former_index(options)?;
    let former_summary = former.as_ref().map(|(_, summary)| summary.clone());
    let mut former_rows = former.map(|(reader, summary)| FormerRows::new(reader, &summary));
    let mut failed_links: HashSet<EntryPath> = HashSet::new();
    let (mut skipped_count, mut read_count) = (0, 0);
    ordered(
        options.threads,
        |feed| walk_into(&walk, feed, former_rows.as_mut(), monitor),
        |batch: Vec<Item>| {
            batch.into_iter().map(|item| examine(&base, item, monitor)).collect::<Vec<Outcome>>()
        },
        |outcomes| {
            if monitor.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted; no index was written"));
            }
            for outcome in outcomes {
                let skipped = match outcome {
                    Outcome::File(mut file, read) => {
                        read_count += u64::from(read);
                        (file.id, file.offset) = (writer.files(), writer.total_bytes());
                        writer.file(&file)?;
                        monitor.counters().files_done.add(1);
                        continue;
                    }
                    Outcome::Node(node) => {
                        let lost = node.kind == NodeKind::Hardlink
                            && failed_links.iter().any(|path| *path.as_bytes() == *node.target);
                        if !lost {
                            writer.node(&node)?;
                            continue;
                        }
                        Skipped {
                            path: node.path.to_string(),
                            reason: "another name of the same file failed".to_string(),
                        }
                    }
                    Outcome::Skipped { skipped, linked } => {
                        failed_links.extend(linked);
                        skipped
                    }
                };
                skipped_count += 1;
                monitor.counters().files_failed.add(1);
                monitor.notice(Notice::Failed { path: skipped.path, reason: skipped.reason });
            }
            Ok(())
        },
    )?;
    let base_path = options.base.canonicalize().unwrap_or_else(|_| options.base.clone());
    let digest = writer.digest();
    let report = |digest, files, nodes, total_bytes, unchanged| IndexReport {
        digest,
        files,
        nodes,
        total_bytes,
        skipped: skipped_count,
        unchanged,
    };
    let unchanged = former_summary.as_ref().is_some_and(|former| former.digest == digest);
    if let Some(former) = former_summary.as_ref().filter(|_| unchanged && read_count == 0) {
        return Ok(report(digest, former.files, former.nodes, former.total_bytes, true));
    }
    // Files that were read again although nothing changed have new inodes or times: the next run wants to know them.
    let generation = former_summary.map_or(1, |former| former.generation + u64::from(!unchanged));
    let written = writer.finish(base_path.as_os_str().as_bytes(), generation, started_s)?;
    Ok(report(written.digest, written.files, written.nodes, written.total_bytes, unchanged))
}

fn former_index(options: &IndexOptions) -> Result<Option<(IndexReader, Summary)>> {
    if !options.reuse || !options.database.exists() {
        return Ok(None);
    }
    let reader = IndexReader::open(&options.database)?;
    if !reader.is_ours() {
        return Ok(None);
    }
    let summary = reader.summary()?;
    Ok(Some((reader, summary)))
}

/// The rows of the former index, in step with the walk: both are in the same order.
struct FormerRows {
    reader: IndexReader,
    next_id: u64,
    files: u64,
    /// Files that changed from here on, in nanoseconds since 1970, may have changed again unnoticed in the same tick of the clock.
    settled_ns: i64,
    rows: VecDeque<(Vec<u8>, FileEntry)>,
}

impl FormerRows {
    const PAGE: u64 = 4096;

    /// A clock tick of the coarsest file systems.
    const TICK_S: u64 = 2;

    fn new(reader: IndexReader, summary: &Summary) -> Self {
        let settled_s = summary.created_s.saturating_sub(Self::TICK_S);
        let settled_ns = i64::try_from(settled_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        Self { reader, next_id: 0, files: summary.files, settled_ns, rows: VecDeque::new() }
    }

    /// The former row of `path`. Paths are asked for in ascending order of their keys.
    fn find(&mut self, path: &EntryPath) -> Result<Option<FileEntry>> {
        let key = path.sort_key();
        loop {
            if self.rows.is_empty() {
                if self.next_id >= self.files {
                    return Ok(None);
                }
                let page = self.next_id..(self.next_id + Self::PAGE).min(self.files);
                self.next_id = page.end;
                let rows = &mut self.rows;
                self.reader.files_with_ids(page, |file| {
                    rows.push_back((file.path.sort_key(), file));
                    Ok(ControlFlow::Continue(()))
                })?;
                continue;
            }
            match self.rows.front().map(|(former, _)| former.cmp(&key)) {
                Some(std::cmp::Ordering::Less) => drop(self.rows.pop_front()),
                Some(std::cmp::Ordering::Equal) => return Ok(self.rows.pop_front().map(|(_, file)| file)),
                _ => return Ok(None),
            }
        }
    }
}

fn walk_into(
    walk: &Walk,
    feed: Feed<Vec<Item>, Vec<Outcome>>,
    mut former: Option<&mut FormerRows>,
    monitor: &dyn Monitor,
) -> Result<()> {
    // Only files with several names need to be remembered, and only until all of them were seen.
    let mut links: HashMap<(u64, u64), (EntryPath, u64)> = HashMap::new();
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    let mut failure = None;
    walk.run(|found| {
        let (item, size_bytes) = match found {
            Err(skipped) => (Item::Skipped(skipped), 0),
            Ok(found) => match item_of(found, &mut links, former.as_deref_mut()) {
                Ok(item) => item,
                Err(e) => {
                    failure = Some(e);
                    return false;
                }
            },
        };
        if matches!(item, Item::File(_)) {
            monitor.counters().files_total.add(1);
            monitor.counters().total_bytes.add(size_bytes);
        }
        batch.push(item);
        batch_bytes += size_bytes;
        if batch.len() < BATCH_FILES && batch_bytes < BATCH_BYTES {
            return true;
        }
        batch_bytes = 0;
        feed.push(std::mem::take(&mut batch))
    })?;
    if let Some(e) = failure {
        return Err(e);
    }
    feed.push(batch);
    Ok(())
}

fn item_of(
    found: Found,
    links: &mut HashMap<(u64, u64), (EntryPath, u64)>,
    former: Option<&mut FormerRows>,
) -> Result<(Item, u64)> {
    let Found { path, kind, metadata, mtime_ns } = found;
    let meta =
        Some(Meta { mode: metadata.mode() & 0o7777, mtime_ns, uid: metadata.uid(), gid: metadata.gid() });
    let node = |kind, path, target: &[u8]| (Item::Node(Node { kind, path, target: target.into(), meta }), 0);
    Ok(match kind {
        FoundKind::Dir => node(NodeKind::Dir, path, b""),
        FoundKind::Symlink(target) => node(NodeKind::Symlink, path, &target),
        FoundKind::File => {
            let inode = (metadata.dev(), metadata.ino());
            let linked = metadata.nlink() > 1;
            if linked && let Some((first, left)) = links.get_mut(&inode) {
                let first_path = first.clone();
                *left -= 1;
                if *left == 0 {
                    links.remove(&inode);
                }
                return Ok(node(NodeKind::Hardlink, path, first_path.as_bytes()));
            }
            if linked {
                links.insert(inode, (path.clone(), metadata.nlink() - 1));
            }
            let ctime_ns =
                metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec());
            let origin = Origin { dev: inode.0, ino: inode.1, ctime_ns };
            let known = match former {
                Some(former) => former.find(&path)?.filter(|file| {
                    ctime_ns.max(mtime_ns) < former.settled_ns
                        && file.size == metadata.len()
                        && file.origin == Some(origin)
                        && file.blake3.is_some()
                        && file.meta.map(|m| m.mtime_ns) == meta.map(|m| m.mtime_ns)
                }),
                None => None,
            };
            let known = known.map(|file| FileEntry { meta, ..file });
            let linked = linked.then_some(inode);
            (Item::File(Candidate { path, linked, known }), metadata.len())
        }
    })
}

fn examine(base: &Folder, item: Item, monitor: &dyn Monitor) -> Outcome {
    match item {
        Item::Node(node) => Outcome::Node(node),
        Item::Skipped(skipped) => Outcome::Skipped { skipped, linked: None },
        Item::File(Candidate { known: Some(file), .. }) => {
            monitor.counters().done_bytes.add(file.size);
            Outcome::File(file, false)
        }
        Item::File(Candidate { path, linked, known: None }) => {
            match hash_file(base, &path, linked, monitor) {
                Ok(file) => Outcome::File(file, true),
                Err(reason) => {
                    let skipped = Skipped { path: path.to_string(), reason };
                    Outcome::Skipped { skipped, linked: linked.map(|_| path) }
                }
            }
        }
    }
}

fn hash_file(
    base: &Folder,
    path: &EntryPath,
    linked: Option<(u64, u64)>,
    monitor: &dyn Monitor,
) -> std::result::Result<FileEntry, String> {
    for _ in 0..ATTEMPTS {
        let cannot = |what: &str, e: std::io::Error| format!("it cannot be {what}: {e}");
        let file = base.open_file(path.as_bytes()).map_err(|e| cannot("opened", e.into()))?;
        let before = rustix::fs::fstat(&file).map_err(|e| cannot("looked at", e.into()))?;
        if !is_kind(&before, FileType::RegularFile) {
            return Err("it is no regular file any more".to_string());
        }
        if linked.is_some_and(|inode| inode != (before.st_dev, before.st_ino)) {
            // Its other names still mean the former file.
            return Err("it was replaced while its folder was indexed".to_string());
        }
        let size = u64::try_from(before.st_size).unwrap_or(0);
        let (length, (md5, blake3)) = hash(file.try_clone().map_err(|e| cannot("read", e))?, size, monitor)
            .map_err(|e| cannot("read", e))?;
        let after = rustix::fs::fstat(&file).map_err(|e| cannot("looked at", e.into()))?;
        let meta = meta_of(&before);
        let unchanged = length == size
            && after.st_size == before.st_size
            && meta == meta_of(&after)
            && ctime_ns(&before) == ctime_ns(&after);
        if unchanged {
            let origin = Some(Origin { dev: before.st_dev, ino: before.st_ino, ctime_ns: ctime_ns(&before) });
            return Ok(FileEntry {
                id: 0,
                path: path.clone(),
                size,
                offset: 0,
                md5,
                blake3: Some(blake3),
                meta: Some(meta),
                origin,
            });
        }
        monitor.counters().done_bytes.sub(length);
    }
    Err(format!("it changed each time it was read, {ATTEMPTS} times"))
}

/// Reads at most one byte more than `size`: a file that grows without end must not be read without end.
fn hash(file: File, size: u64, monitor: &dyn Monitor) -> std::io::Result<(u64, (Md5, Blake3))> {
    let mut buffer = vec![0; READ_BYTES.min(usize::try_from(size).unwrap_or(READ_BYTES).saturating_add(1))];
    let mut reader = file.take(size.saturating_add(1));
    let mut hasher = ContentHasher::default();
    let mut length = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((length, hasher.finish())),
            Ok(_) if monitor.is_cancelled() => return Err(std::io::Error::other("interrupted")),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                length += n as u64;
                monitor.counters().done_bytes.add(n as u64);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Refuses to replace an index that is there, unless `clean` asks for that.
///
/// # Errors
/// There is one.
pub fn refuse_existing(options: &IndexOptions, clean: bool) -> Result<()> {
    if clean || !options.database.exists() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("there is an index already at {}", options.database.display()))
        .hint("give -c to replace it, or -db to write another one")
        .with_kind(ErrorKind::Source))
}
