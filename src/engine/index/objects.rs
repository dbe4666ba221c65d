//! Examining the objects of a bucket, many at a time: by HEAD where that tells enough, else by
//! reading and hashing the content.

use super::entry::{
    BatchContent, Candidate, ContentUse, HashedFile, LargeFile, LargeObject, ScanItem, ScanOutcome,
    ScannedEntry,
};
use super::etag::verified;
use super::hash::{LARGE_BYTES, blake3_and_chunk_map, share};
use crate::archive::chunk_map::mean_chunk_for;
use crate::archive::digest::{Blake3, Md5, blake3, md5, md5_of_each};
use crate::archive::entry::{FileEntry, Node, NodeKind, ObjectId};
use crate::archive::path::EntryPath;
use crate::db::listing::ListedObject;
use crate::source::s3::{Bucket, Head, Listed, ObjectState};
use crate::telemetry::Monitor;
use std::ops::Range;
use std::sync::Arc;

/// Examines the objects of a bucket. All examining threads share it.
pub(super) struct ObjectHasher<'a> {
    pub(super) bucket: &'a Arc<Bucket>,
    pub(super) contents: &'a ContentUse,
    /// Where the ETag is no md5, read the content to compute it.
    pub(super) read_contents: bool,
    /// Read the content also where the ETag looks like its md5.
    pub(super) read_all: bool,
    pub(super) monitor: &'a dyn Monitor,
}

/// An object of a batch.
struct BatchObject {
    /// Its place among the outcomes.
    at: usize,
    object: ListedObject,
    mean_chunk: Option<u32>,
}

/// An object whose content is to be read as a whole.
struct SmallObject {
    object: BatchObject,
    state: ObjectState,
    /// Where its content is in the buffer.
    range: Range<usize>,
}

/// The objects of a batch that are to be read as a whole.
#[derive(Default)]
struct SmallObjects {
    objects: Vec<SmallObject>,
    bytes: usize,
}

impl SmallObjects {
    fn push(&mut self, object: BatchObject, state: ObjectState, size: u64) {
        let start = self.bytes;
        self.bytes += usize::try_from(size).unwrap_or(0);
        self.objects.push(SmallObject { object, state, range: start..self.bytes });
    }
}

/// What the answer to a HEAD leads to.
enum HeadOutcome {
    Examined(ScanOutcome),
    /// The content has to be read.
    Read(BatchObject, Head),
}

impl From<ScanOutcome> for HeadOutcome {
    fn from(outcome: ScanOutcome) -> Self {
        Self::Examined(outcome)
    }
}

impl ObjectHasher<'_> {
    /// Finds out what an index needs to know of each item.
    pub(super) fn examine(&self, items: Vec<ScanItem<ListedObject>>) -> Vec<ScanOutcome> {
        let (mut outcomes, mut ask, mut read) = (Vec::with_capacity(items.len()), Vec::new(), Vec::new());
        for (at, item) in items.into_iter().enumerate() {
            outcomes.push(match item {
                ScanItem::Node(node) => Some(ScanOutcome::Scanned(ScannedEntry::Node(node))),
                ScanItem::Skipped(skipped) => Some(ScanOutcome::Skipped { skipped, is_shared: false }),
                ScanItem::File(Candidate { unmodified: Some(unmodified), .. }) => {
                    self.add_progress(unmodified.file.size);
                    Some(HashedFile::from(unmodified).into())
                }
                ScanItem::File(Candidate { source: object, mean_chunk, .. }) => {
                    let queue = if self.needs_content(&object) { &mut read } else { &mut ask };
                    queue.push(BatchObject { at, object, mean_chunk });
                    None
                }
            });
        }
        let mut small = SmallObjects::default();
        for (object, head) in self.heads(ask) {
            let at = object.at;
            let outcome = match head {
                Ok(head) => self.by_head(object, head),
                Err(reason) => ScanOutcome::unreadable(&object.object.path, reason).into(),
            };
            match outcome {
                HeadOutcome::Examined(outcome) => outcomes[at] = Some(outcome),
                HeadOutcome::Read(object, head) => {
                    let state = self.bucket.head_state(object.object.path.as_bytes(), &head);
                    small.push(object, state, head.size);
                }
            }
        }
        for object in read {
            let (state, size) = (self.bucket.listed_state(&listed(&object.object)), object.object.size);
            small.push(object, state, size);
        }
        for (at, outcome) in self.hash_small(small) {
            outcomes[at] = Some(outcome);
        }
        outcomes.into_iter().flatten().collect()
    }

    /// Whether the content has to be read whatever a HEAD says; the answer to the GET has all that
    /// a HEAD has.
    fn needs_content(&self, object: &ListedObject) -> bool {
        let is_small = !object.is_folder && object.size > 0 && object.size <= LARGE_BYTES;
        // Without an ETag the list does not tell which state a GET would have to name. An ETag with
        // a dash is that of an upload in parts.
        let etag = &object.etag;
        is_small
            && !etag.is_empty()
            && (self.contents.has_contents() || self.read_all || (self.read_contents && etag.contains('-')))
    }

    /// The progress of an index counts bytes that were read or need not be; where contents are
    /// passed on, the bytes that were sent are counted elsewhere.
    fn add_progress(&self, bytes: u64) {
        if !self.contents.has_contents() {
            self.monitor.counters().done_bytes.add(bytes);
        }
    }

    fn heads(&self, ask: Vec<BatchObject>) -> impl Iterator<Item = (BatchObject, Result<Head, String>)> {
        let objects: Vec<Listed> = ask.iter().map(|asked| listed(&asked.object)).collect();
        let heads = if objects.is_empty() { Vec::new() } else { self.bucket.heads(&objects) };
        ask.into_iter().zip(heads)
    }

    fn by_head(&self, object: BatchObject, head: Head) -> HeadOutcome {
        let BatchObject { object: listed, mean_chunk, .. } = &object;
        if listed.is_folder {
            let (path, meta) = (listed.path.clone(), Some(head.folder_meta()));
            let node = Node { kind: NodeKind::Dir, path, target: Box::default(), meta };
            return ScanOutcome::Scanned(ScannedEntry::Node(node)).into();
        }
        if head.size == 0 && listed.size != 0 {
            // Nothing would be read of it, so that nothing would verify the new size.
            let reason = format!("it is empty now, and had {} bytes when it was listed", listed.size);
            return ScanOutcome::unreadable(&listed.path, reason).into();
        }
        if head.size == 0 {
            let digests = Some((md5(b""), Some(blake3(b""))));
            return by_digests(listed, &head, digests);
        }
        if self.contents.has_contents() {
            let large = self.large_object(listed, &head, *mean_chunk);
            let large = LargeFile::of_object(entry_of(listed, &head, None), large);
            return ScanOutcome::Scanned(ScannedEntry::Large(Box::new(large))).into();
        }
        if let Some(md5) = head.md5().filter(|_| !self.read_all) {
            self.add_progress(head.size);
            return by_digests(listed, &head, Some((md5, None)));
        }
        if !self.read_contents && !self.read_all {
            self.add_progress(head.size);
            return by_digests(listed, &head, None);
        }
        if head.size <= LARGE_BYTES {
            return HeadOutcome::Read(object, head);
        }
        match self.hash_large(listed, &head, *mean_chunk) {
            Ok(hashed) => ScanOutcome::from(hashed).into(),
            Err(reason) => ScanOutcome::unreadable(&listed.path, reason).into(),
        }
    }

    fn hash_large(
        &self,
        object: &ListedObject,
        head: &Head,
        mean_chunk: Option<u32>,
    ) -> Result<HashedFile, String> {
        let hashed = self.large_object(object, head, mean_chunk).hash(|bytes| {
            self.add_progress(bytes as u64);
            if self.monitor.is_cancelled() { Err("interrupted".to_string()) } else { Ok(()) }
        })?;
        let digests = hashed.md5.map(|md5| (md5, Some(hashed.blake3)));
        let file = entry_of(object, head, digests);
        Ok(HashedFile { chunk_map: hashed.chunk_map.stored(), ..HashedFile::new(file) })
    }

    fn large_object(&self, object: &ListedObject, head: &Head, mean_chunk: Option<u32>) -> LargeObject {
        LargeObject {
            bucket: self.bucket.clone(),
            state: self.bucket.head_state(object.path.as_bytes(), head),
            etag: head.md5(),
            mean_chunk: mean_chunk_for(head.size, mean_chunk),
        }
    }

    /// Reads small objects as a whole, and hashes them side by side.
    fn hash_small(&self, SmallObjects { objects, bytes }: SmallObjects) -> Vec<(usize, ScanOutcome)> {
        if objects.is_empty() {
            return Vec::new();
        }
        let mut pooled = match self.contents {
            ContentUse::Contents(buffers) => Some(buffers.take()),
            ContentUse::Digests => None,
        };
        let mut own = Vec::new();
        let buffer = pooled.as_deref_mut().unwrap_or(&mut own);
        buffer.resize(bytes, 0);
        let mut rest = &mut buffer[..];
        let mut jobs = Vec::with_capacity(objects.len());
        for object in &objects {
            let (content, behind) = std::mem::take(&mut rest).split_at_mut(object.range.len());
            jobs.push((object.state.clone(), content));
            rest = behind;
        }
        let heads = self.bucket.read_whole(jobs);
        let contents: Vec<&[u8]> = objects.iter().map(|object| &buffer[object.range.clone()]).collect();
        let md5s = md5_of_each(&contents);
        let mut hashed = Vec::with_capacity(objects.len());
        for ((head, md5), small) in heads.into_iter().zip(md5s).zip(&objects) {
            let content = &mut buffer[small.range.clone()];
            hashed.push(head.and_then(|head| self.hash_content(small, &head, md5, content)));
        }
        let batch = pooled.map(share);
        let mut outcomes = Vec::with_capacity(objects.len());
        for (SmallObject { object, range, .. }, hashed) in objects.into_iter().zip(hashed) {
            let outcome = match hashed {
                Ok(hashed) => {
                    self.add_progress(hashed.file.size);
                    let content = batch.clone().map(|batch| BatchContent { batch, range });
                    HashedFile { content, ..hashed }.into()
                }
                Err(reason) => ScanOutcome::unreadable(&object.object.path, reason),
            };
            outcomes.push((object.at, outcome));
        }
        outcomes
    }

    /// Verifies an object by its ETag if that looks like an md5, and hashes it. `content` has the
    /// given md5; it is replaced if a second read shows that it is wrong.
    fn hash_content(
        &self,
        small: &SmallObject,
        head: &Head,
        first_md5: Md5,
        content: &mut [u8],
    ) -> Result<HashedFile, String> {
        let read_again = || {
            let mut second = vec![0; content.len()];
            let read = self.bucket.read_whole(vec![(small.state.clone(), &mut second)]).pop();
            read.unwrap_or_else(|| Err("it was not read".to_string()))?;
            Ok((md5(&second), Some(second)))
        };
        let (md5, second) = verified(head.md5(), (first_md5, None), |(md5, _)| *md5, read_again)?;
        if let Some(second) = second {
            content.copy_from_slice(&second);
        }
        let (blake3, chunk_map) = blake3_and_chunk_map(content, small.object.mean_chunk);
        let file = entry_of(&small.object.object, head, Some((md5, Some(blake3))));
        Ok(HashedFile { chunk_map, ..HashedFile::new(file) })
    }
}

fn by_digests(object: &ListedObject, head: &Head, digests: Option<(Md5, Option<Blake3>)>) -> HeadOutcome {
    ScanOutcome::from(HashedFile::new(entry_of(object, head, digests))).into()
}

/// Whether the object is the same as in the previous index: neither its content nor its recorded
/// metadata has changed.
pub(in crate::engine) fn is_same_object(file: &FileEntry, object: &ListedObject) -> bool {
    let is_same_state = file.object.as_deref().is_some_and(|previous| {
        previous.etag == object.etag && previous.modified_ns == Some(object.modified_ns)
    });
    // Without an ETag, an equal time tells too little.
    is_same_state && !object.etag.is_empty() && file.size == object.size && file.is_verifiable()
}

fn listed(object: &ListedObject) -> Listed {
    let mut path = object.path.as_bytes().to_vec();
    if object.is_folder {
        path.push(b'/');
    }
    let etag = object.etag.clone();
    Listed { path, size: object.size, etag, modified_ns: object.modified_ns, encoded_key: None }
}

fn entry_of(object: &ListedObject, head: &Head, digests: Option<(Md5, Option<Blake3>)>) -> FileEntry {
    // The next run compares the row with its list. The time is recorded only if list and answer are
    // of the same state.
    let is_listed = head.object.etag == object.etag && head.size == object.size;
    FileEntry {
        id: 0,
        path: EntryPath::clone(&object.path),
        size: head.size,
        offset: 0,
        fragmented: false,
        md5: digests.map(|(md5, _)| md5),
        blake3: digests.and_then(|(_, blake3)| blake3),
        meta: Some(head.file_meta()),
        origin: None,
        object: Some(Box::new(ObjectId {
            modified_ns: is_listed.then_some(object.modified_ns),
            ..head.object.clone()
        })),
    }
}
