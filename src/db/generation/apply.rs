//! Making one generation of another by a change, which may have come from anybody.

use super::super::sql_int;
use super::editor::Editor;
use super::tombstones::{Placed, TOMBSTONE_IDS};
use crate::archive::change::{self, ChangeEnd, ChangeRecord};
use crate::archive::chunk_map::KnownPrefix;
use crate::archive::extent::Extent;
use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// What a change came to. Which rows it changed is only in its records: there may be any number.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The index as it is now.
    pub end: ChangeEnd,
    /// Grown files whose prefix the sender did not read, by id: the id of the previous file, and
    /// how to continue its digest. At most 1024; any other one is a file that changed.
    pub prefixes: BTreeMap<u64, (u64, KnownPrefix)>,
}

const MAX_PREFIXES: usize = 1024;

/// How many extents a file may have whatever its size ...
const MAX_FREE_EXTENTS: u64 = 256;
/// ... and more only where they have so many bytes on the average. A sender's have a hundred times
/// as many, but for a few at the end of a file that grows.
const MIN_MEAN_EXTENT_BYTES: u64 = 128;

/// Applies a change to the index at `path`, a private copy that is of no use if this fails.
/// `batches` gives the change piece by piece, each piece whole records. `name` stands for the index
/// in messages. The index gets the number `generation`; with `tombstones`, what was put in place
/// and is removed gets a tombstone, as a receiver needs it. `created_s` is in seconds since 1970.
///
/// # Errors
/// [`ErrorKind::BadIndex`] says what is wrong with the change; others are of `batches`, our own
/// disk or database.
pub fn apply(
    path: &Path,
    name: &Path,
    generation: u64,
    created_s: u64,
    tombstones: Option<&Placed>,
    batches: impl IntoIterator<Item = Result<Vec<u8>>>,
) -> Result<Applied> {
    let editor = Editor::open(path, name, tombstones.map(|placed| (generation, placed)))?;
    let mut applying = Applying { editor, open: None, applied: None, whole: None, prefixes: BTreeMap::new() };
    each_record(batches, |record| applying.record(record))?;
    let Applying { editor, applied, prefixes, .. } = applying;
    let end = applied.ok_or_else(|| editor.refused("it has no end"))?;
    editor.check_paths()?;
    // Whoever reads such an index goes by the numbers.
    if end.format == 1 {
        editor.renumber_nodes()?;
    }
    let (found, content_bytes) = editor.end(end.format)?;
    if found != end {
        return Err(editor
            .refused(format!("its rows have digest {}, its sender says {}", found.digest, end.digest))
            .with_hint("the change was made for another index, or edited"));
    }
    editor.close(path, (&end, content_bytes), generation, created_s)?;
    Ok(Applied { end, prefixes })
}

/// Gives the records of a change that comes in `batches`, each of whole records.
///
/// # Errors
/// [`ErrorKind::BadIndex`]: there is one that is none. Others are of `batches` or `each`.
pub fn each_record(
    batches: impl IntoIterator<Item = Result<Vec<u8>>>,
    mut each: impl FnMut(ChangeRecord) -> Result<()>,
) -> Result<()> {
    let refused = |e| Error::new(ErrorKind::BadIndex, "the change of the index is refused").with_source(e);
    for batch in batches {
        for record in change::records(&batch?) {
            each(record.map_err(refused)?)?;
        }
    }
    Ok(())
}

/// A fragmented file whose extents are still to come.
struct Open {
    id: u64,
    at: u64,
    size: u64,
    extents: u64,
}

struct Applying {
    editor: Editor,
    open: Option<Open>,
    applied: Option<ChangeEnd>,
    /// The fragmented file whose last extent was the last record.
    whole: Option<u64>,
    prefixes: BTreeMap<u64, (u64, KnownPrefix)>,
}

impl Applying {
    fn record(&mut self, record: ChangeRecord) -> Result<()> {
        if self.applied.is_some() {
            return Err(self.editor.refused("something follows its end"));
        }
        if let Some(open) = &self.open
            && !matches!(record, ChangeRecord::Extents(_))
        {
            return Err(self.editor.refused(format!("extents of file {} are missing", open.id)));
        }
        let whole = self.whole.take();
        match record {
            ChangeRecord::RemoveFile(id) => drop(self.editor.remove_file(id)?),
            ChangeRecord::AddFile(file) => {
                self.editor.add_file(&file)?;
                self.open =
                    file.fragmented.then_some(Open { id: file.id, at: 0, size: file.size, extents: 0 });
            }
            ChangeRecord::Extents(extents) => self.extents(&extents)?,
            ChangeRecord::Prefix(previous, prefix) => {
                let Some(id) = whole.filter(|_| sql_int(previous) < TOMBSTONE_IDS) else {
                    return Err(self.editor.refused("it has a beginning of no fragmented file"));
                };
                if self.prefixes.len() < MAX_PREFIXES {
                    self.prefixes.insert(id, (previous, prefix));
                }
            }
            ChangeRecord::SetMeta(id, meta) => drop(self.editor.set_meta(id, meta)?),
            ChangeRecord::RemoveNode(path) => drop(self.editor.remove_node(&path)?),
            ChangeRecord::PutNode(node) => drop(self.editor.put_node(&node)?),
            ChangeRecord::End(end) => self.applied = Some(end),
        }
        Ok(())
    }

    fn extents(&mut self, extents: &[Extent]) -> Result<()> {
        for extent in extents {
            let Some(open) = &mut self.open else {
                return Err(self.editor.refused("extents of no file"));
            };
            let end = open.at.checked_add(extent.length).filter(|&end| end <= open.size);
            let in_archive = extent.offset.checked_add(extent.length);
            if end.is_none() || in_archive.is_none_or(|end| i64::try_from(end).is_err()) {
                return Err(self.editor.refused(format!("extents of file {} do not fit it", open.id)));
            }
            open.extents += 1;
            if open.extents > MAX_FREE_EXTENTS + open.size / MIN_MEAN_EXTENT_BYTES {
                return Err(self.editor.refused(format!("file {} has too many extents", open.id)));
            }
            self.editor.extent(open.id, open.at, extent)?;
            open.at += extent.length;
            if open.at == open.size {
                self.whole = Some(open.id);
                self.open = None;
            }
        }
        Ok(())
    }
}
