//! Whole files that are retained: a change that brings their rows back, by their ids, stages them.

use super::super::context::Context;
use super::super::files::content::is_as_indexed;
use super::super::files::published::each_unpublished;
use super::super::retention::{retained_generations, retained_name};
use super::{ReuseSource, Staged};
use crate::archive::entry::FileEntry;
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::archive::shown::counted;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Kept;
use crate::sink::disk::Staging;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// Folders that are open at once.
const MAX_OPEN: usize = 16;

/// What is retained of an archive. Takes a few bytes for each generation, however many files it
/// has.
pub(crate) struct RetainedFiles<'a> {
    context: &'a Context,
    tar_id: u64,
    /// The generations with the ids of their files, from the least to the highest; the newest
    /// first.
    generations: Vec<(u64, RangeInclusive<u64>)>,
    /// Folders of generations; the one that was opened last is at the end.
    open: VecDeque<(u64, Kept)>,
}

impl<'a> RetainedFiles<'a> {
    /// What is retained of archive `tar_id`.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn list(context: &'a Context, tar_id: u64) -> Result<Self> {
        let mut generations = Vec::new();
        for generation in retained_generations(&context.sink, tar_id)? {
            let ids = context.sink.kept(&retained_name(tar_id, generation))?.ids()?;
            generations.extend(ids.map(|ids| (generation, ids)));
        }
        Ok(Self { context, tar_id, generations, open: VecDeque::new() })
    }

    /// The newest folder that has `file`.
    fn folder_of(&mut self, file: &FileEntry) -> Result<Option<&Kept>> {
        // A file that nothing could verify is not taken.
        if file.size == 0 || !file.is_verifiable() {
            return Ok(None);
        }
        let with_id = self.generations.iter().filter(|(_, ids)| ids.contains(&file.id));
        for generation in with_id.map(|(generation, _)| *generation).collect::<Vec<_>>() {
            let at = self.open_folder(generation)?;
            if self.open[at].1.has(file)? {
                return Ok(Some(&self.open[at].1));
            }
        }
        Ok(None)
    }

    fn open_folder(&mut self, generation: u64) -> Result<usize> {
        if let Some(at) = self.open.iter().position(|(open, _)| *open == generation) {
            return Ok(at);
        }
        if self.open.len() >= MAX_OPEN {
            self.open.pop_front();
        }
        let folder = self.context.sink.kept(&retained_name(self.tar_id, generation))?;
        self.open.push_back((generation, folder));
        Ok(self.open.len() - 1)
    }
}

impl ReuseSource for RetainedFiles<'_> {
    fn copied_bytes(&mut self, _: &IndexReader, file: &FileEntry) -> Result<Option<u64>> {
        // A further name takes no space.
        Ok(self.folder_of(file)?.map(|_| 0))
    }

    fn stage(&mut self, _: &IndexReader, file: &FileEntry, staging: &Staging) -> Result<Staged> {
        let Some(folder) = self.folder_of(file)? else { return Ok(Staged::Nothing) };
        staging.take_kept(folder, file.id)?;
        Ok(Staged::Whole)
    }
}

/// Makes sure that all files of `index` are here, published or staged with the content that they
/// should have: a rewind must not begin what it cannot end.
///
/// # Errors
/// [`ErrorKind::WrongIndex`]: they are not.
pub(crate) fn check_all_here(index: &IndexReader, published: &RangeSet, staging: &Staging) -> Result<()> {
    let (mut first, mut count) = (None::<EntryPath>, 0u64);
    each_unpublished(index, published, |file| {
        if file.size == 0 {
            return Ok(());
        }
        let staged = staging.open(file.id)?;
        let is_here = staged.map(|staged| is_as_indexed(&staged, &file)).transpose()?;
        if is_here != Some(true) {
            count += 1;
            first.get_or_insert(file.path);
        }
        Ok(())
    })?;
    let Some(first) = first else { return Ok(()) };
    let what = format!(
        "the previous content of {} is not here any more, the first is \"{first}\": nothing was changed",
        counted(count, "file")
    );
    Err(Error::new(ErrorKind::WrongIndex, what).with_hint(
        "only runs with --keep leave it here; where the source can be set back, set it back and repeat the run of sync, or \
         of index and upload: it needs no rewind",
    ))
}
