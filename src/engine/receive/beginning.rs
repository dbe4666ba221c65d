//! Files that grew, of which the sender did not read what they had before (`--append spot` and `trust`): nor is it read here. The published file is
//! copied as it is, the samples are looked at, and BLAKE3 goes on from where the former content ended.

use super::Receiver;
use super::archive::Archive;
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::archive::sketch::{Beginning, Continued, Sample};
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::is_common_time;
use crate::sink::Expected;
use crate::sink::disk::Staging;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

const READ_BYTES: usize = 1 << 20;

/// The files that a change says to be such ones.
pub(super) struct Beginnings<'a> {
    pub(super) receiver: &'a Receiver,
    pub(super) former: &'a Archive,
    /// What is published of the former generation.
    pub(super) before: &'a RangeSet,
    pub(super) staging: &'a Staging,
    /// By id: that of what they begin with, and how to go on from there.
    pub(super) list: &'a BTreeMap<u64, (u64, Beginning)>,
}

impl Beginnings<'_> {
    /// Stages what `file` begins with, if that is as believed; gives how to prove the whole later. Else nothing is staged, and the file is as any
    /// other that changed.
    pub(super) fn stage(&self, file: &FileEntry) -> Result<Option<Begun>> {
        let Some((former, beginning)) = self.list.get(&file.id) else { return Ok(None) };
        let is_published = self.before.contains(*former..former + 1);
        // Without a time, or with one that not every file system keeps, nobody could say that it was not written to.
        let has_time = |old: &FileEntry| old.meta.is_some_and(|meta| is_common_time(meta.mtime_ns));
        let is_known = |old: &FileEntry| is_published && old.size < file.size && has_time(old);
        let Some(old) = self.former.file(*former)?.filter(is_known) else { return Ok(None) };
        let continued = old.blake3.and_then(|known| Continued::new(beginning, old.size, known));
        let (Some(continued), Some(content)) = (continued, self.receiver.open_published(&old)) else {
            return Ok(None);
        };
        match self.copy(&old, &content, file.id, beginning) {
            Ok(true) => return Ok(Some(Begun { continued, size: old.size })),
            Ok(false) => tracing::info!("\"{}\" is not what was received: all of it is read", old.path),
            Err(e) if e.kind() == ErrorKind::Source => tracing::warn!("{e}"),
            Err(e) => return Err(e),
        }
        self.staging.remove(file.id);
        Ok(None)
    }

    /// Whether all of `old` could be copied into the staged file `id`, and is what it was.
    fn copy(&self, old: &FileEntry, content: &File, id: u64, beginning: &Beginning) -> Result<bool> {
        self.staging.copy_from(id, content, 0, old.size, 0)?;
        // Somebody may have written to it since it was opened.
        let stands = rustix::fs::fstat(content).is_ok_and(|stat| Expected::of(old).is(&stat));
        let Some(staged) = self.staging.open(id)? else { return Ok(false) };
        let mut bytes = Vec::new();
        let mut is_proven = |sample: &Sample| {
            bytes.resize(sample.length as usize, 0);
            staged.read_exact_at(&mut bytes, sample.offset).is_ok() && sample.proves(&bytes)
        };
        Ok(stands && beginning.samples().iter().all(&mut is_proven))
    }
}

/// Forgets those to whose start somebody will write: bytes of it are to come for the sake of another file, or of its own end. They are hashed whole.
pub(super) fn keep_staying(
    begun: &mut BTreeMap<u64, Begun>,
    index: &IndexReader,
    done: &RangeSet,
) -> Result<()> {
    let ids: RangeSet = begun.keys().map(|&id| id..id + 1).collect();
    index.files_of(&ids, |file| {
        if let Some(staged) = begun.remove(&file.id)
            && staged.stays(index, &file, done)?
        {
            begun.insert(file.id, staged);
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// A staged file that begins with what was proven before, under another id.
pub(super) struct Begun {
    continued: Continued,
    /// So many bytes at its start are staged.
    size: u64,
}

impl Begun {
    /// Adds to `lacking` what of the archive has to come for `file`.
    pub(super) fn lack(&self, index: &IndexReader, file: &FileEntry, lacking: &mut RangeSet) -> Result<()> {
        index.pieces_of(file, |piece| {
            let there = self.size.saturating_sub(piece.file_offset);
            lacking.insert(piece.range.start.saturating_add(there)..piece.range.end);
            Ok(ControlFlow::Continue(()))
        })
    }

    fn stays(&self, index: &IndexReader, file: &FileEntry, done: &RangeSet) -> Result<bool> {
        let mut stays = true;
        index.pieces_of(file, |piece| {
            let there = self.size.saturating_sub(piece.file_offset);
            let end = piece.range.end.min(piece.range.start.saturating_add(there));
            stays &= done.contains(piece.range.start..end);
            Ok(if stays { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(stays)
    }

    /// Whether the staged file, all of which is there, is what the index says. If not, it may be so all the same: what it begins with was
    /// another content than its sender believed.
    pub(super) fn proves(self, staged: &File, file: &FileEntry) -> Result<bool> {
        let Self { mut continued, .. } = self;
        let mut buffer = vec![0; READ_BYTES];
        let mut at = continued.start();
        let mut hash = || -> std::io::Result<bool> {
            if staged.metadata()?.len() != file.size {
                return Ok(false);
            }
            while at < file.size {
                let piece = &mut buffer[..(file.size - at).min(READ_BYTES as u64) as usize];
                staged.read_exact_at(piece, at)?;
                continued.update(piece);
                at += piece.len() as u64;
            }
            Ok(file.blake3.is_some() && continued.finish() == file.blake3)
        };
        hash().map_err(|e| Error::io(format!("cannot read back \"{}\"", file.path), e))
    }
}
