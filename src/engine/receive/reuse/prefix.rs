//! Resumed files: files that grew, of which the sender did not read the prefix (`--append spot` and
//! `trust`). The receiver does not read it either: the published file is copied as it is, the
//! samples are compared, and BLAKE3 continues where the previous content ended.

use super::super::archive::Archive;
use super::super::archive::hashes::PrefixCheck;
use super::super::context::Context;
use super::super::files::published::open_unmodified;
use super::{ReuseSource, Staged};
use crate::archive::chunk_map::{KnownPrefix, ResumedBlake3, Sample};
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::{ErrorKind, Result};
use crate::folder::is_common_time;
use crate::sink::Expected;
use crate::sink::disk::Staging;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The files that a change says to have grown.
pub(crate) struct GrownFiles<'a> {
    pub(crate) context: &'a Context,
    pub(crate) previous: &'a Archive,
    /// What is published of the previous generation.
    pub(crate) published: &'a RangeSet,
    /// By id: that of the file that is the prefix, and how to continue its digest.
    pub(crate) list: &'a BTreeMap<u64, (u64, KnownPrefix)>,
}

impl ReuseSource for GrownFiles<'_> {
    fn copied_bytes(&mut self, _: &IndexReader, _: &FileEntry) -> Result<Option<u64>> {
        // The prefix is made of extents that the published file has, which count where these are
        // copied.
        Ok(None)
    }

    fn stage(&mut self, _: &IndexReader, file: &FileEntry, staging: &Staging) -> Result<Staged> {
        let Some((previous, beginning)) = self.list.get(&file.id) else { return Ok(Staged::Nothing) };
        let is_published = self.published.contains(*previous..previous + 1);
        // Without a time, or with one that not every file system keeps, nothing could tell that the
        // file was not written to.
        let has_time = |old: &FileEntry| old.meta.is_some_and(|meta| is_common_time(meta.mtime_ns));
        let is_prefix = |old: &FileEntry| is_published && old.size < file.size && has_time(old);
        let Some(old) = self.previous.file(*previous)?.filter(is_prefix) else { return Ok(Staged::Nothing) };
        let continued = old.blake3.and_then(|known| ResumedBlake3::new(beginning, old.size, known));
        let opened = open_unmodified(&self.context.sink, &old);
        let (Some(continued), Some(content)) = (continued, opened) else { return Ok(Staged::Nothing) };
        match copy_prefix(&old, &content, file.id, beginning, staging) {
            Ok(true) => return Ok(Staged::Prefix(Box::new(PrefixCheck::new(continued, old.size)))),
            Ok(false) => tracing::info!("\"{}\" is not what was received: all of it is read", old.path),
            Err(e) if e.kind() == ErrorKind::Source => tracing::warn!("{e}"),
            Err(e) => return Err(e),
        }
        staging.remove(file.id);
        Ok(Staged::Nothing)
    }
}

/// Whether all of `old` could be copied into the staged file `id`, and is what it was.
fn copy_prefix(
    old: &FileEntry,
    content: &File,
    id: u64,
    beginning: &KnownPrefix,
    staging: &Staging,
) -> Result<bool> {
    staging.copy_from(id, content, 0, old.size, 0)?;
    // Another program may have written to it since it was opened.
    let is_unmodified = rustix::fs::fstat(content).is_ok_and(|stat| Expected::of(old).is(&stat));
    let Some(staged) = staging.open(id)? else { return Ok(false) };
    let mut bytes = Vec::new();
    let mut is_as_sampled = |sample: &Sample| {
        bytes.resize(sample.length as usize, 0);
        staged.read_exact_at(&mut bytes, sample.offset).is_ok() && sample.matches(&bytes)
    };
    Ok(is_unmodified && beginning.samples().iter().all(&mut is_as_sampled))
}
