//! Retention: what a generation replaces or takes away stays for a while, so that the archive can
//! go back to the previous one. A file has one more name for that, made before anything is
//! replaced: it costs no copy, and no time.
//!
//! Each generation that retains anything has a folder, `<archive>.<generation>`, with the files
//! that it replaced, by their ids. An id is used once in the life of an archive, until a whole
//! index takes the active one's place.
//!
//! The previous generation has no row of what earlier runs without a deletion had left. A path of
//! that which the new generation replaces, or its `finish` deletes, is retained by its path, and
//! comes back with the previous generation.

use super::archive::Archive;
use super::context::Context;
use crate::archive::path::EntryPath;
use crate::db::journal::ArchiveState;
use crate::error::Result;
use crate::sink::disk::{DiskSink, FolderCache};
use crate::sink::{Backup, Kept};

/// The folder of what generation `generation` of an archive has replaced.
pub(crate) fn retained_name(tar_id: u64, generation: u64) -> String {
    format!("{tar_id}.{generation}")
}

/// The archive and the generation of such a name.
fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (tar_id, generation) = name.split_once('.')?;
    Some((tar_id.parse().ok()?, generation.parse().ok()?))
}

/// Whether a folder of this name is of one of the archives `states`, and not left by a change that
/// came to nothing.
pub(crate) fn is_retained(name: &str, states: &[ArchiveState]) -> bool {
    parse_name(name).is_some_and(|(tar_id, generation)| {
        states.iter().any(|state| state.tar_id == tar_id && generation <= state.generation)
    })
}

/// The generations of an archive of which something is retained, the newest first.
///
/// # Errors
/// The system's error.
pub(crate) fn retained_generations(sink: &DiskSink, tar_id: u64) -> Result<Vec<u64>> {
    let names = sink.kept_names()?;
    let of_archive = names.iter().filter_map(|name| parse_name(name)).filter(|(of, _)| *of == tar_id);
    let mut generations: Vec<u64> = of_archive.map(|(_, generation)| generation).collect();
    generations.sort_unstable_by(|a, b| b.cmp(a));
    Ok(generations)
}

/// Removes what is retained for no archive of `states`. What cannot be removed is in the way of
/// nothing.
///
/// # Errors
/// The folders cannot be listed.
pub(crate) fn remove_unknown(sink: &DiskSink, states: &[ArchiveState]) -> Result<()> {
    for name in sink.kept_names()?.iter().filter(|name| !is_retained(name, states)) {
        if let Err(e) = sink.remove_kept(name) {
            tracing::warn!("{e}");
        }
    }
    Ok(())
}

/// Removes what is retained of an archive, but for the newest `count` generations.
///
/// # Errors
/// The system's error.
pub(crate) fn prune(sink: &DiskSink, tar_id: u64, count: u64) -> Result<()> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    for generation in retained_generations(sink, tar_id)?.into_iter().skip(count) {
        sink.remove_kept(&retained_name(tar_id, generation))?;
    }
    Ok(())
}

/// Removes all that is retained of an archive whose ids have other meanings now: its index came as
/// a whole. What cannot be removed costs space only, since whatever is staged of it is verified.
pub(crate) fn prune_all(sink: &DiskSink, tar_id: u64) {
    if let Err(e) = prune(sink, tar_id, 0) {
        tracing::warn!("{e}");
    }
}

/// Removes what generation `generation` has replaced: it was reverted, or came to nothing.
pub(crate) fn remove(sink: &DiskSink, tar_id: u64, generation: u64) {
    if let Err(e) = sink.remove_kept(&retained_name(tar_id, generation)) {
        tracing::warn!("{e}");
    }
}

/// Retains what one generation replaces or takes away.
pub(crate) struct Retention<'a> {
    context: &'a Context,
    previous: &'a Archive,
    generation: u64,
    folder: Kept,
    /// Where what has no row in the previous generation is retained, once there was any.
    left: Option<Backup>,
    cache: FolderCache,
}

impl<'a> Retention<'a> {
    /// Begins to retain what `generation` replaces or takes away of `previous`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(crate) fn begin(context: &'a Context, previous: &'a Archive, generation: u64) -> Result<Self> {
        let name = retained_name(previous.tar_id, generation);
        // An attempt that came to nothing may have left it.
        context.sink.remove_kept(&name)?;
        let folder = context.sink.kept(&name)?;
        Ok(Self { context, previous, generation, folder, left: None, cache: FolderCache::default() })
    }

    /// Retains the file `id` if it is published. A file that was changed or removed there is not
    /// retained.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(crate) fn retain(&mut self, id: u64) -> Result<()> {
        let Self { context, previous, folder, cache, .. } = self;
        if !previous.progress.is_published(id) {
            return Ok(());
        }
        let Some(file) = previous.file(id)?.filter(|file| file.size > 0) else { return Ok(()) };
        match context.sink.keep(folder, &file, cache) {
            Ok(true) => {}
            Ok(false) => tracing::info!("\"{}\" was changed or removed, and is not retained", file.path),
            // One file that cannot be retained must not hold up all others. A rewind checks that
            // all is there before it begins.
            Err(e) => tracing::warn!("{e}: its previous content is lost when it is replaced"),
        }
        Ok(())
    }

    /// Retains the file or link that has to make way for a new entry at `path` and has no row in the
    /// previous generation: what an earlier run had left, or another program has put there.
    pub(crate) fn retain_left(&mut self, path: &EntryPath) {
        let (sink, previous) = (&self.context.sink, self.previous);
        let mut keep = || -> Result<()> {
            let Some(path) = sink.in_the_way(path, None, &mut self.cache)? else { return Ok(()) };
            if previous.with_index(|index| index.has_path(&path))? {
                return Ok(());
            }
            let left = match self.left.take() {
                Some(left) => left,
                None => sink.kept_left(&retained_name(previous.tar_id, self.generation))?,
            };
            sink.back_up(self.left.insert(left), &path, &mut self.cache)
        };
        // As of a file with a row, one entry must not hold up all others.
        if let Err(e) = keep() {
            tracing::warn!("{e}: it is lost when it is replaced");
        }
    }
}
