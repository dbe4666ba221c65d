//! The fence between several receivers on a folder: others than the first one put files of an index
//! in place only while that is the active index of the first one, which knows then what may be there
//! when it replaces the index.

use super::super::archive::Archive;
use super::super::context::Context;
use crate::archive::digest::IndexDigest;
use crate::archive::slice::Slice;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::PublishLock;
use std::time::Duration;

/// How long the first receiver waits for another one that is putting files in place.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The right to put files of an archive in place, or to change them there.
pub(crate) struct Permit(#[expect(dead_code, reason = "it is held")] Option<PublishLock>);

/// The right to put files of `archive` in place, as long as it is held. To be held for a moment.
///
/// # Errors
/// [`ErrorKind::WrongIndex`]: the index is not the active one of the first receiver. Or the system's
/// error.
pub(crate) fn permit(context: &Context, archive: &Archive) -> Result<Permit> {
    let options = context.options.slice.filter(|_| context.hands_over());
    let Some(first) = options.and_then(|options| options.slice.sibling(1)) else { return Ok(Permit(None)) };
    let refused = |what: String, hint: &str| Err(Error::new(ErrorKind::WrongIndex, what).with_hint(hint));
    let replaces = format!("slice {first} is putting another index in place");
    let again = "run the sender again: it brings all slices the same index";
    let Some(lock) = context.sink.lock_publishing()? else { return refused(replaces, again) };
    match context.sink.active_at(first, archive.tar_id)? {
        Some(active) if active == archive.progress.head().digest.to_string() => Ok(Permit(Some(lock))),
        Some(active) if active.is_empty() => refused(replaces, again),
        Some(_) => refused(format!("slice {first} has another index"), again),
        None => refused(
            format!("slice {first} does not say which index it has"),
            "see to it that it runs on the same folder, and restart it",
        ),
    }
}

/// The first one of several, if this receiver is that.
fn first(context: &Context) -> Option<Slice> {
    context.options.slice.map(|options| options.slice).filter(|slice| slice.is_first() && slice.count() > 1)
}

/// Has no other receiver put anything in place of archive `tar_id` from now on: its index is about to
/// be replaced.
///
/// # Errors
/// [`ErrorKind::Busy`]: another one does not end putting something in place. Or the system's error.
pub(crate) fn raise(context: &Context, tar_id: u64) -> Result<()> {
    if context.hands_over() {
        return Ok(());
    }
    if let Some(first) = first(context) {
        context.sink.set_active(first, tar_id, None)?;
    }
    context.sink.wait_for_publishers(&context.sink.other_slices()?, TIMEOUT)
}

/// Lets the others put files of `index` in place, which is the active one of archive `tar_id`, or is
/// about to be. `None`: it is not complete, so that they do not have it.
///
/// # Errors
/// The system's error.
pub(crate) fn lower(context: &Context, tar_id: u64, index: Option<&IndexDigest>) -> Result<()> {
    let Some(first) = first(context) else { return Ok(()) };
    context.sink.set_active(first, tar_id, index.map(ToString::to_string).as_deref())
}

/// Takes back what an earlier process has said of other archives than `known`.
///
/// # Errors
/// The system's error.
pub(crate) fn forget_but(context: &Context, known: &[u64]) -> Result<()> {
    first(context).map_or(Ok(()), |first| context.sink.set_active_of_others(first, known))
}
