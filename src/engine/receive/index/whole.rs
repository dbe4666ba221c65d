//! An index that comes as a whole.

use super::super::archive::Archive;
use super::super::archive::progress::IndexHead;
use super::super::context::Context;
use super::super::files::replaced::back_up_replaced;
use super::super::open;
use super::super::reuse::Reusable;
use super::super::reuse::in_place::published_by_path;
use super::super::state_files::place_index;
use super::adopt::{AdoptJob, Adoptions, other_digest, reusable_of_found};
use super::replace::Replacement;
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::IndexAnswer;
use crate::archive::source::SourceClaim;
use crate::db::generation::{Placed, add_tombstones};
use crate::db::import::import;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::unix_time::now_s;
use std::path::Path;

/// Refuses an index before its body is there, if what is known of it is enough for that.
///
/// # Errors
/// Storage failed earlier, or the sender names no digest and must.
pub(crate) fn check(context: &Context, expected: Option<&IndexDigest>) -> Result<()> {
    context.committer.check()?;
    if expected.is_none() && !context.options.legacy {
        return Err(Error::new(ErrorKind::NoIndexNamed, "the index comes without its digest").with_hint(
            "the sender is too old for this receiver; start the proxy with --legacy to serve it",
        ));
    }
    Ok(())
}

/// Whether `digest` is the active index of `tar_id`: the answer to putting it once more. With
/// `adopt`, only if the adoption was taken in.
pub(crate) fn answer_if_active(
    context: &Context,
    adoptions: &Adoptions,
    tar_id: u64,
    digest: &IndexDigest,
    adopt: Option<u64>,
) -> Option<IndexAnswer> {
    if adopt.is_some_and(|name| adoptions.get(tar_id, name).is_ok()) {
        return None;
    }
    let archive = open::get(context, tar_id).ok().filter(|archive| is_active(archive, digest))?;
    Some(answer(digest, archive.progress.is_finalized()))
}

fn is_active(archive: &Archive, digest: &IndexDigest) -> bool {
    let IndexHead { digest: active, sealed, .. } = archive.progress.head();
    sealed && active == *digest
}

pub(super) fn answer(digest: &IndexDigest, complete: bool) -> IndexAnswer {
    IndexAnswer { rc: "ok".to_string(), digest: Some(digest.to_string()), complete }
}

/// What comes with a whole index.
#[derive(Debug, Clone, Default)]
pub struct WholeOptions {
    /// The adoption whose result counts as the previous index.
    pub adopt: Option<u64>,
    /// The folder below the base folder that gets what is about to be replaced.
    pub backup: Option<String>,
}

/// Takes in an index for archive `tar_id`: validates it and makes it the active one. The same index
/// again changes nothing; another one replaces what was there, and files that are in place stay.
/// `expected` is the digest that the sender names; a legacy sender names none. `claim` says whose
/// index it is.
///
/// # Errors
/// The index is refused, there is no such adoption ([`ErrorKind::NotFound`]), or storage fails.
pub(crate) fn put(
    context: &Context,
    adoptions: &Adoptions,
    tar_id: u64,
    uploaded: &Path,
    expected: Option<&IndexDigest>,
    options: &WholeOptions,
    claim: &SourceClaim,
) -> Result<IndexAnswer> {
    check(context, expected)?;
    let adopted = options.adopt.map(|name| adoptions.get(tar_id, name)).transpose()?;
    let folder = context.temporary_folder()?;
    let imported = folder.path().join("index.sqlite");
    let mark = context.committer.mark();
    context.check_space(uploaded.metadata().map_or(0, |metadata| metadata.len()))?;
    let written = import(uploaded, &imported, "the uploaded index", 1, now_s())?;
    if let Some(expected) = expected.filter(|&expected| *expected != written.digest) {
        return Err(other_digest(&written.digest, expected).with_hint(
            "it was changed on the way, or edited after it was made; make a new one with: tar-like index -c",
        ));
    }
    let transition = context.archives.transition(tar_id);
    let mut log = transition.lock();
    context.archives.check_source(tar_id, claim)?;
    let previous = open::find(context, tar_id)?;
    if let Some(previous) =
        previous.as_ref().filter(|previous| adopted.is_none() && is_active(previous, &written.digest))
    {
        return Ok(answer(&written.digest, previous.progress.is_finalized()));
    }
    if adopted.is_some() {
        context.archives.check_alone(tar_id)?;
    }
    let identity = (tar_id, written.digest);
    let mut replacement = Replacement::begin(context, &mut log, identity, previous.as_ref(), mark, claim)?;
    replacement.close_previous()?;
    replacement.write(|path| place_index(&imported, path))?;
    // A legacy sender's index says nothing by which its files could be known again.
    let previous = previous.as_deref().filter(|_| expected.is_some());
    let reusable = find_reusable(context, &replacement, uploaded, previous, adopted.as_deref())?;
    if let Some(folder) = &options.backup {
        let index = IndexReader::open_growing(&replacement.path)?;
        back_up_replaced(context, &index, &reusable.published, folder)?;
    }
    replacement.commit(reusable)?;
    tracing::info!(
        "archive {tar_id}: index {} with {} files, {} bytes",
        written.digest,
        written.files,
        written.total_bytes
    );
    if adopted.is_some() {
        adoptions.remove(tar_id);
    }
    Ok(answer(&written.digest, false))
}

/// Finds what is here of the new index, and has it remember what vanishes with the previous one:
/// that may have to be deleted. An adopted index takes the place of the previous one in both.
fn find_reusable(
    context: &Context,
    replacement: &Replacement<'_>,
    uploaded: &Path,
    previous: Option<&Archive>,
    adopted: Option<&AdoptJob>,
) -> Result<Reusable> {
    let path = &replacement.path;
    let index = IndexReader::open_growing(path)?;
    let found = adopted.and_then(AdoptJob::index);
    let reusable = match (adopted, previous) {
        (Some(_), _) => {
            reusable_of_found(context, found.as_deref(), uploaded, &index, &replacement.staging()?)?
        }
        (None, Some(previous)) => published_by_path(context, previous, &index)?,
        (None, None) => Reusable::nothing(&context.incoming_path(), &index)?,
    };
    drop(index);
    match (&found, previous) {
        // What was adopted has its files as they are now.
        (Some(found), _) => add_tombstones(path, found, &Placed::all(), &reusable.published)?,
        (None, Some(previous)) => {
            add_tombstones(path, &previous.index_path, &previous.progress.placed(), &reusable.published)?;
        }
        (None, None) => {}
    }
    Ok(reusable)
}
