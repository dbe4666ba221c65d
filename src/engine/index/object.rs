//! Asking for objects and hashing them: heads where they say enough, contents where they do not, many at a time.

use super::super::buffers::Buffers;
use super::append::Growth;
use super::large::Large;
use super::read::{LARGE_BYTES, blake3_and_sketch};
use super::scan::{Content, Contents, Scanned};
use crate::archive::digest::{Md5, blake3, md5, md5_of_each};
use crate::archive::entry::{FileEntry, Node, NodeKind, ObjectId};
use crate::archive::path::EntryPath;
use crate::archive::sketch::{SketchHasher, average_for};
use crate::db::listing::ListedObject;
use crate::source::s3::{Bucket, Head, Listed, ObjectReader, Wanted};
use crate::source::walk::Skipped;
use crate::telemetry::Monitor;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// An object with what the former index says of its path.
pub(super) struct Candidate {
    pub(super) object: ListedObject,
    pub(super) former: Option<FileEntry>,
    /// Average length of the chunks of its former content, in bytes.
    pub(super) average: Option<u32>,
}

/// What the list has.
pub(super) enum Item {
    Object(Candidate),
    /// A folder that no key stands for.
    Folder(Node),
    Skipped(Skipped),
}

/// What became of it.
pub(super) enum Outcome {
    Scanned(Scanned),
    Skipped(Skipped),
}

/// Parts in which a large object is read where only its digests are wanted.
const PART_BYTES: usize = 4 << 20;

/// The reading threads' shared part.
pub(super) struct ObjectsReader<'a> {
    pub(super) bucket: &'a Arc<Bucket>,
    pub(super) contents: &'a Contents,
    /// Where the ETag is no md5, read the content for one.
    pub(super) read_contents: bool,
    pub(super) monitor: &'a dyn Monitor,
}

/// An object whose content is to be read whole.
struct Whole {
    /// Its place among the outcomes.
    at: usize,
    object: ListedObject,
    wanted: Wanted,
    average: Option<u32>,
    /// Its content's place in the buffer.
    range: Range<usize>,
}

impl ObjectsReader<'_> {
    /// Finds out what an index needs to know of each item.
    pub(super) fn examine(&self, items: Vec<Item>) -> Vec<Outcome> {
        let (mut outcomes, mut ask, mut read) = (Vec::with_capacity(items.len()), Vec::new(), Vec::new());
        let average = |item: &Item| match item {
            Item::Object(Candidate { average, .. }) => *average,
            _ => None,
        };
        let averages: Vec<Option<u32>> = items.iter().map(average).collect();
        for (at, item) in items.into_iter().enumerate() {
            outcomes.push(match item {
                Item::Folder(node) => Some(Outcome::Scanned(Scanned::Node(node))),
                Item::Skipped(skipped) => Some(Outcome::Skipped(skipped)),
                Item::Object(Candidate { object, former, .. }) => match former
                    .filter(|file| is_same(file, &object))
                {
                    Some(file) => {
                        self.note_read(file.size);
                        Some(Outcome::Scanned(Scanned::File {
                            file,
                            same: true,
                            content: None,
                            sketch: None,
                            growth: Growth::None,
                        }))
                    }
                    None => {
                        if self.is_read_at_once(&object) { &mut read } else { &mut ask }.push((at, object));
                        None
                    }
                },
            });
        }
        let mut wholes: Vec<Whole> = Vec::new();
        let mut end = 0;
        let mut push = |wholes: &mut Vec<Whole>, at, object: ListedObject, wanted, size: u64| {
            let start = end;
            end += usize::try_from(size).unwrap_or(0);
            wholes.push(Whole { at, object, wanted, average: averages[at], range: start..end });
        };
        for (at, object, head) in self.heads(ask) {
            match head.map(|head| self.by_head(object, head, averages[at])) {
                Err(skipped) => outcomes[at] = Some(Outcome::Skipped(skipped)),
                Ok(Asked::Known(outcome)) => outcomes[at] = Some(outcome),
                Ok(Asked::Read(object, head)) => {
                    let wanted = self.bucket.wanted_head(object.path.as_bytes(), &head);
                    push(&mut wholes, at, object, wanted, head.size);
                }
            }
        }
        for (at, object) in read {
            let (wanted, size) = (self.bucket.wanted(&listed(&object)), object.size);
            push(&mut wholes, at, object, wanted, size);
        }
        for (at, outcome) in self.read_whole(wholes, end) {
            outcomes[at] = Some(outcome);
        }
        outcomes.into_iter().flatten().collect()
    }

    /// Whether the content is wanted whatever the head says; the answer to GET has all that is in a head.
    fn is_read_at_once(&self, object: &ListedObject) -> bool {
        let small = !object.is_folder && object.size > 0 && object.size <= LARGE_BYTES;
        // A list without ETags says nothing that a range could be asked of. A dash: the ETag of an upload in parts.
        let etag = &object.etag;
        small && !etag.is_empty() && (self.keeps() || (self.read_contents && etag.contains('-')))
    }

    fn keeps(&self) -> bool {
        matches!(self.contents, Contents::Keep(_))
    }

    /// Progress of an index is what was read, or need not be; where contents are sent, it is what was sent.
    fn note_read(&self, bytes: u64) {
        if !self.keeps() {
            self.monitor.counters().done_bytes.add(bytes);
        }
    }

    fn heads(
        &self,
        ask: Vec<(usize, ListedObject)>,
    ) -> impl Iterator<Item = (usize, ListedObject, Result<Head, Skipped>)> {
        let keys: Vec<Vec<u8>> = ask.iter().map(|(_, object)| listed(object).path).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let heads = if keys.is_empty() { Vec::new() } else { self.bucket.heads(&keys) };
        ask.into_iter().zip(heads).map(|((at, object), head)| {
            let head = head.map_err(|reason| Skipped { path: object.path.to_string(), reason });
            (at, object, head)
        })
    }

    fn by_head(&self, object: ListedObject, head: Head, average: Option<u32>) -> Asked {
        let skipped = |reason: String| {
            Asked::Known(Outcome::Skipped(Skipped { path: object.path.to_string(), reason }))
        };
        if object.is_folder {
            let (path, meta) = (object.path, Some(head.folder_meta()));
            let node = Node { kind: NodeKind::Dir, path, target: Box::default(), meta };
            return Asked::Known(Outcome::Scanned(Scanned::Node(node)));
        }
        if head.size == 0 {
            let digests = Some((md5(b""), Some(blake3(b""))));
            return known(entry_of(&object, &head, digests));
        }
        if self.keeps() {
            let wanted = self.bucket.wanted_head(object.path.as_bytes(), &head);
            let entry = entry_of(&object, &head, head.md5().map(|md5| (md5, None)));
            let large = Large::of_object(entry, average_for(head.size, average), self.bucket.clone(), wanted);
            return Asked::Known(Outcome::Scanned(Scanned::Large(Box::new(large))));
        }
        if let Some(md5) = head.md5() {
            self.note_read(head.size);
            return known(entry_of(&object, &head, Some((md5, None))));
        }
        if !self.read_contents {
            self.note_read(head.size);
            return known(entry_of(&object, &head, None));
        }
        if head.size <= LARGE_BYTES {
            return Asked::Read(object, head);
        }
        match self.hash(&object, &head, average) {
            Ok((file, sketch)) => hashed(file, sketch),
            Err(reason) => skipped(reason),
        }
    }

    fn hash(
        &self,
        object: &ListedObject,
        head: &Head,
        average: Option<u32>,
    ) -> Result<(FileEntry, Option<Vec<u8>>), String> {
        let wanted = self.bucket.wanted_head(object.path.as_bytes(), head);
        let mut reader = ObjectReader::new(self.bucket.clone(), wanted, PART_BYTES);
        let mut hasher = SketchHasher::new(average_for(head.size, average), None);
        let parts = Buffers::new(usize::MAX);
        while let Some(part) = reader.next_part(|| parts.take()) {
            let part = part?;
            if self.monitor.is_cancelled() {
                return Err("interrupted".to_string());
            }
            hasher.update(&part);
            self.note_read(part.len() as u64);
        }
        let hashed = hasher.finish();
        let file = entry_of(object, head, Some((hashed.md5, Some(hashed.blake3))));
        Ok((file, hashed.sketch.to_keep()))
    }

    fn read_whole(&self, wholes: Vec<Whole>, length: usize) -> Vec<(usize, Outcome)> {
        if wholes.is_empty() {
            return Vec::new();
        }
        let mut pooled = match self.contents {
            Contents::Keep(buffers) => Some(buffers.take()),
            Contents::Drop => None,
        };
        let mut own = Vec::new();
        let buffer = pooled.as_deref_mut().unwrap_or(&mut own);
        buffer.resize(length, 0);
        let mut rest = &mut buffer[..];
        let mut jobs = Vec::with_capacity(wholes.len());
        for whole in &wholes {
            let (content, behind) = std::mem::take(&mut rest).split_at_mut(whole.range.len());
            jobs.push((whole.wanted.clone(), content));
            rest = behind;
        }
        let heads = self.bucket.read_whole(jobs);
        let contents: Vec<&[u8]> = wholes.iter().map(|whole| &buffer[whole.range.clone()]).collect();
        let digests: Vec<_> = md5_of_each(&contents)
            .into_iter()
            .zip(contents.iter().zip(&wholes))
            .map(|(md5, (content, whole))| (md5, blake3_and_sketch(content, whole.average)))
            .collect();
        drop(contents);
        let kept = pooled.map(|buffer| {
            // Contents may wait for long: not in a buffer that is mostly empty.
            if buffer.len() < buffer.capacity() / 8 * 7 {
                Bytes::copy_from_slice(&buffer)
            } else {
                Bytes::from_owner(buffer)
            }
        });
        let mut outcomes = Vec::with_capacity(wholes.len());
        for ((whole, head), (md5, (blake3, sketch))) in wholes.into_iter().zip(heads).zip(digests) {
            let Whole { at, object, wanted, range, .. } = whole;
            let outcome = head.and_then(|head| {
                self.check_etag(&head, wanted, md5, range.len())?;
                self.note_read(head.size);
                let file = entry_of(&object, &head, Some((md5, Some(blake3))));
                let content = kept.as_ref().map(|batch| Content { batch: batch.clone(), range });
                Ok(Scanned::File { file, same: false, content, sketch, growth: Growth::None })
            });
            let skipped = |reason| Outcome::Skipped(Skipped { path: object.path.to_string(), reason });
            outcomes.push((at, outcome.map_or_else(skipped, Outcome::Scanned)));
        }
        outcomes
    }

    /// An ETag that looks like the content's md5 and is another one: the content was damaged on the way, or this store's ETags are
    /// something else. Two answers that are the same are no damage.
    fn check_etag(&self, head: &Head, wanted: Wanted, md5: Md5, length: usize) -> Result<(), String> {
        if head.md5().is_none_or(|etag| etag == md5) {
            return Ok(());
        }
        let mut again = vec![0; length];
        let read = self.bucket.read_whole(vec![(wanted, &mut again)]).pop();
        match read {
            Some(Err(reason)) => Err(reason),
            Some(Ok(_)) if crate::archive::digest::md5(&again) == md5 => Ok(()),
            _ => Err("its content came differently each time it was read".to_string()),
        }
    }
}

/// What a head came to.
enum Asked {
    Known(Outcome),
    Read(ListedObject, Head),
}

fn known(file: FileEntry) -> Asked {
    hashed(file, None)
}

fn hashed(file: FileEntry, sketch: Option<Vec<u8>>) -> Asked {
    Asked::Known(Outcome::Scanned(Scanned::File {
        file,
        same: false,
        content: None,
        sketch,
        growth: Growth::None,
    }))
}

/// The same object as when the former index was made: neither its content nor what is recorded with it has changed.
pub(in super::super) fn is_same(file: &FileEntry, object: &ListedObject) -> bool {
    let same_object = file
        .object
        .as_deref()
        .is_some_and(|known| known.etag == object.etag && known.modified_ns == Some(object.modified_ns));
    same_object && file.size == object.size && file.is_provable()
}

fn listed(object: &ListedObject) -> Listed {
    let mut path = object.path.as_bytes().to_vec();
    if object.is_folder {
        path.push(b'/');
    }
    Listed { path, size: object.size, etag: object.etag.clone(), modified_ns: object.modified_ns }
}

fn entry_of(
    object: &ListedObject,
    head: &Head,
    digests: Option<(Md5, Option<crate::archive::digest::Blake3>)>,
) -> FileEntry {
    // Whoever comes later compares with a list: only what was the same there is known to be the same.
    let listed = head.object.etag == object.etag && head.size == object.size;
    FileEntry {
        id: 0,
        path: EntryPath::clone(&object.path),
        size: head.size,
        offset: 0,
        scattered: false,
        md5: digests.map(|(md5, _)| md5),
        blake3: digests.and_then(|(_, blake3)| blake3),
        meta: Some(head.file_meta()),
        origin: None,
        object: Some(Box::new(ObjectId {
            modified_ns: listed.then_some(object.modified_ns),
            ..head.object.clone()
        })),
    }
}
