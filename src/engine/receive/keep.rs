//! What a generation replaces or takes away stays for a while, so that the archive can go back to the one before. A file has one more name for
//! that, made before anything is replaced: it costs no copy, and no time.

use super::archive::Archive;
use super::{Receiver, publish};
use crate::archive::entry::FileEntry;
use crate::archive::path::EntryPath;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::db::journal::ArchiveState;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::Kept;
use crate::sink::disk::{FolderCache, Staging};

/// What comes with a change of an index.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChangeOptions {
    /// What it replaces or takes away is kept.
    pub keep: bool,
    /// It takes the newest generation back, and must not begin what it cannot end.
    pub rewind: bool,
}

/// Of what generation `generation` of an archive has replaced.
fn name_of(tar_id: u64, generation: u64) -> String {
    format!("{tar_id}.{generation}")
}

/// The archive and the generation of such a name.
fn of_name(name: &str) -> Option<(u64, u64)> {
    let (tar_id, generation) = name.split_once('.')?;
    Some((tar_id.parse().ok()?, generation.parse().ok()?))
}

/// Whether a folder of this name is of one of the archives `states`, and not left by a change that came to nothing.
pub(super) fn is_kept(name: &str, states: &[ArchiveState]) -> bool {
    of_name(name).is_some_and(|(tar_id, generation)| {
        states.iter().any(|state| state.tar_id == tar_id && generation <= state.generation)
    })
}

impl Receiver {
    /// Removes what is kept for no archive any more. What cannot be removed is in nobody's way.
    pub(super) fn remove_unknown_kept(&self, states: &[ArchiveState]) -> Result<()> {
        for name in self.sink.kept_names()?.iter().filter(|name| !is_kept(name, states)) {
            if let Err(e) = self.sink.remove_kept(name) {
                tracing::warn!("{e}");
            }
        }
        Ok(())
    }

    /// The generations of an archive of which something is kept, the newest first.
    fn kept_generations(&self, tar_id: u64) -> Result<Vec<u64>> {
        let names = self.sink.kept_names()?;
        let of_archive = names.iter().filter_map(|name| of_name(name)).filter(|(of, _)| *of == tar_id);
        let mut generations: Vec<u64> = of_archive.map(|(_, generation)| generation).collect();
        generations.sort_unstable_by(|a, b| b.cmp(a));
        Ok(generations)
    }

    /// Lets go of what is kept of an archive, but for the newest `count` generations.
    pub(super) fn keep_only(&self, tar_id: u64, count: u64) -> Result<()> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        for generation in self.kept_generations(tar_id)?.into_iter().skip(count) {
            self.sink.remove_kept(&name_of(tar_id, generation))?;
        }
        Ok(())
    }

    /// Lets go of what generation `generation` has replaced: it was taken back.
    pub(super) fn forget_kept(&self, tar_id: u64, generation: u64) {
        if let Err(e) = self.sink.remove_kept(&name_of(tar_id, generation)) {
            tracing::warn!("{e}");
        }
    }

    /// What is kept of an archive.
    pub(super) fn kept(&self, tar_id: u64) -> Result<KeptFiles<'_>> {
        let mut files = Vec::new();
        for generation in self.kept_generations(tar_id)? {
            let ids = self.sink.kept(&name_of(tar_id, generation))?.ids()?;
            files.extend(ids.into_iter().map(|id| (id, std::cmp::Reverse(generation))));
        }
        files.sort_unstable();
        Ok(KeptFiles { receiver: self, tar_id, files, open: None })
    }

    /// Keeps the published files `ids` of `former`, which `generation` replaces or takes away. What somebody changed or removed there is
    /// not kept.
    pub(super) fn keep_replaced(&self, former: &Archive, ids: &[u64], generation: u64) -> Result<()> {
        let name = name_of(former.tar_id, generation);
        // What an attempt left that came to nothing.
        self.sink.remove_kept(&name)?;
        let kept = self.sink.kept(&name)?;
        let (published, mut cache) = (former.state().published.clone(), FolderCache::default());
        for &id in ids.iter().filter(|&&id| published.contains(id..id + 1)) {
            let Some(file) = former.file(id)?.filter(|file| file.size > 0) else { continue };
            if !self.sink.keep(&kept, &file, &mut cache)? {
                tracing::info!("\"{}\" was changed or removed, and is not kept", file.path);
            }
        }
        Ok(())
    }
}

/// What is kept of an archive: which files, and of which generation. Takes 16 bytes for each.
pub(super) struct KeptFiles<'a> {
    receiver: &'a Receiver,
    tar_id: u64,
    /// By id; of one that is there more than once, the newest first.
    files: Vec<(u64, std::cmp::Reverse<u64>)>,
    /// The folder that was used last, of this generation.
    open: Option<(u64, Kept)>,
}

impl KeptFiles<'_> {
    /// Stages a file that is kept; false if it is not, or nothing could prove that it is the one.
    pub(super) fn take(&mut self, file: &FileEntry, staging: &Staging) -> Result<bool> {
        let at = self.files.partition_point(|(id, _)| *id < file.id);
        let Some((_, std::cmp::Reverse(generation))) = self.files.get(at).filter(|(id, _)| *id == file.id)
        else {
            return Ok(false);
        };
        if file.size == 0 || !file.is_provable() {
            return Ok(false);
        }
        let kept = match self.open.take().filter(|(open, _)| open == generation) {
            Some((_, kept)) => kept,
            None => self.receiver.sink.kept(&name_of(self.tar_id, *generation))?,
        };
        let kept = &self.open.insert((*generation, kept)).1;
        let there = kept.has(file)?;
        if there {
            staging.take_kept(kept, file.id)?;
        }
        Ok(there)
    }
}

/// Makes sure that all files of `index` are there, published or staged with the content that they should have.
///
/// # Errors
/// [`ErrorKind::WrongIndex`]: they are not.
pub(super) fn check_all(index: &IndexReader, published: &RangeSet, staging: &Staging) -> Result<()> {
    let (mut first, mut count) = (None::<EntryPath>, 0u64);
    super::carry::unpublished(index, published, |file| {
        if file.size == 0 {
            return Ok(());
        }
        let staged = staging.open(file.id)?;
        let there = staged.map(|staged| publish::is_as_indexed(&staged, &file)).transpose()?;
        if there != Some(true) {
            count += 1;
            first.get_or_insert(file.path);
        }
        Ok(())
    })?;
    let Some(first) = first else { return Ok(()) };
    let what = format!(
        "the former content of {count} file(s) is not here any more, the first is \"{first}\": nothing was changed"
    );
    Err(Error::new(ErrorKind::WrongIndex, what).hint(
        "only passes with --keep leave it here; where the source can be set back, take back the index alone (rewind without a \
         destination), and send with: tar-like upload",
    ))
}
