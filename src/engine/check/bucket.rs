//! Comparing a bucket with an index. Contents are read, because an equal ETag proves nothing unless
//! it is an md5.

use super::model::{BATCH_BYTES, CheckOptions, Difference, Entry, Finding, digest_difference, unreadable};
use crate::archive::digest::{ContentHasher, blake3, md5_of_each};
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::printable;
use crate::db::index_read::IndexReader;
use crate::db::listing::{ListedObject, Listing};
use crate::db::paths::PathTable;
use crate::engine::buffers::Buffers;
use crate::engine::index::list_bucket;
use crate::error::{Error, Result};
use crate::folder::is_same_time;
use crate::source::SkippedEntry;
use crate::source::filter::Filter;
use crate::source::s3::{Bucket, Head, Listed, ObjectReader, ObjectState};
use crate::telemetry::{Monitor, Notice};
use crate::unix_time::local_date;
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Bytes of a large object that are requested at once.
const PART_BYTES: usize = 4 << 20;

pub(super) struct BucketComparer<'a> {
    bucket: Arc<Bucket>,
    listing: Mutex<Listing>,
    /// Keys that cannot be paths, at most [`MAX_UNFIT`].
    unfit: Vec<SkippedEntry>,
    metadata: bool,
    monitor: &'a dyn Monitor,
}

/// How many keys that cannot be paths are reported.
const MAX_UNFIT: usize = 1_000;

impl<'a> BucketComparer<'a> {
    /// Lists the bucket.
    pub(super) fn new(
        options: &CheckOptions,
        bucket: &Arc<Bucket>,
        monitor: &'a dyn Monitor,
    ) -> Result<Self> {
        monitor.notice(Notice::Phase("listing"));
        let listing = Listing::create(&options.scratch)?;
        let mut unfit = Vec::new();
        list_bucket(bucket, &Filter::default(), &listing, |skipped| {
            if unfit.len() < MAX_UNFIT {
                unfit.push(skipped);
            }
        })?;
        monitor.notice(Notice::Phase("checking"));
        let (bucket, listing) = (bucket.clone(), Mutex::new(listing));
        Ok(Self { bucket, listing, unfit, metadata: options.metadata, monitor })
    }

    /// Why nothing can be read any more, if that is so.
    pub(super) fn outage(&self) -> Option<Error> {
        self.bucket.outage()
    }

    /// Compares a batch. Its small objects are read at the same time.
    pub(super) fn compare(&self, entries: &[Entry]) -> Vec<Option<Finding>> {
        let mut outcomes: Vec<std::result::Result<Difference, Finding>> = Vec::with_capacity(entries.len());
        let mut read: Vec<(usize, &FileEntry, ListedObject)> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            outcomes.push(match entry {
                Entry::Node(node) => self.node(node),
                Entry::File(file) => {
                    self.monitor.counters().files_done.add(1);
                    self.file(file).map(|(difference, object)| {
                        if difference.is_none() {
                            read.push((at, file, object));
                        }
                        difference
                    })
                }
            });
        }
        let (heads, rest): (Vec<_>, Vec<_>) =
            read.into_iter().partition(|(_, file, _)| file.size == 0 || !file.is_verifiable());
        self.heads(heads, &mut outcomes);
        let (small, large): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|(_, file, _)| file.size <= BATCH_BYTES);
        self.small(&small, &mut outcomes);
        for (at, file, object) in large {
            outcomes[at] = Ok(self.large(file, &object));
        }
        entries
            .iter()
            .zip(outcomes)
            .map(|(entry, outcome)| outcome.map_or_else(Some, |difference| entry.finding(difference)))
            .collect()
    }

    /// Compares what shows without the content. `Err` is a finding of another kind.
    fn file(&self, file: &FileEntry) -> std::result::Result<(Difference, ListedObject), Finding> {
        let found = self.listing.lock().find(&file.path);
        let object = found.map_err(|e| Finding::Different(file.path.to_string(), e.to_string()))?;
        let object = object.ok_or_else(|| Finding::Missing(file.path.to_string()))?;
        let known = file.object.as_ref().map(|known| &known.etag).filter(|_| !file.is_verifiable());
        let difference = if object.size != file.size {
            Some(format!("its size is {}, not {}", object.size, file.size))
        } else {
            // Without a digest in the index, only the ETag can be compared.
            known
                .filter(|etag| **etag != object.etag)
                .map(|etag| format!("its ETag is {}, not {etag}", object.etag))
        };
        Ok((difference, object))
    }

    fn state(&self, object: &ListedObject) -> ObjectState {
        self.bucket.listed_state(&listed(object))
    }

    fn heads(
        &self,
        files: Vec<(usize, &FileEntry, ListedObject)>,
        outcomes: &mut [std::result::Result<Difference, Finding>],
    ) {
        if files.is_empty() || !self.metadata {
            return;
        }
        let objects: Vec<Listed> = files.iter().map(|(_, _, object)| listed(object)).collect();
        for ((at, file, _), head) in files.iter().zip(self.bucket.heads(&objects)) {
            outcomes[*at] = Ok(head.map_or_else(unreadable, |head| self.meta(file, &head)));
        }
    }

    fn small(
        &self,
        files: &[(usize, &FileEntry, ListedObject)],
        outcomes: &mut [std::result::Result<Difference, Finding>],
    ) {
        if files.is_empty() {
            return;
        }
        let mut contents: Vec<Vec<u8>> =
            files.iter().map(|(_, file, _)| vec![0; file.size as usize]).collect();
        let jobs = files
            .iter()
            .zip(&mut contents)
            .map(|((.., object), content)| (self.state(object), &mut content[..]));
        let heads = self.bucket.read_whole(jobs.collect());
        let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let md5s = md5_of_each(&slices);
        for (((at, file, _), head), (md5, content)) in
            files.iter().zip(heads).zip(md5s.into_iter().zip(&slices))
        {
            self.monitor.counters().done_bytes.add(file.size);
            outcomes[*at] = Ok(match head {
                Err(reason) => unreadable(reason),
                Ok(head) => {
                    digest_difference(file, (Some(md5), blake3(content))).or_else(|| self.meta(file, &head))
                }
            });
        }
    }

    fn large(&self, file: &FileEntry, object: &ListedObject) -> Difference {
        let mut reader = ObjectReader::new(self.bucket.clone(), self.state(object), PART_BYTES);
        let (mut hasher, parts) = (ContentHasher::new(true), Buffers::new(usize::MAX));
        while let Some(part) = reader.next_part(|| parts.take()) {
            match part {
                Err(reason) => return unreadable(reason),
                Ok(_) if self.monitor.is_cancelled() => return None,
                Ok(part) => {
                    hasher.update(&part);
                    self.monitor.counters().done_bytes.add(part.len() as u64);
                }
            }
        }
        digest_difference(file, hasher.finish()).or_else(|| {
            let head = self.bucket.heads(&[listed(object)]).pop()?;
            head.map_or_else(unreadable, |head| self.meta(file, &head))
        })
    }

    fn meta(&self, file: &FileEntry, head: &Head) -> Difference {
        let (expected, found) = (file.meta.filter(|_| self.metadata)?, head.file_meta());
        // The index of an earlier version may have set-id bits.
        let expected_mode = expected.mode & !SET_ID;
        if found.mode != expected_mode {
            return Some(format!("its mode is {:04o}, not {expected_mode:04o}", found.mode));
        }
        (!is_same_time(found.mtime_ns, expected.mtime_ns)).then(|| {
            format!("its time is {}, not {}", local_date(found.mtime_ns), local_date(expected.mtime_ns))
        })
    }

    /// A bucket has a folder where a key lies in it. It has no links.
    fn node(&self, node: &Node) -> std::result::Result<Difference, Finding> {
        let is_there = match node.kind {
            NodeKind::Dir => self.listing.lock().has_folder(&node.path),
            NodeKind::Symlink | NodeKind::Hardlink => Ok(false),
        };
        match is_there {
            Ok(true) => Ok(None),
            Ok(false) => Err(Finding::Missing(node.path.to_string())),
            Err(e) => Err(Finding::Different(node.path.to_string(), e.to_string())),
        }
    }

    pub(super) fn report_extra(
        &self,
        options: &CheckOptions,
        report: &mut impl FnMut(&Finding) -> Result<()>,
    ) -> Result<u64> {
        let known = PathTable::create(&options.scratch)?;
        let index = IndexReader::open(&options.database)?;
        index.files(|file| known.add(&file.path, "f").map(|_| ControlFlow::Continue(())))?;
        index.nodes(|node| known.add(&node.path, node.kind.letter()).map(|_| ControlFlow::Continue(())))?;
        let (mut count, is_original) = (0, !index.is_ours());
        self.listing.lock().objects(|object| {
            let skip = is_original && object.is_folder;
            if !skip && known.kind_of(object.path.as_bytes())?.is_none() {
                count += 1;
                report(&Finding::Extra(object.path.to_string()))?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        for skipped in &self.unfit {
            count += 1;
            report(&Finding::Extra(printable(&skipped.path)))?;
        }
        Ok(count)
    }
}

/// Mode bits that a file of a bucket never gets.
const SET_ID: u32 = 0o6000;

fn listed(object: &ListedObject) -> Listed {
    Listed {
        path: object.path.as_bytes().to_vec(),
        size: object.size,
        etag: object.etag.clone(),
        modified_ns: object.modified_ns,
        encoded_key: None,
    }
}
