//! What of the previous index can be reused when another one takes its place: files that keep their
//! names ([`in_place`]), and bytes that are staged for files that do not, from any [`ReuseSource`].
//!
//! | source | whole file or ranges | from |
//! |---|---|---|
//! | [`retained`] | whole | files that an earlier generation replaced |
//! | [`prefix`] | prefix | the published file that the file grew from |
//! | [`published`] | ranges | published files with which the file shares extents |
//! | [`similar`] | ranges | files that were found below the base folder |

pub(crate) mod in_place;
pub(crate) mod prefix;
pub(crate) mod published;
pub(crate) mod retained;
pub(crate) mod similar;

use super::archive::hashes::PrefixCheck;
use super::context::Context;
use super::files::metadata::UpdateList;
use super::files::published::each_unpublished;
use crate::archive::entry::FileEntry;
use crate::archive::ranges::RangeSet;
use crate::db::index_read::IndexReader;
use crate::error::Result;
use crate::sink::disk::Staging;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// What is here of an index that nothing was sent for yet.
pub(crate) struct Reusable {
    /// Bytes of its archive that need not come.
    pub(crate) durable: RangeSet,
    /// Files that have their names. Those whose metadata have to be updated are among them while it
    /// is made, and not at its end.
    pub(crate) published: RangeSet,
    /// Files that have their content and their names, but the metadata of the previous index.
    pub(crate) updates: UpdateList,
    /// Files of which the prefix is staged.
    pub(crate) prefixes: BTreeMap<u64, PrefixCheck>,
    /// Sources were asked for bytes of files that are not published.
    pub(crate) has_staged: bool,
    /// Size of the files that were found under their path, in bytes.
    pub(crate) same_bytes: u64,
}

/// What a source has staged of a file.
pub(crate) enum Staged {
    /// It has nothing of the file.
    Nothing,
    /// These ranges of the file, maybe none.
    Ranges(RangeSet),
    /// All of it.
    Whole,
    /// Its prefix, and how the file is verified when the rest has come.
    Prefix(Box<PrefixCheck>),
}

/// Where bytes of files that are not published can be staged from.
pub(crate) trait ReuseSource {
    /// How many bytes of disk staging `file` takes, at most; `None` if another source is to be
    /// asked.
    ///
    /// # Errors
    /// The index cannot be read.
    fn copied_bytes(&mut self, index: &IndexReader, file: &FileEntry) -> Result<Option<u64>>;

    /// Stages what there is of `file`.
    ///
    /// # Errors
    /// The disk is full, or the index cannot be read. What cannot be read of the source is left to
    /// the sender.
    fn stage(&mut self, index: &IndexReader, file: &FileEntry, staging: &Staging) -> Result<Staged>;
}

impl Reusable {
    /// Nothing, and nothing is known of what is missing. The folder `scratch` is for what must not
    /// be in memory.
    pub(crate) fn new(scratch: &Path) -> Self {
        Self {
            durable: RangeSet::default(),
            published: RangeSet::default(),
            updates: UpdateList::new(scratch),
            prefixes: BTreeMap::new(),
            has_staged: false,
            same_bytes: 0,
        }
    }

    /// Nothing is here of `index`. What no file of it asks for is durable all the same.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(crate) fn nothing(scratch: &Path, index: &IndexReader) -> Result<Self> {
        let mut reusable = Self::new(scratch);
        if index.is_fragmented() {
            reusable.find_missing(index)?;
        }
        Ok(reusable)
    }

    /// Computes what is durable where nothing is staged.
    ///
    /// # Errors
    /// The index cannot be read.
    pub(crate) fn find_missing(&mut self, index: &IndexReader) -> Result<()> {
        let mut missing = RangeSet::default();
        each_unpublished(index, &self.published, |file| {
            add_missing(index, &file, &RangeSet::default(), &mut missing)
        })?;
        self.set_missing(&missing, index.archive_bytes()?);
        Ok(())
    }

    /// Stages what `sources` have of the files that are not published; the first source that has
    /// anything of a file is used.
    ///
    /// # Errors
    /// There is no space for the copies, or a source fails.
    pub(crate) fn stage(
        &mut self,
        context: &Context,
        index: &IndexReader,
        staging: &Staging,
        sources: &mut [&mut dyn ReuseSource],
    ) -> Result<()> {
        if !staging.shares_blocks() {
            let mut needed_bytes = 0;
            each_unpublished(index, &self.published, |file| {
                for source in sources.iter_mut() {
                    if let Some(bytes) = source.copied_bytes(index, &file)? {
                        needed_bytes += bytes;
                        break;
                    }
                }
                Ok(())
            })?;
            context.check_space_for_copies(needed_bytes)?;
        }
        let (mut missing, mut prefixes) = (RangeSet::default(), BTreeMap::new());
        each_unpublished(index, &self.published, |file| {
            let mut here = RangeSet::default();
            for source in sources.iter_mut() {
                match source.stage(index, &file, staging)? {
                    Staged::Nothing => continue,
                    Staged::Ranges(ranges) => here = ranges,
                    Staged::Whole => here.insert(0..file.size),
                    Staged::Prefix(check) => {
                        here.insert(0..check.prefix_bytes());
                        prefixes.insert(file.id, *check);
                    }
                }
                break;
            }
            add_missing(index, &file, &here, &mut missing)
        })?;
        self.set_missing(&missing, index.archive_bytes()?);
        drop_rewritten(&mut prefixes, index, &self.durable)?;
        (self.prefixes, self.has_staged) = (prefixes, true);
        Ok(())
    }

    /// All of the archive but `missing` is durable. What no file asks for is nothing that a sender
    /// would send.
    fn set_missing(&mut self, missing: &RangeSet, total_bytes: u64) {
        self.durable = missing.missing(0..total_bytes).collect();
    }

    /// Files that lack their metadata are not published.
    ///
    /// # Errors
    /// The list of updates cannot be read.
    pub(crate) fn hold_back_updates(&mut self) -> Result<()> {
        self.updates.each(|update| {
            self.published.remove(update.id..update.id + 1);
            Ok(())
        })
    }
}

/// Adds where those bytes of `file` are in the archive that are not `here`.
fn add_missing(index: &IndexReader, file: &FileEntry, here: &RangeSet, missing: &mut RangeSet) -> Result<()> {
    index.pieces_of(file, |piece| {
        let end = piece.file_offset + (piece.range.end - piece.range.start);
        for gap in here.missing(piece.file_offset..end) {
            let in_archive = |at: u64| piece.range.start + (at - piece.file_offset);
            missing.insert(in_archive(gap.start)..in_archive(gap.end));
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Drops the checks of files whose prefix blocks will write to: bytes of it are to come for the
/// sake of another file, or of the file's own end. Such files are hashed whole.
fn drop_rewritten(
    prefixes: &mut BTreeMap<u64, PrefixCheck>,
    index: &IndexReader,
    durable: &RangeSet,
) -> Result<()> {
    let ids: RangeSet = prefixes.keys().map(|&id| id..id + 1).collect();
    index.files_of(&ids, |file| {
        if let Some(check) = prefixes.get(&file.id)
            && !is_durable(index, &file, check.prefix_bytes(), durable)?
        {
            prefixes.remove(&file.id);
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Whether the first `prefix_bytes` bytes of `file` are durable.
fn is_durable(index: &IndexReader, file: &FileEntry, prefix_bytes: u64, durable: &RangeSet) -> Result<bool> {
    let mut is_durable = true;
    index.pieces_of(file, |piece| {
        let in_piece = prefix_bytes.saturating_sub(piece.file_offset);
        let end = piece.range.end.min(piece.range.start.saturating_add(in_piece));
        is_durable &= durable.contains(piece.range.start..end);
        Ok(if is_durable { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(is_durable)
}
