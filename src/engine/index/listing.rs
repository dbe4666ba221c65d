//! The list of a bucket, as entries in the order of an index.

use crate::archive::entry::{Node, NodeKind};
use crate::archive::path::{EntryPath, PathError, printable};
use crate::archive::skipped::SkippedList;
use crate::db::listing::{Clash, ListedObject, Listing};
use crate::error::Result;
use crate::source::SkippedEntry;
use crate::source::filter::Filter;
use crate::source::s3::{Bucket, Listed, Taken};
use crate::telemetry::{Monitor, Notice};
use std::ops::ControlFlow;

/// Lists `bucket` into `listing`; reports the keys that are left out, and gives their list.
///
/// # Errors
/// As [`list_bucket`].
pub(in crate::engine) fn list_bucket_reporting(
    bucket: &Bucket,
    filter: &Filter,
    listing: &Listing,
    monitor: &dyn Monitor,
) -> Result<SkippedList> {
    let mut skipped_list = SkippedList::default();
    monitor.counters().totals_open.set(1);
    list_bucket(bucket, filter, listing, |skipped| {
        skipped_list.add(skipped.kind, &skipped.path);
        skipped.report(monitor);
    })?;
    let is_whole = filter.options().shard.is_none();
    if is_whole && skipped_list.total() + filter.left_out() == 0 && listing.is_empty()? {
        let text = format!("nothing lies below {}: is the prefix right?", bucket.address());
        monitor.notice(Notice::Warning(text));
    }
    end_of_filter(filter, &mut skipped_list, monitor);
    Ok(skipped_list)
}

/// A scan is at its end: adds to `skipped_list` what a receiver has to know of the filter, and
/// reports what it has not found.
pub(in crate::engine) fn end_of_filter(
    filter: &Filter,
    skipped_list: &mut SkippedList,
    monitor: &dyn Monitor,
) {
    skipped_list.set_filter(filter.rule_texts(), filter.options().listed.is_some());
    for path in filter.missing() {
        let missing = SkippedEntry::unsupported(&path, "it is listed, and the source does not have it");
        skipped_list.add(missing.kind, &missing.path);
        missing.report(monitor);
    }
    for warning in filter.unmatched() {
        monitor.notice(Notice::Warning(warning));
    }
}

/// Lists `bucket` into `listing`; gives the keys that are no paths, or that a limit leaves out, to
/// `skip`.
///
/// # Errors
/// The store refuses, or the disk is full.
pub(in crate::engine) fn list_bucket(
    bucket: &Bucket,
    filter: &Filter,
    listing: &Listing,
    mut skip: impl FnMut(SkippedEntry),
) -> Result<()> {
    filter.restart();
    let mut excluded = Excluded { filter, last_folder: (Vec::new(), false) };
    bucket.list(|listed| {
        if !filter.is_of_shard(&listed.path, listed.path.ends_with(b"/")) {
            return Ok(Taken::LeftOut);
        }
        if excluded.matches(&listed.path) {
            filter.count(&listed.path);
            return Ok(Taken::LeftOut);
        }
        if !listed.path.ends_with(b"/")
            && let Some(limit) = filter.of_file(listed.size, listed.modified_ns)
        {
            filter.count(&listed.path);
            skip(SkippedEntry::filtered(&listed.path, limit));
            return Ok(Taken::LeftOut);
        }
        match object_of(&listed) {
            Ok(object) if listing.add(&object, listed.encoded_key.as_deref())? => return Ok(Taken::New),
            Ok(_) => return Ok(Taken::Known),
            // As at the top of a folder: a receiver's state is no content.
            Err(UnfitKey::Reserved) => {
                tracing::info!("left out {}: it is the state of a tar-like receiver", printable(&listed.path))
            }
            Err(UnfitKey::Other(reason)) => skip(SkippedEntry::unsupported(&listed.path, reason)),
        }
        Ok(Taken::LeftOut)
    })
}

/// Why a key is not indexed.
enum UnfitKey {
    /// It belongs to a receiver's state.
    Reserved,
    Other(String),
}

fn object_of(listed: &Listed) -> std::result::Result<ListedObject, UnfitKey> {
    let (path, is_folder) = match listed.path.strip_suffix(b"/") {
        Some(path) => (path, true),
        None => (&listed.path[..], false),
    };
    let path = EntryPath::new(path).map_err(|why| match why {
        PathError::Reserved => UnfitKey::Reserved,
        why => UnfitKey::Other(format!("its key is no path: it {why}")),
    })?;
    if is_folder && listed.size > 0 {
        let why = "its key ends in '/', so that it stands for a folder, and yet it has content";
        return Err(UnfitKey::Other(why.to_string()));
    }
    let (size, etag, modified_ns) = (listed.size, listed.etag.clone(), listed.modified_ns);
    Ok(ListedObject { path, is_folder, size, etag, modified_ns, clash: Clash::None })
}

/// Filters keys as paths of a folder: a folder that is left out is left out with everything in it.
struct Excluded<'a> {
    filter: &'a Filter,
    /// The last folder, and whether it is left out. Neighbours mostly lie in the same folder.
    last_folder: (Vec<u8>, bool),
}

impl Excluded<'_> {
    fn matches(&mut self, path: &[u8]) -> bool {
        if !self.filter.has_path_rules() {
            return false;
        }
        let folder = path.iter().rposition(|&b| b == b'/').map_or(&[][..], |at| &path[..at]);
        if folder != self.last_folder.0 {
            let is_excluded = !folder.is_empty() && self.filter.leaves_out_key(&path[..=folder.len()]);
            self.last_folder = (folder.to_vec(), is_excluded);
        }
        // The key of a folder is the folder.
        self.last_folder.1 || (folder.len() + 1 < path.len() && self.filter.leaves_out_name(path))
    }
}

/// An entry of a bucket, as far as its list tells.
pub(in crate::engine) enum ListedEntry {
    Skipped(SkippedEntry),
    /// A folder without a key of its own.
    Folder(Node),
    /// A file, or the key that stands for a folder.
    Object(ListedObject),
}

/// Gives every entry of `listing` to `each`, in the order of an index, until `each` returns false.
pub(in crate::engine) fn listed_entries(
    listing: &Listing,
    mut each: impl FnMut(ListedEntry) -> Result<bool>,
) -> Result<()> {
    let (mut held, mut folder): (Option<ListedObject>, Vec<u8>) = (None, Vec::new());
    let mut take = |object: ListedObject, next: Option<&ListedObject>| -> Result<bool> {
        if next.is_some_and(|next| object.is_folder_of(next)) {
            let reason = "other keys have it as their folder";
            return each(ListedEntry::Skipped(SkippedEntry::unsupported(object.path.as_bytes(), reason)));
        }
        if let Some(reason) = clash_reason(object.clash) {
            return each(ListedEntry::Skipped(SkippedEntry::unreadable(object.path.as_bytes(), reason)));
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
    let mut goes_on = true;
    listing.objects(|object| {
        if let Some(previous) = held.replace(object)
            && !take(previous, held.as_ref())?
        {
            goes_on = false;
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some(last) = held.filter(|_| goes_on) {
        take(last, None)?;
    }
    Ok(())
}

/// Why the object of a path is ambiguous.
fn clash_reason(clash: Clash) -> Option<&'static str> {
    match clash {
        Clash::None => None,
        Clash::Content => Some("the list has it more than once, with different sizes or ETags"),
        Clash::Key => Some(
            "the list has several keys that are this one when they are decoded; if the store does not encode keys, although \
             it says so: --s3-list-plain",
        ),
    }
}

/// The folders of `object` that are not open yet if the last entry was in `folder`, outermost
/// first.
fn new_folders(folder: &[u8], object: &ListedObject) -> Vec<EntryPath> {
    let path = object.path.as_bytes();
    let is_open =
        |path: &[u8]| folder.starts_with(path) && (folder.len() == path.len() || folder[path.len()] == b'/');
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
    // A legal path up to any `/` is legal, too.
    ends.filter(|path| !is_open(path)).filter_map(|path| EntryPath::new(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::path_rules::PathRule;
    use crate::source::filter::{FilterOptions, FilterRule};

    #[test]
    fn an_excluded_folder_is_left_out_with_its_content() {
        let rule = |text: &str| FilterRule {
            rule: PathRule::parse(text).unwrap(),
            name: text.to_owned(),
            file: None,
        };
        let rules = ["x (^|/)cache$", "+ keep.tmp", "- *.tmp", "- only/"].map(rule).to_vec();
        let filter = Filter::new(FilterOptions { rules, ..FilterOptions::default() }).unwrap();
        let mut excluded = Excluded { filter: &filter, last_folder: (Vec::new(), false) };
        for (path, expected) in [
            (&b"cache"[..], true),
            (b"cache/", true),
            (b"cache/a", true),
            (b"cache/a/b", true),
            (b"a/cache/b/c", true),
            (b"a/cached/b", false),
            (b"x.tmp", true),
            (b"x.tmp/y", true),
            (b"keep.tmp", false),
            (b"only", false),
            (b"only/", true),
            (b"only/a", true),
            (b"x", false),
            (b"x/", false),
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
            clash: Clash::None,
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
