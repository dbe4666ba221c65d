//! The next generation of an index, which comes as a change of the active one. What its files have
//! in common with what is published is copied before anything is replaced.

use super::super::archive::Archive;
use super::super::context::Context;
use super::super::files::metadata::MetadataUpdate;
use super::super::files::published::may_be_unmodified;
use super::super::files::replaced::ReplacedEntries;
use super::super::open;
use super::super::reuse::Reusable;
use super::super::reuse::prefix::GrownFiles;
use super::super::reuse::published::PublishedFiles;
use super::super::reuse::retained::{RetainedFiles, check_all_here};
use super::super::state_files::{index_name, place_index};
use super::replace::Replacement;
use super::whole::answer;
use crate::archive::change::{ChangeRecord, MAX_BATCH_BYTES};
use crate::archive::chunk_map::KnownPrefix;
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::IndexAnswer;
use crate::archive::source::SourceClaim;
use crate::db::generation::{Applied, apply, each_record, set_reverted};
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::{FolderCache, Staging};
use crate::unix_time::now_s;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What comes with a change of an index.
#[derive(Debug, Clone, Default)]
pub struct ChangeOptions {
    /// What it replaces or takes away is retained.
    pub keep: bool,
    /// Nothing is retained any more once it is active.
    pub prune: bool,
    /// It reverts the newest generation, and must not begin what it cannot end.
    pub rewind: bool,
    /// The folder below the base folder that gets what is about to be replaced.
    pub backup: Option<String>,
}

/// The batches of a change in a file: each is its length as u32, little-endian, and so many bytes.
struct ChangeBatches {
    reader: BufReader<File>,
}

impl ChangeBatches {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("cannot read the uploaded change", e))?;
        Ok(Self { reader: BufReader::new(file) })
    }

    fn next_batch(&mut self) -> Result<Option<Vec<u8>>> {
        let cut = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::new(ErrorKind::BadIndex, "the uploaded change is cut")
            }
            _ => Error::io("cannot read the uploaded change", e),
        };
        let mut length = [0; 4];
        match self.reader.read(&mut length[..1]) {
            Ok(0) => return Ok(None),
            other => other.map_err(cut)?,
        };
        self.reader.read_exact(&mut length[1..]).map_err(cut)?;
        let length = u64::from(u32::from_le_bytes(length));
        if length > MAX_BATCH_BYTES {
            let what = format!("a batch of the uploaded change is longer than {MAX_BATCH_BYTES} bytes");
            return Err(Error::new(ErrorKind::BadIndex, what));
        }
        let mut batch = vec![0; length as usize];
        self.reader.read_exact(&mut batch).map_err(cut)?;
        Ok(Some(batch))
    }
}

impl Iterator for ChangeBatches {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose()
    }
}

/// Makes the index `expected` of the index `from`, by the change in the file `uploaded`. The caller
/// has made sure that `expected` is not the active index already.
///
/// # Errors
/// [`ErrorKind::WrongIndex`]: another index is active, or what is to be reverted is not here any
/// more. [`ErrorKind::BadIndex`]: the change is refused. Others are of storage. The previous index
/// stays then.
pub(crate) fn put(
    context: &Context,
    tar_id: u64,
    uploaded: &Path,
    (from, expected): (&IndexDigest, &IndexDigest),
    options: &ChangeOptions,
    claim: &SourceClaim,
) -> Result<IndexAnswer> {
    let transition = context.archives.transition(tar_id);
    let mut log = transition.lock();
    context.archives.check_source(tar_id, claim)?;
    let previous = open::get(context, tar_id)?;
    let head = previous.progress.head();
    if head.sealed && head.digest == *expected {
        return Ok(answer(expected, previous.progress.is_finalized()));
    }
    previous.check_active(from)?;
    let _finish = previous.lock_finish();
    log.checkpoint(previous.generation, &previous.index_path, context.options.max_index_bytes)?;
    let mark = context.committer.mark();
    let identity = (tar_id, *expected);
    let mut replacement = Replacement::begin(context, &mut log, identity, Some(&previous), mark, claim)?;
    replacement.prunes = options.prune;
    replacement.close_previous()?;
    let archive = make(context, replacement, &previous, uploaded, options).map_err(|e| context.judged(e))?;
    let head = archive.progress.head();
    tracing::info!(
        "archive {tar_id}: index {} with {} files, {} bytes, a generation of {from}",
        head.digest,
        head.files,
        head.total_bytes
    );
    Ok(answer(&head.digest, false))
}

/// Applies the change to a copy of the previous index, which is closed, and puts that in place.
fn make(
    context: &Context,
    replacement: Replacement<'_>,
    previous: &Archive,
    uploaded: &Path,
    options: &ChangeOptions,
) -> Result<Arc<Archive>> {
    let folder = context.temporary_folder()?;
    let copy = folder.path().join("index.sqlite");
    let metadata = previous.index_path.metadata().map_err(|e| Error::io("cannot look at the index", e))?;
    context.check_space_for_change(metadata.len())?;
    std::fs::copy(&previous.index_path, &copy)
        .map_err(|e| Error::io("cannot copy the index", e).limited())?;
    let name = PathBuf::from(index_name(previous.tar_id, &replacement.digest, replacement.generation));
    let placed = previous.progress.placed();
    let batches = ChangeBatches::open(uploaded)?;
    let Applied { end, prefixes } =
        apply(&copy, &name, replacement.generation, now_s(), Some(&placed), batches)?;
    if end.digest != replacement.digest {
        let what = format!("the change makes index {}, its sender says {}", end.digest, replacement.digest);
        return Err(Error::new(ErrorKind::BadIndex, what));
    }
    set_reverted(&copy, options.rewind.then_some(previous.generation))?;
    replacement.write(|path| place_index(&copy, path))?;
    let staging = replacement.staging()?;
    let mut reusable = still_published(context, previous, uploaded)?;
    let index = IndexReader::open_growing(&replacement.path)?;
    stage(context, previous, &index, &prefixes, &staging, options.rewind, &mut reusable)?;
    drop(index);
    if let Some(folder) = &options.backup {
        let mut replaced = ReplacedEntries::new(context, folder);
        each_record(ChangeBatches::open(uploaded)?, |record| match record {
            ChangeRecord::AddFile(file) => replaced.by_file(&file),
            ChangeRecord::PutNode(node) => replaced.by_node(&node),
            _ => Ok(()),
        })?;
    }
    if options.keep {
        let mut retention = replacement.retention(previous)?;
        each_record(ChangeBatches::open(uploaded)?, |record| {
            match record {
                ChangeRecord::RemoveFile(id) => retention.retain(id)?,
                ChangeRecord::AddFile(file) => retention.retain_left(&file.path),
                ChangeRecord::PutNode(node) => retention.retain_left(&node.path),
                _ => {}
            }
            Ok(())
        })?;
    }
    replacement.commit(reusable)
}

/// What is published of the previous generation and belongs to the new one. The records are read
/// once more for that: a list of the rows that changed would grow with their number.
fn still_published(context: &Context, previous: &Archive, uploaded: &Path) -> Result<Reusable> {
    let mut reusable = Reusable::new(&context.incoming_path());
    let published = &mut reusable.published;
    *published = previous.progress.published();
    let mut cache = FolderCache::default();
    each_record(ChangeBatches::open(uploaded)?, |record| {
        match record {
            ChangeRecord::RemoveFile(id) => published.remove(id..id + 1),
            ChangeRecord::SetMeta(id, _) if published.contains(id..id + 1) => {
                // The new time would hide that another program changed the file.
                match previous.file(id)?.filter(|old| may_be_unmodified(&context.sink, old, &mut cache)) {
                    Some(old) => reusable.updates.push(MetadataUpdate::of(id, &old))?,
                    None => published.remove(id..id + 1),
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(reusable)
}

/// Stages what files of the new generation, `index`, have in common with those of the previous one.
fn stage(
    context: &Context,
    previous: &Archive,
    index: &IndexReader,
    prefixes: &BTreeMap<u64, (u64, KnownPrefix)>,
    staging: &Staging,
    rewind: bool,
    reusable: &mut Reusable,
) -> Result<()> {
    if context.hands_over() {
        // The first of several receivers finds what there is.
        return reusable.find_missing(index);
    }
    let before = previous.progress.published();
    // Files as they were before come back only where a generation is reverted.
    let mut retained = RetainedFiles::list(context, previous.tar_id)?;
    let mut grown = GrownFiles { context, previous, published: &before, list: prefixes };
    let mut shared = PublishedFiles::new(context, previous, &before, rewind)?;
    reusable.stage(context, index, staging, &mut [&mut retained, &mut grown, &mut shared])?;
    if rewind {
        check_all_here(index, &reusable.published, staging)?;
    }
    reusable.hold_back_updates()
}
