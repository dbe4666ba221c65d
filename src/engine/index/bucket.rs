//! Going through a bucket: it is listed first, as a whole, and then asked for what the index needs, many objects at a time.

use super::super::pipeline::{Feed, ordered};
use super::IndexOptions;
use super::former::FormerRows;
use super::object::{Candidate, Item, ObjectsReader, Outcome};
use super::scan::{Contents, Scanned};
use crate::archive::entry::{Node, NodeKind};
use crate::archive::path::{EntryPath, PathError, printable};
use crate::db::listing::{ListedObject, Listing};
use crate::error::{Error, ErrorKind, Result};
use crate::source::s3::{Bucket, Listed};
use crate::source::walk::Skipped;
use crate::telemetry::{Monitor, Notice};
use regex::bytes::Regex;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Objects that are looked at by one thread in one go: so many …
const BATCH_OBJECTS: usize = 512;
/// Batches that may wait, where only digests are kept …
const WINDOW: usize = 16;
/// … and where contents are.
const WINDOW_WITH_CONTENTS: usize = 2;
/// Threads beyond the cores: they mostly wait for the store.
const THREADS: usize = 4;

/// A bucket that is about to be gone through.
pub(in super::super) struct BucketScan {
    bucket: Arc<Bucket>,
    listing: Listing,
    exclude: Vec<Regex>,
    former: Option<FormerRows>,
    contents: Contents,
    read_contents: bool,
}

impl BucketScan {
    pub(super) fn new(
        options: &IndexOptions,
        bucket: Arc<Bucket>,
        former: Option<FormerRows>,
        contents: Contents,
    ) -> Result<Self> {
        let folder = options.database.parent().filter(|folder| !folder.as_os_str().is_empty());
        let listing = Listing::create(folder.unwrap_or(Path::new(".")))?;
        let (exclude, read_contents) = (options.exclude.clone(), options.read_contents);
        Ok(Self { bucket, listing, exclude, former, contents, read_contents })
    }

    /// Gives every entry to `each`; tells `monitor` of those that are left out, and returns their number.
    pub(super) fn run(
        mut self,
        threads: usize,
        monitor: &dyn Monitor,
        mut each: impl FnMut(Scanned) -> Result<()>,
    ) -> Result<u64> {
        let mut skipped_count = list_with(&self.bucket, &self.exclude, &self.listing, monitor)?;
        let keeps = matches!(self.contents, Contents::Keep(_));
        let window = if keeps { WINDOW_WITH_CONTENTS } else { WINDOW };
        let batch_bytes = self.contents.batch_bytes();
        let reader = ObjectsReader {
            bucket: &self.bucket,
            contents: &self.contents,
            read_contents: self.read_contents,
            monitor,
        };
        // One thread only: SQLite connections are not shared.
        let (listing, former) = (&mut self.listing, self.former.as_mut());
        ordered(
            threads.max(THREADS),
            window,
            move |feed| feed_from(listing, feed, batch_bytes, former, monitor),
            |batch: Vec<Item>| reader.examine(batch),
            |outcomes| {
                if monitor.is_cancelled() {
                    return Err(Error::new(ErrorKind::Interrupted, "interrupted; no index was written"));
                }
                for outcome in outcomes {
                    match outcome {
                        Outcome::Scanned(scanned) => each(scanned)?,
                        Outcome::Skipped(skipped) => {
                            skipped_count += 1;
                            tell(skipped, monitor);
                        }
                    }
                }
                Ok(())
            },
        )?;
        if let Some(former) = &mut self.former {
            former.end()?;
        }
        Ok(skipped_count)
    }
}

fn tell(skipped: Skipped, monitor: &dyn Monitor) {
    monitor.counters().files_failed.add(1);
    monitor.notice(Notice::Failed { path: skipped.path, reason: skipped.reason });
}

/// Lists `bucket` into `listing`; tells `monitor` of what is left out, and returns their number.
///
/// # Errors
/// As [`list`].
pub(in super::super) fn list_with(
    bucket: &Bucket,
    exclude: &[Regex],
    listing: &Listing,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let mut skipped_count = 0;
    monitor.counters().totals_open.set(1);
    list(bucket, exclude, listing, |skipped| {
        skipped_count += 1;
        tell(skipped, monitor);
    })?;
    if skipped_count == 0 && listing.is_empty()? {
        let text = format!("nothing lies below {}: is the prefix right?", bucket.address());
        monitor.notice(Notice::Warning(text));
    }
    Ok(skipped_count)
}

/// Lists `bucket` into `listing`; tells `skip` of the keys that are no paths.
///
/// # Errors
/// The store refuses, or the disk is full.
pub(in super::super) fn list(
    bucket: &Bucket,
    exclude: &[Regex],
    listing: &Listing,
    mut skip: impl FnMut(Skipped),
) -> Result<()> {
    let mut excluded = Excluded { exclude, last_folder: (Vec::new(), false) };
    bucket.list(|listed| {
        if excluded.matches(&listed.path) {
            return Ok(true);
        }
        match object_of(&listed) {
            Ok(object) => listing.add(&object)?,
            // As at the top of a folder: a receiver's state is no content.
            Err(Unfit::Reserved) => {
                tracing::info!("left out {}: it is the state of a tar-like receiver", printable(&listed.path))
            }
            Err(Unfit::Because(reason)) => skip(Skipped { path: printable(&listed.path), reason }),
        }
        Ok(true)
    })
}

/// Why a key is not indexed.
enum Unfit {
    Reserved,
    Because(String),
}

fn object_of(listed: &Listed) -> std::result::Result<ListedObject, Unfit> {
    let (path, is_folder) = match listed.path.strip_suffix(b"/") {
        Some(path) => (path, true),
        None => (&listed.path[..], false),
    };
    let path = EntryPath::new(path).map_err(|why| match why {
        PathError::Reserved => Unfit::Reserved,
        why => Unfit::Because(format!("its key is no path: it {why}")),
    })?;
    if is_folder && listed.size > 0 {
        let why = "its key ends in '/', so that it stands for a folder, and yet it has content";
        return Err(Unfit::Because(why.to_string()));
    }
    let (size, etag, modified_ns) = (listed.size, listed.etag.clone(), listed.modified_ns);
    Ok(ListedObject { path, is_folder, size, etag, modified_ns })
}

/// As in a folder, what matches is left out with all that it contains.
struct Excluded<'a> {
    exclude: &'a [Regex],
    /// Neighbours mostly lie in the same folder.
    last_folder: (Vec<u8>, bool),
}

impl Excluded<'_> {
    fn matches(&mut self, path: &[u8]) -> bool {
        if self.exclude.is_empty() {
            return false;
        }
        let any = |path: &[u8]| self.exclude.iter().any(|regex| regex.is_match(path));
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let folder = path.iter().rposition(|&b| b == b'/').map_or(&[][..], |at| &path[..at]);
        if folder != self.last_folder.0 {
            let ends = (0..=folder.len()).filter(|&at| at == folder.len() || folder[at] == b'/');
            let outside = ends.map(|end| &folder[..end]).filter(|folder| !folder.is_empty()).any(any);
            self.last_folder = (folder.to_vec(), outside);
        }
        self.last_folder.1 || any(path)
    }
}

fn feed_from(
    listing: &Listing,
    feed: Feed<Vec<Item>, Vec<Outcome>>,
    most_bytes: u64,
    mut former: Option<&mut FormerRows>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut batch = Batch { feed, items: Vec::new(), bytes: 0, most_bytes };
    entries(listing, |entry| {
        let object = match entry {
            ListedEntry::Skipped(skipped) => return Ok(batch.push(Item::Skipped(skipped), 0)),
            ListedEntry::Folder(node) => return Ok(batch.push(Item::Folder(node), 0)),
            ListedEntry::Object(object) => object,
        };
        if object.is_folder {
            return Ok(batch.push(Item::Object(Candidate { object, former: None, average: None }), 0));
        }
        monitor.counters().files_total.add(1);
        monitor.counters().total_bytes.add(object.size);
        let (mut known, mut average) = (None, None);
        if let Some(former) = former.as_deref_mut()
            && let Some(file) = former.find(&object.path)?
        {
            average = former.average_of(&file)?;
            known = (!former.read_all).then_some(file);
        }
        let size = object.size;
        Ok(batch.push(Item::Object(Candidate { object, former: known, average }), size))
    })?;
    monitor.counters().totals_open.set(0);
    batch.flush();
    Ok(())
}

/// An entry of a bucket as far as its list tells.
pub(in super::super) enum ListedEntry {
    Skipped(Skipped),
    /// A folder that no key stands for.
    Folder(Node),
    /// A file, or the key that stands for a folder.
    Object(ListedObject),
}

/// Gives every entry of `listing`, in the order of an index, until `each` returns false.
pub(in super::super) fn entries(
    listing: &Listing,
    mut each: impl FnMut(ListedEntry) -> Result<bool>,
) -> Result<()> {
    let (mut held, mut folder): (Option<ListedObject>, Vec<u8>) = (None, Vec::new());
    let mut take = |object: ListedObject, next: Option<&ListedObject>| -> Result<bool> {
        if next.is_some_and(|next| object.is_folder_of(next)) {
            let reason = "other keys have it as their folder".to_string();
            return each(ListedEntry::Skipped(Skipped { path: object.path.to_string(), reason }));
        }
        for path in new_folders(&folder, &object) {
            folder = path.as_bytes().to_vec();
            let node = Node { kind: NodeKind::Dir, path, target: Box::default(), meta: None };
            if !each(ListedEntry::Folder(node))? {
                return Ok(false);
            }
        }
        if object.is_folder {
            folder = object.path.as_bytes().to_vec();
        }
        each(ListedEntry::Object(object))
    };
    let mut wanted = true;
    listing.objects(|object| {
        if let Some(previous) = held.replace(object)
            && !take(previous, held.as_ref())?
        {
            wanted = false;
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some(last) = held.filter(|_| wanted) {
        take(last, None)?;
    }
    Ok(())
}

/// The folders of `object` that are not open yet where the last entry was in `folder`, outermost first.
fn new_folders(folder: &[u8], object: &ListedObject) -> Vec<EntryPath> {
    let path = object.path.as_bytes();
    let is_open =
        |path: &[u8]| folder.starts_with(path) && (folder.len() == path.len() || folder[path.len()] == b'/');
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
    // Part of a legal path up to a `/` is one.
    ends.filter(|path| !is_open(path)).filter_map(|path| EntryPath::new(path).ok()).collect()
}

struct Batch {
    feed: Feed<Vec<Item>, Vec<Outcome>>,
    items: Vec<Item>,
    bytes: u64,
    most_bytes: u64,
}

impl Batch {
    /// False says that nobody wants more.
    fn push(&mut self, item: Item, bytes: u64) -> bool {
        // What does not fit any more begins the next batch: contents of a batch are in memory at once.
        if self.bytes > 0 && self.bytes + bytes > self.most_bytes && !self.flush() {
            return false;
        }
        self.items.push(item);
        self.bytes += bytes;
        (self.items.len() < BATCH_OBJECTS && self.bytes < self.most_bytes) || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.bytes = 0;
        self.feed.push(std::mem::take(&mut self.items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_left_out_with_its_contents() {
        let exclude = [Regex::new("(^|/)cache$").unwrap(), Regex::new(r"\.tmp$").unwrap()];
        let mut excluded = Excluded { exclude: &exclude, last_folder: (Vec::new(), false) };
        for (path, expected) in [
            (&b"cache"[..], true),
            (b"cache/", true),
            (b"cache/a", true),
            (b"cache/a/b", true),
            (b"a/cache/b/c", true),
            (b"a/cached/b", false),
            (b"x.tmp", true),
            (b"x.tmp/y", true),
            (b"x", false),
        ] {
            assert_eq!(excluded.matches(path), expected, "{}", printable(path));
        }
    }

    #[test]
    fn folders_are_opened_once() {
        let object = |path: &str| ListedObject {
            path: EntryPath::new(path.as_bytes()).unwrap(),
            is_folder: false,
            size: 0,
            etag: String::new(),
            modified_ns: 0,
        };
        let new = |folder: &str, path: &str| {
            new_folders(folder.as_bytes(), &object(path)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(new("", "a/b/c"), ["a", "a/b"]);
        assert_eq!(new("a/b", "a/b/d"), [] as [&str; 0]);
        assert_eq!(new("a/b", "a/bc/d"), ["a/bc"]);
        assert_eq!(new("a/b", "c"), [] as [&str; 0]);
    }
}
